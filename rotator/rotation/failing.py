"""How a run that fails leaves the record: the failure with its back-off noted, and the claim given back.

The rules: a rotation for which something may have been issued stays open; one for which surely nothing was is closed;
what was only held back leaves nothing but that; and a record that another run has claimed is theirs to write.

Keeps: never lost (1), never silent (4).
"""

from __future__ import annotations

from rotator.errors import FenceLost, HeldBack, RotatorError
from rotator.journal import changes
from rotator.replacing.beginning import Waits
from rotator.run import Run, evidence
from rotator.run.hand import is_counted, may_have_asked
from rotator.secrecy.sinks import scrub

# In the history: the process was told to stop.
STOPPED = "stopped"
# Seconds beyond the deadline for recording a failure.
LAST_WORDS = 2.0


def record(run: Run, error: RotatorError) -> None:
    """Notes the failure and its back-off, and gives the claim back.

    What was held back neither failed anew, nor is it history. But if the answer to an issuing request was lost before,
    that is the failure.
    """
    if leaves_no_trace(run, error):
        return
    failure = run.lost if isinstance(error, HeldBack | Waits) else error
    if failure is None:
        if run.claim.mine:
            close_unissued(run, None)
        return
    if run.phase != "retire":
        note(run, failure)
    elif not run.claim.mine:
        # The debts keep it.
        return
    close_unissued(run, failure.kind)


def leaves_no_trace(run: Run, error: RotatorError) -> bool:
    """Whether nothing is known of the record, or it is others' now; or a rollback has found no way back."""
    if run.sight.stored is None or isinstance(error, FenceLost):
        return True
    return run.order.what == "rollback" and run.holding.began is None


def note(run: Run, error: RotatorError) -> None:
    """The failure, with when it is tried again: written with the next change of the record."""
    failed = changes.failed(
        run.record,
        run.now(),
        phase=run.phase,
        kind=error.kind,
        message=scrub(str(error)[:500], "record"),
        digest=run.policy.digest,
        may_have_issued=may_have_asked(run.hand),
        wish=getattr(error, "retry_after", None),
    )
    run.sight.note(failed)


def close_unissued(run: Run, error: str | None) -> None:
    """Gives the claim back; a rotation for which surely nothing was issued is closed, any other stays open.

    `error` is for the history; None: nothing to remember.
    """
    if not may_write(run):
        return
    record, closes = run.record, is_surely_unissued(run)
    if closes:
        record = changes.closed(record, counted=is_counted(run.hand))
    if error is not None and (closes or error != STOPPED):
        record = evidence.failed(run, record, error)
    run.patiently.allow(LAST_WORDS)
    try:
        run.claim.give_back(record)
    except RotatorError as trouble:
        # Also an order to stop, while it waited for Vault.
        run.world.report(
            "rotation.failure_not_recorded", policy=run.policy.name, error=trouble.kind
        )


def may_write(run: Run) -> bool:
    """Whether the record is this run's to write: it has the claim; or nobody has, and there was one before."""
    if run.claim.mine:
        return True
    stored = run.sight.stored
    return stored is not None and stored.version > 0 and stored.record.claim is None


def is_surely_unissued(run: Run) -> bool:
    """Whether a rotation is open, and nothing can have been made or staged for it. A rollback issues nothing."""
    underway = run.underway
    if underway is None or underway.sent > 1 or underway.kind == "rollback":
        return False
    return not may_have_asked(run.hand) and run.sight.staged is None
