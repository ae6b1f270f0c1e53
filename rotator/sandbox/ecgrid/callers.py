"""Who makes a call of the simulated ECGrid, and for whom that caller may act."""

from __future__ import annotations

from rotator.sandbox.ecgrid.store import Store
from rotator.sandbox.ecgrid.words import Ask, AuthLevel, Refusal, User, number


class Rights:
    """Credentials and AuthLevels, held against what the store has."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def authenticated(self, ask: Ask) -> User:
        """The caller; raises Refusal (InvalidAPIKey, InvalidSession)."""
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

    def subject(self, ask: Ask) -> User:
        """The user a call names, if the caller may act for that user; raises Refusal."""
        caller = self.authenticated(ask)
        user_id = number(ask.args.get("user_id"), "userId")
        self.entitled(caller, user_id)
        return self._store.user(user_id)

    def entitled(self, caller: User, user_id: int | None) -> None:
        """Nothing, where the caller may act for that user; raises Refusal (AccessDenied)."""
        if caller.user_id == user_id or caller.auth_level <= AuthLevel.NetworkAdmin:
            return
        user = None if user_id is None else self._store.users.get(user_id)
        if self._store.switches.mailbox_admins and user is not None:
            here = (user.network_id, user.mailbox_id) == (caller.network_id, caller.mailbox_id)
            if here and caller.auth_level <= AuthLevel.MailboxAdmin:
                return
        raise Refusal("AccessDenied", "This operation requires NetworkAdmin or higher.")
