"""How policies stand, as values that everybody who shows them is given; times and ages in whole seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal, NamedTuple

from rotator.journal import PreviousKey
from rotator.reporting.about import Owner

State = Literal["overdue", "failed", "not-adopted", "due", "rotating", "paused", "ok"]


class LastFailure(NamedTuple):
    """What failed last: in which phase, why, since when, and when it is tried again; None where nobody knows."""

    phase: str
    kind: str
    message: str
    at: datetime | None = None
    retry_at: datetime | None = None


class Row(NamedTuple):
    """How one policy stands."""

    policy: str
    user_id: int
    state: State
    key_id: int | None = None
    key_age: timedelta | None = None
    max_age: timedelta | None = None
    # What this account does with a replaced key, and when the last one is to end.
    previous_key: PreviousKey | None = None
    previous_key_until: datetime | None = None
    last_rotated_at: datetime | None = None
    next_due_at: datetime | None = None
    # None: not by a hold.
    paused_until: datetime | None = None
    paused_reason: str | None = None
    last_failure: LastFailure | None = None
    hook_problems: Sequence[str] = ()

    @property
    def is_too_old(self) -> bool:
        """Whether the key is older than its policy allows, also while the policy is paused, or failed then."""
        age, most = self.key_age, self.max_age
        return self.state == "overdue" or bool(most and age is not None and age > most)


class HistoryLine(NamedTuple):
    """One thing that was done to a policy: when it began, what came of it, and all else in words."""

    began: datetime
    outcome: str
    details: str


class Standing(NamedTuple):
    """How the policies stood at `at`, by Vault's time: a row for each, and how many keys each owes."""

    at: datetime
    rows: Sequence[Row] = ()
    # Keys still to be retired, by policy.
    debts: Mapping[str, int] = MappingProxyType({})
    # By policy.
    owners: Mapping[str, Owner] = MappingProxyType({})
