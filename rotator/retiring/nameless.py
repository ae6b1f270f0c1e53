"""Keys whose id nobody tells: those of the generate family, and some that were adopted. `--grace 0s` ends them, too.

There is no KeyRemove for them. The rules: what counts is that their values, as earlier versions of the secret have
them, are refused; and no key is generated for a user whose key the rotator itself asks with.

Keeps: never lost (1), never silent (4).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rotator.errors import AnswerLost, Failure
from rotator.inventory import lookup
from rotator.journal import Held, changes
from rotator.keys import ApiKey, KeyRef, Secret
from rotator.retiring.ending import VALUE_REFUSED, earlier, is_refused
from rotator.run import Run, evidence, unknown_if_lost


def values(run: Run) -> list[Secret]:
    """The values that this policy's secrets showed before, and under no id; in the generate family each user's last.

    There Generate has ended all that were before.
    """
    now, users = run.sight.value_at(run.main), set[int]()
    values: list[Secret] = []
    for key in without_id(run):
        superseded = run.generates and key.ref.user_id in users
        if not superseded and key.value not in (now, *values):
            values.append(key.value)
            users.add(key.ref.user_id)
    return values


def without_id(run: Run) -> Iterator[ApiKey]:
    """The keys that this policy's secrets showed before, and under no id, the latest first."""
    if run.replaced is not None and run.replaced.ref.key_id is None:
        yield run.replaced
    for old in earlier(run):
        if old.value is not None and old.key_id is None:
            yield ApiKey(KeyRef(None, old.user_id or 0, None, None), old.value)


def lives_as(run: Run, value: Secret) -> int | None:
    """Which of the policy's users ECGrid accepts it as; None where it is refused, or a stranger's."""
    user_id = run.answers_as(value)
    return user_id if user_id in run.policy.users else None


def name_all(run: Run) -> None:
    """Asks for the ids of those that live, as the rotator, then as their owner; those that are told are owed."""
    if run.generates:
        return
    for value in values(run):
        user_id = lives_as(run, value)
        ref = lookup.ref_of(run, value, user_id) if user_id is not None else None
        if ref is not None:
            run.sight.note(run.record.owing(ref, "replaced", run.now()))


def end_all(run: Run) -> list[str]:
    """Proves that they are refused, with `users` after a Generate for the other user; returns what is not proved."""
    others = run.record.others if run.generates else ()
    doubts = [end_others(run, other) for other in others]
    owed = {run.record.fingerprint_of(debt.key_id) for debt in run.record.retiring}
    left = [value for value in values(run) if run.record.fingerprint(value) not in owed]
    return list(filter(None, [*doubts, *map(partial(doubt_of, run), left)]))


def end_others(run: Run, other: Held) -> str | None:
    """Ends the key of another of the policy's users; returns why that is not proved."""
    doubt = supersede(run, other)
    if doubt is not None:
        return f"user {other.user_id}'s key is not ended: {doubt}"
    run.sight.note(changes.superseded(run.record, other))
    note_end(run, other.user_id)
    return None


def doubt_of(run: Run, value: Secret) -> str | None:
    """Why it is not proved that one is ended; the end of the key that this run has replaced is noted."""
    user_id = lives_as(run, value)
    if user_id is not None:
        return (
            f"a key of user {user_id} that Vault showed before is still accepted, and nobody tells its id: remove "
            "it at ECGrid by hand, then give the command again"
        )
    if run.replaced is not None and run.replaced.value == value:
        note_end(run, run.replaced.ref.user_id)
    return None


def note_end(run: Run, user_id: int) -> None:
    """Notes that the key which that user had before is ended; it has no id to be named by."""
    run.sight.note(evidence.ended(run, user_id, None, run.order.reason, VALUE_REFUSED))
    run.warn(f"the key that user {user_id} had before is ended: {VALUE_REFUSED}")


def supersede(run: Run, other: Held) -> str | None:
    """Ends the other user's key by generating once more; the answer is dropped. Returns why that is not proved."""
    value = value_of(run, other)
    if is_refused(run, value):
        return None
    if run.world.whose.own_user_if_known() == other.user_id:
        return "it is the one that the rotator itself asks with"
    run.claim.save(run.record.counting_issue(run.now(), beyond_schedule=True))
    within = run.within_claim()
    try:
        answer = unknown_if_lost(
            lambda: run.account.issue(other.user_id, other.visibility, within)
        )()
    except Failure as error:
        return str(error)
    sent = "the answer was lost" if isinstance(answer, AnswerLost) else "ECGrid has made another"
    run.world.report("rotation.superseded", user_id=other.user_id, answer=sent)
    if value is None:
        return f"{sent}, but Vault has its value no more, so nothing proves that it is refused"
    return None if is_refused(run, value) else f"{sent}, but it is still accepted"


def value_of(run: Run, held: Held) -> Secret | None:
    """The value of a key that has no id, where an earlier version of a secret has it."""
    fits = (value for value in values(run) if run.record.fingerprint(value) == held.fingerprint)
    return next(fits, None)
