"""What the events of a run may tell, beside which run it is: names, numbers and texts of ours."""

from __future__ import annotations

from typing import TypedDict


class Fields(TypedDict, total=False):
    """Every field that an event of a run may have, as the log shows it."""

    policy: str
    phase: str
    user_id: int | None
    key_id: int | None
    # Of an error; what went wrong, or was found.
    error: str
    message: str
    # What is begun, or was found in place of an answer; why, in the words of whoever ordered it.
    kind: str
    reason: str
    outcome: str
    # The version of the published secret, and for how long the old key may have been dead.
    version: int | None
    exposure_s: float | None
    # Of a key that was ended: why, and how that is proved.
    why: str
    proof: str
    # The request that ended another user's key.
    answer: str
    # The call that issues.
    issue: str
    # The key is in Vault's staged document.
    staged: bool
    # How ECGrid and Vault differ.
    state: str
    # A document in Vault.
    at: str
    # The failure is an older one's, whose back-off is not over.
    waits: bool
    # Before the next try.
    wait_s: float
