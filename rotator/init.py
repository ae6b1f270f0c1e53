"""What the first process of a container owes the others: children that somebody left behind are its own to bury.

A hook may leave some. So the first process does nothing but that, and hands every signal on to the command, which is
its child and has all else to itself.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

_HANDED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def watch_over() -> None:
    """Returns in a child; the process itself ends as that child does. To be called before there are any threads."""
    awaited = {*_HANDED_ON, signal.SIGCHLD}
    # None is lost on the way.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        number = signal.sigwait(awaited)
        if number != signal.SIGCHLD:
            with suppress(ProcessLookupError):
                os.kill(child, number)
        elif (code := _bury(child)) is not None:
            os._exit(code)


def _bury(child: int) -> int | None:
    """Takes note of every child that has ended; the exit code if the one is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended
