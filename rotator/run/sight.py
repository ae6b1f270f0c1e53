"""What a run has seen in Vault, as it read or wrote it last: the record, what is staged, what destinations show.

The rules: every change of the record is a check-and-set on the version that was seen, which only one run can win; and
what was seen counts until something changes it, or a lost fence makes all of it be read anew.

Keeps: never twice (3), truth is outside (6).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from rotator.due import Order, depends_on_shown
from rotator.errors import Gone, Permanent
from rotator.journal import Failed, Record, gist
from rotator.keys import ApiKey, Secret
from rotator.policy import Destination, Policy
from rotator.run.deadline import Patience
from rotator.run.needs import World
from rotator.vault import At, Published, Staged, StaleRead, Stored

# What this run knows of whether Vault holds what ECGrid accepts: nothing; that it is to be looked at, whatever was
# ordered; it has looked; it does not, so that a repair is wanted.
Sync = Literal["unknown", "doubted", "looked", "drifted"]


class Sight:
    """What one run over one policy has seen."""

    def __init__(
        self,
        policy: Policy,
        order: Order,
        world: World,
        patiently: Patience,
        warn: Callable[[str], None],
    ) -> None:
        """`warn` takes a text for the result."""
        self._policy, self._order, self._world = policy, order, world
        self._patiently, self._warn = patiently, warn
        # The record; None: to be read, or to be read anew.
        self.stored: Stored | None = None
        # As Vault has it, as far as this run knows.
        self._kept: Stored | None = None
        self.staged: Staged | None = None
        # A read that lagged behind this process to the end.
        self.stale: StaleRead | None = None
        # What the record told of when this run came.
        self.failing: Failed | None = None
        self.sync: Sync = "unknown"
        self._shown: dict[Destination, Published | None] = {}

    # the record

    @property
    def record(self) -> Record:
        """The record as last read or written; a new one as long as none was read."""
        return self.stored.record if self.stored else Record.new(self._policy.name)

    @property
    def _version(self) -> int:
        return self.stored.version if self.stored else 0

    def read(self) -> None:
        """Reads what is recorded, and forgets what was seen before."""
        name = self._policy.name
        self._shown.clear()
        self._kept = self._record() or Stored(Record.new(name), 0)
        self.stored = self._ours(self._kept)
        if self.stored.ahead:
            self._warn(
                f"a time in the record is {self.stored.ahead} ahead of Vault: it counts as now"
            )
        self.failing = self.failing or self.record.failed
        self.staged = None
        if self.record.underway is not None:
            self.look_at_staged()
        now = self._world.vault.now()
        if depends_on_shown(self._policy, self.record, self._order, now):
            self.at(self._policy.destinations[0])

    def _ours(self, stored: Stored) -> Stored:
        """The record; a new start where it is about another ECGrid, whose keys it speaks of."""
        record = stored.record
        if stored.version == 0 or self._world.whose.is_ours(record.ecgrid):
            return stored
        dropped = ", ".join(str(debt.key_id) for debt in record.retiring) or "none"
        self._warn(
            "the record is about another ECGrid, and this is a new start: what it knew of keys there is forgotten "
            f"(still to be retired there: {dropped})"
        )
        new = Record.new(record.policy)
        return Stored(new.change(claim=record.claim, hold=record.hold), stored.version)

    def _record(self) -> Stored | None:
        """The record; one that was deleted is not one that never was, and only `adopt` builds it anew."""
        try:
            return self._patiently(lambda: self._world.vault.record(self._policy.name))
        except Gone as error:
            if self._order.what != "adopt":
                raise
            gone = error
        self._warn(
            "the record was deleted and is built anew: keys that were to be retired are forgotten"
        )
        return Stored(Record.new(self._policy.name), gone.version)

    def overtaken(self) -> None:
        """All of it is to be read anew."""
        self.stored = None

    def believe(self, stored: Stored) -> None:
        """That is the record, although it is older than one that was written."""
        self.stored = self._kept = stored

    def lagged(self, stale: StaleRead | None) -> None:
        """A read that stayed stale to the end; None: what it means was found out."""
        self.stale = stale

    def note(self, record: Record) -> None:
        """Changes the record in memory only; it is written with the next change that is."""
        self.stored = Stored(record, self._version)

    def write(self, record: Record) -> None:
        """Writes the record over what was seen; raises FenceLost if it is another one by now."""
        record = record.change(
            nonce=secrets.token_hex(8), ecgrid=self._world.whose.mark() or record.ecgrid
        )
        over = self._version

        def save() -> Stored:
            self._lower_before(record)
            return self._world.vault.save(record, over)

        self.stored = self._kept = self._patiently(save)

    def _lower_before(self, record: Record) -> None:
        """Before `status` is to tell something else, the due index vouches no more for what it has told.

        Who may not write there notes it in the record all the same.
        """
        before = self._kept
        vouched = gist.of(before.record) if before else None
        if (before is not None and before.ahead) or vouched not in (None, gist.of(record)):
            with suppress(Permanent):
                self._world.lower()

    @property
    def is_written(self) -> bool:
        """Whether Vault has the record as it is here: nothing was noted that is not written."""
        return self.stored is not None and self.stored is self._kept

    # what is staged

    def look_at_staged(self) -> Staged | None:
        """What is staged now."""
        vault, name = self._world.vault, self._policy.name
        self.staged = self._patiently(lambda: vault.staged(name))
        return self.staged

    def stage(self, run: str, holder: str, key: ApiKey | None, until: float | None = None) -> None:
        """Stages a key of that rotation, or that there is none, over what was seen; patient `until` then.

        Raises FenceLost if something else is staged by now.
        """
        vault, name, over = (
            self._world.vault,
            self._policy.name,
            self.staged.version if self.staged else 0,
        )
        self.staged = self._patiently(
            lambda: vault.stage(name, run, holder, key, over), until=until
        )

    def nothing_staged(self) -> None:
        """What was staged is destroyed."""
        self.staged = None

    # the destinations

    def at(self, to: Destination) -> Published | None:
        """What a destination shows, read once until something changes it."""
        if to not in self._shown:
            self._shown[to] = self._published(to)
        return self._shown[to]

    def last_at(self, to: Destination) -> Published | None:
        """What a destination showed when it was read last; asks nobody."""
        return self._shown.get(to)

    def _published(self, to: Destination) -> Published | None:
        place, gone = At(to.mount, to.path), None
        try:
            return self._patiently(lambda: self._world.vault.published(to))
        except Gone as error:
            gone = error
        if self._order.what == "adopt":
            return Published.nothing(place, gone.version)
        nothing = "" if self.record.underway else ". Nothing was issued"
        raise Gone(
            f"the secret {place} was deleted in Vault (version {gone.version}). Undelete that version, or publish the "
            f"present key there again by `rotator adopt {self._policy.name}`{nothing}",
            version=gone.version,
        )

    def again_at(self, to: Destination) -> Published | None:
        """What a destination shows now."""
        self._shown.pop(to, None)
        return self.at(to)

    def value_again_at(self, to: Destination) -> Secret | None:
        """The value that a destination shows now."""
        document = self.again_at(to)
        return document.value if document is not None else None

    def value_at(self, to: Destination) -> Secret | None:
        """The value that a destination shows."""
        document = self.at(to)
        return document.value if document is not None else None

    def covers(self, key: Secret, to: Destination) -> bool:
        """Whether a destination shows that value."""
        return self.value_at(to) == key

    def lags(self, to: Destination) -> bool:
        """Whether a destination shows an older version than the record says was written there."""
        document = self.at(to)
        written = [
            place.version or 0
            for place in self.record.places
            if (place.mount, place.path) == (to.mount, to.path)
        ]
        return (document.version if document else 0) < max(written, default=0)

    # whether Vault holds what ECGrid accepts

    def doubt(self) -> None:
        """It is to be looked at, whatever was ordered."""
        self.sync = "doubted"

    def looked(self) -> None:
        """It was looked at, and nothing is to be mended."""
        self.sync = "looked"

    def drifted(self) -> None:
        """It does not: a repair is wanted."""
        self.sync = "drifted"
