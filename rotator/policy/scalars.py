"""The single values of a policy: a type each, with how its text is read and what an editor is told of it."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable
from contextlib import suppress
from datetime import date, time, timedelta
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

from rotator.keys import Issue, Verify, Visibility
from rotator.reading import (
    Kind,
    Refusal,
    cron,
    either,
    is_path,
    length,
    longer_than_nothing,
    near,
    one_of,
    present,
    refusing,
    switch,
    unusable,
    web,
)
from rotator.schedule import Cron

_NAME = r"[a-z0-9][a-z0-9-]{0,62}"
_USER_ID = r"[1-9][0-9]{0,9}"
_FIELD = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
_CLOCK = r"([01][0-9]|2[0-3]):([0-5][0-9])"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_DURATION = r"^(0|[1-9][0-9]*)[smhdw]$"
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# The rotator writes these.
_RESERVED = ("key_id", "user_id", "visibility", "created", "rotated_at")
# ECGrid's ids are 32-bit integers (seed-KeySet, UserID).
_MAX_USER_ID = 2**31 - 1
_PLACEHOLDER = re.compile(r"\{(name|user_id)\}")
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
# What a document may have in place of a single value.
_SEVERAL: dict[type, str] = {list: "list", dict: "mapping"}


class _Scalar(Kind):
    """A kind of which a document has one, and not a list or a mapping of them."""

    def value(self, given: object) -> object:
        kind = _SEVERAL.get(type(given))
        if kind is not None:
            raise unusable(f"must be a single value, not a {kind}")
        if not given:
            raise unusable("is empty; give it a value, or remove the line")
        return super().value(given)


class _Fields(Kind):
    """Fields beside the key, in the order of their names."""

    def value(self, given: object) -> object:
        if not isinstance(given, dict):
            raise unusable('must be a mapping such as {base_url: "https://rest.ecgrid.io"}')
        pairs = (
            (key, kind, text)
            for key, value in present(given).items()
            for kind, text in ((_A_FIELD, key), (_TEXT, value))
        )
        wrong = [Refusal((key,), what) for key, kind, text in pairs if (what := kind.wrong(text))]
        if wrong:
            raise refusing(wrong)
        return tuple(sorted(present(given).items()))


def _text(pattern: str = ".", **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, **more}


def _words(choices: type[Enum]) -> _Scalar:
    known = {str(member.value): member for member in choices}
    return _Scalar(one_of(known, either(tuple(known))), schema={"enum": list(known)})


def _visibility(text: str) -> object:
    if text == "Session":
        raise unusable("Session is refused: such a key dies with its session; use Private")
    return _ANY_VISIBILITY.value(text)


def _name(text: str) -> str:
    if not re.fullmatch(_NAME, text):
        raise unusable("must be 1 to 63 of a-z, 0-9 and -, and not begin with -")
    return text


def _user_id(text: str) -> int:
    if not re.fullmatch(_USER_ID, text) or int(text) > _MAX_USER_ID:
        raise unusable("must be an ECGrid user id: digits only, no leading zero, such as 5001")
    return int(text)


def _one_line(text: str) -> str:
    if not _ONE_LINE.fullmatch(text) or text != text.strip():
        raise unusable("must be one line of at most 200 characters, without white space around it")
    return text


def _zone(text: str) -> zoneinfo.ZoneInfo:
    """A time zone by its IANA name: one that means the same on every machine, which `localtime` does not."""
    if text in _zones():
        # What cannot be had is refused below, where the exception and the text in it are gone.
        with suppress(ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            return zoneinfo.ZoneInfo(text)
    hint = near(text, sorted(_zones()))
    raise unusable(f"must be a time zone such as Europe/Berlin or UTC{hint}")


@cache
def _zones() -> frozenset[str]:
    """The names that the package of zones lists: what a machine may have beside them is its own affair."""
    listed = files("tzdata").joinpath("zones").read_text("utf-8").split()
    return frozenset(listed) - {"Factory"}


def _clock(text: str) -> time:
    match = re.fullmatch(_CLOCK, text)
    if match is None:
        raise unusable(
            'must be a time from "00:00" to "23:59", in four digits; midnight is "00:00"'
        )
    return time(int(match[1]), int(match[2]))


def _weekday(text: str) -> int:
    """The day's number, Monday being 0."""
    if text.lower() not in _DAYS:
        raise unusable(f"must be {either(_DAYS)}{near(text[:3], _DAYS)}")
    return _DAYS.index(text.lower())


def _day(text: str) -> date:
    """A day of the calendar from 1970 on."""
    day = date.min
    if re.fullmatch(_DATE, text):
        # What is no such day is refused below.
        with suppress(ValueError):
            day = date.fromisoformat(text)
    if not 1970 <= day.year <= 9000:
        raise unusable("must be a day of the calendar, such as 2026-12-15")
    return day


def _mount(text: str) -> str:
    """The path of a KV v2 mount; whether it is one is for Vault to say."""
    if not is_path(text):
        raise unusable(
            "must be the name of a KV v2 mount, without slashes around it, such as secret"
        )
    return text


def _path(text: str) -> str:
    """A path in which `{name}` and `{user_id}` may stand; whatever they stand for is fit for one."""
    example = filled(text, "name", 0)
    if "{" in example or "}" in example:
        raise unusable("only {name} and {user_id} are replaced; remove any other brace")
    if not is_path(example):
        raise unusable(
            "must be names joined by single slashes, without spaces or a slash at either end, "
            "such as ecgrid/edi-gateway"
        )
    return text


def filled(path: str, name: str, user_id: int) -> str:
    """The path with `{name}` and `{user_id}` replaced."""
    if "{" not in path:
        return path
    known = {"name": name, "user_id": str(user_id)}
    return _PLACEHOLDER.sub(lambda match: known[match[1]], path)


def _field(text: str) -> str:
    """A field of the published secret that the rotator does not write itself."""
    if text in _RESERVED:
        raise unusable("is written by the rotator itself; choose another name")
    if not re.fullmatch(_FIELD, text):
        raise unusable("must be a field name of letters, digits, _ . and -, such as api_key")
    return text


def _webhook(text: str) -> str:
    """An http(s) address without credentials in it."""
    parts = web(text)
    if parts is None or parts.username is not None or parts.password is not None:
        raise unusable("must be an http(s) address with a host, and no user name or password in it")
    return text


def _either_case(word: str) -> str:
    return "".join(f"[{letter.upper()}{letter}]" for letter in word)


_TEXT, _A_FIELD = _Scalar(str), _Scalar(_field, schema=_text(f"^{_FIELD}$"))
_ANY_VISIBILITY = _words(Visibility)
_FLAG: Callable[[str], bool] = switch(
    {"true": True, "false": False}, "must be true or false, written so"
)
_FIRST = {"adopt": "adopt", "rotate": "rotate"}
_LENGTH = {"oneOf": [_text(_DURATION), {"const": 0}]}
_SOME_LENGTH = _text(_DURATION)

Name = Annotated[str, _Scalar(_name, schema=_text(f"^{_NAME}$"))]
UserId = Annotated[
    int, _Scalar(_user_id, schema={"type": "integer", "minimum": 1, "maximum": _MAX_USER_ID})
]
VisibilityWord = Annotated[
    Visibility, _Scalar(_visibility, schema={"enum": [one.value for one in Visibility]})
]
Length = Annotated[timedelta, _Scalar(length, schema=_LENGTH)]
SomeLength = Annotated[
    timedelta, _Scalar(longer_than_nothing("must be at least 1s"), schema=_SOME_LENGTH)
]
CronFields = Annotated[Cron, _Scalar(cron, schema=_text())]
Zone = Annotated[zoneinfo.ZoneInfo, _Scalar(_zone, schema=_text())]
Clock = Annotated[time, _Scalar(_clock, schema=_text(f"^{_CLOCK}$"))]
Weekday = Annotated[
    int,
    _Scalar(
        _weekday,
        schema=_text(f"^({'|'.join(map(_either_case, _DAYS))})$", description="A day."),
    ),
]
Day = Annotated[date, _Scalar(_day, schema=_text(f"^{_DATE}$"))]
IssueWord = Annotated[Issue, _words(Issue)]
VerifyWord = Annotated[Verify, _words(Verify)]
First = Annotated[
    Literal["adopt", "rotate"],
    _Scalar(one_of(_FIRST, either(tuple(_FIRST))), schema={"enum": list(_FIRST)}),
]
Flag = Annotated[bool, _Scalar(_FLAG, schema={"type": "boolean"})]
Mount = Annotated[str, _Scalar(_mount, schema=_text())]
Path = Annotated[str, _Scalar(_path, schema=_text())]
FieldName = Annotated[str, _A_FIELD]
Fields = Annotated[
    tuple[tuple[str, str], ...],
    _Fields(str, schema={"type": "object", "propertyNames": {"not": {"enum": list(_RESERVED)}}}),
]
OneLine = Annotated[str, _Scalar(_one_line, schema=_text())]
Word = Annotated[str, _Scalar(str, schema={"type": ["string", "number"]})]
WebhookUrl = Annotated[str, _Scalar(_webhook, schema=_text("^https?://"))]
