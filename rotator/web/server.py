"""The HTTP server: GET only, a handful of addresses, nothing that a stranger may see without the token."""

from __future__ import annotations

import base64
import binascii
import gzip
import ipaddress
import json
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from rotator import reporting
from rotator.keys import Secret
from rotator.reporting import metrics
from rotator.web import page
from rotator.web.values import Health, Site

AT_ONCE = 32  # requests that are answered at one time; more have to wait
PATIENCE = 10.0  # seconds for a client to send its request, and to take the answer
COMPRESSED_FROM = 1400  # bytes: what fits into one packet is left as it is
ALWAYS = {
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


Answering = Callable[[str, Message], Answer]


def _json(status: int, told: object) -> Answer:
    body = reporting.scrub(json.dumps(told, ensure_ascii=False, indent=1), "health") + "\n"
    return Answer(status, "application/json; charset=utf-8", body.encode())


def _text(status: int, told: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{told}\n".encode(), headers)


def _health(checks: Sequence[Health], *, in_full: bool) -> Answer:
    """200 if all is well, else 503; the reasons only for those who may see them."""
    well = all(check.ok for check in checks)
    told: dict[str, Any] = {"status": "ok" if well else "failing"}
    if in_full:
        told["checks"] = [
            {"name": check.name, "ok": check.ok, "why": check.why or None} for check in checks
        ]
    return _json(200 if well else 503, told)


class Window:
    """Serves a site until it is closed. A context manager."""

    def __init__(self, site: Site, host: str, port: int, token: Secret | None = None) -> None:
        """Listens at once; port 0 lets the kernel choose. With a token, only who shows it sees more than health.

        Raises OSError if the address cannot be had.
        """
        self._site, self._token = site, token
        self._server = _Server((host, port), self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, name="web", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port that is listened at."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Listens no more; an answer that is being sent is cut off."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, target: str, headers: Message) -> Answer:
        """What a GET of that target is answered."""
        try:
            parts, host = urlsplit(target), urlsplit(f"//{headers.get('Host', '')}").hostname
            query = dict(parse_qsl(parts.query, max_num_fields=20))
        except ValueError:
            return _text(400, "that is not what a browser asks for")
        known = self._token is None or _shows(headers.get("Authorization", ""), self._token)
        if parts.path == "/healthz":
            return _health(self._site.alive(), in_full=known)
        if parts.path == "/readyz":
            return _health(self._site.ready(), in_full=known)
        if not known:
            return _text(401, "a token is needed", ("WWW-Authenticate", 'Basic realm="rotator"'))
        if self._token is None and not _is_direct(host or "localhost"):
            # A page elsewhere could have its own name point here, and read this one with the operator's browser.
            return _text(421, "ask by address, or as localhost; other names need a token")
        if parts.path == "/metrics":
            return Answer(200, metrics.CONTENT_TYPE, self._site.metrics())
        if parts.path == "/":
            asked = page.Asked.of(query)
            html = reporting.scrub(
                page.render(self._site.view(), self._site.ready(), asked), "page"
            )
            security = ("Content-Security-Policy", page.SECURITY_POLICY)
            return Answer(200, "text/html; charset=utf-8", html.encode(), (security,))
        return _text(404, "there are /, /metrics, /healthz and /readyz")


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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = AT_ONCE

    def __init__(self, address: tuple[str, int], answer: Answering) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.answer = answer
        self._room = threading.BoundedSemaphore(AT_ONCE)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without asking the name service for this machine's name, as HTTPServer would."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._room.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's fault; socketserver would print a traceback."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE
    server_version, sys_version = "rotator", ""
    error_message_format, error_content_type = "%(code)d %(message)s\n", "text/plain; charset=utf-8"

    def do_GET(self) -> None:
        try:
            answer = self.server.answer(self.path, self.headers)
        except Exception as fault:  # noqa: BLE001 - a page that cannot be shown must not end the server
            place = traceback.extract_tb(fault.__traceback__)[-1]
            at = f"{Path(place.filename).name}:{place.lineno}"
            reporting.event("daemon.web_failed", error=type(fault).__name__, at=at)
            answer = _text(500, "this could not be shown; the log says where it failed")
        self._send(answer)

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Every other method is refused; http.server looks it up under this name."""
        if name.startswith("do_"):
            return self._refuse
        raise AttributeError(name)

    def _refuse(self) -> None:
        self._send(_text(405, "only GET: nothing can be changed here", ("Allow", "GET")))

    def _send(self, answer: Answer) -> None:
        body, packed = answer.body, False
        if len(body) > COMPRESSED_FROM and "gzip" in self.headers.get("Accept-Encoding", ""):
            body, packed = gzip.compress(body, 5, mtime=0), True
        self.send_response(answer.status)
        headers = {**ALWAYS, **dict(answer.headers), "Content-Type": answer.content_type}
        if packed:
            headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is http.server's
        """Who looked is not logged."""
