"""The real daemon process, between a real OpenBao and the simulated ECGrid: killed, stopped, cut off, reloaded."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import threading
import time
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import EVERY, Rotator, Started, VaultServer, events, until
from proxy import Answer, Forward, Proxy, Request, pass_on
from receiver import manager

from rotator.sandbox.ecgrid import Fault, Running

FIRST_USER = 6000
QUICK = {"ROTATOR_DEADLINE": "4s", "ROTATOR_CLAIM_TTL": "6s", "ROTATOR_CHECK_EVERY": "0"}
LIFE = 18  # seconds of a Vault token: a turn may be late by some of its last third


def policy(user_id: int, name: str, every: str = "2s", more: str = "", grace: str = "0") -> str:
    """A policy that is due often."""
    return (
        f"user_id: {user_id}\nvisibility: Private\nschedule: {{every: {every}}}\ngrace: {grace}\nmax_age: 60d\n"
        f"vault: {{path: ecgrid/{name}}}\n{more}"
    )


def fleet_of(
    command: Rotator, simulator: Running, size: int, every: str = "2s", grace: str = "0"
) -> list[str]:
    """So many users with a key each, and a policy for each."""
    names = []
    for number in range(size):
        user_id, name = FIRST_USER + number, f"p{number:02d}"
        simulator.simulator.add_user(user_id)
        simulator.simulator.add_key(user_id)
        command.policy(name, policy(user_id, name, every, grace=grace))
        names.append(name)
    return names


def logged(daemon: Started, event: str, **fields: Any) -> list[dict[str, Any]]:
    """The events of that name with these fields that the daemon has logged."""
    return events(daemon.so_far()[1], event, **fields)


def record(vault: VaultServer, mount: str, name: str) -> dict[str, Any]:
    """The record of a policy; {} while there is none."""
    try:
        data: dict[str, Any] = vault.call("GET", f"{mount}/data/rotator/record/{name}")["data"][
            "data"
        ]
    except httpx.HTTPStatusError:
        return {}
    return data


def rotations(vault: VaultServer, mount: str, name: str) -> list[dict[str, Any]]:
    """The rotations in the history of a policy."""
    past = [json.loads(line) for line in record(vault, mount, name).get("history", [])]
    return [one for one in past if one["outcome"] == "rotated"]


def published(vault: VaultServer, mount: str, name: str) -> str:
    """The value that consumers read."""
    return str(vault.call("GET", f"{mount}/data/ecgrid/{name}")["data"]["data"]["api_key"])


def grown(vault: VaultServer, mount: str, name: str, count: int) -> bool:
    """Whether a policy was rotated more often than that."""
    return len(rotations(vault, mount, name)) > count


def issued_enough(simulator: Running, keys: int) -> bool:
    """Whether ECGrid has issued so many keys."""
    return simulator.simulator.issued() >= keys


def assert_each_due_time_once(past: list[dict[str, Any]], every: float) -> None:
    """No rotation began before the one before it was that old."""
    for one, other in itertools.pairwise(past):
        settled = datetime.fromisoformat(one["at"]) + timedelta(seconds=one["duration_s"])
        due = settled + timedelta(seconds=every)
        began = datetime.fromisoformat(other["at"])
        assert began >= due - timedelta(seconds=1.1), (one, other)


@pytest.mark.full
def test_each_due_time_leads_to_one_rotation_however_often_it_is_killed(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Killed and restarted over a fleet with short schedules: none is lost, none doubled, and all keys work."""
    kills, size = (20, 50) if EVERY else (5, 8)
    names = fleet_of(rotator_command, simulator, size, "2s")
    model = simulator.simulator
    for _ in range(kills):
        daemon = rotator_command.start("run", **QUICK)
        until(partial(logged, daemon, "daemon.ready"), "the daemon is ready")
        enough = model.issued() + 3
        until(partial(issued_enough, simulator, enough), "keys are issued")
        daemon.kill()
    daemon = rotator_command.start("run", **QUICK)
    counts = {name: len(rotations(vault, mount, name)) for name in names}
    for name in names:
        until(partial(grown, vault, mount, name, counts[name]), f"{name} goes on", 120)
    assert daemon.finish(send=signal.SIGTERM).code == 0
    for number, name in enumerate(names):
        past = rotations(vault, mount, name)
        assert_each_due_time_once(past, 2.0)
        assert model.issued(FIRST_USER + number) == len(past), name
        assert model.who(published(vault, mount, name)) == FIRST_USER + number
        assert record(vault, mount, name).get("underway") is None


def test_due_times_missed_while_frozen_are_caught_up_once(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """SIGSTOP past several due times, then SIGCONT: one rotation, and the schedule goes on from there."""
    (name,) = fleet_of(rotator_command, simulator, 1, "1s")
    daemon = rotator_command.start("run", **QUICK)
    until(lambda: len(rotations(vault, mount, name)) > 1, "it rotates")
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    frozen = len(rotations(vault, mount, name))
    daemon.process.send_signal(signal.SIGCONT)
    until(lambda: len(rotations(vault, mount, name)) > frozen + 1, "it goes on")
    assert daemon.finish(send=signal.SIGTERM).code == 0
    past = rotations(vault, mount, name)
    assert_each_due_time_once(past, 1.0)
    assert simulator.simulator.issued(FIRST_USER) == len(past)


@pytest.mark.full
def test_it_waits_for_a_vault_that_is_away_at_boot(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """It says so, does not exit, and begins when Vault is back; so with ECGrid."""
    (name,) = fleet_of(rotator_command, simulator, 1, "30d")
    with Proxy(lambda _request, _forward: None) as between:
        simulator.simulator.add_fault(Fault("refused", seconds=3.0))
        daemon = rotator_command.start(
            "run", VAULT_ADDR=between.before("vault", vault.addr), **QUICK
        )
        until(lambda: logged(daemon, "daemon.tick_failed"), "it says that Vault is away")
        assert daemon.process.poll() is None
        between.between = pass_on
        until(lambda: record(vault, mount, name).get("current"), "it adopts")
        assert [one["policies"] for one in logged(daemon, "daemon.started")] == [1]
        assert daemon.finish(send=signal.SIGTERM).code == 0


@pytest.mark.full
def test_an_idle_daemon_keeps_its_vault_login_alive(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Nothing is due for two lives of its token; then something is asked for, and the token still serves."""
    (name,) = fleet_of(rotator_command, simulator, 1, "30d")
    token = secrets.token_hex(16)
    rotator_command.secrets.add(token)
    about = {"id": token, "policies": ["root"], "ttl": f"{LIFE}s"}
    vault.call("POST", "auth/token/create", about)
    # The watchdog's interval makes turns come every second, and the last third of a life is when it is prolonged.
    given = {"VAULT_TOKEN": token, "NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "3000000"}
    daemon = rotator_command.start("run", **given, **QUICK)
    until(lambda: record(vault, mount, name).get("current"), "it adopts")

    def told() -> dict[str, Any]:
        seen: dict[str, Any] = vault.call("POST", "auth/token/lookup", {"token": token})["data"]
        return seen

    first = told()
    later = first["creation_time"] + 2 * LIFE
    until(lambda: told().get("last_renewal_time", 0) >= later, "renewals go on")
    path = rotator_command.policies / f"{name}.yaml"
    path.write_text(path.read_text().replace("every: 30d", "every: 2s"))
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: rotations(vault, mount, name), "it rotates")
    assert daemon.finish(send=signal.SIGTERM).code == 0


BOUNDARIES = {  # whom the request goes to, its beginning, a part of it, and whether it comes after KeySet
    "hold": ("vault", "POST", "/index/", False),
    "claim": ("vault", "POST", "/record/", False),
    "issue": ("ecgrid", "POST", ".asmx", False),
    "stage": ("vault", "POST", "/staged/", True),
    "verify": ("ecgrid", "POST", "get-key", True),
    "publish": ("vault", "POST", "/data/ecgrid/", True),
    "unstage": ("vault", "DELETE", "/staged/", True),
    "settle": ("vault", "POST", "/record/", True),
    "mark": ("vault", "PATCH", "/metadata/ecgrid/", True),
}
DEFAULT = ("claim", "issue", "stage", "publish", "settle")


@pytest.mark.parametrize("boundary", list(BOUNDARIES) if EVERY else DEFAULT)
def test_sigterm_leaves_nothing_claimed_or_staged(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running, boundary: str
) -> None:
    """Sent at a boundary of a rotation: what is past issue is finished, anything else given back; exit 0."""
    (name,) = fleet_of(rotator_command, simulator, 1, "2s")
    rotator_command.environment.update(QUICK)
    assert rotator_command("run", "--once").code == 0
    side, method, part, past_issue = BOUNDARIES[boundary]
    daemon: list[Started] = []
    met = threading.Event()
    issued = threading.Event()

    def between(request: Request, forward: Forward) -> Answer | None:
        if request.issues:
            issued.set()
        fits = (request.server, request.method) == (side, method) and part in request.path.lower()
        if fits and not met.is_set() and issued.is_set() >= past_issue:
            met.set()
            until(lambda: daemon, "the daemon's process is known")
            daemon[0].process.send_signal(signal.SIGTERM)
            until(lambda: logged(daemon[0], "daemon.stopping"), "it was told to stop")
        return forward()

    with Proxy(between) as proxy:
        environment = {
            "VAULT_ADDR": proxy.before("vault", vault.addr),
            "ROTATOR_ECGRID__REST_URL": proxy.before("ecgrid", simulator.rest_url),
            "ROTATOR_ECGRID__SOAP_URL": proxy.before("ecgrid", simulator.soap_url),
        }
        daemon.append(rotator_command.start("run", **environment))
        ended = daemon[0].process.poll
        until(lambda: met.is_set() or ended() is not None, f"the boundary {boundary} is met")
        assert met.is_set(), daemon[0].so_far()
        assert daemon[0].finish().code == 0, daemon[0].so_far()
    there = record(vault, mount, name)
    assert (there.get("claim"), there.get("underway")) == (None, None)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        vault.call("GET", f"{mount}/data/rotator/staged/{name}")
    assert simulator.simulator.who(published(vault, mount, name)) == FIRST_USER
    assert simulator.simulator.issued(FIRST_USER) == len(rotations(vault, mount, name))


def test_a_second_signal_insists(rotator_command: Rotator, simulator: Running) -> None:
    """The first one waits for what is past issue, the second one does not."""
    fleet_of(rotator_command, simulator, 1, "1s")
    rotator_command.environment.update(QUICK)
    assert rotator_command("run", "--once").code == 0
    simulator.simulator.add_fault(Fault("latency", call="KeySet", seconds=60.0, times=None))
    patient = {"ROTATOR_DEADLINE": "2m", "ROTATOR_CLAIM_TTL": "3m", "ROTATOR_LOG__LEVEL": "DEBUG"}
    daemon = rotator_command.start("run", **patient)
    until(lambda: logged(daemon, "rotation.issuing"), "it issues")
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: logged(daemon, "daemon.stopping"), "it stops")
    assert daemon.finish(send=signal.SIGTERM).code == 128 + signal.SIGTERM


def test_policies_are_reloaded_all_or_nothing(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """By SIGHUP, and by the swap of a symbolic link; a bad set is reported, and the last good one stays."""
    mounted = rotator_command.directory / "mounted"
    for version, names in (("one", ("a",)), ("two", ("a", "b"))):
        folder = mounted / f"..{version}"
        folder.mkdir(parents=True)
        for number, name in enumerate(names):
            (folder / f"{name}.yaml").write_text(policy(5001 + number, name, "30d"))
    (mounted / "..data").symlink_to("..one")
    for name in ("a", "b"):
        (mounted / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
    (mounted / "b.yaml").unlink()
    daemon = rotator_command.start("run", ROTATOR_POLICIES=str(mounted), **QUICK)
    until(lambda: record(vault, mount, "a").get("current"), "a is adopted")
    bad = mounted / "bad.yaml"
    bad.write_text("user_id: many\n")
    daemon.process.send_signal(signal.SIGHUP)
    (failed, *_) = until(lambda: logged(daemon, "daemon.reload_failed"), "it reports the bad set")
    assert "bad.yaml" in failed["message"]
    bad.unlink()
    (mounted / "b.yaml").symlink_to("..data/b.yaml")
    (mounted / "..next").symlink_to("..two")
    (mounted / "..next").rename(mounted / "..data")
    until(lambda: logged(daemon, "daemon.reloaded", policies=2), "the swap is seen")
    until(lambda: record(vault, mount, "b").get("current"), "b is adopted")
    assert daemon.finish(send=signal.SIGTERM).code == 0


@pytest.mark.full
def test_systemd_is_told_how_it_goes(rotator_command: Rotator, simulator: Running) -> None:
    """READY, a STATUS for people, RELOADING with its time, STOPPING; over an abstract socket."""
    fleet_of(rotator_command, simulator, 1, "30d")
    name = f"rotator-test-{os.getpid()}-{time.monotonic_ns()}"
    with manager(f"\0{name}") as systemd:
        daemon = rotator_command.start(
            "run", NOTIFY_SOCKET=f"@{name}", WATCHDOG_USEC="6000000", **QUICK
        )
        until(lambda: systemd.said.count("WATCHDOG=1") > 1, "the watchdog is fed")
        until(
            lambda: any("next is p00 at" in line for line in systemd.said),
            "the status says what is next",
        )
        assert systemd.said.index("READY=1") < systemd.said.index("WATCHDOG=1") + 2
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: systemd.said.count("READY=1") == 2, "it is ready again")
        began = systemd.said.index("RELOADING=1")
        assert systemd.said[began + 1].removeprefix("MONOTONIC_USEC=").isdecimal()
        assert daemon.finish(send=signal.SIGTERM).code == 0
        until(lambda: "STOPPING=1" in systemd.said, "it said that it stops")


def test_sigusr1_brings_a_turn_at_once(
    rotator_command: Rotator, simulator: Running, tmp_path: Path
) -> None:
    """Nothing is due, and without a watchdog the next turn would be ten seconds away."""
    fleet_of(rotator_command, simulator, 1, "30d")
    rotator_command.environment.update(QUICK)
    assert rotator_command("run", "--once").code == 0
    with manager(str(tmp_path / "notify")) as systemd:
        daemon = rotator_command.start("run", NOTIFY_SOCKET=str(tmp_path / "notify"))
        for turn in range(3):
            until(
                partial(systemd.heard, "WATCHDOG=1", turn), f"turn {turn}", 120 if turn == 0 else 8
            )
            daemon.process.send_signal(signal.SIGUSR1)
        assert daemon.finish(send=signal.SIGTERM).code == 0


def test_a_turn_that_hangs_starves_the_watchdog(
    rotator_command: Rotator, vault: VaultServer, simulator: Running, tmp_path: Path
) -> None:
    """Only a turn that gets on, or has come to its end, feeds it."""
    fleet_of(rotator_command, simulator, 1, "30d")
    hanging, over = threading.Event(), threading.Event()

    def between(_request: Request, forward: Forward) -> Answer | None:
        if hanging.is_set():
            over.wait()
        return forward()

    with manager(str(tmp_path / "notify")) as systemd, Proxy(between) as proxy:
        daemon = rotator_command.start(
            "run",
            VAULT_ADDR=proxy.before("vault", vault.addr),
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="3000000",
            **QUICK,
        )
        until(lambda: any("0 at work" in line for line in list(systemd.said)), "it has adopted")
        hanging.set()
        asked = len(proxy.requests)
        until(lambda: len(proxy.requests) > asked, "a turn asks, and is not answered")
        fed = systemd.said.count("WATCHDOG=1")
        until(lambda: logged(daemon, "daemon.tick_failed"), "the turn ends at last")
        assert systemd.said.count("WATCHDOG=1") <= fed + 1
        daemon.kill()
        over.set()
