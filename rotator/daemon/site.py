"""What the daemon shows of itself: the values behind health, metrics and status page, kept fresh by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlsplit

from rotator import reporting
from rotator.ecgrid import Urgency
from rotator.errors import Failure, RotatorError
from rotator.fleet import Fleet, in_shard
from rotator.fleet.forecast import Outlook
from rotator.journal import Record
from rotator.keys import Issue, Verify
from rotator.reporting.rows import Standing
from rotator.settings import Settings
from rotator.threads import begin
from rotator.web import Health, Owed, Site, View, Window

# Seconds between two looks.
FRESH = 10.0
# Seconds until it is asked again whether the first turn has ended.
SOON = 0.2
# Days.
SHOWN_AHEAD = 30
# Seconds after which a turn that does not end has hung.
HUNG = 300.0
# Seconds without a turn that could look round.
LATE = 60.0
# Seconds for which an answer of ECGrid counts, and for which a question after readiness does.
ASKED = 300.0


class Pulse:
    """When the daemon's turns came, as told by the daemon, and what was wrong with the last one."""

    def __init__(self, boot: Callable[[], float]) -> None:
        self._boot = boot
        self._ended = self._well = self._moved = boot()
        # A turn has ended.
        self.looked = False
        self._trouble = "the first look round has not ended yet"
        self.reload_trouble = ""

    def ended(self, trouble: str = "") -> None:
        """A turn has ended: well, or with that trouble."""
        self._ended = self._boot()
        self.looked = True
        self._trouble = trouble
        if not trouble:
            self._well = self._ended

    def goes_on(self) -> None:
        """A turn that has not ended yet gets on with its work."""
        self._moved = self._boot()

    @property
    def fails_for(self) -> float:
        """Seconds since a turn could look round."""
        return self._boot() - self._well

    @property
    def alive(self) -> Health:
        """Whether turns end, or at least get on."""
        silent = self._boot() - max(self._ended, self._moved)
        ended = f"the last turn ended {self._boot() - self._ended:.0f} s ago"
        why = f"{ended}: it hangs, restart the daemon and report it"
        return Health("scheduler", silent < HUNG, "" if silent < HUNG else why)

    @property
    def well(self) -> Health:
        """Whether turns can look round all policies, which takes Vault."""
        return Health("vault", not self._trouble, self._trouble)

    @property
    def turning(self) -> Health:
        """Whether they come as often as they should."""
        silent = self._boot() - self._ended
        why = "" if silent < LATE else f"the last turn ended {silent:.0f} s ago"
        return Health("scheduler", silent < LATE, why)


class Face:
    """Serves the site of a daemon. A context manager; without an address it only keeps the alarms going."""

    def __init__(self, fleet: Fleet, shard: tuple[int, int] | None, pulse: Pulse) -> None:
        """Listens at once; raises Failure if the address cannot be had, which another start may find free."""
        self._fleet, self._shard, self._pulse = fleet, shard, pulse
        self._view = View(Standing(datetime.now(UTC)))
        self._outlook = Outlook(SHOWN_AHEAD)
        self._asked_at = float("-inf")
        self._ecgrid_at, self._ecgrid = float("-inf"), Health("ecgrid", True)
        self._over = threading.Event()
        http, problem = fleet.settings.http, None
        self.window: Window | None = None
        if http.listen is not None:
            site = Site(self.alive, self.ready, self._metrics, lambda: self._view)
            token = None if http.is_open else http.token
            try:
                self.window = Window(site, http.listen.host, http.listen.port, token)
            except OSError as error:
                problem = error.strerror or type(error).__name__
        if problem:
            raise Failure(
                f"ROTATOR_HTTP__LISTEN: cannot be listened at ({problem}). Is another rotator running? Else give "
                "another address, or an empty one for none",
                kind="daemon.CannotListen",
            )
        if fleet.reports.metrics:
            fleet.reports.metrics.vault_token_ttl(self._token_ttl)
            fleet.reports.metrics.vault_clock_skew(fleet.server.clock.skew)

    def __enter__(self) -> Self:
        self._thread = begin(self._keep_fresh, "site")
        if self.window:
            address = self._fleet.settings.http.listen
            host = (
                f"[{address.host}]"
                if address and ":" in address.host
                else address.host
                if address
                else ""
            )
            port = self.window.port
            reporting.event("daemon.listening", port=port, url=f"http://{host}:{port}/")
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        if self.window:
            self.window.close()
        self._thread.join(FRESH)

    # health

    def alive(self) -> list[Health]:
        """Whether the process is worth keeping."""
        return [self._pulse.alive]

    def ready(self) -> list[Health]:
        """Whether it can rotate: policies, scheduler, Vault, ECGrid."""
        self._asked_at = self._fleet.boot()
        loaded = Health("policies", not self._pulse.reload_trouble, self._pulse.reload_trouble)
        return [loaded, self._pulse.turning, self._pulse.well, self._ecgrid]

    def _metrics(self) -> bytes:
        metrics = self._fleet.reports.metrics
        return metrics.page() if metrics else b""

    # what is shown

    def _keep_fresh(self) -> None:
        while not self._over.is_set():
            try:
                # The first turn reads all that is shown: nobody reads it twice.
                if self._pulse.looked:
                    self._look()
            except RotatorError:
                # The turns tell what is wrong with Vault.
                pass
            except Exception as fault:  # noqa: BLE001 - the thread must go on; the text may quote anything
                reporting.event("daemon.site_failed", error=type(fault).__name__)
            self._over.wait(FRESH if self._pulse.looked else SOON)

    def _look(self) -> None:
        mine = [
            p for p in self._fleet.policies if self._shard is None or in_shard(p.name, self._shard)
        ]
        standing = self._fleet.standing(mine, beside=True)
        self._fleet.reports.leave_textfile()
        known, pasts = self._fleet.reports.board.known(mine), self._fleet.reports.pasts
        self._view = View(
            standing,
            places=places(self._fleet.settings),
            owners={policy.name: policy.owner for policy in mine if policy.owner},
            ahead=self._outlook.of(known, standing.at),
            owed={
                policy.name: _owed(record) for policy, record in known if isinstance(record, Record)
            },
            held=self._fleet.rights.brake.why(),
            history=pasts.of if pasts else View.history,
        )
        now = self._fleet.boot()
        if now - self._asked_at < ASKED <= now - self._ecgrid_at:
            self._ask_ecgrid(now)

    def _ask_ecgrid(self, now: float) -> None:
        """Asks for ECGrid's version, which needs no credential: while somebody wants to know, now and then."""
        account = self._fleet.ecgrid.account(Issue.KEYSET, Verify.GET_KEY, Urgency.CHECK)
        try:
            account.version(FRESH)
        except RotatorError as error:
            self._ecgrid = Health("ecgrid", False, str(error))
        else:
            self._ecgrid_at, self._ecgrid = now, Health("ecgrid", True)

    def _token_ttl(self) -> float:
        try:
            return self._fleet.server.login_left()
        except RotatorError:
            return 0.0


def places(settings: Settings) -> dict[str, str]:
    """Where this rotator is at work, by name: of Vault and ECGrid the hosts, never a whole address."""
    vault, ecgrid = urlsplit(settings.vault.addr or ""), settings.ecgrid
    hosts = [urlsplit(url).hostname or "" for url in (ecgrid.rest_url, ecgrid.soap_url)]
    named = {
        "Environment": settings.sentry.environment or "",
        "Vault": vault.netloc.rpartition("@")[2],
        "Namespace": settings.vault.namespace or "",
        "ECGrid": ", ".join(dict.fromkeys(hosts)),
    }
    return {name: place for name, place in named.items() if place}


def _owed(record: Record) -> tuple[Owed, ...]:
    """The keys that a policy is still to retire, the next first."""
    debts = sorted(record.retiring, key=lambda debt: debt.due_at)
    return tuple(Owed(debt.key_id, debt.why, debt.due_at, debt.waits) for debt in debts)
