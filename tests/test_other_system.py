"""Whose ECGrid: a rotator that is pointed at another one than its records are about writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import OPERATOR, USERS, Finished, Rotator, VaultServer, an_ecgrid

from rotator.sandbox.ecgrid import AuthLevel, Running, Switches

POLICY = """
    user_id: {user_id}
    visibility: Private
    schedule: {{every: 30d}}
    vault: {{path: ecgrid/{user_id}}}
"""
ACTING = (
    ["run", "--once"],
    ["rotate", "--all"],
    ["rotate", "p-5001", "--dry-run"],
    ["check", "--repair"],
    ["adopt", "p-5001"],
)


@pytest.fixture
def other(environment: None) -> Iterator[Running]:
    """Another environment's ECGrid, with the same users and other keys."""
    with an_ecgrid(Switches()) as running:
        yield running


def pointed_at(running: Running, host: str = "127.0.0.1") -> dict[str, Any]:
    """The settings for that ECGrid, under that host name."""
    return {
        "ROTATOR_ECGRID__REST_URL": running.rest_url.replace("127.0.0.1", host),
        "ROTATOR_ECGRID__SOAP_URL": running.soap_url.replace("127.0.0.1", host),
        "ROTATOR_ECGRID__API_KEY": running.simulator.api_key(OPERATOR) or "",
    }


def everything(vault: VaultServer, mount: str) -> dict[str, Any]:
    """All that is in the mount, but for what is remembered of ECGrid."""

    def below(path: str) -> Iterator[tuple[str, Any]]:
        for name in vault.call("LIST", f"{mount}/metadata/{path}")["data"]["keys"]:
            if name.endswith("/"):
                yield from below(path + name)
            else:
                yield path + name, vault.call("GET", f"{mount}/data/{path}{name}")["data"]

    return {path: data for path, data in below("") if path != "rotator/ecgrid"}


@pytest.fixture
def fleet(rotator_command: Rotator, other: Running) -> Rotator:
    """A rotator with adopted policies; what the other ECGrid's keys are, it may not print either."""
    for user_id in USERS:
        rotator_command.policy(f"p-{user_id}", POLICY.format(user_id=user_id))
    assert rotator_command("run", "--once").code == 0
    rotator_command.secrets |= other.simulator.secrets()
    return rotator_command


def kinds(done: Finished) -> set[str]:
    """The kinds of all results."""
    return {result["error"]["kind"] for result in done.json["results"]}


def test_another_host_is_another_ecgrid(
    fleet: Rotator, other: Running, vault: VaultServer, mount: str
) -> None:
    """Nothing that acts writes anything or asks for a key; check and doctor say so too; both hosts are named."""
    before = everything(vault, mount)
    for command in ACTING:
        done = fleet(*command, "--json", **pointed_at(other, "localhost"))
        assert (done.code, kinds(done)) == (1, {"ecgrid.OtherSystem"}), command
        message = done.json["results"][0]["error"]["message"]
        assert "localhost" in message
        assert "127.0.0.1" in message
        assert "ROTATOR_VAULT__STATE_PATH" in message
    assert fleet("check", **pointed_at(other, "localhost")).code == 1
    found = fleet("doctor", "--json", **pointed_at(other, "localhost")).json["checks"]
    line = next(one for one in found if one["what"] == "whose ECGrid")
    assert (line["state"], "ecgrid.OtherSystem" in line["found"]) == ("failed", True)
    assert everything(vault, mount) == before
    assert (other.simulator.issued(), other.simulator.counts().get("KeySet")) == (0, None)


def test_a_user_of_another_network_is_another_ecgrid(
    fleet: Rotator, other: Running, vault: VaultServer, mount: str
) -> None:
    """At the same host name, since one name may stand for several environments."""
    other.simulator.add_user(OPERATOR, auth_level=AuthLevel.NetworkAdmin, network_id=77)
    before = everything(vault, mount)
    done = fleet("rotate", "--all", "--json", **pointed_at(other))
    assert (done.code, kinds(done)) == (1, {"ecgrid.OtherSystem"})
    assert "77" in done.json["results"][0]["error"]["message"]
    assert everything(vault, mount) == before


def test_records_of_the_version_before_are_not_mended_at_another_ecgrid(
    fleet: Rotator, other: Running, vault: VaultServer, mount: str
) -> None:
    """Nothing was remembered, and none of the published keys is accepted: that is no drift of all at once."""
    vault.call("DELETE", f"{mount}/metadata/rotator/ecgrid")
    before = everything(vault, mount)
    done = fleet("check", "--repair", "--json", **pointed_at(other))
    assert (done.code, kinds(done)) == (1, {"ecgrid.OtherSystem"})
    assert everything(vault, mount) == before


def test_what_was_remembered_may_get_lost(fleet: Rotator, vault: VaultServer, mount: str) -> None:
    """One published key is asked, and the mark that the records bear goes on: no record is a new start."""
    mark = vault.call("GET", f"{mount}/data/rotator/ecgrid")["data"]["data"]["mark"]
    vault.call("DELETE", f"{mount}/metadata/rotator/ecgrid")
    done = fleet("rotate", "--all", "--json")
    assert (done.code, done.json["summary"]) == (0, {"rotated": len(USERS)})
    assert vault.call("GET", f"{mount}/data/rotator/ecgrid")["data"]["data"]["mark"] == mark
    record = vault.call("GET", f"{mount}/data/rotator/record/p-5001")["data"]["data"]
    assert mark in record["nonce"]
    assert len(record["retiring"]) == 1


def test_the_same_ecgrid_at_a_new_address_keeps_everything(
    fleet: Rotator, simulator: Running, vault: VaultServer, mount: str
) -> None:
    """`adopt --ecgrid` asks a published key, which is accepted."""
    fleet("rotate", "--all")
    before = everything(vault, mount)
    moved = pointed_at(simulator, "localhost")
    assert fleet("run", "--once", **moved).code == 1
    done = fleet("adopt", "--ecgrid", "--json", **moved)
    assert (done.code, done.json["ecgrid"]) == (0, "same"), done.stderr
    assert done.json["hosts"]["rest"] == "localhost"
    assert everything(vault, mount) == before
    done = fleet("rotate", "--all", "--json", **moved)
    assert (done.code, done.json["summary"]) == (0, {"rotated": len(USERS)})
    record = json.dumps(vault.call("GET", f"{mount}/data/rotator/record/p-5001")["data"]["data"])
    assert record.count("replaced") == 2  # the debts of before and of now


def test_another_ecgrid_that_is_meant_is_a_new_start(
    fleet: Rotator, other: Running, vault: VaultServer, mount: str
) -> None:
    """None of the published keys is accepted: debts and baselines are dropped with a warning, and keys adopted anew."""
    fleet("rotate", "--all")
    moved = pointed_at(other, "localhost")
    done = fleet("adopt", "--ecgrid", **moved)
    assert (done.code, done.stdout.startswith("another ECGrid")) == (0, True)
    done = fleet("run", "--once", "--json", **moved)
    assert (done.code, done.json["summary"]) == (0, {"adopted": len(USERS)}), done.stdout
    assert all("another ECGrid" in r["warnings"][0] for r in done.json["results"])
    record = vault.call("GET", f"{mount}/data/rotator/record/p-5001")["data"]["data"]
    assert not record.get("retiring")
    assert fleet("run", "--once", **moved).code == 0
    shown = vault.call("GET", f"{mount}/data/ecgrid/5001")["data"]["data"]["api_key"]
    assert other.simulator.who(shown) == 5001


def test_nothing_is_decided_where_no_key_can_be_asked(
    fleet: Rotator, other: Running, vault: VaultServer, mount: str
) -> None:
    """`adopt --ecgrid` without a key that could be asked changes nothing, and says so."""
    for user_id in USERS:
        vault.call("DELETE", f"{mount}/data/ecgrid/{user_id}")
    kept = vault.call("GET", f"{mount}/data/rotator/ecgrid")["data"]["data"]
    done = fleet("adopt", "--ecgrid", **pointed_at(other, "localhost"))
    assert done.code == 1
    now = vault.call("GET", f"{mount}/data/rotator/ecgrid")["data"]["data"]
    assert (now["mark"], now["hosts"]) == (kept["mark"], kept["hosts"])


@pytest.mark.parametrize(
    "arguments", [[], ["--ecgrid", "p-5001"], ["--all", "--ecgrid"], ["--all", "p-5001"]]
)
def test_adopt_takes_one_thing(rotator_command: Rotator, arguments: list[str]) -> None:
    """Names, or all, or the ECGrid itself."""
    rotator_command.policy("p-5001", POLICY.format(user_id=5001))
    assert rotator_command("adopt", *arguments).code == 2


def test_many_lost_records_stop_a_fleet_and_few_do_not(
    rotator_command: Rotator, simulator: Running, vault: VaultServer, mount: str
) -> None:
    """Another state path looks like that: nothing is done, and `adopt --all` is named, which builds them anew."""
    for user_id in USERS:
        rotator_command.policy(f"p-{user_id}", POLICY.format(user_id=user_id))
    rotator_command.environment["ROTATOR_BRAKE"] = str(len(USERS) - 1)
    assert rotator_command("run", "--once").code == 0
    before = everything(vault, mount)
    elsewhere: dict[str, Any] = {"ROTATOR_VAULT__STATE_PATH": "elsewhere"}
    for command in (["run", "--once"], ["rotate", "--all"]):
        done = rotator_command(*command, "--json", **elsewhere)
        assert (done.code, kinds(done)) == (1, {"fleet.RecordsLost"}), done.stdout
        assert "adopt --all" in done.json["results"][0]["error"]["message"]
    after = everything(vault, mount)
    published = {path for path in before if path.startswith("ecgrid/")}
    assert {path: after[path] for path in published} == {path: before[path] for path in published}
    assert simulator.simulator.issued() == 0
    done = rotator_command("rotate", "p-5001", "--json", **elsewhere)
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    done = rotator_command("run", "--once", "--json", **elsewhere)
    assert done.code == 0, done.stdout
    done = rotator_command("adopt", "--all", "--json", **elsewhere)
    assert done.code == 0, done.stdout


def test_a_rotator_with_records_elsewhere_ends_keys_and_is_noticed_as_drift(
    fleet: Rotator, mount: str
) -> None:
    """Neither can see the other; who checks finds a refused key, says so, heals it; doctor names the one place."""
    user_id = USERS[0]
    elsewhere: dict[str, Any] = {"ROTATOR_VAULT__STATE_PATH": "second"}
    fleet.policy(f"p-{user_id}", POLICY.format(user_id=user_id).replace("ecgrid/", "copy/"))
    assert fleet("adopt", f"p-{user_id}", **elsewhere).code == 0
    assert fleet("rotate", f"p-{user_id}", "--grace", "0s", **elsewhere).code == 0
    fleet.policy(f"p-{user_id}", POLICY.format(user_id=user_id))
    found = fleet("check", f"p-{user_id}", "--json")
    assert (found.code, found.json["results"][0]["state"]) == (4, "drift")
    assert fleet("check", "--repair", f"p-{user_id}", ROTATOR_DEADLINE="5s").code == 0
    assert fleet("check", f"p-{user_id}").code == 0
    told = {one["what"]: one["found"] for one in fleet("doctor", "--json").json["checks"]}
    assert f"keep its records here, too, at {mount}/rotator" in told["whose ECGrid"]
