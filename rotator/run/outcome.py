"""What came of a run, for its result: a word, versions that were written, keys that were ended, warnings.

The rule: the word is that of a rotation that was settled, else of the first thing that was done.

Keeps: never silent (4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rotator.policy import Destination

# What a result says was done, or why nothing was.
Word = Literal[
    "rotated",
    "rolled-back",
    "adopted",
    "repaired",
    "retired",
    "unchanged",
    "not-due",
    "would-rotate",
    "busy",
    "failed",
]


@dataclass
class Outcome:
    """As far as the run has come."""

    # None: nothing was changed.
    word: Word | None = None
    # The run began a rotation, issued for it and settled it.
    answered: bool = False
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    # Ids of keys.
    ended: list[int | None] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def settled(self, word: Word, *, answers: bool = False) -> None:
        """A rotation was settled: that is the word, whatever was done before; `answers`: nothing more is wanted."""
        self.word, self.answered = word, self.answered or answers

    def did(self, word: Word) -> None:
        """Something else was done: the word, unless there is one."""
        self.word = self.word or word

    def has_ended(self, key_id: int) -> None:
        """A key was ended."""
        self.ended.append(key_id)
        self.did("retired")

    def shows(self, to: Destination, version: int) -> None:
        """That version of a destination is, or would be, this run's."""
        self.versions[to.mount, to.path] = version

    def warn(self, text: str) -> None:
        """A text for the result; once."""
        if text not in self.warnings:
            self.warnings.append(text)
