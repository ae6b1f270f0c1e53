"""How often ECGrid is asked: one limiter for the process, in which what is past issue goes first.

ECGrid publishes no limit for its REST and SOAP calls; a 429 is therefore also how the limit is learned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

from rotator.errors import Transient

T = TypeVar("T")

RATE_KIND = "ecgrid.RateLimitExceeded"
DEFAULT_PAUSE = 1.0  # seconds after a 429 that does not say how long
LONGEST_PAUSE = 300.0  # no answer may silence the process for longer
RECOVERY = 120.0  # seconds in which a lowered rate doubles
SOON = 5.0  # seconds after the pause; whoever is refused again by then was lowered too little
GENTLY = 2  # times that the rate is lowered a little before it is halved
LOWEST = 1 / 16  # of the rate that was set
UNLIMITED_LOWERED = 20.0  # requests a second from which an unlimited rate is lowered
LONGEST_NAP = 0.25  # so that a more urgent waiter, or a pause, is noticed in time
SHORTEST_NAP = 0.005
LATE = 0.1  # seconds


class Urgency(IntEnum):
    """Who goes first: a rotation that has issued, then rotations, then drift checks.

    A rotation that is stuck goes before others that are due, but never twice in a row while one of them waits.
    """

    CHECK = 0
    ROTATION = 1
    STUCK = 2
    PAST_ISSUE = 3


class Rate:
    """Grants requests to all threads of the process, on average so many a second.

    Requests that are granted together may be sent together; the next ones then wait for their time. While ECGrid
    answers 429 nobody sends before the time that it named, and the rate is lowered: by a tenth, since a rate that is
    just right is overstepped now and then, and to a half from the third time in a row. It doubles again in two minutes.
    """

    def __init__(
        self,
        per_second: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        waited: Callable[[float], None] | None = None,
    ) -> None:
        """`per_second` None or 0: unlimited. `clock` counts seconds and never runs backwards.

        `waited` is told of each request, or several at once, how many seconds it waited to be granted.
        """
        self._waited = waited
        self._nominal = per_second or None
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int]] = []
        self._number = 0
        self._free_at = self._paused_until = clock()
        self._factor, self._lowered_at = 1.0, clock() - LONGEST_PAUSE - SOON
        self._in_a_row = 0
        self._stuck_went = False

    @property
    def per_second(self) -> float | None:
        """The rate in force, which is lower than the one set for some time after a 429; None: unlimited."""
        factor = self._factor_at(self._clock())
        if self._nominal is None:
            return None if factor >= 1 else UNLIMITED_LOWERED * factor
        return self._nominal * factor

    def _factor_at(self, now: float) -> float:
        doublings = min(64.0, (now - self._lowered_at) / RECOVERY)
        return float(min(1.0, self._factor * 2**doublings))

    def reserve(self, requests: int, urgency: Urgency, within: float | None = None) -> bool:
        """Blocks until so many requests may be sent at once; False if that is later than `within` seconds from now.

        Zero requests (already granted ones) wait only for the end of a pause that ECGrid asked for.
        """
        began = self._clock()
        until = None if within is None else began + within
        with self._lock:
            self._number += 1
            ticket = (-urgency, self._number)
            self._waiting.append(ticket)
        try:
            while True:
                wait = self._try(ticket, requests)
                if wait <= 0:
                    if requests and self._waited is not None:
                        self._waited(self._clock() - began)
                    return True
                if until is not None and self._clock() + wait > until:
                    return False
                self._sleep(max(SHORTEST_NAP, min(wait, LONGEST_NAP)))
        finally:
            with self._lock:
                self._waiting.remove(ticket)

    def _try(self, ticket: tuple[int, int], requests: int) -> float:
        """Takes the requests if it is this ticket's turn, and then returns 0; else the seconds to wait at least."""
        with self._lock:
            now = self._clock()
            if requests == 0:
                return self._paused_until - now
            first = self._first() == ticket
            wait = max(self._free_at, self._paused_until) - now
            if wait > 0 or not first:
                return max(wait, SHORTEST_NAP)
            rate = self.per_second
            # Whoever wakes a little late does not move the times of all that come after.
            start = max(self._free_at, now - LATE)
            self._free_at = start + requests / rate if rate else now
            self._stuck_went = ticket[0] == -Urgency.STUCK
            return 0.0

    def _first(self) -> tuple[int, int]:
        """Whose turn it is: of half the grants at most those that are stuck are the first."""
        others = [ticket for ticket in self._waiting if ticket[0] != -Urgency.STUCK]
        due = any(ticket[0] == -Urgency.ROTATION for ticket in others)
        return min(others if self._stuck_went and due else self._waiting)

    def heed(self, call: Callable[[], T]) -> T:
        """Makes one call; if ECGrid finds it one too many, everybody slows down."""
        try:
            return call()
        except Transient as error:
            if error.kind == RATE_KIND:
                self.slow_down(error.retry_after)
            raise

    def slow_down(self, retry_after: float | None) -> None:
        """ECGrid answered 429: nobody sends for `retry_after` seconds, and the rate is lowered."""
        pause = DEFAULT_PAUSE if retry_after is None else min(retry_after, LONGEST_PAUSE)
        with self._lock:
            now = self._clock()
            # Several calls that were under way together are one and the same overstepping.
            if now >= self._paused_until:
                soon = now - self._lowered_at < pause + SOON
                self._in_a_row = self._in_a_row + 1 if soon else 1
                step = 0.9 if self._in_a_row <= GENTLY else 0.5
                self._factor = max(LOWEST, self._factor_at(now) * step)
                self._lowered_at = now
            self._paused_until = max(self._paused_until, now + pause)

    def pause_left(self) -> float:
        """Seconds until requests may be sent again after a 429; 0 where there was none."""
        return max(0.0, self._paused_until - self._clock())
