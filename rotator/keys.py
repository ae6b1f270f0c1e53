"""What is rotated: `KeyRef` names a key and may be logged; `Secret` holds a value and shows it to nobody.

A value is revealed only at the wire, in `rotator.ecgrid` and `rotator.vault`, by `Secret.reveal()`; a test over the
source holds that. Everything else compares, fingerprints or measures values through the methods here.

The words of `Issue` and `Verify` also choose the surface of ECGrid that is asked; nothing else does.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, NoReturn, final
from urllib.parse import unquote, urlsplit

from rotator.errors import Permanent

# An ellipsis, bullets, or a run of asterisks: no key is believed to contain them, every masked key does.
_MASK = re.compile(r"\.{3,}|…+|[•●∙·]+|\*{3,}|[xX]{6,}")


class Visibility(str, Enum):
    """Scope of a key (seed-KeySet, KeyVisibility). Session keys die with their session and are never rotated."""

    PRIVATE = "Private"
    SHARED = "Shared"
    PUBLIC = "Public"


class Issue(str, Enum):
    """The call that issues a key: SOAP KeySet, REST Create Key, or Generate (kills the old key at once)."""

    KEYSET = "keyset"
    CREATE_KEY = "create-key"
    GENERATE = "generate"


class Verify(str, Enum):
    """The call that reads a key back: REST Get Key, SOAP KeyGet, REST Get API Key, SOAP UserGetAPIKey."""

    GET_KEY = "get-key"
    KEY_GET = "key-get"
    GET_API_KEY = "get-api-key"
    USER_GET_API_KEY = "user-get-api-key"

    @property
    def shows_record(self) -> bool:
        """Whether the answer is a key record; otherwise it is only the value."""
        return self in (Verify.GET_KEY, Verify.KEY_GET)

    @property
    def of_other_family(self) -> Verify:
        """The call over the same surface that reads the other family: records instead of the value alone, or back."""
        return {
            Verify.GET_KEY: Verify.GET_API_KEY,
            Verify.KEY_GET: Verify.USER_GET_API_KEY,
            Verify.GET_API_KEY: Verify.GET_KEY,
            Verify.USER_GET_API_KEY: Verify.KEY_GET,
        }[self]

    @property
    def over_soap(self) -> bool:
        """Whether the call, and what goes with it (list, remove), speaks SOAP."""
        return self in (Verify.KEY_GET, Verify.USER_GET_API_KEY)


class Agreement(Enum):
    """What a value that was shown says about the value that is known."""

    EQUAL = "equal"
    # Masked or shortened, but what is visible fits.
    CONSISTENT = "consistent"
    # Nothing was shown.
    SILENT = "silent"
    CONTRADICTS = "contradicts"


@final
class Secret:
    """A secret value in memory, with no way to print it by accident.

    Two secrets compare equal in constant time. There is no hash, no iteration, no length, no pickle. Whoever watches
    secrets (`watch_secrets`) is told of each as it is made.
    """

    __slots__ = ("__weakref__", "_value")
    _value: Callable[[], str]

    def __init__(self, value: str) -> None:
        # A closure, so that no dump of attributes or slots ever meets the text itself.
        object.__setattr__(self, "_value", lambda: value)
        for watcher in _watchers:
            watcher(self, value)

    @classmethod
    def clean(cls, text: str, source: str) -> Secret:
        """A secret as a person or a server delivered it, without the white space and BOM around it.

        Raises Permanent (`secret.Malformed`), naming only `source`, if nothing is left, or if what is left has
        characters that no HTTP header can carry.
        """
        text = text.strip("\ufeff \t\r\n\v\f")
        if not text:
            raise Permanent(f"{source} is empty", kind="secret.Malformed")
        if not text.isascii() or not text.isprintable() or " " in text:
            raise Permanent(
                f"{source} contains a space, a control character or a non-ASCII character",
                kind="secret.Malformed",
            )
        return cls(text)

    def reveal(self) -> str:
        """The value. Only `rotator.ecgrid` and `rotator.vault` may call this, at the wire."""
        return self._value()

    def fingerprint(self, key: bytes) -> str:
        """HMAC-SHA256 of the value under `key`, in hex: fit for comparing, useless for guessing."""
        return hmac.new(key, self._value().encode(), hashlib.sha256).hexdigest()

    def is_text(self, given: str) -> bool:
        """Whether that text is the value, in constant time. A guess is not made a Secret, which would be watched."""
        return hmac.compare_digest(self._value().encode(), given.encode(errors="replace"))

    def signature(self, message: bytes) -> str:
        """HMAC-SHA256 of `message` under this value, in hex: proves who sent it."""
        return hmac.new(self._value().encode(), message, hashlib.sha256).hexdigest()

    @property
    def masked(self) -> bool:
        """Whether the text bears the marks of a mask and so cannot be a whole key."""
        return _MASK.search(self._value()) is not None

    def against(self, shown: Secret | None) -> Agreement:
        """What `shown`, perhaps masked or shortened, says about this whole value."""
        if shown is None:
            return Agreement.SILENT
        if self == shown:
            return Agreement.EQUAL
        whole, seen = self._value(), shown._value()
        pieces = _MASK.split(seen)
        # No marks of a mask: a shortened value, or another one.
        if len(pieces) == 1:
            short = whole.startswith(seen) or whole.endswith(seen)
            return Agreement.CONSISTENT if short else Agreement.CONTRADICTS
        fits = whole.startswith(pieces[0]) and whole.endswith(pieces[-1])
        return Agreement.CONSISTENT if fits else Agreement.CONTRADICTS

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value().encode(), other._value().encode())

    __hash__ = None  # type: ignore[assignment]  # a hash would be one more trace of the value

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __repr__(self) -> str:
        return "Secret(**)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")


def secret_part(url: str) -> Secret:
    """What of an address may be a secret by itself (password, path, query): watched for as long as it is held."""
    parts = urlsplit(url)
    return Secret(unquote("".join((parts.password or "", parts.path, parts.query))))


_watchers: list[Callable[[Secret, str], None]] = []


def watch_secrets(watcher: Callable[[Secret, str], None]) -> None:
    """From here on `watcher` is told every new secret and its value; it must keep neither, and never raise."""
    _watchers.append(watcher)


class KeyRef(NamedTuple):
    """Names a key record; holds nothing that must stay secret. `key_id` is None in the generate family."""

    key_id: int | None
    user_id: int
    visibility: Visibility | None
    created: datetime | None

    @property
    def words(self) -> str:
        """The key, as a text names it."""
        whose = f"of user {self.user_id}"
        return f"the API key {whose}" if self.key_id is None else f"key {self.key_id} {whose}"


class ApiKey(NamedTuple):
    """A whole key: its record and its value."""

    ref: KeyRef
    value: Secret


class Seen(NamedTuple):
    """A key record as a read or a list shows it; `shown` may be masked, shortened or missing."""

    ref: KeyRef
    shown: Secret | None

    @property
    def whole(self) -> ApiKey | None:
        """The key, if its value came without marks of a mask. Whether ECGrid accepts it, only the probe tells."""
        return ApiKey(self.ref, self.shown) if self.shown and not self.shown.masked else None


class Person(NamedTuple):
    """A user as ECGrid's list of users shows it; `status` is empty where the list does not tell it."""

    user_id: int
    login: str
    names: str
    auth_level: str
    status: str

    @property
    def active(self) -> bool:
        """Whether nothing says otherwise."""
        return self.status.casefold() in ("", "active")


class Among(NamedTuple):
    """Which users are asked for: of a network and a mailbox (None: the caller's own; all), with that in their name."""

    network_id: int | None = None
    mailbox_id: int | None = None
    name: str = ""
    level: str = ""

    def has(self, person: Person) -> bool:
        """Whether a user is one of them, as far as it shows: not every service heeds name and level."""
        part = self.name.casefold()
        named = part in person.login.casefold() or part in person.names.casefold()
        shown = person.auth_level if not person.auth_level.isdecimal() else ""
        return named and (not self.level or shown.casefold() in ("", self.level.casefold()))


class Me(NamedTuple):
    """Who a credential belongs to (Get Me, WhoAmI); `key` where the answer carries the caller's own key.

    `session`: an answer may carry the session that it was asked in. It is of no use, and a secret like any other.
    """

    user_id: int
    login: str
    auth_level: str
    status: str
    key: Secret | None = None
    network_id: int | None = None
    session: Secret | None = None
