"""What may be written in a policy, field by field, and what its fields say together.

From these models come the reading, the JSON Schema and the reference: a field is declared here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self
from zoneinfo import ZoneInfo

from pydantic import (
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from rotator.policy.model import Destination, Exec, Hook, Policy, PolicyDefaults, Sight, Webhook
from rotator.policy.scalars import (
    Clock,
    CronFields,
    Day,
    FieldName,
    Fields,
    First,
    Flag,
    IssueWord,
    Length,
    Mount,
    Name,
    OneLine,
    Path,
    SomeLength,
    UserId,
    VerifyWord,
    VisibilityWord,
    WebhookUrl,
    Weekday,
    Word,
    Zone,
    filled,
)
from rotator.reading import Form, Place, Refusal, present, refusing, whole
from rotator.schedule import Every, Freeze, Manual, Schedule, Window

_DAY = timedelta(days=1)
_UTC = ZoneInfo("UTC")
_WRITTEN_AS = "Written as 90s, 15m, 12h, 30d or 8w."
_BOTH = {"from": "both from and to", "to": "both from and to"}


class _Part(Form):
    """A form whose values have to agree with each other."""

    @model_validator(mode="after")
    def _refuse_what_disagrees(self) -> Self:
        wrong = list(self.disagreements())
        if wrong:
            raise refusing(wrong)
        return self

    def disagreements(self) -> Iterator[Refusal]:
        """What is wrong with the values together, as far as they are known."""
        yield from ()


class WrittenWindow(_Part):
    """Hours in which a rotation may begin."""

    example: ClassVar[str] = '{days: [sat, sun], from: "01:00", to: "05:00"}'
    needed: ClassVar[Mapping[str, str]] = _BOTH

    days: tuple[Weekday | None, ...] | None = Field(
        None,
        description="Days it starts on. Default: every day.",
        json_schema_extra={"minItems": 1},
    )
    start: Clock = Field(alias="from", description="When it opens, HH:MM.")
    end: Clock = Field(
        alias="to", description="When it closes, HH:MM; before from: on the next day."
    )

    def disagreements(self) -> Iterator[Refusal]:
        """It has to be open at some time."""
        if self.days == ():
            what = "names no day, so it would never open; leave days out for every day"
            yield Refusal(("days",), what)
        if self.start == self.end:
            what = "from and to are the same time; a window needs some length"
            yield Refusal((), what)

    def window(self) -> Window:
        """As a schedule has it."""
        days = {day for day in self.days or () if day is not None}
        return Window(tuple(sorted(days)) or tuple(range(7)), self.start, self.end)


class WrittenFreeze(_Part):
    """A freeze."""

    example: ClassVar[str] = "{from: 2026-12-15, to: 2027-01-05}"
    needed: ClassVar[Mapping[str, str]] = _BOTH

    first: Day = Field(alias="from", description="First day, YYYY-MM-DD.")
    last: Day = Field(alias="to", description="Last day, included.")

    def disagreements(self) -> Iterator[Refusal]:
        """It has to end after it began."""
        if self.last < self.first:
            yield Refusal((), "ends before it begins; swap from and to")


class WrittenSchedule(_Part):
    """An interval or a cron expression, with its limits."""

    # One of every and cron is needed, but perhaps it stands in `defaults`: only both at once is wrong to an editor.
    model_config = ConfigDict(json_schema_extra={"not": {"required": ["every", "cron"]}})
    example: ClassVar[str] = "{every: 30d} or {cron: ...}, or the word manual"

    every: SomeLength | None = Field(
        None, description=f"Time from one rotation to the next, at least 1s. {_WRITTEN_AS}"
    )
    cron: CronFields | None = Field(
        None, description="Five fields as in Vixie cron, such as 0 3 * * SUN."
    )
    timezone: Zone = Field(
        _UTC, description="Zone of cron, window and freeze, such as Europe/Berlin. Default: UTC."
    )
    jitter: Length = Field(
        timedelta(0),
        description="Spreads policies by their name: up to this much later, the same each time, also in a window. "
        "Default: 0.",
    )
    window: Annotated[WrittenWindow, whole(WrittenWindow)] | None = Field(
        None, description="Hours in which a rotation may begin."
    )
    freeze: tuple[Annotated[WrittenFreeze, whole(WrittenFreeze)] | None, ...] = Field(
        (), description="Days without rotations."
    )

    @classmethod
    def of_keys(cls, given: Mapping[str, Any]) -> Iterator[Refusal]:
        """One of interval and cron."""
        yield from super().of_keys(given)
        if {"every", "cron"} <= present(given).keys():
            yield Refusal(("cron",), "stands beside every; keep one of them")
        if "every" not in given and "cron" not in given:
            yield Refusal((), "needs every: 30d or cron: ..., or write schedule: manual")

    @cached_property
    def schedule(self) -> Schedule | None:
        """As the arithmetic has it; None if it cannot be told when."""
        rule = self.cron if self.every is None else Every(self.every)
        if rule is None:
            return None
        window = self.window.window() if self.window else None
        freezes = tuple(Freeze(one.first, one.last) for one in self.freeze if one)
        return Schedule(rule, self.timezone, self.jitter, window, freezes)

    @cached_property
    def max_age(self) -> timedelta | None:
        """What `max_age` is where the policy does not say."""
        gap = self.schedule.longest_gap() if self.schedule else None
        return None if gap is None else gap * 1.5 + self.jitter

    @cached_property
    def grace(self) -> timedelta:
        """What `grace` is where the policy does not say."""
        return _DAY if self.every is None else min(_DAY, self.every / 2)


class _ByHand(WrittenSchedule):
    """What the word manual stands for."""

    @cached_property
    def schedule(self) -> Schedule:
        """Never due by itself."""
        return Schedule(Manual(), _UTC)


_MANUAL = _ByHand.model_validate({})
# Schedules by what was written: a fleet has few, and thousands of policies share them.
_KNOWN: dict[str, WrittenSchedule] = {}
_MOST_KNOWN = 1024


def _or_manual(given: Any, handler: ValidatorFunctionWrapHandler) -> WrittenSchedule:
    if given == "manual":
        return _MANUAL
    written = repr(given)
    known = _KNOWN.get(written)
    if known is None:
        known = handler(given)
        if len(_KNOWN) < _MOST_KNOWN:
            _KNOWN[written] = known
    return known


def _with_manual(schema: dict[str, Any]) -> None:
    schema["oneOf"] = [{"const": "manual"}, {"$ref": schema.pop("$ref")}]


class WrittenDestination(_Part):
    """A destination."""

    example: ClassVar[str] = "{path: ecgrid/edi-gateway}"
    needed: ClassVar[Mapping[str, str]] = {"path": "path: ecgrid/edi-gateway"}

    mount: Mount | None = Field(None, description="KV v2 mount. Default: ROTATOR_VAULT__MOUNT.")
    path: Path | None = Field(
        None, description="Path of the secret; {name} and {user_id} are replaced."
    )
    field: FieldName = Field("api_key", description="Field that holds the key. Default: api_key.")
    beside: Fields = Field(
        (),
        alias="fields",
        description="Further fields to write beside the key, as they stand here.",
    )

    def disagreements(self) -> Iterator[Refusal]:
        """The key's own field is not one of those beside it."""
        if any(key == self.field for key, _ in self.beside):
            what = "is the field that holds the key; choose another name"
            yield Refusal(("fields", self.field), what)


class WrittenHook(_Part):
    """One of exec and webhook."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})
    example: ClassVar[str] = "{exec: [systemctl, reload, edi-gateway]}"

    exec: tuple[Word | None, ...] | None = Field(
        None,
        description="A program and its arguments; no shell.",
        json_schema_extra={"minItems": 1},
    )
    # Such an address is often a secret by itself.
    webhook: WebhookUrl | None = Field(
        None, repr=False, description="An http(s) address to post to."
    )

    @classmethod
    def of_keys(cls, given: Mapping[str, Any]) -> Iterator[Refusal]:
        """One of them, and no more."""
        yield from super().of_keys(given)
        if len(given) != 1:
            what = "must have one of exec and webhook; write two entries for both"
            yield Refusal((), what)

    def disagreements(self) -> Iterator[Refusal]:
        """There has to be a program to run."""
        if self.exec == ():
            yield Refusal(("exec",), f"names no program; write {self.example}")

    def hook(self) -> Hook | None:
        """As a policy has it; None if it cannot be told what to do."""
        if self.webhook is not None:
            return Webhook(self.webhook)
        return None if self.exec is None else Exec(tuple(one for one in self.exec if one))


Destinations = Annotated[WrittenDestination, whole(WrittenDestination)]


class WrittenPolicy(Form):
    """One rotation policy."""

    example: ClassVar[str] = "{visibility: Private}"
    needed: ClassVar[Mapping[str, str]] = {
        "name": "name: edi-gateway",
        "visibility": "visibility: Private, Shared or Public",
        "schedule": "schedule: {every: 30d}, {cron: ...} or schedule: manual",
        "vault": "vault: {path: ...}",
    }

    name: Name | None = Field(None, description="Name of the policy; defaults to the file's.")
    user_id: UserId | None = Field(None, description="The ECGrid user whose key is rotated.")
    users: tuple[UserId | None, ...] | None = Field(
        None,
        description="ECGrid users whose keys are rotated in turn, so that one stays valid.",
        json_schema_extra={"minItems": 2},
    )
    visibility: VisibilityWord | None = Field(None, description="Scope of the key.")
    schedule: (
        Annotated[WrittenSchedule, whole(WrittenSchedule), WrapValidator(_or_manual)] | None
    ) = Field(
        None,
        description="When a new key is due; manual: only on demand.",
        json_schema_extra=_with_manual,
    )
    max_age: SomeLength | None = Field(
        None,
        description="A key older than this is overdue: an alarm, first in line, window lifted. "
        f"Default: 1.5 x every (cron: x the longest gap) + jitter; manual: none. {_WRITTEN_AS}",
    )
    grace: Length | None = Field(
        None,
        description="How long the replaced key stays valid where ECGrid leaves it valid; 0 = none. "
        "Default: 24h, or half of every if that is less.",
    )
    issue: IssueWord | None = Field(None, description="The call that issues a key.")
    verify: VerifyWord | None = Field(None, description="The call that reads it back.")
    probe: Flag = Field(
        True,
        description="Also call ECGrid with the new key and see that it is this user. Default: true.",
    )
    first: First = Field(
        "adopt", description="What to do when the record knows nothing. Default: adopt."
    )
    vault: Destinations | None = Field(None, description="Where the key is published.")
    also: tuple[Destinations | None, ...] = Field(
        (), description="Further destinations in the same Vault."
    )
    after: tuple[Annotated[WrittenHook, whole(WrittenHook)] | None, ...] = Field(
        (), description="What to do after a rotation."
    )
    enabled: Flag = Field(True, description="false: rotated only on demand by name. Default: true.")
    owner: OneLine | None = Field(None, description="Whom to ask about this key.")
    tags: tuple[OneLine | None, ...] = Field(
        (),
        description="Words to choose policies by (rotate --tag).",
    )

    @classmethod
    def of_keys(cls, given: Mapping[str, Any]) -> Iterator[Refusal]:
        """One user, or several of them."""
        yield from super().of_keys(given)
        if {"user_id", "users"} <= present(given).keys():
            yield Refusal(("users",), "stands beside user_id; keep one of them")
        if "user_id" not in given and "users" not in given:
            yield Refusal(("user_id",), "is missing; write user_id: 5001, or users: [5001, 5002]")

    def disagreements(self, defaults: PolicyDefaults) -> Iterator[Refusal]:
        """Users are several and different, lengths fit the schedule, and paths are free."""
        yield from self._of_users()
        yield from self._of_lengths()
        for place, destination in self._destinations():
            if destination and destination.path:
                yield from self._of_path((*place, "path"), destination, defaults)

    def _of_users(self) -> Iterator[Refusal]:
        if self.users is None:
            return
        if len(self.users) < 2:
            what = "needs at least two user ids; for a single one write user_id:"
            yield Refusal(("users",), what)
        known = self.all_users
        if len(set(known)) < len(known):
            yield Refusal(("users",), "names a user id twice; they must differ")

    def _of_lengths(self) -> Iterator[Refusal]:
        every = self.schedule.every if self.schedule else None
        if every is None:
            return
        if self.grace is not None and self.grace >= every:
            what = "must be shorter than schedule.every, or replaced keys pile up"
            yield Refusal(("grace",), what)
        if self.max_age is not None and self.max_age < every:
            what = (
                "must not be shorter than schedule.every, or every key is overdue before it is due"
            )
            yield Refusal(("max_age",), what)

    def _of_path(
        self, place: Place, destination: WrittenDestination, defaults: PolicyDefaults
    ) -> Iterator[Refusal]:
        if self.users is not None and "{user_id}" in str(destination.path):
            what = "{user_id} has no single meaning with users; use {name}, or write the path out"
            yield Refusal(place, what)
            return
        below = f"{self._filled(destination)}/".startswith(f"{defaults.state_path}/")
        if below and destination.mount in (None, defaults.mount):
            yield Refusal(place, "is where the rotator keeps its records; choose another path")

    def _destinations(self) -> Iterator[tuple[Place, WrittenDestination | None]]:
        yield ("vault",), self.vault
        yield from ((("also", number), one) for number, one in enumerate(self.also))

    def _filled(self, destination: WrittenDestination) -> str:
        """The destination's path, be it filled with examples."""
        users = self.all_users
        return filled(destination.path or "", self.name or "name", users[0] if users else 0)

    def _is_known(self, destination: WrittenDestination | None) -> bool:
        """Whether it can be told where that is."""
        path = destination.path if destination else None
        if path is None or (self.name is None and "{name}" in path):
            return False
        return bool(self.all_users) or "{user_id}" not in path

    @cached_property
    def all_users(self) -> tuple[int, ...]:
        """The users that are known, be there one or several."""
        users = (self.user_id,) if self.users is None else self.users
        return tuple(user for user in users if user is not None)

    def sight(self, where: str, defaults: PolicyDefaults) -> Sight:
        """What other policies are compared with."""
        return Sight(self.name, self.all_users, tuple(self._to(defaults)), where)

    def _to(self, defaults: PolicyDefaults) -> Iterator[Destination | None]:
        for _, one in self._destinations():
            if one is None or not self._is_known(one):
                yield None
                continue
            mount = one.mount or defaults.mount
            yield Destination(mount, self._filled(one), one.field, one.beside)

    def policy(self, seen: Sight, defaults: PolicyDefaults) -> Policy | None:
        """The policy, of which that much is seen; None as long as what it cannot do without is missing."""
        when = self.schedule
        schedule = when.schedule if when else None
        if not (self.name and seen.users and self.visibility and when and schedule):
            return None
        issue = self.issue or defaults.issue
        return Policy(
            name=self.name,
            users=seen.users,
            visibility=self.visibility,
            schedule=schedule,
            max_age=when.max_age if self.max_age is None else self.max_age,
            grace=when.grace if self.grace is None else self.grace,
            issue=issue,
            verify=self.verify or defaults.verify_with(issue),
            probe=self.probe,
            first=self.first,
            destinations=tuple(to for to in seen.destinations if to),
            after=tuple(hook for one in self.after if one and (hook := one.hook())),
            enabled=self.enabled,
            owner=self.owner,
            tags=tuple(tag for tag in self.tags if tag is not None),
            where=seen.where,
            says_grace=self.grace is not None,
        )
