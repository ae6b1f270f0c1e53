"""A Vault (or OpenBao) server as a `KV`: login, renewal, and KV v2 through hvac."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import hvac

from rotator.errors import Forbidden, NotFound, Permanent, RotatorError, Transient
from rotator.keys import Secret
from rotator.settings import VaultSettings
from rotator.vault.clock import ServerClock
from rotator.vault.kv import At, Document, StaleRead
from rotator.vault.wire import Observer, Wire

CALL_SECONDS = 15  # hvac's own limit; the wire's are tighter
PATHS = 300  # whose capabilities one request asks for; OpenBao takes about a thousand strings
RENEW_BEFORE = 1 / 3  # of a login's life left: time to renew it


class Server:
    """KV v2 on a real server. Safe for use by many threads."""

    def __init__(
        self,
        settings: VaultSettings,
        *,
        boot: Callable[[], float],
        wall: Callable[[], float] = time.time,
        observer: Observer | None = None,
    ) -> None:
        self.settings = settings
        self.clock = ServerClock(boot, wall)
        self._wire = Wire(settings, self.clock, observer)
        # hvac would read VAULT_TOKEN and ~/.vault-token by itself; everything of the connection is the wire's.
        self._hvac = hvac.Client(
            url=settings.addr, token="", timeout=CALL_SECONDS, adapter=lambda **_: self._wire
        )
        self._boot = boot
        self._lock = threading.RLock()
        self._login: _Login | None = None
        self._mounts: set[str] = set()
        self._written: dict[At, int] = {}
        self._capabilities: dict[str, frozenset[str]] = {}

    def close(self) -> None:
        """Closes the connections; the login is left to expire."""
        self._wire.close()

    def now(self) -> datetime:
        """The server's time (see `KV.now`)."""
        return self.clock.now()

    # documents

    def read(self, at: At, version: int | None = None) -> Document | None:
        """See `KV.read`. API: GET MOUNT/data/PATH."""
        self._is_kv2(at.mount)
        try:
            answer = self._ask(
                lambda: self._hvac.secrets.kv.v2.read_secret_version(
                    at.path, version=version, mount_point=at.mount, raise_on_deleted_version=True
                )
            )
        except NotFound as error:
            if error.kind != "vault.NotFound":
                raise
            answer = None
        document = None if answer is None else _document(at, answer)
        if version is None and (document.version if document else 0) < self._written.get(at, 0):
            raise StaleRead(at, document)
        return document

    def write(self, at: At, data: dict[str, Any], cas: int) -> int:
        """See `KV.write`. API: POST MOUNT/data/PATH with `options.cas`."""
        self._is_kv2(at.mount)
        answer = self._ask(
            lambda: self._hvac.secrets.kv.v2.create_or_update_secret(
                at.path, secret=data, cas=cas, mount_point=at.mount
            )
        )
        version = _fields(answer).get("version")
        if not isinstance(version, int):
            raise Permanent(
                f"Vault stored {at} without a version: is {at.mount} KV v2?", kind="vault.NotKV2"
            )
        self._written[at] = version
        return version

    def destroy(self, at: At) -> None:
        """See `KV.destroy`. API: DELETE MOUNT/metadata/PATH."""
        self._ask(
            lambda: self._hvac.secrets.kv.v2.delete_metadata_and_all_versions(
                at.path, mount_point=at.mount
            )
        )
        self._written.pop(at, None)

    def annotate(self, at: At, custom: dict[str, str]) -> None:
        """See `KV.annotate`. API: PATCH MOUNT/metadata/PATH (hvac has only the POST, which would replace it all)."""
        self._ask(
            lambda: self._wire.request(
                "patch",
                f"/v1/{at.mount}/metadata/{at.path}",
                headers={"Content-Type": "application/merge-patch+json"},
                json={"custom_metadata": custom},
            )
        )

    def names(self, at: At) -> list[str]:
        """See `KV.names`. API: LIST MOUNT/metadata/PATH."""
        self._is_kv2(at.mount)
        try:
            answer = self._ask(
                lambda: self._hvac.secrets.kv.v2.list_secrets(at.path, mount_point=at.mount)
            )
        except NotFound:
            return []
        names = _fields(answer).get("keys")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Transient(f"Vault's answer for {at} is no list of names", kind="vault.BadAnswer")
        return [name for name in names if not name.endswith("/")]

    def forget(self, at: At) -> None:
        """See `KV.forget`."""
        self._written.pop(at, None)

    # what the login may do

    def missing(self, needs: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """See `KV.missing`. API: POST sys/capabilities-self, once per login and path, if it suffices."""
        with self._lock:
            self._logged_in()
            told = {path: self._capabilities[path] for path in needs if path in self._capabilities}
        unknown = sorted(needs.keys() - told.keys())
        for start in range(0, len(unknown), PATHS):
            some = unknown[start : start + PATHS]
            answer = self._ask(partial(self._hvac.sys.get_capabilities, some))
            said = _fields(answer) or answer
            told |= {path: _words(said.get(path)) for path in some}
        root = frozenset({"root"})
        missing = {path: needs[path] - has for path, has in told.items() if has != root}
        missing = {path: lacks for path, lacks in missing.items() if lacks}
        with self._lock:
            # What is lacking is asked for again: somebody may have granted it since.
            self._capabilities |= {path: has for path, has in told.items() if path not in missing}
            for path in missing:
                self._capabilities.pop(path, None)
        return missing

    def expiring(self, at: At) -> bool:
        """Whether versions at that path, or in its whole mount, delete themselves (`delete_version_after`)."""
        for url in (f"/v1/{at.mount}/config", f"/v1/{at.mount}/metadata/{at.path}"):
            try:
                answer = self._ask(partial(self._wire.request, "get", url))
            except (NotFound, Forbidden):
                continue
            if _fields(answer).get("delete_version_after", "0s") not in ("0s", "0", ""):
                return True
        return False

    def _is_kv2(self, mount: str) -> None:
        """Raises Permanent unless KV v2 is mounted there; asked once per mount. API: sys/internal/ui/mounts."""
        if mount in self._mounts:
            return
        try:
            answer = self._ask(
                lambda: self._wire.request("get", f"/v1/sys/internal/ui/mounts/{mount}")
            )
        except Permanent as error:
            problem, kind = error.kind, "vault.NoMount"
        else:
            about = _fields(answer)
            if about.get("type") == "kv" and (about.get("options") or {}).get("version") == "2":
                self._mounts.add(mount)
                return
            problem, kind = "it is not", "vault.NotKV2"
        raise Permanent(
            f"{mount}/ must be a KV v2 mount that this login may use ({problem}); "
            f"check the mount's name in the policy, or `vault secrets enable -path={mount} -version=2 kv`",
            kind=kind,
        )

    # login

    def outlast(self, seconds: float) -> None:
        """See `KV.outlast`. API: token/renew-self, or a new login."""
        with self._lock:
            login = self._logged_in()
            if login.left(self._boot()) > seconds:
                return
            if login.renewable and self._renewed(seconds):
                return
            if self.settings.auth != "token":
                self._log_in()
            if self._logged_in().left(self._boot()) > seconds:
                return
        raise Permanent(
            f"the Vault login ends before a rotation could ({seconds:.0f} s) and cannot be prolonged; "
            "give the rotator a longer-lived or renewable token, or another auth method",
            kind="vault.TokenExpires",
        )

    def refresh(self) -> None:
        """Renews the login, or logs in again, once two thirds of its life are over; else does nothing."""
        with self._lock:
            login = self._logged_in()
            if login.left(self._boot()) < login.life * RENEW_BEFORE:
                self.outlast(login.life * RENEW_BEFORE)

    def login_left(self) -> float:
        """Seconds until the login ends; infinite for one that never does."""
        return self._logged_in().left(self._boot())

    def _ask(self, call: Callable[[], Any]) -> dict[str, Any]:
        """One request, logged in; a 403 is followed by one new login and one repetition (it was not carried out)."""
        login = self._logged_in()
        try:
            answer: dict[str, Any] = call()
        except Forbidden:
            # A login that has never served lacks the right; one that has may have ended.
            if self.settings.auth == "token" or not login.served:
                raise
        else:
            login.served = True
            return answer
        with self._lock:
            if self._login is login:
                self._log_in()
        again: dict[str, Any] = call()
        return again

    def _logged_in(self) -> _Login:
        with self._lock:
            return self._login or self._log_in()

    def _renewed(self, seconds: float) -> bool:
        try:
            self._take(self._hvac.auth.token.renew_self(), served=True)
        except RotatorError:
            return False
        return self._logged_in().left(self._boot()) > seconds

    def _log_in(self) -> _Login:
        self._wire.secret_token = None
        self._capabilities.clear()
        how, settings = self._hvac.auth, self.settings
        mount = settings.auth_mount or settings.auth
        if settings.auth == "token":
            return self._take_token()
        if settings.auth == "approle":
            role_id, secret_id = settings.role_id, settings.secret_id
            answer = how.approle.login(
                role_id=role_id or "",
                secret_id=secret_id.reveal() if secret_id else None,
                use_token=False,
                mount_point=mount,
            )
        elif settings.auth == "kubernetes":
            answer = how.kubernetes.login(
                role=settings.role, jwt=self._jwt().reveal(), use_token=False, mount_point=mount
            )
        elif settings.auth == "jwt":
            answer = how.jwt.jwt_login(
                role=settings.role, jwt=self._jwt().reveal(), use_token=False, path=mount
            )
        else:
            body = {"name": settings.role} if settings.role else {}
            answer = self._wire.request("post", f"/v1/auth/{mount}/login", json=body)
        return self._take(answer, served=False)

    def _jwt(self) -> Secret:
        """The service account's token, read anew at each login: it is rotated under us."""
        path = Path(self.settings.jwt_file)
        try:
            return Secret.clean(path.read_text(), f"the file {path}")
        except (OSError, UnicodeError) as error:
            problem = type(error).__name__
        raise Permanent(f"the token in {path} cannot be read ({problem})", kind="vault.NoJWT")

    def _take_token(self) -> _Login:
        token = self.settings.token
        if token is None:
            raise Permanent("no Vault token: set VAULT_TOKEN", kind="vault.NoToken")
        self._wire.secret_token = token
        about = _fields(self._hvac.auth.token.lookup_self())
        self._login = _Login(
            self._boot(), _seconds(about.get("ttl")), bool(about.get("renewable")), False
        )
        return self._login

    def _take(self, answer: dict[str, Any], *, served: bool) -> _Login:
        auth = _fields(answer, "auth")
        if not isinstance(auth.get("client_token"), str):
            raise Permanent(
                "Vault's answer to the login has no token in it", kind="vault.BadAnswer"
            )
        self._wire.secret_token = Secret.clean(auth["client_token"], "the token of Vault's login")
        self._login = _Login(
            self._boot(),
            _seconds(auth.get("lease_duration")),
            bool(auth.get("renewable")),
            served,
        )
        return self._login


class _Login:
    """A login: when it was made, how long it lives (0: for ever), and whether it has served yet."""

    def __init__(self, at: float, life: float, renewable: bool, served: bool) -> None:
        self.at, self.life, self.renewable, self.served = at, life, renewable, served

    def left(self, boot: float) -> float:
        """Seconds that are left of it."""
        return self.at + self.life - boot if self.life else float("inf")


def _fields(answer: dict[str, Any], name: str = "data") -> dict[str, Any]:
    """An object within an answer; empty if there is none."""
    inner = answer.get(name)
    return inner if isinstance(inner, dict) else {}


def _seconds(length: object) -> float:
    return float(length) if isinstance(length, int | float) else 0.0


def _document(at: At, answer: dict[str, Any]) -> Document:
    outer = answer.get("data")
    metadata = outer.get("metadata") if isinstance(outer, dict) else None
    if (
        not isinstance(outer, dict)
        or not isinstance(metadata, dict)
        or not isinstance(outer.get("data"), dict)
        or not isinstance(metadata.get("version"), int)
    ):
        raise Transient(f"Vault's answer for {at} is not a KV v2 document", kind="vault.BadAnswer")
    return Document(outer["data"], metadata["version"], _fields(metadata, "custom_metadata"))


def _words(told: object) -> frozenset[str]:
    return frozenset(told) if isinstance(told, list) else frozenset()
