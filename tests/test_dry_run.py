"""`--dry-run`: what can be found out is found out, what would happen is said, and nothing anywhere is changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import ROOT, Finished, Roles, Rotator, VaultServer

from rotator.sandbox.ecgrid import AuthLevel, Fault, Running

POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    grace: 12h
    vault: {path: ecgrid/edi}
"""
MANY = """
    defaults: {visibility: Private, schedule: {every: 30d}, first: rotate, vault: {path: "ecgrid/{name}"}}
    policies: [{name: p1, user_id: 5001}, {name: p2, user_id: 5002}, {name: p3, user_id: 5003}]
"""
CHANGE = {"KeySet", "CreateKey", "GenerateAPIKey", "GenerateKey", "KeyRemove", "DeleteKey"}
COMMANDS = (
    ["rotate", "edi"],
    ["rotate", "edi", "--grace", "0s"],
    ["run", "--once"],
    ["adopt", "edi"],
    ["check", "--repair"],
    ["adopt", "--ecgrid"],
)


def picture(vault: VaultServer, mount: str) -> dict[str, Any]:
    """The metadata of every secret of the mount: each version, and when it was written."""

    def below(path: str) -> Iterator[tuple[str, Any]]:
        for name in vault.call("LIST", f"{mount}/metadata/{path}")["data"]["keys"]:
            if name.endswith("/"):
                yield from below(path + name)
            else:
                yield path + name, vault.call("GET", f"{mount}/metadata/{path}{name}")["data"]

    return dict(below(""))


def one(done: Finished) -> dict[str, Any]:
    """The only result."""
    (result,) = done.json["results"]
    assert isinstance(result, dict)
    return result


def new(command: Rotator, simulator: Running) -> None:
    """Nothing was ever done."""


def in_grace(command: Rotator, simulator: Running) -> None:
    """Two keys are owed their end."""
    assert command("rotate", "--all").code == 0
    assert command("rotate", "--all").code == 0


def drifted(command: Rotator, simulator: Running) -> None:
    """ECGrid has ended the published key."""
    done = command("run", "--once", "--json")
    simulator.simulator.remove_key(one(done)["key_id"])


def left_open(command: Rotator, simulator: Running) -> None:
    """A rotation was begun, and its key was never found."""
    assert command("run", "--once").code == 0
    simulator.simulator.switch(read_back="masked", list_shows="masked")
    command("rotate", "edi", ROTATOR_DEADLINE="1s", ROTATOR_CLAIM_TTL="2s")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("state", [new, in_grace, drifted, left_open])
def test_nothing_is_sent_that_changes_anything(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    state: Callable[[Rotator, Running], None],
) -> None:
    """At both servers, by every command, whatever there is to do: every version in Vault, every call to ECGrid."""
    rotator_command.policy("edi", POLICY)
    vault.call("POST", f"{mount}/data/other", {"data": {"some": "thing"}})
    state(rotator_command, simulator)
    before, asked = picture(vault, mount), len(simulator.simulator.requests())
    for command in COMMANDS:
        done = rotator_command(*command, "--dry-run", "--json")
        assert picture(vault, mount) == before, command
        assert done.stdout, done.stderr
    said = [entry.call for entry in simulator.simulator.requests()[asked:]]
    assert said
    assert not CHANGE & set(said)


def test_it_says_what_would_happen_to_which_key(
    rotator_command: Rotator, mount: str, simulator: Running
) -> None:
    """Whose, which, where, until when, and the hooks; and so it happens. A hook is named without what may be secret."""
    webhook = ', {webhook: "http://127.0.0.1:9/hidden"}'
    more = f'after: [{{exec: ["true", quiet]}}{webhook}]\n'
    more += f"    also: [{{mount: {mount}, path: ecgrid/copy}}]\n"
    rotator_command.policy("edi", POLICY + "    " + more)
    first = one(rotator_command("adopt", "edi", "--json"))
    said = one(rotator_command("rotate", "edi", "--dry-run", "--json"))
    rotator_command.policy("edi", POLICY + "    " + more.replace(webhook, ""))
    done = one(rotator_command("rotate", "edi", "--json"))
    assert (said["outcome"], done["outcome"]) == ("would-rotate", "rotated")
    for name in ("user_id", "previous_key_id", "published"):
        assert said[name] == done[name], name
    assert said["key_id"] is None
    assert said["previous_key_id"] == first["key_id"]
    assert said["previous_key_until"][:13] <= done["previous_key_until"][:13]
    texts = " / ".join(said["warnings"])
    assert re.search(
        rf"issue a key of user 5001 by keyset.*{mount}/ecgrid/edi \(version 2\)", texts
    )
    assert re.search(rf"key {first['key_id']} of user 5001 would end at 2\d{{3}}-", texts)
    assert "would run 2 hooks: true, a webhook at 127.0.0.1" in texts
    assert not re.search("hidden|quiet", texts)
    leaked = one(rotator_command("rotate", "edi", "--grace", "0s", "--dry-run", "--json"))
    assert leaked["previous_key_until"] is None
    assert f"would end the keys of earlier rotations, too: {first['key_id']}" in leaked["warnings"]
    assert f"key {done['key_id']} of user 5001 would end at once" in leaked["warnings"]


def test_an_adoption_and_a_repair_say_which_key_would_do(
    rotator_command: Rotator, simulator: Running
) -> None:
    """The one that is there; or that one would be issued, since none is."""
    rotator_command.policy("edi", POLICY)
    (key,) = simulator.simulator.keys(5001)
    said = one(rotator_command("adopt", "edi", "--dry-run", "--json"))
    assert (said["outcome"], said["key_id"], said["user_id"]) == ("would-rotate", key.key_id, 5001)
    assert "nothing issued" in " ".join(said["warnings"])
    assert one(rotator_command("adopt", "edi", "--json"))["key_id"] == key.key_id
    again = rotator_command("check", "--repair", "--dry-run", "--json")
    assert (again.code, again.json["summary"]) == (0, {"unchanged": 1})
    simulator.simulator.remove_key(key.key_id)
    said = one(rotator_command("check", "--repair", "edi", "--dry-run", "--json"))
    assert (said["outcome"], said["key_id"]) == ("would-rotate", None)
    texts = " / ".join(said["warnings"])
    assert re.search("found no-key.*would issue a key of user 5001", texts)
    done = rotator_command("check", "--repair", "--json", ROTATOR_DEADLINE="5s")
    assert one(done)["outcome"] == "repaired"


def test_a_record_that_would_be_taken_over_stays(
    rotator_command: Rotator, vault: VaultServer, mount: str
) -> None:
    """`adopt NEW --from OLD`; a name that has no record fails as it would."""
    rotator_command.policy("old", POLICY)
    assert rotator_command("run", "--once").code == 0
    (rotator_command.policies / "old.yaml").rename(rotator_command.policies / "edi.yaml")
    before = picture(vault, mount)
    said = rotator_command("adopt", "edi", "--from", "old", "--dry-run", "--json")
    assert (said.code, one(said)["outcome"]) == (0, "unchanged")
    assert "would take over the record of old" in one(said)["warnings"][0]
    none = rotator_command("adopt", "edi", "--from", "never", "--dry-run")
    assert (none.code, "policy.NoRecord" in none.stderr) == (1, True)
    assert picture(vault, mount) == before
    assert rotator_command("adopt", "edi", "--from", "old").code == 0


# what could not work


def failed(done: Finished) -> tuple[int, str, str | None]:
    """The exit code, the outcome, and the error's kind of the only result."""
    result = one(done)
    return done.code, result["outcome"], (result["error"] or {}).get("kind")


@pytest.mark.parametrize("command", [["rotate", "edi"], ["run", "--once"], ["adopt", "edi"]])
@pytest.mark.parametrize("more", ["", "    first: rotate\n"])
def test_a_user_that_is_not_there_is_found_out(
    rotator_command: Rotator, command: list[str], more: str
) -> None:
    """A misspelt id: the rotation would fail, and so does the dry run."""
    rotator_command.policy("edi", POLICY.replace("5001", "9999") + more)
    done = rotator_command(*command, "--dry-run", "--json")
    assert failed(done) == (1, "failed", "ecgrid.ObjectNotFound")
    assert "no user 9999" in one(done)["error"]["message"]


def test_a_user_without_an_api_key_is_told_from_one_that_is_not_there(
    rotator_service: Rotator, service: Running
) -> None:
    """Where only Generate makes a key, the first one is made for whoever is there."""
    service.simulator.add_user(5050)
    policy = POLICY.replace("12h", "0s") + "    issue: generate\n    verify: get-api-key\n"
    for user_id, expected in ((5050, 0), (9999, 1)):
        rotator_service.policy("edi", policy.replace("5001", str(user_id)))
        assert rotator_service("rotate", "edi", "--dry-run").code == expected, user_id
    assert service.simulator.issued() == 0


def test_an_auth_level_that_does_not_suffice_is_found_out(
    rotator_command: Rotator, simulator: Running
) -> None:
    """The rotator's own user may not act for others; `rotate` would be refused at KeySet."""
    model = simulator.simulator
    model.add_user(5090, auth_level=AuthLevel.MailboxUser)
    rotator_command.environment["ROTATOR_ECGRID__API_KEY"] = model.add_key(5090).value
    rotator_command.policy("edi", POLICY)
    done = rotator_command("rotate", "edi", "--dry-run", "--json")
    assert failed(done) == (1, "failed", "ecgrid.AccessDenied")
    assert "NetworkAdmin or higher" in one(done)["error"]["message"]


def test_a_call_that_this_ecgrid_does_not_have_is_found_out(rotator_service: Rotator) -> None:
    """KeySet keeps named values there."""
    rotator_service.policy("edi", POLICY)
    done = rotator_service("rotate", "edi", "--dry-run", "--json")
    assert failed(done) == (1, "failed", "ecgrid.NoSuchCall")


@pytest.mark.parametrize("command", [["rotate", "--all"], ["run", "--once"], ["check", "--repair"]])
def test_an_ecgrid_that_does_not_answer_is_found_out_once_for_all(
    rotator_command: Rotator, vault: VaultServer, mount: str, command: list[str]
) -> None:
    """Nobody waits the deadline out for each policy."""
    rotator_command.policy("many", MANY)
    nowhere: dict[str, Any] = {"ROTATOR_ECGRID__REST_URL": "http://127.0.0.1:9"}
    done = rotator_command(*command, "--dry-run", "--json", timeout=60, **nowhere)
    assert (done.code, kinds(done)) == (1, {"ecgrid.Unreachable"})
    with pytest.raises(Exception, match="404"):
        vault.call("LIST", f"{mount}/metadata/")


def kinds(done: Finished) -> set[str]:
    """The kinds of all results."""
    return {result["error"]["kind"] for result in done.json["results"]}


def test_a_credential_that_is_refused_is_shown_to_ecgrid_once(
    rotator_command: Rotator, simulator: Running
) -> None:
    """For all policies together; the error says which setting to look at."""
    rotator_command.policy("many", MANY)
    before = len(simulator.simulator.requests())
    wrong: dict[str, Any] = {"ROTATOR_ECGRID__API_KEY": "nobody-has-this"}
    done = rotator_command("rotate", "--all", "--dry-run", "--json", **wrong)
    assert (done.code, kinds(done)) == (1, {"ecgrid.InvalidAPIKey"})
    assert [entry.call for entry in simulator.simulator.requests()[before:]] == ["GetMe"]


def test_a_vault_that_may_not_be_written_is_found_out(
    rotator_command: Rotator, roles: Roles
) -> None:
    """One of the destinations is missing in the rotator's policy there."""
    shipped = (ROOT / "vault" / "rotator.hcl").read_text()
    reading = re.sub(r'(path "secret/data/ecgrid/\*" .*)\[.*\]', r'\1["read"]', shipped)
    assert reading != shipped
    rotator_command.environment |= roles.environment(reading)
    rotator_command.policy("edi", POLICY)
    done = rotator_command("rotate", "edi", "--dry-run", "--json")
    assert failed(done) == (1, "failed", "vault.MissingCapability")


def test_the_next_tick_is_tried_as_it_would_go(
    rotator_command: Rotator, simulator: Running
) -> None:
    """What is due and what is not, the limit of a tick included; then the tick does just that."""
    rotator_command.policy("many", MANY)
    limited: dict[str, Any] = {"ROTATOR_MAX_PER_RUN": "2"}
    said = rotator_command("run", "--once", "--dry-run", "--json", **limited)
    assert (said.code, said.json["summary"]) == (0, {"would-rotate": 2, "not-due": 1})
    assert "ROTATOR_MAX_PER_RUN" in str(said.json["results"])
    done = rotator_command("run", "--once", "--json", **limited)
    assert done.json["summary"] == {"rotated": 2, "not-due": 1}
    said = rotator_command("run", "--once", "--dry-run", "--json", "--shard", "0/1")
    assert said.json["summary"] == {"not-due": 2, "would-rotate": 1}


def test_what_the_brake_holds_back_is_said(rotator_command: Rotator, simulator: Running) -> None:
    """With --all; who is named is not held by others."""
    rotator_command.policy("many", MANY.replace("first: rotate, ", ""))
    assert rotator_command("run", "--once").code == 0
    simulator.simulator.switch(read_back="masked", list_shows="masked")
    for user_id in (5001, 5002):
        simulator.simulator.add_fault(Fault("lost", call="KeySet", about=user_id, times=9))
    short: dict[str, Any] = {"ROTATOR_DEADLINE": "1s", "ROTATOR_CLAIM_TTL": "2s"}
    assert rotator_command("rotate", "p1", "p2", **short).code == 1
    said = rotator_command("rotate", "--all", "--dry-run", "--json", **short)
    kinds = {one["policy"]: (one["error"] or {}).get("kind") for one in said.json["results"]}
    assert (said.code, "fleet.Braked" in kinds.values()) == (1, True), kinds
    named = rotator_command("rotate", "p3", "--dry-run", "--json", **short)
    assert failed(named) == (0, "would-rotate", None)


def test_only_a_command_that_acts_can_be_tried(rotator_command: Rotator) -> None:
    """A daemon and a check have nothing to try: bad usage."""
    rotator_command.policy("edi", POLICY)
    for command in (["run"], ["check"]):
        done = rotator_command(*command, "--dry-run")
        assert (done.code, "--dry-run is for" in done.stderr) == (2, True), done.stderr
