"""What was told is kept in Vault: an alarm comes once, again each day, and once when it is over, whoever notices."""

from __future__ import annotations

import json
import secrets
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Roles, Rotator, VaultServer, events, until
from proxy import Proxy
from receiver import Receiver, receiver
from test_vault_policy import SHIPPED

from rotator.sandbox.ecgrid import Fault, Running

QUICK = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "10s", "ROTATOR_CHECK_EVERY": "0"}
RECEIVERS = ("ROTATOR_NOTIFY__WEBHOOK", "SENTRY_DSN")
REFUSED = Fault("status", call="KeySet", status=403, times=None)
Heard = Counter[tuple[str, str | None, str | None]]  # alarm, policy, kind of error


def policy(user_id: int, path: str, every: str = "1d", mount: str | None = None) -> str:
    """A policy for that user, with an owner and tags."""
    where = f"mount: {mount}, path: {path}" if mount else f"path: {path}"
    return (
        f"user_id: {user_id}\nvisibility: Private\nschedule: {{every: {every}}}\nvault: {{{where}}}\n"
        "max_age: 90d\nowner: edi-platform@example.com\ntags: [prod, eu]\n"
    )


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """A webhook."""
    with receiver() as there:
        yield there


@pytest.fixture
def sentry() -> Iterator[Receiver]:
    """What speaks Sentry's envelope format."""
    with receiver() as there:
        yield there


@pytest.fixture
def command(rotator_command: Rotator, hook: Receiver, sentry: Receiver) -> Rotator:
    """The command, which tells both of them."""
    there = {"ROTATOR_NOTIFY__WEBHOOK": f"{hook.url}/hook", "SENTRY_DSN": sentry.dsn}
    rotator_command.environment |= {**QUICK, **there}
    return rotator_command


def heard(hook: Receiver) -> Heard:
    """What the webhook took."""
    return Counter((one["event"], one["policy"], one["kind"]) for one in hook.kept())


def seen(sentry: Receiver) -> Heard:
    """What Sentry took."""
    tags = [event["tags"] for event in sentry.items("event")]
    return Counter((one["alarm"], one.get("policy"), one.get("kind")) for one in tags)


def told(vault: VaultServer, mount: str) -> tuple[int, dict[str, Any]]:
    """The version of what is kept, and what it says."""
    there = vault.call("GET", f"{mount}/data/rotator/told")["data"]
    return there["metadata"]["version"], json.loads(there["data"]["told"])


@pytest.mark.full
def test_a_week_of_a_cronjob(
    command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    hook: Receiver,
    sentry: Receiver,
) -> None:
    """Three ticks a day, one of them by two rotators at once; each receiver is away for a while.

    Two policies never work, one fails for two days: an alarm each, one again for each day that it lasts, one recovery.
    """
    plain = f"plain-{secrets.token_hex(4)}"
    vault.call("POST", f"sys/mounts/{plain}", {"type": "kv", "options": {"version": "1"}})
    command.policy("edi", policy(5001, "ecgrid/edi"))
    command.policy("nowhere", policy(5002, "ecgrid/nowhere", mount="nowhere"))
    command.policy("plain", policy(5003, "ecgrid/plain", mount=plain))
    ahead = timedelta(0)
    with Proxy(lambda _request, forward: forward().later(ahead)) as proxy:
        command.environment["VAULT_ADDR"] = proxy.before("vault", vault.addr)
        for day in range(7):
            simulator.simulator.clear_faults()
            if day in (2, 3):
                simulator.simulator.add_fault(REFUSED)
            for hour in (0, 8, 16):
                ahead = timedelta(days=day, hours=hour)
                hook.status = 404 if (day, hour) == (5, 0) else 200
                sentry.status = 500 if (day, hour) == (1, 0) else 200
                ticks = [command.start("run", "--once") for _ in range(2 if hour == 8 else 1)]
                for tick in ticks:
                    assert tick.finish().code == 1
        writes = told(vault, mount)[0]
        daily = {("failed", "nowhere", "vault.NoMount"): 7, ("failed", "plain", "vault.NotKV2"): 7}
        refused = "ecgrid.AccessDenied"
        passed = {("failed", "edi", refused): 2, ("recovered", "edi", refused): 1}
        assert heard(hook) == {**daily, **passed}
        assert seen(sentry) == {**daily, **passed}
        assert writes < 2 * 14 + 10  # a tick in which nothing changes writes nothing

        rows = command("status", "--json", "--strict")
        states = {one["policy"]: one for one in rows.json["policies"]}
        assert rows.code == 1
        assert states["nowhere"]["state"] == states["plain"]["state"] == "failed"
        assert states["nowhere"]["last_failure"]["kind"] == "vault.NoMount"
        assert "nowhere" in states["nowhere"]["last_failure"]["message"]

        for name, user_id in (("nowhere", 5002), ("plain", 5003)):
            command.policy(name, policy(user_id, f"ecgrid/{name}"))
        for _ in range(2):
            assert command("run", "--once").code == 0
    over = {("recovered", "nowhere", "vault.NoMount"): 1, ("recovered", "plain", "vault.NotKV2"): 1}
    assert heard(hook) == seen(sentry) == {**daily, **passed, **over}
    assert told(vault, mount)[1] == {"troubles": [], "telling": {}}
    vault.call("DELETE", f"sys/mounts/{plain}")


def test_an_alarm_says_who_is_to_be_called_and_where_to_read_more(
    command: Rotator, hook: Receiver, sentry: Receiver
) -> None:
    """Owner, tags, run and runbook: in the webhook, in Sentry, and in the log; with an address, a link that opens."""
    command.policy("nowhere", policy(5002, "ecgrid/nowhere", mount="nowhere"))
    page = "https://wiki.example.com/rotator/runbook"
    done = command("--log-format", "json", "run", "--once", ROTATOR_NOTIFY__RUNBOOK=page)
    (failed,) = events(done.stderr, "rotation.failed")
    (posted,) = hook.kept()
    (event,) = sentry.items("event")
    link = f"{page}#vaultnomount"
    assert (
        failed["owner"] == posted["owner"] == event["tags"]["owner"] == "edi-platform@example.com"
    )
    assert failed["tags"] == posted["tags"] == event["tags"]["tags"].split(",") == ["prod", "eu"]
    assert failed["run"] == posted["run"] == event["tags"]["run"]
    assert (
        failed["runbook"] == posted["runbook"] == event["contexts"]["rotation"]["runbook"] == link
    )
    command.policy("nowhere", policy(5002, "ecgrid/nowhere", mount="elsewhere"))
    assert command("rotate", "nowhere").code == 1
    explained = command("explain", "vault.NoMount").stdout
    assert (
        "rotator explain vault.NoMount"
        in command("--log-format", "json", "rotate", "nowhere").stderr
    )
    assert posted["to_do"] in " ".join(explained.split())


def test_whoever_notices_tells_that_it_is_over(
    command: Rotator, simulator: Running, hook: Receiver
) -> None:
    """Where the process that mended it tells nobody anything."""
    command.policy("edi", policy(5001, "ecgrid/edi", "30d"))
    assert command("run", "--once").code == 0
    simulator.simulator.add_fault(REFUSED)
    assert command("rotate", "edi").code == 1
    assert command("run", "--once").code == 0  # it is not due; that it failed is still so
    simulator.simulator.clear_faults()
    receivers = [command.environment.pop(name) for name in RECEIVERS]
    assert command("rotate", "edi").code == 0
    command.environment |= dict(zip(RECEIVERS, receivers, strict=True))
    for _ in range(2):
        assert command("run", "--once").code == 0
    assert [one["event"] for one in hook.kept()] == ["failed", "recovered"]


def test_an_order_that_fails_at_vault_is_reported_as_every_failure_is(
    command: Rotator, hook: Receiver, sentry: Receiver
) -> None:
    """A wrong token: an error event for the policy, and both receivers, though nothing can be kept."""
    command.policy("edi", policy(5001, "ecgrid/edi"))
    done = command("--log-format", "json", "rotate", "edi", VAULT_TOKEN=secrets.token_hex(8))
    assert done.code == 1
    (failed,) = events(done.stderr, "rotation.failed")
    assert (failed["policy"], failed["error"]) == ("edi", "vault.LoginRefused")
    assert heard(hook) == seen(sentry) == {("failed", "edi", "vault.LoginRefused"): 1}


def test_without_the_right_it_is_told_and_doctor_prints_the_line_to_add(
    command: Rotator, roles: Roles, mount: str, simulator: Running, hook: Receiver
) -> None:
    """As the version before did: every process that fails tells, and whoever rotates tells that it works again."""
    line = f'path "{mount}/data/rotator/told" {{ capabilities = ["create", "read", "update"] }}'
    without = "\n".join(one for one in SHIPPED.splitlines() if "rotator/told" not in one)
    command.environment |= roles.environment(without)
    command.policy("edi", policy(5001, "ecgrid/edi", "30d"))
    assert command("run", "--once").code == 0
    assert line in command("doctor").stdout
    simulator.simulator.add_fault(REFUSED)
    done = command("--log-format", "json", "rotate", "edi")
    assert done.code == 1
    assert events(done.stderr, "report.not_remembered", at=f"{mount}/rotator/told")
    assert command("run", "--once").code == 0
    assert command("rotate", "edi").code == 1
    simulator.simulator.clear_faults()
    assert command("rotate", "edi").code == 0
    assert [one["event"] for one in hook.kept()] == ["failed", "failed", "recovered"]


def test_a_daemon_and_a_cronjob_tell_it_once(
    command: Rotator, simulator: Running, hook: Receiver, tmp_path: Path
) -> None:
    """The daemon, which tells nobody, notices; the CronJob tells; and so it is with the end of it."""
    command.policy("edi", policy(5001, "ecgrid/edi", "30d"))
    assert command("run", "--once").code == 0
    daemon = command.start(
        "--log-format", "json", "run", ROTATOR_CHECK_EVERY="0", ROTATOR_HTTP__LISTEN="127.0.0.1:0"
    )
    (ready,) = until(lambda: events(daemon.so_far()[1], "daemon.ready"), "the daemon is ready")
    assert ready["message"].startswith("nothing is due before 20")  # the index alone was read
    (listening,) = events(daemon.so_far()[1], "daemon.listening")
    assert httpx.get(f"{listening['url']}healthz", timeout=30).status_code == 200
    simulator.simulator.add_fault(REFUSED)
    assert command("rotate", "edi").code == 1
    simulator.simulator.clear_faults()
    assert command("rotate", "edi").code == 0
    done = daemon.finish(send=signal.SIGTERM)
    assert done.code == 0, done.stderr
    assert [one["event"] for one in hook.kept()] == ["failed", "recovered"]


@pytest.mark.full
def test_a_hook_that_fails_is_told_everywhere_and_changes_nothing(
    command: Rotator, hook: Receiver, sentry: Receiver, tmp_path: Path
) -> None:
    """A warning in the result, in `status`, in `history`; a metric, an alarm; its end once the hooks run again."""
    text = policy(5001, "ecgrid/edi", "30d")
    command.policy("edi", text + "after: [{exec: [no-such-program]}]\n")
    for asked in (("validate",), ("doctor",)):
        assert "no-such-program" in command(*asked).stdout
    assert command("run", "--once").code == 0
    done = command("--log-format", "json", "rotate", "edi", "--json")
    (result,) = done.json["results"]
    (problem,) = result["warnings"]
    assert (done.code, result["outcome"]) == (0, "rotated")
    (failed,) = events(done.stderr, "rotation.hooks_failed")
    assert (failed["level"], failed["owner"]) == ("warning", "edi-platform@example.com")
    assert failed["runbook"] == "rotator explain hook.Failed"
    (row,) = command("status", "--json").json["policies"]
    assert (row["state"], row["hook_problems"]) == ("ok", [problem])
    assert problem in command("status").stdout
    assert command("history", "edi", "--json").json["history"][-1]["error"] == problem
    alarm = ("hooks", "edi", "hook.Failed")
    assert heard(hook) == seen(sentry) == {alarm: 1}
    metrics = tmp_path / "metrics"
    command.environment["ROTATOR_METRICS__TEXTFILE"] = str(metrics)
    command.policy("edi", text.replace("30d", "1s") + "after: [{exec: [no-such-program]}]\n")
    assert command("run", "--once").code == 0
    written = metrics.read_text()
    assert 'rotator_hooks_failed_total{policy="edi"} 1.0' in written
    (owned,) = [line for line in written.splitlines() if line.startswith("rotator_policy_info{")]
    for label in ('policy="edi"', 'owner="edi-platform@example.com"', 'tags="prod,eu"'):
        assert label in owned
    command.policy("edi", text + "after: [{exec: ['true']}]\n")
    assert command("rotate", "edi").code == 0
    (row,) = command("status", "--json").json["policies"]
    assert row["hook_problems"] == []
    over = {alarm: 1, ("recovered", "edi", "hook.Failed"): 1}
    assert heard(hook) == seen(sentry) == over


def test_adopt_says_whose_record_it_took_over(command: Rotator) -> None:
    """And that there is none to take is a failure like every other."""
    command.policy("old", policy(5001, "ecgrid/edi"))
    assert command("run", "--once").code == 0
    (command.policies / "old.yaml").rename(command.policies / "new.yaml")
    done = command("adopt", "new", "--from", "old", "--json")
    (result,) = done.json["results"]
    assert (done.code, result["outcome"]) == (0, "adopted")
    assert result["warnings"] == ["took over the record of old, which there is no more"]
    again = command("--log-format", "json", "adopt", "new", "--from", "old", "--json")
    (failed,) = events(again.stderr, "rotation.failed")
    assert (again.code, failed["error"]) == (1, "policy.NoRecord")
    assert again.json["results"][0]["outcome"] == "failed"
