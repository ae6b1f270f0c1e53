"""What in the benchmark could lie: its arithmetic, its floors and peers, the fleets that it makes up. Not its times."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from lxml import etree

from bench import calls, draw, floor, once
from bench.measure import Aim, BenchError, Figure, Sample, by_turns, run
from bench.recorder import Recorder, named
from bench.world import ROOT, STATE, Fleet, World, fleet, instant, world
from rotator.vault.layout import index_shard


@pytest.fixture(scope="module")
def here(environment: None) -> Iterator[World]:
    """Both servers, as the benchmark starts them."""
    with world() as started:
        yield started


def test_a_sample_tells_the_median_and_the_middle_half() -> None:
    """Whatever the order, and for a single value too; nothing measured is an error and not a zero."""
    assert Sample.of([5, 1, 3, 2, 4]) == Sample(3, 2, 4, 5)
    assert Sample.of([7]) == Sample(7, 7, 7, 1)
    with pytest.raises(BenchError):
        Sample.of([])


@pytest.mark.parametrize(
    ("aim", "value", "beside", "met"),
    [
        (Aim("times", 1.15), 1.15, 1.0, True),
        (Aim("times", 1.15), 1.16, 1.0, False),
        (Aim("share", 0.85), 85.0, 100.0, True),
        (Aim("share", 0.85), 84.9, 100.0, False),
        (Aim("under", 250.0), 249.9, None, True),
        (Aim("under", 250.0), 250.0, None, False),
    ],
)
def test_an_aim_is_met_up_to_its_limit(
    aim: Aim, value: float, beside: float | None, met: bool
) -> None:
    """Times the floor, a share of it, or under a limit; a table and a chart say the same."""
    beneath = None if beside is None else Sample.exactly(beside)
    figure = Figure("family", "name", "ms", Sample.exactly(value), "peer", beneath, aim)
    assert figure.met is met
    assert ("MISSED" in draw.table([figure])) is not met
    bar = next(iter(re.findall(r'<rect class="(\w+)"', draw.aims([figure]))))
    assert bar == ("a" if met else "bad")


def test_an_aim_that_is_a_part_of_nothing_is_an_error() -> None:
    """A floor that is missing is not an aim that is met."""
    with pytest.raises(BenchError):
        Aim("times", 1.0).met(Sample.exactly(1), None)


def test_sides_take_turns_and_none_is_always_first() -> None:
    """Each is called once a round."""
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) for name in "abc"}
    found = by_turns(4, sides)
    assert {name: len(values) for name, values in found.items()} == {"a": 4, "b": 4, "c": 4}
    assert "".join(order) == "abcbcacababc"


def test_what_fails_is_not_measured(tmp_path: Path) -> None:
    """A process that ends badly has no time that could be told."""
    with pytest.raises(BenchError, match="exit 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"], {}, tmp_path)


def test_vaults_nanoseconds_are_read() -> None:
    """With trailing zeros left out, and with no fraction at all."""
    assert instant("2026-01-02T03:04:05.6Z").microsecond == 600_000
    assert instant("2026-01-02T03:04:05.000123999Z").microsecond == 123
    assert instant("2026-01-02T03:04:05Z").microsecond == 0


def test_requests_are_counted_by_what_they_are_about() -> None:
    """The mount and the policy play no part."""
    assert named("POST", "/v1/kv-1/data/rotator/record/a") == "POST record"
    assert named("DELETE", "/v1/kv-1/metadata/rotator/staged/a") == "DELETE staged metadata"
    assert named("GET", "/v1/kv-1/data/ecgrid/a?version=3") == "GET published"
    assert named("GET", "/v1/auth/token/lookup-self") == "GET auth/token/lookup-self"
    assert named("GET", "/v1/sys/internal/ui/mounts/kv-1") == "GET sys/internal"


def test_the_floor_of_an_exposure_sends_what_it_says_and_publishes_a_good_key(here: World) -> None:
    """The five calls, the issuing one first and the publishing one last; ECGrid accepts what Vault then shows."""
    policies = fleet(here, 1)
    with Recorder(here.vault.addr) as recorder:
        before = len(here.ecgrid.requests())
        first = str(policies.keys[0].ref.user_id)
        command = [sys.executable, "-m", "bench.floor", first, "1"]
        run(command, policies.environment(VAULT_ADDR=recorder.url), ROOT)
    asked = [one["call"] for one in here.ecgrid.requests()[before:]]
    sent = [
        one for one in (*asked, *recorder.requests) if one not in ("AuthVersion", "GET sys/health")
    ]
    assert Counter(sent) == Counter(floor.CALLS)
    assert next(one for one in asked if one != "AuthVersion") == floor.CALLS[0]
    assert recorder.requests[-1] == floor.CALLS[-1]
    assert_published(policies, 0)


def test_the_bare_loop_sends_as_many_requests_as_it_is_told(here: World) -> None:
    """Three to ECGrid and the others to Vault, for each user."""
    policies = fleet(here, 3)
    with Recorder(here.vault.addr) as recorder:
        before = len(here.ecgrid.requests())
        first = str(policies.keys[0].ref.user_id)
        command = [sys.executable, "-m", "bench.peer", "loop", first, "3", "2", "11"]
        run(command, policies.environment(VAULT_ADDR=recorder.url), ROOT)
    assert len(recorder.requests) == 3 * 11
    asked = Counter(one["call"] for one in here.ecgrid.requests()[before:])
    assert asked == dict.fromkeys(calls.LEAST_ECGRID, 3)
    assert_published(policies, 2)


# `make test` needs no program but make, git and Python; without curl the benchmark leaves the script out as well.
@pytest.mark.skipif(shutil.which("curl") is None, reason="the script needs curl")
def test_both_peers_publish_a_good_key_and_the_script_hides_it_as_well_as_we_do(
    here: World, tmp_path: Path
) -> None:
    """No key is an argument of any process that the script starts."""
    policies = fleet(here, 2)
    once.python(policies, 0)
    assert_published(policies, 0)
    once.script(policies, 1)
    assert_published(policies, 1)
    seen = arguments_of_the_script(policies, tmp_path)
    assert "kv put" in seen
    assert "--config -" in seen
    assert not any(secret in seen for secret in here.ecgrid.secrets())


def arguments_of_the_script(policies: Fleet, folder: Path) -> str:
    """The arguments of each command that the script runs, written down by one that stands before it."""
    log, tools = folder / "arguments", folder / "bin"
    tools.mkdir()
    for tool in ("curl", "sed", "bao"):
        real = once.BAO if tool == "bao" else shutil.which(tool)
        before = tools / tool
        before.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>"{log}"\nexec "{real}" "$@"\n')
        before.chmod(before.stat().st_mode | stat.S_IXUSR)
    environment = once.environment(policies, 1)
    environment |= {"PATH": f"{tools}:{environment['PATH']}", "BAO": str(tools / "bao")}
    run(["/bin/sh", once.SCRIPT], environment, folder)
    return log.read_text()


def assert_published(policies: Fleet, number: int) -> None:
    """Vault shows a key of that policy's user that ECGrid accepts, and it is not the first one."""
    path = f"{policies.mount}/data/ecgrid/{policies.names[number]}"
    shown = policies.world.kv.call("GET", path)["data"]["data"]
    ref = policies.keys[number].ref
    assert policies.world.ecgrid.who(shown["api_key"]) == ref.user_id
    assert int(shown["key_id"]) != ref.key_id


@pytest.mark.full
def test_a_fleet_that_is_made_up_is_like_one_that_has_rotated(here: World) -> None:
    """The same fields in its records; nothing is due before it is told so, and then everything, once."""
    real, made = fleet(here, 1, "new"), fleet(here, 2)
    real.command("rotate", real.names[0])
    assert fields(real) - {"retiring"} == fields(made)
    assert states(made) == ["ok", "ok"]
    made.command("run", "--once")
    issued = here.ecgrid.issued()
    made.become_due()
    assert states(made) == ["due", "due"]
    for _ in range(2):
        made.command("run", "--once")
    assert here.ecgrid.issued() == issued + 2
    assert all(seconds > 0 for seconds in made.exposures())


def test_a_tick_over_records_that_are_made_up_reads_what_one_over_real_records_does(
    here: World,
) -> None:
    """Nothing of the ECGrid that they are about has to be proved any more: only the index is read."""
    asked = json.loads(
        run(
            [sys.executable, "-m", "bench.inside", "requests"],
            fleet(here, 12, "records").environment(),
            ROOT,
        ).stdout
    )
    documents = {index_shard(f"policy-{number:05d}") for number in range(12)}
    assert asked["an idle tick"] == {"get data": len(documents)}


def fields(policies: Fleet) -> set[str]:
    """The fields of the first policy's record, and of the last line of its history."""
    path = f"{policies.mount}/data/{STATE}/record/{policies.names[0]}"
    data = policies.world.kv.call("GET", path)["data"]["data"]
    return set(data) | {f"history.{name}" for name in json.loads(data["history"][-1])}


def states(policies: Fleet) -> list[str]:
    """What `status` says of each policy."""
    told = policies.command("status", "--json").stdout
    return re.findall(r'"state": *"([a-z-]+)"', told)


def test_every_request_to_vault_is_explained(here: World) -> None:
    """The least, and what comes on top: the list in the report leaves none out."""
    with Recorder(here.vault.addr) as recorder:
        counted = calls.in_a_fleet(here, recorder, 2)
    explained = {*calls.LEAST_VAULT, *calls.BEYOND}
    assert set(counted.vault) <= explained
    assert set(calls.LEAST_VAULT) <= set(counted.vault)
    assert set(counted.ecgrid) == set(calls.LEAST_ECGRID)


# Of one rotation in steady state that a tick finds due.
STEADY = {
    "GET record": 1,
    "POST record": 2,
    "GET published": 2,
    "POST published": 1,
    "PATCH published metadata": 1,
    "POST staged": 1,
    "DELETE staged metadata": 1,
}


def test_a_rotation_costs_vault_nine_requests_and_a_share_in_its_index_document(
    here: World,
) -> None:
    """The document is read, lowered and raised, once for all that are due in it; a few more come once a process."""
    size = 12
    with Recorder(here.vault.addr) as recorder:
        counted = calls.in_a_fleet(here, recorder, size)
    sent = {call: round(times * size) for call, times in counted.vault.items()}
    documents = sent.pop("GET index")
    assert documents <= size
    assert sent.pop("POST index") == 2 * documents
    once = {call: times - STEADY.get(call, 0) * size for call, times in sent.items()}
    assert sum(once.values()) <= 5, once
    assert min(once.values()) >= 0, once
    assert sum(STEADY.values()) == 9


def test_the_idle_interpreter_imports_what_the_daemon_does(here: World) -> None:
    """Every module of ours, and every package, that a daemon has imported by the end of its first turn."""
    policies = fleet(here, 1, "records")
    environment = policies.environment(
        ROTATOR_HTTP__LISTEN="127.0.0.1:0", ROTATOR_LOG__LEVEL="INFO"
    )
    idle = run([sys.executable, "-m", "bench.inside", "idle"], environment, ROOT).stdout
    more = imported_by_a_daemon(environment) - telling(json.loads(idle)["modules"])
    assert {name for name in more if find_spec(name)} == set()  # others were tried in vain


def imported_by_a_daemon(environment: dict[str, str]) -> set[str]:
    """As Python itself tells it, until the first turn has ended."""
    names = set()
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "rotator", "run"],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr or ():
            if "daemon.ready" in line:
                break
            if line.startswith("import time:"):
                names.add(line.rpartition("|")[2].strip())
        else:
            pytest.fail("the daemon ended before its first turn did")
        process.terminate()
    return telling(names)


def telling(names: Iterable[str]) -> set[str]:
    """Our modules, and which other packages there are among these."""
    packages = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    ours = {name for name in names if name.startswith("rotator.") and name != "rotator.__main__"}
    return ours | packages


def test_charts_are_well_formed_and_show_both_sides() -> None:
    """For figures of each kind that is drawn; without any, there is none."""
    one, two = Sample.exactly(30.0), Sample.exactly(20.0)
    figures = [
        Figure("exposure", "a daemon's, at 20 ms", "ms", one, "floor", two, Aim("times", 1.15)),
        Figure("scale", "loading 10 policies", "ms", one, "yaml", two),
        Figure("scale", "loading 1,000 policies", "ms", one, "yaml", two),
        Figure("scale", "idle tick, 10 policies", "ms", one, "yaml", two),
        Figure("scale", "idle tick, 1,000 policies", "ms", two, "yaml", two),
        Figure("scale", "`plan --json`, 10 policies", "s", one, "yaml", two),
        Figure("requests", "Vault, an idle tick, 10 policies", "requests", one),
        Figure("requests", "Vault, an idle tick, 1,000 policies", "requests", two),
        Figure("memory", "daemon, 10 policies", "MiB", one, "imports", two),
    ]
    made = draw.charts(figures)
    growing = {"scale.svg", "scale-requests.svg", "scale-memory.svg"}
    assert set(made) == {"aims.svg", "exposure.svg", *growing}
    for chart in made.values():
        assert etree.fromstring(chart.encode()).tag == "{http://www.w3.org/2000/svg}svg"
    assert "20 ms, floor" in made["exposure.svg"]
    assert {"C loader alone", "plan"} <= set(
        re.findall("C loader alone|plan(?=<)", made["scale.svg"])
    )
    assert "an idle tick" in made["scale-requests.svg"]
    assert "its imports alone" in made["scale-memory.svg"]
    assert draw.charts([]) == {}


def test_a_day_of_ticks_reads_each_record_once_an_hour(here: World) -> None:
    """Two hours of it, by Vault's clock alone, and asks ECGrid for nothing."""
    policies = fleet(here, 12)
    told = run(
        [sys.executable, "-m", "bench.inside", "day", "2", "10"], policies.environment(), ROOT
    )
    found = json.loads(told.stdout)
    assert len(found["seconds"]) == 12
    pages = len({index_shard(name) for name in policies.names})
    read, written = found["asked"]["get data"], found["asked"]["post data"]
    assert read == 12 * pages + 2 * 12
    assert written == 2 * pages
    assert "ecgrid" not in found["asked"]


def test_the_quick_benchmark_of_one_family_prints_its_table(environment: None) -> None:
    """As `make bench-quick` does, aims met or not."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--only", "page"],
        cwd=ROOT,
        env={**os.environ, "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "status page" in done.stdout
    assert "all 2,000 rows" in done.stdout
