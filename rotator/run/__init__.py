"""One run over one policy: what it has seen, its claim, what it holds in hand, what came of it, and what it needs."""

from rotator.run.run import CONTENDED, Run, unknown_if_lost

__all__ = ["CONTENDED", "Run", "unknown_if_lost"]
