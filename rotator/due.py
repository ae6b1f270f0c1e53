"""What there is to do for a policy, and when next: decided from the policy, its record, and the time alone.

These answers are written here once. The page asks them for its next step, the tick for its tasks and their order, the
due index for what it may promise, `plan` and `status` for what they tell. Nothing here looks anywhere or changes
anything; every time is Vault's.

Keeps: never silent (4), truth is outside (6).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from rotator.journal import Held, Hold, Record
from rotator.policy import Destination, Policy

# Vault tells whole seconds: times of two processes are compared no closer than this.
GRAIN = timedelta(seconds=1)
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
Kind = Literal["rotate", "adopt", "repair", "rollback"]
What = Literal["schedule", "demand", "adopt", "repair", "rollback"]
# What a tick may have to do: finish an open rotation, look while a lost request may still land, begin a rotation, run
# hooks, write a further destination, retire keys, and say that one could not be retired.
Work = Literal["finish", "look", "begin", "hooks", "fill", "retire", "say"]


class Order(NamedTuple):
    """What is asked of a run; `named`: a person named the policy: no hold keeps it back, nor what others do.

    `schedule`: what is due, and whatever was interrupted. `demand`: a key issued after `since`. `adopt`: take over
    the present key. `repair`: make Vault hold what ECGrid accepts. `rollback`: publish the key before again.
    """

    what: What
    reason: str = ""
    since: datetime | None = None
    # --grace 0s.
    retire_now: bool = False
    grace: timedelta | None = None
    named: bool = False

    @property
    def nothing_done(self) -> Literal["not-due", "unchanged"]:
        """The outcome of a run that found nothing to do."""
        return "not-due" if self.what == "schedule" else "unchanged"


def due_since(policy: Policy, record: Record) -> datetime | None:
    """The instant at which the next rotation is or was due; None if the schedule asks for none, or nothing is known.

    A hold moves it as a freeze does.
    """
    if record.rotated_at is None:
        return None
    instant, hold = policy.schedule.next_due(record.rotated_at, policy.name), record.hold
    if instant is None or hold is None or instant >= hold.until:
        return instant
    return policy.schedule.reopened(hold.until, policy.name)


def is_due(policy: Policy, record: Record, now: datetime) -> bool:
    """Whether the schedule asks for a rotation now: past due, out of every freeze, and in the window or overdue."""
    instant = due_since(policy, record)
    if not policy.enabled or instant is None or now < instant or policy.schedule.frozen_at(now):
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
    if order.what == "rollback":
        return "rollback"
    if holding_back(record, order, now) is not None:
        return None
    if not fits(policy, record):
        return kind_at_first(policy, order)
    if order.what == "demand":
        return None if is_answered(record, order, now) else "rotate"
    return "rotate" if order.what == "schedule" and is_due(policy, record, now) else None


def kind_at_first(policy: Policy, order: Order) -> Kind | None:
    """What begins for a policy that was never adopted, or is a new start; None where it is paused."""
    if order.what == "schedule" and not policy.enabled:
        return None
    return "rotate" if policy.first == "rotate" and order.what != "adopt" else "adopt"


def is_answered(record: Record, order: Order, now: datetime) -> bool:
    """Whether the current key was issued since the order was given: another run has done what it asks for."""
    began = record.current.began if record.current else None
    # One that began in the future did so by a clock that was set back since.
    return bool(began and order.since and order.since + GRAIN < began <= now + GRAIN)


def holding_back(record: Record, order: Order, now: datetime) -> Hold | None:
    """The hold that keeps the order from beginning anything: a person who names the policy rotates it all the same."""
    by_itself = order.what == "schedule" or (order.what == "demand" and not order.named)
    return record.held(now) if by_itself else None


def lacking(policy: Policy, record: Record) -> list[Destination]:
    """The destinations that were never written with the current key, by the record; none while there is no key."""
    if record.current is None:
        return []
    have = {(place.mount, place.path, place.field) for place in record.places if place.version}
    return [to for to in policy.destinations if (to.mount, to.path, to.field) not in have]


def may_still_land(record: Record, now: datetime) -> bool:
    """Whether an issuing request whose answer was lost may still be carried out."""
    return record.watch_until is not None and now < record.watch_until


def depends_on_shown(policy: Policy, record: Record, order: Order, now: datetime) -> bool:
    """Whether what is to be begun depends on what the first destination shows, too. A repair looks there anyhow."""
    if record.underway is not None or order.what == "repair":
        return False
    kind = kind_wanted(policy, record, order, now)
    return (kind == "rotate" and record.is_blank) or (kind is None and order.what == "adopt")


# what a tick does by itself


class Due(NamedTuple):
    """What a tick is to do for a policy, drift checks aside, and when there is more.

    `next`: the earliest instant at which there may be something to do or to tell, the record staying as it is; the
    present one if there is something, or if the published key is refused.
    """

    now: frozenset[Work]
    next: datetime

    @property
    def always(self) -> bool:
        """Whether there is something that every tick tries, whatever back-off lasts."""
        return bool(self.now & {"finish", "fill", "retire"})


SCHEDULE = Order("schedule", reason="scheduled")


def at_a_tick(policy: Policy, record: Record, now: datetime) -> Due:
    """What a tick is to do for the policy, and when there is more."""
    begins = kind_wanted(policy, record, SCHEDULE, now) is not None
    there_is: dict[Work, bool] = {
        "finish": record.underway is not None,
        "look": record.current is not None and may_still_land(record, now),
        "begin": begins,
        "hooks": record.hooks_due is not None,
        "fill": bool(lacking(policy, record)),
        "retire": bool(record.due_debts(now)),
        "say": record.unpaid() is not None,
    }
    works = frozenset(work for work, holds in there_is.items() if holds)
    if works or record.drifted is not None:
        return Due(works, now)
    return Due(works, max(now, min(instants(policy, record, now))))


def instants(policy: Policy, record: Record, now: datetime) -> list[datetime]:
    """When there will be something to do or to tell for a policy that has nothing to do now."""
    times, current, due = [NEVER], record.current, due_since(policy, record)
    hold = record.held(now)
    times += [hold.until] if hold is not None else []
    if current is not None:
        overdue = overdue_at(policy, current)
        times += [debt.due_at for debt in record.retiring]
        times += [overdue + GRAIN] if overdue is not None and overdue + GRAIN > now else []
    if policy.enabled and due is not None and fits(policy, record):
        times.append(may_begin(policy, record, max(due, now)))
    return times


def overdue_at(policy: Policy, held: Held) -> datetime | None:
    """From when on the key is overdue, if it ever is: that makes nothing due, but an alarm."""
    return None if policy.max_age is None else (held.created or held.published_at) + policy.max_age


def may_begin(policy: Policy, record: Record, start: datetime) -> datetime:
    """The first instant from `at` on at which what is due may begin: hold, freezes, window, and max_age."""
    schedule, current = policy.schedule, record.current
    start = max(start, record.hold.until) if record.hold is not None else start
    allowed = schedule.allowed(start)
    overdue = overdue_at(policy, current) if current is not None else None
    if overdue is None:
        return allowed
    return min(allowed, schedule.allowed(max(start, overdue), in_window=False))


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


def begins_with_a_key(policy: Policy, record: Record, now: datetime) -> bool:
    """Whether what a tick has to do begins with a new key."""
    return record.underway is None and kind_wanted(policy, record, SCHEDULE, now) == "rotate"


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
