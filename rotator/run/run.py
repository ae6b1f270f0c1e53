"""One run over one policy: what it has seen, its claim, what it holds in hand, and what came of it.

Each of these has its owner, which alone writes it and says the rules that it keeps: `sight.py` (the record, and every
check-and-set on it), `fence.py` (the claim), `patience.py` (the deadline), `hand.py`, and `outcome.py`.

Keeps: truth is outside (6).
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from rotator.due import Order
from rotator.ecgrid import Account, Urgency
from rotator.errors import AnswerLost, FenceLost, Refused, Transient
from rotator.journal import Record, Underway
from rotator.keys import ApiKey, Issue, Secret, Verify, Visibility
from rotator.policy import Destination, Policy
from rotator.run.deadline import FIRST_PAUSE, LONGEST_PAUSE, Patience
from rotator.run.fence import Fence
from rotator.run.hand import Hand, Holding, Known
from rotator.run.needs import World
from rotator.run.outcome import Outcome
from rotator.run.sight import Sight

T = TypeVar("T")

CONTENDED = "rotation.Contended"


@dataclass
class Run:
    """One run, with its parts."""

    policy: Policy
    order: Order
    world: World
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    phase: str = "observe"
    # What only one step knows, and a later one needs; each is written by that step's module alone.
    # Issuing requests beyond the first of a rotation.
    asked_again: int = 0
    # How this run has failed, if it is held back after a lost answer.
    lost: Transient | None = None
    issued_at: float = 0.0
    # What the first destination showed before this run published.
    replaced: ApiKey | None = None
    # That key was accepted before the claim.
    accepted: bool = False
    restarts: int = 0

    def __post_init__(self) -> None:
        self.outcome, self.holding = Outcome(), Holding()
        self.patiently = Patience(self.world)
        self.sight = Sight(self.policy, self.order, self.world, self.patiently, self.warn)
        self.claim = Fence(self.id, self.world, self.sight, self.patiently)
        self._urgency = Urgency.CHECK if self.order.what == "repair" else Urgency.ROTATION
        self._accounts: dict[tuple[Issue, Verify], Account] = {}

    # what is there

    @property
    def record(self) -> Record:
        """The record as it was read or written last."""
        return self.sight.record

    @property
    def underway(self) -> Underway | None:
        """The rotation that is open, if this run holds the claim on it."""
        return self.record.underway if self.claim.mine else None

    @property
    def rotation(self) -> Underway:
        """The open rotation; raises FenceLost if there is none any more."""
        if self.record.underway is None:
            raise FenceLost("the rotation was settled by another run")
        return self.record.underway

    @property
    def hand(self) -> Hand:
        """What it has in hand of the open rotation."""
        return self.holding.hand

    @property
    def in_hand(self) -> Known:
        """The new key, whose value is known; raises FenceLost if this run has none."""
        if isinstance(self.hand, Known):
            return self.hand
        raise FenceLost("this run has no key in hand")

    @property
    def main(self) -> Destination:
        """The first destination: what it shows is what is published."""
        return self.policy.destinations[0]

    @property
    def issuing_call(self) -> Issue:
        """The call that the open rotation issues by, else the policy's: which may have changed since."""
        open_one = self.record.underway
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
        """How long a replaced key stays valid, by this run's order.

        Whoever finishes another's rotation has an order of its own: what depends on the kind asks `underway.kind`.
        """
        if self.order.retire_now:
            return timedelta(0)
        return self.order.grace if self.order.grace is not None else self.policy.grace

    def now(self) -> datetime:
        """The Vault server's time."""
        return self.world.vault.now()

    def enter(self, phase: str) -> None:
        """What follows is of that phase: it is named where it fails."""
        self.phase = phase

    def observe(self) -> None:
        """Reads what is recorded, and forgets what was seen before."""
        self.sight.read()

    def start_again(self) -> None:
        """After a lost fence: everything is read anew."""
        self.set_aside()
        self.restarts += 1
        # It may have been frozen past its deadline, and has to clean up.
        if self.restarts == 1:
            self.patiently.allow(self.world.deadline)
        if self.patiently.is_over:
            raise Transient(
                "other runs, or other writers, keep changing the record; the next run goes on",
                kind=CONTENDED,
            )
        pause = min(FIRST_PAUSE * 2**self.restarts, LONGEST_PAUSE)
        self.world.clock.sleep(pause * random.uniform(0.5, 1.0))
        self.claim.lost()
        # The page observes anew.
        self.sight.overtaken()

    def set_aside(self) -> None:
        """Puts the rotation that was open out of mind; a key that this run issued for it is not forgotten."""
        underway = self.record.underway
        self.holding.set_aside(underway.run if underway else None)
        # As it was then; what is now, only another look tells.
        if self.sight.sync == "drifted":
            self.sight.doubt()

    def within(self) -> float:
        """How long a request that changes nothing may take."""
        return self.patiently.within()

    def within_claim(self) -> float:
        """How long the next request may take that makes a key or ends one: no longer than the claim.

        Raises TimeInDoubt while Vault's time is, and else as `Fence.fenced`: a doubt may have come up since the claim.
        """
        self.world.vault.kv.sure_of_time()
        return self.claim.fenced(self.world.timeout)

    # asking ECGrid

    def probe(self, value: Secret) -> int:
        """Whose key that is, as ECGrid answers a call made with it; raises Refused if it is not accepted."""
        return self.account.who_am_i(self.within(), caller=value).user_id

    def answers_as(self, value: Secret) -> int | None:
        """The same, with patience; None if it is refused."""
        try:
            return self.patiently(lambda: self.probe(value))
        except Refused:
            return None

    def warn(self, text: str) -> None:
        """A text for the result; once."""
        self.outcome.warn(text)

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
