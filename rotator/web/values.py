"""What is shown, as plain values: this room knows nothing of where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from rotator.reporting.standing import Standing


@dataclass(frozen=True)
class Health:
    """One thing that has to be well, whether it is, and if not, why, and what to do."""

    name: str
    ok: bool
    why: str = ""


@dataclass(frozen=True)
class View:
    """What the status page shows: how the policies stand, who owns them, and the rotations of the next 30 days."""

    standing: Standing
    owners: Mapping[str, str] = field(default_factory=dict)
    ahead: Sequence[tuple[datetime, str]] = ()  # when, policy
    held: Sequence[str] = ()  # why issuing is held back for all


@dataclass(frozen=True)
class Site:
    """Where what is shown comes from. Each is asked at every request, by any thread, and must answer at once."""

    alive: Callable[[], Sequence[Health]]
    ready: Callable[[], Sequence[Health]]
    metrics: Callable[[], bytes]
    view: Callable[[], View]
