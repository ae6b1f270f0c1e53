"""The party before Vault that misbehaves, on loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Self
from urllib.parse import urlsplit

Answer = tuple[int, dict[str, str], bytes]


class _Handler(BaseHTTPRequestHandler):
    """Hands every request to the party."""

    protocol_version = "HTTP/1.1"
    party: ClassVar[BeforeVault]

    def handle_one_request(self) -> None:
        """One request of whatever method; a connection that the client drops is nobody's error."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = self.party.answer(self.command, self.path, dict(self.headers.items()), body)
            if answer is None:
                self.close_connection = True
                return
            status, headers, content = answer
            self.send_response_only(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)


@dataclass(frozen=True)
class Misdeed:
    """What the party before Vault does to requests whose method and path match, from the `nth` on."""

    kind: str
    method: str = ".*"
    path: str = ".*"
    nth: int = 1
    _seen: list[int] = field(default_factory=lambda: [0])

    def hits(self, method: str, path: str) -> bool:
        """Whether this request is done something to."""
        if not (re.fullmatch(self.method, method) and re.search(self.path, path)):
            return False
        self._seen[0] += 1
        return self.met

    @property
    def met(self) -> bool:
        """Whether something was done to a request."""
        return self._seen[0] >= self.nth


MISDEEDS = (
    "echo-400", "echo-403", "echo-404", "echo-412", "echo-429", "echo-500", "echo-502", "echo-503", "html-200",
    "html-502", "broken-json", "list-200", "empty-200", "wrong-types", "redirect-307", "redirect-302", "garbage",
    "closed",
)  # fmt: skip


class BeforeVault:
    """A proxy before Vault: passes everything on, but for what is hit by a misdeed. Then it quotes all it knows.

    It serves in threads of this process, from the beginning of its context to the end.
    """

    def __init__(self, vault: str, thief: str) -> None:
        """`thief` is the address that redirects point to."""
        self._vault, self._thief = urlsplit(vault), thief
        self.misdeeds: list[Misdeed] = []
        handler = type("Handler", (_Handler,), {"party": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """Vault's own answer, or what a misdeed makes of it; None closes the connection."""
        misdeed = next((one for one in self.misdeeds if one.hits(method, path)), None)
        carried_out = (
            misdeed is None
            or "200" in misdeed.kind
            or misdeed.kind in ("broken-json", "closed", "garbage")
        )
        status, said, content = (
            self._ask(method, path, headers, body) if carried_out else (0, {}, b"")
        )
        if misdeed is None:
            return status, said, content
        told = f"{method} {path} {headers} {body.decode('latin-1')} -> {content.decode('latin-1')}"
        return self._misbehave(misdeed.kind, told)

    def _misbehave(self, kind: str, told: str) -> Answer | None:
        what, _, code = kind.rpartition("-")
        page = f"<html><body>{told}</body></html>".encode()
        plain: dict[str, Answer] = {
            "broken-json": (
                200,
                {"Content-Type": "application/json"},
                json.dumps({"data": told}).encode()[:-2],
            ),
            "wrong-types": (
                200,
                {"Content-Type": "application/json"},
                json.dumps({"data": [told], "auth": told}).encode(),
            ),
            "garbage": (200, {"X-Told": "\x01" + told[:200].replace("\n", " ")}, told.encode()),
        }
        if kind == "closed":
            return None
        if kind in plain:
            return plain[kind]
        if what == "redirect":
            return int(code), {"Location": f"http://{self._thief}/stolen"}, b""
        if what == "html":
            return int(code), {"Content-Type": "text/html"}, page
        if what == "list":
            return int(code), {"Content-Type": "application/json"}, json.dumps([told]).encode()
        if what == "empty":
            return int(code), {"Content-Type": "application/json"}, b"{}"
        return (
            int(code),
            {"Content-Type": "application/json"},
            json.dumps({"errors": [told]}).encode(),
        )

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        connection = http.client.HTTPConnection(
            str(self._vault.hostname), self._vault.port, timeout=30
        )
        try:
            kept = {name: value for name, value in headers.items() if name.lower() != "connection"}
            connection.request(method, path, body, kept)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        said = {
            name: answer.headers[name]
            for name in ("Content-Type", "Date")
            if name in answer.headers
        }
        return answer.status, said, content
