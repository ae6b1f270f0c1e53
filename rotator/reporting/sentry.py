"""Sentry, with nothing collected by itself, and the net before its transport.

The hooks of the SDK are no choke point: attachments, sessions and headers pass them by, and two of them let the
original through when they fail. The transport sees every envelope as it leaves; one that cannot be scrubbed is dropped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlsplit

import sentry_sdk
from sentry_sdk.envelope import Envelope, Item
from sentry_sdk.transport import HttpTransport

from rotator.keys import Secret
from rotator.secrecy.sinks import scrub, scrub_all
from rotator.settings import proxy_for

PLACE = "sentry"
# Watched as long as the process lives.
_own: list[Secret] = []


class ScrubbingTransport(HttpTransport):
    """Sends envelopes anew, made of scrubbed JSON; what is no JSON and shows a secret is left out."""

    # The SDK makes the transport, from the class alone.
    tell_lost: Callable[[str], None]
    # The ids of alarms that Sentry took, until they are asked for.
    taken: ClassVar[set[str]] = set()

    def capture_envelope(self, envelope: Envelope) -> None:
        """Sends a scrubbed copy; sends nothing if none can be made."""
        clean = scrubbed(envelope)
        if clean is None:
            self.on_dropped_event("unscrubbable")
        else:
            super().capture_envelope(clean)

    def _handle_response(self, response: Any, envelope: Envelope | None) -> None:
        super()._handle_response(response, envelope)
        events = [] if envelope is None else [one for one in envelope.items if one.type == "event"]
        if envelope is not None and events and 200 <= response.status < 300:
            self.taken.add(str(envelope.headers.get("event_id")))

    def on_dropped_event(self, reason: str) -> None:
        """Says that a report did not reach Sentry: `network`, `status_500`, and so on, in the SDK's words."""
        type(self).tell_lost(reason)


def scrubbed(envelope: Envelope) -> Envelope | None:
    """A copy of an envelope without any watched secret, or None if that cannot be made. Never raises."""
    try:
        # The trace header only serves tracing, and repeats the DSN's key.
        headers = {name: value for name, value in envelope.headers.items() if name != "trace"}
        items = [item for item in map(_item, envelope.items) if item is not None]
        return Envelope(scrub_all(headers, PLACE), items) if items else None
    except Exception:  # noqa: BLE001 - closed on failure: better no report than one that leaks
        return None


def _item(item: Item) -> Item | None:
    payload, headers = item.get_bytes(), scrub_all(dict(item.headers), PLACE)
    try:
        data = json.loads(payload)
    except ValueError:
        text = payload.decode("latin-1")
        return Item(payload, headers) if scrub(text, PLACE) == text else None
    return Item(json.dumps(scrub_all(data, PLACE, depth=64)).encode(), headers)


def start(
    dsn: str, environment: str | None, release: str | None, lost: Callable[[str], None]
) -> None:
    """Starts the SDK: no locals, source, breadcrumbs, argv, headers, tracing or integrations.

    `lost` is told why, whenever a report does not reach Sentry.
    """
    ScrubbingTransport.tell_lost = staticmethod(lost)
    user = urlsplit(dsn).username
    if user:
        _own.append(Secret(user))
    # "": none, whatever the environment says.
    proxy = proxy_for(dsn) or ""
    sentry_sdk.init(
        dsn=dsn,
        http_proxy=proxy,
        https_proxy=proxy,
        environment=environment,
        release=release,
        transport=ScrubbingTransport,
        default_integrations=False,
        auto_enabling_integrations=False,
        include_local_variables=False,
        include_source_context=False,
        max_breadcrumbs=0,
        max_request_body_size="never",
        trace_propagation_targets=[],
        propagate_traces=False,
        enable_logs=False,
        auto_session_tracking=False,
        send_client_reports=False,
        spotlight=False,
        debug=False,
        server_name="",
    )


def send(message: str, fingerprint: list[str], tags: dict[str, str]) -> None:
    """Sends one error event that is made of nothing but this."""
    event: Any = {
        "message": message,
        "level": "error",
        "logger": "rotator",
        "fingerprint": fingerprint,
        "tags": tags,
    }
    sentry_sdk.capture_event(event)


def deliver(event: Any, within: float) -> str | None:
    """Sends one event and waits for what becomes of it, at most so many seconds; None once Sentry took it."""
    if within <= 0:
        return "there was no time left"
    number = sentry_sdk.capture_event(event)
    sentry_sdk.flush(within)
    if number in ScrubbingTransport.taken:
        ScrubbingTransport.taken.clear()
        return None
    return "it did not take it"


def flush(seconds: float) -> None:
    """Waits until what was reported has been sent, at most so long; what has not been by then is lost."""
    began = time.monotonic()
    sentry_sdk.flush(seconds)
    if time.monotonic() - began >= seconds:
        ScrubbingTransport.tell_lost("timeout")
