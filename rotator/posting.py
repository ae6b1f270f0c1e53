"""A document for a webhook: posted once, to the address that was given and no other, and given up in time."""

from __future__ import annotations

import base64
import http.client
import queue
import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from rotator.errors import BadInput, Failure
from rotator.settings import proxy_for
from rotator.threads import begin

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
    try:
        begin(lambda: outcome.put(_post(url, body, headers, within)), "webhook")
        return outcome.get(timeout=within)
    except Failure as failure:
        return 0, str(failure)
    except queue.Empty:
        return 0, f"no end within {within:.0f} s"


def _post(url: str, body: bytes, headers: Mapping[str, str], within: float) -> Outcome:
    try:
        request = urllib.request.Request(  # noqa: S310 - http(s) only: settings and policies see to that
            url, body, {"Content-Type": "application/json", **headers}, method="POST"
        )
        _go_through(request, proxy_for(url))
        direct = urllib.request.ProxyHandler({})  # whether by a proxy was decided above
        opener = urllib.request.build_opener(_NoRedirect, direct)
        with opener.open(request, timeout=within) as answer:
            return int(answer.status), f"status {answer.status}"
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, f"status {error.code}"
    except BadInput as error:
        return 0, str(error)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return 0, f"it could not be reached ({type(error).__name__})"


def _go_through(request: urllib.request.Request, proxy: str | None) -> None:
    """Has the request sent by that proxy, if there is one, with the password that its address may have."""
    if proxy is None:
        return
    by = urlsplit(proxy)
    request.set_proxy(by.netloc.rpartition("@")[2], by.scheme)
    if by.username:
        who = f"{unquote(by.username)}:{unquote(by.password or '')}".encode()
        request.add_header("Proxy-Authorization", f"Basic {base64.b64encode(who).decode()}")
