"""No request for a key is sent without the right to: whatever asks for it, and however it came to that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from memory import go
from worlds import POLICY, USER, Process, Scene

from rotator.errors import HeldBack, Refused
from rotator.journal import Record
from rotator.keys import Secret
from rotator.rotation import Result
from rotator.run.right import BRAKED, MASS_DRIFT, Came, For


@dataclasses.dataclass
class Asked:
    """A right that is refused for some purposes, and remembers what it was asked for."""

    refused: tuple[For, ...] = ()
    other: Secret | None = None
    asked: list[For] = dataclasses.field(default_factory=list)
    came: list[Came] = dataclasses.field(default_factory=list)
    at_hand: bool = False

    def ask(self, what: For, record: Record) -> None:
        """See `Right.ask`."""
        if self.at_hand:
            return
        self.asked.append(what)
        if what in self.refused:
            raise HeldBack("no", kind=BRAKED)
        self.at_hand = True

    def spent(self, came: Came) -> None:
        """See `Right.spent`."""
        self.came.append(came)
        self.at_hand = False

    def witness(self, user_id: int) -> Secret | None:
        """See `Right.witness`."""
        return self.other

    def witness_refused(self) -> HeldBack:
        """See `Right.witness_refused`."""
        return HeldBack("no", kind=MASS_DRIFT)


def with_right(scene: Scene, right: Asked, gate: Callable[[str], str] = go) -> Process:
    """A process that has to ask for it."""
    process = scene.rotator(gate)
    process.world = dataclasses.replace(process.world, right=right)
    return process


def due(tmp_path: Path) -> Scene:
    """A policy that was adopted, and is due."""
    scene = Scene(tmp_path, keyset="replace")
    scene.rotator().tick()
    scene.pass_time(days=31)
    return scene


def new(tmp_path: Path) -> Scene:
    """A policy that is to rotate at first sight."""
    return Scene(tmp_path, POLICY + "first: rotate\n")


def keyless(tmp_path: Path) -> Scene:
    """A policy whose user has no key."""
    scene = Scene(tmp_path)
    scene.simulator.remove_key(scene.first.key_id)
    return scene


def drifted(tmp_path: Path) -> Scene:
    """A policy whose published key was removed."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.remove_key(scene.first.key_id)
    return scene


def interrupted(tmp_path: Path) -> Scene:
    """A rotation that was killed with its request under way, which was not carried out."""
    scene = due(tmp_path)

    def gate(call: str) -> str:
        if call == "ecgrid KeySet":
            raise KeyboardInterrupt
        return "go"

    with pytest.raises(KeyboardInterrupt):
        scene.rotator(gate).tick()
    scene.pass_time(minutes=5)
    return scene


WAYS: dict[str, tuple[Callable[[Path], Scene], Callable[[Process], Result], For]] = {
    "by schedule": (due, Process.tick, "begin"),
    "on demand": (due, Process.rotate, "begin"),
    "at first sight": (new, Process.tick, "begin"),
    "adoption of nothing": (keyless, Process.adopt, "begin"),
    "repair": (drifted, Process.repair, "repair"),
    "after an interruption": (interrupted, Process.tick, "again"),
    "the same, on demand": (interrupted, Process.rotate, "again"),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_key_is_asked_for_without_the_right(tmp_path: Path, way: str) -> None:
    """Held back: nothing sent, no claim left behind, no failure noted; and with the right it works."""
    made, act, what = WAYS[way]
    scene = made(tmp_path)
    scene.asked.clear()
    right = Asked(refused=("begin", "again", "repair"))
    result = act(with_right(scene, right))
    assert result.error is not None
    assert (result.error.kind, right.asked) == (BRAKED, [what])
    assert "KeySet" not in scene.asked
    record = scene.record()
    assert record is None or (record.claim, record.failed) == (None, None)
    result = act(with_right(scene, Asked()))
    assert result.error is None, result.error
    assert scene.works() == USER


def test_a_lost_answer_takes_the_right_anew(tmp_path: Path) -> None:
    """Refused: the run fails, the rotation stays open, and what was lost is what the record tells."""
    scene = due(tmp_path)
    right = Asked(refused=("again",))
    process = with_right(scene, right, lambda call: "fail" if call == "ecgrid KeySet" else "go")
    result = process.tick()
    assert result.error is not None
    assert (result.error.kind, right.came) == (BRAKED, ["lost"])
    record = scene.stored().record
    assert record.underway is not None
    assert record.failed is not None
    assert (record.underway.sent, record.claim, record.failed.kind) == (
        1,
        None,
        "ecgrid.AnswerLost",
    )
    assert scene.rotator().tick().outcome == "failed"  # its back-off is not over
    scene.pass_time(seconds=31)
    assert scene.rotator().tick().outcome == "rotated"


@pytest.mark.parametrize("act", [Process.tick, Process.rotate])
def test_at_most_three_more_keys_are_asked_for_in_one_run(
    tmp_path: Path, act: Callable[[Process], Result]
) -> None:
    """Also on demand; none of them counts for the limit of the day, since looking finds that none was made."""
    scene = due(tmp_path)
    away = [True]

    def gate(call: str) -> str:
        return "fail" if away[0] and call == "ecgrid KeySet" else "go"

    act(scene.rotator(gate))
    assert scene.asked.count("KeySet") == 4
    for _ in range(12):
        scene.pass_time(minutes=5, seconds=1)
        scene.rotator(gate).tick()
    away[0] = False
    scene.pass_time(minutes=5, seconds=1)
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.stored().record.issued == ()


def test_a_request_that_is_held_back_at_the_last_moment_counts_for_nothing(tmp_path: Path) -> None:
    """It was counted before it is sent, and not sent: another rotator was quicker."""
    scene = interrupted(tmp_path)
    before = scene.stored().record

    class Quicker(Asked):
        """Another one asks in the same moment."""

        def ask(self, what: For, record: Record) -> None:
            """See `Right.ask`."""
            if self.at_hand:
                raise HeldBack("no", kind=BRAKED)
            super().ask(what, record)

    scene.asked.clear()
    result = with_right(scene, right := Quicker()).tick()
    assert result.error is not None
    assert (result.error.kind, right.came, "KeySet" in scene.asked) == (
        BRAKED,
        ["nothing"],
        False,
    )
    record = scene.stored().record
    assert before.underway is not None
    assert record.underway is not None
    assert (record.underway.sent, record.issued) == (before.underway.sent, before.issued)


def test_a_refusal_proves_that_nothing_was_made(tmp_path: Path) -> None:
    """The rotation is over, and the request counts for nothing."""
    scene = due(tmp_path)
    scene.simulator.add_user(5000, auth_level="General")
    right = Asked()
    assert with_right(scene, right).tick().outcome == "failed"
    record = scene.stored().record
    assert (record.underway, record.issued, right.came) == (None, (), ["nothing"])


def test_nothing_is_issued_for_drift_when_the_witness_is_refused_too(tmp_path: Path) -> None:
    """The drift is written; a key that exists is published all the same."""
    scene = drifted(tmp_path)
    scene.asked.clear()
    result = with_right(scene, Asked(other=Secret("x" * 20))).repair()
    assert result.error is not None
    assert (result.error.kind, "KeySet" in scene.asked) == (MASS_DRIFT, False)
    record = scene.stored().record
    assert record.drifted is not None
    assert (record.underway, record.claim) == (None, None)
    scene.simulator.add_key(USER)
    scene.pass_time(minutes=1)
    assert with_right(scene, Asked(other=Secret("x" * 20))).repair().outcome == "repaired"
    assert (scene.works(), scene.stored().record.drifted) == (USER, None)


def test_nothing_is_issued_for_drift_that_is_over_when_the_witness_is_accepted(
    tmp_path: Path,
) -> None:
    """ECGrid refused every key, and stops doing so just before the witness is asked."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.switch(read_back="masked", list_shows="masked")
    scene.pass_time(hours=1)
    scene.asked.clear()
    probes: list[str] = []

    def gate(call: str) -> str:
        if call == "ecgrid GetMe":
            probes.append(call)
            if len(probes) <= 3:  # the look, the second look, and the repair itself
                raise Refused("refused", kind="ecgrid.InvalidAPIKey")
        return "go"

    result = with_right(scene, Asked(other=Secret(scene.admin.value)), gate).repair()
    assert result.error is not None
    assert (result.error.kind, "KeySet" in scene.asked) == (MASS_DRIFT, False)
    scene.pass_time(minutes=1)
    assert scene.rotator().repair().outcome == "unchanged"
    assert (scene.works(), scene.stored().record.drifted) == (USER, None)


def test_a_drift_is_believed_after_a_second_look(tmp_path: Path) -> None:
    """ECGrid refused the key for a moment: nothing happens, and nothing is written but that it was checked."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.pass_time(hours=1)
    refusals = ["once"]

    def gate(call: str) -> str:
        if call == "ecgrid GetMe" and refusals:
            refusals.clear()
            raise Refused("refused", kind="ecgrid.InvalidAPIKey")
        return "go"

    before = scene.time.seconds
    assert scene.rotator(gate).repair().outcome == "unchanged"
    record = scene.stored().record
    assert (record.drifted, scene.issued(), refusals) == (None, 0, [])
    assert scene.time.seconds - before >= 12
    assert record.checked_at is not None
