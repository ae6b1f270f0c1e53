"""Exposure: from ECGrid's commit of the new key until Vault's of the version that shows it, by their own clocks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

from bench.measure import Aim, Figure, Sample, Scope, by_turns, run
from bench.world import ROOT, Fleet, World, fleet

LATENCIES = (0.0, 0.02, 0.1)  # seconds, of ECGrid
AT_MOST = 1.15  # times the floor
FROM = 0.02  # seconds of latency


def measure(world: World, scope: Scope) -> Iterator[Figure]:
    """At each latency: the rotator, one policy after the other in one process, and the bare calls, by turns."""
    count, rounds = scope.of(20, 4), scope.of(4, 2)
    ours, bare = fleet(world, count), fleet(world, count)
    single = fleet(world, scope.of(8, 1))
    for latency in LATENCIES:
        world.latency(0)
        found = by_turns(
            rounds,
            {
                "rotator": partial(_rotator, ours, latency),
                "floor": partial(_floor, bare, latency),
            },
        )
        floor = Sample.of(value for values in found["floor"] for value in values)
        warm = Sample.of(value for values in found["rotator"] for value in values[1:])
        yield Figure(
            family="exposure",
            name=f"a daemon's, at {latency * 1000:.0f} ms",
            unit="ms",
            value=_ms(warm),
            against="stage, Get Key, probe, publish as bare calls",
            floor=_ms(floor),
            aim=Aim("times", AT_MOST) if latency >= FROM else None,
        )
        yield Figure(
            family="exposure",
            name=f"of `rotate NAME`, at {latency * 1000:.0f} ms",
            unit="ms",
            value=_ms(Sample.of(_on_demand(single, latency))),
            against="the same",
            floor=_ms(floor),
            note="the first rotation of a new process",
        )
    world.latency(0)


def _rotator(ours: Fleet, latency: float) -> list[float]:
    """One rotator process, one policy at a time; in the order in which the keys were issued."""
    ours.become_due()
    ours.world.latency(latency)
    ours.command("run", "--once", "--json", ROTATOR_CONCURRENCY="1")
    ours.world.latency(0)
    order = sorted(range(len(ours.names)), key=ours.committed_at)
    return [ours.exposure(number).total_seconds() for number in order]


def _floor(bare: Fleet, latency: float) -> list[float]:
    bare.world.latency(latency)
    first = bare.keys[0].ref.user_id
    command = [sys.executable, "-m", "bench.floor", str(first), str(len(bare.keys))]
    run(command, bare.environment(), ROOT)
    bare.world.latency(0)
    return bare.exposures()


def _on_demand(single: Fleet, latency: float) -> list[float]:
    """One process for each policy."""
    single.world.latency(latency)
    for name in single.names:
        single.command("rotate", name, "--json")
    single.world.latency(0)
    return single.exposures()


def _ms(sample: Sample) -> Sample:
    return Sample(sample.median * 1e3, sample.low * 1e3, sample.high * 1e3, sample.count)
