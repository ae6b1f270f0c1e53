"""The calls of both surfaces of the simulated ECGrid, and who may make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from rotator.sandbox.ecgrid.store import Holding, Store
from rotator.sandbox.ecgrid.switches import Issuing
from rotator.sandbox.ecgrid.words import (
    Ask,
    AuthLevel,
    KeyRecord,
    Refusal,
    Result,
    ShownUser,
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

    def perform(self, ask: Ask) -> Result:
        """Carries a request out; raises Refusal as ECGrid does."""
        return self._calls[ask.call](self, ask)

    def _version(self, ask: Ask) -> Result:
        return "4.1" if ask.call == "Version" else "2.6"

    def _login(self, ask: Ask) -> Result:
        given = ask.args.get("login")
        user = next((u for u in self._store.users.values() if given in (u.login, u.email)), None)
        if user is None or ask.args.get("password") != user.password or user.status != "Active":
            raise Refusal("InvalidSession", "The login or the password is not valid.")
        self._make_room(user)
        return self._store.open(user.user_id, ask)

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

    def _who_am_i(self, ask: Ask) -> Result:
        user = self._authenticated(ask)
        session = self._store.sessions.get(ask.credential.value)
        key = None
        if self._store.switches.me_shows_key and ask.call == "GetMe":
            key = self._store.api_key(self._store.holding(user.user_id, stale=ask.stale))
        return ShownUser(user, session.expires if session else None, key)

    def _issue(self, ask: Ask) -> Result:
        user = self._subject(ask)
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
        user = self._subject(ask)
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
        user = self._subject(ask)
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
        caller = self._authenticated(ask)
        key_id = number(ask.args.get("key_id"), "keyId")
        owner = self._store.owner_of_key.get(key_id)
        self._entitled(caller, owner)
        if owner is None or not any(r.key_id == key_id for r in self._store.holding(owner).records):
            raise Refusal("ObjectNotFound", "There is no such key.")
        if self._store.switches.key_remove == "removes":
            self._store.drop(key_id)
        return True

    def _get_api_key(self, ask: Ask) -> Result:
        user = self._subject(ask)
        if ask.call == "GetAPIKey" and self._authenticated(ask).auth_level > AuthLevel.NetworkAdmin:
            raise Refusal("AccessDenied", "This operation requires NetworkAdmin or higher.")
        value = self._store.api_key(self._store.holding(user.user_id, stale=ask.stale))
        if value is None:
            raise Refusal("ObjectNotFound", "The user has no API key.")
        return show(value, self._store.switches.api_key_shows) or ""

    def _generate(self, ask: Ask) -> Result:
        user_id = self._subject(ask).user_id
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

    def _authenticated(self, ask: Ask) -> User:
        credential = ask.credential
        if credential.kind == "api-key":
            user = self._store.key_owner(credential.value)
            if user is None:
                raise Refusal("InvalidAPIKey", "The API key is not valid.")
            return user
        as_key = credential.kind == "session-id" and self._store.switches.soap_accepts_api_key
        if as_key and credential.value not in self._store.sessions:
            user = self._store.key_owner(credential.value)
            if user is not None:
                return user
        return self._store.users[
            self._store.live_session(credential.value, credential.address).user_id
        ]

    def _subject(self, ask: Ask) -> User:
        """The user a call names, if the caller may act for that user."""
        caller = self._authenticated(ask)
        user_id = number(ask.args.get("user_id"), "userId")
        self._entitled(caller, user_id)
        return self._store.user(user_id)

    def _entitled(self, caller: User, user_id: int | None) -> None:
        if caller.user_id != user_id and caller.auth_level > AuthLevel.NetworkAdmin:
            raise Refusal("AccessDenied", "This operation requires NetworkAdmin or higher.")

    def _hidden_from(self, ask: Ask, record: KeyRecord) -> bool:
        guarded = self._store.switches.private_read != "anyone" and record.visibility == "Private"
        return guarded and self._authenticated(ask).user_id != record.user_id

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

    _calls: Mapping[str, Callable[[Calls, Ask], Result]] = {
        "KeySet": _issue,
        "CreateKey": _issue,
        "KeyGet": _read,
        "GetKey": _read,
        "KeyList": _list,
        "ListKeys": _list,
        "KeyRemove": _remove,
        "DeleteKey": _remove,
        "UserGetAPIKey": _get_api_key,
        "GetAPIKey": _get_api_key,
        "GenerateAPIKey": _generate,
        "GenerateKey": _generate,
        "WhoAmI": _who_am_i,
        "GetMe": _who_am_i,
        "AuthSession": _who_am_i,
        "Login": _login,
        "AuthLogin": _login,
        "AuthRefresh": _refresh,
        "Logout": _logout,
        "AuthLogout": _logout,
        "Version": _version,
        "AuthVersion": _version,
    }
