"""`python -m rotator` and the `rotator` command: the process is hardened before anything else is imported."""

from __future__ import annotations

import os
import sys
from types import TracebackType

_SET_DUMPABLE = 4  # prctl(2)
_SENTRY_SETTINGS = ("SENTRY_DSN", "SENTRY_ENVIRONMENT", "SENTRY_RELEASE")
# What makes a library print or send more than it is told to; read when it is imported, or later.
_DEBUGGING = ("SSLKEYLOGFILE", "PYTHONASYNCIODEBUG")


def main() -> None:
    """Runs the command line in a process that leaves no traces: no core dump, no debugging aids, no exception texts."""
    _leave_no_memory()
    _drop_debugging()
    _withhold_texts()
    from rotator.cli import main as command

    command(prog_name="rotator")


def _leave_no_memory() -> None:
    """No core dump, and no look into this process for others of the same user; where the system has such a thing."""
    if sys.platform != "linux":
        return
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _drop_debugging() -> None:
    for name in list(os.environ):
        of_sentry = (
            name.startswith("SENTRY_") and name.removesuffix("_FILE") not in _SENTRY_SETTINGS
        )
        if of_sentry or name in _DEBUGGING:
            del os.environ[name]


def _withhold_texts() -> None:
    """An exception that nobody catches is told by class and place, wherever it ends: its text may quote anything."""
    sys.excepthook = lambda kind, _, traceback: _tell(kind, traceback)
    sys.unraisablehook = lambda args: _tell(args.exc_type, args.exc_traceback)
    import threading

    threading.excepthook = lambda args: _tell(args.exc_type, args.exc_traceback)


def _tell(kind: type[BaseException], traceback: TracebackType | None) -> None:
    if issubclass(kind, SystemExit):
        return
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = "an unknown place"
    if traceback is not None:
        place = (
            f"{traceback.tb_frame.f_code.co_filename.rpartition(os.sep)[2]}:{traceback.tb_lineno}"
        )
    sys.stderr.write(f"error: {kind.__name__} at {place}; its details are withheld\n")


if __name__ == "__main__":
    main()
