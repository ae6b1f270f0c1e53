"""`rollback`: the key before is published again, if ECGrid accepts it still, and nothing is written else."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Rotator, VaultServer
from interleave import quiet_end
from test_restraint import behind_a_proxy
from worlds import ADMIN, OTHER, POLICY, USER, Process, Scene

from rotator.keys import Secret
from rotator.rotation import Order, Result, tend
from rotator.sandbox.ecgrid import Running


def back(process: Process) -> Result:
    """What `rollback NAME` does."""
    return tend(process.run(Order("rollback", reason="the new one fails", named=True)))


def rotated(tmp_path: Path, policy: str = POLICY, times: int = 1, **switches: Any) -> Scene:
    """A scene whose policy was adopted, and then rotated so many times, an hour after each other."""
    scene = Scene(tmp_path, policy, **switches)
    assert scene.rotator().tick().outcome in ("adopted", "rotated")
    for _ in range(times):
        scene.pass_time(hours=1)
        assert scene.rotator().rotate().outcome == "rotated"
    scene.pass_time(hours=1)
    return scene


def documents(scene: Scene) -> str:
    """All that Vault holds, but the due index."""
    told = {
        str(at): [path.latest, path.versions]
        for at, path in scene.store.paths.items()
        if "/index/" not in at.path
    }
    return json.dumps(told, default=str, sort_keys=True)


def refused(scene: Scene, process: Process | None = None) -> str:
    """Rolls back in vain: exit 1 and nothing written; returns why."""
    before = documents(scene)
    result = back(process or scene.rotator())
    assert (result.outcome, result.bad) == ("failed", True)
    assert result.error is not None
    assert documents(scene) == before
    return f"{result.error.kind}: {result.error.message}"


def test_the_key_before_is_published_and_the_newer_one_is_owed_its_end(tmp_path: Path) -> None:
    """Everywhere; due times count from now. The newer key ends after the grace, and the older one lives."""
    scene = rotated(tmp_path, POLICY + "also: [{path: dr/edi}]\nmax_age: 45d\n")
    older, newer = scene.first.key_id, scene.published().key_id
    assert [debt.key_id for debt in scene.stored().record.retiring] == [older]
    result = back(scene.rotator())
    assert (result.outcome, result.key_id, result.previous_key_id) == ("rolled-back", older, newer)
    assert len(result.published) == 2
    record = scene.stored().record
    assert (scene.published().key_id, scene.works()) == (older, USER)
    for to in scene.policy.destinations:
        there = scene.vault.published(to)
        assert there is not None
        assert record.shows(there.value)
        assert there.created == scene.published().created == record.current.created  # type: ignore[union-attr]
    assert [debt.key_id for debt in record.retiring] == [newer]
    assert record.rotated_at == scene.time.now().replace(microsecond=0)
    assert (record.underway, record.claim, record.kept()["format"]) == (None, None, 1)
    scene.pass_time(hours=13)
    assert scene.rotator().tick().outcome == "retired"
    assert scene.live() == {older}
    scene.pass_time(days=29, hours=10)
    assert scene.rotator().tick().outcome == "not-due"
    scene.pass_time(hours=2)
    assert scene.rotator().tick().outcome == "rotated"


def test_once_more_goes_forward_again(tmp_path: Path) -> None:
    """And back, and forth: what was owed for the key that is published is owed no more."""
    scene = rotated(tmp_path, times=2)
    ids = [scene.first.key_id, *sorted(scene.live() - {scene.first.key_id})]
    for expected in (ids[1], ids[2], ids[1], ids[2]):
        assert back(scene.rotator()).outcome == "rolled-back"
        record = scene.stored().record
        assert (scene.published().key_id, scene.works()) == (expected, USER)
        assert {debt.key_id for debt in record.retiring} == set(ids) - {expected}
    assert scene.rotator().repair().outcome == "unchanged"
    assert scene.issued() == 2


def test_other_fields_of_the_secret_are_kept_as_they_are_now(tmp_path: Path) -> None:
    """It is the key that goes back, not the secret; and what others wrote in between is no version of the key."""
    scene = rotated(tmp_path)
    at = scene.published_at()
    for number in range(3):
        document = scene.store.read(at, None)
        assert document is not None
        scene.store.write(at, {**document.data, "note": f"n{number}"}, document.version)
    assert back(scene.rotator()).outcome == "rolled-back"
    document = scene.store.read(at, None)
    assert document is not None
    assert (document.data["key_id"], document.data["note"]) == (scene.first.key_id, "n2")


def test_with_users_the_other_users_key_is_published_and_turns_go_on(tmp_path: Path) -> None:
    """Nothing is owed: the newer key lives until its user's turn, which is next."""
    scene = Scene(tmp_path, POLICY.replace("user_id: 5001", "users: [5001, 5002]"))
    scene.rotator().tick()
    scene.rotator().rotate()
    newer = scene.published()
    assert newer.user_id == OTHER
    owed = scene.stored().record.retiring
    result = back(scene.rotator())
    assert (result.outcome, result.user_id, scene.works()) == ("rolled-back", USER, USER)
    record = scene.stored().record
    assert record.retiring == owed
    assert [held.key_id for held in record.others] == [newer.key_id]
    assert scene.rotator().rotate().outcome == "rotated"
    assert scene.works() == OTHER
    assert newer.key_id in {debt.key_id for debt in scene.stored().record.retiring}
    assert quiet_end(scene, forward=False) == []


def test_keys_without_an_id_are_rolled_back_and_owe_nothing(tmp_path: Path) -> None:
    """With `users`, since Generate ends the one before of the same user, which is refused then."""
    text = POLICY.replace("user_id: 5001", "users: [5001, 5002]") + "issue: generate\n"
    scene = rotated(tmp_path, text)
    assert scene.works() == OTHER
    assert back(scene.rotator()).outcome == "rolled-back"
    assert (scene.works(), scene.stored().record.retiring) == (USER, ())
    single = rotated(tmp_path, POLICY + "issue: generate\n")
    assert "is not accepted by ECGrid any more" in refused(single)


def test_a_key_that_was_replaced_with_grace_0s_never_comes_back_nor_one_before_it(
    tmp_path: Path,
) -> None:
    """Also where it could not be retired; what came after it may."""
    scene = rotated(tmp_path)
    scene.simulator.switch(key_remove="pretends")
    assert scene.rotator().rotate(retire_now=True).failed_retiring
    assert len(scene.live()) == 3
    assert "rotation.NoWayBack" in refused(scene)
    safe = scene.published().key_id
    scene.rotator().rotate()
    assert back(scene.rotator()).outcome == "rolled-back"
    assert scene.published().key_id == safe


def test_a_leaked_key_does_not_come_back_where_the_command_was_killed(tmp_path: Path) -> None:
    """`rotate --grace 0s` is finished by a tick, with the policy's grace: the key lives, and is never published."""
    scene = rotated(tmp_path, times=0)

    def dies(call: str) -> str:
        if call.startswith("vault write ecgrid/"):
            raise KeyboardInterrupt
        return "go"

    with pytest.raises(KeyboardInterrupt):
        scene.rotator(dies).rotate(retire_now=True)
    scene.pass_time(minutes=4)
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.first.key_id in scene.live()
    assert "rotation.NoWayBack" in refused(scene)


def test_without_a_key_before_nothing_is_done(tmp_path: Path) -> None:
    """Never adopted, just adopted, or only known to a version that did not note it."""
    scene = Scene(tmp_path)
    result = back(scene.rotator())
    assert (result.outcome, result.error and result.error.kind) == (
        "failed",
        "rotation.NoWayBack",
    )
    assert scene.record() is None
    scene.rotator().tick()
    assert "rotation.NoWayBack" in refused(scene)
    scene.rotator().rotate()
    stored = scene.stored()
    scene.vault.save(stored.record.change(before=""), stored.version)
    assert "rotation.NoWayBack" in refused(scene)


def test_an_older_key_that_is_refused_or_gone_or_anothers_is_not_published(tmp_path: Path) -> None:
    """Nothing is written, with `probe: false` too."""
    scene = rotated(tmp_path, POLICY + "probe: false\n")
    scene.simulator.remove_key(scene.first.key_id)
    assert "is not accepted by ECGrid any more" in refused(scene)
    gone = rotated(tmp_path)
    path = gone.store.paths[gone.published_at()]
    path.versions[1] = None
    assert "has the key before any more" in refused(gone)
    another = rotated(tmp_path)
    value = another.simulator.add_key(OTHER).value
    stored = another.stored()
    fingerprint = stored.record.fingerprint(Secret(value))
    another.vault.save(stored.record.change(before=fingerprint), stored.version)
    versions = another.store.paths[another.published_at()].versions
    assert versions[1] is not None
    versions[1]["api_key"] = value
    assert "answers as user 5002" in refused(another)


def test_an_account_that_ends_the_replaced_key_at_once_has_no_way_back(tmp_path: Path) -> None:
    """KeySet replaces."""
    assert "is not accepted" in refused(rotated(tmp_path, keyset="replace"))


def test_a_stray_is_never_published_again(tmp_path: Path) -> None:
    """Whatever the secret showed."""
    scene = rotated(tmp_path)
    stored = scene.stored()
    debts = tuple(debt.model_copy(update={"why": "stray"}) for debt in stored.record.retiring)
    scene.vault.save(stored.record.change(retiring=debts), stored.version)
    assert "stray" in refused(scene)


def test_an_open_rotation_goes_first_and_a_claim_is_respected(tmp_path: Path) -> None:
    """Exit 1, and exit 3: busy."""
    scene = rotated(tmp_path)

    def dies(call: str) -> str:
        if call.startswith("vault write ecgrid/"):
            raise KeyboardInterrupt
        return "go"

    with pytest.raises(KeyboardInterrupt):
        scene.rotator(dies).rotate()
    before = documents(scene)
    assert back(scene.rotator()).outcome == "busy"
    assert documents(scene) == before
    scene.pass_time(minutes=4)
    assert "rotation.Open" in refused(scene)
    assert scene.rotator().tick().outcome == "rotated"
    assert back(scene.rotator()).outcome == "rolled-back"


def test_a_rollback_from_before_is_not_taken_for_one_that_others_outran(tmp_path: Path) -> None:
    """Somebody has written the record before the claim: nothing is done, whatever the history tells of earlier ones."""
    scene = rotated(tmp_path, times=2)
    assert back(scene.rotator()).outcome == "rolled-back"
    published, met = scene.published().value, list[str]()

    def outran(call: str) -> str:
        if call == "vault write rotator/record/edi" and not met:
            met.append(call)
            stored = scene.stored()
            scene.vault.save(stored.record.change(nonce="another"), stored.version)
        return "go"

    result = back(scene.rotator(outran))
    assert met
    assert result.error is not None
    assert (result.outcome, result.error.kind) == ("failed", "rotation.Contended")
    assert scene.published().value == published


def test_one_that_is_older_than_max_age_is_warned_of(tmp_path: Path) -> None:
    """It is published all the same."""
    scene = Scene(tmp_path, POLICY + "max_age: 31d\n")
    scene.rotator().tick()
    scene.pass_time(days=32)
    scene.rotator().tick()
    result = back(scene.rotator())
    assert result.outcome == "rolled-back"
    assert any("max_age" in warning for warning in result.warnings)


def test_a_key_whose_end_was_asked_for_is_watched(tmp_path: Path) -> None:
    """KeyRemove was sent, and may still land: the published key is probed at every tick for a while."""
    scene = rotated(tmp_path)
    stored = scene.stored()
    debts = tuple(debt.model_copy(update={"tried": 1}) for debt in stored.record.retiring)
    scene.vault.save(stored.record.change(retiring=debts), stored.version)
    assert back(scene.rotator()).outcome == "rolled-back"
    newer = scene.simulator.keys(USER)[-1].key_id
    scene.simulator.remove_key(scene.first.key_id)
    scene.pass_time(minutes=1)
    result = scene.rotator().tick()
    assert result.outcome in ("repaired", "rotated")
    assert scene.works() == USER
    assert newer in scene.live() or scene.published().key_id != newer


def test_an_ecgrid_that_accepts_any_key_proves_none(tmp_path: Path) -> None:
    """With `probe: false` too: what was read is only published if it is proved."""
    scene = rotated(tmp_path, POLICY + "probe: false\n")
    assert "ecgrid.AcceptsAnything" in refused(scene, behind_a_proxy(scene))


# killed at every call


class Killed(BaseException):
    """No `except Exception` of the program may see this."""


def dies_at(number: int) -> tuple[Callable[[str], str], list[str]]:
    """A gate that ends the process before its call of that number; and the calls that passed."""
    passed: list[str] = []

    def gate(call: str) -> str:
        if len(passed) == number:
            raise Killed
        passed.append(call)
        return "go"

    return gate, passed


def refuse(scene: Scene) -> None:
    """ECGrid accepts the older key no more."""
    scene.simulator.remove_key(scene.first.key_id)


def lose(scene: Scene) -> None:
    """Vault has the older key's version no more."""
    scene.store.paths[scene.published_at()].versions[1] = None


def give_away(scene: Scene) -> None:
    """The older value is another user's from now on."""
    refuse(scene)
    scene.simulator.add_key(ADMIN, value=scene.first.value)


BEFALLS: dict[str, Callable[[Scene], None]] = {
    "nothing": lambda _scene: None,
    "refused": refuse,
    "gone": lose,
    "another's": give_away,
}
FINISHERS: dict[str, Callable[[Process], Result]] = {"tick": Process.tick, "check": Process.repair}
KINDS = {
    "one": POLICY,
    "two destinations": POLICY + "also: [{path: dr/edi}]\n",
    "two users": POLICY.replace("user_id: 5001", "users: [5001, 5002]"),
}


def wrongs(scene: Scene, issued: int) -> list[str]:
    """Everything that is not as it must be after three ticks."""
    record, told = scene.stored().record, []
    if scene.works() not in scene.policy.users:
        told.append("what is published is not accepted")
    for to in scene.policy.destinations:
        there = scene.vault.published(to)
        if there is None or not record.shows(there.value):
            told.append(f"{to.path} does not show what the record says")
    if record.underway or record.claim or record.kept()["format"] != 1:
        told.append("something is open")
    if scene.issued() + scene.issued(OTHER) != issued:
        told.append("a key was issued")
    ours = {held.key_id for held in (record.current, *record.others) if held}
    owed = [debt.key_id for debt in record.retiring]
    live = {key_id for user_id in scene.policy.users for key_id in scene.live(user_id)}
    if live - ours - set(owed):
        told.append(f"live keys {live}, and nobody will end some of them")
    if len(owed) != len(set(owed)) or set(owed) & ours:
        told.append(f"debts {owed}, ours {ours}")
    return told


@pytest.mark.sampled(6)
@pytest.mark.parametrize("finisher", FINISHERS)
@pytest.mark.parametrize("befalls", BEFALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_rollback_that_is_killed_anywhere_is_finished_or_undone(
    tmp_path: Path, kind: str, befalls: str, finisher: str
) -> None:
    """After three ticks what is published is accepted, no key was issued, and each other one is owed its end."""
    for number in itertools.count():
        scene = rotated(tmp_path, KINDS[kind])
        issued, newer = scene.issued() + scene.issued(OTHER), scene.published().key_id
        gate, passed = dies_at(number)
        over = False
        with suppress(Killed):
            over = back(scene.rotator(gate)).outcome == "rolled-back"
        current = scene.stored().record.current
        assert current is not None
        settled = current.key_id == scene.first.key_id
        claimed = any(call.startswith("vault write rotator/record") for call in passed)
        if settled and befalls != "nothing":  # what befalls a key from then on is a drift
            break
        BEFALLS[befalls](scene)
        scene.pass_time(minutes=4)
        results = [FINISHERS[finisher](scene.rotator())]
        results += [scene.rotator().tick() for _ in range(2)]
        told = [(result.outcome, result.error, result.warnings) for result in results]
        assert not wrongs(scene, issued), (number, passed, wrongs(scene, issued), told)
        if befalls == "nothing":
            expected = scene.first.key_id if claimed else newer
            assert scene.published().key_id == expected, (number, passed, told)
        scene.pass_time(hours=13)
        scene.rotator().tick()
        assert not wrongs(scene, issued), (number, passed, wrongs(scene, issued), told)
        if over:
            break
    assert number > 6


# the real command


def test_the_command_rolls_back_and_forward_again(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """What it says beforehand and afterwards; hooks run; a claim is exit 3, no way back exit 1."""
    hook = rotator_command.directory / "told"
    rotator_command.policy("edi", POLICY + f"after: [{{exec: [/usr/bin/touch, {hook}]}}]\n")
    assert rotator_command("rollback", "edi").code == 1
    assert rotator_command("run", "--once").code == 0
    assert rotator_command("rollback", "edi").code == 1
    assert rotator_command("rotate", "edi").code == 0
    hook.unlink()
    at = f"{mount}/data/ecgrid/edi"
    newer = vault.call("GET", at)["data"]["data"]["key_id"]
    (older,) = [one.key_id for one in simulator.simulator.keys(USER) if one.key_id != newer]
    (told,) = rotator_command("rollback", "edi", "--dry-run", "--json").json["results"]
    assert (told["outcome"], told["key_id"], told["previous_key_id"]) == (
        "would-rotate",
        older,
        newer,
    )
    assert vault.call("GET", at)["data"]["data"]["key_id"] == newer
    done = rotator_command("rollback", "edi", "--reason", "the new one fails", "--json")
    (told,) = done.json["results"]
    assert (done.code, done.json["summary"]) == (0, {"rolled-back": 1})
    assert (told["key_id"], told["previous_key_id"]) == (older, newer)
    assert told["previous_key_until"] is not None
    assert hook.exists()
    assert vault.call("GET", at)["data"]["data"]["key_id"] == older
    (line,) = [
        one
        for one in rotator_command("history", "edi", "--json").json["history"]
        if one["what"] == "rollback"
    ]
    assert (line["outcome"], line["reason"]) == ("rolled-back", "the new one fails")
    assert rotator_command("check", "edi").code == 0
    assert rotator_command("rollback", "edi").code == 0
    assert vault.call("GET", at)["data"]["data"]["key_id"] == newer
    record = f"{mount}/data/rotator/record/edi"
    data = vault.call("GET", record)["data"]["data"]
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    claim = {"holder": "x", "by": "another", "until": later}
    vault.call("POST", record, {"data": data | {"claim": claim}})
    assert rotator_command("rollback", "edi").code == 3
    assert rotator_command("rollback").code == 2
