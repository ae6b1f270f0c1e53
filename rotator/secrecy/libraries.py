"""Libraries may not log at all: a new key is in their hands before this program can know it.

So no scrubbing by value could catch it there.
"""

from __future__ import annotations

import logging

SILENT = logging.CRITICAL + 1
# Everything that ever has a request, an answer or a setting in its hands.
SILENCED = (
    "apscheduler",
    "hpack",
    "httpcore",
    "httpx",
    "hvac",
    "requests",
    "sentry_sdk",
    "urllib3",
    "zeep",
)


def silence_libraries() -> None:
    """Caps the libraries' loggers, and the children that they have made already.

    That spares them the work; that nobody but us can speak, whoever sets a level later, is the doing of `sinks.guard`.
    """
    for name in SILENCED:
        logging.getLogger(name).setLevel(SILENT)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(tuple(f"{parent}." for parent in SILENCED)):
            logging.getLogger(name).setLevel(SILENT)
