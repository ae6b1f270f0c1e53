"""Every interrupted or odd state, forged by hand in Vault: the next run goes on, discards, or refuses, as it should."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from worlds import POLICY, USER, Scene, policy_from

from rotator.journal import Claim, Debt, Record, Underway, known_from
from rotator.keys import ApiKey, Issue, KeyRef, Secret, Seen, Visibility
from rotator.vault import At

PRIVATE = Visibility.PRIVATE


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A policy that was adopted and rotated once: version 2 of the secret shows key 1003."""
    made = Scene(tmp_path)
    made.rotator().tick()
    made.rotator().rotate()
    made.asked.clear()
    return made


def forge(scene: Scene, **fields: Any) -> Record:
    """The record with other fields, written as some earlier process might have left it."""
    stored = scene.stored()
    record = stored.record.change(**fields)
    scene.vault.save(record, stored.version)
    return record


def open_rotation(scene: Scene, **fields: Any) -> Underway:
    """A rotation that has just begun, with what ECGrid has now as its baseline."""
    shown = scene.account().keys(USER, PRIVATE, 10.0)
    given = {
        "run": "gone",
        "kind": "rotate",
        "reason": "scheduled",
        "by": "elsewhere:1",
        "user_id": USER,
        "visibility": PRIVATE,
        "issue": Issue.KEYSET,
        "baseline": known_from(scene.stored().record, shown),
        "began": scene.time.now(),
        "sent": 1,
    }
    return Underway(**{**given, **fields})


def claim(scene: Scene, minutes: float) -> Claim:
    """Another process' claim that ends so many minutes from now."""
    return Claim(
        holder="gone", by="elsewhere:1", until=scene.time.now() + timedelta(minutes=minutes)
    )


def new_key(scene: Scene) -> ApiKey:
    """A key that ECGrid has just made for the user."""
    made = scene.simulator.add_key(USER)
    return ApiKey(KeyRef(made.key_id, USER, PRIVATE, made.created), Secret(made.value))


def stage(scene: Scene, run: str, key: ApiKey) -> None:
    """A staged value as some process left it."""
    scene.vault.stage("edi", run, "gone", key, 0)


def settled(scene: Scene) -> None:
    """Nothing is left open: Vault shows the record's key, which works, and nothing is staged or claimed."""
    record = scene.stored().record
    assert scene.works() == USER
    assert record.shows(scene.published().value)
    assert (record.underway, record.claim, scene.vault.staged("edi")) == (None, None, None)


def test_a_claim_that_holds_is_left_alone(scene: Scene) -> None:
    """Busy, and nothing is asked or written."""
    forge(scene, underway=open_rotation(scene), claim=claim(scene, 2))
    scene.asked.clear()
    writes = len(scene.store.log)
    result = scene.rotator().tick()
    assert (result.outcome, scene.asked, len(scene.store.log)) == ("busy", [], writes)
    assert result.busy is not None
    assert "elsewhere:1" in result.busy


def test_a_claim_that_ended_before_issue_starts_over(scene: Scene) -> None:
    """ECGrid is still at the baseline: looked for twice, then one key is issued."""
    forge(scene, underway=open_rotation(scene), claim=claim(scene, -1))
    issued = scene.issued()
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.issued() == issued + 1
    settled(scene)


def test_a_key_issued_by_a_run_that_is_gone_is_found(scene: Scene) -> None:
    """The answer died with the process: the key is published, not made again."""
    forge(scene, underway=open_rotation(scene), claim=claim(scene, -1))
    key, issued = new_key(scene), scene.issued()
    result = scene.rotator().tick()
    assert (result.outcome, result.key_id, scene.issued()) == ("rotated", key.ref.key_id, issued)
    assert any(str(key.ref.key_id) in warning for warning in result.warnings)
    settled(scene)


def test_of_several_new_keys_the_newest_is_taken_and_the_others_are_named(scene: Scene) -> None:
    """A key that somebody else made in between cannot be told from ours."""
    forge(scene, underway=open_rotation(scene), claim=claim(scene, -1))
    other = new_key(scene)
    scene.pass_time(seconds=1)
    newest = new_key(scene)
    result = scene.rotator().tick()
    assert result.key_id == newest.ref.key_id
    assert str(other.ref.key_id) in str(result.warnings)
    assert scene.simulator.who(other.value.reveal()) == USER


def test_a_key_older_than_the_claim_is_not_taken_for_ours(scene: Scene) -> None:
    """Five minutes are allowed between the clocks, no more."""
    new_key(scene)
    scene.pass_time(minutes=6)
    shown = scene.account().keys(USER, PRIVATE, 10.0)
    before = known_from(scene.stored().record, [seen for seen in shown if seen.ref.key_id != 1004])
    forge(scene, underway=open_rotation(scene, baseline=before), claim=claim(scene, -1))
    result = scene.rotator().tick()
    assert (result.outcome, result.key_id) == ("rotated", 1005)


def test_a_staged_key_is_verified_and_published(scene: Scene) -> None:
    """As the interruption after staging leaves it."""
    underway = open_rotation(scene)
    forge(scene, underway=underway, claim=claim(scene, -1))
    key, issued = new_key(scene), scene.issued()
    stage(scene, underway.run, key)
    result = scene.rotator().tick()
    assert (result.outcome, result.key_id, scene.issued()) == ("rotated", key.ref.key_id, issued)
    settled(scene)


def test_a_key_staged_under_another_claim_is_a_stray(scene: Scene) -> None:
    """It is retired; the open rotation looks for its own key."""
    forge(scene, underway=open_rotation(scene), claim=claim(scene, -1))
    stray = new_key(scene)
    stage(scene, "another", stray)
    scene.pass_time(seconds=1)
    ours = new_key(scene)
    assert scene.rotator().tick().key_id == ours.ref.key_id
    scene.rotator().tick()
    assert scene.simulator.who(stray.value.reveal()) is None
    settled(scene)


def test_a_key_staged_without_a_rotation_is_cleared_by_the_drift_check(scene: Scene) -> None:
    """Nobody will publish it: noted as a stray, retired, and destroyed in Vault."""
    stray = new_key(scene)
    stage(scene, "another", stray)
    scene.rotator().repair()
    scene.rotator().tick()
    assert scene.simulator.who(stray.value.reveal()) is None
    settled(scene)


def test_a_key_staged_without_a_rotation_is_the_cure_of_a_drift(scene: Scene) -> None:
    """The published key is dead, and what is staged works."""
    cure = new_key(scene)
    stage(scene, "another", cure)
    current = scene.published().key_id
    assert current is not None
    scene.simulator.remove_key(current)
    assert scene.rotator().repair().outcome == "repaired"
    assert scene.published().key_id == cure.ref.key_id
    settled(scene)


def test_a_staged_key_that_stays_refused_is_given_up_after_two_runs(scene: Scene) -> None:
    """It is a stray, and another one is issued."""
    underway = open_rotation(scene)
    forge(scene, underway=underway, claim=claim(scene, -1))
    dead = new_key(scene)
    scene.simulator.remove_key(dead.ref.key_id or 0)
    stage(scene, underway.run, dead)
    outcomes = []
    for _ in range(3):
        scene.pass_time(minutes=5)
        outcomes.append(scene.rotator().tick().outcome)
    assert outcomes[0] == "failed"
    assert outcomes[-1] in ("rotated", "not-due", "retired")
    settled(scene)


def test_published_before_settling_is_settled(scene: Scene) -> None:
    """Vault shows the new key already: nothing is issued, published or staged again."""
    underway = open_rotation(scene)
    forge(scene, underway=underway, claim=claim(scene, -1))
    key = new_key(scene)
    stage(scene, underway.run, key)
    to = scene.policy.destinations[0]
    scene.vault.publish(to, key, scene.time.now(), scene.vault.published(to))
    version, issued = scene.published().version, scene.issued()
    assert scene.rotator().tick().outcome == "rotated"
    assert (scene.published().version, scene.issued()) == (version, issued)
    settled(scene)


def test_published_and_unstaged_but_not_settled_is_settled(scene: Scene) -> None:
    """The process died between destroying the staged value and closing the record."""
    forge(scene, underway=open_rotation(scene), claim=claim(scene, -1))
    key = new_key(scene)
    to = scene.policy.destinations[0]
    scene.vault.publish(to, key, scene.time.now(), scene.vault.published(to))
    version, issued = scene.published().version, scene.issued()
    assert scene.rotator().tick().outcome == "rotated"
    assert (scene.published().version, scene.issued()) == (version, issued)
    settled(scene)


def test_a_record_older_than_the_secret_is_healed(scene: Scene) -> None:
    """Another run has rotated since: the record was set back by hand."""
    before = scene.store.read(scene.vault.record_at("edi"), scene.stored().version)
    assert before is not None
    scene.rotator().rotate()
    scene.store.write(scene.vault.record_at("edi"), before.data, scene.stored().version)
    shown = scene.published().key_id
    assert scene.rotator().repair().outcome in ("unchanged", "repaired")
    assert scene.works() == USER
    scene.pass_time(days=31)
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.published().key_id != shown
    settled(scene)


def test_a_published_key_that_is_dead_is_repaired(scene: Scene) -> None:
    """By another key of the user, or a new one."""
    scene.simulator.remove_key(scene.published().key_id or 0)
    assert scene.rotator().repair().outcome == "repaired"
    settled(scene)


def test_a_secret_that_was_set_back_is_repaired_once_the_old_key_is_dead(scene: Scene) -> None:
    """Until then the old key works, and the drift check says that Vault shows an older one."""
    old = scene.store.read(scene.published_at(), 1)
    assert old is not None
    scene.store.write(scene.published_at(), old.data, 2)
    assert "older" in str(scene.rotator().repair().warnings)
    scene.simulator.remove_key(scene.first.key_id)
    assert scene.rotator().repair().outcome == "repaired"
    settled(scene)


@pytest.mark.parametrize("what", ["record", "secret"])
def test_what_was_deleted_is_not_what_never_was(scene: Scene, what: str) -> None:
    """It stops, names `adopt`, and issues nothing; `adopt` then mends it."""
    at = scene.vault.record_at("edi") if what == "record" else scene.published_at()
    scene.store.delete(at)
    issued = scene.issued()
    result = scene.rotator().rotate()
    assert (result.outcome, scene.issued()) == ("failed", issued)
    assert result.error is not None
    assert "rotator adopt edi" in result.error["message"]
    assert scene.rotator().adopt().outcome == "adopted"
    assert scene.issued() == issued
    settled(scene)


def test_a_record_that_is_gone_for_good_is_built_anew(scene: Scene) -> None:
    """The secret bears the policy's mark: adopted by itself, with a warning."""
    scene.store.paths.pop(scene.vault.record_at("edi"))
    issued = scene.issued()
    result = scene.rotator().tick()
    assert (result.outcome, scene.issued()) == ("adopted", issued)
    assert "no record" in str(result.warnings)
    settled(scene)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data | {"format": 99}, "newer rotator"),
        (lambda data: data | {"hmac_key": 5}, "hmac_key"),
        (lambda data: {"nonsense": True}, "cannot be understood"),
        (lambda data: data | {"underway": {"run": "x"}}, "underway"),
    ],
)
def test_a_record_that_is_no_record_stops_everything(
    scene: Scene, damage: Callable[[dict[str, Any]], dict[str, Any]], says: str
) -> None:
    """It says which, and what to do; nothing is issued or written."""
    at = scene.vault.record_at("edi")
    there = scene.store.read(at, None)
    assert there is not None
    scene.store.write(at, damage(there.data), there.version)
    writes, issued = len(scene.store.log), scene.issued()
    result = scene.rotator().rotate()
    assert result.error is not None
    assert (result.outcome, result.error["kind"]) == ("failed", "vault.BadRecord")
    assert says in result.error["message"]
    assert (len(scene.store.log), scene.issued()) == (writes, issued)


def debt(scene: Scene, key_id: int) -> tuple[Debt, ...]:
    """That key, to be retired since an hour ago."""
    since = scene.time.now() - timedelta(hours=1)
    return (Debt(key_id=key_id, user_id=USER, why="replaced", due_at=since),)


def test_a_debt_that_names_the_current_key_is_dropped(scene: Scene) -> None:
    """An account that updates in place keeps the id: then there is nothing to retire."""
    current = scene.published().key_id
    assert current is not None
    forge(scene, retiring=debt(scene, current))
    scene.rotator().tick()
    assert scene.works() == USER
    assert scene.stored().record.retiring == ()


def test_a_debt_that_is_gone_already_counts_as_retired(scene: Scene) -> None:
    """KeyRemove says that it is not there."""
    forge(scene, retiring=debt(scene, 9999))
    assert scene.rotator().tick().outcome == "retired"
    assert scene.stored().record.retiring == ()


def test_a_debt_waits_while_the_current_key_is_not_shown(scene: Scene) -> None:
    """A warning says why, and nothing is removed."""
    forge(scene, retiring=debt(scene, scene.first.key_id))
    there = scene.store.read(scene.published_at(), None)
    assert there is not None
    scene.store.write(
        scene.published_at(), there.data | {"api_key": scene.first.value}, there.version
    )
    result = scene.rotator().tick()
    assert "does not show the current key" in str(result.warnings)
    assert scene.simulator.who(scene.first.value) == USER
    assert not result.bad


def test_a_back_off_is_kept_and_a_changed_policy_clears_it(scene: Scene, tmp_path: Path) -> None:
    """Across processes: it is in the record."""
    scene.pass_time(days=31)
    scene.simulator.switch(keyset="same")
    assert scene.rotator().tick().outcome == "failed"
    scene.simulator.switch(keyset="add")
    scene.asked.clear()
    again = scene.rotator().tick()
    assert (again.outcome, scene.asked) == ("failed", [])
    assert again.error is not None
    assert again.error["kind"] == "ecgrid.NotReplaced"
    path = tmp_path / "edi.yaml"
    path.write_text(POLICY + "issue: create-key\n")

    scene.policy = policy_from(tmp_path, POLICY + "issue: create-key\n")
    assert scene.rotator().tick().outcome == "rotated"


def test_a_destination_that_the_record_lacks_is_filled(scene: Scene, tmp_path: Path) -> None:
    """It was added to the policy: the same key, and no new one."""

    scene.policy = policy_from(tmp_path, POLICY + "also: [{path: dr/edi}]\n")
    issued = scene.issued()
    assert scene.rotator().tick().outcome == "repaired"
    there = scene.store.read(At("secret", "dr/edi"), None)
    assert there is not None
    assert there.data["key_id"] == scene.published().key_id
    assert scene.issued() == issued


def test_a_destination_that_moved_is_filled_from_the_old_place(
    scene: Scene, tmp_path: Path
) -> None:
    """And the old place is left as it is."""

    old = scene.published()
    scene.policy = policy_from(tmp_path, POLICY.replace("ecgrid/edi", "new/edi"))
    issued = scene.issued()
    assert scene.rotator().tick().outcome == "repaired"
    assert (scene.published().key_id, scene.issued()) == (old.key_id, issued)
    assert scene.store.read(At("secret", "ecgrid/edi"), None) is not None


def test_masked_values_settle_by_id_and_probe(tmp_path: Path) -> None:
    """An account that shows no value: what is published already is recognised all the same."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.switch(read_back="masked", list_shows="masked")
    forge(scene, underway=open_rotation(scene), claim=claim(scene, -1))
    key = new_key(scene)
    to = scene.policy.destinations[0]
    scene.vault.publish(to, key, scene.time.now(), scene.vault.published(to))
    issued = scene.issued()
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.issued() == issued
    assert isinstance(scene.published().value, Secret)
    assert Seen(key.ref, scene.published().value).whole is not None
    settled(scene)
