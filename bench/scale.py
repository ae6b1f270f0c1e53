"""What grows with the number of policies while nothing is due: loading, looking, telling, memory, and start-up."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from typing import Any

from bench.calls import requests
from bench.measure import Aim, BenchError, Figure, Sample, Scope, by_turns, resident, run
from bench.world import ROOT, ROTATOR, Fleet, World, fleet
from rotator.vault.layout import index_shard

SIZES = (10, 1_000, 10_000)
QUICK_SIZES = (10, 100, 400)
IDLE_TICK, MEMORY, HELP = 2.0, 250.0, 3.0
IDLE_REQUESTS = 201.0  # fewer than that: at most 200
WARM = 100  # ticks after which memory is to stay as it is
GROWTH = 1.0  # MiB
TOLD = 2.0  # times what reading the YAML takes, for `status` and `plan`
TOLD_REQUESTS = 301.0  # fewer than that: at most 300
DAY, EVERY = 24, 10  # hours; minutes between two ticks, as the CronJob that ships has it
READY = 600.0  # seconds for a daemon to have read every record


def measure(world: World, scope: Scope) -> Iterator[Figure]:
    """For each size: a fleet whose records exist and of which nothing is due."""
    world.latency(0)
    sizes = scope.of(SIZES, QUICK_SIZES)
    for size in sizes:
        policies = fleet(world, size, "records")
        looked = list(_looking(policies, size, size == sizes[-1], scope))
        yield from looked
        yield from _telling(policies, size, looked[0], size == sizes[-1], scope)
        yield from _asking(policies, size, size == sizes[-1])
        yield _memory(policies, size, size == sizes[-1])
    yield _growth(fleet(world, scope.of(1000, 10), "records"), scope)


def _inside(policies: Fleet, *told: str) -> Any:
    command = [sys.executable, "-m", "bench.inside", *told]
    return json.loads(run(command, policies.environment(), ROOT).stdout)


def _looking(policies: Fleet, size: int, largest: bool, scope: Scope) -> Iterator[Figure]:
    rounds = scope.of(7, 3) if size <= 1000 else scope.of(3, 1)
    found = by_turns(
        scope.of(2, 1),
        {
            "load": lambda: _inside(policies, "load", str(policies.policies), str(rounds)),
            "ticks": lambda: _inside(policies, "ticks", str(scope.of(20, 5))),
        },
    )
    bare = _ms(value for one in found["load"] for value in one["yaml"])
    loaded = _ms(value for one in found["load"] for value in one["rotator"])
    alone = "reading the YAML with the C loader alone"
    yield Figure("scale", f"loading {size:,} policies", "ms", loaded, alone, bare)
    safe = _ms(value for one in found["load"] for value in one["safe_load"])
    name = f"loading {size:,} policies, and a script"
    yield Figure("scale", name, "ms", loaded, "yaml.safe_load, which checks nothing", safe)
    tick = _ms(value for one in found["ticks"] for value in one["idle"])
    aim = Aim("times", IDLE_TICK) if largest else None
    yield Figure("scale", f"idle tick, {size:,} policies", "ms", tick, alone, bare, aim)
    cold = _ms([found["ticks"][0]["cold"]])
    note = "reads every record; so does one after the due index was lost"
    yield Figure("scale", f"first tick ever, {size:,} policies", "ms", cold, note=note)


def _asking(policies: Fleet, size: int, largest: bool) -> Iterator[Figure]:
    """What each asks of Vault; none of it may ask ECGrid."""
    policies.forget_index()
    for name, counted in _inside(policies, "requests").items():
        if "ecgrid" in counted:
            raise BenchError(f"{name}: ECGrid was asked, and nothing is due")
        most = IDLE_REQUESTS if "idle" in name else TOLD_REQUESTS if "status" in name else None
        aim = Aim("under", most) if largest and most else None
        yield requests(f"Vault, {name}, {size:,} policies", counted, aim=aim)


def _telling(
    policies: Fleet, size: int, loading: Figure, largest: bool, scope: Scope
) -> Iterator[Figure]:
    """By people at a terminal, while rotators look round: so the index is there."""
    rounds = scope.of(7 if size <= 10 else 3, 1)
    commands = {
        "status --json": ("status", "--json"),
        "plan --json": ("plan", "--json"),
        # Reads and checks the policies, as both do first, and asks nobody.
        "validate --json": ("validate", "--json"),
    }
    policies.command("run", "--once", "--json")
    found = by_turns(
        rounds,
        {name: partial(_wall, policies, told) for name, told in commands.items()},
    )
    bare = loading.floor
    floor = None if bare is None else Sample.exactly(round(bare.median / 1e3, 3))
    for name, seconds in found.items():
        aim = Aim("times", TOLD) if largest and not name.startswith("validate") else None
        told, value = f"`{name}`, {size:,} policies", Sample.of(seconds)
        yield Figure("scale", told, "s", value, loading.against, floor, aim, "the whole command")


def _wall(policies: Fleet, told: tuple[str, ...]) -> float:
    return policies.command(*told).wall


def _ms(seconds: Any) -> Sample:
    return Sample.of(1e3 * one for one in seconds)


# memory


def _memory(policies: Fleet, size: int, largest: bool) -> Figure:
    """Of `rotator run`, once it has looked round and knows every record; and of an interpreter that only imports."""
    environment = policies.environment(
        ROTATOR_HTTP__LISTEN="127.0.0.1:0", ROTATOR_LOG__LEVEL="INFO", ROTATOR_LOG__FORMAT="json"
    )
    log = policies.directory / "daemon.log"
    with log.open("wb") as err:
        daemon = subprocess.Popen(
            [ROTATOR, "run"], env=environment, cwd=policies.directory, stdout=err, stderr=err
        )
    try:
        port = _port(daemon, log)
        _wait_until_known(port, size)
        ours = resident(daemon.pid)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
    return Figure(
        family="memory",
        name=f"daemon, {size:,} policies",
        unit="MiB",
        value=Sample.exactly(round(ours, 1)),
        against="an idle interpreter with the same imports",
        floor=Sample.exactly(round(_idle(policies), 1)),
        aim=Aim("under", MEMORY) if largest else None,
        note="resident; each record has a year of history, 12 rotations",
    )


def _port(daemon: subprocess.Popen[bytes], log: Any) -> int:
    until = time.monotonic() + READY
    while time.monotonic() < until and daemon.poll() is None:
        found = re.search(r'"daemon.listening".*?"port": (\d+)', log.read_text())
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise BenchError("the daemon did not start to listen")


def _wait_until_known(port: int, size: int) -> None:
    """Until the daemon's own metrics tell of every policy."""
    until = time.monotonic() + READY
    while time.monotonic() < until:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/metrics")
        told = connection.getresponse().read().decode()
        connection.close()
        states = re.findall(r"^rotator_policies\{[^}]*\} ([0-9.e+]+)$", told, re.MULTILINE)
        if sum(map(float, states)) == size:
            return
        time.sleep(0.5)
    raise BenchError(f"the daemon does not know {size} policies after {READY:.0f} s")


def _idle(policies: Fleet) -> float:
    with subprocess.Popen(
        [sys.executable, "-m", "bench.inside", "idle"],
        env=policies.environment(),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        told = json.loads(process.stdout.readline() if process.stdout else b"{}")
        memory = resident(int(told["pid"]))
        if process.stdin:
            process.stdin.close()
    return memory


def _growth(policies: Fleet, scope: Scope) -> Figure:
    last = scope.of(1000, 200)
    told = _inside(policies, "ticks", str(last), str(WARM), str(last))
    before, after = told["memory"][str(WARM)], told["memory"][str(last)]
    return Figure(
        family="memory",
        name=f"growth, tick {WARM} to {last:,}, {len(policies.names):,} policies",
        unit="MiB",
        value=Sample.exactly(round(after - before, 2)),
        aim=Aim("under", GROWTH),
        note=f"{before:.1f} MiB before, {after:.1f} after; nothing due, a look at how all stand after each",
    )


# a day


def measure_day(world: World, scope: Scope) -> Iterator[Figure]:
    """Ticks all day while nothing is due, with each record read once an hour: a day goes by on Vault's clock alone."""
    world.latency(0)
    hours = scope.of(DAY, 2)
    for size in scope.of((10, 1_000, 10_000), (10, 100)):
        policies = fleet(world, size)
        found = _inside(policies, "day", str(hours), str(EVERY))
        seconds, days = found["seconds"], hours / DAY
        if "ecgrid" in found["asked"]:
            raise BenchError("ECGrid was asked, and nothing is due")
        about = f"a tick every {EVERY} minutes, {size:,} policies"
        yield Figure("day", about, "ms", _ms(seconds), note="reads a sixth of the records")
        yield Figure(
            family="day",
            name=f"a day of them, {size:,} policies",
            unit="s",
            value=Sample.exactly(round(sum(seconds) / days, 1)),
            note=f"{found['cpu'] / days:.0f} s of CPU; measured over {hours} hours",
        )
        pages = len({index_shard(name) for name in policies.names})
        least = DAY * size + pages * (len(seconds) / days + DAY)
        asked = {name: times / days for name, times in found["asked"].items()}
        yield Figure(
            family="day",
            name=f"requests to Vault in a day of them, {size:,} policies",
            unit="requests",
            value=Sample.exactly(round(sum(asked.values()))),
            against="each record once an hour; each document of the index at each tick, written once an hour",
            floor=Sample.exactly(round(least)),
            note=", ".join(f"{name} {times:,.0f}" for name, times in asked.items()),
        )


# start-up


def measure_start(world: World, scope: Scope) -> Iterator[Figure]:
    """Whole processes, by turns with an interpreter that does nothing, and with one that imports click."""
    world.latency(0)
    policies = fleet(world, 10, "records")
    policies.command("run", "--once", "--json")
    ours = {
        "--help": ("--help",),
        "validate (10 policies)": ("validate",),
        "run --once, nothing due (10)": ("run", "--once", "--json"),
    }
    sides: dict[str, Callable[[], float]] = {
        name: partial(_wall, policies, told) for name, told in ours.items()
    }
    sides["pass"] = lambda: _python(policies, "pass")
    sides["click"] = lambda: _python(policies, "import click")
    found = by_turns(scope.of(25, 4), sides)
    for name in ours:
        for peer, told in (("pass", "python -c pass"), ("click", "python -c 'import click'")):
            yield Figure(
                family="start-up",
                name=f"`{name}`, against {peer}",
                unit="ms",
                value=_ms(found[name]),
                against=told,
                floor=_ms(found[peer]),
                aim=Aim("times", HELP) if (name, peer) == ("--help", "pass") else None,
            )


def _python(policies: Fleet, code: str) -> float:
    return run([sys.executable, "-c", code], policies.environment(), policies.directory).wall


# the leak net, and the status page


def measure_net(world: World, scope: Scope) -> Iterator[Figure]:
    """One log record, the same with the net and without it, by turns in one process."""
    policies = fleet(world, 1, "records")
    for count in (1, 20_000):
        told = ("net", str(count), str(scope.of(2000, 500)), str(scope.of(15, 5)))
        found = _inside(policies, *told)
        yield Figure(
            family="leak net",
            name=f"one log record, {count:,} secrets",
            unit="us",
            value=Sample.of(found["with"]),
            against="logging without it",
            floor=Sample.of(found["without"]),
        )


def measure_page(world: World, scope: Scope) -> Iterator[Figure]:
    """The page over HTTP, rendered, scrubbed and sent; and the same rows as JSON."""
    rows = 2000
    policies = fleet(world, 1, "records")
    found = _inside(policies, "page", str(rows), str(scope.of(15, 5)))
    for name, told in (("all", f"all {rows:,} rows"), ("first", f"the first 200 of {rows:,} rows")):
        plain, packed = found[f"bytes of {name}"]
        yield Figure(
            family="status page",
            name=told,
            unit="ms",
            value=Sample.of(found[name]),
            against="the rows as JSON, not sent",
            floor=Sample.of(found["json"]),
            note=f"{plain / 1000:.0f} kB, {packed / 1000:.0f} kB with gzip",
        )
