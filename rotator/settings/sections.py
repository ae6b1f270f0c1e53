"""Every setting of a section: its kind, its default, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from rotator.keys import Secret
from rotator.settings.sources import ALIASES
from rotator.settings.tls import (
    TlsFile,
)
from rotator.settings.values import (
    Address,
    Auth,
    Cron,
    Dsn,
    File,
    Level,
    Listen,
    LogFormat,
    Number,
    PageUrl,
    SecretValue,
    Switch,
    Text,
    Url,
    VaultPath,
    VaultPlace,
    VaultUrl,
    WebhookUrl,
)

# The word that opens the status page to everybody.
OPEN = Secret("none")
SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )


class ECGridSettings(_Section):
    """How ECGrid is reached, and as whom; `timeout` in seconds, `rate` in requests a second."""

    rest_url: Url = Field(
        default="https://rest.ecgrid.io",
        description="Plain `http` only to a loopback address.",
    )
    soap_url: Url = Field(
        default="https://os.ecgrid.io/v4.1/prod/ECGridOS.asmx",
        description="The same. What it speaks is read from its description, `?WSDL`.",
    )
    soap_namespace: Text | None = Field(
        default=None,
        description="The namespace of the SOAP calls. It is found out: set it only where the service's description "
        "is not to be believed about it.",
    )
    api_key: SecretValue | None = Field(
        default=None,
        description="The rotator's own key. Other users' keys take the AuthLevel NetworkAdmin or higher.",
    )
    api_key_vault: VaultPlace | None = Field(
        default=None,
        description="The rotator's own key, read from Vault: `MOUNT/PATH#FIELD`. Comes before `API_KEY`.",
    )
    login: Text | None = Field(
        default=None,
        description="The rotator's own login: instead of a key, or the way back in if that is refused.",
    )
    password: SecretValue | None = Field(
        default=None,
        description="The password of that login.",
    )
    rate: Number = Field(
        default=1.5,
        description="Requests a second to ECGrid, over the process; lowered while it answers 429.",
    )
    timeout: Number = Field(
        default=30.0,
        description="Seconds for one request.",
    )


class VaultSettings(_Section):
    """How Vault is reached, and as whom.

    `auth_mount` is where the login method is mounted, by default under its own name. `jwt_file` is read anew at each
    login (kubernetes, jwt); by default it is the pod's service account token.
    """

    addr: VaultUrl | None = Field(
        default=None,
        description="Vault's address, such as `https://vault:8200`; with a cluster, the active node's.",
    )
    token: SecretValue | None = Field(
        default=None,
        description="For `auth` `token`.",
    )
    namespace: Text | None = Field(
        default=None,
        description="As for Vault's own tools.",
    )
    cacert: File | None = Field(
        default=None,
        description="A file with the authorities that Vault's certificate is checked against.",
    )
    capath: File | None = Field(
        default=None,
        description="A directory with them.",
    )
    client_cert: File | None = Field(
        default=None,
        description="For `auth` `cert`, or a proxy that asks for one.",
    )
    client_key: File | None = Field(
        default=None,
        description="The key of that certificate.",
    )
    skip_verify: Switch = Field(
        default=False,
        description="Do not check Vault's certificate: anybody in between can then read the keys.",
    )
    tls_server_name: Text | None = Field(
        default=None,
        description="The name that is looked for in Vault's certificate.",
    )
    auth: Auth = Field(
        default="token",
        description="`token`, `approle`, `kubernetes`, `jwt` or `cert`.",
    )
    auth_mount: VaultPath | None = Field(
        default=None,
        description="Where that method is mounted. Default: its own name.",
    )
    role: Text | None = Field(
        default=None,
        description="The role for `kubernetes`, `jwt` and `cert`.",
    )
    role_id: Text | None = Field(
        default=None,
        description="For `approle`. No secret.",
    )
    secret_id: SecretValue | None = Field(
        default=None,
        description="For `approle`.",
    )
    jwt_file: File = Field(
        default=SERVICE_ACCOUNT_TOKEN,
        description="The token for `kubernetes` and `jwt`, read anew at each login.",
    )
    mount: VaultPath = Field(
        default="secret",
        description="The KV v2 mount where a policy does not say.",
    )
    state_path: VaultPath = Field(
        default="rotator",
        description="Records are below `MOUNT/STATE_PATH/`. They are about one ECGrid: another environment needs a "
        "path of its own.",
    )

    def tls_files(self, places: Mapping[str, str] | None = None) -> list[TlsFile | None]:
        """The authorities (a file, a directory), the client's certificate and its key; with what names each."""
        files: list[TlsFile | None] = []
        for name in ("cacert", "capath", "client_cert", "client_key"):
            file: Path | None = getattr(self, name)
            where = (places or {}).get(f"vault.{name}", ALIASES[f"vault.{name}"])
            files.append(None if file is None else TlsFile(file, where))
        return files


class SentrySettings(_Section):
    """Where failures are reported; nowhere without a DSN.

    `cron` is when `run --once` is started, for the monitor that alarms when it was not.
    """

    dsn: Dsn | None = Field(
        default=None,
        repr=False,
        description="Where failures are reported; nowhere without it.",
    )
    environment: Text | None = Field(
        default=None,
        description="As the SDK.",
    )
    release: Text | None = Field(
        default=None,
        description="As the SDK.",
    )
    cron: Cron | None = Field(
        default=None,
        description="When `run --once` is started (five fields of a crontab): Sentry alarms when it was not.",
    )


class HttpSettings(_Section):
    """Health, metrics and status page of the daemon; `listen` None serves nothing.

    Whoever asks from elsewhere than this machine has to show the token, unless that is the word `none`.
    """

    listen: Address = Field(
        default=Listen("127.0.0.1", 9464),
        description="`HOST:PORT` of the daemon; empty: none. Beyond loopback it takes a token.",
    )
    token: SecretValue | None = Field(
        default=None,
        description="Who asks for more than health has to show it; the word `none` shows everything to everybody.",
    )

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for a token."""
        return self.token is None or self.token == OPEN


class NotifySettings(_Section):
    """The webhook that is told of failures, overdue keys and recoveries; `secret` signs what is sent.

    `runbook` is the address of the runbook's page, for the links of all reports.
    """

    webhook: WebhookUrl | None = Field(
        default=None,
        repr=False,
        description="Is told of failures, overdue keys and recoveries (see [notifications](notifications.md)).",
    )
    secret: SecretValue | None = Field(
        default=None,
        description="Signs what is sent there.",
    )
    runbook: PageUrl | None = Field(
        default=None,
        description="The address of the runbook where you serve it, for the links in all reports; without it they "
        "name `rotator explain KIND`.",
    )


class MetricsSettings(_Section):
    """The file that a command which acts leaves its metrics in, for node_exporter's textfile collector."""

    textfile: File | None = Field(
        default=None,
        description="A file for node_exporter's textfile collector, written by commands that act.",
    )


class LogSettings(_Section):
    """What is logged, and in which form."""

    level: Level = Field(
        default="INFO",
        description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.",
    )
    format: LogFormat = Field(
        default="auto",
        description="`json`, `console`, or `auto`: console at a terminal.",
    )
