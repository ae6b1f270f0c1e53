"""What a single setting may be: text, as the environment has it, to value; what is refused, in words of ours.

No refusal quotes the text: a secret may have been pasted into the wrong variable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

from rotator.errors import BadInput, Permanent
from rotator.keys import Issue, Secret, Verify
from rotator.letters import is_invisible, named
from rotator.schedule import duration
from rotator.settings.proxies import is_loopback
from rotator.settings.sources import near

OURS = "rotator"  # the type of a validation error whose text is ours, and may be shown

_PATH = re.compile(r"[A-Za-z0-9_.@+=:~-]+(/[A-Za-z0-9_.@+=:~-]+)*")

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


def _reads(read: Callable[[str], T], *types: type) -> BeforeValidator:
    """A validator that takes text, as the environment has it, or one of `types`; texts of refusal are ours."""

    def validate(value: object) -> object:
        if isinstance(value, types) and not isinstance(value, str):
            return value
        if not isinstance(value, str):
            raise _bad("must be a single text or number")
        return read(value)

    return BeforeValidator(validate)


def _bad(what: str) -> PydanticCustomError:
    return PydanticCustomError(OURS, what)


def _plain(text: str) -> str:
    for at, char in enumerate(text, 1):
        if is_invisible(char) and not char.isascii():
            raise _bad(f"has as its character {at} {named(char)}, which cannot be seen; remove it")
    if not text.strip() or text != text.strip() or not text.isprintable():
        raise _bad("must be one line of text, without white space around it")
    return text


def _duration(text: str) -> timedelta:
    try:
        return duration(text)
    except BadInput as error:
        what = str(error)
    raise _bad(what)


def _positive(text: str) -> timedelta:
    length = _duration(text)
    if not length:
        raise _bad("must be longer than nothing, such as 2m")
    return length


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 3600:
        raise _bad("must be a number above 0 and not above 3600, such as 1.5")
    return number


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise _bad("must be a whole number of at least 1")
    return int(text)


def _count_or_zero(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _switch(text: str) -> bool:
    if text.lower() not in ("1", "t", "true", "0", "f", "false"):
        raise _bad("must be true or false")
    return text.lower() in ("1", "t", "true")


def _words(words: Mapping[str, T]) -> Callable[[str], T]:
    def choose(text: str) -> T:
        if text not in words:
            raise _bad(f"must be one of {', '.join(words)}{near(text, words, '')}")
        return words[text]

    return choose


def _level(text: str) -> str:
    levels = {name: name for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}
    return _words(levels)(text.upper())


def _web(text: str) -> SplitResult | None:
    """The parts of an http(s) address in plain characters; None for anything else."""
    try:
        parts = urlsplit(text)
        good = bool(parts.hostname) and parts.port != 0 and parts.scheme in ("http", "https")
    except ValueError:
        return None
    return parts if good and not re.search(r"[^!-~]", text) else None


def _lower(text: str) -> str:
    """An address whose scheme and host are in lower case, as everything that compares them expects."""
    scheme, between, rest = text.partition("://")
    where, slash, path = rest.partition("/")
    who, at, host = where.rpartition("@")
    return f"{scheme.lower()}{between}{who}{at}{host.lower()}{slash}{path}" if between else text


def _encrypted(parts: SplitResult, what: str) -> None:
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise _bad(f"plain http would send {what} in the clear; use https (http only to loopback)")


def _url(text: str) -> str:
    text = _lower(text)
    parts = _web(text)
    if parts is None or parts.query or parts.fragment:
        raise _bad("must be an address such as https://host:8200")
    if parts.username is not None or parts.password is not None:
        raise _bad(
            "must not contain a user name or password; give credentials in their own settings"
        )
    _encrypted(parts, "credentials")
    return text.rstrip("/")


def _page(text: str) -> str:
    parts = _web(_lower(text))
    if parts is None or parts.fragment or parts.username is not None:
        raise _bad(
            "must be the address of a page, such as https://wiki.example.com/rotator/runbook"
        )
    return _lower(text)


def _vault_url(text: str) -> str:
    url = _url(text)
    if urlsplit(url).path.endswith("/v1"):
        raise _bad("must be Vault's address without the API's /v1, such as https://host:8200")
    return url


def _dsn(text: str) -> str:
    text = _lower(text)
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname and parts.username)
        good = good and parts.port != 0 and parts.path.rpartition("/")[2].isdigit()
    except ValueError:
        good = False
    if not good:
        raise _bad(
            "must be a DSN such as https://KEY@HOST/PROJECT, as Sentry's project settings show it"
        )
    return text


def _webhook(text: str) -> str:
    """Such an address is often a secret by itself, so it may have a query, and is never shown."""
    text = _lower(text)
    parts = _web(text)
    if parts is None or parts.username is not None:
        raise _bad("must be an address such as https://host/path, without a user name or password")
    _encrypted(parts, "it")
    return text


def _cron(text: str) -> str:
    """Five fields, as crontab has them; what they mean is Sentry's to judge."""
    if not re.fullmatch(r"[A-Za-z0-9*,/-]+( [A-Za-z0-9*,/-]+){4}", text):
        raise _bad('must be five fields of a crontab, such as "*/5 * * * *"')
    return text


def _vault_path(text: str) -> str:
    if not _PATH.fullmatch(text) or {".", ".."} & set(text.split("/")):
        raise _bad("must be names joined by single slashes, without a slash at either end")
    return text


@dataclass(frozen=True)
class VaultField:
    """One field of a KV v2 secret at `place`: MOUNT/PATH; where the mount ends, only Vault knows."""

    place: str
    field: str


def _vault_field(text: str) -> VaultField:
    place, _, field = text.partition("#")
    if not _PATH.fullmatch(place) or "/" not in place or not re.fullmatch("[A-Za-z0-9_.-]+", field):
        raise _bad("must be MOUNT/PATH#FIELD, such as secret/ecgrid/rotator#api_key")
    return VaultField(place, field)


@dataclass(frozen=True)
class Listen:
    """Where health, metrics and the status page are served; port 0 lets the kernel choose."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def _listen(text: str) -> Listen | None:
    if not text:
        return None
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise _bad("must be HOST:PORT such as 127.0.0.1:9464, or empty for none")
    return Listen(match[1] or match[2], int(match[3]))


def _secret(text: str) -> Secret:
    try:
        return Secret.clean(text, "the value")
    except Permanent as error:
        what = str(error)
    raise _bad(what)


def _enum(choices: type[E]) -> BeforeValidator:
    return _reads(_words({str(choice.value): choice for choice in choices}), choices)


def _literal(*words: str) -> BeforeValidator:
    return _reads(_words({word: word for word in words}))


Text = Annotated[str, _reads(_plain)]
SecretValue = Annotated[Secret, _reads(_secret, Secret), PlainSerializer(repr)]
Url = Annotated[str, _reads(_url)]
VaultUrl = Annotated[str, _reads(_vault_url)]
PageUrl = Annotated[str, _reads(_page)]
Dsn = Annotated[str, _reads(_dsn)]
WebhookUrl = Annotated[str, _reads(_webhook)]
Cron = Annotated[str, _reads(_cron)]
VaultPath = Annotated[str, _reads(_vault_path)]
VaultPlace = Annotated[VaultField, _reads(_vault_field, VaultField)]
Address = Annotated[Listen | None, _reads(_listen, Listen)]
File = Annotated[Path, _reads(lambda text: Path(_plain(text)), Path)]
Length = Annotated[timedelta, _reads(_positive, timedelta)]
LengthOrZero = Annotated[timedelta, _reads(_duration, timedelta)]
Number = Annotated[float, _reads(_number)]
Count = Annotated[int, _reads(_count)]
CountOrZero = Annotated[int, _reads(_count_or_zero)]
Switch = Annotated[bool, _reads(_switch, bool)]
Level = Annotated[str, _reads(_level)]
IssueCall = Annotated[Issue, _enum(Issue)]
VerifyCall = Annotated[Verify, _enum(Verify)]
Auth = Annotated[
    Literal["token", "approle", "kubernetes", "jwt", "cert"],
    _literal("token", "approle", "kubernetes", "jwt", "cert"),
]
LogFormat = Annotated[Literal["json", "console", "auto"], _literal("json", "console", "auto")]
