"""`python -m bench.structure`: how the source is built, in figures.

How long it is, how branchy, and who writes a run's fields. Needs nothing but the source. A room is a folder of the
package, or a module of its own.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

PACKAGE = Path(__file__).resolve().parent.parent / "rotator"
BRANCHY = 8  # a function of that complexity, or more, is hard to follow
BRANCHES = (
    ast.If,
    ast.For,
    ast.While,
    ast.IfExp,
    ast.ExceptHandler,
    ast.comprehension,
    ast.match_case,
    ast.Assert,
)
CHANGES = {"add", "append", "clear", "discard", "extend", "pop", "remove", "update"}
# What a run consists of: the name by which it has each part, and the part's class.
PARTS = {
    "": "Run",
    "sight": "Sight",
    "claim": "Fence",
    "patiently": "Patience",
    "holding": "Holding",
    "outcome": "Outcome",
}
# Where a rotation is decided on and carried out.
CORE = ("due.py", "run", "inventory", "retiring", "replacing", "rotation")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def core() -> list[Path]:
    """The modules of the core, but for those that hand names on: no two have one name."""
    files = [
        path for room in CORE for path in sorted({PACKAGE / room, *(PACKAGE / room).glob("*")})
    ]
    return [path for path in files if path.suffix == ".py" and path.stem != "__init__"]


def complexity(function: ast.AST) -> int:
    """One more than the ways in which a function may branch; a function within it is counted for itself."""
    count, todo = 1, list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if isinstance(node, Function):
            continue
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        else:
            count += isinstance(node, BRANCHES)
        todo += ast.iter_child_nodes(node)
    return count


def code_lines(tree: ast.Module, source: str) -> int:
    """The lines that are neither blank, nor a comment, nor part of a docstring."""
    prose: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node):
            prose |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    told = enumerate(source.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in prose
        for number, line in told
    )


def exported(tree: ast.Module) -> int:
    """The public names that a module makes at its top."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return sum(not name.startswith("_") for name in names)


def writes(tree: ast.AST, name: str) -> Iterator[str]:
    """The fields of what is called `name` that a module assigns, or changes in place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            written: ast.expr = node
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in CHANGES
        ):
            written = node.func.value
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            written = node.value
        else:
            continue
        if isinstance(written, ast.Attribute) and ast.unparse(written.value) == name:
            yield written.attr


def fields(tree: ast.Module, name: str) -> list[str]:
    """The fields of a class: those it declares, and those it gives itself when it is made."""
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    told = [
        node.target.id
        for node in owner.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    return list(dict.fromkeys([*told, *writes(owner, "self")]))


def of_run(more: str = "") -> dict[str, set[str]]:
    """Each field of a run and of its parts, and the modules that write it; `more` is one module more.

    A part writes its own; whoever else does so is counted.
    """
    sources = {path.stem: ast.parse(path.read_text()) for path in core()}
    home = {
        node.name: (module, tree)
        for module, tree in sources.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    writers: dict[str, set[str]] = {}
    for part, owner in PARTS.items():
        module, tree = home[owner]
        dotted = f"run.{part}".rstrip(".")
        for name in fields(tree, owner):
            writers[f"{part}.{name}".lstrip(".")] = (
                {module} if is_changed(tree, owner, name) else set()
            )
        for other, source in {**sources, "more": ast.parse(more)}.items():
            for name in writes(source, dotted):
                writers.get(f"{part}.{name}".lstrip("."), set()).add(other)
    return writers


def is_changed(tree: ast.Module, name: str, field: str) -> bool:
    """Whether a class changes that field of its own once it is made."""
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    later = (
        node
        for node in owner.body
        if isinstance(node, Function) and node.name not in ("__init__", "__post_init__")
    )
    return any(field in writes(method, "self") for method in later)


def told() -> list[str]:
    """The figures, as lines: a row for each room, and one for all; then the fields of a run."""
    modules: dict[str, list[tuple[ast.Module, str]]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        source = path.read_text()
        modules[room].append((ast.parse(source), source))
    everything = [one for room in modules.values() for one in room]
    head = f"{'ROOM':14}{'LINES':>7}{'NAMES':>7}{'FUNCTIONS':>11}{'MEDIAN':>8}{'LONGEST':>9}{'COMPLEXITY':>12}"
    rows = [f"{head}{'BRANCHY':>9}"]
    rows += [row(room, parts) for room, parts in [*sorted(modules.items()), ("all", everything)]]
    writers = of_run()
    shared = sum(len(by) > 1 for by in writers.values())
    rows.append(f"fields of a run: {len(writers)}, {shared} of them written by several modules")
    return rows + [f"  {name:22}{', '.join(sorted(by)) or '-'}" for name, by in writers.items()]


def row(room: str, parts: list[tuple[ast.Module, str]]) -> str:
    """The figures of one room."""
    functions = [node for tree, _ in parts for node in ast.walk(tree) if isinstance(node, Function)]
    lengths = [(one.end_lineno or one.lineno) - one.lineno + 1 for one in functions] or [0]
    branches = [complexity(one) for one in functions] or [0]
    return (
        f"{room:14}{sum(code_lines(tree, text) for tree, text in parts):>7}"
        f"{sum(exported(tree) for tree, _ in parts):>7}{len(functions):>11}"
        f"{median(lengths):>8.0f}{max(lengths):>9}{mean(branches):>12.2f}"
        f"{sum(one >= BRANCHY for one in branches) / len(branches):>9.1%}"
    )


if __name__ == "__main__":
    sys.stdout.write("\n".join(told()) + "\n")
