"""The due index: what it hides, what it must never hide, and what an idle tick costs."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Rotator, VaultServer
from hypothesis import given
from hypothesis import strategies as st
from memory import MemoryKV, Store, Time
from worlds import POLICY, Scene, policy_from

from rotator.due import at_a_tick
from rotator.fleet.reports import Reports
from rotator.fleet.rounds import Agenda, Ended, Rounds
from rotator.fleet.survey import Checking, quiet_until
from rotator.journal import Claim, Debt, Held, Place, Record, Underway
from rotator.keys import Issue, Visibility
from rotator.policy import Policy
from rotator.settings import Settings
from rotator.vault import Stored, Vault
from rotator.vault.index import GUARD, DueIndex, Entry, Look

START = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)
TTL = timedelta(minutes=3)
NEVER_CHECKED = Settings.load({"ROTATOR_CHECK_EVERY": "0"}, Path("/nonexistent"))


class Party:
    """One process: its connection, its index, and how it looks round."""

    def __init__(self, store: Store, time: Time, name: str, settings: Settings) -> None:
        self.calls: Counter[str] = Counter()
        kv = MemoryKV(store, time, self._count)
        self.vault = Vault(kv, "secret", "rotator")
        self.index = DueIndex(self.vault, name, TTL)
        reports = Reports(settings, serving=False)
        self.rounds = Rounds(
            settings, self.vault, self.index, time.boot, reports, is_ours=lambda _mark: True
        )

    def _count(self, call: str) -> str:
        self.calls[" ".join(call.split("/")[:2])] += 1
        return "go"

    def look(self, *policies: Policy) -> Agenda:
        """One look round."""
        return self.rounds.look(list(policies), len(policies))

    def work(self, *policies: Policy) -> set[str]:
        """The policies that it finds work for."""
        return {task.policy.name for task in self.look(*policies).tasks}


def adopted(scene: Scene) -> Party:
    """A scene whose policy is adopted, and a process that has looked once, so that the index knows."""
    assert scene.rotator().tick().outcome == "adopted"
    party = Party(scene.store, scene.time, "one", NEVER_CHECKED)
    assert party.work(scene.policy) == set()
    party.calls.clear()
    return party


@pytest.mark.full
def test_an_idle_tick_over_ten_thousand_policies_asks_vault_200_times_at_most(
    tmp_path: Path,
) -> None:
    """Sixty-four documents, and no record. The first tick, and one after the index was lost, read every record once."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    record = scene.stored().record
    policies = [dataclasses.replace(scene.policy, name=f"policy-{n}") for n in range(10_000)]
    for policy in policies:
        scene.vault.save(record.change(policy=policy.name), 0)
    party = Party(scene.store, scene.time, "one", NEVER_CHECKED)
    for _ in range(2):
        party.calls.clear()
        assert party.work(*policies) == set()
        assert party.calls["vault read rotator record"] == 10_000
        assert party.calls["vault write rotator index"] == 64
        party.calls.clear()
        found = party.look(*policies)
        assert (len(found.results), found.tasks) == (10_000, [])
        assert party.calls.total() <= 200
        assert party.calls == {"vault read rotator index": 64}
        for at in [at for at in scene.store.paths if "/index/" in at.path]:
            del scene.store.paths[at]
            party.vault.kv.forget(at)


def test_a_due_policy_is_found_at_its_time_and_not_before(tmp_path: Path) -> None:
    """By a process that has never read its record."""
    scene = Scene(tmp_path)
    adopted(scene)
    other = Party(scene.store, scene.time, "other", NEVER_CHECKED)
    assert (other.work(scene.policy), other.calls["vault read rotator record"]) == (set(), 0)
    scene.pass_time(days=30, hours=11)
    assert other.work(scene.policy) == {"edi"}


def looked_until_due(scene: Scene, party: Party) -> None:
    """A look every five minutes until the rotation has come due, as a rotator has it that is always there."""
    scene.pass_time(days=29, hours=23)
    for _ in range(300):
        party.calls.clear()
        if party.work(scene.policy):
            return
        scene.pass_time(minutes=5)
    raise AssertionError("the policy has not come due within a day")


def test_a_policy_that_comes_due_is_read_by_the_run_that_begins_alone(tmp_path: Path) -> None:
    """What the index has told of it says enough to give it a place; later looks find it there as well."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    looked_until_due(scene, party)
    assert party.calls == {"vault read rotator index": 1}
    other = Party(scene.store, scene.time, "other", NEVER_CHECKED)
    (task,) = other.look(scene.policy).tasks
    assert other.calls["vault read rotator record"] == 0
    other.index.lower("edi")
    (by_record,) = other.look(scene.policy).tasks
    assert other.calls["vault read rotator record"] == 1
    assert (task.order, task.urgency, task.issues, task.overdue, task.stuck) == (
        by_record.order,
        by_record.urgency,
        by_record.issues,
        by_record.overdue,
        by_record.stuck,
    )
    assert task.issues


def test_what_is_due_and_not_begun_is_read_within_the_hour_all_the_same(tmp_path: Path) -> None:
    """Its record may have been deleted while something held it back."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    looked_until_due(scene, party)
    del scene.store.paths[scene.vault.record_at("edi")]
    party.calls.clear()
    for _ in range(7):
        scene.pass_time(minutes=10)
        party.look(scene.policy)
    assert party.calls["vault read rotator record"] >= 1


@pytest.mark.parametrize("since", ["claimed", "of another ECGrid", "of another policy"])
def test_what_the_index_has_told_of_one_that_is_due_counts_only_while_it_is_true(
    tmp_path: Path, since: str
) -> None:
    """Whoever claims has lowered the entry; a record of another ECGrid, or a policy that was changed, is read."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    looked_until_due(scene, party)
    policy = scene.policy
    if since == "claimed":
        Party(scene.store, scene.time, "other", NEVER_CHECKED).index.hold("edi")
    elif since == "of another ECGrid":
        party.rounds._is_ours = lambda _mark: False
    else:
        policy = policy_from(tmp_path, POLICY.replace("every: 30d", "every: 20d"))
    party.calls.clear()
    party.look(policy)
    assert party.calls["vault read rotator record"] == 1


def test_every_record_is_read_once_an_hour_whatever_the_index_says(tmp_path: Path) -> None:
    """So that one that was deleted or destroyed is noticed; and that is all that an idle hour writes."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    written = len(scene.store.log)
    for _ in range(60):
        scene.pass_time(minutes=2)
        assert party.work(scene.policy) == set()
    assert party.calls["vault read rotator record"] == 2
    assert len(scene.store.log) - written == 2


@pytest.mark.parametrize("how", ["deleted", "destroyed"])
def test_a_record_that_is_gone_is_noticed_within_the_hour(tmp_path: Path, how: str) -> None:
    """By a process that knows nothing but the index."""
    scene = Scene(tmp_path)
    adopted(scene)
    if how == "deleted":
        scene.store.delete(scene.vault.record_at("edi"))
    else:
        del scene.store.paths[scene.vault.record_at("edi")]
    scene.pass_time(hours=1)
    assert Party(scene.store, scene.time, "other", NEVER_CHECKED).work(scene.policy) == {"edi"}


def test_an_entry_of_the_version_before_counts_for_nothing(tmp_path: Path) -> None:
    """It vouched for up to a day."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    at = scene.vault.index_at("edi")
    document = scene.store.read(at, None)
    assert document is not None
    entries = json.loads(document.data["policies"])
    entries["edi"]["quiet_until"] = (scene.time.now() + timedelta(hours=20)).isoformat()
    scene.store.write(at, {"policies": json.dumps(entries)}, document.version)
    assert party.work(scene.policy) == set()
    assert party.calls["vault read rotator record"] == 1


def test_whoever_meets_a_record_that_was_set_back_lowers_its_entry(tmp_path: Path) -> None:
    """Destroyed and written anew, it has a lower version than the entry speaks of."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    record, at = scene.stored().record, scene.vault.record_at("edi")
    del scene.store.paths[at]
    scene.vault.save(record, 0)
    scene.pass_time(hours=1)
    party.vault.kv.forget(at)
    for _ in range(3):
        party.work(scene.policy)
    party.calls.clear()
    assert party.work(scene.policy) == set()
    assert party.calls["vault read rotator record"] == 0


def test_a_deleted_record_is_told_by_every_tick_after_the_command_that_met_it(
    rotator_command: Rotator, vault: VaultServer, mount: str
) -> None:
    """`rotate` fails and lowers the entry."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("run", "--once").code == 0
    assert rotator_command("run", "--once").code == 0
    vault.call("DELETE", f"{mount}/data/rotator/record/edi")
    assert rotator_command("rotate", "edi").code == 1
    done = rotator_command("run", "--once", "--json")
    assert (done.code, done.json["results"][0]["error"]["kind"]) == (1, "vault.Deleted")


def test_a_changed_policy_is_looked_at_at_once(tmp_path: Path) -> None:
    """Its digest is another one."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    scene.pass_time(hours=1)
    changed = policy_from(tmp_path, POLICY.replace("30d", "1h").replace("12h", "0"))
    assert party.work(changed) == {"edi"}


@pytest.mark.parametrize("damage", ["deleted", "nonsense", "old instants", "entries are lists"])
def test_a_damaged_index_says_nothing_and_heals(tmp_path: Path, damage: str) -> None:
    """The record is read, and the next look is cheap again."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    at = scene.vault.index_at("edi")
    latest = scene.store.paths[at].latest
    if damage == "deleted":
        scene.store.delete(at)
    else:
        documents: dict[str, dict[str, object]] = {
            "nonsense": {"policies": 7},
            "old instants": {"policies": '{"edi": {"quiet_until": "soon", "holds": {"x": 3}}}'},
            "entries are lists": {"policies": '{"edi": []}'},
        }
        scene.store.write(at, documents[damage], latest)
    assert party.work(scene.policy) == set()
    assert party.calls["vault read rotator record"] == 1
    party.calls.clear()
    assert party.work(scene.policy) == set()
    assert party.calls["vault read rotator record"] == 0


def test_a_rotation_that_was_interrupted_on_demand_is_found(tmp_path: Path) -> None:
    """It began long before its time, so its run lowered the entry before it claimed."""
    scene = Scene(tmp_path)
    adopted(scene)
    dead = Party(scene.store, scene.time, "dead", NEVER_CHECKED)
    dead.index.hold("edi")
    begin(scene)
    for passed in (0, 60, 600, 86400):
        scene.pass_time(seconds=passed)
        assert Party(scene.store, scene.time, f"after {passed}", NEVER_CHECKED).work(
            scene.policy
        ) == {"edi"}


def begin(scene: Scene) -> None:
    """Claims, as a rotation on demand does."""
    stored, now = scene.stored(), scene.vault.now()
    underway = Underway(
        run="r",
        kind="rotate",
        reason="",
        by="dead",
        user_id=5001,
        visibility=Visibility.PRIVATE,
        issue=Issue.KEYSET,
        baseline=(),
        began=now,
        sent=1,
    )
    claim = Claim(holder="r", by="dead", until=now + TTL)
    scene.vault.save(stored.record.change(underway=underway, claim=claim), stored.version)


HELD_FOR = [timedelta(0), TTL, 2 * TTL + GUARD + timedelta(seconds=2)]


@pytest.mark.parametrize("pause", HELD_FOR, ids=["at once", "within the hold", "after the hold"])
@pytest.mark.parametrize("order", sorted(set(itertools.permutations("RRRDD"))), ids="".join)
def test_no_order_of_reading_and_claiming_hides_an_open_rotation(
    tmp_path: Path, order: tuple[str, ...], pause: timedelta
) -> None:
    """One process reads index, record, and raises; another lowers, claims, and dies; time passes before each raise."""
    scene = Scene(tmp_path)
    adopted(scene)
    scene.pass_time(hours=25)  # the entry has ended, so that there is something to raise
    dead = Party(scene.store, scene.time, "dead", NEVER_CHECKED)
    for one in steps(scene, dead, order, pause):
        one()
    late = Party(scene.store, scene.time, "late", NEVER_CHECKED)
    assert late.work(scene.policy) == {"edi"}


def steps(
    scene: Scene, dead: Party, order: tuple[str, ...], pause: timedelta
) -> list[Callable[[], object]]:
    """The steps of both in that order."""
    reader = Party(scene.store, scene.time, "reader", NEVER_CHECKED)
    looks: list[Look] = []
    records: list[Stored] = []

    def look() -> None:
        looks.append(reader.index.look(["edi"]))

    def read() -> None:
        stored = reader.vault.record("edi")
        assert stored is not None
        records.append(stored)

    def lift() -> None:
        scene.time.pass_by(pause.total_seconds())
        stored, now = records[0], reader.vault.now()
        quiet = quiet_until(scene.policy, stored.record, now)
        if quiet > now:
            entry = Entry(scene.policy.digest, stored.version, quiet, None)
            reader.index.raise_(looks[0], {"edi": entry})

    reading = iter([look, read, lift])
    dying = iter([lambda: dead.index.hold("edi"), lambda: begin(scene)])
    return [next(reading) if who == "R" else next(dying) for who in order]


@pytest.mark.parametrize("pause", HELD_FOR, ids=["at once", "within the hold", "after the hold"])
@pytest.mark.parametrize("order", sorted(set(itertools.permutations("RRRDD"))), ids="".join)
def test_what_a_run_has_left_hides_no_rotation_that_began_since(
    tmp_path: Path, order: tuple[str, ...], pause: timedelta
) -> None:
    """One process ends a run, holds a neighbour in the same document, and settles; another lowers, claims, and dies."""
    scene = Scene(tmp_path)
    adopted(scene)
    ours = Party(scene.store, scene.time, "ours", NEVER_CHECKED)
    dead = Party(scene.store, scene.time, "dead", NEVER_CHECKED)
    at = ours.vault.index_at("edi")
    neighbour = next(f"n{i}" for i in range(10_000) if ours.vault.index_at(f"n{i}") == at)
    ended: list[Ended] = []

    def end() -> None:
        ours.index.hold("edi")
        ended.append(Ended(scene.policy, scene.stored(), scene.vault.now()))

    def hold_neighbour() -> None:
        scene.time.pass_by(pause.total_seconds())
        ours.index.hold(neighbour)

    def settle() -> None:
        scene.time.pass_by(pause.total_seconds())
        ours.rounds.settle(ended)

    working = iter([end, hold_neighbour, settle])
    dying = iter([lambda: dead.index.hold("edi"), lambda: begin(scene)])
    for who in order:
        next(working if who == "R" else dying)()
    late = Party(scene.store, scene.time, "late", NEVER_CHECKED)
    assert late.work(scene.policy) == {"edi"}


def test_what_a_run_has_left_costs_one_request(tmp_path: Path) -> None:
    """It writes over what it knows; the next look round reads no record."""
    scene = Scene(tmp_path)
    adopted(scene)
    party = Party(scene.store, scene.time, "ours", NEVER_CHECKED)
    party.index.hold("edi")
    ended = Ended(scene.policy, scene.stored(), scene.vault.now())
    party.calls.clear()
    party.rounds.settle([ended])
    assert party.calls == {"vault write rotator index": 1}
    scene.pass_time(seconds=1)
    other = Party(scene.store, scene.time, "other", NEVER_CHECKED)
    assert other.work(scene.policy) == set()
    assert other.calls["vault read rotator record"] == 0


def test_what_is_due_together_is_held_together(tmp_path: Path) -> None:
    """One write for each document, however many of its policies are due."""
    scene = Scene(tmp_path)
    party = Party(scene.store, scene.time, "ours", NEVER_CHECKED)
    names = [f"n{i}" for i in range(640)]
    party.index.expect(names)
    for name in names:
        party.index.hold(name)
    assert party.calls["vault write rotator index"] == len({party.vault.index_at(n) for n in names})


def test_the_holder_lets_go_and_the_entry_rises(tmp_path: Path) -> None:
    """As soon as it is no longer at work; others wait until the hold has ended."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    party.index.hold("edi")
    other = Party(scene.store, scene.time, "other", NEVER_CHECKED)
    for _ in range(2):
        other.calls.clear()
        assert other.work(scene.policy) == set()
        assert other.calls["vault read rotator record"] == 1
    assert party.work(scene.policy) == set()
    party.calls.clear()
    assert party.work(scene.policy) == set()
    assert party.calls["vault read rotator record"] == 0


def test_a_hold_is_written_once_and_lasts_longer_than_the_claim(tmp_path: Path) -> None:
    """Renewing a claim costs no further request until the hold might end first."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    for seconds in (0, 100, 79):
        scene.pass_time(seconds=seconds)
        party.index.hold("edi")
    assert party.calls["vault write rotator index"] == 1
    scene.pass_time(seconds=2)
    party.index.hold("edi")
    assert party.calls["vault write rotator index"] == 2


def test_a_rotator_that_never_checks_does_not_keep_another_from_it(tmp_path: Path) -> None:
    """When a check is due is not in the index, only when the last one was."""
    scene = Scene(tmp_path)
    adopted(scene)
    hourly = Settings.load({"ROTATOR_CHECK_EVERY": "1h"}, Path("/nonexistent"))
    checking = Party(scene.store, scene.time, "checking", hourly)
    scene.pass_time(hours=1)
    (task,) = checking.look(scene.policy).tasks
    assert (task.check, task.order.what) == (True, "repair")


SCHEDULES = st.sampled_from(
    [
        "{every: 30d}",
        "{every: 7d, window: {days: [sat], from: '01:00', to: '05:00'}, timezone: Europe/Berlin}",
        "{every: 5d, freeze: [{from: 2026-01-08, to: 2026-01-20}]}",
        "{every: 5d, window: {days: [mon], from: '01:00', to: '02:00'}, freeze: [{from: 2026-02-02, to: 2026-02-10}]}",
        "{cron: '0 3 * * SUN', jitter: 2h}",
        "manual",
    ]
)


@given(
    schedule=SCHEDULES,
    age=st.integers(0, 80 * 86400),
    later=st.integers(1, 86400),
    debt=st.none() | st.integers(-1000, 90000),
    enabled=st.booleans(),
)
def test_nothing_is_to_be_done_before_the_instant_that_the_index_is_told(
    tmp_path_factory: pytest.TempPathFactory,
    schedule: str,
    age: int,
    later: int,
    debt: int | None,
    enabled: bool,
) -> None:
    """For every kind of schedule, with windows, freezes, debts, and a max_age that lifts the window."""
    where = tmp_path_factory.mktemp("policy")
    text = (
        POLICY.replace("{every: 30d}", schedule)
        + f"max_age: 40d\nenabled: {str(enabled).lower()}\n"
    )
    policy = policy_from(where, text)
    now = START + timedelta(seconds=age)
    held = Held(
        key_id=1,
        user_id=5001,
        visibility=Visibility.PRIVATE,
        created=START,
        fingerprint="f",
        published_at=START,
    )
    (to,) = policy.destinations
    place = Place(mount=to.mount, path=to.path, field=to.field, version=1)
    record = Record.new("edi").change(current=held, rotated_at=START, places=(place,))
    if debt is not None:
        due = Debt(key_id=7, user_id=5001, why="replaced", due_at=now + timedelta(seconds=debt))
        record = record.change(retiring=(due,))
    quiet = quiet_until(policy, record, now)
    assert quiet == now or not at_a_tick(policy, record, now).now
    moment = now + timedelta(seconds=later)
    if now < moment < quiet:
        assert not at_a_tick(policy, record, moment).now
    last = quiet - timedelta(seconds=1)
    assert last <= now or not at_a_tick(policy, record, last).now


@given(st.integers(1, 10_000), st.integers(60, 86400))
def test_drift_checks_are_spread_and_take_a_tenth_of_the_rate(policies: int, every: int) -> None:
    """Each policy has its own place in the period, once in each, and the period grows with the fleet."""
    checking = Checking.spread(timedelta(seconds=every), policies, 1.5)
    assert checking.period is not None
    assert policies * 2 / checking.period.total_seconds() <= 0.15 + 1e-9


def test_each_policy_is_checked_once_in_each_period(tmp_path: Path) -> None:
    """And the checks of many are spread over it."""
    policy = policy_from(tmp_path, POLICY)
    checking = Checking.spread(timedelta(hours=1), 10, 100.0)
    first = [
        checking.next(dataclasses.replace(policy, name=f"p{n}"), START) - START for n in range(200)
    ]
    assert all(timedelta(0) < wait <= timedelta(hours=1) for wait in first)
    assert len({int(wait / timedelta(minutes=6)) for wait in first}) == 10
    after = START + first[0]
    assert checking.next(dataclasses.replace(policy, name="p0"), after) - after == timedelta(
        hours=1
    )


def test_a_destination_that_lacks_the_key_is_tried_at_every_tick(tmp_path: Path) -> None:
    """The back-off of its failure holds back nothing that is past issue."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    scene.policy = policy_from(tmp_path, POLICY + "also: [{path: dr/edi}]\n")
    away = scene.rotator(lambda call: "fail" if call == "vault write dr/edi" else "go")
    assert away.tick().outcome == "failed"
    failed = scene.stored().record.failed
    assert failed is not None
    assert failed.retry_at is not None
    assert scene.vault.now() < failed.retry_at
    assert party.work(scene.policy) == {"edi"}
