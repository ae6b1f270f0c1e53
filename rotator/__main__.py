"""`python -m rotator` and the `rotator` command: the process is hardened before anything else is imported."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from rotator.secrecy import process


def main() -> None:
    """Runs the command line in a process that leaves no traces: no core dump, no debugging aids, no exception texts."""
    _open_streams()
    process.leave_no_memory()
    process.drop_orders()
    process.withhold_texts()
    if os.getpid() == 1:
        from rotator.init import watch_over

        watch_over()
    # What a command loads lives as long as the process; `exits` of `cli.common` turns it on again.
    gc.disable()
    # Nor is there anything to look through when it ends.
    atexit.register(gc.freeze)
    from rotator.cli import main as command

    command(prog_name="rotator")


def _open_streams() -> None:
    """A standard stream that is closed is as /dev/null; else the first file that is opened would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Takes the lowest number that is free: this one.
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as the interpreter does
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - the same
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - the same


if __name__ == "__main__":
    main()
