"""An issuing answer that was lost: what is ours is found, what may be a person's is neither published nor removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import memory
import pytest
from worlds import POLICY, USER, Scene

from rotator.keys import Seen
from rotator.sandbox.ecgrid import KeyRecord


def losing(meanwhile: Callable[[], object] = lambda: None) -> Callable[[str], str]:
    """A gate at which the first issuing answer is lost; then something happens at once."""
    happened: list[str] = []

    def gate(call: str) -> str:
        if happened == ["lost"]:
            happened.append("meanwhile")
            meanwhile()
        if call == "ecgrid KeySet" and not happened:
            happened.append("lost")
            return "lose"
        return "go"

    return gate


@pytest.mark.parametrize("delay", [5.0, 45.0])
def test_a_found_key_that_needs_a_moment_is_waited_for(tmp_path: Path, delay: float) -> None:
    """With the patience of verifying: no second key is made."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.switch(activation_delay=delay)
    result = scene.rotator(losing()).rotate()
    assert (result.outcome, scene.issued(), scene.works()) == ("rotated", 1, USER)
    scene.pass_time(hours=13)
    scene.rotator().tick()
    assert scene.live() == {result.key_id}


def test_a_found_key_that_never_works_is_a_stray(tmp_path: Path) -> None:
    """Refused in two runs: given up, another is issued, and the first is retired."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.switch(activation_delay=1e6)
    result = scene.rotator(losing()).rotate()
    assert result.outcome == "failed"
    scene.simulator.switch(activation_delay=0.0)
    dead = max(key.key_id for key in scene.simulator.keys(USER))
    for _ in range(5):
        scene.pass_time(minutes=10)
        scene.rotator().tick()
    scene.pass_time(hours=13)
    scene.rotator().tick()
    assert (scene.works(), scene.issued()) == (USER, 2)
    assert scene.live() == {scene.published().key_id}
    assert dead not in scene.live()


def test_two_lost_requests_that_were_carried_out_leave_no_key_alive(tmp_path: Path) -> None:
    """Two requests, two new keys: both are ours, and the one that is not published is retired."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    asked: list[str] = []

    def gate(call: str) -> str:
        asked.append(call)
        if call != "ecgrid KeySet" or asked.count(call) > 2:
            return "go"
        return "late" if asked.count(call) == 1 else "lose"

    process = scene.rotator(gate)
    assert process.rotate().outcome == "rotated"
    scene.pass_time(hours=13)
    scene.rotator().tick()
    assert scene.works() == USER
    assert scene.live() == {scene.published().key_id} | (scene.landed & scene.live())


def test_of_two_masked_keys_and_one_request_none_is_removed(tmp_path: Path) -> None:
    """A person made one in the same minute: which is ours nobody can tell, so both are left alone, and named."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.switch(read_back="masked", list_shows="masked")
    made: list[KeyRecord] = []
    gate = losing(lambda: made.append(scene.simulator.add_key(USER)))
    result = scene.rotator(gate).rotate()
    assert result.outcome == "rotated"
    for _ in range(3):
        scene.pass_time(hours=13)
        scene.rotator().tick()
    assert made[0].key_id in scene.live()
    assert any(str(made[0].key_id) in warning for warning in result.warnings)
    assert scene.works() == USER


def test_one_masked_key_for_one_request_is_a_stray(tmp_path: Path) -> None:
    """It is ours: retired once another is published."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.switch(read_back="masked", list_shows="masked")
    assert scene.rotator(losing()).rotate().outcome == "rotated"
    scene.pass_time(hours=13)
    scene.rotator().tick()
    assert scene.live() == {scene.published().key_id}


@pytest.mark.parametrize("shows", ["full", "masked"])
@pytest.mark.parametrize("carried_out", [True, False])
def test_a_key_of_unknown_age_is_neither_published_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shows: str, carried_out: bool
) -> None:
    """ECGrid's `created` cannot be read; a person's key of eleven days ago looks as new as ours."""
    scene = Scene(tmp_path, POLICY)
    scene.rotator().tick()
    foreign = scene.simulator.add_key(USER)
    scene.pass_time(days=11)
    scene.simulator.switch(read_back=shows, list_shows=shows)
    seen = memory._seen

    def ageless(answer: Any) -> Seen:
        one = seen(answer)
        return Seen(one.ref._replace(created=None), one.shown)

    monkeypatch.setattr(memory, "_seen", ageless)
    fate, asked = ("lose" if carried_out else "fail"), []

    def gate(call: str) -> str:
        asked.append(call)
        return fate if call == "ecgrid KeySet" and asked.count(call) == 1 else "go"

    result = scene.rotator(gate).rotate()
    assert result.outcome == "rotated"
    assert result.key_id != foreign.key_id
    assert any(str(foreign.key_id) in warning for warning in result.warnings)
    for _ in range(3):
        scene.pass_time(hours=13)
        scene.rotator().tick()
    assert foreign.key_id in scene.live()
    assert scene.works() == USER
