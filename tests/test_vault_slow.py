"""A Vault that is slow, or takes only so much: the daemon's first look, and secrets near the server's limit."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import USERS, Rotator, VaultServer, until
from proxy import Answer, Forward, Proxy, Request
from raft import LIMIT, MOUNT, Cluster, cluster
from receiver import manager
from test_daemon import fleet_of

from rotator.sandbox.ecgrid import Running

SIZE, ANSWER = 36, 0.4  # policies, and seconds for each record
READ = "/data/rotator/record/"
UNFED = 15  # documents of the index that may be read from one ping to the next, a second later


def forget_the_index(vault: VaultServer, mount: str) -> None:
    """So that every record has to be read."""
    for name in vault.call("LIST", f"{mount}/metadata/rotator/index")["data"]["keys"]:
        vault.call("DELETE", f"{mount}/metadata/rotator/index/{name}")


def slowly(request: Request, forward: Forward) -> Answer | None:
    """Records take their time."""
    if READ in request.path:
        time.sleep(ANSWER)
    return forward()


@pytest.fixture
def quiet_fleet(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> Rotator:
    """Many adopted policies, of which no index tells that they are quiet."""
    fleet_of(rotator_command, simulator, SIZE, "30d")
    assert rotator_command("run", "--once").code == 0
    forget_the_index(vault, mount)
    rotator_command.environment |= {"ROTATOR_CONCURRENCY": "1", "ROTATOR_CHECK_EVERY": "0"}
    return rotator_command


def test_a_long_first_look_feeds_the_watchdog_and_keeps_what_it_has_read(
    quiet_fleet: Rotator, vault: VaultServer, tmp_path: Path
) -> None:
    """It takes longer than the watchdog waits."""
    address = str(tmp_path / "notify")
    with manager(address) as systemd, Proxy(slowly) as proxy:
        daemon = quiet_fleet.start(
            "run",
            VAULT_ADDR=proxy.before("vault", vault.addr),
            NOTIFY_SOCKET=address,
            WATCHDOG_USEC="3000000",
        )
        until(lambda: any("at work" in line for line in list(systemd.said)), "the look ends")
        said = list(systemd.said)
        first = next(number for number, line in enumerate(said) if "at work" in line)
        assert said[:first].count("WATCHDOG=1") >= 3
        asked = list(proxy.requests)
        reads = [one.number for one in asked if one.method == "GET" and READ in one.path]
        kept = [one.number for one in asked if one.method == "POST" and "/index/" in one.path]
        assert min(kept) < max(reads[:SIZE])
        assert daemon.finish(send=signal.SIGTERM).code == 0


@pytest.mark.parametrize("index", ["lost", "kept"])
def test_a_daemon_whose_vault_is_slow_shows_that_it_lives_and_reads_each_record_once(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    tmp_path: Path,
    index: str,
) -> None:
    """Every answer takes its time. With the index the turns go on while the records are read for those who watch."""
    fleet_of(rotator_command, simulator, SIZE, "30d")
    assert rotator_command("run", "--once").code == 0
    if index == "lost":
        forget_the_index(vault, mount)
    address, asked = str(tmp_path / "notify"), list[tuple[int, str]]()
    with manager(address) as systemd:

        def between(request: Request, forward: Forward) -> Answer | None:
            asked.append((systemd.said.count("WATCHDOG=1"), f"{request.method} {request.path}"))
            time.sleep(0.2)
            return forward()

        with Proxy(between) as proxy:
            daemon = rotator_command.start(
                "run",
                VAULT_ADDR=proxy.before("vault", vault.addr),
                NOTIFY_SOCKET=address,
                WATCHDOG_USEC="9000000",
                ROTATOR_CONCURRENCY="2",
                ROTATOR_CHECK_EVERY="0",
                ROTATOR_HTTP__LISTEN="127.0.0.1:0",
            )

            def reads() -> list[str]:
                return [what for _, what in list(asked) if what.startswith("GET") and READ in what]

            until(lambda: len(reads()) >= SIZE, "every record is read", seconds=120)
            until(lambda: any("at work" in line for line in list(systemd.said)), "the look ends")
            assert daemon.finish(send=signal.SIGTERM).code == 0
    assert len(reads()) == len(set(reads())) == SIZE
    fed = Counter(pings for pings, what in asked if what.startswith("GET") and "/index/" in what)
    assert max(fed.values()) <= UNFED, fed


def test_an_order_to_stop_ends_a_long_first_look(quiet_fleet: Rotator, vault: VaultServer) -> None:
    """What was not read by then is not read any more."""
    with Proxy(slowly) as proxy:
        daemon = quiet_fleet.start("run", VAULT_ADDR=proxy.before("vault", vault.addr))

        def reads() -> int:
            return sum(READ in one.path for one in list(proxy.requests))

        until(lambda: reads() > 3, "it reads")
        assert daemon.finish(send=signal.SIGTERM).code == 0
        assert reads() < SIZE


# a secret that is too large


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One OpenBao whose storage takes entries of 128 KiB."""
    with cluster(tmp_path_factory.mktemp("small"), 1) as made:
        yield made


def test_a_secret_near_the_servers_limit_is_found_before_anything_is_issued(
    rotator_command: Rotator, simulator: Running, small: Cluster
) -> None:
    """It is there, and with what the rotator adds Vault would not take it any more."""
    user, command = USERS[0], rotator_command
    command.environment |= {
        "VAULT_ADDR": small.nodes[0].addr,
        "VAULT_TOKEN": small.token,
        "ROTATOR_VAULT__MOUNT": MOUNT,
    }
    command.secrets |= {small.token, small.key}
    command.policy(
        "edi",
        f"""
        user_id: {user}
        visibility: Private
        schedule: {{every: 30d}}
        first: rotate
        vault: {{path: ecgrid/edi}}
        """,
    )
    large = LIMIT
    while True:  # as large as it may be
        data = {"data": {"other": "x" * large}}
        if small.call("POST", f"{MOUNT}/data/ecgrid/edi", data) == 200:
            break
        large -= 64
    done = command("rotate", "edi", "--json")
    (result,) = done.json["results"]
    assert (done.code, result["error"]["kind"]) == (1, "vault.TooLarge"), done.stdout
    assert f"{MOUNT}/ecgrid/edi" in result["error"]["message"]
    assert simulator.simulator.issued() == 0
    record = small.read("rotator/record/edi")
    assert not record.get("underway")
    assert not record.get("claim")
    small.call("POST", f"{MOUNT}/data/ecgrid/edi", {"data": {"other": "x" * (large - 2048)}})
    done = command("rotate", "edi", "--json")
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    assert command("rotate", "edi").code == 0
    assert simulator.simulator.issued() == 2
