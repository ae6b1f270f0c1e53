"""A proxy between the rotator and its servers: byte for byte, unless the test decides otherwise.

Each request is numbered, over all the servers that one proxy stands before, and handed to `between` with the means to
forward it; what that returns is what the client gets. `None` ends the connection without an answer.
"""

from __future__ import annotations

import re
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import BinaryIO, Self
from urllib.parse import urlsplit

_HEALTH = re.compile(rb'("server_time_utc":)(\d+)')  # Vault's other word for the time
_PATIENCE = 60.0  # seconds for a server's answer


@dataclass(frozen=True)
class Request:
    """One request: which server it is for, and the how manyth it is over all of them, from 1."""

    server: str
    number: int
    method: str
    path: str
    raw: bytes

    def is_write(self, path: str) -> bool:
        """Whether this writes a KV document whose path ends so."""
        return self.method in ("POST", "PUT") and "/data/" in self.path and self.path.endswith(path)

    @property
    def issues(self) -> bool:
        """Whether this asks ECGrid for a new key, by any of the calls."""
        return any(
            call in self.raw
            for call in (b"<KeySet", b":KeySet", b"<GenerateAPIKey", b"keys/create", b"key-gen")
        )

    def header(self, name: str) -> str | None:
        """The value of a header."""
        return _header(self.raw, name)


@dataclass(frozen=True)
class Answer:
    """One answer, as it goes over the wire."""

    raw: bytes

    @classmethod
    def of(cls, status: int, body: bytes, kind: str = "text/html") -> Answer:
        """An answer that no server gave."""
        head = f"HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        return cls(head.encode() + body)

    @property
    def status(self) -> int:
        """The status."""
        return int(self.raw[9:12])

    def later(self, by: timedelta) -> Answer:
        """The same answer from a server whose clock is so much ahead."""
        told = _header(self.raw, "Date")
        if told is None or not by:
            return self
        moved = format_datetime(parsedate_to_datetime(told) + by, usegmt=True)
        raw = self.raw.replace(told.encode(), moved.encode(), 1)
        return Answer(
            _HEALTH.sub(lambda at: at[1] + b"%d" % (int(at[2]) + by.total_seconds()), raw)
        )


Forward = Callable[[], Answer]
Between = Callable[[Request, Forward], Answer | None]


def pass_on(_request: Request, forward: Forward) -> Answer | None:
    """Nothing happens in between."""
    return forward()


class Proxy:
    """Listens on loopback before any number of servers; `between` may be changed at any time. A context manager."""

    def __init__(self, between: Between = pass_on) -> None:
        self.between = between
        self.requests: list[Request] = []
        self._changed = threading.Condition()
        self._crossing = 0
        self._listeners: list[socket.socket] = []
        self._servers: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def before(self, name: str, url: str) -> str:
        """The address of a new listener whose requests go to the server at `url`; its path is kept."""
        self.lead(name, url)
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listeners.append(listener)
        self._spawn(lambda: self._listen(listener, name))
        return f"http://127.0.0.1:{listener.getsockname()[1]}{urlsplit(url).path}"

    def lead(self, name: str, url: str) -> None:
        """New connections to that name lead to this server from now on."""
        there = urlsplit(url)
        assert there.hostname is not None
        assert there.port is not None
        self._servers[name] = (there.hostname, there.port)

    def start_again(self, between: Between) -> None:
        """Waits until nothing is crossing, then counts from 1 under other rules."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._crossing == 0, _PATIENCE)
            self.requests, self.between = [], between

    def _spawn(self, body: Callable[[], None]) -> None:
        threading.Thread(target=body, daemon=True).start()

    def _listen(self, listener: socket.socket, name: str) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._spawn(lambda client=client: self._serve(client, name))  # type: ignore[misc]  # bound now

    def _serve(self, client: socket.socket, name: str) -> None:
        """One connection of the client, and one to the server as soon as it is needed."""
        upstream: list[socket.socket] = []
        with suppress(OSError), client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                readable, _, _ = select.select([client, *upstream], [], [])
                if client not in readable:
                    break  # the server has closed an idle connection: so does the client's
                if not self._cross(client, name, _message(client), upstream):
                    break
        for one in upstream:
            one.close()

    def _cross(
        self,
        client: socket.socket,
        name: str,
        raw: bytes,
        upstream: list[socket.socket],
    ) -> bool:
        """One request and its answer; False if the connection is to end."""
        method, path = raw.split(b" ", 2)[:2]
        with self._changed:
            self._crossing += 1
            request = Request(name, len(self.requests) + 1, method.decode(), path.decode(), raw)
            self.requests.append(request)
            between = self.between

        def forward() -> Answer:
            if not upstream:
                upstream.append(socket.create_connection(self._servers[name], _PATIENCE))
                upstream[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            upstream[0].sendall(raw)
            return Answer(_message(upstream[0]))

        try:
            answer = between(request, forward)
        finally:
            with self._changed:
                self._crossing -= 1
                self._changed.notify_all()
        if answer is None:
            return False
        client.sendall(answer.raw)
        return True


def _header(raw: bytes, name: str) -> str | None:
    head = raw.partition(b"\r\n\r\n")[0]
    found = re.search(rb"\r\n" + name.encode() + rb":[ \t]*([^\r\n]*)", head, re.IGNORECASE)
    return found[1].decode() if found else None


def _message(sock: socket.socket) -> bytes:
    """One whole HTTP/1.1 message as it came; raises OSError if the other side closes the connection before its end.

    Neither side sends ahead of its turn, so the buffer never holds a part of the next message.
    """
    with sock.makefile("rb") as stream:
        raw = _line(stream)
        while not raw.endswith(b"\r\n\r\n"):
            raw += _line(stream)
        if (_header(raw, "Transfer-Encoding") or "").lower() == "chunked":
            return raw + _chunks(stream)
        return raw + _exactly(stream, int(_header(raw, "Content-Length") or 0))


def _chunks(stream: BinaryIO) -> bytes:
    """A chunked body, sizes included; nobody here sends trailers."""
    body = b""
    while True:
        size = _line(stream)
        body += size + _exactly(stream, int(size, 16) + 2)
        if int(size, 16) == 0:
            return body


def _line(stream: BinaryIO) -> bytes:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the connection was closed")
    return line


def _exactly(stream: BinaryIO, size: int) -> bytes:
    body = stream.read(size)
    if len(body) < size:
        raise ConnectionError("the connection was closed in the middle of a message")
    return body
