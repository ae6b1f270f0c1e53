"""What a terminal and a script are told: only what failed where that was asked for; each thing once; nothing cut."""

from __future__ import annotations

import json
import re

from conftest import Finished, Rotator, VaultServer, events
from terminal import at_a_terminal, shown_on

from rotator.sandbox.ecgrid import Fault, Running

POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""


def test_quiet_tells_only_what_failed(rotator_command: Rotator, simulator: Running) -> None:
    """Nothing at all while all is well, on either stream; failures as always, also as JSON; exit codes are the same."""
    rotator_command.policy("edi", POLICY)
    rotator_command.policy("nightly", POLICY.replace("edi", "nightly").replace("5001", "5002"))
    well = [
        *("adopt --all", "rotate edi", "run --once", "status", "status --strict", "check"),
        *("check --repair", "plan", "history", "validate", "hold edi --for 1d --reason x"),
        *("release edi", "release --brake", "rotate edi --dry-run"),
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
    assert f" {row['previous_key_until']}" in rotator_command("plan", "--for", "31d").stdout


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


def at_eighty_columns(command: Rotator, *typed: str) -> str:
    """What a terminal of that width shows, without the styles of its letters."""
    with at_a_terminal(command, *typed, COLUMNS="80", NO_COLOR="1") as (_, screen):
        shown = shown_on(screen)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
