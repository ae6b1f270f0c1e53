"""A real Prometheus: it takes the daemon's metrics, and raises the alert when a rotation is made to fail."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import Rotator, until

from rotator.reporting.metrics import Metrics
from rotator.sandbox.ecgrid import Fault, Running

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "monitoring" / "rules.yaml"
POLICY = "user_id: 5001\nvisibility: Private\nschedule: {every: 30d}\nvault: {path: ecgrid/edi}\n"


def promtool(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """What promtool says."""
    return subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, timeout=120, check=False
    )


def test_the_rules_are_good_and_do_what_their_tests_say() -> None:
    """Metrics that are absent included."""
    for arguments in (("check", "rules"), ("test", "rules")):
        file = RULES if arguments[0] == "check" else RULES.with_name("rules.test.yaml")
        done = promtool(*arguments, str(file))
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_a_section_in_the_runbook() -> None:
    """A link that leads nowhere helps nobody at night."""
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    alerts = {
        rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule
    }
    headings = set(
        re.findall(r"^### (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    )
    tested = set(re.findall(r"alertname: (\w+)", RULES.with_name("rules.test.yaml").read_text()))
    assert set(alerts) <= headings
    assert set(alerts) == tested
    assert alerts == {name: f"docs/runbook.md#{name.lower()}" for name in alerts}


def test_rules_and_dashboard_ask_for_metrics_that_exist() -> None:
    """A misspelt name would never alarm."""
    names = set(re.findall(r"`(rotator_\w+)`", (ROOT / "docs" / "metrics.md").read_text()))
    names |= {f"{name}_bucket" for name in names}
    dashboard = json.loads((ROOT / "monitoring" / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]]
    assert set(re.findall(r"\brotator_\w+", "\n".join(asked))) - names == set()


@contextmanager
def prometheus(where: Path, target: str) -> Iterator[str]:
    """A Prometheus that scrapes the target each second, with the rules that ship, told to wait for seconds only."""
    where.mkdir()
    rules = re.sub(r"for: \d+[mhd]", "for: 2s", RULES.read_text())
    (where / "rules.yaml").write_text(rules)
    (where / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{where}/rules.yaml]\n"
        f"scrape_configs: [{{job_name: rotator, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        "prometheus", f"--config.file={where}/prometheus.yml", f"--storage.tsdb.path={where}/data",
        f"--web.listen-address={address}", "--log.level=error",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        process.wait(30)


def told(api: str, about: str, **asked: str) -> Any:
    """What Prometheus answers; raises httpx.HTTPError if it does not."""
    answer = httpx.get(f"{api}/{about}", params=asked, timeout=60, trust_env=False)
    return answer.raise_for_status().json()["data"]


def firing(api: str) -> set[str]:
    """The alerts that are raised."""
    alerts = told(api, "alerts")["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def all_evaluated(api: str, since: datetime) -> bool:
    """Whether every rule was evaluated after that time."""
    rules = [rule for group in told(api, "rules")["groups"] for rule in group["rules"]]
    return all(datetime.fromisoformat(rule["lastEvaluation"]) > since for rule in rules)


def test_a_rotation_that_fails_raises_the_alert_and_a_daemon_that_dies_another(
    rotator_command: Rotator, simulator: Running, tmp_path: Path
) -> None:
    """Scraped by the real one; its metrics follow the conventions."""
    rotator_command.policy("edi", POLICY)
    rotator_command.environment |= {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "6s"}
    daemon = rotator_command.start(
        "run", ROTATOR_HTTP__LISTEN="127.0.0.1:0", ROTATOR_LOG__FORMAT="json"
    )

    def port() -> str | None:
        found = re.search(r'"daemon.listening", "port": (\d+)', daemon.so_far()[1])
        return found[1] if found else None

    target = f"127.0.0.1:{until(port, 'the daemon listens')}"
    shown = httpx.get(f"http://{target}/metrics", timeout=30, trust_env=False)
    checked = promtool("check", "metrics", given=shown.content)
    assert (checked.returncode, checked.stderr) == (0, b"")
    with prometheus(tmp_path / "prometheus", target) as api:

        def up() -> bool:
            with suppress(httpx.HTTPError):
                state = 'rotator_policy_state{policy="edi", state="ok"}'
                return bool(told(api, "query", query=state)["result"])
            return False

        until(up, "Prometheus has the policy's state")
        # Long enough for an alert to fire, the one of a policy not yet adopted included.
        later = datetime.now(UTC) + timedelta(seconds=5)
        until(lambda: all_evaluated(api, later), "every rule is evaluated")
        assert firing(api) == set()
        simulator.simulator.add_fault(Fault("status", call="KeySet", status=403, times=None))
        assert rotator_command("rotate", "edi").code == 1
        until(lambda: "RotatorPolicyFailing" in firing(api), "the alert for the failed rotation")
        daemon.finish(send=signal.SIGTERM)
        until(lambda: "RotatorDown" in firing(api), "the alert for the daemon that is gone")


def test_a_metric_of_every_name_follows_the_conventions() -> None:
    """Also those that no short run shows."""
    metrics = Metrics()
    metrics.vault_token_ttl(lambda: 1.0)
    metrics.vault_clock_skew(lambda: 1.0)
    metrics.ecgrid_call("KeySet", "200", 0.1)
    metrics.vault_call("get data", "ok", 0.1)
    metrics.rate_wait(0.1)
    metrics.outcome("edi", "failed", 1.0, "issue", "ecgrid.Timeout")
    for name in ("started", "issuing", "issued", "staged", "verified", "published", "settled"):
        metrics.event(f"rotation.{name}", "edi", {"exposure_s": 0.1})
    metrics.event("rotation.retired", "edi", {"why": "replaced"})
    checked = promtool("check", "metrics", given=metrics.page())
    assert (checked.returncode, checked.stderr) == (0, b"")
