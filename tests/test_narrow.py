"""A new user's surroundings: other uids, limits on threads and files, closed streams, unreadable places, PID 1.

Each command does its work, or says in one line why not; and whatever fails, no key is lost.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Finished, Rotator, Started, VaultServer, events, until
from proxy import Answer, Forward, Proxy, Request

from rotator.sandbox.ecgrid import Running

LIMITS, TAKEN = (str(Path(__file__).parent / name) for name in ("limits.py", "taken.py"))
POLICY = "user_id: 5001\nvisibility: Private\nschedule: {every: 30d}\nvault: {path: ecgrid/edi}\n"
PACKAGES = str(Path(pytest.__file__).parent.parent)
USERS = itertools.count(40_000 + secrets.randbelow(20_000))


def _for_everybody() -> str | None:
    """A Python of this version that every user may run."""
    usual = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    for python in (Path(sys.executable), usual):
        real = python.resolve()
        if real.exists() and all(at.stat().st_mode & stat.S_IXOTH for at in (real, *real.parents)):
            return str(python)
    return None


PYTHON = _for_everybody()
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or PYTHON is None,
    reason="only root can become another user, who has to be able to run Python",
)


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="rotator-narrow-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def narrow(everybodys: Path, rotator_command: Rotator) -> Rotator:
    """The command with one policy, in a directory that every user may enter."""
    rotator_command.directory = everybodys
    rotator_command.policies = everybodys / "policies"
    rotator_command.policies.mkdir()
    rotator_command.policy("edi", POLICY)
    rotator_command.environment["ROTATOR_LOG__FORMAT"] = "json"
    return rotator_command


@pytest.fixture
def few(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A control group in which so many processes and threads may be, as a container is given it."""
    roots = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
    root = next((one for one in roots if os.access(one / "cgroup.procs", os.W_OK)), None)
    if root is None:
        pytest.skip("this machine lets nobody make a control group")
    group = Path(tempfile.mkdtemp(prefix="rotator-narrow-", dir=root))
    try:
        limit = group / "pids.max"
        if not limit.exists():
            pytest.skip("this machine's control groups do not count processes")
        limit.write_text(str(request.param))
        yield group
    finally:
        until(lambda: (group / "cgroup.procs").read_text() == "", "all in the group have ended")
        group.rmdir()


def within(
    command: Rotator,
    *arguments: str,
    before: tuple[str, ...] = (),
    run: tuple[str, ...] = ("-m", "rotator"),
    **limits: object,
) -> Started:
    """The command, started with less than usual, by the program `before`."""
    given = [f"{name}={value}" for name, value in limits.items()]
    assert PYTHON is not None
    command.environment["PYTHONPATH"] += f":{PACKAGES}"
    command.program = (*before, sys.executable, LIMITS, *given, "--", PYTHON, *run)
    return command.start(*arguments)


def kept_every_key(vault: VaultServer, mount: str, simulator: Running) -> bool:
    """Whether each key that was issued is the one that Vault shows, and ECGrid accepts that."""
    try:
        shown = vault.call("GET", f"{mount}/data/ecgrid/edi")["data"]["data"]["api_key"]
    except Exception:  # noqa: BLE001 - nothing is published
        return simulator.simulator.issued() == 0
    return bool(shown == simulator.simulator.api_key(5001))


def assert_done_or_said(done: Finished) -> None:
    """Exit 0, or 1 or 2 with one line that says why; no fault of the program."""
    assert "a fault of rotator" not in done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    if done.code:
        assert done.code in (1, 2)
        assert len(told) <= 1
        assert told or '"kind"' in done.stdout or '"error"' in done.stderr


# threads


@pytest.mark.sampled(1)
@as_root
@pytest.mark.parametrize("most", [1, 2, 3, 4, 6, 8])
def test_a_rotation_is_done_or_not_begun_however_few_threads_there_may_be(
    narrow: Rotator, vault: VaultServer, mount: str, simulator: Running, most: int
) -> None:
    """What goes side by side goes one after another; nothing is issued that could not be kept."""
    done = within(narrow, "rotate", "edi", "--json", uid=next(USERS), nproc=most).finish()
    assert_done_or_said(done)
    assert kept_every_key(vault, mount, simulator)
    if most >= 2:
        assert done.json["summary"] == {"rotated": 1}
    else:
        assert "[system.NoThread]" in done.stderr


@pytest.mark.sampled(1)
@as_root
@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6, 8])
def test_the_daemon_works_or_says_that_it_has_no_thread_and_ends_when_told(
    narrow: Rotator, vault: VaultServer, mount: str, simulator: Running, most: int
) -> None:
    """It is never silent for ever."""
    daemon = within(narrow, "run", uid=next(USERS), nproc=most)

    def is_decided() -> bool:
        return "daemon.ready" in daemon.so_far()[1] or daemon.process.poll() is not None

    until(is_decided, "it works, or ends")
    if daemon.process.poll() is None:
        until(lambda: "rotation.outcome" in daemon.so_far()[1], "it adopts")
        done = daemon.finish(send=signal.SIGTERM)
        assert done.code == 0
    else:
        done = daemon.finish()
        assert (done.code, "system.NoThread" in done.stderr) == (1, True)
        assert most < 6
    assert_done_or_said(done)
    assert kept_every_key(vault, mount, simulator)


@pytest.mark.sampled(3)
@as_root
@pytest.mark.parametrize("few", [1, 2, 4, 8], indirect=True)
@pytest.mark.parametrize("command", ["rotate edi", "run --once", "status", "run"])
def test_a_command_does_its_work_or_says_why_not_however_small_its_container(
    narrow: Rotator, vault: VaultServer, mount: str, simulator: Running, command: str, few: Path
) -> None:
    """A limit on processes is not one of the user's, and holds for root, too."""
    started = within(narrow, *command.split(), group=few)
    if command == "run":
        until(
            lambda: "rotation.outcome" in started.so_far()[1] or started.process.poll() is not None,
            "it adopts, or ends",
        )
    works = started.process.poll() is None
    done = started.finish(send=signal.SIGTERM if works and command == "run" else None)
    assert_done_or_said(done)
    assert done.code == 0 or "[system.NoThread]" in done.stderr + done.stdout
    if command == "rotate edi":
        assert bool(done.code) == ((few / "pids.max").read_text() == "1\n")
    assert kept_every_key(vault, mount, simulator)


# files


@pytest.mark.sampled(5)
@pytest.mark.parametrize("most", [6, 8, 10, 12, 16, 24])
@pytest.mark.parametrize(
    "command", ["rotate edi", "run --once", "status", "check", "doctor", "validate"]
)
def test_a_command_does_its_work_or_says_why_not_however_few_files_it_may_open(
    narrow: Rotator, vault: VaultServer, mount: str, simulator: Running, command: str, most: int
) -> None:
    """And what it has issued is kept."""
    assert narrow("run", "--once").code == 0
    done = within(narrow, *command.split(), nofile=most).finish()
    assert_done_or_said(done)
    assert kept_every_key(vault, mount, simulator)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("most", [6, 8, 10, 12, 14, 16, 20, 24])
def test_the_daemon_rotates_or_says_why_not_and_ends_when_told_however_few_files_it_may_open(
    narrow: Rotator, vault: VaultServer, mount: str, simulator: Running, most: int
) -> None:
    """And every key that it has issued is kept."""
    assert narrow("run", "--once").code == 0
    narrow.policy("edi", POLICY.replace("30d", "1s"))
    daemon = within(narrow, "run", nofile=most)

    def is_decided() -> bool:
        told = daemon.so_far()[1]
        said = "rotation.outcome" in told or "system.NoFile" in told
        return said or daemon.process.poll() is not None

    until(is_decided, "it rotates, says why not, or ends")
    if daemon.process.poll() is None:
        done = daemon.finish(send=signal.SIGTERM)
        assert done.code == 0
    else:
        done = daemon.finish()
        assert done.code == 1
        assert "system.NoFile" in done.stderr
    assert_done_or_said(done)
    assert kept_every_key(vault, mount, simulator)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("most", [8, 16, 24])
@pytest.mark.parametrize("command", ["rotate --all", "run --once", "run"])
def test_many_at_once_lose_no_key_however_few_files_there_are_for_them(
    narrow: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    command: str,
    most: int,
) -> None:
    """Eight policies, each of which wants connections of its own; the daemon listens, too, and KeySet replaces."""
    users = range(5101, 5109)
    for user_id in users:
        simulator.simulator.add_user(user_id)
        simulator.simulator.add_key(user_id)
        text = POLICY.replace("5001", str(user_id)).replace("/edi", f"/p{user_id}")
        narrow.policy(f"p{user_id}", f"{text}first: rotate\n")
    (narrow.policies / "edi.yaml").unlink()
    simulator.simulator.switch(keyset="replace")
    narrow.environment |= {
        "ROTATOR_HTTP__LISTEN": "127.0.0.1:0",
        "ROTATOR_DEADLINE": "2s" if most == 8 else "10s",  # those eight wait for it one by one
        "ROTATOR_CLAIM_TTL": "40s",
        "ROTATOR_METRICS__TEXTFILE": str(narrow.directory / "metrics"),
    }
    started = within(narrow, *command.split(), nofile=most)

    def told(name: str) -> int:
        return len(events(started.so_far()[1], name))

    if command == "run":
        until(
            lambda: told("rotation.outcome") + told("rotation.failed") >= len(users),
            "each has rotated, or says why not",
        )
    started.finish(send=signal.SIGTERM if command == "run" else None)
    rotated, refused = told("rotation.outcome"), events(started.so_far()[1], "rotation.failed")
    kept = {one["policy"] for one in refused}  # a daemon's next turn may say so again
    assert (rotated, len(kept)) == ((0, len(users)) if most == 8 else (len(users), 0))
    assert {one["error"] for one in refused} == ({"system.NoFile"} if most == 8 else set())
    assert simulator.simulator.issued() == rotated
    for user_id in users if rotated else ():
        shown = vault.call("GET", f"{mount}/data/ecgrid/p{user_id}")["data"]["data"]["api_key"]
        assert shown == simulator.simulator.api_key(user_id)


@pytest.mark.sampled(1)
@as_root
@pytest.mark.parametrize(
    ("calls", "options"),
    [
        ("verify: get-key", ()),
        ("verify: key-get", ("--grace", "0s")),
        ("issue: create-key", ("--grace", "0s")),
        ("issue: generate", ()),
        ("issue: generate\nverify: user-get-api-key", ("--grace", "0s")),
    ],
)
def test_past_issue_no_further_file_and_no_further_thread_is_needed(
    narrow: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    calls: str,
    options: tuple[str, ...],
) -> None:
    """Both are taken away while the key is on its way: it is published all the same, and the old one ended."""
    narrow.policy("edi", f"{POLICY}{calls}\n")
    started: list[Started] = []

    def take_away(request: Request, forward: Forward) -> Answer | None:
        if request.issues:
            pid = started[0].process.pid
            os.kill(pid, signal.SIGUSR2)
            until(
                lambda: re.search(r"Max processes +1 +1 ", Path(f"/proc/{pid}/limits").read_text()),
                "it is",
            )
        return forward()

    with Proxy(take_away) as proxy:
        narrow.environment |= {
            "ROTATOR_ECGRID__REST_URL": proxy.before("ecgrid", simulator.rest_url),
            "ROTATOR_ECGRID__SOAP_URL": proxy.before("ecgrid", simulator.soap_url),
        }
        started.append(
            within(narrow, "rotate", "edi", "--json", *options, run=(TAKEN,), uid=next(USERS))
        )
        done = started[0].finish()
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1})
    assert simulator.simulator.issued() == 1
    assert kept_every_key(vault, mount, simulator)


# streams


@pytest.mark.sampled(4)
@pytest.mark.parametrize("closed", ["0", "1", "2", "1,2", "0,1,2"])
@pytest.mark.parametrize(
    "command", ["--version", "validate", "status", "run --once", "rotate edi --json", "nonsense"]
)
def test_a_closed_stream_is_as_dev_null(narrow: Rotator, command: str, closed: str) -> None:
    """The exit code is the command's, and what is still open gets all that it would."""
    usual = within(narrow, *command.split()).finish()
    done = within(narrow, *command.split(), close=closed).finish()
    assert done.code == usual.code
    assert done.code == (2 if command == "nonsense" else 0)
    assert bool(done.stdout) == (bool(usual.stdout) and "1" not in closed)
    assert bool(done.stderr) == (bool(usual.stderr) and "2" not in closed)


# places


@pytest.mark.sampled(1)
@as_root
@pytest.mark.parametrize("command", ["validate", "status", "rotate edi", "run --once"])
def test_a_directory_that_may_not_be_read_has_no_settings(narrow: Rotator, command: str) -> None:
    """Everything else is named by its whole path."""
    narrow.environment["ROTATOR_POLICIES"] = str(narrow.policies)
    closed = narrow.directory / "closed"
    closed.mkdir(mode=0o700)
    (closed / "rotator.toml").write_text("nonsense = 1\n")
    narrow.environment["PYTHONSAFEPATH"] = "1"
    moved = (
        sys.executable,
        "-c",
        "import os,sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])",
        str(closed),
    )
    done = within(narrow, *command.split(), before=moved, uid=next(USERS)).finish()
    assert_done_or_said(done)
    assert done.code == 0, done.stderr


@pytest.mark.sampled(1)
@pytest.mark.parametrize("command", ["--version", "validate", "status", "rotate edi", "run --once"])
def test_a_directory_that_was_removed_has_no_settings(narrow: Rotator, command: str) -> None:
    """The same."""
    narrow.environment["ROTATOR_POLICIES"] = str(narrow.policies)
    gone = narrow.directory / "gone"
    gone.mkdir()
    moved = (
        sys.executable,
        "-c",
        "import os,sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])",
        str(gone),
    )
    narrow.environment["PYTHONSAFEPATH"] = "1"
    done = within(narrow, *command.split(), before=moved).finish()
    assert_done_or_said(done)
    assert done.code == 0, done.stderr


# variables of other programs

POISON = {
    "FORCE_COLOR": "1",
    "TTY_COMPATIBLE": "1",
    "TTY_INTERACTIVE": "1",
    "PYTHON_COLORS": "1",
    "COLORTERM": "truecolor",
    "TERM": "xterm-256color",
    "CLICOLOR_FORCE": "1",
    "JUPYTER_COLUMNS": "x",
    "JUPYTER_LINES": "x",
    "DATABRICKS_RUNTIME_VERSION": "1",
    "COLUMNS": "0",
    "LINES": "x",
    "PROMETHEUS_MULTIPROC_DIR": "/nonexistent",
    "prometheus_multiproc_dir": "/nonexistent",
    "PROMETHEUS_DISABLE_CREATED_SERIES": "x",
    "PROMETHEUS_LEGACY_NAME_VALIDATION": "x",
    "PYDANTIC_DISABLE_PLUGINS": "x",
    "PYDANTIC_SETTINGS_DEBUG": "1",
    "SENTRY_DEBUG": "1",
    "SENTRY_KEEP_ALIVE": "x",
    "SENTRY_SPOTLIGHT": "1",
    "REQUESTS_CA_BUNDLE": "/nonexistent",
    "PAGER": "/nonexistent",
    "BROWSER": "/nonexistent",
    "LESS": "x",
    "PYTHONWARNINGS": "default",
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "command", ["validate", "status", "history edi", "check", "run --once", "rotate edi", "doctor"]
)
def test_variables_of_libraries_change_nothing_that_is_printed(
    narrow: Rotator, command: str
) -> None:
    """Neither colours in a pipe, nor files, nor debugging."""
    narrow.environment["ROTATOR_METRICS__TEXTFILE"] = str(narrow.directory / "metrics")
    assert narrow("run", "--once").code == 0
    usual = narrow(*command.split())
    narrow.environment |= POISON
    done = narrow(*command.split())
    assert done.code == usual.code == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert same_but_for_numbers(done) == same_but_for_numbers(usual)


def same_but_for_numbers(done: Finished) -> str:
    """What was printed, without what differs from run to run."""
    return re.sub(r"[0-9a-f]{16}|[-0-9.:TZ]+ *|(in|ago) \S+|in-?\S*", "", done.stdout + done.stderr)


# the first process


@as_root
def test_as_the_first_process_it_buries_what_hooks_leave_behind(
    narrow: Rotator, simulator: Running
) -> None:
    """And ends when told, with the same code."""
    left = f"for i in 1 2 3; do (sleep 0.1; touch {narrow.directory}/left.$i) & done"
    narrow.policy("edi", f"{POLICY}first: rotate\nafter: [{{exec: [sh, -c, '{left}']}}]\n")
    narrow.program = (
        "/usr/bin/unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        *Rotator.program,
    )
    daemon = narrow.start("run", ROTATOR_CHECK_EVERY="0")
    until(
        lambda: "rotation.outcome" in daemon.so_far()[1] or daemon.process.poll() is not None,
        "it adopts",
    )
    if daemon.process.poll() is not None:
        pytest.skip("this machine lets nobody have processes of their own")
    first = int(
        Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children")
        .read_text()
        .split()[0]
    )
    until(
        lambda: len(list(narrow.directory.glob("left.*"))) == 3,
        "what the hook left behind has ended",
    )
    until(lambda: zombies(first) == [], "none is left")
    os.kill(first, signal.SIGTERM)
    assert daemon.finish().code == 0


def zombies(first: int) -> list[str]:
    """The dead below a process that nobody has buried."""
    below = [first]
    for pid in below:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            below += [int(child) for child in (task / "children").read_text().split()]
    states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in below]
    return [state for state in states if state == "Z"]


# what lies in the directory


def test_a_key_from_a_process_substitution_serves_the_whole_rotation(narrow: Rotator) -> None:
    """It can be read once, and is needed again and again."""
    key = narrow.environment.pop("ROTATOR_ECGRID__API_KEY")
    narrow.secrets.add(key)
    (narrow.directory / "key").write_text(key)
    line = f"ROTATOR_ECGRID__API_KEY_FILE=<(sleep 0.3; cat key) exec {sys.executable} -m rotator rotate edi --json"
    narrow.program = ("/bin/bash", "-c", line)
    done = narrow()
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1})


def test_which_rotator_toml_is_used_is_said(narrow: Rotator) -> None:
    """In the log."""
    file = narrow.directory / "rotator.toml"
    file.write_text("concurrency = 2\n")
    (told,) = events(narrow("status").stderr, "settings.read")
    assert told["file"] == str(file)


def test_the_demo_does_not_mind_what_lies_in_the_directory(narrow: Rotator) -> None:
    """Neither its rotator.toml nor the variables that are meant for one's own rotator."""
    (narrow.directory / "rotator.toml").write_text('nonsense = 1\n[vault]\naddr = "x"\n')
    narrow.environment["ROTATOR_NONSENSE"] = "1"
    assert narrow("demo").code == 0


# what a terminal would obey


def test_what_a_terminal_would_obey_is_shown_as_text(
    narrow: Rotator, vault: VaultServer, mount: str
) -> None:
    """In a reason, in a name that is typed, and in what others have written into a record."""
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202eit was\u200b me"
    told = [narrow("rotate", "edi", "--reason", evil), narrow("rotate", evil)]
    at = f"{mount}/data/rotator/record/edi"
    there = vault.call("GET", at)["data"]
    record = json.dumps(there["data"]).replace(r"\\x1b[2J", r"\u001b[2J")
    assert r"\u001b[2J" in record
    options = {"cas": there["metadata"]["version"]}
    vault.call("POST", at, {"data": json.loads(record), "options": options})
    forms = itertools.product(
        ("json", "console"), ("history edi", "history edi --json", "status", "rotate edi")
    )
    told += [narrow("--log-format", form, *command.split()) for form, command in forms]
    shown = "".join(done.stdout + done.stderr for done in told)
    assert not set(shown) & set("\x1b\x07\x9b\u202e\u200b")
    assert r"\x1b[2J" in shown
