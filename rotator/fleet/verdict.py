"""May this one ask ECGrid for a key now? From facts about everybody, without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import NamedTuple

from rotator.journal import WATCH, Record, Underway
from rotator.run.right import BRAKED, MASS_DRIFT, For

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(minutes=5)
# That a record counts which no policy here names.
NOBODYS = timedelta(hours=1)
# Of the policies that were checked lately, from which on drift is everybody's.
TENTH = 10
# Policies in trouble, from which on a small fleet is braked.
LEAST = 2
REPAIR = "`rotator check --repair NAME` repairs what it names"
# Policies that a message names.
NAMED = 5


class Verdict(NamedTuple):
    """Whether the right is given; `soon`: it may be before long, for others only have to end; else why not."""

    go: bool
    soon: bool = False
    why: str = ""
    kind: str = BRAKED


GO = Verdict(go=True)


class Trouble(NamedTuple):
    """A policy that may have a key that nobody has: since when; how many runs failed; whether it asked again.

    `asked`: when it asked for a key last; None: then, too. A run that could only look, and failed, asked for none.
    `retry_at`: when its back-off is over.
    """

    since: datetime
    attempts: int = 1
    asked_again: bool = False
    asked: datetime | None = None
    retry_at: datetime | None = None

    @property
    def tried_at(self) -> datetime:
        """When a key was asked for last."""
        return self.asked or self.since

    @property
    def in_vain(self) -> bool:
        """Whether it was tried again, and failed again."""
        return self.asked_again and self.attempts > 1


class Facts(NamedTuple):
    """What the brake judges by.

    `begun`: runs of this process with the right to issue, each with what it is for; `unresolved`: those whose answer
    was lost, and that go on; `looking`: those at work on a policy in trouble. `again_at`: nobody tries before.
    `before`: in doubt since before this process began, and not known to be in trouble: whoever asked may be gone.
    `waiting`: somebody who is due was held back a moment ago. `tried`: the single one that went last was in trouble;
    `worked`: since any of them asked for a key, one was published. `mass_drift`: why nothing is issued for drift.
    """

    now: datetime
    # Policies in trouble, from which on it brakes; 0: it never does.
    limit: int
    at_once: int
    trouble: Mapping[str, Trouble]
    begun: Mapping[str, For]
    unresolved: frozenset[str] = frozenset()
    looking: frozenset[str] = frozenset()
    again_at: datetime | None = None
    # In doubt, whoever is at work on them.
    doubtful: int = 0
    before: frozenset[str] = frozenset()
    waiting: bool = False
    tried: bool = False
    worked: bool = False
    mass_drift: str = ""

    @property
    def braked(self) -> bool:
        """Whether issuing goes one at a time."""
        return 0 < self.limit <= len(self.trouble) + len(self.before)

    @property
    def is_alarming(self) -> bool:
        """The same, and not for those alone whom another rotator may be at work on."""
        return 0 < self.limit <= len(self.trouble)


def decide(who: str, what: For, facts: Facts) -> Verdict:
    """Whether that policy may ask ECGrid for a key now."""
    others = facts.begun.keys() - {who}
    adds = what != "again" and who not in facts.unresolved
    if adds and len(others | facts.unresolved) >= facts.at_once:
        return Verdict(go=False, soon=True, why="as many rotations as may are at work")
    if what == "repair":
        if facts.mass_drift:
            return Verdict(go=False, why=facts.mass_drift, kind=MASS_DRIFT)
        if any(facts.begun[name] == "repair" for name in others):
            return Verdict(go=False, soon=True, why="repairs that issue go one at a time")
    return _one_at_a_time(who, others, facts) if facts.braked else GO


def _one_at_a_time(who: str, others: AbstractSet[str], facts: Facts) -> Verdict:
    """The brake is on: one in trouble whose back-off is over, else one that is due."""
    why = said_of(facts)
    if others:
        return Verdict(go=False, soon=True, why=why)
    if facts.again_at is not None and facts.now < facts.again_at:
        return Verdict(go=False, why=f"{why}; tried again at {facts.again_at:%Y-%m-%dT%H:%M:%SZ}")
    has_its_turn = who in facts.begun or (who in facts.trouble) is not is_turn_of_the_due(facts)
    if who in facts.trouble:
        return GO if has_its_turn else Verdict(go=False, soon=True, why=why)
    if is_full(facts):
        return Verdict(go=False, why=why)
    waits = facts.looking - {who} and not has_its_turn
    return Verdict(go=False, soon=True, why=why) if waits else GO


def is_turn_of_the_due(facts: Facts) -> bool:
    """Whether one that is due comes before those in trouble, since one of them was tried last, here or elsewhere.

    So those that are stuck, or broken for themselves, slow the others down, and never stop them.
    """
    last = max(facts.trouble.values(), key=lambda one: one.since, default=None)
    failed_again = last is not None and last.attempts > 1
    return facts.waiting and (facts.tried or failed_again) and not is_full(facts)


def is_full(facts: Facts) -> bool:
    """Whether no further policy may come into doubt: not before one works, or all were asked for anew, in vain."""
    if facts.worked or max(len(facts.trouble), facts.doubtful) < facts.limit + facts.at_once:
        return False
    # Nobody has looked what became of those from before.
    return bool(facts.before) or not all(one.in_vain for one in facts.trouble.values())


def pause_after(failures: int) -> timedelta:
    """How long nobody issues after so many single attempts in a row that failed."""
    return (
        min(FIRST_PAUSE * 2 ** min(failures - 1, 10), LONGEST_PAUSE) if failures else timedelta(0)
    )


def asked_at(record: Record, underway: Underway) -> datetime:
    """When a key was asked for last for the open rotation: by its first request, or by one more after a lost answer."""
    more = record.watch_until - WATCH if record.watch_until is not None else underway.began
    return max(underway.began, more)


def limit_of(setting: int, policies: int) -> int:
    """B: the setting or half of the policies, whichever is less, at least 2; 0: no brake."""
    return max(LEAST, min(setting, policies // 2)) if setting else 0


def is_mass(drifted: int, checked: int, limit: int) -> bool:
    """Whether so many drifted, of all that were checked lately, that it is no trouble of theirs."""
    return 0 < limit <= drifted and drifted * TENTH > checked


def said_of(facts: Facts) -> str:
    """The cause, for a person."""
    names = sorted(facts.before.union(facts.trouble))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"{len(names)} policies are in doubt ({', '.join(names[:NAMED])}{more}): keys may have been made for them that "
        "nobody has. Issuing goes one at a time until some of them are well"
    )
