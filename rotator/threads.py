"""Threads, where there may be none: a limit on them (`ulimit -u`, TasksMax, a pids limit) must cost no key.

What is past the point of no return may not fail for want of a thread, so calls that go side by side are made one after
another where no thread can be had.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from rotator.errors import Failure

T = TypeVar("T")
R = TypeVar("R")

# How many are done.
Tell = Callable[[int], None]


def no_thread() -> Failure:
    """The failure of what cannot be done without a thread."""
    return Failure(
        "no thread can be started: this process may have no more of them. Raise its limit (`ulimit -u`, TasksMax= of "
        "the unit, the container's pids limit)",
        kind="system.NoThread",
    )


def begin(target: Callable[[], object], name: str, *, daemon: bool = True) -> threading.Thread:
    """A thread that has begun; raises Failure (`system.NoThread`) if none can be had."""
    thread = threading.Thread(target=target, name=name, daemon=daemon)
    try:
        thread.start()
        return thread
    except RuntimeError:
        pass
    raise no_thread()


class Hands:
    """Threads that lend a hand: who has several calls to make gives some away, and makes those that nobody takes."""

    def __init__(self, most: int, name: str) -> None:
        """At most `most` threads; each is started when it is first needed, or asked for."""
        self._most, self._name = most, name
        self._lock = threading.Lock()
        self._given: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._given = queue.SimpleQueue()
        self._threads, self._idle, self._closed = 0, 0, False

    def ready(self, wanted: int) -> None:
        """Sees to it that so many threads are free, as far as they can be had."""
        with self._lock:
            while self._idle < wanted and self._start():
                pass

    def together(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Makes the calls at once, the first in this thread; waits for all, then raises the first error, if any."""
        others = [(self._give(call), call) for call in calls[1:]]
        # The others ask ECGrid, which takes longest: they get to send first.
        time.sleep(0)
        ended = [_made(calls[0]) if calls else Future[Any]()]
        ended += [_made(call) if future is None else future for future, call in others]
        errors = [one.exception() for one in ended[: len(calls)]]
        for error in errors:
            if error is not None:
                raise error
        return [one.result() for one in ended[: len(calls)]]

    def map(
        self,
        call: Callable[[T], R],
        items: Iterable[T],
        tell: Tell | None = None,
        *,
        most: int | None = None,
    ) -> list[R]:
        """The answers for all items, several asked for at once; raises the first error when all is done.

        `most`: no more at once than that, so that the other hands are free for others.
        """
        numbered = list(enumerate(items))
        answers: dict[int, R] = {}
        left = iter(numbered)
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    number, item = next(left, (None, None))
                if number is None:
                    return
                answers[number] = call(item)  # type: ignore[arg-type]  # an item if there is a number
                if tell is not None:
                    tell(len(answers))

        self.together([work] * min(len(numbered), self._most if most is None else most))
        return [answers[number] for number, _ in numbered]

    def close(self) -> None:
        """Lets the threads go as they become free; what is asked for from here on goes one after another."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._given.put(None)

    def _give(self, call: Callable[[], Any]) -> Future[Any] | None:
        """Gives a call away; None if nobody takes it."""
        with self._lock:
            if self._closed or (self._idle == 0 and not self._start()):
                return None
            self._idle -= 1
        future: Future[Any] = Future()
        self._given.put((future, call))
        return future

    def _start(self) -> bool:
        if self._closed or self._threads == self._most:
            return False
        try:
            begin(self._work, self._name)
        except Failure:
            return False
        self._threads += 1
        self._idle += 1
        return True

    def _work(self) -> None:
        while (given := self._given.get()) is not None:
            future, made = given[0], _made(given[1])
            # Before anybody hears of it, who may then ask for the next at once.
            with self._lock:
                self._idle += 1
            error = made.exception()
            if error is None:
                future.set_result(made.result())
            else:
                future.set_exception(error)
            # Nothing of a call outlives it here.
            del given, future, made, error


def _made(call: Callable[[], Any]) -> Future[Any]:
    """A call that was made, with what came of it; an interruption goes its way."""
    future: Future[Any] = Future()
    try:
        future.set_result(call())
    except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
        future.set_exception(error)
    return future
