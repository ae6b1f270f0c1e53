"""Waiting for Vault where nothing can be done without it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rotator import reporting
from rotator.errors import Transient

T = TypeVar("T")
# What for, and for how many seconds; None: no more.
Waits = Callable[[str | None, float], None]
# Seconds.
PAUSE = 1.0


def outlast(
    call: Callable[[], T],
    left: Callable[[], float],
    stopping: Callable[[], bool],
    waits: Waits,
) -> T:
    """Calls again while that raises Transient, which is told once; raises the last one when no seconds are left."""
    last_kind = ""
    try:
        while True:
            try:
                return call()
            except Transient as error:
                if stopping() or left() < 0:
                    raise
                if error.kind != last_kind:
                    reporting.event("fleet.waiting", error=error.kind, message=str(error))
                last_kind = error.kind
                waits(error.kind, left())
            time.sleep(PAUSE)
    finally:
        waits(None, 0.0)
