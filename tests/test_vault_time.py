"""Vault's own clock is set, ten years ahead and back: what time it is then, and what becomes of the policies."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from memory import MemoryKV, Store, Time
from worlds import USER, Process, Scene

from rotator.fleet import CLOCK_SKEW
from rotator.rotation.due import due_since
from rotator.vault import At, Document, Vault
from rotator.vault.clock import ServerClock

START = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)
DECADE, SECOND = timedelta(days=3653), timedelta(seconds=1)


class Machine:
    """A machine whose own clock is right, and what it makes of Vault's answers."""

    def __init__(self) -> None:
        self.boot = 1000.0
        self.clock = ServerClock(lambda: self.boot, self._wall)

    def _wall(self) -> float:
        return self.wall.timestamp()

    @property
    def wall(self) -> datetime:
        """The right time."""
        return START + timedelta(seconds=self.boot - 1000.0)

    def hear(self, ahead: timedelta = timedelta(0), after: float = 10.0) -> datetime:
        """Vault answers, so much later, with a clock that is so much ahead; what time it is then."""
        self.boot += after
        self.clock.saw(format_datetime((self.wall + ahead).replace(microsecond=0), usegmt=True))
        return self.clock.now()


def test_a_clock_that_was_set_counts_from_the_next_answer_on() -> None:
    """It goes on from there at the pace of the machine's own."""
    machine = Machine()
    assert machine.hear() == machine.wall
    assert machine.hear(DECADE) == machine.wall + DECADE
    machine.boot += 60.0
    assert machine.clock.now() == machine.wall + DECADE
    assert machine.clock.skew() == DECADE.total_seconds()


def test_time_never_runs_backwards_though_the_clock_was_set_back() -> None:
    """It stands still until it is reached again."""
    machine = Machine()
    told = [machine.hear(by) for by in (timedelta(0), timedelta(hours=1), *[timedelta(0)] * 10)]
    assert told == sorted(told)
    assert told[-1] == told[1]
    assert machine.hear(after=3600.0) == machine.wall


@pytest.mark.parametrize("cut", [0.0, 0.4, 0.9])
def test_whole_seconds_are_lower_bounds_of_which_the_highest_counts(cut: float) -> None:
    """A difference of less than two seconds is no clock that was set."""
    machine = Machine()
    machine.boot += cut
    times = [machine.hear(after=7.3) for _ in range(20)]
    assert times == sorted(times)
    assert machine.wall - SECOND <= machine.clock.now() <= machine.wall
    before = machine.clock.now()
    assert machine.hear(-SECOND, after=1.0) == before + SECOND


def test_a_time_that_stands_still_is_a_difference_that_is_reported() -> None:
    """What counts for due times is years ahead of everybody's clock, Vault's by then included."""
    machine = Machine()
    for by in (timedelta(0), DECADE, timedelta(0)):
        machine.hear(by)
    assert machine.clock.now() > machine.wall + DECADE - timedelta(minutes=1)
    assert abs(machine.clock.skew()) > CLOCK_SKEW


class Told(MemoryKV):
    """A connection that learns the time from answers, as a real one does."""

    def __init__(self, store: Store, time: Time) -> None:
        super().__init__(store, time)
        self.ahead = timedelta(0)
        self.clock = ServerClock(time.boot, lambda: time.now().timestamp())

    def now(self) -> datetime:
        """The time that this process goes by."""
        return self.clock.now().replace(microsecond=0)

    def read(self, at: At, version: int | None = None) -> Document | None:
        """Every answer tells Vault's time."""
        at_server = (self.time.now() + self.ahead).replace(microsecond=0)
        self.clock.saw(format_datetime(at_server, usegmt=True))
        return super().read(at, version)


def telling(scene: Scene, ahead: timedelta = timedelta(0)) -> tuple[Process, Told]:
    """A process that goes by such a clock."""
    process, kv = scene.rotator(), Told(scene.store, scene.time)
    kv.ahead = ahead
    process.world = dataclasses.replace(process.world, vault=Vault(kv, "secret", "rotator"))
    return process, kv


def next_due(scene: Scene) -> datetime:
    """When the policy is due next."""
    due = due_since(scene.policy, scene.stored().record)
    assert due is not None
    return due


def test_in_one_process_a_jump_rotates_once_and_due_times_never_run_backwards(
    tmp_path: Path,
) -> None:
    """Three ticks ten years ahead, then the right time again: one key, nothing retired, and the key shown works."""
    scene = Scene(tmp_path)
    process, kv = telling(scene)
    assert process.tick().outcome == "adopted"
    due, outcomes = [next_due(scene)], []
    for ahead in [DECADE] * 3 + [timedelta(0)] * 40:
        scene.pass_time(minutes=1)
        kv.ahead = ahead
        outcomes.append(process.tick().outcome)
        due.append(next_due(scene))
    assert outcomes == ["rotated"] + ["not-due"] * 42
    assert due == sorted(due)
    assert (scene.works(), scene.issued()) == (USER, 1)
    assert scene.first.key_id in scene.live()
    assert scene.stored().record.claim is None


def test_a_rotate_after_the_clock_was_set_back_issues_a_key(tmp_path: Path) -> None:
    """A key whose issue the record dates ten years ahead was not issued after the command began."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    assert telling(scene, DECADE)[0].tick().outcome == "rotated"
    scene.pass_time(hours=1)
    result = scene.rotator().rotate(retire_now=True)
    assert (result.outcome, result.bad, scene.issued()) == ("rotated", False, 2)
    assert next_due(scene) - scene.vault.now() <= timedelta(days=30)
    assert len(scene.live()) == 1
