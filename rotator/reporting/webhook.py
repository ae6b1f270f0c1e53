"""Notifications without Sentry: alarms as plain JSON to one webhook, signed, and tried again until it takes them.

docs/notifications.md describes what is sent, how the signature is checked, and how Slack and Teams take it. The
address of a webhook is often a secret by itself: it is never told.
"""

from __future__ import annotations

import json
import random
import secrets
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rotator import __version__
from rotator.keys import Secret, secret_part
from rotator.posting import Outcome, post
from rotator.reporting.alarms import Alarm
from rotator.secrecy.sinks import scrub

# Seconds, for one try.
TIMEOUT = 10.0
TRIES = 6
# Seconds between tries, doubled each time.
FIRST_PAUSE = 1.0
# Seconds, so that the end of the process is noticed in a pause.
NAP = 0.2
# Statuses that another try does not change, but for these:
PERMANENT = range(400, 500)
PASSING = (408, 425, 429)

# Delivered or not, and why not.
Done = Callable[[bool, str], None]


class Webhook:
    """Takes alarms as signed POSTs, each tried a few times."""

    name = "webhook"

    def __init__(
        self,
        url: str,
        secret: Secret | None,
        done: Done,
        *,
        pause: float = FIRST_PAUSE,
    ) -> None:
        """`done` is told of each alarm what became of it; `pause` is the first one, in seconds."""
        self._url, self._secret, self._done, self._pause = url, secret, done, pause
        self._watched = secret_part(url)

    def deliver(self, alarm: Alarm, until: Callable[[], float]) -> str | None:
        """See `Receiver.deliver`."""
        problem = self._deliver(body_of(alarm), until)
        self._done(problem is None, problem or "")
        return problem

    def _deliver(self, body: bytes, until: Callable[[], float]) -> str | None:
        number, problem = secrets.token_hex(8), "the process ends"
        for attempt in range(TRIES):
            pause = self._pause * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
            if attempt and not _rest(pause, until):
                break
            within = min(TIMEOUT, until() - time.monotonic())
            if within <= 0:
                break
            status, problem = self._post(body, number, within)
            if 200 <= status < 300:
                return None
            if status in PERMANENT and status not in PASSING:
                break
        return problem

    def _post(self, body: bytes, number: str, within: float) -> Outcome:
        headers = {
            "User-Agent": f"rotator/{__version__}",
            # The same at every try: the receiver can tell a repetition.
            "X-Rotator-Delivery": number,
        }
        if self._secret is not None:
            sent_at = str(int(time.time()))
            signed = self._secret.signature(f"{sent_at}.".encode() + body)
            headers |= {"X-Rotator-Timestamp": sent_at, "X-Rotator-Signature": f"sha256={signed}"}
        return post(self._url, body, headers, within)


def _rest(seconds: float, until: Callable[[], float]) -> bool:
    """Waits so long; False as soon as it is clear that the time does not suffice."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        if until() < end:
            return False
        time.sleep(min(NAP, end - now))
    return True


def body_of(alarm: Alarm) -> bytes:
    """The JSON document: flat, every field always there, `text` a whole message for chats."""
    step = alarm.next_step
    lines = [alarm.title, alarm.message, *([f"To do: {step}"] if step else [])]
    lines += [f"Owner: {alarm.owner}"] if alarm.owner else []
    lines.append(f"Runbook: {alarm.runbook}")
    document: dict[str, Any] = {
        "event": alarm.what,
        "policy": alarm.policy,
        "phase": alarm.phase,
        "kind": alarm.kind,
        "owner": alarm.owner,
        "tags": list(alarm.tags),
        "run": alarm.about.run,
        "title": alarm.title,
        "message": alarm.message,
        "to_do": step,
        "runbook": alarm.runbook,
        "count": alarm.count,
        "about": alarm.about.fields(),
        "at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "host": socket.gethostname(),
        "version": __version__,
        "text": "\n".join(lines),
    }
    return scrub(json.dumps(document, ensure_ascii=False, default=str), "webhook").encode()
