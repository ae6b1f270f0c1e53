"""What is told to Sentry: alarms, a catch of the net, and check-ins, from which it knows that a tick never happened.

The SDK, in `rotator.reporting.sentry`, is loaded only where Sentry is configured: it takes a fifth of a second.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from rotator import __version__
from rotator.reporting.alarms import Alarm
from rotator.reporting.log import event
from rotator.secrecy.sinks import on_catch

# Seconds: what Sentry takes for a monitor, so not every turn of the daemon.
CHECK_IN_EVERY = 60.0
# Minutes that a check-in may be late.
MARGIN = 5
# Minutes after which a tick that was begun counts as lost.
LONGEST = 65
# Seconds, for one event.
SENTRY_WITHIN = 10.0
# Letters that Sentry keeps of a tag.
LONGEST_TAG = 200
_starting = threading.Lock()
_runs = threading.Event()


def start_sentry(dsn: str | None, environment: str | None, release: str | None) -> None:
    """Starts Sentry with nothing collected by itself: no locals, source, breadcrumbs, argv, headers or tracing."""
    if not dsn:
        return
    from rotator.reporting import sentry

    with _starting:
        sentry.start(
            dsn,
            environment,
            release or f"rotator@{__version__}",
            lambda reason: event("report.not_delivered", receiver="sentry", reason=reason),
        )
        _runs.set()


def flush(seconds: float = 15.0) -> None:
    """Waits until what was reported has been sent, at most so long."""
    if _runs.is_set():
        from rotator.reporting import sentry

        sentry.flush(seconds)


def _caught(place: str) -> None:
    """The net caught a value: the log says so, and Sentry is told."""
    event("leak.prevented", place=place)
    if _runs.is_set():
        from rotator.reporting import sentry

        words = f"a secret was about to be shown in: {place}"
        sentry.send(words, ["rotator", "leak.prevented", place], {})


on_catch(_caught)


class Sentry:
    """Takes an alarm as one event, which it groups with others of the same policy, phase and kind."""

    name = "sentry"

    def deliver(self, alarm: Alarm, until: Callable[[], float]) -> str | None:
        """See `Receiver.deliver`; it is tried once."""
        from rotator.reporting import sentry

        return sentry.deliver(_event(alarm), min(SENTRY_WITHIN, until() - time.monotonic()))


def _event(alarm: Alarm) -> dict[str, Any]:
    tags = {
        "policy": alarm.policy,
        "phase": alarm.phase,
        "kind": alarm.kind,
        "alarm": alarm.what,
        "owner": alarm.owner,
        "tags": ",".join(alarm.tags),
        "run": alarm.about.run,
    }
    context = {
        "what_to_do": alarm.next_step,
        "runbook": alarm.runbook,
        "count": alarm.count,
        **alarm.about.fields(),
    }
    return {
        "message": f"{alarm.title}: {alarm.message}",
        "level": "info" if alarm.what == "recovered" else "error",
        "logger": "rotator",
        "fingerprint": [
            "rotator", alarm.what, alarm.policy or "many policies", alarm.phase or "-", alarm.kind or "-",
        ],
        "tags": {name: str(value)[:LONGEST_TAG] for name, value in tags.items() if value},
        "contexts": {"rotation": {name: v for name, v in context.items() if v is not None}},
    }  # fmt: skip


class CheckIns:
    """Tells Sentry's cron monitor that ticks happen: one pair of check-ins for a tick, at most one pair a minute.

    A tick that is begun and never ends leaves its check-in open; one that never begins is missed. Both alarm.
    """

    def __init__(
        self,
        slug: str,
        schedule: str | int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`schedule` makes the monitor: a crontab in UTC, or every so many minutes; None leaves Sentry's as it is."""
        self._slug, self._clock = slug, clock
        self._last = float("-inf")
        self._open: tuple[str | None, float] | None = None
        self._monitor = None if schedule is None else _monitor(schedule)

    def begin(self) -> None:
        """A tick begins."""
        now = self._clock()
        if "sentry_sdk" not in sys.modules or now - self._last < CHECK_IN_EVERY:
            return
        self._last = now
        self._open = (self._capture(None, "in_progress", None), now)

    def end(self, *, well: bool) -> None:
        """The tick that began has ended: well, or not."""
        if self._open is None:
            return
        (number, began), self._open = self._open, None
        self._capture(number, "ok" if well else "error", self._clock() - began)

    def _capture(self, number: str | None, status: str, duration: float | None) -> str | None:
        from sentry_sdk.crons import capture_checkin

        return capture_checkin(
            monitor_slug=self._slug,
            check_in_id=number,
            status=status,
            duration=duration,
            monitor_config=self._monitor,  # type: ignore[arg-type]  # its type knows literals only
        )


def slug(mode: str, shard: tuple[int, int] | None) -> str:
    """The monitor of a way of running; each shard has its own, so that one that is missing is noticed."""
    return mode if shard is None else f"{mode}-{shard[0]}-of-{shard[1]}"


def _monitor(schedule: str | int) -> dict[str, Any]:
    when: dict[str, Any] = {"type": "crontab", "value": schedule}
    if isinstance(schedule, int):
        when = {"type": "interval", "value": schedule, "unit": "minute"}
    return {
        "schedule": when,
        "timezone": "UTC",
        "checkin_margin": MARGIN,
        "max_runtime": LONGEST,
        "failure_issue_threshold": 1,
        "recovery_threshold": 1,
    }
