"""Two rotators over one world, switched at every call: whatever the order and the faults, it converges to one key.

Every run draws other schedules. `ROTATOR_TEST_SEED` replays them: the summary at the end names it, and the message of
a failure the very seed that failed; with that one the first schedule of each kind is the one that failed.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import SEED
from interleave import CALM, Chances, Interleaving, quiet_end
from worlds import POLICY, Process, Scene

from rotator.rotation import Order, tend
from rotator.sandbox.ecgrid import Switches

# Of all kinds together; `make test-crash-sample` and `make test-crash` ask for more.
RUNS = int(os.environ.get("ROTATOR_TEST_INTERLEAVINGS", "1000"))
KINDS = {
    "calm": CALM,
    "lost answers": Chances(fail=2, lose=4),
    "crashes": Chances(end=2),
    "frozen": Chances(freeze=4),
    "late requests": Chances(late=40),
    "everything": Chances(fail=1.5, lose=2, end=1, freeze=2, lag=3),
}


def rotate(process: Process) -> Any:
    """On demand."""
    return process.rotate()


def tick(process: Process) -> Any:
    """By schedule."""
    return process.tick()


def repair(process: Process) -> Any:
    """The drift check."""
    return process.repair()


PAIRS: dict[str, list[Callable[[Process], Any]]] = {
    "tick-tick": [tick, tick],
    "tick-rotate": [tick, rotate],
    "rotate-repair": [rotate, repair],
}


def leaked(process: Process) -> Any:
    """On demand, with `--grace 0s`."""
    return process.rotate(retire_now=True)


@dataclass(frozen=True)
class Setting:
    """An account, a policy, and whether the policy was adopted a month ago, so that it is due."""

    policy: str = POLICY
    known: bool = True
    switches: dict[str, Any] = field(default_factory=dict)
    form: Switches = field(default_factory=Switches)  # ECGrid as it is from the beginning


ALTERNATING = POLICY.replace("user_id: 5001", "users: [5001, 5002]")
GENERATING, SERVICE = "issue: generate\n", Switches.service()
SETTINGS = {
    "adds": Setting(switches={"keyset": "add"}),
    "replaces": Setting(switches={"keyset": "replace"}),
    "updates in place": Setting(switches={"keyset": "update"}),
    "first sight": Setting(known=False),
    "first rotates": Setting(
        POLICY + "first: rotate\n", known=False, switches={"keyset": "replace"}
    ),
    "alternates": Setting(ALTERNATING, switches={"keyset": "replace"}),
    "generates": Setting(POLICY + "issue: generate\n"),
    "shows masks": Setting(
        switches={"read_back": "masked", "list_shows": "masked", "keyset": "replace"}
    ),
    "shows to owners": Setting(switches={"private_read": "owner-403"}),
    "two destinations": Setting(POLICY + "also: [{path: dr/edi}]\n"),
    "service": Setting(POLICY + GENERATING, form=SERVICE),
    "service, first sight": Setting(POLICY + GENERATING, known=False, form=SERVICE),
    "service, alternates": Setting(ALTERNATING + GENERATING, form=SERVICE),
    "service, shows masks": Setting(
        POLICY + GENERATING, switches={"api_key_shows": "masked"}, form=SERVICE
    ),
}
PAIRS["leaked-tick"] = [leaked, tick]


def scene_of(tmp_path: Path, seed: int, setting: Setting) -> Scene:
    """The scene before anybody acts."""
    random.seed(seed)  # of the pauses
    scene = Scene(tmp_path, setting.policy, seed=seed, **setting.form.to_json())
    if setting.known:
        scene.rotator().tick()
        scene.pass_time(days=31)
    scene.simulator.switch(**setting.switches)
    return scene


# Every schedule that ever failed.
FAILED = [
    ("everything", "rotate-repair", "adds", 9),
    ("everything", "rotate-repair", "first sight", 821089),
]


def wrongs_of(tmp_path: Path, kind: str, pair: str, setting: str, seed: int) -> list[str]:
    """What is not as it must be after one schedule; with what happened, if there is anything."""
    scene = scene_of(tmp_path, seed, SETTINGS[setting])
    done = Interleaving(scene, PAIRS[pair], seed, KINDS[kind]).run()
    wrongs = done.wrongs + done.faults() + quiet_end(scene)
    told = [str(actor.result) for actor in done.actors]
    return [*wrongs, *told, *done.trace] if wrongs else []


@pytest.mark.sampled(60)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_random_schedules_converge(tmp_path: Path, kind: str, pair: str, setting: str) -> None:
    """The seed of a failure is in its message, and replays it."""
    for number in range(-(-RUNS // (len(SETTINGS) * len(PAIRS) * len(KINDS)))):
        seed = SEED + number
        wrongs = wrongs_of(tmp_path, kind, pair, setting, seed)
        assert not wrongs, (kind, pair, setting, seed, wrongs)


@pytest.mark.parametrize(("kind", "pair", "setting", "seed"), FAILED)
def test_schedules_that_failed_once_converge(
    tmp_path: Path, kind: str, pair: str, setting: str, seed: int
) -> None:
    """They are drawn no more; this keeps them."""
    assert wrongs_of(tmp_path, kind, pair, setting, seed) == []


def roll_back(process: Process) -> Any:
    """To the key before."""
    return tend(process.run(Order("rollback", reason="again", named=True)))


BACK: dict[str, list[Callable[[Process], Any]]] = {
    "rollback-rotate": [roll_back, rotate],
    "rollback-tick": [roll_back, tick],
    "rollback-repair": [roll_back, repair],
    "rollback-rollback": [roll_back, roll_back],
    "rollback-leaked": [roll_back, leaked],
}
WITH_A_KEY_BEFORE = ("adds", "alternates", "two destinations", "shows masks", "service, alternates")


@pytest.mark.sampled(40)
@pytest.mark.parametrize("due", [False, True])
@pytest.mark.parametrize("setting", WITH_A_KEY_BEFORE)
@pytest.mark.parametrize("pair", BACK)
@pytest.mark.parametrize("kind", KINDS)
def test_random_schedules_with_a_rollback_converge(
    tmp_path: Path, kind: str, pair: str, setting: str, due: bool
) -> None:
    """The key before is alive, or its grace is over and it is being retired at that moment."""
    chosen = SETTINGS[setting]
    masked = {name: how for name, how in chosen.switches.items() if name != "keyset"}
    for number in range(-(-RUNS // (10 * len(WITH_A_KEY_BEFORE) * len(BACK) * len(KINDS)))):
        seed = SEED + number
        scene = scene_of(tmp_path, seed, Setting(chosen.policy, True, masked, chosen.form))
        assert scene.rotator().rotate().outcome == "rotated"
        scene.pass_time(hours=13 if due else 1)
        done = Interleaving(scene, BACK[pair], seed, KINDS[kind]).run()
        wrongs = done.wrongs + done.faults() + quiet_end(scene, forward=False)
        told = [str(actor.result) for actor in done.actors]
        assert not wrongs, (kind, pair, setting, due, seed, wrongs, told, done.trace)


DEPTH = int(os.environ.get("ROTATOR_TEST_DEPTH", "7"))  # `make test-crash` goes deeper


@pytest.mark.sampled(2)
@pytest.mark.parametrize("setting", ["adds", "replaces", "first sight"])
@pytest.mark.parametrize("pair", ["tick-tick", "tick-rotate"])
@pytest.mark.parametrize("first", [0, 6, 12, 18])
def test_all_schedules_to_a_depth_converge(
    tmp_path: Path, setting: str, pair: str, first: int
) -> None:
    """Every choice of who is next, at each of DEPTH calls from the `first` on; before and after, in turn."""
    for choices in itertools.product((0, 1), repeat=DEPTH):
        asked = itertools.count()

        def choose(
            _count: int, chosen: tuple[int, ...] = choices, asked: Iterator[int] = asked
        ) -> int:
            number = next(asked) - first
            return chosen[number] if 0 <= number < DEPTH else number % 2

        scene = scene_of(tmp_path, 1, SETTINGS[setting])
        done = Interleaving(scene, PAIRS[pair], 1, CALM, choose).run()
        wrongs = done.wrongs + done.faults() + quiet_end(scene)
        assert not wrongs, (pair, setting, first, choices, wrongs, done.trace)
