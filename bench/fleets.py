"""Many policies that are all due: throughput, CPU, ECGrid's rate, and eight rotators on one fleet."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from bench.calls import in_a_fleet
from bench.measure import Aim, BenchError, Figure, Sample, Scope, Spent, by_turns, cpu_of, run
from bench.recorder import Recorder
from bench.world import ROOT, Fleet, World, fleet

LATENCY, CONCURRENCY = 0.05, 32
ONE_AFTER_THE_OTHER = (
    2  # requests to ECGrid on a rotation's critical path: KeySet; then Get Key and probe together
)
SHARE, CPU_AT_MOST = 0.85, 2.0
RATE, PERIOD = 20, 1.0  # requests that ECGrid grants, in each so many seconds
RATE_SHARE, REFUSED = 0.95, 0.01
ROTATORS = 8


@dataclass(frozen=True)
class Turn:
    """What rotating a whole fleet once took."""

    spent: Spent
    seconds: float  # from ECGrid's commit of the first key to Vault's of the last
    ecgrid_cpu: float
    vault_cpu: float


def measure(world: World, scope: Scope) -> Iterator[Figure]:
    """Throughput and CPU by turns with the bare loop."""
    size, rounds = scope.of(1000, 80), scope.of(2, 1)
    world.latency(0)
    with Recorder(world.vault.addr) as recorder:
        sent = in_a_fleet(world, recorder, scope.of(40, 10))
    vault = round(sum(sent.vault.values()))
    ours, bare = fleet(world, size), fleet(world, size)
    idle = by_turns(
        scope.of(5, 2),
        {
            "rotator": lambda: ours.command("run", "--once", "--json").cpu,
            "loop": lambda: _loop(bare, 0, vault).cpu,
        },
    )
    found = by_turns(
        rounds,
        {
            "rotator": lambda: _turn(ours, lambda: _rotate(ours)),
            "loop": lambda: _turn(bare, lambda: _loop(bare, size, vault)),
        },
    )
    world.latency(0)
    limit = Sample.exactly(CONCURRENCY / (ONE_AFTER_THE_OTHER * LATENCY))
    rates = {name: Sample.of(size / turn.seconds for turn in found[name]) for name in found}
    share = f"{size} policies, {LATENCY * 1000:.0f} ms, concurrency {CONCURRENCY}"
    yield Figure(
        family="fleet",
        name=f"rotations a second ({share})",
        unit="1/s",
        value=rates["rotator"],
        against="latency alone: concurrency / (2 requests x latency)",
        floor=limit,
        aim=Aim("share", SHARE),
        note=_servers(found["rotator"], size),
    )
    yield Figure(
        family="fleet",
        name="rotations a second, against the bare loop",
        unit="1/s",
        value=rates["rotator"],
        against=f"a bare Python loop of as many requests (3 + {vault}), as many at a time",
        floor=rates["loop"],
        note=_servers(found["loop"], size),
    )

    def cpu(name: str) -> Sample:
        start = Sample.of(idle[name]).median
        return Sample.of(1e3 * (turn.spent.cpu - start) / size for turn in found[name])

    yield Figure(
        family="fleet",
        name="CPU of one rotation in a fleet",
        unit="ms CPU",
        value=cpu("rotator"),
        against=f"the bare loop's, for 3 + {vault} requests",
        floor=cpu("loop"),
        aim=Aim("times", CPU_AT_MOST),
        note="without what the process takes with nothing to do",
    )


def _rotate(ours: Fleet) -> Spent:
    ours.become_due()
    ours.world.latency(LATENCY)
    return ours.command("run", "--once", "--json", ROTATOR_CONCURRENCY=str(CONCURRENCY))


def _loop(bare: Fleet, count: int, vault: int) -> Spent:
    bare.world.latency(LATENCY)
    first = bare.keys[0].ref.user_id
    told = map(str, (first, count, CONCURRENCY, vault))
    return run([sys.executable, "-m", "bench.peer", "loop", *told], bare.environment(), ROOT)


def _turn(policies: Fleet, work: Callable[[], Spent]) -> Turn:
    world = policies.world
    before = cpu_of(world.ecgrid_pid), cpu_of(world.vault.pid)
    spent = work()
    after = cpu_of(world.ecgrid_pid), cpu_of(world.vault.pid)
    world.latency(0)
    return Turn(spent, _seconds(policies), after[0] - before[0], after[1] - before[1])


def _seconds(policies: Fleet) -> float:
    numbers = range(len(policies.names))
    first = min(policies.committed_at(number) for number in numbers)
    last = max(policies.published_at(number) for number in numbers)
    return (last - first).total_seconds()


def _servers(turns: list[Turn], size: int) -> str:
    ecgrid = Sample.of(1e3 * turn.ecgrid_cpu / size for turn in turns).median
    vault = Sample.of(1e3 * turn.vault_cpu / size for turn in turns).median
    return f"on the same cores, for each rotation: simulator {ecgrid:.1f} ms CPU, OpenBao {vault:.1f} ms"


# ECGrid's rate


def measure_rate(world: World, scope: Scope) -> Iterator[Figure]:
    """A tick over a fleet that is due, where ECGrid grants RATE requests in each PERIOD and refuses the rest."""
    size = scope.of(200, 40)
    policies = fleet(world, size)
    policies.become_due()
    before = len(world.ecgrid.requests())
    world.ecgrid.switch(rate_limit=RATE, rate_period=PERIOD)
    policies.command("run", "--once", "--json", ROTATOR_ECGRID__RATE=str(RATE))
    world.ecgrid.switch(rate_limit=None)
    asked = world.ecgrid.requests()[before:]
    refused = [one for one in asked if one["outcome"] == "RateLimitExceeded"]
    times = [datetime.fromisoformat(one["at"]) for one in asked]
    seconds = (times[-1] - times[0]).total_seconds()
    granted = len(asked) - len(refused)
    yield Figure(
        family="rate",
        name=f"granted requests a second ({size} policies)",
        unit="1/s",
        value=Sample.exactly(round(granted / seconds, 2)),
        against=f"the limit: {RATE} in every {PERIOD:g} s",
        floor=Sample.exactly(RATE / PERIOD),
        aim=Aim("share", RATE_SHARE),
        note=f"{granted} granted in {seconds:.1f} s",
    )
    yield Figure(
        family="rate",
        name="refused with 429",
        unit="%",
        value=Sample.exactly(round(100 * len(refused) / len(asked), 2)),
        against="the limit itself",
        aim=Aim("under", 100 * REFUSED),
        note=f"{len(refused)} of {len(asked)}",
    )


# eight rotators


def measure_eight(world: World, scope: Scope) -> Iterator[Figure]:
    """The same fleet, due, met by one rotator and by eight that begin together."""
    size, rounds = scope.of(1000, 40), 1
    policies = fleet(world, size)
    found = by_turns(
        rounds,
        {"one": lambda: _together(policies, 1), "eight": lambda: _together(policies, ROTATORS)},
    )
    world.latency(0)
    outcomes = sum((counted for _, counted in found["eight"]), Counter[str]())
    yield Figure(
        family="eight rotators",
        name=f"rotations a second, {ROTATORS} rotators on one fleet of {size}",
        unit="1/s",
        value=Sample.of(size / seconds for seconds, _ in found["eight"]),
        against="one rotator",
        floor=Sample.of(size / seconds for seconds, _ in found["one"]),
        note=f"{LATENCY * 1000:.0f} ms; each at the default concurrency",
    )
    yield Figure(
        family="eight rotators",
        name="policies that a rotator found claimed by another",
        unit="%",
        value=Sample.exactly(round(100 * outcomes["busy"] / (rounds * size * ROTATORS), 2)),
        against="all that they looked at",
        note="each key issued once; outcomes: "
        + ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items())),
    )


def _together(policies: Fleet, rotators: int) -> tuple[float, Counter[str]]:
    """Seconds from the first key to the last publishing, and the outcomes that all of them told."""
    policies.become_due()
    world = policies.world
    world.latency(LATENCY)
    before = world.ecgrid.issued()
    with ThreadPoolExecutor(rotators) as pool:
        told = pool.map(lambda _: policies.command("run", "--once", "--json"), range(rotators))
        outcomes = sum((Counter(json.loads(one.stdout)["summary"]) for one in told), Counter[str]())
    world.latency(0)
    if world.ecgrid.issued() - before != len(policies.names):
        raise BenchError("not every policy had one key issued, and one only")
    return _seconds(policies), outcomes
