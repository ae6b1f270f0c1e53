"""The rotation record of a policy, as a value: what happened, what is under way, what is still to retire.

It is kept in Vault at `MOUNT/STATE_PATH/record/POLICY` and never holds a key's value. Every change makes a new
record; whether it counts is decided by the check-and-set that writes it. All times are the Vault server's, in UTC.

That a key is staged is not in here: the staged document says so itself, so that nothing needs to be recorded
between issue and publish.

Vault counts: OpenBao refuses a document of about a thousand strings, names of fields included. So everything of which
there may be many (the history, what ECGrid had, what is to be retired) is kept as one string each, JSON within JSON.

Keeps: never leaked (5), truth is outside (6).
"""

from __future__ import annotations

import base64
import secrets
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from rotator.errors import Permanent
from rotator.journal.parts import (
    Baseline,
    Caller,
    Claim,
    Debt,
    Drift,
    Failed,
    Held,
    Hold,
    Known,
    Past,
    Place,
    PreviousKey,
    Underway,
)
from rotator.kept import AS_KEPT, AS_READ, Value, beside, with_notes
from rotator.keys import ApiKey, KeyRef, Secret, Seen, Visibility

# The newest that this version reads.
FORMAT = 4
# The fields that came after format 1. A record has the lowest format that knows all that it sets: so the version
# before goes on reading the steady ones.
SINCE = {
    "drifted": 2,
    "underway.speaks": 2,
    "underway.made": 2,
    "underway.looks": 2,
    "hold": 3,
    "underway.older": 4,
    "underway.debt": 4,
}
# What is kept behind the nonce, in this order.
NOTES = ("ecgrid", "previous_key", "previous_issue", "previous_id", "before", "leaked")
# Lines of it that the record remembers.
HISTORY = 50
# Keys that a policy may issue by itself beyond its schedule, in ISSUE_WINDOW.
ISSUE_LIMIT = 3
ISSUE_WINDOW = timedelta(hours=24)
# Between ECGrid's `created` and Vault's clock.
CLOCK_ALLOWANCE = timedelta(minutes=5)
# Times are kept in Vault no finer.
GRAIN = timedelta(milliseconds=1)
# How long an issuing request whose answer was lost may still land.
WATCH = timedelta(minutes=10)
# That found nothing new, after which a request is taken to have made nothing.
LOOKS = 2


class Record(Value):
    """The whole record of one policy."""

    format: int = 1
    policy: str
    # New at every write, so that a write whose answer was lost can be recognised.
    nonce: str = ""
    # These are kept behind the nonce, in one string with it, where the version before takes no notice of them.
    # `ecgrid` is the mark of the ECGrid that all else is about. `previous_key` is what became of a replaced key, under
    # `previous_issue`, and `previous_id` names the one that is to be asked about once more.
    ecgrid: Annotated[str, Field(exclude=True)] = ""
    previous_key: Annotated[PreviousKey | None, Field(exclude=True)] = None
    previous_issue: Annotated[str, Field(exclude=True)] = ""
    previous_id: Annotated[int | None, Field(exclude=True)] = None
    # Fingerprints: of the key before, which a rollback may publish again; and of the one that is being replaced with
    # `--grace 0s`, which it never may, nor any that was before.
    before: Annotated[str, Field(exclude=True)] = ""
    leaked: Annotated[str, Field(exclude=True)] = ""
    hmac_key: Annotated[str, Field(repr=False)]
    current: Held | None = None
    # With `users`: the latest key of each user that is not published now.
    others: tuple[Held, ...] = ()
    known: dict[str, Baseline] = Field(default_factory=dict)
    claim: Claim | None = None
    underway: Underway | None = None
    retiring: tuple[Annotated[Debt, AS_READ, AS_KEPT], ...] = ()
    # Beyond the schedule, within ISSUE_WINDOW.
    issued: tuple[datetime, ...] = ()
    places: tuple[Place, ...] = ()
    failed: Failed | None = None
    history: tuple[Annotated[Past, AS_READ, AS_KEPT], ...] = ()
    # What the hooks are still to be told of.
    hooks_due: Place | None = None
    # The last rotation or adoption: due times count from here.
    rotated_at: datetime | None = None
    checked_at: datetime | None = None
    watch_until: datetime | None = None
    drifted: Drift | None = None
    hold: Hold | None = None
    # Get Key is asked with the new key itself.
    owner_reads: bool = False
    # ECGrid was seen to refuse a key that nobody issued.
    probe_tells: bool = False
    caller: Annotated[Caller | None, Field(exclude=True)] = None

    @classmethod
    def new(cls, policy: str) -> Record:
        """A record that knows nothing yet, with a fresh random key for fingerprints."""
        return cls(policy=policy, hmac_key=base64.b64encode(secrets.token_bytes(32)).decode())

    @classmethod
    def parse(cls, data: object, where: str) -> Record:
        """The record in `data`; raises Permanent (`vault.BadRecord`) if it is none that this version understands."""
        newer = (
            isinstance(data, dict)
            and isinstance(data.get("format"), int)
            and data["format"] > FORMAT
        )
        problem = "was written by a newer rotator: upgrade this one" if newer else ""
        if not newer:
            try:
                return cls.model_validate(with_notes(data, "nonce", NOTES))
            except ValidationError as error:
                first = error.errors(include_input=False, include_url=False, include_context=False)[
                    0
                ]
                field = ".".join(str(part) for part in first["loc"][:2] if isinstance(part, str))
            problem = (
                f"cannot be understood (field {field or '?'}): restore an earlier version of it in Vault, "
                "or delete it with all its versions and run `rotator adopt`"
            )
        raise Permanent(f"the record at {where} {problem}", kind="vault.BadRecord")

    def kept(self) -> dict[str, Any]:
        """The document that `parse` reads."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        notes = (str(getattr(self, name) or "") for name in NOTES)
        data["nonce"] = beside(self.nonce, tuple(notes))
        data["format"] = max((SINCE.get(name, 1) for name in _names(data)), default=1)
        return data

    # what can be asked of it

    def fingerprint(self, value: Secret) -> str:
        """The fingerprint of a value under this record's key."""
        return value.fingerprint(base64.b64decode(self.hmac_key))

    def shows(self, value: Secret | None) -> bool:
        """Whether `value` is the current key's."""
        return (
            value is not None
            and self.current is not None
            and (self.fingerprint(value) == self.current.fingerprint)
        )

    def baseline(self, user_id: int, visibility: Visibility) -> tuple[Known, ...] | None:
        """What ECGrid is known to have for that user and visibility; None if nobody has looked yet."""
        return self.known.get(f"{user_id}/{visibility.value}")

    def is_new(self, seen: Seen, underway: Underway) -> bool:
        """Whether a key that ECGrid shows was made since the baseline of `underway`, and no earlier than its claim.

        A key is new if its id is not in the baseline, or if it is there with an older `created` or another value
        (an account that updates in place).
        """
        created = seen.ref.created
        if created is not None and created < underway.began - CLOCK_ALLOWANCE:
            return False
        before = [known for known in underway.baseline if known.key_id == seen.ref.key_id]
        return not before or self._is_another(seen, before[-1])

    def _is_another(self, seen: Seen, known: Known) -> bool:
        """Whether a key is shown with a later `created` than was known under its id, or with another value."""
        created, whole = seen.ref.created, seen.whole
        if created is not None and known.created is not None and created - known.created >= GRAIN:
            return True
        return bool(
            whole and known.fingerprint and self.fingerprint(whole.value) != known.fingerprint
        )

    def owes(self, key_id: int | None) -> bool:
        """Whether that key is waiting to be retired."""
        return key_id is not None and any(debt.key_id == key_id for debt in self.retiring)

    @property
    def own_ids(self) -> set[int | None]:
        """The ids of the keys that this policy published or issued, and has not ended."""
        held = {one.key_id for one in (self.current, *self.others) if one}
        return held | {debt.key_id for debt in self.retiring}

    @property
    def strays(self) -> set[int | None]:
        """The ids of the keys that were issued, are never to be published, and are not ended yet."""
        return {debt.key_id for debt in self.retiring if debt.why == "stray"}

    def fingerprint_of(self, key_id: int) -> str | None:
        """The fingerprint of that key's value, where it was ever seen in full."""
        known = [known for keys in self.known.values() for known in keys]
        return next((one.fingerprint for one in known if one.key_id == key_id), None)

    def unpaid(self) -> Debt | None:
        """A key that was to be retired and was not: it is tried again, and a failure until then."""
        return next((debt for debt in self.retiring if debt.tried), None)

    def claimed_by_other(self, holder: str, now: datetime) -> Claim | None:
        """The claim of another run, if it still holds."""
        claim = self.claim
        return claim if claim and claim.holder != holder and now < claim.until else None

    def in_trouble(self, now: datetime) -> datetime | None:
        """Since when its run has failed, or is gone, with an issuing request that may have made a key; else None."""
        underway, claim, failed = self.underway, self.claim, self.failed
        if underway is None or underway.sent == 0:
            return None
        known = [failed.at] if failed is not None and failed.at >= underway.began else []
        known += [claim.until] if claim is not None and claim.until <= now else []
        if claim is None or underway.looks:
            known.append(underway.began)
        return max(known, default=None)

    def issues_left(self, now: datetime) -> int:
        """How many keys may still be issued beyond the schedule; what made none, as far as can be seen, is over."""
        recent = [time for time in self.issued if now - time < ISSUE_WINDOW]
        looked = self.underway is not None and self.underway.looks >= LOOKS
        unseen = self.issued[len(self.issued) - self._unexplained() :]
        over = [
            time for time in unseen if now - time < ISSUE_WINDOW and (looked or now - time >= WATCH)
        ]
        return ISSUE_LIMIT - len(recent) + len(over)

    def _unexplained(self, in_hand: int = 0) -> int:
        """How many of the requests beyond the schedule, the last ones, made no key that anybody saw."""
        underway = self.underway
        if underway is None:
            return 0
        beyond = sum(time >= underway.began for time in self.issued)
        return max(0, beyond - max(0, underway.made + in_hand - (underway.sent - beyond)))

    def explained(self) -> tuple[datetime, ...]:
        """What still counts of the requests beyond the schedule once the open rotation has its key."""
        return self.issued[: len(self.issued) - self._unexplained(in_hand=1)]

    def held(self, now: datetime) -> Hold | None:
        """The freeze that a person ordered, while it lasts."""
        return self.hold if self.hold is not None and now < self.hold.until else None

    @property
    def is_blank(self) -> bool:
        """Whether it knows nothing of any key: it counts as none, and was written for a hold, or for a failure."""
        return not (self.current or self.underway or self.known or self.retiring)

    def due_debts(self, now: datetime) -> list[Debt]:
        """The keys whose time to be retired has come; strays only once a key is published."""
        if self.current is None:
            return []
        return [debt for debt in self.retiring if now >= debt.due_at]

    # what can be done to it

    def change(self, **fields: object) -> Record:
        """The same record with other fields."""
        return self.model_copy(update=fields)

    def owing(self, ref: KeyRef, why: Literal["replaced", "stray"], due_at: datetime) -> Record:
        """With that key to be retired, unless it has no id, is noted already, or is the current one."""
        if ref.key_id is None or self.owes(ref.key_id):
            return self
        if self.current is not None and self.current.key_id == ref.key_id:
            return self
        debt = Debt(
            key_id=ref.key_id,
            user_id=ref.user_id,
            visibility=ref.visibility,
            why=why,
            due_at=due_at,
        )
        return self.change(retiring=(*self.retiring, debt))

    def not_owing(self, key_id: int | None) -> Record:
        """Without that debt."""
        return self.change(retiring=tuple(debt for debt in self.retiring if debt.key_id != key_id))

    def leaking(self) -> Record:
        """With the current key, and any before it, never to be published again once it is replaced."""
        return self.change(before="", leaked=self.current.fingerprint if self.current else "")

    def _before(self, next_one: str) -> str:
        """The fingerprint of the key before, once that of `next_one` is the current one's."""
        current = self.current.fingerprint if self.current else ""
        if current == next_one:
            return self.before
        return "" if current == self.leaked else current

    def knowing(self, user_id: int, visibility: Visibility, keys: tuple[Known, ...]) -> Record:
        """With that baseline."""
        return self.change(known={**self.known, f"{user_id}/{visibility.value}": keys})

    def waits_until(self, digest: str, now: datetime) -> Failed | None:
        """The failure whose back-off is not over, unless the policy has changed since."""
        failed = self.failed
        if failed is None or failed.digest != digest:
            return None
        return failed if failed.retry_at is None or now < failed.retry_at else None

    def counting_issue(self, now: datetime, *, beyond_schedule: bool) -> Record:
        """With one more issuing request, counted before it is sent."""
        recent = tuple(time for time in self.issued if now - time < ISSUE_WINDOW)
        return self.change(issued=(*recent, now) if beyond_schedule else recent)

    def taking_back(self, *, counted: bool) -> Record:
        """With the last issuing request proved to have made nothing; `counted`: it was one beyond the schedule."""
        underway = self.underway
        if underway is not None:
            underway = underway.model_copy(update={"sent": max(0, underway.sent - 1)})
        return self.change(underway=underway, issued=self.issued[:-1] if counted else self.issued)

    def remembering(self, past: Past, *, by_itself: bool = False) -> Record:
        """With one more line of history; `by_itself`: a failure that goes on, run after run, is one line."""
        last = self.history[-1:]
        if by_itself and last and past.goes_on_from(last[0]):
            return self.change(history=(*self.history[:-1], last[0].until(past.ended)))
        return self.change(history=(*self.history, past)[-HISTORY:])

    def settled(self) -> Past | None:
        """The history's last rotation that published a key."""
        return next((past for past in reversed(self.history) if past.published), None)

    @property
    def hook_problems(self) -> tuple[str, ...]:
        """What went wrong with the hooks of the last rotation."""
        last = self.settled()
        return () if last is None else last.hook_problems

    def without_history(self) -> Record:
        """Without the lines of history, most of a record; only one stays that tells of hooks that failed.

        So a fleet holds records, and an index entry their gist: of those nobody can ask for `settled` or `history`.
        """
        last = self.settled() if self.hook_problems else None
        return self.change(history=() if last is None else (last,))

    def noting_hooks(self, texts: tuple[str, ...]) -> Record:
        """With what came of the hooks of the last rotation that published a key."""
        last = self.settled()
        noted = (
            one if one is not last else one.model_copy(update={"hooks": texts})
            for one in self.history
        )
        return self.change(history=tuple(noted))

    def complete_since(self) -> datetime | None:
        """From when on the history lacks nothing; None if that is not known of any time yet.

        Not from before its oldest line, nor from before the last line of a version that told rotations alone.
        """
        since = None
        for past in reversed(self.history):
            if not past.what:
                break
            since = past.at
        return since

    def holding(
        self, key: ApiKey, visibility: Visibility, now: datetime, began: datetime | None
    ) -> Record:
        """With `key` as the current one; noting the key it replaces for retiring is the caller's."""
        ref = key.ref
        held = Held(
            key_id=ref.key_id,
            user_id=ref.user_id,
            visibility=visibility,
            created=ref.created,
            fingerprint=self.fingerprint(key.value),
            published_at=now,
            began=began,
        )
        others = [other for other in self.others if other.user_id != held.user_id]
        if self.current is not None and self.current.user_id != held.user_id:
            others.append(self.current)
        known = [k for k in self.baseline(ref.user_id, visibility) or () if k.key_id != ref.key_id]
        known.append(Known(key_id=ref.key_id, created=ref.created, fingerprint=held.fingerprint))
        return self.change(
            current=held,
            others=tuple(others),
            rotated_at=now,
            before=self._before(held.fingerprint),
        ).knowing(ref.user_id, visibility, tuple(known))

    def previous_of(self, user_id: int) -> Held | None:
        """The key of that user that this policy published last, current or not."""
        mine = [held for held in (self.current, *self.others) if held and held.user_id == user_id]
        return mine[0] if mine else None


def _names(data: dict[str, Any]) -> list[str]:
    """The fields that a document sets, those of an open rotation as `underway.FIELD`."""
    return [*data, *(f"underway.{name}" for name in data.get("underway") or ())]


def known_from(record: Record, seen: list[Seen]) -> tuple[Known, ...]:
    """A baseline: what a list shows, with fingerprints where values came in full."""
    return tuple(
        Known(
            key_id=one.ref.key_id,
            created=one.ref.created,
            fingerprint=record.fingerprint(one.whole.value) if one.whole else None,
        )
        for one in seen
    )
