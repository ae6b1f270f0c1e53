"""An HTTP endpoint that takes what is sent to it: Sentry's envelopes, and the notifications of a webhook."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Taken:
    """One request: its path, headers and body."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What was taken; `answers` are the statuses of the next requests, then 200; each is kept waiting for `delay`."""

    url: str
    taken: list[Taken] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    delay: float = 0.0  # seconds

    @property
    def dsn(self) -> str:
        """For SENTRY_DSN."""
        return self.url.replace("://", "://public@") + "/1"

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The items of that kind in the envelopes: `event`, `check_in`."""
        found = []
        for taken in list(self.taken):
            if not taken.path.endswith("/envelope/"):
                continue
            lines = taken.body.split(b"\n")[1:]
            for header, payload in zip(lines[::2], lines[1::2], strict=False):
                if header and json.loads(header).get("type") == kind:
                    found.append(json.loads(payload))
        return found

    def documents(self) -> list[dict[str, Any]]:
        """The JSON documents that were posted, envelopes aside."""
        return [json.loads(t.body) for t in list(self.taken) if not t.path.endswith("/envelope/")]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Takes requests on a loopback port of the kernel's choice."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            there.taken.append(Taken(self.path, dict(self.headers.items()), body))
            time.sleep(there.delay)
            self.send_response(there.answers.pop(0) if there.answers else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        there = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield there
        server.shutdown()
