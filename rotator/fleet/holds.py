"""A person holds policies, and releases them: in their records, so that every rotator of the state path heeds it."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from rotator import reporting
from rotator.errors import FenceLost, RotatorError, Transient
from rotator.fleet import Fleet
from rotator.journal import HOLD, RELEASE, Hold, Past, Record
from rotator.policy import Policy
from rotator.run import CONTENDED

LONGEST = timedelta(days=90)
# Of writing a record, against others who write it.
TRIES = 20


class Answer(NamedTuple):
    """What became of the order for one policy; `hold` is what holds it from then on."""

    policy: str
    outcome: Literal["held", "released", "unchanged", "busy", "failed"]
    hold: Hold | None = None
    message: str = ""
    # Of the error.
    kind: str | None = None


def put(
    fleet: Fleet, policies: list[Policy], hold: Hold | None, by: str, *, logged: bool = True
) -> list[Answer]:
    """Puts that hold on each policy, whatever held it before; None takes it away. One that fails stops no other.

    `logged` is false where the answers are printed for whoever reads the log.
    """
    answers = []
    fleet.index.expect(policy.name for policy in policies)
    for policy in policies:
        try:
            answer = _written(fleet, policy, hold, by)
        except RotatorError as error:
            answer = Answer(policy.name, "failed", message=str(error), kind=error.kind)
        if logged and answer.outcome in ("held", "released"):
            _log(answer, by)
        answers.append(answer)
    return answers


def _log(answer: Answer, by: str) -> None:
    hold = answer.hold
    reporting.event(
        f"policy.{answer.outcome}",
        policy=answer.policy,
        by=by,
        until=f"{hold.until:%Y-%m-%dT%H:%M:%SZ}" if hold else None,
        reason=hold.reason if hold else None,
    )


def _written(fleet: Fleet, policy: Policy, hold: Hold | None, by: str) -> Answer:
    """Changes the record, by check-and-set on what was read; the run that holds a claim on it goes first.

    Its index entry is lowered before that, as before a claim, so that the next tick of everybody reads it.
    """
    vault, name = fleet.vault, policy.name
    for _ in range(TRIES):
        stored = fleet.patiently(lambda: vault.record(name))
        record = stored.record if stored else Record.new(name).change(ecgrid=fleet.whose.mark())
        claim = record.claimed_by_other("", vault.now())
        if claim is not None:
            said = f"claimed by {claim.by} until {claim.until:%Y-%m-%dT%H:%M:%SZ}"
            return Answer(name, "busy", record.hold, said)
        if hold is None and record.hold is None:
            return Answer(name, "unchanged")
        fleet.patiently(lambda: fleet.index.hold(name))
        changed = _changed(record, policy, hold, by, vault.now())
        if _saved(fleet, changed, stored.version if stored else 0):
            return Answer(name, "held" if hold else "released", hold)
    raise Transient("others keep writing the record: give the command again", kind=CONTENDED)


def _saved(fleet: Fleet, record: Record, over: int) -> bool:
    try:
        fleet.patiently(lambda: fleet.vault.save(record, over))
    except FenceLost:
        return False
    return True


def _changed(record: Record, policy: Policy, hold: Hold | None, by: str, now: datetime) -> Record:
    """The record with that hold, or without one, and a line of history about it."""
    meant = hold or record.hold
    past = Past(
        at=now,
        duration_s=0.0,
        outcome="held" if hold else "released",
        reason=meant.reason if meant else "",
        by=by,
        run=secrets.token_hex(8),
        user_id=record.current.user_id if record.current else policy.users[0],
        what=HOLD if hold else RELEASE,
    )
    return record.change(hold=hold, nonce=secrets.token_hex(8)).remembering(past)
