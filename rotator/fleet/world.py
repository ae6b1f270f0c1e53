"""The world of the rotations, put together from the settings: Vault, ECGrid, the clock, and the order to stop."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple
from typing import TYPE_CHECKING

from rotator.ecgrid import ECGrid
from rotator.ecgrid.credentials import Credentials
from rotator.ecgrid.rate import Rate
from rotator.keys import Secret
from rotator.policy import Destination, Policy
from rotator.rotation import Report, World, side_by_side
from rotator.rotation.due import Stopped
from rotator.rotation.right import Right
from rotator.settings import Settings
from rotator.vault import Server, Vault
from rotator.vault.index import DueIndex

if TYPE_CHECKING:
    from rotator.reporting.metrics import Metrics

LONG = 1.0  # seconds from which on a sleeper's place is somebody else's meanwhile
NAP = 0.5  # seconds, so that a sleeper that may stop does so soon


class BootClock:
    """The machine's own time, counting on while it sleeps; an order to stop wakes who has claimed nothing."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.resting: Callable[[], AbstractContextManager[None]] = nullcontext

    def boot(self) -> float:
        """Seconds since boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """Waits; raises Stopped if the process is to stop and this thread has nothing to finish."""
        if seconds >= LONG:
            with self.resting():
                self._sleep(seconds)
        else:
            self._sleep(seconds)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._wake()
            time.sleep(min(left, NAP))
        self._wake()


class Surroundings:
    """Everything that the rotations of one process share."""

    def __init__(self, settings: Settings, metrics: Metrics | None) -> None:
        self.settings = settings
        self.stopping = threading.Event()
        self.clock = BootClock(self._leave_if_free)
        self.server = Server(
            settings.vault, boot=self.clock.boot, observer=metrics.vault_call if metrics else None
        )
        self.vault = Vault(self.server, settings.vault.mount, settings.vault.state_path)
        self.index = DueIndex(self.vault, secrets.token_hex(8), settings.claim_ttl)
        own = settings.ecgrid
        sources: list[Callable[[], Secret | None]] = []
        if own.api_key_vault is not None:
            sources.append(self._key_in_vault)
        if own.api_key is not None:
            sources.append(lambda: settings.read_again("ecgrid.api_key") or own.api_key)
        self.credentials = Credentials(sources, own.login, own.password, sleep=self.clock.sleep)
        waited = metrics.rate_wait if metrics else None
        self.ecgrid = ECGrid(
            own,
            self.credentials,
            Rate(own.rate, sleep=self.clock.sleep, waited=waited),
            observer=metrics.ecgrid_call if metrics else None,
        )
        self._side = ThreadPoolExecutor(2 * settings.concurrency, "side")
        self._thread = threading.local()
        self._claimed: dict[str, float] = {}

    def close(self) -> None:
        """Logs out of ECGrid and closes all connections."""
        self._side.shutdown(wait=False, cancel_futures=True)
        self.ecgrid.close()
        self.server.close()

    def _key_in_vault(self) -> Secret | None:
        place = self.settings.ecgrid.api_key_vault
        if place is None:
            return None
        there = self.vault.published(Destination(place.mount, place.path, place.field))
        return there.value if there else None

    # an order to stop ends what has claimed nothing, wherever it waits

    def _leave_if_free(self) -> None:
        if self.stopping.is_set() and getattr(self._thread, "free", False):
            raise Stopped("the process was told to stop, and nothing was begun")

    @contextmanager
    def at_work(self, policy: Policy) -> Iterator[None]:
        """This thread works on that policy, and is free to leave it until it claims."""
        self._thread.free = True
        try:
            yield
        finally:
            self._thread.free = False
            self._claimed.pop(policy.name, None)

    def claimed_longer_than(self, seconds: float) -> list[str]:
        """The policies whose runs have claimed, and go on, for so long."""
        now = self.clock.boot()
        return [name for name, since in list(self._claimed.items()) if now - since > seconds]

    def world(self, policy: Policy, report: Report, right: Right) -> World:
        """The world as a run over one policy sees it."""
        settings, own = self.settings, self.settings.ecgrid

        def hold() -> None:
            self._leave_if_free()
            self.index.hold(policy.name)
            self._thread.free = False
            self._claimed.setdefault(policy.name, self.clock.boot())

        return World(
            vault=self.vault,
            account=self.ecgrid.account,
            own_key=self.credentials.current,
            own_key_from=astuple(own.api_key_vault) if own.api_key_vault else None,
            has_login=own.login is not None,
            clock=self.clock,
            report=report,
            who=f"{socket.gethostname()}:{os.getpid()}",
            deadline=settings.deadline.total_seconds(),
            claim_ttl=settings.claim_ttl.total_seconds(),
            timeout=own.timeout,
            together=side_by_side(self._side),
            stopping=self.stopping.is_set,
            hold=hold,
            right=right,
        )
