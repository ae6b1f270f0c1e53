"""The calls of both surfaces of the simulated ECGrid, and who may make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rotator.sandbox.ecgrid.callers import Rights
from rotator.sandbox.ecgrid.named import NamedValues
from rotator.sandbox.ecgrid.people import VERSION, People
from rotator.sandbox.ecgrid.store import Holding, Store
from rotator.sandbox.ecgrid.switches import Issuing
from rotator.sandbox.ecgrid.words import (
    FAMILIES,
    Ask,
    AuthLevel,
    Code,
    KeyRecord,
    Refusal,
    Result,
    User,
    number,
    show,
    shown,
    visibility_named,
)


class Calls:
    """Carries requests out on what the store holds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rights = Rights(store)
        people = People(store, self._rights)
        self._calls: dict[str, Callable[[Ask], Result]] = {
            "KeySet": self._issue,
            "CreateKey": self._issue,
            "KeyGet": self._read,
            "GetKey": self._read,
            "KeyList": self._list,
            "ListKeys": self._list,
            "KeyRemove": self._remove,
            "DeleteKey": self._remove,
            "UserGetAPIKey": self._get_api_key,
            "GetAPIKey": self._get_api_key,
            "GenerateAPIKey": self._generate,
            "GenerateKey": self._generate,
            "WhoAmI": people.who_am_i,
            "GetMe": people.who_am_i,
            "AuthSession": people.who_am_i,
            "UserInfo": people.info,
            "UserList": people.list,
            "UserListEx": people.list,
            "ListUsers": people.list,
            "Login": self._login,
            "AuthLogin": self._login,
            "AuthRefresh": self._refresh,
            "Logout": self._logout,
            "AuthLogout": self._logout,
            "Version": self._version,
            "AuthVersion": self._version,
            "NowUTC": lambda _: store.now(),
            **dict.fromkeys(FAMILIES["description"], lambda _: ""),
        }
        values = NamedValues(store, self._rights)
        self._calls_of_service: dict[str, Callable[[Ask], Result]] = {
            **self._calls,
            "KeySet": values.set,
            "CreateKey": values.set,
            "KeyGet": values.get,
            "GetKey": values.get,
            "KeyList": values.list,
            "ListKeys": values.list,
            "KeyRemove": values.remove,
            "DeleteKey": values.remove,
        }

    def perform(self, ask: Ask) -> Result:
        """Carries a request out; raises Refusal as ECGrid does."""
        service = self._store.switches.form == "service"
        return (self._calls_of_service if service else self._calls)[ask.call](ask)

    def _version(self, ask: Ask) -> Result:
        if ask.call == "AuthVersion":
            return "2.6"
        return VERSION if self._store.switches.form == "service" else "4.1"

    def _login(self, ask: Ask) -> Result:
        if "api_key" in ask.args:
            user = self._store.key_owner(str(ask.args["api_key"]))
            if user is None:
                raise Refusal("InvalidAPIKey", "The API key is not valid.")
        else:
            user = self._user_with_password(ask)
        self._make_room(user)
        return self._store.open(user.user_id, ask)

    def _user_with_password(self, ask: Ask) -> User:
        given = ask.args.get("login")
        user = next((u for u in self._store.users.values() if given in (u.login, u.email)), None)
        if user and ask.args.get("password") != user.password:
            self._count_wrong_password(user)
        elif user and user.status == "Active" and not user.locked_out:
            del self._store.wrong_passwords[user.user_id]
            return user
        by_number = ask.call == "Login" and self._store.switches.form == "service"
        code: Code = "AccessDenied" if by_number else "InvalidSession"
        raise Refusal(code, "The login or the password is not valid.")

    def _count_wrong_password(self, user: User) -> None:
        self._store.wrong_passwords[user.user_id] += 1
        limit = self._store.switches.lock_after
        if limit is not None and self._store.wrong_passwords[user.user_id] >= limit:
            self._store.users[user.user_id] = replace(user, locked_out=True)

    def _refresh(self, ask: Ask) -> Result:
        given = ask.args.get("refresh_token")
        for session in list(self._store.sessions.values()):
            by_refresh_token = given is not None and session.refresh_token == given
            if by_refresh_token or session.token == ask.credential.value:
                self._store.live_session(session.token, ask.credential.address)
                self._store.end(session.token)
                return self._store.open(session.user_id, ask)
        raise Refusal("InvalidSession", "The session is not valid.")

    def _logout(self, ask: Ask) -> Result:
        self._store.live_session(ask.credential.value, ask.credential.address)
        self._store.end(ask.credential.value)
        return True

    def _issue(self, ask: Ask) -> Result:
        user = self._rights.subject(ask)
        visibility = visibility_named(ask.args.get("visibility"))
        session = self._session_for(ask, visibility)
        mode = (
            self._store.switches.keyset if ask.call == "KeySet" else self._store.switches.create_key
        )
        record = self._issue_as(mode, user.user_id, visibility, session)
        return shown(record, record.value)

    def _issue_as(
        self, mode: Issuing, user_id: int, visibility: str, session: str | None
    ) -> KeyRecord:
        held = self._store.holding(user_id)
        alike = [r for r in held.records if r.visibility == visibility and r.live]
        newest = max(alike, key=lambda r: r.age, default=None)
        if mode == "same" and newest:
            return newest
        if mode == "update" and newest:
            return self._update(held, newest)
        record = self._store.new(user_id, visibility, live=mode != "store", session=session)
        kept = held.records
        if mode == "replace":
            gone = (
                [replace(r, live=False) for r in alike]
                if self._store.switches.replaced_stay_listed
                else []
            )
            kept = (*(r for r in kept if r not in alike), *gone)
        self._within_quota(kept)
        self._store.change(user_id, replace(held, records=(*kept, record)))
        self._store.issued[user_id] += 1
        return record

    def _update(self, held: Holding, old: KeyRecord) -> KeyRecord:
        fresh = self._store.new(old.user_id, old.visibility, key_id=old.key_id, session=old.session)
        if self._store.switches.created_on_update == "unchanged":
            fresh = replace(fresh, created=old.created)
        records = tuple(fresh if record is old else record for record in held.records)
        self._store.change(old.user_id, replace(held, records=records))
        self._store.issued[old.user_id] += 1
        return fresh

    def _read(self, ask: Ask) -> Result:
        user = self._rights.subject(ask)
        records = self._store.holding(user.user_id, stale=ask.stale).records
        private = [record for record in records if record.visibility == "Private"]
        choice = self._store.switches.get_key
        among = private or records if choice == "newest-private" else records
        if not among:
            raise Refusal("ObjectNotFound", "The user has no key.")
        pick = min if choice == "oldest" else max
        record = pick(among, key=lambda r: r.age)
        display: str = self._store.switches.read_back
        if self._hidden_from(ask, record):
            if self._store.switches.private_read == "owner-403":
                raise Refusal("AccessDenied", "The key is accessible only to the owning user.")
            if self._store.switches.private_read == "owner-404":
                raise Refusal("ObjectNotFound", "The user has no key.")
            display = "masked"
        return shown(record, show(record.value, display))

    def _list(self, ask: Ask) -> Result:
        user = self._rights.subject(ask)
        wanted = ask.args.get("visibility")
        only = None if wanted is None else visibility_named(wanted)
        records = self._store.holding(user.user_id, stale=ask.stale).records
        among = sorted((r for r in records if only in (None, r.visibility)), key=lambda r: r.age)
        return [shown(record, self._in_list(ask, record)) for record in among]

    def _in_list(self, ask: Ask, record: KeyRecord) -> str | None:
        if self._hidden_from(ask, record):
            masked = self._store.switches.private_read == "owner-masked"
            return show(record.value, "masked") if masked else None
        return show(record.value, self._store.switches.list_shows)

    def _remove(self, ask: Ask) -> Result:
        caller = self._rights.authenticated(ask)
        key_id = number(ask.args.get("key_id"), "keyId")
        owner = self._store.owner_of_key.get(key_id)
        self._rights.entitled(caller, owner)
        if owner is None or not any(r.key_id == key_id for r in self._store.holding(owner).records):
            raise Refusal("ObjectNotFound", "There is no such key.")
        if self._store.switches.key_remove == "removes":
            self._store.drop(key_id)
        return True

    def _get_api_key(self, ask: Ask) -> Result:
        user = self._rights.subject(ask)
        if (
            ask.call == "GetAPIKey"
            and self._rights.authenticated(ask).auth_level > AuthLevel.NetworkAdmin
        ):
            raise Refusal("AccessDenied", "This operation requires NetworkAdmin or higher.")
        value = self._store.api_key(self._store.holding(user.user_id, stale=ask.stale))
        if value is None:
            raise Refusal("ObjectNotFound", "The user has no API key.")
        return show(value, self._store.switches.api_key_shows) or ""

    def _generate(self, ask: Ask) -> Result:
        user_id = self._rights.subject(ask).user_id
        if not self._store.switches.api_key_is_record:
            value = self._store.value()
            self._store.set_api_key(user_id, value)
            self._store.issued[user_id] += 1
            return value
        held = self._store.holding(user_id)
        old = max((r for r in held.records if r.live), key=lambda r: r.age, default=None)
        record = self._store.new(user_id, old.visibility if old else "Private")
        kept = tuple(r for r in held.records if r is not old)
        self._store.change(user_id, replace(held, records=(*kept, record), api_key=None))
        self._store.issued[user_id] += 1
        return record.value

    def _hidden_from(self, ask: Ask, record: KeyRecord) -> bool:
        guarded = self._store.switches.private_read != "anyone" and record.visibility == "Private"
        return guarded and self._rights.authenticated(ask).user_id != record.user_id

    def _make_room(self, user: User) -> None:
        now = self._store.now()
        for session in list(self._store.sessions.values()):
            if session.expires <= now:
                self._store.end(session.token)
        mine = [s for s in self._store.sessions.values() if s.user_id == user.user_id]
        if len(mine) < self._store.switches.sessions_per_user:
            return
        if self._store.switches.session_overflow == "refused":
            raise Refusal("AccessDenied", "The user has too many open sessions.")
        self._store.end(mine[0].token)

    def _session_for(self, ask: Ask, visibility: str) -> str | None:
        if visibility != "Session":
            return None
        if ask.credential.value not in self._store.sessions:
            raise Refusal("InvalidParameter", "A Session key needs a session.")
        return ask.credential.value

    def _within_quota(self, kept: tuple[KeyRecord, ...]) -> None:
        quota = self._store.switches.key_quota
        if quota is not None and len(kept) >= quota:
            raise Refusal("InvalidParameter", "The user has as many keys as are allowed.")
