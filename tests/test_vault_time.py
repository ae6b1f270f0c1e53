"""Vault's own clock is set, ten years ahead and back: what time it is then, and what becomes of the policies."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from memory import MemoryKV, Store, Time
from test_forged import Forge
from worlds import USER, Process, Scene

from rotator.due import due_since
from rotator.fleet.voice import CLOCK_SKEW
from rotator.journal import Claim, Failed, Record
from rotator.vault import At, Document, Vault
from rotator.vault.ahead import as_of
from rotator.vault.clock import ServerClock

START = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)
DECADE, MINUTE, SECOND = timedelta(days=3653), timedelta(minutes=1), timedelta(seconds=1)
RIGHT = timedelta(0)


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

    def hear(self, ahead: timedelta = RIGHT, after: float = 10.0, took: float = 0.0) -> datetime:
        """Vault answers, so much later, with a clock that is so much ahead; what time it is then."""
        self.boot += after
        told = (self.wall + ahead - timedelta(seconds=took)).replace(microsecond=0)
        self.clock.saw(format_datetime(told, usegmt=True), took)
        return self.clock.now()

    def ask(self, *ahead: timedelta) -> timedelta:
        """`sys/health` is asked, and answers so; how far ahead the time is then."""
        self.clock.heard([(self.wall + by).timestamp() for by in ahead])
        return self.ahead

    @property
    def ahead(self) -> timedelta:
        """How far what counts as Vault's time is ahead of the right one."""
        return self.clock.now() - self.wall


# What answers and `sys/health` tell, as minutes ahead; how far ahead the time is then, and whether that is in doubt.
# `None`: it cannot be had.
TOLD: dict[str, tuple[list[float], list[float] | None, float, bool]] = {
    "right": ([0], [0], 0, False),
    "first, 4 minutes": ([4], [0], 4, False),
    "first, 6 minutes, confirmed": ([6], [6, 6, 6], 6, False),
    "first, 6 minutes, denied": ([6], [0, 0, 0], 0, False),
    "first, 6 minutes, unasked": ([6], None, 0, True),
    "first, a day behind, confirmed": ([-1440], [-1440], -1440, False),
    "first, a day behind, denied": ([-1440], [0], 0, False),
    "later, half a minute": ([0, 0.5], None, 0, False),
    "leap, confirmed": ([0, 90], [90, 90], 90, False),
    "leap, denied": ([0, 90], [0], 0, False),
    "leap, a third time": ([0, 90], [45], 0, True),
    "leap, nodes disagree": ([0, 90], [90, 0, 90], 0, False),
    "leap, a node that is right": ([0, 90, 0], None, 0, False),
    "leap back, confirmed": ([0, -90], [-90, -90], -90, False),
    "leap back, nodes disagree": ([0, -90], [0, -90, 0], -90, False),
    "leap back, denied": ([0, -90], [0, 0, 0], 0, False),
    "leap back, another node answers": ([0, -90, 0], None, 0, True),
    "leap, three answers, soon": ([0, 90, 90, 90], None, 0, True),
    "leap, three answers, over a minute": ([0, *[90] * 8], None, 90, False),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLD)
def test_what_the_answers_tell_is_the_time_that_they_agree_on(case: str) -> None:
    """Ten seconds between two of them. The earlier time counts where they do not, and a leap once it is confirmed."""
    told, health, ahead, in_doubt = TOLD[case]
    machine = Machine()
    for by in told:
        machine.hear(MINUTE * by)
    machine.ask(*[MINUTE * by for by in health or []])
    assert abs(machine.ahead - MINUTE * ahead) <= SECOND
    assert machine.clock.in_doubt is in_doubt


def test_time_goes_on_at_the_pace_of_the_machine_and_stands_still_rather_than_run_back() -> None:
    """A node that is half a minute behind is waited for."""
    machine = Machine()
    told = [machine.hear(by) for by in (RIGHT, -MINUTE / 2, RIGHT, -MINUTE / 2)]
    assert told == sorted(told)
    machine.hear(-MINUTE / 2, after=60.0)
    assert machine.ahead == -MINUTE / 2


def test_a_node_that_is_ahead_counts_once_no_other_answers_any_more() -> None:
    """Ten minutes later: then it was a clock that was set a little."""
    machine = Machine()
    machine.hear()
    for _ in range(59):
        assert abs(machine.hear(MINUTE / 2) - machine.wall) <= SECOND
    machine.hear(MINUTE / 2, after=30.0)
    assert machine.ahead == MINUTE / 2


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


def test_an_answer_that_took_long_tells_of_the_time_when_it_was_on_its_way() -> None:
    """It is no other clock."""
    machine = Machine()
    machine.hear()
    machine.hear(took=14.0)
    assert abs(machine.ahead) <= SECOND


@pytest.mark.parametrize("date", [None, "", "soon", "Mon, 99 Foo 2026 10:00:00 GMT", "9" * 400])
def test_what_is_no_date_tells_no_time(date: str | None) -> None:
    """And breaks nothing."""
    machine = Machine()
    machine.clock.saw(date)
    assert (machine.ahead, machine.clock.in_doubt) == (RIGHT, False)


def test_a_leap_is_a_difference_that_is_reported_also_while_it_is_in_doubt() -> None:
    """Against the local clock."""
    machine = Machine()
    machine.hear()
    machine.hear(DECADE)
    assert machine.clock.in_doubt
    assert machine.clock.skew() > CLOCK_SKEW
    machine.ask(DECADE)
    assert (machine.clock.in_doubt, machine.clock.leaps) == (False, 1)
    assert machine.clock.skew() > CLOCK_SKEW


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

    def sure_of_time(self) -> None:
        """Vault confirms whatever its answers tell."""
        self.clock.heard([(self.time.now() + self.ahead).timestamp()])


def telling(scene: Scene, ahead: timedelta = timedelta(0)) -> tuple[Process, Told]:
    """A process that goes by such a clock."""
    process, kv = scene.rotator(), Told(scene.store, scene.time)
    kv.ahead = ahead
    process.world = dataclasses.replace(
        process.world, vault=Vault(kv, "secret", "rotator"), hold=kv.sure_of_time
    )
    return process, kv


def next_due(scene: Scene) -> datetime:
    """When the policy is due next."""
    due = due_since(scene.policy, scene.stored().record)
    assert due is not None
    return due


def test_a_leap_that_vault_confirms_rotates_once_there_and_not_at_all_on_the_way_back(
    tmp_path: Path,
) -> None:
    """Ten years ahead, then the right time again: one key, nothing retired, and the next one is due in a month."""
    scene = Scene(tmp_path)
    process, kv = telling(scene)
    assert process.tick().outcome == "adopted"
    outcomes = []
    for ahead in [DECADE] * 3 + [RIGHT] * 10:
        scene.pass_time(minutes=1)
        kv.ahead = ahead
        kv.read(At("secret", "any"))
        kv.sure_of_time()
        outcomes.append(process.tick().outcome)
    assert outcomes == ["rotated"] + ["not-due"] * 12
    assert process.repair().outcome == "unchanged"
    assert next_due(scene) - scene.vault.now() <= timedelta(days=30)
    assert (scene.works(), scene.issued()) == (USER, 1)
    assert scene.first.key_id in scene.live()
    assert scene.stored().record.claim is None


def test_a_rotate_after_the_clock_was_set_back_issues_a_key(tmp_path: Path) -> None:
    """A key whose issue the record dates ten years ahead was not issued after the command began."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    process, kv = telling(scene, DECADE)
    kv.read(At("secret", "any"))
    kv.sure_of_time()
    assert process.tick().outcome == "rotated"
    scene.pass_time(hours=1)
    result = scene.rotator().rotate(retire_now=True)
    assert (result.outcome, result.bad, scene.issued()) == ("rotated", False, 2)
    assert next_due(scene) - scene.vault.now() <= timedelta(days=30)
    assert len(scene.live()) == 1


# times in a record that are ahead


def test_times_that_are_ahead_count_as_now(tmp_path: Path) -> None:
    """What has happened did so now at the latest; what was counted from such a time comes as much sooner."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    now, record = scene.vault.now(), scene.stored().record
    month = timedelta(days=40)
    (debt,) = record.retiring
    wrong = _later(record, month)
    right, ahead = as_of(wrong, now, timedelta(minutes=3))
    assert ahead == month
    assert right.rotated_at == now
    assert right.retiring == (debt,)
    assert right.current is not None
    assert right.current.published_at == now
    assert as_of(record, now, timedelta(minutes=3)) == (record, timedelta(0))


def _later(record: Record, by: timedelta) -> Record:
    current, rotated_at = record.current, record.rotated_at
    assert current is not None
    assert rotated_at is not None
    assert current.began is not None
    times = {"published_at": current.published_at + by, "began": current.began + by}
    debts = [debt.model_copy(update={"due_at": debt.due_at + by}) for debt in record.retiring]
    past = [one.model_copy(update={"at": one.at + by}) for one in record.history]
    return record.change(
        current=current.model_copy(update=times),
        rotated_at=rotated_at + by,
        retiring=tuple(debts),
        history=tuple(past),
    )


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(days=40)])
def test_a_claim_that_outlives_every_claim_holds_nobody_up(
    tmp_path: Path, ahead: timedelta
) -> None:
    """It was dated while a clock was wrong. That is said, and the policy goes on."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    stored, now = scene.stored(), scene.vault.now()
    claim = Claim(holder="somebody", by="elsewhere:1", until=now + ahead)
    scene.vault.save(stored.record.change(claim=claim), stored.version)
    result = scene.rotator().rotate()
    assert result.outcome == "rotated"
    assert any("ahead of Vault" in text for text in result.warnings)


def test_a_back_off_of_years_is_none(tmp_path: Path) -> None:
    """No back-off is longer than an hour."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.pass_time(days=30, minutes=1)
    stored, now = scene.stored(), scene.vault.now()
    failed = Failed(
        at=now, phase="claim", kind="vault.Busy", message="m", attempts=1, retry_at=now + DECADE,
        digest=scene.policy.digest,
    )  # fmt: skip
    scene.vault.save(stored.record.change(failed=failed), stored.version)
    assert scene.rotator().tick().outcome == "rotated"


def test_a_key_issued_while_the_clock_was_ahead_is_still_known_as_ones_own(tmp_path: Path) -> None:
    """The process died after issuing; its record is dated 40 days ahead, ECGrid's key is not."""
    forge = Forge(tmp_path)
    forge.open(began=forge.scene.vault.now() + timedelta(days=40))
    forge.issue()
    forge.scene.pass_time(days=1)
    assert forge.tick().outcome == "rotated"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 1)
