"""The runbook: what each kind of error and each alert means, and what a person should do next.

Its text is docs/runbook.md, of which the package has its own under the name of this module: a link in a checkout, the
file itself where it is installed. Every report of a failure (log line, Sentry, webhook, status page) takes what is to
be done from there, so they never disagree.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

TO_DO = "**To do:**"


class Entry(NamedTuple):
    """A section of the runbook, in paragraphs of one line each."""

    # A kind of error, such as `vault.Sealed`, or an alert.
    name: str
    # The part of the runbook that it stands in.
    about: str
    means: tuple[str, ...]
    to_do: str


@cache
def entries() -> dict[str, Entry]:
    """Every section by its name, in the runbook's order."""
    text = files("rotator.reporting").joinpath("runbook.md").read_text("utf-8")
    sections, about = {}, ""
    for heading, name, body in re.findall(r"^(##+) (.+)\n((?:(?!##).*\n?)*)", text, re.MULTILINE):
        if heading == "##":
            about = name
        else:
            means, _, to_do = body.partition(TO_DO)
            sections[name] = Entry(name, about, tuple(_paragraphs(means)), *_paragraphs(to_do))
    return sections


def _paragraphs(text: str) -> list[str]:
    """Each as one line, with links as the words that they stand on."""
    shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    return [" ".join(one.split()) for one in re.split(r"\n\s*\n", shown.strip())]


def next_step(kind: str) -> str:
    """What a person should do about an error of that kind, in a sentence or two."""
    entry = entries().get(kind)
    if entry is None:
        return "See the message; `rotator doctor` tries everything that a rotation needs."
    return entry.to_do


class _Place:
    """Where the runbook can be read: at an address, else by the command."""

    address: str | None = None


def is_at(address: str | None) -> None:
    """From here on links lead to that address of the page; None: they name the command that shows the section."""
    _Place.address = address


def anchor(name: str) -> str:
    """What stands behind `#` for a kind of error, or an alert."""
    return name.lower().replace(".", "")


def link(name: str) -> str:
    """Where the runbook tells more: about a kind of error, or an alert by its name."""
    if _Place.address is None:
        return f"rotator explain {name}"
    return f"{_Place.address}#{anchor(name)}"
