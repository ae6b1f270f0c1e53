"""What tells Vault's time, with a real server behind something that tells another: nothing comes too soon."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import USERS, Finished, Rotator, VaultServer
from proxy import Answer, Between, Forward, Proxy, Request

from rotator.sandbox.ecgrid import Running

FAR, NEAR, RIGHT = timedelta(days=40), timedelta(seconds=40), timedelta(0)
SHORT = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "3s"}
HEALTH = "/v1/sys/health"
By = Callable[[], timedelta]  # how far ahead the node is that answers now


def nodes(by: By, health: By | None = None) -> Between:
    """Nodes behind one address; `health`: another time than the answers tell."""

    def between(request: Request, forward: Forward) -> Answer | None:
        told = health if health is not None and request.path == HEALTH else by
        return forward().later(told())

    return between


def adopted(command: Rotator) -> None:
    """Three policies that are due in a month."""
    for number in range(3):
        command.policy(
            f"edi-{number}",
            f"""
            user_id: {USERS[number]}
            visibility: Private
            schedule: {{every: 30d}}
            vault: {{path: ecgrid/edi-{number}}}
            """,
        )
    assert command("run", "--once").code == 0


def asked(
    command: Rotator, vault: VaultServer, between: Between, *arguments: str, **environment: Any
) -> Finished:
    """The command, behind that."""
    with Proxy(between) as proxy:
        addr = proxy.before("vault", vault.addr)
        return command(*arguments, "--json", VAULT_ADDR=addr, **environment)


def test_the_date_of_a_page_that_is_not_vaults_tells_no_time(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """A load balancer's 502, forty days ahead, in place of each record's first answer: nothing is due."""
    adopted(rotator_command)
    for name in vault.call("LIST", f"{mount}/metadata/rotator/index")["data"]["keys"]:
        vault.call("DELETE", f"{mount}/metadata/rotator/index/{name}")
    page = b"HTTP/1.1 502 x\r\nDate: {}\r\nContent-Length: 6\r\n\r\n<html>"
    met = set[str]()

    def between(request: Request, forward: Forward) -> Answer | None:
        answer = forward()
        if "/record/" not in request.path or request.path in met:
            return answer
        met.add(request.path)
        date = re.search(rb"\r\nDate: ([^\r\n]*)", answer.later(FAR).raw)
        assert date
        return Answer(page.replace(b"{}", date[1]))

    done = asked(rotator_command, vault, between, "run", "--once")
    assert (done.code, done.json["summary"]) == (0, {"not-due": 3}), done.stderr
    assert (len(met), simulator.simulator.issued()) == (3, 0)


@pytest.mark.parametrize(
    "by", [FAR, -FAR, timedelta(minutes=6)], ids=["ahead", "behind", "six minutes"]
)
def test_a_time_that_vault_denies_is_none(
    rotator_command: Rotator, vault: VaultServer, simulator: Running, by: timedelta
) -> None:
    """Something in between dates every answer; `sys/health` says what time it is."""
    adopted(rotator_command)
    between = nodes(lambda: by, lambda: RIGHT)
    done = asked(rotator_command, vault, between, "run", "--once")
    assert (done.code, done.json["summary"]) == (0, {"not-due": 3}), done.stderr
    assert asked(rotator_command, vault, between, "rotate", "edi-0").code == 0
    assert simulator.simulator.issued() == 1


def test_a_time_that_vault_confirms_counts_whatever_the_machines_own_clock_says(
    rotator_command: Rotator, vault: VaultServer, simulator: Running
) -> None:
    """`sys/health` is asked without a namespace, and may answer with any status. The difference is reported."""
    adopted(rotator_command)
    asked_health = []

    def between(request: Request, forward: Forward) -> Answer | None:
        answer = forward().later(FAR)
        if request.path != HEALTH:
            return answer
        asked_health.append((request.header("X-Vault-Namespace"), request.header("X-Vault-Token")))
        return Answer(answer.raw.replace(b" 200 OK", b" 429 Too Many Requests", 1))

    done = asked(rotator_command, vault, between, "run", "--once")
    assert (done.code, done.json["summary"]) == (0, {"rotated": 3}), done.stderr
    assert set(asked_health) == {(None, None)}
    assert "vault.clock_skew" in done.stderr


@pytest.mark.parametrize("command", [("run", "--once"), ("rotate", "edi-0")], ids=["run", "rotate"])
def test_a_time_that_nothing_confirms_holds_everything_back(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    command: tuple[str, ...],
) -> None:
    """`sys/health` cannot be had: nothing is issued, nothing is written, and the reason is given."""
    adopted(rotator_command)
    record = vault.call("GET", f"{mount}/data/rotator/record/edi-0")["data"]

    def between(request: Request, forward: Forward) -> Answer | None:
        if request.path == HEALTH:
            return Answer.of(403, b"<html>")
        return forward().later(FAR)

    done = asked(rotator_command, vault, between, *command, **SHORT)
    if command[0] == "rotate":
        assert done.code == 1
        assert done.json["results"][0]["error"]["kind"] == "vault.TimeInDoubt"
    else:  # by the machine's own clock nothing is due
        assert (done.code, done.json["summary"]) == (0, {"not-due": 3}), done.stderr
    assert "vault.clock_skew" in done.stderr
    assert simulator.simulator.issued() == 0
    assert vault.call("GET", f"{mount}/data/rotator/record/edi-0")["data"] == record


@pytest.mark.parametrize("by", [NEAR, FAR], ids=["forty seconds", "forty days"])
def test_where_nodes_disagree_the_earlier_time_counts(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running, by: timedelta
) -> None:
    """One of two behind a load balancer is ahead; they answer in turn."""
    adopted(rotator_command)
    turns = itertools.cycle((by, RIGHT))
    done = asked(rotator_command, vault, nodes(lambda: next(turns)), "run", "--once")
    assert (done.code, done.json["summary"]) == (0, {"not-due": 3}), done.stderr
    done = asked(rotator_command, vault, nodes(lambda: next(turns)), "rotate", "edi-0")
    assert (done.code, simulator.simulator.issued()) == (0, 1), done.stderr
    record = vault.call("GET", f"{mount}/data/rotator/record/edi-0")["data"]["data"]
    rotated_at = datetime.fromisoformat(record["rotated_at"])
    assert abs(rotated_at - datetime.now(UTC)) < timedelta(minutes=2)


@pytest.mark.parametrize(
    ("writes", "issued"), [(1, 0), (3, 1)], ids=["before KeySet", "before KeyRemove"]
)
def test_a_doubt_that_comes_up_after_the_claim_holds_back_what_cannot_be_undone(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    writes: int,
    issued: int,
) -> None:
    """The answer to the claim, or to the check-and-set before KeyRemove, is the first to tell another time."""
    adopted(rotator_command)
    (old,) = simulator.simulator.keys(USERS[0])
    written = []

    def between(request: Request, forward: Forward) -> Answer | None:
        if request.path == HEALTH:
            return Answer.of(403, b"<html>")
        if request.method == "POST" and "/record/" in request.path:
            written.append(request.path)
        return forward().later(FAR if len(written) >= writes else RIGHT)

    done = asked(
        rotator_command, vault, between, "rotate", "edi-0", "--grace", "0s", ROTATOR_DEADLINE="2s"
    )
    assert done.code == 1, done.stdout
    assert "sys/health does not confirm it" in done.stdout
    assert simulator.simulator.issued() == issued
    assert {"KeySet", "DeleteKey", "KeyRemove"} & simulator.simulator.counts().keys() == (
        {"KeySet"} if issued else set()
    )
    assert old.key_id in {one.key_id for one in simulator.simulator.keys(USERS[0]) if one.live}
    record = vault.call("GET", f"{mount}/data/rotator/record/edi-0")["data"]["data"]
    assert not record.get("claim")
    assert not record.get("underway")
