"""What the steps of a rotation change in a record: pure functions, from one record to the next.

Each is named for what has happened; whether it counts is decided by the check-and-set that writes it. The rules that
they keep: a request is counted before it is sent; a key that was issued becomes the current one or a debt, if it has an
id; the key that is replaced becomes a debt in the very change that makes the new one current.

Keeps: never lost (1), never twice (3).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rotator.journal.parts import Debt, Drift, Failed, Held, Past, Place, Underway
from rotator.journal.record import LOOKS, WATCH, Record, known_from
from rotator.keys import ApiKey, KeyRef, Seen

FIRST_BACK_OFF, LONGEST_BACK_OFF = timedelta(seconds=30), timedelta(hours=1)
# While consumers may have a dead key.
LONGEST_IN_TROUBLE = timedelta(minutes=5)
# Failures that no retry mends.
FOR_A_PERSON = ("ecgrid.NotReplaced",)


def _with_open(record: Record, **fields: object) -> Record:
    """With the open rotation changed; as it is where none is open."""
    if record.underway is None:
        return record
    return record.change(underway=record.underway.model_copy(update=fields))


# a rotation is open


def begun(record: Record, underway: Underway, now: datetime, *, beyond_schedule: bool) -> Record:
    """A rotation was begun, and a first request counted, if it begins with one."""
    if underway.sent:
        record = record.counting_issue(now, beyond_schedule=beyond_schedule)
    known = record.knowing(underway.user_id, underway.visibility, underway.baseline)
    return known.change(underway=underway)


def asking(record: Record, now: datetime, *, beyond_schedule: bool) -> Record:
    """One more key is about to be asked for."""
    sent = record.underway.sent + 1 if record.underway else 0
    return _with_open(record.counting_issue(now, beyond_schedule=beyond_schedule), sent=sent)


def asking_again(record: Record, now: datetime, *, beyond_schedule: bool) -> Record:
    """The same after a look in vain: the request before may still land."""
    record = asking(record, now, beyond_schedule=beyond_schedule)
    return _with_open(record, looks=0).change(watch_until=now + WATCH)


def looked_in_vain(record: Record) -> Record:
    """A look could read the user's keys, and found nothing new."""
    looks = record.underway.looks if record.underway else 0
    return _with_open(record, looks=min(looks + 1, LOOKS))


def accounted(record: Record, others: list[Seen], in_doubt: list[Seen], now: datetime) -> Record:
    """New keys that nobody will publish: strays, or (in doubt) perhaps a person's. They are not new any more."""
    strays, underway = [seen for seen in others if seen not in in_doubt], record.underway
    for seen in strays:
        record = record.owing(seen.ref, "stray", now)
    if underway is None:
        return record
    before = {known.key_id for known in underway.baseline}
    more = known_from(record, [seen for seen in others if seen.ref.key_id not in before])
    return _with_open(
        record, baseline=(*underway.baseline, *more), made=underway.made + len(strays)
    )


def given_up(record: Record, key: ApiKey, now: datetime) -> Record:
    """The staged key is a stray: its rotation starts over from looking."""
    underway = record.underway
    if underway is None:
        return record
    known = known_from(record, [Seen(key.ref, key.value)])
    baseline, made = (*underway.baseline, *known), underway.made + 1
    owing = record.owing(key.ref, "stray", now)
    return _with_open(owing, baseline=baseline, made=made, refusals=0)


def refused_once(record: Record) -> Record:
    """The staged key was refused, or taken for another user's: believed at the second time."""
    return _with_open(record, refusals=1)


def is_for(record: Record, user_id: int) -> Record:
    """The key that was found is that user's."""
    return _with_open(record, user_id=user_id)


# it is closed


def settled(
    record: Record,
    underway: Underway,
    key: ApiKey,
    now: datetime,
    *,
    past: Past,
    replaced: KeyRef | None,
    until: datetime,
    places: tuple[Place, ...],
    users: tuple[int, ...],
) -> Record:
    """The key is current, shown at these places; the one that it `replaced`, if it is to be ended, ends at `until`.

    `users` are those whose keys the policy still speaks of, `past` is the line of history.
    """
    visibility = key.ref.visibility or underway.visibility
    closed = record.holding(key, visibility, now, underway.began if underway.sent else None)
    if replaced is not None:
        closed = closed.owing(replaced, "replaced", until)
    return closed.change(
        underway=None,
        others=tuple(held for held in closed.others if held.user_id in users),
        places=places,
        failed=None,
        drifted=None,
        hold=record.held(now),
        issued=record.explained(),
        checked_at=now,
    ).remembering(past)


def closed(record: Record, *, counted: bool = False) -> Record:
    """The rotation has ended without a key; `counted`: with a request that was counted and never sent."""
    return record.change(underway=None, issued=record.issued[:-1] if counted else record.issued)


def failed(
    record: Record,
    now: datetime,
    *,
    phase: str,
    kind: str,
    message: str,
    digest: str,
    may_have_issued: bool,
    wish: float | None,
) -> Record:
    """A run has failed: how often in a row, and when it is tried again: in `wish` seconds at the earliest."""
    last = record.failed
    before = last.attempts if last and last.digest == digest else 0
    well = not may_have_issued and record.drifted is None
    longest = LONGEST_BACK_OFF if well else LONGEST_IN_TROUBLE
    pause = min(longest, FIRST_BACK_OFF * 2 ** min(before, 10))
    wished = timedelta(seconds=min(wish or 0.0, LONGEST_BACK_OFF.total_seconds()))
    return record.change(
        failed=Failed(
            at=now,
            phase=phase,
            kind=kind,
            message=message,
            attempts=before + 1,
            retry_at=None if kind in FOR_A_PERSON else now + max(pause, wished),
            digest=digest,
        )
    )


# what is published


def drifting(record: Record, now: datetime) -> Record:
    """The published key was seen to be refused."""
    since = record.drifted.since if record.drifted else now
    return record.change(drifted=Drift(since=since, probed_at=now))


def filled(record: Record, places: tuple[Place, ...], now: datetime, grace: timedelta) -> Record:
    """Every destination has the key: whatever is owed lives for the grace from now on, and none ends sooner."""
    later = tuple(
        debt.model_copy(update={"due_at": max(debt.due_at, now + grace)})
        for debt in record.retiring
    )
    return record.change(places=places, retiring=later, failed=None)


# what is owed


def all_due(record: Record, now: datetime) -> Record:
    """Every debt is due, and with `users` the other user's published key is one, too."""
    for other in record.others:
        record = record.owing(other.ref, "replaced", now)
    due = tuple(
        debt.model_copy(update={"due_at": min(debt.due_at, now)}) for debt in record.retiring
    )
    nameless = tuple(other for other in record.others if other.key_id is None)
    return record.change(retiring=due, others=nameless)


def put_off(record: Record, debt: Debt) -> Record:
    """That debt waits, as it says."""
    rest = [other for other in record.retiring if other.key_id != debt.key_id]
    return record.change(retiring=(*rest, debt))


def ended(record: Record, key_id: int) -> Record:
    """That key is proved to be refused."""
    known = {
        place: tuple(one for one in keys if one.key_id != key_id)
        for place, keys in record.known.items()
    }
    return record.not_owing(key_id).change(known=known)


def superseded(record: Record, other: Held) -> Record:
    """The other user's key, which has no id, was ended by generating once more."""
    return record.change(others=tuple(held for held in record.others if held is not other))
