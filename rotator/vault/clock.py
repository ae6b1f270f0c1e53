"""The Vault server's time, estimated from the `Date` of its answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class ServerClock:
    """Whole seconds from `Date`, the boot clock in between; never runs backwards.

    `Date` is cut to whole seconds, so each answer bounds the server's time from below. The highest bound wins, until
    an answer contradicts it by more than two seconds: then the server's clock was set, and the new answer counts.
    """

    def __init__(self, boot: Callable[[], float], wall: Callable[[], float]) -> None:
        self._boot, self._wall = boot, wall
        self._lock = threading.Lock()
        self._offset: float | None = None
        self._latest = 0.0

    def saw(self, date_header: str | None) -> None:
        """Takes the `Date` of an answer that has just arrived; anything unreadable is ignored."""
        try:
            told = parsedate_to_datetime(date_header or "").timestamp()
        except ValueError:
            return
        bound = told - self._boot()
        with self._lock:
            close = self._offset is not None and abs(bound - self._offset) <= 2
            self._offset = max(bound, self._offset) if close and self._offset is not None else bound

    def now(self) -> datetime:
        """The server's time; the local clock's before the first answer."""
        with self._lock:
            current = self._wall() if self._offset is None else self._boot() + self._offset
            self._latest = max(self._latest, current) if self._offset is not None else current
            return datetime.fromtimestamp(self._latest, UTC)

    def skew(self) -> float:
        """What counts as the server's time minus the local clock's, in seconds; 0 before the first answer."""
        with self._lock:
            if self._offset is None:
                return 0.0
            return max(self._latest, self._boot() + self._offset) - self._wall()
