"""The hunt: the real command among canaries, everything that leaves it kept, and the search through all of that."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from conftest import Finished, VaultServer
from receiver import Receiver, receiver

import rotator
from leaks.parties import BeforeVault
from leaks.search import Search
from rotator.sandbox.ecgrid import AuthLevel, Running, Simulator, Switches, start

OPERATOR = 5000
PATIENCE = 240.0  # seconds for one command
ROOT = Path(rotator.__file__).parent.parent
# What a hook can see of itself and of the rotator, and what it is told.
SPY = (
    'for f in /proc/self/environ /proc/self/cmdline /proc/$PPID/cmdline; do tr "\\0" "\\n" <$f; done '
    '>>"$HOME/hook.$$"'
)


def canary() -> str:
    """A secret that a header can carry, with what the encodings must escape."""
    return f"{secrets.token_urlsafe(9)}+/=<&>\"'\\%{secrets.token_urlsafe(15)}"


@dataclass
class Hunt:
    """The command's surroundings, and all that it left behind. `environment` is what it gets, and may be changed."""

    directory: Path
    vault: VaultServer
    mount: str
    simulator: Running
    before_vault: BeforeVault
    sentry: Receiver
    webhook: Receiver
    thief: Receiver
    environment: dict[str, str]
    secrets: set[str]
    dsn_key: str
    left: list[tuple[str, bytes]] = field(default_factory=list)
    said_so: list[str] = field(default_factory=list)  # how often the net raised its alarm

    @property
    def home(self) -> Path:
        """The home directory of the command and its hooks."""
        return self.directory / "home"

    def secret_file(self, name: str, value: str, end: str = "\n") -> str:
        """A file with a secret in it, as a person's editor leaves it; returns its path."""
        path = self.directory / "given" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(value + end)
        path.chmod(0o600)
        self.secrets.add(value)
        return str(path)

    def policy(self, name: str, user_id: int, text: str = "") -> None:
        """A policy with both kinds of hooks, for a user who has a key; further lines in `text`."""
        model = self.simulator.simulator
        model.add_user(user_id)
        model.add_key(user_id)
        token = secrets.token_hex(12)
        self.secrets.add(token)
        (self.directory / "policies" / f"{name}.yaml").write_text(
            textwrap.dedent(f"""\
                user_id: {user_id}
                visibility: Private
                schedule: {{every: 30d}}
                vault: {{path: ecgrid/{name}}}
                after:
                  - exec: [sh, -c, '{SPY}']
                  - webhook: http://{self.webhook.address}/{token}
                """)
            + textwrap.dedent(text)
        )

    def run(
        self, *arguments: str, deeds: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> Finished:
        """Runs the command at DEBUG to its end, after some deeds of the driver, and keeps what it said."""
        program = ["-m", "leaks.driver", *deeds, "--"] if deeds else ["-m", "rotator"]
        done = subprocess.run(
            [sys.executable, *program, "--log-level", "DEBUG", *arguments],
            cwd=self.directory,
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        self.keep(" ".join(arguments), done.stdout, done.stderr)
        stdout, stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return Finished(done.returncode, stdout, stderr)

    def keep(self, what: str, stdout: bytes, stderr: bytes) -> None:
        """Adds a command's output to what is searched."""
        self.left += [(f"stdout of {what}", stdout), (f"stderr of {what}", stderr)]
        self.said_so += [what for line in stderr.splitlines() if b"leak.prevented" in line]

    def findings(self) -> list[str]:
        """Where a secret is shown, among all that the command left behind. Nothing is what it should be."""
        known = self.secrets | self.simulator.simulator.secrets()
        search = Search(known)
        places = [*self.left, *self._files(), *self._heard(), *self._in_vault()]
        found = [(what, search.shown_in(data)) for what, data in places]
        return [f"{what}: {where}" for what, where in found if where]

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """What was written anywhere the command may write."""
        for path in sorted(self.directory.rglob("*")):
            given = {"given", "policies"} & set(path.relative_to(self.directory).parts)
            if path.is_file() and not given:
                yield f"file {path.name}", path.read_bytes()
                yield "the name of a file", path.name.encode()

    def _heard(self) -> Iterator[tuple[str, bytes]]:
        for name, party in (
            ("sentry", self.sentry),
            ("webhook", self.webhook),
            ("thief", self.thief),
        ):
            for taken in party.taken:
                headers = {k: v for k, v in taken.headers.items() if k != "X-Sentry-Auth"}
                yield f"{name}'s headers", json.dumps(headers).encode()
                yield f"{name}'s body", taken.body

    def _in_vault(self) -> Iterator[tuple[str, bytes]]:
        """Every version of every document, but for the value where it belongs."""
        for path in self._paths(""):
            about = self.vault.call("GET", f"{self.mount}/metadata/{path}")["data"]
            yield f"metadata of {path}", json.dumps(about).encode()
            for version, state in about["versions"].items():
                if state["destroyed"] or state["deletion_time"]:
                    continue
                data = self.vault.call("GET", f"{self.mount}/data/{path}?version={version}")[
                    "data"
                ]["data"]
                belongs = "value" if path.startswith("rotator/staged/") else "api_key"
                if path.startswith(("rotator/staged/", "ecgrid/")):
                    data.pop(belongs, None)
                yield f"{path} in Vault", json.dumps(data).encode()

    def _paths(self, below: str) -> Iterator[str]:
        try:
            names = self.vault.call("LIST", f"{self.mount}/metadata/{below}")["data"]["keys"]
        except httpx.HTTPStatusError:
            return
        for name in names:
            yield from self._paths(below + name) if name.endswith("/") else [below + name]


@contextmanager
def hunt(
    directory: Path, vault: VaultServer, mount: str, switches: Switches | None = None
) -> Iterator[Hunt]:
    """A hunt of its own: simulator, hostile Vault, listeners, and a canary for every secret that there is."""
    model = Simulator(switches)
    model.switch(key_shape="special", me_shows_key=True)
    model.add_user(OPERATOR, auth_level=AuthLevel.NetworkAdmin, password="aA1!" + canary())
    own_key = model.add_key(OPERATOR).value
    token, dsn_key, proxy = (secrets.token_hex(16) for _ in range(3))
    vault.call("POST", "auth/token/create", {"id": token, "policies": ["root"], "ttl": "1h"})
    for name in ("policies", "home", "tmp"):
        (directory / name).mkdir()
    with (
        start(model) as simulator,
        receiver() as thief,
        receiver() as sentry,
        receiver() as webhook,
        BeforeVault(vault.addr, thief.address) as before_vault,
    ):
        environment = {
            "PATH": os.defpath,
            "HOME": str(directory / "home"),
            "TMPDIR": str(directory / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "VAULT_ADDR": f"http://{before_vault.address}",
            "SENTRY_DSN": f"http://{dsn_key}@{sentry.address}/1",
            "HTTPS_PROXY": f"http://somebody:{proxy}@127.0.0.1:1",
            # Whoever asked it for what is on this machine would show it everything.
            **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), f"http://{thief.address}"),
            "ROTATOR_VAULT__MOUNT": mount,
            "ROTATOR_ECGRID__REST_URL": simulator.rest_url,
            "ROTATOR_ECGRID__SOAP_URL": simulator.soap_url,
            "ROTATOR_ECGRID__RATE": "1000",
            "ROTATOR_HTTP__LISTEN": "",
        }
        made = Hunt(
            directory, vault, mount, simulator, before_vault, sentry, webhook, thief, environment,
            {own_key, token, dsn_key, proxy}, dsn_key,
        )  # fmt: skip
        environment["ROTATOR_VAULT__TOKEN_FILE"] = made.secret_file("vault-token", token)
        environment["ROTATOR_ECGRID__API_KEY_FILE"] = made.secret_file("ecgrid-key", own_key)
        yield made


def results(done: Finished) -> list[dict[str, Any]]:
    """The results that a command printed with `--json`."""
    found: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return found
