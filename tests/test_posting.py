"""A document for a webhook: given up in time, trusted as the system trusts, and nothing is left behind."""

from __future__ import annotations

import itertools
import secrets
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import until
from test_ecgrid_client_wire import http, serving
from test_tls import SELF, Shop

from rotator.posting import post


@contextmanager
def dripping(said: bytes) -> Iterator[str]:
    """Where somebody answers that, and then a byte at a time without end."""
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        with suppress(OSError), listener.accept()[0] as client:
            client.recv(65536)
            client.sendall(said)
            for byte in itertools.repeat(b"x"):
                client.send(byte)
                if over.wait(0.1):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            over.set()
            thread.join()


def is_posting() -> bool:
    """Whether a thread is at it."""
    return any(thread.name == "webhook" for thread in threading.enumerate())


def test_nothing_is_left_of_a_post_that_was_given_up() -> None:
    """The other side goes on for as long as it likes; neither thread nor connection waits for it."""
    with dripping(b"HTTP/1.1 200 OK\r\nX: ") as url:
        assert post(url, b"{}", {}, 2) == (0, "no end within 2 s")
        until(lambda: not is_posting(), "the thread ends")


def test_the_status_is_enough() -> None:
    """What comes after it is not waited for."""
    with dripping(b"HTTP/1.1 200 OK\r\n\r\n") as url:
        assert post(url, b"{}", {}, 30) == (200, "status 200")


@pytest.mark.parametrize(
    ("trusted", "words"),
    [(True, "status 204"), (False, "it could not be reached (the certificate")],
)
def test_a_webhook_is_trusted_if_an_authority_of_the_systems_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, words: str
) -> None:
    """Or one in SSL_CERT_FILE; else why it is not is said, and its address is not."""
    shop = Shop.__new__(Shop)
    shop.at = tmp_path
    shop.make(f"{SELF} -subj /CN=x -addext subjectAltName=IP:127.0.0.1 -keyout k.pem -out c.pem")
    shop.make(f"{SELF} -subj /CN=y -keyout y.pem -out other.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / ("c.pem" if trusted else "other.pem")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    path = secrets.token_urlsafe(16)
    with serving(http("", 204), context) as server:
        told = post(f"https://127.0.0.1:{server.port}/{path}", b"{}", {}, 30)[1]
    assert words in told
    assert path not in told
    assert str(server.port) not in told


def test_authorities_that_cannot_be_used_are_named_by_their_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The post ends as any other that was not delivered."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    status, told = post("https://hooks.invalid/", b"{}", {}, 30)
    assert (status, told.startswith("SSL_CERT_FILE: ")) == (0, True)
