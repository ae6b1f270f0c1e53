"""Hooks: what they are given, what they are not, and what becomes of those that fail or hang."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Rotator, is_gone, until
from receiver import Receiver, receiver
from worlds import POLICY, policy_from

from rotator.hooks import after_rotation
from rotator.journal import Place
from rotator.policy import Exec, Hook, Policy, Webhook

PUBLISHED = Place(mount="secret", path="ecgrid/edi", field="api_key", version=3)
TOLD = {
    "ROTATOR_POLICY": "edi",
    "ROTATOR_KEY_ID": "1043",
    "ROTATOR_VAULT_MOUNT": "secret",
    "ROTATOR_VAULT_PATH": "ecgrid/edi",
    "ROTATOR_VAULT_VERSION": "3",
}


@pytest.fixture
def webhook() -> Iterator[Receiver]:
    """A web server on loopback."""
    with receiver() as there:
        yield there


def run(tmp_path: Path, *hooks: Hook, timeout: float = 20.0, hurry: bool = False) -> list[str]:
    """The warnings of these hooks, tried without a pause."""
    policy: Policy = replace(policy_from(tmp_path, POLICY), after=hooks)
    return after_rotation(
        policy, 1043, PUBLISHED, lambda: hurry, timeout=timeout, pauses=(0.0, 0.0)
    )


def script(body: str) -> Exec:
    """A command that runs this Python."""
    return Exec((sys.executable, "-c", body))


def test_a_command_gets_names_and_numbers_and_nothing_of_the_rotators_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not its settings, its token, nor anything that it was started with."""
    monkeypatch.setenv("VAULT_TOKEN", "x")
    monkeypatch.setenv("ROTATOR_ECGRID__API_KEY", "x")
    monkeypatch.setenv("ANYTHING", "x")
    out = tmp_path / "out"
    body = f"import json, os; open({str(out)!r}, 'w').write(json.dumps(dict(os.environ)))"
    assert run(tmp_path, script(body)) == []
    seen = json.loads(out.read_text())
    assert {name: value for name, value in seen.items() if name.startswith("ROTATOR_")} == TOLD
    assert "VAULT_TOKEN" not in seen
    assert "ANYTHING" not in seen


@pytest.mark.parametrize(("works_at", "warnings"), [(1, 0), (3, 0), (4, 1)])
def test_a_command_that_fails_is_tried_three_times(
    tmp_path: Path, works_at: int, warnings: int
) -> None:
    """Then it is a warning, and the next hook runs all the same."""
    count, after = tmp_path / "count", tmp_path / "after"
    body = (
        f"import sys; p = {str(count)!r}; n = open(p, 'a+'); n.write('x'); n.flush(); n.seek(0); "
        f"sys.exit(len(n.read()) < {works_at})"
    )
    told = run(tmp_path, script(body), script(f"open({str(after)!r}, 'w')"))
    assert len(told) == warnings
    assert len(count.read_text()) == min(3, works_at)
    assert after.exists()
    if told:
        assert told == ["hook 1 (exec) was tried 3 times and failed: exit code 1"]


def test_a_webhook_that_answers_a_byte_at_a_time_holds_up_nothing(tmp_path: Path) -> None:
    """No single wait is long, and the whole would never end."""
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        with suppress(OSError), listener.accept()[0] as client:
            client.recv(65536)
            for byte in itertools.chain(b"HTTP/1.1 200 OK\r\nX: ", itertools.repeat(120)):
                client.send(bytes([byte]))
                if over.wait(0.1):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        (warning,) = run(tmp_path, Webhook(url), timeout=2.0, hurry=True)
        over.set()
        thread.join()
    assert warning == "hook 1 (webhook) was tried once and failed: no end within 2 s"


def test_a_command_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """At the timeout; a process that is to stop does not try again."""
    pid = tmp_path / "pid"
    hanging = Exec(("sh", "-c", f"sleep 600 & echo $! >{pid}; wait"))
    (warning,) = run(tmp_path, hanging, timeout=5.0, hurry=True)
    assert warning == "hook 1 (exec) was tried once and failed: no end within 5 s"
    child = int(pid.read_text())
    until(lambda: is_gone(child), "what the hook started ends too")


def test_a_command_that_does_not_exist_is_a_warning_without_its_arguments(tmp_path: Path) -> None:
    """They might be private."""
    (warning,) = run(tmp_path, Exec(("/no/such/command", "argument")))
    assert "could not be started (FileNotFoundError)" in warning
    assert "argument" not in warning


def test_a_webhook_gets_the_same_as_json_and_is_tried_again(
    tmp_path: Path, webhook: Receiver
) -> None:
    """Until it is taken."""
    webhook.answers = [503, 204]
    assert run(tmp_path, Webhook(webhook.url)) == []
    expected = {name.removeprefix("ROTATOR_").lower(): value for name, value in TOLD.items()}
    assert webhook.documents() == [expected, expected]


def test_a_webhook_is_not_redirected_and_its_address_is_not_told(
    tmp_path: Path, webhook: Receiver
) -> None:
    """The address may carry a token."""
    webhook.answers = [302] * 20
    (warning,) = run(tmp_path, Webhook(f"{webhook.url}/hook?token=private"))
    assert warning == "hook 1 (webhook) was tried 3 times and failed: status 302"
    assert [taken.path for taken in webhook.taken] == ["/hook?token=private"] * 3
    (gone,) = run(tmp_path, Webhook("http://127.0.0.1:1/private"))
    assert "could not be reached" in gone
    assert "private" not in gone


def test_a_failing_hook_is_a_warning_and_the_rotation_stands(
    rotator_command: Rotator, tmp_path: Path
) -> None:
    """Exit 0, `rotated`, and the warning names the hook; a good one ran once."""
    ran = tmp_path / "ran"
    good = json.dumps([sys.executable, "-c", f"open({str(ran)!r}, 'a').write('x')"])
    rotator_command.policy(
        "edi", POLICY + f"after: [{{exec: {good}}}, {{exec: [/no/such/command]}}]\n"
    )
    assert rotator_command("run", "--once").code == 0
    before = len(ran.read_text())
    done = rotator_command("rotate", "edi", "--json")
    (result,) = done.json["results"]
    assert (done.code, result["outcome"]) == (0, "rotated")
    assert [warning[:13] for warning in result["warnings"]] == ["hook 2 (exec)"]
    assert len(ran.read_text()) == before + 1
    assert os.access(ran, os.R_OK)
