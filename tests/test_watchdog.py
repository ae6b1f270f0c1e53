"""A daemon that lives and does not work: late turns, a hung run, a dead scheduler, no Vault; each is noticed.

Where minutes would have to pass, the machine's boot clock runs faster for the daemon.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from secrets import token_hex

import httpx
from conftest import Rotator, VaultServer, until
from proxy import Answer, Forward, Proxy, Request, pass_on
from receiver import Manager, manager, receiver
from test_daemon import (
    FIRST_USER,
    assert_each_due_time_once,
    fleet_of,
    logged,
    policy,
    published,
    record,
    rotations,
)
from test_web import listening

from rotator.sandbox.ecgrid import Running

NO_CHECKS = {"ROTATOR_CHECK_EVERY": "0"}
WATCHED = {"WATCHDOG_USEC": "3000000"}  # a turn each second
FASTER = """
import time
told = time.clock_gettime
time.clock_gettime = lambda clock: told(clock) * (FACTOR if clock == time.CLOCK_BOOTTIME else 1)
"""
MORTAL = """
import os, threading
waiting = threading.Event.wait
def wait(self, timeout=None):
    if threading.current_thread().name == "APScheduler" and os.path.exists("die"):
        raise SystemExit
    return waiting(self, timeout)
threading.Event.wait = wait
"""


def before_the_program(command: Rotator, text: str) -> None:
    """Python runs this before the command's own code."""
    site = command.directory / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(text)
    command.environment["PYTHONPATH"] = f"{site}:{command.environment['PYTHONPATH']}"


def watching(stack: ExitStack, command: Rotator) -> Manager:
    """The service manager that the command tells how it goes."""
    name = f"rotator-{os.getpid()}-{token_hex(4)}"
    command.environment |= {"NOTIFY_SOCKET": f"@{name}", **WATCHED}
    return stack.enter_context(manager(f"\0{name}"))


def statuses(there: Manager) -> int:
    """How many turns have told of themselves."""
    return sum("at work" in line for line in list(there.said))


def test_a_late_turn_is_said_once_and_what_fell_due_meanwhile_is_rotated_once(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Vault keeps a turn waiting past a due time and past several turns."""
    (name,) = fleet_of(rotator_command, simulator, 1, "6s")
    holding, over = threading.Event(), threading.Event()

    def between(_request: Request, forward: Forward) -> Answer | None:
        if holding.is_set():
            over.wait(60)
        return forward()

    with Proxy(between) as proxy, ExitStack() as stack:
        watching(stack, rotator_command)
        daemon = rotator_command.start(
            "run", VAULT_ADDR=proxy.before("vault", vault.addr), **NO_CHECKS
        )
        until(lambda: record(vault, mount, name).get("current"), "it adopts")
        holding.set()
        asked = len(proxy.requests)
        until(lambda: len(proxy.requests) > asked, "a turn asks, and is not answered")
        until(lambda: logged(daemon, "daemon.turn_late"), "it says that the turn is late")
        adopted = datetime.fromisoformat(record(vault, mount, name)["rotated_at"])
        due = adopted + timedelta(seconds=7)
        until(lambda: datetime.now(UTC) > due, "the due time passes")
        assert simulator.simulator.issued(FIRST_USER) == 0
        ended = len(logged(daemon, "daemon.tick_failed"))  # a turn waits ten seconds for an answer
        assert len(logged(daemon, "daemon.turn_late")) <= 1 + ended
        holding.clear()
        over.set()
        until(lambda: rotations(vault, mount, name), "it rotates")
        assert daemon.finish(send=signal.SIGTERM).code == 0
    past = rotations(vault, mount, name)
    assert_each_due_time_once(past, 6.0)
    assert simulator.simulator.issued(FIRST_USER) == len(past)


def test_a_hung_run_starves_the_watchdog_and_is_named(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Turns go on, and other policies with them; a restart is the only way to end what hangs."""
    names = fleet_of(rotator_command, simulator, 2, "30d")
    hangs = policy(FIRST_USER, names[0], more="after: [{exec: [sleep, '60']}]\n")
    rotator_command.policy(names[0], hangs)
    before_the_program(rotator_command, FASTER.replace("FACTOR", "30"))
    with ExitStack() as stack:
        there = watching(stack, rotator_command)
        daemon = rotator_command.start(
            "run", ROTATOR_DEADLINE="10s", ROTATOR_CLAIM_TTL="15s", **NO_CHECKS
        )
        (told, *_) = until(lambda: logged(daemon, "daemon.stuck"), "it says that a run hangs")
        assert told["policies"] == names[:1]
        seen = statuses(there)
        until(lambda: statuses(there) > seen, "a turn ends")
        fed, seen = there.said.count("WATCHDOG=1"), statuses(there)
        until(lambda: statuses(there) > seen + 2, "turns go on")
        assert there.said.count("WATCHDOG=1") == fed
        until(lambda: record(vault, mount, names[1]).get("current"), "the other one is adopted")
        daemon.kill()


def test_a_scheduler_that_died_is_seen_by_health_and_watchdog(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """The process answers, and says that it hangs."""
    (name,) = fleet_of(rotator_command, simulator, 1, "30d")
    before_the_program(rotator_command, FASTER.replace("FACTOR", "100") + MORTAL)
    with ExitStack() as stack:
        there = watching(stack, rotator_command)
        daemon = rotator_command.start("run", ROTATOR_HTTP__LISTEN="127.0.0.1:0", **NO_CHECKS)
        url = listening(daemon)
        until(lambda: record(vault, mount, name).get("current"), "it adopts")
        until(partial(there.heard, "WATCHDOG=1", 1), "the watchdog is fed")
        assert httpx.get(f"{url}/healthz").status_code == 200
        (rotator_command.directory / "die").touch()
        until(lambda: httpx.get(f"{url}/healthz").status_code == 503, "it is found out")
        fed = there.said.count("WATCHDOG=1")
        assert "the last turn ended" in httpx.get(f"{url}/healthz").text
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert there.said.count("WATCHDOG=1") == fed
        assert daemon.process.poll() is None
        daemon.kill()


def test_a_vault_that_is_away_at_boot_is_one_alarm_and_one_recovery(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """For as long as it lasts; then what was to be done is done."""
    (name,) = fleet_of(rotator_command, simulator, 1, "30d")
    before_the_program(rotator_command, FASTER.replace("FACTOR", "30"))
    with (
        Proxy(lambda _request, _forward: None) as between,
        receiver() as sentry,
        ExitStack() as stack,
    ):
        watching(stack, rotator_command)
        daemon = rotator_command.start(
            "run",
            VAULT_ADDR=between.before("vault", vault.addr),
            SENTRY_DSN=sentry.dsn,
            **NO_CHECKS,
        )
        until(lambda: sentry.items("event"), "the alarm")
        failed = len(logged(daemon, "daemon.tick_failed"))
        until(lambda: len(logged(daemon, "daemon.tick_failed")) > failed + 3, "it goes on trying")
        assert daemon.process.poll() is None
        (alarm,) = sentry.items("event")
        assert (alarm["level"], alarm["tags"]["kind"]) == ("error", "vault.ConnectionLost")
        between.between = pass_on
        until(lambda: record(vault, mount, name).get("current"), "it adopts")
        assert simulator.simulator.who(published(vault, mount, name)) == FIRST_USER
        assert daemon.finish(send=signal.SIGTERM).code == 0
        tags = [event["tags"]["alarm"] for event in sentry.items("event")]
        assert (len(tags), tags[1:]) == (2, ["recovered"])
