"""Two troubles at once: another run, a right that is missing, or an answer that is lost, where something else is wrong.

Each of these once ended in a dead key shown, a leaked key alive, or a failure that nobody was told of or that stayed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from test_forged import Forge, key_of
from worlds import OTHER, POLICY, USER, Scene, policy_from

from rotator.errors import Forbidden, Permanent
from rotator.fleet.standing import row
from rotator.journal import Claim, Debt, Record, changes
from rotator.keys import ApiKey, Visibility
from rotator.rotation import Order, compare, would

GENERATE = POLICY + "issue: generate\nverify: get-api-key\n"
TWO_PLACES = POLICY + "also: [{path: dr/edi}]\n"
RECORD = "vault write rotator/record/edi"


def forbidding(*calls: str) -> Callable[[str], str]:
    """A gate at which ECGrid refuses these calls."""

    def gate(call: str) -> str:
        if call.removeprefix("ecgrid ") in calls:
            raise Forbidden(f"{call} refused", kind="ecgrid.AccessDenied")
        return "go"

    return gate


def claimed_by_somebody(scene: Scene, **length: float) -> None:
    """Another run takes the claim, for so long."""
    stored = scene.stored()
    until = scene.vault.now() + timedelta(**length)
    claim = Claim(holder="somebody", by="elsewhere:1", until=until)
    scene.vault.save(stored.record.change(claim=claim, nonce="forged"), stored.version)


# a dead key that is shown


def test_a_dead_key_is_drift_also_where_the_keys_may_not_be_listed(tmp_path: Path) -> None:
    """The probe says enough: it is healed, and said."""
    scene = Scene(tmp_path, private_read="owner-403")
    assert scene.rotator(forbidding("ListKeys")).rotate().outcome == "rotated"
    dead = scene.stored().record.current
    assert dead is not None
    assert dead.key_id is not None
    scene.simulator.remove_key(dead.key_id)
    assert scene.works() is None
    result = scene.rotator(forbidding("ListKeys")).repair()
    assert (result.outcome, scene.works()) == ("repaired", USER)
    assert any("drift" in warning for warning in result.warnings)


def test_a_dead_generated_key_is_healed(tmp_path: Path) -> None:
    """The reading call says that there is none."""
    scene = Scene(tmp_path, GENERATE)
    scene.rotator().rotate()
    for key_id in scene.live():
        scene.simulator.remove_key(key_id)
    assert scene.works() is None
    assert scene.rotator().repair().outcome == "repaired"
    assert scene.works() == USER


def test_what_may_not_be_seen_and_was_never_adopted_is_said(tmp_path: Path) -> None:
    """Nothing is issued for it, since the user may have a key that an application uses; `rotate` does."""
    scene = Scene(tmp_path)
    hidden = forbidding("ListKeys", "GetKey")
    for result in (scene.rotator(hidden).repair(), scene.rotator(hidden).adopt()):
        assert result.error is not None
        assert result.error.kind == "ecgrid.AccessDenied"
        assert "first: rotate" in result.error.message
    assert scene.issued() == 0
    scene.simulator.switch(private_read="owner-403")
    assert scene.rotator(forbidding("ListKeys")).rotate().outcome == "rotated"


# retiring


@pytest.mark.parametrize("write", range(1, 7))
def test_a_leaked_key_is_retired_whoever_writes_in_between(tmp_path: Path, write: int) -> None:
    """Another rotator's drift check writes the record just before one of the command's own writes."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()  # the first key's grace goes on
    writes = 0

    def gate(call: str) -> str:
        nonlocal writes
        writes += call == RECORD
        if call == RECORD and writes == write:
            scene.rotator(who="two").repair()
        return "go"

    result = scene.rotator(gate).rotate(retire_now=True)
    assert (result.outcome, result.bad) == ("rotated", False)
    assert writes >= min(write, 4)
    assert scene.simulator.who(scene.first.value) is None
    assert (scene.works(), len(scene.live())) == (USER, 1)


def test_a_leaked_key_that_another_run_keeps_from_being_retired_fails_the_command(
    tmp_path: Path,
) -> None:
    """It claimed between the rotation and the retiring."""
    scene = Scene(tmp_path)
    scene.rotator().tick()

    def gate(call: str) -> str:
        if call == "vault annotate ecgrid/edi":
            claimed_by_somebody(scene, minutes=3)
        return "go"

    result = scene.rotator(gate).rotate(retire_now=True)
    assert (result.outcome, result.bad) == ("rotated", True)
    assert any("not retired" in warning for warning in result.warnings)


def test_a_lost_answer_is_no_proof_that_a_key_is_gone(tmp_path: Path) -> None:
    """Nor is a list that may not be read."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    del scene.store.paths[scene.published_at()].versions[1]  # as if ten rotations ago

    def gate(call: str) -> str:
        if call == "ecgrid ListKeys":
            raise Forbidden("refused", kind="ecgrid.AccessDenied")
        return "fail" if call == "ecgrid DeleteKey" else "go"

    scene.policy = policy_from(tmp_path, POLICY)
    scene.store.paths[scene.published_at()].versions[1] = {}
    result = scene.rotator(gate).rotate(retire_now=True)
    assert result.bad
    assert scene.simulator.who(scene.first.value) == USER
    assert [debt.key_id for debt in scene.stored().record.retiring] == [scene.first.key_id]


def test_the_proof_by_the_list_asks_for_the_visibility_that_the_key_has(tmp_path: Path) -> None:
    """A policy that was changed since would ask for the wrong list, on which the key never is."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    shared = scene.simulator.add_key(USER, visibility="Shared")
    scene.policy = policy_from(tmp_path, POLICY.replace("Private", "Shared"))
    del scene.store.paths[scene.published_at()].versions[1]
    assert scene.rotator().tick().outcome == "adopted"
    assert scene.works() == USER
    scene.simulator.switch(key_remove="pretends")
    scene.pass_time(days=1)
    result = scene.rotator().tick()
    assert result.error is not None
    assert result.error.kind == "ecgrid.NotRetired"
    assert {scene.first.key_id, shared.key_id} <= scene.live()


def test_a_key_that_cannot_be_retired_is_seen_in_the_status(tmp_path: Path) -> None:
    """With when it is tried again; and no more once it is gone."""
    scene = Scene(tmp_path, key_remove="pretends")
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.pass_time(days=1)
    assert scene.rotator().tick().error is not None
    stands = row(scene.policy, scene.stored().record, scene.vault.now())
    assert stands.state == "failed"
    assert stands.last_failure is not None
    assert (stands.last_failure.phase, stands.last_failure.kind) == ("retire", "ecgrid.NotRetired")
    scene.simulator.switch(key_remove="removes")
    scene.pass_time(hours=1)
    assert scene.rotator().tick().outcome == "retired"
    assert row(scene.policy, scene.stored().record, scene.vault.now()).state == "ok"


def test_a_debt_that_only_waits_is_no_failure(tmp_path: Path) -> None:
    """Its reason is a warning; nothing was tried."""
    forge = Forge(tmp_path)
    now = forge.scene.vault.now()
    debt = Debt(key_id=4711, user_id=USER, why="stray", due_at=now, waits="no reason", tried=0)
    forge.write(retiring=(debt,))
    assert row(forge.scene.policy, forge.scene.stored().record, now).state == "ok"


# a changed visibility


@pytest.mark.parametrize("first", ["adopt", "rotate"])
def test_a_changed_visibility_is_a_new_start_and_the_old_key_is_left_alone(
    tmp_path: Path, first: str
) -> None:
    """Neither taken for one of the new kind, nor retired."""
    scene = Scene(tmp_path, POLICY + f"first: {first}\n")
    scene.rotator().adopt()
    text = POLICY.replace("Private", "Shared") + f"first: {first}\n"
    scene.policy = policy_from(tmp_path, text)
    result = scene.rotator().tick()
    assert any("left alone" in warning for warning in result.warnings)
    current = scene.stored().record.current
    assert current is not None
    assert (current.visibility, current.key_id) == (Visibility.SHARED, max(scene.live()))
    assert (scene.works(), scene.issued()) == (USER, 1)
    scene.pass_time(days=2)
    scene.rotator().tick()
    assert scene.first.key_id in scene.live()


# further destinations


def test_hooks_do_not_wait_for_a_destination_that_is_away(tmp_path: Path) -> None:
    """An application whose old key died reads the new one, whatever the other place is doing."""
    told = tmp_path / "told"
    scene = Scene(tmp_path, TWO_PLACES + f"after: [{{exec: [touch, {told}]}}]\n")

    def gate(call: str) -> str:
        if call == "vault write dr/edi":
            raise Permanent("refused", kind="vault.Forbidden")
        return "go"

    result = scene.rotator(gate).rotate()
    assert (result.outcome, result.phase) == ("failed", "publish")
    assert told.exists()


@pytest.mark.parametrize("trouble", ["gone", "overwritten"])
def test_a_further_destination_that_lost_the_key_is_found_and_healed(
    tmp_path: Path, trouble: str
) -> None:
    """Somebody removed or overwrote it: no new key is needed."""
    scene = Scene(tmp_path, TWO_PLACES)
    scene.rotator().rotate()
    at = scene.vault.places(scene.policy)[1]
    if trouble == "gone":
        del scene.store.paths[at]
    else:
        scene.store.write(at, {"api_key": "x" * 20}, scene.store.paths[at].latest)
    check = compare(scene.rotator().run(Order("repair")))
    assert (check.state, "dr/edi" in check.why) == ("not-published", True)
    assert scene.rotator().repair().outcome == "repaired"
    there = scene.vault.published(scene.policy.destinations[1])
    assert there is not None
    assert (there.value, scene.issued()) == (scene.published().value, 1)
    assert compare(scene.rotator().run(Order("repair"))).state == "in-sync"


def test_a_destination_that_left_the_policy_fails_nothing_any_more(tmp_path: Path) -> None:
    """It never got the key, and need not."""
    scene = Scene(tmp_path, TWO_PLACES)

    def gate(call: str) -> str:
        if call == "vault write dr/edi":
            raise Permanent("refused", kind="vault.Forbidden")
        return "go"

    assert scene.rotator(gate).rotate().outcome == "failed"
    scene.policy = policy_from(tmp_path, POLICY)
    assert scene.rotator().tick().outcome == "not-due"
    assert scene.rotator().repair().outcome == "unchanged"


def test_a_destination_is_filled_by_nobody_but_the_claims_holder(tmp_path: Path) -> None:
    """A claim that holds is another run's right, whatever it is doing."""
    forge = Forge(tmp_path)
    claimed_by_somebody(forge.scene, minutes=3)
    forge.scene.policy = policy_from(tmp_path, TWO_PLACES)
    before = forge.scene.stored()
    assert forge.tick().outcome == "not-due"
    assert forge.scene.stored() == before
    forge.scene.pass_time(minutes=5)
    assert forge.tick().outcome == "repaired"


# failures that stay, and limits that count what never was


def test_a_check_that_failed_is_forgotten_once_one_finds_all_well(tmp_path: Path) -> None:
    """ECGrid was away for a while."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    away = scene.rotator(lambda call: "fail" if call.startswith("ecgrid") else "go")
    assert (away.repair().outcome, scene.stored().record.failed is None) == ("failed", False)
    scene.pass_time(hours=1)
    assert scene.rotator().repair().outcome == "unchanged"
    assert scene.stored().record.failed is None


def test_a_rotation_on_demand_that_failed_is_forgotten_once_all_is_well(tmp_path: Path) -> None:
    """The command said so when it ended; nothing by itself would try it again."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    assert scene.rotator(forbidding("KeySet")).rotate().outcome == "failed"
    assert scene.stored().record.failed is not None
    scene.pass_time(hours=2)
    assert scene.rotator().repair().outcome == "unchanged"
    assert scene.stored().record.failed is None


def test_a_scheduled_rotation_that_failed_stays_failed_until_it_succeeds(tmp_path: Path) -> None:
    """However often its key is found to work meanwhile."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.pass_time(days=31)
    assert scene.rotator(forbidding("KeySet")).tick().outcome == "failed"
    assert scene.rotator().repair().outcome == "unchanged"
    assert scene.stored().record.failed is not None
    scene.pass_time(hours=2)
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.stored().record.failed is None


def test_what_a_person_asked_for_counts_for_no_limit(tmp_path: Path) -> None:
    """Every answer is lost, three times over; the schedule's own three are all left."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    for _ in range(4):
        scene.rotator(lambda call: "fail" if call == "ecgrid KeySet" else "go").rotate()
    record = scene.stored().record
    assert record.issues_left(scene.vault.now()) == 3


def test_a_key_that_was_refused_does_not_count_as_issued(tmp_path: Path) -> None:
    """However often an adoption that has to issue was not allowed to: as soon as it is, it does."""
    scene = Scene(tmp_path, POLICY.replace("5001", "5002"))
    for _ in range(5):
        result = scene.rotator(forbidding("KeySet")).tick()
        assert result.error is not None
        assert result.error.kind == "ecgrid.AccessDenied"
        scene.pass_time(hours=1)
    assert scene.rotator().tick().outcome in ("adopted", "rotated")
    assert (scene.works(), scene.issued(OTHER)) == (OTHER, 1)


def test_a_staged_key_that_answers_as_another_user_is_given_up_the_second_time(
    tmp_path: Path,
) -> None:
    """It is never published, and keeps nobody from a new one."""
    forge = Forge(tmp_path)
    forge.open()
    others = key_of(forge.scene.simulator.add_key(OTHER))
    mine = forge.issue()
    forge.stage(ApiKey(mine.ref, others.value))
    forge.scene.simulator.switch(list_shows="none")  # no value is seen to contradict
    kinds = []
    for _ in range(2):
        result = forge.scene.rotator(forbidding("GetKey")).tick()
        kinds.append(result.error and result.error.kind)
        forge.scene.pass_time(hours=2)
    assert kinds == ["ecgrid.OtherUser"] * 2
    assert forge.tick().outcome == "rotated"
    assert forge.scene.works() == USER


def test_a_run_that_cannot_see_what_became_of_its_key_has_failed(tmp_path: Path) -> None:
    """It issued, lost its claim, and the other one holds it beyond the deadline."""
    scene = Scene(tmp_path)
    scene.rotator().tick()

    def gate(call: str) -> str:
        if call == "ecgrid GetKey" and scene.issued():
            scene.pass_time(minutes=10)
            claimed_by_somebody(scene, days=1)
        return "go"

    result = scene.rotator(gate).rotate()
    assert result.outcome == "failed"
    assert result.error is not None
    assert result.error.kind == "rotation.Contended"


def test_a_dry_run_meets_what_the_rotation_would(tmp_path: Path) -> None:
    """A secret of another policy."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    renamed = policy_from(tmp_path, POLICY, "renamed")
    said = would(scene.rotator().run(Order("demand", since=scene.vault.now()), renamed))
    assert said.error is not None
    assert (said.outcome, said.phase) == ("failed", "claim")
    assert (said.error.kind) == "policy.OthersSecret"


@pytest.mark.parametrize(
    ("drifts", "may_have_issued", "wish", "minutes"),
    [
        (False, False, None, [0.5, 1, 2, 4, 8, 16, 32, 60, 60]),
        (True, False, None, [0.5, 1, 2, 4, 5, 5, 5, 5, 5]),
        (False, True, None, [0.5, 1, 2, 4, 5, 5, 5, 5, 5]),
        (False, False, 600.0, [10, 10, 10, 10, 10, 16, 32, 60, 60]),
        (False, True, 86400.0, [60] * 9),
    ],
)
def test_a_back_off_grows_to_an_hour_and_to_minutes_where_consumers_may_be_cut_off(
    drifts: bool, may_have_issued: bool, wish: float | None, minutes: list[float]
) -> None:
    """ECGrid's or Vault's wish is kept beyond that, for an hour at most."""
    now, record = datetime(2026, 3, 1, tzinfo=UTC), Record.new("edi")
    if drifts:
        record = changes.drifting(record, now)
    waits = []
    for _ in minutes:
        record = changes.failed(
            record,
            now,
            phase="observe",
            kind="vault.Unreachable",
            message="away",
            digest="d",
            may_have_issued=may_have_issued,
            wish=wish,
        )
        assert record.failed is not None
        assert record.failed.retry_at is not None
        waits.append((record.failed.retry_at - now) / timedelta(minutes=1))
    assert waits == minutes
