"""What a terminal and a script are told: only what failed where that was asked for; each thing once; nothing cut."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import Finished, Rotator, VaultServer, events
from terminal import at_a_terminal, shown_on

from rotator.sandbox.ecgrid import Fault, Running

POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""


@pytest.mark.full
def test_quiet_tells_only_what_failed(rotator_command: Rotator, simulator: Running) -> None:
    """Nothing at all while all is well, on either stream; failures as always, also as JSON; exit codes are the same."""
    rotator_command.policy("edi", POLICY)
    rotator_command.policy("nightly", POLICY.replace("edi", "nightly").replace("5001", "5002"))
    well = [
        *("adopt --all", "rotate edi", "run --once", "status", "status --strict", "check"),
        *("check --repair", "plan", "history", "validate", "hold edi --for 1d --reason x"),
        *("release edi", "release --brake", "doctor", "rotate edi --dry-run"),
    ]
    for typed in well:
        assert rotator_command(*typed.split(), "--quiet") == Finished(0, "", ""), typed
    simulator.simulator.add_fault(
        Fault("status", call="KeySet", status=403, about=5001, times=None)
    )
    bad = rotator_command("rotate", "--all", "--quiet", "--json")
    assert bad.code == 1
    assert [one["policy"] for one in bad.json["results"]] == ["edi"]
    assert bad.json["summary"] == {"failed": 1, "rotated": 1}
    (line,) = bad.stderr.splitlines()
    assert json.loads(line)["event"] == "rotation.failed"
    for typed, code in (("status", 0), ("status --strict", 1), ("history", 0)):
        told = rotator_command(*typed.split(), "--quiet")
        assert (told.code, told.stderr) == (code, "")
        assert "ecgrid.AccessDenied" in told.stdout
        assert "nightly" not in told.stdout
    told = rotator_command("--log-level", "INFO", "rotate", "nightly", "--quiet")
    assert (told.code, told.stdout) == (0, "")
    assert [one["outcome"] for one in events(told.stderr, "rotation.outcome")] == ["rotated"]


def test_until_when_the_old_key_lives_is_told(rotator_command: Rotator) -> None:
    """By rotate, status, and plan, as text and as JSON; an account that ends it at once has none."""
    rotator_command.policy("edi", POLICY + "    grace: 12h\n")
    rotator_command.policy(
        "gen", POLICY.replace("edi", "gen").replace("5001", "5002") + "    issue: generate\n"
    )
    done = rotator_command("rotate", "edi")
    assert done.code == 0, done.stderr
    assert re.search(r"OLD ENDS.*\nedi .* in 12h ", done.stdout)
    assert re.search(r"OLD ENDS.*\nedi .* in 12h\b", rotator_command("status", "edi").stdout)
    plan = rotator_command("plan", "--for", "31d", "--json").json["rotations"]
    (row,) = [one for one in plan if one["policy"] == "edi"]
    assert row["previous_key_until"] > row["at"]
    assert {one["previous_key_until"] for one in plan if one["policy"] == "gen"} == {None}
    assert re.search(
        r"OLD ENDS\s*\n(.* gen .*\n)?.* edi .* in \d+d\b",
        rotator_command("plan", "--for", "31d").stdout,
    )


def test_adopt_says_which_key_it_publishes_instead_of_the_records(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """After the secret was deleted, where somebody has made a newer key: which, and why."""
    rotator_command.policy("edi", POLICY)
    before = rotator_command("rotate", "edi", "--json").json["results"][0]["key_id"]
    foreign = simulator.simulator.add_key(5001)
    vault.call("DELETE", f"{mount}/data/ecgrid/edi")
    done = rotator_command("adopt", "edi", "--json")
    assert done.code == 0, done.stdout
    (result,) = done.json["results"]
    assert (result["key_id"], result["previous_key_id"]) == (foreign.key_id, before)
    (warning,) = [text for text in result["warnings"] if "is published, and not" in text]
    assert f"key {foreign.key_id} " in warning
    assert f"key {before} " in warning
    assert f"{mount}/ecgrid/edi does not show the record's key" in warning


def test_tables_are_whole_in_eighty_columns(rotator_command: Rotator) -> None:
    """What is short stands on one line, paths are wrapped, nothing is cut off."""
    path = "ecgrid/production/europe/edi-gateway-of-the-north"
    rotator_command.policy("edi-gateway-north", POLICY.replace("ecgrid/edi", path))
    for typed in ("rotate --all", "status", "check", "plan"):
        shown = at_eighty_columns(rotator_command, *typed.split())
        assert max(map(len, shown.splitlines())) <= 80, shown
        assert "…" not in shown
        assert re.search(r"^(\S+Z +in \d+d +)?edi-gateway-north ", shown, re.MULTILINE), shown
        if typed.startswith("rotate"):
            assert f"{path} v2" in " ".join(shown.split()), shown


def test_what_is_printed_at_a_terminal_is_not_logged_there_as_well(
    rotator_command: Rotator, simulator: Running
) -> None:
    """Each result once; in a pipe the log has it as before. A policy's warning is for those who ask."""
    rotator_command.policy("edi", POLICY + "    grace: 1m\n")
    shown = at_eighty_columns(rotator_command, "rotate", "edi")
    assert shown.count("rotated") == 2  # the row, and the summary
    assert "rotation.outcome" not in shown
    shown = at_eighty_columns(rotator_command, "rotate", "edi", "--grace", "0s")
    assert len(re.findall(r"edi: key \d+ is ended", shown)) == 2
    assert "rotation." not in shown
    shown = at_eighty_columns(rotator_command, "run", "--once")
    assert (shown.count("1 not-due"), shown.count("run.summary")) == (1, 0)
    simulator.simulator.add_fault(Fault("status", call="KeySet", status=403, times=None))
    shown = at_eighty_columns(rotator_command, "rotate", "edi")
    assert shown.count("ecgrid.AccessDenied") == 1
    piped = rotator_command("rotate", "edi")
    assert [one["error"] for one in events(piped.stderr, "rotation.failed")] == [
        "ecgrid.AccessDenied"
    ]
    assert "policy.warning" not in piped.stderr
    assert "warning" in rotator_command("validate").stdout


def test_a_hold_is_told_once_at_a_terminal(rotator_command: Rotator) -> None:
    """In the table, without a column that has nothing to say; in a pipe the log has it, too."""
    rotator_command.policy("edi", POLICY)
    for typed, event in (
        (("hold", "edi", "--for", "1h", "--reason", "audit"), "policy.held"),
        (("release", "edi"), "policy.released"),
    ):
        shown = at_eighty_columns(rotator_command, *typed)
        assert event not in shown
        head, row = shown.splitlines()
        assert (head.split(), row.split()[0]) == (["POLICY", "OUTCOME", "UNTIL", "WHY"], "edi")
        assert len(row.split()) == 4, row
    rotator_command("hold", "edi", "--for", "1h", "--reason", "audit")
    assert len(events(rotator_command("release", "edi").stderr, "policy.released")) == 1


def test_a_dry_run_does_not_say_that_anything_was_published(rotator_command: Rotator) -> None:
    """Where the places do not fit beside the rest, a text tells where it would be."""
    rotator_command.policy("edi-gateway-north", POLICY.replace("ecgrid/edi", "ecgrid/edi-gateway"))
    shown = at_eighty_columns(rotator_command, "rotate", "--all", "--dry-run")
    assert "would-rotate" in shown
    assert ": published at" not in shown
    assert "publish it at" in " ".join(shown.split())


def test_what_is_said_of_many_policies_is_said_once(
    rotator_command: Rotator, simulator: Running
) -> None:
    """As where a brake holds back a whole fleet: each has its row, and the reason is one line."""
    for number in range(30):
        text = POLICY.replace("5001", str(6000 + number)).replace("ecgrid/edi", f"ecgrid/{number}")
        rotator_command.policy(f"edi-{number}", text)
        simulator.simulator.add_user(6000 + number)
    simulator.simulator.add_fault(Fault("status", call="KeySet", status=403, times=None))
    done = rotator_command("rotate", "--all")
    lines = [line for line in done.stdout.splitlines() if "ecgrid.AccessDenied" in line]
    assert len(re.findall(r"^edi-\d+ +failed", done.stdout, re.MULTILINE)) == 30
    assert len(lines) == 1, lines
    assert re.match(r"edi-0, edi-\d+, edi-\d+ and 27 more: failed in issue: ", lines[0]), lines
    assert done.stdout.endswith("30 failed\n")


def test_a_sealed_vault_is_told_once_with_how_long_it_is_waited_for(
    rotator_command: Rotator,
) -> None:
    """A line that goes away at a terminal; one event in the log, however long it lasts."""
    rotator_command.policy("edi", POLICY)
    with sealed_vault() as addr:
        away = {"VAULT_ADDR": addr, "ROTATOR_DEADLINE": "5s", "ROTATOR_CLAIM_TTL": "20s"}
        piped = rotator_command.start("rotate", "edi", **away).finish()
        assert piped.code == 1
        assert [one["error"] for one in events(piped.stderr, "fleet.waiting")] == ["vault.Sealed"]
        shown = at_eighty_columns(rotator_command, "rotate", "edi", **away)
    assert shown.count("fleet.waiting") == 1
    assert re.search(r"waits for Vault, for \ds at most \[vault\.Sealed\]", shown)


def test_progress_has_a_count_and_the_time_that_is_left(
    rotator_command: Rotator, simulator: Running
) -> None:
    """While several are rotated at a terminal."""
    for number in range(4):
        simulator.simulator.add_user(6000 + number)
        text = POLICY.replace("5001", str(6000 + number)).replace("ecgrid/edi", f"ecgrid/{number}")
        rotator_command.policy(f"edi-{number}", text)
    simulator.simulator.add_fault(Fault("latency", call="KeySet", seconds=0.5, times=None))
    shown = at_eighty_columns(rotator_command, "rotate", "--all", ROTATOR_CONCURRENCY="1")
    assert re.search(r"[1-3] of 4 done, \d+s left", shown)


def test_watch_says_what_it_does_not_show(rotator_command: Rotator) -> None:
    """On a screen of ten lines; the alarming ones come first."""
    for number in range(30):
        text = POLICY.replace("5001", str(6000 + number)).replace("ecgrid/edi", f"ecgrid/{number}")
        rotator_command.policy(f"edi-{number}", text)
    size = {"COLUMNS": "80", "LINES": "10", "NO_COLOR": "1"}
    with at_a_terminal(rotator_command, "status", "--watch", **size) as (_, screen):
        shown = shown_on(screen, "policies more")
    assert re.search(r"\.\.\. and 2[0-9] of 30 policies more", shown)


def at_eighty_columns(command: Rotator, *typed: str, **environment: str) -> str:
    """What a terminal of that width shows, without the styles of its letters."""
    size = {"COLUMNS": "80", "NO_COLOR": "1"}
    with at_a_terminal(command, *typed, **size, **environment) as (_, screen):
        shown = shown_on(screen)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


@contextmanager
def sealed_vault() -> Iterator[str]:
    """The address of what answers as a sealed Vault does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"errors": ["Vault is sealed"]}'
            self.send_response(503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
