"""The rate limiter, by a clock that only its own sleeping moves."""

from __future__ import annotations

import threading
import time
from queue import Queue

import pytest

from rotator.ecgrid.rate import LOWEST, RATE_KIND, RECOVERY, Rate, Urgency
from rotator.errors import Transient


class Clock:
    """A clock that sleeping moves on; `at` is the time in seconds."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.began = self.at

    def __call__(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        """Sleeps without waiting."""
        assert seconds > 0
        self.at += seconds

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return self.at - self.began


def rate_of(per_second: float | None) -> tuple[Rate, Clock]:
    """A limiter and its clock."""
    clock = Clock()
    return Rate(per_second, clock=clock, sleep=clock.sleep), clock


def test_requests_are_granted_at_the_rate() -> None:
    """The first at once; ten at two a second are over after four and a half."""
    rate, clock = rate_of(2.0)
    for _ in range(10):
        assert rate.reserve(1, Urgency.ROTATION)
    assert clock.passed == pytest.approx(4.5, abs=0.1)


def test_several_are_granted_at_once_and_paid_for_afterwards() -> None:
    """Three together need no wait; the next ones wait for all three."""
    rate, clock = rate_of(1.5)
    assert rate.reserve(3, Urgency.ROTATION)
    assert clock.passed == 0
    assert rate.reserve(3, Urgency.ROTATION)
    assert clock.passed == pytest.approx(2.0, abs=0.1)


def test_what_was_granted_waits_for_nobody_and_what_is_left_is_given_back() -> None:
    """Past issue, a request goes while others wait for their turn; what is not drawn is free for others at once."""
    rate, clock = rate_of(3.0)
    grant = rate.grant(3, Urgency.ROTATION)
    assert not rate.reserve(1, Urgency.PAST_ISSUE, within=0.5)
    assert rate.draw(grant, Urgency.PAST_ISSUE, 0.0)
    assert clock.passed == 0
    rate.give_back(grant)
    assert rate.reserve(2, Urgency.ROTATION, within=1.1)
    assert rate.draw(grant, Urgency.CHECK, 0.5) is None


@pytest.mark.parametrize("unlimited", [None, 0, 0.0])
def test_no_rate_means_no_limit(unlimited: float | None) -> None:
    """Nobody waits."""
    rate, clock = rate_of(unlimited)
    for _ in range(1000):
        rate.reserve(3, Urgency.CHECK)
    assert clock.passed == 0
    assert rate.per_second is None


def test_a_wait_that_is_too_long_is_not_begun() -> None:
    """False at once, and nothing is taken."""
    rate, clock = rate_of(1.0)
    rate.reserve(10, Urgency.ROTATION)
    assert not rate.reserve(1, Urgency.PAST_ISSUE, within=5.0)
    assert clock.passed == 0
    assert rate.reserve(1, Urgency.PAST_ISSUE, within=11.0)
    assert clock.passed == pytest.approx(10.0, abs=0.3)


def in_order(urgencies: list[Urgency]) -> list[Urgency]:
    """In which order those are served that wait together."""
    clock, served, waiting = Clock(), Queue[Urgency](), Queue[int]()

    def sleep(seconds: float) -> None:
        waiting.put(threading.get_ident())
        time.sleep(0.001)

    rate = Rate(1.0, clock=clock, sleep=sleep)
    rate.reserve(5, Urgency.ROTATION)

    def wait(urgency: Urgency) -> None:
        rate.reserve(1, urgency)
        served.put(urgency)

    threads = [threading.Thread(target=wait, args=(urgency,)) for urgency in urgencies]
    for thread in threads:
        thread.start()
    arrived = set[int]()
    while len(arrived) < len(threads):
        arrived.add(waiting.get(timeout=60))
    clock.at += 4.0
    # The clock moves on only when whoever was granted has said so: the threads' own order plays no part.
    order = []
    for _ in threads:
        clock.at += 1.0
        order.append(served.get(timeout=60))
    return order


def test_the_most_urgent_goes_first() -> None:
    """Past issue, what is stuck there, rotations, checks."""
    assert in_order(list(Urgency)) == sorted(Urgency, reverse=True)


def test_what_is_stuck_takes_half_at_the_most_while_others_are_due() -> None:
    """Never twice in a row before one of them; checks have no part in that."""
    stuck, due, check = Urgency.STUCK, Urgency.ROTATION, Urgency.CHECK
    waiting = [*[stuck] * 4, *[due] * 2, check]
    assert in_order(waiting) == [stuck, due, stuck, due, stuck, stuck, check]


def test_a_429_stops_everybody_for_as_long_as_it_says() -> None:
    """Also requests that were granted before, which take no new one."""
    rate, clock = rate_of(100.0)
    grant = rate.grant(3, Urgency.ROTATION)
    rate.slow_down(60.0)
    assert rate.pause_left() == 60.0
    assert rate.draw(grant, Urgency.PAST_ISSUE, 30.0) is None
    assert rate.draw(grant, Urgency.PAST_ISSUE, 100.0)
    assert len(grant.slots) == 2
    assert clock.passed == pytest.approx(60.0, abs=0.3)
    assert rate.pause_left() == 0


def test_after_a_429_the_rate_is_lowered_and_recovers() -> None:
    """A little, twice; by half if ECGrid says it again soon. Doubling in two minutes, never above what was set."""
    rate, clock = rate_of(8.0)
    rate.slow_down(0.0)
    assert rate.per_second == pytest.approx(7.2)
    clock.at += RECOVERY
    assert rate.per_second == pytest.approx(8.0)
    for lowered in (7.2, 6.48, 3.24, 1.62):
        rate.slow_down(0.0)
        assert rate.per_second == pytest.approx(lowered, rel=0.05)
        clock.at += 0.1
    clock.at += RECOVERY
    assert rate.per_second == pytest.approx(3.24, rel=0.05)
    clock.at += RECOVERY * 100
    assert rate.per_second == pytest.approx(8.0)


def test_answers_to_requests_that_were_under_way_together_count_once() -> None:
    """Eight 429 at one time are one overstepping; one after the other lower the rate further, though not to nothing."""
    rate, clock = rate_of(8.0)
    for _ in range(8):
        rate.slow_down(1.0)
    assert rate.per_second == pytest.approx(7.2)
    for _ in range(50):
        clock.at += 1.0
        rate.slow_down(1.0)
    assert rate.per_second == pytest.approx(8.0 * LOWEST, rel=0.05)


def test_an_unlimited_rate_is_limited_for_a_while() -> None:
    """After a 429 it has a limit, which goes away again."""
    rate, clock = rate_of(None)
    rate.slow_down(None)
    assert rate.per_second is not None
    clock.at += RECOVERY * 2
    assert rate.per_second is None


def test_only_a_429_slows_down() -> None:
    """Other errors pass by, and so does what the call returns."""
    rate, _ = rate_of(8.0)

    def fail(kind: str) -> None:
        raise Transient("made up", kind=kind, retry_after=3.0)

    with pytest.raises(Transient):
        rate.heed(lambda: fail("ecgrid.InternalError"))
    assert (rate.per_second, rate.heed(lambda: 5)) == (8.0, 5)
    with pytest.raises(Transient):
        rate.heed(lambda: fail(RATE_KIND))
    assert rate.per_second == pytest.approx(7.2)
    assert rate.pause_left() == pytest.approx(3.0)


def test_no_pause_lasts_longer_than_five_minutes() -> None:
    """Whatever ECGrid wishes for."""
    rate, _ = rate_of(8.0)
    rate.slow_down(1e9)
    assert rate.pause_left() == 300.0
