"""What a run did to one policy, as the object of the `results` list of `--json`, and as exit codes are made of it.

The rules: whatever was not done, or only half, is in it; no value is, nor what others have said.

Keeps: never silent (4), never leaked (5).
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rotator.errors import Failure, RotatorError
from rotator.policy import Policy
from rotator.retiring import previous
from rotator.run import Run


@dataclass
class Result:
    """What a run did to one policy."""

    policy: str
    outcome: str
    user_id: int | None = None
    key_id: int | None = None
    previous_key_id: int | None = None
    # What this account does with a replaced key.
    previous_key: str | None = None
    # When the replaced key is to end.
    previous_key_until: datetime | None = None
    published: list[dict[str, Any]] = field(default_factory=list)
    started_at: datetime | None = None
    duration_s: float = 0.0
    phase: str | None = None
    error: dict[str, str] | None = None
    warnings: list[str] = field(default_factory=list)
    # Rotated, but a key is not retired: exit 1.
    failed_retiring: bool = False
    busy: str | None = None
    # Failed by what may pass by itself.
    transient: bool = False
    # Not done, or not to its end: the process was told to stop.
    stopped: bool = False
    # False: not even looked at.
    begun: bool = True

    @property
    def bad(self) -> bool:
        """Whether this result makes the command's exit code 1."""
        return self.outcome == "failed" or self.failed_retiring

    def fail(self, phase: str, kind: str, message: str) -> None:
        """That has failed, whatever else was done."""
        self.outcome, self.phase = "failed", phase
        self.error = {"kind": kind, "message": message}

    def leave_unretired(self, message: str) -> None:
        """A key is not retired that was to be."""
        self.failed_retiring = True
        self.warnings.append(message)

    def as_json(self) -> dict[str, Any]:
        """The result as `--json` shows it."""
        return {
            "policy": self.policy,
            "outcome": self.outcome,
            "user_id": self.user_id,
            "key_id": self.key_id,
            "previous_key_id": self.previous_key_id,
            "previous_key": self.previous_key,
            "previous_key_until": _instant(self.previous_key_until),
            "published": self.published,
            "started_at": _instant(self.started_at),
            "duration_s": round(self.duration_s, 3),
            "phase": self.phase,
            "error": self.error,
            "warnings": self.warnings,
        }


def _instant(time: datetime | None) -> str | None:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z") if time else None


def result_of(run: Run, outcome: str) -> Result:
    """What the run has done, under that word."""
    result = Result(run.policy.name, outcome, warnings=run.outcome.warnings)
    result.published = [
        {"mount": mount, "path": path, "version": version}
        for (mount, path), version in run.outcome.versions.items()
    ]
    if run.sight.stored is None:
        return result
    record = run.sight.stored.record
    result.previous_key = previous.answer(run.policy, record)
    result.previous_key_until = previous.ends_at(run.policy, record)
    if record.current is not None:
        result.user_id, result.key_id = record.current.user_id, record.current.key_id
    settled = record.settled()
    if outcome == "retired":
        result.key_id = run.outcome.ended[0]
    elif run.outcome.word is not None and settled is not None:
        result.previous_key_id = settled.previous_key_id
    return result


def faulty(policy: Policy, phase: str, fault: Exception) -> Result:
    """The result of a policy where something went wrong that nobody expected: its own, and no other's."""
    error = fault if isinstance(fault, RotatorError) else unexpected(fault)
    result = Result(policy.name, "failed")
    result.fail(phase, error.kind, str(error))
    return result


def unexpected(fault: Exception) -> Failure:
    """Our words for an exception that nobody expected: its class and place; its text may quote anything."""
    place = traceback.extract_tb(fault.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return Failure(
        f"{type(fault).__name__} at {where}: a fault of rotator, please report it",
        kind="rotator.Fault",
    )
