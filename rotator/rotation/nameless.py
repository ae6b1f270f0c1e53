"""Keys whose id nobody tells: those of the generate family, and some that were adopted. `--grace 0s` ends them, too.

There is no KeyRemove for them. The rules: what counts is that their values, as earlier versions of the secret have
them, are refused; and no key is generated for a user whose key the rotator itself asks with.
"""

from __future__ import annotations

from rotator.errors import AnswerLost, Failure
from rotator.journal import Held, changes
from rotator.keys import ApiKey, KeyRef, Secret
from rotator.rotation import evidence, finding, restraint
from rotator.rotation.ending import VALUE_REFUSED, accepts, earlier
from rotator.rotation.run import Run, unknown_if_lost


def values(run: Run) -> list[Secret]:
    """The values that this policy's secrets showed before, and under no id; in the generate family each user's last.

    There Generate has ended all that were before.
    """
    shown = [] if run.replaced is None else [run.replaced]
    shown += [
        ApiKey(KeyRef(old.key_id, old.user_id or 0, None, None), old.value)
        for old in earlier(run)
        if old.value is not None
    ]
    now = run.sight.value_at(run.main)
    found: list[ApiKey] = []
    for key in shown:
        known = key.value == now or any(key.value == other.value for other in found)
        again = run.generates and any(key.ref.user_id == other.ref.user_id for other in found)
        if key.ref.key_id is None and not known and not again:
            found.append(key)
    return [key.value for key in found]


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
    failed = []
    for other in run.record.others:
        why = supersede(run, other) if run.generates else None
        if why is not None:
            failed.append(f"user {other.user_id}'s key is not ended: {why}")
        elif run.generates:
            run.sight.note(changes.superseded(run.record, other))
            note_end(run, other.user_id)
    owed = {run.record.fingerprint_of(debt.key_id) for debt in run.record.retiring}
    for value in values(run):
        if run.record.fingerprint(value) in owed:
            continue
        user_id = lives_as(run, value)
        if user_id is not None:
            failed.append(
                f"a key of user {user_id} that Vault showed before is still accepted, and nobody tells its id: remove "
                "it at ECGrid by hand, then give the command again"
            )
        elif run.replaced is not None and run.replaced.value == value:
            note_end(run, run.replaced.ref.user_id)
    return failed


def note_end(run: Run, user_id: int) -> None:
    """Notes that the key which that user had before is ended; it has no id to be named by."""
    run.sight.note(evidence.ended(run, user_id, None, run.order.reason, VALUE_REFUSED))
    run.warn(f"the key that user {user_id} had before is ended: {VALUE_REFUSED}")


def supersede(run: Run, other: Held) -> str | None:
    """Ends the other user's key by generating once more; the answer is dropped. Returns why that is not proved."""
    value = next((v for v in values(run) if run.record.fingerprint(v) == other.fingerprint), None)
    if value is not None and not accepts(run, value):
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
    said = "the answer was lost" if isinstance(answer, AnswerLost) else "ECGrid has made another"
    run.world.report("rotation.superseded", user_id=other.user_id, answer=said)
    if value is None:
        return f"{said}, but Vault has its value no more, so nothing proves that it is refused"
    return f"{said}, but it is still accepted" if accepts(run, value) else None
