"""The world of the rotations, put together from the settings: Vault, ECGrid, the clock, and the order to stop."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from rotator import files, reporting
from rotator.ecgrid import Account, ECGrid, Keep, Urgency
from rotator.ecgrid.credentials import Credentials, Login
from rotator.ecgrid.rate import Rate
from rotator.errors import BadInput, FenceLost
from rotator.fleet.who import who
from rotator.fleet.whose import Whose
from rotator.keys import Issue, Secret, Verify
from rotator.policy import Destination, Policy
from rotator.replacing.beginning import Stopped
from rotator.rotation import Learnt, Report, World
from rotator.run.right import Right
from rotator.settings import Settings
from rotator.threads import Hands
from rotator.vault import Server, Vault
from rotator.vault.index import DueIndex

if TYPE_CHECKING:
    from rotator.reporting.metrics import Metrics

# Calls that a rotation makes beside another one.
BESIDE = 2
# Seconds from which on a sleeper's place is somebody else's meanwhile.
LONG = 1.0
# Seconds, so that a sleeper that may stop does so soon.
NAP = 0.5


def affordable(settings: Settings) -> Settings:
    """No more rotations at once than there are files for."""
    wanted, most = settings.concurrency, files.at_once(settings.concurrency)
    if most == wanted:
        return settings
    what = f"ROTATOR_CONCURRENCY is {wanted}, and there are files for {most} at once (`ulimit -n`)"
    reporting.event("settings.warning", message=what)
    return settings.model_copy(update={"concurrency": most})


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

    def __init__(
        self, settings: Settings, metrics: Metrics | None = None, keep: Keep | None = None
    ) -> None:
        """`keep`: where what ECGrid speaks is remembered, if not in Vault."""
        self.settings = settings
        self.who = who(settings.vault.jwt_file)
        self.stopping = threading.Event()
        self.clock = BootClock(self._leave_if_free)
        self.server = Server(
            settings.vault,
            boot=self.clock.boot,
            observer=metrics.vault_call if metrics else None,
            read_again=settings.read_again,
        )
        where = settings.vault
        self.vault = Vault(self.server, where.mount, where.state_path, settings.claim_ttl)
        self.index = DueIndex(self.vault, secrets.token_hex(8), settings.claim_ttl)
        own = settings.ecgrid
        sources: list[Callable[[], Secret | None]] = []
        if own.api_key_vault is not None:
            sources.append(self._key_in_vault)
        if own.api_key is not None:
            sources.append(self._key_in_file)
        self.credentials = Credentials(
            sources,
            own.login,
            own.password,
            read_login=self._login_in_files,
            sleep=self.clock.sleep,
        )
        waited = metrics.rate_wait if metrics else None
        self.whose = Whose(settings, self.vault, self.credentials, self.clock.boot, self._asking)
        self.ecgrid = ECGrid(
            own,
            self.credentials,
            Rate(own.rate, sleep=self.clock.sleep, waited=waited),
            keep=keep or self.whose,
            observer=metrics.ecgrid_call if metrics else None,
        )
        self._hands = Hands(BESIDE * settings.concurrency, "side")
        self._thread = threading.local()
        self._claimed: dict[str, float] = {}
        self._learnt = Learnt()

    def close(self) -> None:
        """Logs out of ECGrid and closes all connections."""
        self._hands.close()
        self.ecgrid.close()
        self.server.close()

    def _asking(self) -> Account:
        """ECGrid, as it is asked about no policy in particular."""
        return self.ecgrid.account(Issue.CREATE_KEY, Verify.GET_KEY, Urgency.CHECK)

    def _key_in_vault(self) -> Secret | None:
        place = self.settings.ecgrid.api_key_vault
        if place is None:
            return None
        mounted = self.server.mount_of(place.place)
        published = self.vault.published(Destination(mounted.mount, mounted.path, place.field))
        return published.value if published else None

    def _key_in_file(self) -> Secret | None:
        """As it was given, where there is no file, or none that can be used now: it may be in replacement."""
        given = self.settings.ecgrid.api_key
        with suppress(BadInput):
            return self.settings.read_again("ecgrid.api_key") or given
        return given

    def _login_in_files(self) -> Login | None:
        settings, own = self.settings, self.settings.ecgrid
        with suppress(BadInput):
            login = settings.text_again("ecgrid.login") or own.login
            password = settings.read_again("ecgrid.password") or own.password
            return (login, password) if login and password else None
        return None

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
            self.server.logins.done()

    def claimed_longer_than(self, seconds: float) -> list[str]:
        """The policies whose runs have claimed, and go on, for so long."""
        now = self.clock.boot()
        return [name for name, since in list(self._claimed.items()) if now - since > seconds]

    def world(self, policy: Policy, report: Report, right: Right) -> World:
        """The world as a run over one policy sees it."""
        settings, own = self.settings, self.settings.ecgrid

        leaps = self.server.clock.leaps

        def hold() -> None:
            nonlocal leaps
            self._leave_if_free()
            self.server.sure_of_time()
            before, leaps = leaps, self.server.clock.leaps
            if leaps != before and getattr(self._thread, "free", False):
                raise FenceLost("Vault's time has leapt: what is due is decided anew")
            # Raises, if this is another ECGrid.
            self.whose.own_user(own.timeout)
            if getattr(self._thread, "free", False):
                files.require()
            # Past issue it would be too late to find that there are none.
            self._hands.ready(BESIDE)
            self.index.hold(policy.name)
            self._thread.free = False
            self._claimed.setdefault(policy.name, self.clock.boot())

        return World(
            vault=self.vault,
            account=self.ecgrid.account,
            whose=self.whose,
            own_key_from=own.api_key_vault,
            has_login=own.login is not None,
            clock=self.clock,
            report=report,
            who=self.who,
            deadline=settings.deadline.total_seconds(),
            claim_ttl=settings.claim_ttl.total_seconds(),
            timeout=own.timeout,
            together=self._hands.together,
            stopping=self.stopping.is_set,
            hold=hold,
            lower=lambda: self.index.hold(policy.name),
            right=right,
            learnt=self._learnt,
        )
