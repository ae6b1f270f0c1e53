"""What is said of each outcome: one line in the log, and what a daemon meets at every turn not each time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from rotator import reporting
from rotator.fleet.reports import Reports
from rotator.reporting.about import About, Owner
from rotator.reporting.events import Fields
from rotator.rotation import Result, Run, rotation_of

# Seconds between Vault's clock and ours from which on it is reported.
CLOCK_SKEW = 300.0
# Seconds in which one and the same trouble of a policy is told once.
REPEAT = 900.0


def which(run: Run) -> About:
    """Which run it is, for every report of it, by its id, as in the history; and which rotation it is at."""
    attempt = run.sight.failing.attempts + 1 if run.sight.failing else 1
    rotation = rotation_of(run) or None
    return About(run=run.id, rotation=rotation, attempt=attempt, phase=run.phase)


class Voice:
    """Tells outcomes, each trouble once a quarter of an hour; `failing` are the policies whose last outcome was one."""

    def __init__(self, reports: Reports, boot: Callable[[], float]) -> None:
        self._reports, self._boot = reports, boot
        self.failing: set[str] = set()
        # Results are printed where the log is read: each is told once.
        self.printed = False
        # Policy -> the trouble told last, and when.
        self._told: dict[str, tuple[str, float]] = {}

    def event(self, run: Run, name: str, fields: Fields) -> None:
        """An event of a run; that it failed is told with its outcome, unless that is not the outcome."""
        failed = name == "rotation.failed"
        if failed and (self.printed or fields.get("phase") != "retire"):
            return
        if self.printed and name == "rotation.retired" and run.order.retire_now:
            return
        policy = run.policy.name
        owner = self._reports.alarms.owner_of(policy) if reporting.is_failure(name) else Owner()
        every = {"policy": policy, **owner.fields(), **which(run).fields(), **fields}
        reporting.event(name, **every)

    def tell(self, result: Result, run: Run | None = None, *, again: bool = False) -> None:
        """One line per outcome. `again`: a failure's back-off is not over, that is all."""
        phase, error = result.phase or "", result.error
        about = which(run) if run else About()
        self._reports.result(result, about, again=again)
        if error is None:
            self._well(result, about)
            return
        self.failing.add(result.policy)
        if self._is_news(result.policy, f"{phase} {error.kind}") and not self.printed:
            reporting.event(
                "rotation.failed",
                policy=result.policy,
                **self._reports.alarms.owner_of(result.policy).fields(),
                **about._replace(phase=phase).fields(),
                error=error.kind,
                message=error.message,
                warnings=list(result.warnings),
            )

    def _well(self, result: Result, about: About) -> None:
        self.failing.discard(result.policy)
        if result.outcome in ("not-due", "unchanged"):
            return
        if result.outcome != "busy":
            self._told.pop(result.policy, None)
        elif not self._is_news(result.policy, "busy"):
            return
        if self.printed:
            return
        reporting.event(
            "rotation.outcome",
            policy=result.policy,
            **about.fields(),
            outcome=result.outcome,
            key_id=result.key_id,
            previous_key_id=result.previous_key_id,
            duration_s=round(result.duration_s, 3),
            busy=result.busy,
            warnings=list(result.warnings),
        )

    def skew(self, seconds: float) -> None:
        """Says so if Vault's clock and ours differ by over five minutes."""
        if abs(seconds) > CLOCK_SKEW and self._is_news("", "clock"):
            reporting.event(
                "vault.clock_skew",
                message=f"Vault's clock and this machine's differ by {timedelta(seconds=round(abs(seconds)))}; "
                "Vault's counts for due times, this one's for TLS: set it right",
            )

    def _is_news(self, policy: str, trouble: str) -> bool:
        """Whether that is another trouble than the one before, or was told long ago."""
        last, told_at = self._told.get(policy, ("", 0.0))
        if last == trouble and self._boot() - told_at < REPEAT:
            return False
        self._told[policy] = (trouble, self._boot())
        return True
