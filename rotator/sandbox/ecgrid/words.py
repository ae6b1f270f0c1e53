"""What the simulated ECGrid speaks of: users, keys, sessions, requests, answers and refusals, free of any surface."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Literal

VISIBILITIES = ("Private", "Shared", "Public", "Session")
FAMILIES: dict[str, frozenset[str]] = {
    "issue": frozenset({"KeySet", "CreateKey", "GenerateAPIKey", "GenerateKey"}),
    "read": frozenset({"KeyGet", "GetKey", "UserGetAPIKey", "GetAPIKey"}),
    "list": frozenset({"KeyList", "ListKeys"}),
    "remove": frozenset({"KeyRemove", "DeleteKey"}),
    "who": frozenset({"WhoAmI", "GetMe", "AuthSession"}),
    "login": frozenset({"Login", "AuthLogin", "AuthRefresh"}),
    "logout": frozenset({"Logout", "AuthLogout"}),
    "version": frozenset({"Version", "NowUTC", "AuthVersion"}),
    "users": frozenset({"UserInfo", "UserList", "UserListEx", "ListUsers"}),
    "description": frozenset({"Description", "OpenAPI", "Elsewhere"}),
}
SYSTEM_OBJECTS = ("System", "User", "Network", "Mailbox", "ECGridID", "Interconnect")
FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)

Code = Literal[
    "InvalidAPIKey",
    "InvalidSession",
    "AccessDenied",
    "ObjectNotFound",
    "InvalidParameter",
    "InvalidDataLength",
    "DuplicateObject",
    "RateLimitExceeded",
    "InternalError",
    "ServiceUnavailable",
]


CredentialKind = Literal["api-key", "token", "session-id", "none"]


class AuthLevel(IntEnum):
    """Authority, from most (lowest number) to least."""

    Root = 0
    TechOps = 1
    NetOps = 2
    NetworkAdmin = 3
    NetworkUser = 4
    MailboxAdmin = 5
    MailboxUser = 6
    TPUser = 7
    General = 8


class Refusal(Exception):
    """ECGrid says no: the vendor's own error, not one of the program's. Carries the code both surfaces encode."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        retry_after: int | None = None,
        number: int | None = None,
    ) -> None:
        """`number` is one of the service's own error numbers, where it is to be another than the code's."""
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        self.number = number


@dataclass(frozen=True)
class User:
    """An ECGrid user; the password stays out of its repr."""

    user_id: int
    login: str
    email: str
    password: str = field(repr=False)
    network_id: int
    mailbox_id: int
    auth_level: AuthLevel
    status: str
    first_name: str = ""
    last_name: str = ""
    locked_out: bool = False


@dataclass(frozen=True)
class KeyRecord:
    """A key record. `live` is whether the value authenticates at all, `active_from` since when."""

    key_id: int
    user_id: int
    value: str = field(repr=False)
    visibility: str
    created: datetime
    active_from: datetime
    live: bool = True
    session: str | None = field(default=None, repr=False)

    @property
    def age(self) -> tuple[datetime, int]:
        """Sorts records from oldest to newest."""
        return (self.created, self.key_id)


@dataclass(frozen=True)
class ShownKey:
    """A key record as an answer shows it: `value` whole, masked, shortened, or None."""

    key_id: int
    user_id: int
    value: str | None = field(repr=False)
    visibility: str
    created: datetime


@dataclass(frozen=True)
class NamedValue:
    """A value that a caller stored under a name on an object of ECGrid's; it is no API key."""

    key: str
    value: str = field(repr=False)
    meta: str
    visibility: str
    created: datetime
    expires: datetime
    owner: User
    session: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ShownUser:
    """A user as an answer shows it; what is beyond the user itself only where the answer has a place for it.

    `expires` is of a session, `key` the user's own key, and `session_id` a live credential: all of the caller.
    """

    user: User
    expires: datetime | None = None
    key: str | None = field(default=None, repr=False)
    session_id: str | None = field(default=None, repr=False)
    open_sessions: int = 0
    last_login: datetime | None = None
    time_out: float = 0.0
    address: str = ""


@dataclass(frozen=True)
class Session:
    """An open session: REST token or SOAP session id, tied to the address it was opened from."""

    token: str = field(repr=False)
    user_id: int
    expires: datetime
    address: str
    refresh_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Credential:
    """What a request presents: `api-key`, `token` (REST), or `session-id` (SOAP: a session or a key)."""

    kind: CredentialKind
    value: str = field(default="", repr=False)
    address: str = "127.0.0.1"


@dataclass(frozen=True)
class Ask:
    """A request, free of its surface: which call, with what, by whom.

    A `stale` one reads what was there before the last change of that user's keys.
    """

    call: str
    args: Mapping[str, object] = field(default_factory=dict, repr=False)
    credential: Credential = Credential("none")
    stale: bool = False


One = ShownKey | ShownUser | NamedValue
Result = One | list[One] | Session | datetime | str | bool


@dataclass(frozen=True)
class Entry:
    """A request as the log of requests keeps it; never a value. `outcome` is `ok`, an error code or a fault's kind.

    `credential` is the kind of credential that the request carried, live or not.
    """

    number: int
    at: datetime
    call: str
    about: int | None
    caller: int | None
    status: int
    outcome: str
    credential: CredentialKind


def show(value: str, display: str) -> str | None:
    """The value as a read shows it: `full`, `masked`, `shortened` (no sign of it), `ellipsis`, or `none`."""
    if display == "full":
        return value
    if display == "masked":
        return f"{value[:4]}{'*' * 12}{value[-4:]}"
    if display == "shortened":
        return value[: len(value) // 2]
    if display == "ellipsis":
        return value[: min(20, len(value) // 2 + 4)] + "..."
    return None


def shown(record: KeyRecord, value: str | None) -> ShownKey:
    """The record as an answer shows it, with this for its value."""
    return ShownKey(record.key_id, record.user_id, value, record.visibility, record.created)


def number(given: object, name: str) -> int:
    """An integer that a request brings as a number or as text; raises Refusal (InvalidParameter)."""
    if isinstance(given, str) and re.fullmatch(r"-?\d{1,18}", given.strip()):
        return int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    raise _bad(f"{name} must be an integer.")


def visibility_named(given: object) -> str:
    """A visibility that a request names; raises Refusal (InvalidParameter)."""
    if given in VISIBILITIES:
        return str(given)
    raise _bad(f"visibility must be one of {', '.join(VISIBILITIES)}.")


def system_object_named(given: object) -> str:
    """A kind of object that a request names; raises Refusal (InvalidParameter)."""
    if given in SYSTEM_OBJECTS:
        return str(given)
    raise _bad(f"systemObject must be one of {', '.join(SYSTEM_OBJECTS)}.")


def _bad(message: str) -> Refusal:
    return Refusal("InvalidParameter", message)
