"""Records of every shape as the version before wrote them: this one reads them and goes on, and writes what that reads.

`records/*.json` was left by that version's code, killed where the name says. Values, fingerprints and their key stand
there as words, and are made anew at each load.
"""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from interleave import quiet_end
from memory import _Path
from worlds import ADMIN, USER, Scene

from rotator.errors import Permanent
from rotator.journal import FORMAT, SINCE, Record
from rotator.keys import Secret
from rotator.rotation import Order, tend
from rotator.system import System
from rotator.vault import At

RECORDS = Path(__file__).parent / "records"
SHAPES = sorted(path.stem for path in RECORDS.glob("*.json"))
# The fields of a record that the version before knows; it refuses any other.
KNOWN = {
    *("format", "policy", "nonce", "hmac_key", "current", "others", "known", "claim", "underway"),
    *("retiring", "issued", "places", "failed", "history", "hooks_due", "rotated_at", "checked_at"),
    *("watch_until", "owner_reads", "probe_tells", "caller"),
}
KNOWN_OF_PAST = {
    *("at", "duration_s", "outcome", "reason", "by", "run", "user_id", "key_id"),
    *("previous_key_id", "published", "error", "hooks"),
}


def _put_together(told: dict[str, Any]) -> str | None:
    """The policy's digest in the record, which stands there in parts; None if there is none."""
    (record,) = told["documents"]["rotator/record/edi"]["versions"].values()
    failed = record.get("failed")
    if failed is None:
        return None
    failed["digest"] = failed["digest"].replace(" ", "")
    return str(failed["digest"])


def left(tmp_path: Path, shape: str) -> tuple[Scene, dict[str, Any]]:
    """The world as it was left; ECGrid has the same keys with other values."""
    told: dict[str, Any] = json.loads((RECORDS / f"{shape}.json").read_text())
    scene = Scene(tmp_path, told["policy"], seed=secrets.randbelow(2**32))
    made = {scene.admin.key_id: scene.admin, scene.first.key_id: scene.first}
    for key in told["keys"]:
        scene.time.seconds = key["created"]
        while (
            key["key_id"] not in made
        ):  # between them there was one that nobody speaks of any more
            one = scene.simulator.add_key(key["user_id"])
            made[one.key_id] = one
    for key_id in made.keys() - {key["key_id"] for key in told["keys"] if key["live"]}:
        scene.simulator.remove_key(key_id)
    scene.time.seconds = told["seconds"]
    told["digest"] = _put_together(told)
    scene.simulator.switch(**told["switches"])
    hmac_key = secrets.token_bytes(32)
    words = {"hmac key": base64.b64encode(hmac_key).decode()}
    for key_id, one in made.items():
        words[f"fingerprint of {key_id}"] = Secret(one.value).fingerprint(hmac_key)
        words[f"value of {key_id}"] = one.value
    for path, document in told["documents"].items():
        text = json.dumps(document["versions"])
        for word, meaning in words.items():
            text = text.replace(word, meaning)
        versions = {int(number): data for number, data in json.loads(text).items()}
        at = At("secret", path)
        scene.store.paths[at] = _Path(versions, document["latest"], dict(document["custom"]))
    return scene, told


def test_every_shape_is_here() -> None:
    """Steady, in grace, open at each step, users in turn, generate, failed, at the limit, of a clock that was ahead."""
    for shape in (
        "adopted",
        "in-grace",
        "users",
        "generate",
        "failed",
        "at-the-limit",
        "times-ahead",
    ):
        assert shape in SHAPES
    for step in ("claimed", "issued", "staged", "published", "unstaged"):
        assert {f"{step}-add", f"{step}-replace"} <= set(SHAPES)
    assert {"not-retired", "lacks-a-destination", "hooks-due", "with-a-stray"} <= set(SHAPES)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_version_before_left_is_gone_on_with(tmp_path: Path, shape: str) -> None:
    """Nothing is lost, nothing is done twice, and at the end all is in order."""
    scene, _ = left(tmp_path, shape)
    issued = scene.issued()
    scene.rotator().tick()
    assert scene.issued() - issued <= (shape in EXPECTED)
    scene.pass_time(minutes=20, days=41 if shape == "times-ahead" else 0)  # then its debt is due
    assert quiet_end(scene) == []


# What needs a key that is not there yet: the claim was taken and nothing sent, what was made cannot be read, or the
# requests that were counted to the limit made nothing, and are over.
EXPECTED = {"claimed-add", "claimed-replace", "with-a-stray", "at-the-limit"}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_this_version_writes_is_read_by_the_version_before(tmp_path: Path, shape: str) -> None:
    """As long as nothing is set that it does not know: format 1, and no field but its own."""
    scene, _ = left(tmp_path, shape)
    scene.rotator().tick()
    scene.pass_time(minutes=20)
    for _ in range(2):
        document = scene.store.read(scene.vault.record_at("edi"), None)
        assert document is not None
        assert document.data.get("format", 1) == 1
        assert set(document.data) <= KNOWN
        for line in document.data["history"]:
            assert set(json.loads(line)) <= KNOWN_OF_PAST
        assert scene.rotator().rotate().outcome == "rotated"


def test_an_upgrade_clears_no_back_off(tmp_path: Path) -> None:
    """The digest of a policy is computed over what it comes to, so it is the same as before."""
    scene, told = left(tmp_path, "failed")
    assert scene.policy.digest == told["digest"]
    assert scene.rotator().tick().outcome == "failed"
    assert scene.asked == []


@pytest.mark.parametrize("shape", ["staged-replace", "generate-staged"])
def test_a_staged_key_of_the_version_before_is_the_one_that_is_published(
    tmp_path: Path, shape: str
) -> None:
    """Its value is nowhere else."""
    scene, told = left(tmp_path, shape)
    staged = scene.vault.staged("edi")
    assert staged is not None
    assert staged.key is not None
    scene.simulator.switch(read_back="masked", list_shows="masked", api_key_shows="masked")
    issued = scene.issued()
    scene.rotator().tick()
    scene.pass_time(minutes=20)
    scene.rotator().tick()
    assert (scene.published().value, scene.issued()) == (staged.key.value, issued)
    assert told["seconds"] > 0


def test_a_record_of_the_version_before_knows_no_way_back(tmp_path: Path) -> None:
    """Nor whether what it replaced had leaked: nothing is written. What this version replaces may come back."""
    scene, _ = left(tmp_path, "in-grace")
    written = len(scene.store.log)
    order = Order("rollback", named=True)
    result = tend(scene.rotator().run(order))
    assert (result.outcome, result.error and result.error.kind) == (
        "failed",
        "rotation.NoWayBack",
    )
    assert len(scene.store.log) == written
    assert scene.rotator().rotate().outcome == "rotated"
    document = scene.store.read(scene.vault.record_at("edi"), None)
    assert document is not None
    assert document.data["format"] == 1
    assert set(document.data) <= KNOWN
    assert tend(scene.rotator().run(order)).outcome == "rolled-back"
    assert scene.works() == USER


def test_a_rollback_under_way_is_refused_by_the_version_before(tmp_path: Path) -> None:
    """Its record has a newer format until it is settled, and so has one that is held until it is released."""
    scene, _ = left(tmp_path, "in-grace")
    scene.rotator().rotate()

    def dies(call: str) -> str:
        if call.startswith("vault write ecgrid/"):
            raise KeyboardInterrupt
        return "go"

    with pytest.raises(KeyboardInterrupt):
        tend(scene.rotator(dies).run(Order("rollback", named=True)))
    document = scene.store.read(scene.vault.record_at("edi"), None)
    assert document is not None
    assert document.data["format"] == max(SINCE.values()) == FORMAT
    with pytest.raises(Permanent, match="upgrade this one"):
        Record.parse({**document.data, "format": FORMAT + 1}, "here")
    scene.pass_time(minutes=4)
    assert scene.rotator().tick().outcome == "rolled-back"
    assert scene.stored().record.kept()["format"] == 1


def test_a_clock_that_was_ahead_holds_nothing_up(tmp_path: Path) -> None:
    """Times of the record are 40 days ahead: the policy rotates on demand, and by schedule within its period."""
    scene, _ = left(tmp_path, "times-ahead")
    assert scene.rotator().rotate().outcome == "rotated"
    scene.pass_time(days=31)
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.works() == USER
    assert scene.live(ADMIN) == {scene.admin.key_id}


def test_what_a_newer_version_notes_of_ecgrid_is_read_over() -> None:
    """A further surface, and a field that is new: the mark and what else is known stay."""
    system = System.new().change(mark="m", hosts={"rest": "here"}, network_id=7)
    newer = system.kept() | {"news": 1, "hosts": {"rest": "here", "other": "there"}}
    read = System.parse(newer)
    assert read is not None
    assert (read.mark, read.hosts, read.network_id) == ("m", {"rest": "here"}, 7)
