"""What the simulated ECGrid holds: users, their keys and how they were before, sessions, time and chance.

Not for use by several threads at once: `Simulator` sees to that.
"""

from __future__ import annotations

import base64
import json
import random
import re
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from rotator.sandbox.ecgrid.switches import KeyShape, Switches
from rotator.sandbox.ecgrid.words import Ask, KeyRecord, NamedValue, Refusal, Session, User

LONG_AGO = datetime.min.replace(tzinfo=UTC)
_ALNUM = "abcdefghijklmnopqrstuvwxyz0123456789"
# Where a named value is: kind and id of the object, its visibility, for whom that is so, and its name.
Place = tuple[str, int, str, str, str]
_SPECIAL = "+/=&<>\"'\\%"


@dataclass(frozen=True)
class Holding:
    """All that a user holds at one time; changes replace it, so that the one before is there for stale answers."""

    records: tuple[KeyRecord, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    api_key_from: datetime = LONG_AGO


class Store:
    """Everything that lasts from one request to the next."""

    def __init__(
        self, switches: Switches, clock: Callable[[], datetime], randomness: random.Random
    ) -> None:
        self._clock = clock
        self._random = randomness
        self.switches = switches
        self.offset = timedelta()
        self.users: dict[int, User] = {}
        self.holdings: dict[int, Holding] = {}
        self.owner_of_key: dict[int, int] = {}
        self.owner_of_value: dict[str, int] = {}
        self.sessions: dict[str, Session] = {}
        self.session_values: set[str] = set()
        self.next_values: deque[str] = deque()
        self.issued: Counter[int] = Counter()
        self.named: dict[Place, NamedValue] = {}
        self.last_login: dict[int, datetime] = {}
        self.wrong_passwords: Counter[int] = Counter()
        self._before: dict[int, Holding] = {}
        self._next_key_id = 1001

    def now(self) -> datetime:
        """The simulator's time, in UTC."""
        return self._clock() + self.offset

    def user(self, user_id: int) -> User:
        """The user; raises Refusal (ObjectNotFound)."""
        if user_id not in self.users:
            raise Refusal("ObjectNotFound", "There is no such user.")
        return self.users[user_id]

    def holding(self, user_id: int, *, stale: bool = False) -> Holding:
        """What the user holds, or held before the last change."""
        now = self.holdings.get(user_id, Holding())
        return self._before.get(user_id, now) if stale else now

    def change(self, user_id: int, holding: Holding) -> None:
        """Replaces what the user holds."""
        self._before[user_id] = self.holding(user_id)
        self.holdings[user_id] = holding
        for record in holding.records:
            self.owner_of_value[record.value] = user_id
            self.owner_of_key[record.key_id] = user_id
        if holding.api_key is not None:
            self.owner_of_value[holding.api_key] = user_id

    def drop(self, key_id: int) -> bool:
        """Removes a record; whether it was there."""
        owner = self.owner_of_key.get(key_id)
        held = self.holding(owner) if owner is not None else Holding()
        kept = tuple(record for record in held.records if record.key_id != key_id)
        if owner is None or len(kept) == len(held.records):
            return False
        self.change(owner, replace(held, records=kept))
        return True

    def new(
        self,
        user_id: int,
        visibility: str,
        *,
        key_id: int | None = None,
        live: bool = True,
        session: str | None = None,
    ) -> KeyRecord:
        """A record with a fresh value, which nobody holds yet."""
        now = self.now()
        active = now + timedelta(seconds=self.switches.activation_delay)
        number = self.key_id(key_id)
        return KeyRecord(number, user_id, self.value(), visibility, now, active, live, session)

    def key_id(self, wanted: int | None) -> int:
        """The wanted id, or the next one."""
        number = self._next_key_id if wanted is None else wanted
        self._next_key_id = max(self._next_key_id, number + 1)
        return number

    def api_key(self, held: Holding) -> str | None:
        """The user's API key among what the user holds."""
        records = [record for record in held.records if record.live and record.session is None]
        if self.switches.api_key_is_record and records:
            return max(records, key=lambda r: r.age).value
        return held.api_key

    def set_api_key(self, user_id: int, value: str, *, at_once: bool = False) -> None:
        """Gives the user an API key that is no key record, instead of the one before."""
        delay = 0.0 if at_once else self.switches.activation_delay
        since = self.now() + timedelta(seconds=delay)
        self.change(user_id, replace(self.holding(user_id), api_key=value, api_key_from=since))

    def key_owner(self, value: str) -> User | None:
        """Whose live key this is at this moment."""
        user = self.users.get(self.owner_of_value.get(value, -1))
        if user is None or user.status != "Active":
            return None
        held = self.holding(user.user_id)
        now = self.now()
        if held.api_key == value and held.api_key_from <= now:
            return user
        live = (r for r in held.records if r.live and r.active_from <= now)
        return user if any(record.value == value for record in live) else None

    def live_session(self, token: str, address: str) -> Session:
        """The open session; raises Refusal (InvalidSession)."""
        session = self.sessions.get(token)
        if session is None or session.expires <= self.now() or session.address != address:
            raise Refusal("InvalidSession", "The session is not valid.")
        return session

    def open(self, user_id: int, ask: Ask) -> Session:
        """Opens a session: a token for REST as the portal has it, else an id."""
        expires = self.now() + timedelta(seconds=self.switches.session_seconds)
        for_rest = ask.call != "Login" and self.switches.form == "portal"
        token = self._jwt(user_id, expires) if for_rest else str(self._guid())
        refresh = self.draw(40) if self.switches.refresh_token else None
        session = Session(token, user_id, expires, ask.credential.address, refresh)
        self.sessions[token] = session
        self.last_login[user_id] = self.now()
        self.session_values.update(value for value in (token, refresh) if value)
        return session

    def open_sessions(self, user_id: int) -> int:
        """How many sessions of the user are open."""
        now = self.now()
        mine = (s for s in self.sessions.values() if s.user_id == user_id)
        return sum(1 for session in mine if session.expires > now)

    def end(self, token: str) -> None:
        """Ends a session, and the keys that depend on it."""
        session = self.sessions.pop(token)
        held = self.holding(session.user_id)
        kept = tuple(record for record in held.records if record.session != token)
        if len(kept) < len(held.records):
            self.change(session.user_id, replace(held, records=kept))

    def draw(self, length: int) -> str:
        """Random text."""
        return "".join(self._random.choices(_ALNUM, k=length))

    def value(self) -> str:
        """A new key value: one that was ordered, or a random one of the shape in force."""
        if self.next_values:
            return self.next_values.popleft()
        while True:
            value = self._shaped(self.switches.key_shape)
            if value not in self.owner_of_value and not re.search("x{6}", value):
                return value

    def _guid(self) -> uuid.UUID:
        return uuid.UUID(int=self._random.getrandbits(128), version=4)

    def _jwt(self, user_id: int, expires: datetime) -> str:
        claims = {"sub": str(user_id), "exp": int(expires.timestamp()), "jti": str(self._guid())}
        parts = (json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps(claims))
        encoded = [base64.urlsafe_b64encode(p.encode()).decode().rstrip("=") for p in parts]
        return ".".join([*encoded, self.draw(43)])

    def _shaped(self, shape: KeyShape) -> str:
        if shape == "guid":
            return str(self._guid())
        if shape == "ek-live":
            return "ek_" + "live_" + self.draw(32)
        if shape == "special":
            drawn = [*self.draw(30), *_SPECIAL]
            self._random.shuffle(drawn)
            return "".join(drawn)
        return self.draw(33 if shape == "alnum33" else 32)
