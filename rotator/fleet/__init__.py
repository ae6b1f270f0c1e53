"""Many policies: who is due, how many at once, and what they share. One policy's failure never stops the others."""

from rotator.fleet.fleet import Fleet, Turn
from rotator.fleet.shard import in_shard

__all__ = ["Fleet", "Turn", "in_shard"]
