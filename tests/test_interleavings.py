"""Two rotators over one world, switched at every call: whatever the order and the faults, it converges to one key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interleave import CALM, Chances, Interleaving, quiet_end
from worlds import Process, Scene

RUNS = int(
    os.environ.get("ROTATOR_TEST_INTERLEAVINGS", "400")
)  # of each kind; `make test-crash` asks for more
KINDS = {
    "calm": CALM,
    "lost answers": Chances(fail=2, lose=4),
    "crashes": Chances(end=2),
    "frozen": Chances(freeze=4),
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


def scene_of(tmp_path: Path, seed: int, keyset: str) -> Scene:
    """A policy that was adopted a month ago and is due."""
    scene = Scene(tmp_path, seed=seed, keyset=keyset)
    scene.rotator().tick()
    scene.pass_time(days=31)
    return scene


@pytest.mark.parametrize("keyset", ["add", "replace", "update"])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_random_schedules_converge(tmp_path: Path, kind: str, pair: str, keyset: str) -> None:
    """The seed of a failure is in its message, and replays it."""
    runs = max(1, RUNS // 45)
    for seed in range(runs):
        scene = scene_of(tmp_path, seed, keyset)
        done = Interleaving(scene, PAIRS[pair], seed, KINDS[kind]).run()
        wrongs = done.wrongs + quiet_end(scene)
        wrongs += [f"{actor.name}: {actor.error!r}" for actor in done.actors if actor.error]
        told = [str(actor.result) for actor in done.actors]
        assert not wrongs, (kind, pair, keyset, seed, wrongs, told, done.trace)
