"""The real other parties, one set per test: a Vault, a simulated ECGrid, and the command as a process.

The types are for the tests to name: `from conftest import Rotator, VaultServer`.
"""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from forked import PROGRAM, Nursery
from hypothesis import settings as hypothesis_settings

import rotator
from rotator.sandbox.ecgrid import AuthLevel, Running, Simulator, Switches, start
from rotator.sandbox.openbao import OpenBao

# How long an example takes is the machine's business.
hypothesis_settings.register_profile("house", deadline=None)
hypothesis_settings.load_profile("house")

# A job in the background has SIGINT ignored, and so would every command that a test starts and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How much is run. `make test` is "quick", without what is marked `full` or left out by a draw (`sampled`); "full" is
# all of that; with "every", `make test-crash` and `make test-leaks` take every place and moment instead of a sample.
EXTENT = os.environ.get("ROTATOR_TEST_EXTENT", "full")
QUICK, EVERY = EXTENT == "quick", EXTENT == "every"
# What is drawn at random is drawn anew each time, the same in all workers; with this seed it is drawn again.
SEED = int(os.environ.setdefault("ROTATOR_TEST_SEED", str(secrets.randbelow(10**6))))
in_every = pytest.mark.skipif(not EVERY, reason="ROTATOR_TEST_EXTENT=every runs it")

OPERATOR = 5000  # the user whose key the rotator itself uses, a NetworkAdmin
ROOT = Path(__file__).resolve().parent.parent
USERS = (5001, 5002, 5003)  # users to rotate, each with one Private key

# Read when pytest starts, in every worker, before anything is cleaned away.
_OUTSIDE_VAULT = {name: value for name, value in os.environ.items() if name.startswith("VAULT_")}
_STRANGERS = (
    "VAULT_",
    "BAO_",
    "ROTATOR_",
    "SENTRY_",
    "KUBERNETES_",
    "JOB_COMPLETION_",
    "XDG_",
    "SSL_CERT_",
    "SSLKEYLOGFILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_",
    "LISTEN_",
    "NO_COLOR",
    "FORCE_COLOR",
)


COLLECTED = pytest.StashKey[list[pytest.Item]]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leaves out what is not for `make test`, if that is what runs."""
    collected = session.stash[COLLECTED] = [*items]
    if QUICK:
        items[:] = quick(collected)
        config.hook.pytest_deselected(items=[*set(collected).difference(items)])


def quick(items: list[pytest.Item]) -> list[pytest.Item]:
    """What `make test` runs: nothing that is `full`, of what is `sampled(N)` N cases by the seed, and all the rest."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not item.get_closest_marker("full"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    drawn: set[pytest.Item] = set()
    for name, of_one in cases.items():
        mark = of_one[0].get_closest_marker("sampled")
        number = min(mark.args[0], len(of_one)) if mark else len(of_one)
        drawn |= set(random.Random(f"{SEED} {name}").sample(of_one, number))
    return [item for item in items if item in drawn]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the seed, so that what was drawn can be drawn again; and what works with which form of ECGrid."""
    terminalreporter.write_line(f"drawn with ROTATOR_TEST_SEED={SEED}")
    rows = [
        row
        for report in terminalreporter.getreports("passed")
        for name, row in report.user_properties
        if name == "cell"
    ]
    if rows:
        terminalreporter.section("what works with which form of ECGrid")
    for row in sorted(rows):
        terminalreporter.line("{:<8} {:<11} {:<17} {}".format(*row))


def until(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """Waits until that holds, and returns what it is; fails the test if it never does."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := condition():
            return found
        time.sleep(0.05)
    return pytest.fail(f"never happened: {what}")


def events(stderr: str, name: str, **fields: Any) -> list[dict[str, Any]]:
    """The events of that name with these fields, from a log in JSON; a last line that is not whole yet is left out."""
    lines = [line for line in stderr.splitlines() if line.startswith("{") and line.endswith("}")]
    told: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [one for one in told if one["event"] == name and fields.items() <= one.items()]


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it waited for or not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True


@dataclass(frozen=True)
class VaultServer:
    """A Vault, or an OpenBao, that the tests may do with as they like; `environment` is what its own tools read."""

    addr: str
    token: str = field(repr=False)
    environment: dict[str, str] = field(repr=False)
    _http: httpx.Client = field(repr=False)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The parsed answer to `/v1/PATH` (`{}` if it is empty); raises httpx.HTTPStatusError for a refusal."""
        answer = self._http.request(method, f"/v1/{path}", json=body)
        answer.raise_for_status()
        return dict(answer.json()) if answer.content else {}


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """All of stdout, parsed."""
        return json.loads(self.stdout)


class Started:
    """A command that is running, with its output going to files; forked from `nursery`, if that can be."""

    def __init__(
        self,
        command: list[str],
        where: Path,
        environment: Mapping[str, str],
        nursery: Nursery | None = None,
    ) -> None:
        self._files = (where / "stdout", where / "stderr")
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            forked = nursery and nursery.start(command, where.parent, environment, out, err)
            self.process = forked or subprocess.Popen(
                command,
                cwd=where.parent,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def so_far(self) -> tuple[str, str]:
        """stdout and stderr up to now."""
        out, err = (path.read_text(errors="backslashreplace") for path in self._files)
        return out, err

    def finish(self, *, send: signal.Signals | None = None, timeout: float = 120.0) -> Finished:
        """Waits for the end, after a signal if one is given; kills it at the timeout and raises."""
        if send is not None:
            self.process.send_signal(send)
        try:
            code = self.process.wait(timeout)
        finally:
            self.kill()
        return Finished(code, *self.so_far())

    def kill(self) -> None:
        """Ends the process without mercy, if it is still there."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Rotator:
    """The real command in a directory of its own, between the test's Vault and its simulated ECGrid.

    `environment` is all that a command gets, and may be changed. `secrets` holds what must never be printed, besides
    what the simulator knows; what a test makes up itself (a SecretID, a login) is added to it.
    """

    program: tuple[str, ...] = PROGRAM

    def __init__(
        self,
        directory: Path,
        environment: dict[str, str],
        simulator: Simulator,
        nursery: Nursery | None,
    ) -> None:
        self.directory = directory
        self.nursery = nursery
        self.policies = directory / "policies"
        self.policies.mkdir()
        self.environment = environment
        self.secrets: set[str] = set()
        self._simulator = simulator
        self._started: list[Started] = []

    def policy(self, name: str, text: str) -> Path:
        """Writes `policies/NAME.yaml`, without the text's common indentation."""
        path = self.policies / f"{name}.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    def __call__(self, *arguments: str, timeout: float = 120.0, **environment: str) -> Finished:
        """Runs a command to its end and asserts that it printed no secret; keywords are further variables."""
        finished = self.start(*arguments, **environment).finish(timeout=timeout)
        self.assert_silent(finished.stdout, finished.stderr)
        return finished

    def start(self, *arguments: str, **environment: str) -> Started:
        """Starts a command that goes on running; it is killed, and its output looked through, when the test ends."""
        where = self.directory / f"command-{len(self._started)}"
        where.mkdir()
        command = [*self.program, *arguments]
        started = Started(command, where, {**self.environment, **environment}, self.nursery)
        self._started.append(started)
        return started

    def assert_silent(self, *texts: str) -> None:
        """Fails if a text shows a secret, as it is or as a library would write it; does not say which."""
        known = self.secrets | self._simulator.secrets()
        shown = {form for secret in known for form in _forms(secret)}
        leaks = [number for number, text in enumerate(texts) if any(form in text for form in shown)]
        if leaks:
            pytest.fail(f"a secret was printed (0 is stdout, 1 is stderr): {leaks}", pytrace=False)

    def close(self) -> None:
        """Ends what is still running, and asserts that nothing was printed and that ECGrid saw no odd request."""
        for started in self._started:
            started.kill()
        for started in self._started:
            self.assert_silent(*started.so_far())
        assert self._simulator.violations() == []


def _forms(secret: str) -> set[str]:
    """A secret in the spellings of JSON, repr, XML, URLs and base64."""
    raw = secret.encode()
    xml = secret.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Padding depends on what follows the secret in the same base64 text, so the last group is left out.
    encoded = base64.b64encode(raw[: len(raw) // 3 * 3]).decode()
    plain = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], xml}
    return plain | {quote(secret, safe=""), quote(secret), encoded, raw.hex()}


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the machine's own Vault, Sentry, proxy or home reaches a test; HOME is empty."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(_STRANGERS) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def vault(environment: None) -> Iterator[VaultServer]:
    """The Vault that VAULT_ADDR and VAULT_TOKEN named when pytest started, else an OpenBao of this worker's own."""
    if {"VAULT_ADDR", "VAULT_TOKEN"} <= _OUTSIDE_VAULT.keys():
        with _client(_OUTSIDE_VAULT) as http:
            addr, token = _OUTSIDE_VAULT["VAULT_ADDR"], _OUTSIDE_VAULT["VAULT_TOKEN"]
            yield VaultServer(addr, token, _OUTSIDE_VAULT, http)
        return
    with OpenBao.start() as bao:
        own = {"VAULT_ADDR": bao.addr, "VAULT_TOKEN": bao.token}
        with _client(own) as http:
            yield VaultServer(bao.addr, bao.token, own, http)


def _client(environment: Mapping[str, str]) -> httpx.Client:
    headers = {"X-Vault-Token": environment["VAULT_TOKEN"]}
    if namespace := environment.get("VAULT_NAMESPACE"):
        headers["X-Vault-Namespace"] = namespace
    tls = httpx.create_ssl_context(trust_env=False)
    if authority := environment.get("VAULT_CACERT"):
        tls.load_verify_locations(authority)
    addr = environment["VAULT_ADDR"]
    return httpx.Client(base_url=addr, headers=headers, timeout=30, verify=tls, trust_env=False)


@pytest.fixture(scope="session")
def nursery(environment: None) -> Iterator[Nursery]:
    """Where the commands of this worker come from."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def mount(vault: VaultServer) -> Iterator[str]:
    """A fresh KV v2 mount that no other test knows; gone afterwards."""
    name = f"kv-{secrets.token_hex(6)}"
    vault.call("POST", f"sys/mounts/{name}", {"type": "kv", "options": {"version": "2"}})
    try:
        _wait_for_kv(vault, name)
        yield name
    finally:
        vault.call("DELETE", f"sys/mounts/{name}")


def _wait_for_kv(vault: VaultServer, name: str) -> None:
    """Vault goes on setting a new KV v2 mount up after it has answered, and refuses requests (400) until then."""
    for _ in range(200):
        try:
            vault.call("GET", f"{name}/config")
        except httpx.HTTPStatusError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"the KV v2 mount {name} did not become ready")


@contextmanager
def an_ecgrid(switches: Switches) -> Iterator[Running]:
    """A simulated ECGrid, served, with OPERATOR and USERS, each with one Private key; `.simulator` is its inside."""
    model = Simulator(switches)
    model.add_user(OPERATOR, auth_level=AuthLevel.NetworkAdmin)
    for user_id in USERS:
        model.add_user(user_id)
    for user_id in (OPERATOR, *USERS):
        model.add_key(user_id)
    with start(model) as running:
        yield running


@pytest.fixture
def simulator(environment: None) -> Iterator[Running]:
    """An ECGrid as the vendor's newest pages have it (see `an_ecgrid`)."""
    with an_ecgrid(Switches()) as running:
        yield running


@pytest.fixture
def service(environment: None) -> Iterator[Running]:
    """An ECGrid as the service describes itself (see `an_ecgrid`)."""
    with an_ecgrid(Switches.service()) as running:
        yield running


@pytest.fixture
def rotator_command(
    tmp_path: Path, vault: VaultServer, mount: str, simulator: Running, nursery: Nursery
) -> Iterator[Rotator]:
    """The real command, set up for this test's mount and simulator; prints no secret, or the test fails."""
    operator_key = simulator.simulator.api_key(OPERATOR)
    assert operator_key is not None
    directory = tmp_path / "rotator"
    directory.mkdir()
    given = {
        "PATH": os.defpath,
        "HOME": os.environ["HOME"],
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(rotator.__file__).parent.parent),
        **vault.environment,
        "ROTATOR_VAULT__MOUNT": mount,
        "ROTATOR_ECGRID__REST_URL": simulator.rest_url,
        "ROTATOR_ECGRID__SOAP_URL": simulator.soap_url,
        "ROTATOR_ECGRID__API_KEY": operator_key,
        "ROTATOR_ECGRID__RATE": "1000",
        "ROTATOR_HTTP__LISTEN": "",
    }
    nursery.expect(given)
    command = Rotator(directory, given, simulator.simulator, None if EVERY else nursery)
    command.secrets.add(vault.token)
    yield command
    command.close()


@pytest.fixture
def rotator_service(
    rotator_command: Rotator, service: Running, vault: VaultServer
) -> Iterator[Rotator]:
    """The command, set up for an ECGrid as it describes itself."""
    rotator_command.environment |= {
        "ROTATOR_ECGRID__REST_URL": service.rest_url,
        "ROTATOR_ECGRID__SOAP_URL": service.soap_url,
        "ROTATOR_ECGRID__API_KEY": service.simulator.api_key(OPERATOR) or "",
    }
    rotator_command.secrets |= service.simulator.secrets()
    yield rotator_command
    rotator_command.secrets |= service.simulator.secrets()
    assert service.simulator.violations() == []


class Roles:
    """Logins by AppRole whose only Vault policy is one that the test gives."""

    def __init__(self, vault: VaultServer, mount: str, command: Rotator) -> None:
        self._vault, self._mount, self._command = vault, mount, command
        self._auth = f"approle-{secrets.token_hex(6)}"
        self._made: list[str] = []
        config = {"max_lease_ttl": "2160h"}  # as vault/README.md has it
        vault.call("POST", f"sys/auth/{self._auth}", {"type": "approle", "config": config})

    def environment(self, hcl: str) -> dict[str, str]:
        """What makes a command log in with that policy, for this test's mount, in the role that ships."""
        name = f"rotator-{secrets.token_hex(6)}"
        self._made.append(name)
        self.grant(hcl)
        role = json.loads((ROOT / "vault" / "approle.json").read_text()) | {
            "token_policies": [name]
        }
        at = f"auth/{self._auth}/role/{name}"
        self._vault.call("POST", at, role)
        role_id = self._vault.call("GET", f"{at}/role-id")["data"]["role_id"]
        secret_id = self._vault.call("POST", f"{at}/secret-id")["data"]["secret_id"]
        self._command.secrets.add(secret_id)
        return {
            "VAULT_TOKEN": "",
            "ROTATOR_VAULT__AUTH": "approle",
            "ROTATOR_VAULT__AUTH_MOUNT": self._auth,
            "ROTATOR_VAULT__ROLE_ID": role_id,
            "ROTATOR_VAULT__SECRET_ID": secret_id,
        }

    def grant(self, hcl: str) -> None:
        """Gives the newest login this policy instead of its own, for this test's mount."""
        policy = hcl.replace('"secret/', f'"{self._mount}/')
        policy = policy.replace('"auth/approle/', f'"auth/{self._auth}/')
        self._vault.call("PUT", f"sys/policies/acl/{self._made[-1]}", {"policy": policy})

    def token(self, hcl: str) -> str:
        """A token with that policy and no other."""
        name = f"rotator-{secrets.token_hex(6)}"
        self._made.append(name)
        self.grant(hcl)
        made = self._vault.call(
            "POST",
            "auth/token/create",
            {"policies": [name], "no_default_policy": True, "ttl": "1h"},
        )
        self._command.secrets.add(made["auth"]["client_token"])
        return str(made["auth"]["client_token"])

    def close(self) -> None:
        """Leaves nothing in Vault."""
        self._vault.call("DELETE", f"sys/auth/{self._auth}")
        for name in self._made:
            self._vault.call("DELETE", f"sys/policies/acl/{name}")


@pytest.fixture
def roles(vault: VaultServer, mount: str, rotator_command: Rotator) -> Iterator[Roles]:
    """An AppRole login of this test's own."""
    made = Roles(vault, mount, rotator_command)
    yield made
    made.close()
