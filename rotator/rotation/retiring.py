"""Retiring: a debt of its own. Only keys that this policy published, and its strays, after a second look each."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from rotator.errors import (
    AnswerLost,
    Failure,
    FenceLost,
    Forbidden,
    NotFound,
    Refused,
    RotatorError,
)
from rotator.journal import Debt, Held, Record
from rotator.keys import Secret
from rotator.rotation.run import Run, unknown_if_lost

RETRY = timedelta(minutes=10)  # after a retirement that was tried and failed


class RetirementFailed(Failure):
    """A key that was to be retired is still there, or may be: the debt stays."""

    kind = "ecgrid.NotRetired"


def has_due_debts(run: Run) -> bool:
    """Whether keys are to be retired now. Nothing is retired while a rotation is open or a destination is missing."""
    record = run.record
    return (
        "retire" not in run.done
        and record.underway is None
        and record.current is not None
        and (run.order.retire_now or bool(record.due_debts(run.now())))
        and run.others_claim is None
    )


def retire(run: Run) -> None:
    """Removes each key whose time has come, under the claim; what cannot be retired yet says why."""
    if run.order.retire_now:
        everything_now(run)
    record = run.record
    due = record.due_debts(run.now())
    current = record.current
    if not due or current is None:
        run.done.add("retire")
        return
    run.save(record)  # the check-and-set that only one run can win
    reason = unfit(run, current)
    failed: list[str] = []
    for debt in due:
        why_not = reason or ("it is the current key" if debt.key_id == current.key_id else None)
        if why_not is None:
            try:
                remove(run, debt)
            except FenceLost:
                raise
            except RotatorError as error:
                failed.append(f"key {debt.key_id} could not be retired: {error}")
                run.note(waiting(run, debt, str(error), tried=debt.tried + 1))
        elif debt.key_id == current.key_id:
            run.note(run.record.not_owing(debt.key_id))
        else:
            run.warn(f"key {debt.key_id} is not retired yet: {why_not}")
            run.note(waiting(run, debt, why_not))
    run.give_back(run.record)
    run.done.add("retire")
    if failed or (reason and run.order.retire_now):
        raise RetirementFailed("; ".join(failed) or f"the replaced keys are not retired: {reason}")
    run.outcome = run.outcome or "retired"


def everything_now(run: Run) -> None:
    """`--grace 0s`: every debt is due, and with `users` the other user's published key too."""
    record = run.record
    now = run.now()
    for other in record.others:  # with `users`: the other user's published key
        record = record.owing(other.ref, "replaced", now)
    due_now = tuple(
        debt.model_copy(update={"due_at": min(debt.due_at, now)}) for debt in record.retiring
    )
    run.note(record.change(retiring=due_now, others=()))


def waiting(run: Run, debt: Debt, why: str, tried: int = 0) -> Record:
    """The record with a debt that waits; `tried`: how often in a row it was tried, and failed."""
    later = debt.model_copy(
        update={"waits": why[:300], "tried": tried, "due_at": run.now() + RETRY}
    )
    rest = [other for other in run.record.retiring if other.key_id != debt.key_id]
    return run.record.change(retiring=(*rest, later))


def unfit(run: Run, current: Held) -> str | None:
    """Why nothing may be retired now: the second look. None if every destination shows a key that ECGrid accepts."""
    run.staged = run.patiently(lambda: run.world.vault.staged(run.policy.name))
    if run.staged is not None and run.staged.key is not None:
        return "a key is staged that belongs to no rotation"
    for to in run.policy.destinations:
        there = run.look_again(to)
        if there is None or not run.record.shows(there.value):
            return f"{to.mount}/{to.path} does not show the current key"
    there = run.seen(run.main)
    if there is None or there.value is None:
        return "the current key is not published"
    try:
        user_id = run.probe(there.value)
    except Refused:
        return "ECGrid does not accept the current key"
    except Failure as error:
        return f"ECGrid could not be asked about the current key ({error.kind})"
    return None if user_id == current.user_id else "the current key answers as another user"


def remove(run: Run, debt: Debt) -> None:
    """KeyRemove, and the proof that the key is gone: its value is refused, or the list lacks it."""
    within = run.fenced(run.world.timeout)
    lost: object = None
    with suppress(NotFound):  # gone already
        lost = unknown_if_lost(lambda: run.account.remove(debt.key_id, within))()
    said_yes = not isinstance(lost, AnswerLost)
    if not proved_gone(run, debt, said_yes=said_yes):
        how = "ECGrid said yes" if said_yes else "the answer was lost"
        raise RetirementFailed(
            f"key {debt.key_id} is still accepted or listed after KeyRemove ({how})"
        )
    record = run.record.not_owing(debt.key_id)
    known = {
        place: tuple(one for one in keys if one.key_id != debt.key_id)
        for place, keys in record.known.items()
    }
    run.note(record.change(known=known))
    run.world.report("rotation.retired", key_id=debt.key_id, why=debt.why)


def proved_gone(run: Run, debt: Debt, *, said_yes: bool) -> bool:
    """By the value, where an earlier version of the secret has it; else by the list; else by ECGrid's word."""
    there = run.seen(run.main)
    value = there and run.world.vault.earlier_value(run.main, debt.key_id, there.version)
    if value:
        try:
            run.patiently(lambda: run.probe(value))
        except Refused:
            return True
        return False
    visibility = debt.visibility or run.policy.visibility
    try:
        listed = run.patiently(lambda: run.account.keys(debt.user_id, visibility, run.within()))
    except (Forbidden, NotFound):
        return said_yes
    return all(seen.ref.key_id != debt.key_id for seen in listed)


# what nobody will publish


def has_leftover(run: Run) -> bool:
    """Whether something is staged and no rotation is open: it belongs to none."""
    nobodys = run.record.underway is None and "drift" not in run.done
    return run.staged is not None and nobodys and run.others_claim is None


def clear_leftover(run: Run) -> None:
    """Notes a staged key that belongs to no rotation as a stray, and destroys the staged document."""
    left, run.staged = run.staged, None
    if left is None:
        return
    record = run.record
    if left.key is not None and not record.shows(left.key.value):
        record = record.owing(left.key.ref, "stray", run.now())
    run.save(record)
    run.fenced(run.world.timeout)
    run.patiently(lambda: run.world.vault.unstage(run.policy.name))
    run.give_back(run.record)


# a key that was issued under a fence that was lost


def has_orphan(run: Run) -> bool:
    """Whether this run issued a key, lost its fence, and nobody has a rotation open any more."""
    return run.orphan is not None and run.record.underway is None


def settle_orphan(run: Run) -> None:
    """The key is the published one, or it is noted as a stray; if Vault shows a key that is refused, it is the cure."""
    orphan, record = run.orphan, run.record
    if orphan is None:
        return
    run.staged = run.patiently(
        lambda: run.world.vault.staged(run.policy.name)
    )  # perhaps this run's own
    if record.shows(orphan.value):
        run.orphan = None
        run.outcome = run.outcome or "rotated"
        return
    there = run.look_again(run.main)
    if (
        there is not None
        and there.value is not None
        and record.current is not None
        and works(run, there.value)
    ):
        run.save(record.owing(orphan.ref, "stray", run.now()))
        run.give_back(run.record)
        run.orphan = None
        return
    run.orphan = None
    run.key = None
    run.done.add("drift")
    run.done.discard("find")
    run.world.report("rotation.drift", key_id=record.current.key_id if record.current else None)


def works(run: Run, value: Secret) -> bool:
    """Whether ECGrid accepts a value."""
    try:
        run.patiently(lambda: run.probe(value))
    except Refused:
        return False
    return True
