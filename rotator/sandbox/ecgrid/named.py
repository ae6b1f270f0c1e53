"""The store of named values that KeySet and its like are in ECGrid's own form; no API key comes from here."""

from __future__ import annotations

from datetime import timedelta

from rotator.sandbox.ecgrid.callers import Rights
from rotator.sandbox.ecgrid.store import Place, Store
from rotator.sandbox.ecgrid.words import (
    FOR_EVER,
    Ask,
    NamedValue,
    One,
    Refusal,
    Result,
    User,
    number,
    system_object_named,
    visibility_named,
)

_LONGEST_DAYS = 36500


class NamedValues:
    """Sets, gets, lists and removes values on objects; what a visibility hides from a caller is not found."""

    def __init__(self, store: Store, rights: Rights) -> None:
        self._store = store
        self._rights = rights

    def set(self, ask: Ask) -> Result:
        """Stores the value that the caller brings, instead of one of that name; raises Refusal."""
        caller, place = self._place(ask)
        value, meta = ask.args.get("value"), ask.args.get("meta")
        now = self._store.now()
        days = number(ask.args.get("days_to_live", -1), "daysToLive")
        expires = now + timedelta(days=days) if 0 < days <= _LONGEST_DAYS else FOR_EVER
        kept = NamedValue(
            place[-1],
            str(value or ""),
            str(meta or ""),
            place[2],
            now,
            expires,
            caller,
            ask.credential.value if place[2] == "Session" else None,
        )
        self._store.named[place] = kept
        return kept if ask.call == "CreateKey" else True

    def get(self, ask: Ask) -> Result:
        """The value of that name; raises Refusal (ObjectNotFound)."""
        return self._value_at(self._place(ask)[1])

    def list(self, ask: Ask) -> Result:
        """The object's values that the caller may see."""
        caller = self._rights.authenticated(ask)
        here = self._object(caller, ask)
        now = self._store.now()
        seen: list[One] = [
            kept
            for place, kept in self._store.named.items()
            if place[:2] == here
            and place[3] == _scope(place[2], caller, ask)
            and kept.expires > now
        ]
        return seen

    def remove(self, ask: Ask) -> Result:
        """Removes the value of that name; raises Refusal (ObjectNotFound)."""
        place = self._place(ask)[1]
        self._value_at(place)
        del self._store.named[place]
        return True

    def _value_at(self, place: Place) -> NamedValue:
        kept = self._store.named.get(place)
        if kept is None or kept.expires <= self._store.now():
            raise Refusal("ObjectNotFound", "There is no value of that name.")
        return kept

    def _place(self, ask: Ask) -> tuple[User, Place]:
        caller = self._rights.authenticated(ask)
        kind, object_id = self._object(caller, ask)
        visibility = visibility_named(ask.args.get("visibility", "Private"))
        key = ask.args.get("key")
        if not isinstance(key, str) or not key:
            raise Refusal("InvalidDataLength", "A value needs a name, in key.")
        return caller, (kind, object_id, visibility, _scope(visibility, caller, ask), key)

    def _object(self, caller: User, ask: Ask) -> tuple[str, int]:
        if "system_object" not in ask.args or "object_id" not in ask.args:
            raise Refusal("InvalidParameter", "The fields systemObject and objectId are required.")
        kind = system_object_named(ask.args["system_object"])
        object_id = number(ask.args["object_id"], "objectId")
        if kind == "User":
            self._rights.entitled(caller, object_id)
            self._store.user(object_id)
        return kind, object_id


def _scope(visibility: str, caller: User, ask: Ask) -> str:
    """For whom a value of this visibility, set by this caller, is there."""
    scopes = {
        "Private": str(caller.user_id),
        "Shared": str(caller.network_id),
        "Session": ask.credential.value,
    }
    return scopes.get(visibility, "")
