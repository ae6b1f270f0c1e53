"""Every interrupted state, written into Vault by hand: the next run goes on, discards, or refuses.

Records older and newer than reality, staged documents that belong to nobody, and what people do to secrets.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import Rotator, VaultServer
from worlds import OTHER, POLICY, USER, Scene, policy_from

from rotator.journal import FORMAT, Claim, Debt, Failed, Place, Record, Underway
from rotator.keys import ApiKey, Issue, KeyRef, Secret, Visibility
from rotator.rotation import Result
from rotator.sandbox.ecgrid import KeyRecord, Running

FIRST_ROTATE = POLICY + "first: rotate\n"
TWO_PLACES = POLICY + "also: [{path: dr/edi}]\n"
RUN, OTHER_RUN = "a" * 16, "b" * 16
ACCOUNTS = pytest.mark.parametrize("keyset", ["add", "replace", "update"])


class Forge:
    """A scene whose policy was adopted a day ago, and the means to write what some run might have left."""

    def __init__(self, tmp_path: Path, policy: str = POLICY, **switches: Any) -> None:
        self.scene = Scene(tmp_path, policy, **switches)
        assert self.scene.rotator().tick().outcome == "adopted"
        self.scene.pass_time(days=1)

    def write(self, **fields: object) -> None:
        """Writes the record with other fields."""
        stored = self.scene.stored()
        self.scene.vault.save(stored.record.change(**fields, nonce="forged"), stored.version)

    def open(self, *, expired: bool = True, **fields: object) -> None:
        """A rotation that a run began, and has sent its issuing request for, unless the fields say otherwise."""
        record, now = self.scene.stored().record, self.scene.vault.now()
        about: dict[str, Any] = {
            "run": RUN,
            "kind": "rotate",
            "reason": "scheduled",
            "by": "elsewhere:1",
            "user_id": USER,
            "visibility": Visibility.PRIVATE,
            "issue": Issue.KEYSET,
            "baseline": record.baseline(USER, Visibility.PRIVATE) or (),
            "began": now,
            "sent": 1,
        }
        until = now + timedelta(minutes=-1 if expired else 3)
        self.write(
            underway=Underway(**{**about, **fields}),
            claim=Claim(holder="somebody", by="elsewhere:1", until=until),
        )

    def issue(self, user_id: int = USER) -> ApiKey:
        """A key that ECGrid has made for the run."""
        return self.scene.account().issue(user_id, Visibility.PRIVATE, 30)

    def stage(self, key: ApiKey | None, run: str = RUN) -> None:
        """Stages it, as a run would."""
        self.scene.vault.stage("edi", run, "somebody", key, 0)

    def restage(self, key: ApiKey) -> None:
        """Stages another one in its place."""
        self.scene.vault.stage("edi", RUN, "somebody", key, 1)

    def publish(self, key: ApiKey) -> None:
        """Publishes it, as a run would."""
        to, now = self.scene.policy.destinations[0], self.scene.vault.now()
        self.scene.vault.publish(to, key, now, self.scene.published())

    def tick(self) -> Result:
        """The next run."""
        return self.scene.rotator().tick()

    def wrongs(self) -> list[str]:
        """What is not as it must be, whatever was there before."""
        scene, wrongs = self.scene, []
        record = scene.stored().record
        if scene.works() not in scene.policy.users:
            wrongs.append("Vault does not hold what ECGrid accepts")
        if not record.shows(scene.published().value):
            wrongs.append("the record and Vault name different keys")
        if record.underway or record.claim:
            wrongs.append("a rotation is open or claimed")
        if scene.vault.staged("edi") is not None:
            wrongs.append("something is staged")
        owed = {debt.key_id for debt in record.retiring}
        held = {one.key_id for one in (record.current, *record.others) if one}
        if scene.live() - owed - held - {scene.first.key_id}:
            wrongs.append(f"strays are alive: {scene.live()}, {held}, {owed}")
        return wrongs


def key_of(record: KeyRecord) -> ApiKey:
    """A key that ECGrid has, as the rotator would hold it."""
    ref = KeyRef(record.key_id, record.user_id, Visibility(record.visibility), record.created)
    return ApiKey(ref, Secret(record.value))


# claimed


def test_a_claim_that_holds_is_respected(tmp_path: Path) -> None:
    """Nothing is asked of ECGrid, and the record stays as it is."""
    forge = Forge(tmp_path)
    forge.open(expired=False)
    before = forge.scene.stored()
    result = forge.tick()
    assert result.outcome == "busy"
    assert result.busy is not None
    assert "elsewhere:1" in result.busy
    assert (forge.scene.stored(), forge.scene.issued()) == (before, 0)


def test_a_claim_without_a_rotation_holds_nobody_up_once_it_is_over(tmp_path: Path) -> None:
    """Its run died before it began anything."""
    forge = Forge(tmp_path)
    now = forge.scene.vault.now()
    claim = Claim(holder="somebody", by="elsewhere:1", until=now + timedelta(days=30, minutes=2))
    forge.write(claim=claim)
    forge.scene.pass_time(days=30)
    assert forge.tick().outcome == "busy"
    forge.scene.pass_time(days=2)
    assert forge.tick().outcome == "rotated"
    assert forge.wrongs() == []


@ACCOUNTS
def test_claimed_and_ecgrid_is_still_at_the_baseline(tmp_path: Path, keyset: str) -> None:
    """Looked for twice, a tenth of the deadline apart; then issued, and watched, since the first may still land."""
    forge = Forge(tmp_path, keyset=keyset)
    forge.open()
    result = forge.tick()
    assert (result.outcome, forge.scene.issued(), forge.wrongs()) == ("rotated", 1, [])
    watch = forge.scene.stored().record.watch_until
    assert watch is not None
    assert timedelta(0) < watch - forge.scene.vault.now() <= timedelta(minutes=10)


def test_claimed_and_surely_nothing_was_sent(tmp_path: Path) -> None:
    """An adoption that was interrupted: it is finished without looking for a lost answer, and without a key."""
    forge = Forge(tmp_path)
    forge.open(kind="adopt", sent=0)
    result = forge.tick()
    assert (result.outcome, forge.scene.issued(), forge.wrongs()) == ("adopted", 0, [])


@ACCOUNTS
@pytest.mark.parametrize("kind", ["adopt", "repair"])
def test_an_adoption_or_repair_that_was_about_to_issue(
    tmp_path: Path, keyset: str, kind: str
) -> None:
    """Its request was counted before it was sent: looked for like any other."""
    forge = Forge(tmp_path, keyset=keyset)
    forge.open(kind=kind)
    made = forge.issue()
    result = forge.tick()
    assert (result.outcome, result.key_id) != ("failed", None)
    assert (forge.scene.issued(), forge.wrongs()) == (1, [])
    assert forge.scene.published().value == made.value


# issued


@ACCOUNTS
def test_issued_and_neither_staged_nor_recorded(tmp_path: Path, keyset: str) -> None:
    """Found by looking: that key is published, and no other is issued."""
    forge = Forge(tmp_path, keyset=keyset)
    forge.open()
    made = forge.issue()
    result = forge.tick()
    assert (result.outcome, forge.scene.issued(), forge.wrongs()) == ("rotated", 1, [])
    assert forge.scene.published().value == made.value
    assert any("found by looking" in warning for warning in result.warnings)


def test_issued_twice_and_the_newest_counts(tmp_path: Path) -> None:
    """The other one is named."""
    forge = Forge(tmp_path)
    forge.open()
    older, newer = forge.issue(), forge.issue()
    result = forge.tick()
    assert (result.outcome, forge.scene.issued()) == ("rotated", 2)
    assert forge.scene.published().value == newer.value
    assert any(str(older.ref.key_id) in warning for warning in result.warnings)


@pytest.mark.parametrize("keyset", ["add", "replace"])
def test_issued_and_its_value_cannot_be_read(tmp_path: Path, keyset: str) -> None:
    """A stray, retired at once; one more key is issued."""
    forge = Forge(tmp_path)
    forge.scene.simulator.switch(keyset=keyset, read_back="masked", list_shows="masked")
    forge.open()
    made = forge.issue()
    result = forge.tick()
    assert (result.outcome, forge.scene.issued(), forge.wrongs()) == ("rotated", 2, [])
    assert made.ref.key_id not in forge.scene.live()


def test_a_key_older_than_the_claim_is_not_ours(tmp_path: Path) -> None:
    """Made by somebody else before the rotation began: left alone, whether or not the baseline knows it."""
    forge = Forge(tmp_path)
    foreign = forge.scene.simulator.add_key(USER)
    forge.scene.pass_time(minutes=10)
    forge.open()
    result = forge.tick()
    assert (result.outcome, forge.scene.issued()) == ("rotated", 1)
    assert forge.scene.published().key_id != foreign.key_id
    assert foreign.key_id in forge.scene.live()


# staged


@ACCOUNTS
def test_staged_by_the_run_that_claimed(tmp_path: Path, keyset: str) -> None:
    """Verified and published; ECGrid is not asked for another."""
    forge = Forge(tmp_path, keyset=keyset)
    forge.open()
    made = forge.issue()
    forge.stage(made)
    result = forge.tick()
    assert (result.outcome, forge.scene.issued(), forge.wrongs()) == ("rotated", 1, [])
    assert forge.scene.published().value == made.value


@ACCOUNTS
def test_staged_and_gone_from_ecgrid_since(tmp_path: Path, keyset: str) -> None:
    """A stray: the rotation starts over."""
    forge = Forge(tmp_path, keyset=keyset)
    forge.open()
    made = forge.issue()
    forge.stage(made)
    assert made.ref.key_id is not None
    forge.scene.simulator.remove_key(made.ref.key_id)
    for _ in range(3):
        forge.tick()
        forge.scene.pass_time(hours=2)
    assert (forge.wrongs(), forge.scene.issued()) == ([], 2)
    assert forge.scene.published().value != made.value


def test_staged_and_refused_by_ecgrid(tmp_path: Path) -> None:
    """It may only need a moment: kept for a second run, then given up as a stray."""
    forge = Forge(tmp_path)
    forge.open()
    made = forge.issue()
    forge.stage(made)
    forge.scene.simulator.switch(activation_delay=86400.0)
    dead = forge.issue()
    forge.scene.simulator.switch(activation_delay=0.0)
    forge.restage(dead)
    first = forge.tick()
    assert (first.outcome, forge.scene.published().key_id) == ("failed", forge.scene.first.key_id)
    assert dead.ref.key_id in forge.scene.live()
    for _ in range(3):
        forge.scene.pass_time(minutes=5)
        forge.tick()
    assert forge.wrongs() == []
    assert dead.ref.key_id not in forge.scene.live()


@ACCOUNTS
def test_staged_by_another_run(tmp_path: Path, keyset: str) -> None:
    """It counts only under its own claim: it is destroyed, and the rotation that is open goes on."""
    forge = Forge(tmp_path, keyset=keyset)
    made = forge.issue()
    forge.scene.pass_time(hours=1)
    forge.stage(made, OTHER_RUN)
    forge.open()
    result = forge.tick()
    assert (result.outcome, forge.wrongs()) == ("rotated", [])
    assert forge.scene.issued() == 2
    assert forge.scene.published().value != made.value


def test_staged_and_no_rotation_is_open(tmp_path: Path) -> None:
    """The drift check destroys it; its key is a stray."""
    forge = Forge(tmp_path)
    made = forge.issue()
    forge.stage(made)
    forge.scene.rotator().repair()
    assert forge.wrongs() == []
    assert made.ref.key_id not in forge.scene.live()
    assert forge.scene.published().key_id == forge.scene.first.key_id


def test_staged_and_no_rotation_is_open_and_the_published_key_is_dead(tmp_path: Path) -> None:
    """Then it is the cure: nothing is issued."""
    forge = Forge(tmp_path, keyset="replace")
    made = forge.issue()
    forge.stage(made)
    assert forge.scene.rotator().repair().outcome == "repaired"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 1)
    assert forge.scene.published().value == made.value


@pytest.mark.parametrize("policy", [POLICY, FIRST_ROTATE])
def test_staged_and_there_is_no_record(tmp_path: Path, policy: str) -> None:
    """A Vault restored in part: the policy starts as new, and at the latest the next check destroys it."""
    scene = Scene(tmp_path, policy)
    made = scene.account().issue(USER, Visibility.PRIVATE, 30)
    scene.vault.stage("edi", RUN, "somebody", made, 0)
    assert scene.rotator().tick().outcome in ("adopted", "rotated")
    assert scene.issued() <= 2
    scene.rotator().repair()
    assert scene.works() == USER
    assert scene.vault.staged("edi") is None
    assert scene.stored().record.underway is None


def test_staged_and_due_with_no_rotation_open(tmp_path: Path) -> None:
    """The next rotation meets a document that it did not write: one key is issued, and the other is a stray."""
    forge = Forge(tmp_path)
    made = forge.issue()
    forge.stage(made)
    forge.scene.pass_time(days=30)
    assert forge.tick().outcome == "rotated"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 2)
    assert forge.scene.published().value != made.value


def test_the_proof_that_nothing_is_staged_is_not_a_key(tmp_path: Path) -> None:
    """A run that was about to issue once more left an empty staged document."""
    forge = Forge(tmp_path)
    forge.open(sent=2)
    forge.stage(None)
    assert forge.tick().outcome == "rotated"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 1)


def test_a_staged_document_that_nobody_understands_stops(tmp_path: Path) -> None:
    """It may hold the only copy of a key: nothing is issued over it, and the way on is named."""
    forge = Forge(tmp_path)
    forge.open()
    forge.scene.store.write(forge.scene.vault.staged_at("edi"), {"run": RUN, "value": "x"}, 0)
    result = forge.tick()
    assert (result.outcome, forge.scene.issued()) == ("failed", 0)
    assert result.error is not None
    assert "check --repair" in result.error.message


# published


@ACCOUNTS
def test_published_and_still_staged(tmp_path: Path, keyset: str) -> None:
    """Only settling is left: no version is written."""
    forge = Forge(tmp_path, keyset=keyset)
    forge.open()
    made = forge.issue()
    forge.stage(made)
    forge.publish(made)
    version = forge.scene.published().version
    result = forge.tick()
    assert (result.outcome, forge.scene.issued(), forge.wrongs()) == ("rotated", 1, [])
    assert forge.scene.published().version == version


@ACCOUNTS
def test_published_and_not_staged_any_more(tmp_path: Path, keyset: str) -> None:
    """Its run died between destroying the staged value and closing the record."""
    forge = Forge(tmp_path, keyset=keyset)
    forge.open()
    made = forge.issue()
    forge.publish(made)
    version = forge.scene.published().version
    result = forge.tick()
    assert (result.outcome, forge.scene.issued(), forge.wrongs()) == ("rotated", 1, [])
    assert forge.scene.published().version == version


def test_published_and_masked_everywhere(tmp_path: Path) -> None:
    """The id says so, and the probe accepts the value."""
    forge = Forge(tmp_path)
    forge.open()
    made = forge.issue()
    forge.publish(made)
    forge.scene.simulator.switch(read_back="masked", list_shows="masked")
    assert forge.tick().outcome == "rotated"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 1)


@ACCOUNTS
def test_the_record_is_a_rotation_older_than_vault(tmp_path: Path, keyset: str) -> None:
    """A version of it from before the rotation was put back: drift is looked for, and nothing is broken."""
    forge = Forge(tmp_path, keyset=keyset)
    before = forge.scene.stored().record
    assert forge.scene.rotator().rotate().outcome == "rotated"
    forge.scene.vault.save(before.change(nonce="old"), forge.scene.stored().version)
    published = forge.scene.published().value
    assert forge.scene.rotator().repair().outcome in ("unchanged", "repaired")
    assert (forge.scene.works(), forge.scene.issued()) == (USER, 1)
    assert forge.scene.published().value == published
    assert forge.scene.rotator().rotate().outcome == "rotated"
    assert (forge.scene.works(), forge.scene.issued()) == (USER, 2)


def test_the_record_is_of_the_middle_of_a_rotation_that_is_over(tmp_path: Path) -> None:
    """Put back while it was open: the published key is its own, so it is settled once more."""
    forge = Forge(tmp_path)
    forge.open()
    middle = forge.scene.stored().record
    assert forge.tick().outcome == "rotated"
    forge.scene.vault.save(middle.change(nonce="old"), forge.scene.stored().version)
    version = forge.scene.published().version
    assert forge.tick().outcome == "rotated"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 1)
    assert forge.scene.published().version == version


@ACCOUNTS
def test_the_secret_is_a_rotation_older_than_the_record(tmp_path: Path, keyset: str) -> None:
    """Somebody put the old value back: in sync while it is accepted, healed without a new key where it is not."""
    forge = Forge(tmp_path, keyset=keyset)
    assert forge.scene.rotator().rotate().outcome == "rotated"
    at = forge.scene.published_at()
    old = forge.scene.store.read(at, 1)
    assert old is not None
    forge.scene.store.write(at, old.data, forge.scene.published().version)
    forge.scene.rotator().repair()
    assert (forge.scene.works(), forge.scene.issued()) == (USER, 1)
    forge.scene.pass_time(hours=13)
    for _ in range(3):
        forge.tick()
        forge.scene.rotator().repair()
        assert forge.scene.works() == USER
    assert forge.scene.issued() == 1


def test_the_published_key_is_dead(tmp_path: Path) -> None:
    """Somebody generated another one: the check puts that into Vault, and issues none."""
    forge = Forge(tmp_path)
    forge.scene.simulator.remove_key(forge.scene.first.key_id)
    other = forge.scene.simulator.add_key(USER)
    assert forge.scene.rotator().repair().outcome == "repaired"
    assert (forge.scene.published().value, forge.scene.issued()) == (Secret(other.value), 0)


def test_the_published_key_is_dead_and_there_is_no_other(tmp_path: Path) -> None:
    """One is issued."""
    forge = Forge(tmp_path)
    forge.scene.simulator.remove_key(forge.scene.first.key_id)
    assert forge.scene.rotator().repair().outcome == "repaired"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 1)


def test_a_key_that_waits_to_be_retired_is_no_cure(tmp_path: Path) -> None:
    """The replaced key lives on in its grace; the current one is dead: a new one is issued."""
    forge = Forge(tmp_path)
    assert forge.scene.rotator().rotate().outcome == "rotated"
    current = forge.scene.published().key_id
    assert current is not None
    forge.scene.simulator.remove_key(current)
    assert forge.scene.rotator().repair().outcome == "repaired"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 2)
    forge.scene.pass_time(hours=13)
    forge.tick()
    assert forge.scene.works() == USER


@ACCOUNTS
@pytest.mark.parametrize("written", ["api_key", "note"])
def test_another_writer_changes_the_secret_before_it_is_published(
    tmp_path: Path, keyset: str, written: str
) -> None:
    """Another field is merged; over another value the run starts again from the record, with the key that it has."""
    forge = Forge(tmp_path, keyset=keyset)
    scene, left = forge.scene, ["once"]

    def gate(call: str) -> str:
        if call == "vault write ecgrid/edi" and left:
            left.pop()
            there = scene.store.read(scene.published_at(), None)
            assert there is not None
            data = there.data | {written: "by-hand"}
            scene.store.write(scene.published_at(), data, there.version)
        return "go"

    assert scene.rotator(gate).rotate().outcome == "rotated"
    assert (forge.wrongs(), scene.issued()) == ([], 1)
    there = scene.store.read(scene.published_at(), None)
    assert there is not None
    assert (there.data.get("note") == "by-hand") == (written == "note")


@pytest.mark.parametrize("written", ["two words", "line\nline", "\ufeff", "", 42])
def test_what_no_key_can_be_is_not_published(tmp_path: Path, written: object) -> None:
    """Somebody overwrote the value with what cannot be sent: drift, healed with what ECGrid shows."""
    forge = Forge(tmp_path)
    there = forge.scene.published()
    forge.scene.store.write(there.at, {"api_key": written, "note": "by hand"}, there.version)
    assert forge.scene.published().value is None
    assert forge.scene.rotator().repair().outcome == "repaired"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 0)
    document = forge.scene.store.read(there.at, None)
    assert document is not None
    assert document.data["note"] == "by hand"


def test_a_claim_whose_fence_was_lost_is_given_back(tmp_path: Path) -> None:
    """Another writer comes in while a further destination is written: the run starts again, and holds nobody up."""
    forge = Forge(tmp_path, TWO_PLACES)
    scene, left = forge.scene, ["once"]
    further = scene.policy.destinations[1]
    del scene.store.paths[scene.vault.places(scene.policy)[1]]
    lacking = Place(mount=further.mount, path=further.path, field=further.field, version=None)
    forge.write(places=(scene.stored().record.places[0], lacking))

    def gate(call: str) -> str:
        if call == "vault write dr/edi" and left:
            left.pop()
            scene.store.write(scene.vault.places(scene.policy)[1], {"api_key": "by-hand"}, 0)
        return "go"

    scene.rotator(gate).tick()
    assert left == []
    assert scene.stored().record.claim is None
    assert forge.tick().outcome != "busy"
    there = scene.vault.published(further)
    assert there is not None
    assert there.value == scene.published().value


# deleted


def test_a_deleted_record_is_not_one_that_never_was(tmp_path: Path) -> None:
    """It stops, says so, and names `adopt`, which builds it anew."""
    forge = Forge(tmp_path)
    forge.scene.store.delete(forge.scene.vault.record_at("edi"))
    for result in (forge.tick(), forge.scene.rotator().rotate(), forge.scene.rotator().repair()):
        assert result.error is not None
        assert result.error.kind == "vault.Deleted"
        assert "rotator adopt edi" in result.error.message
    assert forge.scene.issued() == 0
    assert forge.scene.rotator().adopt().outcome == "adopted"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 0)
    assert forge.scene.rotator().rotate().outcome == "rotated"


def test_a_deleted_secret_is_not_one_that_never_was(tmp_path: Path) -> None:
    """The same for what is published; nothing is issued."""
    forge = Forge(tmp_path)
    forge.scene.store.delete(forge.scene.published_at())
    forge.scene.pass_time(days=30)
    result = forge.tick()
    assert result.error is not None
    assert result.error.kind == "vault.Deleted"
    assert "rotator adopt edi" in result.error.message
    assert forge.scene.issued() == 0
    assert forge.scene.rotator().adopt().outcome == "adopted"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 0)


@pytest.mark.parametrize("policy", [POLICY, FIRST_ROTATE])
def test_no_record_and_a_secret_that_is_marked_as_ours(tmp_path: Path, policy: str) -> None:
    """It is built anew by itself, with a warning that debts may be lost; nothing is issued."""
    forge = Forge(tmp_path)
    forge.scene.policy = policy_from(tmp_path, policy)
    del forge.scene.store.paths[forge.scene.vault.record_at("edi")]
    result = forge.tick()
    assert (result.outcome, forge.scene.issued(), forge.wrongs()) == ("adopted", 0, [])
    assert any("may be forgotten" in warning for warning in result.warnings)


# records that nobody understands


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": FORMAT + 1, "wonder": True}, "newer rotator"),
        ({"current": "yes"}, "current"),
        ({"surprise": 1}, "surprise"),
        ({"hmac_key": None}, "hmac_key"),
    ],
)
def test_a_record_that_is_not_understood_stops(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    """Nothing is issued, nothing is written, and the message says what is wrong with it."""
    forge = Forge(tmp_path)
    stored, at = forge.scene.stored(), forge.scene.vault.record_at("edi")
    data = stored.record.model_dump(mode="json", exclude_defaults=True) | change
    forge.scene.store.write(at, data, stored.version)
    forge.scene.pass_time(days=31)
    for result in (forge.tick(), forge.scene.rotator().rotate(), forge.scene.rotator().adopt()):
        assert result.error is not None
        assert result.error.kind == "vault.BadRecord"
        assert says in result.error.message
    document = forge.scene.store.read(at, None)
    assert document is not None
    assert (document.version, forge.scene.issued()) == (stored.version + 1, 0)


# debts


def debt(key_id: int, why: Literal["replaced", "stray"] = "replaced") -> Debt:
    """A key that is to be retired, and was due long ago."""
    return Debt(key_id=key_id, user_id=USER, why=why, due_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_debt_that_names_the_current_key_is_dropped(tmp_path: Path) -> None:
    """The key lives."""
    forge = Forge(tmp_path)
    forge.write(retiring=(debt(forge.scene.first.key_id),))
    forge.tick()
    assert (forge.wrongs(), forge.scene.stored().record.retiring) == ([], ())


def test_a_debt_that_names_a_key_that_is_gone_is_paid(tmp_path: Path) -> None:
    """ECGrid says that it never heard of it."""
    forge = Forge(tmp_path)
    forge.write(retiring=(debt(999_999),))
    assert not forge.tick().bad
    assert forge.scene.stored().record.retiring == ()


@pytest.mark.parametrize("staged", [True, False])
def test_a_debt_that_names_the_staged_key_waits(tmp_path: Path, staged: bool) -> None:
    """It may be the cure; once nothing is staged it is retired."""
    forge = Forge(tmp_path)
    made = forge.issue()
    assert made.ref.key_id is not None
    if staged:
        forge.stage(made, OTHER_RUN)
    forge.write(retiring=(debt(made.ref.key_id, why="stray"),))
    forge.tick()
    assert (made.ref.key_id in forge.scene.live()) == staged
    forge.scene.rotator().repair()
    forge.scene.pass_time(hours=1)
    forge.tick()
    assert made.ref.key_id not in forge.scene.live()
    assert forge.wrongs() == []


def test_a_debt_waits_while_vault_shows_another_key(tmp_path: Path) -> None:
    """Consumers may still use it: a warning, and no failure."""
    forge = Forge(tmp_path)
    made = forge.issue()
    assert made.ref.key_id is not None
    forge.publish(made)
    forge.write(retiring=(debt(made.ref.key_id),))
    result = forge.tick()
    assert (result.bad, made.ref.key_id in forge.scene.live()) == (False, True)
    assert any("not retired yet" in warning for warning in result.warnings)


def test_a_debt_waits_while_the_current_key_is_refused(tmp_path: Path) -> None:
    """It may be the last one that works."""
    forge = Forge(tmp_path)
    made = forge.issue()
    assert made.ref.key_id is not None
    forge.write(retiring=(debt(made.ref.key_id),))
    forge.scene.simulator.remove_key(forge.scene.first.key_id)
    forge.tick()
    assert made.ref.key_id in forge.scene.live()


# back-off, limits, places


def failed(forge: Forge, **fields: Any) -> Failed:
    """The last failure, tried again in an hour."""
    now = forge.scene.vault.now()
    about = {
        "at": now,
        "phase": "issue",
        "kind": "ecgrid.Timeout",
        "message": "no answer",
        "attempts": 3,
        "retry_at": now + timedelta(hours=1),
        "digest": forge.scene.policy.digest,
    }
    return Failed(**{**about, **fields})


def test_a_back_off_is_kept_by_every_tick_and_ends(tmp_path: Path) -> None:
    """Until then each says `failed` again, with the error and when it is tried next, and asks ECGrid nothing."""
    forge = Forge(tmp_path)
    forge.scene.pass_time(days=30)
    forge.write(failed=failed(forge))
    forge.scene.asked.clear()
    result = forge.tick()
    assert result.error is not None
    assert (result.error.kind, forge.scene.asked) == ("ecgrid.Timeout", [])
    assert "tried again at" in result.error.message
    forge.scene.pass_time(hours=1, seconds=1)
    assert forge.tick().outcome == "rotated"
    assert forge.scene.stored().record.failed is None


def test_a_back_off_holds_for_one_policy_text_and_not_for_a_rotate_on_demand(
    tmp_path: Path,
) -> None:
    """A changed policy, and `rotate`, clear it."""
    forge = Forge(tmp_path)
    forge.scene.pass_time(days=30)
    forge.write(failed=failed(forge, retry_at=None))
    assert forge.tick().outcome == "failed"
    forge.scene.policy = policy_from(tmp_path, POLICY + "owner: somebody@example.com\n")
    assert forge.tick().outcome == "rotated"
    forge.write(failed=failed(forge, retry_at=None))
    assert forge.scene.rotator().rotate().outcome == "rotated"


def test_a_back_off_does_not_hold_up_what_is_past_issue(tmp_path: Path) -> None:
    """An open rotation is finished by every tick."""
    forge = Forge(tmp_path)
    forge.open()
    made = forge.issue()
    forge.stage(made)
    forge.write(failed=failed(forge))
    assert forge.tick().outcome == "rotated"
    assert forge.wrongs() == []


def test_three_keys_beyond_the_schedule_are_the_limit(tmp_path: Path) -> None:
    """For what begins by itself; a key that is there already is found all the same."""
    forge = Forge(tmp_path)
    earlier = forge.scene.vault.now() - timedelta(minutes=1)
    forge.write(issued=(earlier, earlier, earlier))
    forge.open()
    result = forge.tick()
    assert result.error is not None
    assert (result.error.kind, forge.scene.issued()) == ("rotation.IssueLimit", 0)
    made = forge.issue()
    assert forge.tick().outcome == "rotated"
    assert forge.scene.published().value == made.value


def test_a_missing_destination_is_written_from_one_that_shows_the_key(tmp_path: Path) -> None:
    """By the next tick; nothing is issued, and nothing is retired before."""
    forge = Forge(tmp_path, TWO_PLACES)
    assert forge.scene.rotator().rotate().outcome == "rotated"
    further = forge.scene.policy.destinations[1]
    record = forge.scene.stored().record
    del forge.scene.store.paths[forge.scene.vault.places(forge.scene.policy)[1]]
    lacking = Place(mount=further.mount, path=further.path, field=further.field, version=None)
    forge.write(places=(record.places[0], lacking))
    forge.scene.pass_time(hours=13)
    assert forge.tick().outcome in ("repaired", "retired")
    there = forge.scene.vault.published(further)
    assert there is not None
    assert (there.value, forge.scene.issued()) == (forge.scene.published().value, 1)


def test_no_destination_shows_the_key_that_one_lacks(tmp_path: Path) -> None:
    """That is drift: healed with what ECGrid shows."""
    forge = Forge(tmp_path, TWO_PLACES)
    at = forge.scene.published_at()
    forge.scene.store.write(at, {"note": "by hand"}, forge.scene.published().version)
    del forge.scene.store.paths[forge.scene.vault.places(forge.scene.policy)[1]]
    places = [
        place.model_copy(update={"version": None}) for place in forge.scene.stored().record.places
    ]
    forge.write(places=tuple(places))
    assert forge.tick().outcome == "repaired"
    assert (forge.wrongs(), forge.scene.issued()) == ([], 0)


def test_a_destination_that_was_added_is_written(tmp_path: Path) -> None:
    """By the next tick, with the same key."""
    forge = Forge(tmp_path)
    forge.scene.policy = policy_from(tmp_path, TWO_PLACES)
    assert forge.tick().outcome == "repaired"
    there = forge.scene.vault.published(forge.scene.policy.destinations[1])
    assert there is not None
    assert (there.value, forge.scene.issued()) == (forge.scene.published().value, 0)


def test_a_destination_that_moved_is_written_from_the_old_place(tmp_path: Path) -> None:
    """Which is left as it is."""
    forge = Forge(tmp_path)
    old = forge.scene.published()
    forge.scene.policy = policy_from(tmp_path, POLICY.replace("ecgrid/edi", "new/edi"))
    assert forge.tick().outcome == "repaired"
    assert (forge.scene.published().value, forge.scene.issued()) == (old.value, 0)
    assert forge.scene.store.read(old.at, None) is not None


# a policy that changed in the middle


def test_an_open_rotation_is_finished_for_the_user_that_it_began_with(tmp_path: Path) -> None:
    """Then the policy of now is a new start; the old user's key is left alone."""
    forge = Forge(tmp_path)
    forge.open()
    made = forge.issue()
    forge.stage(made)
    forge.scene.simulator.add_key(OTHER)
    forge.scene.policy = policy_from(tmp_path, POLICY.replace("5001", "5002"))
    results = [forge.tick() for _ in range(2)]
    assert not any(result.bad for result in results)
    assert forge.scene.works() == OTHER
    assert made.ref.key_id in forge.scene.live(USER)
    assert forge.scene.vault.staged("edi") is None


# the same against a real server


REAL = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""


def test_a_soft_delete_on_a_real_server_is_not_one_that_never_was(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Of the record, then of the secret; `adopt` puts both right, with the key that there is."""
    rotator_command.policy("edi", REAL)
    assert rotator_command("run", "--once").code == 0
    for path in ("rotator/record/edi", "ecgrid/edi"):
        vault.call("DELETE", f"{mount}/data/{path}")
        done = rotator_command("rotate", "edi", "--json")
        assert done.code == 1
        assert done.json["results"][0]["error"]["kind"] == "vault.Deleted"
        assert rotator_command("adopt", "edi").code == 0
        data = vault.call("GET", f"{mount}/data/ecgrid/edi")["data"]["data"]
        assert simulator.simulator.who(data["api_key"]) == 5001
    assert simulator.simulator.issued() == 0


def test_an_expired_claim_and_a_staged_key_on_a_real_server(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """The key is published by the next tick; the document is destroyed, all versions and the metadata."""
    rotator_command.policy("edi", REAL)
    assert rotator_command("run", "--once").code == 0
    at = f"{mount}/data/rotator/record/edi"
    record = vault.call("GET", at)["data"]["data"]
    key = simulator.simulator.add_key(5001)
    began = record["rotated_at"]
    underway = {
        "run": RUN,
        "kind": "rotate",
        "reason": "scheduled",
        "by": "elsewhere:1",
        "user_id": 5001,
        "visibility": "Private",
        "issue": "keyset",
        "baseline": record["known"]["5001/Private"],
        "began": began,
        "sent": 1,
    }
    claim = {"holder": "somebody", "by": "elsewhere:1", "until": "2026-01-01T00:00:00Z"}
    vault.call("POST", at, {"data": {**record, "underway": underway, "claim": claim}})
    # Whoever claims lowers the due index first; here it is lost, which costs one slow tick.
    for shard in vault.call("LIST", f"{mount}/metadata/rotator/index")["data"]["keys"]:
        vault.call("DELETE", f"{mount}/metadata/rotator/index/{shard}")
    staged = {
        "run": RUN,
        "by": "somebody",
        "value": key.value,
        "key_id": key.key_id,
        "user_id": 5001,
    }
    vault.call(
        "POST", f"{mount}/data/rotator/staged/edi", {"data": {**staged, "visibility": "Private"}}
    )
    done = rotator_command("run", "--once", "--json")
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    data = vault.call("GET", f"{mount}/data/ecgrid/edi")["data"]["data"]
    assert (data["api_key"] == key.value, simulator.simulator.issued()) == (True, 0)
    with pytest.raises(Exception, match="404"):
        vault.call("GET", f"{mount}/metadata/rotator/staged/edi")


def test_what_steady_records_say_is_readable_to_the_version_before(tmp_path: Path) -> None:
    """The mark and what became of the replaced key come back, in a document of the first format, with its fields."""
    forge = Forge(tmp_path)
    before = set(forge.scene.stored().record.kept())
    noted = forge.scene.stored().record.change(ecgrid="mark", previous_key="refused")
    kept = noted.kept()
    assert kept["format"] == 1
    assert set(kept) == before
    again = Record.parse(kept, "here")
    assert (again.ecgrid, again.previous_key, again.nonce) == ("mark", "refused", noted.nonce)
    assert again.kept() == kept
