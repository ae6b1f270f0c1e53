"""THE PAGE: the rotation, whole.

    observe -> claim -> issue -> stage | read back | probe -> publish -> settle -> (after the grace) retire

`run`, `rotate`, `rollback`, `adopt`, repair and recovery are this one function: look, choose by what is open in the
record, whose it is, and what the run has in hand, act, look again. Why it is safe: each module says.
Keeps: never lost (1), never unverified (2), never twice (3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, assert_never

from rotator.errors import FenceLost
from rotator.inventory import drift
from rotator.replacing import (
    beginning,
    claiming,
    finding,
    issuing,
    proving,
    publishing,
    rolling,
    telling,
)
from rotator.retiring import debts, previous, strays
from rotator.run import Run, restoring
from rotator.run.hand import Nothing, Proved, Shown, Unproved, Unseen
from rotator.vault import StaleRead


class Step(NamedTuple):
    """One line of the page: in that phase do this, when that holds; if `once`, once in a run."""

    phase: str
    do: Callable[[Run], None]
    when: Callable[[Run], bool] = lambda _run: True
    once: bool = False


ALWAYS = (
    # Vault showed an older version to the end than this process has written; or nothing is known yet, or no more.
    Step("observe", restoring.find_out, when=restoring.is_suspected),
    Step("observe", Run.observe, when=restoring.knows_nothing),
    # The process is to stop, and nothing can have been issued; or another run holds the claim: theirs to finish.
    Step("claim", beginning.stop, when=beginning.is_stopped),
    Step("claim", beginning.wait_or_leave, when=beginning.is_claimed_elsewhere),
    Step("check", drift.look, when=drift.is_asked_for),
)
NOTHING_OPEN = (
    # A back-off that is not over; else what is due, asked for, or needed. The claim proves that Vault can be written.
    Step("claim", beginning.wait, when=beginning.must_wait),
    Step("claim", rolling.claim, when=rolling.is_wanted),
    Step("claim", claiming.claim, when=beginning.is_wanted),
    # What a lost fence has left: a key that this run issued, something staged that belongs to no rotation.
    Step("settle", strays.settle_orphan, when=strays.has_orphan),
    Step("settle", strays.clear_leftover, when=strays.has_leftover),
    # What the rotation before still owes: to those who ask, to the hooks, a further destination, the replaced key.
    Step("settle", previous.ask_after, when=previous.is_to_be_asked),
    Step("hooks", telling.run_hooks, when=telling.has_hooks_due),
    Step("publish", publishing.fill, when=publishing.lacks_a_destination, once=True),
    Step("retire", debts.retire, when=debts.has_due_debts, once=True),
    Step("settle", claiming.give_back, when=claiming.is_left_over),
)


def lines(run: Run, taken: set[Step]) -> Iterator[Step]:
    """The lines that may be next, in their order, without those taken that are taken once."""
    yield from ALWAYS
    if run.record.underway is None:
        yield from (step for step in NOTHING_OPEN if not (step.once and step in taken))
    elif not run.claim.mine:
        yield Step("claim", claiming.take_over)
    else:
        # Is there a key that will do? Else ECGrid is asked for one, once. An answer that was lost is looked for first.
        match run.hand:
            case Nothing():
                yield Step("verify", rolling.go_on, when=rolling.is_open)
                yield Step("verify", finding.find, when=finding.may_find)
                yield Step("issue", issuing.issue)
            case Unseen():
                yield Step("issue", issuing.look)
            case Unproved():
                yield Step("verify", proving.prove)
            case Proved():
                yield Step("publish", publishing.publish)
            case Shown():
                yield Step("settle", publishing.settle)
            case _:
                assert_never(run.hand)


def rotate(run: Run) -> set[Step]:
    """Does everything that is to be done for one policy now; `run` tells the outcome. Returns the steps that it took.

    Raises Failure with `run.phase` set to what failed, or Busy. Whichever run comes next goes on from what is recorded.
    """
    taken: set[Step] = set()
    while True:
        try:
            while step := next((one for one in lines(run, taken) if one.when(run)), None):
                run.enter(step.phase)
                step.do(run)
                taken.add(step)
            return taken
        except FenceLost:
            run.start_again()
        except StaleRead as stale:
            run.sight.lagged(stale)
