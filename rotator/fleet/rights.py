"""Who may issue: the brake with what it has to know, ROTATOR_MAX_PER_RUN, and the witness of a drift.

Every issuing request of a process passes `Rights`, by way of the `rotation.Right` that each run is given.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rotator.errors import Failure, HeldBack, RotatorError
from rotator.fleet.brake import Brake
from rotator.fleet.crew import Task
from rotator.fleet.standing import Board
from rotator.fleet.survey import last_check
from rotator.fleet.verdict import Verdict, asked_at
from rotator.journal import Record
from rotator.keys import Secret
from rotator.policy import Policy
from rotator.replacing.beginning import Stopped
from rotator.rotation import Cause, Order, Result, Run
from rotator.run.needs import Clock
from rotator.run.right import BRAKED, MASS_DRIFT, Came, For
from rotator.settings import Settings
from rotator.vault import Stored, Vault
from rotator.vault.index import DueIndex

# Seconds: the daemon's turns come at least so often, and count as one tick for MAX_PER_RUN.
TURN = 10.0
# Seconds between two looks whether others have ended.
NAP = 1.0
# Where drift is checked by hand only.
LATELY = timedelta(hours=1)
ENDED = ("rotated", "repaired", "adopted")
Each = Callable[[Callable[[str], None], Iterable[str]], Iterable[None]]
LIMIT = "due, but ROTATOR_MAX_PER_RUN is reached: it waits for the next tick"


class Rights:
    """Gives the runs of one process the right to issue."""

    def __init__(
        self, settings: Settings, vault: Vault, index: DueIndex, clock: Clock, board: Board
    ) -> None:
        self.settings, self._vault, self._index = settings, vault, index
        self.clock, self._board = clock, board
        self.brake = Brake(
            settings.brake, settings.concurrency, vault.now, clock.boot, self._checked
        )
        self.stopping: Callable[[], bool] = lambda: False
        self._policies: dict[str, Policy] = {}
        self._lock = threading.Lock()
        # When rights were given, in this tick.
        self._issued: deque[float] = deque()
        self._looked_at = float("-inf")

    def over(self, policies: Iterable[Policy]) -> None:
        """These are the policies of the fleet."""
        self._policies = {policy.name: policy for policy in policies}
        self.brake.over(self._policies)

    def only_named(self) -> None:
        """The policies were named by a person: nobody else's record is read, and no mass drift holds them back."""
        self.brake.named = True

    def tick(self, *, daemon: bool) -> None:
        """A tick begins; the turns of a daemon count as one for a while."""
        now = self.clock.boot()
        with self._lock:
            while self._issued and not (daemon and now - self._issued[0] < TURN):
                self._issued.popleft()

    # asked by the crew, and by the runs

    def may_begin(self, task: Task) -> bool:
        """Whether a task that begins with a new key may begin now; waits for nothing."""
        if not task.issues:
            return True
        if self._of_tick(task.order, check=task.check) and self._is_limit_reached():
            return False
        if not self.brake.ask(task.policy.name, "begin").go:
            return False
        self._count()
        return True

    def would_hold_back(self, task: Task) -> Result | None:
        """As `not_begun`, of a task that is not carried out: what it would have is given back, but for the limit."""
        if not self.may_begin(task):
            return self.not_begun(task)
        self.brake.ends(task.policy.name, None, worked=False)
        return None

    def not_begun(self, task: Task) -> Result | None:
        """What there is to say of a task that was held back; None if nothing did."""
        name = task.policy.name
        if not task.issues:
            return None
        if self._of_tick(task.order, check=task.check) and self._is_limit_reached():
            return Result(name, "not-due", warnings=(LIMIT,), begun=False)
        why = self.brake.why_one_at_a_time()
        if why is None:
            return None
        return Result(name, "failed", phase="claim", error=Cause(BRAKED, why))

    def of(self, policy: Policy, order: Order, *, check: bool) -> OneRight:
        """The right of a run over that policy."""
        return OneRight(self, policy, self._of_tick(order, check=check))

    def begins(self, policy: Policy) -> None:
        """A run of this process is at work on that policy."""
        self.brake.begins(policy.name)

    def ends(self, run: Run, result: Result | None) -> None:
        """That run has ended."""
        stored = run.sight.stored
        # What could not be written is over all the same.
        if stored is not None and run.claim.mine:
            stored = Stored(stored.record.change(claim=None), stored.version)
        worked = result is not None and result.outcome in ENDED
        self.brake.ends(run.policy.name, stored, worked=worked)

    @staticmethod
    def _of_tick(order: Order, *, check: bool) -> bool:
        return check or order.what == "schedule"

    def _is_limit_reached(self) -> bool:
        most = self.settings.max_per_run
        return most is not None and len(self._issued) >= most

    def _count(self) -> None:
        with self._lock:
            self._issued.append(self.clock.boot())

    def ask(self, policy: Policy, what: For, record: Record, *, of_tick: bool) -> Verdict:
        """As `Brake.ask`, from facts that are not old; counts what it gives. Raises Stopped at the tick's limit.

        Whoever has the right already asks for the last time before it sends: while somebody is in trouble everything
        is read again then, since another rotator's runs may have failed in the same moment as this one's.
        """
        had = self.brake.has(policy.name)
        self.refresh(0.0 if had and self.brake.facts().trouble else self.brake.fresh)
        if of_tick and what != "again" and not had and self._is_limit_reached():
            raise Stopped(LIMIT)
        underway = record.underway
        counted = had and underway is not None and underway.sent > 0
        asked = asked_at(record, underway) if counted and underway is not None else None
        verdict = self.brake.ask(policy.name, what, asked)
        if verdict.go and not had:
            self._count()
        return verdict

    # what it has to know

    def refresh(self, age: float | None = None, each: Each = map) -> None:
        """Reads what the due index shows as open, where that is older than `age`; what cannot be read stays.

        By default ten seconds, one while somebody is in trouble. `each` makes the calls.
        """
        if self.brake.named or not self.settings.brake:
            return
        now = self.clock.boot()
        age = self.brake.fresh if age is None else age
        with self._lock:
            if now - self._looked_at < age:
                return
            self._looked_at = now
        with suppress(RotatorError):
            shown = self._index.lowered(self._policies, timedelta(seconds=age)) | self.brake.open()
            old = [name for name in sorted(shown) if not self.brake.is_known(name, age)]
            deque(each(self._read, old), maxlen=0)
        self.why()

    def why(self) -> dict[str, str]:
        """As `Brake.why`, unless a person has let go."""
        if self.brake.why():
            self.brake.let_go_at = let_go_at(self._vault) or self.brake.let_go_at
        return self.brake.why()

    def held_back(self) -> dict[str, str] | None:
        """As `Brake.why`; None where only named policies are known, and so nothing of the others."""
        return None if self.brake.named else self.brake.why()

    def _read(self, name: str) -> None:
        if not self.stopping():
            # What cannot be read tells nothing.
            with suppress(Failure):
                self.saw(name, self._vault.record(name))

    def saw(self, policy: str, stored: Stored | None) -> None:
        """A record was read."""
        self.brake.saw(policy, stored.record if stored else None, stored.version if stored else 0)

    def _checked(self) -> int:
        """How many policies were checked for drift lately."""
        since = self._vault.now() - (self.settings.check_every or LATELY)
        return sum(checked_at >= since for checked_at in self._found_well().values())

    def _found_well(self) -> dict[str, datetime]:
        """When each policy here was found well last."""
        well = {
            policy.name: checked_at
            for policy, record in self._board.known(list(self._policies.values()))
            if isinstance(record, Record) and (checked_at := last_check(record)) is not None
        }
        indexed = self._index.last_look().checked()
        for name in self._policies.keys() & indexed.keys():
            well[name] = max(well.get(name, indexed[name]), indexed[name])
        return well

    def witness(self, policy: Policy, user_id: int) -> Secret | None:
        """As `Right.witness`."""
        if self.brake.named or not self.settings.brake:
            return None
        well = self._found_well()
        fit = [
            name
            for name in well
            if self.brake.drifted(name) is None and user_id not in self._policies[name].users
        ]
        if not fit:
            return None
        last = self._policies[max(fit, key=lambda name: well[name])]
        published = self._vault.published(last.destinations[0])
        return published.value if published else None


@dataclass(frozen=True)
class OneRight:
    """The right of one run: see `rotation.Right`."""

    rights: Rights
    policy: Policy
    of_tick: bool

    def ask(self, what: For, record: Record) -> None:
        """See `Right.ask`: while others only have to end, it waits for them."""
        rights = self.rights
        if what == "repair":
            rights.brake.saw(self.policy.name, record)
        clock = rights.clock
        until = clock.boot() + rights.settings.deadline.total_seconds()
        while True:
            verdict = rights.ask(self.policy, what, record, of_tick=self.of_tick)
            if verdict.go:
                return
            if not verdict.soon or clock.boot() >= until or rights.stopping():
                raise HeldBack(f"held back: {verdict.why}", kind=verdict.kind)
            clock.sleep(NAP)

    def spent(self, came: Came) -> None:
        """See `Right.spent`."""
        self.rights.brake.spent(self.policy.name, came)

    def witness(self, user_id: int) -> Secret | None:
        """See `Right.witness`."""
        return self.rights.witness(self.policy, user_id)

    def witness_refused(self) -> HeldBack:
        """See `Right.witness_refused`."""
        return HeldBack(f"held back: {self.rights.brake.witness_refused()}", kind=MASS_DRIFT)


# a person lets go


def let_go(vault: Vault, who: str) -> datetime:
    """Notes for every rotator of the state path that a person let the brake go; returns when. Raises RotatorError."""
    document, now = vault.kv.read(vault.brake_at), vault.now()
    text = now.astimezone(UTC).isoformat()
    vault.put(vault.brake_at, {"let_go_at": text, "by": who}, document.version if document else 0)
    return now


def let_go_at(vault: Vault) -> datetime | None:
    """When a person let the brake go last; None if nobody did, or that cannot be read."""
    try:
        document = vault.kv.read(vault.brake_at)
        text = document.data.get("let_go_at") if document else None
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except (Failure, ValueError):
        return None
