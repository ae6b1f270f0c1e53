"""One file's nodes to policies, noting every problem on the way instead of stopping at the first."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rotator.errors import Problem
from rotator.policy.document import Node
from rotator.policy.model import Policy, PolicyDefaults, Sight
from rotator.policy.written import WrittenPolicy
from rotator.reading import Place, Refusal, like_a_secret, look, place_of, unknown_keys

_FILE_KEYS = ("defaults", "policies")
# What no two policies have in common.
OWN_KEYS = ("name", "user_id", "users")

Entries = dict[str, Node]


class Reader:
    """Reads one file; what it answers may be acted upon only if no problem was noted anywhere."""

    def __init__(self, file: str, defaults: PolicyDefaults, problems: list[Problem]) -> None:
        self._file = file
        self._defaults = defaults
        self._problems = problems
        self.sights: list[Sight] = []

    def policies(self, root: Node) -> list[Policy]:
        """The policies of the file: the one that it is, or those under `policies`."""
        if not isinstance(root.value, dict):
            self._note(root.line, "", "must be a policy, or a mapping with policies: (a list)")
            return []
        self._refuse_secrets(root, ())
        if not root.value.keys() & set(_FILE_KEYS):
            return self._of_its_own(root, root.value)
        self._refuse(root, unknown_keys(root.value, _FILE_KEYS))
        common = self._common(root)
        return [
            policy
            for node in self._listed(root, root.value)
            for policy in self._entry(node, common)
        ]

    def _of_its_own(self, root: Node, entries: Entries) -> list[Policy]:
        """The only policy of a file, which may give it its name."""
        if "name" in entries:
            return self._policy(root)
        stem, _ = os.path.splitext(os.path.basename(self._file))  # noqa: PTH119, PTH122 - see `files`
        named = Node({**entries, "name": Node(stem, root.line)}, root.line)
        return self._policy(named, {"name": "name (the file's, as there is no name:)"})

    def _listed(self, root: Node, entries: Entries) -> Sequence[Node]:
        listed = entries.get("policies")
        if listed is None:
            self._note(root.line, "policies", "is missing; list the policies under it")
        elif not isinstance(listed.value, list) or not listed.value:
            self._note(listed.line, "policies", "must be a list with at least one policy")
        else:
            return listed.value
        return ()

    def _common(self, root: Node) -> Entries:
        """What the file's policies have in common; what does not belong there is noted and left out."""
        common = _child(root, "defaults")
        if common is None:
            return {}
        if not isinstance(common.value, dict):
            what = f"must be a mapping such as {WrittenPolicy.example}"
            self._note(common.line, "defaults", what)
            return {}
        wrong = [*unknown_keys(common.value, WrittenPolicy.keys())]
        own = [key for key in OWN_KEYS if key in common.value]
        wrong += [Refusal((key,), "belongs to one policy; move it out of defaults") for key in own]
        self._refuse(root, (Refusal(("defaults", *one.place), one.what) for one in wrong))
        refused = {one.place[0] for one in wrong}
        return {key: node for key, node in common.value.items() if key not in refused}

    def _entry(self, node: Node, common: Entries) -> list[Policy]:
        if isinstance(node.value, dict):
            return self._policy(Node(_merged(common, node.value), node.line))
        self._note(node.line, "policies", "each entry must be a policy (a mapping)")
        return []

    def _policy(self, node: Node, names: Mapping[str, str] = MappingProxyType({})) -> list[Policy]:
        """The policy of a mapping, if one can be made of it; `names` are of fields that a message names otherwise."""
        written, refused = look(WrittenPolicy, _plain(node), WrittenPolicy.model_validate)
        if written is not None:
            refused += written.disagreements(self._defaults)
        self._refuse(node, refused, names)
        if written is None:
            return []
        seen = written.sight(f"{self._file}:{node.line}", self._defaults)
        self.sights.append(seen)
        policy = written.policy(seen, self._defaults)
        return [] if policy is None else [policy]

    def _refuse_secrets(self, node: Node, place: Place) -> None:
        if isinstance(node.value, dict):
            for key, value in node.value.items():
                inner = (*place, key)
                self._refuse_secret(key, value.line, inner)
                self._refuse_secrets(value, inner)
        elif isinstance(node.value, list):
            for index, item in enumerate(node.value):
                self._refuse_secrets(item, (*place, index))
        else:
            self._refuse_secret(node.value, node.line, place)

    def _refuse_secret(self, text: str, line: int, place: Place) -> None:
        if like_a_secret(text):
            what = "looks like a key or a token, and a policy holds none; remove it, and rotate that key"
            self._note(line, place_of(place), what)

    def _refuse(
        self,
        root: Node,
        refused: Iterable[Refusal],
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Notes what was refused at its place below `root`, with its line."""
        for one in refused:
            place = place_of(one.place)
            self._note(_nearest(root, one.place).line, names.get(place, place), one.what)

    def _note(self, line: int, place: str, what: str) -> None:
        where = f"{self._file}:{line}"
        self._problems.append(Problem(f"{where}: {place}" if place else where, what))


def _plain(node: Node) -> Any:
    """What a node holds, without its lines."""
    if isinstance(node.value, dict):
        return {key: _plain(inner) for key, inner in node.value.items()}
    return [_plain(item) for item in node.value] if isinstance(node.value, list) else node.value


def _nearest(root: Node, place: Place) -> Node:
    """The node at that place, or, if there is none, the one that lacks it."""
    node = root
    for part in place:
        inner = _child(node, part)
        if inner is None:
            break
        node = inner
    return node


def _child(node: Node, part: str | int) -> Node | None:
    """What a mapping has under that key, or a list at that position."""
    if isinstance(node.value, dict) and isinstance(part, str):
        return node.value.get(part)
    return node.value[part] if isinstance(node.value, list) and isinstance(part, int) else None


def _merged(common: Entries, own: Entries) -> Entries:
    """`own` over `common`: mappings merge, anything else replaces; so do `every` and `cron` each other."""
    if "every" in own or "cron" in own:
        common = {key: node for key, node in common.items() if key not in ("every", "cron")}
    merged = {**common, **own}
    for key in common.keys() & own.keys():
        below, above = common[key].value, own[key].value
        if isinstance(below, dict) and isinstance(above, dict):
            merged[key] = Node(_merged(below, above), own[key].line)
    return merged
