"""A new user's surroundings: other uids, limits on threads and files, closed streams, unreadable places, PID 1.

Each command does its work, or says in one line why not; and whatever fails, no key is lost.
"""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Finished, Rotator, Started, VaultServer, until

from rotator.sandbox.ecgrid import Running

LIMITS = str(Path(__file__).parent / "limits.py")
POLICY = "user_id: 5001\nvisibility: Private\nschedule: {every: 30d}\nvault: {path: ecgrid/edi}\n"
PACKAGES = str(Path(pytest.__file__).parent.parent)
USERS = itertools.count(40_000 + secrets.randbelow(20_000))


def _for_everybody() -> str | None:
    """A Python of this version that every user may run."""
    usual = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    for python in (Path(sys.executable), usual):
        real = python.resolve()
        if real.exists() and all(at.stat().st_mode & stat.S_IXOTH for at in (real, *real.parents)):
            return str(python)
    return None


PYTHON = _for_everybody()
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or PYTHON is None,
    reason="only root can become another user, who has to be able to run Python",
)


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="rotator-narrow-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def narrow(everybodys: Path, rotator_command: Rotator) -> Rotator:
    """The command with one policy, in a directory that every user may enter."""
    rotator_command.directory = everybodys
    rotator_command.policies = everybodys / "policies"
    rotator_command.policies.mkdir()
    rotator_command.policy("edi", POLICY)
    rotator_command.environment["ROTATOR_LOG__FORMAT"] = "json"
    return rotator_command


def within(command: Rotator, *arguments: str, **limits: object) -> Started:
    """The command, started with less than usual."""
    given = [f"{name}={value}" for name, value in limits.items()]
    assert PYTHON is not None
    command.environment["PYTHONPATH"] += f":{PACKAGES}"
    command.program = (sys.executable, LIMITS, *given, "--", PYTHON, "-m", "rotator")
    return command.start(*arguments)


def kept_every_key(vault: VaultServer, mount: str, simulator: Running) -> bool:
    """Whether each key that was issued is the one that Vault shows, and ECGrid accepts that."""
    try:
        shown = vault.call("GET", f"{mount}/data/ecgrid/edi")["data"]["data"]["api_key"]
    except Exception:  # noqa: BLE001 - nothing is published
        return simulator.simulator.issued() == 0
    return bool(shown == simulator.simulator.api_key(5001))


def assert_done_or_said(done: Finished) -> None:
    """Exit 0, or 1 or 2 with one line that says why; no fault of the program."""
    assert "a fault of rotator" not in done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    if done.code:
        assert done.code in (1, 2)
        assert len(told) <= 1
        assert told or '"kind"' in done.stdout or '"error"' in done.stderr


# threads


@as_root
@pytest.mark.parametrize("most", [1, 2, 3, 4, 6, 8])
def test_a_rotation_is_done_or_not_begun_however_few_threads_there_may_be(
    narrow: Rotator, vault: VaultServer, mount: str, simulator: Running, most: int
) -> None:
    """What goes side by side goes one after another; nothing is issued that could not be kept."""
    done = within(narrow, "rotate", "edi", "--json", uid=next(USERS), nproc=most).finish()
    assert_done_or_said(done)
    assert kept_every_key(vault, mount, simulator)
    if most >= 2:
        assert done.json["summary"] == {"rotated": 1}
    else:
        assert "[system.NoThread]" in done.stderr


@as_root
@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6, 8])
def test_the_daemon_works_or_says_that_it_has_no_thread_and_ends_when_told(
    narrow: Rotator, vault: VaultServer, mount: str, simulator: Running, most: int
) -> None:
    """It is never silent for ever."""
    daemon = within(narrow, "run", uid=next(USERS), nproc=most)

    def is_decided() -> bool:
        return "daemon.ready" in daemon.so_far()[1] or daemon.process.poll() is not None

    until(is_decided, "it works, or ends")
    if daemon.process.poll() is None:
        until(lambda: "rotation.outcome" in daemon.so_far()[1], "it adopts")
        done = daemon.finish(send=signal.SIGTERM)
        assert done.code == 0
    else:
        done = daemon.finish()
        assert (done.code, "system.NoThread" in done.stderr) == (1, True)
        assert most < 6
    assert_done_or_said(done)
    assert kept_every_key(vault, mount, simulator)
