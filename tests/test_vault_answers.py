"""What each of Vault's answers is taken for: wait, look, or give up; a rotation lives through those that pass."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from conftest import Rotator, VaultServer
from proxy import Answer, Forward, Proxy, Request

from rotator.errors import (
    AnswerLost,
    Forbidden,
    Gone,
    Mismatch,
    NotFound,
    Permanent,
    RotatorError,
    Transient,
)
from rotator.sandbox.ecgrid import Running
from rotator.settings import Settings
from rotator.vault.clock import ServerClock
from rotator.vault.wire import Wire

MISMATCH = "check-and-set parameter did not match the current version"
DELETED = {"data": None, "metadata": {"version": 3, "deletion_time": "2026-01-05T03:00:00Z"}}
# What is answered, and what it means for a read and for a write.
KINDS: dict[str, tuple[int, object, type[RotatorError], type[RotatorError], str]] = {
    "mismatch": (400, {"errors": [MISMATCH]}, Mismatch, Mismatch, "vault.CheckAndSetMismatch"),
    "no cas": (400, {"errors": ["check-and-set parameter required for this call"]},
               Permanent, Permanent, "vault.InvalidRequest"),
    "forbidden": (403, {"errors": ["permission denied"]}, Forbidden, Forbidden, "vault.Forbidden"),
    "nothing there": (404, {"errors": []}, NotFound, NotFound, "vault.NotFound"),
    "deleted": (404, {"data": DELETED}, Gone, Gone, "vault.Deleted"),
    "behind": (412, {"errors": ["required index state not present"]},
               Transient, Transient, "vault.Busy"),
    "too many": (429, {"errors": ["request path: rate limit quota exceeded"]},
                 Transient, Transient, "vault.Busy"),
    "standby": (429, {"initialized": True, "standby": True}, Transient, Transient, "vault.Busy"),
    "recovery": (472, {"errors": ["in disaster recovery"]}, Transient, Transient, "vault.Busy"),
    "performance standby": (473, {"performance_standby": True}, Transient, Transient, "vault.Busy"),
    "broken": (500, {"errors": ["internal error"]}, Transient, AnswerLost, "vault.ServerError"),
    "sealed": (503, {"errors": ["Vault is sealed"]}, Transient, Transient, "vault.Sealed"),
    "page": (502, None, Transient, AnswerLost, "vault.NotVault"),
}  # fmt: skip


def answer_of(status: int, body: object, *more: str) -> Answer:
    """An answer of Vault's, or (None) a page of somebody else's."""
    if body is None:
        return Answer.of(status, b"<html></html>")
    made = Answer.of(status, json.dumps(body).encode(), "application/json")
    extra = "".join(f"\r\n{line}" for line in more).encode()
    return Answer(made.raw.replace(b"\r\nContent-Type", extra + b"\r\nContent-Type", 1))


@pytest.fixture
def line() -> Iterator[tuple[Proxy, Wire]]:
    """A wire, and what answers it."""
    with Proxy() as proxy:
        addr = proxy.before("vault", "http://127.0.0.1:1")
        settings = Settings.load({"VAULT_ADDR": addr}).vault
        wire = Wire(settings, ServerClock(time.monotonic, time.time), None)
        yield proxy, wire
        wire.close()


@pytest.mark.parametrize("name", KINDS)
def test_each_answer_has_its_meaning(line: tuple[Proxy, Wire], name: str) -> None:
    """Told by status, and where that is not enough by Vault's own sentence; a write whose fate is open says so."""
    (proxy, wire), (status, body, for_read, for_write, kind) = line, KINDS[name]
    proxy.between = lambda _request, _forward: answer_of(status, body)
    for method, family in (("get", for_read), ("post", for_write)):
        with pytest.raises(RotatorError) as caught:
            wire.request(method, "/v1/kv/data/a", json={} if method == "post" else None)
        assert (type(caught.value), caught.value.kind) == (family, kind)
        assert caught.value.__context__ is None


@pytest.mark.parametrize("status", [200, 404, 502])
def test_a_page_in_place_of_vault_names_the_setting_to_look_at(
    line: tuple[Proxy, Wire], status: int
) -> None:
    """The address may have a path too many: Vault's own pages for people answer below it, with 200."""
    proxy, wire = line
    proxy.between = lambda _request, _forward: answer_of(status, None)
    with pytest.raises(Transient) as caught:
        wire.request("get", "/v1/kv/data/a")
    assert "VAULT_ADDR" in str(caught.value)


@pytest.mark.parametrize("status", [412, 429, 472, 473])
def test_vaults_wish_when_to_come_again_is_heard(line: tuple[Proxy, Wire], status: int) -> None:
    """In seconds, or as a date; an hour at most, and what is neither is no wish."""
    proxy, wire = line
    year, never = "31536000", "9" * 400
    for told, wish in (("7", 7.0), ("soon", None), ("-3", None), (year, 3600.0), (never, 3600.0)):
        proxy.between = lambda _request, _forward, told=told: answer_of(  # type: ignore[misc]  # bound now
            status, {"errors": []}, f"Retry-After: {told}"
        )
        with pytest.raises(Transient) as caught:
            wire.request("get", "/v1/kv/data/a")
        assert caught.value.retry_after == wish


@pytest.mark.parametrize("command", [("run", "--once"), ("rotate", "edi")], ids=["run", "rotate"])
def test_a_rotation_lives_through_whatever_passes_by_itself(
    rotator_command: Rotator, vault: VaultServer, simulator: Running, command: tuple[str, ...]
) -> None:
    """Each request of it is answered once by a standby, or by a server that is sealed or behind, before it is heard."""
    rotator_command.policy(
        "edi",
        """
        user_id: 5001
        visibility: Private
        schedule: {every: 30d}
        first: rotate
        vault: {path: ecgrid/edi}
        """,
    )
    passing = [KINDS[name][:2] for name in ("behind", "standby", "performance standby", "sealed")]
    met: list[tuple[str, str]] = []
    lock = threading.Lock()

    def between(request: Request, forward: Forward) -> Answer | None:
        which = (request.method, request.path)
        with lock:
            known, number = which in met, len(met)
            met.extend([] if known else [which])
        return forward() if known else answer_of(*passing[number % len(passing)])

    with Proxy(between) as proxy:
        addr = proxy.before("vault", vault.addr)
        done = rotator_command(*command, "--json", VAULT_ADDR=addr)
    assert (done.code, simulator.simulator.issued()) == (0, 1), done.stderr
    assert done.json["summary"] == {"rotated": 1}
    assert len(met) > 8


@pytest.mark.parametrize(
    ("status", "body", "tells"),
    [
        (200, b'{"request_id": "a", "data": {}}', True),
        (404, b'{"request_id": "a", "data": null}', True),
        (204, b"", True),
        (200, b'{"data": {}}', False),
        (404, b'{"errors": []}', False),
        (502, b'{"message": "Bad Gateway"}', False),
        (502, b"<html>", False),
        (200, b'["request_id"]', False),
    ],
)
def test_only_answers_of_vaults_own_tell_the_time(status: int, body: bytes, tells: bool) -> None:
    """JSON with a request's id, or the empty 204; whatever the status."""
    clock = ServerClock(time.monotonic, time.time)
    made = Answer.of(status, body, "application/json").raw
    dated = made.replace(b"\r\n", b"\r\nDate: Mon, 05 Jan 2026 03:00:00 GMT\r\n", 1)
    with Proxy(lambda _request, _forward: Answer(dated)) as proxy:
        addr = proxy.before("vault", "http://127.0.0.1:1")
        wire = Wire(Settings.load({"VAULT_ADDR": addr}).vault, clock, None)
        with suppress(RotatorError):
            wire.request("get", "/v1/kv/data/a")
        wire.close()
    assert clock.in_doubt is tells  # that is far from this machine's time
