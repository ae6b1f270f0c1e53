"""`make test-mutants`: small wrong changes to the core, one at a time and drawn at random; do its tests notice them?

Cosmic Ray makes the changes, in copies of this checkout. `--sample N` says how many, `ROTATOR_TEST_SEED` draws the same
again. What went through is shown as a diff: either a test is missing, or the code decides nothing there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = (
    "rotator/rotation",
    "rotator/replacing",
    "rotator/retiring",
    "rotator/inventory",
    "rotator/run",
    "rotator/due.py",
    "rotator/journal",
    "rotator/keys.py",
    "rotator/vault/documents.py",
)
TESTS = (
    "keys",
    "retiring",
    "lost_answers",
    "previous_key",
    "restored",
    "renaming",
    "forged",
    "rotation",
    "rotation_trouble",
    "interleavings",
    "rollback",
    "dry_run",
    "gist",
    "core",
    "right",
    "restraint",
    "stages",
    "upgrading",
    "plan",
    "switching",
    "generate",
)
# Not those that start servers or wait: what a change does is seen in the world in memory, or not at all.
LEFT_OUT = (
    "not real_server and not depth and not command and not whole and not shown_to_ecgrid_once"
)
# What is in a checkout beside what it consists of.
MADE = (".git", ".venv", ".*_cache", "__pycache__", "node_modules", "*.egg-info", "dist", "build")
# Of so few a fifth more or less is chance, and some changes make no difference: below half the tests look elsewhere.
SAMPLE, WORKERS, LEAST = 80, 2, 0.5
TIMEOUT = 180.0  # seconds for the tests of one change


def settings(tests: str) -> str:
    """Cosmic Ray's configuration."""
    paths = ", ".join(f'"{path}"' for path in CORE)
    return (
        f"[cosmic-ray]\nmodule-path = [{paths}]\ntimeout = {TIMEOUT}\nexcluded-modules = []\n"
        f"test-command = '''{tests}'''\n[cosmic-ray.distributor]\nname = \"local\"\n"
    )


def prepared(where: Path) -> None:
    """A copy of the checkout, with a session that knows every change that could be made."""
    shutil.copytree(ROOT, where, ignore=shutil.ignore_patterns(*MADE))
    files = " ".join(f"tests/test_{name}.py" for name in TESTS)
    tests = f'{sys.executable} -m pytest -q -x -p no:cacheprovider {files} -k "{LEFT_OUT}"'
    (where / "mutants.toml").write_text(settings(tests))
    cosmic_ray(where, "init", "mutants.toml", "session.sqlite").wait()
    baseline = cosmic_ray(where, "baseline", "mutants.toml")
    said = baseline.communicate()[0]
    if baseline.returncode:
        sys.exit(
            f"{said}\nthe tests fail without any change, so that nothing would be learnt of the changes"
        )


def cosmic_ray(where: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts that command in that copy, which is what Python imports there."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(where),
        "ROTATOR_TEST_INTERLEAVINGS": "240",
        "ROTATOR_TEST_SEED": "1",
    }
    command = [str(Path(sys.executable).with_name("cosmic-ray")), *arguments]
    return subprocess.Popen(command, cwd=where, env=environment, stdout=subprocess.PIPE, text=True)


def draw(session: Path, sample: int, seed: int) -> list[str]:
    """The changes to be made, by their ids: places first, then one of the changes that can be made there.

    An operator `|` stands in annotations, which nobody evaluates.
    """
    places: dict[tuple[object, ...], list[str]] = {}
    with closing(sqlite3.connect(session)) as db:
        for *place, _, job in db.execute(
            "SELECT module_path, start_pos_row, start_pos_col, operator_name, job_id FROM mutation_specs "
            "WHERE operator_name NOT LIKE '%BitOr%' ORDER BY 1, 2, 3, 4"
        ):
            places.setdefault(tuple(place), []).append(str(job))
    chance = random.Random(seed)
    drawn = chance.sample(sorted(places, key=str), min(sample, len(places)))
    return [chance.choice(places[place]) for place in drawn]


def keep(session: Path, chosen: list[str]) -> None:
    """Leaves only these in a session."""
    marks = ", ".join("?" * len(chosen))
    with closing(sqlite3.connect(session)) as db:
        for table in ("mutation_specs", "work_items"):
            db.execute(f"DELETE FROM {table} WHERE job_id NOT IN ({marks})", chosen)  # noqa: S608 - names and marks
        db.commit()


def outcomes(where: Path) -> Iterator[tuple[str, str]]:
    """What became of each change: `killed`, `survived` or another word, and its diff."""
    told = cosmic_ray(where, "dump", "session.sqlite").communicate()[0]
    for line in told.splitlines():
        _, result = json.loads(line)
        if result is not None:
            yield str(result["test_outcome"]), str(result["diff"])


def main() -> None:
    """Makes the changes, says what share was noticed, and shows the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=SAMPLE)
    sample = parser.parse_args().sample
    seed = int(os.environ.get("ROTATOR_TEST_SEED", secrets.randbelow(10**6)))
    print(f"drawn with ROTATOR_TEST_SEED={seed}", flush=True)
    found: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        first, *others = copies = [Path(directory) / str(number) for number in range(WORKERS)]
        prepared(first)
        for copy in others:
            shutil.copytree(first, copy)
        chosen = draw(first / "session.sqlite", sample, seed)
        for number, copy in enumerate(copies):
            keep(copy / "session.sqlite", chosen[number::WORKERS])
        running = [cosmic_ray(copy, "exec", "mutants.toml", "session.sqlite") for copy in copies]
        for process in running:
            process.communicate()
        for copy in copies:
            found += outcomes(copy)
    survived = [diff for outcome, diff in found if outcome == "survived"]
    for diff in survived:
        print(f"\nnot noticed:\n{diff}")
    noticed = len(found) - len(survived)
    print(f"\n{noticed} of {len(found)} noticed ({noticed / max(1, len(found)):.0%})")
    sys.exit(not found or noticed / len(found) < LEAST)


if __name__ == "__main__":
    main()
