"""One scalar at a time: text to value, or what is wrong with it in words that never quote it.

Every reader raises Unusable for a text that it cannot take.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import date, time, timedelta
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import TypeVar
from urllib.parse import urlsplit

from rotator.errors import BadInput
from rotator.keys import Visibility
from rotator.schedule import Cron, duration

NAME = r"[a-z0-9][a-z0-9-]{0,62}"
USER_ID = r"[1-9][0-9]{0,9}"
FIELD = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
PATH = r"[A-Za-z0-9_.@+=:~-]+(/[A-Za-z0-9_.@+=:~-]+)*"
CLOCK = r"([01][0-9]|2[0-3]):([0-5][0-9])"
DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

POLICY_KEYS = (
    "name", "user_id", "users", "visibility", "schedule", "max_age", "grace", "issue", "verify",
    "probe", "first", "vault", "also", "after", "enabled", "owner", "tags",
)  # fmt: skip
SCHEDULE_KEYS = ("every", "cron", "timezone", "jitter", "window", "freeze")
WINDOW_KEYS = ("days", "from", "to")
FREEZE_KEYS = ("from", "to")
DESTINATION_KEYS = ("mount", "path", "field", "fields")
HOOK_KEYS = ("exec", "webhook")
FILE_KEYS = ("defaults", "policies")
RESERVED_FIELDS = (
    "key_id",
    "user_id",
    "visibility",
    "created",
    "rotated_at",
)  # the rotator writes these

_KNOWN = {
    *POLICY_KEYS, *SCHEDULE_KEYS, *WINDOW_KEYS, *DESTINATION_KEYS, *HOOK_KEYS, *FILE_KEYS, *RESERVED_FIELDS,
}  # fmt: skip
_MAX_USER_ID = 2**31 - 1  # ECGrid's ids are 32-bit integers (seed-KeySet, UserID)
_SHOWABLE = re.compile(r"[A-Za-z_-]{1,20}")  # a mistyped key that can hardly be a secret
_GUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_SECRET = re.compile(
    rf"{_GUID}|\{{{_GUID}\}}|[0-9a-f]{{32,}}|(ek|sk|pk)_\S{{8,}}|(hv[sbr]|[sb])\.[a-z0-9_-]{{20,}}"
    r"|eyj[a-z0-9_-]{8,}\.\S+",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"\{(name|user_id)\}")
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


class Unusable(Exception):
    """A value that cannot be used; the text says what is wrong and what to write, and never quotes it."""


def choice(choices: type[E]) -> Callable[[str], E]:
    """A reader of one of the enumeration's values."""
    known = {str(member.value): member for member in choices}
    words = tuple(known)

    def choose(text: str) -> E:
        found = known.get(text)
        if found is None:
            raise Unusable(f"must be {either(words)}{near(text, words)}")
        return found

    return choose


_VISIBILITY = choice(Visibility)


def visibility(text: str) -> Visibility:
    """Private, Shared or Public; Session is refused."""
    if text == "Session":
        raise Unusable("Session is refused: such a key dies with its session; use Private")
    return _VISIBILITY(text)


def flag(text: str) -> bool:
    """`true` or `false`, and none of YAML 1.1's other spellings."""
    if text not in ("true", "false"):
        raise Unusable("must be true or false, written so")
    return text == "true"


def name(text: str) -> str:
    """A policy's name, fit for a path in Vault and for a label."""
    if not re.fullmatch(NAME, text):
        raise Unusable("must be 1 to 63 of a-z, 0-9 and -, and not begin with -")
    return text


def user_id(text: str) -> int:
    """An ECGrid user id, from 1 to the largest 32-bit integer."""
    if not re.fullmatch(USER_ID, text) or int(text) > _MAX_USER_ID:
        raise Unusable("must be an ECGrid user id: digits only, no leading zero, such as 5001")
    return int(text)


def one_line(text: str) -> str:
    """Text of at most 200 characters, without line ends and other control characters."""
    if not _ONE_LINE.fullmatch(text) or text != text.strip():
        raise Unusable("must be one line of at most 200 characters, without white space around it")
    return text


def length(text: str) -> timedelta:
    """A length of time such as `90s` or `8w`; may be nothing."""
    return _scheduled(duration, text)


def positive(text: str) -> timedelta:
    """A length of time of at least a second."""
    found = length(text)
    if not found:
        raise Unusable("must be at least 1s")
    return found


def cron(text: str) -> Cron:
    """A cron expression of five fields."""
    return _scheduled(Cron.parse, text)


def _scheduled(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except BadInput as error:
        what = str(error)
    raise Unusable(what)


def zone(text: str) -> zoneinfo.ZoneInfo:
    """A time zone by its IANA name: one that means the same on every machine, which `localtime` does not."""
    if text in _zones():
        try:
            return zoneinfo.ZoneInfo(text)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            pass  # refused below, where the exception and the text in it are gone
    hint = near(text, sorted(_zones()))
    raise Unusable(f"must be a time zone such as Europe/Berlin or UTC{hint}")


@cache
def _zones() -> frozenset[str]:
    """The names that the package of zones lists: what a machine may have beside them is its own affair."""
    listed = files("tzdata").joinpath("zones").read_text("utf-8").split()
    return frozenset(listed) - {"Factory"}


def clock(text: str) -> time:
    """A time of day, `HH:MM`."""
    match = re.fullmatch(CLOCK, text)
    if match is None:
        raise Unusable(
            'must be a time from "00:00" to "23:59", in four digits; midnight is "00:00"'
        )
    return time(int(match[1]), int(match[2]))


def weekday(text: str) -> int:
    """The day's number, Monday being 0."""
    if text.lower() not in WEEKDAYS:
        raise Unusable(f"must be {either(WEEKDAYS)}{near(text[:3], WEEKDAYS)}")
    return WEEKDAYS.index(text.lower())


def day(text: str) -> date:
    """A day of the calendar, `YYYY-MM-DD`, from 1970 on."""
    found = date.min
    if re.fullmatch(DATE, text):
        with suppress(ValueError):  # no such day: refused below
            found = date.fromisoformat(text)
    if not 1970 <= found.year <= 9000:
        raise Unusable("must be a day of the calendar, such as 2026-12-15")
    return found


def mount(text: str) -> str:
    """The path of a KV v2 mount; whether it is one is for Vault to say."""
    if not _is_path(text):
        raise Unusable(
            "must be the name of a KV v2 mount, without slashes around it, such as secret"
        )
    return text


def path(text: str, policy: str | None, users: Sequence[int]) -> str:
    """The path with `{name}` and `{user_id}` replaced, as far as they are known."""
    if "{user_id}" in text and len(users) > 1:
        raise Unusable(
            "{user_id} has no single meaning with users; use {name}, or write the path out"
        )
    known = {"name": policy or "name", "user_id": str(users[0]) if users else "0"}
    found = _PLACEHOLDER.sub(lambda match: known[match[1]], text)
    if "{" in found or "}" in found:
        raise Unusable("only {name} and {user_id} are replaced; remove any other brace")
    if not _is_path(found):
        raise Unusable(
            "must be names joined by single slashes, without spaces or a slash at either end, "
            "such as ecgrid/edi-gateway"
        )
    return found


def _is_path(text: str) -> bool:
    return re.fullmatch(PATH, text) is not None and not {".", ".."} & set(text.split("/"))


def field(text: str) -> str:
    """A field of the published secret that the rotator does not write itself."""
    if text in RESERVED_FIELDS:
        raise Unusable("is written by the rotator itself; choose another name")
    if not re.fullmatch(FIELD, text):
        raise Unusable("must be a field name of letters, digits, _ . and -, such as api_key")
    return text


def webhook(text: str) -> str:
    """An http(s) address without credentials in it."""
    good = text.isascii() and text.isprintable() and " " not in text
    try:
        parts = urlsplit(text)
        good = good and parts.scheme in ("http", "https") and bool(parts.hostname)
        good = good and parts.port != 0 and parts.username is None and parts.password is None
    except ValueError:
        good = False
    if not good:
        raise Unusable("must be an http(s) address with a host, and no user name or password in it")
    return text


def like_a_secret(text: str) -> bool:
    """Whether a whole text looks like a key or a token: GUID, long hex, `ek_...`, `hvs....`, JWT."""
    return _SECRET.fullmatch(text.strip()) is not None


def near(text: str, known: Iterable[str]) -> str:
    """`; did you mean X?` where one of the known words is near, else nothing."""
    lowered = {word.lower(): word for word in known}
    found = difflib.get_close_matches(text.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[found[0]]}?" if found else ""


def either(words: Sequence[str]) -> str:
    """The words as a sentence has them: `a, b or c`."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def shown(key: str) -> str:
    """A key as it may appear in a message: only what can hardly be a secret."""
    return key if key in _KNOWN or _SHOWABLE.fullmatch(key) else "(not shown)"
