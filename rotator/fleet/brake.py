"""The brake: everybody's failure stops before it harms. It holds back issuing, and nothing else.

`decide` is the whole of it: from facts, may this one ask ECGrid for a key now? `Brake` keeps the facts: what this
process' own runs are doing, and what the records tell of everybody's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from rotator.journal import WATCH, Drift, Record, Underway
from rotator.rotation.right import BRAKED, MASS_DRIFT, Came, For
from rotator.vault import Stored

FRESH = 10.0  # seconds that what the records told is believed
FRESH_IN_TROUBLE = 1.0  # the same while somebody is in trouble, so that rotators brake together
WITNESSED = 30.0  # seconds that the verdict of a witness is
TURN_KEPT = 30.0  # seconds that somebody who was held back counts as waiting
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(minutes=5)
NOBODYS = timedelta(hours=1)  # that a record counts which no policy here names
TENTH = 10  # of the policies that were checked lately, from which on drift is everybody's
LEAST = 2  # policies in trouble, from which on a small fleet is braked
REPAIR = "`rotator check --repair NAME` repairs what it names"
NAMED = 5  # policies that a message names


class Verdict(NamedTuple):
    """Whether the right is given; `soon`: it may be before long, for others only have to end; else why not."""

    go: bool
    soon: bool = False
    why: str = ""
    kind: str = BRAKED


GO = Verdict(go=True)


@dataclass(frozen=True)
class Trouble:
    """A policy that may have a key that nobody has: since when; how many runs failed; whether it asked again.

    `asked`: when it asked for a key last; None: then, too. A run that could only look, and failed, asked for none.
    """

    since: datetime
    attempts: int = 1
    asked_again: bool = False
    asked: datetime | None = None

    @property
    def tried_at(self) -> datetime:
        """When a key was asked for last."""
        return self.asked or self.since

    @property
    def in_vain(self) -> bool:
        """Whether it was tried again, and failed again."""
        return self.asked_again and self.attempts > 1


@dataclass(frozen=True)
class Facts:
    """What the brake judges by.

    `begun`: runs of this process with the right to issue, each with what it is for; `unresolved`: those whose answer
    was lost, and that go on; `looking`: those at work on a policy in trouble. `again_at`: nobody tries before.
    `before`: in doubt since before this process began, and not known to be in trouble: whoever asked may be gone.
    `waiting`: somebody who is due was held back a moment ago. `tried`: the single one that went last was in trouble;
    `worked`: since any of them asked for a key, one was published. `mass_drift`: why nothing is issued for drift.
    """

    now: datetime
    limit: int  # policies in trouble, from which on it brakes; 0: it never does
    at_once: int
    trouble: Mapping[str, Trouble]
    begun: Mapping[str, For]
    unresolved: frozenset[str] = frozenset()
    looking: frozenset[str] = frozenset()
    again_at: datetime | None = None
    doubtful: int = 0  # in doubt, whoever is at work on them
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
    return not all(one.in_vain for one in facts.trouble.values())


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


@dataclass
class _Case:
    """What the record of a policy told, and when (boot clock) it was read."""

    read_at: float
    trouble: Trouble | None
    drift: Drift | None
    version: int
    doubtful: datetime | None = None  # since when


@dataclass
class _Mass:
    """Those that drifted together: nothing is issued for drift until half of them are well."""

    names: frozenset[str]
    over: bool = False


class Brake:
    """The facts of one process, and who has the right to issue. Safe for use by many threads."""

    def __init__(
        self,
        setting: int,
        at_once: int,
        now: Callable[[], datetime],
        boot: Callable[[], float],
        checked: Callable[[], int],
    ) -> None:
        """`checked` tells how many policies were checked for drift lately."""
        self._setting, self._at_once = setting, at_once
        self._now, self._boot, self._checked = now, boot, checked
        self._lock = threading.RLock()
        self._policies: frozenset[str] = frozenset()
        self._cases: dict[str, _Case] = {}
        self._at_work: set[str] = set()
        self._begun: dict[str, For] = {}
        self._unresolved: set[str] = set()
        self._again: set[str] = set()  # own runs that ask once more
        self._single: str | None = None
        self._tried = False
        self._failures, self._again_at = 0, None
        self._worked_at: datetime | None = None
        self._waiting: dict[str, float] = {}
        self._mass = _Mass(frozenset(), over=True)
        self._refused_at: float | None = None
        self.let_go_at: datetime | None = None
        self.named = False  # a person named the policies: no drift of others holds them back

    _again_at: datetime | None
    _since: datetime | None = None  # when this process began to read records

    # what is known

    def over(self, policies: Iterable[str]) -> None:
        """These are the policies of this fleet."""
        with self._lock:
            self._policies = frozenset(policies)

    def saw(self, policy: str, record: Record | None, version: int | None = None) -> None:
        """What a record tells; of an older version than is known (None: it is none), nothing."""
        now = self._now()
        case = _Case(self._boot(), None, None, version or 0)
        if record is not None:
            since, failed, underway = record.in_trouble(now), record.failed, record.underway
            if since is not None and underway is not None:
                failing = failed is not None and failed.at >= underway.began
                attempts = failed.attempts if failed and failing else 1
                case.trouble = Trouble(
                    since, attempts, underway.sent > 1, asked_at(record, underway)
                )
            if underway is not None and underway.sent:
                case.doubtful = asked_at(record, underway)
            if underway is None or underway.kind == "repair":
                case.drift = record.drifted
        with self._lock:
            self._since = self._since or now
            known = self._cases.get(policy)
            if known is not None and version is None:
                case.version = known.version
            elif known is not None and record is not None and case.version < known.version:
                return
            self._cases[policy] = case

    @property
    def fresh(self) -> float:
        """For how many seconds what the records told is believed now."""
        return FRESH_IN_TROUBLE if self.facts().trouble else FRESH

    def open(self) -> set[str]:
        """The policies that were in doubt, or drifted, when their records were read: another may have healed them."""
        with self._lock:
            cases = self._cases.items()
            return {name for name, case in cases if case.doubtful or case.trouble or case.drift}

    def is_known(self, policy: str, age: float) -> bool:
        """Whether its record was read so many seconds ago at most, or a run of this process is at work on it."""
        with self._lock:
            case = self._cases.get(policy)
            young = case is not None and self._boot() - case.read_at < age
            return policy in self._at_work or young

    def facts(self) -> Facts:
        """What there is to judge by, now."""
        with self._lock:
            now, boot = self._now(), self._boot()
            known = {name: case.trouble for name, case in self._cases.items() if case.trouble}
            told = {name: one for name, one in known.items() if self._counts(name, one.since, now)}
            trouble = told | {name: Trouble(now) for name in self._again - known.keys()}
            limit = limit_of(self._setting, len(self._policies))
            doubts = {name: case.doubtful for name, case in self._cases.items() if case.doubtful}
            before = {
                name
                for name, since in doubts.items()
                if self._since and since <= self._since and self._counts(name, since, now)
            }
            return Facts(
                now=now,
                limit=limit,
                at_once=self._at_once,
                trouble=trouble,
                begun=dict(self._begun),
                unresolved=frozenset(self._unresolved),
                looking=frozenset(self._at_work & trouble.keys()),
                again_at=self._pause_ends(told),
                doubtful=len(doubts.keys() | trouble.keys()),
                before=frozenset(before - trouble.keys() - self._at_work),
                waiting=any(boot - at < TURN_KEPT for at in self._waiting.values()),
                tried=self._tried,
                worked=self._has_worked(told),
                mass_drift=self._why_mass(limit, now, boot),
            )

    def _counts(self, name: str, since: datetime, now: datetime) -> bool:
        if self.let_go_at is not None and since <= self.let_go_at:
            return False
        return name in self._policies or now - since < NOBODYS

    def _has_worked(self, trouble: Mapping[str, Trouble]) -> bool:
        """Whether a run of this process published a key since anybody in trouble asked for one."""
        tried = [one.tried_at for one in trouble.values()]
        return (
            self._worked_at is not None and max(tried, default=self._worked_at) <= self._worked_at
        )

    def _pause_ends(self, trouble: Mapping[str, Trouble]) -> datetime | None:
        """When the next single attempt may be made: after this process' own last one, and that of any other."""
        if not trouble:
            return None
        last = max(one.tried_at for one in trouble.values())
        if self._has_worked(trouble):
            return None
        others = sum(one.attempts - 1 for one in trouble.values())
        ends = last + pause_after(others)
        return ends if self._again_at is None else max(ends, self._again_at)

    def _why_mass(self, limit: int, now: datetime, boot: float) -> str:
        """Why nothing is issued for drift; empty: nothing holds it back."""
        if self.named:
            return ""
        drifted = frozenset(
            name
            for name, case in self._cases.items()
            if case.drift is not None and self._counts(name, case.drift.since, now)
        )
        if not self._mass.over:  # whoever is found meanwhile belongs to it
            self._mass.names |= drifted
        left = self._mass.names & drifted
        if len(left) * 2 <= len(self._mass.names):
            self._mass = _Mass(left, over=True)
        news = len(drifted - left) if self._mass.over else 0
        if news >= limit and is_mass(news, self._checked(), limit):
            self._mass = _Mass(drifted)
        if not self._mass.over:
            return (
                f"ECGrid refuses the published keys of {len(drifted)} policies at once: nothing is issued for them "
                f"until half of them are well; keys that exist are published. {REPAIR}"
            )
        if limit and self._refused_at is not None and boot - self._refused_at < WITNESSED:
            return (
                "ECGrid also refuses the published key that was found well last: nothing is issued for drift until it "
                f"is accepted again. {REPAIR}"
            )
        return ""

    def why(self) -> dict[str, str]:
        """What is held back now, and why, by kind of error; empty: nothing."""
        facts = self.facts()
        found = {BRAKED: said_of(facts)} if facts.is_alarming else {}
        return found | ({MASS_DRIFT: facts.mass_drift} if facts.mass_drift else {})

    def why_one_at_a_time(self) -> str | None:
        """Why the next one that wants a key has to wait for others; None: it has not."""
        facts = self.facts()
        return said_of(facts) if facts.braked else None

    # who may

    def ask(self, policy: str, what: For) -> Verdict:
        """Gives the right, or tells why not; whoever has it keeps it until it is spent, or its run is over."""
        with self._lock:
            if what == "again":
                self._unresolved.add(policy)
                self._again.add(policy)
            verdict = decide(policy, what, facts := self.facts())
            if verdict.go:
                self._begun[policy] = what
                self._waiting.pop(policy, None)
                if facts.braked:
                    self._single, self._tried = policy, policy in facts.trouble
            else:
                self._begun.pop(policy, None)
                if what == "begin" and policy not in facts.trouble:
                    self._waiting[policy] = self._boot()
            return verdict

    def has(self, policy: str) -> bool:
        """Whether that policy has the right already."""
        with self._lock:
            return policy in self._begun

    def spent(self, policy: str, came: Came) -> None:
        """The request was sent, and that came of it."""
        with self._lock:
            if came == "lost":
                self._unresolved.add(policy)
                self._single_failed(policy)
            if came != "key":
                self._begun.pop(policy, None)

    def begins(self, policy: str) -> None:
        """A run of this process is at work on that policy."""
        with self._lock:
            self._at_work.add(policy)

    def ends(self, policy: str, stored: Stored | None, *, worked: bool) -> None:
        """That run has ended, with that record; `worked`: a key is published."""
        if stored is not None:
            self.saw(policy, stored.record, stored.version)
        with self._lock:
            self._at_work.discard(policy)
            self._begun.pop(policy, None)
            self._unresolved.discard(policy)
            self._again.discard(policy)
            case = self._cases.get(policy)
            failed = case is not None and case.trouble is not None
            if worked:
                self._failures, self._again_at, self._worked_at = 0, None, self._now()
            elif failed:
                self._single_failed(policy)
            self._single = None if self._single == policy else self._single

    def _single_failed(self, policy: str) -> None:
        """If it was the single one that may try, nobody tries for a while."""
        if self._single == policy:
            self._failures, self._single = self._failures + 1, None
            self._again_at = self._now() + pause_after(self._failures)

    # drift

    def drifted(self, policy: str) -> Drift | None:
        """Whether that policy's published key is known to be refused, and no person has let it go."""
        with self._lock:
            case = self._cases.get(policy)
            drift = case.drift if case else None
            return drift if drift and self._counts(policy, drift.since, self._now()) else None

    def witness_refused(self) -> str:
        """The witness is refused, too: why nothing is issued for drift, for a while."""
        with self._lock:
            self._refused_at = self._boot()
            return self.facts().mass_drift
