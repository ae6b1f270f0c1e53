"""The first page keeps its word: what it says to type works, what it shows is shown, what it names exists."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Rotator, VaultServer

from rotator.cli import main
from rotator.errors import BadInput
from rotator.sandbox.ecgrid import Running
from rotator.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(kind: str) -> list[str]:
    """The fenced blocks of that kind, such as `sh run`: shell that a reader may run as it stands."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def least_rights(rotator_command: Rotator, vault: VaultServer, mount: str) -> Iterator[None]:
    """Commands get a token that may do what the README's Vault policy allows, and nothing else."""
    name = f"readme-{secrets.token_hex(6)}"
    (policy,) = blocks("hcl")
    policy = policy.replace('"secret/', f'"{mount}/')
    vault.call("PUT", f"sys/policies/acl/{name}", {"policy": policy})
    made = vault.call("POST", "auth/token/create", {"policies": [name], "ttl": "1h"})
    rotator_command.secrets.add(made["auth"]["client_token"])
    rotator_command.environment["VAULT_TOKEN"] = made["auth"]["client_token"]
    yield
    vault.call("DELETE", f"sys/policies/acl/{name}")


def test_the_first_rotation_goes_as_the_readme_says(
    rotator_command: Rotator, simulator: Running, least_rights: None
) -> None:
    """Every runnable block, in order, in one shell, with no more rights in Vault than the README gives."""
    program = " ".join(map(shlex.quote, rotator_command.program))
    done = subprocess.run(
        ["/bin/sh", "-eu"],
        cwd=rotator_command.directory,
        env=rotator_command.environment,
        input="\n".join([f'rotator() {{ {program} "$@"; }}', *blocks("sh run")]),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    rotator_command.assert_silent(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = re.findall(r"^edi-gateway +(\S+)", done.stdout, re.MULTILINE)
    assert shown == ["would-rotate", "adopted", "rotated", "ok", "in-sync"]
    assert not re.search("warning|refused|denied", done.stdout + done.stderr)
    assert simulator.simulator.issued(5001) == 1


def test_other_shell_blocks_are_shell() -> None:
    """What cannot be run here (an installation, somebody's addresses) at least reads as shell."""
    for block in blocks("sh"):
        subprocess.run(["/bin/sh", "-n"], input=block, text=True, check=True, timeout=60)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([a-z]+)", blocks("sh")[0], re.MULTILINE)) <= set(targets)


def test_the_demo_shows_what_the_readme_shows(tmp_path: Path) -> None:
    """Line by line and in order, but for ids and durations; `...` stands for lines that are left out."""
    done = subprocess.run(
        [sys.executable, "-m", "rotator", "demo"],
        cwd=tmp_path,
        env={"PATH": os.defpath, "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (shown,) = blocks("text")
    said = iter(_lines(done.stdout))
    missing = [line for line in _lines(shown) if line != "..." and line not in said]
    assert missing == []


def _lines(text: str) -> list[str]:
    return [re.sub("[0-9]", "0", line.rstrip()) for line in text.splitlines() if line.strip()]


def test_the_command_table_has_every_command_and_option_that_it_names() -> None:
    """No command is missing, and none is promised that does not exist."""
    table = README.partition("\n## Commands\n")[2].partition("\n## ")[0]
    rows = [line.split("` |")[0] for line in table.splitlines() if line.startswith("| `")]
    named = [word for row in rows for word in re.findall(r"`([a-z]+)", row)]
    assert set(named) == set(main.commands)
    for row in rows:
        command = main.commands[row.removeprefix("| `").split()[0].rstrip("`,")]
        options = {option for param in command.params for option in param.opts}
        assert set(re.findall(r"--[a-z-]+", row)) <= options, row
    rest = {option for param in main.params for option in param.opts} | {"--json"}
    after = table.partition("\n\n`--log-level`")[2].partition("\n\n")[0]
    assert set(re.findall(r"--[a-z-]+", after)) <= rest


def test_the_settings_that_are_named_exist() -> None:
    """With their defaults; a name that the loader does not know would be refused as misspelt."""
    names = {name for name in re.findall(r"ROTATOR_[A-Z_]+", README) if name != "ROTATOR_COMPLETE"}
    with pytest.raises(BadInput) as caught:
        Settings.load(dict.fromkeys(names, "\t"), ROOT / "tests")
    assert [p for p in caught.value.problems if "unknown setting" in str(p)] == []
    assert len(names) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links within the repository name files that are there."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
