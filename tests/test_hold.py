"""`hold` and `release`: these policies begin nothing by themselves for a while, and all else goes on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, Rotator, VaultServer, until
from receiver import Taking
from test_fleet_braked import make_due
from test_fleet_index import NEVER_CHECKED, Party
from worlds import POLICY, USER, Scene, policy_from

from rotator.fleet.dispatch import Alarms
from rotator.fleet.forecast import ahead
from rotator.fleet.renaming import take_over
from rotator.fleet.reports import Reports
from rotator.fleet.standing import row
from rotator.fleet.survey import quiet_until
from rotator.journal import Hold, Record
from rotator.reporting.about import About
from rotator.rotation import Order, Result, tend
from rotator.sandbox.ecgrid import Running
from rotator.settings import Settings

ONE = """
user_id: {user}
visibility: Private
schedule: {{every: 30d}}
vault: {{path: ecgrid/{name}}}
tags: [prod]
"""
HOLD = ("--for", "3d", "--reason", "ticket 4711")
TTL = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "5s", "ROTATOR_CHECK_EVERY": "0"}


@pytest.fixture
def policies(rotator_command: Rotator) -> Rotator:
    """Three policies: a, b and c."""
    for user, name in ((5001, "a"), (5002, "b"), (5003, "c")):
        rotator_command.policy(name, ONE.format(user=user, name=name))
    rotator_command.environment |= TTL
    return rotator_command


def outcomes(done: Finished) -> dict[str, str]:
    """What came of each policy."""
    return {one["policy"]: one["outcome"] for one in done.json["results"]}


def rows(command: Rotator) -> dict[str, dict[str, Any]]:
    """How the policies stand."""
    return {one["policy"]: one for one in command("status", "--json").json["policies"]}


def record(vault: VaultServer, mount: str, name: str) -> dict[str, Any]:
    """A policy's record, as it is kept."""
    return dict(vault.call("GET", f"{mount}/data/rotator/record/{name}")["data"]["data"])


def write(vault: VaultServer, mount: str, name: str, **fields: Any) -> None:
    """Changes fields of a record."""
    body = {"data": {**record(vault, mount, name), **fields}}
    vault.call("POST", f"{mount}/data/rotator/record/{name}", body)


def test_a_held_policy_is_rotated_by_name_and_by_nothing_else(
    policies: Rotator, vault: VaultServer, mount: str
) -> None:
    """Not by schedule, `--all`, `--tag`; the others are. `release` lets it go on."""
    assert set(outcomes(policies("run", "--once", "--json")).values()) == {"adopted"}
    assert policies("hold", "a", *HOLD).code == 0
    shown = rows(policies)["a"]
    ends = datetime.fromisoformat(shown["paused_until"]) - datetime.now(UTC)
    assert timedelta(days=2, hours=23) < ends <= timedelta(days=3)
    assert (shown["state"], shown["paused_reason"]) == ("paused", "ticket 4711")
    assert "held until" in policies("status", "a").stdout
    make_due(vault, mount, ["a", "b"])
    ticked = outcomes(policies("run", "--once", "--json"))
    assert ticked == {"a": "not-due", "b": "rotated", "c": "not-due"}
    for chosen in ("--all", "--tag=prod"):
        done = policies("rotate", chosen, "--json")
        assert (done.code, outcomes(done)["a"], outcomes(done)["c"]) == (0, "unchanged", "rotated")
        assert "ticket 4711" in done.json["results"][0]["warnings"][0]
    assert rows(policies)["a"]["state"] == "paused"
    assert outcomes(policies("rotate", "a", "--json")) == {"a": "rotated"}
    assert rows(policies)["a"]["state"] == "paused"
    make_due(vault, mount, ["a"])
    done = policies("release", "a", "--json")
    nothing = {"until": None, "reason": None, "error": None}
    assert done.json["results"] == [{"policy": "a", "outcome": "released", **nothing}]
    assert outcomes(policies("run", "--once", "--json"))["a"] == "rotated"
    assert outcomes(policies("release", "a", "--json")) == {"a": "unchanged"}
    told = policies("history", "a", "--json").json["history"]
    assert [one["outcome"] for one in told] == ["adopted", "held", "rotated", "released", "rotated"]


@pytest.mark.parametrize(
    ("chosen", "held"),
    [
        (("--tag", "pilot"), {"a": "held"}),
        (("--owner", "night shift"), {"b": "held", "c": "held"}),
        (("--owner", "night shift", "--tag", "prod"), {"b": "held"}),
        (("--all",), {"a": "held", "b": "held", "c": "held"}),
    ],
)
def test_policies_are_held_and_released_by_tag_and_owner(
    policies: Rotator, chosen: tuple[str, ...], held: dict[str, str]
) -> None:
    """Those that fit both, and no other."""
    for user, name, more in (
        (5001, "a", "tags: [prod, pilot]\nowner: edi@example.com\n"),
        (5002, "b", "owner: night shift\n"),
        (5003, "c", "tags: [test]\nowner: night shift\n"),
    ):
        text = ONE.format(user=user, name=name)
        policies.policy(
            name, text.replace("tags: [prod]\n", "" if "tags" in more else "tags: [prod]\n") + more
        )
    assert outcomes(policies("hold", *chosen, *HOLD, "--json")) == held
    shown = {name for name, row in rows(policies).items() if row["state"] == "paused"}
    assert shown == held.keys()
    done = policies("release", *chosen, "--json")
    assert outcomes(done) == dict.fromkeys(held, "released")
    assert not [row for row in rows(policies).values() if row["state"] == "paused"]


def test_a_hold_on_a_policy_without_a_record_leaves_it_unadopted(
    policies: Rotator, simulator: Running
) -> None:
    """It is adopted, or with `first: rotate` rotated, once it is released."""
    policies.policy("b", ONE.format(user=5002, name="b") + "first: rotate\n")
    assert policies("hold", "a", "b", *HOLD).code == 0
    done = policies("run", "--once", "--json")
    assert outcomes(done) == {"a": "not-due", "b": "not-due", "c": "adopted"}
    shown = rows(policies)
    assert [shown[name]["state"] for name in "abc"] == ["paused", "paused", "ok"]
    assert simulator.simulator.issued(5002) == 0
    assert policies("release", "a", "b").code == 0
    assert rows(policies)["a"]["state"] == "not-adopted"
    done = policies("run", "--once", "--json")
    assert outcomes(done) == {"a": "adopted", "b": "rotated", "c": "not-due"}


def test_each_policy_is_held_on_its_own_and_every_error_is_told(
    policies: Rotator, vault: VaultServer, mount: str
) -> None:
    """One whose record is deleted is exit 1; one that is claimed exit 3; a third is held all the same."""
    policies("run", "--once")
    until_then = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
    write(vault, mount, "a", claim={"holder": "x", "by": "another", "until": until_then})
    vault.call("DELETE", f"{mount}/data/rotator/record/b")
    done = policies("hold", "a", "b", "c", *HOLD, "--json")
    assert (done.code, outcomes(done)) == (1, {"a": "busy", "b": "failed", "c": "held"})
    assert done.json["results"][1]["error"]["kind"] == "vault.Deleted"
    assert policies("release", "a").code == 3

    def free() -> bool:
        return policies("hold", "a", *HOLD).code == 0

    assert until(free, "the claim is over")


@pytest.mark.full
def test_the_index_is_lowered_so_that_the_next_tick_sees_it(
    policies: Rotator, vault: VaultServer, mount: str
) -> None:
    """By `hold`, and by `release`: no entry of the policy promises quiet."""

    def promised() -> bool:
        keys = vault.call("GET", f"{mount}/metadata/rotator/index?list=true")["data"]["keys"]
        pages = [
            vault.call("GET", f"{mount}/data/rotator/index/{key}")["data"]["data"] for key in keys
        ]
        entries: dict[str, Any] = {}
        for page in pages:
            entries |= json.loads(page.get("policies", "{}"))
        return "quiet_until" in entries.get("a", {})

    policies("run", "--once")
    for order in (("hold", "a", *HOLD), ("release", "a")):
        assert until(
            lambda: policies("run", "--once").code == 0 and promised(), "the index vouches for it"
        )
        assert policies(*order).code == 0
        assert not promised()


@pytest.mark.parametrize(
    "arguments",
    [
        ("hold", "a", "--for", "91d", "--reason", "x"),
        ("hold", "a", "--for", "0s", "--reason", "x"),
        ("hold", "a", "--for", "soon", "--reason", "x"),
        ("hold", "a", "--for", "1d", "--reason", " "),
        ("hold", "a", "--for", "1d"),
        ("hold", "a", "--reason", "x"),
        ("hold", *HOLD),
        ("hold", "nobody", *HOLD),
        ("release",),
        ("release", "a", "--brake"),
    ],
)
def test_what_is_not_said_right_is_refused(policies: Rotator, arguments: tuple[str, ...]) -> None:
    """Exit 2, and nothing is done."""
    assert policies(*arguments).code == 2


# what goes on, and what does not


def held(scene: Scene, **length: float) -> None:
    """A person holds the scene's policy, for three days if nothing else is said."""
    stored = scene.vault.record("edi")
    now = scene.time.now().replace(microsecond=0)
    hold = Hold(at=now, until=now + timedelta(**(length or {"days": 3})), reason="audit", by="me")
    record = stored.record if stored else Record.new("edi")
    scene.vault.save(record.change(hold=hold), stored.version if stored else 0)


def known(tmp_path: Path, policy: str = POLICY, **switches: Any) -> Scene:
    """A scene whose policy is adopted."""
    scene = Scene(tmp_path, policy, **switches)
    assert scene.rotator().tick().outcome == "adopted"
    return scene


def test_a_leak_response_for_all_leaves_a_held_policy_alone(tmp_path: Path) -> None:
    """Its debts wait for their grace, too; `rotate NAME --grace 0s` ends them."""
    scene = known(tmp_path)
    scene.rotator().rotate()
    held(scene)
    result = scene.rotator().rotate(retire_now=True)
    assert (result.outcome, result.bad) == ("unchanged", False)
    assert "audit" in result.warnings[0]
    assert len(scene.live()) == 2
    order = Order("demand", since=scene.time.now(), named=True, retire_now=True)
    assert not tend(scene.rotator().run(order)).bad
    assert scene.live() == {scene.published().key_id}


def test_a_hold_outlasts_a_renaming(tmp_path: Path) -> None:
    """It comes along with the record; one that the new name has already, before its first record, counts."""
    scene = known(tmp_path)
    new, now = policy_from(tmp_path, POLICY, "new"), scene.time.now().replace(microsecond=0)
    early = Hold(at=now, until=now + timedelta(days=5), reason="early", by="me")
    scene.vault.save(Record.new("new").change(hold=early), 0)
    held(scene)
    take_over(scene.vault, new, "edi")
    stored = scene.vault.record("new")
    assert stored is not None
    assert (stored.record.hold, stored.record.current is None) == (early, False)


def test_a_hold_ends_by_itself_and_what_was_due_begins_then(tmp_path: Path) -> None:
    """To the second, by Vault's time; found by a process that knows nothing but the index."""
    scene = known(tmp_path)
    scene.pass_time(days=29)
    held(scene)
    party = Party(scene.store, scene.time, "one", NEVER_CHECKED)
    for _ in range(71):
        scene.pass_time(hours=1)
        assert party.work(scene.policy) == set()
    assert scene.rotator().tick().outcome == "not-due"
    assert quiet_until(scene.policy, scene.stored().record, scene.time.now()) <= (
        scene.time.now() + timedelta(hours=1)
    )
    scene.pass_time(hours=1, seconds=1)
    assert party.work(scene.policy) == {"edi"}
    assert scene.rotator().tick().outcome == "rotated"
    assert scene.stored().record.hold is None


def test_held_policies_come_due_spread_by_their_jitter(tmp_path: Path) -> None:
    """As after a freeze; and the plan says that it is the hold that moved them."""
    scene = known(tmp_path, POLICY.replace("30d}", "30d, jitter: 10h}"))
    scene.pass_time(days=29)
    held(scene)
    record, now = scene.stored().record, scene.time.now()
    (first, *_) = ahead(scene.policy, record, now, now + timedelta(days=10))
    assert first.why == "held"
    assert timedelta(days=3) < first.at - now < timedelta(days=3, hours=10)
    shown = row(scene.policy, record, now)
    assert shown.next_due_at == first.at.replace(microsecond=0)
    later = ahead(scene.policy, record.change(hold=None), now, now + timedelta(days=10))
    assert later[0].why == "scheduled"
    new = Record.new("edi").change(hold=record.hold)
    rotates = policy_from(tmp_path, POLICY + "first: rotate\n")
    assert record.hold is not None
    begun = ahead(rotates, new, now, now + timedelta(days=10))
    assert [(one.why, one.at) for one in begun] == [("held", record.hold.until)]


def test_debts_are_retired_and_hooks_told_while_a_policy_is_held(tmp_path: Path) -> None:
    """The replaced key ends when its grace is over."""
    scene = known(tmp_path)
    assert scene.rotator().rotate().outcome == "rotated"
    held(scene)
    scene.pass_time(hours=13)
    assert scene.rotator().tick().outcome == "retired"
    assert scene.live() == {scene.published().key_id}
    assert scene.stored().record.held(scene.time.now()) is not None


def test_a_drift_is_healed_by_a_key_that_exists_while_a_policy_is_held(tmp_path: Path) -> None:
    """No key is issued for it."""
    scene = known(tmp_path)
    other = scene.simulator.add_key(USER)
    scene.simulator.remove_key(scene.first.key_id)
    held(scene)
    assert scene.rotator().repair().outcome == "repaired"
    assert (scene.published().key_id, scene.issued()) == (other.key_id, 0)


def test_no_key_is_issued_for_a_drift_while_a_policy_is_held(tmp_path: Path) -> None:
    """It is an alarm, and no history; `rotate NAME` issues one, and so does the check once the hold is over."""
    scene = known(tmp_path)
    scene.simulator.remove_key(scene.first.key_id)
    held(scene)
    before = scene.stored().record.history
    for _ in range(2):
        result = scene.rotator().repair()
        assert result.error is not None
        assert (result.outcome, result.error.kind) == ("failed", "policy.Held")
        assert alarms_of(result) == [("failed", "policy.Held")]
        scene.pass_time(minutes=5)
    record = scene.stored().record
    assert (scene.issued(), record.underway, record.history) == (0, None, before)
    assert row(scene.policy, record, scene.time.now()).state == "failed"
    order = Order("demand", since=scene.time.now(), named=True)
    assert tend(scene.rotator().run(order)).outcome == "rotated"
    scene.simulator.remove_key(scene.published().key_id or 0)
    scene.pass_time(days=3)
    assert scene.rotator().repair().outcome == "repaired"
    assert scene.issued() == 2


def alarms_of(result: Result) -> list[tuple[str, str | None]]:
    """What is told to a person of that result."""
    taking = Taking()
    reports = Reports(Settings.load({}, Path("/nonexistent")), serving=False)
    reports.alarms = Alarms([taking])
    reports.result(result, About())
    reports.alarms.close()
    return [(alarm.what, alarm.kind) for alarm in taking.told]


def test_an_open_rotation_is_finished_while_the_policy_is_held(tmp_path: Path) -> None:
    """What was issued is published: a hold begins nothing, and breaks nothing off."""
    scene = known(tmp_path)
    scene.pass_time(days=31)

    def dies(call: str) -> str:
        if call.startswith("vault write ecgrid/"):
            raise KeyboardInterrupt
        return "go"

    with pytest.raises(KeyboardInterrupt):
        scene.rotator(dies).tick()
    scene.pass_time(minutes=4)
    held(scene)
    assert scene.rotator().tick().outcome == "rotated"
    assert (scene.works(), scene.issued()) == (USER, 1)


def test_a_hold_that_comes_at_the_last_moment_counts(tmp_path: Path) -> None:
    """Between a tick's look and its claim: the check-and-set is lost, and nothing is issued."""
    scene = known(tmp_path)
    scene.pass_time(days=31)
    late = [True]

    def hold_now(call: str) -> str:
        if late and call.startswith("vault write rotator/record"):
            late.clear()
            held(scene)
        return "go"

    result = scene.rotator(hold_now).tick()
    assert (result.outcome, scene.issued(), late) == ("not-due", 0, [])


def test_a_key_that_is_too_old_alarms_though_its_policy_is_paused(tmp_path: Path) -> None:
    """Held, or not enabled: `paused` is shown, and the alarm comes, and goes when it is rotated."""
    scene = known(tmp_path, POLICY + "max_age: 40d\n")
    scene.pass_time(days=41)
    held(scene)
    off = policy_from(tmp_path, POLICY + "max_age: 40d\nenabled: false\n", "off")
    taking = Taking()
    told = taking.told
    alarms, record = Alarms([taking]), scene.stored().record
    unheld = record.change(hold=None)
    shown = [row(*one, scene.time.now()) for one in ((scene.policy, record), (off, unheld))]
    assert [one.state for one in shown] == ["paused", "paused"]
    alarms.stand(shown)
    alarms.sync()
    assert [(alarm.what, alarm.policy) for alarm in told] == [
        ("overdue", "edi"),
        ("overdue", "off"),
    ]
    assert [one.paused_reason for one in shown] == ["audit", "enabled: false"]
    assert scene.rotator().rotate().outcome == "unchanged"
    order = Order("demand", since=scene.time.now(), named=True)
    assert tend(scene.rotator().run(order)).outcome == "rotated"
    alarms.stand([row(scene.policy, scene.stored().record, scene.time.now())])
    alarms.sync()
    assert told[-1].what == "recovered"


def test_a_hold_raises_the_format_and_its_end_lowers_it(tmp_path: Path) -> None:
    """The version before refuses a record that is held, and reads it again once it is released."""
    scene = known(tmp_path)
    assert scene.stored().record.kept()["format"] == 1
    held(scene)
    record = scene.stored().record
    assert record.kept()["format"] == 3
    assert record.change(hold=None).kept()["format"] == 1


def test_a_hold_by_a_clock_that_was_ahead_lasts_as_long_as_was_said(tmp_path: Path) -> None:
    """Vault's time was forty days ahead then: three days are three days."""
    scene = known(tmp_path)
    seconds = scene.time.seconds
    scene.pass_time(days=40)
    held(scene)
    scene.time.seconds = seconds
    hold = scene.stored().record.hold
    assert hold is not None
    assert hold.until - scene.time.now() == timedelta(days=3)
