"""KV v2 as the rotator needs it: documents with versions, written by check-and-set only.

`KV` has two implementations: `rotator.vault.connection.Server` speaks to Vault or OpenBao, and an in-memory one
serves the interleaving tests. One contract suite runs against both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from rotator.errors import HeldBack, Transient


class At(NamedTuple):
    """Where a document is: a KV v2 mount and a path below it."""

    mount: str
    path: str

    def __str__(self) -> str:
        return f"{self.mount}/{self.path}"


@dataclass(frozen=True)
class Document:
    """One version of a document; `data` may hold secrets and so is in no repr."""

    data: dict[str, Any] = field(repr=False)
    version: int
    custom: dict[str, str] = field(default_factory=dict)


class StaleRead(Transient):
    """A standby answered with an older version than this process has written; `document` is what it showed."""

    kind = "vault.StaleRead"

    def __init__(self, place: At, document: Document | None) -> None:
        super().__init__(
            f"Vault shows an older version of {place} than this process has written: a standby lags, "
            "or Vault was restored from a backup"
        )
        self.at, self.document = place, document


class TimeInDoubt(HeldBack, Transient):
    """Vault has told a time that is not confirmed: until it is, nothing is claimed."""

    kind = "vault.TimeInDoubt"

    def __init__(self, skew: float) -> None:
        by = timedelta(seconds=round(abs(skew)))
        super().__init__(
            f"Vault's answers tell a time that has leapt, and differs from this machine's clock by {by}, and Vault's "
            "sys/health does not confirm it: nothing is issued, retired or taken over until they agree. Set the clocks "
            "of Vault's nodes and of this machine right, and see that sys/health can be asked"
        )


class KV(Protocol):
    """A KV v2 store; every method may raise Transient, Permanent or one of their kinds."""

    def now(self) -> datetime:
        """The server's time, from its latest answer; it never runs backwards but by a leap that was confirmed."""

    def sure_of_time(self) -> None:
        """Raises TimeInDoubt while the server has told a time that it does not confirm."""

    def read(self, place: At, version: int | None = None) -> Document | None:
        """The latest version, or that one. None if there never was one.

        Raises Gone if it was deleted or destroyed, StaleRead if a standby answered with an older version than this
        process has written.
        """

    def write(self, place: At, data: dict[str, Any], cas: int) -> int:
        """Writes the next version if the latest is `cas` (0: none) and returns its number.

        Raises Mismatch if it is not; AnswerLost if the write may have been carried out.
        """

    def destroy(self, place: At) -> None:
        """Removes all versions and the metadata; nothing happens if there are none."""

    def annotate(self, place: At, custom: dict[str, str]) -> None:
        """Merges `custom` into the custom metadata."""

    def forget(self, place: At) -> None:
        """Lets older versions of that document count again than this process has written."""

    def names(self, place: At) -> list[str]:
        """The names directly below that path, without folders."""

    def missing(self, needs: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """Which capabilities are missing, by API path; those that are not listed are there."""

    def outlast(self, seconds: float) -> None:
        """Makes sure that the login lives at least so long, and has uses enough for a rotation: renews or replaces it.

        Raises Permanent (`vault.TokenExpires`, `vault.TokenUses`) if neither is possible.
        """
