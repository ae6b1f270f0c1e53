"""Whole rotators over a world in memory: `Scene` sets it, `Scene.rotator()` is one process in it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Unpack

from memory import Direct, Here, MemoryKV, Own, Store, Time, account_of, go, in_turn

from rotator.ecgrid import Urgency
from rotator.journal import Record
from rotator.keys import Issue, Secret, Verify
from rotator.policy import Policy, PolicyDefaults, load
from rotator.reporting.events import Fields
from rotator.rotation import Order, Result, Run, World, tend
from rotator.sandbox.ecgrid import AuthLevel, Simulator, Switches
from rotator.sandbox.ecgrid.words import Ask, Refusal, ShownKey
from rotator.vault import At, Published, Stored, Vault

ADMIN, USER, OTHER = 5000, 5001, 5002
POLICY = """
user_id: 5001
visibility: Private
schedule: {every: 30d}
grace: 12h
vault: {path: ecgrid/edi}
"""


@dataclass
class Process:
    """One rotator process: its connections, its own key, and what it has reported."""

    scene: Scene
    world: World
    kv: MemoryKV
    own: Own
    events: list[tuple[str, Fields]] = field(default_factory=list)

    def run(self, order: Order, policy: Policy | None = None) -> Run:
        """A run over the scene's policy, not begun yet."""
        return Run(policy or self.scene.policy, order, self.world)

    def tick(self, policy: Policy | None = None) -> Result:
        """What `run --once` does to the policy."""
        return tend(self.run(Order("schedule", reason="scheduled"), policy))

    def rotate(self, *, retire_now: bool = False) -> Result:
        """What `rotate NAME` does."""
        grace = timedelta(0) if retire_now else None
        return tend(
            self.run(Order("demand", since=self.kv.now(), grace=grace, retire_now=retire_now))
        )

    def repair(self) -> Result:
        """What `check --repair NAME` does."""
        return tend(self.run(Order("repair")))

    def adopt(self) -> Result:
        """What `adopt NAME` does."""
        return tend(self.run(Order("adopt")))


class Scene:
    """An ECGrid, a Vault and a clock; and one policy."""

    def __init__(
        self, tmp_path: Path, policy: str = POLICY, seed: int = 1, **switches: Any
    ) -> None:
        self.time = Time()
        self.store = Store()
        self.simulator = Simulator(
            Switches(**switches), clock=self.time.now, randomness=random.Random(seed)
        )
        self.simulator.add_user(ADMIN, auth_level=AuthLevel.NetworkAdmin)
        self.admin = self.simulator.add_key(ADMIN)
        for user_id in (USER, OTHER):
            self.simulator.add_user(user_id)
        self.first = self.simulator.add_key(USER)
        self.policy = policy_from(tmp_path, policy)
        self.known: list[tuple[Secret, int]] = []  # whose credentials are known to be whose
        self.asked: list[str] = []  # every request to ECGrid, by call
        self.late: list[tuple[float, Ask]] = []
        self.landed: set[int] = set()  # keys that were made by requests that landed late

    def rotator(
        self,
        gate: Callable[[str], str] = go,
        *,
        deadline: float = 120.0,
        claim_ttl: float = 180.0,
        who: str = "one",
        own: str | None = None,
        own_from: tuple[str, str] | None = None,
        has_login: bool = False,
    ) -> Process:
        """A process of its own, whose every call passes the gate."""

        def noting(call: str) -> str:
            if call.startswith("ecgrid "):
                self.asked.append(call.removeprefix("ecgrid "))
            self.land()
            return gate(call)

        kv = MemoryKV(self.store, self.time, noting)
        key = Own(Secret(own or self.admin.value))
        events: list[tuple[str, Fields]] = []

        def report(event: str, /, **fields: Unpack[Fields]) -> None:
            events.append((event, fields))

        account = account_of(self.simulator, key, noting, self.later)
        world = World(
            vault=Vault(kv, "secret", "rotator"),
            account=account,
            whose=Here(account(Issue.KEYSET, Verify.GET_KEY, Urgency.CHECK), key, self.known),
            own_key_from=own_from,
            has_login=has_login,
            clock=self.time,
            report=report,
            who=who,
            deadline=deadline,
            claim_ttl=claim_ttl,
            timeout=30.0,
            together=in_turn,
            stopping=lambda: False,
        )
        return Process(self, world, kv, key, events)

    # looking behind

    @property
    def vault(self) -> Vault:
        """A connection that no gate disturbs."""
        return Vault(MemoryKV(self.store, self.time), "secret", "rotator")

    def stored(self) -> Stored:
        """The record, which must be there."""
        stored = self.vault.record(self.policy.name)
        assert stored is not None
        return stored

    def record(self) -> Record | None:
        """The record, if there is one."""
        stored = self.vault.record(self.policy.name)
        return stored.record if stored else None

    def published(self) -> Published:
        """The published secret, which must be there."""
        there = self.vault.published(self.policy.destinations[0])
        assert there is not None
        return there

    def published_at(self) -> At:
        """Where the policy publishes."""
        return self.vault.places(self.policy)[0]

    def works(self) -> int | None:
        """Whose live key Vault shows."""
        value = self.published().value
        return self.simulator.who(value.reveal()) if value else None

    def live(self, user_id: int = USER) -> set[int]:
        """The ids of the user's live keys."""
        return {record.key_id for record in self.simulator.keys(user_id) if record.live}

    def issued(self, user_id: int = USER) -> int:
        """How many keys ECGrid has issued."""
        return self.simulator.issued(user_id)

    def pass_time(self, **length: float) -> None:
        """Lets time pass for everybody."""
        self.time.pass_by(timedelta(**length).total_seconds())
        self.land()

    def later(self, ask: Ask) -> None:
        """Keeps a request that lands ten seconds from now."""
        self.late.append((self.time.seconds + 10.0, ask))

    def land(self) -> None:
        """Carries out the late requests whose time has come."""
        due = [ask for at, ask in self.late if at <= self.time.seconds]
        self.late = [(at, ask) for at, ask in self.late if at > self.time.seconds]
        for ask in due:
            with suppress(Refusal):
                answer = self.simulator.perform(ask)
                self.landed |= {answer.key_id} if isinstance(answer, ShownKey) else set()

    def account(self) -> Direct:
        """A connection to ECGrid that no gate disturbs."""
        account = account_of(self.simulator, Own(Secret(self.admin.value)))
        return account(self.policy.issue, self.policy.verify, None)  # type: ignore[arg-type]  # urgency plays no part


def policy_from(tmp_path: Path, text: str, name: str = "edi") -> Policy:
    """The policy that this YAML makes."""
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    return load(path, PolicyDefaults())[0]
