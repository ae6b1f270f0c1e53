"""Notifications to a webhook: what is sent, signed, tried again, and never told."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from string import Template

import pytest
from conftest import Rotator
from receiver import Receiver, receiver

from rotator.keys import Secret
from rotator.reporting import runbook
from rotator.reporting.alarms import Alarm
from rotator.reporting.notify import TRIES, Webhook, body_of
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
    about={"key_id": 7, "run": "3f"},
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


def test_the_templates_of_the_documents_make_valid_json() -> None:
    """Whatever characters a message has, where the fields are put in as JSON strings."""
    text = (ROOT / "docs" / "notifications.md").read_text()
    templates = re.findall(r"```json template\n(.*?)```", text, re.DOTALL)
    assert len(templates) == 2
    fields = {name: json.dumps(value) for name, value in json.loads(body_of(ALARM)).items()}
    for template in templates:
        assert "edi: rotation failed" in json.dumps(
            json.loads(Template(template).substitute(fields))
        )
