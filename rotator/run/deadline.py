"""Patience: what is transient is tried again until the deadline, and no request is waited for longer than that.

The rules: the other side's own wish counts, if it is longer; no try begins after the deadline; and whoever was frozen
past it, and still has to clean up, is given it once more.

Keeps: never lost (1).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from rotator.errors import Transient
from rotator.run.needs import World

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0


class Patience:
    """How long one run goes on (boot clock, seconds)."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.started = world.clock.boot()
        self.deadline = self.started + world.deadline

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return self._world.clock.boot() > self.deadline

    def begin_anew(self) -> None:
        """What was waited for until now does not count."""
        self.deadline = self._world.clock.boot() + self._world.deadline

    def allow(self, seconds: float) -> None:
        """There is at least so much time from now."""
        self.deadline = max(self.deadline, self._world.clock.boot() + seconds)

    def __call__(self, call: Callable[[], T], *, until: float | None = None) -> T:
        """Calls, and calls again while that raises Transient, with back-off, jitter and the other side's own wish.

        Raises the last error once the next try would start after `until` (boot clock; default: the deadline).
        """
        clock, until = self._world.clock, self.deadline if until is None else until
        pause = FIRST_PAUSE
        while True:
            try:
                return call()
            except Transient as error:
                trouble = error
            wait = max(trouble.retry_after or 0.0, pause * random.uniform(0.5, 1.0))
            if clock.boot() + wait > until:
                raise trouble
            self._world.report("rotation.retry", error=trouble.kind, wait_s=round(wait, 2))
            clock.sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE)

    def within(self) -> float:
        """How long a request that changes nothing may take."""
        return max(1.0, min(self._world.timeout, self.deadline - self._world.clock.boot()))
