"""The history is evidence: what was done to which key, when, by whom, how it was proved, and since when that is all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, Rotator, VaultServer, events, until
from receiver import Receiver, receiver
from terminal import at_a_terminal, shown_on
from worlds import USER, Scene

from rotator.cli.history import _lines
from rotator.fleet.pasts import Pasts
from rotator.journal import HISTORY, Past, Place, Record
from rotator.keys import KeyRef
from rotator.sandbox.ecgrid import Fault, Running

POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""
SHAPE = {
    *("policy", "at", "run", "what", "reason", "by", "key_id", "previous_key_id", "retired_key_id"),
    *("proof", "published", "outcome", "error"),
}
QUICK = {"ROTATOR_DEADLINE": "3s", "ROTATOR_CLAIM_TTL": "20s"}


@pytest.fixture
def heard() -> Iterator[Receiver]:
    """Sentry and a webhook in one."""
    with receiver() as there:
        yield there


def past(command: Rotator, *arguments: str) -> list[dict[str, Any]]:
    """The lines of the history, each of the shape that is promised."""
    done = command("history", *arguments, "--json")
    assert done.json.keys() == {"history", "complete_since"}, done.stderr
    lines: list[dict[str, Any]] = done.json["history"]
    assert [line for line in lines if line.keys() != SHAPE] == []
    return lines


def told(done: Finished, name: str) -> list[dict[str, Any]]:
    """The events of that name in a command's log."""
    return events(done.stderr, name)


def test_every_key_that_a_leak_response_ends_is_named(
    rotator_command: Rotator, simulator: Running
) -> None:
    """In the result, in the log and in the history: which, when, by whom, why, and how it was proved."""
    rotator_command.policy("edi", POLICY)
    for _ in range(3):
        assert rotator_command("rotate", "edi").code == 0
    before = [line["key_id"] for line in past(rotator_command, "edi")]
    assert len(set(before)) == 4
    done = rotator_command("rotate", "edi", "--grace", "0s", "--reason", "leaked", "--json")
    assert done.code == 0, done.stdout
    (result,) = done.json["results"]
    assert [text for key in before for text in result["warnings"] if f"key {key} is ended" in text]
    assert len([text for text in result["warnings"] if "is ended" in text]) == 4
    ends = [line for line in past(rotator_command, "edi") if line["what"] == "retirement"]
    assert sorted(line["retired_key_id"] for line in ends) == sorted(before)
    assert {line["proof"] for line in ends} == {"its value is refused"}
    assert {(line["outcome"], line["reason"], line["key_id"]) for line in ends} == {
        ("retired", "leaked", None)
    }
    logged = told(done, "rotation.retired")
    assert [line["key_id"] for line in logged] == [line["retired_key_id"] for line in ends]
    assert {line["run"] for line in logged} == {line["run"] for line in ends}
    assert {key.key_id for key in simulator.simulator.keys(5001)} == {result["key_id"]}


def test_a_scheduled_retirement_is_about_the_key_that_was_ended(
    rotator_command: Rotator, simulator: Running
) -> None:
    """The log's line, the result and the history name that one, and nothing says `retired` before it was."""
    rotator_command.policy("edi", POLICY + "    grace: 2s\n")
    assert rotator_command("rotate", "edi").code == 0
    adopted, rotated = (line["key_id"] for line in past(rotator_command, "edi"))
    done: list[Finished] = []

    def retired() -> bool:
        done.append(rotator_command("run", "--once", "--json"))
        return bool(done[-1].json["results"][0]["outcome"] != "not-due")

    until(retired, "the replaced key's end", 30)
    (result,) = done[-1].json["results"]
    assert (result["outcome"], result["key_id"]) == ("retired", adopted), done[-1].stdout
    (line,) = told(done[-1], "rotation.outcome")
    assert (line["outcome"], line["key_id"]) == ("retired", adopted)
    last = past(rotator_command, "edi")[-1]
    assert (last["what"], last["retired_key_id"], last["run"]) == (
        "retirement",
        adopted,
        line["run"],
    )
    assert last["reason"] == "its grace is over"
    assert past(rotator_command, "edi")[1]["key_id"] == rotated


def test_one_id_leads_from_the_log_to_the_history_the_notification_and_sentry_and_back(
    rotator_command: Rotator, simulator: Running, heard: Receiver
) -> None:
    """A failed run and a good one: the same id everywhere; the rotation's own id has another name."""
    rotator_command.policy("edi", POLICY)
    rotator_command.environment |= {
        "SENTRY_DSN": heard.dsn,
        "ROTATOR_NOTIFY__WEBHOOK": f"{heard.url}/hook",
    }
    good = rotator_command("rotate", "edi")
    assert good.code == 0, good.stderr
    simulator.simulator.add_fault(Fault("status", call="KeySet", status=403, times=None))
    bad = rotator_command("rotate", "edi", "--reason", "monthly")
    assert bad.code == 1
    (failed,) = told(bad, "rotation.failed")
    (line,) = [one for one in past(rotator_command, "edi") if one["run"] == failed["run"]]
    assert (line["outcome"], line["error"]) == ("failed", failed["error"])
    assert (line["what"], line["reason"]) == ("rotation", "monthly")
    (document,) = heard.documents()
    assert document["about"]["run"] == failed["run"]
    (event,) = heard.items("event")
    assert event["contexts"]["rotation"]["run"] == failed["run"]
    (outcome,) = told(good, "rotation.outcome")
    lines = [one for one in past(rotator_command, "edi") if one["run"] == outcome["run"]]
    assert [one["what"] for one in lines] == ["adoption", "rotation"]
    assert len({outcome["rotation"], outcome["run"], failed["run"], failed["rotation"]}) == 4


def test_a_rotation_that_another_run_began_is_found_by_its_own_id(
    rotator_command: Rotator, simulator: Running
) -> None:
    """Both runs' lines have it; the history has the run that finished it, and who gave the command."""
    rotator_command.policy("edi", POLICY)
    rotator_command.environment |= QUICK
    assert rotator_command("adopt", "edi").code == 0
    simulator.simulator.add_fault(Fault("lost", call="KeySet", times=1))
    simulator.simulator.add_fault(Fault("status", call="GetKey", status=503, times=None))
    simulator.simulator.add_fault(Fault("status", call="ListKeys", status=503, times=None))
    bad = rotator_command("rotate", "edi", "--reason", "monthly")
    assert bad.code == 1
    simulator.simulator.clear_faults()
    good = rotator_command("--log-level", "DEBUG", "rotate", "edi", "--reason", "again")
    assert good.code == 0, good.stderr
    (failed,), (recovered,) = told(bad, "rotation.failed"), told(good, "rotation.recovered")
    assert recovered["rotation"] == failed["rotation"]
    assert recovered["run"] != failed["run"]
    lines = past(rotator_command, "edi")
    assert failed["run"] in [line["run"] for line in lines if line["outcome"] == "failed"]
    finished = [line for line in lines if line["run"] == recovered["run"]]
    assert finished[0]["reason"] == "monthly"


def test_a_failure_before_the_claim_is_in_the_history(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """With its kind; a person's next try is a line of its own."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("adopt", "edi").code == 0
    vault.call(
        "POST",
        f"{mount}/metadata/ecgrid/edi",
        {"custom_metadata": {"managed_by": "rotator", "policy": "other"}},
    )
    for reason in ("first", "second"):
        assert rotator_command("rotate", "edi", "--reason", reason).code == 1
    lines = past(rotator_command, "edi")[1:]
    assert [line["reason"] for line in lines] == ["first", "second"]
    assert {(line["what"], line["outcome"], line["error"]) for line in lines} == {
        ("rotation", "failed", "policy.OthersSecret")
    }
    assert simulator.simulator.issued(5001) == 0
    assert "policy.OthersSecret" in rotator_command("history").stdout


def test_a_retirement_that_was_rightly_refused_is_none(tmp_path: Path) -> None:
    """The second look said no: nothing is `retired`, in the result or in the history."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    assert scene.rotator().rotate().outcome == "rotated"
    scene.pass_time(hours=25)
    there = scene.published()
    assert there.value is not None
    scene.simulator.remove_key(there.key_id or 0)
    result = scene.rotator().tick()
    assert result.outcome != "retired"
    assert [past.what for past in scene.stored().record.history].count("retirement") == 0
    assert scene.simulator.who(scene.first.value) == USER


def test_a_failure_that_goes_on_is_one_line(tmp_path: Path) -> None:
    """However often the schedule tries: it begins with the run that was told of, and lasts to the latest."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.pass_time(days=31)
    ref = KeyRef(scene.first.key_id, USER, None, None)
    scene.vault.mark(scene.policy.destinations[0], "somebody-else", ref, scene.vault.now())
    for _ in range(HISTORY):
        assert scene.rotator().tick().outcome == "failed"
        scene.pass_time(hours=2)
    adopted, failed = scene.stored().record.history
    assert (adopted.outcome, failed.outcome, failed.error) == (
        *("adopted", "failed"),
        "policy.OthersSecret",
    )
    assert failed.ended - failed.at > timedelta(hours=2 * (HISTORY - 1) - 1)


def test_who_gave_the_command_is_told(rotator_command: Rotator, tmp_path: Path) -> None:
    """The person, the user that it ran as, the pod with its namespace; also who holds the claim."""
    rotator_command.policy("edi", POLICY)
    (tmp_path / "namespace").write_text("edi-prod\n")
    assert rotator_command("adopt", "edi", SUDO_USER="alice").code == 0
    token = str(tmp_path / "token")
    assert rotator_command("rotate", "edi", ROTATOR_VAULT__JWT_FILE=token).code == 0
    by_person, in_pod = (line["by"] for line in past(rotator_command, "edi"))
    unset = Path("/proc/self/loginuid").read_text() == str(2**32 - 1)
    assert re.fullmatch(r"\S+ as \S+ at \S+:\d+" if unset else r".+ at \S+:\d+", by_person)
    assert not unset or by_person.startswith("alice as ")
    assert re.fullmatch(r".+ at edi-prod/\S+:\d+", in_pod)


def test_a_hold_and_its_release_are_in_the_history(rotator_command: Rotator) -> None:
    """With who put it, and why; and the history is complete all the same."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("adopt", "edi").code == 0
    assert rotator_command("hold", "edi", "--for", "1d", "--reason", "audit").code == 0
    assert rotator_command("release", "edi").code == 0
    done = rotator_command("history", "edi", "--json").json
    adopted, *lines = done["history"]
    assert [(line["what"], line["outcome"], line["reason"]) for line in lines] == [
        ("hold", "held", "audit"),
        ("release", "released", "audit"),
    ]
    assert {line["by"].rpartition(":")[0] for line in lines} == {adopted["by"].rpartition(":")[0]}
    assert done["complete_since"] == adopted["at"]


def test_history_says_since_when_it_is_complete(
    rotator_command: Rotator, vault: VaultServer, mount: str
) -> None:
    """What goes further back is exit 1, with what there is; so is what a version wrote that told rotations alone."""
    rotator_command.policy("edi", POLICY)
    rotator_command.policy("other", POLICY.replace("edi", "other").replace("5001", "5002"))
    assert rotator_command("adopt", "edi").code == 0
    assert rotator_command("adopt", "other").code == 0
    done = rotator_command("history", "--json")
    assert (done.code, {line["policy"] for line in done.json["history"]}) == (0, {"edi", "other"})
    assert done.json["complete_since"] == done.json["history"][1]["at"]
    assert rotator_command("history", "--all", "--json").json == done.json
    assert rotator_command("history", "edi", "--since", "0").code == 0
    short = rotator_command("history", "edi", "--since", "1d", "--json")
    assert (short.code, len(short.json["history"])) == (1, 1)
    assert "the history of edi is complete since" in short.stderr
    assert "complete since" in rotator_command("history").stdout
    assert rotator_command("history", "--since", "yesterday").code == 2
    at = f"{mount}/data/rotator/record/edi"
    record = vault.call("GET", at)["data"]["data"]
    (line,) = record["history"]
    plain = json.dumps(json.loads(line) | {"run": "0" * 16})
    vault.call("POST", at, {"data": record | {"history": [plain]}})
    old = rotator_command("history", "edi", "--json").json
    assert old["history"][0]["what"] == "adoption"
    assert old["complete_since"] > old["history"][0]["at"]


def test_history_is_whole_in_eighty_columns(rotator_command: Rotator) -> None:
    """The time of day, the path and the version: wrapped, never cut; ids and reasons, too."""
    rotator_command.policy("edi", POLICY)
    reason = "the key was seen in a ticket of the trading partner's help desk"
    assert rotator_command("rotate", "edi", "--grace", "0s", "--reason", reason).code == 0
    lines = past(rotator_command, "edi")
    with at_a_terminal(rotator_command, "history", COLUMNS="80", NO_COLOR="1") as (_, screen):
        shown = shown_on(screen)
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    for line in lines:
        assert line["at"][:19] in words
        assert line["run"] in words
        assert str(line["key_id"] or line["retired_key_id"]) in words
    assert reason in words
    assert "ecgrid/edi v2" in words
    assert "…" not in shown


def test_lines_of_one_policy_stand_in_the_order_in_which_they_were_recorded() -> None:
    """Vault tells whole seconds: a second process may write an earlier time than the first did."""
    at = datetime(2026, 1, 5, 3, 0, 1, tzinfo=UTC)
    told = {"duration_s": 0.0, "reason": "", "by": "", "run": "0" * 16, "user_id": 5001}
    held = Past.model_validate({"at": at, "outcome": "held", **told})
    released = Past.model_validate({"at": at - timedelta(seconds=1), "outcome": "released", **told})
    record = Record.new("edi").change(history=(held, released))
    assert [line.past.outcome for line in _lines({"edi": record}, None)] == ["held", "released"]


def test_the_page_is_given_the_last_ten_lines_and_they_weigh_little() -> None:
    """The newest first; a daemon keeps them of ten thousand policies."""
    first = datetime(2026, 1, 5, 3, tzinfo=UTC)
    place = Place(mount="secret", path="ecgrid/edi-gateway", field="api_key", version=7)
    lines = [
        Past(
            at=first + timedelta(days=number),
            duration_s=0.4,
            outcome="failed" if number == 14 else "retired" if number == 13 else "rotated",
            reason="schedule",
            by="rotator-5f7c9/1",
            run=f"{number:016x}",
            user_id=5001,
            key_id=None if number == 13 else 1000 + number,
            previous_key_id=999 + number,
            published=(place,),
            error="ecgrid.Timeout" if number == 14 else None,
            what="retirement" if number == 13 else "rotation",
        )
        for number in range(15)
    ]
    pasts = Pasts()
    assert pasts.of("edi") == []
    pasts.saw("edi", lines)
    told = pasts.of("edi")
    assert [one.began for one in told] == [past.at for past in reversed(lines[5:])]
    assert [one.outcome for one in told[:3]] == ["rotation failed", "retired", "rotated"]
    assert told[0].details == (
        "key 1014; replaces key 1013; secret/ecgrid/edi-gateway v7; ecgrid.Timeout; by rotator-5f7c9/1, "
        f"run {14:016x}"
    )
    assert told[1].details.startswith("ended key 1012; ")
    assert len(pasts._packed["edi"]) < 1000
    pasts.saw("edi", ())
    assert pasts.of("edi") == []
