"""Policies that are added to a file: to one that somebody wrote, in its own style, or to a new one.

What an existing file says stays as it is, every byte of it; what is added stands at the end of its `policies:`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rotator.errors import BadInput, Problem
from rotator.keys import Issue, Person, Verify, Visibility
from rotator.policy.document import Node, parse, read
from rotator.policy.model import PolicyDefaults
from rotator.reading import like_a_secret

TEMPLATE = "ecgrid/{name}"
EVERY, JITTER = "30d", "7d"
_LONGEST_NAME = 63
_LINE_END = re.compile(r"\r\n|\n|\r")
_COMMENT = re.compile(r"[ \t]*(#[^\r\n]*)?(\r\n|\n|\r|$)")
_HEAD = "# Users of ECGrid, by `rotator import`. With --out and this file's name it adds those who are new."
_JITTER_WHY = (
    "by its name each has a time of its own within the jitter; else all would be due at once"
)


class Entry(NamedTuple):
    """A policy that is to be added, and what a reader should know of it; `aside`: only as a comment."""

    name: str
    user_id: int
    note: str = ""
    aside: bool = False
    visibility: Visibility = Visibility.PRIVATE


class Calls(NamedTuple):
    """How keys are issued and read back."""

    issue: Issue
    verify: Verify


# names


def slug(login: str) -> str:
    """A login as the name of a policy; empty if nothing of it is left."""
    plain = unicodedata.normalize("NFKD", login).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain)[:_LONGEST_NAME].strip("-")


def name_for(person: Person, taken: Iterable[str]) -> str:
    """The slug of the login, with the user's id behind it where that is taken or nothing is left; never a taken one."""
    whole, end = slug(person.login), f"-{person.user_id}"
    short = whole[: _LONGEST_NAME - len(end)].strip("-") or "user"
    for name in (whole, short + end, *(f"user{end}-{number}" for number in range(2, 1000))):
        if name and name not in taken and not like_a_secret(name):
            return name
    raise BadInput([Problem("", f"no name is left for user {person.user_id}")])


# a file


class File:
    """A policy file to which policies are added; empty if it is not there yet."""

    def __init__(self, path: Path | None) -> None:
        """Raises BadInput for a file that has no `policies:`, or is none."""
        self._path = path
        self.text = ""
        # Users in comments, as those that were added aside.
        self.mentioned: set[int] = set()
        self._common: Mapping[str, Node] = {}
        if path is None or not path.exists():
            return
        text, problems = read(str(path)), list[Problem]()
        root = parse(str(path), problems, text)
        if problems or root is None or isinstance(text, Problem):
            raise BadInput(problems)
        entries = root.value if isinstance(root.value, dict) else {}
        listed = entries.get("policies")
        if listed is None or not isinstance(listed.value, list) or not listed.value:
            what = "has no list under policies: to add to; name another file, or write one"
            raise BadInput([Problem(str(path), what)])
        self.text = text
        comments = "".join(line.partition("#")[2] for line in text.splitlines())
        self.mentioned = {int(number) for number in re.findall(r"\buser_id: (\d+)", comments)}
        common = entries.get("defaults")
        self._common = common.value if common and isinstance(common.value, dict) else {}

    def template(self, given: str | None) -> str:
        """The path of a destination: what was asked for, else the file's own, if each policy has another by it."""
        own = self._own("vault", "path")
        return given or (own if own and "{" in own else TEMPLATE)

    def calls(self, defaults: PolicyDefaults) -> Calls | None:
        """What policies in the file do unless they say otherwise; None: nothing that is known."""
        issue, verify = self._own("issue"), self._own("verify")
        try:
            chosen = Issue(issue) if issue else defaults.issue
            return Calls(chosen, Verify(verify) if verify else defaults.verify_with(chosen))
        except ValueError:
            return None

    def _own(self, *path: str) -> str | None:
        value: object = dict(self._common)
        for key in path:
            node = value.get(key) if isinstance(value, dict) else None
            value = node.value if isinstance(node, Node) else None
        return value if isinstance(value, str) else None

    def with_added(
        self, entries: Iterable[Entry], template: str, calls: Calls, defaults: PolicyDefaults
    ) -> str:
        """The file's text with these; what its `defaults:` do not say is said by each of them."""
        schedule = {"every": EVERY, "jitter": JITTER}
        said: dict[str, object] = {"visibility": "Private", "schedule": schedule}
        said = {key: value for key, value in said.items() if key not in self._common}
        if self._own("visibility") not in (None, "Private"):
            # Of most; the others say theirs.
            said["visibility"] = "Private"
        if not self.text or self.calls(defaults) != calls:
            said |= {"issue": calls.issue.value, "verify": calls.verify.value}
        if self._own("vault", "path") != template:
            said["vault"] = {"path": template}
        if self.text:
            return _Place(self.text).with_added(entries, said)
        return "".join(f"{line}\n" for line in _new(said, entries))


def _new(said: Mapping[str, object], entries: Iterable[Entry]) -> Iterator[str]:
    yield _HEAD
    yield "defaults:"
    for key, value in said.items():
        why = f"  # {_JITTER_WHY}" if key == "schedule" else ""
        yield f"  {key}: {_flow(value)}{why}"
    yield "policies:"
    for entry in entries:
        yield from _lines(entry, {}, "  ", "- ", flow=True)


def _lines(
    entry: Entry, more: Mapping[str, object], indent: str, dash: str, *, flow: bool
) -> Iterator[str]:
    """An entry of a list in block style, its own style being flow or block; a comment is one line in any case."""
    said = {"name": entry.name, "user_id": entry.user_id, **more}
    if entry.visibility is not Visibility.PRIVATE:
        said["visibility"] = entry.visibility.value
    if entry.aside:
        about = {"name": entry.name, "user_id": entry.user_id}
        yield f"{indent}# {entry.note}: {_flow(about)}"
        return
    if entry.note:
        yield f"{indent}# {entry.note}"
    if flow:
        yield f"{indent}{dash}{_flow(said)}"
        return
    lead = dash
    for key, value in said.items():
        yield f"{indent}{lead}{key}: {_flow(value)}"
        lead = " " * len(dash)


def _flow(value: object) -> str:
    """As YAML writes it on one line; a text with a brace in it is quoted."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    text = str(value)
    return text if re.fullmatch("[A-Za-z0-9-]+", text) else json.dumps(text)


class _Place:
    """Where in a text the list of policies ends, and in which style it is written."""

    def __init__(self, text: str) -> None:
        """The text is that of a file with a list under `policies:`."""
        self._text = text
        root = yaml.compose(text, Loader=yaml.CBaseLoader)
        entries: Any = root.value if root is not None else ()
        self._list: Any = next(value for key, value in entries if key.value == "policies")
        self._last: Any = self._list.value[-1]
        ending = _LINE_END.search(text)
        self._line_end = ending[0] if ending else "\n"

    def with_added(self, entries: Iterable[Entry], more: Mapping[str, object]) -> str:
        """The text with these behind the last one."""
        if self._list.flow_style:
            return self._in_flow(entries, more)
        column = self._list.start_mark.column
        content = self._last.start_mark
        width = content.column - column if content.column > column else 2
        flow = bool(getattr(self._last, "flow_style", False))
        dash, indent = "-".ljust(max(width, 2)), " " * column
        end = self._end_of_block(_end(self._last))
        lines = [line for one in entries for line in _lines(one, more, indent, dash, flow=flow)]
        before = self._text[:end]
        gap = "" if before.endswith(("\n", "\r")) else self._line_end
        return before + gap + "".join(line + self._line_end for line in lines) + self._text[end:]

    def _end_of_block(self, start: int) -> int:
        """The beginning of the line behind the last policy, and behind the comments that belong to the list."""
        line = start
        if line and self._text[line - 1] not in "\r\n":
            rest = _LINE_END.search(self._text, line)
            line = rest.end() if rest else len(self._text)
        end = line
        while line < len(self._text) and (comment := _COMMENT.match(self._text, line)):
            line = comment.end()
            if comment[1] and comment[0][0] in " \t":
                end = line
        # In front, its comments look like the next key's.
        in_front = self._list.start_mark.column == 0
        return line if in_front and line == len(self._text) else end

    def _in_flow(self, entries: Iterable[Entry], more: Mapping[str, object]) -> str:
        """Behind the last one, each on a line of its own."""
        text, end = self._text, _end(self._last)
        comma = re.compile(r"(?:\s|#[^\r\n]*)*,").match(text, end)
        after = comma.end() if comma else end
        same_line = re.compile(r"[ \t]*#[^\r\n]*").match(text, after)
        behind = same_line.end() if same_line else after
        last, first = self._last.start_mark, self._list.start_mark
        indent = " " * (last.column if last.line > first.line else 2)
        added = ""
        for entry in entries:
            for line in _lines(entry, more, indent, "", flow=True):
                added += self._line_end + line + ("" if line.lstrip().startswith("#") else ",")
        if not _LINE_END.match(text, behind):
            added += f"{self._line_end}  "
        return text[:end] + ("" if comma else ",") + text[end:behind] + added + text[behind:]


def _end(node: Any) -> int:
    """Where the text of a node ends; that of a block ends with the last thing in it."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(node, yaml.MappingNode) else last)
