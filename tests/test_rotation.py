"""The rotation, whole: what a run leaves behind in ECGrid and in Vault, for every kind of account."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import memory
import pytest
from test_forged import Forge
from worlds import OTHER, POLICY, USER, Scene, policy_from

from rotator.keys import Secret, Seen
from rotator.rotation import Order, compare, tend

ADDING_OR_REPLACING = pytest.mark.parametrize("keyset", ["add", "replace", "update"])


def test_the_first_tick_adopts_and_issues_nothing(tmp_path: Path) -> None:
    """The key that the user has is published; ECGrid is only asked."""
    scene = Scene(tmp_path)
    result = scene.rotator().tick()
    assert (result.outcome, result.key_id, scene.issued()) == ("adopted", scene.first.key_id, 0)
    assert scene.works() == USER
    assert scene.published().key_id == scene.first.key_id


def test_adopting_what_is_published_already_writes_no_version(tmp_path: Path) -> None:
    """Switching the rotator on must not disturb a consumer."""
    scene = Scene(tmp_path)
    at = scene.published_at()
    scene.store.write(at, {"api_key": scene.first.value, "note": "by hand"}, 0)
    result = scene.rotator().tick()
    assert (result.outcome, scene.published().version) == ("adopted", 1)
    assert result.key_id == scene.first.key_id


def test_an_idle_tick_changes_nothing(tmp_path: Path) -> None:
    """And asks ECGrid nothing."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    writes, asked = len(scene.store.log), len(scene.asked)
    assert scene.rotator().tick().outcome == "not-due"
    assert (len(scene.store.log), len(scene.asked)) == (writes, asked)


@ADDING_OR_REPLACING
def test_a_due_policy_is_rotated_once(tmp_path: Path, keyset: str) -> None:
    """A new key is issued, published and works; the record says so."""
    scene = Scene(tmp_path, keyset=keyset)
    scene.rotator().tick()
    scene.pass_time(days=31)
    result = scene.rotator().tick()
    assert (result.outcome, scene.issued(), scene.works()) == ("rotated", 1, USER)
    assert result.previous_key_id == scene.first.key_id
    assert scene.rotator().tick().outcome in ("not-due", "retired")
    assert scene.issued() == 1
    assert scene.stored().record.underway is None
    assert scene.vault.staged("edi") is None


@ADDING_OR_REPLACING
def test_the_old_key_lives_for_the_grace_and_no_longer(tmp_path: Path, keyset: str) -> None:
    """Where ECGrid leaves it valid; then it is retired, and the new one stays."""
    scene = Scene(tmp_path, keyset=keyset)
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.pass_time(hours=11)
    scene.rotator().tick()
    assert (scene.simulator.who(scene.first.value) == USER) is (keyset == "add")
    scene.pass_time(hours=2)
    scene.rotator().tick()
    assert scene.simulator.who(scene.first.value) is None
    assert scene.works() == USER
    assert scene.stored().record.retiring == ()


def test_a_steady_rotation_costs_ecgrid_three_requests(tmp_path: Path) -> None:
    """KeySet, Get Key, and the probe."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.asked.clear()
    assert scene.rotator().rotate().outcome == "rotated"
    assert sorted(scene.asked) == ["GetKey", "GetMe", "KeySet"]


@pytest.mark.parametrize(
    ("calls", "asked"),
    [
        ("", ["GetKey", "GetMe", "ListKeys"]),
        ("issue: generate\nverify: get-api-key\n", ["GetAPIKey", "GetMe"]),
    ],
)
def test_an_adoption_costs_ecgrid_few_requests(
    tmp_path: Path, calls: str, asked: list[str]
) -> None:
    """The list, what shows the value, and the probe; who the rotator is, and whether a probe tells, the first costs."""
    scene = Scene(tmp_path, POLICY + calls)
    scene.simulator.add_key(OTHER)
    process = scene.rotator()
    assert process.tick().outcome == "adopted"
    scene.asked.clear()
    text = POLICY.replace("5001", "5002").replace("ecgrid/edi", "ecgrid/two")
    second = policy_from(tmp_path, text + calls, "two")
    assert process.tick(second).outcome == "adopted"
    assert sorted(scene.asked) == asked
    assert scene.issued(OTHER) == 0


def test_grace_0s_retires_before_it_ends(tmp_path: Path) -> None:
    """For a leaked key: the replaced key, and those of an earlier grace, are refused."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    second = scene.published().value
    assert second is not None
    assert scene.rotator().rotate(retire_now=True).outcome == "rotated"
    assert scene.simulator.who(scene.first.value) is None
    assert scene.simulator.who(second.reveal()) is None
    assert scene.works() == USER
    assert len(scene.live()) == 1


def test_first_rotate_leaves_the_key_it_found_alone(tmp_path: Path) -> None:
    """It was not ours: it is never retired."""
    scene = Scene(tmp_path, POLICY + "first: rotate\n")
    assert scene.rotator().tick().outcome == "rotated"
    scene.pass_time(days=2)
    scene.rotator().tick()
    assert scene.simulator.who(scene.first.value) == USER


def test_a_foreign_key_beside_ours_is_never_touched(tmp_path: Path) -> None:
    """Only keys that this policy published or issued are retired."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    foreign = scene.simulator.add_key(USER)
    scene.rotator().rotate(retire_now=True)
    assert scene.simulator.who(foreign.value) == USER


def test_adopting_a_user_without_a_key_issues_one(tmp_path: Path) -> None:
    """There is nothing to take over."""
    scene = Scene(tmp_path, POLICY.replace("5001", "5002"))
    assert scene.rotator().tick().outcome in ("adopted", "rotated")
    assert (scene.works(), scene.issued(OTHER)) == (OTHER, 1)


@pytest.mark.parametrize("shown", ["masked", "shortened", "ellipsis"])
def test_a_key_that_cannot_be_read_is_not_adopted(tmp_path: Path, shown: str) -> None:
    """It fails, publishes nothing, issues nothing, and names the way on; `rotate` goes on to rotate."""
    scene = Scene(tmp_path, read_back=shown, list_shows=shown)
    result = scene.rotator().tick()
    assert (result.outcome, scene.issued()) == ("failed", 0)
    assert result.error is not None
    assert "first: rotate" in result.error.message
    assert scene.rotator().rotate().outcome == "rotated"
    assert (scene.works(), scene.issued()) == (USER, 1)


def test_keyset_that_answers_the_same_key_is_a_failure(tmp_path: Path) -> None:
    """Nothing was rotated; the message names the alternatives, and nothing is tried again by itself."""
    scene = Scene(tmp_path, keyset="same")
    scene.rotator().tick()
    scene.pass_time(days=31)
    result = scene.rotator().tick()
    assert result.error is not None
    assert result.error.kind == "ecgrid.NotReplaced"
    assert "create-key" in result.error.message
    assert "generate" in result.error.message
    scene.pass_time(days=2)
    assert scene.rotator().tick().outcome == "failed"
    assert scene.asked.count("KeySet") == 1
    assert scene.works() == USER


def test_keyset_that_only_stores_is_told_from_one_that_issues(tmp_path: Path) -> None:
    """The probe refuses what it answers: nothing of it is published."""
    scene = Scene(tmp_path, keyset="store")
    scene.rotator().tick()
    result = scene.rotator().rotate()
    assert result.outcome == "failed"
    assert result.error is not None
    assert "generate" in result.error.message
    assert scene.published().key_id == scene.first.key_id
    assert scene.works() == USER


@pytest.mark.parametrize("private_read", ["owner-403", "owner-404", "owner-masked"])
def test_a_private_key_is_read_back_by_its_owner(tmp_path: Path, private_read: str) -> None:
    """Where Get Key is refused to the rotator, the new key itself asks."""
    scene = Scene(tmp_path, POLICY + "first: rotate\n", private_read=private_read)
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.works() == USER
    scene.rotator().rotate()  # finds out, once, what becomes of a replaced key
    scene.asked.clear()
    scene.rotator().rotate()
    assert len(scene.asked) == 3


@pytest.mark.parametrize("delay", [0, 5, 45])
def test_a_key_that_takes_a_moment_to_work_is_waited_for(tmp_path: Path, delay: float) -> None:
    """One key is issued and published."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.switch(activation_delay=delay)
    assert scene.rotator().rotate().outcome == "rotated"
    assert (scene.works(), scene.issued()) == (USER, 1)


def test_other_fields_of_the_secret_are_kept(tmp_path: Path) -> None:
    """What a person put beside the key survives, and the policy's own fields are written."""
    scene = Scene(
        tmp_path,
        POLICY.replace("{path: ecgrid/edi}", "{path: ecgrid/edi, fields: {base_url: 'https://x'}}"),
    )
    scene.store.write(scene.published_at(), {"api_key": scene.first.value, "note": "by hand"}, 0)
    scene.rotator().tick()
    scene.rotator().rotate()
    found = scene.store.read(scene.published_at(), None)
    assert found is not None
    assert found.data["note"] == "by hand"
    assert found.data["base_url"] == "https://x"
    assert found.custom["policy"] == "edi"
    assert found.custom["managed_by"] == "rotator"


def test_a_secret_of_another_policy_is_not_written(tmp_path: Path) -> None:
    """Another team may own it: nothing is issued, and the message names both ways on."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    renamed = policy_from(tmp_path, POLICY, "renamed")
    result = scene.rotator().tick(renamed)
    assert result.outcome == "failed"
    assert result.error is not None
    assert "adopt renamed --from edi" in result.error.message
    assert scene.issued() == 0


def test_alternating_users_take_turns(tmp_path: Path) -> None:
    """Each rotation issues for the user that is not published; the other's key stays valid."""
    scene = Scene(
        tmp_path, POLICY.replace("user_id: 5001", "users: [5001, 5002]"), keyset="replace"
    )
    scene.rotator().tick()
    seen = []
    for _ in range(4):
        before = scene.published().value
        assert before is not None
        assert scene.rotator().rotate().outcome == "rotated"
        assert scene.simulator.who(before.reveal()) is not None
        seen.append(scene.works())
    assert seen == [OTHER, USER, OTHER, USER]


def test_a_policy_that_is_not_enabled_is_left_alone_unless_named(tmp_path: Path) -> None:
    """Paused: no tick rotates it, `rotate NAME` does."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.policy = policy_from(tmp_path, POLICY + "enabled: false\n")
    scene.pass_time(days=90)
    assert scene.rotator().tick().outcome == "not-due"
    assert scene.rotator().rotate().outcome == "rotated"


def test_a_new_user_in_the_policy_is_a_new_start(tmp_path: Path) -> None:
    """The old user's key is left alone."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.add_key(OTHER)
    scene.policy = policy_from(tmp_path, POLICY.replace("5001", "5002"))
    assert scene.rotator().tick().outcome == "adopted"
    assert scene.works() == OTHER
    scene.pass_time(days=3)
    scene.rotator().tick()
    assert scene.simulator.who(scene.first.value) == USER


HOOKED = POLICY + "after: [{exec: [sh, -c, 'echo $ROTATOR_KEY_ID $ROTATOR_VAULT_VERSION >> %s']}]\n"


def test_hooks_run_after_the_record_is_settled_and_their_outcome_is_in_it(tmp_path: Path) -> None:
    """Once for the rotation; the history tells what came of it."""
    told = tmp_path / "told"
    scene = Scene(tmp_path, HOOKED % told)
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.rotator().tick()
    assert told.read_text().split() == ["1002", "1", "1003", "2"]
    assert [past.hooks for past in scene.stored().record.history] == [("ok",), ("ok",)]


def test_hooks_of_a_run_that_died_are_run_by_the_next(tmp_path: Path) -> None:
    """At least once: the record says that they are due."""
    told = tmp_path / "told"
    scene = Scene(tmp_path, HOOKED % told)

    def die(call: str) -> str:
        record = scene.record()
        if record is not None and record.hooks_due is not None:
            raise KeyboardInterrupt
        return "go"

    with pytest.raises(KeyboardInterrupt):
        scene.rotator(die).tick()
    assert not told.exists()
    scene.rotator().tick()
    assert told.read_text().split() == ["1002", "1"]


def test_a_failing_hook_is_a_warning_and_changes_nothing(tmp_path: Path) -> None:
    """The rotation counts, and the record says what failed."""
    scene = Scene(tmp_path, POLICY + "after: [{exec: [/nonexistent]}]\n")
    result = scene.rotator().rotate()
    assert result.outcome == "rotated"
    assert any("hook 1 (exec)" in warning for warning in result.warnings)
    assert "hook 1" in scene.stored().record.history[-1].hooks[0]


# what small wrong changes would go unnoticed without


def test_an_adoption_that_had_to_issue_is_an_adoption(tmp_path: Path) -> None:
    """The user had no key: by schedule that is `adopted`, on demand `rotated`."""
    for on_demand in (False, True):
        scene = Scene(tmp_path)
        scene.simulator.remove_key(scene.first.key_id)
        process = scene.rotator()
        result = process.rotate() if on_demand else process.tick()
        assert (result.outcome, scene.issued()) == ("rotated" if on_demand else "adopted", 1)


def test_another_value_under_the_published_id_is_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the published value is still accepted: it is not the one that ECGrid keeps under that id."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    seen = memory._seen

    def other_value(answer: Any) -> Seen:
        one = seen(answer)
        return Seen(one.ref, Secret(secrets.token_hex(16)))

    monkeypatch.setattr(memory, "_seen", other_value)
    found = compare(scene.rotator().run(Order("repair")))
    assert found.state == "drift"
    assert "another value" in found.why


def test_a_key_in_its_grace_is_not_one_that_the_policy_does_not_know(tmp_path: Path) -> None:
    """`check` names other people's keys, not those that wait to be retired."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    assert len(scene.live()) == 2
    found = compare(scene.rotator().run(Order("repair")))
    assert (found.state, found.warnings) == ("in-sync", [])
    other = scene.simulator.add_key(USER)
    (warning,) = compare(scene.rotator().run(Order("repair"))).warnings
    assert str(other.key_id) in warning


def test_what_a_lagging_standby_shows_is_not_settled(tmp_path: Path) -> None:
    """A repair reads the version before, whose key is accepted: a check-and-set tells, and the new key stays."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    process = scene.rotator()
    process.kv.lag = lambda at: int(at.path == "ecgrid/edi")
    run = process.run(Order("repair"))
    run.sight.drifted()  # as a look found it, a moment before the other run published
    tend(run)
    assert scene.stored().record.shows(scene.published().value)
    assert scene.works() == USER


def test_an_old_key_that_is_not_the_published_one_is_not_replaced_either(tmp_path: Path) -> None:
    """KeySet answers with another key that was there before the claim: nothing was rotated."""
    scene = Scene(tmp_path)
    foreign = scene.simulator.add_key(USER)
    scene.rotator().tick()
    published = scene.published()
    assert published.key_id == foreign.key_id
    scene.store.write(
        published.at,
        {"api_key": scene.first.value, "key_id": scene.first.key_id},
        published.version,
    )
    scene.simulator.switch(keyset="same")
    result = scene.rotator().rotate()
    assert result.error is not None
    assert result.error.kind == "ecgrid.NotReplaced"
    assert scene.published().value == Secret(scene.first.value)


def test_two_users_are_cut_off_only_by_the_second_rotation_within_the_grace(
    tmp_path: Path,
) -> None:
    """The first goes to a user whose key nobody reads yet."""
    scene = Scene(tmp_path, POLICY.replace("user_id: 5001", "users: [5001, 5002]"))
    scene.rotator().tick()
    for cut_off in (False, True):
        result = scene.rotator().rotate()
        assert any("cut off" in warning for warning in result.warnings) == cut_off
    scene.pass_time(hours=13)
    assert not any("cut off" in warning for warning in scene.rotator().rotate().warnings)


def test_of_two_keys_made_in_one_moment_the_later_id_is_the_newest(tmp_path: Path) -> None:
    """For a repair, which takes the newest that can be read."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.remove_key(scene.first.key_id)
    scene.simulator.add_key(USER)
    later = scene.simulator.add_key(USER)
    assert scene.rotator().repair().outcome == "repaired"
    assert scene.published().key_id == later.key_id


@pytest.mark.parametrize("is_open", [True, False])
def test_a_deleted_secret_says_whether_anything_was_issued(tmp_path: Path, is_open: bool) -> None:
    """Only where no rotation is open is that sure."""
    forge = Forge(tmp_path)
    if is_open:
        forge.open()
    forge.scene.store.delete(forge.scene.published_at())
    result = forge.scene.rotator().rotate()
    assert result.error is not None
    assert ("Nothing was issued" in result.error.message) is not is_open


def test_an_earlier_version_that_was_destroyed_does_not_end_the_search(tmp_path: Path) -> None:
    """The old value is found in the one before, and proves the retirement."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    there = scene.published()
    document = scene.store.read(there.at, None)
    assert document is not None
    scene.store.write(there.at, {**document.data, "note": "by hand"}, there.version)
    scene.rotator().rotate()
    scene.store.paths[there.at].versions[2] = None
    scene.pass_time(hours=13)
    process = scene.rotator()
    assert process.tick().outcome == "retired"
    (proof,) = [fields["proof"] for event, fields in process.events if event == "rotation.retired"]
    assert "value" in proof
