"""The net: knows every live secret of the process by hashes of its pieces, and takes it out of a text.

It is the last line, not the first: what it catches should never have come so far, so a catch is an alarm. A value is
watched from the creation of its `Secret` until a minute after the last one of it is gone. What is kept are hashes under
the interpreter's own random key, never a value.

A text is searched without its case, escapes (JSON, XML, URL, repr, nested too), white space and terminal colours; then
without punctuation, too; and once more as what its base64 and hex stretches decode to. Ten characters that a text
shares with a secret are a find. Short secrets, and those that consist of words, are found as a whole only; shorter ones
are not watched at all, or nobody could say "root" any more: docs/adr/0020-secrecy.md.
"""

from __future__ import annotations

import binascii
import re
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator

from rotator.keys import Secret, watch_secrets

MASK = "**"
# Characters that a text and a secret may not share.
PIECE = 10
# Seconds that a value is watched after its last Secret is gone.
LINGER = 60.0
# Any ten characters in a row hold five that end at a multiple of six: these are taken out of a text.
_GRAM = 5
_STRIDE = PIECE - _GRAM + 1
_GRAMS = struct.Struct(f"{_STRIDE - _GRAM}x{_GRAM}s")
# Characters of a value that is found as a whole.
_SHORTEST = 6
# The same for one that consists of words.
_LONG_ENOUGH = 12
# Harmless texts, and how long they may be: most words of a log are the same again and again.
_REMEMBERED = 300
# Of masking, after which a text that still shows something is given up.
_ROUNDS = 4

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_ESCAPE = re.compile(
    _COLOUR.pattern
    + r"""
    | \\+ (?: u([0-9a-fA-F]{4}) | x([0-9a-fA-F]{2}) | ([abfnrtv0]) | (["'/]) )
    | \\ (\\)+
    | % (?:25)* ([0-9a-fA-F]{2})
    | & (?:amp;)* (?: \#([0-9]{1,7}) | \#[xX]([0-9a-fA-F]{1,6}) | ([a-z]{2,4}) ) ;""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r"[\x1b\\%&]")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
# What could be ten characters, and what could be a short secret.
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{14,}={0,2}"), re.compile(rb"[A-Za-z0-9+/_-]{8,}={0,2}")
_HEX = re.compile(rb"[0-9a-f]{20,}"), re.compile(rb"[0-9a-f]{12,}")
_HEX_IN_TEXT = re.compile(rb"[0-9a-fA-F]{2}(?:[^0-9A-Za-z]{0,4}[0-9a-fA-F]{2}){5,}")
_AROUND = re.compile(r"[A-Za-z0-9+/=_&#;%-]*")
_LOWER = bytes(c | 32 if 65 <= c <= 90 else c for c in range(256))
_INVISIBLE = bytes(c for c in range(256) if not 33 <= c <= 126)
_DROPPED = bytes(c for c in range(256) if not chr(c).isascii() or not chr(c).isalnum())
_IN_NAMES = b"-_./:"
_STANDARD = bytes.maketrans(b"-_", b"+/")

Spans = list[tuple[int, int]]


class Net:
    """The live secrets, as far as a text can be searched for them. Safe for use by many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` counts seconds; what is gone is forgotten by it."""
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[int, _Ticket] = {}
        self._gone: deque[tuple[float, _Ticket]] = deque()
        # Hash -> how many tickets have it.
        self._pieces: dict[int, int] = {}
        # Length -> the same, for whole values.
        self._wholes: dict[int, dict[int, int]] = {}
        # Texts that were searched since the last secret came.
        self._harmless: dict[str, None] = {}

    def __len__(self) -> int:
        """How many secrets are watched."""
        return len(self._held)

    def add(self, secret: Secret, value: str) -> None:
        """Watches a value for as long as its secret lives, and a minute longer."""
        plain = _bytes(_unescaped(value))
        # A value may look as if it held escapes, and be cut off in the middle of one.
        pieces = _pieces_of({plain, _bytes(value)})
        whole = None if pieces or not _is_telling(plain) else plain
        if not pieces and not whole:
            return
        ticket = _Ticket(secret, self._let_go)
        ticket.pieces, ticket.whole = (
            frozenset(pieces),
            (len(whole), hash(whole)) if whole else None,
        )
        with self._lock:
            self._held[id(ticket)] = ticket
            for piece in pieces:
                self._pieces[piece] = self._pieces.get(piece, 0) + 1
            if ticket.whole:
                length, number = ticket.whole
                # Replaced, since a search may be walking over it.
                if length not in self._wholes:
                    self._wholes = {**self._wholes, length: {}}
                numbers = self._wholes[length]
                numbers[number] = numbers.get(number, 0) + 1
            # A new one, and last: a search that began before notes its find in the old one.
            self._harmless = {}
            self._forget()

    def holds(self, text: str) -> bool:
        """Whether a text shows a watched value, or ten characters of one, in whatever spelling."""
        if self._gone:
            with self._lock:
                self._forget()
        if len(text) < _SHORTEST or not (self._pieces or self._wholes):
            return False
        forms = {_bytes(_COLOUR.sub("", text)), _bytes(_unescaped(text))}
        return any(self._shows(plain) or self._shows_inside(plain) for plain in forms)

    def scrub(self, text: str) -> str:
        """The text, with `**` for everything that shows a watched value."""
        harmless = self._harmless
        if text in harmless:
            return text
        for _ in range(_ROUNDS):
            if not self.holds(text):
                if len(harmless) >= _REMEMBERED:
                    harmless.clear()
                if len(text) <= _REMEMBERED:
                    harmless[text] = None
                return text
            spans = self._spans(text)
            if not spans:
                break
            text = _masked(text, spans)
        return MASK

    def _let_go(self, ticket: _Ticket) -> None:
        # Called by the garbage collector, at any moment and in any thread: it may not take the lock.
        self._gone.append((self._clock() + LINGER, ticket))

    def _forget(self) -> None:
        while self._gone and self._gone[0][0] <= self._clock():
            _, ticket = self._gone.popleft()
            del self._held[id(ticket)]
            for piece in ticket.pieces:
                _less(self._pieces, piece)
            if ticket.whole:
                length, number = ticket.whole
                _less(self._wholes[length], number)
                self._wholes = {size: numbers for size, numbers in self._wholes.items() if numbers}

    # searching: `plain` is a text without escapes, one byte a character

    def _shows(self, plain: bytes) -> bool:
        visible = plain.translate(_LOWER, _INVISIBLE)
        letters = visible.translate(None, _DROPPED)
        return self._shows_piece(visible) or self._shows_piece(letters) or self._shows_whole(plain)

    def _shows_inside(self, plain: bytes) -> bool:
        return any(self._shows(data) for data in _decoded(plain, short=bool(self._wholes)))

    def _shows_piece(self, folded: bytes) -> bool:
        # As most of what is decoded.
        if len(folded) < PIECE:
            return False
        pieces, grams = self._pieces, folded[: len(folded) // _STRIDE * _STRIDE]
        # Without a step of Python's own for each: a table of thousands of rows has a million.
        if pieces.keys().isdisjoint(map(hash, _GRAMS.iter_unpack(grams))):
            return False
        return any(
            hash(gram) in pieces and self._piece_before(folded, number * _STRIDE)
            for number, gram in enumerate(_GRAMS.iter_unpack(grams), 1)
        )

    def _piece_before(self, folded: bytes, end: int) -> bool:
        """Whether a piece holds the five characters that end there."""
        first, last = max(0, end - PIECE), min(end - _GRAM, len(folded) - PIECE)
        return any(hash(folded[i : i + PIECE]) in self._pieces for i in range(first, last + 1))

    def _shows_whole(self, plain: bytes) -> bool:
        wholes = self._wholes
        return bool(wholes) and any(
            hash(plain[start : start + length]) in numbers
            for length, numbers in wholes.items()
            for start in range(len(plain) - length + 1)
        )

    # masking: rare, and so as slow as it likes to be

    def _spans(self, text: str) -> Spans:
        """Where a text shows something; empty if that cannot be told."""
        spans: Spans = []
        for escape in (_COLOUR, _ESCAPE):
            places = [(_bytes(c)[0], span) for c, span in _places(text, escape)]
            for dropped in (_INVISIBLE, _DROPPED):
                kept = [(_LOWER[c], span) for c, span in places if c not in dropped]
                spans += _runs(kept, PIECE, self._pieces)
            for length, numbers in self._wholes.items():
                spans += _runs(places, length, numbers)
        for stretch in (
            *_BASE64[True].finditer(_bytes(text)),
            *_HEX_IN_TEXT.finditer(_bytes(text)),
        ):
            if self._shows_inside(stretch[0]):
                spans.append(stretch.span())
        return spans


class _Ticket(weakref.ref[Secret]):
    """A secret that is watched, without keeping it alive, and what to forget when it is gone."""

    __slots__ = ("pieces", "whole")
    pieces: frozenset[int]
    whole: tuple[int, int] | None


def _runs(places: list[tuple[int, tuple[int, int]]], length: int, numbers: dict[int, int]) -> Spans:
    """Where so many of the characters in a row are among the numbers."""
    data = bytes(c for c, _ in places)
    return [
        (places[start][1][0], places[start + length - 1][1][1])
        for start in range(len(data) - length + 1)
        if hash(data[start : start + length]) in numbers
    ]


def _less(counts: dict[int, int], number: int) -> None:
    counts[number] -= 1
    if not counts[number]:
        del counts[number]


def _pieces_of(forms: set[bytes]) -> set[int]:
    """Hashes of every ten characters that could not be words, and of every five, which are looked up first."""
    hashes: set[int] = set()
    for cased in {
        form.translate(None, dropped) for form in forms for dropped in (_INVISIBLE, _DROPPED)
    }:
        folded = cased.translate(_LOWER)
        pieces = [
            hash(folded[start : start + PIECE])
            for start in range(len(folded) - PIECE + 1)
            if not _is_harmless(cased[start : start + PIECE])
        ]
        if pieces:
            hashes.update(pieces)
            hashes.update(
                [hash((folded[start : start + _GRAM],)) for start in range(len(folded) - _GRAM + 1)]
            )
    return hashes


def _is_harmless(text: bytes) -> bool:
    """Whether it could be part of a name or a date that is to be shown, or the stars of a mask."""
    if len(set(text)) < 4:
        return True
    inner = text if text.isalnum() else text.translate(None, _IN_NAMES)
    return inner.isdigit() or (inner.isalpha() and (inner[1:].islower() or inner.isupper()))


def _is_telling(value: bytes) -> bool:
    """Whether a value without pieces can be looked for as a whole without hitting everyday words."""
    return len(value) >= (_LONG_ENOUGH if _is_harmless(value) else _SHORTEST)


def _bytes(text: str) -> bytes:
    # One byte a character, so that places in both are the same.
    return text.encode("latin-1", "replace")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_meant, text) if _ESCAPED.search(text) else text


def _meant(escape: re.Match[str]) -> str:
    """The character that an escape stands for; nothing for a colour."""
    four, two, letter, mark, slash, percent, decimal, hexadecimal, name = escape.groups()
    code = four or two or percent or hexadecimal
    if code or decimal:
        number = int(code, 16) if code else int(decimal)
        return chr(number) if number < 0x110000 else "?"
    if name:
        return _ENTITIES.get(name, "?")
    return mark or slash or (" " if letter else "")


def _places(text: str, escape: re.Pattern[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Every character that is meant, and where the text writes it."""
    start = 0
    for match in escape.finditer(text):
        yield from ((text[i], (i, i + 1)) for i in range(start, match.start()))
        yield from ((c, match.span()) for c in (_meant(match) if escape is _ESCAPE else ""))
        start = match.end()
    yield from ((text[i], (i, i + 1)) for i in range(start, len(text)))


def _decoded(plain: bytes, *, short: bool) -> Iterator[bytes]:
    """What the stretches of base64 and hex in a text stand for, wherever in them the encoding began.

    Each once: a table of thousands of rows has the same few words again and again.
    """
    for run in dict.fromkeys(_BASE64[short].findall(plain)):
        text = run.rstrip(b"=").translate(_STANDARD)
        for start in range(4):
            yield binascii.a2b_base64(text[start:] + b"A" * (-len(text[start:]) % 4))
    for digits in dict.fromkeys(_HEX[short].findall(plain.translate(_LOWER, _DROPPED))):
        for start in range(2):
            end = start + (len(digits) - start) // 2 * 2
            yield binascii.a2b_hex(digits[start:end])


def _masked(text: str, spans: Spans) -> str:
    """The text with every span, and what hangs together with it, masked."""
    made: list[str] = []
    end_of_last = 0
    for start, end in sorted(spans):
        before = _AROUND.match(text[end_of_last:start][::-1])
        first = start - (before.end() if before else 0)
        after = _AROUND.match(text, end)
        last = after.end() if after else end
        if first > end_of_last or not made:
            made += [text[end_of_last:first], MASK]
        end_of_last = max(end_of_last, last)
    return "".join([*made, text[end_of_last:]])


NET = Net()
watch_secrets(NET.add)
