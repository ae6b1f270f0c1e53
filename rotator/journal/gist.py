"""What `status` and `plan` tell of a record that is settled, so small that the due index can keep it for thousands.

It is a record itself, with everything else left out: who shows it need not know which of the two it is given. The rule:
where they would tell anything that is not in here, there is no gist, and the record has to be read.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypedDict

from pydantic import ValidationError

from rotator.journal import Record


class Kept(TypedDict, total=False):
    """A gist as JSON has it, without what is not known; times are texts."""

    # Key id, user, visibility; created, published at.
    key: list[int | str | None]
    made: list[str | None]
    rotated: str | None
    # Of each: key id, user, visibility, why, due at.
    debts: list[list[int | str | None]]
    # What becomes of a replaced key, and by which call that is known.
    before: list[str]
    # When, until when, why, by whom.
    hold: list[str | None]
    # The mark of the ECGrid that all this is about.
    of: str


def of(record: Record) -> Record | None:
    """The gist of a record; None if something is open, claimed, refused or failed: only the record tells of that."""
    if record.underway or record.claim or record.failed or record.drifted or record.hook_problems:
        return None
    if any(debt.waits is not None or debt.tried for debt in record.retiring):
        return None
    current = record.current
    return Record(
        policy=record.policy,
        hmac_key="",
        ecgrid=record.ecgrid,
        previous_key=record.previous_key,
        previous_issue=record.previous_issue if record.previous_key else "",
        current=current and current.model_copy(update={"fingerprint": "", "began": None}),
        retiring=record.retiring,
        rotated_at=record.rotated_at,
        hold=record.hold,
    )


def kept(gist: Record) -> Kept:
    """The JSON that `read` understands."""
    held, hold = gist.current, gist.hold
    data: Kept = {}
    if held is not None:
        data["key"] = [held.key_id, held.user_id, held.visibility]
        data["made"] = [_text(held.created), _text(held.published_at)]
    if gist.rotated_at is not None:
        data["rotated"] = _text(gist.rotated_at)
    if gist.retiring:
        data["debts"] = [
            [debt.key_id, debt.user_id, debt.visibility, debt.why, _text(debt.due_at)]
            for debt in gist.retiring
        ]
    if gist.previous_key is not None:
        # Not the fingerprint `Record.before`.
        data["before"] = [gist.previous_key, gist.previous_issue]
    if hold is not None:
        data["hold"] = [_text(hold.at), _text(hold.until), hold.reason, hold.by]
    if gist.ecgrid:
        data["of"] = gist.ecgrid
    return data


def read(policy: str, data: Kept) -> Record | None:
    """The gist that such JSON holds; None if it is none that this version understands."""
    try:
        return _read(policy, data)
    except (ValueError, TypeError, ValidationError):
        return None


def _read(policy: str, data: Kept) -> Record:
    current: dict[str, object] | None = None
    if "key" in data:
        (key_id, user_id, visibility), (created, published) = (
            _list(data["key"]),
            _list(data["made"]),
        )
        current = {
            "key_id": key_id,
            "user_id": user_id,
            "visibility": visibility,
            "created": _instant(created),
            "fingerprint": "",
            "published_at": _instant(published),
        }
    hold: dict[str, object] | None = None
    if "hold" in data:
        began, until, reason, by = _list(data["hold"])
        hold = {"at": _instant(began), "until": _instant(until), "reason": reason, "by": by}
    answer, issue = _list(data.get("before", (None, "")))
    return Record.model_validate(
        {
            "policy": policy,
            "hmac_key": "",
            "ecgrid": data.get("of", ""),
            "previous_key": answer,
            "previous_issue": issue,
            "current": current,
            "retiring": tuple(map(_debt, _list(data.get("debts", ())))),
            "rotated_at": _instant(data.get("rotated")),
            "hold": hold,
        }
    )


def _debt(data: object) -> dict[str, object]:
    key_id, user_id, visibility, why, due_at = _list(data)
    return {
        "key_id": key_id,
        "user_id": user_id,
        "visibility": visibility,
        "why": why,
        "due_at": _instant(due_at),
    }


def _list(value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise TypeError("not a list")
    return list(value)


def _text(instant: datetime | None) -> str | None:
    """As exact as it is: what is told is rounded from it."""
    return None if instant is None else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _instant(text: object) -> datetime | None:
    if text is None:
        return None
    instant = datetime.fromisoformat(text) if isinstance(text, str) else None
    if instant is None or instant.tzinfo is None:
        raise ValueError("not an instant")
    return instant
