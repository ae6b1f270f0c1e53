"""Retiring is a debt: a key that could not be retired stays one, is said, and holds nothing else up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import USER, Scene

from rotator.errors import AnswerLost, NotFound
from rotator.fleet.standing import row


def debts(scene: Scene) -> list[int | None]:
    """The keys that are still to be retired."""
    return [debt.key_id for debt in scene.stored().record.retiring]


def removing(*fates: type[AnswerLost | NotFound]) -> Callable[[str], str]:
    """A gate at which the next KeyRemoves end so, and nothing is removed."""
    left = list(fates)

    def gate(call: str) -> str:
        if call == "ecgrid DeleteKey" and left:
            raise left.pop(0)("refused", kind="ecgrid.InternalError")
        return "go"

    return gate


def test_a_removal_that_ecgrid_only_pretends_is_found_out(tmp_path: Path) -> None:
    """Its yes is no proof: the key is still accepted, which is said, and tried again."""
    scene = Scene(tmp_path, key_remove="pretends")
    scene.rotator().tick()
    result = scene.rotator().rotate(retire_now=True)
    assert (result.outcome, result.bad) == ("rotated", True)
    assert any("still accepted" in warning for warning in result.warnings)
    assert debts(scene) == [scene.first.key_id]
    for _ in range(3):
        scene.pass_time(minutes=11)
        result = scene.rotator().tick()
        assert result.error is not None
        assert (result.error["kind"], result.phase) == ("ecgrid.NotRetired", "retire")
    assert (scene.works(), debts(scene)) == (USER, [scene.first.key_id])
    assert scene.stored().record.retiring[0].tried == 4
    scene.simulator.switch(key_remove="removes")
    scene.pass_time(minutes=11)
    assert scene.rotator().tick().outcome == "retired"
    assert debts(scene) == []
    assert scene.simulator.who(scene.first.value) is None


def test_500_three_times_then_404(tmp_path: Path) -> None:
    """The debt stays until ECGrid says that the key is gone, and so it is; meanwhile rotations go on."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.pass_time(hours=13)
    gate = removing(AnswerLost, AnswerLost, AnswerLost)
    for tried in (1, 2, 3):
        result = scene.rotator(gate).tick()
        assert result.error is not None
        assert result.error["kind"] == "ecgrid.NotRetired"
        assert debts(scene) == [scene.first.key_id]
        assert scene.stored().record.retiring[0].tried == tried
        assert row(scene.policy, scene.record(), scene.vault.now())["state"] == "failed"
        scene.pass_time(minutes=11)
    assert scene.rotator(lambda call: "fail" if "DeleteKey" in call else "go").rotate().outcome == (
        "rotated"
    )
    assert (scene.works(), scene.issued()) == (USER, 2)
    assert scene.first.key_id in debts(scene)
    scene.simulator.remove_key(scene.first.key_id)  # by somebody else
    scene.pass_time(minutes=11)
    assert scene.rotator().tick().outcome == "retired"
    assert scene.first.key_id not in debts(scene)


def test_a_404_for_a_key_that_is_still_accepted_pays_nothing(tmp_path: Path) -> None:
    """Whatever ECGrid answers, the key's own value is asked with."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    result = scene.rotator(removing(NotFound)).rotate(retire_now=True)
    assert result.bad
    assert debts(scene) == [scene.first.key_id]
    assert scene.simulator.who(scene.first.value) == USER


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_lost_answer_is_settled_by_looking(tmp_path: Path, carried_out: bool) -> None:
    """Carried out or not: the value tells."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    fate = "lose" if carried_out else "fail"
    gated = scene.rotator(lambda call: fate if call == "ecgrid DeleteKey" else "go")
    result = gated.rotate(retire_now=True)
    assert result.bad is not carried_out
    assert (debts(scene) == []) is carried_out
