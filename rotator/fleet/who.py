"""Who gave the command, as far as the system tells: for claims, the history and the log."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

from rotator.letters import visible

# The login of a process that nobody logged in for: a service, a pod.
UNSET = 2**32 - 1
LONGEST = 64


def who(service_account: Path) -> str:
    """The person, the user that the process runs as, and where; `service_account` is the file of a pod's token."""
    runs_as = _name(os.getuid())
    person = _logged_in() or os.environ.get("SUDO_USER") or runs_as
    as_whom = person if person == runs_as else f"{person} as {runs_as}"
    return f"{visible(as_whom)[:LONGEST]} at {_where(service_account)}:{os.getpid()}"


def _where(service_account: Path) -> str:
    """The host; in Kubernetes that is the pod, which bears its job's name, after its namespace."""
    host = socket.gethostname()
    try:
        namespace = service_account.with_name("namespace").read_text("utf-8").strip()
    except (OSError, ValueError):
        return host
    return f"{visible(namespace)[:LONGEST]}/{host}"


def _logged_in() -> str | None:
    """Who logged in, whatever user that became since; None if the kernel does not tell."""
    try:
        number = int(Path("/proc/self/loginuid").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return None if number == UNSET else _name(number)


def _name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"
