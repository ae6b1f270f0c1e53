"""What is wrong, and what was told of it to whom: one value, which all rotators of a state path share.

A trouble is told once, again after a day while it goes on, and once when it is over, to each receiver; it counts as
told only once that receiver took it. Whoever is about to tell a receiver says so first, so that no other does.

It is bounded: of a trouble that many policies have, MANY are kept one by one, and of each other one only eight letters.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

from rotator.reporting.about import About, text_of
from rotator.reporting.alarms import ALL, Alarm, What, recovered
from rotator.secrecy.sinks import scrub

# After which a trouble that goes on is told again.
AGAIN = timedelta(hours=24)
# Policies with one trouble that are told one by one; more are told together.
MANY = 20
# For which somebody has said that they tell a receiver.
TELLING = timedelta(minutes=5)
# After which nobody has a trouble any more that was not told again.
FORGOTTEN = timedelta(days=7)
# Letters of a message.
LONGEST = 300
# Letters that stand for a policy's name.
SHORT = 8


class Key(NamedTuple):
    """Which trouble: of one policy, or (`policy` None) of many together."""

    what: What
    policy: str | None
    phase: str | None
    kind: str | None

    @classmethod
    def of(cls, alarm: Alarm) -> Key:
        """The trouble that an alarm tells; a key that is not retired is one, however that fails."""
        kind = None if alarm.phase == "retire" else alarm.kind
        return cls(alarm.what, alarm.policy or ALL, alarm.phase, kind)


@dataclass
class Trouble:
    """One trouble: the alarm that tells it, since when it is known, and when each receiver took it last."""

    alarm: Alarm
    since: datetime
    told: dict[str, datetime] = field(default_factory=dict, repr=False)
    over: bool = False
    # Policies that have it beyond MANY, shortened.
    members: set[str] = field(default_factory=set)

    def shown(self, alone: int, now: datetime) -> Alarm:
        """The alarm to tell; `alone`: policies that have the same trouble and are told one by one."""
        if self.members:
            return self.alarm.of_many(len(self.members) + alone)
        policy = None if self.alarm.policy == ALL else self.alarm.policy
        about = self.alarm.about._replace(since=self.since)
        count = 1 + (now - self.since) // AGAIN
        return replace(self.alarm, policy=policy, count=count, about=about)


class Telling(NamedTuple):
    """What is to be told to one receiver, and of which troubles that is all."""

    receiver: str
    alarm: Alarm
    keys: tuple[Key, ...]


class Memory:
    """All troubles of a state path. May be used by one thread at a time, but for `failure`."""

    def __init__(self) -> None:
        self.troubles: dict[Key, Trouble] = {}
        # Receiver -> who tells it, until when.
        self._telling: dict[str, tuple[str, datetime]] = {}

    # what is wrong

    def happens(self, alarm: Alarm, now: datetime) -> None:
        """That trouble is there, as somebody has just seen."""
        key = Key.of(alarm)
        trouble = self.troubles.get(key)
        if trouble is not None:
            trouble.over = False
            return
        together = key._replace(policy=None)
        group, short = self.troubles.get(together), _short(key.policy)
        if group is not None and short in group.members:
            return
        if self._alone(together) < MANY:
            self.troubles[key] = Trouble(alarm, now)
            return
        group = self.troubles.setdefault(together, Trouble(alarm, now))
        group.over = False
        group.members.add(short)

    def ends(self, what: What, policy: str, *, but: str | None = None) -> None:
        """That policy has no such trouble any more, except in the phase `but`."""
        for key, trouble in self._of(policy):
            if key.what != what or (but is not None and key.phase == but):
                continue
            trouble.members.discard(_short(policy))
            trouble.over = not trouble.members

    def has(self, policy: str) -> bool:
        """Whether anything is wrong with that policy."""
        return any(not trouble.over for _, trouble in self._of(policy))

    def failure(self, policy: str) -> Trouble | None:
        """The failure of that policy that is known last; of one that many have, some other's."""
        failures = [one for key, one in self._of(policy) if key.what == "failed" and not one.over]
        return max(failures, key=lambda one: one.since, default=None)

    def _alone(self, together: Key) -> int:
        """How many policies have that trouble one by one."""
        return sum(
            other._replace(policy=None) == together for other in self.troubles if other.policy
        )

    def _of(self, policy: str) -> list[tuple[Key, Trouble]]:
        # As it is now: who only asks why a policy fails may do so while others are told.
        every = list(self.troubles.items())
        short = _short(policy) if any(key.policy is None for key, _ in every) else ""
        return [
            (key, trouble)
            for key, trouble in every
            if key.policy == policy or (key.policy is None and short in trouble.members)
        ]

    # what is to be told

    def due(self, receiver: str, now: datetime, seen: Iterable[Key]) -> list[Telling]:
        """What that receiver is to be told now; `seen`: the troubles that go on, as somebody has just seen."""
        seen = set(seen)
        seen |= {key._replace(policy=None) for key in seen}
        due, over = list[Telling](), dict[tuple[What, str | None, str], list[Key]]()
        for key, trouble in self.troubles.items():
            last = trouble.told.get(receiver)
            if trouble.over and last is not None and not self._goes_on(key):
                of_many = f"{key.phase} {key.kind}" if key.policy is None else ""
                over.setdefault((key.what, key.policy, of_many), []).append(key)
            elif not trouble.over and (last is None or (now - last >= AGAIN and key in seen)):
                alone = 0 if key.policy else self._alone(key)
                due.append(Telling(receiver, trouble.shown(alone, now), (key,)))
        for (_, policy, _), keys in over.items():
            alarms = [self.troubles[key].alarm for key in keys]
            due.append(Telling(receiver, recovered(alarms, many=policy is None), tuple(keys)))
        return due

    def _goes_on(self, key: Key) -> bool:
        """Whether that policy is in alarm of that sort all the same, for something else."""
        others = self._of(key.policy) if key.policy else []
        return any(other.what == key.what and not trouble.over for other, trouble in others)

    def took(self, telling: Telling, now: datetime) -> None:
        """The receiver took it."""
        for key in telling.keys:
            trouble = self.troubles.get(key)
            if trouble is None:
                continue
            if telling.alarm.what == "recovered":
                trouble.told.pop(telling.receiver, None)
            else:
                trouble.told[telling.receiver] = now

    def begin(self, receiver: str, who: str, now: datetime) -> bool:
        """Whether `who` may tell that receiver now: nobody else does."""
        teller, until = self._telling.get(receiver, (who, now))
        if teller != who and until > now:
            return False
        self._telling[receiver] = (who, now + TELLING)
        return True

    def end(self, receiver: str, who: str) -> None:
        """`who` tells that receiver nothing more for now."""
        if self._telling.get(receiver, ("",))[0] == who:
            del self._telling[receiver]

    def tidy(self, now: datetime) -> None:
        """Forgets what is over and told, or never was told; and what nobody has had for long."""
        self._telling = {name: one for name, one in self._telling.items() if one[1] > now}
        # Somebody may be telling just that.
        if self._telling:
            return
        self.troubles = {
            key: one
            for key, one in self.troubles.items()
            if not (one.over and not one.told)
            and now - max(one.told.values(), default=now) < FORGOTTEN
        }

    def merge(self, mine: Memory, before: Iterable[Key]) -> None:
        """Adds what one process did alone since it knew the troubles `before`."""
        before = set(before)
        for key in before - mine.troubles.keys():
            self.troubles.pop(key, None)
        for key, trouble in mine.troubles.items():
            if key in self.troubles or key not in before:
                ours = self.troubles.setdefault(key, trouble)
                ours.told |= trouble.told
                ours.members |= trouble.members

    # as it is kept

    def kept(self) -> str:
        """The text that `parse` reads."""
        document = {
            "troubles": [_kept(trouble, together=key.policy is None) for key, trouble in self.troubles.items()],
            "telling": {name: [who, text_of(until)] for name, (who, until) in self._telling.items()},
        }  # fmt: skip
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def parse(cls, text: object) -> Memory:
        """What that text says; nothing if it cannot be understood: then all is told anew."""
        memory = cls()
        try:
            document = json.loads(text) if isinstance(text, str) else {}
            for one in document.get("troubles", ()):
                key, trouble = _parsed(one)
                memory.troubles[key] = trouble
            for name, (who, until) in document.get("telling", {}).items():
                memory._telling[str(name)] = (str(who), _instant(until))
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
            return cls()
        return memory


def _kept(trouble: Trouble, *, together: bool) -> dict[str, Any]:
    fields = asdict(trouble.alarm) | {
        "message": scrub(trouble.alarm.message[:LONGEST], "told"),
        "about": trouble.alarm.about.fields(),
        "since": text_of(trouble.since),
        "told": {name: text_of(moment) for name, moment in trouble.told.items()},
    }
    if trouble.over:
        fields["over"] = True
    if together:
        fields["members"] = "".join(sorted(trouble.members))
    return fields


def _parsed(fields: dict[str, Any]) -> tuple[Key, Trouble]:
    given = {name: fields[name] for name in ("what", "policy", "message", "phase", "kind", "owner")}
    alarm = Alarm(**given, tags=tuple(fields["tags"]), about=_about(fields["about"]))
    taken = {str(name): _instant(moment) for name, moment in fields["told"].items()}
    members, key = str(fields.get("members", "")), Key.of(alarm)
    key = key._replace(policy=None) if "members" in fields else key
    shortened = {members[start : start + SHORT] for start in range(0, len(members), SHORT)}
    return key, Trouble(
        alarm, _instant(fields["since"]), taken, bool(fields.get("over")), shortened
    )


def _about(fields: dict[str, Any]) -> About:
    names = ("run", "rotation", "attempt", "phase", "user_id", "key_id", "duration_s")
    known = {name: fields.get(name) for name in names}
    key_age, max_age = map(_length, (fields.get("key_age_s"), fields.get("max_age_s")))
    return About(**known, key_age=key_age, max_age=max_age)


def _short(policy: str | None) -> str:
    """Eight letters for a name: among 10,000 two of them are alike once in millions of fleets."""
    return base64.b64encode(sha256((policy or "").encode()).digest()[:6]).decode()


def _length(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
