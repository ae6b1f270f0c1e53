"""The rotator's own key, rotated by a policy like any other: it must never cut the rotator off."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import OPERATOR, Finished, Rotator, VaultServer
from proxy import Answer, Forward, Proxy, Request

from rotator.sandbox.ecgrid import AuthLevel, Fault, Running, Simulator

SECOND = 5004  # another NetworkAdmin
ONE = f"""
    user_id: {OPERATOR}
    visibility: Private
    schedule: {{every: 30d}}
    vault: {{path: ecgrid/own}}
"""
TWO = ONE.replace(f"user_id: {OPERATOR}", f"users: [{OPERATOR}, {SECOND}]")
OTHERS = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""
BUSY = {"busy": 1}
ACCOUNTS = pytest.mark.parametrize("keyset", ["add", "replace", "update"])


@dataclass
class Place:
    """The rotator with its own key in Vault, at what a policy named `own` publishes."""

    command: Rotator
    vault: VaultServer
    mount: str
    simulator: Simulator

    def published(self) -> dict[str, Any]:
        """What Vault shows as the own key."""
        return dict(self.vault.call("GET", f"{self.mount}/data/ecgrid/own")["data"]["data"])

    def works(self) -> bool:
        """Whether that is accepted, as a user's that the policy names."""
        return self.simulator.who(self.published()["api_key"]) in (OPERATOR, SECOND)

    def log_in(self) -> None:
        """The rotator has a login as its way back in."""
        user = next(user for user in self.simulator.users() if user.user_id == OPERATOR)
        self.command.environment["ROTATOR_ECGRID__LOGIN"] = user.login
        self.command.environment["ROTATOR_ECGRID__PASSWORD"] = user.password

    def rotate(self, *arguments: str) -> Finished:
        """Rotates the own key."""
        return self.command("rotate", "own", "--json", *arguments)

    def rotated(self) -> Finished:
        """Rotates the own key, which succeeds."""
        done = self.rotate()
        assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout + done.stderr
        assert self.works()
        return done

    def error(self, done: Finished) -> dict[str, str]:
        """What the only policy of a command failed with, and nothing was issued."""
        assert (done.code, self.simulator.issued()) == (1, 0)
        return dict(done.json["results"][0]["error"])


@pytest.fixture
def place(rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running) -> Place:
    """The present own key is in Vault, and nowhere else."""
    simulator.simulator.add_user(SECOND, auth_level=AuthLevel.NetworkAdmin)
    own = rotator_command.environment.pop("ROTATOR_ECGRID__API_KEY")
    vault.call("POST", f"{mount}/data/ecgrid/own", {"data": {"api_key": own}})
    rotator_command.environment["ROTATOR_ECGRID__API_KEY_VAULT"] = f"{mount}/ecgrid/own#api_key"
    return Place(rotator_command, vault, mount, simulator.simulator)


@ACCOUNTS
def test_the_own_key_is_rotated_again_and_again(place: Place, keyset: str) -> None:
    """Each run reads the key that the one before has published."""
    place.simulator.switch(keyset=keyset)
    place.log_in()
    place.command.policy("own", ONE)
    values = {place.published()["api_key"]}
    for _ in range(2):
        place.rotated()
        values.add(place.published()["api_key"])
    assert (len(values), place.simulator.issued()) == (3, 2)


def test_it_is_used_from_the_moment_that_ecgrid_commits_it(place: Place) -> None:
    """The one before is dead by then: no request of the rotation is refused, and the login is not needed."""
    place.simulator.switch(keyset="replace")
    place.log_in()
    place.command.policy("own", ONE)
    place.rotated()
    before = len(place.simulator.requests())
    place.rotated()
    calls = place.simulator.requests()[before:]
    assert [(call.call, call.status) for call in calls if call.status != 200] == []
    assert "AuthLogin" not in {call.call for call in calls}


def test_it_is_rotated_alone_and_the_other_policies_go_on_with_it(place: Place) -> None:
    """Before the others, which are asked for with the new key."""
    place.simulator.switch(keyset="replace")
    place.log_in()
    place.command.policy("own", ONE)
    place.command.policy("edi", OTHERS)
    done = place.command("rotate", "--all", "--json")
    assert (done.code, done.json["summary"]) == (0, {"rotated": 2}), done.stdout
    issues = [one.about for one in place.simulator.requests() if one.call == "KeySet"]
    assert issues == [OPERATOR, 5001]
    assert place.works()


@pytest.mark.parametrize(
    ("keyset", "kind"), [("replace", "lost"), ("update", "half"), ("add", "html")]
)
def test_a_lost_answer_is_found_by_way_of_the_login(place: Place, keyset: str, kind: str) -> None:
    """The rotator's own key may be dead, and the new one is not known: the same run finds it."""
    place.log_in()
    place.command.policy("own", ONE)
    place.rotated()
    place.simulator.switch(keyset=keyset)
    place.simulator.add_fault(Fault(kind, call="KeySet"))  # type: ignore[arg-type]  # one of the kinds
    place.rotated()
    assert place.simulator.issued() == 2


@pytest.mark.parametrize("keyset", ["replace", "update"])
def test_with_two_users_the_other_key_is_the_way_back_in(place: Place, keyset: str) -> None:
    """A lost answer concerns the user that is not published: the published key goes on working."""
    place.command.policy("own", TWO)
    place.rotated()
    place.simulator.switch(keyset=keyset)
    place.simulator.add_fault(Fault("lost", call="KeySet"))
    assert place.published()["user_id"] == SECOND
    place.rotated()
    assert (place.published()["user_id"], place.simulator.issued()) == (OPERATOR, 2)
    place.rotated()
    assert place.published()["user_id"] == SECOND


def test_the_answer_is_lost_with_the_process(place: Place, simulator: Running) -> None:
    """What Vault shows is dead, and nobody has the new value: the next tick reads it by way of the login."""
    place.simulator.switch(keyset="replace")
    place.log_in()
    place.command.policy("own", ONE)
    place.rotated()

    def between(request: Request, forward: Forward) -> Answer | None:
        answer = forward()
        if not request.issues:
            return answer
        started.process.kill()
        return None

    with Proxy(between) as proxy:
        given = {
            "ROTATOR_ECGRID__REST_URL": proxy.before("ecgrid", simulator.rest_url),
            "ROTATOR_ECGRID__SOAP_URL": proxy.before("ecgrid", simulator.soap_url),
            "ROTATOR_DEADLINE": "3s",
            "ROTATOR_CLAIM_TTL": "5s",
        }
        started = place.command.start("rotate", "own", **given)
        assert started.finish().code == -signal.SIGKILL
    assert not place.works()
    while (done := place.command("run", "--once", "--json")).json["summary"] == BUSY:
        assert done.code == 0
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    assert (place.works(), place.simulator.issued()) == (True, 2)


# refused before anything is issued


def test_a_key_that_no_rotation_updates_is_refused(place: Place) -> None:
    """It comes from the environment: the message names the setting that it should come from."""
    del place.command.environment["ROTATOR_ECGRID__API_KEY_VAULT"]
    place.command.environment["ROTATOR_ECGRID__API_KEY"] = place.published()["api_key"]
    place.log_in()
    place.command.policy("own", ONE)
    error = place.error(place.rotate())
    assert error["kind"] == "policy.OwnKey"
    assert f"ROTATOR_ECGRID__API_KEY_VAULT to {place.mount}/ecgrid/own#api_key" in error["message"]


def test_a_key_from_another_place_in_vault_is_refused(place: Place) -> None:
    """It is the same key, but the rotation would not change it there."""
    own = place.published()["api_key"]
    place.vault.call("POST", f"{place.mount}/data/elsewhere", {"data": {"api_key": own}})
    elsewhere = f"{place.mount}/elsewhere#api_key"
    place.command.environment["ROTATOR_ECGRID__API_KEY_VAULT"] = elsewhere
    place.log_in()
    place.command.policy("own", ONE)
    assert place.error(place.rotate())["kind"] == "policy.OwnKey"


@pytest.mark.parametrize("command", [("validate",), ("rotate", "own"), ("run", "--once")])
def test_no_way_back_in_is_refused_offline(place: Place, command: tuple[str, ...]) -> None:
    """Neither a login nor a second user: no command begins, and ECGrid is asked nothing."""
    place.command.policy("own", ONE)
    done = place.command(*command)
    assert done.code == 2
    assert "ROTATOR_ECGRID__LOGIN" in done.stderr
    assert place.simulator.requests() == []


def test_a_login_alone_may_rotate_its_own_users_key(place: Place) -> None:
    """It is no key, so no rotation ends it."""
    del place.command.environment["ROTATOR_ECGRID__API_KEY_VAULT"]
    place.simulator.switch(keyset="replace")
    place.log_in()
    place.command.policy("own", ONE)
    place.rotated()
    assert place.simulator.sessions() == 0
