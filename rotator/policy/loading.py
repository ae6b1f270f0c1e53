"""From a file, or a folder of them, to policies that can be acted upon, or to every problem of every file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rotator.errors import BadInput, Problem
from rotator.policy.document import files, parse
from rotator.policy.model import Policy, PolicyDefaults, Sight
from rotator.policy.reader import Reader

# What is wrong with all of them together.
Judge = Callable[[Sequence[Sight]], Iterable[Problem]]


def load(
    path: Path,
    defaults: PolicyDefaults,
    judge: Judge = lambda _: (),
) -> list[Policy]:
    """The policies of a file, or of every `*.yaml` and `*.yml` below a directory, in the order of their names.

    Names that begin with a dot are skipped. Raises BadInput with every problem of every file; those that `judge` finds
    in all of them together are among them.
    """
    problems: list[Problem] = []
    policies, sights = _read(files(path, problems), defaults, problems)
    problems += [*_collisions(sights), *judge(sights)]
    if not policies and not problems:
        what = "no policy found; add a *.yaml file to it, or name another place in ROTATOR_POLICIES"
        problems.append(Problem(str(path), what))
    _refuse(problems)
    return policies


def together(
    path: Path, defaults: PolicyDefaults, judge: Judge, draft: tuple[Path, str] | None
) -> list[Policy]:
    """As `load`, with one file as it would be with that text, be it below `path` or not; there may be no policy."""
    problems: list[Problem] = []
    texts: dict[str, str] = {}
    listed = files(path, problems) if path.exists() else []
    if draft is not None:
        place, text = draft
        listed = [file for file in listed if Path(file).resolve() != place.resolve()]
        listed.append(str(place))
        texts[str(place)] = text
    policies, sights = _read(listed, defaults, problems, texts)
    _refuse([*problems, *_collisions(sights), *judge(sights)])
    return policies


def _refuse(problems: list[Problem]) -> None:
    if problems:
        # A bad default would be told once per policy.
        raise BadInput(sorted(dict.fromkeys(problems), key=_position))


def readable(path: Path, defaults: PolicyDefaults) -> list[Policy]:
    """What can be told of the policies, be there something wrong with them or not: to look at, not to act upon."""
    return _read(files(path, []), defaults, [])[0]


def _read(
    listed: list[str],
    defaults: PolicyDefaults,
    problems: list[Problem],
    texts: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Policy], list[Sight]]:
    policies: list[Policy] = []
    sights: list[Sight] = []
    for file in listed:
        root = parse(file, problems, texts.get(file))
        if root is not None:
            reader = Reader(file, defaults, problems)
            policies += reader.policies(root)
            sights += reader.sights
    return policies, sights


def _position(problem: Problem) -> tuple[str, int]:
    """File and line, to sort by."""
    place = problem.where.partition(": ")[0]
    file, _, line = place.rpartition(":")
    return (file, int(line)) if line.isdecimal() else (place, 0)


def _collisions(policies: Sequence[Sight]) -> list[Problem]:
    """What two policies, or two destinations, may not share."""
    names: dict[str, str] = {}
    users: dict[int, str] = {}
    paths: dict[tuple[str, str], tuple[str, int]] = {}
    return [
        Problem(f"{policy.where}: {field}", what)
        for policy in policies
        for field, what in (
            *_same_name(policy, names),
            *_same_user(policy, users),
            *_same_path(policy, paths),
        )
    ]


def _same_name(policy: Sight, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    if policy.name is None:
        return
    other = names.setdefault(policy.name, policy.where)
    if other is not policy.where:
        yield "name", f"the policy at {other} has the same name; rename one of them"


def _same_user(policy: Sight, users: dict[int, str]) -> Iterator[tuple[str, str]]:
    field = "user_id" if len(policy.users) == 1 else "users"
    for user in dict.fromkeys(policy.users):
        other = users.setdefault(user, policy.where)
        if other is not policy.where:
            yield field, f"the policy at {other} names the same user; one user has one policy"


def _same_path(
    policy: Sight, paths: dict[tuple[str, str], tuple[str, int]]
) -> Iterator[tuple[str, str]]:
    for index, to in enumerate(policy.destinations):
        mine = (policy.where, index)
        first = mine if to is None else paths.setdefault((to.mount, to.path), mine)
        if first is mine:
            continue
        what = f"the policy at {first[0]} publishes to the same mount and path; change one"
        if first[0] is policy.where:
            what = "is a destination of this policy already; keep one of them"
        yield f"also[{index - 1}].path" if index else "vault.path", what
