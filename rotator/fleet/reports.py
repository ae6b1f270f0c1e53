"""Where what happens to policies is told: metrics, alarms to Sentry and to the webhook, check-ins.

The log is not here: events go to `reporting.event` where they happen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING

from rotator import reporting
from rotator.ends import End
from rotator.errors import Failure, RotatorError
from rotator.fleet.standing import Answer, Board, row
from rotator.journal import Failed
from rotator.policy import Policy
from rotator.reporting import runbook
from rotator.reporting.alarms import Alarms, CheckIns, to_sentry
from rotator.reporting.notify import Notifier
from rotator.reporting.sinks import on_catch
from rotator.reporting.standing import Standing
from rotator.rotation import Result
from rotator.rotation.restraint import LIMIT
from rotator.rotation.right import BRAKED, MASS_DRIFT
from rotator.settings import Settings
from rotator.vault import Stored

if TYPE_CHECKING:  # a fifth of a second that only those who serve or keep metrics pay
    from rotator.reporting.metrics import Metrics

ALL = "(all)"  # in place of a policy: what concerns every one
TURNS = "(turns)"  # in place of a policy: looking round all of them
LAST_TRIES = 10.0  # seconds that a process which ends gives its notifications
ENDED = ("rotated", "repaired", "adopted")
HELD_BACK = (BRAKED, MASS_DRIFT)
BEGINS = {BRAKED: "fleet.braked", MASS_DRIFT: "fleet.mass_drift"}
IS_OVER = {BRAKED: "fleet.brake_over", MASS_DRIFT: "fleet.mass_drift_over"}
ENDING = "fleet.CredentialEnds"
Observer = Callable[[str, str, float], None]


def tick_failed(kind: str, message: str) -> None:
    """A look round all policies failed."""
    reporting.event("daemon.tick_failed", error=kind, message=message, runbook=runbook.link(kind))


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
        self.heed: Callable[[str, Stored | None], None] = lambda _policy, _stored: None
        self._held_back: dict[str, str] = {}  # by kind: why
        self._ending: set[str] = set()  # credentials of which the log says so
        self._not_retired: dict[
            str, tuple[str, str]
        ] = {}  # by policy: the kind of error, the message
        tells = [to_sentry]
        webhook = settings.notify.webhook
        self._notifier = None
        if webhook is not None:
            self._notifier = Notifier(webhook, settings.notify.secret, self._notified)
            tells.append(self._notifier.tell)
        self.alarms = Alarms(*tells)

    def _notified(self, delivered: bool, why: str) -> None:
        if self.metrics:
            self.metrics.notified(delivered)
        if not delivered:
            reporting.event(
                "daemon.notification_lost", message=f"the webhook did not take it: {why}"
            )

    # what happens

    def event(self, policy: str, name: str, fields: Mapping[str, object]) -> None:
        """An event of a rotation."""
        if self.metrics:
            self.metrics.event(name, policy, fields)
        if name == "rotation.failed" and fields.get("phase") == "retire":
            self._not_retired[policy] = (str(fields["error"]), str(fields["message"]))
        elif name == "rotation.past_limit":
            self.alarms.failed(policy, "issue", LIMIT, str(fields["message"]))

    def saw(self, policy: str, answer: Answer) -> None:
        """A record was read."""
        self.board.saw(policy, answer)
        if not isinstance(answer, Failure):
            self.heed(policy, answer)
        self.failed_before(policy, answer.record.failed if isinstance(answer, Stored) else None)

    def failed_before(self, policy: str, failed: Failed | None) -> None:
        """What a policy's record tells of its last failure, whoever met it."""
        if failed is not None:
            self.alarms.failed_before(policy, failed.phase, failed.kind)

    def result(self, result: Result, run: Mapping[str, object], *, again: bool = False) -> None:
        """What came of a policy; `run` tells which run it was. `again`: only its back-off was found not to be over."""
        if again:
            return
        name, error = result.policy, result.error
        kind = error["kind"] if error else None
        if self.metrics:
            self.metrics.outcome(name, result.outcome, result.duration_s, result.phase, kind)
        if result.outcome in ENDED:
            self.alarms.works(name)
        elif result.outcome == "retired":
            self.alarms.works(name, "retire")
        about = {
            **run,
            "user_id": result.user_id,
            "key_id": result.key_id,
            "duration_s": round(result.duration_s, 3),
        }
        debt = self._not_retired.pop(name, None)
        if error and error["kind"] in HELD_BACK:  # one alarm for all: see `held_back`
            return
        if error:
            self.alarms.failed(name, result.phase or "", error["kind"], error["message"], about)
        elif result.failed_retiring and debt:
            self.alarms.failed(name, "retire", *debt, about)

    def held_back(self, why: Mapping[str, str]) -> None:
        """What the fleet holds back now, and why, by kind of error: told once each, and when it is over."""
        with self._lock:
            before, self._held_back = self._held_back, dict(why)
        if self.metrics:
            self.metrics.held_back({kind: kind in why for kind in HELD_BACK})
        for kind in HELD_BACK:
            if kind in why and kind not in before:
                reporting.event(BEGINS[kind], message=why[kind], runbook=runbook.link(kind))
                self.alarms.failed(f"{ALL} {kind}", "issue", kind, why[kind])
            elif kind in before and kind not in why:
                reporting.event(IS_OVER[kind], message="issuing goes on")
                self.alarms.works(f"{ALL} {kind}")

    def ends(self, ends: list[End], now: datetime) -> None:
        """When the rotator's own credentials end: told once of each that is about to, and when it is replaced."""
        if self.metrics:
            self.metrics.credentials({end.name: end.at for end in ends})
        for end in (end for end in ends if not end.unknown):
            about = f"{ALL} {end.name}"
            if not end.is_near(now):
                self._ending.discard(end.name)
                self.alarms.works(about)
                continue
            message = (
                f"the rotator's own credential {end.name} {end.words(now)}; replace it before that"
            )
            if end.name not in self._ending:
                self._ending.add(end.name)
                link = runbook.link(ENDING)
                reporting.event("fleet.credential_ends", message=message, runbook=link)
            self.alarms.failed(about, "observe", ENDING, message)

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
            if (
                not self._serving
            ):  # a daemon's next turn may be better, and it counts and tells them
                self.alarms.failed(TURNS, "observe", error.kind, str(error))
                tick_failed(error.kind, str(error))
            raise
        finally:
            check_ins.end(well=well)
            if not self._serving:
                self.leave_textfile()

    # how it stands

    def stand(self, policies: list[Policy], now: datetime) -> Standing:
        """How these policies stand, as far as their records were read; tells what is overdue."""
        known = self.board.known(policies)
        rows = [row(policy, record, now) for policy, record in known]
        debts = {
            policy.name: len(record.retiring)
            for policy, record in known
            if record is not None and not isinstance(record, Failure)
        }
        standing = Standing(now, rows, debts)
        self.alarms.stand(rows)
        if self.metrics:
            self.metrics.stand(standing)
        return standing

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
            reporting.event("daemon.textfile_failed", message=what)

    def close(self) -> None:
        """Lets go of what is still to be told."""
        if self._notifier and not self._notifier.flush(LAST_TRIES):
            self._notified(False, "the process ends")
