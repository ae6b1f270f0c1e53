"""Every stage in which an interrupted rotation may be left: `rotate` goes on from there, and a dry run only looks.

Each is written into Vault by hand, once the run that left it is gone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_forged import ACCOUNTS, OTHER_RUN, Forge
from worlds import POLICY, Scene

from rotator.due import What
from rotator.fleet.forecast import ahead
from rotator.rotation import Order, would

CHANGES = {"KeySet", "CreateKey", "GenerateKey", "DeleteKey"}  # of ECGrid's calls


def nothing(_forge: Forge) -> None:
    """Nothing was begun."""


def claimed(forge: Forge) -> None:
    """The claim was taken, and no request arrived."""
    forge.open()


def adopting(forge: Forge) -> None:
    """An adoption was begun, which sends nothing."""
    forge.open(kind="adopt", sent=0)


def repairing(forge: Forge) -> None:
    """A repair asked for a key, and its answer was lost."""
    forge.open(kind="repair")
    forge.issue()


def issued(forge: Forge) -> None:
    """A key was issued, and its value is lost."""
    forge.open()
    forge.issue()


def staged(forge: Forge) -> None:
    """The new key is staged."""
    forge.open()
    forge.stage(forge.issue())


def published(forge: Forge) -> None:
    """The new key is published, and still staged."""
    forge.open()
    made = forge.issue()
    forge.stage(made)
    forge.publish(made)


def unstaged(forge: Forge) -> None:
    """The new key is published, and its record was not closed."""
    forge.open()
    forge.publish(forge.issue())


def left_over(forge: Forge) -> None:
    """Something is staged under a claim that nobody knows."""
    forge.stage(forge.issue(), OTHER_RUN)
    forge.open()


STAGES: dict[str, Callable[[Forge], None]] = {
    made.__name__: made
    for made in (
        nothing,
        claimed,
        adopting,
        repairing,
        issued,
        staged,
        published,
        unstaged,
        left_over,
    )
}
IN_EACH_STAGE = pytest.mark.parametrize("stage", STAGES)


@IN_EACH_STAGE
@ACCOUNTS
def test_rotate_ends_with_a_key_issued_after_it_began(
    tmp_path: Path, stage: str, keyset: str
) -> None:
    """What was interrupted is finished first, and is a line of its own in the history."""
    forge = Forge(tmp_path, keyset=keyset)
    STAGES[stage](forge)
    forge.scene.pass_time(minutes=10)
    there = {record.value for record in forge.scene.simulator.keys(5001)}
    began, lines = forge.scene.vault.now(), len(forge.scene.stored().record.history)
    result = forge.scene.rotator().rotate()
    assert (result.outcome, result.bad) == ("rotated", False)
    assert forge.wrongs() == []
    shown, current = forge.scene.published(), forge.scene.stored().record.current
    assert shown.value is not None
    assert shown.value.reveal() not in there
    assert current is not None
    assert current.began is not None
    assert current.began >= began
    past = forge.scene.stored().record.history[lines:]
    assert [one.reason for one in past] == ["scheduled"] * (stage != "nothing") + [""]


@IN_EACH_STAGE
@pytest.mark.parametrize("days", [0, 31])
@pytest.mark.parametrize("what", ["schedule", "demand", "adopt", "repair"])
def test_a_dry_run_writes_nothing_anywhere(
    tmp_path: Path, stage: str, days: int, what: What
) -> None:
    """Neither in Vault, not even a claim, nor at ECGrid; whether the policy is due or not."""
    forge = Forge(tmp_path)
    STAGES[stage](forge)
    forge.scene.pass_time(days=days, minutes=10)
    before = picture(forge.scene)
    would(forge.scene.rotator().run(Order(what, since=forge.scene.vault.now())))
    assert picture(forge.scene) == before
    assert not CHANGES & set(forge.scene.asked)


def picture(scene: Scene) -> Any:
    """Everything that Vault and ECGrid have."""
    scene.asked.clear()
    return copy.deepcopy((scene.store.log, scene.store.paths, scene.simulator.keys(5001)))


@IN_EACH_STAGE
@pytest.mark.parametrize("days", [0, 31])
def test_a_dry_run_and_the_plan_say_what_the_next_tick_does(
    tmp_path: Path, stage: str, days: int
) -> None:
    """An open rotation is gone on with, a due one begun; `plan` names those that begin."""
    forge = Forge(tmp_path)
    STAGES[stage](forge)
    scene = forge.scene
    scene.pass_time(days=days, minutes=10)
    now, record = scene.vault.now(), scene.record()
    said = would(scene.rotator().run(Order("schedule"))).outcome
    planned = [one.why for one in ahead(scene.policy, record, now, now)]
    result = forge.tick()
    assert (said == "would-rotate") == (result.outcome in ("rotated", "adopted", "repaired"))
    assert said in ("would-rotate", "not-due")
    assert planned == (["late"] if days else [])
    if stage == "nothing":
        assert (said == "would-rotate") == bool(planned) == bool(scene.issued())


def test_a_dry_run_says_who_is_at_work(tmp_path: Path) -> None:
    """A claim that holds is another run's right."""
    forge = Forge(tmp_path)
    forge.open(expired=False)
    assert would(forge.scene.rotator().run(Order("schedule"))).outcome == "busy"


def test_a_dry_run_of_a_new_policy_issues_nothing_whatever_it_begins_with(tmp_path: Path) -> None:
    """`first: adopt` and `first: rotate` alike."""
    for more in ("", "first: rotate\n"):
        scene = Scene(tmp_path, POLICY + more)
        before = picture(scene)
        assert would(scene.rotator().run(Order("schedule"))).outcome == "would-rotate"
        assert picture(scene) == before
