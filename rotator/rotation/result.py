"""What a run did to one policy: what is printed of it, and what exit codes are made of.

The rules: whatever was not done, or only half, is in it; no value is, nor what others have said.

Keeps: never silent (4), never leaked (5).
"""

from __future__ import annotations

import traceback
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from rotator.errors import Failure, RotatorError
from rotator.journal import PreviousKey, Record
from rotator.policy import Policy
from rotator.retiring import previous
from rotator.run import Run
from rotator.run.outcome import Word


class Cause(NamedTuple):
    """Why a policy failed: the kind of error, which the runbook explains, and what there is to say of it."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: RotatorError) -> Cause:
        """That error, as it is told."""
        return cls(error.kind, str(error))


class Published(NamedTuple):
    """A destination that shows the key, and since which version."""

    mount: str
    path: str
    version: int


class Result(NamedTuple):
    """What a run did to one policy."""

    policy: str
    outcome: Word
    user_id: int | None = None
    key_id: int | None = None
    previous_key_id: int | None = None
    # What this account does with a replaced key.
    previous_key: PreviousKey | None = None
    # When the replaced key is to end.
    previous_key_until: datetime | None = None
    published: tuple[Published, ...] = ()
    started_at: datetime | None = None
    duration_s: float = 0.0
    phase: str | None = None
    error: Cause | None = None
    warnings: tuple[str, ...] = ()
    # Rotated, but a key is not retired: exit 1.
    failed_retiring: bool = False
    # Who holds the claim, and until when.
    busy: str | None = None
    # Failed by what may pass by itself.
    transient: bool = False
    # Not done, or not to its end: the process was told to stop.
    stopped: bool = False
    # False: not even looked at.
    begun: bool = True

    @property
    def bad(self) -> bool:
        """Whether this result makes the command's exit code 1."""
        return self.outcome == "failed" or self.failed_retiring

    def failed(self, phase: str, cause: Cause) -> Result:
        """The same, but that has failed, whatever else was done."""
        return self._replace(outcome="failed", phase=phase, error=cause)

    def unretired(self, message: str) -> Result:
        """The same, but a key is not retired that was to be."""
        return self.warning(message)._replace(failed_retiring=True)

    def warning(self, *texts: str) -> Result:
        """The same, with those warnings beside its own."""
        return self._replace(warnings=self.warnings + texts)

    def standing(self, policy: Policy, record: Record) -> Result:
        """The same, with the key that the policy's record says is published, and what becomes of the one before."""
        held = record.current
        return self._replace(
            user_id=held.user_id if held else None,
            key_id=held.key_id if held else None,
            previous_key=previous.answer(policy, record),
            previous_key_until=previous.ends_at(policy, record),
        )


def result_of(run: Run, word: Word) -> Result:
    """What the run has done, under that word."""
    published = tuple(Published(*place, version) for place, version in run.outcome.versions.items())
    warnings = tuple(run.outcome.warnings)
    result = Result(run.policy.name, word, published=published, warnings=warnings)
    if run.sight.stored is None:
        return result
    record = run.sight.stored.record
    result, settled = result.standing(run.policy, record), record.settled()
    if word == "retired":
        return result._replace(key_id=run.outcome.ended[0])
    if run.outcome.word is not None and settled is not None:
        return result._replace(previous_key_id=settled.previous_key_id)
    return result


def faulty(policy: Policy, phase: str, fault: Exception) -> Result:
    """The result of a policy where something went wrong that nobody expected: its own, and no other's."""
    error = fault if isinstance(fault, RotatorError) else unexpected(fault)
    return Result(policy.name, "failed", phase=phase, error=Cause.of(error))


def unexpected(fault: Exception) -> Failure:
    """Our words for an exception that nobody expected: its class and place; its text may quote anything."""
    place = traceback.extract_tb(fault.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return Failure(
        f"{type(fault).__name__} at {where}: a fault of rotator, please report it",
        kind="rotator.Fault",
    )
