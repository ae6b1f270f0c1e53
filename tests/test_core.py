"""The core's own rules, held over its source: what decides only looks, and each rule is shown to catch a defect."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from test_architecture import PACKAGE, imports

ROTATION = PACKAGE / "rotation"
SOURCES = {path.stem: path.read_text() for path in sorted(ROTATION.glob("*.py"))}
# What a predicate may ask of the world; all else asks somebody, waits, or changes something.
MAY_ASK = {"world.stopping", "world.vault.now"}
# What answers what is due knows: the policy, its record, and the time it is given.
OF_DUE = ("dataclasses", "datetime", "typing", "rotator.journal", "rotator.policy", "__future__")


def functions(sources: dict[str, str]) -> dict[tuple[str, str], ast.FunctionDef]:
    """Every function of the modules, and every method of `Run` as one of module `Run`."""
    found = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                found[module, node.name] = node
            elif isinstance(node, ast.ClassDef) and node.name == "Run":
                methods = (one for one in node.body if isinstance(one, ast.FunctionDef))
                found |= {("Run", one.name): one for one in methods}
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


def what_predicates_do(sources: dict[str, str]) -> list[str]:
    """What the predicates of the page, and all that they call, do besides looking at what the run knows."""
    known, found = functions(sources), []
    todo = re.findall(r"when=(\w+)\.(\w+)", sources["page"])
    assert todo
    done = set(todo)
    while todo:
        module, name = todo.pop()
        function = known[module, name]
        for line, chain, written in chains(function):
            head, *rest = chain
            of_run = head == "run" or (head == "self" and module == "Run")
            if of_run and rest[:1] == ["world"] and ".".join(rest) not in MAY_ASK:
                found.append(f"{module}.{name}, line {line}: {'.'.join(chain)}")
            if written and len(chain) > 1:
                found.append(f"{module}.{name}, line {line}: writes {'.'.join(chain)}")
            called = ("Run", rest[0]) if of_run and rest else None
            if called is None:
                called = (head, rest[0]) if rest else (module, head)
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
        "def is_wanted(run):\n    return run.seen(run.main)",
        "def is_wanted(run):\n    return run.probe(run.hand)",
        "def is_wanted(run):\n    return run.world.account",
        "def is_wanted(run):\n    run.orphan = None",
        "def is_wanted(run):\n    return helps(run)\ndef helps(run):\n    run.save(run.record)",
        "def is_wanted(run):\n    return issuing.issue(run)",
    ],
)
def test_a_predicate_that_does_more_is_found(defect: str) -> None:
    """Whether it does so itself, or through a property, a method, or another module."""
    planted = SOURCES | {"beginning": SOURCES["beginning"] + "\n" + defect}
    assert what_predicates_do(planted)


def test_what_is_due_is_decided_from_policy_record_and_time_alone() -> None:
    """The module knows nothing else: no run, no Vault, no ECGrid, no clock."""
    tree = ast.parse(SOURCES["due"])
    assert [
        name for _, name in imports(tree, "rotator.rotation.due") if not name.startswith(OF_DUE)
    ] == []
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not {name for name in called if name.endswith((".now", ".today", ".utcnow"))}
