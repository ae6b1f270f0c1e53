"""The wire to ECGrid against servers that answer what no ECGrid would, and what the environment may change of it."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex

import pytest
from conftest import OPERATOR, USERS, until
from settled import settled
from test_ecgrid_client import WITHIN, At, World, failing, shown_anywhere

from rotator.ecgrid import Account, Credentials, ECGrid, Rate, Urgency
from rotator.errors import (
    AnswerLost,
    BadInput,
    Failure,
    Forbidden,
    NotFound,
    NotSent,
    Permanent,
    Refused,
    Transient,
)
from rotator.keys import Issue, Secret, Verify, Visibility
from rotator.sandbox.ecgrid import Running

USER = USERS[0]
PRIVATE = Visibility.PRIVATE
SOAP_ENVELOPE = (
    '<?xml version="1.0"?>{prolog}<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/">'
    "<e:Body>{body}</e:Body></e:Envelope>"
)


@pytest.fixture
def world(simulator: Running) -> Iterator[World]:
    """The simulator and its clients."""
    world = World(simulator)
    yield world
    world.close()


class Server:
    """Answers every request with the same bytes, and keeps the requests; one connection after the other."""

    def __init__(self, answer: bytes, tls: ssl.SSLContext | None = None) -> None:
        self.answer, self.tls = answer, tls
        self.requests: list[bytes] = []
        self.accepted = threading.Semaphore(0)
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, plain: socket.socket) -> None:
        self._open.append(plain)
        self.accepted.release()
        try:
            connection = self.tls.wrap_socket(plain, server_side=True) if self.tls else plain
            with connection, connection.makefile("rb") as lines:
                while (request := _request(lines)) is not None:
                    self.requests.append(request)
                    connection.sendall(self.answer)
                    if b"Connection: close" in self.answer:
                        return
        except OSError:
            plain.close()

    @property
    def connections(self) -> int:
        """How many there were."""
        return len(self._open)

    def drop(self, connections: int) -> None:
        """Waits for so many connections and closes them all; new ones are welcome."""
        for _ in range(connections):
            assert self.accepted.acquire(timeout=60)
        for connection in self._open:
            connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stops listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)


def _request(lines: object) -> bytes | None:
    head, length = b"", 0
    while (line := lines.readline()) not in (b"\r\n", b""):  # type: ignore[attr-defined]  # a socket's file
        head += line
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head + bytes(lines.read(length)) if head else None  # type: ignore[attr-defined]  # the same


@contextmanager
def serving(answer: bytes, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server of that answer."""
    server = Server(answer, tls)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def asking(
    server: Server,
    verify: Verify = Verify.GET_KEY,
    *,
    key: str = "",
    scheme: str = "http",
    host: str = "127.0.0.1",
) -> Iterator[Account]:
    """An account at that server; closes its client."""
    value = Secret(key or token_hex(16))
    at = f"{scheme}://{host}:{server.port}"
    ecgrid = ECGrid(
        At(at, f"{at}/soap"),
        Credentials([lambda: value]),
        Rate(None),
        keep=settled(at, f"{at}/soap"),
    )
    try:
        issue = Issue.KEYSET if verify is Verify.KEY_GET else Issue.CREATE_KEY
        yield ecgrid.account(issue, verify, Urgency.ROTATION)
    finally:
        ecgrid.close()


def http(body: str | bytes, status: int = 200, kind: str = "application/json", *more: str) -> bytes:
    """An HTTP answer that ends its connection."""
    content = body.encode() if isinstance(body, str) else body
    lines = [
        f"HTTP/1.1 {status} Whatever",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
        "Connection: close",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def soap(body: str, status: int = 200, prolog: str = "") -> bytes:
    """A SOAP answer."""
    return http(SOAP_ENVELOPE.format(body=body, prolog=prolog), status, "text/xml; charset=utf-8")


def error_of(call: Callable[[], object]) -> Failure:
    """The error of a call."""
    with pytest.raises(Failure) as caught:
        call()
    assert caught.value.__context__ is None
    return caught.value


# odd answers

CANARY = "ek" + token_hex(16)
HOSTILE = {
    "empty": http(""),
    "not json": http(CANARY),
    "json of another kind": http(json.dumps([CANARY])),
    "no envelope": http(json.dumps({"key": CANARY})),
    "deep": http("[" * 100_000),
    "success is no truth": http(json.dumps({"success": CANARY, "data": {}})),
    "not http": f"{CANARY}\r\n\r\n".encode(),
    "header is none": f"HTTP/1.1 200 OK\r\n{CANARY}\r\n\r\n".encode(),
    "too large": http("x" * (4 * 1024 * 1024 + 1)),
    "compressed": http(
        b"\x1f\x8b" + CANARY.encode(), 200, "application/json", "Content-Encoding: gzip"
    ),
    "location": http("", 302, "text/plain", f"Location: http://h:{CANARY}/"),
    "html": http(f"<html>{CANARY}</html>", 200, "text/html"),
    "html without saying so": http(f"<!DOCTYPE html><p>{CANARY}", 200, "text/plain"),
    "cut xml": http(f"<e:Envelope><{CANARY}", 200, "text/xml"),
    "empty envelope": soap(""),
    "another response": soap(f"<KeyOtherResponse><Key>{CANARY}</Key></KeyOtherResponse>"),
    "result without a number": soap(
        f"<KeySetResponse><KeySetResult><KeyID>{CANARY}</KeyID></KeySetResult></KeySetResponse>"
    ),
    "entities": soap(
        "<KeySetResponse><KeySetResult><Key>&a;</Key></KeySetResult></KeySetResponse>",
        prolog=f'<!DOCTYPE x [<!ENTITY a "{CANARY}">]>',
    ),
    "fault without a code": soap(
        f"<e:Fault><faultcode>e:Server</faultcode><faultstring>{CANARY}</faultstring></e:Fault>",
        500,
    ),
    "fault with an odd code": soap(
        "<e:Fault><detail><ECGridOSSOAPErrorCode>"
        f"{CANARY}</ECGridOSSOAPErrorCode></detail></e:Fault>",
        500,
    ),
}


@pytest.mark.parametrize("verify", [Verify.GET_KEY, Verify.KEY_GET], ids=["rest", "soap"])
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_odd_answer_is_taken_or_quoted(answer: bytes, verify: Verify) -> None:
    """To an issuing call it is a lost answer, to a read a transient one; what it said goes nowhere."""
    with serving(answer) as server, asking(server, verify) as account:
        for family, call in (
            (AnswerLost, lambda: account.issue(USER, PRIVATE, WITHIN)),
            (Transient, lambda: account.read(USER, WITHIN)),
        ):
            error = error_of(call)
            assert type(error) is family
            assert error.kind.startswith("ecgrid.")
            assert not shown_anywhere(error, {CANARY})
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "family"), [(401, Refused), (403, Forbidden), (404, NotFound), (409, Permanent)]
)
@pytest.mark.parametrize("body", ["", "{}", json.dumps({"title": "Unauthorized"})])
def test_a_refusal_without_an_envelope_goes_by_its_status(
    status: int, family: type[Failure], body: str
) -> None:
    """As a gateway before ECGrid may answer; nothing was issued then."""
    with serving(http(body, status)) as server, asking(server) as account:
        caller = Secret(token_hex(16))
        assert type(error_of(lambda: account.read(USER, WITHIN, caller=caller))) is family
        if family is not Refused:  # for the own key's rotation the client would wait
            assert type(error_of(lambda: account.issue(USER, PRIVATE, WITHIN))) is family


@pytest.mark.parametrize(
    ("code", "quoted"),
    [("QuotaExceeded", True), (f"{CANARY} {CANARY}", False), ("x" * 41, False)],
    ids=["word", "words", "long"],
)
def test_an_unknown_code_is_quoted_only_if_it_is_a_plain_word(code: str, quoted: bool) -> None:
    """What could hold a value is not repeated."""
    body = json.dumps({"success": False, "errorCode": code, "message": CANARY})
    with serving(http(body, 400)) as server, asking(server) as account:
        error = error_of(lambda: account.issue(USER, PRIVATE, WITHIN))
    assert type(error) is Permanent
    assert (code in str(error)) is quoted
    assert not shown_anywhere(error, {CANARY})


@pytest.mark.parametrize(
    ("wish", "seconds"),
    [("60", 60.0), ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0), ("soon", None), ("-5", None)],
)
def test_retry_after_is_a_number_or_a_date(wish: str, seconds: float | None) -> None:
    """A date is compared with the answer's own, not with this machine's clock."""
    date = "Date: Wed, 21 Oct 2026 07:28:00 GMT"
    answer = http("", 503, "text/plain", f"Retry-After: {wish}", date)
    with serving(answer) as server, asking(server) as account:
        error = error_of(lambda: account.read(USER, WITHIN))
    assert isinstance(error, Transient)
    assert (error.kind, error.retry_after) == ("ecgrid.Unavailable", seconds)


RECORD = "<KeyID>7</KeyID><UserID>{user}</UserID><Key>{key}</Key><Visibility>Private</Visibility>"


@pytest.mark.parametrize(
    "inner",
    [
        RECORD + "<Created>2025-01-15T08:30:00</Created>",
        RECORD
        + "<Note>new</Note><Created>2025-01-15T08:30:00.1234567+00:00</Created><Deep><A/></Deep>",
        "<Note/>" + RECORD,
        "<KeyIDInfo>" + RECORD + "<Note>new</Note></KeyIDInfo>",
        "<x:KeyIDInfo xmlns:x='https://os.ecgrid.io/'>" + RECORD + "</x:KeyIDInfo>",
        "\n  <Visibility>private</Visibility><Key> {key} </Key><UserID>{user}</UserID><KeyID>7</KeyID>",
        RECORD + "<Created>0001-01-01T00:00:00</Created>",
        RECORD + "<Created>yesterday</Created>",
    ],
)
@pytest.mark.parametrize("namespace", ["http://www.ecgridos.net/", "https://os.ecgrid.io/", ""])
def test_an_issued_key_is_found_in_a_result_of_any_shape(inner: str, namespace: str) -> None:
    """Elements too many, another order or namespace, a time that is none: the key is there and is not lost."""
    key = token_hex(16)
    result = inner.format(user=USER, key=key)
    body = f'<KeySetResponse xmlns="{namespace}"><KeySetResult>{result}</KeySetResult></KeySetResponse>'
    with serving(soap(body)) as server, asking(server, Verify.KEY_GET) as account:
        issued = account.issue(USER, PRIVATE, WITHIN)
    assert issued.value == Secret(key)
    assert issued.ref.key_id == 7


@pytest.mark.parametrize(
    "answer", ["<KeyListResponse/>", "<KeyListResponse><KeyListResult/></KeyListResponse>"]
)
def test_no_list_is_an_empty_one(answer: str) -> None:
    """As .NET leaves an empty array out."""
    with serving(soap(answer)) as server, asking(server, Verify.KEY_GET) as account:
        assert account.keys(USER, PRIVATE, WITHIN) == []


def test_a_removal_that_ecgrid_denies_is_an_error() -> None:
    """`false` is not done."""
    with serving(http('{"success": true, "data": false}')) as server, asking(server) as account:
        error = error_of(lambda: account.remove(7, WITHIN))
    assert (type(error), error.kind) == (Permanent, "ecgrid.NotRemoved")


def test_no_cookie_is_kept() -> None:
    """One request's cookie is not sent with the next."""
    answer = http('{"success": true, "data": "2.6"}', 200, "application/json", "Set-Cookie: a=b")
    with serving(answer) as server, asking(server) as account:
        account.version(WITHIN)
        account.version(WITHIN)
    assert len(server.requests) == 2
    assert b"cookie" not in b"".join(server.requests).lower()


# the environment


def test_netrc_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its password goes to nobody."""
    password = token_hex(16)
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login someone password {password}\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with serving(http('{"success": true, "data": "2.6"}')) as server, asking(server) as account:
        account.version(WITHIN)
    assert b"authorization" not in server.requests[0].lower()


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY gets the request, unless NO_PROXY excepts the host."""
    answer = http('{"success": true, "data": "2.6"}')
    with serving(answer) as proxy, serving(answer) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        with asking(server, host="ecgrid.invalid") as account:
            assert account.version(WITHIN) == "2.6"
        assert (len(proxy.requests), len(server.requests)) == (1, 0)
        monkeypatch.setenv("no_proxy", "*.invalid")
        with asking(server, host="ecgrid.invalid") as account:
            assert error_of(lambda: account.version(WITHIN)).kind == "ecgrid.Unreachable"
        assert (len(proxy.requests), len(server.requests)) == (1, 0)


@pytest.mark.parametrize("answer", [http("", 407), b"\r\n\r\n"], ids=["refuses", "nonsense"])
def test_what_a_proxy_does_not_pass_on_was_not_sent(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tunnel that is not opened carries no request, and no credential."""
    key = token_hex(16)
    with serving(answer) as proxy, serving(b"") as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        with asking(server, key=key, scheme="https", host="ecgrid.invalid") as account:
            error = error_of(lambda: account.issue(USER, PRIVATE, WITHIN))
        assert (type(error), error.kind) == (NotSent, "ecgrid.Unreachable")
        assert key.encode() not in b"".join(proxy.requests)
        assert server.requests == []


@pytest.mark.parametrize(
    ("name", "value"), [("https_proxy", "gopher://somewhere"), ("SSL_CERT_FILE", "/nowhere/at/all")]
)
def test_an_environment_that_cannot_be_used_is_bad_input(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent; the value, which may hold a password, is not shown."""
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput) as caught:
        ECGrid(At("https://e.invalid", "https://e.invalid"), Credentials([]), Rate(None))
    assert value not in str(caught.value)
    assert caught.value.__context__ is None


# connections


def test_connections_are_opened_ahead_without_a_request(world: World) -> None:
    """Then three calls side by side find one each."""
    account = world.account(Issue.CREATE_KEY)
    account.warm(3)
    assert world.simulator.requests() == []
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(account.read, USER, WITHIN) for _ in range(3)]:
            done.result()


def test_connections_opened_ahead_are_used() -> None:
    """The server sees no more of them than were asked for, however often that is."""
    with serving(
        b'HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n{"success": true, "data": "2.6"}'
    ) as server:
        with asking(server) as account:
            for _ in range(3):
                account.warm(3)
                account.version(WITHIN)
        until(lambda: server.connections >= 3, "the server has taken them all")
        assert (server.connections, len(server.requests)) == (3, 3)


def test_a_connection_that_was_closed_meanwhile_is_not_used() -> None:
    """A new one is made: the issuing call does not pay for the other side's impatience."""
    key = token_hex(16)
    record = {"keyId": 7, "userId": USER, "key": key, "visibility": "Private"}
    answer = http(json.dumps({"success": True, "data": record}))
    with serving(answer) as server, asking(server) as account:
        account.warm(2)
        server.drop(2)
        assert account.issue(USER, PRIVATE, WITHIN).value == Secret(key)
        until(lambda: server.connections >= 3, "the server has taken the new one")
        assert server.connections == 3


def test_warming_does_not_mind_that_nobody_is_there(world: World) -> None:
    """The call itself will say what is wrong."""
    account = world.account()
    world.running.refuse(600)
    account.warm(3)
    assert isinstance(failing(world, lambda: account.issue(USER, PRIVATE, WITHIN)), NotSent)


def test_warming_logs_in_where_it_has_to(world: World) -> None:
    """So that no log-in stands between issue and publish; a wrong password shows before anything is issued."""
    user = next(user for user in world.simulator.users() if user.user_id == OPERATOR)
    account = world.account(credentials=Credentials([], user.login, Secret(user.password)))
    account.warm(3)
    assert set(world.simulator.counts()) == {"Login", "AuthLogin"}
    wrong = Credentials([], user.login, Secret(token_hex(16)))
    assert isinstance(failing(world, lambda: world.account(credentials=wrong).warm(3)), Refused)


REST_ONLY = """
import sys
from types import SimpleNamespace
from rotator.ecgrid import Credentials, ECGrid, Rate, Urgency
from rotator.keys import Issue, Verify
at = SimpleNamespace(rest_url=sys.argv[1], soap_url=sys.argv[1], soap_namespace="urn:none")
ecgrid = ECGrid(at, Credentials([]), Rate(None))
print(ecgrid.account(Issue.CREATE_KEY, Verify.GET_KEY, Urgency.ROTATION).version(20))
print(sorted({"zeep", "lxml", "requests"} & set(sys.modules)))
"""


def test_zeep_is_not_imported_by_rest(simulator: Running) -> None:
    """A fleet that speaks only REST never pays for it."""
    done = subprocess.run(
        [sys.executable, "-c", REST_ONLY, simulator.rest_url],
        cwd=Path(__file__).parent.parent,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["2.6", "[]"]


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1, made for this session, and a server's context with it."""
    openssl = shutil.which("openssl")
    if openssl is None:  # `make test` needs no program but make, git and Python
        pytest.skip("no openssl on this machine")
    where = tmp_path_factory.mktemp("tls")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=simulated", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(where / "key.pem"), "-out", str(where / "cert.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True, timeout=120)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(where / "cert.pem", where / "key.pem")
    return where / "cert.pem", context


def test_a_certificate_of_nobody_is_refused(certificate: tuple[Path, ssl.SSLContext]) -> None:
    """No request leaves, and the error says what to check."""
    with (
        serving(http('{"success": true, "data": "2.6"}'), certificate[1]) as server,
        asking(server, scheme="https") as account,
    ):
        error = error_of(lambda: account.issue(USER, PRIVATE, WITHIN))
    assert (type(error), error.kind) == (NotSent, "ecgrid.Unreachable")
    assert "SSL_CERT_FILE" in str(error)
    assert server.requests == []


def test_connections_opened_ahead_over_tls_are_used(
    certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the authority of SSL_CERT_FILE; the handshake is done before the request."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n{"success": true, "data": "2.6"}'
    with ExitStack() as stack:
        server = stack.enter_context(serving(answer, certificate[1]))
        account = stack.enter_context(asking(server, scheme="https"))
        account.warm(3)
        for _ in range(2):
            assert account.version(WITHIN) == "2.6"
        assert server.connections == 3
        assert len(server.requests) == 2
