"""A policy that was renamed takes its record along."""

from __future__ import annotations

from rotator.errors import Permanent
from rotator.policy import Policy
from rotator.vault import Vault


def take_over(vault: Vault, policy: Policy, old: str) -> None:
    """Makes the record of a renamed policy this one's; raises Failure if that cannot be done safely.

    The new record is written first, where none may be, then the secrets are marked, and only then the old record
    is destroyed: until then the command can be given again.
    """
    there, now = vault.record(old), vault.now()
    if there is None:
        raise Permanent(
            f"policy {old} has no record to take over: `rotator check` lists those without a policy",
            kind="policy.NoRecord",
        )
    claim = there.record.claimed_by_other("", now)
    if there.record.underway or claim:
        by = f"claimed by {claim.by}" if claim else "not finished"
        raise Permanent(
            f"a rotation of policy {old} is open ({by}): let it be finished under its old name first",
            kind="policy.NoRecord",
        )
    taken = there.record.change(policy=policy.name, claim=None)
    mine = vault.record(policy.name)
    by_an_earlier_try = mine is not None and mine.record.hmac_key == taken.hmac_key
    if not by_an_earlier_try:
        vault.save(taken, 0)
    if taken.current is not None:
        for to in policy.destinations:
            vault.mark(to, policy.name, taken.current.ref, taken.rotated_at or now)
    vault.kv.destroy(vault.record_at(old))
