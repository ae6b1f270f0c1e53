"""The HTTP server: GET only, a handful of addresses, nothing that a stranger may see without the token."""

from __future__ import annotations

import base64
import binascii
import gzip
import ipaddress
import json
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from rotator import reporting
from rotator.keys import Secret
from rotator.reporting import metrics
from rotator.secrecy.sinks import scrub
from rotator.web.asked import Asked
from rotator.web.clients import Clients, Request
from rotator.web.view import Health, Site

# Bytes: what fits into one packet is left as it is.
COMPRESSED_FROM = 1400
HEALTH = ("/healthz", "/readyz")
ALWAYS = {
    "Server": "rotator",
    "Connection": "close",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def _json(status: int, data: object) -> Answer:
    body = scrub(json.dumps(data, ensure_ascii=False, indent=1), "health") + "\n"
    return Answer(status, "application/json; charset=utf-8", body.encode())


def _text(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode(), headers)


def _health(checks: Sequence[Health], *, in_full: bool) -> Answer:
    """200 if all is well, else 503; the reasons only for those who may see them."""
    well = all(check.ok for check in checks)
    answer: dict[str, Any] = {"status": "ok" if well else "failing"}
    if in_full:
        answer["checks"] = [
            {"name": check.name, "ok": check.ok, "why": check.why or None} for check in checks
        ]
    return _json(200 if well else 503, answer)


class Window:
    """Serves a site until it is closed. A context manager."""

    def __init__(self, site: Site, host: str, port: int, token: Secret | None = None) -> None:
        """Listens at once; port 0 lets the kernel choose. With a token, only who shows it sees more than health.

        Raises OSError if the address cannot be had, and Failure if no thread can be started for it.
        """
        self._site, self._token = site, token
        self._clients = Clients((host, port), self._serve, _refusal, first=HEALTH)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port that is listened at."""
        return self._clients.port

    def close(self) -> None:
        """Listens no more; an answer that is being sent is cut off."""
        self._clients.close()

    def _serve(self, request: Request) -> bytes:
        """The answer to a request; a page that cannot be shown must not end the server."""
        try:
            return _wire(self._answer(request), request)
        except Exception as fault:  # noqa: BLE001 - see above
            place = traceback.extract_tb(fault.__traceback__)[-1]
            line = f"{Path(place.filename).name}:{place.lineno}"
            reporting.event("daemon.web_failed", error=type(fault).__name__, at=line)
        return _refusal(500, "this could not be shown; the log says where it failed")

    def _answer(self, request: Request) -> Answer:
        """What a request is answered; by a foreign name, or without the token, no more than a word."""
        if request.method != "GET":
            return _text(405, "only GET: nothing can be changed here", ("Allow", "GET"))
        headers = request.headers
        try:
            parts = urlsplit(request.target)
            host = urlsplit(f"//{headers.get('Host', '')}").hostname
            query = dict(parse_qsl(parts.query, max_num_fields=20))
        except ValueError:
            return _text(400, "that is not what a browser asks for")
        shown = self._token is not None and _shows(headers.get("Authorization", ""), self._token)
        # A page elsewhere could have its own name point here, and read this one with the operator's browser.
        known = shown or (self._token is None and _is_direct(host or "localhost"))
        if parts.path in HEALTH:
            checks = self._site.alive() if parts.path == "/healthz" else self._site.ready()
            return _health(checks, in_full=known)
        if not known and self._token is None:
            return _text(421, "ask by address, or as localhost; other names need a token")
        if not known:
            return _text(401, "a token is needed", ("WWW-Authenticate", 'Basic realm="rotator"'))
        if parts.path == "/metrics":
            return Answer(200, metrics.CONTENT_TYPE, self._site.metrics())
        if parts.path == "/":
            return self._page(Asked.of(query))
        return _text(404, "there are /, /metrics, /healthz and /readyz")

    def _page(self, asked: Asked) -> Answer:
        # With its templates, which only those who look at it pay for.
        from rotator.web import status_page

        html = status_page.render(self._site.view(), self._site.ready(), asked)
        security = ("Content-Security-Policy", status_page.SECURITY_POLICY)
        body = scrub(html, "page").encode()
        return Answer(200, "text/html; charset=utf-8", body, (security,))


def _shows(authorization: str, token: Secret) -> bool:
    """Whether the header has the token: as `Bearer`, or as the password of `Basic`, which is what browsers can."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return token.is_text(given)


def _is_direct(host: str) -> bool:
    """Whether that is an address, or this machine's own name for itself."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _wire(answer: Answer, request: Request | None = None) -> bytes:
    """The answer as it goes over the wire, packed where that is wished and worth it."""
    body, packed = answer.body, False
    wishes = request.headers.get("Accept-Encoding", "") if request else ""
    if len(body) > COMPRESSED_FROM and "gzip" in wishes:
        body, packed = gzip.compress(body, 5, mtime=0), True
    headers = {**ALWAYS, **dict(answer.headers), "Content-Type": answer.content_type}
    if packed:
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    headers |= {"Content-Length": str(len(body)), "Date": formatdate(usegmt=True)}
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if request is not None and request.method == "HEAD" else head + body


def _refusal(status: int, why: str) -> bytes:
    return _wire(_text(status, why))
