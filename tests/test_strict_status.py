"""`status --strict`: what a monitor asks from outside, with no help of the process that should have rotated."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
from conftest import Rotator, VaultServer
from proxy import Proxy

from rotator.sandbox.ecgrid import Fault, Running

POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""


def test_it_exits_1_for_what_failed_and_0_once_it_is_mended(
    rotator_command: Rotator, simulator: Running
) -> None:
    """Without `--strict` the same table ends with 0."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("run", "--once").code == 0
    simulator.simulator.add_fault(Fault("status", call="KeySet", status=403))
    assert rotator_command("rotate", "edi").code == 1
    told = rotator_command("status", "--strict", "--json")
    (one,) = told.json["policies"]
    assert (told.code, one["policy"], one["state"]) == (1, "edi", "failed")
    assert rotator_command("status").code == 0
    assert rotator_command("rotate", "edi").code == 0
    assert rotator_command("status", "--strict").code == 0


def test_it_exits_1_for_a_key_that_is_too_old_though_nobody_ticks(
    rotator_command: Rotator, vault: VaultServer
) -> None:
    """By Vault's time, two months on, and also on a manual schedule; it names the policy."""
    rotator_command.policy("edi", POLICY.replace("{every: 30d}", "manual") + "    max_age: 45d\n")
    assert rotator_command("run", "--once").code == 0
    with Proxy(lambda _request, forward: forward().later(timedelta(days=60))) as months_ahead:
        rotator_command.environment["VAULT_ADDR"] = months_ahead.before("vault", vault.addr)
        told = rotator_command("status", "--strict", "--json")
        (one,) = told.json["policies"]
        assert (told.code, one["policy"], one["state"]) == (1, "edi", "overdue")


@pytest.mark.parametrize("arguments", [("--strict",), ()])
def test_it_exits_1_where_vault_is_away(
    rotator_command: Rotator, arguments: tuple[str, ...]
) -> None:
    """Nobody knows how it stands: that is no 0, `--strict` or not."""
    rotator_command.policy("edi", POLICY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = rotator_command("status", *arguments, VAULT_ADDR=f"http://127.0.0.1:{port}")
    assert done.code == 1
    assert "vault.Unreachable" in done.stderr
