"""What the machine around it may not change: files in the home, other programs' variables, zones, names, silence."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Rotator, VaultServer, until
from proxy import Proxy, Request
from settled import settled
from test_daemon import fleet_of, logged, record
from test_ecgrid_client import At
from test_ecgrid_client_wire import (
    certificate,  # noqa: F401 - a fixture, asked for by its name below
    http,
    serving,
)

from rotator.ecgrid import Credentials, ECGrid, Rate, Urgency
from rotator.errors import Failure, NotSent, Transient
from rotator.keys import Issue, Secret, Verify, Visibility
from rotator.sandbox.ecgrid import Running
from rotator.settings import Settings
from rotator.vault.clock import ServerClock
from rotator.vault.wire import Wire

POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    first: rotate
    vault: {path: ecgrid/edi}
"""


def kind_of(call: Callable[[], object], family: type[Failure]) -> str:
    """The kind of the failure that a call ends with; it must end."""
    with ThreadPoolExecutor(1) as pool, pytest.raises(family) as caught:
        pool.submit(call).result(60)
    return caught.value.kind


def vault_at(addr: str) -> Wire:
    """A wire to Vault."""
    settings = Settings.load({"VAULT_ADDR": addr}).vault
    return Wire(settings, ServerClock(time.monotonic, time.time), None)


# what lies about


def test_home_and_other_programs_variables_change_no_byte_of_what_is_sent(
    rotator_command: Rotator,
    vault: VaultServer,
    simulator: Running,
    tmp_path: Path,
) -> None:
    """Neither to Vault nor, on both surfaces, to ECGrid: `~/.vault-token`, `.netrc`, and what requests heeds."""
    rotator_command.policy("edi", f"{POLICY}    verify: key-get\n")
    poison = secrets.token_hex(16)
    rotator_command.secrets.add(poison)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".vault-token").write_text(poison)
    (home / ".vault").write_text('token_helper = "/nowhere"\n')
    (home / ".netrc").write_text(f"default login somebody password {poison}\n")
    (home / ".netrc").chmod(0o600)
    nowhere = str(tmp_path / "nowhere")
    poisoned = {
        "HOME": str(home),
        "NETRC": str(home / ".netrc"),
        "REQUESTS_CA_BUNDLE": nowhere,
        "CURL_CA_BUNDLE": nowhere,
        "BAO_TOKEN": poison,
        "BAO_ADDR": "http://127.0.0.1:1",
        "VAULT_FORMAT": "yaml",
        "ECGRID_API_KEY": poison,
    }
    with Proxy() as proxy:
        rotator_command.environment |= {
            "VAULT_ADDR": proxy.before("vault", vault.addr),
            "ROTATOR_ECGRID__REST_URL": proxy.before("ecgrid", simulator.rest_url),
            "ROTATOR_ECGRID__SOAP_URL": proxy.before("ecgrid", simulator.soap_url),
        }
        assert rotator_command("run", "--once").code == 0
        sent = []
        for more in ({}, poisoned):
            proxy.requests.clear()
            rotator_command.environment |= more
            assert rotator_command("check", "edi").code == 0
            sent.append(sorted(map(as_sent, proxy.requests)))
    assert sent[0] == sent[1]
    assert {server for server, _ in sent[0]} == {"vault", "ecgrid"}
    assert {b".asmx" in raw for server, raw in sent[0] if server == "ecgrid"} == {True, False}


def as_sent(request: Request) -> tuple[str, bytes]:
    """Which server got what."""
    return request.server, request.raw


def test_without_a_token_the_one_in_the_home_is_not_taken(
    rotator_command: Rotator, vault: VaultServer, tmp_path: Path
) -> None:
    """Whoever starts the rotator by hand does not lend it a token unawares."""
    rotator_command.policy("edi", POLICY)
    (tmp_path / ".vault-token").write_text(vault.token)
    with Proxy() as proxy:
        addr = proxy.before("vault", vault.addr)
        done = rotator_command(
            "status", HOME=str(tmp_path), VAULT_TOKEN="", BAO_TOKEN=vault.token, VAULT_ADDR=addr
        )
        assert (done.code, proxy.requests) == (2, [])
    assert "VAULT_TOKEN" in done.stderr


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_what_requests_trusts_vault_is_not_trusted_by(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """An authority is named by VAULT_CACERT or SSL_CERT_FILE."""
    made: tuple[Path, ssl.SSLContext] = request.getfixturevalue("certificate")
    monkeypatch.setenv(variable, str(made[0]))
    with serving(http("{}"), made[1]) as server:
        addr = f"https://127.0.0.1:{server.port}"
        wire = vault_at(addr)
        assert kind_of(lambda: wire.request("get", "/v1/kv/data/a"), Transient) == "vault.TLS"
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(made[0]))
        assert vault_at(addr).request("get", "/v1/kv/data/a") == {}


# zones


def test_the_machines_zone_plays_no_part_nor_that_it_knows_of_none(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """The daemon brings the zones along, and tells times in UTC."""
    (name,) = fleet_of(rotator_command, simulator, 1, "30d")
    path = rotator_command.policies / f"{name}.yaml"
    path.write_text(path.read_text().replace("30d}", "30d, timezone: Europe/Berlin}"))
    daemon = rotator_command.start(
        "run", TZ="Mars/Base", PYTHONTZPATH="", ROTATOR_CHECK_EVERY="0", ROTATOR_LOG__FORMAT="json"
    )
    until(lambda: record(vault, mount, name).get("current"), "it adopts")
    assert daemon.finish(send=signal.SIGTERM).code == 0
    (ready,) = logged(daemon, "daemon.ready")
    assert ready["time"].endswith("Z")


# names


@pytest.mark.parametrize("command", [("run", "--once"), ("status",)])
def test_a_command_ends_with_a_clear_error_where_no_name_is_known(
    rotator_command: Rotator, simulator: Running, command: tuple[str, ...]
) -> None:
    """Vault's name: within the deadline, and with nothing issued."""
    rotator_command.policy("edi", POLICY)
    away = {"VAULT_ADDR": "https://vault.invalid:8200", "ROTATOR_DEADLINE": "1s"}
    done = rotator_command(*command, timeout=60, **away)
    said = done.stdout + done.stderr
    assert (done.code, "[vault.Unreachable]" in said, "VAULT_ADDR" in said) == (1, True, True)
    assert simulator.simulator.issued() == 0


@pytest.mark.parametrize("surface", ["REST", "SOAP"])
def test_a_rotation_fails_clearly_where_ecgrids_name_is_not_known(
    rotator_command: Rotator, vault: VaultServer, mount: str, surface: str
) -> None:
    """The message names the settings; nothing of it is left open."""
    rotator_command.policy("edi", POLICY)
    away = {f"ROTATOR_ECGRID__{surface}_URL": "https://ecgrid.invalid", "ROTATOR_DEADLINE": "1s"}
    done = rotator_command("rotate", "edi", "--json", timeout=60, **away)
    (result,) = done.json["results"]
    assert (done.code, result["error"]["kind"]) == (1, "ecgrid.Unreachable")
    assert f"ROTATOR_ECGRID__{surface}_URL" in result["error"]["message"]
    there = record(vault, mount, "edi")
    assert (there.get("claim"), there.get("underway")) == (None, None)


WATCHED = """
import json, sys
from types import SimpleNamespace
asked = set()
def hook(event, args):
    if event == "socket.getaddrinfo":
        asked.add(f"name {args[0]}")
    elif event == "socket.connect":
        asked.add(f"connect {args[1][0]}:{args[1][1]}")
    elif event == "open" and str(args[0]).startswith(("http:", "https:")):
        asked.add(f"open {args[0]}")
key = sys.stdin.readline().strip()
sys.addaudithook(hook)
from rotator.ecgrid import Credentials, ECGrid, Rate, Urgency
from rotator.keys import Issue, Secret, Verify, Visibility
at = SimpleNamespace(rest_url="https://rest.invalid", soap_url=sys.argv[1], soap_namespace=sys.argv[2])
ecgrid = ECGrid(at, Credentials([lambda: Secret(key)]), Rate(None))
account = ecgrid.account(Issue.KEYSET, Verify.KEY_GET, Urgency.ROTATION)
account.warm(1)
issued = account.issue(5001, Visibility.PRIVATE, 20).ref.key_id
print(json.dumps([account.read(5001, 20).ref.key_id == issued, sorted(asked)]))
"""


def test_soap_asks_nobody_but_the_address_that_was_set(simulator: Running) -> None:
    """No name is looked up and no schema fetched; the address that the WSDL names is not ECGrid's to choose."""
    key = simulator.simulator.api_key(5000)
    assert key is not None
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, simulator.soap_url, "http://www.ecgridos.net/"],
        cwd=Path(__file__).parent.parent,
        check=False,
        input=key,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    host, port = simulator.soap_url.split("/")[2].split(":")
    reads_it_back, asked = json.loads(done.stdout)
    assert (reads_it_back, simulator.simulator.issued()) == (True, 1)
    assert asked == [f"connect {host}:{port}", f"name {host}"]


# a server that takes the connection and says nothing


@contextmanager
def stalling(drip: bool) -> Iterator[int]:
    """The port of a server that never gets through a handshake: it says nothing, or a byte of one now and then."""
    over = threading.Event()

    def talk(connection: socket.socket) -> None:
        with connection:
            head = b"\x16\x03\x03\x40\x00"  # a handshake record of 16 kB, which is never whole
            while not over.wait(0.05):
                if drip:
                    try:
                        connection.sendall(head[:1] or b"\x00")
                    except OSError:
                        return
                    head = head[1:]

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "drips"])
@pytest.mark.parametrize("verify", [Verify.GET_KEY, Verify.KEY_GET], ids=["rest", "soap"])
def test_a_stalled_handshake_with_ecgrid_ends_in_time(verify: Verify, drip: bool) -> None:
    """Nothing was sent, and the issuing call says so."""
    with stalling(drip) as port:
        at = f"https://127.0.0.1:{port}"
        value = Secret(secrets.token_hex(16))
        ecgrid = ECGrid(
            At(at, f"{at}/soap"),
            Credentials([lambda: value]),
            Rate(None),
            keep=settled(at, f"{at}/soap"),
        )
        account = ecgrid.account(Issue.KEYSET, verify, Urgency.ROTATION)
        kind = kind_of(lambda: account.issue(5001, Visibility.PRIVATE, 1.0), NotSent)
        ecgrid.close()
    assert kind == "ecgrid.Unreachable"


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "drips"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_stalled_handshake_with_vault_ends_in_time(method: str, drip: bool) -> None:
    """A read is tried again; of a write it is looked for, though it cannot have arrived."""
    with stalling(drip) as port:
        wire = vault_at(f"https://127.0.0.1:{port}")
        kind = kind_of(lambda: wire.request(method, "/v1/kv/data/a", within=1.0), Transient)
        wire.close()
    assert kind == "vault.Timeout"
