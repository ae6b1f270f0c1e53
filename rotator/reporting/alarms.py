"""Alarms: what a person must hear of, composed once and told to Sentry and to the webhook alike.

Failed, overdue, recovered. A failure that repeats is one alarm, told again now and then with a count; one and the same
trouble of many policies is one alarm as well. And the check-ins, from which Sentry knows that a tick never happened.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

from rotator.reporting import runbook
from rotator.reporting.standing import is_too_old

AGAIN = 4 * 3600.0  # seconds after which an alarm that goes on is told again
MANY = 20  # policies with one trouble that are told one by one; more are told together
CHECK_IN_EVERY = 60.0  # seconds: what Sentry takes for a monitor, so not every turn of the daemon
MARGIN = 5  # minutes that a check-in may be late
LONGEST = 65  # minutes after which a tick that was begun counts as lost

What = Literal["failed", "overdue", "recovered"]
SAID = {
    "failed": "rotation failed",
    "overdue": "key overdue",
    "recovered": "works again",
}


@dataclass(frozen=True)
class Alarm:
    """One thing to tell. `policy` is None where it concerns many; `count` is how often it happened up to now."""

    what: What
    policy: str | None
    message: str
    phase: str | None = None
    kind: str | None = None
    count: int = 1
    about: Mapping[str, Any] = field(
        default_factory=dict
    )  # key id, run, attempt, when it is tried again

    @property
    def title(self) -> str:
        """The first line."""
        named = self.policy or "many policies"
        # In place of a policy, "(turns)" and its like name what concerns all of them.
        return f"{named}: {self.what if named.startswith('(') else SAID[self.what]}"

    @property
    def next_step(self) -> str | None:
        """What a person should do; None if nothing."""
        if self.what == "recovered":
            return None
        return runbook.next_step(self.kind) if self.kind else OVERDUE_STEP

    @property
    def runbook(self) -> str:
        """Where to read more."""
        return runbook.link(self.kind or "RotatorKeyOverdue")


OVERDUE_STEP = (
    "See `rotator status NAME` for what keeps it from rotating (a freeze, a manual schedule, a rotator that does not "
    "run), then `rotator rotate NAME`."
)
Tell = Callable[[Alarm], None]
Trouble = tuple[What, str | None, str | None]  # what, phase, kind
NEVER = float("-inf")


class Alarms:
    """Decides what is told, and how often. Safe for use by many threads; telling must not block."""

    def __init__(self, *tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        """Each `tell` is given every alarm; `clock` counts seconds."""
        self._tell, self._clock = tell, clock
        self._lock = threading.Lock()
        self._going_on: dict[str, dict[Trouble, _Going]] = {}  # by policy
        self._shared: dict[tuple[What, str | None], _Shared] = {}  # by what, and kind of error

    def failed(
        self,
        policy: str,
        phase: str,
        kind: str,
        message: str,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """A rotation failed. Not for a tick that only found its back-off not over: that is no further failure."""
        self._happened(Alarm("failed", policy, message, phase, kind, about=about or {}))

    def failed_before(self, policy: str, phase: str, kind: str) -> None:
        """A policy was failing when this process first saw it: that was told by another; its recovery was not."""
        with self._lock:
            trouble: Trouble = ("failed", phase, kind)
            self._going_on.setdefault(policy, {}).setdefault(trouble, _Going(told_at=NEVER))

    def stand(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """How policies stand, as `status --json` shows them: tells which became overdue, and which are so no more."""
        for row in rows:
            policy = str(row["policy"])
            if is_too_old(row):
                self._happened(_overdue(policy, row["key_age_s"], row["max_age_s"]))
            elif (
                row["key_age_s"] is not None
            ):  # else its record cannot be read, and nothing is known
                self._over(policy, "overdue")

    def works(self, policy: str, phase: str | None = None) -> None:
        """A rotation of that policy succeeded; or, with `phase`, only that phase did."""
        self._over(policy, "failed", phase)

    def _happened(self, alarm: Alarm) -> None:
        policy, now = alarm.policy or "", self._clock()
        with self._lock:
            trouble: Trouble = (alarm.what, alarm.phase, alarm.kind)
            going = self._going_on.setdefault(policy, {}).setdefault(trouble, _Going())
            going.count += 1
            shared = self._shared.setdefault((alarm.what, alarm.kind), _Shared())
            shared.policies.add(policy)
            state: _Going | _Shared = going
            told = replace(alarm, count=going.count)
            if going.told_at is None and len(shared.policies) > MANY:
                state, told = shared, _together(alarm, len(shared.policies))
            if state.told_at is not None and now - state.told_at < AGAIN:
                return
            state.told_at = now
        self._say([told])

    def _over(self, policy: str, what: What, phase: str | None = None) -> None:
        told = []
        with self._lock:
            troubles = self._going_on.get(policy, {})
            for trouble in [t for t in troubles if t[0] == what and phase in (None, t[1])]:
                kind = trouble[2]
                if troubles.pop(trouble).told_at is not None:
                    told = [Alarm("recovered", policy, f"{policy} {_again(what, kind)}")]
                told += self._left(policy, what, kind)
            if not troubles:
                self._going_on.pop(policy, None)
        self._say(told)

    def _left(self, policy: str, what: What, kind: str | None) -> list[Alarm]:
        """Takes a policy out of a trouble that many had; the last one to leave ends what was told of them together."""
        shared = self._shared.get((what, kind))
        if shared is None:
            return []
        shared.policies.discard(policy)
        if shared.policies:
            return []
        del self._shared[what, kind]
        if shared.told_at is None:
            return []
        return [Alarm("recovered", None, f"every policy {_again(what, kind)}")]

    def _say(self, alarms: list[Alarm]) -> None:
        for alarm in alarms:
            for tell in self._tell:
                tell(alarm)


@dataclass
class _Going:
    """A trouble of one policy that goes on: how often it happened, and when it was told."""

    count: int = 0
    told_at: float | None = None


@dataclass
class _Shared:
    """A trouble that several policies have, and when it was told of them together."""

    policies: set[str] = field(default_factory=set)
    told_at: float | None = None


def _overdue(policy: str, age_s: float, max_age_s: float) -> Alarm:
    age, most = timedelta(seconds=round(age_s)), timedelta(seconds=round(max_age_s))
    message = f"the published key is {age} old; at most {most} is allowed"
    return Alarm("overdue", policy, message, about={"key_age_s": age_s, "max_age_s": max_age_s})


def _together(alarm: Alarm, count: int) -> Alarm:
    message = (
        f"{count} policies up to now; `rotator status` lists them. The last one: {alarm.message}"
    )
    return Alarm(alarm.what, None, message, alarm.phase, alarm.kind, count)


def _again(what: What, kind: str | None) -> str:
    return f"works again after failing ({kind})" if what == "failed" else "is in time again"


# Sentry

_LEVELS: dict[What, Literal["error", "info"]] = {
    "failed": "error",
    "overdue": "error",
    "recovered": "info",
}


def to_sentry(alarm: Alarm) -> None:
    """One event, which Sentry groups with others of the same policy, phase and kind. Does nothing without a DSN."""
    if "sentry_sdk" not in sys.modules:
        return
    import sentry_sdk

    tags = {"policy": alarm.policy, "phase": alarm.phase, "kind": alarm.kind, "alarm": alarm.what}
    context = {
        "what_to_do": alarm.next_step,
        "runbook": alarm.runbook,
        "count": alarm.count,
        **alarm.about,
    }
    sentry_sdk.capture_event(
        {
            "message": f"{alarm.title}: {alarm.message}",
            "level": _LEVELS[alarm.what],
            "logger": "rotator",
            "fingerprint": [
                "rotator", alarm.what, alarm.policy or "many policies", alarm.phase or "-", alarm.kind or "-",
            ],
            "tags": {name: value for name, value in tags.items() if value},
            "contexts": {"rotation": {name: v for name, v in context.items() if v is not None}},
        }
    )  # fmt: skip


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
