"""Whether the policy files have changed: also by the symlink swap of a mounted ConfigMap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rotator.policy.document import files


class Watched:
    """The policy files as they were seen last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._picture()

    def changed(self) -> bool:
        """Whether anything is different from the last time that this was asked."""
        before, self._seen = self._seen, self._picture()
        return before != self._seen

    def _picture(self) -> int:
        """A hash of what a change cannot leave as it is: names, and the files behind them (links are followed)."""
        return hash(tuple(self._states()))

    def _states(self) -> Iterator[tuple[str, int, int, int, int]]:
        for file in files(self._path, []):
            try:
                state = os.stat(file)  # noqa: PTH116 - see `files`
            except OSError:
                continue
            yield file, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
