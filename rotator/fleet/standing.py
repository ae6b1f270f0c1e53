"""How policies stand: a row for each, as `status --json` shows it, and what this process knows of all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rotator.due import due_since, fits, is_due, is_overdue, key_age
from rotator.ends import End, of_own_key
from rotator.errors import Failure, Transient
from rotator.journal import Failed, Record
from rotator.policy import Policy
from rotator.reporting.memory import Trouble
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
    told: Trouble | None = None,
) -> dict[str, Any]:
    """One policy of `status --json`; a record that could not be read is a failure of the policy.

    `told`: the failure that is known of it from its alarm, for a policy that has no record to keep it in.
    """
    if isinstance(record, Failure):
        failure = {
            "at": None,
            "phase": "observe",
            "kind": record.kind,
            "message": str(record),
            "retry_at": None,
        }
        return _row(policy, None, now) | {"state": "failed", "last_failure": failure}
    found = _row(policy, record, now)
    if told is None or record is not None or not policy.enabled:
        return found
    failure = {
        "at": _instant(told.since),
        "phase": told.alarm.phase,
        "kind": told.alarm.kind,
        "message": told.alarm.message,
        "retry_at": None,
    }
    return found | {"state": "failed", "last_failure": failure}


def _row(policy: Policy, record: Record | None, now: datetime) -> dict[str, Any]:
    record = record or Record.new(policy.name)
    current, failed = record.current, record.failed or _drifted(record) or _not_retired(record)
    due, age = due_since(policy, record), key_age(current, now)
    until, failure = previous.ends_at(policy, record), None
    if failed is not None:
        failure = {
            "at": _instant(failed.at),
            "phase": failed.phase,
            "kind": failed.kind,
            "message": failed.message,
            "retry_at": _instant(failed.retry_at) if failed.retry_at else None,
        }
    return {
        "policy": policy.name,
        "user_id": current.user_id if current else policy.users[0],
        "key_id": current.key_id if current else None,
        "key_age_s": round(age.total_seconds()) if age is not None else None,
        "previous_key": previous.answer(policy, record),
        "previous_key_until": _instant(until) if until else None,
        "max_age_s": round(policy.max_age.total_seconds()) if policy.max_age else None,
        "last_rotated_at": _instant(record.rotated_at) if record.rotated_at else None,
        "next_due_at": _instant(due) if due and policy.enabled else None,
        "state": _state(policy, record, now),
        **_pause(policy, record, now),
        "last_failure": failure,
        "hook_problems": list(record.hook_problems),
    }


def _pause(policy: Policy, record: Record, now: datetime) -> dict[str, str | None]:
    """Until when, and why, the policy begins nothing by itself; None where it does."""
    hold = record.held(now)
    if hold is not None:
        return {"paused_until": _instant(hold.until), "paused_reason": hold.reason}
    return {"paused_until": None, "paused_reason": None if policy.enabled else "enabled: false"}


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
    return f"ECGrid does not accept the published key (looked at again at {_instant(again_at)})"


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


def _state(policy: Policy, record: Record, now: datetime) -> str:
    """The one word for a policy, the most alarming first."""
    paused = not policy.enabled or record.held(now) is not None
    if is_overdue(policy, record, now) and not paused:
        return "overdue"
    if (record.failed or _drifted(record) or _not_retired(record)) is not None:
        return "failed"
    if record.underway is not None:
        return "rotating"
    if paused:
        return "paused"
    if not fits(policy, record):
        return "not-adopted"
    return "due" if is_due(policy, record, now) else "ok"


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
            answer = replace(answer, record=answer.record.without_history())
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
        found = []
        for policy in policies:
            if policy.name in seen:
                answer = seen[policy.name]
                found.append((policy, answer.record if isinstance(answer, Stored) else answer))
        return found
