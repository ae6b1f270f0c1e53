"""One file's nodes to policies, noting every problem on the way instead of stopping at the first."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from rotator.errors import Problem
from rotator.keys import Issue, Verify
from rotator.policy import fields
from rotator.policy.document import Node
from rotator.policy.model import (
    Destination,
    Exec,
    Hook,
    Policy,
    PolicyDefaults,
    Sight,
    Webhook,
)
from rotator.schedule import Cron, Every, Freeze, Manual, Schedule, Window

_DAY = timedelta(days=1)
_UTC = zoneinfo.ZoneInfo("UTC")
_ISSUE, _VERIFY = fields.choice(Issue), fields.choice(Verify)

_EXAMPLES = {
    "name": "name: edi-gateway",
    "user_id": "user_id: 5001, or users: [5001, 5002]",
    "visibility": "visibility: Private, Shared or Public",
    "path": "path: ecgrid/edi-gateway",
    "from": "both from and to",
    "to": "both from and to",
}

T = TypeVar("T")
D = TypeVar("D")
Entries = dict[str, Node]


class Reader:
    """Reads one file; what it answers may be acted upon only if no problem was noted anywhere.

    A field is named as in `vault.path` or `also[0].mount`; its last part is its key in the mapping at hand.
    """

    def __init__(self, file: str, defaults: PolicyDefaults, problems: list[Problem]) -> None:
        self._file = file
        self._defaults = defaults
        self._problems = problems
        self.sights: list[Sight] = []

    def policies(self, root: Node) -> list[Policy]:
        """The policies of the file: the one that it is, or those under `policies`."""
        if not isinstance(root.value, dict):
            self._note(root, "", "must be a policy, or a mapping with policies: (a list)")
            return []
        self._refuse_secrets(root, "")
        if not root.value.keys() & set(fields.FILE_KEYS):
            return self._policy(root, root.value, Path(self._file).stem)
        self._refuse_unknown(root.value, fields.FILE_KEYS, "")
        common = self._common(root.value)
        listed = root.value.get("policies")
        if listed is None:
            self._note(root, "policies", "is missing; list the policies under it")
        elif not isinstance(listed.value, list) or not listed.value:
            self._note(listed, "policies", "must be a list with at least one policy")
        else:
            return [policy for node in listed.value for policy in self._listed(node, common)]
        return []

    def _common(self, root: Entries) -> Entries:
        entries = self._entries(root, "defaults", fields.POLICY_KEYS, "{visibility: Private}")
        if entries is None:
            return {}
        own = ("name", "user_id", "users")
        for key in own:
            if key in entries:
                what = "belongs to one policy; move it out of defaults"
                self._note(entries[key], f"defaults.{key}", what)
        return {
            key: n for key, n in entries.items() if key in fields.POLICY_KEYS and key not in own
        }

    def _listed(self, node: Node, common: Entries) -> list[Policy]:
        if not isinstance(node.value, dict):
            self._note(node, "policies", "each entry must be a policy (a mapping)")
            return []
        return self._policy(node, _merged(common, node.value), None)

    def _policy(self, node: Node, entries: Entries, stem: str | None) -> list[Policy]:
        self._refuse_unknown(entries, fields.POLICY_KEYS, "")
        name = self._name(node, entries, stem)
        users = self._users(node, entries)
        visibility = self._required(node, entries, "visibility", fields.visibility)
        schedule = self._schedule(node, entries)
        max_age = self._optional(entries, "max_age", fields.positive, None)
        grace = self._optional(entries, "grace", fields.length, None)
        issue = self._optional(entries, "issue", _ISSUE, self._defaults.issue)
        verify = self._optional(entries, "verify", _VERIFY, self._defaults.verify_with(issue))
        probe = self._optional(entries, "probe", fields.flag, True)
        first = self._first(entries)
        destinations = self._destinations(node, entries, name, users)
        after: tuple[Hook, ...] = self._list(entries, "after", self._hook)
        enabled = self._optional(entries, "enabled", fields.flag, True)
        owner = self._optional(entries, "owner", fields.one_line, None)
        tags = self._list(entries, "tags", self._scalars(fields.one_line))
        where = f"{self._file}:{node.line}"
        self.sights.append(Sight(name, users, destinations, where))
        if schedule is not None:
            self._compare_lengths(entries, schedule, max_age, grace)
        if name is None or not users or visibility is None or schedule is None:
            return []
        if max_age is None:
            max_age = _default_max_age(schedule)
        if grace is None:
            grace = _default_grace(schedule)
        good = tuple(one for one in destinations if one is not None)
        return [
            Policy(
                name, users, visibility, schedule, max_age, grace, issue, verify, probe, first,
                good, after, enabled, owner, tags, where, says_grace="grace" in entries,
            )
        ]  # fmt: skip

    # Parts of a policy.

    def _name(self, node: Node, entries: Entries, stem: str | None) -> str | None:
        if "name" in entries or stem is None:
            return self._required(node, entries, "name", fields.name)
        return self._read(
            Node(stem, node.line), "name (the file's, as there is no name:)", fields.name
        )

    def _users(self, node: Node, entries: Entries) -> tuple[int, ...]:
        if "users" not in entries:
            user = self._required(node, entries, "user_id", fields.user_id)
            return () if user is None else (user,)
        if "user_id" in entries:
            self._note(entries["users"], "users", "stands beside user_id; keep one of them")
        users = self._list(entries, "users", self._scalars(fields.user_id))
        listed = entries["users"].value
        if isinstance(listed, list) and len(listed) < 2:
            what = "needs at least two user ids; for a single one write user_id:"
            self._note(entries["users"], "users", what)
        if len(set(users)) < len(users):
            self._note(entries["users"], "users", "names a user id twice; they must differ")
        return users

    def _first(self, entries: Entries) -> Literal["adopt", "rotate"]:
        def read(text: str) -> Literal["adopt", "rotate"]:
            if text == "adopt":
                return "adopt"
            if text == "rotate":
                return "rotate"
            raise fields.Unusable(
                f"must be adopt or rotate{fields.near(text, ('adopt', 'rotate'))}"
            )

        default: Literal["adopt"] = "adopt"
        return self._optional(entries, "first", read, default)

    def _schedule(self, node: Node, entries: Entries) -> Schedule | None:
        found = entries.get("schedule")
        if found is None:
            what = "is missing; write schedule: {every: 30d}, {cron: ...} or schedule: manual"
            self._note(node, "schedule", what)
            return None
        if found.value == "manual":
            return Schedule(Manual(), _UTC)
        example = "{every: 30d} or {cron: ...}, or the word manual"
        inner = self._entries(entries, "schedule", fields.SCHEDULE_KEYS, example)
        if inner is None:
            return None
        rule = self._rule(found, inner)
        zone = self._optional(inner, "schedule.timezone", fields.zone, _UTC)
        jitter = self._optional(inner, "schedule.jitter", fields.length, timedelta(0))
        window = self._window(inner)
        freezes = self._list(inner, "schedule.freeze", self._freeze)
        return None if rule is None else Schedule(rule, zone, jitter, window, freezes)

    def _rule(self, node: Node, entries: Entries) -> Every | Cron | None:
        if "every" in entries and "cron" in entries:
            self._note(entries["cron"], "schedule.cron", "stands beside every; keep one of them")
        if "every" in entries:
            period = self._required(node, entries, "schedule.every", fields.positive)
            return None if period is None else Every(period)
        if "cron" in entries:
            return self._required(node, entries, "schedule.cron", fields.cron)
        self._note(node, "schedule", "needs every: 30d or cron: ..., or write schedule: manual")
        return None

    def _window(self, schedule: Entries) -> Window | None:
        at = "schedule.window"
        example = '{days: [sat, sun], from: "01:00", to: "05:00"}'
        entries = self._entries(schedule, at, fields.WINDOW_KEYS, example)
        if entries is None:
            return None
        node = schedule["window"]
        start = self._required(node, entries, f"{at}.from", fields.clock)
        end = self._required(node, entries, f"{at}.to", fields.clock)
        days = self._list(entries, f"{at}.days", self._scalars(fields.weekday))
        if "days" in entries and entries["days"].value == []:
            what = "names no day, so it would never open; leave days out for every day"
            self._note(entries["days"], f"{at}.days", what)
        if start is None or end is None:
            return None
        if start == end:
            self._note(node, at, "from and to are the same time; a window needs some length")
        return Window(tuple(sorted(set(days))) or tuple(range(7)), start, end)

    def _freeze(self, node: Node, at: str) -> Freeze | None:
        entries = self._mapping(node, at, fields.FREEZE_KEYS, "{from: 2026-12-15, to: 2027-01-05}")
        if entries is None:
            return None
        first = self._required(node, entries, f"{at}.from", fields.day)
        last = self._required(node, entries, f"{at}.to", fields.day)
        if first is None or last is None:
            return None
        if last < first:
            self._note(node, at, "ends before it begins; swap from and to")
        return Freeze(first, last)

    def _destinations(
        self, node: Node, entries: Entries, name: str | None, users: tuple[int, ...]
    ) -> tuple[Destination | None, ...]:
        """`vault` and then `also`; None in place of what cannot be used."""
        read = partial(self._destination, name=name, users=users)
        if "vault" in entries:
            vault = read(entries["vault"], "vault")
        else:
            self._note(node, "vault", "is missing; write vault: {path: ...}")
            vault = None
        also = entries.get("also")
        rest = also.value if also is not None and isinstance(also.value, list) else []
        if not rest:
            self._list(entries, "also", read)  # says what is wrong with it
        return (vault, *(read(item, f"also[{index}]") for index, item in enumerate(rest)))

    def _destination(
        self, node: Node, at: str, *, name: str | None, users: tuple[int, ...]
    ) -> Destination | None:
        entries = self._mapping(node, at, fields.DESTINATION_KEYS, "{path: ecgrid/edi-gateway}")
        if entries is None:
            return None
        mount = self._optional(entries, f"{at}.mount", fields.mount, self._defaults.mount)
        read = partial(fields.path, policy=name, users=users)
        path = self._required(node, entries, f"{at}.path", read)
        field = self._optional(entries, f"{at}.field", fields.field, "api_key")
        beside = self._fields(entries, f"{at}.fields", field)
        if path is None:
            return None
        state = self._defaults.state_path
        if mount == self._defaults.mount and f"{path}/".startswith(f"{state}/"):
            what = "is where the rotator keeps its records; choose another path"
            self._note(entries["path"], f"{at}.path", what)
        return Destination(mount, path, field, beside)

    def _fields(self, entries: Entries, at: str, field: str) -> tuple[tuple[str, str], ...]:
        found = entries.get("fields")
        if found is None:
            return ()
        if not isinstance(found.value, dict):
            self._note(found, at, 'must be a mapping such as {base_url: "https://rest.ecgrid.io"}')
            return ()
        for key, node in found.value.items():
            place = f"{at}.{fields.shown(key)}"
            if key == field:
                self._note(node, place, "is the field that holds the key; choose another name")
            else:
                self._read(Node(key, node.line), place, fields.field)
            self._read(node, place, str)
        return tuple(sorted((key, str(node.value)) for key, node in found.value.items()))

    def _hook(self, node: Node, at: str) -> Hook | None:
        example = "{exec: [systemctl, reload, edi-gateway]}"
        entries = self._mapping(node, at, fields.HOOK_KEYS, example)
        if entries is None:
            return None
        if len(entries) != 1:
            self._note(node, at, "must have one of exec and webhook; write two entries for both")
        if "webhook" in entries:
            url = self._required(node, entries, f"{at}.webhook", fields.webhook)
            return None if url is None else Webhook(url)
        argv = self._list(entries, f"{at}.exec", self._scalars(str))
        if "exec" in entries and entries["exec"].value == []:
            self._note(entries["exec"], f"{at}.exec", f"names no program; write {example}")
        return Exec(argv)

    def _compare_lengths(
        self,
        entries: Entries,
        schedule: Schedule,
        max_age: timedelta | None,
        grace: timedelta | None,
    ) -> None:
        if not isinstance(schedule.rule, Every):
            return
        if grace is not None and grace >= schedule.rule.period:
            what = "must be shorter than schedule.every, or replaced keys pile up"
            self._note(entries["grace"], "grace", what)
        if max_age is not None and max_age < schedule.rule.period:
            what = (
                "must not be shorter than schedule.every, or every key is overdue before it is due"
            )
            self._note(entries["max_age"], "max_age", what)

    # Entries of a mapping.

    def _required(
        self, node: Node, entries: Entries, at: str, read: Callable[[str], T]
    ) -> T | None:
        found = entries.get(_key(at))
        if found is None:
            self._note(node, at, f"is missing; write {_EXAMPLES[_key(at)]}")
            return None
        return self._read(found, at, read)

    def _optional(self, entries: Entries, at: str, read: Callable[[str], T], default: D) -> T | D:
        found = entries.get(_key(at))
        result = None if found is None else self._read(found, at, read)
        return default if result is None else result

    def _list(
        self, entries: Entries, at: str, read: Callable[[Node, str], T | None]
    ) -> tuple[T, ...]:
        found = entries.get(_key(at))
        if found is None:
            return ()
        if not isinstance(found.value, list):
            self._note(found, at, "must be a list; write it in [ ]")
            return ()
        results = [read(item, f"{at}[{index}]") for index, item in enumerate(found.value)]
        return tuple(result for result in results if result is not None)

    def _entries(
        self, entries: Entries, at: str, known: Sequence[str], example: str
    ) -> Entries | None:
        found = entries.get(_key(at))
        return None if found is None else self._mapping(found, at, known, example)

    # Nodes.

    def _mapping(self, node: Node, at: str, known: Sequence[str], example: str) -> Entries | None:
        if not isinstance(node.value, dict):
            self._note(node, at, f"must be a mapping such as {example}")
            return None
        self._refuse_unknown(node.value, known, at)
        return node.value

    def _scalars(self, read: Callable[[str], T]) -> Callable[[Node, str], T | None]:
        return lambda node, at: self._read(node, at, read)

    def _read(self, node: Node, at: str, read: Callable[[str], T]) -> T | None:
        if not isinstance(node.value, str):
            kind = "list" if isinstance(node.value, list) else "mapping"
            self._note(node, at, f"must be a single value, not a {kind}")
        elif not node.value:
            self._note(node, at, "is empty; give it a value, or remove the line")
        else:
            try:
                return read(node.value)
            except fields.Unusable as error:
                self._note(node, at, str(error))
        return None

    def _refuse_unknown(self, entries: Entries, known: Sequence[str], at: str) -> None:
        for key, node in entries.items():
            if key not in known:
                hint = fields.near(key, known) or f"; possible are {', '.join(known)}"
                place = f"{at}.{fields.shown(key)}" if at else fields.shown(key)
                self._note(node, place, f"unknown key{hint}")

    def _refuse_secrets(self, node: Node, at: str) -> None:
        if isinstance(node.value, dict):
            for key, value in node.value.items():
                place = f"{at}.{fields.shown(key)}" if at else fields.shown(key)
                self._refuse_secrets(Node(key, value.line), place)
                self._refuse_secrets(value, place)
        elif isinstance(node.value, list):
            for index, item in enumerate(node.value):
                self._refuse_secrets(item, f"{at}[{index}]")
        elif fields.like_a_secret(node.value):
            what = "looks like a key or a token, and a policy holds none; remove it, and rotate that key"
            self._note(node, at, what)

    def _note(self, node: Node, at: str, what: str) -> None:
        place = f"{self._file}:{node.line}"
        self._problems.append(Problem(f"{place}: {at}" if at else place, what))


def _key(at: str) -> str:
    return at.rpartition(".")[2]


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


def _default_max_age(schedule: Schedule) -> timedelta | None:
    gap = schedule.longest_gap()
    return None if gap is None else gap * 1.5 + schedule.jitter


def _default_grace(schedule: Schedule) -> timedelta:
    return min(_DAY, schedule.rule.period / 2) if isinstance(schedule.rule, Every) else _DAY
