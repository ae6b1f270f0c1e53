"""The reading room: how texts that people write, policies and settings, become values.

One vocabulary of kinds, one way to read a form of them, and one set of words for what cannot be used. No word quotes
what was written: a secret may have been pasted into the wrong place.
"""

from __future__ import annotations

from rotator.reading.form import (
    Form,
    Kind,
    Place,
    Refusal,
    attempted,
    look,
    present,
    refusals,
    refusing,
    unknown_keys,
    unusable,
    whole,
)
from rotator.reading.hints import either, like_a_secret, near, place_of, shown
from rotator.reading.kinds import (
    cron,
    is_path,
    length,
    longer_than_nothing,
    one_of,
    secret,
    switch,
    web,
)

__all__ = [
    "Form",
    "Kind",
    "Place",
    "Refusal",
    "attempted",
    "cron",
    "either",
    "is_path",
    "length",
    "like_a_secret",
    "longer_than_nothing",
    "look",
    "near",
    "one_of",
    "place_of",
    "present",
    "refusals",
    "refusing",
    "secret",
    "shown",
    "switch",
    "unknown_keys",
    "unusable",
    "web",
    "whole",
]
