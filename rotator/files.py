"""Open files, where there may be few: a limit on them (`ulimit -n`, LimitNOFILE=) must cost no key.

What is past the point of no return may not fail for want of a file. So no more rotations go at once than there are
files for, and none begins where there are too few for one.
"""

from __future__ import annotations

import errno
import resource

from rotator.errors import Failure

# Files of a process that no rotation has: streams, who listens and who asks, the look round.
BESIDE = 7
# Connections of one rotation: to issue, to read, to probe, to stage, to the record.
EACH = 5
NO_MORE = (
    "this process may open no more files. Raise its limit (`ulimit -n`, LimitNOFILE= of the unit)"
)
KIND = "system.NoFile"


def out_of_files(error: BaseException | None) -> bool:
    """Whether that is what an error came of."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        # The loader of a library only has words for it.
        loading = isinstance(error, ImportError) and f"Error {errno.EMFILE}" in str(error)
        if loading or number in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ or error.__context__
    return False


def at_once(wanted: int) -> int:
    """How many of so many rotations may go at once; at least one."""
    return max(1, min(wanted, (_most() - BESIDE) // EACH))


def require() -> None:
    """Raises Failure (`system.NoFile`) if there are too few files for a rotation."""
    if _most() < BESIDE + EACH:
        raise Failure(
            f"this process may open {_most()} files, and a rotation takes {BESIDE + EACH}. Raise its limit "
            "(`ulimit -n`, LimitNOFILE= of the unit). Nothing was issued",
            kind=KIND,
        )


def _most() -> int:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 30 if most == resource.RLIM_INFINITY else most
