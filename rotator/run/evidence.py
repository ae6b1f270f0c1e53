"""What the history is told: a line for each rotation, for each key that was ended, and for what failed.

The rule: a line is written with the very change that it tells of, so that neither is there without the other.

Keeps: never silent (4).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rotator.journal import (
    ADOPTION,
    REPAIR,
    RETIREMENT,
    ROLLBACK,
    ROTATION,
    Debt,
    Past,
    Place,
    Record,
    changes,
)
from rotator.journal import Underway as Open
from rotator.keys import ApiKey
from rotator.run.outcome import Word
from rotator.run.run import Run

OF_KIND = {"rotate": ROTATION, "adopt": ADOPTION, "repair": REPAIR, "rollback": ROLLBACK}
OF_ORDER = {**OF_KIND, "schedule": ROTATION, "demand": ROTATION}
WHY = {"replaced": "its grace is over", "stray": "it was issued, and never to be published"}


def settled(run: Run, key: ApiKey, outcome: Word, places: tuple[Place, ...], now: datetime) -> Past:
    """The open rotation, as it is closed with that key."""
    underway, current = run.rotation, run.record.current
    return Past(
        at=underway.began,
        duration_s=_seconds(now - underway.began),
        outcome=outcome,
        reason=underway.reason,
        by=underway.by,
        run=run.id,
        user_id=key.ref.user_id,
        key_id=key.ref.key_id,
        previous_key_id=current.key_id if current else None,
        published=tuple(place for place in places if place.version),
        rotation=underway.run,
        what=OF_KIND[underway.kind],
    )


def ended(run: Run, user_id: int, key_id: int | None, reason: str, proof: str) -> Record:
    """The record, with a key that was ended and how that was proved; a leaked one for the reason that was given."""
    past = Past(
        at=run.now(),
        duration_s=0.0,
        outcome="retired",
        reason=run.order.reason if run.order.retire_now else reason,
        by=run.world.who,
        run=run.id,
        user_id=user_id,
        previous_key_id=key_id,
        what=RETIREMENT,
        proof=proof,
    )
    return run.record.remembering(past)


def retired(run: Run, debt: Debt, proof: str) -> Record:
    """The record without that debt, which was paid."""
    record = ended(run, debt.user_id, debt.key_id, WHY[debt.why], proof)
    return changes.ended(record, debt.key_id)


def failed(run: Run, record: Record, error: str) -> Record:
    """The record, with this run's failure: of what is open or was closed by it, else of what it was to do."""
    underway: Open | None = run.record.underway
    took = timedelta(seconds=run.world.clock.boot() - run.patiently.started)
    past = Past(
        at=run.now() - took,
        duration_s=_seconds(took),
        outcome="failed",
        reason=underway.reason if underway else run.order.reason,
        by=underway.by if underway else run.world.who,
        run=run.id,
        user_id=underway.user_id if underway else run.target()[0],
        error=error,
        rotation=underway.run if underway else "",
        what=_about(run, underway),
    )
    return record.remembering(past, by_itself=run.order.what in ("schedule", "repair"))


def rotation_of(run: Run) -> str | None:
    """The id of the rotation that is open, else of the one that this run has closed last; None if there is none."""
    if run.sight.stored is None:
        return None
    record = run.sight.stored.record
    if record.underway is not None:
        return record.underway.run
    closed = (past.rotation for past in reversed(record.history) if past.run == run.id)
    return next(filter(None, closed), None)


def _about(run: Run, underway: Open | None) -> str:
    if run.phase == "retire":
        return RETIREMENT
    return OF_KIND[underway.kind] if underway else OF_ORDER[run.order.what]


def _seconds(span: timedelta) -> float:
    return round(span.total_seconds(), 3)
