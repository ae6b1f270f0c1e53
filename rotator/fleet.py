"""Many policies: who is due, how many at once, and what they share. One policy's failure never stops the others.

This is also where the world of the rotation is put together from the settings: Vault, ECGrid, the clock.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Self

from rotator import reporting
from rotator.ecgrid import ECGrid
from rotator.ecgrid.credentials import Credentials
from rotator.ecgrid.rate import Rate
from rotator.errors import Failure, NotFound, Permanent, RotatorError
from rotator.hooks import after_rotation
from rotator.journal import Record
from rotator.keys import Secret
from rotator.policy import Destination, Policy
from rotator.rotation import Check, Order, Result, Run, World, compare, side_by_side, tend, would
from rotator.rotation.due import due_since, is_due, is_overdue, kind_wanted
from rotator.settings import Settings
from rotator.vault import Server, Vault

CLOCK_SKEW = 300.0  # seconds between Vault's clock and ours from which on it is reported
Progress = Callable[[str, str], None]  # policy, what it does now


class BootClock:
    """The machine's own time, counting on while it sleeps."""

    def boot(self) -> float:
        """Seconds since boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)


class Fleet:
    """The policies of one process and everything they share. A context manager: closing logs out and disconnects."""

    def __init__(self, settings: Settings, policies: Iterable[Policy]) -> None:
        self.settings, self.policies = settings, list(policies)
        self.stopping = threading.Event()
        self.progress: Progress | None = None  # is told each event of each policy
        self._clock = BootClock()
        self.server = Server(settings.vault, boot=self._clock.boot)
        self.vault = Vault(self.server, settings.vault.mount, settings.vault.state_path)
        own = settings.ecgrid
        sources: list[Callable[[], Secret | None]] = []
        if own.api_key_vault is not None:
            sources.append(self._key_in_vault)
        if own.api_key is not None:
            sources.append(lambda: settings.read_again("ecgrid.api_key") or own.api_key)
        self.credentials = Credentials(sources, own.login, own.password)
        self.ecgrid = ECGrid(own, self.credentials, Rate(own.rate))
        self._side = ThreadPoolExecutor(2 * settings.concurrency, "side")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

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

    # what is done to many

    def tend(self, policies: list[Policy], order: Order) -> list[Result]:
        """Carries the order out for each policy, several at once; the rotator's own key alone, before the others."""
        own = [policy for policy in policies if self._is_own(policy)]
        rest = [policy for policy in policies if not self._is_own(policy)]
        done = {policy.name: self._tend(policy, order) for policy in own}
        if rest:
            with ThreadPoolExecutor(self.settings.concurrency, "rotation") as pool:
                for result in pool.map(lambda policy: self._tend(policy, order), rest):
                    done[result.policy] = result
        return [done[policy.name] for policy in policies]

    def tick(self, shard: tuple[int, int] | None = None) -> list[Result]:
        """One tick: recovers what was interrupted, rotates what is due, retires, and checks for drift in its turn."""
        mine = [policy for policy in self.policies if shard is None or in_shard(policy.name, shard)]
        with ThreadPoolExecutor(self.settings.concurrency, "look") as pool:
            looked = dict(zip([p.name for p in mine], pool.map(self._look, mine), strict=True))
        idle = [policy for policy in mine if isinstance(looked[policy.name], Result)]
        busy = [policy for policy in mine if not isinstance(looked[policy.name], Result)]
        busy.sort(key=lambda policy: self._urgency(policy, looked[policy.name]))
        held_back = self._beyond_limit(busy, looked)
        for policy in held_back:
            looked[policy.name] = Result(
                policy.name,
                "not-due",
                warnings=["due, but ROTATOR_MAX_PER_RUN is reached: it waits for the next tick"],
            )
        to_check = [p for p in busy if looked[p.name] == "check"]
        to_rotate = [p for p in busy if p not in to_check and p not in held_back]
        results = {policy.name: looked[policy.name] for policy in (*idle, *held_back)}
        results |= {
            r.policy: r for r in self.tend(to_rotate, Order("schedule", reason="scheduled"))
        }
        results |= {r.policy: r for r in self.tend(to_check, Order("repair", reason="drift check"))}
        self.report_skew()
        return [results[policy.name] for policy in mine]  # type: ignore[misc]  # every entry is a Result by now

    def _look(self, policy: Policy) -> Result | str | Record:
        """Reads one record: a result if there is nothing to do (or it cannot be read), else what there is to do."""
        try:
            stored = self.vault.record(policy.name)
        except RotatorError as error:
            failed = Result(
                policy.name,
                "failed",
                phase="observe",
                error={"kind": error.kind, "message": str(error)},
            )
            self._told(failed)
            return failed
        record, now = stored.record if stored else Record.new(policy.name), self.vault.now()
        if self._has_work(policy, record, now):
            return record
        every = self.settings.check_every
        if (
            every
            and policy.enabled
            and (record.checked_at is None or now - record.checked_at >= every)
        ):
            return "check"
        current = record.current
        return Result(
            policy.name,
            "not-due",
            user_id=current.user_id if current else None,
            key_id=current.key_id if current else None,
            started_at=now,
        )

    def _has_work(self, policy: Policy, record: Record, now: datetime) -> bool:
        places = {(p.mount, p.path, p.field) for p in record.places if p.version}
        missing = any((to.mount, to.path, to.field) not in places for to in policy.destinations)
        return (
            record.underway is not None
            or kind_wanted(policy, record, Order("schedule"), now) is not None
            or bool(record.due_debts(now))
            or (record.current is not None and missing)
        )

    def _urgency(self, policy: Policy, looked: object) -> tuple[int, float]:
        """What is under way first, then what is overdue, then by how long it has been due."""
        if not isinstance(looked, Record):
            return (3, 0.0)
        if looked.underway is not None:
            return (0, 0.0)
        due = due_since(policy, looked)
        late = -(self.vault.now() - due).total_seconds() if due else 0.0
        return (1 if is_overdue(policy, looked, self.vault.now()) else 2, late)

    def _beyond_limit(self, busy: list[Policy], looked: dict[str, Any]) -> list[Policy]:
        limit = self.settings.max_per_run
        if limit is None:
            return []
        now = self.vault.now()
        issuing = [
            policy
            for policy in busy
            if isinstance(record := looked[policy.name], Record)
            and record.underway is None
            and is_due(policy, record, now)
        ]
        return issuing[limit:]

    # one

    def run_of(self, policy: Policy, order: Order) -> Run:
        """A run over one policy, with this process' world around it."""
        return Run(policy, order, self._world(policy))

    def _world(self, policy: Policy) -> World:
        own = self.settings.ecgrid

        def report(event: str, /, **fields: object) -> None:
            if self.progress:
                self.progress(policy.name, event)
            reporting.event(event, **{"policy": policy.name, **fields})

        return World(
            vault=self.vault,
            account=self.ecgrid.account,
            own_key=self.credentials.current,
            own_key_from=astuple(own.api_key_vault) if own.api_key_vault else None,
            has_login=own.login is not None,
            clock=self._clock,
            report=report,
            who=f"{socket.gethostname()}:{os.getpid()}",
            deadline=self.settings.deadline.total_seconds(),
            claim_ttl=self.settings.claim_ttl.total_seconds(),
            timeout=own.timeout,
            together=side_by_side(self._side),
            stopping=self.stopping.is_set,
        )

    def _tend(self, policy: Policy, order: Order) -> Result:
        if self.stopping.is_set():
            return Result(policy.name, "unchanged")
        result = tend(self.run_of(policy, order))
        if result.outcome in ("rotated", "repaired", "adopted") and result.published:
            result.warnings.extend(after_rotation(policy, result.key_id, result.published[0]))
        self._told(result)
        return result

    def _told(self, result: Result) -> None:
        """One line per outcome; failures go to Sentry too."""
        if result.outcome not in ("not-due", "unchanged"):
            reporting.event(
                "rotation.outcome",
                policy=result.policy,
                outcome=result.outcome,
                key_id=result.key_id,
                previous_key_id=result.previous_key_id,
                duration_s=round(result.duration_s, 3),
                warnings=result.warnings,
            )
        if result.error is not None:
            reporting.failure_to_sentry(
                result.policy, result.phase or "", result.error["kind"], result.error["message"]
            )

    def _is_own(self, policy: Policy) -> bool:
        place = self.settings.ecgrid.api_key_vault
        return place is not None and any(
            (to.mount, to.path, to.field) == astuple(place) for to in policy.destinations
        )

    def dry_run(self, policies: list[Policy], order: Order) -> list[Result]:
        """What `tend` would do now; writes nothing anywhere."""
        results = []
        for policy in policies:
            try:
                results.append(would(self.run_of(policy, order)))
            except RotatorError as error:
                results.append(
                    Result(
                        policy.name,
                        "failed",
                        phase="observe",
                        error={"kind": error.kind, "message": str(error)},
                    )
                )
        return results

    def check(self, policies: list[Policy]) -> dict[str, Check | Failure]:
        """Compares ECGrid with Vault for each policy, changing nothing; a side that cannot be read is a Failure."""

        def one(policy: Policy) -> Check | Failure:
            try:
                return compare(self.run_of(policy, Order("repair")))
            except Failure as error:
                return error

        with ThreadPoolExecutor(self.settings.concurrency, "check") as pool:
            return dict(zip([p.name for p in policies], pool.map(one, policies), strict=True))

    def vault_time(self) -> datetime:
        """Vault's time, from an answer of Vault: asked for if there was none yet."""
        self.server.login_left()
        return self.vault.now()

    def take_over_record(self, policy: Policy, old: str) -> None:
        """Makes the record of a renamed policy this one's; raises Failure if that cannot be done safely.

        The new record is written first, where none may be, and only then the old one is destroyed.
        """
        there = self.vault.record(old)
        if there is None or there.record.underway is not None or there.record.claim is not None:
            raise Permanent(
                f"policy {old} has no record to take over, or a rotation of it is open: see `rotator check`",
                kind="policy.NoRecord",
            )
        self.vault.save(there.record.change(policy=policy.name), 0)
        self.vault.kv.destroy(self.vault.record_at(old))
        current, now = there.record.current, self.vault.now()
        if current is not None:
            for to in policy.destinations:
                self.vault.mark(to, policy.name, current.ref, now)

    def records(self, policies: list[Policy]) -> dict[str, Record | Failure | None]:
        """The record of each policy; None where there is none yet."""

        def one(policy: Policy) -> Record | Failure | None:
            try:
                stored = self.vault.record(policy.name)
            except Failure as error:
                return error
            return stored.record if stored else None

        with ThreadPoolExecutor(self.settings.concurrency, "read") as pool:
            return dict(zip([p.name for p in policies], pool.map(one, policies), strict=True))

    def without_policy(self) -> list[str]:
        """Records below the state path that no policy names: another rotator may own them."""
        named = {policy.name for policy in self.policies}
        try:
            return sorted(name for name in self.vault.policies_with_records() if name not in named)
        except NotFound:
            return []

    def report_skew(self) -> None:
        """Says so if Vault's clock and ours differ by over five minutes."""
        skew = self.server.clock.skew()
        if abs(skew) > CLOCK_SKEW:
            reporting.event(
                "vault.clock_skew",
                message=f"Vault's clock and this machine's differ by {timedelta(seconds=round(abs(skew)))}; "
                "Vault's counts for due times, this one's for TLS: set it right",
            )


def in_shard(name: str, shard: tuple[int, int]) -> bool:
    """Whether a policy belongs to shard I of N, by a hash of its name that is the same everywhere."""
    index, count = shard
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") % count == index
