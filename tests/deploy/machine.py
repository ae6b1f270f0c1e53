"""A machine with a real systemd, in namespaces of its own, over a throw-away layer on this machine's files.

It shares this machine's network, so that it reaches what a test serves on loopback. Needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Self

from conftest import until

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHECKOUT = "/srv/rotator"  # where this checkout is in the machine; what is written there is thrown away with it
GROUPS = Path("/sys/fs/cgroup")
MANAGER_ENDS = signal.SIGRTMIN + 4  # what systemd takes for "power off"


def install(where: Path) -> Path:
    """The wheel's content and its locked dependencies for Debian's Python, as if it were installed in /opt/rotator.

    Only there: the directory that is returned is bound to that path when pip runs, and later in the machine.
    """
    source, installed = where / "source", where / "installed"
    installed.mkdir(parents=True)
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, source, ignore=left_out)
    steps = """
        mount --make-rprivate /
        mkdir -p "$0/upper" "$0/work"
        mount -t overlay -o "lowerdir=/opt,upperdir=$0/upper,workdir=$0/work" overlay /opt
        mkdir -p /opt/rotator
        mount --bind "$1" /opt/rotator
        /usr/bin/python3 -m venv --without-pip /opt/rotator
        pip() { "$3" -m pip --python /opt/rotator/bin/python --quiet "$@"; }
    """
    # The build backend is locked with what developers use, and is no part of the installation.
    steps += """
        "$3" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$0" "$2"
        "$3" -m pip --python /opt/rotator/bin/python install --quiet --require-hashes -r "$2/requirements/run.txt"
        "$3" -m pip --python /opt/rotator/bin/python install --quiet --no-deps --no-index "$0"/rotator-*.whl
    """
    arguments = [str(where), str(installed), str(source), sys.executable]
    command = ["unshare", "--mount", "bash", "-euc", steps, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return installed


class Machine:
    """A booted machine. A context manager; `close` powers it off."""

    def __init__(self, where: Path, installed: Path) -> None:
        where.mkdir()
        self._groups = _control_groups(f"rotator-test-{os.getpid()}-{where.name}")
        for group in self._groups:
            group.mkdir()
        enter = "".join(f"echo $$ > '{group}/cgroup.procs'\n" for group in self._groups)
        unshare = "exec unshare --kill-child -m -p -C -u -i --fork bash"
        script = f"{enter}{unshare} '{HERE / 'boot.sh'}' '{where}' '{installed}' '{ROOT}'"
        with (where / "boot.log").open("wb") as log:
            self._shell = subprocess.Popen(
                ["bash", "-euc", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._pid = int(until(self._first_process, "the first process starts"))
            until(self._is_up, "systemd is up", 120)
        except BaseException:
            sys.stderr.write((where / "boot.log").read_text())
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _first_process(self) -> str:
        path = Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children")
        assert self._shell.poll() is None, "it ended at once"
        return path.read_text().strip()

    def _is_up(self) -> bool:
        return self("systemctl", "is-active", "test.target", check=False).strip() == "active"

    def path(self, inside: str) -> Path:
        """Where this machine sees a file of the other one."""
        return Path(f"/proc/{self._pid}/root") / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Writes a file there, and its directories."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(mode)
        path.write_text(text)

    def __call__(self, *command: str, check: bool = True, timeout: float = 300.0) -> str:
        """Runs a command there, as root, to its end; its output, stderr included."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-p", "-C", "-u", "-i", "-r", "-w", "--"]
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_COLORS": "0", "LANG": "C.UTF-8"}
        done = subprocess.run(
            [*enter, *command],
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0 or not check, (
            f"{command}: {done.stdout}\n{self.journal()[-4000:]}"
        )
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self("systemctl", "show", unit, f"--property={name}", "--value").strip()

    def journal(self, *options: str) -> str:
        """What was logged."""
        return self("journalctl", "--no-pager", "--output=cat", *options, check=False)

    def close(self) -> None:
        """Powers off, by force if it takes longer than a minute; may be called twice."""
        if self._shell.poll() is None and hasattr(self, "_pid"):
            os.kill(self._pid, MANAGER_ENDS)
        try:
            self._shell.wait(60)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait()
        for group in self._groups:
            until(partial(_is_removed, group), f"{group} is empty")


def _is_removed(group: Path) -> bool:
    """Removes a control group and those within it; False while a process in one of them has not ended yet."""
    try:
        for folder in sorted([*group.rglob("*/"), group], reverse=True):
            if folder.is_dir():
                folder.rmdir()
    except OSError:
        return False
    return True


def _control_groups(name: str) -> list[Path]:
    """A group of that name in each hierarchy that the machine gets."""
    if (GROUPS / "cgroup.procs").exists():
        return [GROUPS / name]
    mine = Path("/proc/self/cgroup").read_text()
    groups = [GROUPS / "unified" / name]
    for controller in ("name=systemd", "memory", "pids"):
        match = re.search(rf"^\d+:{controller}:(.*)$", mine, re.MULTILINE)
        above = match[1].strip("/") if match else ""
        groups.append(GROUPS / controller.removeprefix("name=") / above / name)
    return groups
