"""Stops issuing while ECGrid fails for everyone: going on would only mint keys whose answers get lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rotator.rotation import Result

THRESHOLD = 5  # policies in a row
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0  # seconds until one policy is tried again
REACHED = ("rotated", "adopted", "repaired")


class Breaker:
    """Opens when so many policies in a row failed by ECGrid's transient errors; one that succeeds closes it."""

    def __init__(self, clock: Callable[[], float], tell: Callable[[str, str], None]) -> None:
        """`clock` counts seconds; `tell` is given an event's name and a text for a person."""
        self._clock, self._tell = clock, tell
        self._lock = threading.Lock()
        self._failed: dict[str, str] = {}  # policy -> kind of error
        self._pause = 0.0
        self._again_at = 0.0

    @property
    def why(self) -> str | None:
        """What is wrong while it is open, in words; else None."""
        with self._lock:
            return self._why() if self._pause else None

    def _why(self) -> str:
        kind = next(reversed(self._failed.values()), "ecgrid.Error")
        return (
            f"ECGrid failed for {len(self._failed)} policies in a row (last: {kind}): "
            "nothing is issued until one works"
        )

    def allows(self) -> bool:
        """Whether a policy may begin; while open, one may after each pause, and tells whether ECGrid is back."""
        with self._lock:
            now = self._clock()
            if not self._pause:
                return True
            if now < self._again_at:
                return False
            self._again_at = now + self._pause
            return True

    def saw(self, result: Result) -> None:
        """Counts what a rotation came to."""
        kind = result.error["kind"] if result.error else ""
        said = None
        with self._lock:
            if result.transient and kind.startswith("ecgrid."):
                said = self._failure(result.policy, kind)
            elif result.outcome in REACHED or kind.startswith("ecgrid."):
                said = self._success()
        if said is not None:
            self._tell(*said)

    def _failure(self, policy: str, kind: str) -> tuple[str, str] | None:
        self._failed.pop(policy, None)
        self._failed[policy] = kind
        if self._pause:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif len(self._failed) >= THRESHOLD:
            self._pause = FIRST_PAUSE
        else:
            return None
        self._again_at = self._clock() + self._pause
        return "fleet.breaker_open", f"{self._why()}; tried again in {self._pause:.0f} s"

    def _success(self) -> tuple[str, str] | None:
        self._failed.clear()
        was_open, self._pause = self._pause > 0, 0.0
        return ("fleet.breaker_closed", "ECGrid works again: issuing goes on") if was_open else None
