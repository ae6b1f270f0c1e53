"""ECGrid in memory: users, key records, the user's API key, sessions, and every call of both surfaces.

No input or output: the clock and the randomness are arguments, `perform` is the only way in for a request, and
the other methods are for whoever sets the scene or looks behind it.
"""

from __future__ import annotations

import math
import random
import re
import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rotator.sandbox.ecgrid.calls import Calls
from rotator.sandbox.ecgrid.store import LONG_AGO, Store
from rotator.sandbox.ecgrid.switches import Fault, Switches, natural
from rotator.sandbox.ecgrid.words import (
    FAMILIES,
    Ask,
    AuthLevel,
    Entry,
    KeyRecord,
    NamedValue,
    One,
    Refusal,
    Result,
    ShownKey,
    ShownUser,
    User,
    number,
    shown,
)

_PASSWORD = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)(?=.*[^A-Za-z0-9])")
_REQUESTS_KEPT = 100_000


@dataclass
class _Armed:
    fault: Fault
    seen: int = 0

    def hits(self) -> bool:
        """Counts one matching request; whether the fault applies to it."""
        self.seen += 1
        last = None if self.fault.times is None else self.fault.nth + self.fault.times - 1
        return self.seen >= self.fault.nth and (last is None or self.seen <= last)

    @property
    def spent(self) -> bool:
        times = self.fault.times
        return times is not None and self.seen >= self.fault.nth + times - 1


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


class Simulator:
    """A whole ECGrid. Every method may be called from any thread; each is carried out alone."""

    def __init__(
        self,
        switches: Switches | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        randomness: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._random = randomness or random.SystemRandom()
        self._lock = threading.RLock()
        self._first_switches = switches or Switches()
        self.reset()

    # Setting the scene

    def reset(self) -> None:
        """Forgets users, keys, sessions, requests and faults; switches and clock are as at the beginning."""
        with self._lock:
            self._store = Store(self._first_switches, self._clock, self._random)
            self._calls = Calls(self._store)
            self._faults: list[_Armed] = []
            self._landing: list[tuple[datetime, Ask]] = []
            self._window = (LONG_AGO, 0)
            self._requests: deque[Entry] = deque(maxlen=_REQUESTS_KEPT)
            self._counts: Counter[str] = Counter()
            self._violations: list[str] = []

    @property
    def switches(self) -> Switches:
        """The answers in force."""
        return self._store.switches

    def switch(self, **changes: Any) -> Switches:
        """Changes switches by name from now on; another form brings what is natural for it.

        Raises ValueError for what `Switches` refuses.
        """
        with self._lock:
            form = changes.get("form", self.switches.form)
            before = self.switches.to_json() | (natural(form) if form != self.switches.form else {})
            self._store.switches = Switches.from_json({**before, **changes})
            return self._store.switches

    def now(self) -> datetime:
        """The simulator's time, in UTC."""
        return self._store.now()

    def advance(self, seconds: float) -> datetime:
        """Moves the simulator's clock; what was to land by then lands."""
        with self._lock:
            self._store.offset += timedelta(seconds=seconds)
            self._land()
            return self.now()

    def add_user(
        self,
        user_id: int | None = None,
        *,
        login: str | None = None,
        email: str | None = None,
        password: str | None = None,
        network_id: int = 1,
        mailbox_id: int = 1,
        auth_level: AuthLevel | str = AuthLevel.General,
        status: str = "Active",
        first_name: str = "Some",
        last_name: str = "Body",
        locked_out: bool = False,
        api_key: str | None = None,
    ) -> User:
        """Adds a user (or replaces one with that id, keeping its keys); `api_key` is one that is no key record.

        Raises ValueError for a password without lower, upper, digit and special character.
        """
        with self._lock:
            uid = user_id if user_id is not None else max(self._store.users, default=5000) + 1
            login = login or f"user{uid}"
            password = password or "aA1!" + self._store.draw(16)
            if not _PASSWORD.match(password):
                raise ValueError(
                    "a password needs a lower, an upper, a digit and a special character"
                )
            level = AuthLevel[auth_level] if isinstance(auth_level, str) else auth_level
            address = email or f"{login}@example.com"
            user = User(
                uid,
                login,
                address,
                password,
                network_id,
                mailbox_id,
                level,
                status,
                first_name,
                last_name,
                locked_out,
            )
            self._store.users[uid] = user
            if api_key is not None:
                self._store.set_api_key(uid, api_key)
            return user

    def add_key(
        self,
        user_id: int,
        visibility: str = "Private",
        *,
        value: str | None = None,
        key_id: int | None = None,
        created: datetime | None = None,
        live: bool = True,
    ) -> KeyRecord:
        """Adds a key record that is accepted at once, as if it had been there; it counts as issued by nobody.

        The service's own form has no records: there it is the user's API key from now on, and is listed nowhere.
        """
        with self._lock:
            self._store.user(user_id)
            now = self.now()
            number = self._store.key_id(key_id)
            drawn = value if value is not None else self._store.value()
            record = KeyRecord(number, user_id, drawn, visibility, created or now, now, live)
            if self.switches.form == "service":
                self._store.owner_of_value[drawn] = user_id
                if live:
                    self._store.set_api_key(user_id, drawn, at_once=True)
                return record
            held = self._store.holding(user_id)
            self._store.change(user_id, replace(held, records=(*held.records, record)))
            return record

    def remove_key(self, key_id: int) -> bool:
        """Removes a record behind everybody's back; whether it was there."""
        with self._lock:
            return self._store.drop(key_id)

    def next_value(self, value: str) -> None:
        """The next value that is drawn will be this one; repeated calls queue up."""
        with self._lock:
            self._store.next_values.append(value)

    def add_fault(self, fault: Fault) -> None:
        """Arms a fault; of several that match a request, the first armed one acts, and all of them count it.

        Reading a description meets only a fault that names it.
        """
        names = frozenset().union(*FAMILIES.values(), FAMILIES, {"*"})
        if fault.call not in names:
            raise ValueError(f"no call {fault.call!r}; there are {', '.join(sorted(names))}")
        with self._lock:
            self._faults.append(_Armed(fault))

    def clear_faults(self) -> None:
        """Disarms all faults; what was to land later still lands."""
        with self._lock:
            self._faults.clear()

    def end_sessions(self) -> int:
        """Ends every session, as a restart of ECGrid would; how many there were."""
        with self._lock:
            count = len(self._store.sessions)
            for token in list(self._store.sessions):
                self._store.end(token)
            return count

    # Looking behind the scene

    def keys(self, user_id: int) -> tuple[KeyRecord, ...]:
        """The user's key records, oldest first, dead ones included."""
        with self._lock:
            self._land()
            return tuple(
                sorted(self._store.holding(user_id).records, key=lambda record: record.age)
            )

    def api_key(self, user_id: int) -> str | None:
        """The user's API key as it is now."""
        with self._lock:
            self._land()
            return self._store.api_key(self._store.holding(user_id))

    def who(self, value: str) -> int | None:
        """Whose live key this value is at this moment; None if it is not accepted."""
        with self._lock:
            self._land()
            user = self._store.key_owner(value)
            return user.user_id if user else None

    def users(self) -> list[User]:
        """All users, by id."""
        with self._lock:
            return [self._store.users[uid] for uid in sorted(self._store.users)]

    def sessions(self) -> int:
        """How many sessions are open."""
        with self._lock:
            return sum(1 for s in self._store.sessions.values() if s.expires > self.now())

    def issued(self, user_id: int | None = None) -> int:
        """How many keys issuing calls have made since the beginning, for one user or for all."""
        with self._lock:
            self._land()
            return self._store.issued.total() if user_id is None else self._store.issued[user_id]

    def requests(self) -> list[Entry]:
        """The latest requests (up to 100,000), in order of arrival."""
        with self._lock:
            return list(self._requests)

    def counts(self) -> dict[str, int]:
        """How many requests arrived, by call."""
        with self._lock:
            return dict(self._counts)

    def violations(self) -> list[str]:
        """Requests that no well-behaved client sends, in words that hold no value."""
        with self._lock:
            return list(self._violations)

    def faults(self) -> list[Fault]:
        """The faults that may still act."""
        with self._lock:
            return [armed.fault for armed in self._faults]

    def secrets(self) -> set[str]:
        """Every value, password and session token there ever was: what a leak hunt looks for."""
        with self._lock:
            passwords = {user.password for user in self._store.users.values()}
            return {*self._store.owner_of_value, *self._store.session_values, *passwords}

    def mentions_key(self, text: str) -> bool:
        """Whether any key value there ever was occurs in the text."""
        with self._lock:
            return any(
                value in text
                for value in (*self._store.owner_of_value, *self._store.session_values)
            )

    # What the surfaces need

    def note(self, ask: Ask, status: int, outcome: str, caller: int | None) -> None:
        """Writes a request into the log of requests."""
        with self._lock:
            self._counts[ask.call] += 1
            number = self._counts.total()
            kind = ask.credential.kind if ask.credential.value else "none"
            entry = Entry(
                number, self.now(), ask.call, self.about(ask), caller, status, outcome, kind
            )
            self._requests.append(entry)

    def violated(self, what: str) -> None:
        """Keeps a violation; `what` holds no value."""
        with self._lock:
            self._violations.append(what)

    def about(self, ask: Ask) -> int | None:
        """The user a request is about: the one it names, or whose key or credential it names; None if it is unclear."""
        with self._lock, suppress(Refusal):
            if "key_id" in ask.args:
                return self._store.owner_of_key.get(number(ask.args["key_id"], "keyId"))
            if "user_id" in ask.args:
                return number(ask.args["user_id"], "userId")
            if ask.args.get("system_object") == "User":
                return number(ask.args.get("object_id"), "objectId")
            return self.caller_id(ask)
        return None

    def caller_id(self, ask: Ask) -> int | None:
        """Who the credential belongs to, or belonged to."""
        with self._lock:
            session = self._store.sessions.get(ask.credential.value)
            return (
                session.user_id if session else self._store.owner_of_value.get(ask.credential.value)
            )

    def fault_for(self, ask: Ask) -> Fault | None:
        """The fault that this request meets, which is thereby counted."""
        with self._lock:
            if not self._faults:
                return None
            about = self.about(ask)
            hit: Fault | None = None
            for armed in self._faults:
                if _matches(armed.fault, ask.call, about) and armed.hits():
                    hit = hit or armed.fault
            self._faults = [armed for armed in self._faults if not armed.spent]
            return hit

    def land_later(self, ask: Ask, seconds: float) -> None:
        """Carries the request out so many seconds from now."""
        with self._lock:
            self._landing.append((self.now() + timedelta(seconds=seconds), ask))

    def perform(self, ask: Ask) -> Result:
        """Carries a request out; raises Refusal as ECGrid does."""
        with self._lock:
            self._land()
            if ask.call not in FAMILIES["description"]:
                self._meter()
            return self._calls.perform(ask)

    def another(self, result: Result) -> Result:
        """The same kind of answer, about somebody else."""
        with self._lock:
            if isinstance(result, list):
                return [self._foreign(one) for one in result]
            if isinstance(result, ShownKey | ShownUser | NamedValue):
                return self._foreign(result)
            if isinstance(result, str) and result in self._store.owner_of_value:
                mine = self._store.owner_of_value[result]
                return next(
                    (v for v, uid in self._store.owner_of_value.items() if uid != mine),
                    self._store.value(),
                )
            return result

    def _foreign(self, mine: One) -> One:
        if isinstance(mine, ShownKey):
            return self._foreign_key(mine)
        if isinstance(mine, ShownUser):
            others = [u for uid, u in self._store.users.items() if uid != mine.user.user_id]
            stranger = replace(mine.user, user_id=mine.user.user_id + 1)
            return replace(mine, user=others[0] if others else stranger, key=None)
        return mine

    def _foreign_key(self, mine: ShownKey) -> ShownKey:
        others = (h.records for uid, h in self._store.holdings.items() if uid != mine.user_id)
        record = next((records[-1] for records in others if records), None)
        if record is None:
            return replace(mine, user_id=mine.user_id + 1)
        return shown(record, record.value)

    def _meter(self) -> None:
        limit = self._store.switches.rate_limit
        if limit is None:
            return
        now = self.now()
        since, used = self._window
        left = self._store.switches.rate_period - (now - since).total_seconds()
        if left <= 0:
            since, used, left = now, 0, self._store.switches.rate_period
        if used >= limit:
            wait = math.ceil(left)
            raise Refusal("RateLimitExceeded", "Too many requests.", retry_after=wait)
        self._window = (since, used + 1)

    def _land(self) -> None:
        due = [ask for lands_at, ask in self._landing if lands_at <= self.now()]
        self._landing = [
            (lands_at, ask) for lands_at, ask in self._landing if lands_at > self.now()
        ]
        for ask in due:
            try:
                self._calls.perform(ask)
            except Refusal:
                # Whoever sent it is no longer there to be told.
                continue


def _matches(fault: Fault, call: str, about: int | None) -> bool:
    every = fault.call == "*" and call not in FAMILIES["description"]
    named = every or fault.call == call or call in FAMILIES.get(fault.call, ())
    return named and fault.about in (None, about)
