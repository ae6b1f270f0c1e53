"""What is handed out: a wheel and a source distribution that can be built again bit by bit, and are complete."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from test_architecture import ROOT, repository_texts

import rotator

OURS = "reproducible"
HOOKS = """
import importlib, sys, tomllib
backend, out = sys.argv[1:]  # the hooks change it
system = tomllib.load(open("pyproject.toml", "rb"))["build-system"]
assert system["build-backend"] == "reproducible"
sys.path[:0] = system["backend-path"]
backend = importlib.import_module(backend)
backend.build_sdist(out)
backend.build_wheel(out)
"""


def build(where: Path, umask: int, backend: str = OURS) -> list[Path]:
    """Wheel and source distribution, from a copy of the checkout, with that umask and order of hashes."""
    source, out = where / "source", where / "out"
    _copy(source, umask)
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", HOOKS, backend, str(out)],
        cwd=source,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": str(umask)},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return sorted(out.iterdir())


def _copy(to: Path, umask: int) -> None:
    """What would be committed, with the rights that such a user's checkout has."""
    for path, _ in repository_texts():
        copy = to / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            copy.symlink_to(path.readlink())
        elif path.is_file():
            copy.write_bytes(path.read_bytes())
            copy.chmod((0o777 if os.access(path, os.X_OK) else 0o666) & ~umask)


def files(below: str = "") -> set[str]:
    """The names of what would be committed there; the files of a directory that is linked to."""
    inside: set[Path] = set()
    for path, _ in repository_texts():
        inside |= set(path.iterdir()) if path.is_dir() else {path} if path.exists() else set()
    names = {str(path.relative_to(ROOT)) for path in inside}
    return {name for name in names if name.startswith(below)}


def different(one: list[Path], other: list[Path]) -> list[str]:
    """The names of the files that are not the same, bit by bit."""
    assert len(one) == 2
    assert [path.name for path in one] == [path.name for path in other]
    both = zip(one, other, strict=True)
    return [path.name for path, again in both if path.read_bytes() != again.read_bytes()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Wheel and source distribution."""
    return build(tmp_path_factory.mktemp("one"), 0o022)


@pytest.fixture(scope="module")
def wheel(built: list[Path]) -> zipfile.ZipFile:
    """The wheel."""
    return zipfile.ZipFile(next(path for path in built if path.suffix == ".whl"))


def test_two_builds_are_equal(built: list[Path], tmp_path: Path) -> None:
    """Bit by bit, whatever the umask, the times of the files and of the build, and the order of hashes."""
    assert different(built, build(tmp_path, 0o077)) == []


def test_two_builds_by_setuptools_alone_differ(tmp_path: Path) -> None:
    """So the comparison sees what the build backend mends."""
    made = [build(tmp_path / str(umask), umask, "setuptools.build_meta") for umask in (18, 63)]
    assert len(different(*made)) == 2


def test_the_wheel_has_everything_that_runs_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Every module and every file that one of them reads; no tests, no bytecode, no checkout's rubbish."""
    names = {name for name in wheel.namelist() if name.startswith("rotator/")}
    assert names == files("rotator/")
    assert {name.split("/")[0] for name in wheel.namelist()} == {
        "rotator",
        f"rotator-{rotator.__version__}.dist-info",
        f"rotator-{rotator.__version__}.data",
    }


def test_the_runbook_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """As the documents have it: a link in a checkout has become the file."""
    assert wheel.read("rotator/reporting/runbook.md") == (ROOT / "docs" / "runbook.md").read_bytes()


def test_the_manual_the_documents_and_the_completions_are_in_the_wheel(
    wheel: zipfile.ZipFile,
) -> None:
    """Where man(1), bash, zsh, fish and readers look below the prefix; the license is in it too."""
    data = f"rotator-{rotator.__version__}.data/data/share/"
    shared = {
        name.removeprefix(data): wheel.read(name)
        for name in wheel.namelist()
        if name.startswith(data)
    }
    documents = {name for name in shared if name.startswith("doc/")}
    told = {name.removeprefix("doc/rotator/"): shared.pop(name) for name in documents}
    written = {name for name in files() if re.fullmatch(r"(docs/)?[^/]+\.md", name)}
    assert told == {name: (ROOT / name).read_bytes() for name in written}
    assert shared == {
        "man/man1/rotator.1": (ROOT / "man/rotator.1").read_bytes(),
        "bash-completion/completions/rotator": (ROOT / "completions/rotator").read_bytes(),
        "zsh/site-functions/_rotator": (ROOT / "completions/_rotator").read_bytes(),
        "fish/vendor_completions.d/rotator.fish": (ROOT / "completions/rotator.fish").read_bytes(),
    }
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_wheel_tells_what_it_is(wheel: zipfile.ZipFile) -> None:
    """Name, version, license, the command, and the dependencies of pyproject.toml; the sandbox is an extra."""
    info = f"rotator-{rotator.__version__}.dist-info"
    told = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert (told["Name"], told["Version"]) == ("rotator", rotator.__version__)
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Requires-Python"] == ">=3.11"
    assert "rotator = rotator.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()
    plain = [line for line in told.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any("openbao" in line for line in plain)
    assert any(line.startswith("hvac") for line in plain)


def test_the_wheel_installs_and_runs(built: list[Path], tmp_path: Path) -> None:
    """In an environment that has its dependencies: `rotator --version`, and the manual where man(1) looks."""
    environment = tmp_path / "environment"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", environment],
        check=True,
        timeout=120,
    )
    wheel = next(path for path in built if path.suffix == ".whl")
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", str(wheel)],
        # It asks for rustc's version, whose own launcher writes into the home.
        env={**os.environ, "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        timeout=120,
    )
    site = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    done = subprocess.run(
        [environment / "bin" / "rotator", "--version"],
        env={"PATH": os.defpath, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"rotator {rotator.__version__}\n"
    assert (environment / "share/man/man1/rotator.1").exists()


def test_the_source_distribution_is_the_whole_project(built: list[Path]) -> None:
    """All that is committed, and beside it only what setuptools writes."""
    path = next(path for path in built if path.name.endswith(".tar.gz"))
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert files() - inside == {".gitignore"}
    assert {name.split("/")[0] for name in inside - files()} == {
        "PKG-INFO",
        "rotator.egg-info",
        "setup.cfg",
    }
