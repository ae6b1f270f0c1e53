"""The fence: nobody issues, publishes or retires unless its claim, in the record, outlives the request.

The rules: the time that the claim lasts counts from before the write that took it; a claim that may be another's counts
as none until a check-and-set has renewed it; and what is given back is given back with the last change.

Keeps: never twice (3).
"""

from __future__ import annotations

from datetime import timedelta

from rotator.errors import FenceLost
from rotator.journal import Claim, Record
from rotator.run.deadline import Patience
from rotator.run.needs import World
from rotator.run.sight import Sight

# Seconds of the claim that are never used: Vault's clock tells whole seconds.
MARGIN = 1.0


class Fence:
    """The claim of one run, as far as it has one."""

    def __init__(self, holder: str, world: World, sight: Sight, patiently: Patience) -> None:
        """`holder` names the run."""
        self._holder, self._world = holder, world
        self._sight, self._patiently = sight, patiently
        # (boot clock) while it is this run's; None: not for sure.
        self.until: float | None = None

    @property
    def mine(self) -> bool:
        """Whether this run holds the claim."""
        claim = self._sight.record.claim
        return self.until is not None and claim is not None and claim.holder == self._holder

    @property
    def others(self) -> Claim | None:
        """The claim of another run, while it holds: what needs one is that run's to do."""
        return self._sight.record.claimed_by_other(self._holder, self._world.vault.now())

    def save(self, record: Record) -> None:
        """Writes the record under this run's claim, which is thereby renewed; raises FenceLost."""
        self._patiently(self._world.hold)
        began = self._world.clock.boot()
        until = self._world.vault.now() + timedelta(seconds=self._world.claim_ttl)
        self._sight.write(
            record.change(claim=Claim(holder=self._holder, by=self._world.who, until=until))
        )
        self.until = began + self._world.claim_ttl

    def give_back(self, record: Record) -> None:
        """Writes the record and gives the claim back with it; raises FenceLost."""
        self._sight.write(record.change(claim=None))
        self.until = None

    def fenced(self, seconds: float) -> float:
        """How long the next request that destroys or shows something may take: no longer than the claim.

        Renews the claim first if it would not outlive the request; raises FenceLost if another run has taken over.
        """
        if not self.mine:
            raise FenceLost("the claim is not this run's")
        if self._claim_left() < seconds:
            self.save(self._sight.record)
        left = self._claim_left()
        if left <= 0:
            raise FenceLost("the claim ended before the request could be sent")
        return min(seconds, left)

    def _claim_left(self) -> float:
        """Seconds of the claim that may be used."""
        return (self.until or 0.0) - self._world.clock.boot() - MARGIN

    def lost(self) -> None:
        """Another run may hold the claim: it counts again once a check-and-set has renewed it."""
        self.until = None
