"""What `status` and `plan` tell of a large fleet: from the due index, and never other than the records would tell."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interleave import Ended as Killed
from test_fleet_index import NEVER_CHECKED, SCHEDULES, START, TTL, Party, adopted, begin
from worlds import OTHER, POLICY, USER, Process, Scene, policy_from

from rotator import due
from rotator.errors import Failure, Forbidden
from rotator.fleet.forecast import ahead
from rotator.fleet.renaming import take_over
from rotator.fleet.standing import row
from rotator.journal import Debt, Drift, Failed, Held, Hold, Past, Place, Record, gist
from rotator.keys import Visibility
from rotator.policy import Policy
from rotator.vault import At
from rotator.vault.index import DueIndex

MANY = 70  # policies beside, so that the index is asked
LONG = timedelta(days=90)


def beside(policy: Policy) -> list[Policy]:
    """Others that have no record."""
    return [dataclasses.replace(policy, name=f"beside-{n}") for n in range(MANY)]


def shown(policy: Policy, record: Record | Failure | None, party: Party) -> object:
    """What `status` and `plan` tell of a policy now."""
    now = party.vault.now()
    if isinstance(record, Failure):
        return row(policy, record, now)
    return row(policy, record, now), ahead(policy, record, now, now + LONG)


def by_index(policy: Policy, party: Party) -> object:
    """The same, as they tell it of a large fleet."""
    return shown(policy, party.rounds.known([policy, *beside(policy)])[policy.name], party)


def by_record(policy: Policy, party: Party) -> object:
    """The same, from the record alone."""
    return shown(policy, party.rounds.known([policy])[policy.name], party)


def assert_the_same(scene: Scene) -> None:
    """For somebody who has only just come."""
    party = Party(scene.store, scene.time, "looks", NEVER_CHECKED)
    assert by_index(scene.policy, party) == by_record(scene.policy, party)


def indexed(process: Process, name: str) -> Process:
    """The process with a due index, as a real one has."""
    index = DueIndex(process.world.vault, name, TTL)

    def lower() -> None:
        index.hold(process.scene.policy.name)

    process.world = dataclasses.replace(process.world, hold=lower, lower=lower)
    return process


def reads(party: Party) -> dict[str, int]:
    """What was asked of Vault since this was asked last, by kind."""
    asked = {call.removeprefix("vault "): times for call, times in party.calls.items()}
    party.calls.clear()
    return asked


# what it costs


def test_two_thousand_quiet_policies_are_told_by_sixty_five_requests(tmp_path: Path) -> None:
    """The documents of the index, and one list of names; each that is in doubt costs one more."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    record = scene.stored().record
    policies = [dataclasses.replace(scene.policy, name=f"policy-{n}") for n in range(2000)]
    for policy in policies:
        scene.vault.save(record.change(policy=policy.name), 0)
    party = Party(scene.store, scene.time, "one", NEVER_CHECKED)
    party.look(*policies)
    party.calls.clear()
    told = party.rounds.known(policies)
    assert reads(party) == {"read rotator index": 64, "list rotator record": 1}
    assert list(told) == [policy.name for policy in policies]
    for policy in policies[:5]:
        party.index.hold(policy.name)
    party.calls.clear()
    assert party.rounds.known(policies).keys() == told.keys()
    assert reads(party) == {
        "read rotator index": 64,
        "list rotator record": 1,
        "read rotator record": 5,
    }


def test_a_few_policies_are_told_by_their_records(tmp_path: Path) -> None:
    """One each: the index would not be less."""
    scene = Scene(tmp_path)
    party = adopted(scene)
    by_record(scene.policy, party)
    assert reads(party) == {"read rotator record": 1}


def test_policies_that_have_no_record_cost_nothing_where_that_may_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each is asked for, as before."""
    scene = Scene(tmp_path)
    listing = Party(scene.store, scene.time, "one", NEVER_CHECKED)
    others = beside(scene.policy)
    assert set(listing.rounds.known(others).values()) == {None}
    places = len({listing.vault.index_at(policy.name) for policy in others})
    assert reads(listing) == {"read rotator index": places, "list rotator record": 1}
    narrow = Party(scene.store, scene.time, "two", NEVER_CHECKED)

    def refuse(_at: At) -> list[str]:
        raise Forbidden("refused", kind="vault.Forbidden")

    monkeypatch.setattr(narrow.vault.kv, "names", refuse)  # a login without that right
    assert set(narrow.rounds.known(others).values()) == {None}
    assert reads(narrow) == {"read rotator index": places, "read rotator record": MANY}


# a gist tells what its record tells

WHEN = st.integers(-90 * 86400, 90 * 86400).map(lambda s: START + timedelta(seconds=s))
EXACT = st.tuples(WHEN, st.integers(0, 999_999)).map(lambda t: t[0].replace(microsecond=t[1]))
HELD = st.builds(
    Held,
    key_id=st.none() | st.integers(1, 10**9),
    user_id=st.sampled_from([USER, OTHER]),
    visibility=st.sampled_from([Visibility.PRIVATE, Visibility.SHARED]),
    created=st.none() | EXACT,
    fingerprint=st.just("f"),
    published_at=EXACT,
    began=st.none() | EXACT,
)
DEBTS = st.builds(
    Debt,
    key_id=st.integers(1, 10**9),
    user_id=st.just(USER),
    visibility=st.none() | st.just(Visibility.PRIVATE),
    why=st.sampled_from(["replaced", "stray"]),
    due_at=EXACT,
    waits=st.none() | st.none() | st.just("not now"),
    tried=st.sampled_from([0, 0, 0, 2]),
)
FAILED = st.builds(
    Failed,
    at=EXACT,
    phase=st.just("issue"),
    kind=st.just("ecgrid.Unreachable"),
    message=st.just("no connection"),
    attempts=st.just(1),
    retry_at=st.none() | EXACT,
    digest=st.just("d"),
)
PAST = st.builds(
    Past,
    at=EXACT,
    duration_s=st.just(1.0),
    outcome=st.just("rotated"),
    reason=st.just(""),
    by=st.just("one"),
    run=st.just("r"),
    user_id=st.just(USER),
    published=st.just((Place(mount="secret", path="ecgrid/edi", field="api_key", version=1),)),
    hooks=st.sampled_from([(), ("ok",), ("exit 1",)]),
)
RECORDS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "current": st.none() | HELD,
        "rotated_at": st.none() | EXACT,
        "retiring": st.lists(DEBTS, max_size=3).map(tuple),
        "hold": st.none()
        | st.builds(Hold, at=EXACT, until=EXACT, reason=st.just("audit"), by=st.just("ann")),
        "history": st.lists(PAST, max_size=2).map(tuple),
        "ecgrid": st.sampled_from(["", "mark"]),
    },
    optional={
        "failed": FAILED,
        "drifted": st.builds(Drift, since=EXACT, probed_at=EXACT),
        "previous_key": st.sampled_from(["accepted", "refused"]),
        "previous_issue": st.sampled_from(["keyset", "generate"]),
    },
)


def place_in_a_tick(policy: Policy, record: Record, now: datetime) -> tuple[object, ...]:
    """Whether a rotation has come due, and all that gives it its place among the others."""
    return (
        due.begins_with_a_key(policy, record, now),
        due.urgency(policy, record, now),
        due.is_overdue(policy, record, now),
        due.is_stuck(record, now),
        due.outlived(record, now, policy.grace),
    )


@given(fields=RECORDS, schedule=SCHEDULES, enabled=st.booleans(), nows=st.lists(EXACT, min_size=3))
def test_a_gist_tells_what_its_record_tells_at_any_time(
    tmp_path_factory: pytest.TempPathFactory,
    fields: dict[str, Any],
    schedule: str,
    enabled: bool,
    nows: list[Any],
) -> None:
    """Through Vault and back; or there is none, and then something is open, claimed, refused or failed."""
    text = POLICY.replace("{every: 30d}", schedule) + f"enabled: {str(enabled).lower()}\n"
    policy = policy_from(tmp_path_factory.mktemp("policy"), text)
    record = Record.new("edi").change(**fields)
    found = gist.of(record)
    if found is None:
        assert record.failed or record.drifted or record.hook_problems or record.retiring
        return
    told = gist.read("edi", json.loads(json.dumps(gist.kept(found))))
    assert told is not None
    assert told == found
    assert told.ecgrid == record.ecgrid
    for now in nows:
        assert row(policy, told, now) == row(policy, record, now)
        until = now + timedelta(days=40)
        assert ahead(policy, told, now, until) == ahead(policy, record, now, until)
        assert place_in_a_tick(policy, told, now) == place_in_a_tick(policy, record, now)


@pytest.mark.parametrize(
    "damage",
    [
        {"key": "5001"},
        {"made": ["yesterday", None]},
        {"rotated": "2026-01-05T03:00:00"},
        {"debts": [[1, 2]]},
        {"before": ["perhaps", "keyset"]},
        {"hold": ["2026-01-05T03:00:00Z"]},
        {"of": 5},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_a_damaged_gist_is_none(damage: dict[str, object]) -> None:
    """Then the record is read."""
    held = Held(
        key_id=1,
        user_id=USER,
        visibility=Visibility.PRIVATE,
        created=None,
        fingerprint="f",
        published_at=START,
    )
    found = gist.of(Record.new("edi").change(current=held, rotated_at=START))
    assert found is not None
    whole = gist.kept(found)
    assert gist.read("edi", whole) == found
    assert gist.read("edi", cast(gist.Kept, {**whole, **damage})) is None


def test_a_gist_of_a_time_that_is_ahead_of_vault_counts_for_nothing(tmp_path: Path) -> None:
    """The clock was wrong when it was written."""
    scene = Scene(tmp_path)
    adopted(scene)
    scene.time.seconds -= 1200
    assert_the_same(scene)


# the same with the index and without it


def rotate(process: Process) -> None:
    """As a person who names the policy orders it, long before its time: the entry vouches."""
    process.rotate()


def fail(process: Process) -> None:
    """A rotation on demand that fails before it claims."""
    at = process.scene.published_at()
    custom = {"managed_by": "rotator", "policy": "another"}
    process.scene.vault.kv.annotate(at, custom)
    assert process.rotate().phase == "claim"


def check(process: Process) -> None:
    """A look whether ECGrid and Vault agree."""
    process.repair()


def retire(process: Process) -> None:
    """A rotation, and the end of the key that it replaced."""
    process.rotate()
    process.scene.pass_time(hours=13)
    process.tick()


def hold(process: Process) -> None:
    """A freeze of two days."""
    now = process.world.vault.now()
    record = process.scene.stored()
    until = now + timedelta(days=2)
    changed = record.record.change(hold=Hold(at=now, until=until, reason="audit", by="ann"))
    process.world.hold()
    process.world.vault.save(changed, record.version)


def reach_the_limit(process: Process) -> None:
    """Three keys were asked for in vain, and the run that did so has ended."""
    process.world.hold()
    begin(process.scene)
    stored, now = process.scene.stored(), process.world.vault.now()
    failed = Failed(
        at=now,
        phase="issue",
        kind="rotation.IssueLimit",
        message="three keys were asked for",
        attempts=3,
        retry_at=None,
        digest=process.scene.policy.digest,
    )
    limited = stored.record.change(issued=(now, now, now), failed=failed, claim=None)
    process.world.vault.save(limited, stored.version)


WHAT: list[Callable[[Process], None]] = [rotate, fail, check, retire, hold, reach_the_limit]
LATER = [timedelta(0), timedelta(minutes=2), timedelta(minutes=8), timedelta(hours=26)]


def counted(tmp_path: Path, what: Callable[[Process], None]) -> int:
    """How many calls of both servers that takes."""
    scene = Scene(tmp_path)
    adopted(scene)
    calls = 0

    def count(_call: str) -> str:
        nonlocal calls
        calls += 1
        return "go"

    what(indexed(scene.rotator(count), "two"))
    return calls


@pytest.mark.sampled(2)
@pytest.mark.parametrize("what", WHAT, ids=lambda what: what.__name__)
def test_whoever_is_killed_anywhere_leaves_nothing_that_is_told_otherwise(
    tmp_path: Path, what: Callable[[Process], None]
) -> None:
    """At each call, before it is carried out; then others look, at once and later, and raise what they may."""
    last = counted(tmp_path, what)
    for number in range(1, last + 2):  # the last one is not killed
        scene = Scene(tmp_path)
        adopted(scene)
        left = iter(range(1, number))

        def gate(_call: str, left: Iterator[int] = left) -> str:
            if next(left, None) is None:
                raise Killed
            return "go"

        died = False
        try:
            what(indexed(scene.rotator(gate), "dead"))
        except Killed:
            died = True
        assert died == (number <= last)
        for later in LATER:
            scene.pass_time(seconds=later.total_seconds())
            assert_the_same(scene)
            Party(scene.store, scene.time, f"at {later}", NEVER_CHECKED).work(scene.policy)
            assert_the_same(scene)


def test_a_record_that_is_gone_is_seen_at_once(tmp_path: Path) -> None:
    """Its name is in the list no more."""
    scene = Scene(tmp_path)
    adopted(scene)
    scene.vault.kv.destroy(scene.vault.record_at("edi"))
    assert_the_same(scene)


@pytest.mark.parametrize("how", ["deleted", "set back"])
def test_what_others_did_to_a_record_is_seen_once_anybody_met_it_and_within_the_hour(
    tmp_path: Path, how: str
) -> None:
    """As a tick sees it: who only looks has to read the record for that."""
    scene = Scene(tmp_path)
    first = scene.rotator().tick()
    assert first.outcome == "adopted"
    at, before = scene.vault.record_at("edi"), scene.stored().record
    indexed(scene.rotator(), "two").rotate()
    Party(scene.store, scene.time, "three", NEVER_CHECKED).work(scene.policy)
    if how == "deleted":
        scene.store.delete(at)
    else:
        scene.vault.kv.destroy(at)
        scene.vault.save(before, 0)
    scene.pass_time(hours=1, seconds=11)
    assert_the_same(scene)
    Party(scene.store, scene.time, "four", NEVER_CHECKED).work(scene.policy)
    assert_the_same(scene)


def test_a_renamed_policy_is_told_by_the_record_that_it_has_taken(tmp_path: Path) -> None:
    """It was held under its new name before it had any, which the index knew."""
    scene = Scene(tmp_path)
    adopted(scene)
    new = dataclasses.replace(scene.policy, name="new")
    now = scene.vault.now()
    freeze = Hold(at=now, until=now + timedelta(days=2), reason="audit", by="ann")
    scene.vault.save(Record.new("new").change(hold=freeze), 0)
    party = Party(scene.store, scene.time, "one", NEVER_CHECKED)
    party.work(new)
    assert by_index(new, party) == by_record(new, party)
    take_over(scene.vault, new, "edi", lambda: party.index.hold("new"))
    assert by_index(new, party) == by_record(new, party)
