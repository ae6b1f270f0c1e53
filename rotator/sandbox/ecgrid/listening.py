"""The simulated ECGrid on a loopback port: HTTP/1.1, both surfaces, the faults, and the control API."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from itertools import chain, repeat
from typing import Any, Literal, Self
from urllib.parse import unquote, unquote_plus

from rotator.sandbox.ecgrid import control, descriptions, rest, wire
from rotator.sandbox.ecgrid.service import SERVICE_SOAP
from rotator.sandbox.ecgrid.simulator import Simulator
from rotator.sandbox.ecgrid.soap import SOAP
from rotator.sandbox.ecgrid.switches import Fault, Switches
from rotator.sandbox.ecgrid.wire import Answer, Request
from rotator.sandbox.ecgrid.words import (
    Ask,
    NamedValue,
    One,
    Refusal,
    Result,
    ShownKey,
    ShownUser,
    show,
)

_HOST = "127.0.0.1"
_TRIES = 20
_ALLOWED_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "authorization",
        "cache-control",
        "connection",
        "content-length",
    }
    | {
        "content-type",
        "host",
        "http2-settings",
        "pragma",
        "sec-fetch-mode",
        "soapaction",
        "upgrade",
        "user-agent",
    }
    | {"x-api-key"}
)
_MAX_BODY = 1 << 20
_MAX_LINE = 1 << 16
_UNKNOWN = Ask("unknown")

Manner = Literal["whole", "half", "drip", "endless", "hang", "refuse"]
_DRIP = 0.05
_INSTEAD = frozenset({"status", "numbered", "html", "redirect"})
_SILENT = frozenset({"lost", "closed", "refused", "hang"})
_MANNERS: dict[str, Manner] = {"hang": "hang", "refused": "refuse", "half": "half", "drip": "drip"}


@dataclass(frozen=True)
class _Delivery:
    """An answer and the manner in which it reaches the client, or does not."""

    answer: Answer | None
    manner: Manner = "whole"
    seconds: float = 0.0


class Running:
    """A simulator that is being served; `close` (or leaving the `with` block) ends it."""

    def __init__(self, simulator: Simulator, port: int) -> None:
        self.simulator = simulator
        self._stop = threading.Event()
        self._server = _Server((_HOST, port), self)
        self._thread = self._serve()

    @property
    def url(self) -> str:
        """The address, which is also that of the control API."""
        return f"http://{_HOST}:{self._server.server_port}"

    @property
    def rest_url(self) -> str:
        """For ROTATOR_ECGRID__REST_URL."""
        return self.url

    @property
    def soap_url(self) -> str:
        """For ROTATOR_ECGRID__SOAP_URL."""
        return self.url + wire.SOAP_PATH

    @property
    def control(self) -> control.Control:
        """A client for the control API."""
        return control.Control(self.url)

    def refuse(self, seconds: float) -> None:
        """Cuts all connections and refuses new ones for so many seconds (Linux)."""
        self._server.shutdown()
        # A listening socket that is shut down stays bound, so that nobody else can take the port meanwhile.
        self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.cut()
        timer = threading.Timer(seconds, self._listen_again)
        timer.daemon = True
        timer.start()

    def wait(self, seconds: float) -> bool:
        """Waits, though not past `close`; whether it is being closed."""
        return self._stop.wait(seconds)

    def close(self) -> None:
        """Stops serving and cuts all connections; the simulator keeps its state."""
        self._stop.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.cut()

    def _listen_again(self) -> None:
        if not self._stop.is_set():
            self._server.socket.listen(self._server.request_queue_size)
            self._thread = self._serve()

    def _serve(self) -> threading.Thread:
        thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="ecgrid-simulator", daemon=True
        )
        thread.start()
        return thread

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def start(simulator: Simulator | None = None, port: int = 0) -> Running:
    """Serves the simulator (a new one by default) on 127.0.0.1; port 0: a free one that the kernel chooses.

    Raises OSError if the port is taken.
    """
    simulator = simulator or Simulator()
    if port:
        return Running(simulator, port)
    for _ in range(_TRIES):
        with suppress(OSError):
            return Running(simulator, _free_port())
    raise OSError(f"no free port was found on {_HOST} in {_TRIES} tries")


def _free_port() -> int:
    # Bound by name in a second step: a socket bound to port 0 would lose its port in `Running.refuse`.
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], running: Running) -> None:
        self.running = running
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, _Connection)

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name, which asks a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = (
            str(self.server_address[0]),
            int(self.server_address[1]),
        )

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves one connection, which `cut` can end."""
        with self._open_lock:
            self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open_lock:
                self._open.discard(request)

    def cut(self) -> None:
        """Ends all connections."""
        with self._open_lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Connection(socketserver.StreamRequestHandler):
    """Reads requests one after the other; each answer leaves in one piece, so that no delayed ACK holds it up."""

    server: _Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        """Serves until the client leaves or an answer ends the connection."""
        with suppress(ConnectionError):
            while (request := self._read()) is not None:
                if not self._deliver(self._respond(request)):
                    return
                if request.headers.get("connection", "").lower() == "close":
                    return

    def _read(self) -> Request | None:
        first = self.rfile.readline(_MAX_LINE).split()
        if len(first) != 3:
            return None
        headers: dict[str, str] = {}
        while (line := self.rfile.readline(_MAX_LINE)) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _MAX_BODY:
            return None
        body = self.rfile.read(int(length))
        method, target = first[0].decode("latin-1"), first[1].decode("latin-1")
        return Request(method, target, headers, body, self.client_address[0])

    def _respond(self, request: Request) -> _Delivery:
        running = self.server.running
        if request.path.startswith(control.PREFIX):
            verb = request.path.removeprefix(control.PREFIX)
            status, body = control.carry_out(running.simulator, verb, request.body)
            return _Delivery(Answer(status, body, "application/json"))
        return _exchange(running, request)

    def _deliver(self, delivery: _Delivery) -> bool:
        """Sends the answer; whether the connection goes on."""
        if delivery.manner == "hang":
            # Readable means that the client has closed, or that the server is being closed.
            select.select([self.connection], [], [], delivery.seconds)
        if delivery.manner == "refuse":
            self.server.running.refuse(delivery.seconds)
        if delivery.answer is None:
            return False
        head, body = _head(delivery.answer), delivery.answer.body
        if delivery.manner == "half":
            self.connection.sendall(head + body[: len(body) // 2])
            return False
        if delivery.manner == "drip":
            for byte in head + body:
                self.connection.sendall(bytes([byte]))
                self.server.running.wait(delivery.seconds)
            return True
        if delivery.manner == "endless":
            self.connection.sendall(head)
            for byte in chain(body, repeat(ord(" "))):
                self.connection.sendall(bytes([byte]))
                if self.server.running.wait(delivery.seconds):
                    return False
        self.connection.sendall(head + body)
        return True


def _head(answer: Answer) -> bytes:
    reason = HTTPStatus(answer.status).phrase
    lines = [
        f"HTTP/1.1 {answer.status} {reason}",
        f"Date: {formatdate(time.time(), usegmt=True)}",
        f"Content-Type: {answer.content_type}",
        "Connection: close" if answer.endless else f"Content-Length: {len(answer.body)}",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _exchange(running: Running, request: Request) -> _Delivery:
    """One request to ECGrid: looked over, understood, met by its fault if there is one, carried out, noted."""
    simulator = running.simulator
    surface = _surface(request, simulator.switches)
    problem = _violation(simulator, request)
    try:
        if problem is not None:
            simulator.violated(problem)
            raise Refusal("InvalidParameter", problem)
        ask = surface.decode(request, simulator.switches)
    except Refusal as refusal:
        answer = surface.refuse(refusal, simulator.switches)
        simulator.note(_UNKNOWN, answer.status, refusal.code, None)
        return _Delivery(answer)
    if descriptions.asked(request) and ask.credential.kind != "none":
        simulator.violated("a request for a description with a credential")
    caller = simulator.caller_id(ask)
    fault = simulator.fault_for(ask)
    if fault is None:
        answer, outcome = _perform(simulator, surface, ask)
        delivery = _Delivery(answer, "endless", _DRIP) if answer.endless else _Delivery(answer)
    else:
        delivery, outcome = _faulted(running, surface, request, ask, fault), fault.kind
    simulator.note(ask, delivery.answer.status if delivery.answer else 0, outcome, caller)
    return delivery


def _surface(request: Request, switches: Switches) -> wire.Surface:
    if descriptions.asked(request):
        return descriptions.DESCRIPTIONS
    if request.path == wire.SOAP_PATH or request.path.startswith(f"{wire.SOAP_PATH}/"):
        return SERVICE_SOAP if switches.form == "service" else SOAP
    return rest.REST


def _violation(simulator: Simulator, request: Request) -> str | None:
    extra = sorted(set(request.headers) - _ALLOWED_HEADERS)
    if extra:
        return f"a request with the header {extra[0]}"
    if not request.query and (request.path == wire.SOAP_PATH or rest.known(request.path)):
        return None
    once = unquote(request.target)
    for text in (request.target, once, unquote(once), unquote_plus(request.target)):
        if simulator.mentions_key(text):
            return f"a {request.method} with a secret value in its path or query"
    return None


def _perform(
    simulator: Simulator, surface: wire.Surface, ask: Ask, fault: Fault | None = None
) -> tuple[Answer, str]:
    kind = fault.kind if fault else ""
    try:
        result = simulator.perform(replace(ask, stale=kind == "stale"))
    except Refusal as refusal:
        return surface.refuse(refusal, simulator.switches), refusal.code
    if kind == "other-user":
        result = simulator.another(result)
    elif kind in ("masked", "malformed"):
        result = _spoilt(result, kind)
    return surface.encode(ask, result, simulator.switches), "ok"


def _spoilt(result: Result, kind: str) -> Result:
    """The result with its value masked, or with characters that no header can carry."""
    if isinstance(result, list):
        return [_spoilt_one(one, kind) for one in result]
    if isinstance(result, ShownKey | ShownUser | NamedValue):
        return _spoilt_one(result, kind)
    return _spoilt_value(result, kind) if isinstance(result, str) else result


def _spoilt_one(one: One, kind: str) -> One:
    if isinstance(one, ShownUser) or one.value is None:
        return one
    return replace(one, value=_spoilt_value(one.value, kind))


def _spoilt_value(value: str, kind: str) -> str:
    return show(value, "masked") or "" if kind == "masked" else f"{value[:6]} \u00e9\n{value[6:]}"


def _faulted(
    running: Running, surface: wire.Surface, request: Request, ask: Ask, fault: Fault
) -> _Delivery:
    simulator = running.simulator
    late = fault.kind == "latency" and fault.carried_out
    if fault.kind == "latency" and not late:
        running.wait(fault.seconds)
    answer = _perform(simulator, surface, ask, fault)[0] if fault.performs else None
    if fault.lands_after is not None:
        simulator.land_later(ask, fault.lands_after)
    if late:
        running.wait(fault.seconds)
    if fault.kind in _INSTEAD:
        answer = _instead(simulator, surface, request, answer, fault)
    elif fault.kind in _SILENT:
        answer = None
    return _Delivery(answer, _MANNERS.get(fault.kind, "whole"), fault.seconds)


def _instead(
    simulator: Simulator,
    surface: wire.Surface,
    request: Request,
    answer: Answer | None,
    fault: Fault,
) -> Answer:
    """What the client gets instead of the answer."""
    said = _quotation(request, answer) if fault.quoting else "The request could not be processed."
    if fault.kind == "numbered":
        refusal = Refusal("InternalError", said, number=fault.number)
        return surface.refuse(refusal, simulator.switches)
    if fault.kind == "status":
        return _error(simulator, surface, fault, said)
    if fault.kind == "html":
        page = f"<html><head><title>Proxy</title></head><body><p>{said}</p></body></html>"
        return Answer(fault.status, page.encode(), "text/html", _retry(fault))
    status = fault.status if 300 <= fault.status < 400 else int(HTTPStatus.TEMPORARY_REDIRECT)
    return Answer(status, b"", "text/plain", {"Location": fault.url or "/"})


def _error(simulator: Simulator, surface: wire.Surface, fault: Fault, said: str) -> Answer:
    code = wire.status_code(fault.status)
    refusal = Refusal(code, said, retry_after=fault.retry_after)
    answer = surface.refuse(refusal, simulator.switches)
    soap = surface in (SOAP, SERVICE_SOAP)
    documented = soap or answer.status == 200 or code != "InternalError"
    return answer if documented else replace(answer, status=fault.status)


def _retry(fault: Fault) -> dict[str, str]:
    return {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}


def _quotation(request: Request, answer: Answer | None) -> str:
    headers = "; ".join(f"{name}: {value}" for name, value in request.headers.items())
    sent = f"{request.method} {request.target} [{headers}] {request.body.decode(errors='replace')}"
    return f"{sent} -> {answer.body.decode()}" if answer else sent
