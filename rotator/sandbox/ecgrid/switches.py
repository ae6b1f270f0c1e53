"""How the simulated ECGrid behaves where its documentation leaves it open, and what goes wrong on the way.

Both are plain values that also travel as JSON through the control API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args, get_type_hints

# What an issuing call does: a record beside the others; a new record instead of the others of that user and
# visibility; a new value in the newest record; the existing value again; or something stored that is no live key.
Issuing = Literal["add", "replace", "update", "same", "store"]
Display = Literal["full", "masked", "shortened", "ellipsis"]
KeyShape = Literal["guid", "ek-live", "alnum32", "alnum33", "special"]

Form = Literal["portal", "service"]
# How a description (`?WSDL`, swagger.json) is answered.
Description = Literal[
    "served",
    # 404.
    "missing",
    # A page.
    "html",
    # 20 MB, well-formed.
    "huge",
    # Byte by byte, without an end.
    "drip",
    "malformed",
    # XML with a DOCTYPE and entities, one of them at `/elsewhere`.
    "dtd",
    # Of another service.
    "other",
    # To `/elsewhere`, where the description is.
    "redirect",
]

FaultKind = Literal[
    # Carried out; the connection is closed without an answer.
    "lost",
    # Carried out; the connection is closed in the middle of the answer.
    "half",
    # Not carried out; the connection is closed.
    "closed",
    # Not carried out; connections are refused for `seconds`.
    "refused",
    # Not carried out; the documented error of `status`, with `retry_after`.
    "status",
    # Not carried out; the service's own fault of `number` (REST: an internal error).
    "numbered",
    # Carried out; a proxy answers with a page and `status`.
    "html",
    # Not carried out; no answer for `seconds`.
    "hang",
    # Carried out after `seconds`.
    "latency",
    # Carried out; the answer comes byte by byte, `seconds` apart.
    "drip",
    # Not carried out; sent on to `url`.
    "redirect",
    # Answers as of before the last change to that user's keys.
    "stale",
    # Carried out; the value in the answer is masked.
    "masked",
    # Carried out; the value in the answer cannot be sent in a header.
    "malformed",
    # Carried out; the answer is about another user.
    "other-user",
]
CARRIED_OUT: frozenset[str] = frozenset(
    {"lost", "half", "html", "latency", "drip", "stale", "masked", "malformed", "other-user"}
)


class _Checked:
    """Refuses, with a ValueError that names the choices, a value that is not of the field's declared type."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name, value in vars(self).items():
            if not _fits(value, hints[name]):
                raise ValueError(f"{type(self).__name__}.{name} must be {_wanted(hints[name])}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The value as it came from `to_json`; raises ValueError for an unknown name or a wrong value."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]  # subclasses are dataclasses
        unknown = sorted(set(data) - known)
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no {unknown[0]!r}; it has {', '.join(sorted(known))}"
            )
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]  # subclasses are dataclasses


def _fits(value: object, hint: Any) -> bool:
    choices = get_args(hint)
    if choices and not any(isinstance(choice, type) for choice in choices):
        return value in choices
    plain = choices or (hint,)
    if isinstance(value, bool):
        return bool in plain
    return isinstance(value, plain) or (float in plain and isinstance(value, int))


def _wanted(hint: Any) -> str:
    choices = get_args(hint) or (hint,)
    return " or ".join(c.__name__ if isinstance(c, type) else repr(c) for c in choices)


_SERVICE: dict[str, Any] = {
    "soap_namespace": "https://os.ecgrid.io/",
    "key_shape": "guid",
    "api_key_is_record": False,
    "rest_errors": "problem",
    "rest_login": "both",
    "lock_after": 5,
    "swagger": "served",
}


@dataclass(frozen=True)
class Switches(_Checked):
    """One answer to each open question of ECGrid's documentation; the defaults follow the newest pages.

    `form` is which of the two ECGrids it is: the `portal`'s, or the `service`'s own, where the calls of key records are
    a store of named values. The form alone changes no other switch: `Switches.service()` is the natural second form.
    """

    form: Form = "portal"
    keyset: Issuing = "add"
    create_key: Issuing = "add"
    # `replace` leaves the dead records in the list.
    replaced_stay_listed: bool = False
    created_on_update: Literal["newer", "unchanged"] = "newer"
    key_shape: KeyShape = "ek-live"
    # Records per user.
    key_quota: int | None = None
    # Seconds until a new value is accepted.
    activation_delay: float = 0.0
    get_key: Literal["newest", "oldest", "newest-private"] = "newest"
    # Get Key and KeyGet.
    read_back: Display = "full"
    list_shows: Literal["full", "masked", "shortened", "ellipsis", "none"] = "full"
    # Get API Key and UserGetAPIKey.
    api_key_shows: Display = "full"
    private_read: Literal["anyone", "owner-403", "owner-404", "owner-masked"] = "anyone"
    # The user's API key is its newest key record.
    api_key_is_record: bool = True
    me_shows_key: bool = False
    me_key_field: str = "apiKey"
    key_remove: Literal["removes", "pretends"] = "removes"
    soap_accepts_api_key: bool = True
    soap_namespace: str = "http://www.ecgridos.net/"
    soap_result: Literal["typed", "inner"] = "typed"
    # As documented: REST with Z, SOAP without.
    created_zone: Literal["documented", "always", "never"] = "documented"
    created_fraction: bool = False
    login_field: Literal["both", "login", "email"] = "both"
    refresh_token: bool = False
    errors_with_200: bool = False
    faults_with_200: bool = False
    session_seconds: float = 3600.0
    sessions_per_user: int = 5
    session_overflow: Literal["oldest-ends", "refused"] = "oldest-ends"
    # Requests per `rate_period` seconds.
    rate_limit: int | None = None
    rate_period: float = 60.0
    rest_errors: Literal["envelope", "problem"] = "envelope"
    # "api-key": data.sessionKey.
    rest_login: Literal["password", "api-key", "both"] = "password"
    # An object has the list in `users`.
    user_list: Literal["bare", "object"] = "bare"
    # Which page List Users shows: the one that is asked for, always the first one, or all users at once.
    user_pages: Literal["asked", "first", "all"] = "asked"
    # REST says 404 for "no right".
    denied_as_404: bool = False
    # A MailboxAdmin may act for the users of its mailbox.
    mailbox_admins: bool = False
    # Wrong passwords in a row that lock a user out.
    lock_after: int | None = None
    wsdl: Description = "served"
    swagger: Description = "missing"
    # Of the service's own form alone:
    # users/{id}/api-key.
    key_paths: Literal["users/key", "users/id"] = "users/key"
    # who-am-I's session id.
    session_shown: Literal["presented", "session"] = "presented"
    fault_shape: Literal["error-info", "flat"] = "error-info"
    fault_words: Literal["spaced", "joined", "sentence"] = "spaced"
    # The number of "Invalid SessionID".
    dead_number: int = 1
    # Of a request that is no XML or no envelope.
    unread_status: Literal[400, 500] = 500

    @classmethod
    def service(cls, **changes: Any) -> Self:
        """The second form with what goes with it: its namespace, GUIDs, one API key per user, problem JSON, and so on.

        Raises ValueError as `from_json`.
        """
        return cls.from_json({"form": "service", **changes})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """As it came from `to_json`; what is not given is natural for the form. Raises ValueError."""
        return super().from_json({**natural(data.get("form")), **data})


def natural(form: object) -> dict[str, Any]:
    """The switches that depend on the form, as they are in this one."""
    if form == "service":
        return dict(_SERVICE)
    return {field.name: field.default for field in fields(Switches) if field.name in _SERVICE}


@dataclass(frozen=True)
class Fault(_Checked):
    """Something that goes wrong with the `nth` matching request, and the `times - 1` (None: all) after it.

    `call` names a call (`KeySet`, `CreateKey`), a family of `words.FAMILIES` (`issue`, `read`), or is `*`; `about`
    limits it to requests about one user. `carried_out` overrides what `kind` says about that, and `lands_after` lets a
    request that was not carried out land so many seconds later. `quoting` makes an error or a page repeat the request,
    its credential and body included, and the answer if there was one. `number` is of a `numbered` fault.
    """

    kind: FaultKind
    call: str = "*"
    nth: int = 1
    times: int | None = 1
    about: int | None = None
    status: int = 503
    seconds: float = 1.0
    retry_after: int | None = None
    url: str = ""
    quoting: bool = False
    carried_out: bool | None = None
    lands_after: float | None = None
    number: int = 11

    def __post_init__(self) -> None:
        super().__post_init__()
        withheld = self.carried_out is False or self.lands_after is not None
        if withheld and self.kind in CARRIED_OUT - {"lost", "html"}:
            raise ValueError(
                f"Fault.kind {self.kind!r} has an answer, so the request must be carried out"
            )

    @property
    def performs(self) -> bool:
        """Whether the request is carried out when it arrives."""
        if self.lands_after is not None:
            return False
        return self.kind in CARRIED_OUT if self.carried_out is None else self.carried_out
