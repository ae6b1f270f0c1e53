"""The wire to ECGrid, for both surfaces: what became of a call, in the words of this program.

A call never raises: it ends in a `Reply` or in one of our errors as a value, so that whoever raises it has no request,
header or body in any frame of its traceback.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rotator import files
from rotator.errors import AnswerLost, BadInput, NotSent, Problem, Transient, wish
from rotator.http import Answer, Connections, Trouble, public_authorities
from rotator.settings import client_context, system_authorities

BODY_LIMIT = 4 * 1024 * 1024

# Call, status or kind of error, seconds.
Observer = Callable[[str, str, float], None]


class Call(NamedTuple):
    """One of ECGrid's calls, by the name of its page; `changes` if a lost answer must be looked for."""

    name: str
    changes: bool = False

    def lost(self, kind: str, what: str, retry_after: float | None = None) -> Transient:
        """No usable answer: AnswerLost if the call may have changed something, else merely Transient."""
        family = AnswerLost if self.changes else Transient
        return family(f"ECGrid, {self.name}: {what}", kind=kind, retry_after=retry_after)


@dataclass(frozen=True)
class Reply:
    """An HTTP answer, read to its end."""

    status: int
    content_type: str
    retry_after: float | None
    body: bytes = field(repr=False)

    @property
    def is_page(self) -> bool:
        """Whether this is a page for people, as proxies send them."""
        return "html" in self.content_type or self.body[:64].lstrip().lower().startswith(
            (b"<!doctype html", b"<html")
        )


Outcome = Reply | Transient


class Wire:
    """Sends the calls of both surfaces. May be used by any number of threads."""

    def __init__(self, urls: Sequence[str], observer: Observer | None = None) -> None:
        """`urls` are the addresses that will be asked; no other one is.

        Raises BadInput if SSL_CERT_FILE or a proxy variable of the environment cannot be used.
        """
        self._observer = observer
        connections = _connections(urls)
        if connections is None:
            where = "ROTATOR_ECGRID__REST_URL, ROTATOR_ECGRID__SOAP_URL"
            raise BadInput([Problem(where, "one of these cannot be connected to as it is written")])
        self._connections = connections

    def send(
        self,
        call: Call,
        method: str,
        url: str,
        *,
        headers: dict[str, str],
        content: bytes | None,
        within: float,
        largest: int = BODY_LIMIT,
    ) -> Outcome:
        """Sends one request, once. What became of it: a reply of any status, or

        NotSent (`ecgrid.Unreachable`, `ecgrid.Timeout`) if nothing of it reached ECGrid; else, as `Call.lost`,
        `ecgrid.Timeout` after `within` seconds, `ecgrid.AnswerLost` if the connection broke, `ecgrid.BadAnswer` if the
        answer is no HTTP or has more than `largest` bytes.
        """
        began = time.monotonic()
        outcome = self._exchange(
            call, method, url, headers=headers, content=content, within=within, largest=largest
        )
        if self._observer is not None:
            word = str(outcome.status) if isinstance(outcome, Reply) else outcome.kind
            self._observer(call.name, word, time.monotonic() - began)
        return outcome

    def _exchange(
        self,
        call: Call,
        method: str,
        url: str,
        *,
        headers: dict[str, str],
        content: bytes | None,
        within: float,
        largest: int,
    ) -> Outcome:
        if within <= 0:
            return _not_sent(call, "ecgrid.Timeout", "there was no time left to send the request")
        outcome = self._connections.send(
            method, url, headers=headers, content=content, within=within, largest=largest
        )
        return _reply(outcome) if isinstance(outcome, Answer) else _failure(call, outcome)

    def warm(self, url: str, connections: int, within: float) -> None:
        """Opens connections to an address, so that so many requests find an open one; no request is sent."""
        self._connections.warm(url, connections, within)

    def close(self) -> None:
        """Closes every connection."""
        self._connections.close()


def _connections(urls: Sequence[str]) -> Connections | None:
    try:
        return Connections(urls, _authorities)
    except ValueError:
        return None


def _authorities() -> ssl.SSLContext:
    named = system_authorities()
    return client_context(*named) if any(named) else public_authorities()


def _reply(answer: Answer) -> Reply:
    headers = answer.headers
    return Reply(
        status=answer.status,
        content_type=headers.get("Content-Type", "").lower(),
        retry_after=wish(headers.get("Retry-After"), headers.get("Date")),
        body=answer.body,
    )


def _not_sent(call: Call, kind: str, what: str) -> NotSent:
    return NotSent(f"ECGrid, {call.name}: {what}", kind=kind)


def _failure(call: Call, trouble: Trouble) -> Transient:
    name = trouble.error
    match trouble.how:
        case "no file":
            return _not_sent(call, files.KIND, files.NO_MORE)
        case "no TLS":
            return _not_sent(
                call,
                "ecgrid.Unreachable",
                f"no secure connection: {trouble.why}. The address is that in ROTATOR_ECGRID__REST_URL or "
                "ROTATOR_ECGRID__SOAP_URL",
            )
        case "no connection":
            return _not_sent(
                call,
                "ecgrid.Unreachable",
                f"no connection ({name}); check the network, HTTPS_PROXY, and the address in ROTATOR_ECGRID__REST_URL "
                "or ROTATOR_ECGRID__SOAP_URL",
            )
        case "no end":
            what = "no complete answer in time; ROTATOR_ECGRID__TIMEOUT sets how long"
            return call.lost("ecgrid.Timeout", what)
        case "broken off":
            return call.lost(
                "ecgrid.AnswerLost", f"the connection broke before the answer ({name})"
            )
        case "too large":
            return call.lost("ecgrid.BadAnswer", "the answer is too large to be one")
        case "no HTTP":
            return call.lost("ecgrid.BadAnswer", f"the answer is broken or cut off ({name})")
