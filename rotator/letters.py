"""Characters that are not what they look like: found in what people write, shown as text where others wrote."""

from __future__ import annotations

import re
import unicodedata

# Blank or joined to others, though Unicode does not count them as control, format or space.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
_QUOTES = frozenset(
    "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a\u2032\u2033\u00b4\uff02\uff07"
)
_HARMLESS = re.compile(r"[ -~]*")


def is_invisible(char: str) -> bool:
    """Whether a reader cannot see the character, or takes it for a plain space."""
    if char == " " or (char.isascii() and char.isprintable()):
        return False
    variation = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    return not char.isprintable() or variation or char in _BLANK


def is_quote(char: str) -> bool:
    """Whether it is a quotation mark that a word processor made of a plain one."""
    return char in _QUOTES


def named(char: str) -> str:
    """`U+00A0 NO-BREAK SPACE`: the character's number and name."""
    name = unicodedata.name(char, "")
    return f"U+{ord(char):04X} {name}".rstrip()


def visible(text: str) -> str:
    """The text with what a terminal would obey, or nobody could see, written as an escape; line ends are kept."""
    if _HARMLESS.fullmatch(text):
        return text
    return "".join(_escaped(char) if is_invisible(char) and char != "\n" else char for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def as_json(text: str) -> str:
    """JSON with every such character escaped: they can only stand inside its strings."""
    if _HARMLESS.fullmatch(text.replace("\n", "")):
        return text
    return "".join(_in_json(char) if is_invisible(char) and char != "\n" else char for char in text)


def _in_json(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[offset : offset + 2].hex()}" for offset in range(0, len(units), 2))
