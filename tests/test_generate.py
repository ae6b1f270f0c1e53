"""Generate at an ECGrid as it describes itself: lost answers, races, the own key, first sight, drift, consumers."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import OPERATOR, Finished, Rotator, VaultServer, until
from proxy import Answer, Forward, Proxy, Request
from test_consumers import Consumer, Reader, live
from worlds import POLICY, Scene

from rotator.sandbox.ecgrid import AuthLevel, Fault, Running, Simulator, Switches

VERIFIES = {"get-api-key": "GenerateKey", "user-get-api-key": "GenerateAPIKey"}
BOTH = pytest.mark.parametrize("verify", VERIFIES)
SECOND = 5004  # another NetworkAdmin
SHORT = {"ROTATOR_DEADLINE": "5s", "ROTATOR_CLAIM_TTL": "7s"}


def policy(verify: str, who: str = "user_id: 5001", more: str = "") -> str:
    """A policy by Generate."""
    return (
        f"{who}\nvisibility: Private\nschedule: {{every: 30d}}\nissue: generate\nverify: {verify}\n"
        f"vault: {{path: ecgrid/edi}}\n{more}"
    )


class Place:
    """The command, Vault and the service, seen together."""

    def __init__(
        self, command: Rotator, vault: VaultServer, mount: str, simulator: Simulator
    ) -> None:
        self.command, self.vault, self.mount, self.simulator = command, vault, mount, simulator

    def published(self) -> dict[str, Any]:
        """What Vault shows."""
        return dict(self.vault.call("GET", f"{self.mount}/data/ecgrid/edi")["data"]["data"])

    def who(self) -> int | None:
        """Whose live key that is."""
        return self.simulator.who(self.published()["api_key"])

    def write(self, value: str) -> None:
        """Somebody else writes the secret."""
        body = {"data": {"api_key": value}}
        self.vault.call("POST", f"{self.mount}/data/ecgrid/edi", body)

    def rotate(self) -> dict[str, Any]:
        """Rotates, which succeeds; the result."""
        done = self.command("rotate", "edi", "--json")
        assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout + done.stderr
        result: dict[str, Any] = done.json["results"][0]
        assert result["key_id"] is None
        assert "None" not in json.dumps(result["warnings"])
        return result

    def state(self) -> str:
        """What `check` finds."""
        return str(self.command("check", "edi", "--json").json["results"][0]["state"])

    def tick(self) -> Finished:
        """`run --once`, as often as the claim of a killed process holds it off."""
        while (done := self.command("run", "--once", "--json")).json["summary"] == {"busy": 1}:
            assert done.code == 0
        return done


@pytest.fixture
def place(rotator_service: Rotator, vault: VaultServer, mount: str, service: Running) -> Place:
    """Nothing is adopted yet."""
    rotator_service.environment |= SHORT
    return Place(rotator_service, vault, mount, service.simulator)


# lost answers


@pytest.mark.sampled(4)
@BOTH
@pytest.mark.parametrize("kind", ["closed", "half", "lost", "html", "status"])
def test_a_lost_answer_is_found_by_looking_and_none_is_issued_twice(
    place: Place, verify: str, kind: str
) -> None:
    """Before, in the middle of, and after the answer: one key was asked for, and one is made."""
    place.command.policy("edi", policy(verify))
    place.command("run", "--once")
    fault = Fault(kind, call=VERIFIES[verify], status=500 if kind == "status" else 502)  # type: ignore[arg-type]  # kinds
    place.simulator.add_fault(fault)
    result = place.rotate()
    assert place.simulator.issued() == 1
    assert place.simulator.faults() == []
    assert place.who() == 5001
    assert any("was lost" in text for text in result["warnings"])
    assert place.state() == "in-sync"


@BOTH
def test_a_request_that_lands_late_is_found_by_the_next_ticks(place: Place, verify: str) -> None:
    """Its key ends the one that was published meanwhile: what ECGrid has is published, and no third is made."""
    place.command.policy("edi", policy(verify))
    place.command("run", "--once")
    place.simulator.add_fault(Fault("lost", call="issue", lands_after=600.0))
    place.rotate()
    assert (place.who(), place.simulator.issued()) == (5001, 1)
    place.simulator.advance(601)
    assert place.who() is None
    done = place.command("run", "--once", "--json")
    assert done.json["summary"] == {"repaired": 1}, done.stdout
    assert (place.who(), place.simulator.issued()) == (5001, 2)


@pytest.mark.sampled(1)
@BOTH
def test_the_answer_is_lost_with_the_process(place: Place, service: Running, verify: str) -> None:
    """What Vault shows is dead, and nobody has the new value: the next tick reads it."""
    place.command.policy("edi", policy(verify))
    place.rotate()
    killed_at_the_answer(place, service)
    assert place.who() is None
    done = place.tick()
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    assert (place.who(), place.simulator.issued()) == (5001, 2)


def killed_at_the_answer(place: Place, service: Running) -> None:
    """A rotation whose process dies while ECGrid answers."""

    def between(request: Request, forward: Forward) -> Answer | None:
        answer = forward()
        if not request.issues:
            return answer
        started.process.kill()
        return None

    with Proxy(between) as proxy:
        given = {
            "ROTATOR_ECGRID__REST_URL": proxy.before("ecgrid", service.rest_url),
            "ROTATOR_ECGRID__SOAP_URL": proxy.before("ecgrid", service.soap_url),
        }
        started = place.command.start("rotate", "edi", **given)
        assert started.finish().code == -signal.SIGKILL


# races


@BOTH
def test_of_rotators_at_once_each_key_was_asked_for(place: Place, verify: str) -> None:
    """One rotates at a time; what is published at the end is what ECGrid accepts."""
    place.command.policy("edi", policy(verify))
    place.command("run", "--once")
    started = [place.command.start("rotate", "edi", "--json") for _ in range(4)]
    done = [one.finish() for one in started]
    assert {one.code for one in done} <= {0, 3}, [one.stdout for one in done]
    rotated = sum(one.json["summary"].get("rotated", 0) for one in done)
    assert rotated >= 1
    assert place.simulator.issued() == rotated
    assert (place.who(), place.state()) == (5001, "in-sync")


# the rotator's own key


def own_in_vault(place: Place, verify: str, *, login: bool) -> None:
    """The own key is what a policy publishes; with a login, or another user, as the way back."""
    del place.command.environment["ROTATOR_ECGRID__API_KEY"]
    place.write(place.simulator.api_key(OPERATOR) or "")
    own = f"{place.mount}/ecgrid/edi#api_key"
    place.command.environment["ROTATOR_ECGRID__API_KEY_VAULT"] = own
    if not login:
        place.simulator.add_user(SECOND, auth_level=AuthLevel.NetworkAdmin)
        place.command.policy("edi", policy(verify, f"users: [{OPERATOR}, {SECOND}]"))
        return
    user = next(user for user in place.simulator.users() if user.user_id == OPERATOR)
    place.command.environment["ROTATOR_ECGRID__LOGIN"] = user.login
    place.command.environment["ROTATOR_ECGRID__PASSWORD"] = user.password
    place.command.secrets.add(user.password)
    place.command.policy("edi", policy(verify, f"user_id: {OPERATOR}"))


@BOTH
def test_the_own_key_is_rotated_again_and_again(place: Place, verify: str) -> None:
    """The caller's credential dies with the answer; no request is refused for it, and every session is ended."""
    own_in_vault(place, verify, login=True)
    values = {place.published()["api_key"]}
    for _ in range(3):
        place.rotate()
        values.add(place.published()["api_key"])
        assert place.who() == OPERATOR
    assert (len(values), place.simulator.issued()) == (4, 3)
    assert 401 not in {call.status for call in place.simulator.requests() if call.call != "GetMe"}
    assert place.simulator.sessions() == 0


@pytest.mark.sampled(3)
@BOTH
@pytest.mark.parametrize("kind", ["closed", "half", "lost", "html"])
def test_a_lost_answer_about_the_own_key_is_found_by_way_of_the_login(
    place: Place, verify: str, kind: str
) -> None:
    """The caller may be dead, and the new key is not known: a retry would be refused, the login looks."""
    own_in_vault(place, verify, login=True)
    place.rotate()
    place.simulator.add_fault(Fault(kind, call="issue"))  # type: ignore[arg-type]  # one of the kinds
    place.rotate()
    assert (place.who(), place.simulator.issued()) == (OPERATOR, 2)


@pytest.mark.sampled(1)
@BOTH
def test_the_answer_about_the_own_key_is_lost_with_the_process(
    place: Place, service: Running, verify: str
) -> None:
    """Nothing that the rotator holds is accepted but its login."""
    own_in_vault(place, verify, login=True)
    place.rotate()
    killed_at_the_answer(place, service)
    assert place.who() is None
    done = place.tick()
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    assert (place.who(), place.simulator.issued()) == (OPERATOR, 2)


@BOTH
def test_with_two_users_the_published_key_is_the_way_back(place: Place, verify: str) -> None:
    """A lost answer concerns the other user."""
    own_in_vault(place, verify, login=False)
    place.rotate()
    place.simulator.add_fault(Fault("lost", call="issue"))
    place.rotate()
    assert (place.who(), place.published()["user_id"]) == (OPERATOR, OPERATOR)
    place.rotate()
    assert (place.who(), place.simulator.issued()) == (SECOND, 3)


# first sight


@BOTH
@pytest.mark.parametrize("there", [True, False])
def test_the_user_s_key_is_adopted(place: Place, verify: str, there: bool) -> None:
    """As the destination has it, or as it is read; nothing is made."""
    value = place.simulator.api_key(5001)
    assert value is not None
    if there:
        place.write(value)
    place.command.policy("edi", policy(verify))
    done = place.command("run", "--once", "--json")
    assert (done.code, done.json["summary"]) == (0, {"adopted": 1}), done.stdout
    assert place.published()["api_key"] == value
    assert place.simulator.issued() == 0


@BOTH
def test_a_user_without_a_key_gets_one_and_a_masked_one_is_left_alone(
    place: Place, verify: str
) -> None:
    """A key whose value cannot be read may be in use."""
    place.simulator.add_user(6001)
    place.command.policy("edi", policy(verify, "user_id: 6001"))
    done = place.command("run", "--once", "--json")
    assert (done.code, done.json["summary"]) == (0, {"adopted": 1}), done.stdout
    assert (place.who(), place.simulator.issued()) == (6001, 1)
    place.command.policy("other", policy(verify, "user_id: 5002").replace("ecgrid/edi", "other"))
    place.simulator.switch(api_key_shows="masked")
    failed = place.command("run", "--once", "--json")
    (error,) = [one["error"] for one in failed.json["results"] if one["policy"] == "other"]
    assert (failed.code, error["kind"]) == (1, "ecgrid.Unreadable")
    assert place.simulator.issued() == 1


@BOTH
def test_with_first_rotate_the_first_run_makes_a_key(place: Place, verify: str) -> None:
    """The one that was there ends with it."""
    before = place.simulator.api_key(5001)
    assert before is not None
    place.command.policy("edi", policy(verify, more="first: rotate\n"))
    done = place.command("run", "--once", "--json")
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    assert (place.who(), place.simulator.who(before), place.simulator.issued()) == (5001, None, 1)


# drift


@BOTH
@pytest.mark.parametrize("shows", ["full", "masked"])
def test_a_key_that_somebody_else_made_is_taken_over_if_it_can_be_read(
    place: Place, verify: str, shows: str
) -> None:
    """`check` tells the drift, `--repair` publishes what ECGrid accepts; masked, one is made."""
    place.command.policy("edi", policy(verify))
    place.rotate()
    other = place.simulator.add_key(5001)
    place.simulator.switch(api_key_shows=shows)
    assert (place.who(), place.state()) == (None, "drift")
    done = place.command("check", "edi", "--repair", "--json")
    assert (done.code, done.json["summary"]) == (0, {"repaired": 1}), done.stdout
    assert place.who() == 5001
    assert place.simulator.issued() == (1 if shows == "full" else 2)
    assert (place.published()["api_key"] == other.value) is (shows == "full")
    place.simulator.switch(api_key_shows="full")
    assert place.state() == "in-sync"


# consumers


SERVICE = Switches.service().to_json()
TWO = POLICY.replace("user_id: 5001", "users: [5001, 5002]") + "issue: generate\n"


@pytest.mark.parametrize("reads_every", [5, 12 * 60, 47 * 60])
def test_nobody_is_refused_with_two_users(tmp_path: Path, reads_every: int) -> None:
    """A key stays valid for a whole period after the next one is published, so even a lazy reader is in time."""
    scene = Scene(tmp_path, TWO.replace("30d", "2d"), **SERVICE)
    scene.rotator().tick()
    consumer = Consumer(scene, reads_every)
    assert live(scene, [consumer], 11) == 5
    assert (consumer.refused, scene.works() in (5001, 5002)) == (0, True)


@pytest.mark.parametrize("fate", ["lose", "fail"])
def test_a_lost_answer_refuses_nobody_either(tmp_path: Path, fate: str) -> None:
    """It is about the user whose key is not published."""
    scene = Scene(tmp_path, TWO.replace("30d", "2d"), **SERVICE)
    scene.rotator().tick()
    consumer = Consumer(scene, 12 * 60)
    live(scene, [consumer], 1.9)
    for _ in range(3):
        met: list[str] = []

        def gate(call: str, met: list[str] = met) -> str:
            met.append(call)
            return fate if call == "ecgrid GenerateKey" and met.count(call) == 1 else "go"

        scene.pass_time(hours=3)
        assert scene.rotator(gate).tick().outcome == "rotated"
        consumer.value = None  # it reads in time
        live(scene, [consumer], 1.9)
    assert consumer.refused == 0


REAL = """
    users: [5001, 5002]
    visibility: Private
    schedule: {every: 3s}
    issue: generate
    verify: VERIFY
    vault: {path: ecgrid/edi}
"""


@pytest.mark.full
@BOTH
def test_nobody_is_refused_while_the_daemon_rotates(
    place: Place, service: Running, verify: str
) -> None:
    """Five rotations by real processes; each consumer has met at least four of the keys."""
    place.command.policy("edi", REAL.replace("VERIFY", verify))
    assert place.command("run", "--once").code == 0
    path = f"{place.mount}/data/ecgrid/edi"
    readers = [Reader(place.vault, path, service.url, every) for every in (0.1, 0.8)]
    daemon = place.command.start("run")
    for reader in readers:
        reader.start()
    until(
        lambda: place.simulator.issued() >= 5 and all(len(one.seen) >= 4 for one in readers),
        "five rotations, of which each consumer has met four keys",
    )
    for reader in readers:
        reader.told.set()
        reader.join()
    assert daemon.finish(send=signal.SIGTERM).code == 0
    assert [reader.refused for reader in readers] == [0, 0]
    assert all(reader.calls > 50 for reader in readers)
