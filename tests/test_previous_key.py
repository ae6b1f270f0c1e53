"""What the account does with a replaced key is found out once, and told by every result from then on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from worlds import POLICY, USER, Scene, policy_from

from rotator.errors import Transient
from rotator.fleet.standing import row
from rotator.rotation import Result


def told(result: Result) -> object:
    """What a result says of the replaced key."""
    return result.previous_key


@pytest.mark.parametrize(
    ("keyset", "becomes"), [("add", "accepted"), ("replace", "refused"), ("update", "refused")]
)
def test_it_is_found_out_by_the_first_rotation_and_told_from_then_on(
    tmp_path: Path, keyset: str, becomes: str
) -> None:
    """By results and by `status`; a grace that the account does not keep is a warning."""
    scene = Scene(tmp_path, keyset=keyset)
    assert told(scene.rotator().tick()) is None
    result = scene.rotator().rotate()
    assert told(result) == becomes
    assert any("before its grace" in text for text in result.warnings) == (becomes == "refused")
    assert told(scene.rotator().tick()) == becomes
    assert told(scene.rotator().repair()) == becomes
    assert row(scene.policy, scene.record(), scene.vault.now()).previous_key == becomes


def test_it_costs_two_requests_once_and_one_before_the_first_retirement(tmp_path: Path) -> None:
    """Steady rotations stay at three."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    counts = []
    for _ in range(3):
        scene.asked.clear()
        scene.rotator().rotate()
        counts.append(len(scene.asked))
        scene.pass_time(hours=13)
        assert scene.rotator().tick().outcome == "retired"
    assert counts == [5, 3, 3]


def test_the_answer_before_the_first_retirement_counts(tmp_path: Path) -> None:
    """An account that ends the replaced key some hours later does not keep the grace."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    assert told(scene.rotator().rotate()) == "accepted"
    scene.simulator.remove_key(scene.first.key_id)
    scene.pass_time(hours=13)
    result = scene.rotator().tick()
    assert (result.outcome, told(result)) == ("retired", "refused")
    assert any("before its grace" in text for text in result.warnings)


def test_a_key_that_was_dead_before_tells_nothing(tmp_path: Path) -> None:
    """Somebody had removed it: that is not what the account does."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.remove_key(scene.first.key_id)
    assert told(scene.rotator().rotate()) is None
    assert told(scene.rotator().rotate()) == "accepted"


@pytest.mark.parametrize("policy", [POLICY.replace("12h", "0s"), POLICY])
def test_without_a_grace_nobody_asks(tmp_path: Path, policy: str) -> None:
    """Of the policy, or of this command."""
    scene = Scene(tmp_path, policy)
    scene.rotator().tick()
    assert told(scene.rotator().rotate(retire_now=policy == POLICY)) is None


def test_two_users_in_turn_have_no_replaced_key_of_the_same_user(tmp_path: Path) -> None:
    """The published one lives on until its own turn."""
    scene = Scene(tmp_path, POLICY.replace("user_id: 5001", "users: [5001, 5002]"))
    scene.rotator().tick()
    assert told(scene.rotator().rotate()) is None


def test_another_issuing_call_clears_it(tmp_path: Path) -> None:
    """And the first rotation under it finds out anew."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.policy = policy_from(tmp_path, POLICY + "issue: generate\n")
    assert told(scene.rotator().tick()) is None
    assert told(scene.rotator().rotate()) == "refused"


def test_what_ecgrid_cannot_tell_now_stops_nothing(tmp_path: Path) -> None:
    """The next rotation asks again."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    asked: list[str] = []

    def gate(call: str) -> str:
        asked.append(call)
        if call == "ecgrid GetMe" and "vault annotate ecgrid/edi" in asked:
            raise Transient("not now", kind="ecgrid.Unavailable")
        return "go"

    result = scene.rotator(gate).rotate()
    assert (result.outcome, result.bad, told(result)) == ("rotated", False, None)
    assert told(scene.rotator().rotate()) == "accepted"


def test_until_when_the_replaced_key_lives_is_told(tmp_path: Path) -> None:
    """Null once it has ended, and where the account ends it by itself."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    result = scene.rotator().rotate()
    until = result.previous_key_until
    assert until is not None
    assert abs(until - scene.vault.now() - timedelta(hours=12)) < timedelta(minutes=1)
    scene.pass_time(hours=13)
    assert scene.rotator().tick().previous_key_until is None
    other = Scene(tmp_path, keyset="replace")
    other.rotator().tick()
    assert other.rotator().rotate().previous_key_until is None
    assert other.works() == USER
