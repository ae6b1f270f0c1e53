"""The wire to Vault: an adapter for hvac with deadlines, no redirects, our errors, and the server's clock.

It sends by urllib3 itself, since hvac's own way, by requests, costs twice the time. Nothing of urllib3 or hvac leaves
this module: their exceptions quote headers and bodies, so ours are raised after the `except` block has ended, in our
own words plus a status.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import urllib3
from hvac.adapters import RawAdapter
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from rotator import __version__, files
from rotator.errors import (
    AnswerLost,
    BadInput,
    Forbidden,
    Gone,
    Mismatch,
    NotFound,
    NotSent,
    Permanent,
    Problem,
    Transient,
    wish,
)
from rotator.keys import Secret
from rotator.settings import VaultSettings, client_context, proxy_for, why_refused
from rotator.vault.clock import ServerClock

CONNECT_TIMEOUT = 5.0
# Between two chunks of an answer.
CHUNK_TIMEOUT = 10.0
# A whole call.
CALL_TIMEOUT = 15.0
BODY_LIMIT = 4 * 1024 * 1024
HEALTH_TIMEOUT = 3.0
# That are kept open; more are opened and closed as they are needed.
CONNECTIONS = 64

# Operation, "ok" or the error's kind, seconds.
Observer = Callable[[str, str, float], None]


@dataclass(frozen=True)
class _Reply:
    """What came back: `answer` is its JSON object, None for anything else."""

    status: int
    body: bytes = field(repr=False)
    answer: dict[str, Any] | None = field(repr=False)
    date: str | None
    retry_after: float | None

    @property
    def vaults_own(self) -> bool:
        """Whether Vault gave it, not something in between: JSON with a request's id, or the empty 204."""
        if self.status == 204:
            return not self.body
        return self.answer is not None and isinstance(self.answer.get("request_id"), str)


class Wire(RawAdapter):  # type: ignore[misc]  # hvac ships no types
    """Sends hvac's requests. Answers come back as the parsed JSON object; every failure as one of our errors.

    May be used by any number of threads, which share its connections.
    """

    def __init__(
        self, settings: VaultSettings, clock: ServerClock, observer: Observer | None
    ) -> None:
        """Raises BadInput if a certificate, or a proxy of the environment, cannot be used."""
        # Without `super().__init__`, which would open a session of requests.
        self.base_uri, self.namespace = settings.addr or "", settings.namespace
        self._clock, self._observer = clock, observer
        self._settings, self._written = settings, _written(settings)
        self._pools = _pools(settings)
        self.secret_token: Secret | None = None
        # Of a token, by requests that were sent with one.
        self.uses = 0
        self._counting = threading.Lock()

    def close(self) -> None:
        """Closes every connection."""
        self._pools.clear()

    def request(
        self, method: str, url: str, headers: dict[str, str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Sends one request, with hvac's `json` and `params`; `within` (seconds) and `changes` (a write?) are ours."""
        within = min(kwargs.pop("within", None) or CALL_TIMEOUT, CALL_TIMEOUT)
        changes = kwargs.pop("changes", method.lower() not in ("get", "list"))
        operation = f"{method.lower()} {_operation(url)}"
        target = self.urljoin(self.base_uri, url)
        params = {name: value for name, value in (kwargs.get("params") or {}).items() if value}
        if params:
            target += "?" + urlencode(params)
        started, outcome = time.monotonic(), "ok"
        try:
            limits = (within, changes)
            # Named by the whole path: it is no secret, and says which document it was.
            what = f"{method.lower()} {url.removeprefix('/v1/')}"
            sent = self._headers(url) | (headers or {})
            return self._exchange(what, (method.upper(), target, sent), limits, kwargs.get("json"))
        except Exception as error:
            outcome = getattr(error, "kind", type(error).__name__)
            raise
        finally:
            if self._observer:
                self._observer(operation, outcome, time.monotonic() - started)

    def health(self) -> float | None:
        """The server's time as `sys/health` tells it, whatever else it says; None where that cannot be had.

        Asked without token and namespace: only the root namespace answers it.
        """
        target = self.urljoin(self.base_uri, "/v1/sys/health")
        try:
            reply = self._send("GET", target, _sent(None), None, HEALTH_TIMEOUT)
        except (HTTPError, OSError, ValueError):
            return None
        seconds = (reply.answer or {}).get("server_time_utc")
        return float(seconds) if isinstance(seconds, int) else None

    def _headers(self, url: str) -> dict[str, str]:
        """What goes with every request. A login is sent without a token: the one before may be over."""
        sent = _sent(None if _operation(url) == "auth/login" else self.secret_token)
        if self.namespace:
            sent["X-Vault-Namespace"] = self.namespace
        return sent

    def _exchange(
        self,
        what: str,
        target: tuple[str, str, dict[str, str]],
        limits: tuple[float, bool],
        data: object,
    ) -> dict[str, Any]:
        (method, url, sent), (within, changes) = target, limits
        content = None if data is None else json.dumps(data).encode()
        if content is not None:
            sent = {"Content-Type": "application/json"} | sent
        if "X-Vault-Token" in sent:
            with self._counting:
                self.uses += 1
        started = time.monotonic()
        reply: _Reply | Exception
        try:
            reply = self._send(method, url, sent, content, within)
        except (HTTPError, OSError, ValueError) as error:
            reply = _lost(what, error, changes)
        if isinstance(reply, Exception):
            raise reply
        if reply.vaults_own:
            self._clock.saw(reply.date, time.monotonic() - started)
        return _answer(what, reply, changes, len(content or b""))

    def _connections(self) -> urllib3.PoolManager:
        """The connections; new ones once the files for TLS are others, and fit each other."""
        written = _written(self._settings)
        if written != self._written:
            # The key is yet to follow its certificate.
            with suppress(BadInput):
                # Those of before end with the last request that is on its way by them.
                self._pools, self._written = _pools(self._settings), written
        return self._pools

    def _send(
        self, method: str, url: str, sent: dict[str, str], content: bytes | None, within: float
    ) -> _Reply:
        response = self._connections().urlopen(
            method,
            url,
            body=content,
            headers=sent,
            redirect=False,
            retries=False,
            preload_content=False,
            timeout=urllib3.Timeout(
                connect=min(CONNECT_TIMEOUT, within), read=min(CHUNK_TIMEOUT, within)
            ),
        )
        with closing(response):
            body = _read_all(response, time.monotonic() + within)
        date = response.headers.get("Date")
        after = wish(response.headers.get("Retry-After"), date)
        return _Reply(response.status, body, _json(body), date, after)


def _sent(token: Secret | None) -> dict[str, str]:
    sent = {"User-Agent": f"rotator/{__version__}", "X-Vault-Request": "true"}
    if token is not None:
        sent["X-Vault-Token"] = token.reveal()
    return sent


def _written(settings: VaultSettings) -> list[tuple[int, int] | None]:
    """Which files there are for TLS, and when they were written last: another answer means that they were replaced."""
    return [_version(one.path) for one in settings.tls_files() if one is not None]


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _pools(settings: VaultSettings) -> urllib3.PoolManager:
    """The connections, as VAULT_CACERT and its siblings, HTTPS_PROXY and NO_PROXY want them."""
    try:
        options: dict[str, Any] = {"maxsize": CONNECTIONS}
        if (settings.addr or "").startswith("https:"):
            options["ssl_context"] = _tls(settings)
            if settings.tls_server_name:
                options["server_hostname"] = settings.tls_server_name
                options["assert_hostname"] = settings.tls_server_name
        proxy = proxy_for(settings.addr or "")
        if proxy is None:
            return urllib3.PoolManager(**options)
        by = urlsplit(proxy)
        who = f"{unquote(by.username)}:{unquote(by.password or '')}" if by.username else None
        return urllib3.ProxyManager(
            proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=who), **options
        )
    except (OSError, ValueError, HTTPError):
        pass
    raise BadInput([Problem("VAULT_ADDR", "cannot be connected to as it is written")])


def _tls(settings: VaultSettings) -> ssl.SSLContext:
    """Without VAULT_CACERT and VAULT_CAPATH the system's authorities count, or SSL_CERT_FILE's."""
    context = client_context(*settings.tls_files())
    if settings.skip_verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _operation(url: str) -> str:
    """The kind of endpoint, without mount or path: a label for metrics and messages."""
    parts = url.removeprefix("/v1/").split("/")
    if parts[0] in ("sys", "auth"):
        return "/".join(parts[:2]) if parts[0] == "sys" else f"auth/{parts[-1]}"
    return next((part for part in parts if part in ("data", "metadata")), "config")


def _read_all(response: urllib3.BaseHTTPResponse, until: float) -> bytes:
    """The body; what comes a byte at a time ends in time, too."""
    body = bytearray()
    while chunk := response.read1(65536, decode_content=False):
        body += chunk
        if time.monotonic() > until:
            raise TimeoutError("the answer took too long")
        if len(body) > BODY_LIMIT:
            raise ProtocolError("the answer is too large")
    return bytes(body)


def _lost(operation: str, error: Exception, changes: bool) -> Transient | Permanent:
    name = type(error).__name__
    if files.out_of_files(error):
        return NotSent(f"Vault, {operation}: {files.NO_MORE}", kind=files.KIND)
    inner = error.original_error if isinstance(error, ProxyError) else error
    if isinstance(inner, SSLError | ssl.SSLError):
        return Transient(
            f"Vault, {operation}: no secure connection: {why_refused(inner, 'VAULT_CACERT')}",
            kind="vault.TLS",
        )
    if isinstance(error, NewConnectionError | ConnectTimeoutError | ProxyError):
        return NotSent(
            f"Vault, {operation}: no connection ({name}); is VAULT_ADDR right, and Vault running?",
            kind="vault.Unreachable",
        )
    if isinstance(error, LocationValueError) or (
        isinstance(error, ValueError) and not isinstance(error, HTTPError)
    ):
        return Permanent(
            f"Vault, {operation}: the request could not be built ({name}); check VAULT_ADDR and VAULT_NAMESPACE",
            kind="vault.BadRequest",
        )
    timed_out = isinstance(error, TimeoutError | ReadTimeoutError)
    kind = "vault.Timeout" if timed_out else "vault.ConnectionLost"
    what = f"Vault, {operation}: {'no answer in time' if timed_out else 'the connection broke'} ({name})"
    return AnswerLost(what, kind=kind) if changes else Transient(what, kind=kind)


def _answer(what: str, reply: _Reply, changes: bool, size: int) -> dict[str, Any]:
    if reply.status == 204:
        return {}
    answer = reply.answer
    if not reply.body and reply.status == 404:
        # A PATCH of nothing is answered by nothing.
        answer = {}
    if reply.status == 200 and answer is not None:
        return answer
    raise _refusal(f"Vault, {what}: status {reply.status}", reply, answer, changes, size)


def _json(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _refusal(  # noqa: PLR0911 - a table of statuses reads best as one
    what: str, reply: _Reply, answer: dict[str, Any] | None, changes: bool, size: int
) -> Exception:
    status = reply.status
    if status == 413 or _too_large(answer):
        return Permanent(
            f"{what}: {size} bytes are more than the server, its storage, or a proxy takes. Make the document smaller, "
            "or raise the limit (raft: `max_entry_size`)",
            kind="vault.TooLarge",
        )
    # Not Vault that spoke: a proxy, a captive page.
    if answer is None:
        text = (
            f"{what}, not an answer of Vault's; is VAULT_ADDR right, and is there a proxy between?"
        )
        kind = "vault.NotVault"
        return (
            AnswerLost(text, kind=kind) if changes and status != 404 else Transient(text, kind=kind)
        )
    said = _said(answer)
    if status == 400 and "check-and-set parameter did not match" in said:
        return Mismatch(f"{what}: the document has another version than expected")
    if status in (400, 405):
        return Permanent(
            f"{what}: the request is not accepted; is the mount a KV v2, and the document within the server's limits?",
            kind="vault.InvalidRequest",
        )
    if status in (401, 403):
        return Forbidden(
            f"{what}: permission denied; is the token valid, and does its policy allow this? "
            "`rotator doctor` names the missing capability",
            kind="vault.Forbidden",
        )
    if status == 404:
        return _not_found(what, answer, said)
    if status == 503:
        return Transient(f"{what}: sealed, or no node is active", kind="vault.Sealed")
    if status in (301, 302, 307, 308):
        return Transient(
            f"{what}: a standby that redirects; point VAULT_ADDR at the active node",
            kind="vault.Redirect",
        )
    if status in (412, 429, 472, 473):
        return Transient(f"{what}: not now", kind="vault.Busy", retry_after=reply.retry_after)
    return (
        AnswerLost(what, kind="vault.ServerError")
        if changes
        else Transient(what, kind="vault.ServerError")
    )


def _said(answer: dict[str, Any] | None) -> str:
    lines = (answer or {}).get("errors")
    return " ".join(str(line) for line in lines).lower() if isinstance(lines, list) else ""


def _too_large(answer: dict[str, Any] | None) -> bool:
    """Whether Vault says so of a document: a storage's limit is a 500, told from others by these words only."""
    said = _said(answer)
    return "too large" in said


def _not_found(what: str, answer: dict[str, Any], said: str) -> Exception:
    outer = answer.get("data")
    metadata = outer.get("metadata") if isinstance(outer, dict) else None
    if isinstance(metadata, dict) and isinstance(metadata.get("version"), int):
        gone = "destroyed" if metadata.get("destroyed") else "deleted"
        return Gone(
            f"{what}: version {metadata['version']} was {gone}", version=metadata["version"]
        )
    if "no handler for route" in said or "unsupported path" in said or "namespace" in said:
        return NotFound(
            f"{what}: nothing is mounted there; are VAULT_ADDR and VAULT_NAMESPACE right?",
            kind="vault.NoMount",
        )
    return NotFound(
        f"{what}: there is nothing; if there should be, are VAULT_ADDR and VAULT_NAMESPACE right?",
        kind="vault.NotFound",
    )
