"""Notifications to a webhook: what is sent, signed, tried again, and never told."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from string import Template

import pytest
from conftest import Rotator, until
from receiver import Receiver, receiver

from rotator.keys import Secret
from rotator.posting import post
from rotator.reporting import runbook
from rotator.reporting.about import About
from rotator.reporting.alarms import Alarm
from rotator.reporting.webhook import TRIES, Webhook, body_of
from rotator.sandbox.ecgrid import Fault, Running

ROOT = Path(__file__).resolve().parent.parent
ALARM = Alarm(
    "failed",
    "edi",
    'it "failed"',
    "issue",
    "ecgrid.Timeout",
    3,
    owner="edi-platform@example.com",
    tags=("prod", "eu"),
    about=About(run="3f", key_id=7),
)


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """A webhook."""
    with receiver() as there:
        yield there


def send(hook: Receiver, secret: Secret | None = None) -> tuple[bool, str]:
    """Sends one alarm, and what became of it."""
    became: list[tuple[bool, str]] = []
    webhook = Webhook(f"{hook.url}/hook", secret, lambda *one: became.append(one), pause=0.01)
    problem = webhook.deliver(ALARM, lambda: time.monotonic() + 60)
    assert became == [(problem is None, problem or "")]
    return became[0]


def test_a_notification_is_flat_json_with_what_to_do(hook: Receiver) -> None:
    """`text` is a whole message, so that a chat shows it as it is."""
    assert send(hook) == (True, "")
    (told,) = hook.documents()
    assert (told["event"], told["policy"], told["phase"], told["kind"]) == (
        "failed", "edi", "issue", "ecgrid.Timeout",
    )  # fmt: skip
    assert (told["count"], told["about"]) == (3, {"key_id": 7, "run": "3f"})
    assert (told["owner"], told["tags"]) == ("edi-platform@example.com", ["prod", "eu"])
    assert told["run"] == "3f"
    assert told["to_do"] == runbook.next_step("ecgrid.Timeout")
    shown = ("edi: rotation failed", 'it "failed"', "edi-platform@example.com")
    for part in (*shown, told["to_do"], told["runbook"]):
        assert part in told["text"]


def test_the_signature_proves_who_sent_it_and_when(hook: Receiver) -> None:
    """HMAC-SHA256 over the time, a dot, and the body."""
    secret = secrets.token_urlsafe(24)
    send(hook, Secret(secret))
    (taken,) = hook.taken
    signed = f"{taken.headers['X-Rotator-Timestamp']}.".encode() + taken.body
    expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    assert taken.headers["X-Rotator-Signature"] == f"sha256={expected}"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_pass_is_tried_again_under_the_same_number(hook: Receiver, status: int) -> None:
    """So the receiver can tell a repetition."""
    hook.answers = [status, status]
    assert send(hook) == (True, "")
    assert len(hook.taken) == 3
    assert len({taken.headers["X-Rotator-Delivery"] for taken in hook.taken}) == 1


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (410, 1), (302, TRIES), (500, TRIES)])
def test_what_does_not_pass_is_given_up_and_told(hook: Receiver, status: int, tries: int) -> None:
    """A redirect is never followed: what was meant for one address is not sent to another."""
    hook.answers = [status] * 20
    assert send(hook) == (False, f"status {status}")
    assert [taken.path for taken in hook.taken] == ["/hook"] * tries


@pytest.mark.full
def test_a_command_delivers_before_it_ends_and_never_tells_the_address(
    rotator_command: Rotator, simulator: Running, hook: Receiver
) -> None:
    """Failure and recovery arrive; address and secret are in no output, also not when the webhook is gone."""
    path, secret = f"/{secrets.token_urlsafe(24)}", secrets.token_urlsafe(24)
    rotator_command.secrets |= {path[1:], secret}
    rotator_command.environment |= {
        "ROTATOR_NOTIFY__WEBHOOK": hook.url + path,
        "ROTATOR_NOTIFY__SECRET": secret,
        "ROTATOR_LOG__LEVEL": "DEBUG",
    }
    rotator_command.policy(
        "edi", "user_id: 5001\nvisibility: Private\nschedule: {every: 30d}\nvault: {path: a/edi}\n"
    )
    assert rotator_command("run", "--once").code == 0
    simulator.simulator.add_fault(Fault("status", call="KeySet", status=403, times=None))
    assert rotator_command("rotate", "edi").code == 1
    simulator.simulator.clear_faults()
    hook.answers = [500] * 3
    assert rotator_command("rotate", "edi").code == 0
    events = [one["event"] for one in hook.documents()]
    assert (events[0], events[-1]) == ("failed", "recovered")
    rotator_command.environment["ROTATOR_NOTIFY__WEBHOOK"] = "http://127.0.0.1:9" + path
    simulator.simulator.add_fault(Fault("status", call="KeySet", status=403, times=None))
    assert rotator_command("rotate", "edi").code == 1
    assert "report.not_delivered" in rotator_command("rotate", "edi").stderr


def test_a_webhook_address_that_cannot_be_used_is_refused_unseen(rotator_command: Rotator) -> None:
    """Its text may be a secret."""
    path = secrets.token_urlsafe(24)
    rotator_command.secrets.add(path)
    rotator_command.policy(
        "edi", "user_id: 5001\nvisibility: Private\nschedule: manual\nvault: {path: a/edi}\n"
    )
    for address in (f"http://example.com/{path}", f"https://me:{path}@example.com/", path):
        refused = rotator_command("validate", ROTATOR_NOTIFY__WEBHOOK=address)
        assert refused.code == 2
        assert (
            "ROTATOR_NOTIFY__WEBHOOK: must be" in refused.stderr or "plain http" in refused.stderr
        )


DOCUMENT = (ROOT / "docs" / "notifications.md").read_text()
TEMPLATES = dict(
    re.findall(
        r"^### (\w+)$(?:(?!^###).)*?```json template\n(.*?)```", DOCUMENT, re.DOTALL | re.MULTILINE
    )
)


@pytest.mark.parametrize("name", ["Slack", "Teams", "PagerDuty", "Opsgenie"])
@pytest.mark.parametrize("alarm", [ALARM, Alarm("overdue", None, "two\nlines", kind=None)])
def test_a_recipe_posts_what_the_other_side_can_read(
    hook: Receiver, name: str, alarm: Alarm
) -> None:
    """Whatever the fields have, filled in as JSON strings, and posted to a receiver."""
    fields = {key: json.dumps(value) for key, value in json.loads(body_of(alarm)).items()}
    assert set(TEMPLATES) == {"Slack", "Teams", "PagerDuty", "Opsgenie"}
    body = Template(TEMPLATES[name]).substitute(fields)
    assert post(f"{hook.url}/{name}", body.encode(), {}, 30.0)[0] == 200
    (taken,) = hook.documents()
    shown = json.dumps(taken)
    assert alarm.title in shown
    assert alarm.runbook in shown
    if name == "PagerDuty":
        assert (taken["event_action"], taken["dedup_key"]) == ("trigger", alarm.policy)
        assert taken["payload"]["custom_details"]["owner"] == alarm.owner
    if name == "Opsgenie":
        assert (taken["alias"], taken["tags"]) == (alarm.policy, list(alarm.tags))


def test_the_recipe_for_mail_hands_an_alarm_to_the_mail_server(
    rotator_command: Rotator, tmp_path: Path
) -> None:
    """To the policy's owner; and what the mail server does not take is told again by the next process."""
    (recipe,) = re.findall(r"^### Mail$.*?```python\n(.*?)```", DOCUMENT, re.DOTALL | re.MULTILINE)
    (tmp_path / "mail.py").write_text(recipe)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mails: list[str] = []
    with mail_server(mails) as server:
        given = {
            "PORT": str(port),
            "SMTP_PORT": str(server.port),
            "MAIL_FROM": "rotator@example.com",
        }
        bridge = subprocess.Popen(
            [sys.executable, str(tmp_path / "mail.py")],
            env={"PATH": os.defpath, "MAIL_TO": "all@example.com", **given},
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: _listens(port), "the bridge listens")
            rotator_command.policy(
                "edi",
                "user_id: 5001\nvisibility: Private\nschedule: {every: 30d}\nowner: edi@example.com\n"
                "vault: {mount: nowhere, path: a/edi}\n",
            )
            rotator_command.environment |= {
                "ROTATOR_NOTIFY__WEBHOOK": f"http://127.0.0.1:{port}/",
                "ROTATOR_DEADLINE": "2s",
            }
            server.refuses = True
            assert rotator_command("run", "--once").code == 1
            assert mails == []
            server.refuses = False
            for _ in range(2):
                assert rotator_command("run", "--once").code == 1
            (mail,) = mails
            assert "Subject: edi: rotation failed" in mail
            assert "To: edi@example.com" in mail
            assert "vault.NoMount" in mail
        finally:
            bridge.kill()
            bridge.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


class MailServer:
    """As much of SMTP as a client needs to hand mails over; `refuses`: it closes at once."""

    def __init__(self, mails: list[str], listener: socket.socket) -> None:
        self.refuses = False
        self.port: int = listener.getsockname()[1]
        self._mails, self._listener = mails, listener

    def serve(self) -> None:
        """Until the listener is closed."""
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                with client, suppress(OSError):
                    if not self.refuses:
                        self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        client.sendall(b"220 here\r\n")
        lines = client.makefile("rb")
        for line in lines:
            word = line.strip().upper()
            if word == b"DATA":
                client.sendall(b"354 go on\r\n")
                text = list(iter(lines.readline, b".\r\n"))
                self._mails.append(b"".join(text).decode())
            client.sendall(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")


@contextmanager
def mail_server(mails: list[str]) -> Iterator[MailServer]:
    """A mail server on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = MailServer(mails, listener)
        threading.Thread(target=server.serve, daemon=True).start()
        yield server
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
