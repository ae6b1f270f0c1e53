"""What a run over one policy comes to: it does what an order asks for, and the result says what came of it.

The rules: whatever goes wrong is this policy's result, and no other's; and each failure is in the record with its
back-off, if Vault lets us, before it is told.

Keeps: never silent (4).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from rotator import due
from rotator.errors import RotatorError, Transient
from rotator.journal import Debt
from rotator.policy import Destination
from rotator.replacing.beginning import Busy, Stopped, Waits
from rotator.retiring import debts
from rotator.retiring.ending import RetirementFailed
from rotator.rotation import failing
from rotator.rotation.page import rotate
from rotator.rotation.result import Cause, Result, faulty, result_of, unexpected
from rotator.run import Run


def tend(run: Run) -> Result:
    """Does what the run's order asks for; never raises what belongs to one policy alone.

    A failure is recorded, with its back-off, the claim is given back, and the result says `failed`.
    """
    return timed(run, _tended)


def timed(run: Run, judge: Callable[[Run], Result]) -> Result:
    """What `judge` says came of the run, or a fault that nobody expected; with when it began and how long it took."""
    began = run.world.clock.boot()
    try:
        result = judge(run)
    except Exception as fault:  # noqa: BLE001 - also of what records and tells a failure
        result = faulty(run.policy, run.phase, fault)
    took = run.world.clock.boot() - began
    return result._replace(duration_s=took, started_at=run.now() - timedelta(seconds=took))


def _tended(run: Run) -> Result:
    """What came of the run, with its failure recorded."""
    try:
        taken = rotate(run)
        return _success(run, retired=any(step.do is debts.retire for step in taken))
    except Busy as busy:
        return left_to_others(run, busy)
    except Stopped as why:
        return _stopped(run, why)
    except RotatorError as error:
        return _failure(run, error)
    except Exception as fault:  # noqa: BLE001 - a fault of this program must not end the other policies' rotations
        return _failure(run, unexpected(fault))


def left_to_others(run: Run, busy: Busy) -> Result:
    """The result where another run holds the claim."""
    return result_of(run, "busy").warning(str(busy))._replace(busy=str(busy))


def _stopped(run: Run, why: Stopped) -> Result:
    failing.close_unissued(run, failing.STOPPED)
    result = result_of(run, run.outcome.word or "unchanged").warning(str(why))._replace(begun=False)
    if run.world.stopping():
        return result._replace(stopped=True)
    return result._replace(outcome="not-due")


def _success(run: Run, *, retired: bool) -> Result:
    held = _is_held(run)
    result = result_of(run, run.outcome.word or run.order.nothing_done)
    lacking = due.lacking(run.policy, run.record)
    if lacking and not run.claim.others:
        return _still_lacks(result, lacking)
    if run.order.retire_now and not retired and not held:
        return result.unretired(
            "another run holds the claim: the replaced keys are not retired; give the command again"
        )
    unpaid = run.record.unpaid()
    return _still_owes(result, unpaid) if unpaid else result


def _is_held(run: Run) -> bool:
    """Whether a hold keeps the order from beginning anything; on demand it is told how to rotate all the same."""
    hold = due.holding_back(run.record, run.order, run.now())
    if hold is not None and run.order.what == "demand":
        run.warn(f"{hold.words}: `rotator rotate {run.policy.name}` rotates it all the same")
    return hold is not None


def _still_lacks(result: Result, lacking: list[Destination]) -> Result:
    """A destination without the key is a failure of every run until it has it."""
    missing = ", ".join(f"{to.mount}/{to.path}" for to in lacking)
    message = f"still without the key: {missing}; every tick tries again, and nothing is retired until then"
    return result.failed("publish", Cause("vault.DestinationMissing", message))


def _still_owes(result: Result, debt: Debt) -> Result:
    """A key that could not be retired is a failure of every run until it is."""
    message = f"key {debt.key_id} is not retired (tried again at {debt.due_at:%Y-%m-%dT%H:%M:%SZ}): {debt.waits}"
    if result.outcome in ("not-due", "unchanged"):
        return result.failed("retire", Cause(RetirementFailed.kind, message))
    return result.unretired(message)


def _failure(run: Run, error: RotatorError) -> Result:
    """The result of a failure, which is recorded first, if Vault lets us."""
    failing.record(run, error)
    if run.phase == "retire" and run.outcome.word is not None:
        result = result_of(run, run.outcome.word).unretired(str(error))
    else:
        result = failed(run, error)
    run.world.report(
        "rotation.failed",
        policy=run.policy.name,
        phase=result.phase or run.phase,
        error=error.kind,
        message=str(error),
        waits=isinstance(error, Waits),
    )
    return result


def failed(run: Run, error: RotatorError) -> Result:
    """The result of a run that has failed; of one that waits, in the phase that failed before."""
    phase = error.failed.phase if isinstance(error, Waits) else run.phase
    result = result_of(run, "failed").failed(phase, Cause.of(error))
    return result._replace(transient=isinstance(error, Transient))
