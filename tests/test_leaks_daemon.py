"""The hunt, with the daemon for a quarry: at DEBUG, through failures, and everything that it shows while it lives."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import VaultServer, events
from leaks.hunt import Hunt, canary, hunt
from leaks.parties import Misdeed
from receiver import manager

from rotator.sandbox.ecgrid import Fault

PAGES = ("/", "/metrics", "/healthz", "/readyz", "/nothing-here")
QUICK = {"ROTATOR_CHECK_EVERY": "2s", "ROTATOR_DEADLINE": "4s", "ROTATOR_CLAIM_TTL": "6s"}
OFTEN = "issue: {}\nverify: {}\nfirst: rotate\ngrace: 1s\nmax_age: 30d\n"


@dataclass
class Daemon:
    """A running daemon and where it writes."""

    process: subprocess.Popen[bytes]
    stderr: Path

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it has logged under that name."""
        return events(self.stderr.read_text(errors="replace"), name)

    def until(self, what: Callable[[], object]) -> None:
        """Waits until that is so; fails if it never is."""
        limit = time.monotonic() + 90
        while not what():
            assert self.process.poll() is None, self.stderr.read_text()[-2000:]
            assert time.monotonic() < limit, self.stderr.read_text()[-2000:]
            time.sleep(0.1)


@pytest.fixture
def quarry(tmp_path: Path, vault: VaultServer, mount: str) -> Iterator[Hunt]:
    """A hunt of this test's own, whose command keeps a textfile of metrics."""
    with hunt(tmp_path, vault, mount) as made:
        made.environment |= {
            "CANARY": canary(),
            "ROTATOR_HTTP__LISTEN": "127.0.0.1:0",
            "ROTATOR_METRICS__TEXTFILE": str(tmp_path / "home" / "rotator.prom"),
            "ROTATOR_NOTIFY__WEBHOOK": f"http://{made.webhook.address}/notify",
            "ROTATOR_NOTIFY__SECRET_FILE": made.secret_file("notify-secret", canary()),
        }
        made.secrets.add(made.environment["CANARY"])
        yield made


@contextmanager
def daemon(quarry: Hunt, deeds: Sequence[str] = ()) -> Iterator[Daemon]:
    """The daemon at DEBUG, under a service manager; when it has ended, what it said is added to what is searched."""
    program = ["-m", "leaks.driver", *deeds, "--"] if deeds else ["-m", "rotator"]
    out, err = quarry.directory / "daemon.out", quarry.directory / "daemon.err"
    with (
        manager(str(quarry.directory / "notify")) as systemd,
        out.open("wb") as stdout,
        err.open("wb") as stderr,
    ):
        process = subprocess.Popen(
            [sys.executable, *program, "--log-level", "DEBUG", "--log-format", "json", "run"],
            cwd=quarry.directory,
            env=quarry.environment | QUICK | {"NOTIFY_SOCKET": str(quarry.directory / "notify")},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
        try:
            yield Daemon(process, err)
            quarry.left.append(
                ("the daemon's arguments", Path(f"/proc/{process.pid}/cmdline").read_bytes())
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
    quarry.keep("the daemon", out.read_bytes(), err.read_bytes())
    quarry.left.append(("what systemd was told", "\n".join(systemd.said).encode()))
    assert "READY=1" in systemd.said


def look(quarry: Hunt, started: Daemon) -> None:
    """Asks for every page, as a person and as a scraper do."""
    port = started.events("daemon.listening")[-1]["port"]
    for path in PAGES:
        answer = httpx.get(
            f"http://127.0.0.1:{port}{path}?key={quarry.environment['CANARY']}",
            timeout=60,
            trust_env=False,
        )
        shown = answer.content + json.dumps(dict(answer.headers)).encode()
        quarry.left.append((f"page {path}", shown))
        assert answer.status_code == (404 if path == "/nothing-here" else 200) or path == "/readyz"


@pytest.mark.full
def test_nothing_leaks_from_the_daemon(quarry: Hunt) -> None:
    """While it rotates, fails in every round, is reloaded, asked for its pages and stopped."""
    surfaces = (("keyset", "key-get"), ("create-key", "get-key"), ("generate", "get-api-key"))
    for number in range(6):
        text = OFTEN.format(*surfaces[number % 3])
        quarry.policy(f"p{number}", 6001 + number, text)
        path = quarry.directory / "policies" / f"p{number}.yaml"
        path.write_text(path.read_text().replace("every: 30d", "every: 2s"))
    model = quarry.simulator.simulator
    with daemon(quarry) as started:
        started.until(lambda: len(started.events("rotation.outcome")) >= 6)
        look(quarry, started)
        for user, fault in ((6001, "lost"), (6002, "malformed"), (6003, "masked")):
            model.add_fault(Fault(fault, about=user, times=None))  # type: ignore[arg-type]  # kinds
        model.add_fault(Fault("status", about=6004, status=500, quoting=True, times=None))
        quarry.before_vault.misdeeds.append(Misdeed("echo-500", "POST|PUT", "/data/ecgrid/p4$"))
        quarry.before_vault.misdeeds.append(Misdeed("wrong-types", "GET", "/staged/p5$"))
        started.until(
            lambda: len({one["policy"] for one in started.events("rotation.failed")}) >= 3
        )
        look(quarry, started)
        model.clear_faults()
        quarry.before_vault.misdeeds.clear()
        (quarry.directory / "policies" / "p0.yaml").write_text(
            f"user_id: {quarry.environment['CANARY']}\n"
        )
        started.process.send_signal(signal.SIGHUP)
        started.until(lambda: started.events("daemon.reload_failed"))
        started.process.send_signal(signal.SIGUSR1)
        look(quarry, started)
    assert list(quarry.home.glob("hook.*")) != []
    assert len(quarry.webhook.taken) >= 10
    assert len(quarry.sentry.taken) >= 5
    assert quarry.findings() == []
    assert quarry.said_so == []


MISTAKES = (
    "lib-log",
    "http-debug",
    "log",
    "event",
    "log-secret",
    "print",
    "warn",
    "thread",
    "del",
    "sentry",
)


def test_the_net_holds_in_the_daemon_too(quarry: Hunt) -> None:
    """Every mistake at once, in the threads that rotate: nothing is shown, the alarm is raised, the daemon goes on."""
    quarry.policy("edi", 6001, OFTEN.format("keyset", "key-get"))
    with daemon(quarry, deeds=MISTAKES) as started:
        started.until(lambda: started.events("rotation.outcome"))
        look(quarry, started)
        prevented = started.events("leak.prevented")
    assert prevented != []
    assert quarry.findings() == []


@pytest.mark.full
def test_without_the_net_the_hunt_finds_what_the_daemon_shows(quarry: Hunt) -> None:
    """The same mistakes; what was found nowhere above is found now."""
    quarry.policy("edi", 6001, OFTEN.format("keyset", "key-get"))
    with daemon(quarry, deeds=(*MISTAKES, "no-net")) as started:
        started.until(lambda: started.events("rotation.outcome"))
    assert any(found.startswith("stderr of the daemon") for found in quarry.findings())


@pytest.mark.full
def test_no_page_and_no_metric_shows_a_secret_that_reached_it(quarry: Hunt) -> None:
    """A secret pasted into a field that is shown: the owner of a policy."""
    quarry.policy("edi", 6001, OFTEN.format("keyset", "key-get"))
    path = quarry.directory / "policies" / "edi.yaml"
    own = Path(quarry.environment["ROTATOR_ECGRID__API_KEY_FILE"]).read_text().strip()
    path.write_text(path.read_text() + f"owner: {json.dumps(own)}\n")
    with daemon(quarry) as started:
        started.until(lambda: started.events("rotation.outcome"))
        look(quarry, started)
    quarry.run("status", "--json")
    quarry.run("status")
    assert quarry.findings() == []
