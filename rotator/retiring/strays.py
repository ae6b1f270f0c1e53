"""Keys that nobody will publish: one that is staged and belongs to no rotation, one that was issued under a lost fence.

The rule: each of them becomes the published key, or a debt, before it is forgotten.

Keeps: never lost (1), never silent (4).
"""

from __future__ import annotations

from rotator.retiring.ending import accepts
from rotator.run import Run


def has_leftover(run: Run) -> bool:
    """Whether something is staged and no rotation is open: it belongs to none."""
    return run.sight.staged is not None and run.sight.sync != "drifted" and run.claim.others is None


def clear_leftover(run: Run) -> None:
    """Notes a staged key that belongs to no rotation as a stray, and destroys the staged document."""
    left = run.sight.staged
    run.sight.nothing_staged()
    if left is None:
        return
    record = run.record
    if left.key is not None and not record.shows(left.key.value):
        record = record.owing(left.key.ref, "stray", run.now())
    run.claim.save(record)
    run.claim.fenced(run.world.timeout)
    run.patiently(lambda: run.world.vault.unstage(run.policy.name))
    run.claim.give_back(run.record)


def has_orphan(run: Run) -> bool:
    """Whether this run issued a key, lost its fence, and nobody has a rotation open any more."""
    return run.holding.orphan is not None


def settle_orphan(run: Run) -> None:
    """The key is the published one, or it is noted as a stray; if Vault shows a key that is refused, it is the cure."""
    orphan, record = run.holding.orphan, run.record
    if orphan is None:
        return
    # Perhaps this run's own.
    run.sight.look_at_staged()
    if record.shows(orphan.key.value):
        run.outcome.did("rotated")
    elif shows_good_key(run):
        run.claim.save(record.owing(orphan.key.ref, "stray", run.now()))
        run.claim.give_back(run.record)
    else:
        run.sight.drifted()
        key_id = record.current.key_id if record.current else None
        run.world.report("rotation.drift", key_id=key_id)
    run.holding.without_orphan()


def shows_good_key(run: Run) -> bool:
    """Whether a key is current, and the first destination shows, now, a value that ECGrid accepts."""
    value = run.sight.value_again_at(run.main)
    return run.record.current is not None and value is not None and accepts(run, value)
