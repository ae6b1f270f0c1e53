"""When a policy is due: pure arithmetic of interval and cron, zone, jitter, window and freeze.

No clock in here: every instant enters as an aware `datetime` in UTC, and leaves as one. Wall clock times belong to
the schedule's own zone. Whatever a person wrote and cannot be used is refused with `BadInput`, in texts that never
repeat what was written.
"""

from __future__ import annotations

import calendar
import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from rotator.errors import BadInput, Problem

_DURATION = re.compile(r"(0|[1-9][0-9]{0,9})([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST = timedelta(days=36500)

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# Years after which weekdays and leap years fall together again.
_CYCLE = 28
_FIRST_YEAR = 2000

_MONTH_NAMES = "jan feb mar apr may jun jul aug sep oct nov dec"
_WEEKDAY_NAMES = "sun mon tue wed thu fri sat"
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES.split(), 1)}
_WEEKDAYS = {name: number for number, name in enumerate(_WEEKDAY_NAMES.split())}


def duration(text: str) -> timedelta:
    """The length that `90s`, `15m`, `12h`, `30d` or `8w` stands for; a bare `0` is no time at all.

    Raises BadInput for anything else, and for more than a hundred years.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        if text == "0":
            return timedelta(0)
        raise _bad(
            "must be a whole number and one unit of s, m, h, d or w, such as 90s, 12h or 30d"
        )
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST.total_seconds():
        raise _bad("must not be longer than a hundred years (36500d)")
    return timedelta(seconds=seconds)


class Every(NamedTuple):
    """A fixed interval of elapsed time, counted from the last rotation."""

    period: timedelta


@dataclass(frozen=True)
class Manual:
    """Never due by itself."""


class Cron(NamedTuple):
    """Five cron fields, taken apart as Vixie cron does; made by `Cron.parse`.

    `minutes` are minutes of the day, ascending; `weekdays` counts from Sunday = 0. `either` says that day of month
    and day of week are both restricted, so that one of them is enough.
    """

    minutes: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    either: bool

    @staticmethod
    def parse(text: str) -> Cron:
        """The schedule that `text` stands for; raises BadInput if it is no cron expression or never fires."""
        return _cron(text)

    def on(self, day: date) -> bool:
        """Whether it fires on that day."""
        if day.month not in self.months:
            return False
        by_month, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_month or by_week if self.either else by_month and by_week

    def dates(self, first: date) -> Iterator[date]:
        """The days on which it fires, from `first` on, over two cycles of the calendar."""
        for year in range(first.year, min(first.year + 2 * _CYCLE, 9998) + 1):
            for month in self.months:
                if (year, month) < (first.year, first.month):
                    continue
                for number in range(1, calendar.monthrange(year, month)[1] + 1):
                    day = date(year, month, number)
                    if day >= first and self.on(day):
                        yield day

    def longest_gap(self) -> timedelta:
        """The longest time between two of its times, on a clock without daylight saving."""
        return _longest_gap(self)


class Window(NamedTuple):
    """The hours, by the wall clock, in which a rotation may begin; `days` counts from Monday = 0.

    `end` is exclusive. If it is before `start`, the window ends on the next day and belongs to the day it starts on.
    """

    days: tuple[int, ...]
    start: time
    end: time

    def open_at(self, wall: datetime) -> bool:
        """Whether a rotation may begin at that time of the wall clock."""
        now = wall.time()
        if self.start < self.end:
            return wall.weekday() in self.days and self.start <= now < self.end
        if now >= self.start:
            return wall.weekday() in self.days
        return now < self.end and (wall.weekday() - 1) % 7 in self.days


class Freeze(NamedTuple):
    """Days, by the wall clock, on which nothing rotates by itself; both ends are included."""

    first: date
    last: date


class Schedule(NamedTuple):
    """When a policy is due; all instants are aware and in UTC."""

    rule: Every | Cron | Manual
    timezone: ZoneInfo
    jitter: timedelta = timedelta(0)
    window: Window | None = None
    freezes: tuple[Freeze, ...] = ()

    def next_due(self, after: datetime, name: str) -> datetime | None:
        """The instant at which the policy `name` is due, `after` being its last rotation or its adoption.

        That is the first schedule time after it, moved by the jitter of that name, then forward to the first instant
        that is out of every freeze and in the window. What was moved so far is spread anew from there, by the name's
        share of the jitter or of what is left of that opening, whichever is less. None for a manual schedule. The
        answer depends on nothing else.
        """
        if isinstance(self.rule, Every):
            due = after + self.rule.period
        elif isinstance(self.rule, Cron):
            due = self._next_of_cron(self.rule, after)
        else:
            return None
        due += _share(name, self.jitter)
        return due if self.allowed(due) == due else self.reopened(due, name)

    def reopened(self, held_until: datetime, name: str) -> datetime:
        """When a policy is due that was held back up to `held_until`: the first allowed instant, spread anew."""
        allowed = self.allowed(held_until)
        return allowed + _share(name, self._left(allowed))

    def occurrences(self, after: datetime, until: datetime, name: str) -> Iterator[datetime]:
        """The due times up to `until`, each counted from the one before as if that had been met."""
        due = self.next_due(after, name)
        while due is not None and due <= until:
            yield due
            due = self.next_due(due, name)

    def allowed(self, instant: datetime, *, in_window: bool = True) -> datetime:
        """The first instant from `instant` on that is out of every freeze and, unless that is lifted, in the window."""
        while True:
            if thaw := self._thaw(instant):
                instant = thaw
            elif in_window and self.window is not None and not self.open_at(instant):
                instant = self._next_turn(self.window, instant, opens=True)
            else:
                return instant

    def open_at(self, now: datetime) -> bool:
        """Whether the window allows a rotation to begin; true without one. Freezes are asked for separately."""
        return self.window is None or self.window.open_at(now.astimezone(self.timezone))

    def frozen_at(self, now: datetime) -> bool:
        """Whether a freeze covers this instant."""
        return self._thaw(now) is not None

    def longest_gap(self) -> timedelta | None:
        """The longest time between two schedule times, without jitter; None for a manual schedule."""
        if isinstance(self.rule, Every):
            return self.rule.period
        return self.rule.longest_gap() if isinstance(self.rule, Cron) else None

    def _thaw(self, now: datetime) -> datetime | None:
        """The end of the freezes that cover this instant."""
        if not self.freezes:
            return None
        today = now.astimezone(self.timezone).date()
        last = max((f.last for f in self.freezes if f.first <= today <= f.last), default=None)
        return None if last is None else self._reached(datetime.combine(last + _DAY, time()))

    def _left(self, now: datetime) -> timedelta:
        """How long an allowed instant goes on being one, up to the jitter; a window may shut, or a freeze begin."""
        today, ends = now.astimezone(self.timezone).date(), [now + self.jitter]
        if self.window is not None:
            ends.append(self._next_turn(self.window, now, opens=False))
        begins = [freeze.first for freeze in self.freezes if freeze.first > today]
        ends += [self._reached(datetime.combine(day, time())) for day in begins]
        return min(ends) - now

    def _next_turn(self, window: Window, now: datetime, *, opens: bool) -> datetime:
        """The first instant after `now`, at which the window is shut (open), that finds it open (shut)."""
        day = now.astimezone(self.timezone).date() - _DAY
        while True:
            wall = datetime.combine(day, window.start if opens else window.end)
            instants = {self._reached(wall), self._utc(wall, fold=1), *self._transition_on(day)}
            turns = [i for i in instants if i > now and self.open_at(i) is opens]
            if turns:
                return min(turns)
            day += _DAY

    def _next_of_cron(self, cron: Cron, after: datetime) -> datetime:
        due: datetime | None = None
        for day in cron.dates(after.astimezone(self.timezone).date() - _DAY):
            # Times in a gap at midnight may fire after the first ones of the next day: look one day further.
            fired = self._first_fired(cron, day, after)
            if due is not None:
                return due if fired is None else min(due, fired)
            due = fired
        if due is None:
            raise OverflowError("the calendar ends before the cron schedule fires again")
        return due

    def _first_fired(self, cron: Cron, day: date, after: datetime) -> datetime | None:
        """The first instant after `after` that one of that day's wall clock times stands for."""
        midnight = self._utc(datetime.combine(day, time()))
        if midnight + _DAY == self._utc(datetime.combine(day + _DAY, time())):
            since = (after - midnight) // timedelta(minutes=1)
            index = bisect_right(cron.minutes, since)
            if index == len(cron.minutes):
                return None
            return midnight + timedelta(minutes=cron.minutes[index])
        start = datetime.combine(day, time())
        instants = (self._fired(start + timedelta(minutes=minute)) for minute in cron.minutes)
        return min((instant for instant in instants if instant > after), default=None)

    def _fired(self, wall: datetime) -> datetime:
        """The one instant for a wall clock time: the first of two, and within the hour after a gap begins."""
        instant = self._utc(wall)
        begin = self._reached(wall)
        return instant if instant - begin < _HOUR else begin

    def _reached(self, wall: datetime) -> datetime:
        """The first instant at which the wall clock shows `wall`, or has jumped over it."""
        late, early = self._utc(wall), self._utc(wall, fold=1)
        return self._change(early, late) if early < late else late

    def _transition_on(self, day: date) -> list[datetime]:
        """The instant at which the zone's offset changes on that day, if it does."""
        begin = self._utc(datetime.combine(day, time()))
        end = self._utc(datetime.combine(day + _DAY, time()))
        return [self._change(begin, end)] if end - begin != _DAY else []

    def _change(self, early: datetime, late: datetime) -> datetime:
        """The first second of the new offset, between two instants that have different ones."""
        old = early.astimezone(self.timezone).utcoffset()
        while late - early > _SECOND:
            middle = early + (late - early) // 2 // _SECOND * _SECOND
            if middle.astimezone(self.timezone).utcoffset() == old:
                early = middle
            else:
                late = middle
        return late

    def _utc(self, wall: datetime, fold: int = 0) -> datetime:
        return wall.replace(tzinfo=self.timezone, fold=fold).astimezone(UTC)


def _share(name: str, length: timedelta) -> timedelta:
    """That name's part of a length of time, in whole seconds: the same each time, different between names."""
    if not length:
        return length
    fraction = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    return timedelta(seconds=fraction * int(length.total_seconds()) >> 64)


@lru_cache(maxsize=1024)
def _cron(text: str) -> Cron:
    if text.lstrip().startswith("@"):
        raise _bad('must be five fields, such as "0 3 * * SUN"; @daily and the like are refused')
    fields = text.split()
    if len(fields) != 5:
        raise _bad(
            'must have five fields (minute, hour, day of month, month, day of week), such as "0 3 * * SUN"'
        )
    minutes = _field(fields[0], "the minute", 0, 59)
    hours = _field(fields[1], "the hour", 0, 23)
    weekdays = _field(fields[4], "the day of week", 0, 7, _WEEKDAYS)
    cron = Cron(
        minutes=tuple(60 * hour + minute for hour in hours for minute in minutes),
        days=_field(fields[2], "the day of month", 1, 31),
        months=_field(fields[3], "the month", 1, 12, _MONTHS),
        weekdays=tuple(sorted({number % 7 for number in weekdays})),
        # As in Vixie cron, a field that begins with a star, `*/2` too, does not count as restricted.
        either=not (fields[2].startswith("*") or fields[4].startswith("*")),
    )
    if next(cron.dates(date(_FIRST_YEAR, 1, 1)), None) is None:
        raise _bad("never fires: no month that it names has such a day")
    return cron


@lru_cache(maxsize=1024)
def _longest_gap(cron: Cron) -> timedelta:
    longest = max((b - a for a, b in pairwise(cron.minutes)), default=0)
    overnight = 1440 - cron.minutes[-1] + cron.minutes[0]
    days = 1
    if not (len(cron.days) == 31 and len(cron.months) == 12 and len(cron.weekdays) == 7):
        days = max((b - a).days for a, b in pairwise(cron.dates(date(_FIRST_YEAR, 1, 1))))
    return timedelta(minutes=max(longest, overnight + 1440 * (days - 1)))


def _field(
    text: str, what: str, low: int, high: int, names: dict[str, int] | None = None
) -> tuple[int, ...]:
    """The numbers that one cron field stands for, ascending."""
    numbers: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, last = _span(span, what, low, high, names or {})
        if slash and span != "*" and "-" not in span:
            raise _bad(f"{what}: a step needs a star or a range, such as */15 or {low}-{high}/15")
        if slash and not re.fullmatch("[0-9]{1,3}", step):
            raise _bad(f"{what}: a step is a whole number, such as */15")
        if slash and int(step) == 0:
            raise _bad(f"{what}: a step of 0 never ends")
        numbers.update(range(first, last + 1, int(step) if slash else 1))
    return tuple(sorted(numbers))


def _span(text: str, what: str, low: int, high: int, names: dict[str, int]) -> tuple[int, int]:
    if text == "*":
        # The day of week's 7 is its 0 again.
        return low, high - (high == 7)
    begin, dash, end = text.partition("-")
    first = _number(begin, what, low, high, names)
    last = _number(end, what, low, high, names) if dash else first
    if last < first:
        hint = "; Sunday ends a range as 7: 6-7" if high == 7 and last == 0 else ""
        raise _bad(f"{what}: a range must not run backwards, write two ranges with a comma{hint}")
    return first, last


def _number(text: str, what: str, low: int, high: int, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not re.fullmatch("[0-9]{1,2}", text) or not low <= int(text) <= high:
        named = f" or names ({', '.join(names)})" if names else ""
        raise _bad(f"{what}: must be made of numbers from {low} to {high}{named}, with * , - and /")
    return int(text)


def _bad(what: str) -> BadInput:
    return BadInput([Problem("", what)])
