"""A document for a webhook: posted once, to the address that was given and no other, and given up in time."""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping

Outcome = tuple[int, str]  # the status of the answer, 0 if there is none; and the same in words


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What was meant for one address is not sent to another one."""

    def redirect_request(self, *args: object) -> None:
        return None


def post(url: str, body: bytes, headers: Mapping[str, str], within: float) -> Outcome:
    """Posts the JSON document `body` to an http(s) address; ends in time and never raises.

    The address, which is often a secret by itself, is in no word of the outcome.
    """
    # In a thread that may be left behind: an answer can come a byte at a time for hours.
    outcome: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    threading.Thread(
        target=lambda: outcome.put(_post(url, body, headers, within)), name="webhook", daemon=True
    ).start()
    try:
        return outcome.get(timeout=within)
    except queue.Empty:
        return 0, f"no end within {within:.0f} s"


def _post(url: str, body: bytes, headers: Mapping[str, str], within: float) -> Outcome:
    try:
        request = urllib.request.Request(  # noqa: S310 - http(s) only: settings and policies see to that
            url, body, {"Content-Type": "application/json", **headers}, method="POST"
        )
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=within) as answer:
            return int(answer.status), f"status {answer.status}"
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, f"status {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return 0, f"it could not be reached ({type(error).__name__})"
