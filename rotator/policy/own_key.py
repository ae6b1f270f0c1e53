"""A policy that publishes the rotator's own key: what can be seen to be wrong with it, offline."""

from __future__ import annotations

from collections.abc import Iterable

from rotator.errors import Problem
from rotator.policy.model import Policy, Sight

WAY_BACK = (
    "the rotator's own key needs a way back in, should its answer get lost: set ROTATOR_ECGRID__LOGIN and "
    "ROTATOR_ECGRID__PASSWORD, or let the policy alternate between two users"
)


def own_key_problems(
    policies: Iterable[Policy | Sight], source: tuple[str, str] | None, *, has_login: bool
) -> list[Problem]:
    """What would cut the rotator off: `source` is where the own key is read in Vault, as (MOUNT/PATH, field)."""
    problems = []
    for policy in policies:
        for to in policy.destinations:
            if to is None or source is None or f"{to.mount}/{to.path}" != source[0]:
                continue
            if to.field != source[1]:
                what = f"the rotator's own key is read from field {source[1]}, which this policy does not publish"
                problems.append(Problem(f"{policy.where}: field", what))
            elif not has_login and len(policy.users) < 2:
                problems.append(Problem(f"{policy.where}: users", WAY_BACK))
    return problems
