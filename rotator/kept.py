"""How values are kept in Vault: JSON within JSON, one string each, where there may be many of them.

Vault counts: OpenBao refuses a document of about a thousand strings, names of fields included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializerFunctionWrapHandler,
    WrapSerializer,
)


class Value(BaseModel):
    """A value that never changes, and shows nothing of its input in an error; a field that it does not know is one."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def beside(text: str, notes: Sequence[str]) -> str:
    """A text with notes behind it, in one string: who does not know them takes them for a part of the text."""
    return "|".join((text, *notes)).rstrip("|")


def with_notes(data: Any, field: str, names: Sequence[str]) -> Any:
    """The document with what stands behind the text of that field as fields of their own."""
    if not isinstance(data, dict) or not isinstance(data.get(field), str):
        return data
    texts = zip((field, *names), data[field].split("|"), strict=False)
    return data | {name: text for name, text in texts if text}


def _packed(value: Any, plain: SerializerFunctionWrapHandler) -> str:
    return json.dumps(plain(value), separators=(",", ":"))


def _unpacked(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


# Beside a field's type: it is kept as a string.
AS_READ, AS_KEPT = BeforeValidator(_unpacked), WrapSerializer(_packed)
AS_KEPT_IF_ANY = WrapSerializer(_packed, when_used="unless-none")
