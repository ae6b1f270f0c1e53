"""THE PAGE: the rotation, whole.

    observe -> claim -> issue -> stage | read back | probe -> publish -> settle -> (after the grace) retire

`run`, `rotate`, `adopt`, repair and the recovery of whatever was interrupted are this one function: read what is
recorded, do the next thing, record it, until nothing is left to do. What is next is decided from the record, the
staged document and the published secret alone, so it does not matter which process did the step before, or died in
it. Each predicate below is asked anew after each step; the first that holds names the next.

What makes it safe is said where it is done: `run.py` (fence, patience, check-and-set), `claiming.py`,
`issuing.py` (and looking after a lost answer), `proving.py`, `publishing.py` (and settling), `retiring.py`,
`finding.py` (adoption and repair), `restoring.py` (a Vault that was set back), and `drift.py` (what counts as in
sync).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rotator.errors import FenceLost
from rotator.rotation import (
    claiming,
    drift,
    due,
    finding,
    issuing,
    previous,
    proving,
    publishing,
    restoring,
    retiring,
    telling,
)
from rotator.rotation.run import Run
from rotator.vault import StaleRead


class Step(NamedTuple):
    """One line of the page: in that phase, when this holds, do that."""

    phase: str
    when: Callable[[Run], bool]
    do: Callable[[Run], None]


STEPS = (
    # Vault showed an older version to the end than this process has written: was it restored from a backup?
    Step("observe", restoring.is_suspected, restoring.find_out),
    # Nothing is known yet, or all of it was overtaken.
    Step("observe", restoring.knows_nothing, Run.observe),
    # The process is to stop, and nothing can have been issued.
    Step("claim", due.is_stopped, due.stop),
    # Another run holds the claim: theirs to finish. After a lost fence, wait for them.
    Step("claim", due.is_claimed_elsewhere, due.wait_or_leave),
    # A rotation is open whose run is gone: take its claim over and go on where it stopped.
    Step("claim", due.is_abandoned, claiming.take_over),
    # The drift check: asked for, or because a request whose answer was lost may still land.
    Step("check", drift.is_asked_for, drift.look),
    # The last failure's back-off is not over: failed again, until then.
    Step("claim", due.must_wait, due.wait),
    # Nothing is open, and a rotation is due, asked for, or needed: the claim is the proof that Vault can be written.
    Step("claim", due.is_wanted, claiming.claim),
    # Vault shows the new key already.
    Step("settle", publishing.is_published, publishing.settle),
    # Staged, read back and probed: show it, by check-and-set on the version that was observed.
    Step("publish", proving.is_verified, publishing.publish),
    # The value is known: stage it, read it back and probe it, side by side.
    Step("verify", proving.has_key, proving.prove),
    # Adoption and repair: is there a key that will do?
    Step("verify", finding.may_find, finding.find),
    # An issuing request may have been carried out unseen: look before anything is issued again.
    Step("issue", issuing.must_look, issuing.look),
    # ECGrid is asked for a key, once.
    Step("issue", issuing.may_issue, issuing.issue),
    # This run issued a key under a fence that it lost: published, or noted as a stray, before it ends.
    Step("settle", retiring.has_orphan, retiring.settle_orphan),
    # Something is staged that belongs to no rotation.
    Step("settle", retiring.has_leftover, retiring.clear_leftover),
    # What became of the replaced key is not known yet for this policy.
    Step("settle", previous.is_to_be_asked, previous.ask_after),
    # The hooks of a settled rotation, which wait for no further destination.
    Step("hooks", telling.has_hooks_due, telling.run_hooks),
    # A further destination lacks the key.
    Step("publish", publishing.lacks_a_destination, publishing.fill),
    # A replaced key has outlived its grace, or a stray is known.
    Step("retire", retiring.has_due_debts, retiring.retire),
    # Nothing is left to do, and a claim is still held, since its fence was lost on the way: it is given back.
    Step("settle", claiming.is_left_over, claiming.give_back),
)


def rotate(run: Run) -> None:
    """Does everything that is to be done for one policy now; `run` tells the outcome.

    Raises Failure with `run.phase` set to the phase that failed, or Busy if another rotator holds the claim. What was
    done until then is recorded, and the next run goes on from there.
    """
    while True:
        try:
            while step := next((step for step in STEPS if step.when(run)), None):
                run.phase = step.phase
                step.do(run)
            return
        except FenceLost:
            run.start_again()
        except StaleRead as stale:
            run.stale = stale
