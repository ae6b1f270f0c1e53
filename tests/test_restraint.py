"""How few keys are issued while something is wrong: slow keys, refused publishing, a full account, a blind probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Roles, Rotator, VaultServer
from memory import Direct
from receiver import Taking
from test_vault_policy import RIGHTS, SHIPPED, without
from worlds import POLICY, USER, Process, Scene

from rotator.ecgrid import Urgency
from rotator.errors import Forbidden, Permanent, Transient
from rotator.fleet import Fleet
from rotator.fleet.dispatch import Alarms
from rotator.fleet.reports import Reports
from rotator.keys import Issue, Me, Secret, Verify
from rotator.policy import PolicyDefaults, load
from rotator.rotation import Order, Result
from rotator.sandbox.ecgrid import Running
from rotator.settings import Settings

FIRST_ROTATE = POLICY + "first: rotate\n"


def kind_of(result: Result) -> str:
    """The kind of a failure."""
    assert (result.outcome, result.error is None) == ("failed", False)
    assert result.error is not None
    return result.error.kind


# a key that does not work yet


def test_a_key_that_takes_ten_minutes_to_work_is_kept_for_the_next_run(tmp_path: Path) -> None:
    """Staged until then, and not issued again."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.simulator.switch(activation_delay=600.0)
    assert kind_of(scene.rotator().rotate()) == "ecgrid.NewKeyRefused"
    assert (scene.works(), scene.published().key_id) == (USER, scene.first.key_id)
    staged = scene.vault.staged("edi")
    assert staged is not None
    assert staged.key is not None
    scene.pass_time(minutes=10)
    assert scene.rotator().tick().outcome == "rotated"
    assert (scene.works(), scene.issued()) == (USER, 1)
    assert scene.published().value == staged.key.value
    assert len(scene.live()) == 2


def kinds_of_a_long_hour(scene: Scene) -> list[str]:
    """What ticks every ten seconds say while no new key ever works, from a rotation that is due."""
    scene.rotator().tick()
    scene.pass_time(days=31)
    scene.simulator.switch(activation_delay=86400.0 * 30)
    kinds = []
    for _ in range(300):
        kinds.append(kind_of(scene.rotator().tick()))
        scene.pass_time(seconds=10)
    return kinds


def test_keys_that_hardly_ever_work_are_not_issued_without_end(tmp_path: Path) -> None:
    """Three beyond the one that was due, while the published key works."""
    scene = Scene(tmp_path, keyset="add")
    kinds = kinds_of_a_long_hour(scene)
    assert set(kinds) == {"ecgrid.NewKeyRefused", "rotation.IssueLimit"}
    assert scene.issued() == 4
    assert scene.published().key_id == scene.first.key_id


def test_a_policy_whose_published_key_is_dead_is_never_stopped_by_the_limit(tmp_path: Path) -> None:
    """One more key every five minutes at the most; and well as soon as one works."""
    scene = Scene(tmp_path, keyset="replace")
    began = scene.time.seconds
    assert set(kinds_of_a_long_hour(scene)) <= {"ecgrid.NewKeyRefused", "rotation.IssueLimit"}
    assert 4 < scene.issued() <= 4 + (scene.time.seconds - began) / 300
    scene.simulator.switch(activation_delay=0.0)
    for _ in range(60):
        scene.rotator().tick()
        scene.pass_time(seconds=10)
    assert scene.works() == USER
    assert scene.stored().record.kept()["format"] == 1


def test_a_key_past_the_limit_is_told_by_an_alarm(rotator_command: Rotator, tmp_path: Path) -> None:
    """A failure of the policy, whose fifth key is asked for all the same; the four before it tell none."""
    scene = Scene(tmp_path, keyset="replace")
    scene.rotator().tick()
    scene.pass_time(days=31)
    scene.simulator.switch(activation_delay=86400.0)
    reports = Reports(Settings.load(rotator_command.environment, tmp_path), serving=False)
    taking = Taking()
    told = taking.told
    reports.alarms = Alarms([taking])
    for _ in range(120):
        process = scene.rotator()
        process.tick()
        for name, fields in process.events:
            reports.event("edi", name, fields)
        reports.alarms.sync()
        assert bool(told) == (scene.issued() > 4)
        scene.pass_time(seconds=10)
    assert {(alarm.what, alarm.policy, alarm.kind) for alarm in told} == {
        ("failed", "edi", "rotation.IssueLimit")
    }
    assert "the published key is refused" in told[0].message


# a probe that proves nothing


class Open(Direct):
    """An ECGrid that answers whoever asks, as behind a proxy that adds a credential."""

    def who_am_i(self, within: float, caller: Secret | None = None) -> Me:
        """Always as the rotator's own key."""
        return super().who_am_i(within)


def behind_a_proxy(scene: Scene) -> Process:
    """A process that reaches ECGrid through such a proxy."""
    process = scene.rotator()

    def account(issue: Issue, verify: Verify, _urgency: Urgency) -> Open:
        return Open(scene.simulator, process.own, issue, verify)

    process.world = dataclasses.replace(process.world, account=account)
    return process


@pytest.mark.parametrize("policy", [POLICY, FIRST_ROTATE])
def test_an_ecgrid_that_accepts_any_key_proves_none(tmp_path: Path, policy: str) -> None:
    """Nothing is issued or published, and the message names the way on."""
    scene = Scene(tmp_path, policy)
    for result in (behind_a_proxy(scene).tick(), behind_a_proxy(scene).rotate()):
        assert kind_of(result) == "ecgrid.AcceptsAnything"
        assert "probe: false" in str(result.error)
    assert (scene.issued(), scene.vault.published(scene.policy.destinations[0])) == (0, None)


def test_without_the_probe_there_is_nothing_to_be_proved_by_it(tmp_path: Path) -> None:
    """`probe: false` is the way on that the message names; what was issued is still read back."""
    scene = Scene(tmp_path, FIRST_ROTATE + "probe: false\n")
    assert behind_a_proxy(scene).tick().outcome == "rotated"
    assert (scene.works(), scene.issued()) == (USER, 1)


# publishing is refused, or ECGrid wants to be left alone


def test_publishing_is_refused_for_a_month(tmp_path: Path) -> None:
    """A process that starts each hour goes on with the one key that was issued, and publishes it when it may."""
    scene = Scene(tmp_path, keyset="replace")
    scene.rotator().tick()
    scene.pass_time(days=31)

    def gate(call: str) -> str:
        if call == "vault write ecgrid/edi":
            raise Forbidden("refused", kind="vault.Forbidden")
        return "go"

    for _ in range(30 * 24):
        assert kind_of(scene.rotator(gate).tick()) == "vault.Forbidden"
        scene.pass_time(hours=1)
    assert scene.issued() == 1
    assert scene.rotator().tick().outcome == "rotated"
    assert (scene.works(), scene.issued()) == (USER, 1)


def test_a_retry_after_of_a_quarter_of_an_hour_is_kept(tmp_path: Path) -> None:
    """By every process that starts meanwhile: the record has it."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.pass_time(days=31)

    def gate(call: str) -> str:
        if call == "ecgrid KeySet":
            raise Transient("429", kind="ecgrid.RateLimitExceeded", retry_after=900.0)
        return "go"

    assert kind_of(scene.rotator(gate).tick()) == "ecgrid.RateLimitExceeded"
    scene.asked.clear()
    for _ in range(14):
        scene.pass_time(minutes=1)
        assert kind_of(scene.rotator().tick()) == "ecgrid.RateLimitExceeded"
    assert scene.asked == []
    scene.pass_time(minutes=1, seconds=1)
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.issued() == 1


# what is lacking is found before anything is issued


def refusing(*calls: str) -> Callable[[str], str]:
    """A gate at which Vault refuses these calls."""

    def gate(call: str) -> str:
        if call in calls:
            raise Permanent(f"{call} refused", kind="vault.Forbidden")
        return "go"

    return gate


@pytest.mark.parametrize(
    "call",
    ["vault read rotator/record/edi", "vault write rotator/record/edi", "vault read ecgrid/edi"],
)
@pytest.mark.parametrize("away", [True, False])
def test_nothing_is_issued_where_vault_refuses_or_is_away(
    tmp_path: Path, call: str, away: bool
) -> None:
    """Also where the policy would begin with a rotation."""
    scene = Scene(tmp_path, FIRST_ROTATE)
    gate = (lambda one: "fail" if one == call else "go") if away else refusing(call)
    for process in (scene.rotator(gate), scene.rotator(gate)):
        assert process.tick().outcome == "failed"
        assert process.rotate().outcome == "failed"
    assert (scene.issued(), "KeySet" in scene.asked) == (0, False)


@pytest.mark.parametrize("policy", [POLICY, FIRST_ROTATE])
def test_a_full_quota_costs_one_refused_request(tmp_path: Path, policy: str) -> None:
    """The key that there is stays as it is, and nothing is tried again in a hurry."""
    scene = Scene(tmp_path, policy, key_quota=1)
    scene.rotator().tick()
    scene.pass_time(days=31)
    scene.asked.clear()
    assert kind_of(scene.rotator().tick()) == "ecgrid.InvalidParameter"
    assert kind_of(scene.rotator().tick()) == "ecgrid.InvalidParameter"
    assert (scene.asked.count("KeySet"), scene.issued()) == (1, 0)
    assert scene.live() == {scene.first.key_id}
    record = scene.record()
    assert record is not None
    assert (record.underway, record.claim) == (None, None)
    scene.simulator.switch(key_quota=None)
    assert scene.rotator().rotate().outcome == "rotated"
    assert scene.works() == USER


REAL = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    first: rotate
    vault: {path: ecgrid/edi}
"""


def rotated(command: Rotator, environment: dict[str, str], mount: str) -> Result:
    """What `rotate edi` comes to, asked within this process."""
    settings = Settings.load(
        {**command.environment, **environment, "ROTATOR_DEADLINE": "2s"}, command.directory
    )
    policies = load(command.policies, PolicyDefaults(mount=mount))
    with Fleet(settings, policies) as fleet:
        (result,) = fleet.tend(policies, Order("demand", since=fleet.vault_time()))
    return result


def test_no_right_that_is_missing_costs_a_key(
    rotator_command: Rotator, roles: Roles, mount: str, simulator: Running
) -> None:
    """Each in turn: nothing is issued, and the message names it, or who does; what is not needed holds up none."""
    rotator_command.policy("edi", REAL)
    model = simulator.simulator
    wrongs, needed = [], 0
    for right in [right for right in RIGHTS if not right[0].startswith("auth/token/lookup")]:
        path, name = right
        before = model.issued()
        result = rotated(rotator_command, roles.environment(without(right)), mount)
        done = (result.outcome, model.issued() - before)
        if done == ("rotated", 1):
            continue
        needed += 1
        shown = path.replace("secret/", f"{mount}/", 1).rstrip("*")
        told = str(result.error)
        named = (shown in told and name in told) or "`rotator doctor` names" in told
        if done != ("failed", 0) or not named:
            wrongs.append((right, done, told))
    assert needed > 8
    assert wrongs == []


def test_a_mount_that_is_no_kv_v2_costs_no_key(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """KV v1 would ignore every check-and-set."""
    vault.call("POST", f"sys/mounts/{mount}-v1", {"type": "kv", "options": {"version": "1"}})
    try:
        rotator_command.policy("edi", REAL.replace("{path", f"{{mount: {mount}-v1, path"))
        assert kind_of(rotated(rotator_command, {}, mount)) == "vault.NotKV2"
    finally:
        vault.call("DELETE", f"sys/mounts/{mount}-v1")
    assert simulator.simulator.issued() == 0
    assert vault.call("GET", "sys/health")["initialized"]


def test_the_shipped_policy_lets_a_new_policy_begin_with_a_rotation(
    rotator_command: Rotator, roles: Roles, mount: str, simulator: Running
) -> None:
    """Else the rights above would be missed for a reason of their own."""
    rotator_command.policy("edi", REAL)
    result = rotated(rotator_command, roles.environment(SHIPPED), mount)
    assert (result.outcome, simulator.simulator.issued()) == ("rotated", 1)
