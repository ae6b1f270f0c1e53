"""What `--json` prints, as the contract has it: here, and only here, a value becomes an object and a time a text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rotator.cli.act import Checked
    from rotator.fleet.holds import Answer
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


def instant(time: datetime | None) -> str | None:
    """RFC 3339, UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time else None


def exact(time: datetime | None) -> str | None:
    """The same, with milliseconds."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z") if time else None
