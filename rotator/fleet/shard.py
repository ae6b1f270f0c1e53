"""Which rotator of several takes which policy: the same everywhere, and nobody has to be asked."""

from __future__ import annotations

from hashlib import sha256


def in_shard(name: str, shard: tuple[int, int]) -> bool:
    """Whether a policy belongs to shard I of N, by a hash of its name that is the same everywhere."""
    index, count = shard
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") % count == index
