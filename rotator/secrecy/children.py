"""What a process that we start is given: names and numbers, and nothing of the rotator's own settings."""

from __future__ import annotations

import os
from collections.abc import Mapping

# Of the rotator's own environment: where programs are, and in which language and time they speak.
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "DBUS_SYSTEM_BUS_ADDRESS")


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: what is passed on to each, and what this one is given."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | dict(given)
