"""The rotator's own key: a rotation of it must not cut the rotator off.

The rule: it is rotated only where the rotator reads it from what the policy publishes, and has a way back.

Keeps: never lost (1).
"""

from __future__ import annotations

from rotator.errors import Permanent
from rotator.policy import WAY_BACK
from rotator.run import Run


def check(run: Run) -> None:
    """Raises Permanent if this rotation would cut the rotator off: its own key, read from where nothing updates it."""
    own_user = run.patiently(lambda: run.world.whose.own_user(run.within()))
    if own_user is None or own_user not in run.policy.users:
        # A login is not touched by a new key, nor is another user's key.
        return
    places = {(f"{to.mount}/{to.path}", to.field) for to in run.policy.destinations}
    if run.world.own_key_from not in places:
        raise Permanent(
            f"user {own_user} is the rotator's own user, but its key does not come from what this policy "
            "publishes: set ROTATOR_ECGRID__API_KEY_VAULT to "
            f"{run.main.mount}/{run.main.path}#{run.main.field}. Nothing was issued",
            kind="policy.OwnKey",
        )
    if not run.world.has_login and len(run.policy.users) < 2:
        raise Permanent(
            f"{WAY_BACK}. Nothing was issued",
            kind="policy.OwnKey",
        )
