"""Retiring is a debt: a key that could not be retired stays one, is said, and holds nothing else up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from memory import go
from worlds import OTHER, POLICY, USER, Process, Scene

from rotator.errors import AnswerLost, Forbidden, NotFound
from rotator.fleet.standing import row
from rotator.keys import KeyRef
from rotator.rotation import Order, compare


def debts(scene: Scene) -> list[int | None]:
    """The keys that are still to be retired."""
    return [debt.key_id for debt in scene.stored().record.retiring]


def removing(*fates: type[AnswerLost | NotFound]) -> Callable[[str], str]:
    """A gate at which the next KeyRemoves end so, and nothing is removed."""
    left = list(fates)

    def gate(call: str) -> str:
        if call == "ecgrid DeleteKey" and left:
            raise left.pop(0)("refused", kind="ecgrid.InternalError")
        return "go"

    return gate


def test_a_removal_that_ecgrid_only_pretends_is_found_out(tmp_path: Path) -> None:
    """Its yes is no proof: the key is still accepted, which is said, and tried again."""
    scene = Scene(tmp_path, key_remove="pretends")
    scene.rotator().tick()
    result = scene.rotator().rotate(retire_now=True)
    assert (result.outcome, result.bad) == ("rotated", True)
    assert any("still accepted" in warning for warning in result.warnings)
    assert debts(scene) == [scene.first.key_id]
    for _ in range(3):
        scene.pass_time(minutes=11)
        result = scene.rotator().tick()
        assert result.error is not None
        assert (result.error.kind, result.phase) == ("ecgrid.NotRetired", "retire")
    assert (scene.works(), debts(scene)) == (USER, [scene.first.key_id])
    assert scene.stored().record.retiring[0].tried == 4
    scene.simulator.switch(key_remove="removes")
    scene.pass_time(minutes=11)
    assert scene.rotator().tick().outcome == "retired"
    assert debts(scene) == []
    assert scene.simulator.who(scene.first.value) is None


def test_500_three_times_then_404(tmp_path: Path) -> None:
    """The debt stays until ECGrid says that the key is gone, and so it is; meanwhile rotations go on."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.pass_time(hours=13)
    gate = removing(AnswerLost, AnswerLost, AnswerLost)
    for tried in (1, 2, 3):
        result = scene.rotator(gate).tick()
        assert result.error is not None
        assert result.error.kind == "ecgrid.NotRetired"
        assert debts(scene) == [scene.first.key_id]
        assert scene.stored().record.retiring[0].tried == tried
        assert row(scene.policy, scene.record(), scene.vault.now()).state == "failed"
        scene.pass_time(minutes=11)
    assert scene.rotator(lambda call: "fail" if "DeleteKey" in call else "go").rotate().outcome == (
        "rotated"
    )
    assert (scene.works(), scene.issued()) == (USER, 2)
    assert scene.first.key_id in debts(scene)
    scene.simulator.remove_key(scene.first.key_id)  # by somebody else
    scene.pass_time(minutes=11)
    assert scene.rotator().tick().outcome == "retired"
    assert scene.first.key_id not in debts(scene)


def test_a_404_for_a_key_that_is_still_accepted_pays_nothing(tmp_path: Path) -> None:
    """Whatever ECGrid answers, the key's own value is asked with."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    result = scene.rotator(removing(NotFound)).rotate(retire_now=True)
    assert result.bad
    assert debts(scene) == [scene.first.key_id]
    assert scene.simulator.who(scene.first.value) == USER


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_lost_answer_is_settled_by_looking(tmp_path: Path, carried_out: bool) -> None:
    """Carried out or not: the value tells."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    fate = "lose" if carried_out else "fail"
    gated = scene.rotator(lambda call: fate if call == "ecgrid DeleteKey" else "go")
    result = gated.rotate(retire_now=True)
    assert result.bad is not carried_out
    assert (debts(scene) == []) is carried_out


# proof


def without_old_versions(scene: Scene, gate: Callable[[str], str] = go) -> Callable[[str], str]:
    """A gate behind which the published secret keeps its latest version only."""

    def keeping_one(call: str) -> str:
        path = scene.store.paths.get(scene.published_at())
        if path is not None:
            path.versions = {path.latest: path.versions[path.latest]}
        return gate(call)

    return keeping_one


def refusing(*calls: str) -> Callable[[str], str]:
    """A gate at which ECGrid refuses these calls to everybody."""

    def gate(call: str) -> str:
        if call.removeprefix("ecgrid ") in calls:
            raise Forbidden("refused", kind="ecgrid.AccessDenied")
        return "go"

    return gate


def test_without_the_value_a_yes_that_the_list_contradicts_pays_nothing(tmp_path: Path) -> None:
    """Vault has the old value no more; the list shows the key before and after."""
    scene = Scene(tmp_path, key_remove="pretends")
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.pass_time(hours=13)
    assert scene.rotator(without_old_versions(scene)).tick().bad
    assert debts(scene) == [scene.first.key_id]
    scene.simulator.switch(key_remove="removes")
    scene.pass_time(minutes=1)
    assert scene.rotator(without_old_versions(scene)).tick().outcome == "retired"
    assert (debts(scene), scene.simulator.who(scene.first.value)) == ([], None)


@pytest.mark.parametrize("now", [True, False])
def test_what_nobody_shows_is_not_removed(tmp_path: Path, now: bool) -> None:
    """Neither a list nor Get Key shows the id as that user's: nothing is sent. With --grace 0s that is exit 1."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.pass_time(hours=13)
    scene.asked.clear()
    hidden = scene.rotator(without_old_versions(scene, refusing("ListKeys", "GetKey")))
    if now:
        leaked = hidden.rotate(retire_now=True)  # the new key cannot be read back, either
        assert leaked.bad
    else:
        result = hidden.tick()
        assert (result.outcome, result.bad) == ("not-due", False)
        assert any("nothing was sent" in warning for warning in result.warnings)
    assert "DeleteKey" not in scene.asked
    assert scene.first.key_id in debts(scene)


def test_a_list_that_shows_nothing_proves_nothing(tmp_path: Path) -> None:
    """It lacks the current key, too: a view that cannot be believed."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.pass_time(hours=13)
    removed: list[str] = []

    def gate(call: str) -> str:
        if call == "ecgrid DeleteKey":
            removed.append(call)
            raise AnswerLost("no answer", kind="ecgrid.Timeout")
        if call == "ecgrid ListKeys" and removed:
            for key in list(scene.simulator.keys(USER)):
                hidden.append(key.key_id)
                scene.simulator.remove_key(key.key_id)
        return "go"

    hidden: list[int] = []
    assert scene.rotator(without_old_versions(scene, gate)).tick().bad
    assert len(hidden) == 2
    assert debts(scene) == [scene.first.key_id]


def test_a_debt_of_a_strangers_key_is_never_removed(tmp_path: Path) -> None:
    """Ids of another ECGrid, or a record that was put together by hand: it is not shown as this user's key."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    stranger = scene.simulator.add_key(OTHER)
    stored = scene.stored()
    owed = stored.record.owing(
        KeyRef(stranger.key_id, USER, None, None), "replaced", scene.vault.now()
    )
    scene.vault.save(owed.change(nonce="forged"), stored.version)
    scene.asked.clear()
    for _ in range(2):
        result = scene.rotator().tick()
        scene.pass_time(minutes=11)
        assert not result.bad
    assert "DeleteKey" not in scene.asked
    assert scene.simulator.who(stranger.value) == OTHER


def test_a_destination_that_names_the_key_keeps_it(tmp_path: Path) -> None:
    """Its id stands beside the current value: somebody merged two documents, and nothing is removed."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    there = scene.store.read(scene.published_at(), None)
    assert there is not None
    scene.store.write(
        scene.published_at(), {**there.data, "key_id": scene.first.key_id}, there.version
    )
    scene.pass_time(hours=13)
    result = scene.rotator().tick()
    assert any("shows it" in warning for warning in result.warnings)
    assert scene.simulator.who(scene.first.value) == USER


def test_an_id_under_which_the_published_value_is_shown_is_kept(tmp_path: Path) -> None:
    """ECGrid has moved the value to the id that is owed: to remove that would cut the consumers off."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    published = scene.published().value
    assert published is not None
    for record in scene.simulator.keys(USER):
        scene.simulator.remove_key(record.key_id)
    scene.simulator.add_key(USER, key_id=scene.first.key_id, value=published.reveal())
    scene.pass_time(hours=13)
    result = scene.rotator().tick()
    assert any("the published value under its id" in warning for warning in result.warnings)
    assert debts(scene) == [scene.first.key_id]
    assert scene.works() == USER


# an id that nobody tells


def adopted_blind(scene: Scene) -> Process:
    """The destination holds the value by hand, and at adoption nobody may list or read the user's keys."""
    scene.store.write(scene.published_at(), {"api_key": scene.first.value}, 0)
    process = scene.rotator(refusing("ListKeys", "GetKey"))
    result = process.tick()
    assert (result.outcome, result.key_id) == ("adopted", None)
    assert any("nobody tells the id" in warning for warning in result.warnings)
    return process


@pytest.mark.parametrize("retire_now", [True, False])
@pytest.mark.parametrize("to_whom", ["anyone", "owner-403"])
def test_an_id_that_is_told_later_is_retired(
    tmp_path: Path, to_whom: str, retire_now: bool
) -> None:
    """The rights come after the adoption, be it to the key itself alone: with the replaced value its id is found."""
    scene = Scene(tmp_path, private_read=to_whom)
    adopted_blind(scene)
    assert not scene.rotator().rotate(retire_now=retire_now).bad
    scene.pass_time(hours=13)
    scene.rotator().tick()
    assert scene.simulator.who(scene.first.value) is None
    assert scene.works() == USER


def test_an_owner_may_see_what_the_rotator_may_not(tmp_path: Path) -> None:
    """At adoption the key itself asks for its id."""
    scene = Scene(tmp_path, private_read="owner-403")
    scene.store.write(scene.published_at(), {"api_key": scene.first.value}, 0)
    asked: list[str] = []

    def gate(call: str) -> str:
        asked.append(call)
        if call == "ecgrid ListKeys" and asked.count(call) == 1:
            raise Forbidden("refused", kind="ecgrid.AccessDenied")
        return "go"

    assert scene.rotator(gate).tick().key_id == scene.first.key_id


def test_a_leak_response_fails_while_a_key_without_an_id_is_accepted(tmp_path: Path) -> None:
    """Nobody tells the id, before or after: exit 1, and what to do; well once a person has removed it."""
    scene = Scene(tmp_path)
    adopted_blind(scene)
    blind = refusing("ListKeys")
    result = scene.rotator(blind).rotate(retire_now=True)
    assert (result.outcome, result.bad) == ("rotated", True)
    assert any("by hand" in warning for warning in result.warnings)
    assert scene.simulator.who(scene.first.value) == USER
    scene.simulator.remove_key(scene.first.key_id)
    assert not scene.rotator().rotate(retire_now=True).bad


def test_a_published_key_without_an_id_is_not_one_that_the_policy_does_not_know(
    tmp_path: Path,
) -> None:
    """`check` says in-sync, without a warning."""
    scene = Scene(tmp_path)
    adopted_blind(scene)
    found = compare(scene.rotator().run(Order("repair")))
    assert (found.state, found.warnings) == ("in-sync", [])


# failed and postponed


def test_a_failed_retirement_is_a_failure_at_every_tick(tmp_path: Path) -> None:
    """Tried again after 30 s, then with a back-off up to an hour; exit 1 in between, and `failed` in `status`."""
    scene = Scene(tmp_path, key_remove="pretends")
    scene.rotator().tick()
    assert scene.rotator().rotate(retire_now=True).bad
    pauses = []
    for _ in range(9):
        scene.asked.clear()
        result = scene.rotator().tick()
        assert (result.outcome, result.phase, result.bad) == ("failed", "retire", True)
        assert scene.asked == []
        assert row(scene.policy, scene.record(), scene.vault.now()).state == "failed"
        left = scene.stored().record.retiring[0].due_at - scene.vault.now()
        pauses.append(round(left.total_seconds()))
        scene.pass_time(seconds=left.total_seconds() + 1)
        assert scene.rotator().tick().bad
        assert "DeleteKey" in scene.asked
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert scene.rotator().rotate().outcome == "rotated"  # it holds nothing up
    scene.simulator.switch(key_remove="removes")
    scene.pass_time(hours=13)
    assert scene.rotator().tick().outcome == "retired"
    assert not scene.rotator().tick().bad


def test_a_look_that_fails_backs_off(tmp_path: Path) -> None:
    """Vault refuses the staged path: failed before anything was sent, and not a write at every turn."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    scene.pass_time(hours=13)

    def gate(call: str) -> str:
        if call == "vault read rotator/staged/edi":
            raise Forbidden("refused", kind="vault.Forbidden")
        return "go"

    process, before = scene.rotator(gate), len(scene.store.log)
    for _ in range(12):
        assert process.tick().bad
        scene.pass_time(seconds=10)
    assert len(scene.store.log) - before <= 2 * 3  # two writes a try; tried at 0, 30 and 90 s
    assert row(scene.policy, scene.record(), scene.vault.now()).state == "failed"
    scene.pass_time(minutes=5)
    assert scene.rotator().tick().outcome == "retired"


def test_what_is_rightly_kept_is_not_told_as_retired(tmp_path: Path) -> None:
    """Postponed: a warning, exit 0, and the outcome says that nothing was done."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    old = scene.store.read(scene.published_at(), 1)
    assert old is not None
    scene.store.write(scene.published_at(), old.data, 2)
    scene.pass_time(hours=13)
    result = scene.rotator().tick()
    assert (result.outcome, result.bad) == ("not-due", False)
    assert row(scene.policy, scene.record(), scene.vault.now()).state == "ok"


# keys that have no id: the generate family

GENERATES = POLICY + "issue: generate\n"
IN_TURN = GENERATES.replace("user_id: 5001", "users: [5001, 5002]")


def test_a_generated_key_that_was_replaced_is_proved_refused(tmp_path: Path) -> None:
    """`--grace 0s` probes it."""
    scene = Scene(tmp_path, GENERATES)
    scene.rotator().tick()
    process = scene.rotator()
    assert process.rotate().outcome == "rotated"
    scene.asked.clear()
    assert not process.rotate(retire_now=True).bad
    assert scene.asked.count("GetMe") >= 2
    assert scene.issued() == 2


def test_a_generate_that_leaves_the_old_key_alive_fails_the_leak_response(tmp_path: Path) -> None:
    """An account where the user's API key is a thing of its own: the adopted value still works."""
    scene = Scene(tmp_path, GENERATES)
    scene.rotator().tick()
    scene.simulator.switch(api_key_is_record=False)
    result = scene.rotator().rotate(retire_now=True)
    assert (result.outcome, result.bad) == ("rotated", True)
    assert any("still accepted" in warning for warning in result.warnings)


def test_the_other_users_generated_key_is_ended_by_generating_once_more(tmp_path: Path) -> None:
    """Counted before it is sent, and its answer is in no secret, no record and no message."""
    scene = Scene(tmp_path, IN_TURN)
    scene.simulator.add_key(OTHER)
    scene.rotator().tick()
    scene.rotator().rotate()
    other = scene.published().value
    assert other is not None
    process = scene.rotator()
    result = process.rotate(retire_now=True)
    assert (result.outcome, result.bad, result.user_id) == ("rotated", False, USER)
    assert scene.simulator.who(other.reveal()) is None
    record = scene.stored().record
    assert (record.others, len(record.issued)) == ((), 1)
    assert scene.works() == USER
    dropped = [key.value for key in scene.simulator.keys(OTHER) if key.live]
    assert len(dropped) == 1
    everything = [path.versions for path in scene.store.paths.values()]
    assert dropped[0] not in repr((everything, process.events, result))
    assert scene.rotator().rotate().user_id == OTHER


@pytest.mark.parametrize("fate", ["fail", "lose"])
def test_a_lost_answer_to_the_last_generate_is_settled_by_the_value(
    tmp_path: Path, fate: str
) -> None:
    """Carried out or not: the other user's value tells, and what is not proved is exit 1."""
    scene = Scene(tmp_path, IN_TURN)
    scene.simulator.add_key(OTHER)
    scene.rotator().tick()
    scene.rotator().rotate()
    other = scene.published().value
    assert other is not None
    asked: list[str] = []

    def gate(call: str) -> str:
        asked.append(call)
        return fate if call == "ecgrid GenerateKey" and asked.count(call) == 2 else "go"

    result = scene.rotator(gate).rotate(retire_now=True)
    assert result.bad is (fate == "fail")
    assert (scene.simulator.who(other.reveal()) is None) is (fate == "lose")
    assert not scene.rotator().rotate(retire_now=True).bad
