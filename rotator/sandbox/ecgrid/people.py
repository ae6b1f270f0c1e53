"""What the simulated ECGrid says of its users: who is calling, one of them, or all that the caller may see."""

from __future__ import annotations

from datetime import datetime

from rotator.sandbox.ecgrid.callers import Rights
from rotator.sandbox.ecgrid.store import Store
from rotator.sandbox.ecgrid.words import (
    Ask,
    AuthLevel,
    One,
    Refusal,
    Result,
    ShownUser,
    User,
    number,
)

VERSION = "ECGridOS API v4.1 (Build 472)"
_PAGE = 25


class People:
    """The calls that show users."""

    def __init__(self, store: Store, rights: Rights) -> None:
        self._store = store
        self._rights = rights

    def who_am_i(self, ask: Ask) -> Result:
        """The caller, with a live credential of its own; raises Refusal."""
        user = self._rights.authenticated(ask)
        session = self._store.sessions.get(ask.credential.value)
        key = None
        if self._store.switches.me_shows_key and ask.call == "GetMe":
            key = self._store.api_key(self._store.holding(user.user_id, stale=ask.stale))
        session_id = self._session_id(user, ask)
        expires = session.expires if session else None
        return self._shown(user, ask, expires=expires, key=key, session_id=session_id)

    def info(self, ask: Ask) -> Result:
        """One user; raises Refusal."""
        return self._shown(self._rights.subject(ask), ask)

    def list(self, ask: Ask) -> Result:
        """The users that fit, by id: all of them over SOAP, a page over REST; raises Refusal."""
        network_id, mailbox_id = self._realm(self._rights.authenticated(ask), ask)
        everybody = (self._store.users[user_id] for user_id in sorted(self._store.users))
        fitting: list[One] = [
            self._shown(user, ask)
            for user in everybody
            if user.network_id == network_id
            and mailbox_id in (None, user.mailbox_id)
            and _fits(user, ask)
        ]
        if ask.call != "ListUsers":
            return fitting
        pages = self._store.switches.user_pages
        if pages == "all":
            return fitting
        size = _given(ask, "records_per_page") or _PAGE
        first = (max(_given(ask, "page_no"), 1) - 1) * size if pages == "asked" else 0
        return fitting[first : first + size]

    def _realm(self, caller: User, ask: Ask) -> tuple[int, int | None]:
        """The network, and the mailbox (None: all), whose users are asked for; those of the caller by default."""
        network_id = _given(ask, "network_id") or caller.network_id
        mailbox_id = max(_given(ask, "mailbox_id"), 0) or None
        if caller.auth_level <= AuthLevel.NetOps:
            return network_id, mailbox_id
        if caller.auth_level > AuthLevel.NetworkUser:
            mailbox_id = mailbox_id or caller.mailbox_id
        mine = caller.auth_level <= AuthLevel.NetworkUser or mailbox_id == caller.mailbox_id
        if network_id != caller.network_id or not mine or caller.auth_level > AuthLevel.MailboxUser:
            raise Refusal("AccessDenied", "These users are not for this caller.")
        return network_id, mailbox_id

    def _session_id(self, user: User, ask: Ask) -> str:
        """The credential that was presented; or the session behind it, which is opened for a key that has none."""
        presented = ask.credential.value
        switches = self._store.switches
        plain = switches.form == "portal" or switches.session_shown == "presented"
        if plain or presented in self._store.sessions:
            return presented
        now = self._store.now()
        mine = (s for s in self._store.sessions.values() if s.user_id == user.user_id)
        session = next((s for s in mine if s.expires > now), None)
        return (session or self._store.open(user.user_id, ask)).token

    def _shown(
        self,
        user: User,
        ask: Ask,
        *,
        expires: datetime | None = None,
        key: str | None = None,
        session_id: str | None = None,
    ) -> ShownUser:
        return ShownUser(
            user,
            expires,
            key,
            session_id,
            open_sessions=self._store.open_sessions(user.user_id),
            last_login=self._store.last_login.get(user.user_id),
            time_out=self._store.switches.session_seconds,
            address=ask.credential.address,
        )


def _fits(user: User, ask: Ask) -> bool:
    part = str(ask.args.get("name") or "").lower()
    named = any(part in word.lower() for word in (user.login, user.first_name, user.last_name))
    level, status = ask.args.get("auth_level"), ask.args.get("status")
    return named and level in (None, user.auth_level.name) and status in (None, user.status)


def _given(ask: Ask, name: str) -> int:
    given = ask.args.get(name)
    return 0 if given is None else number(given, name)
