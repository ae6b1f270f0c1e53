"""Consumers that read Vault only every so often and call ECGrid all the time: who is refused, and when."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
from conftest import Rotator, VaultServer, in_every, until
from worlds import POLICY, Scene

from rotator.sandbox.ecgrid import Running

STEP = 10  # minutes between two calls of a consumer
ALTERNATING = POLICY.replace("user_id: 5001", "users: [5001, 5002]")


class Consumer:
    """Reads its key from Vault every so many minutes, and uses it at every step."""

    def __init__(self, scene: Scene, reads_every: int) -> None:
        self.scene, self.reads_every = scene, reads_every
        self.value: str | None = None
        self.age = 0
        self.refused = 0
        self.calls = 0

    def step(self) -> None:
        """One call to ECGrid, after a look into Vault if it is time."""
        if self.value is None or self.age >= self.reads_every:
            there = self.scene.published().value
            assert there is not None
            self.value, self.age = there.reveal(), 0
        self.calls += 1
        self.refused += self.scene.simulator.who(self.value) is None
        self.age += STEP


def live(scene: Scene, consumers: list[Consumer], days: float) -> int:
    """Days of consumers' calls and of ticks every half hour; returns how often it rotated."""
    rotated = 0
    for minute in range(0, int(days * 24 * 60), STEP):
        if minute % 30 == 0:
            rotated += scene.rotator().tick().outcome == "rotated"
        for consumer in consumers:
            consumer.step()
        scene.pass_time(minutes=STEP)
    return rotated


@pytest.mark.parametrize("reads_every", [5, 60, 6 * 60, 11 * 60])
def test_nobody_is_refused_on_an_adding_account(tmp_path: Path, reads_every: int) -> None:
    """Through five rotations, as long as a consumer reads more often than the grace is long."""
    scene = Scene(tmp_path, POLICY.replace("30d", "2d"))
    scene.rotator().tick()
    consumer = Consumer(scene, reads_every)
    assert live(scene, [consumer], 11) == 5
    assert (consumer.refused, consumer.calls) == (0, 11 * 24 * 60 // STEP)
    scene.pass_time(hours=13)
    scene.rotator().tick()
    assert len(scene.live()) == 1


@pytest.mark.parametrize("reads_every", [5, 12 * 60, 47 * 60])
def test_nobody_is_refused_with_two_users_on_a_replacing_account(
    tmp_path: Path, reads_every: int
) -> None:
    """A key stays valid for a whole period after the next one is published, so even a lazy reader is in time."""
    scene = Scene(tmp_path, ALTERNATING.replace("30d", "2d"), keyset="replace")
    scene.rotator().tick()
    consumer = Consumer(scene, reads_every)
    assert live(scene, [consumer], 11) == 5
    assert consumer.refused == 0


def test_a_vault_outage_between_issue_and_publish_does_not_shorten_the_grace(
    tmp_path: Path,
) -> None:
    """It is counted from the publishing."""
    scene = Scene(tmp_path, POLICY.replace("30d", "2d"))
    scene.rotator().tick()
    consumer = Consumer(scene, 11 * 60)
    live(scene, [consumer], 1.9)
    scene.pass_time(hours=3)

    def away(call: str) -> str:
        return "fail" if call.startswith("vault") and scene.issued() else "go"

    assert scene.rotator(away).tick().outcome == "failed"
    for _ in range(6 * 6):
        consumer.step()
        scene.pass_time(minutes=STEP)
    live(scene, [consumer], 2)
    assert (consumer.refused, scene.issued()) == (0, 1)


def test_one_user_on_a_replacing_account_is_refused_only_within_the_exposure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From ECGrid's commit of the new key until Vault shows it, and at no other moment."""
    scene = Scene(tmp_path, keyset="replace")
    scene.rotator().tick()
    refused: list[tuple[str, float]] = []

    def use(call: str) -> str:
        value = scene.published().value
        assert value is not None
        if scene.simulator.who(value.reveal()) is None:
            refused.append((call, scene.time.seconds))
        scene.time.seconds += 0.02  # what a call takes
        return "go"

    for _ in range(5):
        scene.rotator(use).rotate()
        scene.pass_time(days=1)
    between = {
        "vault write rotator/staged/edi",
        "ecgrid GetKey",
        "ecgrid GetMe",
        "vault write ecgrid/edi",
    }
    assert {call for call, _ in refused} == between
    assert len(refused) == 5 * len(between)
    with capsys.disabled():
        longest = max(at for _, at in refused[:4]) - min(at for _, at in refused[:4]) + 0.02
        print(f"\nexposure at 20 ms a call, in turn: {longest * 1000:.0f} ms")  # noqa: T201 - the figure is the point


# real processes: the daemon, OpenBao, and consumers that talk to both over HTTP

REAL = """
    {who}
    visibility: Private
    schedule: {{every: 3s}}
    grace: 2s
    vault: {{path: ecgrid/edi}}
"""
PROMISED = 1.0  # seconds: the grace, less one, since Vault tells whole seconds


class Reader(threading.Thread):
    """Reads its key from Vault every so often, and calls ECGrid all the time, until it is told to stop."""

    def __init__(self, vault: VaultServer, path: str, url: str, every: float) -> None:
        super().__init__(daemon=True)
        self._vault, self._path, self._url, self._every = vault, path, url, every
        self.told = threading.Event()
        self.calls, self.refused = 0, 0
        self.seen: set[str] = set()

    def run(self) -> None:
        """Counts a refusal only if it had read its key no longer ago than it may rely upon it."""
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as ecgrid:
            while not self.told.is_set():
                read_at = time.monotonic()
                value = self._vault.call("GET", self._path)["data"]["data"]["api_key"]
                self.seen.add(value)
                while time.monotonic() - read_at < self._every and not self.told.is_set():
                    answer = ecgrid.get("/v2/users/me", headers={"X-API-Key": value})
                    late = time.monotonic() - read_at > PROMISED
                    self.calls += 1
                    self.refused += answer.status_code != 200 and not late
                    self.told.wait(0.02)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("keyset", "who"),
    [
        ("replace", "users: [5001, 5002]"),
        pytest.param("add", "user_id: 5001", marks=in_every),
    ],
)
def test_nobody_is_refused_while_the_daemon_rotates(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    keyset: str,
    who: str,
) -> None:
    """Five rotations by real processes; each consumer has met at least four of the keys."""
    rotator_command.policy("edi", REAL.format(who=who))
    assert rotator_command("run", "--once").code == 0
    simulator.simulator.switch(keyset=keyset)
    path = f"{mount}/data/ecgrid/edi"
    readers = [Reader(vault, path, simulator.url, every) for every in (0.1, 0.8)]
    daemon = rotator_command.start("run")
    for reader in readers:
        reader.start()
    until(
        lambda: simulator.simulator.issued() >= 5 and all(len(one.seen) >= 4 for one in readers),
        "five rotations, of which each consumer has met four keys",
    )
    for reader in readers:
        reader.told.set()
        reader.join()
    assert daemon.finish(send=signal.SIGTERM).code == 0
    assert [reader.refused for reader in readers] == [0, 0]
    assert all(reader.calls > 50 for reader in readers)


def test_only_who_would_be_cut_off_is_warned_of(tmp_path: Path) -> None:
    """Two users in turn: the second rotation has no earlier key to end; the third comes within the grace, and has."""
    scene = Scene(tmp_path, ALTERNATING)
    scene.simulator.add_user(5002)
    assert scene.rotator().tick().outcome == "adopted"
    warned = []
    for _ in range(2):
        scene.pass_time(hours=1)
        result = scene.rotator().rotate()
        assert result.outcome == "rotated"
        warned.append(any("are cut off" in warning for warning in result.warnings))
    assert warned == [False, True]
