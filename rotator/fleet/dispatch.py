"""The alarms of one process: what it sees goes into what all rotators of the state path know, and is told from there.

Nobody who works on a policy waits for that: a thread does it, soon after something is wrong, and the end of the process
does the rest. Where Vault cannot be read or written, this process knows of its own alone, and tells it.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from rotator import reporting
from rotator.errors import Failure, FenceLost, Forbidden, Gone, RotatorError, Transient
from rotator.fleet.standing import DRIFTED
from rotator.policy import Policy
from rotator.reporting.about import About, Owner
from rotator.reporting.alarms import ALL, Alarm, Receiver, What
from rotator.reporting.memory import AGAIN, TELLING, Key, Memory, Telling, Trouble
from rotator.reporting.rows import Row
from rotator.threads import begin
from rotator.vault import StaleRead, Vault

T = TypeVar("T")

# Seconds in which what happens together is gathered.
SOON = 0.3
# Seconds between two looks whether there is anything to tell.
LOOK = 10.0
# Seconds that what others told is believed, and that a receiver is left alone that was away.
FRESH = 60.0
# Seconds before what may not be kept is tried again.
NOT_KEPT = 600.0
# Seconds that telling one alarm may take.
ONE_MORE = 100.0
# Of a check-and-set, against other rotators.
TRIES = 20
# Seconds that a process which ends gives each alarm.
LAST_TRIES = 10.0
# And all of them, unless it was told to stop.
LAST_IN_ALL = 60.0

# How that policy stands; None if that cannot be read.
Stands = Callable[[Policy], Row | None]


@dataclass
class Facts:
    """What this process has seen and has not passed on yet."""

    wrong: dict[tuple[What, str], dict[Key, Alarm]] = field(default_factory=dict)
    # Of these: what somebody has met before, and still goes on.
    again: set[Key] = field(default_factory=set)
    over: set[tuple[What, str]] = field(default_factory=set)
    # Policies at which nothing failed.
    looked: set[str] = field(default_factory=set)

    def happens(self, alarm: Alarm, *, again: bool) -> None:
        """That is wrong."""
        policy, key = alarm.policy or ALL, Key.of(alarm)
        self.wrong.setdefault((alarm.what, policy), {}).setdefault(key, alarm)
        (self.again.add if again else self.again.discard)(key)
        self.over.discard((alarm.what, policy))
        if alarm.what == "failed":
            self.looked.discard(policy)

    def ends(self, what: What, policy: str) -> None:
        """That is not wrong any more."""
        self.wrong.pop((what, policy), None)
        self.over.add((what, policy))

    def looks(self, policy: str) -> None:
        """Nothing of that policy failed."""
        self.wrong.pop(("failed", policy), None)
        self.looked.add(policy)

    def then(self, later: Facts) -> Facts:
        """These, and then what was seen later."""
        for key, alarm in later.alarms.items():
            self.happens(alarm, again=key in later.again)
        for what, policy in later.over:
            self.ends(what, policy)
        for policy in later.looked:
            self.looks(policy)
        return self

    @property
    def alarms(self) -> dict[Key, Alarm]:
        """All that is wrong."""
        return {key: alarm for known in self.wrong.values() for key, alarm in known.items()}


class Alarms:
    """Takes what happens to policies, and tells it once. Safe for use by many threads; only `close` blocks."""

    def __init__(self, receivers: Sequence[Receiver]) -> None:
        """`receivers` are told."""
        self._receivers = list(receivers)
        self._who = secrets.token_hex(8)
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        self._facts, self._policies = Facts(), dict[str, Policy]()
        self._vault: Vault | None = None
        self._stands: Stands = lambda _policy: None
        self._stopping: Callable[[], bool] = lambda: False
        # Asked before anything is kept.
        self.may_keep: Callable[[], bool] = lambda: True
        # What records told of failures that others met.
        self._before: dict[str, Alarm] = {}
        self._memory, self._version = Memory(), 0
        self._read_at = self._unkept_at = float("-inf")
        # What Vault had, when it was read last.
        self._known = set[Key]()
        # What is known is this process' own: Vault does not have it.
        self._own = False
        # Receivers that took nothing, and until when they are left alone.
        self._away: dict[str, float] = {}
        self._closed_at: float | None = None
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def share(self, vault: Vault, stands: Stands, stopping: Callable[[], bool]) -> None:
        """From here on what is told is kept in Vault, where all rotators of the state path see it.

        `stopping`: whether the process was told to stop.
        """
        self._vault, self._stands, self._stopping = vault, stands, stopping

    def over(self, policies: Iterable[Policy]) -> None:
        """These are the policies: their owners and tags are told with them."""
        self._policies = {policy.name: policy for policy in policies}

    def owner_of(self, policy: str) -> Owner:
        """Whose a policy is, for whatever is reported of it."""
        known = self._policies.get(policy)
        return Owner(known.owner, known.tags) if known else Owner()

    # what is seen

    def failed(
        self,
        policy: str,
        phase: str,
        kind: str,
        message: str,
        about: About | None = None,
        *,
        again: bool = False,
    ) -> None:
        """A policy is failing; `again`: as somebody has met before."""
        # The alarm is that of the repair, or of the mass drift.
        if kind != DRIFTED:
            alarm = Alarm("failed", policy, message, phase, kind, about=about or About())
            self._happens(alarm, again=again)

    def hooks_failed(self, policy: str, kind: str, message: str) -> None:
        """A policy's hooks failed at every try; its key is rotated all the same."""
        self._happens(Alarm("hooks", policy, message, "hooks", kind))

    def wrong(self, what: What, message: str, kind: str, about: str = ALL) -> None:
        """Something is wrong that concerns every policy; `about` tells one such thing from another."""
        self._happens(Alarm(what, about, message, kind=kind))

    def works(self, policy: str, what: What = "failed") -> None:
        """That is known to be over."""
        with self._lock:
            self._facts.ends(what, policy)

    def looked(self, policy: str) -> None:
        """This process looked at the policy, and nothing failed: if its record says the same, that is over."""
        with self._lock:
            self._facts.looks(policy)

    def failed_before(self, policy: str, phase: str, kind: str, message: str) -> None:
        """A record tells of a failure; where nothing is kept, it is taken as told by whoever met it."""
        self._before.setdefault(policy, self._owned(Alarm("failed", policy, message, phase, kind)))

    def stand(self, rows: Iterable[Row]) -> None:
        """How policies stand: notes which keys are overdue, and which are not."""
        for row in rows:
            if row.is_too_old:
                self._happens(_overdue(row))
            elif row.key_age is not None:
                # Else its record cannot be read, and nothing is known.
                self.works(row.policy, "overdue")

    def _owned(self, alarm: Alarm) -> Alarm:
        """With the owner and the tags of its policy."""
        owner = self.owner_of(alarm.policy or "")
        return replace(alarm, owner=owner.name, tags=owner.tags)

    def _happens(self, alarm: Alarm, *, again: bool = False) -> None:
        with self._lock:
            self._facts.happens(self._owned(alarm), again=again)
        if not self._wake.is_set():
            self._wake.set()
            self.begin()

    def begin(self) -> None:
        """Sees to it that alarms are told while the process goes on; without a thread, when it ends."""
        with self._lock:
            if self._thread is None and self._closed_at is None:
                with suppress(Failure):
                    self._thread = begin(self._work, "alarms")

    def close(self) -> None:
        """Tells what is still to be told, for a while."""
        self._closed_at = time.monotonic()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(LAST_IN_ALL)
        self.sync()

    # what is known

    def failure(self, policy: str) -> Trouble | None:
        """Why that policy fails, as it was known last; `read` first."""
        return self._memory.failure(policy)

    def read(self) -> None:
        """Reads what is known, if it can be read."""
        with self._syncing, suppress(RotatorError):
            if self._vault is not None:
                self._look(self._vault)

    # telling

    def _work(self) -> None:
        while self._closed_at is None:
            self._wake.wait(LOOK)
            time.sleep(SOON)
            self._wake.clear()
            # What cannot be told now is told by a later look, or by a later process.
            with suppress(Exception):
                self.sync()

    def sync(self) -> None:
        """Passes on what was seen, and tells what is to be told; what is cut short is passed on by the next."""
        with self._syncing:
            with self._lock:
                facts, self._facts = self._facts, Facts()
            if not (facts.wrong or facts.over or facts.looked):
                return
            try:
                self._tell(facts)
            except BaseException:
                with self._lock:
                    self._facts = facts.then(self._facts)
                raise

    def _tell(self, facts: Facts) -> None:
        rows: dict[str, Row | None] = {}
        taken = list[Telling]()

        def pass_on(memory: Memory, now: datetime) -> list[Telling]:
            self._pass_on(memory, facts, rows, now)
            return self._due(memory, facts, now)

        def confirm(memory: Memory, now: datetime) -> list[Telling]:
            self._confirm(memory, taken, now)
            return self._due(memory, facts, now)

        due = self._change(pass_on)
        while due:
            taken = self._deliver(due)
            due = self._change(confirm)

    def _pass_on(
        self, memory: Memory, facts: Facts, rows: dict[str, Row | None], now: datetime
    ) -> None:
        if self._own:
            self._add_known(memory, facts, now)
        self._before.clear()
        for alarm in facts.alarms.values():
            memory.happens(alarm, now)
        for what, policy in facts.over:
            memory.ends(what, policy)
        for policy in facts.looked & self._policies.keys():
            if memory.has(policy):
                if policy not in rows:
                    rows[policy] = self._stands(self._policies[policy])
                _judge(memory, policy, rows[policy])
        memory.tidy(now)

    def _add_known(self, memory: Memory, facts: Facts, now: datetime) -> None:
        """What others have met counts as told by them; when it happens once more, it is told again."""
        known = [(alarm, now - AGAIN) for alarm in list(self._before.values())]
        known += [(facts.alarms[key], now) for key in facts.again]
        for alarm, told_at in known:
            if Key.of(alarm) not in memory.troubles and not memory.has(str(alarm.policy)):
                memory.happens(alarm, now)
                trouble = memory.troubles.get(Key.of(alarm))
                if trouble is not None:
                    trouble.told |= {one.name: told_at for one in self._receivers}

    def _due(self, memory: Memory, facts: Facts, now: datetime) -> list[Telling]:
        """What this process tells now; it says so first, in what is kept."""
        tellings = list[Telling]()
        for one in self._receivers:
            away = self._away.get(one.name, 0.0) > time.monotonic()
            due = [] if away else memory.due(one.name, now, facts.alarms)
            if due and memory.begin(one.name, self._who, now):
                tellings += due
        return tellings

    def _confirm(self, memory: Memory, taken: list[Telling], now: datetime) -> None:
        for telling in taken:
            memory.took(telling, now)
        for one in self._receivers:
            memory.end(one.name, self._who)
        memory.tidy(now)

    def _deliver(self, due: list[Telling]) -> list[Telling]:
        """Tells it, each receiver until it is found to be away; returns what was taken."""
        last = time.monotonic() + TELLING.total_seconds() - ONE_MORE
        taken = list[Telling]()
        receivers = {one.name: one for one in self._receivers}
        for telling in due:
            receiver = receivers.get(telling.receiver)
            if receiver is None or time.monotonic() > last:
                continue
            began = time.monotonic()
            if receiver.deliver(telling.alarm, partial(self._ends, began)) is None:
                taken.append(telling)
            else:
                self._away[telling.receiver] = time.monotonic() + FRESH
                del receivers[telling.receiver]
        return taken

    def _ends(self, began: float) -> float:
        """Until when an alarm that was begun then may take."""
        closed = self._closed_at
        if closed is None:
            return began + ONE_MORE
        in_all = LAST_TRIES if self._stopping() else LAST_IN_ALL
        return min(closed + in_all, max(began, closed) + LAST_TRIES)

    # keeping

    def _change(self, step: Callable[[Memory, datetime], T]) -> T:
        """Carries out a step over what is known, and keeps what came of it; for this process alone if need be."""
        vault = self._vault
        may = self.may_keep() and time.monotonic() - self._unkept_at > NOT_KEPT
        if vault is not None and may:
            try:
                return self._change_in(vault, step)
            except Forbidden as error:
                self._unkept_at = time.monotonic()
                where = str(vault.told_at)
                reporting.event("report.not_remembered", at=where, error=error.kind)
            except RotatorError:
                # Whoever works on the policies tells what is wrong with Vault.
                pass
        self._own = True
        return step(self._memory, vault.now() if vault else datetime.now(UTC))

    def _change_in(self, vault: Vault, step: Callable[[Memory, datetime], T]) -> T:
        for _ in range(TRIES):
            if self._own or time.monotonic() - self._read_at > FRESH:
                self._look(vault)
            before = self._memory.kept()
            came = step(self._memory, vault.now())
            after = self._memory.kept()
            if after == before:
                return came
            data = {"format": 1, "nonce": secrets.token_hex(8), "told": after}
            try:
                self._version = vault.put(vault.told_at, data, self._version)
                return came
            except FenceLost:
                # Another rotator was quicker.
                self._read_at = float("-inf")
            time.sleep(random.uniform(0.01, 0.2))
        raise Transient("others write it all the time", kind="vault.Contended")

    def _look(self, vault: Vault) -> None:
        """Reads what all rotators know; beside it stays what this process alone knew until now. Raises RotatorError."""
        text: object = None
        try:
            document = vault.kv.read(vault.told_at)
            text, version = (document.data.get("told"), document.version) if document else (None, 0)
        except Gone as gone:
            version = gone.version
        except StaleRead:
            # A standby lags: what was written last is still known.
            return
        mine, self._memory, self._version = self._memory, Memory.parse(text), version
        known = set(self._memory.troubles)
        if self._own:
            self._memory.merge(mine, self._known)
        self._own, self._known, self._read_at = False, known, time.monotonic()


def _judge(memory: Memory, policy: str, row: Row | None) -> None:
    """Ends what a policy's record knows nothing of any more."""
    if row is None:
        return
    failure = row.last_failure
    if failure is None or failure.phase == "retire":
        memory.ends("failed", policy, but=failure.phase if failure else None)
    if row.key_age is not None and not row.is_too_old:
        memory.ends("overdue", policy)


def _overdue(row: Row) -> Alarm:
    message = f"the published key is {row.key_age} old; at most {row.max_age} is allowed"
    about = About(key_age=row.key_age, max_age=row.max_age)
    return Alarm("overdue", row.policy, message, about=about)
