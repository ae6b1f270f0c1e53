"""How often the policies of a fleet are looked at: how long a record may go unread, and a key unchecked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

from rotator.due import NEVER, at_a_tick
from rotator.journal import Record
from rotator.policy import Policy
from rotator.vault.layout import INDEX_SHARDS, index_shard

# Of one drift check: the probe, and the list of keys.
CHECK_REQUESTS = 2
# Of ECGrid's rate that drift checks may take.
CHECK_SHARE = 0.1
# Every record is read at least so often, whatever the index says.
TRUSTED = timedelta(hours=1)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Checking(NamedTuple):
    """How often each policy is checked for drift; None: never."""

    period: timedelta | None

    @classmethod
    def spread(cls, every: timedelta, policies: int, rate: float) -> Checking:
        """Every so often, but so seldom that the checks of all policies take a tenth of ECGrid's rate at most."""
        if not every:
            return cls(None)
        return cls(max(every, timedelta(seconds=policies * CHECK_REQUESTS / (rate * CHECK_SHARE))))

    def next(self, policy: Policy, checked_at: datetime | None) -> datetime:
        """When the policy is to be checked after its last check: at its own place in the period, by its name."""
        if self.period is None or checked_at is None or not policy.enabled:
            return NEVER
        place = _EPOCH + self.period * _fraction(policy.name)
        return place + ((checked_at - place) // self.period + 1) * self.period


def last_check(record: Record) -> datetime | None:
    """When the key was seen to work; None while none is published."""
    return None if record.current is None else record.checked_at or record.rotated_at


def quiet_until(policy: Policy, record: Record, now: datetime) -> datetime:
    """The earliest instant at which a tick may have work, drift checks aside; `now` if it has some, or may have.

    No later than an hour from now, so that a record that was deleted or set back is noticed.
    """
    return min(at_a_tick(policy, record, now).next, reading(policy.name, now))


def reading(name: str, now: datetime) -> datetime:
    """When the policy's record is read next, whatever the index says: at its own place in the hour.

    With all others of its index document, which so is written once an hour.
    """
    place = _EPOCH + TRUSTED * index_shard(name) / INDEX_SHARDS
    return place + ((now - place) // TRUSTED + 1) * TRUSTED


def _fraction(name: str) -> float:
    return int.from_bytes(sha256(name.encode()).digest()[:6], "big") / 2**48
