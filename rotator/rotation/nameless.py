"""Keys whose id nobody tells: those of the generate family, and some that were adopted. `--grace 0s` ends them, too.

There is no KeyRemove for them. The rules: what counts is that their values, as earlier versions of the secret have
them, are refused; and no key is generated for a user whose key the rotator itself asks with.
"""

from __future__ import annotations

from collections.abc import Iterator

from rotator.errors import AnswerLost, Failure
from rotator.journal import Held, changes
from rotator.keys import ApiKey, KeyRef, Secret
from rotator.rotation import evidence, finding, restraint
from rotator.rotation.ending import VALUE_REFUSED, accepts, earlier, is_refused
from rotator.rotation.run import Run, unknown_if_lost


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
        ref = finding.told(run, value, user_id) if user_id is not None else None
        if ref is not None:
            run.sight.note(run.record.owing(ref, "replaced", run.now()))


def end_all(run: Run) -> list[str]:
    """Proves that they are refused, with `users` after a Generate for the other user; returns what is not proved."""
    doubts = [end_others(run, other) for other in run.record.others if run.generates]
    owed = {run.record.fingerprint_of(debt.key_id) for debt in run.record.retiring}
    left = [value for value in values(run) if run.record.fingerprint(value) not in owed]
    return [doubt for doubt in [*doubts, *(doubt_of(run, value) for value in left)] if doubt]


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
    value = next((v for v in values(run) if run.record.fingerprint(v) == other.fingerprint), None)
    if is_refused(run, value):
        return None
    if run.world.whose.own_user_if_known() == other.user_id:
        return "it is the one that the rotator itself asks with"
    run.claim.save(run.record.counting_issue(run.now(), beyond_schedule=True))
    within = restraint.within(run)
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
    return f"{sent}, but it is still accepted" if accepts(run, value) else None
