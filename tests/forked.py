"""Commands that begin in the middle: a process of their own each, forked from one that has read the program already.

Most of what a command costs is the reading of the program and of its libraries. Here that is paid once for many
commands. All else is as it is when Python starts one: its own process, environment, directory and streams, signals as
they are by default, `rotator/__main__.py` run as `python -m rotator` runs it, and Python's own end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

PROGRAM = (sys.executable, "-m", "rotator")
_LONGEST = 200_000  # bytes of an order: a message between sockets is whole or not at all


class Forked:
    """One such command, with those methods of subprocess.Popen that tests use."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self.returncode: int | None = None
        pid = self._hear(60)
        assert pid is not None, "the command was not forked within a minute"
        self.pid = pid

    def poll(self) -> int | None:
        """The exit code, or the negative signal; None while it runs."""
        if self.returncode is None:
            self._end(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended; raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._end(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("rotator", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Does nothing if it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it without mercy."""
        self.send_signal(signal.SIGKILL)

    def _end(self, timeout: float | None) -> None:
        self.returncode = self._hear(timeout)
        if self.returncode is not None:
            self._told.close()

    def _hear(self, timeout: float | None) -> int | None:
        self._told.settimeout(timeout)
        try:
            heard = self._told.recv(32)
        except (TimeoutError, BlockingIOError):
            return None
        assert heard, (
            "the process that commands are forked from has ended; what it said is on stderr"
        )
        return int(heard)


class Nursery:
    """The processes that commands are forked from: one for each environment that a test begins with."""

    def __init__(self) -> None:
        self._usual: list[dict[str, str]] = []
        self._processes: dict[int, tuple[socket.socket, subprocess.Popen[bytes]]] = {}
        self._lock = threading.Lock()

    def expect(self, environment: Mapping[str, str]) -> None:
        """What commands are given before a test changes anything. There are few such environments."""
        with self._lock:
            if (early := _read_early(environment)) not in self._usual:
                self._usual.append(early)

    def start(
        self,
        command: list[str],
        directory: Path,
        environment: Mapping[str, str],
        out: IO[bytes],
        err: IO[bytes],
    ) -> Forked | None:
        """Starts one in that directory; None if it is no command of ours, or nobody expected that environment.

        What the rotator reads for itself may differ: it reads that when it runs, a library when it is loaded.
        """
        early = _read_early(environment)
        if tuple(command[: len(PROGRAM)]) != PROGRAM or early not in self._usual:
            return None
        number = self._usual.index(early)
        with self._lock:
            if number not in self._processes:
                self._processes[number] = self._begin(early)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        order = json.dumps([command[len(PROGRAM) :], str(directory), dict(environment)]).encode()
        assert len(order) < _LONGEST
        with theirs:
            orders, _ = self._processes[number]
            socket.send_fds(orders, [order], [theirs.fileno(), out.fileno(), err.fileno()])
        return Forked(ours)

    def _begin(self, environment: dict[str, str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        return ours, process

    def close(self) -> None:
        """No more commands; those that run go on."""
        for orders, process in self._processes.values():
            orders.close()
            process.wait(60)


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    late = ("VAULT_ADDR", "VAULT_TOKEN")
    return {
        name: value
        for name, value in environment.items()
        if name not in late and not name.startswith("ROTATOR_")
    }


def _serve(orders: socket.socket) -> None:
    """Forks whatever is asked for; returns in each process that is to become a command."""
    import rotator

    for module in pkgutil.walk_packages(rotator.__path__, "rotator."):
        if module.name != "rotator.__main__" and ".sandbox" not in module.name:
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # else the collector writes to every page that is shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that watch
    while True:
        order, given, _, _ = socket.recv_fds(orders, _LONGEST, 3)
        if not order:
            os._exit(0)
        if os.fork() == 0:
            orders.close()
            if _is_command(socket.socket(fileno=given[0])):
                _become(json.loads(order), given[1:])
                return
        for number in given:
            os.close(number)


def _is_command(tell: socket.socket) -> bool:
    """Forks once more: true in the command; the other tells its number, waits for its end and tells that."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    command = os.fork()
    if command == 0:
        tell.close()
        return True
    tell.send(str(command).encode())
    _, status = os.waitpid(command, 0)
    with suppress(BrokenPipeError):
        tell.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(order: tuple[list[str], str, dict[str, str]], streams: list[int]) -> None:
    arguments, directory, environment = order
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.path[0] = directory
    sys.argv[1:] = arguments
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("rotator", run_name="__main__", alter_sys=True)
