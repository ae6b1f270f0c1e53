"""Runs a command with less than usual: `python tests/limits.py [uid=N] [nproc=N] [nofile=N] [close=1,2]
[group=DIRECTORY] -- COMMAND`.

Between fork and exec a test with threads could not do this; here nothing runs beside it.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

LIMITS = {"nproc": resource.RLIMIT_NPROC, "nofile": resource.RLIMIT_NOFILE}


def main() -> None:
    """Takes away what is named, then becomes the command."""
    split = sys.argv.index("--")
    given = dict(word.split("=") for word in sys.argv[1:split])
    for name, value in given.items():
        if name in LIMITS:
            resource.setrlimit(LIMITS[name], (int(value), int(value)))
    if "group" in given:  # of processes: what it may have is written there
        Path(given["group"], "cgroup.procs").write_text(str(os.getpid()))
    if "uid" in given:
        os.setgroups([])
        os.setgid(int(given["uid"]))
        os.setuid(int(given["uid"]))
    for number in filter(None, given.get("close", "").split(",")):
        os.close(int(number))
    os.execv(sys.argv[split + 1], sys.argv[split + 1 :])  # noqa: S606 - no shell is what is wanted


main()
