"""Alarms: what a person must hear of, composed once and told to Sentry and to the webhook alike.

When each is told, and told again, is decided in `rotator.reporting.told`. Here, too: the check-ins, from which Sentry
knows that a tick never happened.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from rotator.reporting import runbook

CHECK_IN_EVERY = 60.0  # seconds: what Sentry takes for a monitor, so not every turn of the daemon
MARGIN = 5  # minutes that a check-in may be late
LONGEST = 65  # minutes after which a tick that was begun counts as lost
SENTRY_WITHIN = 10.0  # seconds, for one event
LONGEST_TAG = 200  # letters that Sentry keeps of a tag

What = Literal["failed", "overdue", "hooks", "braked", "mass-drift", "credential", "recovered"]
SAID: dict[What, str] = {
    "failed": "rotation failed",
    "overdue": "key overdue",
    "hooks": "hooks failed after a rotation",
    "braked": "issuing goes one at a time",
    "mass-drift": "ECGrid refuses many published keys",
    "credential": "a credential of the rotator ends",
    "recovered": "works again",
}
OVER: dict[What, str] = {
    "failed": "works again after failing",
    "overdue": "is in time again",
    "hooks": "has its hooks run again",
    "braked": "issuing goes on",
    "mass-drift": "the published keys are accepted again",
    "credential": "the credential lives on",
}
ALL = "(all)"  # in place of a policy: what concerns every one


@dataclass(frozen=True)
class Alarm:
    """One thing to tell. `policy` is None where it concerns many: then `count` is how many; else the how-manieth day.

    "(turns)" and its like stand in place of a policy for what is wrong with the rotator itself.
    """

    what: What
    policy: str | None
    message: str
    phase: str | None = None
    kind: str | None = None
    count: int = 1
    owner: str | None = None
    tags: Sequence[str] = ()
    about: Mapping[str, Any] = field(
        default_factory=dict
    )  # key id, run, attempt, since when, when it is tried again

    @property
    def title(self) -> str:
        """The first line."""
        named = self.policy or ("many policies" if self.count > 1 else "all policies")
        is_no_rotation = named.startswith("(") and self.what == "failed"
        return f"{named}: {self.what if is_no_rotation else SAID[self.what]}"

    @property
    def next_step(self) -> str | None:
        """What a person should do; None if nothing."""
        return None if self.what == "recovered" else runbook.next_step(self._entry)

    @property
    def runbook(self) -> str:
        """Where to read more."""
        return runbook.link(self._entry)

    @property
    def _entry(self) -> str:
        return self.kind or "RotatorKeyOverdue"

    def of_many(self, count: int) -> Alarm:
        """The same, told of so many policies together; this one is the example."""
        message = (
            f"{count} policies up to now; `rotator status` lists them. One of them: {self.message}"
        )
        return Alarm(self.what, None, message, self.phase, self.kind, count)


def recovered(told: Sequence[Alarm], *, many: bool) -> Alarm:
    """Tells that all of this is over: of one policy, or one trouble of many."""
    first, policy = told[0], None if told[0].policy == ALL else told[0].policy
    kinds = ", ".join(dict.fromkeys(alarm.kind for alarm in told if alarm.kind))
    message = OVER[first.what] + (f" ({kinds})" if first.what == "failed" else "")
    if many or policy is not None:
        message = f"{'every policy' if many else policy} {message}"
    about = {name: value for name, value in first.about.items() if name == "run"}
    if many:
        return Alarm("recovered", None, message, kind=first.kind)
    kind = told[-1].kind
    return replace(first, what="recovered", policy=policy, message=message, kind=kind, about=about)


class Receiver(Protocol):
    """Who is told: Sentry, a webhook."""

    name: str

    def deliver(self, alarm: Alarm, until: Callable[[], float]) -> str | None:
        """Tells it; None once it was taken, else why not. Tries until `until()` (seconds, monotonic) at the latest."""


# Sentry


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
        "run": alarm.about.get("run"),
    }
    context = {
        "what_to_do": alarm.next_step,
        "runbook": alarm.runbook,
        "count": alarm.count,
        **alarm.about,
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
