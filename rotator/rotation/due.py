"""What is to be done, decided from the record, the policy and the time: nothing here changes anything."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from rotator.errors import Failure, RotatorError, Transient
from rotator.journal import Failed, Held, Hold, Record
from rotator.policy import Policy
from rotator.rotation.hand import Nothing
from rotator.rotation.run import CONTENDED, Order, Run

GRAIN = timedelta(
    seconds=1
)  # Vault tells whole seconds: times of two processes are compared no closer than this
Kind = Literal["rotate", "adopt", "repair"]


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


def due_since(policy: Policy, record: Record) -> datetime | None:
    """The instant at which the next rotation is or was due; None if the schedule asks for none, or nothing is known.

    A hold moves it as a freeze does.
    """
    if record.rotated_at is None:
        return None
    at, hold = policy.schedule.next_due(record.rotated_at, policy.name), record.hold
    if at is None or hold is None or at >= hold.until:
        return at
    return policy.schedule.reopened(hold.until, policy.name)


def is_due(policy: Policy, record: Record, now: datetime) -> bool:
    """Whether the schedule asks for a rotation now: past due, out of every freeze, and in the window or overdue."""
    at = due_since(policy, record)
    if not policy.enabled or at is None or now < at or policy.schedule.frozen_at(now):
        return False
    return policy.schedule.open_at(now) or is_overdue(policy, record, now)


def is_overdue(policy: Policy, record: Record, now: datetime) -> bool:
    """Whether the current key is older than the policy allows."""
    age = key_age(record.current, now)
    return age is not None and policy.max_age is not None and age > policy.max_age


def key_age(held: Held | None, now: datetime) -> timedelta | None:
    """How old a key is, by ECGrid's `created`, else by its publishing."""
    return now - (held.created or held.published_at) if held else None


def fits(policy: Policy, record: Record) -> bool:
    """Whether the record's current key is one that the policy speaks of; otherwise the policy is a new start."""
    current = record.current
    return (
        current is not None
        and current.user_id in policy.users
        and current.visibility == policy.visibility
    )


def kind_wanted(policy: Policy, record: Record, order: Order, now: datetime) -> Kind | None:
    """What kind of rotation the order asks for, given the record: None if nothing is to be begun."""
    if holding_back(record, order, now) is not None:
        return None
    if not fits(policy, record):
        if order.what == "schedule" and not policy.enabled:
            return None
        return "rotate" if policy.first == "rotate" and order.what != "adopt" else "adopt"
    if order.what == "demand":
        began = record.current.began if record.current else None
        # One that began in the future did so by a clock that was set back since.
        fresh = began and order.since and order.since + GRAIN < began <= now + GRAIN
        return None if fresh else "rotate"
    if order.what == "schedule":
        return "rotate" if is_due(policy, record, now) else None
    return None


def holding_back(record: Record, order: Order, now: datetime) -> Hold | None:
    """The hold that keeps the order from beginning anything: a person who names the policy rotates it all the same."""
    by_itself = order.what == "schedule" or (order.what == "demand" and not order.named)
    return record.held(now) if by_itself else None


def told(hold: Hold) -> str:
    """What is said of a hold."""
    return f"held by {hold.by} until {hold.until:%Y-%m-%dT%H:%M:%SZ} ({hold.reason})"


# predicates and steps of the page


def is_stopped(run: Run) -> bool:
    """Whether the process is to stop and nothing can have been issued; past that, the rotation is finished first."""
    if not isinstance(run.hand, Nothing) or run.hand.asked or run.orphan is not None:
        return False
    return run.world.stopping() and (run.mine or is_wanted(run))


def stop(run: Run) -> None:
    """Leaves the policy as it is: raises Stopped."""
    raise Stopped(f"{run.policy.name} was not begun: the process was told to stop")


def is_claimed_elsewhere(run: Run) -> bool:
    """Whether another run's claim still holds, and this run wants something that needs one."""
    if run.others_claim is None:
        return False
    return run.record.underway is not None or run.orphan is not None or is_wanted(run)


def wait_or_leave(run: Run) -> None:
    """Leaves the policy to the run that holds the claim; a run that has a key in hand waits for the outcome."""
    claim = run.record.claim
    if claim is None:
        run.observe()
    elif run.orphan is None:
        raise Busy(f"claimed by {claim.by} until {claim.until:%Y-%m-%dT%H:%M:%SZ}")
    elif run.world.clock.boot() > run.deadline:
        raise Transient(
            f"this run issued {run.orphan.key.ref.words}, lost its claim to {claim.by}, and has not seen what came of "
            "it: the next run looks",
            kind=CONTENDED,
        )
    else:
        run.world.clock.sleep(1.0)
        run.observe()


def is_abandoned(run: Run) -> bool:
    """Whether a rotation is open that no run holds a claim on."""
    return run.record.underway is not None and not run.mine


def is_wanted(run: Run) -> bool:
    """Whether a rotation is to be begun."""
    return run.record.underway is None and run.orphan is None and wanted(run) is not None


def wanted(run: Run) -> Kind | None:
    """The kind of rotation that is to be begun; a drift that was found asks for a repair."""
    if run.sync == "drifted":
        return "repair"
    if run.answered:
        return None
    kind = kind_wanted(run.policy, run.record, run.order, run.now())
    if kind == "rotate" and lost_its_record(run):
        return "adopt"
    if kind is None and run.order.what == "adopt" and run.outcome is None and shows_nothing(run):
        return "adopt"
    return kind


def shows_nothing(run: Run) -> bool:
    """Whether the first destination has no value: it was deleted, or taken out by hand."""
    there = run.seen(run.main)
    return there is None or there.value is None


def lost_its_record(run: Run) -> bool:
    """Whether there is no record, and a secret that this policy has marked: the record was lost."""
    if run.stored is None or not run.record.is_blank:
        return False
    there = run.seen(run.main)
    return there is not None and there.policy == run.policy.name


def must_wait(run: Run) -> bool:
    """Whether the back-off of the last failure lasts. It holds back what would begin by itself, nothing else."""
    by_itself = run.order.what in ("schedule", "repair") and is_wanted(run)
    return by_itself and run.record.waits_until(run.policy.digest, run.now()) is not None


def wait(run: Run) -> None:
    """Says so, with the error and when it is tried next: raises Waits."""
    if run.record.failed is not None:
        raise Waits(run.record.failed)
