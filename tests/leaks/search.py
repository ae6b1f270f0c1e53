"""Looks for secrets in everything that left the program. Knows nothing of the program's own net."""

from __future__ import annotations

import base64
import codecs
import html
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator

PIECE = 10
_COLOUR = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")


def spellings(secret: str) -> Iterator[str]:
    """A secret as libraries write it; of base64 only what does not depend on what stands beside it."""
    quoted = json.dumps(secret)
    yield secret
    yield from (quoted[1:-1], json.dumps(quoted)[3:-3], repr(secret)[1:-1], repr(quoted)[2:-2])
    yield re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", quoted[1:-1])  # as Go writes it
    yield from (html.escape(secret), html.escape(secret, quote=False))
    yield from (html.escape(html.escape(secret)), "".join(f"&#{ord(c)};" for c in secret))
    yield from (urllib.parse.quote(secret), urllib.parse.quote(secret, safe=""))
    yield urllib.parse.quote(urllib.parse.quote(secret, safe=""), safe="")
    for before in range(3):
        shifted = base64.b64encode(b"\0" * before + secret.encode()).decode()
        whole = shifted[(0, 2, 3)[before] : (before + len(secret)) * 4 // 3]
        yield from (whole, whole.translate(str.maketrans("+/", "-_")))
    yield secret.encode().hex()
    yield secret.encode().hex(" ")
    yield codecs.encode(secret, "rot13")
    yield secret[::-1]


class Search:
    """The secrets that must not be found, by every ten characters of every spelling, in any case."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets = set(secrets)
        self._pieces = {piece for secret in self.secrets for piece in _pieces(secret)}

    def shown_in(self, data: bytes) -> str | None:
        """Where a secret begins in the data, in words that do not show it; None if there is none."""
        plain = _COLOUR.sub(b"", data).replace(b"\0", b"")
        for text in (plain, plain.replace(b"\n", b"")):  # wrapped lines hide nothing
            folded = text.decode("latin-1").lower()
            for at in range(len(folded) - PIECE + 1):
                if folded[at : at + PIECE] in self._pieces:
                    line = folded.count("\n", 0, at) + 1
                    return f"line {line}, after {self._harmless(folded[max(0, at - 60) : at])!r}"
        return None

    def _harmless(self, text: str) -> str:
        return "".join(c for c in text if c.isascii() and c.isprintable())


def _pieces(secret: str) -> Iterator[str]:
    for spelling in spellings(secret):
        folded = spelling.lower()
        for at in range(max(1, len(folded) - PIECE + 1)):
            piece = folded[at : at + PIECE]
            # What an encoding makes of any text, such as the `%25` of a percent sign, is nobody's secret.
            if len(set(piece)) > 4:
                yield piece
