"""What a message may say of a text that was written, and how it says it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_SHOWABLE = re.compile(r"[A-Za-z_-]{1,20}")
_GUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_SECRET = re.compile(
    rf"{_GUID}|\{{{_GUID}\}}|[0-9a-f]{{32,}}|(ek|sk|pk)_\S{{8,}}|(hv[sbr]|[sb])\.[a-z0-9_-]{{20,}}"
    r"|eyj[a-z0-9_-]{8,}\.\S+",
    re.IGNORECASE,
)
# That the pattern knows: `ek_` and eight characters.
_SHORTEST_SECRET = 11


def near(text: str, known: Iterable[str], otherwise: str = "") -> str:
    """`; did you mean X?` where one of the known words is near, else `otherwise`."""
    folded = {word.lower(): word for word in known}
    matches = difflib.get_close_matches(text.lower(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[matches[0]]}?" if matches else otherwise


def either(words: Sequence[str]) -> str:
    """The words as a sentence has them: `a, b or c`."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


def like_a_secret(text: str) -> bool:
    """Whether a whole text looks like a key or a token: GUID, long hex, `ek_...`, `hvs....`, JWT."""
    return len(text) >= _SHORTEST_SECRET and _SECRET.fullmatch(text.strip()) is not None


def shown(key: str) -> str:
    """A key as it may appear in a message: only what can hardly be a secret."""
    return key if _SHOWABLE.fullmatch(key) else "(not shown)"


def place_of(parts: Iterable[str | int]) -> str:
    """Keys and positions, from the top, as a message names them: `also[0].path`."""
    place = ""
    for part in parts:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            place += f".{shown(part)}" if place else shown(part)
    return place
