"""Whether a run begins a rotation: what is wanted, and what stands against it.

That is an order to stop, another run's claim, and the back-off of the last failure. The rules: past issue
only another run's claim holds one up; and a run that has a key of its own in hand waits for what becomes of it.

Keeps: never twice (3).
"""

from __future__ import annotations

from rotator import due
from rotator.errors import Failure, Permanent, RotatorError, Transient
from rotator.journal import Failed
from rotator.run import CONTENDED, Run
from rotator.run.hand import Nothing


class Busy(RotatorError):
    """Another rotator holds the claim on this policy."""

    kind = "rotation.Busy"


class Stopped(RotatorError):
    """The process was told to stop, or may issue no more keys in this tick; nothing has been issued."""

    kind = "rotation.Stopped"


class Waits(Failure):
    """The last failure's back-off is not over; carries that failure."""

    def __init__(self, failed: Failed) -> None:
        again = (
            f"tried again at {failed.retry_at:%Y-%m-%dT%H:%M:%SZ}"
            if failed.retry_at
            else ("tried again when the policy changes, or by `rotator rotate`")
        )
        super().__init__(f"{failed.message} ({again})", kind=failed.kind)
        self.failed = failed


def is_stopped(run: Run) -> bool:
    """Whether the process is to stop and nothing can have been issued; past that, the rotation is finished first."""
    if not isinstance(run.hand, Nothing) or run.hand.asked or run.holding.orphan is not None:
        return False
    return run.world.stopping() and (run.claim.mine or is_wanted(run))


def stop(run: Run) -> None:
    """Leaves the policy as it is: raises Stopped."""
    raise Stopped(f"{run.policy.name} was not begun: the process was told to stop")


def is_claimed_elsewhere(run: Run) -> bool:
    """Whether another run's claim still holds, and this run wants something that needs one."""
    if run.claim.others is None:
        return False
    return run.record.underway is not None or run.holding.orphan is not None or is_wanted(run)


def wait_or_leave(run: Run) -> None:
    """Leaves the policy to the run that holds the claim; a run that has a key in hand waits for the outcome."""
    claim, orphan = run.record.claim, run.holding.orphan
    if claim is None:
        run.observe()
    elif orphan is None:
        raise Busy(f"claimed by {claim.by} until {claim.until:%Y-%m-%dT%H:%M:%SZ}")
    elif run.patiently.is_over:
        raise Transient(
            f"this run issued {orphan.key.ref.words}, lost its claim to {claim.by}, and has not seen what came of "
            "it: the next run looks",
            kind=CONTENDED,
        )
    else:
        run.world.clock.sleep(1.0)
        run.observe()


def is_wanted(run: Run) -> bool:
    """Whether a rotation is to be begun."""
    return run.record.underway is None and run.holding.orphan is None and wanted(run) is not None


def wanted(run: Run) -> due.Kind | None:
    """The kind of rotation that is to be begun; a drift that was found asks for a repair."""
    if run.sight.sync == "drifted":
        return "repair"
    if run.outcome.answered or run.outcome.word == "rolled-back":
        return None
    kind = due.kind_wanted(run.policy, run.record, run.order, run.now())
    if kind is None:
        return "adopt" if is_to_show_again(run) else None
    return "adopt" if kind == "rotate" and lost_its_record(run) else kind


def is_to_show_again(run: Run) -> bool:
    """Whether an adoption is ordered, nothing was done yet, and the first destination shows nothing."""
    return run.order.what == "adopt" and run.outcome.word is None and shows_nothing(run)


def shows_nothing(run: Run) -> bool:
    """Whether the first destination has no value: it was deleted, or taken out by hand."""
    document = run.sight.last_at(run.main)
    return document is None or document.value is None


def lost_its_record(run: Run) -> bool:
    """Whether there is no record, and a secret that this policy has marked: the record was lost."""
    if run.sight.stored is None or not run.record.is_blank:
        return False
    document = run.sight.last_at(run.main)
    return document is not None and document.policy == run.policy.name


def refuse_open(run: Run) -> None:
    """Raises Permanent (`rotation.Open`) for a rollback that meets a rotation which it has not begun itself."""
    if run.order.what == "rollback" and run.rotation.run != run.holding.began:
        raise Permanent(
            "a rotation is open, and goes first: the next tick finishes it, and so does `rotator check --repair "
            f"{run.policy.name}`. Give the command again then",
            kind="rotation.Open",
        )


def must_wait(run: Run) -> bool:
    """Whether the back-off of the last failure lasts. It holds back what would begin by itself, nothing else."""
    by_itself = run.order.what in ("schedule", "repair") and is_wanted(run)
    return by_itself and run.record.waits_until(run.policy.digest, run.now()) is not None


def wait(run: Run) -> None:
    """Says so, with the error and when it is tried next: raises Waits."""
    if run.record.failed is not None:
        raise Waits(run.record.failed)
