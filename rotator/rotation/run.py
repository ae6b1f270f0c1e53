"""One run over one policy: what it has seen, what it holds in memory, and the rules that every step obeys.

The rules are the fence (nobody issues, publishes or retires unless its claim outlives the request), patience (what is
transient is tried again until the deadline), and the record (every change of it is a check-and-set that only one run
can win).
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypeVar

from rotator.ecgrid import Account, Urgency
from rotator.errors import AnswerLost, FenceLost, Gone, Transient
from rotator.journal import Claim, Failed, Record, Underway
from rotator.keys import ApiKey, Issue, Secret, Verify, Visibility
from rotator.policy import Destination, Policy
from rotator.rotation.due import Order, depends_on_shown
from rotator.rotation.hand import Hand, Known, Nothing, Orphan, Proved, Unproved
from rotator.rotation.right import Free, Right
from rotator.vault import At, Published, Staged, StaleRead, Stored, Vault

T = TypeVar("T")

MARGIN = 1.0  # seconds of the claim that are never used: Vault's clock tells whole seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
CONTENDED = "rotation.Contended"

# What this run knows of whether Vault holds what ECGrid accepts: nothing; that it is to be looked at, whatever was
# ordered; it has looked; it does not, so that a repair is wanted.
Sync = Literal["unknown", "doubted", "looked", "drifted"]


class Clock(Protocol):
    """Time as it enters the rotation; both count on while the machine sleeps."""

    def boot(self) -> float:
        """Seconds since some fixed moment."""

    def sleep(self, seconds: float) -> None:
        """Waits."""


class Report(Protocol):
    """Where a run tells what it does: an event's name and fields that may be logged."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


class Whose(Protocol):
    """Whose ECGrid this is, and whose credential the rotator uses."""

    def mark(self) -> str:
        """The mark that this ECGrid's records bear; empty while it is not proved that they are about it."""

    def is_ours(self, mark: str) -> bool:
        """Whether a record that bears this mark, or (empty) none, is about this ECGrid."""

    def own_user(self, within: float) -> int | None:
        """The user of the rotator's own key, asked once for each; None with a login. As `Account.who_am_i` raises."""

    def own_user_if_known(self) -> int | None:
        """The same, without asking anybody: None if it is not known."""

    def refuse_lost(self) -> None:
        """Raises HeldBack if the records of many policies are gone at once."""


@dataclass(frozen=True)
class World:
    """What a rotation needs of the world: storage, network, time, and its limits."""

    vault: Vault
    account: Callable[[Issue, Verify, Urgency], Account]
    whose: Whose
    own_key_from: tuple[str, str] | None  # where that key is read in Vault: MOUNT/PATH, field
    has_login: bool
    clock: Clock
    report: Report
    who: str  # this process, for claims and history
    deadline: float
    claim_ttl: float
    timeout: float  # of one request to ECGrid
    together: Callable[[Sequence[Callable[[], Any]]], list[Any]]
    stopping: Callable[[], bool]
    # Called before each claim: ticks see the policy from now on, whatever the due index said, for as long as it lasts.
    hold: Callable[[], None] = lambda: None
    right: Right = field(default_factory=Free)  # to send issuing requests


@dataclass
class Run:
    """The state of one run; `hand` is what it holds of the open rotation."""

    policy: Policy
    order: Order
    world: World
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    phase: str = "observe"
    stored: Stored | None = None
    staged: Staged | None = None
    hand: Hand = field(default_factory=Nothing)
    asked_again: int = 0  # issuing requests beyond the first of a rotation
    orphan: Orphan | None = None
    fence: float | None = (
        None  # until when the claim is this run's (boot clock); None: not for sure
    )
    outcome: str | None = None
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    began: str | None = None  # the rotation that this run began last
    answered: bool = False  # such a one was issued for and settled: nothing more is wanted
    lost: Transient | None = None  # how this run has failed, if it is held back after a lost answer
    replaced: ApiKey | None = None  # what the first destination showed before this run published
    issued_at: float = 0.0
    restarts: int = 0
    stale: StaleRead | None = None  # a read that lagged behind this process' writes to the end
    sync: Sync = "unknown"
    accepted: bool = False  # the key that is to be replaced was, before the claim
    failing: Failed | None = None  # the failure that the record told of when this run came
    ended: list[int | None] = field(default_factory=list)  # the keys that it has ended

    def __post_init__(self) -> None:
        self.started = self.world.clock.boot()
        self.deadline = self.started + self.world.deadline
        self._urgency = Urgency.CHECK if self.order.what == "repair" else Urgency.ROTATION
        self._accounts: dict[tuple[Issue, Verify], Account] = {}
        self._seen: dict[Destination, Published | None] = {}

    # what is there

    @property
    def record(self) -> Record:
        """The record as last read or written; a new one as long as none was read."""
        return self.stored.record if self.stored else Record.new(self.policy.name)

    @property
    def _version(self) -> int:
        return self.stored.version if self.stored else 0

    @property
    def underway(self) -> Underway | None:
        """The rotation that is open, if this run holds the claim on it."""
        return self.record.underway if self.mine else None

    @property
    def rotation(self) -> Underway:
        """The open rotation; raises FenceLost if there is none any more."""
        if self.record.underway is None:
            raise FenceLost("the rotation was settled by another run")
        return self.record.underway

    @property
    def in_hand(self) -> Known:
        """The new key, whose value is known; raises FenceLost if this run has none."""
        if isinstance(self.hand, Known):
            return self.hand
        raise FenceLost("this run has no key in hand")

    @property
    def mine(self) -> bool:
        """Whether this run holds the claim."""
        claim = self.record.claim
        return self.fence is not None and claim is not None and claim.holder == self.id

    @property
    def others_claim(self) -> Claim | None:
        """The claim of another run, while it holds: what needs one is that run's to do."""
        return self.record.claimed_by_other(self.id, self.now())

    @property
    def main(self) -> Destination:
        """The first destination: what it shows is what is published."""
        return self.policy.destinations[0]

    @property
    def issuing_call(self) -> Issue:
        """The call that the open rotation issues by, else the policy's: which may have changed since."""
        open_one = self.stored.record.underway if self.stored else None
        return open_one.issue if open_one is not None else self.policy.issue

    @property
    def generates(self) -> bool:
        """Whether that is the call whose keys have no ids, and which ends the key before at once."""
        return self.issuing_call is Issue.GENERATE

    @property
    def reading_call(self) -> Verify:
        """The policy's reading call; for a rotation of the other family, the one of that family on the same surface."""
        verify = self.policy.verify
        changed = self.generates is not (self.policy.issue is Issue.GENERATE)
        return (
            verify.of_other_family if changed and verify.shows_record is self.generates else verify
        )

    @property
    def account(self) -> Account:
        """ECGrid, as the open rotation asks it; its family of calls is finished in, whatever the policy says now."""
        issue, verify = self.issuing_call, self.reading_call
        if (issue, verify) not in self._accounts:
            self._accounts[issue, verify] = self.world.account(issue, verify, self._urgency)
        return self._accounts[issue, verify]

    def ask_as(self, urgency: Urgency) -> None:
        """From here on ECGrid is asked with that urgency."""
        self._urgency = urgency
        self._accounts.clear()

    @property
    def grace(self) -> timedelta:
        """How long a replaced key stays valid."""
        if self.order.retire_now:
            return timedelta(0)
        return self.order.grace if self.order.grace is not None else self.policy.grace

    def now(self) -> datetime:
        """The Vault server's time."""
        return self.world.vault.now()

    def observe(self) -> None:
        """Reads what is recorded, and forgets what was seen before."""
        vault, name = self.world.vault, self.policy.name
        self._seen.clear()
        self.stored = self._ours(self._record() or Stored(Record.new(name), 0))
        if self.stored.ahead:
            self.warn(
                f"a time in the record is {self.stored.ahead} ahead of Vault: it counts as now"
            )
        self.failing = self.failing or self.record.failed
        self.staged = None
        if self.record.underway is not None:
            self.staged = self.patiently(lambda: vault.staged(name))
        if depends_on_shown(self.policy, self.record, self.order, self.now()):
            self.seen(self.main)

    def _ours(self, stored: Stored) -> Stored:
        """The record; a new start where it is about another ECGrid, whose keys it speaks of."""
        record = stored.record
        if stored.version == 0 or self.world.whose.is_ours(record.ecgrid):
            return stored
        dropped = ", ".join(str(debt.key_id) for debt in record.retiring) or "none"
        self.warn(
            "the record is about another ECGrid, and this is a new start: what it knew of keys there is forgotten "
            f"(still to be retired there: {dropped})"
        )
        new = Record.new(record.policy)
        return Stored(new.change(claim=record.claim, hold=record.hold), stored.version)

    def _record(self) -> Stored | None:
        """The record; one that was deleted is not one that never was, and only `adopt` builds it anew."""
        try:
            return self.patiently(lambda: self.world.vault.record(self.policy.name))
        except Gone as error:
            if self.order.what != "adopt":
                raise
            gone = error
        self.warn(
            "the record was deleted and is built anew: keys that were to be retired are forgotten"
        )
        return Stored(Record.new(self.policy.name), gone.version)

    def start_again(self) -> None:
        """After a lost fence: everything is read anew."""
        self.set_aside()
        self.restarts += 1
        if (
            self.restarts == 1
        ):  # it may have been frozen past its deadline, and still has to clean up
            self.deadline = max(self.deadline, self.world.clock.boot() + self.world.deadline)
        if self.world.clock.boot() > self.deadline:
            raise Transient(
                "other runs, or other writers, keep changing the record; the next run goes on",
                kind=CONTENDED,
            )
        pause = min(FIRST_PAUSE * 2**self.restarts, LONGEST_PAUSE)
        self.world.clock.sleep(pause * random.uniform(0.5, 1.0))
        self.stored, self.fence = None, None  # the page observes anew

    def set_aside(self) -> None:
        """Puts the rotation that was open out of mind; a key that this run issued for it is not forgotten."""
        if isinstance(self.hand, Unproved | Proved) and self.hand.came == "answered":
            underway = self.record.underway
            self.orphan = Orphan(self.hand.key, underway.run if underway else None)
        self.forget()
        if self.sync == "drifted":  # as it was then; what is now, only another look tells
            self.sync = "doubted"

    def forget(self) -> None:
        """Puts the rotation that was open out of mind: it is settled, or another run's."""
        self.hand = Nothing()

    def seen(self, to: Destination) -> Published | None:
        """What a destination shows, read once until something changes it."""
        if to not in self._seen:
            self._seen[to] = self._published(to)
        return self._seen[to]

    def last_seen(self, to: Destination) -> Published | None:
        """What a destination showed when it was read last; asks nobody."""
        return self._seen.get(to)

    def _published(self, to: Destination) -> Published | None:
        at, gone = At(to.mount, to.path), None
        try:
            return self.patiently(lambda: self.world.vault.published(to))
        except Gone as error:
            gone = error
        if self.order.what == "adopt":
            return Published.nothing(at, gone.version)
        nothing = "" if self.record.underway else ". Nothing was issued"
        raise Gone(
            f"the secret {at} was deleted in Vault (version {gone.version}). Undelete that version, or publish the "
            f"present key there again by `rotator adopt {self.policy.name}`{nothing}",
            version=gone.version,
        )

    def look_again(self, to: Destination) -> Published | None:
        """What a destination shows now."""
        self._seen.pop(to, None)
        return self.seen(to)

    def covers(self, key: Secret, to: Destination) -> bool:
        """Whether a destination shows that value."""
        there = self.seen(to)
        return there is not None and there.value is not None and there.value == key

    def lags(self, to: Destination) -> bool:
        """Whether a destination shows an older version than the record says was written there."""
        there = self.seen(to)
        written = [
            place.version or 0
            for place in self.record.places
            if (place.mount, place.path) == (to.mount, to.path)
        ]
        return (there.version if there else 0) < max(written, default=0)

    # the rules

    def patiently(self, call: Callable[[], T], *, until: float | None = None) -> T:
        """Calls, and calls again while that raises Transient, with back-off, jitter and the other side's own wish.

        Raises the last error once the next try would start after `until` (boot clock; default: the deadline).
        """
        clock, until = self.world.clock, self.deadline if until is None else until
        pause = FIRST_PAUSE
        while True:
            try:
                return call()
            except Transient as error:
                trouble = error
            wait = max(trouble.retry_after or 0.0, pause * random.uniform(0.5, 1.0))
            if clock.boot() + wait > until:
                raise trouble
            self.world.report("rotation.retry", error=trouble.kind, wait_s=round(wait, 2))
            clock.sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE)

    def note(self, record: Record) -> None:
        """Changes the record in memory only; it is written with the next change that is."""
        self.stored = Stored(record, self._version)

    def save(self, record: Record) -> None:
        """Writes the record under this run's claim, which is thereby renewed; raises FenceLost."""
        self.patiently(self.world.hold)
        began = self.world.clock.boot()
        until = self.now() + timedelta(seconds=self.world.claim_ttl)
        self._write(record.change(claim=Claim(holder=self.id, by=self.world.who, until=until)))
        self.fence = began + self.world.claim_ttl

    def give_back(self, record: Record) -> None:
        """Writes the record and gives the claim back with it; raises FenceLost."""
        self._write(record.change(claim=None))
        self.fence = None

    def _write(self, record: Record) -> None:
        record = record.change(
            nonce=secrets.token_hex(8), ecgrid=self.world.whose.mark() or record.ecgrid
        )
        over = self._version
        self.stored = self.patiently(lambda: self.world.vault.save(record, over))

    def fenced(self, seconds: float) -> float:
        """How long the next request that destroys or shows something may take: no longer than the claim.

        Renews the claim first if it would not outlive the request; raises FenceLost if another run has taken over.
        """
        if not self.mine:
            raise FenceLost("the claim is not this run's")
        if self._claim_left() < seconds:
            self.save(self.record)
        left = self._claim_left()
        if left <= 0:
            raise FenceLost("the claim ended before the request could be sent")
        return min(seconds, left)

    def _claim_left(self) -> float:
        """Seconds of the claim that may be used."""
        return (self.fence or 0.0) - self.world.clock.boot() - MARGIN

    def within(self) -> float:
        """How long a request that changes nothing may take."""
        return max(1.0, min(self.world.timeout, self.deadline - self.world.clock.boot()))

    # asking ECGrid

    def probe(self, value: Secret) -> int:
        """Whose key that is, as ECGrid answers a call made with it; raises Refused if it is not accepted."""
        return self.account.who_am_i(self.within(), caller=value).user_id

    def warn(self, text: str) -> None:
        """A text for the result; once."""
        if text not in self.warnings:
            self.warnings.append(text)

    # which user's key

    def target(self, kind: str = "rotate") -> tuple[int, Visibility]:
        """The user and visibility whose key comes next: with `users`, the one that is not published; a repair stays."""
        users, current = self.policy.users, self.record.current
        if current is None or current.user_id not in users:
            return users[0], self.policy.visibility
        if kind == "repair":
            return current.user_id, current.visibility
        return users[(users.index(current.user_id) + 1) % len(users)], self.policy.visibility


def unknown_if_lost(call: Callable[[], T]) -> Callable[[], T | AnswerLost]:
    """`call`, with a lost answer returned instead of raised: it must not be repeated as a transient failure is."""

    def attempt() -> T | AnswerLost:
        try:
            return call()
        except AnswerLost as lost:
            return lost

    return attempt
