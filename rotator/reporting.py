"""What the program says: log events with stable names, and Sentry events that we compose ourselves.

stdout belongs to results; everything here goes to stderr. Libraries may not log at all: a new key is in a library's
hands before this program can know it, so no scrubbing by value could catch it there.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

from rotator.keys import Secret

LOG = logging.getLogger("rotator")
SILENT = logging.CRITICAL + 1
# Everything that ever has a request, an answer or a setting in its hands.
SILENCED = (
    "apscheduler",
    "hpack",
    "httpcore",
    "httpx",
    "hvac",
    "requests",
    "sentry_sdk.errors",
    "urllib3",
    "zeep",
)
LEVELS = {
    "rotation.outcome": logging.INFO,
    "rotation.failed": logging.ERROR,
    "rotation.failure_not_recorded": logging.ERROR,
    "rotation.answer_lost": logging.WARNING,
    "policy.drift": logging.WARNING,
    "policy.warning": logging.WARNING,
    "settings.warning": logging.WARNING,
    "vault.clock_skew": logging.WARNING,
    "run.summary": logging.INFO,
    "daemon.started": logging.INFO,
    "daemon.stopping": logging.INFO,
    "daemon.tick_failed": logging.ERROR,
}


def event(name: str, /, **fields: object) -> None:
    """Logs one event; fields hold names, numbers and texts of ours, never a value of a key."""
    level = LEVELS.get(name, logging.DEBUG)
    if LOG.isEnabledFor(level):
        told = {key: _plain(value) for key, value in fields.items() if value not in (None, "", [])}
        LOG.log(level, name, extra={"fields": told})


def _plain(value: object) -> object:
    if isinstance(value, Secret):  # a mistake of ours: say so, not what
        return "**"
    return value if isinstance(value, str | int | float | bool | list | dict) else str(value)


class _Lines(logging.Formatter):
    """One line an event: JSON for machines, or readable for people."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        at = (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
        fields: dict[str, Any] = getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            fields = {**fields, "exception": record.exc_info[0].__name__}
        if self._as_json:
            line = {
                "time": at,
                "level": record.levelname.lower(),
                "event": record.getMessage(),
                **fields,
            }
            return json.dumps(line, ensure_ascii=False, default=str)
        told = " ".join(f"{key}={_shown(value)}" for key, value in fields.items())
        return f"{at} {record.levelname.lower():7} {record.getMessage()} {told}".rstrip()


def _shown(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or "\n" in text or not text else text


def setup(level: str = "INFO", form: str = "auto", stream: TextIO | None = None) -> None:
    """Sends our events to `stream` (stderr) from that level on: `json`, `console`, or `auto` (by the terminal)."""
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(_Lines(form == "json" or (form == "auto" and not out.isatty())))
    LOG.handlers[:] = [handler]
    LOG.setLevel(level)
    LOG.propagate = False
    logging.raiseExceptions = False  # else a broken log call prints its arguments
    silence_libraries()


def silence_libraries() -> None:
    """Caps the libraries' loggers, and the children that they have made already."""
    for name in SILENCED:
        logging.getLogger(name).setLevel(SILENT)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(tuple(f"{parent}." for parent in SILENCED)):
            logging.getLogger(name).setLevel(SILENT)


# Sentry

_sentry_lock = threading.Lock()


def start_sentry(dsn: str | None, environment: str | None, release: str | None) -> None:
    """Starts Sentry with nothing collected by itself: no locals, source, breadcrumbs, argv, headers or tracing."""
    if not dsn:
        return
    import sentry_sdk

    with _sentry_lock:
        sentry_sdk.init(
            dsn=dsn,
            environment=environment,
            release=release,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            include_source_context=False,
            max_breadcrumbs=0,
            send_default_pii=False,
            max_request_body_size="never",
            trace_propagation_targets=[],
            spotlight=False,
            debug=False,
            server_name="",
        )


def failure_to_sentry(policy: str, phase: str, kind: str, message: str) -> None:
    """One event per failed rotation, grouped by policy, phase and kind."""
    if "sentry_sdk" not in sys.modules:
        return
    import sentry_sdk

    sentry_sdk.capture_event(
        {
            "message": f"rotation of {policy} failed in {phase}: {message}",
            "level": "error",
            "logger": "rotator",
            "fingerprint": ["rotator", policy, phase, kind],
            "tags": {"policy": policy, "phase": phase, "kind": kind},
        }
    )


def flush(seconds: float = 5.0) -> None:
    """Waits until what was reported has been sent, at most so long."""
    if "sentry_sdk" in sys.modules:
        import sentry_sdk

        sentry_sdk.flush(seconds)
