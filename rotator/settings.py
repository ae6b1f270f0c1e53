"""Settings: environment, secret files, the systemd credentials directory, `rotator.toml`.

`Settings.load` finds every value, knows where each came from, and refuses what is misspelt, contradictory or given
twice, all of it at once. No message contains a value, or a path that might be a value pasted into the wrong variable.
Of a setting's two names, `ROTATOR_VAULT__ADDR` and `VAULT_ADDR`, either will do; both is an error if they differ.
An empty `VAULT_...` or `SENTRY_...` variable counts as not set, as for Vault's own tools.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from rotator.errors import BadInput, Permanent, Problem
from rotator.keys import Issue, Secret, Verify
from rotator.schedule import duration

SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")

_MAX_SECRET = 64 * 1024
_PATH = re.compile(r"[A-Za-z0-9_.@+=:~-]+(/[A-Za-z0-9_.@+=:~-]+)*")
_PREFIX = "ROTATOR_"
# What Kubernetes injects for a Service called rotator, or rotator-something; it never has two underscores together.
_INJECTED = re.compile(r"ROTATOR_((?!.*__).*_)?(SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_.*)")
_HOOKS = frozenset(
    f"ROTATOR_{name}" for name in ("POLICY", "KEY_ID", "VAULT_MOUNT", "VAULT_PATH", "VAULT_VERSION")
)
_SECRETS = ("ecgrid.api_key", "ecgrid.password", "vault.token", "vault.secret_id")
_FROM_FILES = (*_SECRETS, "ecgrid.login", "vault.role_id", "sentry.dsn")
_ALIASES = {
    **{
        f"vault.{name}": f"VAULT_{name.upper()}"
        for name in (
            "addr", "token", "namespace", "cacert", "capath", "client_cert", "client_key", "skip_verify",
            "tls_server_name",
        )
    },
    **{f"sentry.{name}": f"SENTRY_{name.upper()}" for name in ("dsn", "environment", "release")},
}  # fmt: skip

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


def _reads(read: Callable[[str], T], *types: type) -> BeforeValidator:
    """A validator that takes text, as the environment has it, or one of `types`; texts of refusal are ours."""

    def validate(value: object) -> object:
        if isinstance(value, types) and not isinstance(value, str):
            return value
        if not isinstance(value, str):
            raise _bad("must be a single text or number")
        return read(value)

    return BeforeValidator(validate)


def _bad(what: str) -> PydanticCustomError:
    return PydanticCustomError("rotator", what)


def _plain(text: str) -> str:
    if not text.strip() or text != text.strip() or not text.isprintable():
        raise _bad("must be one line of text, without white space around it")
    return text


def _duration(text: str) -> timedelta:
    try:
        return duration(text)
    except BadInput as error:
        what = str(error)
    raise _bad(what)


def _positive(text: str) -> timedelta:
    length = _duration(text)
    if not length:
        raise _bad("must be longer than nothing, such as 2m")
    return length


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 3600:
        raise _bad("must be a number above 0 and not above 3600, such as 1.5")
    return number


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise _bad("must be a whole number of at least 1")
    return int(text)


def _switch(text: str) -> bool:
    if text.lower() not in ("1", "t", "true", "0", "f", "false"):
        raise _bad("must be true or false")
    return text.lower() in ("1", "t", "true")


def _words(words: Mapping[str, T]) -> Callable[[str], T]:
    def choose(text: str) -> T:
        if text not in words:
            raise _bad(f"must be one of {', '.join(words)}{_near(text, words, '')}")
        return words[text]

    return choose


def _level(text: str) -> str:
    levels = {name: name for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}
    return _words(levels)(text.upper())


def _url(text: str) -> str:
    parts = None
    try:
        parts = urlsplit(text)
        good = bool(parts.hostname) and parts.port != 0 and parts.scheme in ("http", "https")
    except ValueError:
        good = False
    if parts is None or not good or parts.query or parts.fragment or re.search(r"[^!-~]", text):
        raise _bad("must be an address such as https://host:8200")
    if parts.username is not None or parts.password is not None:
        raise _bad(
            "must not contain a user name or password; give credentials in their own settings"
        )
    if parts.scheme == "http" and not _loopback(parts.hostname or ""):
        raise _bad(
            "plain http would send credentials in the clear; use https (http only to loopback)"
        )
    return text.rstrip("/")


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _dsn(text: str) -> str:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname and parts.username)
        good = good and parts.port != 0 and parts.path.rpartition("/")[2].isdigit()
    except ValueError:
        good = False
    if not good:
        raise _bad(
            "must be a DSN such as https://KEY@HOST/PROJECT, as Sentry's project settings show it"
        )
    return text


def _vault_path(text: str) -> str:
    if not _PATH.fullmatch(text) or {".", ".."} & set(text.split("/")):
        raise _bad("must be names joined by single slashes, without a slash at either end")
    return text


@dataclass(frozen=True)
class VaultField:
    """One field of a KV v2 secret."""

    mount: str
    path: str
    field: str


def _vault_field(text: str) -> VaultField:
    place, _, field = text.partition("#")
    mount, _, path = place.partition("/")
    if not _PATH.fullmatch(place) or not path or not re.fullmatch("[A-Za-z0-9_.-]+", field):
        raise _bad("must be MOUNT/PATH#FIELD, such as secret/ecgrid/rotator#api_key")
    return VaultField(mount, path, field)


@dataclass(frozen=True)
class Listen:
    """Where health, metrics and the status page are served; port 0 lets the kernel choose."""

    host: str
    port: int


def _listen(text: str) -> Listen | None:
    if not text:
        return None
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise _bad("must be HOST:PORT such as 127.0.0.1:9464, or empty for none")
    return Listen(match[1] or match[2], int(match[3]))


def _secret(text: str) -> Secret:
    try:
        return Secret.clean(text, "the value")
    except Permanent as error:
        what = str(error)
    raise _bad(what)


Text = Annotated[str, _reads(_plain)]
SecretValue = Annotated[Secret, _reads(_secret, Secret), PlainSerializer(repr)]
Url = Annotated[str, _reads(_url)]
VaultPath = Annotated[str, _reads(_vault_path)]
File = Annotated[Path, _reads(lambda text: Path(_plain(text)), Path)]
Length = Annotated[timedelta, _reads(_positive, timedelta)]
Number = Annotated[float, _reads(_number)]
Count = Annotated[int, _reads(_count)]
Auth = Literal["token", "approle", "kubernetes", "jwt", "cert"]
LogFormat = Literal["json", "console", "auto"]


def _enum(choices: type[E]) -> BeforeValidator:
    return _reads(_words({str(choice.value): choice for choice in choices}), choices)


def _literal(*words: str) -> BeforeValidator:
    return _reads(_words({word: word for word in words}))


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )


class ECGridSettings(_Section):
    """How ECGrid is reached, and as whom; `timeout` in seconds, `rate` in requests a second."""

    rest_url: Url = "https://rest.ecgrid.io"
    soap_url: Url = "https://os.ecgrid.io/v4.1/prod/ECGridOS.asmx"
    soap_namespace: Text = "http://www.ecgridos.net/"
    api_key: SecretValue | None = None
    api_key_vault: Annotated[VaultField | None, _reads(_vault_field, VaultField)] = None
    login: Text | None = None
    password: SecretValue | None = None
    rate: Number = 1.5
    timeout: Number = 30.0


class VaultSettings(_Section):
    """How Vault is reached, and as whom.

    `auth_mount` is where the login method is mounted, by default under its own name. `jwt_file` is read anew at each
    login (kubernetes, jwt); by default it is the pod's service account token.
    """

    addr: Url | None = None
    token: SecretValue | None = None
    namespace: Text | None = None
    cacert: File | None = None
    capath: File | None = None
    client_cert: File | None = None
    client_key: File | None = None
    skip_verify: Annotated[bool, _reads(_switch, bool)] = False
    tls_server_name: Text | None = None
    auth: Annotated[Auth, _literal("token", "approle", "kubernetes", "jwt", "cert")] = "token"
    auth_mount: VaultPath | None = None
    role: Text | None = None
    role_id: Text | None = None
    secret_id: SecretValue | None = None
    jwt_file: File = SERVICE_ACCOUNT_TOKEN
    mount: VaultPath = "secret"
    state_path: VaultPath = "rotator"


class SentrySettings(_Section):
    """Where failures are reported; nowhere without a DSN."""

    dsn: Annotated[str | None, _reads(_dsn)] = Field(default=None, repr=False)
    environment: Text | None = None
    release: Text | None = None


class HttpSettings(_Section):
    """Health, metrics and status page of the daemon; None serves nothing."""

    listen: Annotated[Listen | None, _reads(_listen, Listen)] = Listen("127.0.0.1", 9464)


class LogSettings(_Section):
    """What is logged, and in which form."""

    level: Annotated[str, _reads(_level)] = "INFO"
    format: Annotated[LogFormat, _literal("json", "console", "auto")] = "auto"


@dataclass(frozen=True)
class _Given:
    """A value, where it was found (for messages), and the file that it was read from, if it was."""

    value: object = field(repr=False)
    place: str
    file: Path | None = None


class Settings(BaseSettings):
    """Everything that is set, of one piece and frozen. Made by `Settings.load`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
        validate_default=False,
    )

    policies: File = Path("policies")
    issue: Annotated[Issue, _enum(Issue)] = Issue.KEYSET
    verify: Annotated[Verify, _enum(Verify)] = Verify.GET_KEY
    concurrency: Count = 8
    max_per_run: Count | None = None
    deadline: Length = timedelta(minutes=2)
    claim_ttl: Length = timedelta(minutes=3)
    check_every: Annotated[timedelta, _reads(_duration, timedelta)] = timedelta(hours=1)
    ecgrid: ECGridSettings = ECGridSettings()
    vault: VaultSettings = VaultSettings()
    sentry: SentrySettings = SentrySettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()

    _given: Mapping[str, _Given] = PrivateAttr(default_factory=dict)
    _noted: tuple[Problem, ...] = PrivateAttr(())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` has found: the ready-made sources drop misspelt names and forget where a value came from."""
        return (init_settings,)

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] = os.environ,
        cwd: Path | None = None,
        overrides: Mapping[str, str | None] | None = None,
    ) -> Settings:
        """The settings that `environ`, its files, and `rotator.toml` in `cwd` make.

        `overrides` go before everything, by names such as `log.level`; None overrides nothing. Raises BadInput with
        every problem. Needs neither credentials nor a Vault address: see `require_ecgrid` and `require_vault`.
        """
        sources = _Sources(environ, cwd or Path.cwd())
        given = sources.find(overrides or {})
        settings = _build(cls, given, sources)
        if sources.problems or settings is None:
            raise BadInput(list(dict.fromkeys(sources.problems)))
        return settings._with_origin(given, tuple(sources.warnings))  # noqa: SLF001 - its own class

    def _with_origin(self, given: Mapping[str, _Given], noted: tuple[Problem, ...]) -> Settings:
        # Without the values: what is kept for messages must not be a second place where a secret lives.
        self._given = {name: _Given(None, found.place, found.file) for name, found in given.items()}
        self._noted = noted
        return self

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed and still deserves a second look."""
        return (*self._noted, *_doubts(self))

    @property
    def places(self) -> Mapping[str, str]:
        """Where each setting that was given came from, by names such as `vault.addr`."""
        return {name: found.place for name, found in self._given.items()}

    def read_again(self, name: str) -> Secret | None:
        """The secret `name`, such as `ecgrid.api_key`, as its file shows it now; None if it came from no file.

        Raises BadInput if the file can no longer be used.
        """
        given = self._given.get(name)
        if given is None or given.file is None:
            return None
        where = given.place
        found = _read_secret(given.file, where)
        if isinstance(found, str):
            try:
                return Secret.clean(found, "the file")
            except Permanent as error:
                found = Problem(where, str(error))
        raise BadInput([found])

    def require_ecgrid(self) -> None:
        """Raises BadInput unless there is a credential for ECGrid."""
        if not (self.ecgrid.api_key or self.ecgrid.api_key_vault or self.ecgrid.login):
            what = (
                "no credential for ECGrid; set this, or ROTATOR_ECGRID__API_KEY_FILE, "
                "ROTATOR_ECGRID__API_KEY_VAULT, or ROTATOR_ECGRID__LOGIN and __PASSWORD"
            )
            raise BadInput([Problem("ROTATOR_ECGRID__API_KEY", what)])

    def require_vault(self) -> None:
        """Raises BadInput unless Vault's address, the credential of the login method, and its files are there."""
        problems = list(_missing_for_vault(self.vault))
        for name in ("cacert", "capath", "client_cert", "client_key"):
            file: Path | None = getattr(self.vault, name)
            if file is not None and not _is_there(file):
                where = self.places.get(f"vault.{name}", _variable(f"vault.{name}"))
                problems.append(Problem(where, "names a file that does not exist"))
        if problems:
            raise BadInput(problems)


def _missing_for_vault(vault: VaultSettings) -> Iterator[Problem]:
    if vault.addr is None:
        yield Problem("VAULT_ADDR", "is not set; give Vault's address, such as https://vault:8200")
    needed = {
        "token": ("token",),
        "approle": ("role_id", "secret_id"),
        "kubernetes": ("role",),
        "jwt": (),
        "cert": ("client_cert", "client_key"),
    }
    for name in needed[vault.auth]:
        if getattr(vault, name) is None:
            where = _ALIASES.get(f"vault.{name}", _variable(f"vault.{name}"))
            yield Problem(where, f"is not set; ROTATOR_VAULT__AUTH={vault.auth} needs it")
    if vault.auth in ("kubernetes", "jwt") and not _is_there(vault.jwt_file):
        what = "names no file; give the one with the token to log in with"
        yield Problem("ROTATOR_VAULT__JWT_FILE", what)


class _Sources:
    """Looks every setting up in its sources, the foremost first."""

    def __init__(self, environ: Mapping[str, str], cwd: Path) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._environ = environ
        self._cwd = cwd
        self._credentials = self._credential_files(environ.get("CREDENTIALS_DIRECTORY"))
        self._table, self._table_name = self._toml()

    def find(self, overrides: Mapping[str, str | None]) -> dict[str, _Given]:
        """What is given, by names such as `vault.addr`; notes what is misspelt or given twice."""
        self._refuse_unknown()
        found = {}
        for name in _names():
            given = list(self._candidates(name))
            override = overrides.get(name)
            if override is not None:
                given.insert(0, _Given(override, f"the option for {name}"))
            elif len(given) > 1:
                self._compare(name, given)
            if given:
                found[name] = given[0]
        return found

    def _candidates(self, name: str) -> Iterator[_Given]:
        variables = [_variable(name)] + ([_ALIASES[name]] if name in _ALIASES else [])
        for variable in variables:
            value = self._environ.get(variable)
            if value is not None and (value or variable.startswith(_PREFIX)):
                yield _Given(value, variable)
        if name in _FROM_FILES:
            for variable in variables:
                yield from self._named_file(variable)
            for variable in variables:
                credential = self._credentials.get(variable.lower())
                if credential is not None:
                    yield from self._file(credential, f"credential {variable.lower()}", variable)
        if name in self._table:
            yield _Given(self._table[name], f"{self._table_name}: {name}")
        if f"{name}_file" in self._table and name in _FROM_FILES:
            where = f"{self._table_name}: {name}_file"
            yield from self._file(self._cwd / str(self._table[f"{name}_file"]), where, name)

    def _named_file(self, variable: str) -> Iterator[_Given]:
        file = self._environ.get(f"{variable}_FILE")
        if file:
            yield from self._file(self._cwd / file, f"{variable}_FILE", variable)
        elif file is not None and variable.startswith(_PREFIX):
            what = "is empty; name a file, or remove it"
            self.problems.append(Problem(f"{variable}_FILE", what))

    def _file(self, file: Path, where: str, direct: str) -> Iterator[_Given]:
        found = _read_secret(file, where, direct)
        if isinstance(found, Problem):
            self.problems.append(found)
            return
        if _open_to_all(file):
            what = "the file can be read by everybody; take that right away (chmod o-r)"
            self.warnings.append(Problem(where, what))
        yield _Given(found, where, file)

    def _compare(self, name: str, given: list[_Given]) -> None:
        first, *others = given
        for other in others:
            if name in _SECRETS:
                what = f"a secret must have one source, and {other.place} gives it too; remove one"
                self.problems.append(Problem(first.place, what))
            elif {first.place, other.place} == {_variable(name), _ALIASES.get(name)} and (
                first.value != other.value
            ):
                what = f"differs from {other.place}, which means the same; remove one"
                self.problems.append(Problem(first.place, what))

    def _credential_files(self, folder: str | None) -> dict[str, Path]:
        if not folder:
            return {}
        try:
            return {file.name: file for file in (self._cwd / folder).iterdir()}
        except OSError as error:
            kind = type(error).__name__
        self.problems.append(
            Problem("CREDENTIALS_DIRECTORY", f"names a directory that cannot be read ({kind})")
        )
        return {}

    def _toml(self) -> tuple[dict[str, object], str]:
        named = self._environ.get(f"{_PREFIX}CONFIG")
        file = self._cwd / (named or "rotator.toml")
        if not named and not file.exists():
            return {}, ""
        where = f"{_PREFIX}CONFIG" if named else "rotator.toml"
        problem, table = None, {}
        try:
            table = tomllib.loads(file.read_text("utf-8-sig"))
        except OSError as error:
            what = (
                f"names a file that cannot be read ({type(error).__name__}); correct or remove it"
            )
            problem = Problem(where, what if named else f"cannot be read ({type(error).__name__})")
        except UnicodeDecodeError:
            problem = Problem(where, "the file is not UTF-8 text; save it as UTF-8")
        except tomllib.TOMLDecodeError as error:
            # Only the position: the rest of the text is the parser's own.
            line = re.search(r"at line ([0-9]+)", str(error))
            place = f"{file.name}:{line[1]}" if line else file.name
            problem = Problem(place, "is not valid TOML; check quotes, brackets and equals signs")
        if problem is not None:
            self.problems.append(problem)
            return {}, ""
        flat = dict(_flat(table))
        self._refuse_unknown_in(flat, file.name)
        if any(name in flat for name in _SECRETS) and _open_to_all(file):
            what = "holds a secret and can be read by everybody; take that right away (chmod o-r)"
            self.warnings.append(Problem(file.name, what))
        return flat, file.name

    def _refuse_unknown_in(self, flat: Mapping[str, object], file: str) -> None:
        known = {*_names(), *(f"{name}_file" for name in _FROM_FILES)}
        for name in flat:
            if name not in known:
                section = any(other.startswith(f"{name}.") for other in known)
                hint = f"; it is a table, write [{name}]" if section else _near(name, known)
                self.problems.append(Problem(f"{file}: {_shown(name)}", f"unknown setting{hint}"))

    def _refuse_unknown(self) -> None:
        known = {_variable(name) for name in _names()} | {f"{_PREFIX}CONFIG"}
        known |= {f"{_variable(name)}_FILE" for name in _FROM_FILES}
        hook = "ROTATOR_POLICY" in self._environ and len(_HOOKS & self._environ.keys()) > 1
        for name in sorted(self._environ):
            if not name.upper().startswith(_PREFIX) or name in known or _INJECTED.fullmatch(name):
                continue
            if not (hook and name in _HOOKS):
                self.problems.append(Problem(_shown(name), f"unknown setting{_near(name, known)}"))
        lowered = {name.lower() for name in known}
        for name in sorted(self._credentials):
            if name.startswith(_PREFIX.lower()) and name not in lowered:
                what = f"unknown setting{_near(name, lowered)}"
                self.problems.append(Problem(f"credential {_shown(name)}", what))


def _open_to_all(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:  # gone since it was read
        return False


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a name that no file can have
        return False


def _read_secret(file: Path, where: str, direct: str = "the setting itself") -> str | Problem:
    """The text of a secret's file; the file is never named, since a pasted secret may stand in its place."""
    try:
        if file.is_dir():
            return Problem(where, "names a directory; name the file in it")
        with file.open("rb") as stream:
            data = stream.read(_MAX_SECRET + 1)
    except FileNotFoundError:
        return Problem(
            where, f"names a file that does not exist; a value itself goes into {direct}"
        )
    except (OSError, ValueError) as error:
        return Problem(where, f"names a file that cannot be read ({type(error).__name__})")
    if len(data) > _MAX_SECRET:
        return Problem(where, "names a file that is too large for a secret")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return Problem(where, "names a file that is not text")
    if not text.strip("\ufeff \t\r\n\v\f"):
        return Problem(where, "names a file that is empty")
    return text.strip("\ufeff \t\r\n\v\f")


def _build(cls: type[Settings], given: Mapping[str, _Given], sources: _Sources) -> Settings | None:
    """The settings, or None; a second attempt without what was refused finds the contradictions among the rest."""
    settings, refused = _attempt(cls, given)
    for name, what in refused.items():
        sources.problems.append(Problem(given[name].place, what))
    rest = {name: value for name, value in given.items() if name not in refused}
    if refused:
        settings, _ = _attempt(cls, rest)
    if settings is None:
        return None
    for name, other, what in _contradictions(settings):
        if name not in refused and other not in refused:
            place = rest[name].place if name in rest else _variable(name)
            sources.problems.append(Problem(place, what))
    return settings


def _attempt(
    cls: type[Settings], given: Mapping[str, _Given]
) -> tuple[Settings | None, dict[str, str]]:
    values: dict[str, Any] = {}
    for name, found in given.items():
        section, dot, key = name.rpartition(".")
        target = values.setdefault(section, {}) if dot else values
        target[key] = str(found.value) if _is_number(found.value) else found.value
    try:
        return cls(**values), {}
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
    refused = {}
    for detail in details:
        name = ".".join(str(part) for part in detail["loc"][:2])
        ours = detail["type"] == "rotator"
        refused[name] = detail["msg"] if ours else "has a value of the wrong kind"
    return None, refused


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _contradictions(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Pairs of settings that do not go together, and what to say of the first."""
    if settings.claim_ttl <= settings.deadline:
        what = "must be longer than ROTATOR_DEADLINE, or a claim could be lost under a running rotation"
        yield "claim_ttl", "deadline", what
    ecgrid, vault = settings.ecgrid, settings.vault
    if ecgrid.login and not ecgrid.password:
        yield "ecgrid.login", "ecgrid.password", "needs ROTATOR_ECGRID__PASSWORD, or its _FILE"
    if ecgrid.password and not ecgrid.login:
        yield "ecgrid.password", "ecgrid.login", "needs ROTATOR_ECGRID__LOGIN"
    if vault.client_cert and not vault.client_key:
        yield "vault.client_cert", "vault.client_key", "needs VAULT_CLIENT_KEY"
    if vault.client_key and not vault.client_cert:
        yield "vault.client_key", "vault.client_cert", "needs VAULT_CLIENT_CERT"


def _doubts(settings: Settings) -> Iterator[Problem]:
    vault = settings.vault
    if vault.skip_verify:
        what = "Vault's certificate is not checked: anybody in between can read the keys; use VAULT_CACERT"
        yield Problem(settings.places["vault.skip_verify"], what)
    if vault.token and vault.auth != "token":
        what = f"is not used, since ROTATOR_VAULT__AUTH is {vault.auth}"
        yield Problem(settings.places["vault.token"], what)


def _names() -> tuple[str, ...]:
    """The names of all settings, such as `deadline` and `vault.addr`."""
    names = []
    for name, part in Settings.model_fields.items():
        section = part.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            names += [f"{name}.{key}" for key in section.model_fields]
        else:
            names.append(name)
    return tuple(names)


def _variable(name: str) -> str:
    return _PREFIX + name.replace(".", "__").upper()


def _flat(table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", entry) for inner, entry in value.items())
        else:
            yield key, value


def _near(text: str, known: Iterable[str], otherwise: str = "; remove it") -> str:
    folded = {word.lower(): word for word in known}
    found = difflib.get_close_matches(text.lower(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[found[0]]}?" if found else otherwise


def _shown(name: str) -> str:
    """A misspelt name, unless it could be a pasted value."""
    return name if re.fullmatch(r"[A-Za-z_.-]{1,60}", name) else "(a name that is not shown)"
