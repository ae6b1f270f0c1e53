"""The daemon: APScheduler wakes the fleet. What is due is never known here, only that it is time to look."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from rotator import reporting
from rotator.errors import RotatorError
from rotator.fleet import Fleet

TICK = 10  # seconds


def serve(fleet: Fleet, shard: tuple[int, int] | None) -> None:
    """Ticks until SIGTERM or SIGINT; rotations past issue are finished first. Never ends by itself."""
    stop = threading.Event()

    def told(_number: int, _frame: FrameType | None) -> None:
        fleet.stopping.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    scheduler = BackgroundScheduler(
        timezone="UTC",
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
    )
    scheduler.add_job(
        lambda: _tick(fleet, shard), IntervalTrigger(seconds=TICK, timezone="UTC"), id="tick"
    )
    scheduler.add_job(lambda: _tick(fleet, shard), id="first tick")
    scheduler.start()
    reporting.event("daemon.started", policies=len(fleet.policies), tick_s=TICK)
    stop.wait()
    reporting.event("daemon.stopping")
    scheduler.shutdown(wait=True)


def _tick(fleet: Fleet, shard: tuple[int, int] | None) -> None:
    """One tick; a job that raised would have its exception logged by the scheduler, so none may."""
    try:
        fleet.tick(shard)
        fleet.server.refresh()
    except RotatorError as error:
        reporting.event("daemon.tick_failed", error=error.kind, message=str(error))
    except Exception as error:  # noqa: BLE001 - the loop must go on; the text may quote anything
        reporting.event("daemon.tick_failed", error=type(error).__name__)
