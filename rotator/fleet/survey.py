"""What is to be done for a policy, and when at the earliest: pure answers from its record and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from rotator.journal import Held, Record
from rotator.policy import Policy
from rotator.rotation import Order
from rotator.rotation.due import GRAIN, due_since, fits, is_due, is_overdue, kind_wanted
from rotator.vault.layout import INDEX_SHARDS, index_shard

CHECK_REQUESTS = 2  # of one drift check: the probe, and the list of keys
CHECK_SHARE = 0.1  # of ECGrid's rate that drift checks may take
TRUSTED = timedelta(hours=1)  # every record is read at least so often, whatever the index says
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Checking:
    """How often each policy is checked for drift; None: never."""

    period: timedelta | None

    @classmethod
    def spread(cls, every: timedelta, policies: int, rate: float) -> Checking:
        """Every so often, but so seldom that the checks of all policies take a tenth of ECGrid's rate at most."""
        if not every:
            return cls(None)
        return cls(max(every, timedelta(seconds=policies * CHECK_REQUESTS / (rate * CHECK_SHARE))))

    def next(self, policy: Policy, checked_at: datetime | None) -> datetime:
        """When the policy is to be checked after its last check: at its own place in the period, by its name."""
        if self.period is None or checked_at is None or not policy.enabled:
            return _NEVER
        place = _EPOCH + self.period * _fraction(policy.name)
        return place + ((checked_at - place) // self.period + 1) * self.period


def last_check(record: Record) -> datetime | None:
    """When the key was seen to work; None while none is published."""
    return None if record.current is None else record.checked_at or record.rotated_at


def has_work(policy: Policy, record: Record, now: datetime) -> bool:
    """Whether a tick has anything to do for the policy, drift checks aside."""
    watched = record.watch_until is not None and now < record.watch_until
    return (
        record.underway is not None
        or kind_wanted(policy, record, Order("schedule"), now) is not None
        or bool(record.due_debts(now))
        or record.unpaid() is not None
        or record.hooks_due is not None
        or lacks(policy, record)
        or (record.current is not None and watched)
    )


def lacks(policy: Policy, record: Record) -> bool:
    """Whether a destination was never written with the current key, as far as the record knows."""
    written = {(p.mount, p.path, p.field) for p in record.places if p.version}
    missing = any((to.mount, to.path, to.field) not in written for to in policy.destinations)
    return record.current is not None and missing


def quiet_until(policy: Policy, record: Record, now: datetime) -> datetime:
    """The earliest instant at which the policy may have work, the record staying as it is; `now` if it has some.

    No later than an hour from now, so that a record that was deleted or set back is noticed.
    """
    if has_work(policy, record, now) or record.drifted is not None:
        return now
    times = [reading(policy.name, now)]
    if record.current is not None:
        times += [debt.due_at for debt in record.retiring]
        times += [at for at in overdue_from(policy, record.current) if at > now]
    due = due_since(policy, record)
    if policy.enabled and due is not None and fits(policy, record):
        times.append(may_begin(policy, record, max(due, now)))
    hold = record.held(now)
    times += [hold.until] if hold is not None else []
    return max(now, min(times))


def reading(name: str, now: datetime) -> datetime:
    """When the policy's record is read next, whatever the index says: at its own place in the hour.

    With all others of its index document, which so is written once an hour.
    """
    place = _EPOCH + TRUSTED * index_shard(name) / INDEX_SHARDS
    return place + ((now - place) // TRUSTED + 1) * TRUSTED


def overdue_from(policy: Policy, held: Held) -> list[datetime]:
    """From when on the key is overdue, if it ever is: that makes nothing due, but an alarm."""
    if policy.max_age is None:
        return []
    return [(held.created or held.published_at) + policy.max_age + GRAIN]


def may_begin(policy: Policy, record: Record, at: datetime) -> datetime:
    """The first instant from `at` on at which what is due may begin: hold, freezes, window, and max_age."""
    schedule, current = policy.schedule, record.current
    at = max(at, record.hold.until) if record.hold is not None else at
    allowed = schedule.allowed(at)
    if current is None or policy.max_age is None:
        return allowed
    overdue = (current.created or current.published_at) + policy.max_age
    return min(allowed, schedule.allowed(max(at, overdue), in_window=False))


def urgency(policy: Policy, record: Record | None, now: datetime) -> tuple[int, float]:
    """What sorts policies with work: what is under way, then what is overdue, then by how long it has been due.

    In whole minutes: among those the crew draws lots, so that rotators that work beside each other do not collide.
    """
    if record is None:
        return (2, 0.0)
    if record.underway is not None:
        return (0, 0.0)
    due = due_since(policy, record)
    late = (now - due).total_seconds() if due else 0.0
    return (1 if is_overdue(policy, record, now) else 2, -(late // 60))


def would_issue(policy: Policy, record: Record, now: datetime) -> bool:
    """Whether the work that there is begins with a new key."""
    if record.underway is not None:
        return False
    return is_due(policy, record, now) or (
        kind_wanted(policy, record, Order("schedule"), now) == "rotate"
    )


def is_stuck(record: Record, now: datetime) -> bool:
    """Whether its rotation is open, failed before it had a key, and consumers are not known to be cut off."""
    failed = record.failed
    return (
        record.in_trouble(now) is not None
        and failed is not None
        and failed.phase == "issue"
        and record.drifted is None
    )


def outlived(record: Record, now: datetime, grace: timedelta) -> timedelta | None:
    """How long the oldest debt that nobody has tried to retire waits, if that is longer than the grace itself."""
    waits = [now - debt.due_at for debt in record.due_debts(now) if debt.waits is None]
    longest = max(waits, default=timedelta(0))
    return longest if longest > max(grace, timedelta(minutes=1)) else None


def _fraction(name: str) -> float:
    return int.from_bytes(sha256(name.encode()).digest()[:6], "big") / 2**48
