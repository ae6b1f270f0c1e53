"""The process leaves no traces: no core dump, no debugging aids, no texts of exceptions.

`rotator.__main__` calls this before anything else is imported. So nothing of ours may be imported here.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType

# Prctl(2).
_SET_DUMPABLE = 4
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


def leave_no_memory() -> None:
    """No core dump, and no look into this process for others of the same user; where the system has such a thing."""
    if sys.platform != "linux":
        return
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def drop_orders() -> None:
    """Takes out of the environment whatever would have a library print, send or keep what is not to be shown.

    Nor does pydantic look through every package for plugins: they would be shown each value that it reads.
    """
    for name in list(os.environ):
        of_sentry = (
            name.startswith("SENTRY_") and name.removesuffix("_FILE") not in _SENTRY_SETTINGS
        )
        if of_sentry or name in _OF_LIBRARIES or name.upper().startswith(_FAMILIES):
            del os.environ[name]
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"


def withhold_texts() -> None:
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
