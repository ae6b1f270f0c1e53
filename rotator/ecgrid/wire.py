"""The wire to ECGrid: one HTTP client for both surfaces, which ends every call in time and tells what became of it.

Nothing of httpx leaves this module. A call never raises: it ends in a `Reply` or in one of our errors as a value, so
that whoever raises it has no request, header or body in any frame of its traceback.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from rotator import __version__, files
from rotator.errors import AnswerLost, BadInput, NotSent, Problem, Transient, wish
from rotator.settings import client_context, proxy_for, system_authorities, why_refused

CONNECT_TIMEOUT = 10.0
BODY_LIMIT = 4 * 1024 * 1024
IDLE_LIFE = 30.0  # seconds that an idle connection is kept
AHEAD_LIFE = 15.0  # seconds that a connection opened ahead is kept

OWN_HEADERS = {
    "User-Agent": f"rotator/{__version__}",
    "Accept": "*/*",
    # Nothing is unpacked: a small answer cannot become a large one.
    "Accept-Encoding": "identity",
}

Observer = Callable[[str, str, float], None]  # call, status or kind of error, seconds


@dataclass(frozen=True)
class Call:
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


class _Until(threading.local):
    """When the call that this thread makes has to be over, and whether anything of it was sent."""

    at = float("inf")
    sent = False

    def cut(self, timeout: float | None) -> float:
        """The timeout, cut to what is left; raises httpx.ReadTimeout if nothing is."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpx.ReadTimeout("the time for the whole call is over")
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


def _tls(urls: Sequence[str]) -> ssl.SSLContext:
    """To read the authorities takes longer than a rotation: done only where a connection needs them."""
    schemes = {urlsplit(aim).scheme for url in urls for aim in (url, proxy_for(url) or "")}
    if "https" not in schemes:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    named = system_authorities()
    return client_context(*named) if any(named) else httpx.create_ssl_context(trust_env=False)


class Wire:
    """Sends the calls of both surfaces. May be used by any number of threads."""

    def __init__(self, urls: Sequence[str], observer: Observer | None = None) -> None:
        """`urls` are the addresses that will be asked; no other one is.

        Raises BadInput if SSL_CERT_FILE or a proxy variable of the environment cannot be used.
        """
        self._observer = observer
        self._until = _Until()
        made = self._connect(urls)
        if made is None:
            where = "ROTATOR_ECGRID__REST_URL, ROTATOR_ECGRID__SOAP_URL"
            raise BadInput([Problem(where, "one of these cannot be connected to as it is written")])
        # The transports themselves, and no client of httpx above them: no redirect, cookie or .netrc to switch off.
        self._transports = made

    def _connect(self, urls: Sequence[str]) -> dict[str, _Transport] | None:
        try:
            tls = _tls(urls)
            return {_origin(url): _Transport(url, tls, self._until) for url in urls}
        except (OSError, ValueError, ImportError, httpx.InvalidURL):
            return None

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
        self._until.at, self._until.sent = began + within, False
        outcome = self._exchange(
            call, method, url, headers=headers, content=content, within=within, largest=largest
        )
        self._until.at = float("inf")
        if self._observer is not None:
            told = str(outcome.status) if isinstance(outcome, Reply) else outcome.kind
            self._observer(call.name, told, time.monotonic() - began)
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
        limits = httpx.Timeout(within, connect=min(within, CONNECT_TIMEOUT))
        extensions = {"timeout": limits.as_dict(), "trace": self._until.trace}
        try:
            request = httpx.Request(
                method,
                _parsed(url),
                headers=OWN_HEADERS | headers,
                content=content,
                extensions=extensions,
            )
            response = self._transports[_origin(url)].handle_request(request)
            with closing(response):
                body = _read_all(response, largest)
            if body is None:
                return call.lost("ecgrid.BadAnswer", "the answer is too large to be one")
            return _reply(response, body)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return _failure(call, error, sent=self._until.sent)

    def warm(self, url: str, connections: int, within: float) -> None:
        """Opens connections to an address, so that so many requests find an open one; no request is sent.

        What cannot be opened is left to the request that needs it, which then says what is wrong.
        """
        self._until.at = time.monotonic() + within
        try:
            self._transports[_origin(url)].warm(connections)
        except Exception:  # noqa: BLE001 - httpcore's errors, and no harm is done: see above
            return
        finally:
            self._until.at = float("inf")

    def close(self) -> None:
        """Closes every connection."""
        for transport in self._transports.values():
            transport.close()


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


def _reply(response: httpx.Response, body: bytes) -> Reply:
    headers = response.headers
    return Reply(
        status=response.status_code,
        content_type=headers.get("Content-Type", "").lower(),
        retry_after=wish(headers.get("Retry-After"), headers.get("Date")),
        body=body,
    )


def _not_sent(call: Call, kind: str, what: str) -> NotSent:
    return NotSent(f"ECGrid, {call.name}: {what}", kind=kind)


def _failure(call: Call, error: Exception, *, sent: bool) -> Transient:
    name = type(error).__name__
    if not sent:
        if files.out_of_files(error):
            return _not_sent(call, files.KIND, files.NO_MORE)
        if _tls_trouble(error):
            return _not_sent(
                call,
                "ecgrid.Unreachable",
                f"no secure connection: {why_refused(error, 'SSL_CERT_FILE')}. The address is that in "
                "ROTATOR_ECGRID__REST_URL or ROTATOR_ECGRID__SOAP_URL",
            )
        return _not_sent(
            call,
            "ecgrid.Unreachable",
            f"no connection ({name}); check the network, HTTPS_PROXY, and the address in ROTATOR_ECGRID__REST_URL or "
            "ROTATOR_ECGRID__SOAP_URL",
        )
    if isinstance(error, httpx.TimeoutException):
        return call.lost(
            "ecgrid.Timeout", "no complete answer in time; ROTATOR_ECGRID__TIMEOUT sets how long"
        )
    if isinstance(error, httpx.NetworkError) or "disconnected" in str(error):
        return call.lost("ecgrid.AnswerLost", f"the connection broke before the answer ({name})")
    return call.lost("ecgrid.BadAnswer", f"the answer is broken or cut off ({name})")


def _tls_trouble(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
