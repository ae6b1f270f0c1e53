"""The last lines of each policy's history, for the status page: packed, since few of ten thousand are looked at."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime

from rotator.journal import RETIREMENT, Past
from rotator.reporting.rows import HistoryLine

LINES = 10


class Pasts:
    """The histories as they were read last. May be used by any number of threads."""

    def __init__(self) -> None:
        self._packed: dict[str, bytes] = {}

    def saw(self, policy: str, history: Sequence[Past]) -> None:
        """A record was read, with that history."""
        lines = [_line(past) for past in reversed(history[-LINES:])]
        self._packed[policy] = zlib.compress(json.dumps(lines).encode(), 1)

    def of(self, policy: str) -> list[HistoryLine]:
        """The last LINES of a policy, the newest first."""
        packed = self._packed.get(policy)
        lines = json.loads(zlib.decompress(packed)) if packed else []
        return [
            HistoryLine(datetime.fromisoformat(began), outcome, details)
            for began, outcome, details in lines
        ]


def _line(past: Past) -> tuple[str, str, str]:
    outcome = f"{past.about} failed" if past.failed else past.outcome
    return past.at.isoformat(), outcome, "; ".join(_details(past))


def _details(past: Past) -> Iterator[str]:
    """What `history` tells of it, as far as there is something to tell."""
    if past.key_id is not None:
        yield f"key {past.key_id}"
    if past.previous_key_id is not None:
        yield f"{'ended' if past.about == RETIREMENT else 'replaces'} key {past.previous_key_id}"
    yield from (f"{one.mount}/{one.path} v{one.version}" for one in past.published)
    yield from filter(None, (past.error or past.reason, past.proof))
    yield f"by {past.by}, run {past.run}"
