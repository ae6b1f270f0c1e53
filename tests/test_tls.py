"""TLS: whatever is wrong with a file, its one variable is named, and why; nobody is asked for a pass phrase."""

from __future__ import annotations

import os
import pty
import secrets
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Rotator
from test_ecgrid_client_wire import http, serving

from rotator.errors import BadInput, Problem, Transient
from rotator.settings import Settings, TlsFile, client_context
from rotator.vault.clock import ServerClock
from rotator.vault.wire import Wire

SELF = "req -x509 -newkey rsa:2048 -nodes -days 2"
POLICY = "user_id: 5001\nvisibility: Private\nschedule: manual\nvault: {path: ecgrid/edi}\n"


class Shop:
    """Certificates and keys, good and bad, as openssl makes them."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.phrase = secrets.token_hex(12)
        self.make(f"{SELF} -subj /CN=one -keyout key.pem -out cert.pem")
        self.make(f"{SELF} -subj /CN=two -keyout other.pem -out second.pem")
        self.make(f"pkcs8 -topk8 -in key.pem -out encrypted.pem -passout pass:{self.phrase}")
        self.make(f"rsa -aes256 -traditional -in key.pem -out old.pem -passout pass:{self.phrase}")
        self.make("x509 -in cert.pem -outform der -out cert.der")
        self.make("pkey -in key.pem -outform der -out key.der")
        (at / "empty").write_text("")
        (at / "folder").mkdir()
        text = (at / "cert.pem").read_text()
        (at / "cut.pem").write_text(text[: len(text) // 2])
        text = (at / "key.pem").read_text()
        (at / "cut-key.pem").write_text(text[: len(text) // 2])

    def make(self, command: str) -> None:
        """Runs openssl."""
        done = subprocess.run(
            ["openssl", *command.split()],
            cwd=self.at,
            check=False,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    def file(self, name: str, variable: str) -> TlsFile:
        """One of them, named by that variable."""
        return TlsFile(self.at / name, variable)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Made once."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    return Shop(tmp_path_factory.mktemp("shop"))


def problems(call: Callable[[], object]) -> list[Problem]:
    """What is refused."""
    with pytest.raises(BadInput) as caught:
        call()
    return caught.value.problems


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("encrypted.pem", "pass phrase"),
        ("old.pem", "pass phrase"),
        ("other.pem", "not that of the certificate in VAULT_CLIENT_CERT"),
        ("key.der", "is not PEM"),
        ("cert.pem", "is not PEM"),
        ("cut-key.pem", "broken"),
        ("empty", "is empty"),
        ("folder", "is a directory"),
        ("nowhere", "does not exist"),
    ],
)
def test_a_client_key_that_cannot_be_used_is_named_with_the_reason(
    shop: Shop, name: str, why: str
) -> None:
    """And nothing else is."""
    cert = shop.file("cert.pem", "VAULT_CLIENT_CERT")
    (problem,) = problems(
        lambda: client_context(client_cert=cert, client_key=shop.file(name, "VAULT_CLIENT_KEY"))
    )
    assert problem.where == "VAULT_CLIENT_KEY"
    assert why in problem.what


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cert.der", "is not PEM"),
        ("key.pem", "is not PEM"),
        ("cut.pem", "broken"),
        ("empty", "is empty"),
        ("folder", "is a directory"),
        ("nowhere", "does not exist"),
    ],
)
@pytest.mark.parametrize("place", ["VAULT_CLIENT_CERT", "VAULT_CACERT", "SSL_CERT_FILE"])
def test_a_certificate_that_cannot_be_used_is_named_with_the_reason(
    shop: Shop, place: str, name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever names it."""
    file = shop.file(name, place)

    def use() -> object:
        if place == "VAULT_CLIENT_CERT":
            return client_context(
                client_cert=file, client_key=shop.file("key.pem", "VAULT_CLIENT_KEY")
            )
        if place == "VAULT_CACERT":
            return client_context(file)
        monkeypatch.setenv(place, str(file.path))
        return client_context()

    (problem,) = problems(use)
    assert problem.where == place
    assert why in problem.what


def test_everything_that_is_wrong_is_told_at_once(shop: Shop, tmp_path: Path) -> None:
    """With the names that were used for it, and without a file's content."""
    (tmp_path / "rotator.toml").write_text(f'[vault]\ncacert = "{shop.at}/cert.der"\n')
    settings = Settings.load(
        {
            "VAULT_CAPATH": f"{shop.at}/cert.pem",
            "VAULT_CLIENT_CERT": f"{shop.at}/folder",
            "ROTATOR_VAULT__CLIENT_KEY": f"{shop.at}/cert.pem",
        },
        tmp_path,
    )
    told = [str(problem).split(" names")[0] for problem in problems(settings.require_vault)]
    assert told == [
        "VAULT_ADDR: is not set; give Vault's address, such as https://vault:8200",
        "VAULT_TOKEN: is not set; ROTATOR_VAULT__AUTH=token needs it",
        "rotator.toml: vault.cacert:",
        "VAULT_CAPATH:",
        "VAULT_CLIENT_CERT:",
        "ROTATOR_VAULT__CLIENT_KEY:",
    ]


def test_nobody_is_asked_for_a_pass_phrase(rotator_command: Rotator, shop: Shop) -> None:
    """At a terminal, which could be asked: it ends by itself, and says why."""
    rotator_command.policy("edi", POLICY)
    rotator_command.secrets.add(shop.phrase)
    given = {
        "VAULT_ADDR": "https://127.0.0.1:1",
        "VAULT_CLIENT_CERT": f"{shop.at}/cert.pem",
        "VAULT_CLIENT_KEY": f"{shop.at}/encrypted.pem",
    }
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "rotator", "status"],
        cwd=rotator_command.directory,
        env=rotator_command.environment | given,
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(
        "error: VAULT_CLIENT_KEY: names a key that is protected by a pass phrase"
    )


def test_an_authority_is_one_whatever_its_constraints_are_marked_as(
    shop: Shop, tmp_path: Path
) -> None:
    """On every Python, as with curl and Vault's own tools: no critical basicConstraints, no key identifiers."""
    make = Shop.make
    loose = Shop.__new__(Shop)
    loose.at = tmp_path
    config = "[req]\ndistinguished_name=d\n[d]\n[ca]\nbasicConstraints=CA:TRUE\n[leaf]\nsubjectAltName=IP:127.0.0.1\n"
    (tmp_path / "c.cnf").write_text(config)
    make(
        loose,
        f"{SELF} -subj /CN=ca -config c.cnf -extensions ca -keyout ca.key -out ca.pem",
    )
    make(
        loose,
        "req -newkey rsa:2048 -nodes -subj /CN=leaf -config c.cnf -keyout leaf.key -out leaf.csr",
    )
    make(
        loose,
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -days 2 -extfile c.cnf -extensions leaf -out leaf.pem",
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "leaf.pem", tmp_path / "leaf.key")
    trusting = client_context(TlsFile(tmp_path / "ca.pem", "VAULT_CACERT"))
    assert not trusting.verify_flags & ssl.VERIFY_X509_STRICT
    with serving(http("{}"), context) as server:
        given = {
            "VAULT_ADDR": f"https://127.0.0.1:{server.port}",
            "VAULT_CACERT": f"{tmp_path}/ca.pem",
        }
        assert wire_of(given).request("get", "/v1/kv/data/a") == {}


@pytest.mark.parametrize(
    ("ext", "trusted", "why"),
    [
        ("IP:127.0.0.1", False, "name it, or the authority behind it, in VAULT_CACERT"),
        ("IP:127.0.0.2", True, "is not for the IP address that is asked"),
        ("DNS:other.example", True, "is not for the IP address that is asked"),
    ],
)
def test_why_a_certificate_is_not_accepted_is_said(
    tmp_path: Path, ext: str, trusted: bool, why: str
) -> None:
    """And not what is right about it."""
    at = Shop.__new__(Shop)
    at.at = tmp_path
    Shop.make(
        at,
        f"{SELF} -subj /CN=x -addext subjectAltName={ext} -keyout k.pem -out c.pem",
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    with serving(http("{}"), context) as server:
        given = {"VAULT_ADDR": f"https://127.0.0.1:{server.port}"}
        if trusted:
            given["VAULT_CACERT"] = f"{tmp_path}/c.pem"
        wire = wire_of(given)
        with pytest.raises(Transient, match=why) as caught:
            wire.request("get", "/v1/kv/data/a")
    assert caught.value.kind == "vault.TLS"


def wire_of(environ: dict[str, str]) -> Wire:
    """A wire to Vault."""
    return Wire(Settings.load(environ).vault, ServerClock(lambda: 0.0, lambda: 0.0), None)


def test_a_clients_certificate_that_is_replaced_is_shown_by_the_next_request(
    shop: Shop, tmp_path: Path
) -> None:
    """Once both files are there: what does not fit together yet is waited for, and the old pair goes on."""
    shop.make(
        f"{SELF} -subj /CN=here -addext subjectAltName=IP:127.0.0.1 -keyout h.pem -out here.pem"
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shop.at / "here.pem", shop.at / "h.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    for name in ("cert.pem", "second.pem"):
        context.load_verify_locations(shop.at / name)
    shown: list[bytes | None] = []

    class Seen(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            shown.append(self.getpeercert(True))

    context.sslsocket_class = Seen
    mine, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(shop.at / "cert.pem", mine)
    shutil.copy(shop.at / "key.pem", key)
    with serving(http("{}"), context) as server:
        wire = wire_of(
            {
                "VAULT_ADDR": f"https://127.0.0.1:{server.port}",
                "VAULT_CACERT": str(shop.at / "here.pem"),
                "VAULT_CLIENT_CERT": str(mine),
                "VAULT_CLIENT_KEY": str(key),
            }
        )
        for source, target in (("cert.pem", mine), ("second.pem", mine), ("other.pem", key)):
            shutil.copy(shop.at / source, tmp_path / "new")
            (tmp_path / "new").replace(target)
            assert wire.request("get", "/v1/kv/data/a") == {}
    one, two = (
        ssl.PEM_cert_to_DER_cert((shop.at / name).read_text())
        for name in ("cert.pem", "second.pem")
    )
    assert shown == [one, one, two]
