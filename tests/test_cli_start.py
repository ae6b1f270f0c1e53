"""The command line as a newcomer meets it: help, versions, completion, colours, usage errors, the sandbox, the demo."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Finished, Rotator, Started, until
from terminal import at_a_terminal, shown_on
from test_architecture import ROOT

import rotator
from rotator.cli import main
from rotator.sandbox.ecgrid import Running

HEAVY = (
    "apscheduler",
    "httpx",
    "hvac",
    "jinja2",
    "lxml",
    "pydantic",
    "requests",
    "rich",
    "yaml",
    "zeep",
)
NOWHERE = "error: policies: does not exist; name a policy file or directory with --policies or ROTATOR_POLICIES\n"
NO_VAULT = (
    "error: VAULT_ADDR: is not set; give Vault's address, such as https://vault:8200\n"
    "error: VAULT_TOKEN: is not set; ROTATOR_VAULT__AUTH=token needs it\n"
)
NO_CREDENTIAL = (
    "error: ROTATOR_ECGRID__API_KEY: no credential for ECGrid; set this, or ROTATOR_ECGRID__API_KEY_FILE, "
    "ROTATOR_ECGRID__API_KEY_VAULT, or ROTATOR_ECGRID__LOGIN and __PASSWORD\n"
)
WHICH = "error: say which policies: NAME..., or --tag TAG and --owner OWNER, or --all\n"
USAGE = "Usage: rotator [OPTIONS] COMMAND [ARGS]...\nTry 'rotator --help' for help.\n\nError: "
# What is typed in an empty directory, with nothing set; the exit code, stdout, stderr.
TRANSCRIPTS = [
    ("--version", 0, f"rotator {rotator.__version__}\n", ""),
    ("nonsense", 2, "", f"{USAGE}No such command 'nonsense'.\n"),
    ("--nonsense status", 2, "", f"{USAGE}No such option '--nonsense'.\n"),
    ("validate", 2, "", NOWHERE),
    ("status", 2, "", NOWHERE + NO_VAULT),
    ("run --once", 2, "", NOWHERE + NO_VAULT + NO_CREDENTIAL),
    ("rotate", 2, "", WHICH),
    ("adopt --tag prod --from old", 2, "", "error: --from OLD takes exactly one NAME\n"),
    ("run --shard 3/2", 2, "", "error: --shard '3/2': I/N, with I from 0 to N-1\n"),
    (
        "explain vault.seald",
        2,
        "",
        "error: no kind of error is named 'vault.seald'; did you mean vault.Sealed?\n",
    ),
    (
        "explain nonsense",
        2,
        "",
        "error: no kind of error is named 'nonsense'; `rotator explain` without one lists them\n",
    ),
]


class Shell:
    """The command in an empty directory, with an environment that says nothing about Vault or ECGrid."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            "PATH": os.defpath,
            "HOME": os.environ["HOME"],
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(Path(rotator.__file__).parent.parent),
        }
        self.started: list[Started] = []

    def start(self, *command: str, **environment: str) -> Started:
        """Starts a program; it is ended with the test."""
        where = self.directory / f"command-{len(self.started)}"
        where.mkdir()
        self.started.append(Started([*command], where, {**self.environment, **environment}))
        return self.started[-1]

    def __call__(self, *arguments: str, **environment: str) -> Finished:
        """Runs `rotator` to its end."""
        return self.start(*Rotator.program, *arguments, **environment).finish()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """What is still running when the test ends is killed."""
    made = Shell(tmp_path)
    yield made
    for started in made.started:
        started.kill()


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("typed", "code", "stdout", "stderr"), TRANSCRIPTS, ids=[typed for typed, *_ in TRANSCRIPTS]
)
def test_what_is_typed_is_answered_so(
    shell: Shell, typed: str, code: int, stdout: str, stderr: str
) -> None:
    """A newcomer's first lines: what is missing, and what to do about it."""
    assert shell(*typed.split()) == Finished(code, stdout, stderr)


def test_rotator_alone_and_with_help_lists_every_command(shell: Shell) -> None:
    """In the order of a user's day; help goes to stdout, the reminder to stderr with exit 2."""
    asked, bare = shell("--help"), shell()
    assert (asked.code, asked.stderr) == (0, "")
    assert (bare.code, bare.stdout, bare.stderr) == (2, "", asked.stdout)
    listed = asked.stdout.partition("\nCommands:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^  ([a-z-]+)  +[A-Z]", listed, re.MULTILINE) == list(main.commands)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", main.commands)
def test_the_help_of_every_command_explains_every_option(shell: Shell, name: str) -> None:
    """`-h` is as good as `--help`; no line is wider than a terminal."""
    done = shell(name, "--help")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: rotator {name} [OPTIONS]")
    assert shell(name, "-h") == done
    options = done.stdout.partition("\nOptions:\n")[2].splitlines()
    assert [line for line in options if not re.match(r"  (-\S.*?  +|   {10,})\S", line)] == []
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_explain_shows_what_the_runbook_says(shell: Shell) -> None:
    """With nothing set: one entry as text and as JSON; without a kind a line for each, the alerts last."""
    page = (ROOT / "docs" / "runbook.md").read_text()
    section = page.partition("### vault.Sealed\n")[2].partition("\n### ")[0].replace("*", "")
    shown = shell("explain", "vault.Sealed")
    assert (shown.code, shown.stderr) == (0, "")
    assert shown.stdout.split() == ["vault.Sealed", *section.split()]
    (entry,) = shell("explain", "vault.Sealed", "--json").json["entries"]
    assert " ".join([*entry["means"], "To do:", entry["to_do"]]).split() == section.split()
    lines = shell("explain").stdout.splitlines()[1:]
    listed = [line.split()[0] for line in lines]
    assert set(listed) == set(re.findall(r"^### (.+)$", page, re.MULTILINE))
    assert ["." in name for name in listed] == sorted(
        ("." in name for name in listed), reverse=True
    )
    assert [line for line in lines if len(line.split()) < 4] == []


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: Shell, kind: str) -> None:
    """`eval "$(_ROTATOR_COMPLETE=bash_source rotator)"` is all that is needed."""
    done = shell(_ROTATOR_COMPLETE=f"{kind}_source")
    assert (done.code, done.stderr) == (0, "")
    assert f"_ROTATOR_COMPLETE={kind}_complete" in done.stdout


def test_completion_completes_a_command(shell: Shell) -> None:
    """What the script asks for while somebody types `rotator hi<TAB>`."""
    asked = {"_ROTATOR_COMPLETE": "bash_complete", "COMP_WORDS": "rotator hi", "COMP_CWORD": "1"}
    assert shell(**asked).stdout == "plain,history\n"


def test_help_and_version_cost_no_more_than_click(shell: Shell) -> None:
    """None of the packages that take long to import is there afterwards."""
    code = (
        "import sys; from rotator.cli import main\n"
        "for typed in ['--help'], ['--version'], *([name, '--help'] for name in main.commands):\n"
        "    try: main(typed)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "print('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = shell.start(sys.executable, "-c", code).finish()
    loaded = done.stdout.partition("loaded:")[2].split()
    assert "click" in loaded, done.stderr
    assert [name for name in HEAVY if name in loaded] == []


def test_no_plugin_of_pydantic_is_loaded(shell: Shell) -> None:
    """One that somebody has installed would be shown each value that is read."""
    plugins, loaded = shell.directory / "plugins", shell.directory / "loaded"
    about = plugins / "spy-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: spy\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[pydantic]\nspy = spy:plugin\n")
    (plugins / "spy.py").write_text(f"open({str(loaded)!r}, 'w')\nplugin = None\n")
    path = os.pathsep.join((str(plugins), shell.environment["PYTHONPATH"]))
    done = shell.start(sys.executable, "-m", "rotator", "validate", PYTHONPATH=path).finish()
    assert done == Finished(2, "", NOWHERE)
    assert not loaded.exists()


COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


STARTED = """
import gc, sys
gc.disable()
import rotator.cli.act, rotator.cli.plan, rotator.cli.show
from rotator.cli.common import exits
with exits():
    assert gc.isenabled() and gc.get_freeze_count() > 10_000, gc.get_freeze_count()
needless = {"rich", "pygments", "httpx._main", "tomllib"} & set(sys.modules)
assert not needless, needless
"""


def test_a_command_loads_nothing_that_draws_and_looks_for_no_garbage_until_it_is_loaded() -> None:
    """Nor what reads a `rotator.toml`, nor httpx's own commands; what was loaded is never looked through again."""
    ended = subprocess.run(
        [sys.executable, "-c", STARTED], stderr=subprocess.PIPE, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_there_is_colour_at_a_terminal_only_and_not_with_no_color(rotator_command: Rotator) -> None:
    """In a pipe there is no escape code at all, whatever TERM says; lines are not wrapped there."""
    rotator_command.policy(
        "a-policy-with-a-long-name",
        "{user_id: 5001, visibility: Private, schedule: manual, vault: {path: ecgrid/long}}",
    )
    with at_a_terminal(rotator_command, "status") as (_, screen):
        assert COLOUR.search(shown_on(screen))
    with at_a_terminal(rotator_command, "status", NO_COLOR="1") as (_, screen):
        plain = shown_on(screen)
    assert "not-adopted" in plain
    assert not COLOUR.search(plain)
    piped = rotator_command("status", TERM="xterm-256color", COLUMNS="40")
    assert (piped.code, "\x1b" in piped.stdout + piped.stderr) == (0, False)
    assert [line.split()[:2] for line in piped.stdout.splitlines()[1:]] == [
        ["a-policy-with-a-long-name", "not-adopted"]
    ]


def test_how_far_an_import_is_showsat_a_terminal(
    rotator_command: Rotator, simulator: Running
) -> None:
    """On stderr; the file goes to stdout alone, and there is nothing else in a pipe."""
    for user_id in range(6001, 6101):
        simulator.simulator.add_user(user_id)
    with at_a_terminal(rotator_command, "import", ROTATOR_ECGRID__RATE="100") as (_, screen):
        assert re.search(r"keys: \d+ of 103, \d+s left", shown_on(screen))
    piped = rotator_command("import", "--out", "users.yaml")
    assert (piped.code, piped.stderr) == (0, "")


def _told_by(started: Started, end: str) -> str:
    """stdout, as soon as `end` is in it."""
    until(
        lambda: end in started.so_far()[0] or started.process.poll() is not None, f"{end!r} is said"
    )
    assert end in started.so_far()[0], started.so_far()
    return started.so_far()[0]


def test_the_sandbox_can_be_used_from_another_shell_and_ends_without_a_trace(shell: Shell) -> None:
    """Its exports are all that other commands need; Ctrl-C ends it with 0, its servers, and its files."""
    sandbox = shell.start(*Rotator.program, "sandbox", TMPDIR=str(shell.directory))
    exports = _told_by(sandbox, "Ctrl-C")
    files = [Path(found) for found in re.findall(r"_FILE=(\S+)", exports)]
    assert len(files) == 2
    command = " ".join(Rotator.program)
    script = f"{exports}\n{command} doctor && {command} run --once && {command} rotate --all"
    used = shell.start("/bin/sh", "-c", script).finish()
    assert used.code == 0, used
    assert "2 adopted, 1 rotated" in used.stdout
    assert used.stdout.endswith("3 rotated\n")
    values = [file.read_text() for file in files]
    assert [file.stat().st_mode & 0o077 for file in files] == [0, 0]
    ended = sandbox.finish(send=signal.SIGINT)
    assert (ended.code, ended.stderr) == (0, "")
    shown = exports + used.stdout + used.stderr
    assert [number for number, value in enumerate(values) if value in shown] == []
    assert not any(file.exists() for file in files)
    for host, port in re.findall(r"=http://([0-9.]+):([0-9]+)$", exports, re.MULTILINE):
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0
    assert list(shell.directory.glob("rotator-sandbox-*")) == []


def test_the_sandbox_can_be_the_services_own_form(shell: Shell) -> None:
    """With the policies that fit: Generate, read back over REST and over SOAP; nothing else is to be set."""
    sandbox = shell.start(*Rotator.program, "sandbox", "--form", "service")
    exports = _told_by(sandbox, "Ctrl-C")
    command = " ".join(Rotator.program)
    script = f"{exports}\n{command} run --once && {command} rotate --all"
    used = shell.start("/bin/sh", "-c", script).finish()
    assert used.code == 0, used
    assert "3 adopted" in used.stdout
    assert used.stdout.endswith("3 rotated\n")
    assert sandbox.finish(send=signal.SIGINT).code == 0


def test_the_demo_ends_well_and_proves_it(shell: Shell) -> None:
    """In both forms every old key is refused and every new one accepted; what to type next is said; nothing is left."""
    done = shell("demo", TMPDIR=str(shell.directory))
    assert (done.code, done.stderr) == (0, "")
    rows = re.findall(r"^\S+ +(refused|accepted) +(refused|accepted) ", done.stdout, re.MULTILINE)
    assert rows == [("refused", "accepted")] * 6
    assert "What to type next" in done.stdout
    assert "\x1b" not in done.stdout
    assert list(shell.directory.glob("rotator-sandbox-*")) == []


def test_the_demo_fits_into_eighty_columns(rotator_command: Rotator) -> None:
    """Nothing is broken within a word; and who has no `rotator` in the PATH is told where it is."""
    with at_a_terminal(rotator_command, "demo", COLUMNS="80", PATH=os.defpath) as (_, screen):
        lines = shown_on(screen).splitlines()
    assert [line for line in lines if len(re.sub(r"\x1b\[[0-9;]*m", "", line)) > 80] == []
    assert "The PATH has no `rotator`: it is in" in "\n".join(lines)


def test_status_is_drawn_anew_until_it_is_interrupted(rotator_command: Rotator) -> None:
    """A rotation by somebody else appears by itself; Ctrl-C gives the screen back and is no failure."""
    for name, user_id in (("first", 5001), ("second", 5002)):
        rotator_command.policy(
            name,
            f"{{user_id: {user_id}, visibility: Private, schedule: manual, vault: {{path: ecgrid/{name}}}}}",
        )
    with at_a_terminal(rotator_command, "status", "first", "--watch") as (watching, screen):
        shown = shown_on(screen, "not-adopted")
        assert "first" in shown
        assert "second" not in shown
        assert rotator_command("adopt", "first").code == 0
        shown_on(screen, "ok")
        watching.send_signal(signal.SIGINT)
        shown_on(screen, "\x1b[?1049l")
        assert watching.wait(60) == 0


def test_watching_needs_a_terminal(rotator_command: Rotator) -> None:
    """Else a script would wait for ever."""
    rotator_command.policy(
        "edi", "{user_id: 5001, visibility: Private, schedule: manual, vault: {path: ecgrid/edi}}"
    )
    done = rotator_command("status", "--watch")
    assert (done.code, "--watch draws at a terminal" in done.stderr) == (2, True)
