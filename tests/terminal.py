"""A command at a terminal, and what that shows."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from conftest import Rotator


@contextmanager
def at_a_terminal(
    command: Rotator, *arguments: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command whose stdout and stderr are a terminal, and the end of it that shows them; killed at the end."""
    screen, side = pty.openpty()
    process = subprocess.Popen(
        [*command.program, *arguments],
        cwd=command.directory,
        env={**command.environment, "TERM": "xterm-256color", **environment},
        stdin=subprocess.DEVNULL,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    try:
        yield process, screen
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def shown_on(screen: int, text: str | None = None) -> str:
    """What a terminal shows until that is among it, or else until its last writer has closed it."""
    shown = b""
    while text is None or text.encode() not in shown:
        assert select.select([screen], [], [], 120)[0], shown
        more = b""
        with suppress(OSError):  # the last writer has closed it
            more = os.read(screen, 65536)
        if not more:
            assert text is None, shown
            break
        shown += more
    return shown.decode(errors="replace")
