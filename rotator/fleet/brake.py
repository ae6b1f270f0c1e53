"""The brake: everybody's failure stops before it harms. It holds back issuing, and nothing else.

`verdict.decide` says from facts whether one may ask ECGrid for a key now. `Brake` keeps the facts: what this process'
own runs are doing, and what the records tell of everybody's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from rotator.fleet.verdict import (
    NOBODYS,
    REPAIR,
    Facts,
    Trouble,
    Verdict,
    asked_at,
    decide,
    is_mass,
    limit_of,
    pause_after,
    said_of,
)
from rotator.journal import Drift, Record
from rotator.run.right import BRAKED, MASS_DRIFT, Came, For
from rotator.vault import Stored

# Seconds that what the records told is believed.
FRESH = 10.0
# The same while somebody is in trouble, so that rotators brake together.
FRESH_IN_TROUBLE = 1.0
# Seconds that the verdict of a witness is.
WITNESSED = 30.0
# Seconds that somebody who was held back counts as waiting.
TURN_KEPT = 30.0


@dataclass
class _Case:
    """What the record of a policy told, and when (boot clock) it was read."""

    read_at: float
    trouble: Trouble | None
    drift: Drift | None
    version: int
    # Since when.
    doubtful: datetime | None = None


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
        # Own runs that ask once more.
        self._again: set[str] = set()
        self._single: str | None = None
        self._tried = False
        self._failures, self._again_at = 0, None
        self._worked_at: datetime | None = None
        self._waiting: dict[str, float] = {}
        self._mass = _Mass(frozenset(), over=True)
        self._refused_at: float | None = None
        self.let_go_at: datetime | None = None
        # A person named the policies: no drift of others holds them back.
        self.named = False

    _again_at: datetime | None
    # When this process began to read records.
    _since: datetime | None = None

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
                    since,
                    attempts,
                    underway.sent > 1,
                    asked_at(record, underway),
                    failed.retry_at if failed and failing else None,
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

    def turn(self, policy: str) -> tuple[int, float]:
        """What sorts policies that a person ordered: one whose back-off is not over comes after all that work."""
        trouble = self.facts().trouble.get(policy)
        rests = (
            trouble is not None and trouble.retry_at is not None and self._now() < trouble.retry_at
        )
        return (int(rests), 0.0)

    def is_known(self, policy: str, age: float) -> bool:
        """Whether its record was read so many seconds ago at most, or a run of this process is at work on it."""
        with self._lock:
            case = self._cases.get(policy)
            young = case is not None and self._boot() - case.read_at < age
            return policy in self._at_work or young

    def facts(self, who: str = "", asked: datetime | None = None) -> Facts:
        """What there is to judge by, now; for `who`, whose request is counted since `asked` and not sent yet.

        Of several that have counted theirs in one moment, whichever rotator they are of, the first goes: it sees no
        pause after those that came later.
        """
        with self._lock:
            now, boot = self._now(), self._boot()
            known = {name: case.trouble for name, case in self._cases.items() if case.trouble}
            counted = {
                name: one for name, one in known.items() if self._counts(name, one.since, now)
            }
            trouble = counted | {name: Trouble(now) for name in self._again - known.keys()}
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
                again_at=self._pause_ends(
                    {
                        name: one
                        for name, one in counted.items()
                        if asked is None or (one.tried_at, name) < (asked, who)
                    }
                ),
                doubtful=len(doubts.keys() | trouble.keys()),
                before=frozenset(before - trouble.keys() - self._at_work),
                waiting=any(boot - asked_at < TURN_KEPT for asked_at in self._waiting.values()),
                tried=self._tried,
                worked=self._has_worked(counted),
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
        # Whoever is found meanwhile belongs to it.
        if not self._mass.over:
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
        reasons = {BRAKED: said_of(facts)} if facts.is_alarming else {}
        return reasons | ({MASS_DRIFT: facts.mass_drift} if facts.mass_drift else {})

    def why_one_at_a_time(self) -> str | None:
        """Why the next one that wants a key has to wait for others; None: it has not."""
        facts = self.facts()
        return said_of(facts) if facts.braked else None

    # who may

    def ask(self, policy: str, what: For, asked: datetime | None = None) -> Verdict:
        """Gives the right, or tells why not; whoever has it keeps it until it is spent, or its run is over.

        `asked`: when it counted the request that it is about to send.
        """
        with self._lock:
            if what == "again":
                self._unresolved.add(policy)
                self._again.add(policy)
            verdict = decide(policy, what, facts := self.facts(policy, asked))
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
