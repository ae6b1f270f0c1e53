"""A Vault (or OpenBao) server as a `KV`: KV v2 through hvac, what the login may do, and what time it is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import hvac

from rotator.errors import Forbidden, Gone, NotFound, Permanent, RotatorError, Transient
from rotator.settings import VaultSettings
from rotator.vault.clock import ServerClock
from rotator.vault.kv import At, Document, StaleRead, TimeInDoubt
from rotator.vault.login import Logins, ReadAgain, fields
from rotator.vault.wire import Observer, Wire

# hvac's own limit; the wire's are tighter.
CALL_SECONDS = 15
# Whose capabilities one request asks for; OpenBao takes about a thousand strings.
PATHS = 300
# Seconds for which an answer about capabilities counts.
FRESH = 60.0
# Times that `sys/health` is asked for the time: behind one address there may be several nodes.
NODES = 5


class Server:
    """KV v2 on a real server. Safe for use by many threads."""

    def __init__(
        self,
        settings: VaultSettings,
        *,
        boot: Callable[[], float],
        wall: Callable[[], float] = time.time,
        observer: Observer | None = None,
        read_again: ReadAgain = lambda _name: None,
    ) -> None:
        """`read_again` reads a credential's file again; None where it came from no file."""
        self.settings = settings
        self.clock = ServerClock(boot, wall)
        self._wire = Wire(settings, self.clock, observer)
        # hvac would read VAULT_TOKEN and ~/.vault-token by itself; everything of the connection is the wire's.
        self._hvac = hvac.Client(
            url=settings.addr, token="", timeout=CALL_SECONDS, adapter=lambda **_: self._wire
        )
        self._boot = boot
        self.logins = Logins(
            settings, self._wire, self._hvac, boot, now=self.now, read_again=read_again
        )
        self._lock = threading.RLock()
        self._timing = threading.Lock()
        self._mounts: set[str] = set()
        self._written: dict[At, int] = {}
        # What the token may do, by API path, and when that was asked; those that were needed last stand last.
        self._capabilities: dict[str, tuple[float, frozenset[str]]] = {}
        # The login that they are of.
        self._capable: object = None

    def close(self) -> None:
        """Closes the connections; the login is left to expire."""
        self._wire.close()

    def now(self) -> datetime:
        """The server's time (see `KV.now`)."""
        return self.clock.now()

    def sure_of_time(self) -> None:
        """See `KV.sure_of_time`. API: sys/health, else (without a right) token/lookup-self."""
        with self._timing:
            if not self.clock.in_doubt:
                return
            times = [self._wire.health()]
            if times[0] is None:
                # One more answer to judge by.
                with suppress(RotatorError):
                    self._ask(self._hvac.auth.token.lookup_self)
            else:
                times += [self._wire.health() for _ in range(NODES - 1)]
            self.clock.heard([moment for moment in times if moment is not None])
            if self.clock.in_doubt:
                raise TimeInDoubt(self.clock.skew())

    # documents

    def read(self, place: At, version: int | None = None) -> Document | None:
        """See `KV.read`. API: GET MOUNT/data/PATH."""
        self._is_kv2(place.mount)
        answer = self._ask_for_version(place, version)
        document = None if answer is None else _document(place, answer)
        if version is None and (document.version if document else 0) < self._written.get(place, 0):
            raise StaleRead(place, document)
        return document

    def _ask_for_version(self, place: At, version: int | None) -> dict[str, Any] | None:
        try:
            return self._ask(
                lambda: self._hvac.secrets.kv.v2.read_secret_version(
                    place.path,
                    version=version,
                    mount_point=place.mount,
                    raise_on_deleted_version=True,
                )
            )
        except Gone as error:
            gone = error.version
        except NotFound as error:
            if error.kind != "vault.NotFound":
                raise
            return None
        raise Gone(f"version {gone} of {place} was deleted in Vault", version=gone)

    def write(self, place: At, data: dict[str, Any], cas: int) -> int:
        """See `KV.write`. API: POST MOUNT/data/PATH with `options.cas`."""
        self._is_kv2(place.mount)
        answer = self._change(
            lambda: self._hvac.secrets.kv.v2.create_or_update_secret(
                place.path, secret=data, cas=cas, mount_point=place.mount
            )
        )
        version = fields(answer).get("version")
        if not isinstance(version, int):
            raise Permanent(
                f"Vault stored {place} without a version: is {place.mount} KV v2?",
                kind="vault.NotKV2",
            )
        self._written[place] = version
        return version

    def destroy(self, place: At) -> None:
        """See `KV.destroy`. API: DELETE MOUNT/metadata/PATH."""
        self._change(
            lambda: self._hvac.secrets.kv.v2.delete_metadata_and_all_versions(
                place.path, mount_point=place.mount
            )
        )
        self._written.pop(place, None)

    def annotate(self, place: At, custom: dict[str, str]) -> None:
        """See `KV.annotate`. API: PATCH MOUNT/metadata/PATH (hvac has only the POST, which would replace it all)."""
        self._change(
            lambda: self._wire.request(
                "patch",
                f"/v1/{place.mount}/metadata/{place.path}",
                headers={"Content-Type": "application/merge-patch+json"},
                json={"custom_metadata": custom},
            )
        )

    def names(self, place: At) -> list[str]:
        """See `KV.names`. API: LIST MOUNT/metadata/PATH."""
        self._is_kv2(place.mount)
        try:
            answer = self._ask(
                lambda: self._hvac.secrets.kv.v2.list_secrets(place.path, mount_point=place.mount)
            )
        except NotFound:
            return []
        names = fields(answer).get("keys")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Transient(
                f"Vault's answer for {place} is no list of names", kind="vault.BadAnswer"
            )
        return [name for name in names if not name.endswith("/")]

    def forget(self, place: At) -> None:
        """See `KV.forget`."""
        self._written.pop(place, None)

    # what the login may do

    def missing(self, needs: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """See `KV.missing`. API: POST sys/capabilities-self, if no answer of the last minute tells.

        One that is asked for a few paths is asked for others in the same request, of which it was told longest ago:
        those that wait for their turn.
        """
        login, now = self.logins.current(), self._boot()
        with self._lock:
            if self._capable is not login:
                self._capable, self._capabilities = login, {}
            known = self._capabilities
            answers = {path: known[path] for path in needs if path in known}
            unknown = [path for path in sorted(needs) if not _is_fresh(answers.get(path), now)]
            waiting = [
                path for path, of in known.items() if path not in needs and not _is_fresh(of, now)
            ]
        if unknown:
            unknown += waiting[: -len(unknown) % PATHS]
        for start in range(0, len(unknown), PATHS):
            some = unknown[start : start + PATHS]
            answer = self._ask(partial(self._hvac.sys.get_capabilities, some))
            said = fields(answer) or answer
            answers |= {path: (now, _words(said.get(path))) for path in some}
        root = frozenset({"root"})
        missing = {
            path: needs[path] - answers[path][1] for path in needs if answers[path][1] != root
        }
        missing = {path: lacks for path, lacks in missing.items() if lacks}
        with self._lock:
            # What is lacking is asked for again: somebody may have granted it since.
            for path in missing:
                self._capabilities.pop(path, None)
            fresh = {path: of for path, of in answers.items() if path not in missing}
            for path in needs:
                self._capabilities.pop(path, None)
            # Else what was asked for before a write was refused, or of another login.
            if self._capable is login:
                self._capabilities |= fresh
        return missing

    def mount_of(self, place: str) -> At:
        """The document at `MOUNT/PATH`, where the mount's name may have slashes. API: sys/internal/ui/mounts."""
        try:
            about = fields(
                self._ask(lambda: self._wire.request("get", f"/v1/sys/internal/ui/mounts/{place}"))
            )
        except Permanent as error:
            problem = error.kind
        else:
            mount, problem = str(about.get("path", "")).strip("/"), "no mount is told"
            if mount and place.startswith(f"{mount}/"):
                return At(mount, place.removeprefix(f"{mount}/"))
        raise Permanent(
            f"{place} is not below a mount that this login may use ({problem}); check the path, and the login's policy",
            kind="vault.NoMount",
        )

    def expiring(self, place: At) -> bool:
        """Whether versions at that path, or (none given) in the whole mount, delete themselves.

        API: `delete_version_after` of GET MOUNT/metadata/PATH, or MOUNT/config.
        """
        url = (
            f"/v1/{place.mount}/metadata/{place.path}"
            if place.path
            else f"/v1/{place.mount}/config"
        )
        try:
            answer = self._ask(partial(self._wire.request, "get", url))
        except (NotFound, Forbidden):
            return False
        return fields(answer).get("delete_version_after", "0s") not in ("0s", "0", "")

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
            about = fields(answer)
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
        """See `KV.outlast`."""
        self.logins.outlast(seconds)

    def refresh(self) -> float:
        """See `Logins.refresh`."""
        return self.logins.refresh()

    def login_left(self) -> float:
        """Seconds until the login ends; infinite for one that never does."""
        return self.logins.left

    def _ask(self, call: Callable[[], Any]) -> dict[str, Any]:
        return self.logins.ask(call)

    def _change(self, call: Callable[[], Any]) -> dict[str, Any]:
        """A request that changes something. If it may not, what was known of the login's rights counts no more."""
        try:
            return self._ask(call)
        except Forbidden:
            with self._lock:
                self._capable = None
            raise


def _document(place: At, answer: dict[str, Any]) -> Document:
    outer = answer.get("data")
    metadata = outer.get("metadata") if isinstance(outer, dict) else None
    if (
        not isinstance(outer, dict)
        or not isinstance(metadata, dict)
        or not isinstance(outer.get("data"), dict)
        or not isinstance(metadata.get("version"), int)
    ):
        raise Transient(
            f"Vault's answer for {place} is not a KV v2 document", kind="vault.BadAnswer"
        )
    return Document(outer["data"], metadata["version"], fields(metadata, "custom_metadata"))


def _is_fresh(of: tuple[float, frozenset[str]] | None, now: float) -> bool:
    return of is not None and now - of[0] < FRESH


def _words(value: object) -> frozenset[str]:
    return frozenset(value) if isinstance(value, list) else frozenset()
