"""From a value to a proved key: staged, read back and probed, side by side; or given up as a stray.

The rules: nothing is published that has not passed all three; a value that was not issued to this run is probed even
with `probe: false`; and a key is given up only if ECGrid contradicts it, has it no more, or refused it in two runs.

Keeps: never unverified (2).
"""

from __future__ import annotations

from collections.abc import Callable

from rotator.errors import Failure, Forbidden, NotFound, Permanent, Refused, Transient
from rotator.journal import changes
from rotator.keys import Agreement, ApiKey, Secret, Seen
from rotator.run import Run
from rotator.run.hand import Nothing, Proved, Shown, Unproved, may_have_asked

IF_IT_LASTS = (
    "; if this lasts, KeySet on this account may be the older key-value call: use `issue: create-key` or "
    "`issue: generate`"
)
# The probe's verdict, which may be a moment's.
UNFIT = ("ecgrid.NewKeyRefused", "ecgrid.OtherUser")


def see_if_shown(run: Run) -> bool:
    """Whether the first destination shows the key in hand already, which was staged: then only settling is left."""
    held = run.hand
    if not isinstance(held, Unproved | Proved) or run.sight.staged is None:
        return False
    if run.sight.covers(held.key.value, run.main):
        run.holding.take(Shown(held.key, held.came, held.by_owner))
    return isinstance(run.hand, Shown)


def prove(run: Run) -> None:
    """Stages the key, reads it back and probes it, side by side: publishing waits for all three."""
    held = run.in_hand
    key = held.key
    calls: list[Callable[[], object]] = [lambda: stage(run, key), lambda: read_back(run, key)]
    if run.policy.probe or held.came != "answered":
        calls.append(lambda: be_accepted(run, key))
    try:
        _, by_owner, *_ = run.world.together(calls)
    except Failure as trouble:
        unproved(run, key, trouble)
        raise
    run.holding.take(Proved(key, held.came, bool(by_owner)))
    run.world.report("rotation.verified", key_id=key.ref.key_id)


def stage(run: Run, key: ApiKey) -> None:
    """Stages the key, unless it is. The value is in memory only: this goes on past the deadline, to the claim's end."""
    staged, underway = run.sight.staged, run.rotation
    if staged is not None and staged.key is not None:
        if staged.run == underway.run and staged.key.value == key.value:
            return
        if staged.key.ref.key_id != key.ref.key_id:
            note_stray(run, staged.key)
    until = max(run.patiently.deadline, run.claim.until or 0.0)
    run.sight.stage(underway.run, run.id, key, until)
    run.world.report("rotation.staged", key_id=key.ref.key_id)


def note_stray(run: Run, key: ApiKey) -> None:
    """A staged key of another rotation: nobody will publish it."""
    run.warn(f"{key.ref.words} was staged by a rotation that is over: {fate(key)}")
    run.sight.note(run.record.owing(key.ref, "stray", run.now()))


def fate(key: ApiKey | Seen) -> str:
    """What becomes of a key that will not be published; one without an id ends when another is generated."""
    return "a stray, to be retired" if key.ref.key_id is not None else "the next one ends it"


def be_accepted(run: Run, key: ApiKey) -> None:
    """The probe: a call made with the new key answers as this user. A key may need a moment until it works."""

    def ask() -> int:
        try:
            return run.probe(key.value)
        except Refused:
            pass
        raise Transient(
            f"ECGrid does not accept the new key: {key.ref.words}{'' if run.generates else IF_IT_LASTS}",
            kind="ecgrid.NewKeyRefused",
        )

    user_id = run.patiently(ask)
    if user_id != key.ref.user_id:
        raise Permanent(
            f"the new key answers as user {user_id}, not {key.ref.user_id}: it is not published",
            kind="ecgrid.OtherUser",
        )


def read_back(run: Run, key: ApiKey) -> bool:
    """Get Key, or the key list, shows the key: id, user and visibility, and a value that does not contradict.

    Returns whether it was asked with the key itself, as its owner.
    """
    by_owner = run.record.owner_reads

    def ask() -> None:
        nonlocal by_owner
        seen, as_owner = read_as_allowed(run, key)
        by_owner = by_owner or as_owner
        if seen is None or not same_record(key, seen):
            seen = from_list(run, key, key.value if by_owner else None) or seen
        problem = "is not shown by ECGrid yet" if seen is None else contradiction(key, seen)
        if problem:
            raise unconfirmed(run, key, problem)

    run.patiently(ask)
    return by_owner


def read_as_allowed(run: Run, key: ApiKey) -> tuple[Seen | None, bool]:
    """Reads the key as the rotator, or, where that is refused, as its owner: with the key itself. And which it was."""
    user_id = key.ref.user_id
    if not run.record.owner_reads:
        try:
            return run.account.read(user_id, run.within()), False
        except (Forbidden, NotFound):
            pass
    try:
        return run.account.read(user_id, run.within(), caller=key.value), True
    except (Forbidden, NotFound, Refused):
        return None, False


def from_list(run: Run, key: ApiKey, caller: Secret | None) -> Seen | None:
    """The key as the list shows it to that caller, if it does: by id."""
    if run.generates or key.ref.key_id is None or key.ref.visibility is None:
        return None
    try:
        listed = run.account.keys(key.ref.user_id, key.ref.visibility, run.within(), caller=caller)
    except (Forbidden, NotFound, Refused):
        return None
    return next((seen for seen in listed if seen.ref.key_id == key.ref.key_id), None)


def same_record(key: ApiKey, seen: Seen) -> bool:
    """Whether what a read shows is about that key at all; without an id on one side, it is about the user's."""
    return None in (seen.ref.key_id, key.ref.key_id) or seen.ref.key_id == key.ref.key_id


def contradiction(key: ApiKey, seen: Seen) -> str | None:
    """What about a key that ECGrid shows does not fit the key that was issued."""
    if not same_record(key, seen):
        return "is not shown by ECGrid yet"
    if seen.ref.user_id != key.ref.user_id:
        return f"is shown as user {seen.ref.user_id}'s"
    if key.ref.key_id is not None and seen.ref.visibility not in (None, key.ref.visibility):
        return "is shown with another visibility"
    if key.value.against(seen.shown) is Agreement.CONTRADICTS:
        return "is shown with another value"
    return None


def unconfirmed(run: Run, key: ApiKey, problem: str) -> Transient:
    """Why the key is not confirmed; a pair of calls of two families is told from a key that is not right."""
    issue, verify = run.issuing_call, run.reading_call
    if verify.shows_record is not run.generates:
        return Transient(f"the new key, {key.ref.words}, {problem}", kind="ecgrid.NotConfirmed")
    return Transient(
        f"`verify: {verify.value}` shows another key than `issue: {issue.value}` made: on this account "
        "the user's API key and its key record are two things. Use get-key or key-get with keyset and create-key, and "
        "get-api-key or user-get-api-key with generate; the key that was issued is kept and published then",
        kind="ecgrid.OtherFamily",
    )


def unproved(run: Run, key: ApiKey, trouble: Failure) -> None:
    """A key that ECGrid contradicts, no longer has, or has in two runs refused or taken for another's is a stray."""
    underway, staged = run.record.underway, run.sight.staged
    if underway is None or staged is None or staged.key is None:
        return
    if trouble.kind in UNFIT:
        if underway.refusals == 0:
            run.sight.note(changes.refused_once(run.record))
        else:
            abandon(run, key)
    elif trouble.kind == "ecgrid.NotConfirmed" and is_surely_wrong(run, key):
        abandon(run, key)


def is_surely_wrong(run: Run, key: ApiKey) -> bool:
    """Whether the list (for generate: the reading call) was read and contradicts the key, or lacks it."""
    user_id = key.ref.user_id
    try:
        if run.generates:
            return contradiction(key, run.account.read(user_id, run.within())) is not None
        listed = run.account.keys(user_id, run.rotation.visibility, run.within())
    except Failure:
        return False
    seen = next((one for one in listed if one.ref.key_id == key.ref.key_id), None)
    return seen is None or contradiction(key, seen) is not None


def abandon(run: Run, key: ApiKey) -> None:
    """Gives the staged key up as a stray. The rotation starts over from looking: another request may have landed."""
    record = changes.given_up(run.record, key, run.now())
    run.claim.fenced(run.world.timeout)
    run.world.vault.unstage(run.policy.name)
    run.claim.save(record)
    run.sight.nothing_staged()
    run.holding.take(Nothing(asked=may_have_asked(run.hand)))
    run.warn(f"{key.ref.words} was given up: {fate(key)}")
    run.world.report("rotation.abandoned", key_id=key.ref.key_id)
