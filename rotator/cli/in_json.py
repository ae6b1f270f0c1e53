"""What `--json` prints, as the contract has it: here, and only here, a value becomes an object and a time a text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rotator.cli.act import Checked
    from rotator.cli.doctor import Line
    from rotator.fleet.forecast import Ahead
    from rotator.fleet.holds import Answer
    from rotator.journal import Past
    from rotator.reporting.rows import LastFailure, Row
    from rotator.reporting.runbook import Entry
    from rotator.rotation import Result

Object = dict[str, Any]


def of_result(result: Result) -> Object:
    """One of the `results` of a command that acts."""
    return {
        "policy": result.policy,
        "outcome": result.outcome,
        "user_id": result.user_id,
        "key_id": result.key_id,
        "previous_key_id": result.previous_key_id,
        "previous_key": result.previous_key,
        "previous_key_until": exact(result.previous_key_until),
        "published": [
            {"mount": place.mount, "path": place.path, "version": place.version}
            for place in result.published
        ],
        "started_at": exact(result.started_at),
        "duration_s": round(result.duration_s, 3),
        "phase": result.phase,
        "error": {"kind": result.error.kind, "message": result.error.message}
        if result.error
        else None,
        "warnings": list(result.warnings),
    }


def of_check(checked: Checked) -> Object:
    """One of the `results` of `check`."""
    return {
        "policy": checked.policy,
        "state": checked.state,
        "why": checked.why,
        "warnings": list(checked.warnings),
    }


def of_row(row: Row) -> Object:
    """One of the `policies` of `status`."""
    failure = row.last_failure
    return {
        "policy": row.policy,
        "user_id": row.user_id,
        "key_id": row.key_id,
        "key_age_s": _seconds(row.key_age),
        "previous_key": row.previous_key,
        "previous_key_until": instant(row.previous_key_until),
        "max_age_s": _seconds(row.max_age),
        "last_rotated_at": instant(row.last_rotated_at),
        "next_due_at": instant(row.next_due_at),
        "state": row.state,
        "paused_until": instant(row.paused_until),
        "paused_reason": row.paused_reason,
        "last_failure": of_failure(failure) if failure else None,
        "hook_problems": list(row.hook_problems),
    }


def of_failure(failure: LastFailure) -> Object:
    """The `last_failure` of a policy."""
    return {
        "at": instant(failure.at),
        "phase": failure.phase,
        "kind": failure.kind,
        "message": failure.message,
        "retry_at": instant(failure.retry_at),
    }


def of_rotation(rotation: Ahead) -> Object:
    """One of the `rotations` of `plan`."""
    return {
        "policy": rotation.policy,
        "user_id": rotation.user_id,
        "at": instant(rotation.at),
        "why": rotation.why,
        "previous_key_until": instant(rotation.old_until),
    }


def of_past(policy: str, past: Past) -> Object:
    """One line of `history`."""
    # Which brings pydantic: what prints no history does without.
    from rotator.journal import RETIREMENT

    ends = past.about == RETIREMENT
    return {
        "policy": policy,
        "at": exact(past.at),
        "run": past.run,
        "what": past.about,
        "reason": past.reason,
        "by": past.by,
        "key_id": past.key_id,
        "previous_key_id": None if ends else past.previous_key_id,
        "retired_key_id": past.previous_key_id if ends else None,
        "proof": past.proof or None,
        "published": [
            {"mount": place.mount, "path": place.path, "version": place.version}
            for place in past.published
        ],
        "outcome": past.outcome,
        "error": past.error or "; ".join(past.hook_problems) or None,
    }


def of_finding(line: Line) -> Object:
    """One of the `checks` of `doctor`."""
    return {"state": line.state, "what": line.title, "found": line.found}


def of_entry(entry: Entry) -> Object:
    """One of the `entries` of `explain`."""
    return {"kind": entry.name, "about": entry.about, "means": entry.means, "to_do": entry.to_do}


def of_hold(answer: Answer) -> Object:
    """One of the `results` of `hold` and `release`."""
    hold, error = answer.hold, {"kind": answer.kind, "message": answer.message}
    return {
        "policy": answer.policy,
        "outcome": answer.outcome,
        "until": instant(hold.until) if hold else None,
        "reason": hold.reason if hold else None,
        "error": error if answer.kind else None,
    }


def _seconds(length: timedelta | None) -> int | None:
    return round(length.total_seconds()) if length is not None else None


def instant(time: datetime | None) -> str | None:
    """RFC 3339, UTC, whole seconds."""
    return _utc(time, "seconds") if time else None


def exact(time: datetime | None) -> str | None:
    """The same, with milliseconds."""
    return _utc(time, "milliseconds") if time else None


def _utc(time: datetime, grain: str) -> str:
    return time.astimezone(UTC).isoformat(timespec=grain).replace("+00:00", "Z")
