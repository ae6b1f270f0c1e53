"""What a terminal and a script are told: only what failed where that was asked for; each thing once; nothing cut."""

from __future__ import annotations

import json

from conftest import Finished, Rotator, events

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
