"""A release: what is handed out, with what is in it; and what checks policies before they are merged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import blocks
from test_architecture import ROOT
from test_wheel import _copy

import rotator

POLICY = "user_id: 5001\nvisibility: Private\nschedule: {every: 30d}\nvault: {path: ecgrid/edi}\n"
PAGE = ROOT / "docs" / "checking-policies.md"


def released(where: Path, umask: int) -> dict[str, bytes]:
    """What a release of a copy of the checkout is, by name."""
    source = where / "source"
    _copy(source, umask)
    done = subprocess.run(
        [sys.executable, "builder/release.py", str(where / "out")],
        cwd=source,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": str(umask)},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in (where / "out").iterdir()}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A release."""
    return released(tmp_path_factory.mktemp("one"), 0o022)


def test_two_releases_are_equal(release: dict[str, bytes], tmp_path: Path) -> None:
    """Bit by bit, all four files: whoever makes it, when and where."""
    assert len(release) == 4
    assert released(tmp_path, 0o077) == release


def test_the_checksums_are_of_everything_else(release: dict[str, bytes], tmp_path: Path) -> None:
    """As sha256sum reads them."""
    for name, content in release.items():
        (tmp_path / name).write_bytes(content)
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    assert said == release.keys() - {"SHA256SUMS"}


def test_the_bill_of_materials_is_what_the_lock_installs(release: dict[str, bytes]) -> None:
    """Each package once, by name and version; what the rotator itself needs; nothing that is a place to get it from."""
    text = release[f"rotator-{rotator.__version__}.cdx.json"].decode()
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch("urn:uuid:[0-9a-f-]{36}", bill["serialNumber"])
    lock = (ROOT / "requirements" / "run.txt").read_text()
    locked = set(re.findall(r"^(\S+?)==(\S+)", lock, re.MULTILINE))
    assert {(one["name"], one["version"]) for one in bill["components"]} == locked
    assert len(bill["components"]) == len(locked)
    refs = {one["bom-ref"] for one in bill["components"]}
    assert all(
        one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}" for one in bill["components"]
    )
    (own,) = bill["dependencies"]
    assert (
        own["ref"]
        == bill["metadata"]["component"]["bom-ref"]
        == f"pkg:pypi/rotator@{rotator.__version__}"
    )
    assert set(own["dependsOn"]) < refs
    assert any(one.startswith("pkg:pypi/pyyaml@") for one in own["dependsOn"])
    assert "://" not in text


# before a commit and a merge


def of_the_page(begins: str) -> Any:
    """A YAML block of the page."""
    (block,) = [one for one in blocks(PAGE) if one.text.startswith(begins)]
    return yaml.safe_load(block.text)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one policy, and nothing set that a command could read."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "edi.yaml").write_text(POLICY)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rotator").write_text(f'#!/bin/sh\nexec {sys.executable} -m rotator "$@"\n')
    (tmp_path / "bin" / "pip").write_text("#!/bin/sh\n")
    for name in ("rotator", "pip"):
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def run(line: str, where: Path) -> subprocess.CompletedProcess[str]:
    """A line of a pipeline."""
    given = {"PATH": f"{where}/bin:{os.defpath}", "HOME": str(where), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["sh", "-c", line],
        cwd=where,
        env=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def scripts() -> list[list[str]]:
    """What the pipelines of the page run."""
    workflow = of_the_page("# .github")["jobs"]["policies"]
    steps = [step["run"] for step in workflow["steps"] if "run" in step]
    return [of_the_page("# .gitlab")["policies"]["script"], steps]


@pytest.mark.parametrize("which", [0, 1])
def test_what_a_pipeline_runs_refuses_a_policy_that_is_none(repository: Path, which: int) -> None:
    """Without a credential, an address or a network; with file and line."""
    lines = scripts()[which]
    assert any("rotator validate" in line for line in lines)
    assert [run(line, repository).returncode for line in lines] == [0] * len(lines)
    (repository / "policies" / "edi.yaml").write_text(POLICY.replace("30d", "monthly"))
    done = [run(line, repository) for line in lines]
    assert [one.returncode for one in done] == [0] * (len(lines) - 1) + [2]
    assert "edi.yaml:3" in done[-1].stderr


def test_the_hook_for_pre_commit_refuses_a_policy_that_is_none(repository: Path) -> None:
    """The page names the hook that there is; what it runs is run here, once for all files."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    ((used,),) = [one["hooks"] for one in of_the_page("# .pre-commit")["repos"]]
    assert used["id"] == hook["id"]
    assert (hook["language"], hook["pass_filenames"]) == ("python", False)
    assert re.search(hook["files"], "policies/edi.yaml")
    assert re.search(used["files"], "policies/edi.yaml")
    assert run(hook["entry"], repository).returncode == 0
    (repository / "policies" / "more.yaml").write_text(POLICY)
    done = run(hook["entry"], repository)
    assert (done.returncode, "names the same user" in done.stderr) == (2, True), done.stderr
