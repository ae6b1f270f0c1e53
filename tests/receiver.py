"""Who only listens: an HTTP endpoint (Sentry, a webhook, a thief), and a service manager's end of NOTIFY_SOCKET."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rotator.reporting.alarms import Alarm


@dataclass(frozen=True)
class Taken:
    """One request: its path, headers and body, unpacked; and how it was answered."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int = 200


@dataclass
class Receiver:
    """What was taken; `answers` are the statuses of the next requests, then `status`; each waits for `delay`."""

    url: str
    taken: list[Taken] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    status: int = 200
    delay: float = 0.0  # seconds

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    @property
    def dsn(self) -> str:
        """For SENTRY_DSN."""
        return self.url.replace("://", "://public@") + "/1"

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The items of that kind in the envelopes that were not refused: `event`, `check_in`."""
        found = []
        for taken in list(self.taken):
            if not taken.path.endswith("/envelope/") or taken.status >= 300:
                continue
            lines = taken.body.split(b"\n")[1:]
            for header, payload in zip(lines[::2], lines[1::2], strict=False):
                if header and json.loads(header).get("type") == kind:
                    found.append(json.loads(payload))
        return found

    def documents(self) -> list[dict[str, Any]]:
        """The JSON documents that were posted, envelopes aside."""
        return [json.loads(t.body) for t in list(self.taken) if not t.path.endswith("/envelope/")]

    def kept(self) -> list[dict[str, Any]]:
        """Those of them that were not refused."""
        posted = [one for one in list(self.taken) if not one.path.endswith("/envelope/")]
        return [json.loads(one.body) for one in posted if one.status < 300]


class Taking:
    """Takes every alarm."""

    name = "webhook"

    def __init__(self) -> None:
        self.told: list[Alarm] = []

    def deliver(self, alarm: Alarm, until: Callable[[], float]) -> str | None:
        """See `Receiver.deliver`."""
        self.told.append(alarm)
        return None


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Takes requests of whatever method on a loopback port of the kernel's choice."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            coding = self.headers.get("Content-Encoding")
            if coding == "gzip":
                body = gzip.decompress(body)
            elif coding == "deflate":
                body = zlib.decompress(body)
            status = there.answers.pop(0) if there.answers else there.status
            there.taken.append(Taken(self.path, dict(self.headers.items()), body, status))
            time.sleep(there.delay)
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_PATCH = do_DELETE = do_LIST = do_POST  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        there = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield there
        server.shutdown()


@dataclass
class Manager:
    """A service manager; `said` are the lines that it was told."""

    said: list[str] = field(default_factory=list)

    def heard(self, line: str, more_than: int) -> bool:
        """Whether it was told that more often."""
        return self.said.count(line) > more_than


@contextmanager
def manager(address: str) -> Iterator[Manager]:
    """Listens at a path, or at an abstract address (`\\0name`); at the end all that was sent has been taken."""
    there = Manager()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)

        def listen() -> None:
            while datagram := listening.recv(65536):  # nothing: it was shut down
                there.said += datagram.decode().splitlines()

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield there
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
