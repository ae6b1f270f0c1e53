"""The daemon: APScheduler wakes the fleet. What is due is never known here, only that it is time to look.

The scheduler has one job, the turn. It comes every TURN seconds at least, sooner when something is due sooner, and
what it begins goes on beside the next turns. The main thread waits for signals, looks whether the policy files have
changed, and sees to it that a clock that was set back does not silence the scheduler.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import FrameType

from apscheduler.events import EVENT_JOB_MAX_INSTANCES
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from rotator import reporting
from rotator.daemon.site import LATE, Face, Pulse
from rotator.daemon.systemd import Notify
from rotator.daemon.watch import Watched
from rotator.errors import BadInput, RotatorError
from rotator.fleet import Fleet, Turn
from rotator.fleet.forecast import first
from rotator.fleet.reports import TURNS
from rotator.fleet.rights import TURN
from rotator.policy import Policy
from rotator.reporting.to_sentry import CheckIns, slug
from rotator.threads import no_thread

# Seconds between two turns: Vault tells whole seconds.
SHORTEST = 1.0
# Seconds.
LOOK_AT_FILES = 5.0
# Seconds for which it is known which rotation is next.
PLANNED = 60.0
# Seconds in which the first turn has begun, or never will.
START = 15.0
# In place of a policy: reading them anew.
POLICIES = "(policies)"
# The id of the one job.
LATER = "turn"


def serve(fleet: Fleet, shard: tuple[int, int] | None, load: Callable[[], list[Policy]]) -> None:
    """Rotates until SIGTERM or SIGINT; what is past issue is finished first, a second signal insists.

    `load` reads the policies anew (SIGHUP, or changed files) and raises BadInput if they cannot be acted upon: then
    the last good ones stay. SIGUSR1: a turn now.
    """
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    _listen(fleet, signals)
    # Whatever else wants a thread of the few that there may be.
    fleet.ready()
    daemon = _Daemon(fleet, shard, load)
    with Face(fleet, shard, daemon.pulse):
        daemon.start()
        number = 0
        while number not in (signal.SIGTERM, signal.SIGINT):
            try:
                number = signals.get(timeout=1.0)
            except queue.Empty:
                number = 0
            if number == signal.SIGUSR1:
                daemon.wake()
            daemon.look_after(reload=number == signal.SIGHUP)
        daemon.stop()


def _listen(fleet: Fleet, signals: queue.SimpleQueue[int]) -> None:
    """From here on signals are messages to the main thread; the second one that ends the daemon does so at once."""

    def heard(number: int, _frame: FrameType | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if fleet.stopping.is_set():
                os._exit(128 + number)
            fleet.stopping.set()
        signals.put(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, heard)


class _Daemon:
    def __init__(
        self, fleet: Fleet, shard: tuple[int, int] | None, load: Callable[[], list[Policy]]
    ) -> None:
        self._fleet, self._shard, self._load = fleet, shard, load
        self.pulse = Pulse(fleet.boot)
        self._check_ins = CheckIns(slug("rotator-daemon", shard), 1)
        self._notify = Notify()
        watchdog = self._notify.watchdog
        self._longest = TURN if watchdog is None else min(TURN, max(SHORTEST, watchdog / 3))
        self._files = Watched(fleet.settings.policies)
        self._look_at_files = 0.0
        self._began = threading.Event()
        self._lock = threading.Lock()
        self._turning, self._again, self._last = False, False, 0.0
        self._late = False
        self._announced = False
        self._planned_at, self._ahead = float("-inf"), ""
        # Of the last reload.
        self._trouble = ""
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        fleet.done = self.wake
        fleet.alive = self._alive
        self._fed = float("-inf")

    def start(self) -> None:
        """Begins the first turn, and says that the daemon is ready; raises Failure if no thread can be had for it."""
        policies = self._fleet.policies
        reporting.event("daemon.started", policies=len(policies), turn_s=self._longest)
        every = IntervalTrigger(seconds=self._longest, timezone=UTC)
        self._scheduler.add_job(self._turn, every, id=LATER, next_run_time=datetime.now(UTC))
        self._scheduler.add_listener(self._not_over_yet, EVENT_JOB_MAX_INSTANCES)
        try:
            self._scheduler.start()
            begins = True
        except RuntimeError:
            begins = False
        until = self._fleet.boot() + START
        while begins and not self._began.wait(0.5) and not self._fleet.stopping.is_set():
            # The scheduler, too, needs a thread, and would not say so.
            begins = self._fleet.boot() < until
        if not begins:
            raise no_thread()
        self._notify.say(READY=1, STATUS=f"{len(policies)} policies; looking at them")

    def stop(self) -> None:
        """Begins nothing more, and waits for what is past issue."""
        self._notify.say(STOPPING=1, STATUS="stopping: what is past issue is finished")
        reporting.event("daemon.stopping")
        self._scheduler.shutdown(wait=True)
        self._fleet.finish()
        reporting.event("daemon.stopped")

    def wake(self, seconds: float = 0.0) -> None:
        """The next turn comes in so many seconds at the latest, but never sooner than SHORTEST after the last one."""
        with self._lock:
            if self._turning:
                self._again = self._again or seconds <= SHORTEST
                return
            seconds = max(seconds, self._last + SHORTEST - self._fleet.boot())
        job = self._scheduler.get_job(LATER) if self._scheduler.running else None
        moment = datetime.now(UTC) + timedelta(seconds=max(0.0, seconds))
        if job is not None and job.next_run_time > moment and not self._fleet.stopping.is_set():
            self._scheduler.modify_job(LATER, next_run_time=moment)

    # a turn

    def _not_over_yet(self, _event: object) -> None:
        """Says, once for each turn, that it takes longer than the time until the next."""
        if not self._late:
            self._late = True
            reporting.event("daemon.turn_late")

    def _turn(self) -> None:
        """One turn. Nothing may leave it: the scheduler would print the exception."""
        with self._lock:
            self._turning, self._again, self._last = True, False, self._fleet.boot()
            self._late = False
        self._began.set()
        after = None
        try:
            with self._fleet.reports.ticking(self._check_ins):
                turn = self._fleet.turn(self._shard)
            after = self._tell(turn)
            self.pulse.ended()
            self._fleet.reports.alarms.works(TURNS)
        except RotatorError as error:
            self._missed(error.kind, str(error))
        except Exception as error:  # noqa: BLE001 - the loop must go on; the text may quote anything
            words = f"{type(error).__name__}, a fault of rotator: please report it"
            self._missed("rotator.Fault", words)
        self._feed()
        with self._lock:
            self._turning = False
            after = SHORTEST if self._again else after
        if after is not None:
            self.wake(after)

    def _alive(self) -> None:
        """A turn gets on: known to the health probe, and, at most once a second, to the watchdog."""
        self.pulse.goes_on()
        if self._fleet.boot() - self._fed >= SHORTEST:
            self._feed()

    def _feed(self) -> None:
        """Feeds the watchdog, unless a run hangs."""
        if not self._fleet.stuck():
            self._fed = self._fleet.boot()
            self._notify.say(WATCHDOG=1)

    def _missed(self, kind: str, message: str) -> None:
        reporting.event("daemon.tick_failed", error=kind, message=message)
        self.pulse.ended(message)
        if self.pulse.fails_for > LATE:
            self._fleet.reports.alarms.failed(TURNS, "observe", kind, message)
        self._notify.say(STATUS=f"waiting: {message}"[:300])

    def _tell(self, turn: Turn) -> float | None:
        """Says how it stands; the seconds until the next turn, if it has to come sooner than usual."""
        left, now = turn.login_for, self._fleet.boot()
        if turn.next is not None:
            left = min(left, (turn.next[0] - self._fleet.vault.now()).total_seconds())
        if not self._announced or now - self._planned_at > PLANNED:
            self._planned_at, self._ahead = now, self._comes_first(turn)
        ahead = self._ahead
        if not self._announced:
            self._announced = True
            reporting.event("daemon.ready", policies=turn.policies, message=ahead)
        failing = f"; {turn.failing} failing" if turn.failing else ""
        at_work = f"{turn.policies} policies; {turn.running} at work"
        self._notify.say(STATUS=f"{at_work}{failing}; {ahead}{self._trouble}")
        stuck = self._fleet.stuck()
        if stuck:
            reporting.event("daemon.stuck", policies=stuck)
        return left if left < self._longest else None

    def _comes_first(self, turn: Turn) -> str:
        """Which rotation is next; where not every record was read, how long there is none for sure."""
        fleet, board = self._fleet, self._fleet.reports.board
        mine = fleet.of_shard(self._shard)
        comes, words = None, "next is {} at {:%Y-%m-%dT%H:%M:%SZ}"
        if not board.unknown(mine):
            comes = first(board.known(mine), fleet.vault.now())
        elif turn.next is not None:
            words, comes = "nothing is due before {1:%Y-%m-%dT%H:%M:%SZ}", turn.next
        return "nothing is due" if comes is None else words.format(comes[1], comes[0])

    # what the main thread looks after

    def look_after(self, *, reload: bool) -> None:
        """Loads the policies anew if they are to be, and wakes a scheduler that waits for a clock that was set back."""
        boot = self._fleet.boot()
        if boot - self._look_at_files >= LOOK_AT_FILES:
            self._look_at_files = boot
            reload = self._files.changed() or reload
        if reload and not self._fleet.stopping.is_set():
            self._reload()
        self.wake(self._longest)

    def _reload(self) -> None:
        """All or nothing: the last good policies stay while there is anything wrong with the new ones."""
        self._notify.reloading()
        try:
            policies = self._load()
        except BadInput as error:
            text = "; ".join(str(problem) for problem in error.problems)
            self._trouble = (
                f"; the policies changed and cannot be used: {len(error.problems)} errors"
            )
            reporting.event(
                "daemon.reload_failed", error=error.kind, message=text, errors=len(error.problems)
            )
            self.pulse.reload_trouble = text
            self._fleet.reports.alarms.failed(POLICIES, "load", error.kind, text)
        else:
            self._trouble = self.pulse.reload_trouble = ""
            self._fleet.reports.alarms.works(POLICIES)
            self._announced = False
            self._fleet.load(policies)
            reporting.event("daemon.reloaded", policies=len(policies))
        self._notify.say(READY=1, STATUS=f"{len(self._fleet.policies)} policies{self._trouble}")
        self.wake()
