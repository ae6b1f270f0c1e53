"""What the rotator keeps in Vault: records, staged values and published secrets, each written by check-and-set.

Every write goes through `Vault.put`, which resolves an answer that was lost, or a mismatch against oneself, by
reading what is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from rotator.errors import AnswerLost, Failure, FenceLost, Gone, Mismatch, Permanent, Transient
from rotator.journal import Record
from rotator.keys import ApiKey, KeyRef, Secret, Visibility
from rotator.policy import Destination, Policy
from rotator.system import System
from rotator.vault.ahead import as_of
from rotator.vault.kv import KV, At, Document, StaleRead
from rotator.vault.layout import Layout

OUR_FIELDS = ("key_id", "user_id", "visibility", "created", "rotated_at")
MANAGED_BY = "rotator"
# Bytes that every server takes.
TAKEN_FOR_GRANTED = 32 * 1024


class Stored(NamedTuple):
    """A record and the version it was read at or written as (0: not in Vault yet).

    `ahead`: how far ahead of Vault a time in it was, which counts as now.
    """

    record: Record
    version: int
    ahead: timedelta = timedelta(0)


class Staged(NamedTuple):
    """A staged document: the issued key of the run `run`, or nothing (`key` is None): proof that nothing is staged."""

    run: str
    key: ApiKey | None
    version: int


@dataclass(frozen=True)
class Published:
    """A published secret: the value in the policy's field, and what stands beside it."""

    at: At
    version: int
    value: Secret | None
    key_id: int | None
    user_id: int | None
    created: datetime | None
    visibility: Visibility | None
    # The policy that marked it, from the custom metadata.
    policy: str | None
    _fields: dict[str, Any] = field(repr=False, default_factory=dict)

    @classmethod
    def nothing(cls, place: At, version: int) -> Published:
        """A secret whose latest version was deleted: nothing, over which the next version may be written."""
        return cls(place, version, None, None, None, None, None, None)


class Vault(Layout):
    """Records, staged values and published secrets of all policies, over a `KV`; where they are, its `Layout` says."""

    def __init__(
        self, kv: KV, mount: str, state_path: str, claim_ttl: timedelta = timedelta(minutes=3)
    ) -> None:
        """`claim_ttl`: the longest claim that is believed, since all rotators of a state path take such."""
        super().__init__(mount, state_path)
        self.kv, self._claim_ttl = kv, claim_ttl

    def now(self) -> datetime:
        """The Vault server's time."""
        return self.kv.now()

    # the record

    def record(self, policy: str) -> Stored | None:
        """The record, or None if there never was one; raises Gone if it was deleted."""
        place = self.record_at(policy)
        try:
            document = self.kv.read(place)
        except Gone as error:
            gone = error
        else:
            if document is None:
                return None
            return self.stored(document, place)
        raise Gone(
            f"the record of {policy}, {place}, was deleted in Vault (version {gone.version}). Undelete that version, "
            f"or, if it is lost, `rotator adopt {policy}` builds it anew from the secret and ECGrid",
            version=gone.version,
        )

    def stored(self, document: Document, place: At) -> Stored:
        """The record that such a document holds; raises Permanent if it is none that this version understands."""
        record, ahead = as_of(Record.parse(document.data, str(place)), self.now(), self._claim_ttl)
        return Stored(record, document.version, ahead)

    def save(self, record: Record, over: int) -> Stored:
        """Writes the record as the version after `over`; raises FenceLost if another run has written since.

        May be repeated with the same record while it raises Transient: its `nonce` shows whether it was written.
        """
        return Stored(record, self.put(self.record_at(record.policy), record.kept(), over))

    def policies_with_records(self) -> list[str]:
        """The names of all policies that have a record below the state path."""
        return self.kv.names(At(self._mount, f"{self._state}/record"))

    # which ECGrid that is, and what it speaks

    def system(self) -> tuple[System | None, int]:
        """What is remembered of ECGrid, and its version; None if there is nothing that can be understood."""
        try:
            document = self.kv.read(self.system_at)
        except Gone as error:
            return None, error.version
        if document is None:
            return None, 0
        return System.parse(document.data), document.version

    def save_system(self, system: System, over: int) -> int:
        """Remembers it, as the version after `over`; raises FenceLost if another rotator has written since."""
        return self.put(self.system_at, system.kept(), over)

    # the staged value

    def staged(self, policy: str) -> Staged | None:
        """The staged document, or None. Whichever run settles destroys it, so its versions may begin anew.

        One that somebody deleted is a document without a key, over which the next one is written.
        """
        self.kv.forget(self.staged_at(policy))
        try:
            document = self.kv.read(self.staged_at(policy))
        except Gone as gone:
            return Staged("", None, gone.version)
        if document is None:
            return None
        data, key = document.data, None
        if isinstance(data.get("value"), str):
            user_id = _number(data.get("user_id"))
            if user_id is None:
                raise Permanent(
                    f"the staged document at {self.staged_at(policy)} cannot be understood: destroy it with all its "
                    "versions, and run `rotator check --repair`",
                    kind="vault.BadStaged",
                )
            ref = KeyRef(
                _number(data.get("key_id")),
                user_id,
                _visibility(data.get("visibility")),
                _time(data.get("created")),
            )
            key = ApiKey(ref, Secret.clean(data["value"], f"the staged value of {policy}"))
        return Staged(str(data.get("run")), key, document.version)

    def stage(self, policy: str, run: str, by: str, key: ApiKey | None, over: int) -> Staged:
        """Stages the key of that run, or (None) proves that nothing else was staged; raises Mismatch.

        `by` is the holder of the claim: it tells this attempt's document from another's.
        """
        data: dict[str, Any] = {"run": run, "by": by}
        if key is not None:
            data |= _about(key) | {"value": key.value.reveal()}
        return Staged(run, key, self._put_staged(policy, data, over))

    def _put_staged(self, policy: str, data: dict[str, Any], over: int) -> int:
        """Writes over a version that somebody has deleted, too: it is nothing."""
        try:
            return self.put(self.staged_at(policy), data, over)
        except Gone as gone:
            deleted = gone.version
        return self.put(self.staged_at(policy), data, deleted)

    def unstage(self, policy: str) -> None:
        """Destroys the staged value: all versions and the metadata."""
        self.kv.destroy(self.staged_at(policy))

    def prove_room(
        self, policy: str, run: str, to: Destination, size: int, over: Staged | None
    ) -> None:
        """Shows, at the staged path, that Vault takes so many bytes at a destination; leaves nothing there.

        Raises Permanent (`vault.TooLarge`) if it does not.
        """
        data = {"run": run, "room": "x" * size}
        try:
            self._put_staged(policy, data, over.version if over else 0)
        except Permanent as error:
            if error.kind != "vault.TooLarge":
                raise
        else:
            self.unstage(policy)
            return
        raise Permanent(
            f"{to.mount}/{to.path} would have {size} bytes with the new key, and Vault, its storage, or a proxy takes "
            "less. Make the secret smaller, or raise the limit (raft: `max_entry_size`). Nothing was issued",
            kind="vault.TooLarge",
        )

    # the published secret

    def published(self, to: Destination, version: int | None = None) -> Published | None:
        """What is published at a destination (or was, as that version); None if nothing ever was."""
        place = At(to.mount, to.path)
        document = self.kv.read(place, version)
        if document is None:
            return None
        data = document.data
        return Published(
            at=place,
            version=document.version,
            value=_value(data.get(to.field)),
            key_id=_number(data.get("key_id")),
            user_id=_number(data.get("user_id")),
            created=_time(data.get("created")),
            visibility=_visibility(data.get("visibility")),
            policy=document.custom.get("policy")
            if document.custom.get("managed_by") == MANAGED_BY
            else None,
            _fields=data,
        )

    def publish(
        self, to: Destination, key: ApiKey, rotated_at: datetime, over: Published | None
    ) -> int:
        """Writes the key over the version `over` (None: nothing), other fields kept; returns the new version.

        Raises Mismatch if the secret has another version by now.
        """
        data = dict(over._fields) if over else {}
        data |= (
            dict(to.fields)
            | _about(key)
            | {"rotated_at": _text(rotated_at), to.field: key.value.reveal()}
        )
        return self.put(At(to.mount, to.path), data, over.version if over else 0)

    def size(self, to: Destination, over: Published | None) -> int:
        """How many bytes the secret has once the next key is published over that version."""
        present: dict[str, Any] = over._fields if over else {}
        about = {"key_id": 10**19, "user_id": 10**19, "visibility": "Private", to.field: "x" * 64}
        about |= dict.fromkeys(("created", "rotated_at"), _text(self.now()))
        new = {name: value for name, value in about.items() if present.get(name) is None}
        return len(json.dumps(present | dict(to.fields) | new))

    def unproved_size(self, to: Destination, over: Published | None) -> int:
        """That size, where Vault has not shown yet that it takes so much; 0 where it has, as every server does.

        It has if a secret as large is there.
        """
        size = self.size(to, over)
        grows = size > len(json.dumps(over._fields if over else {}))
        return size if grows and size > TAKEN_FOR_GRANTED else 0

    def mark(self, to: Destination, policy: str, key: KeyRef, rotated_at: datetime) -> None:
        """Marks the secret as this policy's in its custom metadata; other entries are kept."""
        custom = {"managed_by": MANAGED_BY, "policy": policy, "rotated_at": _text(rotated_at)}
        if key.key_id is not None:
            custom["key_id"] = str(key.key_id)
        self.kv.annotate(At(to.mount, to.path), custom)

    def earlier(self, to: Destination, before: int) -> Iterator[Published]:
        """What the secret showed before that version, the latest first: as far as the last ten can be read."""
        for version in range(before - 1, max(0, before - 11), -1):
            try:
                old = self.published(to, version)
            except Failure:
                continue
            if old is not None:
                yield old

    # rights

    def require(self, policies: list[Policy]) -> None:
        """Raises Permanent (`vault.MissingCapability`) unless the login may do all that these policies take."""
        needs: dict[str, frozenset[str]] = {}
        for policy in policies:
            needs |= self.needs(policy)
        missing = self.kv.missing(needs)
        if missing:
            path, lacks = next(iter(sorted(missing.items())))
            more = f" (and {len(missing) - 1} more paths)" if len(missing) > 1 else ""
            raise Permanent(
                f"the Vault login lacks {', '.join(sorted(lacks))} on {path}{more}; "
                "nothing was issued. Extend its policy; `rotator doctor` lists all that is missing",
                kind="vault.MissingCapability",
            )

    # the one write

    def put(self, place: At, data: dict[str, Any], cas: int) -> int:
        """Writes the version after `cas` and returns its number; may be repeated until it returns or raises FenceLost.

        A lost answer, and a mismatch (which may be against oneself), are resolved by reading. Raises Transient while
        the server cannot tell.
        """
        try:
            return self.kv.write(place, data, cas)
        except (AnswerLost, Mismatch) as error:
            trouble: AnswerLost | Mismatch = error
        try:
            document = self.kv.read(place)
        except StaleRead as stale:
            document = stale.document
        if document is not None and document.version == cas + 1 and document.data == data:
            return document.version
        if (document.version if document else 0) > cas:
            raise Mismatch(f"{place} was written by another run, or another writer, in between")
        # The server has a newer version, this standby does not show it yet.
        if isinstance(trouble, FenceLost):
            raise Transient(
                f"{place}: the read after a refused write is stale", kind="vault.StaleRead"
            )
        raise trouble


def _about(key: ApiKey) -> dict[str, Any]:
    ref = key.ref
    return {
        "key_id": ref.key_id,
        "user_id": ref.user_id,
        "visibility": ref.visibility.value if ref.visibility else None,
        "created": _text(ref.created) if ref.created else None,
    }


def _value(data: object) -> Secret | None:
    """The value that is shown; None if there is none, or what no key can be: then nothing is published."""
    if not isinstance(data, str):
        return None
    try:
        return Secret.clean(data, "the published value")
    except Permanent:
        return None


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time(text: object) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return instant if instant is None or instant.tzinfo else instant.replace(tzinfo=UTC)


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, int | str) and str(value).isdecimal() else None


def _visibility(value: object) -> Visibility | None:
    return next((v for v in Visibility if v.value == value), None)
