"""Who asks the window: one thread serves all clients, and none of them can hold up another or make it keep much.

Each has a time for its request and a time to take the answer, however it drips; what it may send is bounded, and so is
what is kept for all that take slowly. Where there is no room the slowest makes it, so that a probe is always heard.
"""

from __future__ import annotations

import http.client
import io
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message

from rotator.errors import Failure
from rotator.threads import begin

# Clients; for one more, the one that has been here longest is cut off, whoever has not asked yet first.
AT_ONCE = 64
# Seconds for the whole request, and again for taking the whole answer.
PATIENCE = 15.0
# Bytes of a request.
LONGEST = 64 * 1024
# Bytes of answers that are kept for clients; who asks while more are has to come again.
UNTAKEN = 32 * 1024 * 1024
# Bytes of an answer that there is always room for.
SMALL = 16 * 1024


@dataclass(frozen=True)
class Request:
    """What a client asks; `headers` are as they came."""

    method: str
    target: str
    headers: Message


# The whole answer, as it goes over the wire; never raises.
Answering = Callable[[Request], bytes]
# The answer to what is no request: status, and why.
Refusing = Callable[[int, str], bytes]


class _Client:
    """A connection: it sends a request, takes the answer, and leaves."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.until = time.monotonic() + PATIENCE
        self.sent = bytearray()
        # Of the answer.
        self.left = memoryview(b"")
        self.asks: Request | None = None
        # It has its answer.
        self.leaves = False

    @property
    def waits(self) -> bool:
        """Whether it has asked, and has not got all of its answer."""
        return self.asks is not None or len(self.left) > 0


class Clients:
    """Listens at an address and answers, until it is closed."""

    def __init__(
        self,
        address: tuple[str, int],
        answer: Answering,
        refuse: Refusing,
        first: Iterable[str] = (),
    ) -> None:
        """`first`: the targets that are answered before all others. Raises OSError, or Failure for want of a thread."""
        self._answer, self._refuse, self._first = answer, refuse, frozenset(first)
        # In the order in which they came.
        self._clients: dict[_Client, None] = {}
        self._asked: deque[_Client] = deque()
        self._over = False
        self._selector = selectors.DefaultSelector()
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=AT_ONCE)
        self._listener.setblocking(False)
        self._waker, self._wakes = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wakes, selectors.EVENT_READ)
        try:
            self._thread = begin(self._serve, "web")
        except Failure:
            self._leave()
            raise

    @property
    def port(self) -> int:
        """The port that is listened at."""
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Listens no more; an answer that is being sent is cut off."""
        self._over = True
        # The thread may have seen it already, and closed that too.
        with suppress(OSError):
            self._waker.send(b"x")
        self._thread.join(PATIENCE)

    def _leave(self) -> None:
        for client in list(self._clients):
            self._cut(client)
        for one in (self._listener, self._waker, self._wakes, self._selector):
            one.close()

    def _serve(self) -> None:
        while not self._over:
            pause = 0.0 if self._asked else 1.0
            for key, _ in self._selector.select(pause):
                if key.fileobj is self._listener:
                    self._welcome()
                elif isinstance(key.data, _Client):
                    self._attend(key.data)
            # One at a time: a probe that comes meanwhile waits for one page, not for all.
            if self._asked:
                self._tell(self._asked.popleft())
            now = time.monotonic()
            for client in [one for one in self._clients if one.until < now]:
                self._cut(client)
        self._leave()

    def _welcome(self) -> None:
        """Lets in all who wait, else a probe behind many others would wait for a page of each of them."""
        for _ in range(AT_ONCE):
            try:
                connection = self._listener.accept()[0]
            except BlockingIOError:
                return
            except OSError:
                # It has gone again, or this process may open no more files.
                self._make_room()
                time.sleep(0.01)
                return
            if len(self._clients) >= AT_ONCE:
                self._make_room()
            connection.setblocking(False)
            client = _Client(connection)
            self._clients[client] = None
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _make_room(self) -> None:
        slow = next((one for one in self._clients if not one.waits), None)
        oldest = slow or next(iter(self._clients), None)
        if oldest is not None:
            self._cut(oldest)

    def _cut(self, client: _Client) -> None:
        del self._clients[client]
        with suppress(ValueError):
            self._asked.remove(client)
        self._selector.unregister(client.connection)
        client.connection.close()

    def _attend(self, client: _Client) -> None:
        # Made room for another one just now.
        if client not in self._clients:
            return
        try:
            if client.left:
                self._send(client)
            else:
                self._hear(client)
        except BlockingIOError:
            pass
        except OSError:
            # A client that went away is nobody's fault.
            self._cut(client)

    def _hear(self, client: _Client) -> None:
        heard = client.connection.recv(LONGEST)
        if not heard:
            self._cut(client)
        elif not client.waits and not client.leaves:
            client.sent += heard
            self._understand(client)

    def _understand(self, client: _Client) -> None:
        head = bytes(client.sent[: LONGEST + 1])
        ends = [position for end in (b"\r\n\r\n", b"\n\n") if (position := head.find(end)) >= 0]
        if not ends:
            if len(head) > LONGEST:
                whole = b"\n" in head
                self._reply(client, self._refuse(431 if whole else 414, "that is too long"))
            return
        client.asks = _request(head[: min(ends)])
        if client.asks is None:
            self._reply(client, self._refuse(400, "that is not what a browser asks for"))
        elif client.asks.target in self._first:
            self._asked.appendleft(client)
        else:
            self._asked.append(client)

    def _tell(self, client: _Client) -> None:
        if client.asks is None:
            return
        answer = self._answer(client.asks)
        kept = sum(len(one.left) for one in self._clients)
        if len(answer) > SMALL and kept + len(answer) > UNTAKEN:
            answer = self._refuse(503, "too many answers wait to be taken; come again")
        self._reply(client, answer)

    def _reply(self, client: _Client, answer: bytes) -> None:
        client.asks, client.sent = None, bytearray()
        client.left, client.until = memoryview(answer), time.monotonic() + PATIENCE
        self._selector.modify(client.connection, selectors.EVENT_WRITE, client)
        self._attend(client)

    def _send(self, client: _Client) -> None:
        client.left = client.left[client.connection.send(client.left) :]
        if not client.left:
            # Closed now, with something of the request unread, the answer could get lost on its way.
            client.leaves = True
            client.connection.shutdown(socket.SHUT_WR)
            self._selector.modify(client.connection, selectors.EVENT_READ, client)


def _request(head: bytes) -> Request | None:
    """What is asked by these lines; None if they are no request."""
    first, _, rest = head.lstrip(b"\r\n").partition(b"\n")
    words = first.decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    try:
        headers = http.client.parse_headers(io.BytesIO(rest + b"\r\n\r\n"))
    except (http.client.HTTPException, ValueError):
        return None
    return Request(words[0], words[1], headers)
