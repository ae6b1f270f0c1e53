"""The HTTP client: sends a request once, is done in time whatever the other side does, and tells what became of it.

Nothing of httpx leaves this module. To send never raises: it ends in an `Answer`, or in `Trouble` as a value, so that
whoever sent has no request, header or body in any frame of a traceback. No redirect, cookie or .netrc is followed.
"""

from __future__ import annotations

import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from rotator import __version__, files
from rotator.settings import proxy_for, why_refused

# httpx has a command line of its own, which brings rich and pygments along; it does without where they are not there.
sys.modules["httpx._main"] = None  # type: ignore[assignment]  # importing it fails, as where it is not installed
import httpx  # noqa: E402 - only now

del sys.modules["httpx._main"]

CONNECT_TIMEOUT = 10.0
# Seconds that an idle connection is kept.
IDLE_LIFE = 30.0
# Seconds that a connection opened ahead is kept.
AHEAD_LIFE = 15.0

OWN_HEADERS = {
    "User-Agent": f"rotator/{__version__}",
    "Accept": "*/*",
    # Nothing is unpacked: a small answer cannot become a large one.
    "Accept-Encoding": "identity",
}

How = Literal["no file", "no TLS", "no connection", "no end", "broken off", "too large", "no HTTP"]


@dataclass(frozen=True)
class Answer:
    """An answer of any status; the names of its headers are found in any case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Trouble(NamedTuple):
    """No usable answer: how it came to that, and the class of the error.

    The first three mean that nothing of the request was sent; `why` is why there is no TLS.
    """

    how: How
    error: str
    why: str = ""


class _Until(threading.local):
    """When the request that this thread sends has to be over, and whether anything of it was sent."""

    over_at = float("inf")
    sent = False

    def cut(self, timeout: float | None) -> float:
        """The timeout, cut to what is left; raises httpx.ReadTimeout if nothing is."""
        left = self.over_at - time.monotonic()
        if left <= 0:
            raise httpx.ReadTimeout("the time for the whole request is over")
        return left if timeout is None else min(timeout, left)

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore's trace: told before the first byte of a request leaves. CONNECT is for the proxy only."""
        if event.endswith(".send_request_headers.started") and info["request"].method != b"CONNECT":
            self.sent = True


class _Stream:
    """A connection that knows when the call is to be over: a timeout per read would never end a slow drip."""

    def __init__(self, inner: Any, until: _Until, tls: _Stream | None = None) -> None:
        self._inner, self._until, self._tls = inner, until, tls
        self.opened = time.monotonic()

    def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        return self._inner.read(max_bytes, self._until.cut(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._until.cut(timeout))

    def close(self) -> None:
        if self._tls is not None:
            self._tls.close()
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> _Stream:
        if self._tls is not None:
            return self._tls
        return _Stream(
            self._inner.start_tls(ssl_context, server_hostname, self._until.cut(timeout)),
            self._until,
        )

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    @property
    def alive(self) -> bool:
        """Whether the other side has neither closed nor said anything."""
        connection = (self if self._tls is None else self._tls).get_extra_info("socket")
        connection.setblocking(False)
        try:
            connection.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False


class _Backend:
    """Opens httpcore's connections, and keeps some that were opened ahead."""

    def __init__(self, inner: Any, until: _Until) -> None:
        self._inner, self._until = inner, until
        self._ahead: list[_Stream] = []
        self._lock = threading.Lock()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> _Stream:
        ready = self._take()
        return ready if ready is not None else self._open(host, port, timeout, **options)

    def _open(self, host: str, port: int, timeout: float | None, **options: Any) -> _Stream:
        inner = self._inner.connect_tcp(host, port, self._until.cut(timeout), **options)
        return _Stream(inner, self._until)

    def _take(self) -> _Stream | None:
        while True:
            with self._lock:
                if not self._ahead:
                    return None
                stream = self._ahead.pop()
            if time.monotonic() - stream.opened < AHEAD_LIFE and stream.alive:
                return stream
            stream.close()

    def open_ahead(self, wanted: int, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Opens connections until there are `wanted`; each is used by the next request that needs a new one."""
        kept = list(iter(self._take, None))
        with self._lock:
            self._ahead += kept
        for _ in range(wanted - len(kept)):
            plain = self._open(host, port, CONNECT_TIMEOUT)
            ready = plain
            if tls is not None:
                ready = _Stream(plain, self._until, plain.start_tls(tls, host, CONNECT_TIMEOUT))
            with self._lock:
                self._ahead.append(ready)

    def close(self) -> None:
        with self._lock:
            ahead, self._ahead = self._ahead, []
        for stream in ahead:
            stream.close()


class _Transport(httpx.HTTPTransport):
    """The connections to one address: never a retry, and every read within the time of its call."""

    def __init__(self, url: str, tls: ssl.SSLContext, until: _Until) -> None:
        parts, proxy = urlsplit(url), proxy_for(url)
        super().__init__(
            verify=tls,
            trust_env=False,
            proxy=proxy,
            retries=0,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_LIFE
            ),
        )
        aim = urlsplit(proxy) if proxy else parts
        self._host = aim.hostname or ""
        self._port = aim.port or (443 if aim.scheme == "https" else 80)
        self._tls = tls if parts.scheme == "https" and proxy is None else None
        pool: Any = self._pool
        # httpx has no argument for it; that a header sent byte by byte ends in time is tested.
        self._backend = _Backend(pool._network_backend, until)  # noqa: SLF001 - no public way
        pool._network_backend = self._backend  # noqa: SLF001 - the same

    def warm(self, connections: int) -> None:
        """Sees to it that so many requests find an open connection."""
        idle = sum(c.is_idle() and not c.has_expired() for c in list(self._pool.connections))
        self._backend.open_ahead(connections - idle, self._host, self._port, self._tls)

    def close(self) -> None:
        """Closes every connection."""
        self._backend.close()
        super().close()


class Connections:
    """The connections to some addresses. May be used by any number of threads."""

    def __init__(self, urls: Sequence[str], authorities: Callable[[], ssl.SSLContext]) -> None:
        """`urls` are the addresses that will be asked; no other one is. `authorities` is asked only if TLS is spoken.

        Raises BadInput if SSL_CERT_FILE or a proxy variable of the environment cannot be used, and ValueError if one of
        the addresses cannot be connected to as it is written.
        """
        self._until = _Until()
        made = self._connect(urls, authorities)
        if made is None:
            raise ValueError("an address that cannot be connected to as it is written")
        # The transports themselves, and no client of httpx above them: there is nothing to switch off.
        self._transports = made

    def _connect(
        self, urls: Sequence[str], authorities: Callable[[], ssl.SSLContext]
    ) -> dict[str, _Transport] | None:
        try:
            # To read the authorities takes longer than a rotation.
            schemes = {urlsplit(aim).scheme for url in urls for aim in (url, proxy_for(url) or "")}
            tls = authorities() if "https" in schemes else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            return {_origin(url): _Transport(url, tls, self._until) for url in urls}
        except (OSError, ValueError, ImportError, httpx.InvalidURL):
            return None

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        within: float,
        largest: int,
    ) -> Answer | Trouble:
        """Sends one request, once, and is done `within` so many seconds, but for a name server that takes longer.

        An answer of more than `largest` bytes is trouble; where that is 0, its body is not read.
        """
        self._until.over_at, self._until.sent = time.monotonic() + within, False
        limits = httpx.Timeout(within, connect=min(within, CONNECT_TIMEOUT))
        extensions = {"timeout": limits.as_dict(), "trace": self._until.trace}
        try:
            request = httpx.Request(
                method,
                _parsed(url),
                headers={**OWN_HEADERS, **headers},
                content=content,
                extensions=extensions,
            )
            with closing(self._transports[_origin(url)].handle_request(request)) as response:
                body = _read_all(response, largest) if largest else b""
            if body is None:
                return Trouble("too large", "")
            return Answer(response.status_code, response.headers, body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return _trouble(error, sent=self._until.sent)
        finally:
            self._until.over_at = float("inf")

    def warm(self, url: str, connections: int, within: float) -> None:
        """Opens connections to an address, so that so many requests find an open one; no request is sent.

        What cannot be opened is left to the request that needs it, which then says what is wrong.
        """
        self._until.over_at = time.monotonic() + within
        try:
            self._transports[_origin(url)].warm(connections)
        except Exception:  # noqa: BLE001 - httpcore's errors, and no harm is done: see above
            return
        finally:
            self._until.over_at = float("inf")

    def close(self) -> None:
        """Closes every connection."""
        for transport in self._transports.values():
            transport.close()


def public_authorities() -> ssl.SSLContext:
    """A context that accepts what the public authorities have signed, as httpx brings them along."""
    return httpx.create_ssl_context(trust_env=False)


@lru_cache(1024)
def _parsed(url: str) -> httpx.URL:
    """Parsing takes as long as all else that httpx does before it sends; a fleet asks the same few again and again."""
    return httpx.URL(url)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _read_all(response: httpx.Response, largest: int) -> bytes | None:
    """The body; None if it has more than so many bytes."""
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > largest:
            return None
    return bytes(body)


def _trouble(error: Exception, *, sent: bool) -> Trouble:
    name = type(error).__name__
    if not sent:
        if files.out_of_files(error):
            return Trouble("no file", name)
        if _is_of_tls(error):
            return Trouble("no TLS", name, why_refused(error, "SSL_CERT_FILE"))
        return Trouble("no connection", name)
    if isinstance(error, httpx.TimeoutException):
        return Trouble("no end", name)
    if isinstance(error, httpx.NetworkError) or "disconnected" in str(error):
        return Trouble("broken off", name)
    return Trouble("no HTTP", name)


def _is_of_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
