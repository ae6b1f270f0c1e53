"""Random histories of whole fleets in a world in memory: rotators, weather and restarts from one seed.

The weather is what happens to everybody for a while. Outside, an oracle counts after every issuing request how many
policies have a published key that ECGrid does not accept any more.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from interleave import CALM, ISSUING, Actor, Ended, Interleaving
from memory import MemoryKV, Own, account_of
from worlds import ADMIN, Process, Scene, policy_from

from rotator import due
from rotator.ecgrid import Credentials, Urgency
from rotator.errors import Forbidden, HeldBack, Refused
from rotator.fleet.rights import Rights
from rotator.fleet.standing import Board
from rotator.fleet.whose import Whose
from rotator.journal import Record
from rotator.keys import Issue, Secret, Verify
from rotator.policy import Policy
from rotator.rotation import Order, tend
from rotator.sandbox.ecgrid import AuthLevel, Simulator, Switches
from rotator.settings import Settings
from rotator.vault import Stored, Vault
from rotator.vault.index import DueIndex

FIRST = 6000
TEXT = """
user_id: {user_id}
visibility: Private
schedule: {{every: 30d}}
grace: 12h
vault: {{path: ecgrid/{name}}}
"""
STORM, AFTER = 400.0, 1500.0  # seconds of bad weather at the most, and of good weather afterwards
EVERY = 30.0  # seconds between two ticks
BRAKE = 3
DEADLINE, CLAIM_TTL = 20.0, 30.0


class Fleet(Scene):
    """A scene with many policies, whose keys are all published and due."""

    def __init__(self, tmp_path: Path, size: int, seed: int, **switches: Any) -> None:
        super().__init__(tmp_path, seed=seed)
        self.policies: list[Policy] = []
        for number in range(size):
            name, user_id = f"p{number:02d}", FIRST + number
            self.simulator.add_user(user_id)
            self.simulator.add_key(user_id)
            text = TEXT.format(user_id=user_id, name=name)
            self.policies.append(policy_from(tmp_path, text, name))
        for policy in self.policies:
            self.rotator().tick(policy)
        self.simulator.switch(**switches)

    def stored_of(self, policy: Policy) -> Stored:
        """A policy's record, and its version."""
        stored = self.vault.record(policy.name)
        assert stored is not None
        return stored

    def record_of(self, policy: Policy) -> Record:
        """A policy's record."""
        return self.stored_of(policy).record

    def is_dead(self, policy: Policy) -> bool:
        """Whether consumers of that policy are cut off."""
        there = self.vault.published(policy.destinations[0])
        assert there is not None
        assert there.value is not None
        return self.simulator.who(there.value.reveal()) != policy.users[0]

    def is_in_trouble(self, policy: Policy) -> bool:
        """Whether there is anything left to do for it."""
        record = self.record_of(policy)
        now = self.vault.now()
        return (
            record.drifted is not None
            or bool(due.at_a_tick(policy, record, now).now)
            or self.is_dead(policy)
        )


@dataclasses.dataclass(frozen=True)
class History:
    """What happens, drawn from a seed."""

    seed: int
    size: int
    rotators: int
    at_once: int  # in each rotator
    weather: str  # 503 | lost | rights | refused | other
    masked: bool
    lasts: float
    restarts: float  # percent of calls at which a process ends, in bad weather
    told_by: str  # how the other ECGrid differs: host | network | keys

    @classmethod
    def drawn(cls, seed: int) -> History:
        """The history of a seed."""
        draw = random.Random(seed)
        rotators = draw.choice([1, 1, 2, 3])
        # Keys alone tell it where nothing is remembered, and no other rotator remembers it anew.
        told_by = draw.choice(["host", "network", *(["keys"] if rotators == 1 else [])])
        return cls(
            seed,
            size=draw.choice([4, 8, 12]),
            rotators=rotators,
            at_once=draw.choice([1, 2, 3]),
            weather=draw.choice(["503", "lost", "lost", "rights", "refused", "other"]),
            masked=draw.random() < 0.5,
            lasts=draw.uniform(20.0, STORM),
            restarts=draw.choice([0.0, 0.0, 0.5]),
            told_by=told_by,
        )

    @property
    def bound(self) -> int:
        """How many may be in doubt together."""
        return max(2, min(BRAKE, self.size // 2)) + self.rotators * self.at_once


class TwoECGrids:
    """The fleet's own ECGrid and that of another environment, where the same users have other keys.

    A rotator that is pointed at the other one finds another host name there, another network, or (where nothing is
    remembered any more) only that it accepts none of the published keys.
    """

    def __init__(self, fleet: Fleet, history: History) -> None:
        self.fleet, self.told_by = fleet, history.told_by
        self.other = Simulator(
            Switches(), clock=fleet.time.now, randomness=random.Random(-1 - history.seed)
        )
        network = 2 if history.told_by == "network" else 1
        self.other.add_user(ADMIN, auth_level=AuthLevel.NetworkAdmin, network_id=network)
        self.other_key = self.other.add_key(ADMIN).value
        for policy in fleet.policies:
            self.other.add_user(policy.users[0])
            self.other.add_key(policy.users[0])
        self.may_act(fleet.rotator(), astray=False)
        if history.told_by == "keys":
            fleet.store.paths.pop(fleet.vault.system_at)

    def may_act(self, process: Process, *, astray: bool) -> bool:
        """Points the process at one of the two, as if it began now; whether it does anything there."""
        simulator = self.other if astray else self.fleet.simulator
        key = Secret(self.other_key if astray else self.fleet.admin.value)
        account = account_of(simulator, Own(key), process.kv.gate, self.fleet.later)
        host = "other" if astray and self.told_by == "host" else "own"
        settings = SimpleNamespace(
            brake=BRAKE, ecgrid=SimpleNamespace(rest_url=f"http://{host}/", soap_url="")
        )
        whose = Whose(
            cast(Settings, settings),
            process.world.vault,
            Credentials([lambda: key]),
            process.world.clock.boot,
            lambda: account(Issue.KEYSET, Verify.GET_KEY, Urgency.CHECK),
        )
        whose.acting, whose.policies = True, self.fleet.policies
        process.world = dataclasses.replace(process.world, account=account, whose=whose)
        try:
            whose.require(self.fleet.policies)
        except HeldBack:
            return False
        return True


class Told(Interleaving):
    """The processes of a history; those of one rotator share what it knows."""

    patience = 100_000  # more turns than fit into the longest storm and what follows

    def __init__(self, fleet: Fleet, history: History, brake: int = BRAKE) -> None:
        self.fleet, self.history, self.brake = fleet, history, brake
        self.storm_ends = fleet.time.seconds + history.lasts
        self.ends = self.storm_ends + AFTER
        self.worst, self.issued = 0, False
        self.two = TwoECGrids(fleet, history) if history.weather == "other" else None
        self.here = threading.local()
        self.rights: dict[int, tuple[Rights, set[str]]] = {}
        self.holders: dict[int, str] = {}
        jobs = [
            self._job(number % history.rotators)
            for number in range(history.rotators * history.at_once)
        ]
        super().__init__(fleet, jobs, history.seed, CALM, deadline=DEADLINE)

    # what each process does

    def _job(self, rotator: int) -> Callable[[Process], Any]:
        def work(process: Process) -> None:
            (self.here.actor,) = [one for one in self.actors if one.process is process]
            self.here.clock = process.world.clock
            while self.fleet.time.seconds < self.ends and not self.is_over():
                try:
                    self._tick(rotator, process)
                    process.world.clock.sleep(EVERY)
                except Ended:  # and a new one begins, which knows nothing
                    if not self._is_killed():
                        self.rights.pop(rotator, None)
                    self.here.within = None

        return work

    def _is_killed(self) -> bool:
        """Whether the process that this thread is of has ended meanwhile: nobody outlives it."""
        within = getattr(self.here, "within", None)
        if within is None:
            return False
        rotator, rights = within
        return rotator not in self.rights or self.rights[rotator][0] is not rights

    def is_over(self) -> bool:
        """Whether the weather is good again, and so is everything else."""
        if self.fleet.time.seconds < self.storm_ends:
            return False
        return not any(map(self.fleet.is_in_trouble, self.fleet.policies))

    def _of(self, rotator: int, process: Process) -> tuple[Rights, set[str]]:
        if rotator not in self.rights:
            settings = SimpleNamespace(
                brake=self.brake, concurrency=self.history.at_once, max_per_run=None,
                deadline=timedelta(seconds=DEADLINE), check_every=timedelta(hours=1),
            )  # fmt: skip
            # Whoever asks is the one that waits for its turn.
            kv = MemoryKV(self.fleet.store, self.fleet.time, self._gate)
            vault = Vault(kv, "secret", "rotator")
            holder = f"{rotator}-{self.random.random()}"
            index = DueIndex(vault, holder, timedelta(seconds=CLAIM_TTL))
            made = Rights(cast(Settings, settings), vault, index, self, Board())
            made.over(self.fleet.policies)
            self.holders[id(made)] = holder
            self.rights[rotator] = (made, set())
        return self.rights[rotator]

    def _gate(self, call: str) -> str:
        return self._pause(self.here.actor, call, 0.0)

    def boot(self) -> float:
        """The clock of whoever asks: see `Clock`."""
        return self.fleet.time.seconds

    def sleep(self, seconds: float) -> None:
        """The same."""
        self.here.clock.sleep(seconds)

    def _tick(self, rotator: int, process: Process) -> None:
        astray = rotator == 0 and self.fleet.time.seconds < self.storm_ends
        if self.two is not None and not self.two.may_act(process, astray=astray):
            return
        rights, at_work = self._of(rotator, process)
        self.here.within = rotator, rights
        known = [(one, self.fleet.stored_of(one)) for one in self.fleet.policies]
        self.random.shuffle(known)
        known.sort(key=lambda one: one[1].record.underway is None)
        checks = self.history.weather == "refused"
        rights.refresh()
        for policy, stored in known:
            rights.saw(policy.name, stored)
            rights._board.saw(policy.name, stored)
        for policy, stored in known:
            record = stored.record
            now = process.world.vault.now()
            order = Order("schedule", reason="scheduled")
            if not due.at_a_tick(policy, record, now).now:
                waits = record.drifted is not None and now < record.drifted.again_at
                if not checks or waits or (record.drifted is None and self.random.random() < 0.8):
                    continue
                order = Order("repair", reason="drift check")
            if policy.name in at_work:
                continue
            issues = order.what == "schedule" and due.begins_with_a_key(policy, record, now)
            if issues and not rights.brake.ask(policy.name, "begin").go:
                continue
            self._carry_out(rights, at_work, process, policy, order)

    def _carry_out(
        self, rights: Rights, at_work: set[str], process: Process, policy: Policy, order: Order
    ) -> None:
        # Of its own: the threads of one index wait for each other, which here would be for ever.
        index = DueIndex(
            process.world.vault, self.holders[id(rights)], timedelta(seconds=CLAIM_TTL)
        )
        process.world = dataclasses.replace(
            process.world,
            right=rights.of(policy, order, check=False),
            hold=lambda: index.hold(policy.name),
        )
        at_work.add(policy.name)
        rights.begins(policy)
        run, result = process.run(order, policy), None
        try:
            result = tend(run)
        finally:
            at_work.discard(policy.name)
            rights.ends(run, result)

    # what happens to them

    def _pause(self, actor: Actor, call: str, seconds: float) -> str:
        fate = super()._pause(actor, call, seconds)
        if self._is_killed():
            raise Ended
        if self.issued:
            self.issued = False
            self.worst = max(self.worst, sum(map(self.fleet.is_dead, self.fleet.policies)))
        self.issued = call in ISSUING
        return self._weather(call, fate)

    def _watch(self, actor: Actor, call: str) -> None:
        """Claims are held to by `test_interleavings.py`."""

    def _weather(self, call: str, fate: str) -> str:
        if self.fleet.time.seconds >= self.storm_ends:
            return fate
        if self.random.uniform(0, 100) < self.history.restarts:
            raise Ended
        weather = self.history.weather
        if weather in ("503", "lost") and call in ISSUING:
            return "fail" if weather == "503" else "lose"
        if weather == "rights" and call.startswith("vault write ecgrid/"):
            raise Forbidden("refused", kind="vault.Forbidden")
        if weather == "refused" and call == "ecgrid GetMe":
            raise Refused("refused", kind="ecgrid.InvalidAPIKey")
        return fate


def wrongs(tmp_path: Path, history: History, brake: int = BRAKE) -> list[str]:
    """Everything that is not as it must be in that history."""
    shown = "masked" if history.masked and history.weather == "lost" else "full"
    fleet = Fleet(
        tmp_path, history.size, history.seed, keyset="replace", read_back=shown, list_shows=shown
    )
    if history.weather != "refused":
        fleet.pass_time(days=31)
    told = Told(fleet, history, brake)
    told.run()
    found = told.faults()
    if told.worst > history.bound:
        found.append(f"{told.worst} keys were dead at once, at most {history.bound} may be")
    if history.weather == "refused" and fleet.asked.count("KeySet"):
        found.append("keys were issued though none was dead")
    if told.two is not None and told.two.other.issued():
        found.append("keys were issued by the other ECGrid")
    for policy in fleet.policies:
        record = fleet.record_of(policy)
        if fleet.is_dead(policy):
            found.append(f"{policy.name} has a dead key: {record.failed}")
        if record.underway is not None or record.drifted is not None:
            found.append(f"{policy.name} is not well: {record.failed}")
        elif record.kept()["format"] != 1:
            found.append(f"{policy.name} has a record of a newer format")
    return found


def a_storm() -> History:
    """One where answers are lost for long, in a fleet larger than what may be in doubt."""
    return next(
        drawn
        for drawn in map(History.drawn, range(10**6))
        if drawn.weather == "lost"
        and drawn.masked
        and drawn.lasts > STORM * 3 / 4
        and drawn.size > drawn.bound + 3
    )
