"""The daemon: what wakes the fleet, what signals and files tell it, and what the service manager hears."""

from rotator.daemon.serving import serve

__all__ = ["serve"]
