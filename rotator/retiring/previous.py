"""What this account does with a replaced key: found out once per policy, and told by every result from then on.

Asked before the claim, so that a key which was dead already tells nothing; once more after settling; and once more
just before its first retirement, since an account may end it some time later. The rule: where ECGrid cannot tell,
nothing is held up, and the next rotation asks.

Keeps: never silent (4).
"""

from __future__ import annotations

from datetime import datetime

from rotator.errors import Failure, Refused
from rotator.journal import Debt, PreviousKey, Record
from rotator.keys import Secret
from rotator.policy import Policy
from rotator.run import Run


def answer(policy: Policy, record: Record) -> PreviousKey | None:
    """`accepted` or `refused`; None while it is not known for the call that the policy issues by."""
    return record.previous_key if record.previous_issue == policy.issue.value else None


def ends_at(policy: Policy, record: Record) -> datetime | None:
    """When the replaced key is to end, if that is not known to have happened."""
    ends: list[datetime] = [debt.due_at for debt in record.retiring if debt.why == "replaced"]
    return max(ends, default=None) if answer(policy, record) != "refused" else None


def ask_before(run: Run, user_id: int) -> None:
    """Before the claim: whether the key that is to be replaced is accepted, while nobody knows what becomes of it."""
    current = run.record.current
    value = run.sight.value_at(run.main)
    if not run.grace or answer(run.policy, run.record) is not None or current is None:
        return
    same = (current.user_id, current.visibility) == (user_id, run.policy.visibility)
    if same and value is not None and run.record.shows(value):
        run.accepted |= ask(run, value) == "accepted"


def is_to_be_asked(run: Run) -> bool:
    """Whether a rotation was settled whose replaced key was accepted before."""
    return (
        run.accepted
        and run.replaced is not None
        and run.claim.others is None
        and run.outcome.word is not None
    )


def ask_after(run: Run) -> None:
    """After settling: the first answer. Where ECGrid gives none, the next rotation asks."""
    run.accepted = False
    if run.replaced is None:
        return
    now, ref = ask(run, run.replaced.value), run.replaced.ref
    if now is None:
        return
    record = run.record.change(
        previous_key=now,
        previous_issue=run.policy.issue.value,
        previous_id=ref.key_id if run.record.owes(ref.key_id) else None,
    )
    run.claim.give_back(record)
    warn(run)


def ask_again(run: Run, debt: Debt, value: Secret | None) -> None:
    """Just before the first retirement: the answer that counts."""
    if run.record.previous_id != debt.key_id:
        return
    now = ask(run, value) if value is not None else None
    run.sight.note(run.record.change(previous_key=now or run.record.previous_key, previous_id=None))
    warn(run)


def ask(run: Run, value: Secret) -> PreviousKey | None:
    """Whether ECGrid accepts it now; None if it cannot tell, which stops nothing."""
    try:
        run.probe(value)
    except Refused:
        return "refused"
    except Failure:
        return None
    return "accepted"


def warn(run: Run) -> None:
    """A grace that the account does not keep."""
    if run.grace and answer(run.policy, run.record) == "refused":
        run.warn(
            "on this account the replaced key ends before its grace is over: consumers that have not read the new one "
            "are cut off. See `users: [a, b]`"
        )
