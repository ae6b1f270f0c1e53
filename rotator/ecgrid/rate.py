"""How often ECGrid is asked: one limiter for the process, in which what is past issue goes first.

ECGrid publishes no limit for its REST and SOAP calls; a 429 is therefore also how the limit is learned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

from rotator.ecgrid.window import Slot, Window
from rotator.errors import Transient

T = TypeVar("T")

RATE_KIND = "ecgrid.RateLimitExceeded"
# Seconds after a 429 that does not say how long.
DEFAULT_PAUSE = 1.0
# No answer may silence the process for longer.
LONGEST_PAUSE = 300.0
# Seconds in which a lowered rate doubles.
RECOVERY = 120.0
# Seconds after the pause; whoever is refused again by then was lowered too little.
SOON = 5.0
# Times that the rate is lowered a little before it is halved.
GENTLY = 2
# Of the rate that was set.
LOWEST = 1 / 16
# Requests a second from which an unlimited rate is lowered.
UNLIMITED_LOWERED = 20.0
# So that a more urgent waiter, or a pause, is noticed in time.
LONGEST_NAP = 0.25
SHORTEST_NAP = 0.005
# Seconds.
LATE = 0.1
# Of a longer time that is believed at once.
CREEP = 0.05


class Urgency(IntEnum):
    """Who goes first: a rotation that has issued, then rotations, then drift checks.

    A rotation that is stuck goes before others that are due, but never twice in a row while one of them waits.
    """

    CHECK = 0
    ROTATION = 1
    STUCK = 2
    PAST_ISSUE = 3


class Grant:
    """The requests that a rotation may make: the first soon, the others a round trip later. Room is kept for them."""

    def __init__(self, begins: float, slots: list[Slot]) -> None:
        self.at, self.slots = begins, slots
        # When the first of them was sent.
        self.began: float | None = None


class Shortest:
    """About the shortest that something took lately, in seconds; nothing as long as it is not known."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._known = False

    def saw(self, seconds: float) -> None:
        """It took so long this time."""
        longer = self._known and seconds > self.seconds
        self.seconds += (seconds - self.seconds) * (CREEP if longer else 1)
        self._known = True


class Rate:
    """Grants requests to all threads of the process: on average so many a second, and never more in any second.

    A rotation begins once its first request has room and the others will have it when they come, so that past issue
    none of them waits. While ECGrid answers 429 nobody sends before the time that it named, and the rate is lowered: by
    a tenth, since a rate that is just right is overstepped now and then, and to a half from the third time in a row. It
    doubles again in two minutes.
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
        self._window = Window(self._nominal or UNLIMITED_LOWERED)
        # To the first request; to the next ones.
        self._lead, self._trip = Shortest(), Shortest()

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

    def grant(self, requests: int, urgency: Urgency) -> Grant:
        """Blocks until a rotation of so many requests may begin; they are then drawn, one after the other."""
        grant = Grant(0.0, [])

        def take(now: float) -> float:
            first = self._lead.seconds
            offsets = [first, *[first + self._trip.seconds] * (requests - 1)]
            wait = self._pay(now, requests, offsets)
            if wait <= 0:
                grant.at, grant.slots = now, self._window.keep(now, offsets)
            return wait

        self._wait(take, urgency, None)
        return grant

    def give_back(self, grant: Grant) -> None:
        """What was not drawn of it is free for others."""
        with self._lock:
            self._window.free(grant.slots)
            grant.slots = []

    def draw(self, grant: Grant | None, urgency: Urgency, within: float) -> Slot | None:
        """Blocks until one request may be sent, which then counts as sent: a granted one, if any is left.

        None if that is later than `within` seconds from now. One that was granted waits for nobody, only for the end
        of a pause that ECGrid asked for.
        """
        with self._lock:
            slot = grant.slots.pop(0) if grant is not None and grant.slots else None
            if grant is not None and slot is not None:
                self._learn(grant)
        if grant is None or slot is None:
            slot = Slot(0.0)
            return slot if self._wait(self._sending(slot), urgency, within) else None
        if not self._wait(self._sending(slot, kept=True), urgency, within, counts=False):
            with self._lock:
                grant.slots.insert(0, slot)
            return None
        if grant.began is None:
            with self._lock:
                grant.began = self._clock()
                for other in grant.slots:
                    other.at = max(other.at, grant.began + self._trip.seconds)
        return slot

    def _learn(self, grant: Grant) -> None:
        now = self._clock()
        if grant.began is None:
            self._lead.saw(now - grant.at)
        else:
            self._trip.saw(now - grant.began)

    def reserve(self, requests: int, urgency: Urgency, within: float | None = None) -> bool:
        """Blocks until so many requests may be sent at once; False if that is later than `within` seconds from now."""

        def take(now: float) -> float:
            wait = self._pay(now, requests, [0.0] * requests)
            if wait <= 0:
                for slot in self._window.keep(now, [0.0] * requests):
                    slot.sent = True
            return wait

        return self._wait(take, urgency, within)

    def _sending(self, slot: Slot, *, kept: bool = False) -> Callable[[float], float]:
        def take(now: float) -> float:
            wait = self._window.wait_kept(now, slot) if kept else self._pay(now, 1, [0.0])
            if wait > 0 and self.per_second is not None:
                return wait
            self._window.send(slot, now)
            return 0.0

        return take

    def _pay(self, now: float, requests: int, offsets: list[float]) -> float:
        """Takes the time of so many requests, if they have room; else the seconds to wait at least."""
        rate = self.per_second
        if rate is None:
            self._free_at = now
            return 0.0
        self._window.change(rate)
        wait = max(self._free_at - now, self._window.wait(now, offsets))
        if wait <= 0:
            # Whoever wakes a little late does not move the times of all that come after.
            self._free_at = max(self._free_at, now - LATE) + requests / rate
        return wait

    def _wait(
        self,
        take: Callable[[float], float],
        urgency: Urgency,
        within: float | None,
        *,
        counts: bool = True,
    ) -> bool:
        """Blocks until `take` has what it wants; False if that would be too late. Only what `counts` stands in line."""
        began = self._clock()
        until = None if within is None else began + within
        with self._lock:
            self._number += 1
            ticket = (-urgency, self._number)
            self._waiting.append(ticket)
        try:
            while True:
                with self._lock:
                    wait = self._try(ticket, take, first=counts)
                if wait <= 0:
                    if counts and self._waited is not None:
                        self._waited(self._clock() - began)
                    return True
                if until is not None and self._clock() + wait > until:
                    return False
                self._sleep(max(SHORTEST_NAP, min(wait, LONGEST_NAP)))
        finally:
            with self._lock:
                self._waiting.remove(ticket)

    def _try(
        self, ticket: tuple[int, int], take: Callable[[float], float], *, first: bool
    ) -> float:
        """Takes it if it is this ticket's turn, or if it need not be the first, and then returns 0; else the wait."""
        now = self._clock()
        if now < self._paused_until:
            return self._paused_until - now
        if first and self._first() != ticket:
            return max(self._free_at - now, SHORTEST_NAP)
        wait = take(now)
        if wait <= 0 and first:
            self._stuck_went = ticket[0] == -Urgency.STUCK
        return wait

    def _first(self) -> tuple[int, int]:
        """Whose turn it is: of half the grants at most those that are stuck are the first."""
        others = [ticket for ticket in self._waiting if ticket[0] != -Urgency.STUCK]
        due = any(ticket[0] == -Urgency.ROTATION for ticket in others)
        return min(others if self._stuck_went and due else self._waiting)

    def heed(self, call: Callable[[], T], slot: Slot | None = None) -> T:
        """Makes one call, for which `slot` was drawn; if ECGrid finds it one too many, everybody slows down."""
        try:
            return call()
        except Transient as error:
            if error.kind == RATE_KIND:
                self.slow_down(error.retry_after)
            raise
        finally:
            if slot is not None:
                with self._lock:
                    self._window.answered(slot, self._clock())

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
