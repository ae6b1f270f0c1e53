"""The Vault server's time, estimated from the `Date` of answers that are Vault's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Seconds between Vault's first answer and the local clock.
FIRST_ALLOWED = 300.0
# Seconds between a later one and the machine's monotonic clock.
ALLOWED = 60.0
# Seconds: two answers of one clock are no further apart, since each tells whole seconds.
GRAIN = 2.0
# Seconds after which an earlier time that no node tells any more counts no longer.
FADES = 600.0
# Answers, over ALLOWED seconds, that show a leap where `sys/health` cannot be had.
WITNESSES = 3


@dataclass
class _Leap:
    """A time that an answer told and that does not count yet: server's time minus the boot clock's."""

    offset: float
    since: float
    answers: int = 1


class ServerClock:
    """Whole seconds from `Date`, the boot clock in between.

    Each answer bounds the server's time: from below, since `Date` is cut to whole seconds, and from above by how long
    the answer took. The highest bound counts. Where answers disagree by more than that, since they come from nodes
    whose clocks differ, the earlier time counts. A leap does not count before `heard` has confirmed it, and nothing
    else lets the time run backwards.
    """

    def __init__(self, boot: Callable[[], float], wall: Callable[[], float]) -> None:
        self._boot, self._wall = boot, wall
        self._lock = threading.Lock()
        self._offset: float | None = None
        # When an answer agreed with that offset last.
        self._told_at = 0.0
        self._leap: _Leap | None = None
        self._latest = 0.0
        # That came to count.
        self.leaps = 0

    @property
    def in_doubt(self) -> bool:
        """Whether Vault has told a time that differs too much to be believed, and is not confirmed."""
        with self._lock:
            return self._leap is not None

    def saw(self, date_header: str | None, took: float = 0.0) -> None:
        """Takes the `Date` of Vault's own answer, which arrived now, so long after it was asked for."""
        try:
            server_time = parsedate_to_datetime(date_header or "").timestamp()
        except (ValueError, TypeError, OverflowError):
            return
        with self._lock:
            now = self._boot()
            allowed = FIRST_ALLOWED if self._offset is None else ALLOWED
            apart = _apart(server_time - now, took, self._known(now))
            if abs(apart) <= allowed:
                self._count(server_time - now, apart, now)
            else:
                self._doubt(server_time - now, now)

    def heard(self, times: Sequence[float]) -> None:
        """What `sys/health` says, asked for since there is a doubt, the earliest of several answers (Unix time).

        Nothing: it cannot be had, and the answers themselves are the witnesses.
        """
        with self._lock:
            leap, now = self._leap, self._boot()
            if leap is None:
                return
            if not times:
                if leap.answers >= WITNESSES and now - leap.since >= ALLOWED:
                    self._settle(leap.offset)
                return
            earliest = min(times) - now
            allowed = FIRST_ALLOWED if self._offset is None else ALLOWED
            if abs(earliest - leap.offset) <= ALLOWED:
                self._settle(min(earliest, leap.offset))
            elif abs(earliest - self._known(now)) <= allowed:
                self._leap = None
                self._count(earliest, 0.0 if self._offset is None else earliest - self._offset, now)

    def now(self) -> datetime:
        """The server's time; the local clock's before the first answer that counts."""
        with self._lock:
            if self._offset is None:
                return datetime.fromtimestamp(self._wall(), UTC)
            self._latest = max(self._latest, self._boot() + self._offset)
            return datetime.fromtimestamp(self._latest, UTC)

    def skew(self) -> float:
        """Vault's time minus the local clock's, in seconds, a leap that is in doubt included; 0 before an answer."""
        with self._lock:
            now = self._boot()
            if self._leap is not None:
                return now + self._leap.offset - self._wall()
            if self._offset is None:
                return 0.0
            return max(self._latest, now + self._offset) - self._wall()

    def _known(self, now: float) -> float:
        return self._wall() - now if self._offset is None else self._offset

    def _count(self, bound: float, apart: float, now: float) -> None:
        """An answer that may be right: of one clock the highest bound counts, of several the earliest."""
        if self._leap is not None and self._leap.offset > bound:
            # A node that is right still answers.
            self._leap = None
        known = self._offset
        if known is None or apart < -GRAIN or now - self._told_at > FADES:
            self._offset = bound
        elif apart <= GRAIN:
            self._offset = max(bound, known)
        else:
            # A node that is ahead.
            return
        self._told_at = now

    def _doubt(self, bound: float, now: float) -> None:
        leap = self._leap
        if leap is not None and abs(bound - leap.offset) <= ALLOWED:
            leap.answers, leap.offset = leap.answers + 1, min(leap.offset, bound)
        elif leap is None or bound < leap.offset or now - leap.since > ALLOWED:
            self._leap = _Leap(bound, now)

    def _settle(self, offset: float) -> None:
        self._offset, self._leap = offset, None
        self._latest, self._told_at = 0.0, self._boot()
        self.leaps += 1


def _apart(bound: float, took: float, known: float) -> float:
    """How far an answer's time is from the known one: no further than what its delay leaves open."""
    return max(bound - known, 0.0) or min(bound + took - known, 0.0)
