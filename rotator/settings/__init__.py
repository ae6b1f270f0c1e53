"""Settings: environment, secret files, the systemd credentials directory, `rotator.toml`.

`Settings.load` finds every value, knows where each came from, and refuses what is misspelt, contradictory or given
twice, all of it at once. No message contains a value, or a path that might be a value pasted into the wrong variable.
Of a setting's two names, `ROTATOR_VAULT__ADDR` and `VAULT_ADDR`, either will do; both is an error if they differ.
An empty `VAULT_...` or `SENTRY_...` variable counts as not set, as for Vault's own tools.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from rotator.errors import BadInput, Permanent, Problem
from rotator.keys import Issue, Secret, Verify
from rotator.settings.proxies import proxy_for
from rotator.settings.sources import ALIASES, Given, Sources, is_there, read_secret, variable_of
from rotator.settings.tls import (
    TlsFile,
    client_context,
    system_authorities,
    tls_problems,
    why_refused,
)
from rotator.settings.values import (
    OURS,
    Address,
    Auth,
    Count,
    CountOrZero,
    Cron,
    Dsn,
    File,
    IssueCall,
    Length,
    LengthOrZero,
    Level,
    Listen,
    LogFormat,
    Number,
    PageUrl,
    SecretValue,
    Switch,
    Text,
    Url,
    VaultField,
    VaultPath,
    VaultPlace,
    VaultUrl,
    VerifyCall,
    WebhookUrl,
)

__all__ = [
    "SERVICE_ACCOUNT_TOKEN",
    "ECGridSettings",
    "HttpSettings",
    "Listen",
    "LogSettings",
    "MetricsSettings",
    "NotifySettings",
    "SentrySettings",
    "Settings",
    "TlsFile",
    "VaultField",
    "VaultSettings",
    "client_context",
    "proxy_for",
    "system_authorities",
    "why_refused",
]

OPEN = Secret("none")  # the word that opens the status page to everybody
SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )


class ECGridSettings(_Section):
    """How ECGrid is reached, and as whom; `timeout` in seconds, `rate` in requests a second."""

    rest_url: Url = "https://rest.ecgrid.io"
    soap_url: Url = "https://os.ecgrid.io/v4.1/prod/ECGridOS.asmx"
    soap_namespace: Text | None = None
    api_key: SecretValue | None = None
    api_key_vault: VaultPlace | None = None
    login: Text | None = None
    password: SecretValue | None = None
    rate: Number = 1.5
    timeout: Number = 30.0


class VaultSettings(_Section):
    """How Vault is reached, and as whom.

    `auth_mount` is where the login method is mounted, by default under its own name. `jwt_file` is read anew at each
    login (kubernetes, jwt); by default it is the pod's service account token.
    """

    addr: VaultUrl | None = None
    token: SecretValue | None = None
    namespace: Text | None = None
    cacert: File | None = None
    capath: File | None = None
    client_cert: File | None = None
    client_key: File | None = None
    skip_verify: Switch = False
    tls_server_name: Text | None = None
    auth: Auth = "token"
    auth_mount: VaultPath | None = None
    role: Text | None = None
    role_id: Text | None = None
    secret_id: SecretValue | None = None
    jwt_file: File = SERVICE_ACCOUNT_TOKEN
    mount: VaultPath = "secret"
    state_path: VaultPath = "rotator"

    def tls_files(self, places: Mapping[str, str] | None = None) -> list[TlsFile | None]:
        """The authorities (a file, a directory), the client's certificate and its key; with what names each."""
        found: list[TlsFile | None] = []
        for name in ("cacert", "capath", "client_cert", "client_key"):
            file: Path | None = getattr(self, name)
            where = (places or {}).get(f"vault.{name}", ALIASES[f"vault.{name}"])
            found.append(None if file is None else TlsFile(file, where))
        return found


class SentrySettings(_Section):
    """Where failures are reported; nowhere without a DSN.

    `cron` is when `run --once` is started, for the monitor that alarms when it was not.
    """

    dsn: Dsn | None = Field(default=None, repr=False)
    environment: Text | None = None
    release: Text | None = None
    cron: Cron | None = None


class HttpSettings(_Section):
    """Health, metrics and status page of the daemon; `listen` None serves nothing.

    Whoever asks from elsewhere than this machine has to show the token, unless that is the word `none`.
    """

    listen: Address = Listen("127.0.0.1", 9464)
    token: SecretValue | None = None

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for a token."""
        return self.token is None or self.token == OPEN


class NotifySettings(_Section):
    """The webhook that is told of failures, overdue keys and recoveries; `secret` signs what is sent.

    `runbook` is the address of the runbook's page, for the links of all reports.
    """

    webhook: WebhookUrl | None = Field(default=None, repr=False)
    secret: SecretValue | None = None
    runbook: PageUrl | None = None


class MetricsSettings(_Section):
    """The file that a command which acts leaves its metrics in, for node_exporter's textfile collector."""

    textfile: File | None = None


class LogSettings(_Section):
    """What is logged, and in which form."""

    level: Level = "INFO"
    format: LogFormat = "auto"


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
    issue: IssueCall = Issue.KEYSET
    verify: VerifyCall = Verify.GET_KEY
    concurrency: Count = 8
    brake: CountOrZero = 5
    max_per_run: Count | None = None
    deadline: Length = timedelta(minutes=2)
    claim_ttl: Length = timedelta(minutes=3)
    check_every: LengthOrZero = timedelta(hours=1)
    ecgrid: ECGridSettings = ECGridSettings()
    vault: VaultSettings = VaultSettings()
    sentry: SentrySettings = SentrySettings()
    http: HttpSettings = HttpSettings()
    notify: NotifySettings = NotifySettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()

    _given: Mapping[str, Given] = PrivateAttr(default_factory=dict)
    _noted: tuple[Problem, ...] = PrivateAttr(())
    _file: Path | None = PrivateAttr(None)
    _unusable: frozenset[str] = PrivateAttr(frozenset())

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
        settings, problems = cls.look(environ, cwd, overrides)
        if problems or settings is None:
            raise BadInput(problems)
        return settings

    @classmethod
    def look(
        cls,
        environ: Mapping[str, str] = os.environ,
        cwd: Path | None = None,
        overrides: Mapping[str, str | None] | None = None,
    ) -> tuple[Settings | None, list[Problem]]:
        """The settings as far as they are good, and every problem; None if what is left says nothing."""
        sources = Sources(environ, cwd or Path(), _names())
        given = sources.find(overrides or {})
        settings = _build(cls, given, sources)
        if settings is not None:
            settings._with_origin(given, sources)  # noqa: SLF001 - its own class
        return settings, list(dict.fromkeys(sources.problems))

    def _with_origin(self, given: Mapping[str, Given], sources: Sources) -> None:
        # Without the values: what is kept for messages must not be a second place where a secret lives.
        self._given = {name: Given(None, found.place, found.file) for name, found in given.items()}
        self._noted, self._file = tuple(sources.warnings), sources.file
        self._unusable = frozenset(sources.unusable)

    @property
    def file(self) -> Path | None:
        """The `rotator.toml` that was read, if there was one."""
        return self._file

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed and still deserves a second look."""
        return (*self._noted, *_doubts(self))

    @property
    def places(self) -> Mapping[str, str]:
        """Where each setting that was given came from, by names such as `vault.addr`."""
        return {name: found.place for name, found in self._given.items()}

    def text_again(self, name: str) -> str | None:
        """What the file of the setting `name`, such as `ecgrid.login`, holds now; None if it came from no file.

        Raises BadInput if the file can no longer be used.
        """
        given = self._given.get(name)
        if given is None or given.file is None:
            return None
        found = read_secret(given.file, given.place)
        if isinstance(found, str):
            return found
        raise BadInput([found])

    def read_again(self, name: str) -> Secret | None:
        """The same, of a secret such as `ecgrid.api_key`."""
        text = self.text_again(name)
        if text is None:
            return None
        try:
            return Secret.clean(text, "the file")
        except Permanent as error:
            problem = Problem(self.places[name], str(error))
        raise BadInput([problem])

    def require_ecgrid(self) -> None:
        """Raises BadInput unless there is a credential for ECGrid."""
        tried = {f"ecgrid.{name}" for name in ("api_key", "api_key_vault", "login", "password")}
        given = self.ecgrid.api_key or self.ecgrid.api_key_vault or self.ecgrid.login
        if not given and not tried & self._unusable:
            what = (
                "no credential for ECGrid; set this, or ROTATOR_ECGRID__API_KEY_FILE, "
                "ROTATOR_ECGRID__API_KEY_VAULT, or ROTATOR_ECGRID__LOGIN and __PASSWORD"
            )
            raise BadInput([Problem("ROTATOR_ECGRID__API_KEY", what)])

    def require_vault(self) -> None:
        """Raises BadInput unless Vault's address and the login method's credential are there, and its files good."""
        problems = [
            *_missing_for_vault(self.vault, self._unusable),
            *tls_problems(*self.vault.tls_files(self.places)),
        ]
        if problems:
            raise BadInput(problems)


def _missing_for_vault(vault: VaultSettings, unusable: frozenset[str]) -> Iterator[Problem]:
    """What is not given at all; of what is given and cannot be used something was said already."""
    if vault.addr is None and "vault.addr" not in unusable:
        yield Problem("VAULT_ADDR", "is not set; give Vault's address, such as https://vault:8200")
    needed = {
        "token": ("token",),
        "approle": ("role_id", "secret_id"),
        "kubernetes": ("role",),
        "jwt": (),
        "cert": ("client_cert", "client_key"),
    }
    for name in needed[vault.auth]:
        if getattr(vault, name) is None and f"vault.{name}" not in unusable:
            where = ALIASES.get(f"vault.{name}", variable_of(f"vault.{name}"))
            yield Problem(where, f"is not set; ROTATOR_VAULT__AUTH={vault.auth} needs it")
    if vault.auth in ("kubernetes", "jwt") and not is_there(vault.jwt_file):
        what = "names no file; give the one with the token to log in with"
        yield Problem("ROTATOR_VAULT__JWT_FILE", what)


def _build(cls: type[Settings], given: Mapping[str, Given], sources: Sources) -> Settings | None:
    """The settings, or None; a second attempt without what was refused finds the contradictions among the rest."""
    settings, refused = _attempt(cls, given)
    sources.unusable |= refused.keys()
    for name, what in refused.items():
        sources.problems.append(Problem(given[name].place, what))
    rest = {name: value for name, value in given.items() if name not in refused}
    if refused:
        settings, _ = _attempt(cls, rest)
    if settings is None:
        return None
    for name, other, what in _contradictions(settings):
        if name not in refused and other not in refused:
            place = rest[name].place if name in rest else variable_of(name)
            sources.problems.append(Problem(place, what))
    # Without these nobody could say where the policies are.
    return None if sources.unread or "policies" in refused else settings


def _attempt(
    cls: type[Settings], given: Mapping[str, Given]
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
        ours = detail["type"] == OURS
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
    http, notify = settings.http, settings.notify
    if http.listen and not http.listen.is_loopback and http.token is None:
        what = (
            "is not a loopback address, so others can ask it: set ROTATOR_HTTP__TOKEN (or its _FILE), or "
            "ROTATOR_HTTP__TOKEN=none to show policies and states to everybody"
        )
        yield "http.listen", "http.token", what
    if notify.secret and not notify.webhook:
        yield "notify.secret", "notify.webhook", "needs ROTATOR_NOTIFY__WEBHOOK"


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
