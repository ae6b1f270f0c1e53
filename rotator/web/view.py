"""What is shown, as plain values: this room knows nothing of where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from rotator.reporting.rows import HistoryLine, Standing


class Health(NamedTuple):
    """One thing that has to be well, whether it is, and if not, why, and what to do."""

    name: str
    ok: bool
    why: str = ""


class Owed(NamedTuple):
    """A key that is still to be retired, at `due_at` at the earliest; `waits`: why it could not be yet."""

    key_id: int
    # `replaced`, or `stray`.
    why: str
    due_at: datetime
    waits: str | None = None


@dataclass(frozen=True)
class View:
    """What the status page shows.

    How the policies stand; where this is, as words by what they name; and by policy who owns it, how many rotations
    come on each day (UTC) from that of `standing.at` on, and which keys it owes. `held` is why issuing is held back
    for all, by kind of error. `history` tells the last lines of a policy's, the newest first.
    """

    standing: Standing
    places: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    ahead: Mapping[str, Sequence[int]] = field(default_factory=dict)
    owed: Mapping[str, Sequence[Owed]] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    history: Callable[[str], Sequence[HistoryLine]] = lambda _policy: ()


@dataclass(frozen=True)
class Site:
    """Where what is shown comes from. Each is asked at every request, by any thread, and must answer at once."""

    alive: Callable[[], Sequence[Health]]
    ready: Callable[[], Sequence[Health]]
    metrics: Callable[[], bytes]
    view: Callable[[], View]
