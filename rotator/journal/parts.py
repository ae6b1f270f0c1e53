"""What a record is made of. All times are the Vault server's, in UTC.

Keeps: truth is outside (6).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from rotator.kept import AS_KEPT, AS_READ, Value, beside, with_notes
from rotator.keys import Issue, KeyRef, Visibility
from rotator.system import Description, SurfaceName

# What a line of the history may be about.
ROTATION, ADOPTION, REPAIR, RETIREMENT = "rotation", "adoption", "repair", "retirement"
HOLD, RELEASE, ROLLBACK = "hold", "release", "rollback"
NOTES_OF_PAST = ("rotation", "what", "proof")
# Between two probes of a key that is refused.
LONGEST_PROBING = timedelta(days=1)
# Until a look that said no is taken again.
POSTPONED = timedelta(minutes=10)
# Of a debt that failed.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)


class Known(Value):
    """A key that ECGrid had: part of a baseline."""

    key_id: int | None
    created: datetime | None = None
    fingerprint: str | None = None


# What becomes of a replaced key at once.
PreviousKey = Literal["accepted", "refused"]
Forms = Annotated[dict[SurfaceName, Description], AS_READ, AS_KEPT]
Baseline = Annotated[tuple[Known, ...], AS_READ, AS_KEPT]


class Held(Value):
    """A key that this policy publishes or has published."""

    key_id: int | None
    user_id: int
    visibility: Visibility
    created: datetime | None
    fingerprint: str
    published_at: datetime
    # When its rotation claimed the policy; None if it was adopted.
    began: datetime | None = None

    @property
    def ref(self) -> KeyRef:
        """The key it names."""
        return KeyRef(self.key_id, self.user_id, self.visibility, self.created)


class Claim(Value):
    """The exclusive right to act for this policy; `until` it may not be taken over."""

    holder: str
    by: str
    until: datetime


class Debt(Value):
    """A key that is to be retired: one that was replaced, or a stray."""

    key_id: int
    user_id: int
    visibility: Visibility | None = None
    why: Literal["replaced", "stray"]
    # When it is tried, or tried again.
    due_at: datetime
    # Why it could not be retired yet.
    waits: str | None = None
    # Times in a row that it was tried, and failed.
    tried: int = 0

    def put_off(self, why: str, now: datetime, *, failed: bool) -> Debt:
        """The same, waiting: with a back-off that grows where it `failed`, else until a look is taken again."""
        tried = self.tried + 1 if failed else 0
        later = {"waits": why[:300], "tried": tried, "due_at": now + _pause(tried)}
        return self.model_copy(update=later)

    @property
    def tried_at(self) -> datetime:
        """When it was tried last, and put off."""
        return self.due_at - _pause(self.tried)


def _pause(tried: int) -> timedelta:
    """How long a debt waits that was tried, and failed, so many times in a row."""
    if not tried:
        return POSTPONED
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(tried - 1, 10)))


class Underway(Value):
    """A rotation that has begun and is not settled.

    `sent` counts the issuing requests that may have been carried out: each before it is sent, and no longer once it is
    proved that nothing was made. `made` of them made a key that nobody will publish; `looks` since the last of them
    could read the user's keys and found nothing new. `refusals` counts the runs whose probe refused the staged key.
    A rollback publishes `older` again; `debt` is what was owed for that key, restored if it is undone.
    """

    run: str
    kind: Literal["rotate", "adopt", "repair", "rollback"]
    reason: str
    by: str
    user_id: int
    visibility: Visibility
    issue: Issue
    baseline: Baseline
    began: datetime
    # What ECGrid spoke then: it is finished in that form.
    speaks: Forms = Field(default_factory=dict)
    sent: int = 0
    made: int = 0
    looks: int = 0
    refusals: int = 0
    older: Known | None = None
    debt: Debt | None = None


class Drift(Value):
    """The published key is known to be refused `since` then; it was probed last at `probed_at`."""

    since: datetime
    probed_at: datetime

    @property
    def again_at(self) -> datetime:
        """When it is probed again: after a while that doubles, up to a day."""
        known = self.probed_at - self.since
        return self.probed_at + min(max(known, timedelta(seconds=30)), LONGEST_PROBING)


class Hold(Value):
    """A freeze of this policy that a person ordered `at` some time: it begins nothing by itself before `until`."""

    at: datetime
    until: datetime
    reason: str
    by: str

    @property
    def words(self) -> str:
        """The hold, as a text tells it."""
        return f"held by {self.by} until {self.until:%Y-%m-%dT%H:%M:%SZ} ({self.reason})"


class Place(Value):
    """A destination, and the version at which this policy wrote it last (None: still to be written)."""

    mount: str
    path: str
    field: str
    version: int | None

    def same_place(self, other: Place) -> bool:
        """Whether both name one secret."""
        return (self.mount, self.path) == (other.mount, other.path)


class Failed(Value):
    """The last failure, and when it is tried again; kept until a rotation succeeds."""

    at: datetime
    phase: str
    kind: str
    message: str
    attempts: int
    # None: only a changed policy or a rotate on demand clears it.
    retry_at: datetime | None
    # Of the policy that failed.
    digest: str


class Past(Value):
    """One line of the history: a rotation, the end of a key, or something else that was done to the policy."""

    # When it began.
    at: datetime
    duration_s: float
    outcome: str
    reason: str
    by: str
    # As in the log.
    run: str
    user_id: int
    key_id: int | None = None
    # Of a retirement: the key that was ended.
    previous_key_id: int | None = None
    published: tuple[Place, ...] = ()
    error: str | None = None
    # What came of the policy's hooks: `ok`, or what failed.
    hooks: tuple[str, ...] = ()
    # These are kept behind the run's id, where the version before takes no notice of them.
    # Its own id: another run may have begun it.
    rotation: Annotated[str, Field(exclude=True)] = ""
    # `rotation`, `retirement` ...; that version told none.
    what: Annotated[str, Field(exclude=True)] = ""
    # That the key is at its end.
    proof: Annotated[str, Field(exclude=True)] = ""

    @model_validator(mode="before")
    @classmethod
    def _as_read(cls, data: Any) -> Any:
        return with_notes(data, "run", NOTES_OF_PAST)

    @model_serializer(mode="wrap")
    def _as_kept(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        notes = tuple(getattr(self, name) for name in NOTES_OF_PAST)
        return {**plain(self), "run": beside(self.run, notes)}

    @property
    def hook_problems(self) -> tuple[str, ...]:
        """What went wrong with the hooks after it."""
        return tuple(text for text in self.hooks if text != "ok")

    @property
    def ended(self) -> datetime:
        """When it was over."""
        return self.at + timedelta(seconds=self.duration_s)

    @property
    def failed(self) -> bool:
        """Whether it came to nothing."""
        return self.outcome == "failed"

    @property
    def about(self) -> str:
        """What was done: a noun."""
        return self.what or {"adopted": ADOPTION, "repaired": REPAIR}.get(self.outcome, ROTATION)

    def goes_on_from(self, before: Past) -> bool:
        """Whether both tell of one and the same failure."""
        same = (self.what, self.reason, self.error) == (before.what, before.reason, before.error)
        return same and self.failed and before.failed

    def until(self, end: datetime) -> Past:
        """The same, going on until then."""
        return self.model_copy(update={"duration_s": round((end - self.at).total_seconds(), 3)})


class Caller(Value):
    """Whose credential the rotator used last. The version before kept it here; now it is kept once for all records."""

    fingerprint: str
    user_id: int
