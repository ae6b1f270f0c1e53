"""The wheel as users install it, by pipx and by uv: the command works, its manual is found, the shells complete it."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
from conftest import Rotator, until
from image import OUTSIDE, ROOT, pip_told

import rotator
from rotator.sandbox.ecgrid import Running

pytestmark = pytest.mark.deploy

TOOLS = Path(sys.executable).parent
POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""
# How each shell is started without anybody's settings, and told where the completions are.
SHELLS = {
    "bash": (["bash", "--norc", "-i"], "source {share}/bash-completion/completions/rotator"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "fpath=({share}/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D",
    ),
    "fish": (
        ["fish", "--no-config", "-i"],
        "source {share}/fish/vendor_completions.d/rotator.fish",
    ),
}


@dataclass(frozen=True)
class Installed:
    """Where a tool has put the command, what belongs to it, and the manual where `man` is told to look."""

    command: Path
    share: Path
    manual: Path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the checkout."""
    where = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, where / "source", ignore=left_out)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(where)]
    run([sys.executable, "-m", "pip", "wheel", *options, str(where / "source")], {})
    return next(where.glob("*.whl"))


@pytest.fixture(scope="module", params=["pipx", "uv"])
def installed(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """The wheel with its dependencies, from wherever this machine's pip finds them."""
    where = tmp_path_factory.mktemp(request.param)
    return {"pipx": by_pipx, "uv": by_uv}[request.param](wheel, where)


def by_pipx(wheel: Path, where: Path) -> Installed:
    """`pipx install`, which links the manual too."""
    places = {"PIPX_HOME": "home", "PIPX_BIN_DIR": "bin", "PIPX_MAN_DIR": "man"}
    settings = {name: str(where / place) for name, place in places.items()}
    run([str(TOOLS / "pipx"), "install", "--python", sys.executable, str(wheel)], settings)
    share = where / "home" / "venvs" / "rotator" / "share"
    return Installed(where / "bin" / "rotator", share, where / "man")


def by_uv(wheel: Path, where: Path) -> Installed:
    """`uv tool install`; it is told what pip is told."""
    told = pip_told()
    settings = {
        "UV_TOOL_DIR": str(where / "tools"),
        "UV_TOOL_BIN_DIR": str(where / "bin"),
        "UV_CACHE_DIR": str(where / "cache"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_DEFAULT_INDEX": told.get("index-url", ""),
        "UV_FIND_LINKS": told.get("find-links", "").replace(" ", ","),
        "SSL_CERT_FILE": told.get("cert", OUTSIDE.get("SSL_CERT_FILE", "")),
    }
    given = {name: value for name, value in settings.items() if value}
    run([str(TOOLS / "uv"), "tool", "install", "--python", sys.executable, str(wheel)], given)
    share = where / "tools" / "rotator" / "share"
    return Installed(where / "bin" / "rotator", share, share / "man")


def run(command: list[str], settings: dict[str, str]) -> str:
    """What a command prints to stdout; it has to succeed."""
    done = subprocess.run(
        command,
        env=OUTSIDE | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_installed_command_rotates(
    installed: Installed, rotator_command: Rotator, simulator: Running
) -> None:
    """It says its version, and does its work with nothing of this checkout in reach."""
    rotator_command.program = (str(installed.command),)
    del rotator_command.environment["PYTHONPATH"]
    assert rotator_command("--version").stdout == f"rotator {rotator.__version__}\n"
    rotator_command.policy("edi", POLICY)
    for arguments in (["run", "--once"], ["rotate", "edi"]):
        done = rotator_command(*arguments)
        assert done.code == 0, done.stderr
    assert simulator.simulator.issued(5001) == 1


def page(of: list[str], manual: Path) -> tuple[str, str]:
    """What man(1) shows, and what it has to object to."""
    done = subprocess.run(
        ["man", "--warnings=w", *of],
        env={"PATH": os.defpath, "MANPATH": str(manual), "LANG": "C.UTF-8", "MANWIDTH": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout, done.stderr


def test_the_manual_is_found_and_set_without_a_warning(installed: Installed) -> None:
    """With all commands in it."""
    shown, warnings = page(["rotator"], installed.manual)
    assert warnings == ""
    assert shown.startswith("ROTATOR(1)")
    assert {"rotate", "run", "status", "doctor"} <= set(
        re.findall(r"^ +rotator (\w+)", shown, re.MULTILINE)
    )


def test_a_fault_planted_in_the_manual_is_found(tmp_path: Path) -> None:
    """A macro that there is not."""
    broken = tmp_path / "rotator.1"
    broken.write_text((ROOT / "man" / "rotator.1").read_text().replace(".TP", ".TPP", 1))
    assert page(["--local-file", str(broken)], tmp_path)[1] != ""


class Terminal:
    """A shell that somebody sits at. A context manager."""

    def __init__(self, command: list[str], path: Path, home: Path) -> None:
        self._seen = ""
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={
                "PATH": f"{path}:{os.defpath}",
                "HOME": str(home),
                "TERM": "xterm",
                "LANG": "C.UTF-8",
            },
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._ours)

    def types(self, keys: str) -> None:
        """Presses these keys."""
        os.write(self._ours, keys.encode())

    def shows(self, text: str) -> bool:
        """Whether that has been on the screen."""
        try:
            self._seen += os.read(self._ours, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            time.sleep(0.05)
        return text in self._seen


@pytest.fixture
def terminal(
    request: pytest.FixtureRequest, installed: Installed, tmp_path: Path
) -> Iterator[Terminal]:
    """An interactive shell that knows the installed command and its completions."""
    command, setting_up = SHELLS[request.param]
    with Terminal(command, installed.command.parent, tmp_path) as shell:
        shell.types(f"{setting_up.format(share=installed.share)}; echo set''up\n")
        until(lambda: shell.shows("setup"), "the shell is there")
        yield shell


@pytest.mark.parametrize("terminal", SHELLS, indirect=True)
def test_a_shell_completes_the_command(terminal: Terminal) -> None:
    """Four letters and a tab are `rotator schema`, which is then run; the four letters alone are no command."""
    terminal.types("rotator sche\n")
    until(lambda: terminal.shows("No such command"), "four letters are refused")
    terminal.types("rotator sche\t\n")
    until(lambda: terminal.shows("https://json-schema.org"), "the schema is printed")
