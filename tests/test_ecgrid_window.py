"""The window over the requests to ECGrid, as arithmetic: no clock runs, every time is set."""

from __future__ import annotations

import heapq
from itertools import count

import pytest

from rotator.ecgrid.window import KEPT, SERVED, Slot, Window

RATE = 20.0
LONG = 10.0  # seconds in which rotations begin, one after the other
OFTEN = 1e-3  # seconds between two looks


class Fleet:
    """Rotations that begin as soon as they may: one request, and two more a round trip later.

    `singles`: other requests wait, too. `late`: all requests of a rotation come so much later than they might.
    """

    def __init__(self, trip: float, *, singles: bool = False, late: float = 0.0) -> None:
        self.window, self.trip, self.singles, self.late = Window(RATE), trip, singles, late
        self.sent: list[float] = []
        self.waits: list[float] = []
        self._coming: list[tuple[float, int, Slot]] = []
        self._number = count()
        self._now = 0.0

    def run(self) -> Fleet:
        """Until the time is over."""
        while self._now < LONG:
            self._send_what_has_come()
            offsets = [0.0, self.trip, self.trip]
            while self.window.wait(self._now, offsets) <= 0:
                for slot in self.window.keep(self._now, offsets):
                    at = slot.at + self.late
                    heapq.heappush(self._coming, (at, next(self._number), slot))
                self._send_what_has_come()
            while self.singles and self.window.wait(self._now, [0.0]) <= 0:
                self._send(self._now, self.window.keep(self._now, [0.0])[0])
            self._now += OFTEN
        return self

    def _send_what_has_come(self) -> None:
        while self._coming and self._coming[0][0] <= self._now:
            came, _, slot = heapq.heappop(self._coming)
            self._send(came, slot)

    def _send(self, came: float, slot: Slot) -> None:
        assert self.window.wait_kept(self._now, slot) <= 0, "a request that was promised room waits"
        self.waits.append(self._now - came)
        self.window.send(slot, self._now)
        self.window.answered(slot, self._now)
        self.sent.append(self._now)

    @property
    def most_in_a_second(self) -> int:
        """The most requests in any second."""
        return max(
            sum(at <= other < at + 1 - OFTEN / 2 for other in self.sent[number : number + 100])
            for number, at in enumerate(self.sent)
        )

    @property
    def per_second(self) -> float:
        """How many there were, without the first seconds."""
        return sum(2 <= at < LONG for at in self.sent) / (LONG - 2)


@pytest.mark.parametrize("trip", [0.0, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("late", [0.0, 0.04])
@pytest.mark.parametrize("singles", [False, True])
def test_no_second_has_more_than_the_rate(trip: float, late: float, *, singles: bool) -> None:
    """Twenty in any second, however long the round trip is and however late a request comes; and none of them waits."""
    fleet = Fleet(trip, singles=singles, late=late).run()
    assert fleet.most_in_a_second <= RATE
    assert max(fleet.waits) <= OFTEN


def test_a_rotation_begins_when_its_later_requests_will_have_room() -> None:
    """With eighteen sent there is room for one more, and for the next two only once the first ones are a second old."""
    window = Window(RATE)
    for at in (0.0,) * 18:
        window.send(window.keep(at, [0.0])[0], at)
    assert window.wait(0.5, [0.0]) == 0
    assert window.wait(0.5, [0.0, 0.1, 0.1]) > 0
    assert window.wait(0.95, [0.0, 0.1, 0.1]) == 0


@pytest.mark.parametrize(
    ("trip", "singles", "least"), [(0.1, False, 19.0), (0.0, True, 19.0), (0.0, False, 17.0)]
)
def test_the_rate_is_made_use_of(trip: float, least: float, *, singles: bool) -> None:
    """Nineteen of twenty, where a round trip takes a while, or where other requests wait; else whole rotations."""
    assert Fleet(trip, singles=singles).run().per_second >= least


@pytest.mark.parametrize(("answered", "counted"), [(0.03, 0.03), (0.4, SERVED), (None, SERVED)])
def test_a_request_counts_as_late_as_ecgrid_may_count_it(
    answered: float | None, counted: float
) -> None:
    """From its answer on, where that comes soon; else from a moment after it was sent."""
    window = Window(3.0)
    for slot in window.keep(0.0, [0.0] * 3):
        window.send(slot, 0.0)
        if answered is not None:
            window.answered(slot, answered)
    assert window.wait(0.5, [0.0]) == pytest.approx(0.5 + counted)


def test_room_that_is_not_used_lapses() -> None:
    """A rotation that failed before it sent anything holds nobody up for long."""
    window = Window(RATE)
    for _ in range(6):
        window.keep(0.0, [0.0] * 3)
    assert window.wait(KEPT - 0.1, [0.0] * 3) > 0
    assert window.wait(KEPT + 0.1, [0.0] * 3) == 0


def test_at_a_low_rate_the_requests_of_a_rotation_go_together() -> None:
    """Three at once and then none for two seconds, at one and a half a second."""
    window = Window(1.5)
    assert window.wait(0.0, [0.0] * 3) == 0
    for slot in window.keep(0.0, [0.0] * 3):
        window.send(slot, 0.0)
        window.answered(slot, 0.0)
    assert window.wait(0.0, [0.0]) == pytest.approx(2.0)
    assert window.wait(2.0, [0.0] * 3) == 0


def test_a_request_that_comes_early_goes_if_nobody_has_to_wait_for_it() -> None:
    """Else it waits until the instant from which room is kept for it, and no longer."""
    window = Window(3.0)
    early, late = window.keep(0.0, [0.5, 0.9])
    assert window.wait_kept(0.1, early) == 0
    window.keep(0.1, [0.0])
    for _ in range(3):
        window.send(window.keep(0.2, [0.0])[0], 0.2)
    assert window.wait_kept(0.2, late) == pytest.approx(0.7)
    assert window.wait_kept(0.9, late) == 0
