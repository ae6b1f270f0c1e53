"""How policies stand, as a value that everybody who shows it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

# One policy, as `status --json` shows it.
Row = Mapping[str, Any]


def is_too_old(row: Row) -> bool:
    """Whether the key is older than its policy allows, also while the policy is paused, or failed then."""
    age, most = row["key_age_s"], row["max_age_s"]
    return row["state"] == "overdue" or bool(most and age is not None and age > most)


class HistoryLine(NamedTuple):
    """One thing that was done to a policy: when it began (RFC 3339), what came of it, and all else in words."""

    at: str
    outcome: str
    details: str


@dataclass(frozen=True)
class Standing:
    """How the policies stood at `at`, by Vault's time: the rows of `status --json`, and how many keys each owes."""

    at: datetime
    rows: Sequence[Row] = ()
    # Keys still to be retired, by policy.
    debts: Mapping[str, int] = field(default_factory=dict)
    # Owner (empty: none) and tags, by policy.
    whose: Mapping[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
