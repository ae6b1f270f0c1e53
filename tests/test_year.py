"""A year of ticks of which four in ten never happen: what was missed is caught up once, and nothing is doubled."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from worlds import POLICY, USER, Scene

SLOT = timedelta(hours=6)
YEAR = timedelta(days=365)


def test_each_sunday_is_met_once_however_many_ticks_are_lost(tmp_path: Path) -> None:
    """By the first tick that happens after three in the morning; 52 keys, one for each."""
    scene = Scene(tmp_path, POLICY.replace("{every: 30d}", '{cron: "0 3 * * SUN"}'))
    scene.rotator().tick()
    sundays = [day for day in days(scene.vault.now()) if day.isoweekday() == 7]
    kept = ticks(scene, seed=1)
    rotated = [at for at in kept if tick_at(scene, at)]
    assert rotated == [min(at for at in kept if at >= sunday) for sunday in sundays]
    assert (scene.works(), scene.issued()) == (USER, len(sundays))
    assert len(sundays) == 52


def test_no_key_grows_older_than_its_period_and_the_ticks_that_were_lost(tmp_path: Path) -> None:
    """The next due time counts from the rotation that caught up."""
    scene = Scene(tmp_path, POLICY.replace("30d", "10d"))
    scene.rotator().tick()
    last = scene.vault.now()
    kept = ticks(scene, seed=1)
    rotations = 0
    for at in kept:
        if tick_at(scene, at):
            expected = next(one for one in kept if one >= last + timedelta(days=10))
            assert at == expected
            last, rotations = at, rotations + 1
    assert rotations == scene.issued() >= 34
    assert len(scene.live()) <= 2


def days(start: datetime) -> list[datetime]:
    """Three in the morning of every day of the year that begins then, without the first."""
    first = datetime(start.year, start.month, start.day, 3, tzinfo=UTC)
    return [day for n in range(366) if start < (day := first + timedelta(days=n)) <= start + YEAR]


def ticks(scene: Scene, seed: int) -> list[datetime]:
    """The ticks of a year that happen, each a few seconds late; and one at its end."""
    draw, start = random.Random(seed), scene.vault.now()
    late = timedelta(seconds=7)
    slots = [start + SLOT * number + late for number in range(1, int(YEAR / SLOT) + 1)]
    return [at for at in slots[:-1] if draw.random() >= 0.4] + [slots[-1]]


def tick_at(scene: Scene, at: datetime) -> bool:
    """Whether the tick at that time rotates."""
    scene.pass_time(seconds=(at - scene.vault.now()).total_seconds())
    outcome = scene.rotator().tick().outcome
    assert outcome in ("rotated", "retired", "not-due")
    return outcome == "rotated"
