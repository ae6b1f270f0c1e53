"""The fixtures keep what they promise; above all, a printed secret does not go unnoticed."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
from conftest import COLLECTED, OPERATOR, USERS, Rotator, VaultServer, is_gone, quick, until
from forked import Forked, Nursery

from rotator.sandbox.ecgrid import Running


@pytest.fixture
def python(rotator_command: Rotator) -> Rotator:
    """The same set-up around a program that the test writes itself."""
    rotator_command.program = (sys.executable, "-c")
    return rotator_command


def test_home_is_empty_and_no_stranger_is_in_the_environment() -> None:
    """Whatever the machine has set, a test sees none of it."""
    assert list(Path(os.environ["HOME"]).iterdir()) == []
    strangers = ("VAULT_", "ROTATOR_", "SENTRY_", "HTTPS_PROXY", "https_proxy")
    assert [name for name in os.environ if name.startswith(strangers)] == []


def test_a_mount_is_kv_version_2_and_empty(vault: VaultServer, mount: str) -> None:
    """A document gets version 1, however often the test has run before."""
    written = vault.call(
        "POST", f"{mount}/data/some/path", {"data": {"a": "b"}, "options": {"cas": 0}}
    )
    assert written["data"]["version"] == 1


def test_a_vault_refusal_is_an_error(vault: VaultServer, mount: str) -> None:
    """A call that Vault refuses does not look like an empty answer."""
    with pytest.raises(httpx.HTTPStatusError):
        vault.call("GET", f"{mount}/data/nothing/here")


def test_each_user_has_one_key_that_ecgrid_accepts(simulator: Running) -> None:
    """The simulator starts with an operator and users whose keys are live and random."""
    model = simulator.simulator
    for user_id in (OPERATOR, *USERS):
        (key,) = model.keys(user_id)
        assert model.who(key.value) == user_id


def test_a_command_gets_the_given_environment_and_no_other(python: Rotator) -> None:
    """What a command prints as JSON is its environment: ours, and what the call adds."""
    python.secrets.clear()
    shown = python("import os, json; print(json.dumps(sorted(os.environ)))", EXTRA="1").json
    assert set(shown) - {"LC_CTYPE"} == {*python.environment, "EXTRA"}


def test_a_command_reports_its_exit_code_and_both_streams(python: Rotator) -> None:
    """Nothing of what a command says is mixed up or lost."""
    finished = python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert (finished.code, finished.stdout, finished.stderr) == (3, "out\n", "err\n")


def test_a_command_that_goes_on_can_be_ended_by_a_signal(python: Rotator) -> None:
    """SIGTERM reaches the process itself."""
    started = python.start("import time; print('up', flush=True); time.sleep(600)")
    until(lambda: started.so_far()[0], "it is up")
    assert started.finish(send=signal.SIGTERM).code == -signal.SIGTERM


@pytest.mark.parametrize(
    "spelling",
    [
        "s",
        "repr(s)",
        "json.dumps(s)",
        "quote(s, safe='')",
        "escape(s)",
        "b64encode(s.encode()).decode()",
    ],
    ids=["plain", "repr", "json", "url", "xml", "base64"],
)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_printed_secret_fails_the_test(python: Rotator, spelling: str, stream: str) -> None:
    """A secret that a command prints is noticed, in any of the spellings that libraries use."""
    secret = f"{secrets.token_urlsafe(12)}\"\\'<&>{secrets.token_urlsafe(12)}"
    python.secrets.add(secret)
    imports = "import json, os, sys; from base64 import b64encode; from urllib.parse import quote; "
    program = (
        f"{imports}from xml.sax.saxutils import escape; s = os.environ['S']; print('x=', {spelling}"
    )
    with pytest.raises(pytest.fail.Exception) as failure:
        python(f"{program}, file=sys.{stream})", S=secret)
    assert secret not in str(failure.value)
    python.secrets.clear()


def test_a_key_of_the_simulator_counts_as_a_secret(python: Rotator, simulator: Running) -> None:
    """Also a key that was issued after the command was set up."""
    key = simulator.simulator.add_key(USERS[0])
    with pytest.raises(pytest.fail.Exception):
        python.assert_silent("", f"key is {key.value}")


@pytest.mark.parametrize("arguments", ["--version", "validate", "rotate edi", "status --nonsense"])
def test_a_forked_command_is_as_one_that_python_starts(
    rotator_command: Rotator, arguments: str
) -> None:
    """The same code and words, be it read anew or not."""
    forked = rotator_command(*arguments.split())
    started = rotator_command(*arguments.split(), PYTHONHASHSEED="1")
    assert (forked.code, forked.stdout, forked.stderr) == (
        started.code,
        started.stdout,
        started.stderr,
    )


def test_a_forked_command_has_its_own_number_and_ends_by_the_signal_that_it_gets(
    rotator_command: Rotator,
) -> None:
    """Two commands run beside each other; what is sent to one is not for the other."""
    one, other = rotator_command.start("run"), rotator_command.start("run")
    assert isinstance(one.process, Forked)
    assert one.process.pid != other.process.pid
    assert one.finish(send=signal.SIGKILL).code == -signal.SIGKILL
    assert is_gone(one.process.pid)
    assert other.process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        other.process.wait(0.01)
    assert other.finish(send=signal.SIGTERM).code in (0, -signal.SIGTERM)


def test_a_command_with_another_environment_for_libraries_is_started_anew(
    rotator_command: Rotator,
) -> None:
    """A library may read any variable when it is loaded; the rotator reads its own ones later."""
    assert isinstance(rotator_command.start("--version").process, Forked)
    own = rotator_command.start("--version", ROTATOR_LOG_LEVEL="INFO")
    assert isinstance(own.process, Forked)
    other = rotator_command.start("--version", VAULT_CACERT="")
    assert not isinstance(other.process, Forked)


def test_whichever_command_is_the_first_the_usual_ones_are_forked(rotator_command: Rotator) -> None:
    """One in an environment of its own takes nothing from those that follow."""
    rotator_command.nursery = made = Nursery()
    made.expect(rotator_command.environment)
    try:
        other = rotator_command.start("--version", VAULT_CACERT="")
        assert not isinstance(other.process, Forked)
        usual = rotator_command.start("--version")
        assert isinstance(usual.process, Forked)
        assert (other.finish().code, usual.finish().code) == (0, 0)
    finally:
        made.close()


def test_something_of_each_file_is_in_make_test(request: pytest.FixtureRequest) -> None:
    """No kind of thing is left to `make test-full` alone, whatever is drawn; what is left out is there, not gone."""
    collected = request.session.stash[COLLECTED]
    chosen = quick(collected)
    assert {item.path for item in chosen} == {item.path for item in collected}
    assert set(chosen) <= set(collected)


def test_make_test_draws_as_many_cases_as_the_mark_says(request: pytest.FixtureRequest) -> None:
    """And all cases of what has no mark, and none of what is for `make test-full`."""
    collected = request.session.stash[COLLECTED]
    chosen = Counter(item.nodeid.partition("[")[0] for item in quick(collected))
    wanted: Counter[str] = Counter()
    for item in collected:
        name, mark = item.nodeid.partition("[")[0], item.get_closest_marker("sampled")
        if not item.get_closest_marker("full") and (not mark or wanted[name] < mark.args[0]):
            wanted[name] += 1
    assert chosen == wanted
