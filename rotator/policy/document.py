"""Files to nodes: YAML's shape and nothing of its opinions.

PyYAML's C parser only takes the text apart into events: every scalar is the text that was written, and nothing
YAML 1.1 believes about `on`, `0700` or `22:30` comes near a policy. No message quotes a value or the parser, because
people paste secrets into files.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rotator.errors import Problem
from rotator.letters import is_invisible, is_quote, named
from rotator.reading import shown

_MAX_BYTES = 16 * 1024 * 1024
# Bytes that are read at a time.
_PART = 64 * 1024
_MAX_DEPTH = 12
# What no key consists of.
_WORDS = re.compile("[a-z. _-]+")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _could_be_a_key(path: Path) -> bool:
    """Whether somebody may have pasted a key where a path belongs: then the path is not to be shown."""
    return any(len(part) > 15 and _WORDS.fullmatch(part) is None for part in path.parts)


def files(path: Path, problems: list[Problem]) -> list[str]:
    """`path` itself, or the policy files below it, sorted; symbolic links are followed, dot-names are not.

    As texts: of thousands, each a `Path` would take as long as reading them.
    """
    try:
        exists = path.exists()
    except OSError:
        # A name that no file can have.
        exists = False
    if not exists:
        what = "does not exist; name a policy file or directory with --policies or ROTATOR_POLICIES"
        problems.append(Problem("the policies" if _could_be_a_key(path) else str(path), what))
        return []
    if not path.is_dir():
        return [str(path)]
    listed: list[str] = []
    visited = set()
    for folder, folders, names in os.walk(path, followlinks=True, onerror=_note(problems)):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        # With a slash at its end, but for the directory that we are in.
        below = str(Path(folder, "x"))[:-1]
        listed += [
            below + name
            for name in names
            if name.endswith((".yaml", ".yml")) and not name.startswith(".")
        ]
    return sorted(listed, key=lambda file: file.split("/"))


def _note(problems: list[Problem]) -> Callable[[OSError], None]:
    def note(error: OSError) -> None:
        problems.append(Problem(str(error.filename), f"cannot be read ({error.strerror})"))

    return note


def read(file: str) -> str | Problem:
    """A file's text, without a byte order mark; what is wrong with it if it cannot be had."""
    try:
        # Not blocking, so that a pipe that somebody left there cannot hold up the daemon.
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return Problem(file, "is not a regular file; move it away or rename it")
            data = _bytes(handle)
        finally:
            os.close(handle)
    except OSError as error:
        return Problem(file, f"cannot be read ({error.strerror})")
    if len(data) > _MAX_BYTES:
        return Problem(file, "is larger than 16 MiB; split it into several files")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem(f"{file}:{line}", "is not UTF-8 text; save it as UTF-8")
    if bad := _UNPRINTABLE.search(text):
        place, column = _place(file, text, bad.start())
        return Problem(
            place, f"has a control character in column {column} ({named(bad[0])}); remove it"
        )
    return text


def _bytes(handle: int) -> bytes:
    """What is in a file, or somewhat more of it than is allowed; whoever asks for all at once pays for the most."""
    parts, size = list[bytes](), 0
    while size <= _MAX_BYTES and (part := os.read(handle, _PART)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _place(file: str, text: str, index: int) -> tuple[str, int]:
    """File and line of a character, and its column."""
    return f"{file}:{text.count(chr(10), 0, index) + 1}", index - text.rfind("\n", 0, index)


class Node:
    """A scalar's text, a list or a mapping; an entry of a mapping has the line of its key."""

    __slots__ = ("line", "value")

    def __init__(self, value: str | list[Node] | dict[str, Node], line: int) -> None:
        self.value = value
        self.line = line


class _Refused(Exception):
    """Ends the parsing of one file."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


class _Parser:
    """Makes nodes of one document's events; keeps on past duplicate keys, and notes them."""

    def __init__(self, text: str) -> None:
        self._loader = yaml.CBaseLoader(text)
        self._text = text
        self._next: Callable[[], Any] = self._loader.get_event
        self.duplicates: list[tuple[int, str]] = []
        # Where a character is not what it looks like, and which.
        self.strange: list[tuple[int, str]] = []

    def document(self) -> Node | None:
        """The only document, or None if there is none. Raises _Refused and yaml.YAMLError."""
        # The start of the stream.
        self._next()
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            return None
        if event.tags:
            raise _Refused(event.start_mark.line + 1, "%TAG is not supported; remove it")
        root = self._node(self._next(), 0)
        # The end of the document.
        self._next()
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            what = "a second document begins here; use one file each, or a list under policies:"
            raise _Refused(event.start_mark.line + 1, what)
        return root

    def _node(self, event: Any, depth: int) -> Node:
        kind = type(event)
        line: int = event.start_mark.line + 1
        if kind is yaml.AliasEvent or event.anchor is not None:
            raise _Refused(
                line, "anchors (&) and aliases (*) are refused; write it out, or use defaults:"
            )
        if event.tag is not None:
            raise _Refused(line, "tags (!) are refused; remove it, or quote a text that begins so")
        if kind is yaml.ScalarEvent:
            return Node(self._plain(event), line)
        if depth == _MAX_DEPTH:
            raise _Refused(line, "is nested too deeply; no policy needs more than a few levels")
        if kind is yaml.SequenceStartEvent:
            items = []
            while type(event := self._next()) is not yaml.SequenceEndEvent:
                items.append(self._node(event, depth + 1))
            return Node(items, line)
        return Node(self._mapping(depth), line)

    def _plain(self, event: Any) -> str:
        """The scalar's text, without what nobody can see in it: that is noted, and no second problem made of it."""
        text: str = event.value
        if text.isascii() and text.isprintable():
            return text
        bad = {char for char in text if is_invisible(char) and char not in "\n\t"}
        bad |= {char for char in (text[0], text[-1]) if is_quote(char)} if text else set()
        written = self._text[event.start_mark.index : event.end_mark.index]
        for char in sorted(bad):
            # It may be written as an escape.
            column = max(written.find(char), 0)
            why = "which cannot be seen; remove it, or write a plain space"
            if is_quote(char):
                why = "which is no quotation mark in YAML; write a plain \" or '"
            self.strange.append((event.start_mark.index + column, f"{named(char)}, {why}"))
        return "".join(char for char in text if char not in bad)

    def _mapping(self, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while type(event := self._next()) is not yaml.MappingEndEvent:
            key = self._node(event, depth + 1)
            value = self._node(self._next(), depth + 1)
            if not isinstance(key.value, str):
                raise _Refused(key.line, "a key must be a plain word, not a list or a mapping")
            if key.value == "<<":
                raise _Refused(key.line, "merge keys (<<) are refused; use defaults: instead")
            value.line = key.line
            if key.value in entries:
                self.duplicates.append((key.line, key.value))
            entries[key.value] = value
        return entries


def parse(file: str, problems: list[Problem], text: str | Problem | None = None) -> Node | None:
    """The file's only document, or, if it is given, that of a text that may become the file's.

    None, and a problem noted, if there is none to be had.
    """
    text = read(file) if text is None else text
    if isinstance(text, Problem):
        problems.append(text)
        return None
    root, refused = None, None
    parser = _Parser(text)
    try:
        root = parser.document()
    except _Refused as error:
        refused = Problem(f"{file}:{error.line}", error.what)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}" if mark else file
        column = f" near column {mark.column + 1}" if mark else ""
        refused = Problem(
            place, f"is not valid YAML{column}; check indentation, quotes, brackets and colons"
        )
    except yaml.YAMLError:
        refused = Problem(file, "is not valid YAML")
    for index, what in parser.strange:
        where, number = _place(file, text, index)
        problems.append(Problem(where, f"has in column {number} {what}"))
    for line, key in parser.duplicates:
        what = "appears twice in one mapping; keep one of them"
        problems.append(Problem(f"{file}:{line}: {shown(key)}", what))
    if refused is None and root is None:
        refused = Problem(file, "is empty; write a policy, or remove or rename the file")
    if refused is not None:
        problems.append(refused)
    return root
