"""Where what happens to policies is told: metrics, alarms to Sentry and to the webhook, check-ins.

The log is not here: events go to `reporting.event` where they happen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING

from rotator import reporting
from rotator.ends import End
from rotator.errors import Failure, RotatorError
from rotator.fleet.dispatch import Alarms
from rotator.fleet.pasts import Pasts
from rotator.fleet.standing import Answer, Board, row
from rotator.journal import Failed, Record
from rotator.policy import Policy
from rotator.replacing.restraint import LIMIT
from rotator.reporting import runbook
from rotator.reporting.about import About, Owner
from rotator.reporting.alarms import ALL, Receiver, What
from rotator.reporting.events import Fields
from rotator.reporting.rows import Row, Standing
from rotator.reporting.to_sentry import CheckIns, Sentry
from rotator.reporting.webhook import Webhook
from rotator.retiring.ending import RetirementFailed
from rotator.rotation import Result
from rotator.run.right import BRAKED, MASS_DRIFT
from rotator.secrecy.sinks import on_catch
from rotator.settings import Settings
from rotator.vault import Stored

# A fifth of a second that only those who serve or keep metrics pay.
if TYPE_CHECKING:
    from rotator.reporting.metrics import Metrics

# In place of a policy: looking round all of them.
TURNS = "(turns)"
HELD_BACK = (BRAKED, MASS_DRIFT)
ALARMS: dict[str, What] = {BRAKED: "braked", MASS_DRIFT: "mass-drift"}
BEGINS = {BRAKED: "fleet.braked", MASS_DRIFT: "fleet.mass_drift"}
IS_OVER = {BRAKED: "fleet.brake_over", MASS_DRIFT: "fleet.mass_drift_over"}
ENDING = "fleet.CredentialEnds"
Observer = Callable[[str, str, float], None]


class Reports:
    """The reports of one process."""

    def __init__(self, settings: Settings, *, serving: bool) -> None:
        """`serving`: others will ask for the metrics. Without it they are kept only for a textfile."""
        self._lock = threading.Lock()
        self._serving, self._textfile = serving, settings.metrics.textfile
        self.metrics: Metrics | None = None
        if serving or self._textfile:
            from rotator.reporting.metrics import Metrics

            self.metrics = Metrics()
            on_catch(self.metrics.leak_prevented)
        self.board = Board()
        self.pasts = Pasts() if serving and settings.http.listen else None
        self.heed: Callable[[str, Stored | None], None] = lambda _policy, _stored: None
        # By kind: why.
        self._held_back: dict[str, str] = {}
        # Credentials of which the log says so.
        self._ending: set[str] = set()
        # By policy: the kind of error, the message.
        self._not_retired: dict[str, tuple[str, str]] = {}
        receivers: list[Receiver] = [Sentry()] if settings.sentry.dsn else []
        webhook = settings.notify.webhook
        if webhook is not None:
            receivers.append(Webhook(webhook, settings.notify.secret, self._notified))
        self.alarms = Alarms(receivers)

    def _notified(self, delivered: bool, why: str) -> None:
        if self.metrics:
            self.metrics.notified(delivered)
        if not delivered:
            reporting.event("report.not_delivered", receiver="webhook", reason=why)

    # what happens

    def event(self, policy: str, name: str, fields: Fields) -> None:
        """An event of a rotation."""
        if self.metrics:
            self.metrics.event(name, policy, fields)
        if name == "rotation.failed" and fields.get("phase") == "retire":
            self._not_retired[policy] = (fields["error"], fields["message"])
        elif name == "rotation.hooks_failed":
            self.alarms.hooks_failed(policy, fields["error"], fields["message"])
        elif name == "rotation.hooks_ran":
            self.alarms.works(policy, "hooks")
        elif name == "rotation.past_limit":
            self.alarms.failed(policy, "issue", LIMIT, fields["message"])

    def saw(self, policy: str, answer: Answer) -> None:
        """A record was read."""
        self.board.saw(policy, answer)
        if not isinstance(answer, Failure):
            self.heed(policy, answer)
        self.failed_before(policy, answer.record.failed if isinstance(answer, Stored) else None)

    def failed_before(self, policy: str, failed: Failed | None) -> None:
        """What a policy's record tells of its last failure, whoever met it."""
        if failed is not None:
            self.alarms.failed_before(policy, failed.phase, failed.kind, failed.message)

    def result(self, result: Result, run: About, *, again: bool = False) -> None:
        """What came of a policy; `run` tells which run it was. `again`: only its back-off was found not to be over."""
        name, error = result.policy, result.error
        if self.metrics and not again:
            kind = error.kind if error else None
            self.metrics.outcome(name, result.outcome, result.duration_s, result.phase, kind)
        seconds = round(result.duration_s, 3)
        about = run._replace(user_id=result.user_id, key_id=result.key_id, duration_s=seconds)
        debt = self._not_retired.pop(name, None)
        # One alarm for all: see `held_back`.
        if error and error.kind in HELD_BACK:
            return
        if error:
            phase = result.phase or ""
            self.alarms.failed(name, phase, error.kind, error.message, about, again=again)
        elif result.failed_retiring:
            kind, message = debt or (RetirementFailed.kind, result.warnings[-1])
            self.alarms.failed(name, "retire", kind, message, about)
        elif result.begun and result.outcome != "busy":
            self.alarms.looked(name)

    def held_back(self, why: Mapping[str, str] | None) -> None:
        """What the fleet holds back now, and why, by kind of error (None: nobody knows): told, and when it is over."""
        if why is None:
            return
        with self._lock:
            before, self._held_back = self._held_back, dict(why)
        if self.metrics:
            self.metrics.held_back({kind: kind in why for kind in HELD_BACK})
        for kind in HELD_BACK:
            if kind in why:
                self.alarms.wrong(ALARMS[kind], why[kind], kind)
                if kind not in before:
                    reporting.event(BEGINS[kind], error=kind, message=why[kind])
                continue
            self.alarms.works(ALL, ALARMS[kind])
            if kind in before:
                reporting.event(IS_OVER[kind], message="issuing goes on")

    def ends(self, ends: list[End], now: datetime) -> None:
        """When the rotator's own credentials end: told once of each that is about to, and when it is replaced."""
        if self.metrics:
            self.metrics.credentials({end.name: end.at for end in ends})
        for end in (end for end in ends if not end.unknown):
            about = f"({end.name})"
            if not end.is_near(now):
                self._ending.discard(end.name)
                self.alarms.works(about, "credential")
                continue
            message = (
                f"the rotator's own credential {end.name} {end.words(now)}; replace it before that"
            )
            if end.name not in self._ending:
                self._ending.add(end.name)
                link = runbook.link(ENDING)
                reporting.event("fleet.credential_ends", message=message, runbook=link)
            self.alarms.wrong("credential", message, ENDING, about)

    @contextmanager
    def ticking(self, check_ins: CheckIns) -> Iterator[None]:
        """Around a look round all policies, which has failed if it raises."""
        check_ins.begin()
        well = False
        try:
            with self.metrics.tick() if self.metrics else nullcontext():
                yield
            well = True
            if not self._serving:
                self.alarms.works(TURNS)
        except RotatorError as error:
            # A daemon's next turn may be better, and it counts and tells them.
            if not self._serving:
                self.alarms.failed(TURNS, "observe", error.kind, str(error))
                reporting.event("run.failed", error=error.kind, message=str(error))
            raise
        finally:
            check_ins.end(well=well)
            if not self._serving:
                self.leave_textfile()

    # how it stands

    def stand(self, policies: list[Policy], now: datetime) -> Standing:
        """How these policies stand, as far as their records were read; tells what is overdue."""
        known = self.board.known(policies)
        rows = self.rows(known, now)
        for policy, record in known:
            if isinstance(record, Record) and record.failed is not None:
                failed = record.failed
                cause = (failed.phase, failed.kind, failed.message)
                self.alarms.failed(policy.name, *cause, again=True)
        debts = {
            policy.name: len(record.retiring)
            for policy, record in known
            if record is not None and not isinstance(record, Failure)
        }
        owners = {policy.name: Owner(policy.owner, policy.tags) for policy, _ in known}
        standing = Standing(now, rows, debts, owners)
        self.alarms.stand(rows)
        if self.metrics:
            self.metrics.stand(standing)
        return standing

    def rows(
        self, known: Iterable[tuple[Policy, Record | Failure | None]], now: datetime
    ) -> list[Row]:
        """The rows of `status`; why a policy fails whose record cannot keep that is known from its alarm."""
        failure = self.alarms.failure
        return [row(policy, record, now, failure(policy.name)) for policy, record in known]

    def leave_textfile(self) -> None:
        """Leaves the metrics for node_exporter, where that is wanted."""
        problem = None
        if self.metrics and self._textfile:
            try:
                self.metrics.write(self._textfile)
            except OSError as error:
                problem = type(error).__name__
        if problem:
            what = f"ROTATOR_METRICS__TEXTFILE cannot be written ({problem}): monitoring sees old numbers"
            reporting.event("report.textfile_failed", message=what)

    def close(self) -> None:
        """Tells what is still to be told."""
        self.alarms.close()
