"""Adoption and repair: is there a key already that will do? Values that cannot be read in full end here.

The rules: a value that was read, and not issued, is taken only if ECGrid accepts it as that user's; and an adoption by
itself issues nothing where there may be a key in use that nobody can read.

Keeps: never unverified (2), never twice (3).
"""

from __future__ import annotations

from collections.abc import Iterator

from rotator.errors import Forbidden, Permanent
from rotator.inventory import lookup
from rotator.journal import Underway, changes
from rotator.keys import ApiKey, Secret, Seen
from rotator.replacing import issuing, restraint
from rotator.run import Run
from rotator.run.hand import Nothing, Proved, Shown
from rotator.vault import Published


def may_find(run: Run) -> bool:
    """Whether an adoption or a repair is open that has not issued and not looked for a key yet."""
    underway = run.underway
    return underway is not None and underway.kind in ("adopt", "repair") and underway.sent == 0


def find(run: Run) -> None:
    """Takes the key that Vault or ECGrid already has, if ECGrid accepts it as this user's; else one is to be issued."""
    underway = run.rotation
    key = one_that_will_do(run, underway)
    if key is not None:
        go_on_with(run, underway, key)
    else:
        one_more(run)


def one_that_will_do(run: Run, underway: Underway) -> ApiKey | None:
    """The likeliest key that ECGrid accepts as this user's; None if one is to be issued.

    Raises Permanent (`ecgrid.Unreadable`) or Forbidden where there may be one that nobody can read.
    """
    adopts = underway.kind == "adopt"
    unreadable = False
    for user_id in run.policy.users if adopts else (underway.user_id,):
        for key in candidates(run, underway, user_id):
            if key is not None and lookup.is_accepted(run, key):
                return key
            unreadable = True
    if adopts and run.order.what != "demand":
        refuse_unseen(run, underway.user_id, unreadable=unreadable)
    return None


def refuse_unseen(run: Run, user_id: int, *, unreadable: bool) -> None:
    """Raises Permanent or Forbidden if there may be a key in use: one is `unreadable`, or ECGrid shows none at all."""
    if unreadable:
        raise Permanent(
            f"user {user_id} has a key, but its value cannot be read in full, and the destination does "
            "not hold it: put the value there yourself, or let a new key be issued by `first: rotate`",
            kind="ecgrid.Unreadable",
        )
    refuse_what_is_hidden(run, user_id)


def candidates(run: Run, underway: Underway, user_id: int) -> Iterator[ApiKey | None]:
    """Keys that may do, the likeliest first; None for one whose value cannot be read in full."""
    if underway.kind == "repair":
        yield from staged(run)
    main = run.sight.at(run.main)
    shown = lookup.all_shown(run, user_id, told_before(run, user_id))
    if main is not None:
        yield from published(run, main, user_id, shown)
    yield from (seen.whole for seen in shown if not run.record.owes(seen.ref.key_id))


def published(run: Run, main: Published, user_id: int, shown: list[Seen]) -> Iterator[ApiKey]:
    """What the first destination shows, if that may be this user's key of the visibility that is wanted."""
    value = main.value
    if value is not None and not is_of_another_kind(run, value):
        ref = lookup.named(shown, value, user_id, main.key_id)
        yield ApiKey(ref if ref.key_id else lookup.as_owner(run, value, user_id), value)


def told_before(run: Run, user_id: int) -> tuple[Seen, ...] | None:
    """What ECGrid told of these keys just before the claim: this run has issued nothing since."""
    underway = run.rotation
    same = (underway.user_id, underway.visibility) == (user_id, run.policy.visibility)
    return run.hand.seen if same and isinstance(run.hand, Nothing) else None


def refuse_what_is_hidden(run: Run, user_id: int) -> None:
    """Raises Forbidden if ECGrid refuses to show the user's keys in every way: there may be one that is in use."""
    ways = lookup.ways_to_see(run, user_id, run.policy.visibility)
    refusals = [lookup.refusal(run, way) for way in ways]
    if refusals[0] is not None and None not in refusals:
        raise Forbidden(
            f"{refusals[0]}. User {user_id} may have a key that is in use, so none is issued: give the rotator's user "
            "the right to see it, or let a new key be issued by `first: rotate`",
            kind=refusals[0].kind,
        )


def is_of_another_kind(run: Run, value: Secret) -> bool:
    """Whether it is known as this policy's key from before its visibility changed."""
    current = run.record.current
    return (
        current is not None
        and run.record.shows(value)
        and current.visibility != run.rotation.visibility
    )


def staged(run: Run) -> Iterator[ApiKey]:
    """What an earlier rotation left staged: the cure of a drift."""
    left = run.sight.look_at_staged()
    if left is not None and left.key is not None:
        yield left.key


def go_on_with(run: Run, underway: Underway, key: ApiKey) -> None:
    """Goes on with a key that is there: proved by the probe just now."""
    run.sight.note(changes.is_for(run.record, key.ref.user_id))
    key = issuing.taken(run, key)
    # An older version than was written may be a standby's: then only a check-and-set on it tells.
    shown = run.sight.covers(key.value, run.main) and not run.sight.lags(run.main)
    run.holding.take(Shown(key, "found") if shown else Proved(key, "found"))
    say_which(run, underway, key)
    if key.ref.key_id is None and not run.generates:
        run.warn(
            f"nobody tells the id of user {key.ref.user_id}'s key: once it is replaced it cannot be retired. Give the "
            "rotator's user the right to see the user's keys, or remove it at ECGrid by hand then"
        )
    run.world.report("rotation.found", key_id=key.ref.key_id, kind=underway.kind)


def say_which(run: Run, underway: Underway, key: ApiKey) -> None:
    """Warns where an adoption takes another key than the record's: which, and why."""
    current = run.record.current
    if underway.kind != "adopt" or current is None or run.record.shows(key.value):
        return
    # A new start, which is told elsewhere.
    if current.user_id != key.ref.user_id:
        return
    if run.sight.covers(key.value, run.main):
        why = f"{run.main.mount}/{run.main.path} shows it"
    else:
        why = (
            f"{run.main.mount}/{run.main.path} does not show the record's key, and this is the newest whose value "
            "ECGrid shows in full and accepts"
        )
    run.warn(
        f"{key.ref.words} is published, and not {current.ref.words}, which the record has: {why}"
    )


def one_more(run: Run) -> None:
    """No key will do: one is issued, counted before it is sent."""
    on_demand = run.order.what == "demand"
    restraint.may_ask(run)
    run.holding.take(Nothing(counted=not on_demand))
    run.claim.save(changes.asking(run.record, run.now(), beyond_schedule=not on_demand))
