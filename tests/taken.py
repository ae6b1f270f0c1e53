"""Runs the command, which at SIGUSR2 may open no more files and start no thread: `python tests/taken.py ARGUMENTS`."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

from rotator.__main__ import main


def take_away(*_: object) -> None:
    """What is open stays open."""
    most = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))


signal.signal(signal.SIGUSR2, take_away)
main()
