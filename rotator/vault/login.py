"""The login to Vault: made, renewed, and replaced only once there is another.

A credential that came from a file is read again from there at each login, since others may have replaced it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import hvac

from rotator import ends
from rotator.ends import End
from rotator.errors import BadInput, Forbidden, Permanent, RotatorError, Transient
from rotator.keys import Secret
from rotator.settings import VaultSettings
from rotator.vault.layout import secret_ids
from rotator.vault.wire import Wire

# Of a login's life left: it is renewed.
RENEW_FROM = 1 / 2
# Of it left, or LAST_CALL seconds: that it could not be renewed is a failure.
LATEST = 1 / 3
LAST_CALL = 3600.0
# Of a login with limited uses, that one rotation may take.
USES = 30
# Seconds before a refused login is tried again.
PAUSE = 5.0
# Seconds before a login that mended nothing is replaced for the same reason.
AGAIN = 60.0

CHECK = {
    "token": "VAULT_TOKEN or its file (has it ended, was it revoked, or may it not read auth/token/lookup-self?)",
    "approle": "ROTATOR_VAULT__ROLE_ID, ROTATOR_VAULT__SECRET_ID or its file (has it ended, or is it used up?)",
    "kubernetes": "ROTATOR_VAULT__ROLE, and that the role is bound to this service account and namespace",
    "jwt": "ROTATOR_VAULT__ROLE, ROTATOR_VAULT__JWT_FILE, and what the role is bound to",
    "cert": "VAULT_CLIENT_CERT (is it among the role's?), ROTATOR_VAULT__ROLE",
}

SHOWN = ("creation_time", "creation_ttl", "explicit_max_ttl", "metadata", "period", "renewable")

# The secret of that setting as its file shows it now.
ReadAgain = Callable[[str], Secret | None]


class Login:
    """A login: when it was made, how long it lives (0: for ever), how often it may be used (0: any number of times)."""

    def __init__(self, token: Secret, since: float, used: int, about: dict[str, Any]) -> None:
        """`about` is what Vault tells of it; `used`: the count of requests at that time."""
        self.token, self.at, self._used = token, since, used
        self.life = _seconds(about.get("ttl", about.get("lease_duration")))
        self.renewable = bool(about.get("renewable"))
        self._uses = int(_seconds(about.get("num_uses")))
        # What is told of it, without the token; and whether its last renewal was cut short by its end.
        self.about = {name: value for name, value in about.items() if name in SHOWN}
        self.cut = False
        # It was made with, and what is known of its end.
        self.secret_id: Secret | None = None
        self.secret_id_ends: End | None = None
        # Something was answered under it.
        self.served = False
        # Made since something was forbidden, and that still is.
        self.vain = False

    def renewed(self, since: float, about: dict[str, Any]) -> None:
        """From then on it lives so long; of uses the answer tells the old number."""
        self.at, self.life = since, _seconds(about.get("lease_duration"))
        self.renewable = bool(about.get("renewable"))
        self.cut = self.life < ends.CUT * self.first_life

    @property
    def first_life(self) -> float:
        """Seconds that it lived when it was made; 0: not known, or for ever."""
        return _seconds(self.about.get("creation_ttl"))

    @property
    def is_old(self) -> bool:
        """Whether half of the life is over that it had when it was made, and it may be renewed."""
        return self.renewable and self.life < self.first_life * RENEW_FROM

    def left(self, boot: float) -> float:
        """Seconds that are left of it."""
        return self.at + self.life - boot if self.life else float("inf")

    def uses_left(self, used: int) -> float:
        """How often it may still be used, given the count of requests now."""
        return self._uses - (used - self._used) if self._uses else float("inf")


class Logins:
    """The login of one process. Safe for use by many threads."""

    def __init__(
        self,
        settings: VaultSettings,
        wire: Wire,
        client: hvac.Client,
        boot: Callable[[], float],
        *,
        now: Callable[[], datetime],
        read_again: ReadAgain,
    ) -> None:
        self._settings, self._wire, self._auth, self._now = settings, wire, client.auth, now
        self._boot, self._read_again = boot, read_again
        self._lock = threading.RLock()
        self._login: Login | None = None
        self._refused: tuple[float, str] | None = None
        # Thread -> until when its rotation may take uses.
        self._promised: dict[int, float] = {}
        # What the files held last.
        self._read: dict[str, Secret] = {}
        # The SecretID that was to follow one that is about to end.
        self._tried: Secret | None = None

    def current(self) -> Login:
        """The login in use; logs in if there is none."""
        with self._lock:
            return self._login or self._log_in()

    @property
    def left(self) -> float:
        """Seconds until it ends; infinite for one that never does."""
        return self.current().left(self._boot())

    @property
    def uses_left(self) -> float:
        """How often it may still be used; infinite for one that is not limited."""
        return self.current().uses_left(self._wire.uses)

    def ask(self, call: Callable[[], Any]) -> dict[str, Any]:
        """One request, logged in; a 403 because the login has ended is followed by a new one and one repetition."""
        login = self.current()
        try:
            answer: dict[str, Any] = call()
        except Forbidden as error:
            trouble = error
        else:
            login.served = True
            return answer
        if not self._replaced(login):
            raise trouble
        again: dict[str, Any] = call()
        with self._lock:
            self.current().vain = False
        return again

    def outlast(self, seconds: float) -> None:
        """See `KV.outlast`. API: token/renew-self, or a new login."""
        with self._lock:
            self._promised[threading.get_ident()] = self._boot() + seconds
            self.current()
            if self._prolonged(seconds):
                return
            lasts = self.left > seconds
        if lasts:
            raise Permanent(
                f"the Vault login may be used {self.uses_left:.0f} more times, and a rotation takes up to {USES}; "
                "several rotators may not share one. Give each a token or role without a limit (`num_uses`, "
                "`token_num_uses`), or with a far higher one. Nothing was issued",
                kind="vault.TokenUses",
            )
        raise Permanent(
            f"the Vault login ends before a rotation could ({seconds:.0f} s) and cannot be prolonged; "
            "give the rotator a longer-lived or renewable token, or another auth method",
            kind="vault.TokenExpires",
        )

    def done(self) -> None:
        """This thread's rotation takes no more uses."""
        with self._lock:
            self._promised.pop(threading.get_ident(), None)

    def refresh(self) -> float:
        """Renews the login, or logs in again, once half of its life is over; seconds until that is so again.

        Raises RotatorError if that fails and less than a third is left, and less than an hour.
        """
        with self._lock:
            login = self.current()
            if not login.life:
                return float("inf")
            trouble = None
            if self.left <= login.life * RENEW_FROM:
                try:
                    self._prolonged(login.life * RENEW_FROM)
                except RotatorError as error:
                    trouble = error
            login, left = self.current(), self.left
            if left < min(login.life * LATEST, LAST_CALL):
                raise trouble or _ends(left)
            return max(left - login.life * RENEW_FROM, left / 4)

    def ends(self) -> list[End]:
        """What is known of the end of each credential that logins are made with; asked for once for each login.

        A SecretID that is about to end gives way to what its file holds by then. Raises RotatorError without a login.
        API: auth/MOUNT/role/ROLE/secret-id/lookup.
        """
        with self._lock:
            login, how, known = self.current(), self._settings.auth, []
            if how == "token":
                left = login.left(self._boot())
                known.append(ends.of_token(login.about, self._now(), left, cut=login.cut))
            elif how == "approle":
                known.append(self._secret_id_ends(login))
            elif how != "cert":
                known.append(self._jwt_ends())
            if self._settings.client_cert is not None:
                known.append(certificate_ends(self._settings.client_cert))
            return known

    def _secret_id_ends(self, login: Login) -> End:
        end = self._looked_up(login)
        held = self._held("secret_id")
        if end.is_near(self._now()) and held not in (login.secret_id, self._tried):
            self._tried = held
            # The one in use still lives.
            with suppress(RotatorError):
                return self._looked_up(self._log_in())
        return end

    def _looked_up(self, login: Login) -> End:
        if login.secret_id_ends is not None or login.secret_id is None:
            return login.secret_id_ends or End("vault.secret_id")
        role = fields(login.about, "metadata").get("role_name")
        mount = self._settings.auth_mount or self._settings.auth
        url, asked = f"/v1/{secret_ids(mount, str(role))}", login.secret_id.reveal()
        try:
            answer = self._wire.request("post", url, json={"secret_id": asked}, changes=False)
        except Transient as error:
            why = f"Vault could not be asked just now ({error.kind})"
            return End("vault.secret_id", unknown=why)
        except RotatorError:
            path = secret_ids(mount)
            why = (
                f'add to the rotator\'s Vault policy: path "{path}" {{ capabilities = ["update"] }}'
            )
            end = End("vault.secret_id", unknown=why, path=path)
        else:
            end = ends.of_secret_id(fields(answer), self._now())
        login.secret_id_ends = end
        return end

    def _jwt_ends(self) -> End:
        try:
            return ends.of_jwt(self._jwt().reveal(), self._now())
        except Permanent as error:
            return End("vault.jwt_file", unknown=str(error))

    def _prolonged(self, seconds: float) -> bool:
        """Whether the login lasts, if need be after renewing it or another one."""
        login = self.current()
        if self._suffices(seconds):
            return True
        if self.left <= seconds and login.renewable:
            self._renew(login)
        if not self._suffices(seconds) and self._has_other(login):
            self._log_in()
        return self._suffices(seconds)

    def _suffices(self, seconds: float) -> bool:
        now, me, others = self._boot(), threading.get_ident(), 0
        # Any other login that is used up can be made anew in the midst of a rotation.
        if self._settings.auth == "token":
            others = sum(1 for who, until in self._promised.items() if who != me and until > now)
        return self.left > seconds and self.uses_left >= USES * (1 + others)

    def _renew(self, login: Login) -> None:
        # Another login may be had all the same.
        with suppress(RotatorError):
            wish = f"{login.first_life:.0f}s" if login.first_life else None
            login.renewed(self._boot(), fields(self._auth.token.renew_self(wish), "auth"))

    def _has_other(self, login: Login) -> bool:
        """Whether logging in again would give another login."""
        return self._settings.auth != "token" or self._held("token") != login.token

    def _replaced(self, login: Login) -> bool:
        """Whether there is another login than the one under which something was forbidden."""
        with self._lock:
            if self._login is not login:
                return True
            if self._settings.auth == "token":
                if not self._has_other(login):
                    return False
            else:
                young = self._boot() - login.at < AGAIN
                if not login.served or (login.vain and young) or self._lives():
                    # It is the right that lacks.
                    return False
            self._log_in().vain = True
            return True

    def _lives(self) -> bool:
        try:
            self._auth.token.lookup_self()
        except Forbidden:
            return False
        return True

    def _log_in(self) -> Login:
        """Another login, in use from here on; until it is there, the one before stays."""
        if self._refused is not None and self._boot() - self._refused[0] < PAUSE:
            raise Permanent(self._refused[1], kind="vault.LoginRefused")
        settings, mount = self._settings, self._settings.auth_mount or self._settings.auth
        try:
            self._login = self._by_token() if settings.auth == "token" else self._by_method(mount)
        except Permanent as error:
            if error.kind not in REFUSALS:
                raise
            said = str(error)
        else:
            self._refused, self._wire.secret_token = None, self._login.token
            # It may be another process that has to renew it next time.
            if self._login.is_old:
                self._renew(self._login)
            return self._login
        where = "" if settings.auth == "token" else f", mounted at auth/{mount}"
        mounted = "" if settings.auth == "token" else " and ROTATOR_VAULT__AUTH_MOUNT"
        text = (
            f"Vault refused the login: method {settings.auth}{where} ({_status(said)}). Check {CHECK[settings.auth]}"
            f"{mounted}; then VAULT_ADDR and VAULT_NAMESPACE"
        )
        self._refused = (self._boot(), text)
        raise Permanent(text, kind="vault.LoginRefused")

    def _by_token(self) -> Login:
        token = self._held("token")
        if token is None:
            raise Permanent("no Vault token: set VAULT_TOKEN", kind="vault.NoToken")
        answer = self._wire.request(
            "get", "/v1/auth/token/lookup-self", headers={"X-Vault-Token": token.reveal()}
        )
        return Login(token, self._boot(), self._wire.uses, fields(answer))

    def _by_method(self, mount: str) -> Login:
        how, settings = self._auth, self._settings
        if settings.auth == "approle":
            role_id, secret_id = self._held("role_id"), self._held("secret_id")
            answer = how.approle.login(
                role_id=role_id.reveal() if role_id else "",
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
        auth = fields(answer, "auth")
        if not isinstance(auth.get("client_token"), str):
            raise Permanent(
                "Vault's answer to the login has no token in it", kind="vault.BadAnswer"
            )
        token = Secret.clean(auth["client_token"], "the token of Vault's login")
        login = Login(token, self._boot(), self._wire.uses, auth)
        login.secret_id = self._read.get("secret_id") or settings.secret_id
        return login

    def _held(self, name: str) -> Secret | None:
        """A credential as its file shows it now, else as it was given."""
        # If it is being replaced, or is gone, what was read before may still be good.
        with suppress(BadInput):
            fresh = self._read_again(f"vault.{name}")
            if fresh is not None:
                self._read[name] = fresh
        given = getattr(self._settings, name)
        return self._read.get(name) or (Secret(given) if isinstance(given, str) else given)

    def _jwt(self) -> Secret:
        """The service account's token, read anew at each login: it is rotated under us."""
        path = Path(self._settings.jwt_file)
        try:
            return Secret.clean(path.read_text(), f"the file {path}")
        except (OSError, UnicodeError) as error:
            problem = type(error).__name__
        raise Permanent(f"the token in {path} cannot be read ({problem})", kind="vault.NoJWT")


# What a login is answered with when it is refused: 400, 401 or 403, and 404 where no such method is mounted.
REFUSALS = ("vault.InvalidRequest", "vault.Forbidden", "vault.NotFound", "vault.NoMount")


def fields(answer: dict[str, Any], name: str = "data") -> dict[str, Any]:
    """An object within an answer; empty if there is none."""
    inner = answer.get(name)
    return inner if isinstance(inner, dict) else {}


def certificate_ends(file: Path) -> End:
    """When the certificate in that file ends."""
    try:
        return ends.of_certificate(file.read_text())
    except (OSError, UnicodeError) as error:
        unknown = f"the file cannot be read ({type(error).__name__})"
    return End("vault.client_cert", unknown=unknown)


def _ends(left: float) -> Permanent:
    return Permanent(
        f"the Vault login ends in {max(left, 0.0):.0f} s and cannot be prolonged; give the rotator a longer-lived or "
        "renewable token, or another auth method",
        kind="vault.TokenExpires",
    )


def _status(said: str) -> str:
    """The status out of the wire's own text."""
    return said.partition(": ")[2].partition(":")[0].partition(";")[0]


def _seconds(length: object) -> float:
    return float(length) if isinstance(length, int | float) else 0.0
