"""The least Vault policy: what the rotator has to be allowed for its policies, and what those who read its secrets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rotator.policy import Policy
from rotator.vault.kv import At
from rotator.vault.layout import Layout, Rights

# Destinations that are named one by one; of more, their directories are.
EXACTLY = 200
_API = ("data", "metadata")


class Rule(NamedTuple):
    """What is allowed at an API path, which may end with a `*`, and what a reader should know of it."""

    path: str
    capabilities: tuple[str, ...]
    why: str = ""


def least(
    layout: Layout, policies: Sequence[Policy], own_key: At | None, login: Rights
) -> list[Rule]:
    """The least that the rotator has to be allowed: its state, the destinations, its login's own affairs.

    `own_key`: where it reads its own key for ECGrid; `login`: what its login takes.
    """
    rights: Rights = {**layout.of_system(), **layout.of_told(), **login}
    for policy in policies:
        rights |= layout.rights(policy)
    if own_key is not None:
        rights.setdefault(f"{own_key.mount}/data/{own_key.path}", frozenset({"read"}))
    places = sorted({place for policy in policies for place in layout.places(policy)})
    folders = _folders(places) if len(places) > EXACTLY else Counter()
    folders.update(dict.fromkeys(layout.state(), 0))
    state = [path for path in rights if path.startswith(layout.state())]
    published = [f"{place.mount}/{what}/{place.path}" for place in places for what in _API]
    allowed: dict[str, set[str]] = {}
    for path in dict.fromkeys([*sorted(state), *published, *sorted(rights)]):
        allowed.setdefault(_folded(path, folders), set()).update(rights[path])
    return [Rule(path, tuple(sorted(what)), _why(path, folders)) for path, what in allowed.items()]


def _folders(places: Iterable[At]) -> Counter[str]:
    """The API paths of the destinations' directories, with how many are in each."""
    inside = [place for place in places if "/" in place.path]
    return Counter(
        f"{place.mount}/{what}/{place.path.rpartition('/')[0]}/"
        for place in inside
        for what in _API
    )


def _folded(path: str, folders: Counter[str]) -> str:
    """The path, or the longest directory that stands for it."""
    known = [folder for folder in folders if path.startswith(folder)]
    return f"{max(known, key=len)}*" if known else path


def _why(path: str, folders: Counter[str]) -> str:
    count = folders.get(path.removesuffix("*"), 0)
    return f"{count} secrets are published here: so many are not named one by one" if count else ""


def reading(layout: Layout, policy: Policy) -> list[Rule]:
    """What those who read the policy's key have to be allowed: any of its destinations will do."""
    return [Rule(f"{place.mount}/data/{place.path}", ("read",)) for place in layout.places(policy)]
