"""The rotations ahead: what the schedules ask for, with jitter, windows and freezes applied, as if each were met."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice, pairwise, takewhile
from typing import Literal, NamedTuple

from rotator.due import due_since, fits, is_overdue, may_begin
from rotator.errors import Failure
from rotator.journal import Record
from rotator.keys import Issue
from rotator.policy import Policy
from rotator.retiring.previous import answer

# Rotations of one policy that a plan shows.
MOST = 1000
# Seconds.
DAY = 86400

Why = Literal["first", "scheduled", "late", "overdue", "retry", "held"]


class Ahead(NamedTuple):
    """A rotation that is to come, at `at` at the earliest, and why then.

    `first`: the policy is new, and begins with a rotation. `late`: its time has passed, so it begins now, or as soon
    as window and freeze let it; `overdue`: the same beyond `max_age`. `retry`: the last failure's back-off ends then.
    `held`: it would begin earlier, but for a person's hold. `old_until`: when the key that it replaces is to end; None
    where it replaces none, or where that ends at once.
    """

    policy: str
    user_id: int
    at: datetime
    why: Why
    old_until: datetime | None = None


def ahead(policy: Policy, record: Record | None, now: datetime, until: datetime) -> list[Ahead]:
    """The rotations of one policy from now up to `until`, MOST of them at most. One that is paused has none.

    A policy that was never adopted counts as adopted now, unless its `first` is rotate.
    """
    if not policy.enabled:
        return []
    known = record or Record.new(policy.name)
    instants = takewhile(lambda one: one[0] <= until, _instants(policy, known, now, until))
    start = known.current.user_id if known.current and fits(policy, known) else None
    grace = _grace(policy, known)
    return [
        Ahead(
            policy.name,
            _user(policy, start, turn),
            instant,
            why,
            instant + grace if grace and why != "first" else None,
        )
        for turn, (instant, why) in enumerate(islice(instants, MOST))
    ]


def _grace(policy: Policy, record: Record) -> timedelta:
    """How long a replaced key will live on, as far as is known of this account."""
    ends_at_once = policy.issue is Issue.GENERATE or answer(policy, record) == "refused"
    return timedelta(0) if ends_at_once else policy.grace


def first(
    known: Iterable[tuple[Policy, Record | Failure | None]], now: datetime
) -> tuple[datetime, str] | None:
    """The rotation that comes first of all policies' next ones: when, at the earliest, and of which policy."""
    coming = []
    for policy, record in known:
        if policy.enabled and not isinstance(record, Failure):
            comes = _next(policy, record or Record.new(policy.name), now)
            coming += [(comes[0], policy.name)] if comes is not None else []
    return min(coming, default=None)


def _user(policy: Policy, published: int | None, turn: int) -> int:
    """Whose key the rotation `turn` (from 0) issues: with several users they take turns."""
    users = policy.users
    first = (
        0
        if published is None and policy.first == "rotate"
        else users.index(published or users[0]) + 1
    )
    return users[(first + turn) % len(users)]


def _instants(
    policy: Policy, record: Record, now: datetime, until: datetime
) -> Iterator[tuple[datetime, Why]]:
    """Every instant at which the policy rotates, each counted from the one before."""
    hold = record.held(now)
    last = hold.until if hold is not None else now
    if fits(policy, record):
        first = _next(policy, record, now)
        if first is None:
            return
        yield first
        last = first[0]
    elif policy.first == "rotate":
        yield last, "first" if hold is None else "held"
    for due in policy.schedule.occurrences(last, until, policy.name):
        yield due, "scheduled"


def _next(policy: Policy, record: Record, now: datetime) -> tuple[datetime, Why] | None:
    """When the policy rotates next, given its record, and why then; None if it is manual."""
    due = due_since(policy, record)
    if due is None:
        return None
    if due > now:
        return due, "scheduled" if due_since(policy, record.change(hold=None)) == due else "held"
    waits = record.waits_until(policy.digest, now)
    # Without a time it waits for a person, who may come at any moment.
    if waits is not None:
        return may_begin(policy, record, waits.retry_at or now), "retry"
    why: Why = "overdue" if is_overdue(policy, record, now) else "late"
    return may_begin(policy, record, now), why


class _Kept(NamedTuple):
    policy: Policy
    record: Record | None
    # Seconds since 1970, ascending.
    instants: array[int]
    until: int

    def holds(self, policy: Policy, record: Record | None, now: int, until: int) -> bool:
        """Whether nothing has changed since, not even that the first of them is still to come."""
        if record is None or record is not self.record or policy is not self.policy:
            return False
        return fits(policy, record) and until <= self.until and now < min(self.instants, default=0)


class Outlook:
    """How many rotations of each policy come on each day, asked for again and again; for one thread.

    What a policy's plan was before is kept while it stays true: a plan with a rotation for each hour takes a while.
    """

    def __init__(self, days: int) -> None:
        self._days = days
        self._kept: dict[str, _Kept] = {}

    def of(
        self, known: Iterable[tuple[Policy, Record | Failure | None]], now: datetime
    ) -> dict[str, tuple[int, ...]]:
        """By policy the rotations that `ahead` tells for so many days from `now` on, by days of UTC from that of `now`.

        There is one number more than days: the last day ends where the first began. A policy whose record could not
        be read is not there.
        """
        kept = {
            policy.name: self._plan(policy, record, now)
            for policy, record in known
            if not isinstance(record, Failure)
        }
        self._kept = kept
        midnight, until = int(now.timestamp()) // DAY * DAY, self._end(now)
        ends = [min(midnight + DAY * number, until + 1) for number in range(self._days + 2)]
        return {
            name: tuple(
                later - sooner
                for sooner, later in pairwise(bisect_left(one.instants, end) for end in ends)
            )
            for name, one in kept.items()
        }

    def _end(self, now: datetime) -> int:
        return int(now.timestamp()) + DAY * self._days

    def _plan(self, policy: Policy, record: Record | None, now: datetime) -> _Kept:
        before, until = self._kept.get(policy.name), self._end(now)
        if before is not None and before.holds(policy, record, int(now.timestamp()), until):
            return before
        # So that it is true for a day.
        further = timedelta(days=self._days + 1)
        rotations = ahead(policy, record, now, now + further)
        instants = array("q", (int(one.at.timestamp()) for one in rotations))
        return _Kept(policy, record, instants, until + DAY)
