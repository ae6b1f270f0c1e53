"""A sliding window over the requests to ECGrid: which were sent in the last while, and which have room kept for them.

Pure: every time is an argument, in seconds of one clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Requests of a rotation, which go together however low the rate is.
AT_ONCE = 3
# Seconds after sending by which ECGrid counts a request, or else soon after.
SERVED = 0.05
# Seconds for which room is kept for a request that is late.
KEPT = 2.0
# Seconds.
EXACT = 1e-6


@dataclass(eq=False)
class Slot:
    """Room for one request: from `at` on until it is sent, and then until the span that begins at `at` is over."""

    at: float
    sent: bool = False


class Window:
    """Never more than `most` requests in any `span` seconds.

    Room is kept from the first instant at which a request may come. One that comes then, or later, need not wait; what
    is free until then is for others.
    """

    def __init__(self, per_second: float) -> None:
        """See `change`."""
        self._slots: list[Slot] = []
        self.change(per_second)

    def change(self, per_second: float) -> None:
        """From here on as many as that rate gives in a second; at a low one, a rotation's in the time it takes."""
        self.most = max(AT_ONCE, int(per_second))
        self.span = self.most / per_second

    def wait(self, now: float, offsets: Sequence[float]) -> float:
        """Seconds at least until requests that come so long after have room, and nobody waits for them; 0: now."""
        self._forget(now)
        ends = [slot.at + self.span for slot in self._slots if slot.sent]
        kept = [max(slot.at, now) for slot in self._slots if not slot.sent]
        new = [now + offset for offset in offsets]
        if self._have_room(ends, kept, new):
            return 0.0
        frees = (end - one for end in ends for one in new)
        return min((wait for wait in frees if wait > EXACT), default=self.span)

    def _have_room(
        self, ends: Sequence[float], kept: Sequence[float], new: Sequence[float]
    ) -> bool:
        begins = [*kept, *new]
        if len(ends) + len(begins) <= self.most:
            return True
        most = max(self.most, len(new))
        return all(
            sum(end - moment > EXACT for end in ends) + sum(begin <= moment for begin in begins)
            <= most
            for moment in begins
            if moment >= min(new)
        )

    def keep(self, now: float, offsets: Sequence[float]) -> list[Slot]:
        """Keeps room for requests that come so long after now, or later."""
        slots = [Slot(now + offset) for offset in offsets]
        self._slots += slots
        return slots

    def free(self, slots: Sequence[Slot]) -> None:
        """Room that was kept is not wanted any more."""
        self._slots = [slot for slot in self._slots if slot not in slots]

    def wait_kept(self, now: float, slot: Slot) -> float:
        """Seconds until a request may be sent that room is kept for; 0 unless it comes early, or far too late."""
        self._forget(now)
        if slot not in self._slots:
            return self.wait(now, [0.0])
        if slot.at <= now:
            return 0.0
        self._slots.remove(slot)
        wait = min(self.wait(now, [0.0]), slot.at - now)
        self._slots.append(slot)
        return wait

    def send(self, slot: Slot, now: float) -> None:
        """The request is sent, and counts for as long as ECGrid may count it."""
        if slot not in self._slots:
            self._slots.append(slot)
        slot.at, slot.sent = now + SERVED, True

    def answered(self, slot: Slot, now: float) -> None:
        """The request was answered, so ECGrid has counted it by now."""
        slot.at = min(slot.at, now)

    def _forget(self, now: float) -> None:
        self._slots = [
            slot
            for slot in self._slots
            if slot.at + (self.span if slot.sent else KEPT) - now > EXACT
        ]
