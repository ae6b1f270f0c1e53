"""Retiring: a debt of its own. Only keys that this policy published, and its strays, after a second look each.

The rules: nothing is ended while a rotation is open, a key is staged, or a destination does not show the current key,
nor unless ECGrid accepts that one. *Postponed*: a look said no; a warning, and it is tried again. *Failed*: tried again
after a back-off, and a failure of the policy until it is proved.

Keeps: never lost (1), never silent (4).
"""

from __future__ import annotations

from rotator import due
from rotator.errors import Failure, NoSuchCall, Refused
from rotator.journal import Debt, Held, changes
from rotator.keys import Secret
from rotator.retiring import nameless, previous
from rotator.retiring.ending import Case, Postponed, RetirementFailed, end, value_of
from rotator.run import Run, evidence
from rotator.vault import StaleRead


def has_due_debts(run: Run) -> bool:
    """Whether keys are to be retired now. Nothing is retired while a rotation is open or a destination is missing."""
    record = run.record
    return (
        record.current is not None
        and (run.order.retire_now or bool(record.due_debts(run.now())))
        and not (run.order.retire_now and due.holding_back(record, run.order, run.now()))
        and run.claim.others is None
    )


def retire(run: Run) -> None:
    """Ends each key whose time has come, under the claim; raises RetirementFailed for what is not proved."""
    current = run.record.current
    if current is None:
        return
    # The check-and-set that only one run can win.
    run.claim.save(run.record)
    reason, failed = second_look(run, current)
    if run.order.retire_now:
        everything_now(run, ask=reason is None)
    for debt in run.record.due_debts(run.now()):
        # Updated in place: nothing to retire.
        if debt.key_id == current.key_id:
            run.sight.note(run.record.not_owing(debt.key_id))
        elif reason is not None:
            put_off(run, debt, reason, failed)
        else:
            pay(run, debt, current, failed)
    if run.order.retire_now:
        failed += [reason] if reason else nameless.end_all(run)
    close(run, failed)


def close(run: Run, failed: list[str]) -> None:
    """Gives the claim back, with what was noted; raises RetirementFailed if something `failed`."""
    if not failed:
        run.claim.give_back(run.record)
        return
    run.claim.give_back(evidence.failed(run, run.record, RetirementFailed.kind))
    raise RetirementFailed("; ".join(dict.fromkeys(failed)))


def second_look(run: Run, current: Held) -> tuple[str | None, list[str]]:
    """Why nothing may be retired now, if so; and, if the look itself failed, that failure."""
    try:
        return unfit(run, current), []
    except StaleRead:
        raise
    except Failure as error:
        return f"before anything was sent: {error}", [f"nothing could be retired: {error}"]


def everything_now(run: Run, *, ask: bool) -> None:
    """`--grace 0s`: every debt is due, and with `users` the other user's published key too."""
    now = run.now()
    if ask:
        nameless.name_all(run)
    run.sight.note(changes.all_due(run.record, now))


def pay(run: Run, debt: Debt, current: Held, failed: list[str]) -> None:
    """Ends one key; what comes in between is kept with the debt."""
    try:
        value = value_of(run, debt)
        previous.ask_again(run, debt, value)
        proof = end(run, Case(debt, current, published(run), value))
    except Postponed as no:
        put_off(run, debt, str(no), [])
        if run.order.retire_now:
            failed.append(f"key {debt.key_id} is not retired: {no}")
        return
    except NoSuchCall:
        drop(run, debt, failed)
        return
    except Failure as error:
        failed.append(f"key {debt.key_id} could not be retired: {error}")
        put_off(run, debt, str(error), failed)
        return
    run.sight.note(evidence.retired(run, debt, proof))
    run.outcome.has_ended(debt.key_id)
    run.outcome.did("retired")
    run.world.report("rotation.retired", key_id=debt.key_id, why=debt.why, proof=proof)
    if run.order.retire_now:
        run.warn(f"key {debt.key_id} is ended: {proof}")


def drop(run: Run, debt: Debt, failed: list[str]) -> None:
    """The debt of a time when there were key records: this ECGrid has none, and no call that would end it."""
    run.sight.note(run.record.not_owing(debt.key_id))
    text = (
        f"key {debt.key_id} of user {debt.user_id} is not retired, and not tried again: this ECGrid shows no keys by "
        "id, and nothing proves that it is refused. If it is still there, end it at ECGrid by hand"
    )
    run.warn(text)
    if run.order.retire_now:
        failed.append(text)


def put_off(run: Run, debt: Debt, why: str, failed: list[str]) -> None:
    """The debt waits: with a back-off that grows where it `failed`, else until the next look."""
    if not failed:
        run.warn(f"key {debt.key_id} is not retired yet: {why}")
    later = debt.put_off(why, run.now(), failed=bool(failed))
    run.sight.note(changes.put_off(run.record, later))


def unfit(run: Run, current: Held) -> str | None:
    """Why nothing may be retired now: the second look. None if every destination shows a key that ECGrid accepts.

    Raises Failure if that could not be found out.
    """
    staged = run.sight.look_at_staged()
    if staged is not None and staged.key is not None:
        return "a key is staged that belongs to no rotation"
    for to in run.policy.destinations:
        if not run.record.shows(run.sight.value_again_at(to)):
            return f"{to.mount}/{to.path} does not show the current key"
    try:
        user_id = run.probe(published(run))
    except Refused:
        return "ECGrid does not accept the current key"
    return None if user_id == current.user_id else "the current key answers as another user"


def published(run: Run) -> Secret:
    """The value that the first destination shows; raises Postponed if there is none."""
    value = run.sight.value_at(run.main)
    if value is None:
        raise Postponed("the current key is not published")
    return value
