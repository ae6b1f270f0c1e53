"""A policy that was renamed takes its record along, and a rotation that was open under the old name with it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from rotator.errors import FenceLost, Permanent, RotatorError
from rotator.journal import Claim, Record
from rotator.policy import Policy
from rotator.vault import Stored, Vault

CLAIM = timedelta(minutes=3)


def take_over(
    vault: Vault, policy: Policy, old: str, lower: Callable[[], None] = lambda: None
) -> None:
    """Makes the record of a renamed policy this one's; raises RotatorError if that cannot be done safely.

    The old record is claimed first, so that nobody rotates under the old name meanwhile, and destroyed last, over the
    very version that was claimed: until then the command can be given again. What is staged goes before the record,
    so that the new name never has an open rotation without its key. `lower` lowers its index entry.
    """
    stored = _free(vault, old)
    holder = secrets.token_hex(8)
    mine = _claimed(vault, stored, holder)
    try:
        lower()
        _move(vault, policy, stored)
        # By check-and-set: nobody has taken it over.
        mine = _claimed(vault, mine, holder)
    except RotatorError:
        with suppress(RotatorError):
            vault.save(stored.record.change(nonce=secrets.token_hex(8)), mine.version)
        raise
    vault.kv.destroy(vault.record_at(old))


def would_take_over(vault: Vault, policy: Policy, old: str) -> str:
    """What `take_over` would do, in words; raises as it does, and changes nothing."""
    stored = _free(vault, old)
    vault.require([policy])
    _before(vault, policy, stored)
    open_too = ", with the rotation that is open" if stored.record.underway is not None else ""
    return f"would take over the record of {old}{open_too}, and destroy {vault.record_at(old)}"


def _free(vault: Vault, old: str) -> Stored:
    """The old record, which nobody is at work on."""
    stored = vault.record(old)
    if stored is None:
        raise _no_record(
            f"policy {old} has no record to take over: `rotator check` lists those without a policy"
        )
    claim = stored.record.claimed_by_other("", vault.now())
    if claim is not None:
        raise _no_record(
            f"policy {old} is claimed by {claim.by} until {claim.until:%Y-%m-%dT%H:%M:%SZ}: give the command again then"
        )
    return stored


def _claimed(vault: Vault, stored: Stored, holder: str) -> Stored:
    """The old record under this command's claim, by check-and-set."""
    claim = Claim(holder=holder, by="`adopt --from`", until=vault.now() + CLAIM)
    changed = stored.record.change(claim=claim, nonce=secrets.token_hex(8))
    try:
        return vault.save(changed, stored.version)
    except FenceLost:
        pass
    raise _no_record(
        f"another run is at work on policy {stored.record.policy}: give the command again when it is done"
    )


def _move(vault: Vault, policy: Policy, stored: Stored) -> None:
    """Copies what is staged, then the record, and marks the secrets."""
    old, taken = stored.record.policy, stored.record.change(policy=policy.name, claim=None)
    before = _before(vault, policy, stored)
    new = before is None or before.record.is_blank
    if before is not None and new and before.record.hold is not None:
        taken = taken.change(hold=before.record.hold)
    staged, name = vault.staged(old), policy.name
    if before is None or new or before.version == 1:
        if staged is not None and staged.key is not None:
            over = vault.staged(name)
            vault.stage(name, staged.run, "adopt --from", staged.key, over.version if over else 0)
        vault.save(taken.change(nonce=secrets.token_hex(8)), before.version if before else 0)
    if staged is not None:
        vault.unstage(old)
    if taken.current is not None:
        rotated_at = taken.rotated_at or vault.now()
        for to in policy.destinations:
            vault.mark(to, policy.name, taken.current.ref, rotated_at)


def _before(vault: Vault, policy: Policy, stored: Stored) -> Stored | None:
    """The record that the new name has already; raises Permanent if that has a life of its own."""
    old, before = stored.record.policy, vault.record(policy.name)
    if before is not None and not before.record.is_blank and _moved_on(before, stored.record):
        raise _no_record(
            f"policies {old} and {policy.name} both have a record, and both have gone on since: `rotator history` "
            f"shows them. Delete the record of {old} with all its versions if {policy.name} is the one that is used"
        )
    return before


def _moved_on(before: Stored, taken: Record) -> bool:
    """Whether a record under the new name is no copy that an earlier try of this command has left."""
    if before.record.hmac_key != taken.hmac_key:
        return True
    known = {past.run for past in before.record.history}
    return before.version > 1 and any(past.run not in known for past in taken.history)


def _no_record(text: str) -> Permanent:
    return Permanent(text, kind="policy.NoRecord")
