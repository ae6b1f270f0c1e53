"""Adoption and repair: is there a key already that will do? Values that cannot be read in full end here.

The rules: a value that was read, and not issued, is taken only if ECGrid accepts it as that user's; and an adoption by
itself issues nothing where there may be a key in use that nobody can read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rotator.errors import Forbidden, NotFound, Permanent, Refused
from rotator.journal import Underway, changes
from rotator.keys import Agreement, ApiKey, KeyRef, Secret, Seen, Visibility
from rotator.rotation import claiming, issuing, restraint
from rotator.rotation.hand import Nothing, Proved, Shown
from rotator.rotation.run import Run


def may_find(run: Run) -> bool:
    """Whether an adoption or a repair is open that has not issued and not looked for a key yet."""
    underway = run.underway
    return underway is not None and underway.kind in ("adopt", "repair") and underway.sent == 0


def find(run: Run) -> None:
    """Takes the key that Vault or ECGrid already has, if ECGrid accepts it as this user's; else one is to be issued."""
    underway = run.rotation
    key = one_that_will_do(run, underway)
    if key is not None:
        found(run, underway, key)
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
            if key is not None and issuing.is_accepted(run, key):
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
    shown = all_shown(run, user_id, told_before(run, user_id))
    value = main.value if main is not None else None
    if main is not None and value is not None and not is_of_another_kind(run, value):
        ref = named(shown, value, user_id, main.key_id)
        yield ApiKey(ref if ref.key_id else as_owner(run, value, user_id), value)
    yield from (seen.whole for seen in shown if not run.record.owes(seen.ref.key_id))


def told_before(run: Run, user_id: int) -> tuple[Seen, ...] | None:
    """What ECGrid told of these keys just before the claim: this run has issued nothing since."""
    underway = run.rotation
    same = (underway.user_id, underway.visibility) == (user_id, run.policy.visibility)
    return run.hand.seen if same and isinstance(run.hand, Nothing) else None


def refuse_what_is_hidden(run: Run, user_id: int) -> None:
    """Raises Forbidden if ECGrid refuses to show the user's keys in every way: there may be one that is in use."""
    ways = ways_to_see(run, user_id, run.policy.visibility)
    refusals = [refusal(run, way) for way in ways]
    if refusals[0] is not None and None not in refusals:
        raise Forbidden(
            f"{refusals[0]}. User {user_id} may have a key that is in use, so none is issued: give the rotator's user "
            "the right to see it, or let a new key be issued by `first: rotate`",
            kind=refusals[0].kind,
        )


def ways_to_see(run: Run, user_id: int, visibility: Visibility) -> list[Callable[[], object]]:
    """The ways in which ECGrid may show a user's keys: the reading call, and the list where there is one."""
    ways: list[Callable[[], object]] = [lambda: run.account.read(user_id, run.within())]
    if not run.generates:
        ways.append(lambda: run.account.keys(user_id, visibility, run.within()))
    return ways


def refusal(run: Run, ask: Callable[[], object]) -> Forbidden | None:
    """ECGrid's refusal to answer that; None if it answers."""
    try:
        run.patiently(ask)
    except Forbidden as error:
        return error
    except NotFound:
        pass
    return None


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


def all_shown(run: Run, user_id: int, before: tuple[Seen, ...] | None = None) -> list[Seen]:
    """Every key of that user and the policy's visibility that ECGrid shows, the newest first.

    `before`: see `claiming.what_is_shown`.
    """
    shown, _ = claiming.what_is_shown(run, user_id, run.policy.visibility, before)
    dated = sorted(shown, key=lambda seen: seen.ref.key_id or 0, reverse=True)
    return sorted(
        dated,
        key=lambda seen: seen.ref.created.timestamp() if seen.ref.created else 0.0,
        reverse=True,
    )


def named(shown: list[Seen], value: Secret, user_id: int, key_id: int | None) -> KeyRef:
    """Which key record a value belongs to: shown with it in full, or the one that it says it is and that fits."""
    says = [(seen.ref, value.against(seen.shown)) for seen in shown]
    equal = [ref for ref, agreement in says if agreement is Agreement.EQUAL]
    fitting = [ref for ref, agreement in says if agreement is not Agreement.CONTRADICTS]
    own = [ref for ref in fitting if ref.key_id == key_id]
    only = fitting if len(fitting) == 1 else []
    return next(iter([*equal, *own, *only]), KeyRef(None, user_id, None, None))


def as_owner(run: Run, value: Secret, user_id: int) -> KeyRef:
    """Which key record a value belongs to, asked with the key itself: its owner may see what others may not."""
    nobody = KeyRef(None, user_id, None, None)
    if run.generates:
        return nobody
    ways: list[Callable[[], list[Seen]]] = [
        lambda: run.account.keys(user_id, run.policy.visibility, run.within(), caller=value),
        lambda: [run.account.read(user_id, run.within(), caller=value)],
    ]
    for way in ways:
        try:
            ref = named(run.patiently(way), value, user_id, None)
        except (Forbidden, NotFound, Refused):
            continue
        if ref.key_id is not None:
            return ref
    return nobody


def told(run: Run, value: Secret, user_id: int) -> KeyRef:
    """Which key record a value belongs to: asked as the rotator, then as its owner."""
    ref = named(all_shown(run, user_id), value, user_id, None)
    return ref if ref.key_id is not None else as_owner(run, value, user_id)


def found(run: Run, underway: Underway, key: ApiKey) -> None:
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
    if current.user_id != key.ref.user_id:  # a new start, which is told elsewhere
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


def foreign(run: Run, shown: list[Seen]) -> list[int]:
    """The ids of live keys of the user that this policy neither published nor issued."""
    record, value = run.record, run.sight.value_at(run.main)
    others = [seen for seen in shown if seen.ref.key_id not in (None, *record.own_ids)]
    if value is not None and record.current is not None and record.current.key_id is None:
        # Nobody told its id: it may be each that its value does not contradict.
        others = [seen for seen in others if value.against(seen.shown) is Agreement.CONTRADICTS]
    return sorted(seen.ref.key_id or 0 for seen in others)
