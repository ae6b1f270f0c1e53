"""One policy's trouble, whatever it is, is that policy's result: the others' are there, and printed."""

from __future__ import annotations

import signal
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import Rotator, VaultServer, until
from proxy import Answer, Forward, Proxy, Request
from worlds import Scene

from rotator.errors import Forbidden, Transient
from rotator.replacing.beginning import Stopped
from rotator.sandbox.ecgrid import Running

POLICY = """
    user_id: {user_id}
    visibility: Private
    schedule: {{every: 30d}}
    first: rotate
    vault: {{path: ecgrid/{name}}}
"""
BUSY = b'{"errors": ["not now"]}'


def not_now(retry_after: str) -> Answer:
    """Vault's refusal for the moment."""
    answer = Answer.of(429, BUSY, "application/json")
    head = f"Retry-After: {retry_after}\r\nContent-Type".encode()
    return Answer(answer.raw.replace(b"Content-Type", head, 1))


def two(rotator_command: Rotator) -> None:
    """Two policies, both to be rotated at first sight."""
    for name, user_id in (("bad", 5001), ("good", 5002)):
        rotator_command.policy(name, POLICY.format(name=name, user_id=user_id))


def test_an_absurd_wish_when_to_come_again_is_one_policys_failure(
    rotator_command: Rotator, vault: VaultServer, simulator: Running
) -> None:
    """More seconds than any calendar has."""
    two(rotator_command)

    def between(request: Request, forward: Forward) -> Answer | None:
        return not_now("9" * 40) if request.path.endswith("/ecgrid/bad") else forward()

    with Proxy(between) as proxy:
        addr = proxy.before("vault", vault.addr)
        done = rotator_command("run", "--once", "--json", VAULT_ADDR=addr, ROTATOR_DEADLINE="2s")
    assert done.code == 1
    assert done.json["summary"] == {"failed": 1, "rotated": 1}
    failed = next(one for one in done.json["results"] if one["policy"] == "bad")
    assert failed["error"]["kind"] == "vault.Busy"


def test_an_order_to_stop_while_vault_fails_for_one_prints_the_others(
    rotator_command: Rotator, vault: VaultServer, simulator: Running
) -> None:
    """SIGTERM finds one policy waiting for its paths, and the other rotated."""
    two(rotator_command)

    def between(request: Request, forward: Forward) -> Answer | None:
        return not_now("1") if request.path.endswith("/bad") else forward()

    with Proxy(between) as proxy:
        addr = proxy.before("vault", vault.addr)
        started = rotator_command.start(
            "rotate", "bad", "good", "--json", VAULT_ADDR=addr, ROTATOR_DEADLINE="60s"
        )
        until(
            lambda: "rotation.outcome" in started.so_far()[1],
            "the other is rotated",
        )
        done = started.finish(send=signal.SIGTERM)
    assert done.code in (1, 143)
    told = {one["policy"]: one["outcome"] for one in done.json["results"]}
    assert told["good"] == "rotated"
    assert told["bad"] in ("failed", "unchanged")


@pytest.mark.parametrize("wish", [1e300, float("inf"), 86400.0 * 365])
def test_a_back_off_is_an_hour_at_most(tmp_path: Path, wish: float) -> None:
    """Whatever the other side wishes."""
    scene = Scene(tmp_path)
    scene.rotator().tick()

    def gate(call: str) -> str:
        if call == "ecgrid KeySet":
            raise Transient("not now", kind="ecgrid.Unavailable", retry_after=wish)
        return "go"

    result = scene.rotator(gate).rotate()
    assert result.error is not None
    assert result.error.kind == "ecgrid.Unavailable"
    failed = scene.stored().record.failed
    assert failed is not None
    assert failed.retry_at is not None
    assert failed.retry_at - scene.vault.now() <= timedelta(hours=1)


def test_an_order_to_stop_while_a_failure_is_recorded_leaves_the_failure(tmp_path: Path) -> None:
    """ECGrid refuses; Vault is away when that is to be written, and whoever waits for it is told to stop."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    refused: list[str] = []

    def gate(call: str) -> str:
        if call == "ecgrid KeySet":
            refused.append(call)
            raise Forbidden("refused", kind="ecgrid.AccessDenied")
        if refused and call.startswith("vault write"):
            raise Transient("away", kind="vault.Sealed")
        return "go"

    def stop(_seconds: float) -> None:
        raise Stopped("the process was told to stop")

    process = scene.rotator(gate)
    scene.time.sleeping = stop
    result = process.rotate()
    assert result.error is not None
    assert result.error.kind == "ecgrid.AccessDenied"
