"""A policy's row on the status page, in words; what is markup stands in the templates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from rotator.reporting.rows import HistoryLine, LastFailure, Row
from rotator.web.asked import STATES
from rotator.web.view import Owed, View

# Keys that are named in a row.
OWED = 5
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
UNITS = (("d", 86400), ("h", 3600), ("min", 60))


class When(NamedTuple):
    """A time: as machines read it, how far off it is, and its date."""

    instant: str
    distance: str
    clock: str


class Failed(NamedTuple):
    """A failure: its kind, the phase and since when, what was said, and when it is tried again."""

    kind: str
    place: str
    message: str
    again: str


class Line(NamedTuple):
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

    def __init__(self, moment: datetime) -> None:
        self.at = moment.astimezone(UTC)

    def clock(self, time: datetime) -> str:
        """`28 Nov 03:00`, in UTC."""
        time = time.astimezone(UTC)
        return f"{self.day(time)} {time.hour:02d}:{time.minute:02d}"

    def day(self, day: date) -> str:
        """`28 Nov`."""
        year = "" if day.year == self.at.year else f" {day.year}"
        return f"{day.day} {MONTHS[day.month - 1]}{year}"

    def left(self, time: datetime) -> float:
        """Seconds until then; less than none if it has passed."""
        return (time - self.at).total_seconds()

    def distance(self, time: datetime, past: str = "") -> str:
        """`in 3 h`, or `3 h ago` behind what stands in `past`."""
        left = self.left(time)
        return f"in {span(left)}" if left >= 0 else f"{past}{span(-left)} ago"

    def when(self, time: datetime | None, past: str = "") -> When | None:
        """All of that; None if there is no such time."""
        if time is None:
            return None
        instant = f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return When(instant, self.distance(time, past), self.clock(time))


def span(seconds: float) -> str:
    """A length of time, in the largest unit of which there are two."""
    for unit, size in UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def line(row: Row, view: View, times: Times, *, full: bool) -> Line:
    """The row of one policy; `full`: with its history."""
    tone, mark, meaning = STATES[row.state]
    used, used_tone = _used(row)
    return Line(
        policy=row.policy,
        about=", ".join(_about(row, view.owners.get(row.policy))),
        tone=tone,
        mark=mark,
        meaning=meaning,
        state=row.state,
        pause=_pause(row, times),
        age=_age(row),
        used=used,
        used_tone=used_tone,
        owed=list(_owed(view.owed.get(row.policy, ()), row, times)),
        last=times.when(row.last_rotated_at),
        next=times.when(row.next_due_at, "due "),
        failure=_failed(row.last_failure, times) if row.last_failure else None,
        history=list(view.history(row.policy)) if full else [],
    )


def _about(row: Row, owner: str | None) -> Iterator[str]:
    yield f"user {row.user_id}"
    if row.key_id is not None:
        yield f"key {row.key_id}"
    if owner:
        yield owner


def _pause(row: Row, times: Times) -> str:
    """Until when, and why, the policy begins nothing by itself; also where another state is more alarming."""
    if row.paused_until:
        return f"held until {times.clock(row.paused_until)}: {row.paused_reason}"
    return row.paused_reason or ""


def _age(row: Row) -> str:
    if row.key_age is None:
        return "no key"
    age = span(row.key_age.total_seconds())
    return f"{age} of {span(row.max_age.total_seconds())}" if row.max_age else f"{age}, no maximum"


def _used(row: Row) -> tuple[str, str]:
    """How much of its maximum age the key has used up, and how alarming that is."""
    age, most = row.key_age, row.max_age
    if age is None or not most:
        return "", ""
    used = min(1.0, max(0.0, age / most))
    return f"{100 * used:.1f}", "bad" if age > most else "warn" if used > 0.9 else "good"


def _owed(owed: Sequence[Owed], row: Row, times: Times) -> Iterator[str]:
    """The keys that are still to be retired."""
    for one in owed[:OWED]:
        yield _end_of(one, row.previous_key, times.clock(one.due_at))
    if len(owed) > OWED:
        yield f"and {len(owed) - OWED} more keys"


def _end_of(one: Owed, previous: str | None, clock: str) -> str:
    if one.waits:
        return f"key {one.key_id} is not retired yet, tried again {clock}: {one.waits}"
    if one.why == "stray":
        return f"key {one.key_id}, never published, is retired {clock}"
    if previous == "refused":
        return f"key {one.key_id} is refused already, and retired {clock}"
    return f"key {one.key_id} lives until {clock}"


def _failed(failure: LastFailure, times: Times) -> Failed:
    since = f", {times.distance(failure.at)} ({times.clock(failure.at)})" if failure.at else ""
    place = f"in {failure.phase}{since}"
    return Failed(failure.kind, place, failure.message, _again(failure, times))


def _again(failure: LastFailure, times: Times) -> str:
    again = failure.retry_at
    if again and times.left(again) >= 0:
        return f"Tried again {times.distance(again)} ({times.clock(again)})."
    if again:
        return f"To be tried again since {times.clock(again)}."
    return "Not tried again by itself: once the policy changes, or on demand." if failure.at else ""
