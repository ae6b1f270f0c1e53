"""Metrics: what is counted, by which name, and that a file of them is never half written or half true."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Rotator
from prometheus_client.parser import text_string_to_metric_families

from rotator.reporting.metrics import Metrics
from rotator.reporting.rows import Row, Standing
from rotator.sandbox.ecgrid import Fault, Running

ROOT = Path(__file__).resolve().parent.parent
NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
POLICY = "user_id: 5001\nvisibility: Private\nschedule: {every: 30d}\nvault: {path: ecgrid/edi}\n"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    """Every sample by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float | None:
    """The sample of that name and exactly these labels."""
    return found.get((name, tuple(sorted(labels.items()))))


def row(policy: str = "edi", **changes: Any) -> Row:
    """How a policy stands."""
    known = Row(
        policy, 5001, "ok", key_id=7, key_age=timedelta(hours=1), max_age=timedelta(hours=2),
        last_rotated_at=NOW - timedelta(hours=1),
    )  # fmt: skip
    return known._replace(**changes)


class Clock:
    """Seconds that a test lets pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_phases_and_exposure_are_taken_from_the_events_of_a_rotation() -> None:
    """Staging and verifying go side by side; publishing begins when the later of them has ended."""
    clock = Clock()
    metrics = Metrics(clock)
    for at, name in (
        (0, "rotation.started"), (1, "rotation.issuing"), (3, "rotation.issued"), (4, "rotation.staged"),
        (7, "rotation.verified"), (9, "rotation.published"), (14, "rotation.settled"),
    ):  # fmt: skip
        clock.now = at
        metrics.event(name, "edi", {"exposure_s": 8.0})
    found = samples(metrics.page().decode())
    took = {
        phase: value(found, "rotator_phase_duration_seconds_sum", phase=phase)
        for phase in ("issue", "stage", "verify", "publish", "settle")
    }
    assert took == {"issue": 2, "stage": 1, "verify": 4, "publish": 2, "settle": 5}
    assert value(found, "rotator_exposure_seconds_sum") == 8
    assert value(found, "rotator_claims_total", result="won") == 1


def test_how_policies_stand_is_told_by_times_that_do_not_grow_old() -> None:
    """An age would stand still in a file that nobody writes any more."""
    metrics = Metrics()
    rows = [
        row(),
        row("new", key_id=None, key_age=None, last_rotated_at=None, state="not-adopted"),
    ]
    metrics.stand(Standing(NOW, rows, {"edi": 2}))
    found = samples(metrics.page().decode())
    made = (NOW - timedelta(hours=1)).timestamp()
    assert value(found, "rotator_key_created_timestamp_seconds", policy="edi") == made
    assert value(found, "rotator_key_created_timestamp_seconds", policy="new") is None
    assert value(found, "rotator_key_max_age_seconds", policy="edi") == 7200
    assert value(found, "rotator_policy_state", policy="new", state="not-adopted") == 1
    assert value(found, "rotator_policies", state="ok") == 1
    assert value(found, "rotator_keys_to_retire", policy="edi") == 2
    metrics.stand(Standing(NOW, [row(state="failed")]))
    found = samples(metrics.page().decode())
    assert value(found, "rotator_policy_state", policy="edi", state="ok") is None
    assert value(found, "rotator_policy_state", policy="edi", state="failed") == 1


def test_every_metric_is_in_the_documents_and_every_documented_one_exists() -> None:
    """Names are what dashboards and alerts of others rely on."""
    metrics = Metrics()
    metrics.vault_token_ttl(lambda: 1.0)
    metrics.vault_clock_skew(lambda: 1.0)
    metrics.stand(Standing(NOW, [row(next_due_at=NOW + timedelta(days=1))]))
    exposed = {
        line.split()[2]
        for line in metrics.page().decode().splitlines()
        if line.startswith("# TYPE rotator_")
    }
    text = (ROOT / "docs" / "metrics.md").read_text()
    documented = {
        line.split("`")[1] for line in text.splitlines() if line.startswith("| `rotator_")
    }
    assert exposed == documented


def test_a_textfile_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """And no draft."""
    file = tmp_path / "gone" / "rotator.prom"
    with pytest.raises(OSError, match="No such file"):
        Metrics().write(file)
    file = tmp_path / "rotator.prom"
    file.mkdir()
    with pytest.raises(OSError, match="directory"):
        Metrics().write(file)
    assert [path.name for path in tmp_path.iterdir()] == ["rotator.prom"]


def test_a_cronjob_leaves_a_textfile_of_all_its_policies(
    rotator_command: Rotator, simulator: Running, tmp_path: Path
) -> None:
    """Readable for node_exporter whatever the umask, without the process' own metrics, after a bad tick as well."""
    file = tmp_path / "rotator.prom"
    rotator_command.environment |= {
        "ROTATOR_METRICS__TEXTFILE": str(file), "ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "10s",
    }  # fmt: skip
    rotator_command.policy("edi", POLICY)
    rotator_command.policy("other", POLICY.replace("5001", "5002").replace("edi", "other"))
    assert rotator_command("run", "--once").code == 0
    found = samples(file.read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert value(found, "rotator_rotations_total", policy="edi", outcome="adopted") == 1
    assert value(found, "rotator_ticks_total", result="ok") == 1
    assert (
        value(found, "rotator_vault_requests_total", operation="get data", status="ok") or 0
    ) > 0
    assert value(found, "rotator_ecgrid_requests_total", operation="Get Key", status="200") == 2
    assert not any(name.startswith("process_") for name, _ in found)
    rotator_command.assert_silent(file.read_text(), "")
    simulator.simulator.add_fault(Fault("status", status=403, times=None))
    assert rotator_command("rotate", "edi").code == 1
    assert rotator_command("run", "--once").code == 0  # nothing is due
    found = samples(file.read_text())
    assert value(found, "rotator_policy_state", policy="edi", state="failed") == 1
    assert value(found, "rotator_policy_state", policy="other", state="ok") == 1
