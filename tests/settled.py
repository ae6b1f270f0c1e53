"""A memory that already knows that neither surface describes itself, for tests that are about other requests."""

from __future__ import annotations

from rotator.ecgrid.spoken import OPENAPI_PATH, InMemory
from rotator.system import Description


def settled(rest_url: str, soap_url: str) -> InMemory:
    """Both forms as the vendor's pages have them, found out just now."""
    keep = InMemory()
    rest = Description(url=rest_url.rstrip("/") + OPENAPI_PATH, read_at=keep.now(), keys="records")
    soap = Description(url=f"{soap_url}?WSDL", read_at=keep.now())
    keep.remember(lambda system: system.change(rest=rest, soap=soap))
    return keep
