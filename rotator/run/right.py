"""The right to send an issuing request, as a run sees it: the fleet gives it, and may hold it back.

The rule: each issuing request takes the right anew, and says what came of it.

Keeps: never twice (3).
"""

from __future__ import annotations

from typing import Literal, Protocol

from rotator.errors import HeldBack
from rotator.journal import Record
from rotator.keys import Secret

For = Literal["begin", "again", "repair"]
Came = Literal["nothing", "lost", "key"]
# Kinds of what is held back.
BRAKED, MASS_DRIFT = "fleet.Braked", "fleet.MassDrift"


class Right(Protocol):
    """What a fleet lets one run ask ECGrid for: each issuing request needs the right anew."""

    def ask(self, what: For, record: Record) -> None:
        """Comes back with the right, at once if it is at hand; raises HeldBack, or Stopped at the tick's limit.

        `record` is what the run knows that others may not have read yet.
        """

    def spent(self, came: Came) -> None:
        """The request was sent: it is proved that nothing was made, its answer was lost, or there is a key."""

    def witness(self, user_id: int) -> Secret | None:
        """The published key, of another user, that was found well last; None if there is none, or none is needed."""

    def witness_refused(self) -> HeldBack:
        """What to raise when the witness is refused, too."""


class Free:
    """The right of a run that no fleet holds back."""

    def ask(self, what: For, record: Record) -> None:
        """See `Right.ask`."""

    def spent(self, came: Came) -> None:
        """See `Right.spent`."""

    def witness(self, user_id: int) -> Secret | None:
        """See `Right.witness`."""
        return None

    def witness_refused(self) -> HeldBack:
        """See `Right.witness_refused`."""
        return HeldBack("nothing is issued for drift", kind=MASS_DRIFT)
