"""Many policies: who is due, how many at once, and what they share. One policy's failure never stops the others.

`tick` is one look round with everything that comes of it; `turn` is a tick of the daemon, which does not wait for the
work that it begins; `tend` carries out an order on demand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Literal, NamedTuple, Self, TypeVar, Unpack

from rotator.ends import End
from rotator.errors import Failure, Gone, HeldBack, NotFound, RotatorError
from rotator.fleet.crew import Crew, Task, out_of_time
from rotator.fleet.patience import Waits, outlast
from rotator.fleet.reports import Reports
from rotator.fleet.rights import ENDED, TURN, Rights
from rotator.fleet.rounds import Ended, Rounds
from rotator.fleet.shard import in_shard
from rotator.fleet.standing import end_of_own_key
from rotator.fleet.trying import try_all
from rotator.fleet.voice import Voice
from rotator.fleet.world import Surroundings, affordable
from rotator.journal import Record
from rotator.policy import Policy
from rotator.reporting.events import Fields
from rotator.reporting.rows import Standing
from rotator.rotation import Cause, Check, Order, Result, Run, compare, faulty, tend
from rotator.run.right import Free, Right
from rotator.settings import Settings
from rotator.threads import Hands, Tell
from rotator.vault import TimeInDoubt

T = TypeVar("T")

# Seconds after which a tick begins nothing more.
TICK_DEADLINE = 3600.0
# Times the claim's length after which a run cannot be at work any more.
STUCK = 4
NOT_BEGUN = "the process was told to stop before this policy was begun"
# Policies whose rights are asked for by one request.
TOGETHER = 50
# Policy, what it does now.
Progress = Callable[[str, str], None]


class Turn(NamedTuple):
    """What the daemon tells after a turn: how many policies there are, are worked on, and fail; and what is next.

    `login_for`: seconds until Vault's login is to be renewed.
    """

    policies: int
    running: int
    failing: int
    next: tuple[datetime, str] | None
    login_for: float


class Fleet:
    """The policies of one process and everything they share. A context manager: closing logs out and disconnects."""

    def __init__(
        self, settings: Settings, policies: Iterable[Policy], *, serving: bool = False
    ) -> None:
        """`serving`: others will ask this process for its metrics."""
        settings = affordable(settings)
        self.settings, self.policies = settings, list(policies)
        # Is told each event of each policy.
        self.progress: Progress | None = None
        # Called whenever the work on a policy has ended.
        self.done: Callable[[], None] = lambda: None
        self.reports = Reports(settings, serving=serving)
        self._around = Surroundings(settings, self.reports.metrics)
        self.stopping, self.boot = self._around.stopping, self._around.clock.boot
        self.server, self.vault = self._around.server, self._around.vault
        self.ecgrid, self.index = self._around.ecgrid, self._around.index
        self.whose, self.who = self._around.whose, self._around.who
        self._voice = Voice(self.reports, self.boot)
        self.rights = Rights(
            settings, self.vault, self.index, self._around.clock, self.reports.board
        )
        self.rights.stopping = self.stopping.is_set
        self.reports.heed = self.rights.saw
        # Is told what Vault is waited for.
        self.waits: Waits = lambda _why, _left: None
        self._rounds = Rounds(
            settings, self.vault, self.index, self.boot, self.reports, is_ours=self.whose.is_ours
        )
        self.reports.alarms.share(self.vault, self._rounds.stands, self.stopping.is_set)
        self.reports.alarms.may_keep = self.whose.may_write
        # Called while a turn looks round, as a sign of life.
        self.alive: Callable[[], None] = lambda: None
        self._rounds.goes_on = self._goes_on
        self._crew = Crew(settings.concurrency, self._carry_out, self._may_begin, self._ended)
        self._around.clock.resting = self._crew.resting
        # Policy -> no turn looks at it before.
        self._resting: dict[str, float] = {}
        # Runs that the due index does not know of yet.
        self._settled: list[Ended] = []
        self.load(self.policies)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Logs out of ECGrid and closes all connections."""
        self._crew.close()
        self.reports.close()
        self._rounds.close()
        self._around.close()

    def prints_results(self) -> None:
        """The command prints what comes of each policy where the log is read, too: the log leaves it out."""
        self._voice.printed = True

    def ready(self) -> None:
        """Sees to it that work can begin; raises Failure if no thread can be had for it."""
        self._crew.ready()
        self.reports.alarms.begin()

    def load(self, policies: Iterable[Policy]) -> None:
        """These are the policies from here on; what has begun under the old ones is finished under them."""
        self.policies = self.whose.policies = list(policies)
        self.rights.over(self.policies)
        self.reports.alarms.over(self.policies)
        self._crew.drop()

    # what is done to many

    def tend(self, policies: list[Policy], order: Order) -> list[Result]:
        """Carries the order out for each policy, several at once; the rotator's own key alone, before the others."""
        elsewhere = self._elsewhere(policies)
        if elsewhere is not None:
            return elsewhere
        self.whose.named = order.named
        if order.named:
            self.rights.only_named()
        self.rights.refresh()
        results = self._work_off(self._tasks(policies, order), lambda: False)
        return [results[policy.name] for policy in policies]

    def _tasks(self, policies: list[Policy], order: Order) -> list[Task]:
        issues, is_own, turn = order.what == "demand", self._rounds.is_own, self.rights.brake.turn
        return [Task(p, order, turn(p.name), issues=issues, alone=is_own(p)) for p in policies]

    def tick(self, shard: tuple[int, int] | None = None) -> list[Result]:
        """One tick: recovers what was interrupted, rotates what is due, retires, and checks for drift in its turn.

        Raises RotatorError if Vault cannot be asked at all, after the deadline if that is Transient.
        """
        mine = self.of_shard(shard)
        self.rights.tick(daemon=False)

        self.patiently(self.vault_time)
        elsewhere = self._elsewhere(mine)
        if elsewhere is not None:
            return elsewhere
        work = self.patiently(lambda: self._rounds.look(mine, len(mine)))
        until = self.boot() + TICK_DEADLINE
        results = {result.policy: result for result in work.results}
        for result in work.results:
            self._voice.tell(result, again=True)
        self.rights.refresh()
        results |= self._work_off(work.tasks, lambda: self.boot() > until)
        self.report_skew()
        self._report_ends()
        self.reports.held_back(self.rights.held_back())
        if self.settings.metrics.textfile:
            self.standing(mine)
        else:
            # What was read is what may have changed.
            self.reports.stand(mine, self.vault.now())
        return [results[policy.name] for policy in mine]

    def turn(self, shard: tuple[int, int] | None = None) -> Turn:
        """One turn of the daemon: a tick whose work goes on beside the following turns, so that nobody waits for it.

        Raises RotatorError if Vault cannot be asked.
        """
        mine, at_work, now = self.of_shard(shard), self._crew.names(), self.boot()
        self.rights.tick(daemon=True)
        self._resting = {name: until for name, until in self._resting.items() if until > now}
        left_alone = at_work | self._resting.keys()
        self.vault_time()
        self.whose.acting = True
        self.whose.require(mine)
        idle = [policy for policy in mine if policy.name not in left_alone]
        self._settle()
        work = self._rounds.look(idle, len(mine))
        for result in work.results:
            self._voice.tell(result, again=True)
        self.rights.refresh(each=self._rounds.each)
        self._expect(work.tasks)
        self._crew.put(work.tasks)
        self.reports.held_back(self.rights.held_back())
        for held in filter(None, map(self.rights.not_begun, self._crew.pending())):
            if held.error is not None:
                self._voice.tell(held, again=True)
        login_for = self.server.refresh()
        self.report_skew()
        self._report_ends()
        return Turn(len(mine), self._crew.running, len(self._voice.failing), work.next, login_for)

    def _goes_on(self) -> bool:
        """Reading may take longer than the login lives, and than those are patient who watch or stop the process."""
        # The end of the turn tells it.
        with suppress(RotatorError):
            self.server.refresh()
        self.alive()
        return not self.stopping.is_set()

    def _elsewhere(self, policies: list[Policy]) -> list[Result] | None:
        """What there is to say of policies whose records are about another ECGrid than the one that is configured."""
        self.whose.acting = True
        try:
            self.whose.require(policies)
        except HeldBack as error:
            return self.failed(policies, error)
        return None

    def adopt_ecgrid(self, *, dry_run: bool = False) -> Literal["the same", "another"]:
        """`adopt --ecgrid`: see `Whose.adopt`, whose errors it raises. Each record is looked at by the next tick."""
        which = self.whose.adopt(self.policies, dry_run=dry_run)
        if which == "another" and not dry_run:
            self.index.expect(policy.name for policy in self.policies)
            for policy in self.policies:
                self.index.hold(policy.name)
        return which

    @staticmethod
    def not_seen(policies: list[Policy], error: RotatorError) -> list[Result]:
        """What there is to say of policies that could not be looked at."""
        cause = Cause.of(error)
        return [Result(one.name, "failed", phase="observe", error=cause) for one in policies]

    def failed(self, policies: list[Policy], error: RotatorError) -> list[Result]:
        """The same, of an order that came to nothing: told as every failure is."""
        results = self.not_seen(policies, error)
        for result in results:
            self._voice.tell(result)
        return results

    def finish(self) -> None:
        """Waits for what has begun; with `stopping` set, nothing that has issued nothing goes on."""
        self._crew.finish()

    def stuck(self) -> list[str]:
        """The policies whose run claimed so long ago that it must hang."""
        return self._around.claimed_longer_than(STUCK * self.settings.claim_ttl.total_seconds())

    def of_shard(self, shard: tuple[int, int] | None) -> list[Policy]:
        """The policies of that shard; None: all."""
        return [policy for policy in self.policies if shard is None or in_shard(policy.name, shard)]

    def patiently(self, call: Callable[[], T]) -> T:
        """Calls again while Vault is away, which is told once; raises its last error once the deadline is over."""
        until = self.boot() + self.settings.deadline.total_seconds()
        return outlast(call, lambda: until - self.boot(), self.stopping.is_set, self.waits)

    def _work_off(self, tasks: list[Task], over: Callable[[], bool]) -> dict[str, Result]:
        """Does these tasks, and tells the due index what came of it."""
        self._expect(tasks)
        self._crew.put(tasks)
        left = {task.policy.name: self._not_begun(task) for task in self._crew.finish(over)}
        for result in left.values():
            self._voice.tell(result)
        done = [task for task in tasks if task.policy.name not in left]
        if not self.stopping.is_set():
            self._settle()
        return left | {task.policy.name: task.future.result() for task in done}

    def _settle(self) -> None:
        """Lets the due index know what came of the work that has ended."""
        ended, self._settled = self._settled, []
        self._rounds.settle(ended)

    def _expect(self, tasks: list[Task]) -> None:
        """Asks for the rights of many at once, and has their index entries lowered together, where each would do."""
        policies = [task.policy for task in tasks if not task.check]
        self.index.expect(policy.name for policy in policies)
        # The runs that it concerns will find and say it.
        with suppress(RotatorError):
            for start in range(0, len(policies), TOGETHER):
                self._goes_on()
                self.vault.require(policies[start : start + TOGETHER])

    # one

    def run_of(self, policy: Policy, order: Order, right: Right | None = None) -> Run:
        """A run over one policy, with this process' world around it."""

        def report(event: str, /, **fields: Unpack[Fields]) -> None:
            if self.progress:
                self.progress(policy.name, event)
            self.reports.event(policy.name, event, fields)
            self._voice.event(run, event, fields)

        run = Run(policy, order, self._around.world(policy, report, right or Free()))
        return run

    def _carry_out(self, task: Task) -> Result:
        """Whatever goes wrong with one policy, what is told of it included, is that policy's result."""
        try:
            return self._do(task)
        except Exception as fault:  # noqa: BLE001 - the others' results, and this one's next turn, come all the same
            result = faulty(task.policy, "observe", fault)
            self._resting[task.policy.name] = self.boot() + TURN
            with suppress(Exception):
                self._voice.tell(result)
            return result

    def _do(self, task: Task) -> Result:
        policy, began = task.policy, self.vault.now()
        with self._around.at_work(policy):
            right = self.rights.of(policy, task.order, check=task.check)
            run = self.run_of(policy, task.order, right)
            self.rights.begins(policy)
            result = None
            try:
                result = tend(run)
            finally:
                self.rights.ends(run, result)
            self.reports.failed_before(policy.name, run.sight.failing)
        if run.sight.stored is not None:
            if run.sight.is_written:
                self._settled.append(Ended(policy, run.sight.stored, began))
            self.reports.board.saw(policy.name, run.sight.stored)
        if result.error and result.error.kind == Gone.kind:
            # Else within the hour.
            with suppress(RotatorError):
                self.index.lower(policy.name)
        if task.check and result.outcome == "unchanged" and not result.stopped:
            result = result._replace(outcome="not-due")
        result = result.warning(*task.warnings)
        self.reports.held_back(self.rights.held_back())
        if result.outcome not in (*ENDED, "retired"):
            self._resting[policy.name] = self.boot() + TURN
        self._voice.tell(result, run)
        return result

    def _ended(self) -> None:
        self.done()

    def _may_begin(self, task: Task) -> bool:
        """Whether a task may begin now. What issues nothing by itself is only held back when the process is to stop."""
        return not self.stopping.is_set() and self.rights.may_begin(task)

    def _not_begun(self, task: Task) -> Result:
        """Why a task that was to be done was not."""
        name = task.policy.name
        if self.stopping.is_set():
            return Result(name, "unchanged", stopped=True, begun=False, warnings=(NOT_BEGUN,))
        return self.rights.not_begun(task) or out_of_time(task)

    def report_skew(self) -> None:
        """Says so if Vault's clock and ours differ by over five minutes."""
        self._voice.skew(self.server.clock.skew())

    def _report_ends(self) -> None:
        """Says which of the rotator's own credentials is about to end."""
        # Whoever needs the login tells what is wrong with it.
        with suppress(RotatorError):
            self.reports.ends(self.ends(), self.vault.now())

    def ends(self) -> list[End]:
        """What is known of the end of each of the rotator's own credentials."""
        mine = list(filter(self._rounds.is_own, self.policies))
        self._rounds.read(self.reports.board.unknown(mine))
        own = self.reports.board.known(mine)
        return self.server.logins.ends() + [
            end for policy, record in own if (end := end_of_own_key(policy, record)) is not None
        ]

    # what only looks

    def dry_run(self, policies: list[Policy], order: Order) -> list[Result]:
        """What `tend` would do now, or why it could not; writes nothing anywhere."""
        if order.named:
            self.rights.only_named()
        return try_all(self, policies, self._tasks(policies, order))

    def dry_tick(self, shard: tuple[int, int] | None = None) -> list[Result]:
        """What `tick` would do now, or why it could not; writes nothing anywhere. Raises as it does."""
        mine = self.of_shard(shard)
        self.patiently(self.vault_time)
        work = self.patiently(lambda: self._rounds.look(mine, len(mine), noting=False))
        tried = try_all(self, mine, work.tasks)
        results = {one.policy: one for one in [*work.results, *tried]}
        return [results[policy.name] for policy in mine]

    def check(self, policies: list[Policy], tell: Tell | None = None) -> dict[str, Check | Failure]:
        """Compares ECGrid with Vault, changing nothing; what cannot be read is a Failure. `tell`: how many are done."""
        try:
            self.whose.require(policies)
        except HeldBack as error:
            return {policy.name: error for policy in policies}

        def one(policy: Policy) -> Check | Failure:
            try:
                return compare(self.run_of(policy, Order("repair")))
            except Failure as error:
                return error

        hands = Hands(self.settings.concurrency, "check")
        try:
            answers = hands.map(one, policies, tell)
            return dict(zip([p.name for p in policies], answers, strict=True))
        finally:
            hands.close()

    def vault_time(self) -> datetime:
        """Vault's time, from an answer of Vault: asked for if there was none yet."""
        self.server.login_left()
        # Whoever claims meets it.
        with suppress(TimeInDoubt):
            self.server.sure_of_time()
        return self.vault.now()

    def records(self, policies: list[Policy]) -> dict[str, Record | Failure | None]:
        """What `status` and `plan` tell of each policy: its record, or the gist of it from the due index.

        None where there is no record yet, an error where it could not be read.
        """
        return self._rounds.known(policies)

    def histories(self, policies: list[Policy]) -> dict[str, Record | Failure | None]:
        """The same with their histories, which are most of it, whichever ECGrid they are about."""
        answers = self._rounds.read_whole(policies)
        return {policy.name: answer for policy, answer in zip(policies, answers, strict=True)}

    def standing(self, policies: list[Policy], *, beside: bool = False) -> Standing:
        """How these policies stand, by what was read before where it is still true; `beside`: while turns go on."""
        self._rounds.read(self.reports.board.unknown(policies), beside=beside)
        return self.reports.stand(policies, self.vault.now())

    def without_policy(self) -> list[str]:
        """Records below the state path that no policy names: another rotator may own them."""
        named = {policy.name for policy in self.policies}
        try:
            return sorted(name for name in self.vault.policies_with_records() if name not in named)
        except NotFound:
            return []
