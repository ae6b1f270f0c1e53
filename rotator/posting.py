"""A document for a webhook: posted once, to the address that was given and no other, and given up in time."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from contextlib import closing

from rotator import files
from rotator.errors import BadInput, Failure
from rotator.settings import client_context
from rotator.threads import begin

# The status of the answer, 0 if there is none; and the same in words.
Outcome = tuple[int, str]


def post(url: str, body: bytes, headers: Mapping[str, str], within: float) -> Outcome:
    """Posts the JSON document `body` to an http(s) address; ends in time and never raises.

    The address, which is often a secret by itself, is in no word of the outcome.
    """
    # In a thread that may be left behind: nothing ends the wait for a name server.
    outcome: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    try:
        begin(lambda: outcome.put(_post(url, body, headers, within)), "webhook")
        return outcome.get(timeout=within)
    except Failure as failure:
        return 0, str(failure)
    except queue.Empty:
        return 0, _no_end(within)


def _post(url: str, body: bytes, headers: Mapping[str, str], within: float) -> Outcome:
    # With httpx, which only those who send pay for.
    from rotator.http import Answer, Connections

    try:
        with closing(Connections([url], client_context)) as connections:
            outcome = connections.send(
                "POST",
                url,
                headers={"Content-Type": "application/json", **headers},
                content=body,
                within=within,
                largest=0,
            )
    except BadInput as error:
        return 0, str(error)
    except ValueError as error:
        return 0, f"it could not be reached ({type(error).__name__})"
    if isinstance(outcome, Answer):
        return outcome.status, f"status {outcome.status}"
    if outcome.how == "no end":
        return 0, _no_end(within)
    if outcome.how == "no file":
        return 0, files.NO_MORE
    return 0, f"it could not be reached ({outcome.why or outcome.error})"


def _no_end(within: float) -> str:
    return f"no end within {within:.0f} s"
