"""What is known of whatever is reported: which run it is of, of which key it tells, and whose the policy is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple


class Owner(NamedTuple):
    """Whose a policy is."""

    name: str | None = None
    tags: tuple[str, ...] = ()

    def fields(self) -> dict[str, str | tuple[str, ...] | None]:
        """The same, as it is logged."""
        return {"owner": self.name, "tags": self.tags}


class About(NamedTuple):
    """Which run it is of, and what else is known; None where nobody knows."""

    run: str | None = None
    # The rotation that the run began, or took over from another run.
    rotation: str | None = None
    # The how-manieth in a row that may fail.
    attempt: int | None = None
    phase: str | None = None
    user_id: int | None = None
    key_id: int | None = None
    # To the millisecond.
    duration_s: float | None = None
    key_age: timedelta | None = None
    max_age: timedelta | None = None
    since: datetime | None = None

    def fields(self) -> dict[str, str | int | float]:
        """What is known, as it is logged, kept and sent."""
        fields = {
            "run": self.run,
            "rotation": self.rotation,
            "attempt": self.attempt,
            "phase": self.phase,
            "user_id": self.user_id,
            "key_id": self.key_id,
            "duration_s": self.duration_s,
            "key_age_s": _seconds(self.key_age),
            "max_age_s": _seconds(self.max_age),
            "since": None if self.since is None else text_of(self.since),
        }
        return {name: value for name, value in fields.items() if value is not None}


def text_of(moment: datetime) -> str:
    """A time as reports have it, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(length: timedelta | None) -> int | None:
    return None if length is None else round(length.total_seconds())
