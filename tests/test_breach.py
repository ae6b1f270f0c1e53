"""Everything has leaked: `rotate --all --grace 0s`, also while a brake is on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from conftest import USERS, Finished, Rotator

from rotator.sandbox.ecgrid import Fault, Running

FLEET = 8
SHORT: dict[str, Any] = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "3s", "ROTATOR_BRAKE": "2"}
BREACH = ("rotate", "--all", "--grace", "0s", "--reason", "breach: ticket 4711", "--json")


def users() -> list[int]:
    """Of the fleet."""
    return [5001 + number for number in range(FLEET)]


def set_up(command: Rotator, simulator: Running) -> None:
    """Adopted policies, a key for each user."""
    lines = [f"  - {{name: p{user_id}, user_id: {user_id}}}" for user_id in users()]
    for user_id in set(users()) - set(USERS):
        simulator.simulator.add_user(user_id)
        simulator.simulator.add_key(user_id)
    common = (
        'defaults: {visibility: Private, schedule: {every: 30d}, vault: {path: "ecgrid/{name}"}}'
    )
    (command.policies / "fleet.yaml").write_text("\n".join([common, "policies:", *lines]) + "\n")
    assert command("run", "--once").code == 0


def live(simulator: Running) -> dict[int, list[str]]:
    """The values that ECGrid accepts, by user."""
    return {
        user_id: [key.value for key in simulator.simulator.keys(user_id)] for user_id in users()
    }


def outcomes(done: Finished) -> Counter[str]:
    """How often each outcome, or kind of error."""
    return Counter(
        (one["error"] or {}).get("kind") or one["outcome"] for one in done.json["results"]
    )


def test_all_keys_are_ended_one_after_the_other_while_a_brake_is_on(
    rotator_command: Rotator, simulator: Running
) -> None:
    """Those in doubt hold up nobody for long; they are named, and ended once ECGrid answers and the brake is let go."""
    set_up(rotator_command, simulator)
    before = live(simulator)
    simulator.simulator.switch(read_back="masked", list_shows="masked")
    doubtful = [f"p{user_id}" for user_id in users()[:3]]
    for user_id in users()[:3]:
        simulator.simulator.add_fault(Fault("lost", call="KeySet", about=user_id, times=None))
    assert rotator_command("rotate", *doubtful, **SHORT).code == 1

    done = rotator_command(*BREACH, **SHORT)
    left = [one["policy"] for one in done.json["results"] if one["outcome"] != "rotated"]
    assert (done.code, left) == (1, doubtful), outcomes(done)
    assert {len(now) for now in list(live(simulator).values())[3:]} == {1}
    assert not shared(before, live(simulator), users()[3:])

    simulator.simulator.clear_faults()
    assert rotator_command("release", "--brake", **SHORT).code == 0
    done = rotator_command("rotate", *left, "--grace", "0s", "--json", **SHORT)
    assert (done.code, done.json["summary"]) == (0, {"rotated": 3})
    assert {len(now) for now in live(simulator).values()} == {1}
    assert not shared(before, live(simulator), users())


def shared(before: dict[int, list[str]], now: dict[int, list[str]], among: list[int]) -> list[int]:
    """The users whose old key is still accepted."""
    return [user_id for user_id in among if set(before[user_id]) & set(now[user_id])]


def test_who_is_held_or_disabled_has_to_be_named(
    rotator_command: Rotator, simulator: Running
) -> None:
    """`--all` leaves both alone, and says so of who is held; `status` shows both as paused; named, they are ended."""
    set_up(rotator_command, simulator)
    before = live(simulator)
    fleet = rotator_command.policies / "fleet.yaml"
    fleet.write_text(fleet.read_text().replace("user_id: 5007}", "user_id: 5007, enabled: false}"))
    assert rotator_command("hold", "p5008", "--for", "1h", "--reason", "year end").code == 0
    done = rotator_command(*BREACH)
    assert outcomes(done) == {"rotated": FLEET - 2, "unchanged": 1}
    assert "p5008" in str([one for one in done.json["results"] if one["outcome"] == "unchanged"])
    assert shared(before, live(simulator), users()) == [5007, 5008]
    paused = rotator_command("status", "--state", "paused", "--json").json["policies"]
    names = [one["policy"] for one in paused]
    assert names == ["p5007", "p5008"]
    assert rotator_command("rotate", *names, "--grace", "0s").code == 0
    assert not shared(before, live(simulator), users())
