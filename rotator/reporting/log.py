"""The log: events with stable names, one line each.

stdout belongs to results; everything here goes to stderr. That no value is among it is held by `rotator.secrecy`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from rotator.keys import Secret
from rotator.letters import as_json, visible
from rotator.reporting import runbook
from rotator.secrecy.libraries import silence_libraries
from rotator.secrecy.sinks import guard, unguarded

LOG = logging.getLogger("rotator")
LEVELS = {
    "rotation.outcome": logging.INFO,
    "rotation.retired": logging.INFO,
    "rotation.failed": logging.ERROR,
    "rotation.given_up": logging.WARNING,
    "rotation.undone": logging.WARNING,
    "rotation.failure_not_recorded": logging.ERROR,
    "rotation.answer_lost": logging.WARNING,
    "rotation.past_limit": logging.ERROR,
    "rotation.hooks_failed": logging.WARNING,
    "policy.drift": logging.WARNING,
    "ecgrid.adopted": logging.WARNING,
    "ecgrid.not_remembered": logging.WARNING,
    "policy.time_ahead": logging.WARNING,
    "policy.held": logging.INFO,
    "policy.released": logging.INFO,
    "policy.warning": logging.WARNING,
    "settings.read": logging.INFO,
    "settings.warning": logging.WARNING,
    "vault.clock_skew": logging.WARNING,
    "leak.prevented": logging.ERROR,
    "report.not_delivered": logging.WARNING,
    "report.not_remembered": logging.WARNING,
    "report.textfile_failed": logging.ERROR,
    "run.failed": logging.ERROR,
    "run.summary": logging.INFO,
    "daemon.started": logging.INFO,
    "daemon.listening": logging.INFO,
    "daemon.ready": logging.INFO,
    "daemon.reloaded": logging.INFO,
    "daemon.reload_failed": logging.ERROR,
    "daemon.site_failed": logging.ERROR,
    "daemon.stopping": logging.INFO,
    "daemon.stopped": logging.INFO,
    "daemon.stuck": logging.ERROR,
    "daemon.tick_failed": logging.ERROR,
    "daemon.turn_late": logging.WARNING,
    "daemon.web_failed": logging.ERROR,
    "fleet.brake_let_go": logging.WARNING,
    "fleet.brake_over": logging.WARNING,
    "fleet.braked": logging.ERROR,
    "fleet.credential_ends": logging.WARNING,
    "fleet.mass_drift": logging.ERROR,
    "fleet.mass_drift_over": logging.WARNING,
    "fleet.waiting": logging.WARNING,
}


# The section of the runbook for failures that name no kind of error.
SECTIONS = {
    "daemon.site_failed": "rotator.Fault",
    "daemon.stuck": "rotator.Fault",
    "daemon.web_failed": "rotator.Fault",
    "leak.prevented": "RotatorLeakPrevented",
    "report.textfile_failed": "RotatorStandingStale",
}


def is_failure(name: str) -> bool:
    """Whether that event tells of a failure: also of one that is only a warning."""
    return LEVELS.get(name, logging.DEBUG) >= logging.ERROR or name.endswith("_failed")


def event(name: str, /, **fields: object) -> None:
    """Logs one event; fields hold names, numbers and texts of ours, never a value of a key.

    A failure gets `runbook`, by its `error`, beside them.
    """
    level = LEVELS.get(name, logging.DEBUG)
    if LOG.isEnabledFor(level):
        if is_failure(name):
            fields = {**fields, "runbook": runbook.link(SECTIONS.get(name) or str(fields["error"]))}
        kept = {
            key: _plain(value) for key, value in fields.items() if value not in (None, "", [], ())
        }
        LOG.log(level, name, extra={"fields": kept}, stacklevel=2)


def _plain(value: object) -> object:
    # A mistake of ours: say so, not what.
    if isinstance(value, Secret):
        return "**"
    return (
        value if isinstance(value, str | int | float | bool | list | tuple | dict) else str(value)
    )


class _Lines(logging.Formatter):
    """One line an event: JSON for machines, or readable for people."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        moment = (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z")
        )
        fields: dict[str, Any] = getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            fields = {**fields, "exception": record.exc_info[0].__name__}
        if self._as_json:
            line = {
                "time": moment,
                "level": record.levelname.lower(),
                "event": record.getMessage(),
                **fields,
            }
            return as_json(json.dumps(line, ensure_ascii=False, default=str))
        words = " ".join(f"{key}={_shown(value)}" for key, value in fields.items())
        return visible(
            f"{moment} {record.levelname.lower():7} {record.getMessage()} {words}".rstrip()
        )


def _shown(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or "\n" in text or not text else text


def setup(level: str = "INFO", form: str = "auto", stream: TextIO | None = None) -> None:
    """Sends our events to `stream` (stderr) from that level on: `json`, `console`, or `auto` (by the terminal)."""
    guard()
    out = unguarded(stream or sys.stderr)
    handler = logging.StreamHandler(out)
    handler.setFormatter(_Lines(form == "json" or (form == "auto" and not out.isatty())))
    LOG.handlers[:] = [handler]
    LOG.setLevel(level)
    LOG.propagate = False
    silence_libraries()


@contextmanager
def lines_through(stream: TextIO) -> Iterator[None]:
    """Meanwhile our events go there: what is drawn on a terminal is torn by lines that it does not know of."""
    handlers = [one for one in LOG.handlers if isinstance(one, logging.StreamHandler)]
    before = [(one, one.setStream(stream)) for one in handlers]
    try:
        yield
    finally:
        for handler, old in before:
            if old is not None:
                handler.setStream(old)
