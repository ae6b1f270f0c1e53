"""A Vault that was set back: what it shows is older than this process has written, and still so at the deadline.

A standby that lags shows that too. A check-and-set on the version that was read tells them apart: only a Vault that
was restored from a backup accepts it. The rule: until that is known nothing else is done, and afterwards it is looked
whether Vault holds what ECGrid accepts.

Keeps: never lost (1), truth is outside (6).
"""

from __future__ import annotations

from rotator.errors import Mismatch, Transient
from rotator.run.run import Run
from rotator.vault import Document, StaleRead, Stored


def is_suspected(run: Run) -> bool:
    """Whether a read stayed stale to the end."""
    return run.sight.stale is not None


def knows_nothing(run: Run) -> bool:
    """Whether the record is still to be read, or to be read anew."""
    return run.sight.stored is None


def find_out(run: Run) -> None:
    """Tries that check-and-set, under the claim: what was read counts then, and drift is looked for.

    Raises Transient if it is not accepted, or if another run holds the claim. Where nothing is read, nothing is
    written: that it is gone counts from now on, since every act on it needs a check-and-set all the same.
    """
    stale = run.sight.stale
    run.sight.lagged(None)
    if stale is None:
        return
    record_at = run.world.vault.record_at(run.policy.name)
    if stale.at == record_at:
        run.set_aside()
    if stale.document is None:
        run.world.vault.kv.forget(stale.at)
    elif stale.at == record_at:
        claim_over(run, run.world.vault.stored(stale.document, record_at), stale)
    else:
        write_over(run, stale.document, stale)
    run.sight.doubt()
    run.patiently.allow(run.world.deadline)
    run.warn(
        "Vault was restored from a backup: it shows older versions than were written, and drift is checked"
    )
    run.world.report("vault.restored", at=str(stale.at))


def claim_over(run: Run, stored: Stored, stale: StaleRead) -> None:
    """Claims over the record as it was read."""
    run.sight.believe(stored)
    leave_to_others(run, stale)
    run.claim.save(stored.record)
    run.claim.give_back(run.record)


def write_over(run: Run, document: Document, stale: StaleRead) -> None:
    """Writes a secret over itself, unchanged; where this run has no claim yet, takes one for it."""
    leave_to_others(run, stale)
    held = run.claim.mine
    if not held:
        run.claim.save(run.record)
    run.claim.fenced(run.world.timeout)
    refused = False
    try:
        run.world.vault.put(stale.at, document.data, document.version)
    except (Mismatch, Transient):
        refused = True
    if not held:
        run.claim.give_back(run.record)
    if refused:
        raise Transient(str(stale), kind=stale.kind)


def leave_to_others(run: Run, stale: StaleRead) -> None:
    """Raises Transient if another run holds the claim: then it is that run's to find out."""
    if run.claim.others is not None:
        raise Transient(str(stale), kind=stale.kind)
