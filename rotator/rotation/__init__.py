"""The rotation of one policy: `tend` does what an order asks for and says what came of it.

The rules: whatever goes wrong is this policy's result, and no other's; each failure is in the record with its back-off,
if Vault lets us, and the claim is given back with it; a rotation for which something may have been issued stays open.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rotator.errors import Failure, FenceLost, HeldBack, RotatorError, Transient
from rotator.journal import Debt, changes
from rotator.policy import Policy
from rotator.rotation import due, evidence, previous, retiring, trying
from rotator.rotation.beginning import Busy, Stopped, Waits
from rotator.rotation.drift import Check, compare
from rotator.rotation.due import Order
from rotator.rotation.ending import RetirementFailed
from rotator.rotation.evidence import rotation_of
from rotator.rotation.hand import is_counted, may_have_asked
from rotator.rotation.page import rotate
from rotator.rotation.run import Run
from rotator.rotation.world import Clock, Learnt, Report, World
from rotator.secrecy.sinks import scrub

__all__ = [
    "Busy",
    "Check",
    "Clock",
    "Learnt",
    "Order",
    "Report",
    "Result",
    "Run",
    "World",
    "compare",
    "faulty",
    "rotation_of",
    "tend",
    "would",
]

STOPPED = "stopped"  # in the history: the process was told to stop
LAST_WORDS = 2.0  # seconds beyond the deadline for recording a failure


@dataclass
class Result:
    """What a run did to one policy: the object of the `results` list of `--json`."""

    policy: str
    outcome: str
    user_id: int | None = None
    key_id: int | None = None
    previous_key_id: int | None = None
    previous_key: str | None = None  # what this account does with a replaced key
    previous_key_until: datetime | None = None  # when the replaced key is to end
    published: list[dict[str, Any]] = field(default_factory=list)
    started_at: datetime | None = None
    duration_s: float = 0.0
    phase: str | None = None
    error: dict[str, str] | None = None
    warnings: list[str] = field(default_factory=list)
    failed_retiring: bool = False  # rotated, but a key is not retired: exit 1
    busy: str | None = None
    transient: bool = False  # failed by what may pass by itself
    stopped: bool = False  # not done, or not to its end: the process was told to stop
    begun: bool = True  # False: not even looked at

    @property
    def bad(self) -> bool:
        """Whether this result makes the command's exit code 1."""
        return self.outcome == "failed" or self.failed_retiring

    def as_json(self) -> dict[str, Any]:
        """The result as `--json` shows it."""
        return {
            "policy": self.policy,
            "outcome": self.outcome,
            "user_id": self.user_id,
            "key_id": self.key_id,
            "previous_key_id": self.previous_key_id,
            "previous_key": self.previous_key,
            "previous_key_until": _instant(self.previous_key_until),
            "published": self.published,
            "started_at": _instant(self.started_at),
            "duration_s": round(self.duration_s, 3),
            "phase": self.phase,
            "error": self.error,
            "warnings": self.warnings,
        }


def _instant(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None


def tend(run: Run) -> Result:
    """Does what the run's order asks for; never raises what belongs to one policy alone.

    A failure is recorded, with its back-off, the claim is given back, and the result says `failed`.
    """
    started = run.world.clock.boot()
    try:
        result = _tended(run)
    except Exception as fault:  # noqa: BLE001 - also of what records and tells a failure
        result = faulty(run.policy, run.phase, fault)
    result.duration_s = run.world.clock.boot() - started
    result.started_at = run.now() - timedelta(seconds=result.duration_s)
    return result


def _tended(run: Run) -> Result:
    """What came of the run, with its failure recorded."""
    try:
        taken = rotate(run)
        return _success(run, retired=any(step.do is retiring.retire for step in taken))
    except Busy as busy:
        return _busy(run, busy)
    except Stopped as why:
        _close_unissued(run, STOPPED)
        result = _result(run, run.outcome.word or "unchanged")
        result.stopped, result.begun = run.world.stopping(), False
        if not result.stopped:
            result.outcome = "not-due"
        result.warnings.append(str(why))
        return result
    except RotatorError as error:
        return _failure(run, error)
    except Exception as fault:  # noqa: BLE001 - a fault of this program must not end the other policies' rotations
        return _failure(run, _told(fault))


def faulty(policy: Policy, phase: str, fault: Exception) -> Result:
    """The result of a policy where something went wrong that nobody expected: its own, and no other's."""
    error = fault if isinstance(fault, RotatorError) else _told(fault)
    told = {"kind": error.kind, "message": str(error)}
    return Result(policy.name, "failed", phase=phase, error=told)


def _told(fault: Exception) -> Failure:
    """Our words for an exception that nobody expected: its class and place; its text may quote anything."""
    place = traceback.extract_tb(fault.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return Failure(
        f"{type(fault).__name__} at {where}: a fault of rotator, please report it",
        kind="rotator.Fault",
    )


def _result(run: Run, outcome: str) -> Result:
    result = Result(run.policy.name, outcome, warnings=run.outcome.warnings)
    if run.sight.stored is not None:
        record = run.sight.stored.record
        told = previous.told(run.policy, record)
        result.previous_key, result.previous_key_until = (
            told["previous_key"],
            told["previous_key_until"],
        )
        if record.current is not None:
            result.user_id, result.key_id = record.current.user_id, record.current.key_id
        settled = record.settled()
        if outcome == "retired":
            result.key_id = run.outcome.ended[0]
        elif run.outcome.word is not None and settled is not None:
            result.previous_key_id = settled.previous_key_id
    result.published = [
        {"mount": mount, "path": path, "version": version}
        for (mount, path), version in run.outcome.versions.items()
    ]
    return result


def _busy(run: Run, busy: Busy) -> Result:
    result = _result(run, "busy")
    result.busy = str(busy)
    result.warnings.append(result.busy)
    return result


def _success(run: Run, *, retired: bool) -> Result:
    quiet = "not-due" if run.order.what == "schedule" else "unchanged"
    hold = due.holding_back(run.record, run.order, run.now())
    if hold is not None and run.order.what == "demand":
        run.warn(f"{due.told(hold)}: `rotator rotate {run.policy.name}` rotates it all the same")
    result = _result(run, run.outcome.word or quiet)
    lacking = [] if run.claim.others else due.lacking(run.policy, run.record)
    missing = ", ".join(f"{to.mount}/{to.path}" for to in lacking)
    if missing:
        result.outcome, result.phase = "failed", "publish"
        message = f"still without the key: {missing}; every tick tries again, and nothing is retired until then"
        result.error = {"kind": "vault.DestinationMissing", "message": message}
    elif run.order.retire_now and not retired and hold is None:
        result.failed_retiring = True
        result.warnings.append(
            "another run holds the claim: the replaced keys are not retired; give the command again"
        )
    elif unpaid := run.record.unpaid():
        _not_retired(result, unpaid)
    return result


def _not_retired(result: Result, debt: Debt) -> None:
    """A key that could not be retired is a failure of every run until it is."""
    message = f"key {debt.key_id} is not retired (tried again at {debt.due_at:%Y-%m-%dT%H:%M:%SZ}): {debt.waits}"
    if result.outcome in ("not-due", "unchanged"):
        result.outcome, result.phase = "failed", "retire"
        result.error = {"kind": RetirementFailed.kind, "message": message}
    else:
        result.failed_retiring = True
        result.warnings.append(message)


def _failure(run: Run, error: RotatorError) -> Result:
    """The result of a failure, which is recorded first, if Vault lets us."""
    waits = isinstance(error, Waits)
    _record_failure(run, error)
    if run.phase == "retire" and run.outcome.word is not None:
        result = _result(run, run.outcome.word)
        result.failed_retiring = True
        result.warnings.append(str(error))
    else:
        result = _failed_result(run, error)
    run.world.report(
        "rotation.failed",
        policy=run.policy.name,
        phase=result.phase or run.phase,
        error=error.kind,
        message=str(error),
        waits=waits,
    )
    return result


def _failed_result(run: Run, error: RotatorError) -> Result:
    result = _result(run, "failed")
    result.phase = error.failed.phase if isinstance(error, Waits) else run.phase
    result.error = {"kind": error.kind, "message": str(error)}
    result.transient = isinstance(error, Transient)
    return result


def _record_failure(run: Run, error: RotatorError) -> None:
    """Notes the failure and its back-off, and gives the claim back; a rotation that may have issued stays open.

    What was held back leaves nothing but that: it neither failed anew, nor is it history. But if the answer to an
    issuing request was lost before, that is the failure.
    """
    if run.sight.stored is None or isinstance(error, FenceLost):
        return
    if run.order.what == "rollback" and run.holding.began is None:
        return  # nothing is written unless there is a way back
    if isinstance(error, HeldBack | Waits) and run.lost is not None:
        error = run.lost
    if isinstance(error, HeldBack | Waits):
        if run.claim.mine:
            _close_unissued(run, None)
        return
    if run.phase != "retire":
        failed = changes.failed(
            run.record,
            run.now(),
            phase=run.phase,
            kind=error.kind,
            message=scrub(str(error)[:500], "record"),
            digest=run.policy.digest,
            may_have_issued=may_have_asked(run.hand),
            wish=getattr(error, "retry_after", None),
        )
        run.sight.note(failed)
    elif not run.claim.mine:
        return  # the debts keep it
    _close_unissued(run, error.kind)


def _close_unissued(run: Run, error: str | None) -> None:
    """Gives the claim back; a rotation for which surely nothing was issued is closed, any other stays open.

    `error` is for the history; None: nothing to remember.
    """
    if run.sight.stored is None or (run.sight.stored.version == 0 and not run.claim.mine):
        return  # a failure before the first claim leaves no trace in Vault
    record, closes = run.record, _is_surely_unissued(run)
    if closes:
        record = changes.closed(record, counted=is_counted(run.hand))
    if error is not None and (closes or error != STOPPED):
        record = evidence.failed(run, record, error)
    if not run.claim.mine and record.claim is not None:
        return  # another run's claim: the record is theirs to write
    run.patiently.allow(LAST_WORDS)
    try:
        run.claim.give_back(record)
    except RotatorError as lost:  # also an order to stop, while it waited for Vault
        run.world.report("rotation.failure_not_recorded", policy=run.policy.name, error=lost.kind)


def _is_surely_unissued(run: Run) -> bool:
    """Whether a rotation is open, and nothing can have been made or staged for it. A rollback issues nothing."""
    underway = run.underway
    if underway is None or underway.sent > 1 or underway.kind == "rollback":
        return False
    return not may_have_asked(run.hand) and run.sight.staged is None


def would(run: Run) -> Result:
    """`--dry-run`: what `tend` would do now, or why it would fail; writes nothing anywhere, and raises nothing."""
    started = run.world.clock.boot()
    try:
        result = _would(run)
    except Exception as fault:  # noqa: BLE001 - as in `tend`
        result = faulty(run.policy, run.phase, fault)
    result.duration_s = run.world.clock.boot() - started
    result.started_at = run.now() - timedelta(seconds=result.duration_s)
    return result


def _would(run: Run) -> Result:
    try:
        plan = trying.find_out(run)
    except Busy as busy:
        return _busy(run, busy)
    except RotatorError as error:
        return _failed_result(run, error)
    result = _result(run, plan.outcome)
    if plan.outcome == "would-rotate":
        result.previous_key_id, result.previous_key_until = plan.previous, plan.until
        result.user_id, result.key_id = plan.user_id, plan.key_id
    return result
