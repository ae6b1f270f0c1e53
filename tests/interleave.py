"""Several rotator processes in one world in memory, interleaved call by call from a seed that replays them.

Each process is a thread that runs only while it has the turn. Before every call to Vault or ECGrid, and whenever it
sleeps, it hands the turn back; the seed decides who is next, and whether the call fails, loses its answer, meets a
lagging standby, or whether the process is frozen or ends there.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from worlds import Process, Scene

from rotator.keys import Issue
from rotator.rotation import Result
from rotator.vault import At

ISSUING = ("ecgrid KeySet", "ecgrid CreateKey", "ecgrid GenerateKey")
LOOKING = ("ecgrid GetKey", "ecgrid ListKeys", "ecgrid GetAPIKey")
PATIENCE = 20_000  # turns after which a schedule counts as one that never ends


class Ended(BaseException):
    """The process is killed: no `except Exception` of the program may see this."""


@dataclass(frozen=True)
class Chances:
    """How often what happens at a call, in percent."""

    fail: float = 0.0
    lose: float = 0.0
    end: float = 0.0
    freeze: float = 0.0
    lag: float = 0.0
    late: float = (
        0.0  # of issuing requests: the answer is lost, and the request lands a while later
    )


CALM = Chances()


@dataclass
class Actor:
    """One process: what it does, and where it stands."""

    name: str
    job: Callable[[Process], Any]
    process: Process | None = None
    thread: threading.Thread | None = None
    turn: threading.Event = field(default_factory=threading.Event)
    wakes: float = 0.0
    fate: str = "go"
    over: bool = False
    frozen: bool = False
    error: BaseException | None = None
    result: Any = None


class Interleaving:
    """Runs the jobs to their ends, one call at a time."""

    patience = PATIENCE

    def __init__(
        self,
        scene: Scene,
        jobs: list[Callable[[Process], Any]],
        seed: int,
        chances: Chances = CALM,
        choose: Callable[[int], int] | None = None,
        deadline: float = 30.0,
    ) -> None:
        self.scene, self.chances, self.random = scene, chances, random.Random(seed)
        self.choose = choose or self.random.randrange
        self.back = threading.Event()
        self.actors = [Actor(f"r{number}", job) for number, job in enumerate(jobs)]
        self.trace: list[str] = []
        self.wrongs: list[str] = []
        self.looked: set[str] = set()  # who has looked since the last issuing request
        self.issued_for: str | None = None  # the rotation of that request
        for actor in self.actors:
            self._prepare(actor, deadline)

    def _prepare(self, actor: Actor, deadline: float) -> None:
        def gate(call: str) -> str:
            fate = self._pause(actor, call, 0.0)
            self._watch(actor, call)
            if call in ISSUING and self.random.uniform(0, 100) < self.chances.late:
                return "late"
            return fate

        process = self.scene.rotator(
            gate, who=actor.name, deadline=deadline, claim_ttl=deadline * 1.5
        )
        object.__setattr__(process.world, "clock", _Clock(self, actor))
        process.kv.lag = lambda _at: self._lag()
        actor.process = process

        def body() -> None:
            actor.turn.wait()
            try:
                actor.result = actor.job(process)
            except Ended:
                actor.result = "ended"
            except BaseException as error:  # noqa: BLE001 - shown by the test with the seed
                actor.error = error
            actor.over = True
            self.back.set()

        actor.thread = threading.Thread(target=body, daemon=True)
        actor.thread.start()

    def _pause(self, actor: Actor, call: str, seconds: float) -> str:
        """Hands the turn back; comes back when it is this process' again."""
        self.trace.append(f"{actor.name} {call}")
        actor.wakes = self.scene.time.seconds + seconds
        actor.turn.clear()
        self.back.set()
        actor.turn.wait()
        if actor.fate == "end":
            raise Ended
        return actor.fate

    def _watch(self, actor: Actor, call: str) -> None:
        """At the moment of a call that issues, shows or removes something, the claim is this process'.

        Unless it was frozen after it had looked, at this very call: then only the check-and-sets are left.
        """
        frozen, actor.frozen = actor.frozen, False
        self._watch_issue(actor, call, frozen=frozen)
        if frozen or not call.startswith((*ISSUING, "ecgrid DeleteKey", "vault write ecgrid/")):
            return
        record = self.scene.record()
        claim = record.claim if record else None
        if claim is None or claim.by != actor.name or claim.until < self.scene.time.now():
            self.wrongs.append(f"{actor.name}: {call} without the claim")

    def _watch_issue(self, actor: Actor, call: str, *, frozen: bool) -> None:
        """Whoever issues once more for one rotation has looked first."""
        if call in LOOKING:
            self.looked.add(actor.name)
        record = self.scene.record()
        if call not in ISSUING or record is None or record.underway is None:
            return
        again = record.underway.run == self.issued_for
        if again and not frozen and actor.name not in self.looked:
            self.wrongs.append(f"{actor.name}: {call} once more without a look")
        self.issued_for, self.looked = record.underway.run, set()

    def _lag(self) -> int:
        return 1 if self.random.uniform(0, 100) < self.chances.lag else 0

    def run(self) -> Interleaving:
        """To the end of every process."""
        for _ in range(self.patience):
            left = [actor for actor in self.actors if not actor.over]
            if not left:
                return self
            ready = [actor for actor in left if actor.wakes <= self.scene.time.seconds]
            if not ready:
                self.scene.time.seconds = min(actor.wakes for actor in left)
                continue
            actor = ready[self.choose(len(ready))] if len(ready) > 1 else ready[0]
            actor.fate = self._fate(actor)
            if actor.fate == "freeze":
                actor.wakes = self.scene.time.seconds + self.random.choice([10.0, 50.0, 400.0])
                actor.frozen, actor.fate = True, "go"
                continue
            self.back.clear()
            actor.turn.set()
            self.back.wait()
            self.scene.time.seconds += 0.05
        raise AssertionError(f"never ends: {self.trace[-40:]}")

    def faults(self) -> list[str]:
        """Exceptions that nobody expected, in a process or caught at the edge of its run."""
        found = [f"{actor.name}: {actor.error!r}" for actor in self.actors if actor.error]
        results = [actor.result for actor in self.actors]
        errors = [result.error for result in results if isinstance(result, Result) and result.error]
        return found + [error.message for error in errors if error.kind == "rotator.Fault"]

    def _fate(self, actor: Actor) -> str:
        draw, chances = self.random.uniform(0, 100), self.chances
        for fate in ("fail", "lose", "end", "freeze"):
            share = getattr(chances, fate)
            if draw < share:
                return fate
            draw -= share
        return "go"


class _Clock:
    """The world's time, as one process lives it: sleeping hands the turn back."""

    def __init__(self, interleaving: Interleaving, actor: Actor) -> None:
        self._interleaving, self._actor = interleaving, actor

    def boot(self) -> float:
        return self._interleaving.scene.time.seconds

    def sleep(self, seconds: float) -> None:
        self._interleaving._pause(self._actor, "sleep", seconds)


def quiet_end(scene: Scene, *, forward: bool = True) -> list[str]:
    """Lets clean ticks follow and names everything that is not as it must be; `forward`: nobody rolled back."""
    results = []
    for _ in range(4):
        scene.pass_time(minutes=20)
        results.append(scene.rotator().tick())
    results.append(scene.rotator().repair())
    scene.pass_time(hours=13)
    results += [scene.rotator().tick() for _ in range(2)]
    if any(result.error and result.error.kind == "rotation.IssueLimit" for result in results):
        scene.pass_time(
            hours=25
        )  # three requests were lost: an alarm, and no more keys until the next day
        results += [scene.rotator().tick(), scene.rotator().repair()]
        scene.pass_time(hours=13)
        results.append(scene.rotator().tick())
    outcomes = [result.outcome for result in results]
    wrongs = []
    if scene.works() not in scene.policy.users:
        wrongs.append(f"the published key does not authenticate ({outcomes})")
    record = scene.stored().record
    if not record.shows(scene.published().value):
        wrongs.append("the record and Vault name different keys")
    for to in scene.policy.destinations[1:]:
        there = scene.vault.published(to)
        if there is None or not record.shows(there.value):
            wrongs.append(f"{to.path} does not show the current key")
    if scene.policy.issue is not Issue.GENERATE:
        wrongs += strays(scene, outcomes)
    if scene.vault.staged(scene.policy.name) is not None:
        wrongs.append("something is still staged")
    if record.underway is not None:
        wrongs.append("a rotation is still open")
    return wrongs + (went_back(scene) if forward else [])


def strays(scene: Scene, outcomes: Sequence[str]) -> list[str]:
    """Every live key of the policy's users is the one that it published last for that user."""
    record = scene.stored().record
    ours = {held.key_id for held in (record.current, *record.others) if held}
    live = {key_id for user_id in scene.policy.users for key_id in scene.live(user_id)}
    return (
        []
        if live <= ours | scene.landed
        else [f"live keys {sorted(live)}, ours {ours} ({outcomes})"]
    )


def went_back(scene: Scene) -> list[str]:
    """No published version shows a key again that was replaced before."""
    shown: list[object] = []
    path = scene.store.paths[At("secret", "ecgrid/edi")]
    for version in sorted(path.versions):
        data = path.versions[version]
        if data and (not shown or shown[-1] != data["api_key"]):
            if data["api_key"] in shown:
                return [f"version {version} goes back to key {data['key_id']}"]
            shown.append(data["api_key"])
    return []
