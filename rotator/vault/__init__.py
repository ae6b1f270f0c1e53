"""HashiCorp Vault: the login, the wire, and what the rotator keeps there. Values leave this room only as `Secret`."""

from rotator.vault.connection import Server
from rotator.vault.documents import Published, Staged, Stored, Vault
from rotator.vault.kv import KV, At, Document, StaleRead, TimeInDoubt
from rotator.vault.layout import Layout

__all__ = [
    "KV",
    "At",
    "Document",
    "Layout",
    "Published",
    "Server",
    "Staged",
    "StaleRead",
    "Stored",
    "TimeInDoubt",
    "Vault",
]
