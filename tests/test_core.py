"""The core's own rules, held over its source: what decides only looks, and each rule is shown to catch a defect."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from test_architecture import ROOT, imports

from bench.structure import PARTS, core, of_run

SOURCES = {path.stem: path.read_text() for path in core()}
# What a predicate may ask of the world; all else asks somebody, waits, or changes something.
MAY_ASK = {"world.stopping", "world.vault.now"}
OTHER_NAMES = {"_sight": "Sight", "_patiently": "Patience"}  # of a part, in another one
# What answers what is due knows: the policy, its record, and the time it is given.
OF_DUE = ("dataclasses", "datetime", "typing", "rotator.journal", "rotator.policy", "__future__")


def functions(sources: dict[str, str]) -> dict[tuple[str, str], ast.FunctionDef]:
    """Every function of the modules, and every method of a run and of its parts, by class."""
    found = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                found[module, node.name] = node
            elif isinstance(node, ast.ClassDef) and node.name in PARTS.values():
                methods = (one for one in node.body if isinstance(one, ast.FunctionDef))
                found |= {(node.name, one.name): one for one in methods}
    return found


def chains(function: ast.FunctionDef) -> Iterator[tuple[int, list[str], bool]]:
    """Each dotted name in a function, at its longest, and whether it is written to; no bare name of its own."""
    own = {
        n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    inner = {id(n.value) for n in ast.walk(function) if isinstance(n, ast.Attribute)}
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute | ast.Name) and id(node) not in inner:
            text = ast.unparse(node)
            if re.fullmatch(r"[\w.]+", text) and text not in own:
                yield node.lineno, text.split("."), isinstance(node.ctx, ast.Store)


def meant(module: str, chain: list[str]) -> tuple[str, str]:
    """The function, method or property that a dotted name in a function of that module, or part, speaks of."""
    head, *rest = chain
    owner = "Run" if head == "run" else module if head == "self" else ""
    if owner and len(rest) > 1 and owner == "Run" and rest[0] in PARTS:
        return PARTS[rest[0]], rest[1]
    if owner and rest:
        if rest[0] in OTHER_NAMES and len(rest) > 1:
            return OTHER_NAMES[rest[0]], rest[1]
        return owner, rest[0]
    return (head, rest[0]) if rest else (module, head)


def what_predicates_do(sources: dict[str, str]) -> list[str]:
    """What the predicates of the page, and all that they call, do besides looking at what the run knows."""
    known, found = functions(sources), []
    todo = re.findall(r"when=(\w+)\.(\w+)", sources["page"])
    assert todo
    done = set(todo)
    while todo:
        module, name = todo.pop()
        for line, chain, written in chains(known[module, name]):
            where = f"{module}.{name}, line {line}: {'.'.join(chain)}"
            asked = ".".join(chain[1:]).lstrip("_")
            if asked.startswith(("world.", "patiently")) and asked not in MAY_ASK:
                found.append(where)
            if written and len(chain) > 1:
                found.append(f"{where} is written")
            called = meant(module, chain)
            if called in known and called not in done:
                done.add(called)
                todo.append(called)
    return found


def test_predicates_of_the_page_only_look_at_what_the_run_knows() -> None:
    """They ask nobody, wait for nothing, and change nothing, nor does anything that they call."""
    assert what_predicates_do(SOURCES) == []


@pytest.mark.parametrize(
    "defect",
    [
        "def is_wanted(run):\n    return run.sight.at(run.main)",
        "def is_wanted(run):\n    return run.probe(run.hand)",
        "def is_wanted(run):\n    return run.world.account",
        "def is_wanted(run):\n    run.holding.without_orphan()",
        "def is_wanted(run):\n    return helps(run)\ndef helps(run):\n    run.claim.save(run.record)",
        "def is_wanted(run):\n    return issuing.issue(run)",
        "def is_wanted(run):\n    run.replaced = None",
    ],
)
def test_a_predicate_that_does_more_is_found(defect: str) -> None:
    """Whether it does so itself, or through a property, a method, or another module."""
    planted = SOURCES | {"beginning": SOURCES["beginning"] + "\n" + defect}
    assert what_predicates_do(planted)


def test_what_is_due_is_decided_from_policy_record_and_time_alone() -> None:
    """The module knows nothing else: no run, no Vault, no ECGrid, no clock."""
    tree = ast.parse(SOURCES["due"])
    assert [name for _, name in imports(tree, "rotator.due") if not name.startswith(OF_DUE)] == []
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not {name for name in called if name.endswith((".now", ".today", ".utcnow"))}


PROMISES = dict(
    re.findall(
        r"^(\d)\. \*\*([^*]+)\.\*\*",
        (ROOT / "docs" / "how-it-works.md").read_text(),
        re.MULTILINE,
    )
)


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_each_module_says_at_its_head_which_promises_it_keeps(module: str) -> None:
    """By name and number, as how-it-works.md lists them."""
    head = ast.get_docstring(ast.parse(SOURCES[module])) or ""
    kept = re.findall(r"([a-z ]+) \((\d)\)", head.rpartition("Keeps:")[2])
    assert kept
    assert {number: name.strip() for name, number in kept}.items() <= {
        number: name.lower() for number, name in PROMISES.items()
    }.items()


def test_each_field_of_a_run_is_written_by_one_module() -> None:
    """A part of a run writes its own fields; what a step notes for a later one is that step's to write."""
    assert {name: by for name, by in of_run().items() if len(by) > 1} == {}


@pytest.mark.parametrize(
    "defect",
    ["run.sight.staged = None", "run.outcome.warnings.append('x')", "run.lost = None"],
)
def test_a_second_writer_is_found(defect: str) -> None:
    """Of a part's field, in place or not, and of the run's own."""
    assert [name for name, by in of_run(f"def step(run):\n    {defect}").items() if len(by) > 1]
