"""The real command, between a real OpenBao and the simulated ECGrid over HTTP."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import secrets
import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from conftest import OPERATOR, Rotator, VaultServer, until

from rotator.sandbox.ecgrid import Fault, Running

POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""
RECORD_CALLS = ("keyset", "create-key")
FITTING = [
    *itertools.product(RECORD_CALLS, ("get-key", "key-get")),
    ("generate", "get-api-key"),
    ("generate", "user-get-api-key"),
    # Where the user's API key is its newest key record, the value can be read by either family.
    *itertools.product(RECORD_CALLS, ("get-api-key", "user-get-api-key")),
]
NEW_WIKI, OLD_WIKI = "http://www.ecgridos.net/", "https://os.ecgrid.io/"


def published(vault: VaultServer, mount: str, path: str = "ecgrid/edi") -> dict[str, str]:
    """The secret's data."""
    data: dict[str, str] = vault.call("GET", f"{mount}/data/{path}")["data"]["data"]
    return data


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("issue", "verify"), FITTING)
@pytest.mark.parametrize("keyset", ["add", "replace", "update"])
def test_every_pair_of_calls_rotates(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    issue: str,
    verify: str,
    keyset: str,
) -> None:
    """With keys full of characters that break encodings; what Vault shows is what ECGrid accepts."""
    namespace = OLD_WIKI if keyset == "replace" else NEW_WIKI
    simulator.simulator.switch(
        keyset=keyset,
        create_key=keyset,
        key_shape="special",
        soap_namespace=namespace,
        soap_result="inner",
    )
    rotator_command.policy("edi", POLICY + f"    issue: {issue}\n    verify: {verify}\n")
    done = rotator_command("rotate", "edi", "--json", ROTATOR_ECGRID__SOAP_NAMESPACE=namespace)
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stderr
    value = published(vault, mount)["api_key"]
    assert simulator.simulator.who(value) == 5001
    assert simulator.simulator.issued(5001) == 1
    result = done.json["results"][0]
    assert result["published"][0] == {"mount": mount, "path": "ecgrid/edi", "version": 2}
    assert (result["key_id"] is None) == (issue == "generate")
    again = rotator_command("rotate", "edi", "--json", ROTATOR_ECGRID__SOAP_NAMESPACE=namespace)
    assert again.code == 0
    assert published(vault, mount)["api_key"] != value
    assert simulator.simulator.who(published(vault, mount)["api_key"]) == 5001


@pytest.mark.parametrize(("issue", "verify"), [("generate", "get-key"), ("generate", "key-get")])
def test_generate_has_no_key_ids_whatever_is_shown(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    issue: str,
    verify: str,
) -> None:
    """The value is confirmed by the record that shows it, and ids stay null."""
    rotator_command.policy("edi", POLICY + f"    issue: {issue}\n    verify: {verify}\n")
    done = rotator_command("rotate", "edi", "--json")
    assert done.code == 0, done.stdout
    assert done.json["results"][0]["key_id"] is None
    assert simulator.simulator.who(published(vault, mount)["api_key"]) == 5001


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("issue", "verify"),
    [
        *itertools.product(RECORD_CALLS, ("get-api-key", "user-get-api-key")),
        *itertools.product(("generate",), ("get-key", "key-get")),
    ],
)
def test_calls_of_two_families_fail_where_the_families_differ(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    issue: str,
    verify: str,
) -> None:
    """The error names the pairs that go together, and nothing new is published."""
    simulator.simulator.switch(api_key_is_record=False)
    own = {"X-API-Key": rotator_command.environment["ROTATOR_ECGRID__API_KEY"]}
    assert (
        httpx.post(f"{simulator.rest_url}/v2/users/key-generate/5001", headers=own).status_code
        == 200
    )
    rotator_command.policy(
        "edi", POLICY + f"    issue: {issue}\n    verify: {verify}\n    first: rotate\n"
    )
    done = rotator_command(
        "rotate", "edi", "--json", ROTATOR_DEADLINE="3s", ROTATOR_CLAIM_TTL="20s"
    )
    assert done.code == 1, done.stdout
    error = done.json["results"][0]["error"]
    assert error["kind"] == "ecgrid.OtherFamily"
    assert "get-api-key" in error["message"]


def test_a_second_rotation_costs_ecgrid_three_requests(
    rotator_command: Rotator, simulator: Running
) -> None:
    """KeySet, Get Key and the probe; opening connections (Version) is not counted."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("rotate", "edi").code == 0
    before = len(simulator.simulator.requests())
    assert rotator_command("rotate", "edi").code == 0
    calls = [entry.call for entry in simulator.simulator.requests()[before:]]
    assert sorted(call for call in calls if "Version" not in call) == ["GetKey", "GetMe", "KeySet"]


@pytest.mark.parametrize("kind", ["lost", "half", "html"])
@pytest.mark.parametrize(("issue", "call"), [("keyset", "KeySet"), ("create-key", "CreateKey")])
def test_a_lost_answer_heals_within_the_command(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    kind: str,
    issue: str,
    call: str,
) -> None:
    """The key that was made is found by looking, not made again."""
    rotator_command.policy("edi", POLICY + f"    issue: {issue}\n")
    assert rotator_command("run", "--once").code == 0
    simulator.simulator.add_fault(Fault(kind, call=call))  # type: ignore[arg-type]  # one of the kinds
    done = rotator_command("rotate", "edi", "--json")
    assert (done.code, simulator.simulator.issued(5001)) == (0, 1), done.stdout
    assert simulator.simulator.who(published(vault, mount)["api_key"]) == 5001
    assert any("found by looking" in warning for warning in done.json["results"][0]["warnings"])


def test_dry_run_writes_nothing_anywhere(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """It says what would happen."""
    rotator_command.policy("edi", POLICY)
    done = rotator_command("rotate", "edi", "--dry-run", "--json")
    assert (done.code, done.json["summary"]) == (0, {"would-rotate": 1})
    assert simulator.simulator.issued() == 0
    with pytest.raises(Exception, match="404"):
        vault.call("LIST", f"{mount}/metadata/")


def test_adopt_takes_the_present_key_over(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Without rotating it."""
    rotator_command.policy("edi", POLICY)
    done = rotator_command("adopt", "edi", "--json")
    assert (done.code, done.json["summary"]) == (0, {"adopted": 1})
    assert simulator.simulator.who(published(vault, mount)["api_key"]) == 5001
    assert simulator.simulator.issued() == 0
    assert rotator_command("adopt", "edi", "--json").json["summary"] == {"unchanged": 1}


def test_a_renamed_policy_takes_its_record_along(rotator_command: Rotator, mount: str) -> None:
    """`adopt NEW --from OLD`."""
    old = rotator_command.policy("edi", POLICY)
    assert rotator_command("adopt", "edi").code == 0
    old.unlink()
    rotator_command.policy("new", POLICY)
    refused = rotator_command("rotate", "new", "--json")
    assert refused.code == 1
    assert "adopt new --from edi" in refused.json["results"][0]["error"]["message"]
    assert rotator_command("adopt", "new", "--from", "edi").code == 0
    assert rotator_command("rotate", "new", "--json").json["summary"] == {"rotated": 1}
    assert rotator_command("check", "--json").json["without_policy"] == []


@pytest.mark.parametrize("command", [("rotate", "edi"), ("run", "--once"), ("adopt", "edi")])
def test_results_are_told_also_where_nothing_could_be_seen(
    rotator_command: Rotator, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Vault is away: one object on stdout, an error in the log, the textfile written."""
    rotator_command.policy("edi", POLICY)
    done = rotator_command(
        *command,
        "--json",
        VAULT_ADDR="http://127.0.0.1:1",
        ROTATOR_DEADLINE="1s",
        ROTATOR_METRICS__TEXTFILE=str(tmp_path / "rotator.prom"),
    )
    (result,) = done.json["results"]
    assert (done.code, result["policy"], result["outcome"]) == (1, "edi", "failed")
    assert result["error"]["kind"] == "vault.Unreachable"
    if command[0] == "run":
        assert "run.failed" in done.stderr
        assert (tmp_path / "rotator.prom").exists()


@pytest.mark.parametrize("command", [("status", "--json"), ("schema",), ("check",)])
def test_a_reader_that_has_seen_enough_is_no_failure(
    rotator_command: Rotator, command: tuple[str, ...]
) -> None:
    """As `| head -1` does; the exit code is the command's own."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("run", "--once").code == 0
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*rotator_command.program, *command],
        cwd=rotator_command.directory,
        env=rotator_command.environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, "fault" in done.stderr, "Error" in done.stderr) == (0, False, False)


def test_an_option_that_is_no_duration_is_named(rotator_command: Rotator) -> None:
    """With what it must be."""
    rotator_command.policy("edi", POLICY)
    for arguments in (("rotate", "edi", "--grace", "1x"), ("plan", "--for", "soon")):
        done = rotator_command(*arguments)
        assert (done.code, f"{arguments[-2]} '{arguments[-1]}': " in done.stderr) == (2, True)


def test_at_a_terminal_no_line_of_the_log_is_written_into_the_progress(
    rotator_command: Rotator,
) -> None:
    """The progress is drawn below them, and each is one line, however narrow the terminal is."""
    for user_id in (5001, 5002, 5003):
        text = POLICY.replace("5001", str(user_id)).replace("ecgrid/edi", f"ecgrid/p{user_id}")
        rotator_command.policy(f"p{user_id}", text)
    screen, terminal = pty.openpty()
    arguments = [*rotator_command.program, "rotate", "--all"]
    started = subprocess.Popen(
        arguments,
        cwd=rotator_command.directory,
        env={**rotator_command.environment, "TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # that is how a terminal ends
        while some := os.read(screen, 65536):
            shown += some
    os.close(screen)
    assert started.wait(60) == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    rotator_command.assert_silent(lines)
    assert "NOW" in lines
    whole = r"[\r\n]\d{4}-[^\r\n]*rotation\.outcome[^\r\n]* duration_s=\d"
    assert len(re.findall(whole, lines)) == 3, lines


def test_doctor_meets_what_a_rotation_would_be_refused_for(rotator_command: Rotator) -> None:
    """Another policy's secret, the rotator's own key, and the second of two users."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("adopt", "edi").code == 0
    (rotator_command.policies / "edi.yaml").rename(rotator_command.policies / "new.yaml")
    rotator_command.policy(
        "own", POLICY.replace("5001", str(OPERATOR)).replace("ecgrid/edi", "ecgrid/own")
    )
    rotator_command.policy(
        "two",
        POLICY.replace("user_id: 5001", "users: [5002, 59999]").replace("ecgrid/edi", "ecgrid/two"),
    )
    done = rotator_command("doctor", "--json")
    assert done.code == 1
    for told in ("adopt new --from edi", "policy.OwnKey", "ecgrid.ObjectNotFound"):
        assert told in done.stdout, done.stdout


def test_taking_a_record_over_can_be_done_again(
    rotator_command: Rotator, vault: VaultServer, mount: str
) -> None:
    """The first try died before it marked the secret; and the old policy's last run had died with its claim."""
    old = rotator_command.policy("edi", POLICY)
    assert rotator_command("adopt", "edi").code == 0
    old.unlink()
    rotator_command.policy("new", POLICY)
    record = vault.call("GET", f"{mount}/data/rotator/record/edi")["data"]["data"]
    claim = {"holder": "x", "by": "elsewhere:1", "until": "2026-01-01T00:00:00Z"}
    for name, data in (("edi", {**record, "claim": claim}), ("new", {**record, "policy": "new"})):
        vault.call("POST", f"{mount}/data/rotator/record/{name}", {"data": data})
    done = rotator_command("adopt", "new", "--from", "edi")
    assert done.code == 0, done.stderr
    assert rotator_command("rotate", "new", "--json").json["summary"] == {"rotated": 1}
    assert rotator_command("check", "--json").json["without_policy"] == []
    again = rotator_command("adopt", "new", "--from", "edi")
    assert (again.code, "no record to take over" in again.stderr) == (1, True)


def test_check_finds_drift_and_repair_heals_it(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Somebody replaced the key behind our back: exit 4, then Vault holds what ECGrid accepts."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("run", "--once").code == 0
    assert rotator_command("check", "--json").json["results"][0]["state"] == "in-sync"
    model = simulator.simulator
    model.remove_key(model.keys(5001)[0].key_id)
    model.add_key(5001)
    drift = rotator_command("check", "--json")
    assert (drift.code, drift.json["results"][0]["state"]) == (4, "drift")
    healed = rotator_command("check", "--repair", "--json")
    assert (healed.code, healed.json["summary"]) == (0, {"repaired": 1})
    assert model.who(published(vault, mount)["api_key"]) == 5001
    assert (rotator_command("check").code, model.issued()) == (0, 0)


def test_check_reports_a_foreign_key_without_calling_it_drift(
    rotator_command: Rotator, simulator: Running
) -> None:
    """Other live keys of the user are named in a warning."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("run", "--once").code == 0
    foreign = simulator.simulator.add_key(5001)
    done = rotator_command("check", "--json")
    assert done.code == 0
    assert str(foreign.key_id) in str(done.json["results"][0]["warnings"])


def test_status_and_history_tell_what_happened(rotator_command: Rotator) -> None:
    """A row per policy, and a line per rotation."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("status", "--json").json["policies"][0]["state"] == "not-adopted"
    assert rotator_command("rotate", "edi", "--reason", "because").code == 0
    (row,) = rotator_command("status", "--json").json["policies"]
    assert (row["state"], row["user_id"], row["max_age_s"]) == ("ok", 5001, 45 * 86400)
    past = rotator_command("history", "edi", "--json").json["history"]
    assert [line["outcome"] for line in past] == ["adopted", "rotated"]
    assert past[1]["reason"] == "because"
    assert "edi" in rotator_command("status").stdout
    assert "because" in rotator_command("history", "edi").stdout


def test_doctor_finds_nothing_wrong_and_says_what_it_saw(rotator_command: Rotator) -> None:
    """Every line is ok, and the AuthLevel is shown."""
    rotator_command.policy("edi", POLICY)
    done = rotator_command("doctor", "--json")
    assert done.code == 0, done.stdout
    assert {line["state"] for line in done.json["checks"]} == {"ok"}
    assert "NetworkAdmin" in done.stdout


def test_doctor_names_what_is_missing(rotator_command: Rotator, simulator: Running) -> None:
    """A key without rights, and a token that is none."""
    rotator_command.policy("edi", POLICY)
    weak = simulator.simulator.api_key(5002)
    assert weak is not None
    assert (
        "NetworkAdmin or higher" in rotator_command("doctor", ROTATOR_ECGRID__API_KEY=weak).stdout
    )
    wrong = secrets.token_hex(8)
    rotator_command.secrets.add(wrong)
    done = rotator_command("doctor", VAULT_TOKEN=wrong)
    assert (done.code, "vault.LoginRefused" in done.stdout) == (1, True)


def test_run_once_says_not_due_and_exits_0(rotator_command: Rotator) -> None:
    """Nothing to do is no failure."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("run", "--once", "--json").json["summary"] == {"adopted": 1}
    done = rotator_command("run", "--once", "--json")
    assert (done.code, done.json["summary"]) == (0, {"not-due": 1})


def test_a_short_schedule_rotates_at_every_tick_that_is_due(
    rotator_command: Rotator, simulator: Running
) -> None:
    """`every: 1s`: due again a second later; the replaced key is retired after its grace."""
    rotator_command.policy("edi", POLICY.replace("30d", "1s") + "    grace: 0s\n")
    assert rotator_command("run", "--once", "--json").json["summary"] == {"adopted": 1}
    outcomes: list[str] = []

    def twice() -> bool:
        done = rotator_command("run", "--once", "--json")
        outcomes.append(done.json["results"][0]["outcome"])
        return outcomes.count("rotated") >= 2

    until(twice, "two ticks that rotate")
    rotated = outcomes.count("rotated")
    assert set(outcomes) <= {"rotated", "not-due"}
    assert simulator.simulator.issued(5001) == rotated


@pytest.mark.parametrize(
    "arguments",
    [
        ("rotate",),
        ("rotate", "nobody"),
        ("adopt",),
        ("check", "edl"),
        ("history", "edl"),
        ("nonsense",),
    ],
)
def test_bad_usage_exits_2_and_sends_nothing(
    rotator_command: Rotator, simulator: Running, arguments: tuple[str, ...]
) -> None:
    """Usage is checked before anybody is asked anything."""
    rotator_command.policy("edi", POLICY)
    done = rotator_command(*arguments)
    assert (done.code, done.stdout, simulator.simulator.requests()) == (2, "", [])
    assert "Traceback" not in done.stderr


def test_a_misspelt_name_is_answered_with_the_likely_one(rotator_command: Rotator) -> None:
    """As a person would."""
    rotator_command.policy("edi-gateway", POLICY)
    assert "did you mean edi-gateway" in rotator_command("rotate", "edi-gatway").stderr


def test_bad_policies_stop_a_command_before_it_acts(
    rotator_command: Rotator, simulator: Running
) -> None:
    """Every problem at once, with file, line and field."""
    rotator_command.policy("edi", POLICY)
    rotator_command.policy("bad", "user_id: many\nvisibility: Secret\n")
    done = rotator_command("rotate", "edi")
    assert (done.code, simulator.simulator.requests()) == (2, [])
    assert done.stderr.count("bad.yaml") >= 3


def test_validate_needs_no_credentials(rotator_command: Rotator) -> None:
    """Offline, with nothing but the policies."""
    rotator_command.policy("edi", POLICY)
    for name in [
        name for name in rotator_command.environment if name.startswith(("VAULT", "ROTATOR"))
    ]:
        del rotator_command.environment[name]
    done = rotator_command("validate")
    assert (done.code, done.stdout) == (0, "1 policy, no errors\n")
    assert json.loads(rotator_command("schema").stdout)["$schema"]


def test_the_rotators_own_key_is_not_in_what_it_says(
    rotator_command: Rotator, simulator: Running
) -> None:
    """At DEBUG too: the fixture searches what was printed for every secret there is."""
    rotator_command.policy("edi", POLICY)
    done = rotator_command("--log-level", "DEBUG", "--log-format", "console", "rotate", "edi")
    assert done.code == 0
    assert "rotation.settled" in done.stderr
    assert str(OPERATOR) not in done.stdout


def test_a_claim_of_another_rotator_is_busy(
    rotator_command: Rotator, vault: VaultServer, mount: str
) -> None:
    """Exit 3 for a policy that was named, 0 for a tick; who has it and until when is said."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("rotate", "edi").code == 0
    at = f"{mount}/data/rotator/record/edi"
    record = vault.call("GET", at)["data"]["data"]
    soon = datetime.now(UTC) + timedelta(minutes=3)
    claim = {"holder": "other", "by": "elsewhere:1", "until": soon.isoformat()}
    vault.call("POST", at, {"data": {**record, "claim": claim}})
    done = rotator_command("rotate", "edi")
    assert done.code == 3
    assert "elsewhere:1" in done.stdout
    assert rotator_command("run", "--once").code == 0


@pytest.mark.parametrize(
    ("field", "login", "code", "says"),
    [
        ("api_key", {}, 2, "way back in"),
        ("token", {}, 2, "this policy does not publish"),
        ("api_key", {"ROTATOR_ECGRID__LOGIN": "admin"}, 0, "no errors"),
    ],
)
def test_validate_refuses_an_own_key_without_a_way_back(
    rotator_command: Rotator, field: str, login: dict[str, str], code: int, says: str
) -> None:
    """What can be seen offline: the own key is read from what a policy publishes."""
    rotator_command.policy("own", POLICY)
    password = f"{secrets.token_hex(8)}aA1!"
    rotator_command.secrets.add(password)
    if login:
        login = {**login, "ROTATOR_ECGRID__PASSWORD": password}
    mount = rotator_command.environment["ROTATOR_VAULT__MOUNT"]
    del rotator_command.environment["ROTATOR_ECGRID__API_KEY"]
    rotator_command.environment |= login
    rotator_command.environment["ROTATOR_ECGRID__API_KEY_VAULT"] = f"{mount}/ecgrid/edi#{field}"
    done = rotator_command("validate")
    assert (done.code, says in done.stdout + done.stderr) == (code, True)
