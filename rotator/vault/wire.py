"""The wire to Vault: hvac's adapter with deadlines, no redirects, our errors, and the server's clock.

Nothing of requests or hvac leaves this module: their exceptions quote headers and bodies, so ours are raised after
the `except` block has ended, in our own words plus a status.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import requests
from hvac.adapters import RawAdapter
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from rotator.errors import (
    AnswerLost,
    Forbidden,
    Gone,
    Mismatch,
    NotFound,
    NotSent,
    Permanent,
    Transient,
)
from rotator.keys import Secret
from rotator.vault.clock import ServerClock

CONNECT_TIMEOUT = 5.0
CHUNK_TIMEOUT = 10.0  # between two chunks of an answer
CALL_TIMEOUT = 15.0  # a whole call
BODY_LIMIT = 4 * 1024 * 1024

Observer = Callable[[str, str, float], None]  # operation, "ok" or the error's kind, seconds


class _TLSName(HTTPAdapter):
    """Checks the certificate against another name than the address's (VAULT_TLS_SERVER_NAME)."""

    def __init__(self, name: str) -> None:
        self._name = name
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(server_hostname=self._name, assert_hostname=self._name)
        super().init_poolmanager(*args, **kwargs)


class Wire(RawAdapter):  # type: ignore[misc]  # hvac ships no types
    """Sends hvac's requests. Answers come back as the parsed JSON object; every failure as one of our errors.

    Sessions of requests are not promised to be safe between threads, so each thread has its own.
    """

    def __init__(
        self,
        addr: str,
        clock: ServerClock,
        *,
        namespace: str | None,
        verify: bool | str,
        cert: tuple[str, str] | None,
        tls_name: str | None,
        observer: Observer | None,
    ) -> None:
        super().__init__(
            base_uri=addr, namespace=namespace, session=requests.Session(), timeout=None
        )
        self._clock, self._observer = clock, observer
        self._verify, self._cert, self._tls_name = verify, cert, tls_name
        self._proxies = get_environ_proxies(addr)  # HTTPS_PROXY and NO_PROXY, looked up once
        self._local = threading.local()
        self._sessions: list[requests.Session] = [self.session]
        self.secret_token: Secret | None = None

    def close(self) -> None:
        """Closes every connection."""
        for session in self._sessions:
            session.close()

    def _own_session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False  # no .netrc, no REQUESTS_CA_BUNDLE
            if self._tls_name:
                session.mount("https://", _TLSName(self._tls_name))
            self._local.session = session
            self._sessions.append(session)
        return session

    def request(
        self, method: str, url: str, headers: dict[str, str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Sends one request; `within` (seconds) and `changes` (is it a write?) may be given beside requests' own."""
        within = min(kwargs.pop("within", None) or CALL_TIMEOUT, CALL_TIMEOUT)
        changes = kwargs.pop("changes", method.lower() not in ("get", "list"))
        kwargs.pop("wrap_ttl", None)  # of hvac's token calls: nobody here asks for a wrapped answer
        operation = f"{method.lower()} {_operation(url)}"
        started, outcome = time.monotonic(), "ok"
        try:
            limits = (within, changes)
            return self._exchange(operation, (method, url, headers or {}), limits, kwargs)
        except Exception as error:
            outcome = getattr(error, "kind", type(error).__name__)
            raise
        finally:
            if self._observer:
                self._observer(operation, outcome, time.monotonic() - started)

    def _exchange(
        self,
        operation: str,
        target: tuple[str, str, dict[str, str]],
        limits: tuple[float, bool],
        kwargs: dict[str, Any],
    ) -> dict[str, Any]:
        (method, url, headers), (within, changes) = target, limits
        sent = {**headers, "X-Vault-Request": "true"}
        if self.secret_token is not None:
            sent["X-Vault-Token"] = self.secret_token.reveal()
        if self.namespace:
            sent["X-Vault-Namespace"] = self.namespace
        status, body, wait = 0, b"", None
        failure: Exception | None = None
        try:
            response = self._own_session().request(
                method,
                self.urljoin(self.base_uri, url),
                headers=sent,
                allow_redirects=False,
                stream=True,
                timeout=(min(CONNECT_TIMEOUT, within), min(CHUNK_TIMEOUT, within)),
                verify=self._verify,
                cert=kwargs.pop("cert", None) or self._cert,
                proxies=dict(self._proxies),
                **kwargs,
            )
            with response:
                body = _read_all(response, time.monotonic() + within)
            status, wait = response.status_code, response.headers.get("Retry-After")
            self._clock.saw(response.headers.get("Date"))
        except (requests.RequestException, ValueError) as error:
            failure = _lost(operation, error, changes)
        if failure is not None:
            raise failure
        return _answer(operation, status, body, wait, changes)


def _operation(url: str) -> str:
    """The kind of endpoint, without mount or path: a label for metrics and messages."""
    parts = url.removeprefix("/v1/").split("/")
    if parts[0] in ("sys", "auth"):
        return "/".join(parts[:2]) if parts[0] == "sys" else f"auth/{parts[-1]}"
    return next((part for part in parts if part in ("data", "metadata")), "config")


def _read_all(response: requests.Response, until: float) -> bytes:
    body = b""
    for chunk in response.iter_content(65536):
        body += chunk
        if time.monotonic() > until:
            raise requests.ReadTimeout("the answer took too long")
        if len(body) > BODY_LIMIT:
            raise requests.ReadTimeout("the answer is too large")
    return body


def _causes(error: BaseException | None) -> list[BaseException]:
    """The exceptions inside a requests exception: urllib3 puts them into `reason` and `args`."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        error = inner if isinstance(inner, BaseException) else None
    return found


def _lost(operation: str, error: Exception, changes: bool) -> Transient | Permanent:
    name = type(error).__name__
    if isinstance(error, requests.exceptions.SSLError):
        return Transient(
            f"Vault, {operation}: the TLS connection failed ({name}); check the certificate's dates and names, "
            "and VAULT_CACERT",
            kind="vault.TLS",
        )
    if any(isinstance(cause, NewConnectionError | ConnectTimeoutError) for cause in _causes(error)):
        return NotSent(
            f"Vault, {operation}: no connection ({name}); is VAULT_ADDR right, and Vault running?",
            kind="vault.Unreachable",
        )
    if isinstance(error, requests.exceptions.InvalidHeader | requests.exceptions.InvalidURL):
        return Permanent(
            f"Vault, {operation}: the request could not be built ({name}); check VAULT_ADDR and VAULT_NAMESPACE",
            kind="vault.BadRequest",
        )
    timed_out = isinstance(error, requests.Timeout)
    kind = "vault.Timeout" if timed_out else "vault.ConnectionLost"
    what = f"Vault, {operation}: {'no answer in time' if timed_out else 'the connection broke'} ({name})"
    return AnswerLost(what, kind=kind) if changes else Transient(what, kind=kind)


def _answer(
    operation: str, status: int, body: bytes, wait: str | None, changes: bool
) -> dict[str, Any]:
    if status == 204:
        return {}
    answer = (
        _json(body) if body or status != 404 else {}
    )  # a PATCH of nothing is answered by nothing
    if status == 200 and answer is not None:
        return answer
    raise _refusal(operation, status, answer, wait, changes)


def _json(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _refusal(  # noqa: PLR0911 - a table of statuses reads best as one
    operation: str, status: int, answer: dict[str, Any] | None, wait: str | None, changes: bool
) -> Exception:
    what = f"Vault, {operation}: status {status}"
    if answer is None:  # not Vault that spoke: a proxy, a captive page
        text = f"{what}, not an answer of Vault's; is there a proxy between?"
        kind = "vault.NotVault"
        return (
            AnswerLost(text, kind=kind) if changes and status != 404 else Transient(text, kind=kind)
        )
    told = answer.get("errors")
    said = " ".join(str(line) for line in told).lower() if isinstance(told, list) else ""
    if status == 400 and "check-and-set parameter did not match" in said:
        return Mismatch(f"{what}: the document has another version than expected")
    if status in (400, 405):
        return Permanent(
            f"{what}: the request is not accepted; is the mount a KV v2?",
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
        after = float(wait) if wait and wait.isdigit() else None
        return Transient(f"{what}: not now", kind="vault.Busy", retry_after=after)
    return (
        AnswerLost(what, kind="vault.ServerError")
        if changes
        else Transient(what, kind="vault.ServerError")
    )


def _not_found(what: str, answer: dict[str, Any], said: str) -> Exception:
    outer = answer.get("data")
    metadata = outer.get("metadata") if isinstance(outer, dict) else None
    if isinstance(metadata, dict) and isinstance(metadata.get("version"), int):
        gone = "destroyed" if metadata.get("destroyed") else "deleted"
        return Gone(
            f"{what}: version {metadata['version']} was {gone}", version=metadata["version"]
        )
    if "no handler for route" in said or "unsupported path" in said:
        return NotFound(f"{what}: nothing is mounted there", kind="vault.NoMount")
    return NotFound(f"{what}: there is nothing", kind="vault.NotFound")
