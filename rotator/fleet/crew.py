"""Who is at work on what: so many policies at once, each by one thread at a time, the most urgent next."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from rotator.errors import Failure
from rotator.policy import Policy
from rotator.rotation import Cause, Order, Result
from rotator.threads import begin

# Drift checks at once, beside the rotations, so that neither holds up the other.
CHECKERS = 2


@dataclass
class Task:
    """An order for one policy; `future` has its result once it is done.

    `issues`: it begins with a new key, so it may be held back; a place is kept for such. `alone`: nothing else runs
    beside it. `stuck`: its rotation is open and failed; such take at most half of the places, also while they rest.
    """

    policy: Policy
    order: Order
    urgency: tuple[int, float] = (0, 0.0)
    issues: bool = False
    overdue: bool = False
    check: bool = False
    alone: bool = False
    stuck: bool = False
    warnings: tuple[str, ...] = ()
    future: Future[Result] = field(default_factory=Future)
    # Decides among equally urgent ones.
    lot: float = field(default_factory=random.random)


class Crew:
    """The threads of a fleet. `may_begin` is asked under the lock, as the last thing before a task is begun.

    A thread is started when one more task may begin; where none can be had, those that are there do it later.
    """

    def __init__(
        self,
        size: int,
        carry_out: Callable[[Task], Result],
        may_begin: Callable[[Task], bool],
        done: Callable[[], None],
    ) -> None:
        """`carry_out` does a task, in one of the threads; `done` is called whenever one has ended."""
        self._size, self._carry_out, self._may_begin, self._done = size, carry_out, may_begin, done
        # As many may rest as are at work.
        self._most = 2 * size + CHECKERS
        self._begun: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._threads = 0
        self._mine = threading.local()
        self._changed = threading.Condition()
        self._pending: list[Task] = []
        self._running: dict[str, Task] = {}
        self._resting: set[str] = set()

    @property
    def running(self) -> int:
        """How many policies are worked on now."""
        return len(self._running)

    def names(self) -> set[str]:
        """The policies that are worked on, or will be."""
        with self._changed:
            return {*self._running, *(task.policy.name for task in self._pending)}

    def put(self, tasks: Iterable[Task]) -> None:
        """Adds tasks for policies that have none; those that may begin do so, the most urgent first.

        Raises Failure, and keeps none, if not a single thread can be had.
        """
        with self._changed:
            busy = {*self._running, *(task.policy.name for task in self._pending)}
            self._pending += [task for task in tasks if task.policy.name not in busy]
            self._pending.sort(key=lambda task: (not task.alone, task.urgency, task.lot))
            try:
                if self._pending:
                    self.ready()
            except Failure:
                self._pending = []
                raise
            self._fill()

    def ready(self) -> None:
        """Sees to it that there is a thread; raises Failure if not a single one can be had."""
        with self._changed:
            if not self._threads:
                self._start()

    def _start(self) -> None:
        begin(self._work, "rotation", daemon=False)
        self._threads += 1

    def _hand_is_free(self) -> bool:
        if len(self._running) == self._threads:
            try:
                self._start()
            except Failure:
                return False
        return True

    def _fill(self) -> None:
        for task in list(self._pending):
            if any(running.alone for running in self._running.values()):
                return
            if task.alone and self._running:
                return
            if self._has_room(task) and self._hand_is_free() and self._may_begin(task):
                self._pending.remove(task)
                self._running[task.policy.name] = task
                self._begun.put(task)

    def _has_room(self, task: Task) -> bool:
        running = self._running.values()
        if len(running) >= (self._most if task.issues else self._most - 1):
            return False
        if task.stuck and sum(one.stuck for one in running) >= max(1, self._size // 2):
            return False
        awake = [one for name, one in self._running.items() if name not in self._resting]
        same = sum(one.check == task.check for one in awake)
        return same < (CHECKERS if task.check else self._size)

    def _work(self) -> None:
        while (task := self._begun.get()) is not None:
            self._do(task)
            del task

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Around a sleep of a task: meanwhile its place is another's. Does nothing in a thread that has no task."""
        name = getattr(self._mine, "name", None)
        if name is None:
            yield
            return
        with self._changed:
            self._resting.add(name)
            self._fill()
        try:
            yield
        finally:
            with self._changed:
                self._resting.discard(name)

    def _do(self, task: Task) -> None:
        self._mine.name = task.policy.name
        try:
            task.future.set_result(self._carry_out(task))
        except BaseException as error:  # noqa: BLE001 - whoever waits for the result shall see it
            task.future.set_exception(error)
        self._mine.name = None
        with self._changed:
            del self._running[task.policy.name]
            self._fill()
            self._changed.notify_all()
        self._done()

    def pending(self) -> list[Task]:
        """What has not begun."""
        with self._changed:
            return list(self._pending)

    def drop(self) -> list[Task]:
        """Takes back what has not begun."""
        with self._changed:
            dropped, self._pending = self._pending, []
            return dropped

    def finish(self, over: Callable[[], bool] = lambda: False) -> list[Task]:
        """Waits until nothing runs that could be waited for; returns what has not begun, and was not to.

        Once `over()` says so nothing more is begun.
        """
        left: list[Task] = []
        with self._changed:
            while self._running:
                if over():
                    left, self._pending = [*left, *self._pending], []
                self._changed.wait(0.5)
            left, self._pending = [*left, *self._pending], []
        return left

    def close(self) -> None:
        """Begins nothing more; what runs goes on."""
        self.drop()
        for _ in range(self._threads):
            self._begun.put(None)


def out_of_time(task: Task) -> Result:
    """What came of a task that was not begun before the time of its tick was over."""
    name, kind = task.policy.name, "rotation.TickDeadline"
    text = "due, but the time of one tick is over: the next one goes on; ROTATOR_ECGRID__RATE may be too low"
    if not task.overdue:
        return Result(name, "not-due", warnings=(text,), begun=False)
    return Result(name, "failed", phase="claim", error=Cause(kind, text))
