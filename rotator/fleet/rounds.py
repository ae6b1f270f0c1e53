"""Looking round the fleet: which policies have work, at a cost that grows with those that do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple, TypeVar

from rotator import due, reporting
from rotator.errors import Failure, HeldBack, RotatorError
from rotator.fleet.crew import Task
from rotator.fleet.reports import Reports
from rotator.fleet.standing import Answer, drifted, row
from rotator.fleet.survey import (
    CHECK_REQUESTS,
    CHECK_SHARE,
    TRUSTED,
    Checking,
    last_check,
    quiet_until,
    reading,
)
from rotator.journal import Failed, Record, gist
from rotator.policy import Policy
from rotator.replacing.beginning import Stopped, Waits
from rotator.reporting.rows import Row
from rotator.rotation import Cause, Order, Result
from rotator.settings import Settings
from rotator.threads import Hands
from rotator.vault import Stored, Vault
from rotator.vault.ahead import as_of
from rotator.vault.index import GUARD, DueIndex, Entry, Look
from rotator.vault.layout import INDEX_SHARDS

T = TypeVar("T")
R = TypeVar("R")

# Records for each reading thread, after which what was read is kept.
BATCH = 8
# Records that are read rather than the documents of the index.
FEW = INDEX_SHARDS
INSTANT = timedelta(microseconds=1)


@dataclass
class Agenda:
    """What a look round the fleet has come to: results of what needs nothing, and tasks for the rest.

    `next` is the quiet policy that is due first, and when.
    """

    results: list[Result] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    checks: list[Task] = field(default_factory=list)
    next: tuple[datetime, str] | None = None

    def later(self, result: Result, work_at: datetime | None) -> None:
        """Notes a result, and when its policy has work at the earliest."""
        self.results.append(result)
        if work_at is not None:
            self.next = min(self.next or (work_at, result.policy), (work_at, result.policy))


class Ended(NamedTuple):
    """A run that has ended: what its record was then, and when (by Vault's time) it began."""

    policy: Policy
    stored: Stored
    began: datetime


class Rounds:
    """Finds the work. Uses the due index, and raises its entries from the records that it had to read."""

    def __init__(
        self,
        settings: Settings,
        vault: Vault,
        index: DueIndex,
        boot: Callable[[], float],
        reports: Reports,
        *,
        is_ours: Callable[[str], bool],
    ) -> None:
        """`is_ours`: whether a record with that mark is about this ECGrid; any other counts as none."""
        # Asked, from any thread, whenever a look gets on: False reads no more records.
        self.goes_on: Callable[[], bool] = lambda: True
        self._settings, self._vault, self._index, self._boot = settings, vault, index, boot
        self._reports, self._is_ours = reports, is_ours
        self._readers = Hands(settings.concurrency, "read")
        self._checked_at: float | None = None
        self._checks_left = 0.0

    def close(self) -> None:
        """Ends the reading threads."""
        self._readers.close()

    def look(self, policies: list[Policy], fleet_size: int, *, noting: bool = True) -> Agenda:
        """What there is to do; `fleet_size` policies share the rate that drift checks may take.

        `noting`: what was read is told to the due index. Raises RotatorError if Vault cannot be asked at all.
        """
        settings, work = self._settings, Agenda()
        checking = Checking.spread(settings.check_every, fleet_size, settings.ecgrid.rate)
        seen = self._look_at_index(policies)
        now = self._vault.now()
        unsure = [p for p in policies if not self._sort_by_index(p, seen, checking, now, work)]
        read = self._read_unsure(unsure, seen, noting=noting)
        now = self._vault.now()
        for policy, answer in read:
            self._sort(policy, answer, checking, now, work)
        afforded = self._affordable(work.checks)
        for task in work.checks[afforded:]:
            work.results.append(Result(task.policy.name, "not-due"))
        work.tasks += work.checks[:afforded]
        return work

    def settle(self, ended: Iterable[Ended]) -> None:
        """Lets the due index know what came of these runs; asks for nothing.

        Only while a hold that anybody has left since must still be there to be seen; later, the next tick does it.
        """
        now = self._vault.now()
        young = [run for run in ended if now - run.began < self._settings.claim_ttl]
        with suppress(RotatorError):
            self._raise(self._index.last_look(), ((run.policy, run.stored) for run in young))

    def stands(self, policy: Policy) -> Row | None:
        """How a policy stands by its record, as `status` shows it; None if that cannot be read."""
        board = self._reports.board
        self.read(board.unknown([policy]))
        (known,) = board.known([policy]) or [(policy, None)]
        return None if isinstance(known[1], Failure) else row(*known, self._vault.now())

    def read(self, policies: Iterable[Policy], *, beside: bool = False) -> list[Answer]:
        """The record of each policy, several at a time; without its history, which is most of it.

        `beside`: half of the readers stay free for the looks.
        """
        most = max(1, self._settings.concurrency // 2) if beside else None
        return self._readers.map(self._stored, policies, most=most)

    def each(self, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """What the call answers for each, several at a time; each answer shows that the look gets on."""

        def tell(_done: int) -> None:
            self.goes_on()

        return self._readers.map(call, items, tell)

    def known(self, policies: list[Policy]) -> dict[str, Record | Failure | None]:
        """What `status` and `plan` tell of each policy: the gist that the due index vouches for, else what is read.

        A record that is gone with all its versions is seen here at once. One that was only deleted, or set back, by
        others than rotators is noticed as by a tick: when the entry ends, within the hour.
        """
        records: dict[str, Record | Failure | None] = {}
        if len(policies) > FEW:
            with suppress(Failure):
                records = self._known_by_index(policies)
        unsure = [policy for policy in policies if policy.name not in records]
        for policy, answer in zip(unsure, self.read(unsure), strict=True):
            records[policy.name] = answer.record if isinstance(answer, Stored) else answer
        return {policy.name: records[policy.name] for policy in policies}

    def _known_by_index(self, policies: list[Policy]) -> dict[str, Record | Failure | None]:
        """Of whom it need not be read: what the index vouches for, and that there is no record."""
        recorded = self._with_record()
        seen, records = self._look_at_index(policies), dict[str, Record | Failure | None]()
        now = self._vault.now()
        for policy in policies:
            entry = _vouching(seen.entry(policy.name, policy.digest), now)
            if recorded is not None and policy.name not in recorded:
                if entry is None:
                    records[policy.name] = None
                continue
            record = self._believed(policy, entry, now) if entry is not None else None
            if record is not None:
                records[policy.name] = record if self._is_ours(record.ecgrid) else None
        return records

    def _with_record(self) -> set[str] | None:
        """The policies that have a record; None if this login may not list them."""
        try:
            return set(self._vault.policies_with_records())
        except Failure:
            return None

    def _look_at_index(self, policies: Iterable[Policy]) -> Look:
        return self._index.look((policy.name for policy in policies), self.each)

    def read_whole(self, policies: Iterable[Policy]) -> list[Record | Failure | None]:
        """The record of each policy as it is, several at a time."""

        def one(policy: Policy) -> Record | Failure | None:
            try:
                stored = self._vault.record(policy.name)
            except Failure as error:
                return error
            return stored.record if stored else None

        return self._readers.map(one, policies)

    def _in_turn(self, policy: Policy) -> Answer:
        if not self.goes_on():
            return HeldBack("the process was told to stop", kind=Stopped.kind)
        return self._stored(policy)

    def _stored(self, policy: Policy) -> Answer:
        answer: Answer
        try:
            answer = self._vault.record(policy.name)
            if answer is not None and not self._is_ours(answer.record.ecgrid):
                answer = None
            if self._reports.pasts:
                history = answer.record.history if answer is not None else ()
                self._reports.pasts.saw(policy.name, history)
            if answer is not None:
                answer = answer._replace(record=answer.record.without_history())
        except Failure as error:
            answer = error
        if isinstance(answer, Stored) and answer.ahead:
            message = f"a time in its record is {answer.ahead} ahead of Vault: it counts as now"
            reporting.event("policy.time_ahead", policy=policy.name, message=message)
        self._reports.saw(policy.name, answer)
        return answer

    def _sort_by_index(
        self, policy: Policy, seen: Look, checking: Checking, now: datetime, work: Agenda
    ) -> bool:
        """Puts a policy where the due index alone says that it belongs; False if its record has to be read."""
        entry = seen.entry(policy.name, policy.digest)
        if entry is None:
            return False
        until = min(entry.quiet_until, checking.next(policy, entry.checked_at))
        if _vouching(entry, now) and now < until:
            work.later(Result(policy.name, "not-due"), until)
        elif (record := self._come_due(policy, entry, now)) is not None:
            work.tasks.append(self._task(policy, record, now))
        else:
            return False
        self._reports.board.vouched(policy.name, entry.version)
        return True

    def _come_due(self, policy: Policy, entry: Entry, now: datetime) -> Record | None:
        """The gist of a record by which a rotation has come due; the run that begins it reads the record itself.

        Until then it was quiet, and whoever has changed it since has lowered the entry. Once the hour of its reading
        has come, that counts no more: it may have been deleted, or set back.
        """
        if not entry.quiet_until <= now < reading(policy.name, entry.quiet_until - INSTANT):
            return None
        record = self._believed(policy, entry, now)
        if record is None or not self._is_ours(record.ecgrid):
            return None
        return record if due.begins_with_a_key(policy, record, now) else None

    def _believed(self, policy: Policy, entry: Entry, now: datetime) -> Record | None:
        """The gist that the entry holds, if it holds one whose times may be believed."""
        record = gist.read(policy.name, entry.gist) if entry.gist else None
        if record is None or as_of(record, now, self._settings.claim_ttl)[1]:
            return None
        return record

    def _read_unsure(
        self, policies: list[Policy], seen: Look, *, noting: bool
    ) -> list[tuple[Policy, Answer]]:
        """The records of those of whom the index does not say enough."""
        read: list[tuple[Policy, Answer]] = []
        for some in self._batches(policies):
            answers = list(zip(some, self._readers.map(self._in_turn, some), strict=True))
            known = [(one, stored) for one, stored in answers if isinstance(stored, Stored)]
            if noting:
                self._raise(seen, known)
            read += answers
        return read

    def _batches(self, policies: list[Policy]) -> Iterator[list[Policy]]:
        """The policies by pages of the index, so that each page is written once, in parts that are soon read."""
        size, some = BATCH * self._settings.concurrency, list[Policy]()
        by_page = sorted(policies, key=lambda policy: self._vault.index_at(policy.name))
        for _, page in groupby(by_page, lambda policy: self._vault.index_at(policy.name)):
            some += page
            if len(some) >= size:
                yield some
                some = []
        yield some

    def _raise(self, seen: Look, records: Iterable[tuple[Policy, Stored]]) -> None:
        """Notes in the due index what these records promise."""
        now, raised = self._vault.now(), {}
        for policy, stored in records:
            quiet = quiet_until(policy, stored.record, now)
            if quiet > now:
                checked = last_check(stored.record)
                brief = None if stored.ahead else gist.of(stored.record)
                kept = gist.kept(brief) if brief else None
                raised[policy.name] = Entry(policy.digest, stored.version, quiet, checked, kept)
        self._index.raise_(seen, raised)

    def _sort(
        self, policy: Policy, answer: Answer, checking: Checking, now: datetime, work: Agenda
    ) -> None:
        """Puts one policy where it belongs: to be worked on, to be checked, waiting for its back-off, or quiet."""
        # The run will be patient with it, and say what it is.
        if isinstance(answer, Failure):
            work.tasks.append(self._task(policy, None, now))
            return
        record = answer.record if answer else Record.new(policy.name)
        there_is = due.at_a_tick(policy, record, now)
        waits = None if there_is.always else record.waits_until(policy.digest, now)
        check_at = checking.next(policy, last_check(record))
        if record.drifted is not None and record.underway is None:
            check_at = max(record.drifted.again_at, now if waits is None else waits.retry_at or now)
        if waits is not None and (there_is.now or now >= check_at):
            work.later(_waiting(policy, waits), waits.retry_at)
        elif there_is.now == {"look"}:
            order = Order("repair", reason="a request whose answer was lost may still land")
            work.tasks.append(Task(policy, order, (3, 0.0), check=True))
        elif there_is.now:
            work.tasks.append(self._task(policy, record, now))
        elif now >= check_at:
            order = Order("repair", reason="drift check")
            late = (check_at - now).total_seconds()
            work.checks.append(Task(policy, order, (3, late), check=True))
        elif record.drifted is not None:
            work.later(drifted(policy.name, check_at), check_at)
        elif answer is not None and answer.ahead and record.current is not None:
            # Whatever writes the record puts it right.
            order = Order("repair", reason="a time in the record was ahead")
            work.tasks.append(Task(policy, order, (3, 0.0), check=True))
        else:
            until = min(there_is.next, reading(policy.name, now), check_at)
            work.later(_quiet(policy, record), until)

    def _task(self, policy: Policy, record: Record | None, now: datetime) -> Task:
        known = record or Record.new(policy.name)
        late = due.outlived(known, now, policy.grace)
        warning = f"a replaced key outlived its grace by {late}: ticks come too seldom for it"
        return Task(
            policy,
            due.SCHEDULE,
            due.urgency(policy, record, now),
            issues=record is not None and due.begins_with_a_key(policy, record, now),
            overdue=due.is_overdue(policy, known, now),
            stuck=due.is_stuck(known, now),
            alone=self.is_own(policy),
            warnings=(warning,) if late else (),
        )

    def is_own(self, policy: Policy) -> bool:
        """Whether the policy publishes the rotator's own key."""
        place = self._settings.ecgrid.api_key_vault
        return place is not None and any(
            (f"{to.mount}/{to.path}", to.field) == place for to in policy.destinations
        )

    def _affordable(self, checks: list[Task]) -> int:
        """How many drift checks a tenth of ECGrid's rate allows since the last time; sorts the longest due first."""
        every, now = self._settings.check_every.total_seconds(), self._boot()
        span = every if self._checked_at is None else min(every, now - self._checked_at)
        self._checked_at = now
        share = span * self._settings.ecgrid.rate * CHECK_SHARE / CHECK_REQUESTS
        most = max(1.0, every * self._settings.ecgrid.rate * CHECK_SHARE / CHECK_REQUESTS)
        self._checks_left = min(self._checks_left + share, most)
        checks.sort(key=lambda task: task.urgency)
        afforded = min(len(checks), int(self._checks_left))
        self._checks_left -= afforded
        return afforded


def _vouching(entry: Entry | None, now: datetime) -> Entry | None:
    """The entry, unless its instant has come, or lies further ahead than it would be written."""
    if entry is None or not now < entry.quiet_until <= now + TRUSTED + GUARD:
        return None
    return entry


def _waiting(policy: Policy, waits: Failed) -> Result:
    """What a tick says of a policy that waits for the end of a back-off."""
    again = Waits(waits)
    return Result(policy.name, "failed", phase=waits.phase, error=Cause.of(again))


def _quiet(policy: Policy, record: Record) -> Result:
    """What a tick says of a policy that needs nothing."""
    return Result(policy.name, "not-due").standing(policy, record)
