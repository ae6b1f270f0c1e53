"""`adopt NEW --from OLD`: nothing is lost, whatever is open, staged, or going on under the old name."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_forged import Forge
from worlds import POLICY, USER, Scene, policy_from

from rotator.errors import AnswerLost, Permanent, RotatorError
from rotator.fleet.renaming import take_over
from rotator.policy import Policy


def renamed(tmp_path: Path) -> Policy:
    """The same policy under its new name."""
    return policy_from(tmp_path, POLICY, "new")


def finish(scene: Scene, policy: Policy) -> None:
    """The next ticks, under the new name."""
    scene.policy = policy
    assert not scene.rotator().tick(policy).bad
    record = scene.stored().record
    assert (record.policy, record.underway, record.claim) == ("new", None, None)
    assert record.shows(scene.published().value)
    assert (scene.works(), scene.vault.staged("edi"), scene.vault.staged("new")) == (
        USER,
        None,
        None,
    )
    assert scene.vault.record("edi") is None
    assert scene.published().policy == "new"


@pytest.mark.parametrize("keyset", ["add", "replace"])
@pytest.mark.parametrize("staged", [True, False])
def test_an_open_rotation_comes_along_once_its_claim_is_over(
    tmp_path: Path, keyset: str, staged: bool
) -> None:
    """Killed after KeySet, before or after staging: the next tick publishes that very key."""
    forge = Forge(tmp_path, keyset=keyset)
    scene, policy = forge.scene, renamed(tmp_path)
    forge.open(expired=False)
    made = forge.issue()
    if staged:
        forge.stage(made)
        scene.simulator.switch(read_back="masked", list_shows="masked")
    with pytest.raises(Permanent, match="until 20"):
        take_over(scene.vault, policy, "edi")
    scene.pass_time(minutes=4)
    take_over(scene.vault, policy, "edi")
    finish(scene, policy)
    assert scene.published().value == made.value
    assert scene.issued() == 1


def test_a_rotation_under_the_old_name_at_that_moment_is_not_lost(tmp_path: Path) -> None:
    """Between the read and the first write: the check-and-set loses, nothing is moved; the command is given again."""
    forge = Forge(tmp_path, keyset="replace")
    scene, policy = forge.scene, renamed(tmp_path)
    left = ["once"]

    def gate(call: str) -> str:
        if call == "vault write rotator/record/edi" and left:
            left.pop()
            assert scene.rotator().rotate().outcome == "rotated"
        return "go"

    with pytest.raises(Permanent, match="at work on policy edi"):
        take_over(scene.rotator(gate).world.vault, policy, "edi")
    assert scene.vault.record("new") is None
    assert scene.stored().record.shows(scene.published().value)
    take_over(scene.vault, policy, "edi")
    finish(scene, policy)


CALLS = 12  # of the whole command, at most


@pytest.mark.parametrize("fate", ["fail", "lose"])
@pytest.mark.parametrize("number", range(CALLS))
def test_the_old_name_cannot_rotate_while_it_is_taken_over(
    tmp_path: Path, number: int, fate: str
) -> None:
    """At every call of the command the old name's tick comes, and the call fails: given again, it is done."""
    forge = Forge(tmp_path, keyset="replace")
    scene, policy = forge.scene, renamed(tmp_path)
    forge.open()
    made = forge.issue()
    forge.stage(made)
    seen: list[str] = []

    def gate(call: str) -> str:
        seen.append(call)
        if len(seen) - 1 != number:
            return "go"
        if "vault write rotator/record/edi" in seen[:-1]:  # claimed by the command
            assert scene.rotator().tick().outcome == "busy"
        return fate

    try:
        take_over(scene.rotator(gate).world.vault, policy, "edi")
        done = True
    except RotatorError:
        done = False
    scene.pass_time(minutes=4)
    if not done and scene.vault.record("edi") is not None:
        take_over(scene.vault, policy, "edi")
    finish(scene, policy)
    assert scene.published().value == made.value
    assert scene.issued() == 1
    assert len(seen) <= CALLS


def test_two_names_that_both_went_on_are_a_persons_to_settle(tmp_path: Path) -> None:
    """An earlier try copied the record and was lost; then both names rotated: nothing is destroyed."""
    forge = Forge(tmp_path)
    scene, policy = forge.scene, renamed(tmp_path)

    def gate(call: str) -> str:
        if call == "vault destroy rotator/record/edi":
            raise AnswerLost("no answer", kind="vault.Timeout")
        return "go"

    with pytest.raises(AnswerLost):
        take_over(scene.rotator(gate).world.vault, policy, "edi")
    scene.pass_time(minutes=4)
    old = scene.stored()
    scene.vault.save(
        old.record.change(
            nonce="gone on",
            history=(
                *old.record.history,
                old.record.history[-1].model_copy(update={"run": "f" * 16}),
            ),
        ),
        old.version,
    )
    scene.policy = policy
    assert scene.rotator().rotate().outcome == "rotated"
    with pytest.raises(Permanent, match="both have gone on"):
        take_over(scene.vault, policy, "edi")
    assert scene.vault.record("edi") is not None
    assert scene.works() == USER
