"""Many policies at once: several rotators, ECGrid's rate, limits, failures for one and for all, signals."""

from __future__ import annotations

import signal
import socket
import threading
from collections import Counter
from typing import Any

import pytest
from conftest import EVERY, Rotator, VaultServer, until
from test_daemon import FIRST_USER, fleet_of, logged, policy, record, rotations

from rotator.fleet.crew import Crew, Task
from rotator.rotation import Order, Result
from rotator.sandbox.ecgrid import Fault, Running

NO_CHECKS = {"ROTATOR_CHECK_EVERY": "0"}


def new_fleet(command: Rotator, simulator: Running, size: int) -> list[str]:
    """Policies that rotate at first sight, so that all are due."""
    names = fleet_of(command, simulator, size, "30d")
    for number, name in enumerate(names):
        command.policy(name, policy(FIRST_USER + number, name, "30d", "first: rotate\n"))
    command.environment |= NO_CHECKS
    return names


def outcomes(done: Any) -> dict[str, str]:
    """The outcome of each policy."""
    return {one["policy"]: one["outcome"] for one in done.json["results"]}


def test_eight_ticks_at_once_rotate_each_policy_once(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Whoever has the claim rotates; for the others it is busy, or not due any more."""
    size, ticks = (200, 8) if EVERY else (24, 4)
    names = new_fleet(rotator_command, simulator, size)
    started = [rotator_command.start("run", "--once", "--json") for _ in range(ticks)]
    done = [one.finish(timeout=600) for one in started]
    assert [one.code for one in done] == [0] * ticks, [one.stdout for one in done if one.code]
    told = Counter(outcome for one in done for outcome in outcomes(one).values())
    assert told["rotated"] == size
    assert set(told) <= {"rotated", "busy", "not-due"}
    for number in range(size):
        assert simulator.simulator.issued(FIRST_USER + number) == 1
    assert all(record(vault, mount, name)["current"] for name in names)
    last = rotator_command("run", "--once", "--json")
    assert last.json["summary"] == {"not-due": size}


def test_shards_divide_the_fleet_and_know_the_indexed_job(
    rotator_command: Rotator, simulator: Running
) -> None:
    """Each policy is in exactly one, by --shard or by what Kubernetes tells the pods."""
    names = new_fleet(rotator_command, simulator, 6)
    first = rotator_command("run", "--once", "--json", "--shard", "0/2")
    second = rotator_command(
        "run", "--once", "--json", JOB_COMPLETION_INDEX="1", JOB_COMPLETIONS="2"
    )
    assert sorted([*outcomes(first), *outcomes(second)]) == names
    assert simulator.simulator.issued() == 6


def test_a_rate_limited_ecgrid_is_not_stormed(rotator_command: Rotator, simulator: Running) -> None:
    """Twenty requests a second where more than 25 are refused: the whole fleet is rotated, with few of them refused."""
    size = 100 if EVERY else 30
    new_fleet(rotator_command, simulator, size)
    simulator.simulator.switch(rate_limit=25, rate_period=1.0)
    done = rotator_command("run", "--once", "--json", ROTATOR_ECGRID__RATE="20", timeout=600)
    assert done.json["summary"] == {"rotated": size}
    statuses = Counter(entry.outcome for entry in simulator.simulator.requests())
    assert statuses["RateLimitExceeded"] <= size // 5
    assert simulator.simulator.issued() == size


def test_only_so_many_keys_are_issued_in_one_tick(
    rotator_command: Rotator, simulator: Running
) -> None:
    """The rest waits for the next one, and says so; a policy that waits for its back-off takes no place."""
    names = new_fleet(rotator_command, simulator, 4)
    simulator.simulator.add_fault(Fault("status", status=404, about=FIRST_USER, times=None))
    rotator_command.environment["ROTATOR_MAX_PER_RUN"] = "2"
    rotator_command.environment["ROTATOR_CONCURRENCY"] = "1"
    told = [rotator_command("run", "--once", "--json") for _ in range(3)]
    first, second, third = (Counter(outcomes(one).values()) for one in told)
    begun = first["rotated"]  # lots are drawn: the policy that fails is among the first two, or not
    assert first == Counter({"rotated": begun, "failed": 2 - begun, "not-due": 2})
    assert "ROTATOR_MAX_PER_RUN" in told[0].stdout
    assert second == {"failed": 1, "rotated": 3 - begun, "not-due": begun}
    assert third == {"failed": 1, "not-due": 3}
    assert [one.code for one in told[1:]] == [1, 1]
    assert "tried again at" in told[2].json["results"][0]["error"]["message"]
    assert names[0] == told[2].json["results"][0]["policy"]


def test_the_limit_of_a_tick_holds_for_adoptions_that_have_to_issue(
    rotator_command: Rotator, simulator: Running
) -> None:
    """Whoever has a key is adopted all the same."""
    names = fleet_of(rotator_command, simulator, 4, "30d")
    for user_id in range(FIRST_USER, FIRST_USER + 3):
        for key in simulator.simulator.keys(user_id):
            simulator.simulator.remove_key(key.key_id)
    rotator_command.environment |= NO_CHECKS
    for tick in (1, 2, 3):
        done = rotator_command("run", "--once", "--json", ROTATOR_MAX_PER_RUN="1")
        assert (done.code, simulator.simulator.issued()) == (0, tick), done.stdout
        waiting = [one for one in done.json["results"] if one["warnings"]]
        assert {one["outcome"] for one in waiting} <= {"not-due"}
        assert len(waiting) == 3 - tick
    assert set(outcomes(rotator_command("run", "--once", "--json")).values()) == {"not-due"}
    assert len(names) == 4


def test_a_slow_policy_does_not_hold_up_the_others(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """The daemon's turns go on: others meet several due times while one waits for ECGrid."""
    names = fleet_of(rotator_command, simulator, 3, "1s")
    simulator.simulator.add_fault(Fault("hang", about=FIRST_USER, seconds=60.0, times=None))
    daemon = rotator_command.start("run", **NO_CHECKS)
    for name in names[1:]:
        until(lambda name=name: len(rotations(vault, mount, name)) > 2, "it rotates")  # type: ignore[misc]  # bound now
    assert logged(daemon, "rotation.outcome", policy=names[0]) == []
    assert logged(daemon, "rotation.failed", policy=names[0]) == []
    daemon.kill()


@pytest.mark.parametrize(
    ("sent", "command"),
    [(signal.SIGTERM, ("run", "--once")), (signal.SIGINT, ("rotate", "--all"))],
)
def test_a_signal_ends_a_command_after_what_is_past_issue(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    sent: signal.Signals,
    command: tuple[str, ...],
) -> None:
    """What had not begun is unchanged, the results so far are printed, and the exit code is the signal's."""
    names = new_fleet(rotator_command, simulator, 6)
    simulator.simulator.add_fault(Fault("latency", call="KeySet", seconds=2.0, times=None))
    started = rotator_command.start(
        *command, "--json", ROTATOR_CONCURRENCY="2", ROTATOR_LOG__LEVEL="DEBUG"
    )
    until(lambda: logged(started, "rotation.issuing"), "it issues")
    done = started.finish(send=sent)
    assert done.code == 128 + sent
    told = outcomes(done)
    assert sorted(told) == names
    assert set(told.values()) == {"rotated", "unchanged"}
    for one in done.json["results"]:
        never_begun = any("told to stop" in warning for warning in one["warnings"])
        assert never_begun == (one["outcome"] == "unchanged")
    for name, outcome in told.items():
        there = record(vault, mount, name)
        assert (there.get("claim"), there.get("underway")) == (None, None)
        assert (there.get("current") is not None) == (outcome == "rotated")
    assert simulator.simulator.issued() == Counter(told.values())["rotated"]


@pytest.mark.parametrize("command", [("check",), ("status",), ("rotate", "edi"), ("plan",)])
def test_an_interrupted_command_that_has_begun_nothing_ends_with_130(
    rotator_command: Rotator, command: tuple[str, ...]
) -> None:
    """While Vault says nothing."""
    rotator_command.policy("edi", policy(FIRST_USER, "edi", "30d"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = rotator_command.start(*command, VAULT_ADDR=address)
        with silent.accept()[0]:
            done = started.finish(send=signal.SIGINT)
    assert (done.code, done.stdout) == (130, "")
    assert "interrupted" in done.stderr


def test_waiting_for_the_rate_does_not_keep_a_process_from_stopping(
    rotator_command: Rotator, simulator: Running
) -> None:
    """At one request in a minute nothing has begun; a signal ends it at once."""
    new_fleet(rotator_command, simulator, 2)
    daemon = rotator_command.start("run", ROTATOR_ECGRID__RATE="0.02")
    until(lambda: logged(daemon, "daemon.ready"), "it is at work")
    assert daemon.finish(send=signal.SIGTERM, timeout=40).code == 0


def test_validate_says_what_only_the_daemon_can_meet(rotator_command: Rotator) -> None:
    """A CronJob ticks once a minute at the most, and replaced keys are retired at ticks."""
    for number, (every, grace) in enumerate((("30s", "0"), ("30d", "30s"), ("30d", "2h"))):
        text = policy(5001 + number, f"p{number}", every).replace("grace: 0", f"grace: {grace}")
        rotator_command.policy(f"p{number}", text)
    done = rotator_command("validate")
    assert done.code == 0
    assert done.stdout.count("shorter than a minute") == 2
    assert "p2.yaml" not in done.stdout


# who is at work on what


def task(name: str, **fields: Any) -> Task:
    """A task for a policy of which only the name matters."""

    class Named:
        def __init__(self) -> None:
            self.name = name

    return Task(Named(), Order("schedule"), **fields)  # type: ignore[arg-type]  # see above


def test_the_most_urgent_goes_first_and_no_policy_twice() -> None:
    """Also among those that came later."""
    begun: list[str] = []
    gate = threading.Event()

    def carry_out(one: Task) -> Result:
        gate.wait(30)
        begun.append(one.policy.name)
        return Result(one.policy.name, "rotated")

    crew = Crew(1, carry_out, lambda _task: True, lambda: None)
    crew.put([task("first", urgency=(2, 0.0))])
    crew.put([task("late", urgency=(2, -5.0)), task("overdue", urgency=(1, -1.0))])
    crew.put([task("open", urgency=(0, 0.0)), task("late", urgency=(0, -9.0))])
    gate.set()
    assert crew.finish() == []
    assert begun == ["first", "open", "overdue", "late"]
    crew.close()


def test_the_own_key_rotates_alone_and_checks_do_not_take_a_rotations_place() -> None:
    """Nothing else runs beside it; drift checks have their own places."""
    together: list[set[str]] = []
    running: set[str] = set()
    lock = threading.Lock()
    meet = threading.Barrier(2, timeout=30)

    def carry_out(one: Task) -> Result:
        with lock:
            running.add(one.policy.name)
            together.append(set(running))
        if one.policy.name in ("a", "check"):
            meet.wait()  # both are at work at once, or this breaks
        with lock:
            running.discard(one.policy.name)
        return Result(one.policy.name, "rotated")

    crew = Crew(1, carry_out, lambda _task: True, lambda: None)
    tasks = [task("check", urgency=(3, 0.0), check=True), task("a"), task("own", alone=True)]
    crew.put(tasks)
    assert crew.finish() == []
    assert {"own"} in together
    assert all(who == {"own"} for who in together if "own" in who)
    crew.close()
