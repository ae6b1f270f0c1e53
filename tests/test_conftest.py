"""The fixtures keep what they promise; above all, a printed secret does not go unnoticed."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from pathlib import Path

import httpx
import pytest
from conftest import OPERATOR, USERS, Rotator, VaultServer, until

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
