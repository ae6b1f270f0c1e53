"""A policy's row on the status page, in words; what is markup stands in the templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from rotator.reporting.rows import HistoryLine, Row
from rotator.web.asked import STATES
from rotator.web.view import Owed, View

# Keys that are named in a row.
OWED = 5
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
UNITS = (("d", 86400), ("h", 3600), ("min", 60))


@dataclass(frozen=True, slots=True)
class When:
    """A time: as machines read it, how far off it is, and its date."""

    instant: str
    distance: str
    clock: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure: its kind, the phase and since when, what was said, and when it is tried again."""

    kind: str
    place: str
    message: str
    again: str


@dataclass(frozen=True, slots=True)
class Line:
    """One row. `used` is how much of its maximum age the key has used up, in hundredths; empty: it has none."""

    policy: str
    about: str
    tone: str
    mark: str
    meaning: str
    state: str
    pause: str
    age: str
    used: str
    used_tone: str
    owed: list[str]
    last: When | None
    next: When | None
    failure: Failed | None
    history: list[HistoryLine]


class Times:
    """How times are told on a page that was true `at` some time; a year is told where it is another one."""

    def __init__(self, at: datetime) -> None:
        self.at = at.astimezone(UTC)

    def clock(self, at: datetime | str) -> str:
        """`28 Nov 03:00`, in UTC."""
        told = _instant(at)
        return f"{self.day(told)} {told.hour:02d}:{told.minute:02d}"

    def day(self, day: date) -> str:
        """`28 Nov`."""
        year = "" if day.year == self.at.year else f" {day.year}"
        return f"{day.day} {MONTHS[day.month - 1]}{year}"

    def left(self, at: datetime | str) -> float:
        """Seconds until then; less than none if it has passed."""
        return (_instant(at) - self.at).total_seconds()

    def distance(self, at: datetime | str, past: str = "") -> str:
        """`in 3 h`, or `3 h ago` behind what stands in `past`."""
        left = self.left(at)
        return f"in {span(left)}" if left >= 0 else f"{past}{span(-left)} ago"

    def when(self, at: str | None, past: str = "") -> When | None:
        """Both of them; None if there is no such time."""
        return When(at, self.distance(at, past), self.clock(at)) if at else None


def _instant(at: datetime | str) -> datetime:
    return (datetime.fromisoformat(at) if isinstance(at, str) else at).astimezone(UTC)


def span(seconds: float) -> str:
    """A length of time, in the largest unit of which there are two."""
    for unit, size in UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def line(row: Row, view: View, times: Times, *, full: bool) -> Line:
    """The row of one policy; `full`: with its history."""
    tone, mark, meaning = STATES.get(row["state"], ("warn", "?", ""))
    used, used_tone = _used(row)
    failed = row["last_failure"]
    return Line(
        policy=row["policy"],
        about=", ".join(_about(row, view.owners.get(row["policy"]))),
        tone=tone,
        mark=mark,
        meaning=meaning,
        state=row["state"],
        pause=_pause(row, times),
        age=_age(row),
        used=used,
        used_tone=used_tone,
        owed=list(_owed(view.owed.get(row["policy"], ()), row, times)),
        last=times.when(row["last_rotated_at"]),
        next=times.when(row["next_due_at"], "due "),
        failure=_failed(failed, times) if failed else None,
        history=list(view.history(row["policy"])) if full else [],
    )


def _about(row: Row, owner: str | None) -> Iterator[str]:
    yield f"user {row['user_id']}"
    if row["key_id"] is not None:
        yield f"key {row['key_id']}"
    if owner:
        yield owner


def _pause(row: Row, times: Times) -> str:
    """Until when, and why, the policy begins nothing by itself; also where another state is more alarming."""
    if row["paused_until"]:
        return f"held until {times.clock(row['paused_until'])}: {row['paused_reason']}"
    return row["paused_reason"] or ""


def _age(row: Row) -> str:
    age, most = row["key_age_s"], row["max_age_s"]
    if age is None:
        return "no key"
    return f"{span(age)} of {span(most)}" if most else f"{span(age)}, no maximum"


def _used(row: Row) -> tuple[str, str]:
    """How much of its maximum age the key has used up, and how alarming that is."""
    age, most = row["key_age_s"], row["max_age_s"]
    if age is None or not most:
        return "", ""
    used = min(1.0, max(0.0, age / most))
    return f"{100 * used:.1f}", "bad" if age > most else "warn" if used > 0.9 else "good"


def _owed(owed: Sequence[Owed], row: Row, times: Times) -> Iterator[str]:
    """The keys that are still to be retired."""
    for one in owed[:OWED]:
        yield _told(one, row["previous_key"], times.clock(one.due_at))
    if len(owed) > OWED:
        yield f"and {len(owed) - OWED} more keys"


def _told(one: Owed, previous: str | None, at: str) -> str:
    if one.waits:
        return f"key {one.key_id} is not retired yet, tried again {at}: {one.waits}"
    if one.why == "stray":
        return f"key {one.key_id}, never published, is retired {at}"
    if previous == "refused":
        return f"key {one.key_id} is refused already, and retired {at}"
    return f"key {one.key_id} lives until {at}"


def _failed(failed: Mapping[str, Any], times: Times) -> Failed:
    at = f", {times.distance(failed['at'])} ({times.clock(failed['at'])})" if failed["at"] else ""
    place = f"in {failed['phase']}{at}"
    return Failed(failed["kind"], place, failed["message"], _again(failed, times))


def _again(failed: Mapping[str, Any], times: Times) -> str:
    again = failed["retry_at"]
    if again and times.left(again) >= 0:
        return f"Tried again {times.distance(again)} ({times.clock(again)})."
    if again:
        return f"To be tried again since {times.clock(again)}."
    return (
        "Not tried again by itself: once the policy changes, or on demand." if failed["at"] else ""
    )
