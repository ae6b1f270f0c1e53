"""How policies stand: a row for each, and what this process knows of all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from rotator.due import due_since, fits, is_due, is_overdue, key_age
from rotator.ends import End, of_own_key
from rotator.errors import Failure, Transient
from rotator.journal import Failed, Record
from rotator.policy import Policy
from rotator.reporting.memory import Trouble
from rotator.reporting.rows import LastFailure, Row, State
from rotator.retiring import previous
from rotator.retiring.ending import RetirementFailed
from rotator.rotation import Cause, Result
from rotator.vault import Stored

DRIFTED = "policy.Drifted"
# A record, why it could not be read, or that there is none.
Answer = Stored | Failure | None


def row(
    policy: Policy,
    record: Record | Failure | None,
    now: datetime,
    trouble: Trouble | None = None,
) -> Row:
    """How a policy stands; a record that could not be read is a failure of the policy.

    `trouble`: the failure that is known of it from its alarm, for a policy that has no record to keep it in.
    """
    if isinstance(record, Failure):
        failure = LastFailure("observe", record.kind, str(record))
        return _row(policy, None, now)._replace(state="failed", last_failure=failure)
    by_record = _row(policy, record, now)
    if trouble is None or record is not None or not policy.enabled:
        return by_record
    alarm = trouble.alarm
    failure = LastFailure(
        alarm.phase or "", alarm.kind or "", alarm.message, at=_whole(trouble.since)
    )
    return by_record._replace(state="failed", last_failure=failure)


def _row(policy: Policy, record: Record | None, now: datetime) -> Row:
    record = record or Record.new(policy.name)
    current, due, failure = record.current, due_since(policy, record), _last_failure(record)
    paused_until, paused_reason = _pause(policy, record, now)
    paused = paused_reason is not None
    return Row(
        policy.name,
        user_id=current.user_id if current else policy.users[0],
        state=_state(policy, record, now, failed=failure is not None, paused=paused),
        key_id=current.key_id if current else None,
        key_age=_rounded(key_age(current, now)),
        max_age=_rounded(policy.max_age),
        previous_key=previous.answer(policy, record),
        previous_key_until=_whole(previous.ends_at(policy, record)),
        last_rotated_at=_whole(record.rotated_at),
        next_due_at=_whole(due) if policy.enabled else None,
        paused_until=_whole(paused_until),
        paused_reason=paused_reason,
        last_failure=failure,
        hook_problems=record.hook_problems,
    )


def _last_failure(record: Record) -> LastFailure | None:
    failed = record.failed or _drifted(record) or _not_retired(record)
    if failed is None:
        return None
    return LastFailure(
        failed.phase,
        failed.kind,
        failed.message,
        at=_whole(failed.at),
        retry_at=_whole(failed.retry_at),
    )


def _pause(policy: Policy, record: Record, now: datetime) -> tuple[datetime | None, str | None]:
    """Until when, and why, the policy begins nothing by itself; None where it does."""
    hold = record.held(now)
    if hold is not None:
        return hold.until, hold.reason
    return None, None if policy.enabled else "enabled: false"


def end_of_own_key(policy: Policy, record: Record | Failure | None) -> End | None:
    """When the rotator's own key is too old that this policy rotates; None if that is not known."""
    if isinstance(record, Failure) or record is None or record.current is None:
        return None
    made = record.current.created or record.current.published_at
    if policy.max_age is None or made is None:
        return None
    return of_own_key(made, policy.max_age, due_since(policy, record))


def drifted(policy: str, again_at: datetime) -> Result:
    """What a tick says of a policy whose published key is refused, and that waits to be looked at again."""
    return Result(policy, "failed", phase="check", error=Cause(DRIFTED, _refused(again_at)))


def _refused(again_at: datetime) -> str:
    again = f"{again_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"ECGrid does not accept the published key (looked at again at {again})"


def _drifted(record: Record) -> Failed | None:
    """The published key is refused, and is not replaced yet."""
    drift = record.drifted
    if drift is None:
        return None
    return Failed(
        at=drift.since,
        phase="check",
        kind=DRIFTED,
        message=_refused(drift.again_at),
        attempts=1,
        retry_at=drift.again_at,
        digest="",
    )


def _not_retired(record: Record) -> Failed | None:
    """The failure of a retirement, which the record keeps with the debt."""
    debt = record.unpaid()
    if debt is None:
        return None
    return Failed(
        at=debt.tried_at,
        phase="retire",
        kind=RetirementFailed.kind,
        message=f"key {debt.key_id} could not be retired: {debt.waits}",
        attempts=debt.tried,
        retry_at=debt.due_at,
        digest="",
    )


def _state(policy: Policy, record: Record, now: datetime, *, failed: bool, paused: bool) -> State:
    """The one word for a policy, the most alarming first."""
    if is_overdue(policy, record, now) and not paused:
        return "overdue"
    if failed:
        return "failed"
    if record.underway is not None:
        return "rotating"
    if paused:
        return "paused"
    if not fits(policy, record):
        return "not-adopted"
    return "due" if is_due(policy, record, now) else "ok"


def _whole(time: datetime | None) -> datetime | None:
    return time.astimezone(UTC).replace(microsecond=0) if time else None


def _rounded(length: timedelta | None) -> timedelta | None:
    return timedelta(seconds=round(length.total_seconds())) if length is not None else None


class Board:
    """The records of all policies as they were read last. Safe for use by many threads.

    It costs no request while nothing changes: the looks round the fleet tell it what they read, and which version of
    a record the due index vouches for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, Answer] = {}
        # That the index told of.
        self._version: dict[str, int] = {}

    def saw(self, policy: str, answer: Answer) -> None:
        """A record was read; what cannot be read just now leaves what was known before."""
        if isinstance(answer, Stored):
            answer = answer._replace(record=answer.record.without_history())
        with self._lock:
            if not (isinstance(answer, Transient) and policy in self._seen):
                self._seen[policy] = answer

    def vouched(self, policy: str, version: int) -> None:
        """The due index speaks of that version of the record."""
        with self._lock:
            self._version[policy] = version

    def unknown(self, policies: Iterable[Policy]) -> list[Policy]:
        """The policies whose records are not known in the version that there is."""
        with self._lock:
            return [policy for policy in policies if self._is_old(policy.name)]

    def _is_old(self, policy: str) -> bool:
        if policy not in self._seen:
            return True
        answer = self._seen[policy]
        known = answer.version if isinstance(answer, Stored) else 0
        return known < self._version.get(policy, 0)

    def known(self, policies: Iterable[Policy]) -> list[tuple[Policy, Record | Failure | None]]:
        """The policies whose record was read, with what was found."""
        with self._lock:
            seen = dict(self._seen)
        answers = ((policy, seen[policy.name]) for policy in policies if policy.name in seen)
        return [
            (policy, answer.record if isinstance(answer, Stored) else answer)
            for policy, answer in answers
        ]
