"""What a rotation needs of the world: Vault, ECGrid, time, the process that it is part of, and its limits.

The rule: what a run asks of others it asks through this, so that time, network and storage can be any.

Keeps: truth is outside (6).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Unpack

from rotator.ecgrid import Account, Urgency
from rotator.keys import Issue, Verify
from rotator.reporting.events import Fields
from rotator.run.right import Free, Right
from rotator.vault import Vault


class Clock(Protocol):
    """Time as it enters the rotation; both count on while the machine sleeps."""

    def boot(self) -> float:
        """Seconds since some fixed moment."""

    def sleep(self, seconds: float) -> None:
        """Waits."""


class Report(Protocol):
    """Where a run tells what it does: an event's name and fields that may be logged."""

    def __call__(self, event: str, /, **fields: Unpack[Fields]) -> None: ...


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


@dataclass
class Learnt:
    """What the runs of one process have found out of its ECGrid, and need not ask again."""

    # It refuses a key that nobody issued.
    probe_tells: bool = False


@dataclass(frozen=True)
class World:
    """What a rotation needs of the world: storage, network, time, and its limits."""

    vault: Vault
    account: Callable[[Issue, Verify, Urgency], Account]
    whose: Whose
    # Where that key is read in Vault: MOUNT/PATH, field.
    own_key_from: tuple[str, str] | None
    has_login: bool
    clock: Clock
    report: Report
    # This process, for claims and history.
    who: str
    deadline: float
    claim_ttl: float
    # Of one request to ECGrid.
    timeout: float
    together: Callable[[Sequence[Callable[[], Any]]], list[Any]]
    stopping: Callable[[], bool]
    # Called before each claim: ticks see the policy from now on, whatever the due index said, for as long as it lasts.
    hold: Callable[[], None] = lambda: None
    # Called before a change of the record that `status` tells of: nobody is to be told what was.
    lower: Callable[[], None] = lambda: None
    # To send issuing requests.
    right: Right = field(default_factory=Free)
    learnt: Learnt = field(default_factory=Learnt)
