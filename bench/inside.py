"""What has to be timed inside a process: `python -m bench.inside WHAT ...`, a process of its own that prints JSON.

`load DIRECTORY ROUNDS`, `ticks COUNT MARK...`, `requests`, `day HOURS EVERY`,
`net SECRETS RECORDS ROUNDS`, `page ROWS ROUNDS`, `idle`.
"""

from __future__ import annotations

import http.client
import io
import json
import logging
import os
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure import by_turns, resident

# What is measured is imported when it is.
if TYPE_CHECKING:
    from rotator.reporting.rows import Row

Times = dict[str, list[float]]

# From these follows all that a daemon imports while nothing is due; httpx imports httpcore when it is used.
A_DAEMONS = (
    "rotator.secrecy.process",
    "rotator.cli.act",
    "rotator.daemon",
    "rotator.reporting.metrics",
    "httpcore",
)


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return timed


def load(directory: str, rounds: str) -> Times:
    """Seconds for reading the policies, and the same files with PyYAML's C loader alone, and as scripts do."""
    import yaml

    from rotator.policy import PolicyDefaults
    from rotator.policy import load as load_policies

    folder = Path(directory)

    def bare() -> None:
        for file in sorted(folder.iterdir()):
            with file.open("rb") as text:
                yaml.load(text, yaml.CSafeLoader)

    def as_scripts_do() -> None:
        for file in sorted(folder.iterdir()):
            yaml.safe_load(file.read_text())

    ours = _timed(lambda: load_policies(folder, PolicyDefaults()))
    sides = {"rotator": ours, "yaml": _timed(bare), "safe_load": _timed(as_scripts_do)}
    return by_turns(int(rounds), sides)


def ticks(count: str, *marks: str) -> dict[str, Any]:
    """Seconds of each turn of the daemon, the cold one apart, and the resident MiB after so many of them."""
    from rotator.cli.common import input_from
    from rotator.fleet import Fleet

    settings, policies = input_from({})
    seconds, memory = [], {}
    with Fleet(settings, policies, serving=True) as fleet:
        turn = _timed(fleet.turn)
        cold = turn()
        for number in range(1, int(count) + 1):
            seconds.append(turn())
            fleet.standing(fleet.policies)  # what the site's thread does beside the turns
            if str(number) in marks:
                memory[str(number)] = resident(os.getpid())
    return {"cold": cold, "idle": seconds, "memory": memory}


def requests() -> dict[str, dict[str, int]]:
    """How often Vault was asked, by operation, as the metrics tell it; `ecgrid` is how often that was asked."""
    from rotator.cli.common import input_from
    from rotator.fleet import Fleet

    settings, policies = input_from({})
    told = {}
    with Fleet(settings, policies, serving=True) as fleet:
        before = Counter[str]()
        for name, call in (
            ("the first tick", fleet.tick),
            ("an idle tick", fleet.tick),
            ("`status`, `plan`", lambda: fleet.records(fleet.policies)),
        ):
            call()
            now = _asked(fleet.reports.metrics.page() if fleet.reports.metrics else b"")
            told[name], before = dict(now - before), now
    return told


def day(hours: str, every: str) -> dict[str, Any]:
    """A tick every so many minutes, for so many hours that go by on Vault's clock alone; and what was asked of Vault.

    The records are as they were, so nothing is due: what is read is read because an hour is over.
    """
    from rotator.cli.common import input_from
    from rotator.fleet import Fleet

    settings, policies = input_from({})
    step, seconds = timedelta(minutes=int(every)), []
    with Fleet(settings, policies, serving=True) as fleet:
        told, moved = fleet.server.now, timedelta(0)
        fleet.server.now = lambda: told() + moved  # type: ignore[method-assign]  # a day in minutes
        tick = _timed(fleet.tick)
        tick()  # the first one ever reads all
        metrics = fleet.reports.metrics
        before, spent = _asked(metrics.page() if metrics else b""), time.process_time()
        for _ in range(int(hours) * 60 // int(every)):
            moved += step
            seconds.append(tick())
        asked = _asked(metrics.page() if metrics else b"") - before
        return {"seconds": seconds, "cpu": time.process_time() - spent, "asked": dict(asked)}


def _asked(page: bytes) -> Counter[str]:
    counted = Counter[str]()
    line = r'^rotator_(vault|ecgrid)_requests_total\{operation="([^"]+)"[^}]*\} ([0-9.e+]+)$'
    for server, operation, times in re.findall(line, page.decode(), re.MULTILINE):
        counted[operation if server == "vault" else "ecgrid"] += int(float(times))
    return counted


def net(count: str, records: str, rounds: str) -> Times:
    """Microseconds for one log record, with so many secrets watched, and without the net."""
    from rotator import reporting
    from rotator.keys import Secret

    held = [Secret(secrets.token_urlsafe(24)) for _ in range(int(count))]
    plain = logging.Logger.handle, logging.Handler.handle
    reporting.setup("INFO", "json", io.StringIO())
    watched = logging.Logger.handle, logging.Handler.handle

    def say() -> None:
        for number in range(int(records)):
            reporting.event(
                "rotation.outcome",
                policy=f"policy-{number:05d}",
                outcome="rotated",
                key_id=100_000 + number,
                previous_key_id=99_000 + number,
                duration_s=round(0.1 + number / 7000, 3),
                run=secrets.token_hex(8),
            )

    def each(handles: tuple[Any, Any]) -> float:
        logging.Logger.handle, logging.Handler.handle = handles  # type: ignore[method-assign]  # the net's two places
        return _timed(say)() / int(records) * 1e6

    found = by_turns(int(rounds), {"with": lambda: each(watched), "without": lambda: each(plain)})
    held.clear()  # what is not held is not watched
    return found


def page(count: str, rounds: str) -> dict[str, Any]:
    """Milliseconds and bytes of the status page with all of so many rows, and with the first screenful."""
    from rotator.cli import in_json
    from rotator.reporting.rows import Standing
    from rotator.web import Health, Site, View, Window

    now = datetime.now(UTC)
    rows = [_row(number, now) for number in range(int(count))]
    objects = [in_json.of_row(row) for row in rows]
    ahead = {
        row.policy: [int(day == number % 30) for day in range(31)]
        for number, row in enumerate(rows)
    }
    view = View(Standing(now, rows), ahead=ahead)
    well = [Health("vault", True)]
    site = Site(lambda: well, lambda: well, lambda: b"", lambda: view)
    told: dict[str, Any] = {"json": [], "all": [], "first": []}
    with Window(site, "127.0.0.1", 0) as window:
        sides: Mapping[str, Callable[[], float]] = {
            "all": _timed(lambda: _fetch(window.port, "/?show=all", "identity")),
            "first": _timed(lambda: _fetch(window.port, "/", "identity")),
            "json": _timed(lambda: json.dumps(objects)),
        }
        for name, seconds in by_turns(int(rounds), sides).items():
            told[name] = [one * 1000 for one in seconds]
        for name, path in (("all", "/?show=all"), ("first", "/")):
            sizes = [len(_fetch(window.port, path, how)) for how in ("identity", "gzip")]
            told[f"bytes of {name}"] = sizes
    return told


def _row(number: int, now: datetime) -> Row:
    """Mostly well; every fiftieth has failed."""
    from rotator.reporting.rows import LastFailure, Row

    failed = number % 50 == 7
    failure = LastFailure(
        "issue",
        "ecgrid.Unreachable",
        "ECGrid, KeySet: no connection (ConnectError); check the network",
        at=now - timedelta(minutes=7),
        retry_at=now + timedelta(minutes=3),
    )
    return Row(
        f"policy-{number:05d}",
        5000 + number,
        "failed" if failed else "ok",
        key_id=100_000 + number,
        key_age=timedelta(seconds=number * 997 % (45 * 86400)),
        max_age=timedelta(days=45),
        previous_key="accepted",
        last_rotated_at=now - timedelta(days=number % 30),
        next_due_at=now + timedelta(days=30 - number % 30),
        last_failure=failure if failed else None,
    )


def _fetch(port: int, path: str, encoding: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Accept-Encoding": encoding})
    body = connection.getresponse().read()
    connection.close()
    return body


def idle() -> None:
    """What a daemon imports, and nothing else; says so, and waits until its input is closed."""
    for module in A_DAEMONS:
        import_module(module)
    sys.stdout.write(json.dumps({"pid": os.getpid(), "modules": sorted(sys.modules)}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


WHAT: Mapping[str, Callable[..., Any]] = {
    "load": load,
    "ticks": ticks,
    "requests": requests,
    "day": day,
    "net": net,
    "page": page,
    "idle": idle,
}

if __name__ == "__main__":
    told = WHAT[sys.argv[1]](*sys.argv[2:])
    if told is not None:
        sys.stdout.write(json.dumps(told))
