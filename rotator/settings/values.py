"""What a single setting may be: text, as the environment has it, to value; what is refused, in words of ours.

No refusal quotes the text: a secret may have been pasted into the wrong variable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import PlainSerializer

from rotator.keys import Issue, Secret, Verify
from rotator.letters import is_invisible, named
from rotator.reading import (
    Kind,
    is_path,
    length,
    longer_than_nothing,
    one_of,
    secret,
    switch,
    unusable,
    web,
)
from rotator.settings.proxies import is_loopback

T = TypeVar("T")


def _plain(text: str) -> str:
    for number, char in enumerate(text, 1):
        if is_invisible(char) and not char.isascii():
            raise unusable(
                f"has as its character {number} {named(char)}, which cannot be seen; remove it"
            )
    if not text.strip() or text != text.strip() or not text.isprintable():
        raise unusable("must be one line of text, without white space around it")
    return text


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 3600:
        raise unusable("must be a number above 0 and not above 3600, such as 1.5")
    return number


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise unusable("must be a whole number of at least 1")
    return int(text)


def _count_or_zero(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _words(words: Mapping[str, T]) -> Callable[[str], T]:
    return one_of(words, f"one of {', '.join(words)}")


_LEVELS = _words({name: name for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")})
_YES_OR_NO = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_SWITCH = switch(_YES_OR_NO, "must be true or false")


def _lower(text: str) -> str:
    """An address whose scheme and host are in lower case, as everything that compares them expects."""
    scheme, between, rest = text.partition("://")
    where, slash, path = rest.partition("/")
    who, sign, host = where.rpartition("@")
    return f"{scheme.lower()}{between}{who}{sign}{host.lower()}{slash}{path}" if between else text


def _encrypted(parts: SplitResult, what: str) -> None:
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise unusable(
            f"plain http would send {what} in the clear; use https (http only to loopback)"
        )


def _url(text: str) -> str:
    text = _lower(text)
    parts = web(text)
    if parts is None or parts.query or parts.fragment:
        raise unusable("must be an address such as https://host:8200")
    if parts.username is not None or parts.password is not None:
        raise unusable(
            "must not contain a user name or password; give credentials in their own settings"
        )
    _encrypted(parts, "credentials")
    return text.rstrip("/")


def _page(text: str) -> str:
    parts = web(_lower(text))
    if parts is None or parts.fragment or parts.username is not None:
        raise unusable(
            "must be the address of a page, such as https://wiki.example.com/rotator/runbook"
        )
    return _lower(text)


def _vault_url(text: str) -> str:
    url = _url(text)
    if urlsplit(url).path.endswith("/v1"):
        raise unusable("must be Vault's address without the API's /v1, such as https://host:8200")
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
        raise unusable(
            "must be a DSN such as https://KEY@HOST/PROJECT, as Sentry's project settings show it"
        )
    return text


def _webhook(text: str) -> str:
    """Such an address is often a secret by itself, so it may have a query, and is never shown."""
    text = _lower(text)
    parts = web(text)
    if parts is None or parts.username is not None:
        raise unusable(
            "must be an address such as https://host/path, without a user name or password"
        )
    _encrypted(parts, "it")
    return text


def _cron(text: str) -> str:
    """Five fields, as crontab has them; what they mean is Sentry's to judge."""
    if not re.fullmatch(r"[A-Za-z0-9*,/-]+( [A-Za-z0-9*,/-]+){4}", text):
        raise unusable('must be five fields of a crontab, such as "*/5 * * * *"')
    return text


def _vault_path(text: str) -> str:
    if not is_path(text):
        raise unusable("must be names joined by single slashes, without a slash at either end")
    return text


class VaultField(NamedTuple):
    """One field of a KV v2 secret at `place`: MOUNT/PATH; where the mount ends, only Vault knows."""

    place: str
    field: str


def _vault_field(text: str) -> VaultField:
    place, _, field = text.partition("#")
    if not is_path(place) or "/" not in place or not re.fullmatch("[A-Za-z0-9_.-]+", field):
        raise unusable("must be MOUNT/PATH#FIELD, such as secret/ecgrid/rotator#api_key")
    return VaultField(place, field)


class Listen(NamedTuple):
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
        raise unusable("must be HOST:PORT such as 127.0.0.1:9464, or empty for none")
    return Listen(match[1] or match[2], int(match[3]))


def _enum(choices: type[Enum]) -> Kind:
    return Kind(_words({str(choice.value): choice for choice in choices}), choices)


def _literal(*words: str) -> Kind:
    return Kind(_words({word: word for word in words}))


Text = Annotated[str, Kind(_plain)]
# Not by `repr`: to learn how a built-in function is called, pydantic has its text taken apart.
SecretValue = Annotated[Secret, Kind(secret, Secret), PlainSerializer(Secret.__repr__)]
Url = Annotated[str, Kind(_url)]
VaultUrl = Annotated[str, Kind(_vault_url)]
PageUrl = Annotated[str, Kind(_page)]
Dsn = Annotated[str, Kind(_dsn)]
WebhookUrl = Annotated[str, Kind(_webhook)]
Cron = Annotated[str, Kind(_cron)]
VaultPath = Annotated[str, Kind(_vault_path)]
VaultPlace = Annotated[VaultField, Kind(_vault_field, VaultField)]
Address = Annotated[Listen | None, Kind(_listen, Listen)]
File = Annotated[Path, Kind(lambda text: Path(_plain(text)), Path)]
Length = Annotated[
    timedelta, Kind(longer_than_nothing("must be longer than nothing, such as 2m"), timedelta)
]
LengthOrZero = Annotated[timedelta, Kind(length, timedelta)]
Number = Annotated[float, Kind(_number)]
Count = Annotated[int, Kind(_count)]
CountOrZero = Annotated[int, Kind(_count_or_zero)]
Switch = Annotated[bool, Kind(lambda text: _SWITCH(text.lower()), bool)]
Level = Annotated[str, Kind(lambda text: _LEVELS(text.upper()))]
IssueCall = Annotated[Issue, _enum(Issue)]
VerifyCall = Annotated[Verify, _enum(Verify)]
Auth = Annotated[
    Literal["token", "approle", "kubernetes", "jwt", "cert"],
    _literal("token", "approle", "kubernetes", "jwt", "cert"),
]
LogFormat = Annotated[Literal["json", "console", "auto"], _literal("json", "console", "auto")]
