"""What systemd is told (sd_notify): one datagram to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from rotator.secrecy.sinks import scrub


class Notify:
    """Tells the service manager how it goes; does nothing without one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID from `environ`."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        # An abstract socket.
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        watched, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        mine = whose in ("", str(os.getpid()))
        self.watchdog = int(watched) / 1e6 if watched.isdecimal() and mine else None
        """Seconds within which the next ping must come; None: nobody watches."""

    def say(self, **fields: str | int) -> None:
        """Sends `FIELD=value` lines; a manager that does not listen is no reason to stop."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.settimeout(1.0)
            sender.sendto(scrub(text, "systemd").encode(), self._address)

    def reloading(self) -> None:
        """Says that a reload begins, with the time that Type=notify-reload asks for; `say(READY=1)` ends it."""
        self.say(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
