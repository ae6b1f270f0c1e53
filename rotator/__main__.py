"""`python -m rotator` and the `rotator` command: the process is hardened before anything else is imported."""

from __future__ import annotations

import os
import sys
from types import TracebackType

_SET_DUMPABLE = 4  # prctl(2)
_SENTRY_SETTINGS = ("SENTRY_DSN", "SENTRY_ENVIRONMENT", "SENTRY_RELEASE")
# Variables by which a library takes orders that are ours to give: what it prints and sends, where it keeps files, whom
# it trusts, whether it draws in colour.
_OF_LIBRARIES = (
    "SSLKEYLOGFILE",
    "PYTHONASYNCIODEBUG",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "FORCE_COLOR",
    "PYTHON_COLORS",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "DATABRICKS_RUNTIME_VERSION",
)
_FAMILIES = ("PROMETHEUS_", "PYDANTIC_", "JUPYTER_")


def main() -> None:
    """Runs the command line in a process that leaves no traces: no core dump, no debugging aids, no exception texts."""
    _open_streams()
    _leave_no_memory()
    _drop_orders()
    _withhold_texts()
    if os.getpid() == 1:
        from rotator.init import watch_over

        watch_over()
    from rotator.cli import main as command

    command(prog_name="rotator")


def _open_streams() -> None:
    """A standard stream that is closed is as /dev/null; else the first file that is opened would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as the interpreter does
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - the same
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - the same


def _leave_no_memory() -> None:
    """No core dump, and no look into this process for others of the same user; where the system has such a thing."""
    if sys.platform != "linux":
        return
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _drop_orders() -> None:
    for name in list(os.environ):
        of_sentry = (
            name.startswith("SENTRY_") and name.removesuffix("_FILE") not in _SENTRY_SETTINGS
        )
        if of_sentry or name in _OF_LIBRARIES or name.upper().startswith(_FAMILIES):
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
