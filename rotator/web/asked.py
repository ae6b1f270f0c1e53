"""What the address of the status page asks for: `/?q=edi&state=failed&sort=age`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from rotator.reporting.rows import Row, State
from rotator.web.view import View

# What a state means for whoever looks, the most alarming first; the mark says it without colour.
STATES: Mapping[State, tuple[str, str, str]] = {
    "overdue": ("bad", "!", "older than its maximum age"),
    "failed": ("bad", "✕", "the last rotation failed"),
    "not-adopted": ("warn", "?", "no key of this policy is published yet"),
    "due": ("warn", "…", "its time has come"),
    "rotating": ("busy", "↻", "a rotation is under way"),
    "paused": ("off", "‖", "held by a person, or not enabled"),
    "ok": ("good", "✓", "nothing to do"),
}
# Before all times, and after all.
NEVER, AT_NO_TIME = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
URGENCY = {state: number for number, state in enumerate(STATES)}


@lru_cache(maxsize=16384)
def natural(name: str) -> tuple[str | int, ...]:
    """What names are ordered by so that p2 comes before p10."""
    parts: list[str | int] = [*re.split("([0-9]+)", name)]
    parts[1::2] = [int(number) for number in parts[1::2]]
    return tuple(parts)


def _by_share(row: Row) -> float:
    """How much of its maximum age is used up; a key without one sorts last."""
    age, most = row.key_age, row.max_age
    return -(age / most) if age is not None and most else 1.0


# By what the rows may be ordered: the column's name, and its key; among equals the name counts.
ORDERS: Mapping[str, tuple[str, Callable[[Row], Any]]] = {
    "state": ("State", lambda row: (URGENCY[row.state], _by_share(row))),
    "policy": ("Policy", lambda row: 0),
    "age": ("Age of the key", _by_share),
    "last": ("Last rotation", lambda row: row.last_rotated_at or NEVER),
    "next": ("Next rotation", lambda row: row.next_due_at or AT_NO_TIME),
}


@dataclass(frozen=True)
class Asked:
    """What the address asks for; what it asks for in vain is ignored."""

    text: str = ""
    state: str = ""
    sort: str = "state"
    everything: bool = False

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Asked:
        """From the parts of a query."""
        state, sort = query.get("state", ""), query.get("sort", "state")
        return cls(
            query.get("q", "")[:200],
            state if state in STATES else "",
            sort if sort in ORDERS else "state",
            query.get("show") == "all",
        )

    @property
    def address(self) -> str:
        """The address that asks for this."""
        parts = {
            "q": self.text,
            "state": self.state,
            "sort": self.sort if self.sort != "state" else "",
        }
        parts["show"] = "all" if self.everything else ""
        return "/?" + urlencode({name: value for name, value in parts.items() if value})

    def but(self, **changes: str | bool) -> str:
        """The address that asks for the same, but for that."""
        return replace(self, **changes).address  # type: ignore[arg-type]

    def choose(self, view: View) -> list[Row]:
        """The rows that are asked for, in that order."""
        words = self.text.lower().split()
        rows = [
            row
            for row in view.standing.rows
            if (not self.state or row.state == self.state)
            and all(word in _searched(row, view) for word in words)
        ]
        key = ORDERS[self.sort][1]
        return sorted(rows, key=lambda row: (key(row), natural(row.policy)))


def _searched(row: Row, view: View) -> str:
    kind = row.last_failure.kind if row.last_failure else ""
    owner = view.owners.get(row.policy, "")
    return f"{row.policy} {row.user_id} {row.key_id} {owner} {row.state} {kind}".lower()
