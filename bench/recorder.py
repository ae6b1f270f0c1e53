"""Counts what is sent to Vault: a server before the real one that forwards each request and keeps its name.

It stands there only while requests are counted, never while something is timed.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

_DOCUMENT = re.compile(
    r"/v1/[^/]+/(?P<kind>data|metadata)/(?:rotator/(?P<state>record|staged|index|ecgrid)(?=[/?]|$))?"
)
_NOT_FORWARDED = ("transfer-encoding", "connection", "content-length")


def named(method: str, path: str) -> str:
    """A request's name: the method, and the kind of thing that it is about (`POST record`, `GET published`)."""
    found = _DOCUMENT.match(path)
    if found is None:
        known = path.partition("?")[0].removeprefix("/v1/")
        parts = known.split("/")
        return f"{method} {'/'.join(parts[:3] if parts[0] != 'sys' else parts[:2])}"
    what = found["state"] or "published"
    return f"{method} {what}" + (" metadata" if found["kind"] == "metadata" else "")


class Recorder:
    """A context manager; `requests` are the names of all requests in the order of their arrival."""

    def __init__(self, url: str) -> None:
        self.requests: list[str] = []
        # Is told each name before the request is forwarded; whoever returns True has it cut off instead.
        self.before: Callable[[str], bool] = lambda _: False
        recorder, there = self, urlsplit(url).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                self.upstream = http.client.HTTPConnection(there, timeout=60)

            def finish(self) -> None:
                self.upstream.close()
                super().finish()

            def forward(self) -> None:
                name = named(self.command, self.path)
                recorder.requests.append(name)
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                if recorder.before(name):
                    self.close_connection = True
                    return
                self.upstream.request(self.command, self.path, body, dict(self.headers))
                answer = self.upstream.getresponse()
                text = answer.read()
                self.send_response_only(answer.status)
                for header, value in answer.getheaders():
                    if header.lower() not in _NOT_FORWARDED:
                        self.send_header(header, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):  # LIST and PATCH too
                    return self.forward
                raise AttributeError(name)

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """For VAULT_ADDR."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self) -> list[str]:
        """What has arrived since the last time."""
        taken, self.requests = self.requests, []
        return taken
