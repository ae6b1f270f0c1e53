"""Notifications without Sentry: alarms as plain JSON to one webhook, signed, and tried again until it takes them.

docs/notifications.md describes what is sent, how the signature is checked, and how Slack and Teams take it. The
address of a webhook is often a secret by itself: it is never told.
"""

from __future__ import annotations

import json
import queue
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rotator import __version__
from rotator.keys import Secret, secret_part
from rotator.posting import Outcome, post
from rotator.reporting.alarms import Alarm
from rotator.reporting.sinks import scrub
from rotator.threads import begin

TIMEOUT = 10.0  # seconds, for one try
TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between tries, doubled each time
ROOM = 1000  # alarms that may wait; more are given up, and counted
PERMANENT = range(400, 500)  # statuses that another try does not change, but for these:
PASSING = (408, 425, 429)

Done = Callable[[bool, str], None]  # delivered or not, and why not


class Notifier:
    """Sends alarms to a webhook, one after another, in a thread of its own: telling it never blocks."""

    def __init__(
        self,
        url: str,
        secret: Secret | None,
        done: Done,
        *,
        pause: float = FIRST_PAUSE,
    ) -> None:
        """`done` is told of each alarm what became of it; `pause` is the first one, in seconds. Raises Failure."""
        self._url, self._secret, self._done, self._pause = url, secret, done, pause
        self._watched = secret_part(url)
        self._waiting: queue.Queue[Alarm] = queue.Queue(ROOM)
        self._in_hurry = threading.Event()
        self._thread = begin(self._work, "notify")

    def tell(self, alarm: Alarm) -> None:
        """Sends it, soon."""
        try:
            self._waiting.put_nowait(alarm)
        except queue.Full:
            self._done(False, "too many wait already")

    def flush(self, seconds: float) -> bool:
        """Waits until everything is sent or given up, at most so long; whether it is. For the end of a process."""
        until = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)
        return not self._waiting.unfinished_tasks

    def _work(self) -> None:
        while True:
            alarm = self._waiting.get()
            try:
                problem = self._deliver(body_of(alarm))
                self._done(problem is None, problem or "")
            finally:
                self._waiting.task_done()

    def _deliver(self, body: bytes) -> str | None:
        """None if it was taken, else why not."""
        number, problem = secrets.token_hex(8), ""
        for attempt in range(TRIES):
            if attempt:
                pause = min(LONGEST_PAUSE, self._pause * 2 ** (attempt - 1))
                time.sleep(pause * random.uniform(0.8, 1.2))
            status, problem = self._post(body, number)
            if 200 <= status < 300:
                return None
            if status in PERMANENT and status not in PASSING:
                break
        return problem

    def _post(self, body: bytes, number: str) -> Outcome:
        headers = {
            "User-Agent": f"rotator/{__version__}",
            "X-Rotator-Delivery": number,  # the same at every try: the receiver can tell a repetition
        }
        if self._secret is not None:
            at = str(int(time.time()))
            signed = self._secret.signature(f"{at}.".encode() + body)
            headers |= {"X-Rotator-Timestamp": at, "X-Rotator-Signature": f"sha256={signed}"}
        return post(self._url, body, headers, TIMEOUT)


def body_of(alarm: Alarm) -> bytes:
    """The JSON document: flat, every field always there, `text` a whole message for chats."""
    step = alarm.next_step
    lines = [alarm.title, alarm.message, *([f"To do: {step}"] if step else []), alarm.runbook]
    told: dict[str, Any] = {
        "event": alarm.what,
        "policy": alarm.policy,
        "phase": alarm.phase,
        "kind": alarm.kind,
        "title": alarm.title,
        "message": alarm.message,
        "to_do": step,
        "runbook": alarm.runbook,
        "count": alarm.count,
        "about": dict(alarm.about),
        "at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "host": socket.gethostname(),
        "version": __version__,
        "text": "\n".join(lines),
    }
    return scrub(json.dumps(told, ensure_ascii=False, default=str), "webhook").encode()
