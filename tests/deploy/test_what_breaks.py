"""Each thing that an operator can break, broken: what is said, how it ends, what is reported, where to read on.

docs/what-breaks.md is the table of this; the tests hold it to what happens.
"""

from __future__ import annotations

import re
import secrets
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import OPERATOR, Rotator, VaultServer
from proxy import Answer, Forward, Proxy, Request
from receiver import Receiver, receiver

from rotator.reporting import runbook
from rotator.sandbox.ecgrid import AuthLevel, Running, Simulator, Switches, start
from rotator.sandbox.openbao import OpenBao

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).resolve().parent.parent.parent
POLICY = "user_id: 5001\nvisibility: Private\nschedule: {every: 30d}\nvault: {path: ecgrid/edi}\n"


@dataclass
class Scene:
    """What may be broken."""

    command: Rotator
    vault: VaultServer
    mount: str
    simulator: Running
    where: Path
    stack: ExitStack
    settings: dict[str, str] = field(default_factory=dict)
    policy: str = POLICY


def wrong_token(scene: Scene) -> None:
    """VAULT_TOKEN is not the right one."""
    scene.settings["VAULT_TOKEN"] = secrets.token_hex(12)


def sealed(scene: Scene) -> None:
    """Vault was restarted and not unsealed."""
    bao = scene.stack.enter_context(OpenBao.start())
    scene.command.secrets.add(bao.token)
    own = {"X-Vault-Token": bao.token}
    httpx.put(
        f"{bao.addr}/v1/sys/seal", headers=own, timeout=30, trust_env=False
    ).raise_for_status()
    scene.settings |= {"VAULT_ADDR": bao.addr, "VAULT_TOKEN": bao.token}


def missing_capability(scene: Scene) -> None:
    """The path is not in the rotator's policy in Vault."""
    name = f"rotator-{secrets.token_hex(4)}"
    rules = "\n".join(
        f'path "{scene.mount}/{kind}/rotator/*" {{ capabilities = ["create", "read", "update", "list", "delete"] }}'
        for kind in ("data", "metadata")
    )
    scene.vault.call("PUT", f"sys/policies/acl/{name}", {"policy": rules})
    made = scene.vault.call("POST", "auth/token/create", {"policies": [name], "ttl": "1h"})
    token = made["auth"]["client_token"]
    scene.command.secrets.add(token)
    scene.settings["VAULT_TOKEN"] = token


def without_rights(scene: Scene) -> None:
    """The rotator's own ECGrid user may not manage others."""
    model = scene.simulator.simulator
    model.add_user(OPERATOR + 90, auth_level=AuthLevel.MailboxUser)
    model.add_key(OPERATOR + 90)
    scene.settings["ROTATOR_ECGRID__API_KEY"] = str(model.api_key(OPERATOR + 90))


def wrong_user(scene: Scene) -> None:
    """A typing error in `user_id`."""
    scene.policy = POLICY.replace("5001", "50001")


def wrong_mount(scene: Scene) -> None:
    """A typing error in the path: the mount."""
    scene.policy = POLICY.replace("{path", "{mount: secrte, path")


def wrong_namespace(scene: Scene) -> None:
    """ROTATOR_ECGRID__SOAP_NAMESPACE is not the WSDL's."""
    scene.settings["ROTATOR_ECGRID__SOAP_NAMESPACE"] = "http://example.com/"
    scene.policy = POLICY + "verify: key-get\n"


def without_key_records(scene: Scene) -> None:
    """The policy names KeySet, and this ECGrid's KeySet makes no keys."""
    simulator = Simulator(Switches.service())
    simulator.add_user(5000, auth_level=AuthLevel.NetworkAdmin)
    simulator.add_user(5001)
    own = simulator.add_key(5000)
    scene.command.secrets.add(own.value)
    ecgrid = scene.stack.enter_context(start(simulator))
    scene.settings |= {
        "ROTATOR_ECGRID__REST_URL": ecgrid.rest_url,
        "ROTATOR_ECGRID__SOAP_URL": ecgrid.soap_url,
        "ROTATOR_ECGRID__API_KEY": own.value,
    }


def other_ecgrid(scene: Scene) -> None:
    """ECGrid's address is not the one that the records are about."""
    scene.command.policy("edi", POLICY)
    assert scene.command("run", "--once").code == 0
    scene.settings["ROTATOR_ECGRID__REST_URL"] = scene.simulator.rest_url.replace(
        "127.0.0.1", "localhost"
    )


def no_dns_for_vault(scene: Scene) -> None:
    """VAULT_ADDR cannot be resolved."""
    scene.settings["VAULT_ADDR"] = "https://vault.invalid:8200"


def no_dns_for_ecgrid(scene: Scene) -> None:
    """ECGrid's addresses cannot be resolved."""
    scene.settings |= {
        "ROTATOR_ECGRID__REST_URL": "https://rest.invalid",
        "ROTATOR_ECGRID__SOAP_URL": "https://soap.invalid/x.asmx",
    }


def _expired(scene: Scene) -> str:
    """The address of a server whose certificate has expired, and which the client would trust otherwise."""
    key, certificate = scene.where / "key.pem", scene.where / "certificate.pem"
    request, authority = scene.where / "request.pem", scene.where / "ca.conf"
    (scene.where / "index").touch()
    authority.write_text(
        f"[ca]\ndefault_ca = x\n[x]\ndatabase = {scene.where}/index\nnew_certs_dir = {scene.where}\n"
        f"serial = {scene.where}/serial\nrand_serial = yes\ndefault_md = sha256\npolicy = p\nx509_extensions = e\n"
        "[p]\ncommonName = supplied\n[e]\nsubjectAltName = IP:127.0.0.1\n"
    )
    asking = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", str(key)]
    dates = ["-startdate", "20200101000000Z", "-enddate", "20210101000000Z"]
    signing = ["ca", "-batch", "-selfsign", "-config", str(authority), "-keyfile", str(key), *dates]
    for command in (
        [*asking, "-out", str(request)],
        [*signing, "-in", str(request), "-out", str(certificate)],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True, timeout=60)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scene.stack.callback(server.server_close)
    scene.stack.callback(server.shutdown)
    scene.settings["SSL_CERT_FILE"] = str(certificate)
    return f"https://127.0.0.1:{server.server_address[1]}"


def expired_at_vault(scene: Scene) -> None:
    """Vault's certificate has expired."""
    scene.settings["VAULT_ADDR"] = _expired(scene)
    scene.settings["VAULT_CACERT"] = scene.settings["SSL_CERT_FILE"]


def expired_at_ecgrid(scene: Scene) -> None:
    """ECGrid's certificate has expired, or this machine's clock is far ahead."""
    address = _expired(scene)
    scene.settings |= {
        "ROTATOR_ECGRID__REST_URL": address,
        "ROTATOR_ECGRID__SOAP_URL": f"{address}/x.asmx",
    }


# What is broken, the kind of error. All of them: exit 1, an event in Sentry, a line that says what to do.
BROKEN: tuple[tuple[Any, str], ...] = (
    (wrong_token, "vault.LoginRefused"),
    (sealed, "vault.Sealed"),
    (missing_capability, "vault.MissingCapability"),
    (without_rights, "ecgrid.AccessDenied"),
    (wrong_user, "ecgrid.ObjectNotFound"),
    (wrong_mount, "vault.NoMount"),
    (without_key_records, "ecgrid.NoSuchCall"),
    (other_ecgrid, "ecgrid.OtherSystem"),
    (wrong_namespace, "ecgrid.InvalidParameter"),
    (no_dns_for_vault, "vault.Unreachable"),
    (no_dns_for_ecgrid, "ecgrid.Unreachable"),
    (expired_at_vault, "vault.TLS"),
    (expired_at_ecgrid, "ecgrid.Unreachable"),
)


@pytest.fixture
def scene(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running, tmp_path: Path
) -> Iterator[Scene]:
    """Everything in order."""
    with ExitStack() as stack:
        yield Scene(rotator_command, vault, mount, simulator, tmp_path, stack)


@pytest.fixture
def sentry() -> Iterator[Receiver]:
    """What speaks Sentry's envelope format."""
    with receiver() as there:
        yield there


def table() -> dict[str, list[str]]:
    """The rows of docs/what-breaks.md, by their first cell."""
    rows = re.findall(r"^\| (.+) \|$", (ROOT / "docs" / "what-breaks.md").read_text(), re.MULTILINE)
    return {row.split(" | ")[0]: row.split(" | ") for row in rows}


@pytest.mark.parametrize(("breaks", "kind"), BROKEN, ids=lambda one: getattr(one, "__name__", ""))
def test_what_is_broken_is_said_reported_and_explained(
    scene: Scene, sentry: Receiver, breaks: Any, kind: str
) -> None:
    """Message, exit code, Sentry, runbook: as the table says."""
    breaks(scene)
    scene.command.policy("edi", scene.policy)
    quick = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "10s", "SENTRY_DSN": sentry.dsn}
    scene.command.environment |= {**scene.settings, **quick}
    done = scene.command("run", "--once")
    assert done.code == 1, done.stderr
    assert f"[{kind}]" in done.stdout + done.stderr, done.stdout + done.stderr
    kinds = [event["tags"]["kind"] for event in sentry.items("event")]
    assert kinds == [kind]
    (event,) = sentry.items("event")
    assert event["contexts"]["rotation"]["runbook"] == runbook.link(kind)
    says, named = table()[breaks.__doc__][1:3]
    assert named == f"[`{kind}`](runbook.md#{runbook.anchor(kind)})"
    told = re.escape(says.strip("`")).replace(re.escape("..."), ".*")
    assert re.search(told, event["message"]), event["message"]


def test_a_clock_that_is_off_by_an_hour_is_reported_and_rotates_nothing_wrongly(
    scene: Scene,
) -> None:
    """A warning, exit 0; due times count by Vault's clock."""

    def later(_request: Request, forward: Forward) -> Answer | None:
        return forward().later(timedelta(hours=1))

    scene.command.policy("edi", POLICY)
    with Proxy(later) as proxy:
        scene.command.environment["VAULT_ADDR"] = proxy.before("vault", scene.vault.addr)
        done = scene.command("run", "--once")
    assert done.code == 0
    assert '"event": "vault.clock_skew"' in done.stderr
    assert re.search(r"differ by (0:59:5\d|1:00:0\d)", done.stderr)


def test_the_table_has_every_case_and_no_other() -> None:
    """And the clock."""
    cases = {breaks.__doc__ for breaks, _ in BROKEN} | {"The clock is off by an hour."}
    assert {row for row in table() if row.endswith(".")} == cases
