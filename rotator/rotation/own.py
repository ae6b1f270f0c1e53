"""The rotator's own key: a rotation of it must not cut the rotator off."""

from __future__ import annotations

from rotator.errors import Permanent
from rotator.journal import Caller
from rotator.policy import WAY_BACK
from rotator.rotation.run import Run


def check(run: Run) -> None:
    """Raises Permanent if this rotation would cut the rotator off: its own key, read from where nothing updates it."""
    own = run.world.own_key()
    if own is None:
        return  # a login: not touched by a new key
    fingerprint, caller = run.record.fingerprint(own), run.record.caller
    if caller is None or caller.fingerprint != fingerprint:
        me = run.patiently(lambda: run.account.who_am_i(run.within()))
        caller = Caller(fingerprint=fingerprint, user_id=me.user_id)
        run.note(run.record.change(caller=caller))
    if caller.user_id not in run.policy.users:
        return
    here = {(to.mount, to.path, to.field) for to in run.policy.destinations}
    if run.world.own_key_from not in here:
        raise Permanent(
            f"user {caller.user_id} is the rotator's own user, but its key does not come from what this policy "
            "publishes: set ROTATOR_ECGRID__API_KEY_VAULT to "
            f"{run.main.mount}/{run.main.path}#{run.main.field}. Nothing was issued",
            kind="policy.OwnKey",
        )
    if not run.world.has_login and len(run.policy.users) < 2:
        raise Permanent(
            f"{WAY_BACK}. Nothing was issued",
            kind="policy.OwnKey",
        )
