"""What a run holds in memory of the rotation that is open under its claim: one of five things, and nothing beside it.

    Nothing -> Unseen -> Unproved -> Proved -> Shown

The rules: only memory holds it, so a run that takes a rotation over makes it anew from the record and from what is
staged; and a key that this run issued and has not shown is never forgotten, even if its fence is lost.

Keeps: never lost (1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, assert_never

from rotator.keys import ApiKey, Seen

# How a key came to hand: by the answer to a request of this run; by another request of its rotation, whose answer this
# run does not have; or it was there before.
Came = Literal["answered", "made", "found"]


class Nothing(NamedTuple):
    """No key, and none can be there unseen: one is to be found, or issued.

    `asked`: an earlier request of the rotation may have been carried out, and was looked for. `counted`: the next one
    is counted as one beyond the schedule. `seen`: what ECGrid told of the user's keys just before the claim, if asked.
    """

    asked: bool = False
    counted: bool = False
    seen: tuple[Seen, ...] | None = None


@dataclass(frozen=True)
class Unseen:
    """An issuing request may have been carried out, and nobody has looked for its key."""


@dataclass(frozen=True)
class _Key:
    key: ApiKey
    came: Came
    # It was read back with the key itself.
    by_owner: bool = False


class Unproved(_Key):
    """A key whose value is known, and nothing else of it for sure."""


class Proved(_Key):
    """A key that ECGrid accepts and shows as this user's, and that is not lost with this process."""


class Shown(_Key):
    """A key that the first destination shows: only settling is left."""


Known = Unproved | Proved | Shown
Hand = Nothing | Unseen | Known


class Orphan(NamedTuple):
    """A key that this run issued under a fence that it lost, and the rotation that it was issued for."""

    key: ApiKey
    of: str | None


def may_have_asked(hand: Hand) -> bool:
    """Whether an issuing request of the rotation can have been carried out."""
    match hand:
        case Nothing():
            return hand.asked
        case Unseen():
            return True
        case Unproved() | Proved() | Shown():
            return hand.came != "found"
        case _:
            assert_never(hand)


def is_counted(hand: Hand) -> bool:
    """Whether the issuing request that comes next is counted as one beyond the schedule."""
    return isinstance(hand, Nothing) and hand.counted


class Holding:
    """What one run has in hand."""

    def __init__(self) -> None:
        self.hand: Hand = Nothing()
        self.orphan: Orphan | None = None
        # The rotation that this run began last.
        self.began: str | None = None

    def begin(self, rotation: str) -> None:
        """This run has begun that rotation."""
        self.began = rotation

    def take(self, hand: Hand) -> None:
        """From here on it has that in hand."""
        self.hand = hand

    def let_go(self) -> None:
        """The rotation that was open is out of mind: it is settled, or another run's."""
        self.hand = Nothing()

    def set_aside(self, rotation: str | None) -> None:
        """The same for a rotation that was lost to others; a key that this run issued for it is an orphan."""
        if isinstance(self.hand, Unproved | Proved) and self.hand.came == "answered":
            self.orphan = Orphan(self.hand.key, rotation)
        self.let_go()

    def key_for(self, rotation: str) -> ApiKey | None:
        """The key that this run issued for that rotation, under a fence that it lost."""
        orphan = self.orphan
        return orphan.key if orphan is not None and orphan.of == rotation else None

    def without_orphan(self) -> None:
        """What becomes of the orphan is known."""
        self.orphan = None
