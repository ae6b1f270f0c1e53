"""Rotation policies: what YAML files say, as values that are known to be good.

`load` answers either policies that can be acted upon, or every problem that was found, each with file, line, field
and what to do.
"""

from __future__ import annotations

from rotator.policy.loading import Judge, load, readable, together
from rotator.policy.model import (
    Destination,
    Exec,
    Hook,
    Policy,
    PolicyDefaults,
    Webhook,
    warnings,
)
from rotator.policy.own_key import WAY_BACK, own_key_problems
from rotator.policy.schema import json_schema

__all__ = [
    "WAY_BACK",
    "Destination",
    "Exec",
    "Hook",
    "Judge",
    "Policy",
    "PolicyDefaults",
    "Webhook",
    "json_schema",
    "load",
    "own_key_problems",
    "readable",
    "together",
    "warnings",
]
