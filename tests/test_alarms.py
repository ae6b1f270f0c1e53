"""What a person hears of: which alarms are raised, how often, and what reaches Sentry from real processes."""

from __future__ import annotations

import ast
import json
import logging
import re
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Rotator, events, until
from receiver import Receiver, receiver

from rotator import __version__
from rotator.fleet.dispatch import Alarms
from rotator.reporting import is_failure, runbook
from rotator.reporting.about import About
from rotator.reporting.alarms import Alarm
from rotator.reporting.log import LEVELS, SECTIONS
from rotator.reporting.memory import MANY, TELLING, Key, Memory
from rotator.reporting.to_sentry import slug
from rotator.reporting.webhook import body_of
from rotator.sandbox.ecgrid import Fault, Running

ROOT = Path(__file__).resolve().parent.parent
POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""
QUICK = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "10s", "ROTATOR_CHECK_EVERY": "0"}


class Desk:
    """What is known of what is wrong, as it is kept, and a receiver that takes everything, or nothing."""

    def __init__(self) -> None:
        self.kept = ""
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.heard: list[Alarm] = []
        self.away = False

    def process(self, *wrong: Alarm, well: tuple[str, ...] = ()) -> list[tuple[str, str | None]]:
        """One process sees that, tells what is to be told, and keeps what was taken; what it told."""
        told = Memory.parse(self.kept)
        for alarm in wrong:
            told.happens(alarm, self.now)
        for policy in well:
            told.ends("failed", policy)
        told.tidy(self.now)
        due = told.due("webhook", self.now, map(Key.of, wrong))
        for telling in [] if self.away else due:
            self.heard.append(telling.alarm)
            told.took(telling, self.now)
        told.tidy(self.now)
        self.kept = told.kept()
        assert Memory.parse(self.kept).kept() == self.kept
        return [(telling.alarm.what, telling.alarm.policy) for telling in due]

    def pass_time(self, **span: float) -> None:
        """Time goes by."""
        self.now += timedelta(**span)


def failing(policy: str, kind: str = "ecgrid.Timeout", phase: str = "issue") -> Alarm:
    """That policy fails."""
    return Alarm("failed", policy, "it failed", phase, kind)


@pytest.fixture
def desk() -> Desk:
    """Nothing is wrong yet."""
    return Desk()


@pytest.fixture
def sentry() -> Iterator[Receiver]:
    """What speaks Sentry's envelope format."""
    with receiver() as there:
        yield there


def test_a_failure_that_goes_on_is_told_once_and_again_every_day(desk: Desk) -> None:
    """With a count of the days, whichever process meets it; and its end once."""
    for _ in range(6 * 24 * 3):
        desk.process(failing("edi"))
        desk.pass_time(minutes=10)
    assert [(alarm.what, alarm.count) for alarm in desk.heard] == [
        ("failed", 1),
        ("failed", 2),
        ("failed", 3),
    ]
    assert desk.process(well=("edi",)) == [("recovered", "edi")]
    assert desk.process(well=("edi",)) == []
    assert Memory.parse(desk.kept).troubles == {}


def test_nothing_is_kept_anew_where_nothing_changed(desk: Desk) -> None:
    """Each tick of a CronJob would be a write of its own."""
    desk.process(failing("edi"))
    kept = desk.kept
    desk.pass_time(hours=5)
    desk.process(failing("edi"))
    desk.process(well=("other",))
    assert desk.kept == kept


def test_another_phase_or_kind_is_another_alarm_and_all_have_one_end(desk: Desk) -> None:
    """So is another policy. A key that cannot be retired is one trouble, however that fails."""
    troubles = [
        failing("edi"),
        failing("edi", kind="vault.Sealed"),
        failing("edi", phase="publish"),
        failing("edi", "ecgrid.NotRetired", "retire"),
        failing("edi", "ecgrid.Timeout", "retire"),
    ]
    for trouble in (*troubles, *troubles):
        desk.process(trouble)
    assert [alarm.what for alarm in desk.heard] == ["failed"] * 4
    assert desk.process(failing("other")) == [("failed", "other")]
    assert desk.process(well=("edi",)) == [("recovered", "edi")]


def test_what_was_not_taken_is_told_by_the_next_process(desk: Desk) -> None:
    """A failure, and its end; but no end of what nobody ever heard of."""
    desk.away = True
    desk.process(failing("edi"))
    desk.process(failing("other"))
    desk.process(well=("other",))
    desk.away = False
    assert desk.process() == [("failed", "edi")]
    desk.away = True
    desk.process(well=("edi",))
    desk.away = False
    assert desk.process() == [("recovered", "edi")]
    assert Memory.parse(desk.kept).troubles == {}


def test_a_failure_that_comes_back_before_its_end_was_taken_is_the_same(desk: Desk) -> None:
    """Whoever was told of it hears nothing."""
    desk.process(failing("edi"))
    desk.away = True
    desk.process(well=("edi",))
    desk.process(failing("edi"))
    desk.away = False
    assert desk.process(failing("edi")) == []


def test_a_trouble_of_many_policies_is_told_of_them_together(desk: Desk) -> None:
    """Ten thousand policies without a right are not ten thousand messages; one tells when all is well."""
    names = [f"p{number}" for number in range(10_000)]
    desk.process(*(failing(name, kind="vault.MissingCapability") for name in names))
    assert len(desk.heard) == MANY + 1
    last = desk.heard[-1]
    assert (last.what, last.policy, last.count) == ("failed", None, 10_000)
    assert len(desk.kept) < 100_000
    assert desk.process(*(failing(name, kind="vault.MissingCapability") for name in names)) == []
    desk.heard.clear()
    desk.process(well=tuple(names[:-1]))
    desk.process(well=tuple(names[-1:]))
    assert [(alarm.what, alarm.policy) for alarm in desk.heard] == [
        *(("recovered", name) for name in names[:MANY]),
        ("recovered", None),
    ]


def test_what_an_alarm_tells_is_kept_and_sent_in_the_same_words_by_every_version() -> None:
    """Times as text, ages in seconds, nothing that is not known; rotators of two versions share what is kept."""
    now = datetime(2026, 3, 1, 4, 5, 6, tzinfo=UTC)
    ran = About(run="3f", rotation="a1", attempt=2, phase="issue")
    failed = ran._replace(user_id=5001, key_id=7, duration_s=0.412)
    aged = About(key_age=timedelta(days=46, seconds=30), max_age=timedelta(days=45))
    memory = Memory()
    memory.happens(replace(failing("edi"), about=failed), now)
    memory.happens(Alarm("overdue", "edi", "it is old", about=aged), now)
    of_run = '"run":"3f","rotation":"a1","attempt":2,"phase":"issue"'
    of_failed = f'{{{of_run},"user_id":5001,"key_id":7,"duration_s":0.412%s}}'
    of_aged = '{"key_age_s":3974430,"max_age_s":3888000%s}'
    kept = memory.kept()
    assert re.findall(r'"about":({.*?})', kept) == [of_failed % "", of_aged % ""]
    assert Memory.parse(kept).kept() == kept
    sent = [json.loads(body_of(one.alarm)) for one in Memory.parse(kept).due("webhook", now, [])]
    since = ',"since":"2026-03-01T04:05:06Z"'
    assert [json.dumps(one["about"], separators=(",", ":")) for one in sent] == [
        of_failed % since, of_aged % since,
    ]  # fmt: skip
    assert [one["run"] for one in sent] == ["3f", None]


@pytest.mark.parametrize("age", ["1e300", "Infinity", "NaN", '"old"', "[]"])
def test_an_age_that_is_none_makes_a_document_that_says_nothing(age: str) -> None:
    """Whatever has come to stand there in Vault stops no tick."""
    memory = Memory()
    alarm = Alarm("overdue", "edi", "it is old", about=About(key_age=timedelta(seconds=7)))
    memory.happens(alarm, datetime(2026, 3, 1, tzinfo=UTC))
    damaged = memory.kept().replace('"key_age_s":7', f'"key_age_s":{age}')
    assert age in damaged
    assert Memory.parse(damaged).troubles == {}


def test_who_is_about_to_tell_says_so_and_nobody_else_does() -> None:
    """Until it has ended, or is gone."""
    told, now = Memory(), datetime(2026, 3, 1, tzinfo=UTC)
    assert told.begin("webhook", "one", now)
    assert not told.begin("webhook", "other", now)
    assert told.begin("sentry", "other", now)
    assert told.begin("webhook", "other", now + TELLING)
    told.end("webhook", "one")
    assert not told.begin("webhook", "one", now + TELLING)


def test_a_document_that_cannot_be_understood_says_nothing() -> None:
    """Then all is told anew, and kept over it."""
    for text in (None, 7, "", "[]", "{", '{"troubles": [{}]}', '{"troubles": 7}', "[" * 10_000):
        assert Memory.parse(text).kept() == Memory().kept()


class Listener:
    """A receiver that takes everything."""

    name = "listener"

    def __init__(self) -> None:
        self.took: list[Alarm] = []

    def deliver(self, alarm: Alarm, until: Callable[[], float]) -> str | None:
        """See `Receiver.deliver`."""
        self.took.append(alarm)
        return None


def test_what_was_cut_short_is_told_by_the_next_look() -> None:
    """Whatever goes wrong before it is told: a fault of ours loses no alarm."""
    listener = Listener()
    alarms = Alarms([listener])
    alarms.close()  # from here on no thread of its own tells
    faults = [RuntimeError("a fault of ours")]

    def may_keep() -> bool:
        if faults:
            raise faults.pop()
        return True

    alarms.may_keep = may_keep
    alarms.failed("edi", "issue", "ecgrid.Unavailable", "no answer")
    with pytest.raises(RuntimeError):
        alarms.sync()
    alarms.works("other")
    alarms.sync()
    assert [(one.policy, one.kind) for one in listener.took] == [("edi", "ecgrid.Unavailable")]


def test_each_shard_has_a_monitor_of_its_own() -> None:
    """One that is missing would be hidden by the others."""
    assert slug("rotator-once", None) == "rotator-once"
    assert slug("rotator-once", (2, 8)) == "rotator-once-2-of-8"


# what to do, for every kind of error


def kinds_in_the_code() -> set[str]:
    """Every kind of error that the package can report: `room.Kind`, wherever it stands in the source."""
    found = set()
    for path in (ROOT / "rotator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^[a-z]+\.[A-Z]\w+$", node.value))
    return found


def test_every_kind_of_error_has_a_next_step_and_a_section_in_the_runbook() -> None:
    """And the runbook has no section for one that does not exist."""
    kinds, entries = kinds_in_the_code(), runbook.entries()
    assert {name for name, entry in entries.items() if "." in name} == kinds
    headings = re.findall(r"^### (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert list(entries) == headings
    lacking = [one.name for one in entries.values() if not (one.means[0] and one.to_do)]
    assert lacking == []
    assert not [one.name for one in entries.values() if "](" in f"{one.means} {one.to_do}"]


def test_links_are_the_anchors_that_the_runbook_has() -> None:
    """GitHub's rule: lower case, without what is neither letter, digit, hyphen nor space."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings}
    for name in [*kinds_in_the_code(), "RotatorKeyOverdue"]:
        assert runbook.anchor(name) in anchors, name


# real processes


def test_a_cronjob_reports_everything_before_it_ends(
    rotator_command: Rotator, simulator: Running, sentry: Receiver
) -> None:
    """Success, failure and recovery, each from a process that ends at once; nothing is lost at exit."""
    rotator_command.policy("edi", POLICY)
    cron = {"ROTATOR_SENTRY__CRON": "*/5 * * * *"}
    rotator_command.environment |= {"SENTRY_DSN": sentry.dsn, **cron, **QUICK}
    assert rotator_command("run", "--once").code == 0
    assert sentry.items("event") == []
    begun, ended = sentry.items("check_in")
    assert (begun["status"], ended["status"]) == ("in_progress", "ok")
    assert begun["check_in_id"] == ended["check_in_id"]
    assert begun["monitor_slug"] == "rotator-once"
    assert begun["monitor_config"]["schedule"] == {"type": "crontab", "value": "*/5 * * * *"}

    simulator.simulator.add_fault(Fault("status", call="KeySet", status=403, times=None))
    assert rotator_command("rotate", "edi").code == 1
    (event,) = sentry.items("event")
    kind = event["tags"]["kind"]
    assert event["fingerprint"] == ["rotator", "failed", "edi", "issue", kind]
    assert (event["level"], event["release"]) == ("error", f"rotator@{__version__}")
    context = event["contexts"]["rotation"]
    assert (context["what_to_do"], context["runbook"]) == (
        runbook.next_step(kind),
        runbook.link(kind),
    )

    simulator.simulator.clear_faults()
    sentry.taken.clear()
    assert rotator_command("rotate", "edi").code == 0
    (event,) = sentry.items("event")
    assert (event["level"], event["tags"]["alarm"]) == ("info", "recovered")


def test_a_cronjob_tells_of_a_key_that_is_too_old(
    rotator_command: Rotator, sentry: Receiver
) -> None:
    """Also where nothing is due: a manual schedule still alarms."""
    rotator_command.policy("edi", POLICY.replace("{every: 30d}", "manual") + "    max_age: 8s\n")
    rotator_command.environment |= {"SENTRY_DSN": sentry.dsn, **QUICK}

    def overdue() -> list[dict[str, Any]]:
        assert rotator_command("run", "--once").code == 0
        return [event for event in sentry.items("event") if event["tags"]["alarm"] == "overdue"]

    (event, *_) = until(overdue, "the overdue key")
    assert event["fingerprint"][:3] == ["rotator", "overdue", "edi"]
    assert "`rotator rotate NAME`" in event["contexts"]["rotation"]["what_to_do"]


def test_a_tick_that_cannot_look_round_is_a_failed_check_in(
    rotator_command: Rotator, sentry: Receiver
) -> None:
    """A wrong token: the command says so, and the monitor hears it."""
    rotator_command.policy("edi", POLICY)
    wrong = {"VAULT_TOKEN": secrets.token_hex(8)}
    rotator_command.environment |= {"SENTRY_DSN": sentry.dsn, **QUICK, **wrong}
    assert rotator_command("run", "--once").code == 1
    assert [one["status"] for one in sentry.items("check_in")] == ["in_progress", "error"]


def test_a_process_killed_in_a_tick_leaves_its_check_in_open(
    rotator_command: Rotator, simulator: Running, sentry: Receiver
) -> None:
    """Sentry then alarms by itself when the tick's longest time is over."""
    rotator_command.policy("edi", POLICY)
    simulator.simulator.add_fault(Fault("hang", times=None, seconds=600))
    started = rotator_command.start("run", "--once", SENTRY_DSN=sentry.dsn)
    until(lambda: sentry.items("check_in"), "the first check-in")
    started.finish(send=signal.SIGKILL)
    assert [one["status"] for one in sentry.items("check_in")] == ["in_progress"]


@pytest.mark.parametrize("answer", [429, 500])
def test_a_sentry_that_fails_changes_nothing(
    rotator_command: Rotator, sentry: Receiver, answer: int
) -> None:
    """Result and exit code are those of the rotation."""
    rotator_command.policy("edi", POLICY)
    sentry.answers = [answer] * 20
    rotator_command.environment |= {"SENTRY_DSN": sentry.dsn, **QUICK}
    done = rotator_command("--log-format", "json", "run", "--once", "--json")
    assert (done.code, done.json["summary"]) == (0, {"adopted": 1})
    assert f"status_{answer}" in not_delivered(done.stderr)


def not_delivered(stderr: str) -> set[str]:
    """Why reports did not reach Sentry, as the log says."""
    return {one["reason"] for one in events(stderr, "report.not_delivered")}


def test_a_sentry_that_is_not_there_changes_nothing(rotator_command: Rotator) -> None:
    """A closed port: the result is the rotation's, and the log says that the report was lost."""
    rotator_command.policy("edi", POLICY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    rotator_command.environment |= {"SENTRY_DSN": f"http://public@127.0.0.1:{port}/1", **QUICK}
    done = rotator_command("--log-format", "json", "run", "--once", "--json")
    assert (done.code, done.json["summary"]) == (0, {"adopted": 1})
    assert not_delivered(done.stderr) == {"network"}


@pytest.mark.full
def test_a_sentry_that_answers_late_is_waited_for_and_one_that_never_does_is_left(
    rotator_command: Rotator, sentry: Receiver
) -> None:
    """Two seconds are waited for at the end; a minute is not, and the log says so."""
    rotator_command.policy("edi", POLICY)
    rotator_command.environment |= {"SENTRY_DSN": sentry.dsn, **QUICK}
    sentry.delay = 2.0
    done = rotator_command("--log-format", "json", "run", "--once", "--json")
    assert (done.code, not_delivered(done.stderr)) == (0, set())
    assert [one["status"] for one in sentry.items("check_in")] == ["in_progress", "ok"]
    sentry.delay = 60.0
    done = rotator_command("--log-format", "json", "run", "--once", "--json")
    assert (done.code, not_delivered(done.stderr)) == (0, {"timeout"})


# what is logged


def events_in_the_code() -> set[str]:
    """The names of all events: what `event` and `report` are called with, and what has a level."""
    found = set(LEVELS)
    for path in (ROOT / "rotator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called, first = ast.unparse(node.func).rpartition(".")[2], node.args[0]
            if called in {"event", "report"} and isinstance(first, ast.Constant):
                found.add(str(first.value))
    return found


def test_every_event_is_in_the_table_with_its_level() -> None:
    """Names and levels are what searches and alerts of others rely on."""
    table = (ROOT / "docs" / "log-events.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (\w+) \|", table, re.MULTILINE))
    assert rows.keys() == events_in_the_code()
    levels = {name: logging.getLevelName(LEVELS.get(name, logging.DEBUG)).lower() for name in rows}
    assert rows == levels


def failures_told() -> list[tuple[str, str, str, set[str]]]:
    """Every place in the code that tells a failure: where, by which call, the event, and what it gives with it."""
    found = []
    for path in sorted((ROOT / "rotator").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = ast.unparse(node.func)
            names = ast.unparse(node.args[0])
            told = [name for name in LEVELS if is_failure(name) and repr(name) == names]
            if called.rpartition(".")[2] in {"event", "report"} and told:
                given = {str(one.arg or ast.unparse(one.value)) for one in node.keywords}
                found.append((f"{path.name}:{node.lineno}", called, told[0], given))
    return found


def test_every_event_of_a_failure_says_whose_it_is_and_where_to_read_more() -> None:
    """One of a policy names it and its owner; each names a kind of error, or has a section of the runbook."""
    places = failures_told()
    assert {name for _, _, name, _ in places} >= {"rotation.failed", "daemon.stuck", "run.failed"}
    lacking = []
    for where, called, name, given in places:
        if "error" not in given and name not in SECTIONS:
            lacking.append(f"{where}: {name} has no section of the runbook")
        through_a_run = called == "run.world.report"  # which adds policy, owner and tags
        if name.startswith(("rotation.", "policy.")) and not through_a_run:
            owned = any(one.endswith(".owner_of(result.policy).fields()") for one in given)
            if not (owned and "policy" in given):
                lacking.append(f"{where}: {name} does not say whose it is")
    assert lacking == []
    assert set(SECTIONS.values()) <= runbook.entries().keys()
    told = [name for name in LEVELS if is_failure(name)]
    written = {name for _, _, name, _ in places}
    assert set(told) - written == {"fleet.braked", "fleet.mass_drift"}  # whose names are in a table
