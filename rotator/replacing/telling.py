"""The hooks: run at least once for each rotation that was settled, whichever run comes to it.

The rule: they are told no value, and nothing that they do changes what became of the rotation.

Keeps: never silent (4), never leaked (5).
"""

from __future__ import annotations

from rotator.hooks import FAILED, after_rotation
from rotator.run import Run


def has_hooks_due(run: Run) -> bool:
    """Whether a settled rotation's hooks have not been run to their end, as far as the record knows."""
    return run.record.hooks_due is not None and run.claim.others is None


def run_hooks(run: Run) -> None:
    """Runs them under the claim, and notes what came of it; a hook that fails is a warning and changes nothing."""
    record = run.record
    due, current = record.hooks_due, record.current
    if due is None:
        return
    run.claim.save(record)
    key_id = current.key_id if current else None
    problems = after_rotation(run.policy, key_id, due, run.world.stopping)
    for problem in problems:
        run.warn(problem)
    if problems:
        run.world.report("rotation.hooks_failed", error=FAILED, message="; ".join(problems))
    else:
        run.world.report("rotation.hooks_ran")
    run.claim.give_back(run.record.change(hooks_due=None).noting_hooks(tuple(problems) or ("ok",)))
