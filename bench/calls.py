"""Requests of a rotation, counted at both servers: the first, in steady state, in a fleet, and after a crash."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from bench.measure import Aim, BenchError, Figure, Sample, Scope
from bench.recorder import Recorder
from bench.world import ROTATOR, Fleet, World, fleet

# The least that the invariants allow, and which of them asks for it.
LEAST_ECGRID = {
    "KeySet": "issues",
    "GetKey": "never unverified: the key as ECGrid shows it",
    "GetMe": "never unverified: the probe, made with the new key",
}
LEAST_VAULT = {
    "GET record": "truth is outside: what was done, by whoever did it",
    "GET published": "the version that the publishing check-and-set is for, and the fields to keep",
    "POST record": "never lost: the claim, before; the settled record, after (twice)",
    "POST staged": "never lost: the value before it is verified",
    "POST published": "shows the key",
    "DELETE staged metadata": "never leaked: the staged value ends with the rotation",
}
LEAST_TIMES = {"POST record": 2}
# What comes on top, and why it is sent.
BEYOND = {
    "GET published": "read back: what Vault shows is what was written",
    "PATCH published metadata": "custom metadata, which the contract promises",
    "GET auth/token/lookup-self": "once a process: how long the login lives",
    "GET sys/internal": "once a process and mount: that it is KV v2",
    "POST sys/capabilities-self": "once a login and policy: that every path may be written, before ECGrid is asked",
    "GET index": "the due index: each document once a tick, for all policies in it",
    "POST index": "the due index: lowered before the first claim of those in it, raised after the last",
    "GET ecgrid": "once a process and minute: what ECGrid speaks, and whose it is",
    "POST ecgrid": "once, and when it is news: the same, found out",
    "LIST record metadata": "once a state path: are there records that have to be proved to be this ECGrid's",
    "GET record": "where the due index does not say enough: at first, once an hour, and after trouble",
}
CLAIM = {"ROTATOR_DEADLINE": "3s", "ROTATOR_CLAIM_TTL": "4s"}
CLAIM_ENDS = 5.5  # seconds: Vault tells whole ones


def measure(world: World, scope: Scope) -> Iterator[Figure]:
    """One policy in a process of its own, three times; then a tick over some that are due."""
    world.latency(0)
    with Recorder(world.vault.addr) as recorder:
        one = fleet(world, 1, "new")
        first = Counted.of(one, recorder, "rotate", one.names[0])
        steady = Counted.of(one, recorder, "rotate", one.names[0])
        _crash(one, recorder)
        recovery = Counted.of(one, recorder, "run", "--once", environment=CLAIM)
        many = in_a_fleet(world, recorder, scope.of(200, 20))
    least = sum(LEAST_TIMES.get(name, 1) for name in LEAST_VAULT)
    yield requests("ECGrid, first (adopts, then rotates)", first.ecgrid)
    yield requests("ECGrid, steady", steady.ecgrid, len(LEAST_ECGRID), Aim("times", 1.0))
    yield requests("ECGrid, steady, in a fleet", many.ecgrid, len(LEAST_ECGRID), Aim("times", 1.0))
    yield requests("ECGrid, recovery (killed while publishing)", recovery.ecgrid)
    yield requests("Vault, first (adopts, then rotates)", first.vault)
    yield requests("Vault, steady, whole process", steady.vault, least)
    yield requests("Vault, steady, in a fleet", many.vault, least)
    yield requests("Vault, recovery (killed while publishing)", recovery.vault)


class Counted:
    """The requests of some rotations, by server."""

    def __init__(self, ecgrid: list[str], vault: list[str], rotations: int = 1) -> None:
        self.ecgrid = {name: n / rotations for name, n in Counter(ecgrid).items()}
        self.vault = {name: n / rotations for name, n in Counter(vault).items()}

    @classmethod
    def of(
        cls,
        policies: Fleet,
        recorder: Recorder,
        *arguments: str,
        rotations: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> Counted:
        """What one command sends."""
        before = len(policies.world.ecgrid.requests())
        recorder.take()
        policies.command(*arguments, "--json", VAULT_ADDR=recorder.url, **(environment or {}))
        asked = [entry["call"] for entry in policies.world.ecgrid.requests()[before:]]
        return cls(asked, recorder.take(), rotations)


def in_a_fleet(world: World, recorder: Recorder, size: int) -> Counted:
    """For each rotation, what a tick sends over some policies that are all due; what comes once a process included.

    What is found out once and remembered (what ECGrid speaks, what it does with a replaced key) is known by then.
    """
    policies = fleet(world, size)
    policies.command("rotate", "--all", "--json")
    policies.become_due()
    return Counted.of(policies, recorder, "run", "--once", rotations=size)


def _crash(one: Fleet, recorder: Recorder) -> None:
    """A rotation whose process is killed when its publishing write has left it, and before that arrives."""
    environment = one.environment(VAULT_ADDR=recorder.url, **CLAIM)
    process = subprocess.Popen(
        [ROTATOR, "rotate", one.names[0]],
        env=environment,
        cwd=one.directory,
        stdout=subprocess.DEVNULL,
    )

    def kill(name: str) -> bool:
        if name == "POST published":
            process.kill()
        return name == "POST published"

    recorder.before = kill
    if process.wait(60) == 0:
        raise BenchError("the rotation was to be killed, but ended by itself")
    recorder.before = lambda _: False
    time.sleep(CLAIM_ENDS)


def requests(
    name: str, counted: dict[str, float], least: int | None = None, aim: Aim | None = None
) -> Figure:
    """How many of each there were, beside the least."""
    return Figure(
        family="requests",
        name=name,
        unit="requests",
        value=Sample.exactly(round(sum(counted.values()), 2)),
        against="" if least is None else "the least that the invariants allow",
        floor=None if least is None else Sample.exactly(least),
        aim=aim,
        note=", ".join(f"{call} {times:g}" for call, times in counted.items()),
    )


def explained() -> Iterator[tuple[str, str]]:
    """Each request to Vault, with the reason for it: the least first, then what comes on top."""
    for name, why in LEAST_VAULT.items():
        yield name, why
    for name, why in BEYOND.items():
        yield f"{name} (beyond)" if name in LEAST_VAULT else name, why
