"""`--dry-run` over many policies: what would come of each task, with everybody asked and nobody told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rotator.ecgrid import Urgency
from rotator.errors import HeldBack, RotatorError
from rotator.fleet.crew import Task
from rotator.fleet.rights import Rights
from rotator.keys import Issue, Verify
from rotator.policy import Policy
from rotator.rotation import Result, would
from rotator.threads import Hands

if TYPE_CHECKING:
    from rotator.fleet import Fleet

# Seconds for the question whether ECGrid is there.
WITHIN = 10.0


def try_all(fleet: Fleet, policies: list[Policy], tasks: list[Task]) -> list[Result]:
    """What would come of the tasks; of all policies, where this is not their ECGrid.

    Nothing of it is sent to ECGrid or written in Vault. ECGrid is asked once, before all others, who the rotator is, so
    that no policy waits for one that is not there.
    """
    try:
        fleet.server.sure_of_time()
        if tasks:
            account = fleet.ecgrid.account(Issue.CREATE_KEY, Verify.GET_KEY, Urgency.ROTATION)
            account.who_am_i(WITHIN)
        fleet.whose.require(policies)
    except RotatorError as error:
        others = isinstance(error, HeldBack)
        return fleet.not_seen(policies if others else [task.policy for task in tasks], error)
    hands = Hands(fleet.settings.concurrency, "try")
    try:
        results = hands.map(lambda task: would(fleet.run_of(task.policy, task.order)), tasks)
    finally:
        hands.close()
    fleet.rights.refresh()
    in_turn = sorted(zip(tasks, results, strict=True), key=lambda pair: pair[0].urgency)
    held = {result.policy: _held_back(task, result, fleet.rights) for task, result in in_turn}
    return [held[result.policy] for result in results]


def _held_back(task: Task, result: Result, rights: Rights) -> Result:
    """The result, with what the brake, or ROTATOR_MAX_PER_RUN, would say to a task that would begin."""
    result = result.warning(*task.warnings)
    if task.check and result.outcome == "unchanged":
        return result._replace(outcome="not-due")
    held = rights.would_hold_back(task) if result.outcome == "would-rotate" else None
    if held is None:
        return result
    warned = result.warning(*held.warnings)
    return warned._replace(outcome=held.outcome, phase=held.phase, error=held.error)
