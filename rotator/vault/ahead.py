"""Times in a record that are ahead of Vault: a clock was wrong then, and they count as now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rotator.journal import WATCH, Held, Record

# That a time may be ahead of Vault's.
ALLOWED = timedelta(minutes=5)
# Of a back-off.
LONGEST_WAIT = timedelta(hours=1)
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def as_of(record: Record, now: datetime, claim_ttl: timedelta) -> tuple[Record, timedelta]:
    """The record with what is too far ahead of Vault counting as now, and how far ahead it was (0: nothing was).

    What has happened cannot lie ahead; what was counted from a time that is ahead comes as much sooner. A claim may
    last no longer than one that is taken now, and a back-off no longer than the longest.
    """
    lead = max(_past(record), default=now) - now
    wrong = timedelta(0)
    if lead > ALLOWED:
        record, wrong = _moved(record, now, lead), lead
    claim, failed, watch = record.claim, record.failed, record.watch_until
    if claim is not None and claim.until - now > claim_ttl + ALLOWED:
        wrong = max(wrong, claim.until - now)
        record = record.change(claim=claim.model_copy(update={"until": now}))
    if failed is not None and failed.retry_at and failed.retry_at - now > LONGEST_WAIT + ALLOWED:
        wrong = max(wrong, failed.retry_at - now)
        record = record.change(failed=failed.model_copy(update={"retry_at": now}))
    if watch is not None and watch - now > WATCH + ALLOWED:
        wrong = max(wrong, watch - now)
        record = record.change(watch_until=now)
    return record, wrong


def _past(record: Record) -> list[datetime]:
    """Every time in it that tells of something that has happened."""
    held = [one for one in (record.current, *record.others) if one is not None]
    times = [record.rotated_at, record.checked_at]
    times += [one.published_at for one in held] + [one.began for one in held]
    times += [record.failed.at if record.failed else None]
    times += [record.underway.began if record.underway else None]
    times += [record.hold.at if record.hold else None]
    times += [*record.issued, *(past.at for past in record.history)]
    return [moment for moment in times if moment is not None]


def _moved(record: Record, now: datetime, lead: timedelta) -> Record:
    def past(moment: datetime | None) -> datetime | None:
        return None if moment is None else min(moment, now)

    def ahead(moment: datetime | None) -> datetime | None:
        return None if moment is None else min(moment, max(now, moment - lead))

    def held(one: Held) -> Held:
        times = {"published_at": past(one.published_at), "began": past(one.began)}
        return one.model_copy(update=times)

    claim, failed, underway = record.claim, record.failed, record.underway
    current = held(record.current) if record.current else None
    if underway is not None and underway.began > now:
        # Now would be too late: a key that it made since then has to be known as its own.
        before = record.rotated_at
        since = before if before is not None and before <= now else _LONG_AGO
        underway = underway.model_copy(update={"began": since})
    if underway is not None and underway.debt is not None:
        debt = underway.debt.model_copy(update={"due_at": ahead(underway.debt.due_at)})
        underway = underway.model_copy(update={"debt": debt})
    if failed is not None:
        times = {"at": past(failed.at), "retry_at": ahead(failed.retry_at)}
        failed = failed.model_copy(update=times)
    hold = record.hold
    if hold is not None:
        hold = hold.model_copy(update={"at": past(hold.at), "until": ahead(hold.until)})
    return record.change(
        current=current,
        others=tuple(map(held, record.others)),
        rotated_at=past(record.rotated_at),
        checked_at=past(record.checked_at),
        claim=claim and claim.model_copy(update={"until": ahead(claim.until)}),
        underway=underway,
        failed=failed,
        issued=tuple(min(moment, now) for moment in record.issued),
        retiring=tuple(
            debt.model_copy(update={"due_at": ahead(debt.due_at)}) for debt in record.retiring
        ),
        watch_until=ahead(record.watch_until),
        hold=hold,
        history=tuple(one.model_copy(update={"at": past(one.at)}) for one in record.history),
    )
