"""What ECGrid's answers say, whichever surface they came by: records, and refusals as our errors.

Vendor text is never quoted: it may repeat the request with the credential in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import final

from rotator.ecgrid.faults import Fault
from rotator.ecgrid.wire import Call, Reply
from rotator.errors import Failure, Forbidden, NoSuchCall, NotFound, Permanent, Refused, Transient
from rotator.keys import KeyRef, Me, Person, Secret, Seen, Visibility

_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(\.\d+)?\s*(Z|[+-]\d\d:?\d\d)?", re.IGNORECASE
)
# Words as ECGrid writes them (NetworkAdmin, TPUser); a key, which is drawn at random, is none.
_WORD = re.compile(r"[A-Z]{0,2}(?:[A-Z][a-z]{2,}){1,5}")
_VERSION = re.compile(r"\b[vV]?[0-9]{1,4}(?:\.[0-9]{1,6}){1,4}(?: \(Build [0-9]{1,6}\))?")
# Where Get Me may carry the caller's own key.
_KEY_NAMES = ("apikey", "key", "api_key")


@final
class Data:
    """What an answer carries, without showing it: a value, a list, or fields by name (in any case)."""

    __slots__ = ("_raw",)
    _raw: Callable[[], object]

    def __init__(self, raw: object) -> None:
        # A closure, for the reason that `Secret` has one.
        self._raw = lambda: raw

    def __repr__(self) -> str:
        return "Data(**)"

    def _field(self, *names: str) -> object:
        raw = self._raw()
        if not isinstance(raw, dict):
            return None
        folded = {str(name).casefold(): value for name, value in raw.items()}
        return next((folded[n] for n in names if folded.get(n) is not None), None)

    def field(self, name: str) -> Data:
        """What a field carries; empty if there is no such field."""
        return Data(self._field(name))

    @property
    def empty(self) -> bool:
        """Whether there is nothing: no value, no fields."""
        return self._raw() in (None, "", {}, [])

    @property
    def items(self) -> list[Data] | None:
        """The entries of a list; None if this is none."""
        raw = self._raw()
        return [Data(one) for one in raw] if isinstance(raw, list) else None

    @property
    def listed(self) -> list[Data] | None:
        """The entries of a list, or of the first list among the fields; None if there is none."""
        raw = self._raw()
        inner = raw.values() if isinstance(raw, dict) else [raw]
        return next((Data(one).items for one in inner if isinstance(one, list)), None)

    @property
    def true(self) -> bool | None:
        """A truth value, as JSON or XML write it; None if this is none."""
        return {"true": True, "1": True, "false": False, "0": False}.get(
            str(self._raw()).strip().casefold()
        )

    def number(self, *names: str) -> int | None:
        """A field that is a whole number, or written like one."""
        value = self._field(*names)
        if isinstance(value, str) and re.fullmatch(r"\s*\d{1,18}\s*", value):
            return int(value)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, *names: str) -> str:
        """A field that may be shown: one line, printable, no longer than 100 characters."""
        value = self._field(*names)
        kept = (c for c in value.strip() if c.isprintable()) if isinstance(value, str) else ""
        return "".join(kept)[:100]

    def secret(self, *names: str) -> Secret | None:
        """A field (without names: the value itself) that is a whole or masked secret; None where there is none.

        A text that can be neither, such as one with a line break in it, is shown as the empty secret.
        """
        value = self._field(*names) if names else self._raw()
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        return _as_shown(value.strip()) if isinstance(value, str) else Secret("")

    def word(self, *names: str) -> str:
        """A field that is one of ECGrid's words, or a small number in its place; empty if it is neither."""
        text = self.text(*names)
        return text if _WORD.fullmatch(text) or (text.isdecimal() and len(text) < 3) else ""

    @property
    def version(self) -> str:
        """The version in the value, which may be shown; empty if there is none."""
        value = self._field("version") or self._raw()
        matched = _VERSION.search(value[:200]) if isinstance(value, str) else None
        return matched[0] if matched else ""


def _as_shown(text: str) -> Secret:
    shown = Secret(text)
    return shown if is_sendable(shown) or (shown.masked and text.isprintable()) else Secret("")


def is_sendable(secret: Secret) -> bool:
    """Whether an HTTP header can carry the value: ASCII, printable, no space, not empty."""
    value = secret.reveal()
    return bool(value) and value.isascii() and value.isprintable() and " " not in value


def moment(text: str) -> datetime | None:
    """A time of ECGrid's, which without a zone is UTC (seed-KeyGet, Created); None if it is none."""
    matched = _DATE.fullmatch(text.strip())
    if matched is None:
        return None
    date, clock, fraction, zone = matched.groups()
    try:
        # .NET writes seven digits of a second, Python reads six.
        text = f"{date}T{clock}{(fraction or '')[:7]}{(zone or 'Z').upper()}"
        instant = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    # The year 1 is .NET's word for "not set".
    return None if instant.year == 1 else instant


def is_session_key(data: Data) -> bool:
    """Whether the record is that of a key which dies with its session: for the rotator, no key at all."""
    return data.text("visibility").casefold() == "session"


def seen(data: Data) -> Seen | None:
    """A key record (KeyIDInfo, or REST's key object); None if it names no key or user, or its value is garbage."""
    key_id, user_id, shown = data.number("keyid"), data.number("userid"), data.secret("key")
    if key_id is None or user_id is None or (shown is not None and shown == Secret("")):
        return None
    named = data.text("visibility").casefold()
    visibility = next((one for one in Visibility if one.value.casefold() == named), None)
    return Seen(KeyRef(key_id, user_id, visibility, moment(data.text("created"))), shown)


def me(data: Data) -> Me | None:
    """The caller (Get Me, WhoAmI), of whom only what is named here is taken; None if it does not say who that is."""
    user_id, key = data.number("userid"), data.secret(*_KEY_NAMES)
    if user_id is None:
        return None
    whole = key if key is not None and is_sendable(key) and not key.masked else None
    return Me(
        user_id,
        data.text("login", "loginname"),
        data.word("authlevel"),
        data.word("status"),
        whole,
        network_id=data.number("networkid"),
        # A live credential: known as one from here on.
        session=data.secret("sessionid"),
    )


def person(data: Data) -> Person | None:
    """One entry of a list of users; None if it does not say who that is."""
    user_id = data.number("userid")
    if user_id is None:
        return None
    names = " ".join(filter(None, (data.text("firstname"), data.text("lastname"))))
    return Person(
        user_id,
        data.text("login", "loginname"),
        names,
        data.word("authlevel"),
        data.word("status"),
    )


# refusals


def by_code(call: Call, code: str, reply: Reply, shown: str = "") -> Failure | None:
    """The error that a documented code stands for (REST `errorCode`, SOAP `ECGridOSSOAPErrorCode`), else None.

    `shown` takes the place of the status in the text, where ECGrid gave a number of its own.
    """
    if code == "RateLimitExceeded":
        return too_many(call, reply)
    if code in ("InternalError", "SystemError"):
        return call.lost(
            "ecgrid.InternalError",
            f"ECGrid reports an error of its own{f' ({shown})' if shown else ''}; it is tried again",
            reply.retry_after,
        )
    if code in ("InvalidAPIKey", "InvalidSession", "Authentication"):
        kind = "ecgrid.InvalidSession" if code == "InvalidSession" else "ecgrid.InvalidAPIKey"
        return Refused(
            _said(call, f"the credential of this call is not accepted ({shown or 401})"), kind=kind
        )
    if code in ("AccessDenied", "Authorization"):
        return Forbidden(
            _said(
                call,
                f"access is denied ({shown or 403}); acting on another user takes AuthLevel NetworkAdmin or higher, "
                "which `rotator doctor` shows",
            ),
            kind="ecgrid.AccessDenied",
        )
    if code == "ObjectNotFound":
        return NotFound(
            _said(
                call, f"what it names does not exist ({shown or 404}); check user_id in the policy"
            ),
            kind="ecgrid.ObjectNotFound",
        )
    if code == "InvalidParameter":
        advice = (
            f"a parameter is not accepted ({shown or 400}); check user_id and visibility in the policy, and "
            "ROTATOR_ECGRID__SOAP_NAMESPACE where it is set"
        )
        if call.name in ("KeySet", "Create Key"):
            advice += (
                ". If this ECGrid makes no key by that call, `issue: create-key` or `issue: generate` is the way; "
                "`rotator doctor` says what it speaks"
            )
        return Permanent(_said(call, advice), kind="ecgrid.InvalidParameter")
    if code == "DuplicateObject":
        return Permanent(
            _said(
                call,
                f"there is such an object already, and ECGrid makes no second one ({shown or 400}); remove a key "
                "that is no longer used, or use `issue: generate`",
            ),
            kind="ecgrid.DuplicateObject",
        )
    return None


GENERATE_INSTEAD = (
    "write `issue: generate` in the policy, or set ROTATOR_ISSUE=generate for all policies. Generate ends the old key "
    "at once, so there is no grace; `users: [a, b]`, two users in turn, is the way to have no outage"
)
READ_INSTEAD = "write `verify: get-api-key`, or `verify: user-get-api-key` for SOAP"


def no_such_call(call: Call) -> NoSuchCall:
    """The error for a call that the service does not have; nothing was sent."""
    if call.name in ("KeySet", "Create Key"):
        what = (
            f"this ECGrid keeps named values there, and makes no API key by it: {GENERATE_INSTEAD}"
        )
    elif call.name in ("Get Key", "KeyGet", "List Keys", "KeyList", "Delete Key", "KeyRemove"):
        what = f"this ECGrid keeps named values there, and shows no API key by it: {READ_INSTEAD}"
    else:
        what = (
            "the service does not describe such a call; check ROTATOR_ECGRID__SOAP_URL and ROTATOR_ECGRID__REST_URL, "
            "and see what it has with `rotator doctor`"
        )
    return NoSuchCall(_said(call, what))


def not_understood(call: Call, what: str) -> Permanent:
    """The error for a request that ECGrid could not read: nothing was carried out."""
    return Permanent(
        _said(
            call,
            f"{what}: nothing was carried out. Check ROTATOR_ECGRID__SOAP_URL, and ROTATOR_ECGRID__SOAP_NAMESPACE "
            "where it is set; `rotator doctor` says what the service speaks",
        ),
        kind="ecgrid.NotUnderstood",
    )


def by_fault(call: Call, fault: Fault, reply: Reply) -> Failure:
    """The error that a SOAP fault stands for (see `rotator.ecgrid.faults`)."""
    if fault.unread:
        return not_understood(call, "ECGrid could not read the request, or knows no such action")
    code = fault.code or ("" if call.changes else fault.hint)
    known = by_code(call, code, reply, fault.shown)
    if known is not None:
        return known
    shown = f"{fault.shown}, " if fault.shown else ""
    return call.lost(
        "ecgrid.UnknownError",
        f"a SOAP fault without known words ({shown}status {reply.status}); `rotator doctor` says what it speaks",
        reply.retry_after,
    )


_BY_STATUS = {
    401: "InvalidAPIKey",
    403: "AccessDenied",
    404: "ObjectNotFound",
    429: "RateLimitExceeded",
}


def by_status(call: Call, reply: Reply) -> Failure | None:
    """The error of an answer that is settled before its body is read: redirects, limits, a server's or proxy's 5xx."""
    status = reply.status
    if 300 <= status < 400:
        return call.lost(
            "ecgrid.Redirect",
            f"a redirect ({status}), which is never followed since the key would travel along; check the address in "
            "the settings",
        )
    if status == 429:
        return too_many(call, reply)
    if status in (502, 503, 504):
        return call.lost(
            "ecgrid.Unavailable", f"ECGrid is not available ({status})", reply.retry_after
        )
    if reply.is_page:
        return call.lost(
            "ecgrid.Unavailable",
            f"a page for people instead of an answer ({status}); is there a proxy between, and is the address in the "
            "settings right?",
            reply.retry_after,
        )
    return None


def without_code(call: Call, reply: Reply, code: str = "") -> Failure:
    """The error of an answer whose code is missing or not a documented one: the status decides."""
    named = f", code {code}" if _WORD.fullmatch(code) else ""
    known = by_code(call, _BY_STATUS.get(reply.status, ""), reply)
    if known is not None:
        return known
    if 400 <= reply.status < 500:
        return Permanent(
            _said(call, f"the request is not accepted ({reply.status}{named})"),
            kind="ecgrid.InvalidParameter",
        )
    if reply.status >= 500:
        return call.lost(
            "ecgrid.InternalError",
            f"an error of the server ({reply.status}{named})",
            reply.retry_after,
        )
    if named:
        return call.lost("ecgrid.UnknownError", f"ECGrid says no, for an unknown reason{named}")
    return bad_answer(call, f"the answer ({reply.status}) cannot be understood")


def too_many(call: Call, reply: Reply) -> Transient:
    """One request too many: nothing was carried out."""
    return Transient(
        _said(call, "too many requests (429); lower ROTATOR_ECGRID__RATE if this lasts"),
        kind="ecgrid.RateLimitExceeded",
        retry_after=reply.retry_after,
    )


def bad_answer(call: Call, what: str) -> Transient:
    """An answer that does not fit the question."""
    return call.lost("ecgrid.BadAnswer", what)


def nothing_there(call: Call) -> NotFound:
    """An answer that carries nothing: the user has none."""
    return NotFound(
        _said(call, "the user has no such key; check user_id in the policy"),
        kind="ecgrid.ObjectNotFound",
    )


def _said(call: Call, what: str) -> str:
    return f"ECGrid, {call.name}: {what}"
