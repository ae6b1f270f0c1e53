"""A fleet goes from keyset to generate: what was owed is ended, what was open is finished, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Rotator, until
from worlds import ADMIN, POLICY, USER, Scene, policy_from

from rotator.keys import Issue
from rotator.sandbox.ecgrid import Fault, Running

GENERATE = POLICY + "issue: generate\n"


class Cut(BaseException):
    """The process ends here."""


def ending(call: str, *, carried_out: bool) -> Callable[[str], str]:
    """A gate at which the process ends: before that call, or at the next one after it."""
    met: list[str] = []

    def gate(asked: str) -> str:
        if met or (asked == call and not carried_out):
            raise Cut
        if asked == call:
            met.append(asked)
        return "go"

    return gate


def losing(call: str, fate: str) -> Callable[[str], str]:
    """A gate at which the first such call is lost, or fails."""
    met: list[str] = []

    def gate(asked: str) -> str:
        if asked == call and not met:
            met.append(asked)
            return fate
        return "go"

    return gate


def switch(tmp_path: Path, scene: Scene, text: str = GENERATE) -> None:
    """The policy's file is changed."""
    scene.policy = policy_from(tmp_path, text)


def becomes_the_service(scene: Scene, kept: int | None = None) -> None:
    """ECGrid is in its own form from now on: each user's newest key is its API key; but for one, others are dead."""
    keys = {user_id: scene.simulator.keys(user_id)[-1].value for user_id in (ADMIN, USER)}
    for user_id in keys:
        for record in scene.simulator.keys(user_id):
            if record.key_id != kept:
                scene.simulator.remove_key(record.key_id)
    scene.simulator.switch(form="service")
    for user in scene.simulator.users():
        if user.user_id in keys:
            scene.simulator.add_user(
                user.user_id, auth_level=user.auth_level, api_key=keys[user.user_id]
            )


@pytest.mark.parametrize("one", [True, False])
def test_what_is_owed_is_ended_by_its_id_where_there_are_records(tmp_path: Path, one: bool) -> None:
    """Both the key of an earlier grace, and the last one that has an id; whether or not the API key is a record."""
    scene = Scene(tmp_path, api_key_is_record=one)
    scene.rotator().tick()
    scene.rotator().rotate()
    assert [debt.key_id for debt in scene.stored().record.retiring] == [scene.first.key_id]
    last = scene.published().key_id
    switch(tmp_path, scene)
    result = scene.rotator().rotate()
    assert (result.outcome, result.key_id, result.previous_key_id) == ("rotated", None, last)
    for _ in range(2):
        scene.pass_time(hours=13)
        assert scene.rotator().tick().outcome != "failed"
    assert scene.works() == USER
    assert scene.stored().record.retiring == ()
    assert {key.key_id for key in scene.simulator.keys(USER)}.isdisjoint({scene.first.key_id, last})


@pytest.mark.parametrize("due", [True, False])
@pytest.mark.parametrize("lives", [True, False])
def test_what_is_owed_ends_with_a_warning_where_there_are_none(
    tmp_path: Path, lives: bool, due: bool
) -> None:
    """KeyRemove is never sent; a key whose value is refused is proved all the same."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    last = scene.published().key_id
    becomes_the_service(scene, scene.first.key_id if lives else None)
    switch(tmp_path, scene)
    if due:
        scene.pass_time(hours=13)
    results = [scene.rotator().rotate()]
    for _ in range(2):
        scene.pass_time(hours=13)
        results.append(scene.rotator().tick())
    assert [result.outcome for result in results].count("failed") == 0, results
    assert results[0].outcome == "rotated"
    assert scene.stored().record.retiring == ()
    assert scene.works() == USER
    told = [warning for result in results for warning in result.warnings]
    assert any(f"key {scene.first.key_id} of user" in text for text in told) is lives
    assert not any(f"key {last} of user" in text for text in told)
    assert "DeleteKey" not in scene.asked


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize("keyset", ["add", "replace"])
def test_an_open_rotation_is_finished_in_its_family(
    tmp_path: Path, keyset: str, carried_out: bool
) -> None:
    """Begun by KeySet, finished by KeySet and Get Key after the policy has changed to generate."""
    scene = Scene(tmp_path, keyset=keyset)
    scene.rotator().tick()
    with pytest.raises(Cut):
        scene.rotator(ending("ecgrid KeySet", carried_out=carried_out)).rotate()
    switch(tmp_path, scene)
    scene.pass_time(minutes=5)
    assert scene.rotator().tick().outcome == "rotated"
    assert "GenerateKey" not in scene.asked
    assert scene.published().key_id in scene.live()
    assert (scene.works(), scene.issued()) == (USER, 1)
    assert scene.rotator().rotate().outcome == "rotated"
    assert scene.asked.count("GenerateKey") == 1
    assert scene.works() == USER


def test_an_open_rotation_by_generate_is_finished_in_its_family(tmp_path: Path) -> None:
    """The other way round: no id is published for it, and no key record is asked for."""
    scene = Scene(tmp_path, GENERATE, api_key_is_record=False)
    scene.simulator.add_user(USER, api_key=scene.first.value)
    scene.rotator().tick()
    with pytest.raises(Cut):
        scene.rotator(ending("ecgrid GenerateKey", carried_out=True)).rotate()
    switch(tmp_path, scene, POLICY)
    scene.pass_time(minutes=5)
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.published().key_id is None
    assert (scene.works(), scene.issued()) == (USER, 1)
    assert "KeySet" not in scene.asked
    assert scene.rotator().rotate().outcome == "rotated"
    assert scene.published().key_id is not None
    assert scene.works() == USER


@pytest.mark.parametrize("staged", [True, False])
@pytest.mark.parametrize("dead", [True, False])
def test_an_open_rotation_whose_calls_are_gone_is_given_up(
    tmp_path: Path, staged: bool, dead: bool
) -> None:
    """Nobody can look for its key any more: what Vault shows is made good by the policy's own call."""
    scene = Scene(tmp_path, keyset="replace" if dead else "add")
    scene.rotator().tick()
    cut = ending("ecgrid GetKey" if staged else "ecgrid KeySet", carried_out=staged or dead)
    with pytest.raises(Cut):
        scene.rotator(cut).rotate()
    becomes_the_service(scene)
    switch(tmp_path, scene)
    results = []
    for _ in range(3):
        scene.pass_time(minutes=20)
        results.append(scene.rotator().tick())
    assert results[-1].outcome in ("not-due", "retired"), results
    assert scene.works() == USER
    record = scene.stored().record
    assert (record.underway, record.claim) == (None, None)
    assert scene.vault.staged("edi") is None
    assert any("was given up" in text for result in results for text in result.warnings)
    assert "DeleteKey" not in scene.asked


@pytest.mark.parametrize("fate", ["lose", "fail"])
def test_the_key_of_the_other_family_that_was_there_is_not_taken_for_the_new_one(
    tmp_path: Path, fate: str
) -> None:
    """The record knows key records alone; the first Generate's answer is lost, and there was an API key before."""
    scene = Scene(tmp_path, api_key_is_record=False)
    scene.simulator.add_user(USER, api_key=scene.simulator.add_key(ADMIN).value[::-1])
    before = scene.simulator.api_key(USER)
    scene.rotator().tick()
    switch(tmp_path, scene)
    result = scene.rotator(losing("ecgrid GenerateKey", fate)).rotate()
    assert result.outcome == "rotated"
    assert scene.works() == USER
    assert scene.simulator.api_key(USER) != before
    value = scene.published().value
    assert value is not None
    assert value.is_text(scene.simulator.api_key(USER) or "")


def test_what_is_told_of_a_key_without_an_id_has_no_id_in_it(tmp_path: Path) -> None:
    """After a lost answer, for one."""
    scene = Scene(tmp_path, GENERATE, api_key_is_record=False)
    scene.simulator.add_user(USER, api_key=scene.first.value)
    scene.rotator().tick()
    result = scene.rotator(losing("ecgrid GenerateKey", "lose")).rotate()
    assert any(f"the API key of user {USER} was found by looking" in w for w in result.warnings)
    assert not any("None" in warning for warning in result.warnings)
    assert scene.policy.issue is Issue.GENERATE


def test_a_leaked_key_that_nothing_ends_is_a_failure(tmp_path: Path) -> None:
    """With `--grace 0s` what is dropped is told by exit 1; the next command has nothing to prove any more."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    becomes_the_service(scene, scene.first.key_id)
    switch(tmp_path, scene)
    result = scene.rotator().rotate(retire_now=True)
    assert (result.outcome, result.bad) == ("rotated", True)
    assert any(f"key {scene.first.key_id} of user" in text for text in result.warnings)
    assert scene.works() == USER


# the real command, against an ECGrid that changes its form


REAL = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""
SHORT = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "4s"}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "issue: generate\n"),
        ("verify: key-get\n", "issue: generate\nverify: user-get-api-key\n"),
        ("issue: create-key\n", "issue: generate\n"),
    ],
)
def test_an_interrupted_rotation_and_an_ecgrid_in_another_form(
    rotator_command: Rotator, simulator: Running, before: str, after: str
) -> None:
    """KeySet was carried out and its answer lost with the process; the next tick rotates by Generate."""
    rotator_command.environment |= SHORT
    rotator_command.policy("edi", REAL + indented(before))
    assert rotator_command("run", "--once").code == 0
    model = simulator.simulator
    model.switch(keyset="replace", create_key="replace")
    model.add_fault(Fault("hang", call="issue", seconds=5.0))
    started = rotator_command.start("rotate", "edi")
    until(lambda: model.counts().keys() & {"KeySet", "CreateKey"}, "the issuing request")
    started.kill()
    keys = {user.user_id: model.api_key(user.user_id) for user in model.users()}
    for user in model.users():
        for record in model.keys(user.user_id):
            model.remove_key(record.key_id)
    model.clear_faults()
    model.switch(form="service")
    for user in model.users():
        model.add_user(user.user_id, auth_level=user.auth_level, api_key=keys[user.user_id])
    failed = rotator_command("run", "--once", "--json")
    rotator_command.policy("edi", REAL + indented(after))
    results = []

    def rotated() -> bool:
        """Once the claim of the one that was killed is over."""
        results.append(rotator_command("rotate", "edi", "--json").json["results"][0])
        return bool(results[-1]["outcome"] == "rotated")

    until(rotated, f"it rotates by the other call, after {failed.stdout}", 60)
    told = [text for result in results for text in result["warnings"]]
    assert any("was given up" in text for text in told), told
    assert model.counts().keys().isdisjoint({"KeyRemove", "DeleteKey"})
    assert rotator_command("check", "--json").json["results"][0]["state"] == "in-sync"
    assert rotator_command("run", "--once").code == 0


def indented(lines: str) -> str:
    """As far as the policy above is."""
    return "".join(f"    {line}\n" for line in lines.splitlines())
