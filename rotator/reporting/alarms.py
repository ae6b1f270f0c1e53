"""Alarms: what a person must hear of, composed once and told to each receiver alike.

When each is told, and told again, is decided in `rotator.reporting.memory`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from rotator.reporting import runbook
from rotator.reporting.about import About

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
# In place of a policy: what concerns every one.
ALL = "(all)"


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
    about: About = field(default_factory=About)

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


def recovered(alarms: Sequence[Alarm], *, many: bool) -> Alarm:
    """Tells that all of this is over: of one policy, or one trouble of many."""
    first, policy = alarms[0], None if alarms[0].policy == ALL else alarms[0].policy
    kinds = ", ".join(dict.fromkeys(alarm.kind for alarm in alarms if alarm.kind))
    message = OVER[first.what] + (f" ({kinds})" if first.what == "failed" else "")
    if many or policy is not None:
        message = f"{'every policy' if many else policy} {message}"
    if many:
        return Alarm("recovered", None, message, kind=first.kind)
    kind = alarms[-1].kind
    about = About(run=first.about.run)
    return replace(first, what="recovered", policy=policy, message=message, kind=kind, about=about)


class Receiver(Protocol):
    """Who is told: Sentry, a webhook."""

    name: str

    def deliver(self, alarm: Alarm, until: Callable[[], float]) -> str | None:
        """Tells it; None once it was taken, else why not. Tries until `until()` (seconds, monotonic) at the latest."""
