"""What the surfaces of the simulated ECGrid have in common: requests, answers, status codes, times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from rotator.sandbox.ecgrid.switches import Switches
from rotator.sandbox.ecgrid.words import Ask, Code, Refusal, Result

SOAP_PATH = "/v4.1/prod/ECGridOS.asmx"

STATUS: dict[Code, int] = {
    "InvalidAPIKey": 401,
    "InvalidSession": 401,
    "AccessDenied": 403,
    "ObjectNotFound": 404,
    "InvalidParameter": 400,
    "InvalidDataLength": 400,
    "DuplicateObject": 400,
    "RateLimitExceeded": 429,
    "InternalError": 500,
    "ServiceUnavailable": 503,
}


@dataclass(frozen=True)
class Request:
    """An HTTP request; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    address: str = "127.0.0.1"

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; an `endless` one comes byte by byte, and goes on after its body."""

    status: int
    body: bytes = field(repr=False)
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    endless: bool = False


class Surface(Protocol):
    """One of the ways to speak to ECGrid."""

    def decode(self, request: Request, switches: Switches) -> Ask:
        """The request, free of its surface; raises Refusal if it cannot be understood."""

    def encode(self, ask: Ask, result: Result, switches: Switches) -> Answer:
        """The answer to a request that was carried out."""

    def refuse(self, refusal: Refusal, switches: Switches) -> Answer:
        """The answer to a request that was refused."""


def status_code(status: int) -> Code:
    """The error code that goes with a status; InternalError where none is documented."""
    return next((code for code, known in STATUS.items() if known == status), "InternalError")


def retry_after(refusal: Refusal) -> dict[str, str]:
    """The header that says when to ask again, if the refusal does."""
    return {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}


def timestamp(moment: datetime, switches: Switches, *, zone: bool) -> str:
    """A time as the answers have it; `zone` is whether the documentation shows one here."""
    fraction = f".{moment.microsecond:06d}0" if switches.created_fraction else ""
    zone = zone if switches.created_zone == "documented" else switches.created_zone == "always"
    plain = moment.replace(microsecond=0, tzinfo=None).isoformat()
    return f"{plain}{fraction}{'Z' if zone else ''}"
