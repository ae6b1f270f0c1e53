"""How figures are taken: the measured thing and its peer by turns, told by the median and the middle half."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")

MIB = 1024 * 1024


class BenchError(Exception):
    """What was to be measured did not do its work, so that there is nothing to tell."""


@dataclass(frozen=True)
class Sample:
    """Several measurements of one thing: the median, and between which values the middle half lies."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Sample:
        """The sample of these values; raises BenchError if there is none."""
        known = sorted(values)
        if not known:
            raise BenchError("nothing was measured")
        if len(known) == 1:
            return cls(known[0], known[0], known[0], 1)
        low, median, high = statistics.quantiles(known, n=4, method="inclusive")
        return cls(median, low, high, len(known))

    @classmethod
    def exactly(cls, value: float) -> Sample:
        """What is counted or calculated, not measured."""
        return cls(value, value, value, 1)


@dataclass(frozen=True)
class Aim:
    """What a figure should be: at most so many `times` its floor, at least that `share` of it, or `under` a limit."""

    kind: Literal["times", "share", "under"]
    limit: float

    def __str__(self) -> str:
        told = f"{self.limit:g}"
        return {"times": f"<= {told} x", "share": f">= {self.limit:.0%}", "under": f"< {told}"}[
            self.kind
        ]

    def met(self, value: Sample, floor: Sample | None) -> bool:
        """Whether the median is what it should be."""
        if self.kind == "under":
            return value.median < self.limit
        if floor is None:
            raise BenchError("an aim that is a part of something needs that")
        if self.kind == "times":
            return value.median <= self.limit * floor.median
        return value.median >= self.limit * floor.median


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured, against what, and what it should be."""

    family: str
    name: str
    unit: str
    value: Sample
    against: str = ""
    floor: Sample | None = None
    aim: Aim | None = None
    note: str = ""

    @property
    def factor(self) -> float | None:
        """How many times its floor it is."""
        if self.floor is None or not self.floor.median:
            return None
        return self.value.median / self.floor.median

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None if there is none."""
        return None if self.aim is None else self.aim.met(self.value, self.floor)


@dataclass(frozen=True)
class Scope:
    """How much is measured. `quick` is for a look while working: smaller fleets, fewer repetitions."""

    quick: bool

    def of(self, full: T, quick: T) -> T:
        """The one or the other."""
        return quick if self.quick else full


def by_turns(rounds: int, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Calls each side once a round, another one first each time, so that the machine's noise hits all of them."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(sides[name]())
    return found


@dataclass(frozen=True)
class Spent:
    """What a process took, its children included, and what it said."""

    wall: float
    cpu: float
    stdout: str


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    cwd: Path,
    *,
    good: tuple[int, ...] = (0,),
) -> Spent:
    """Runs a command to its end; raises BenchError if it ends otherwise than `good`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode not in good:
            last = err.read().decode(errors="replace").strip().splitlines()[-3:]
            name = " ".join(Path(part).name for part in command[:4])
            raise BenchError(f"{name}: exit {process.returncode}; {' | '.join(last)}")
        return Spent(wall, usage.ru_utime + usage.ru_stime, out.read().decode())


def cpu_of(pid: int) -> float:
    """The CPU seconds that a running process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """The resident memory of a running process in MiB, which everybody may ask for."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise BenchError(f"process {pid} has no memory: it has ended")


def as_json(figure: Figure) -> dict[str, Any]:
    """A figure for the file of results."""

    def plain(sample: Sample | None) -> dict[str, float] | None:
        if sample is None:
            return None
        told = {"median": sample.median, "low": sample.low, "high": sample.high}
        return {name: float(f"{value:.5g}") for name, value in told.items()} | {"n": sample.count}

    return {
        "family": figure.family,
        "name": figure.name,
        "unit": figure.unit,
        "value": plain(figure.value),
        "against": figure.against,
        "floor": plain(figure.floor),
        "factor": None if figure.factor is None else float(f"{figure.factor:.4g}"),
        "aim": str(figure.aim) if figure.aim else None,
        "met": figure.met,
        "note": figure.note,
    }
