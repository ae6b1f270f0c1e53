"""The vocabulary: what policies and settings both have values of, from text to value.

Each function takes a text, and raises `unusable` for one that it cannot take.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from rotator.errors import BadInput, Permanent
from rotator.keys import Secret
from rotator.reading.form import unusable
from rotator.reading.hints import near
from rotator.schedule import Cron, duration

_PATH = re.compile(r"[A-Za-z0-9_.@+=:~-]+(/[A-Za-z0-9_.@+=:~-]+)*")

T = TypeVar("T")


def one_of(choices: Mapping[str, T], listed: str) -> Callable[[str], T]:
    """A reader of one of these words; `listed` is how a sentence names them."""

    def choose(text: str) -> T:
        if text not in choices:
            raise unusable(f"must be {listed}{near(text, choices)}")
        return choices[text]

    return choose


def switch(spellings: Mapping[str, bool], said: str) -> Callable[[str], bool]:
    """A reader of yes or no, in these spellings alone."""

    def choose(text: str) -> bool:
        if text not in spellings:
            raise unusable(said)
        return spellings[text]

    return choose


def length(text: str) -> timedelta:
    """A length of time such as `90s` or `8w`; may be nothing."""
    return _of_schedules(duration, text)


def longer_than_nothing(said: str) -> Callable[[str], timedelta]:
    """A reader of a length of time that is some; `said` of one that is none."""

    def positive(text: str) -> timedelta:
        time = length(text)
        if not time:
            raise unusable(said)
        return time

    return positive


def cron(text: str) -> Cron:
    """A cron expression of five fields."""
    return _of_schedules(Cron.parse, text)


def _of_schedules(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except BadInput as error:
        what = str(error)
    raise unusable(what)


def is_path(text: str) -> bool:
    """Whether these are names joined by single slashes, fit for Vault."""
    return _PATH.fullmatch(text) is not None and not {".", ".."} & set(text.split("/"))


def web(text: str) -> SplitResult | None:
    """The parts of an http(s) address in plain characters; None for anything else."""
    try:
        parts = urlsplit(text)
        good = bool(parts.hostname) and parts.port != 0 and parts.scheme in ("http", "https")
    except ValueError:
        return None
    return parts if good and not re.search(r"[^!-~]", text) else None


def secret(text: str) -> Secret:
    """A credential, without the white space around it."""
    try:
        return Secret.clean(text, "the value")
    except Permanent as error:
        what = str(error)
    raise unusable(what)
