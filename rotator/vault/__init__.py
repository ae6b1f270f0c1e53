"""What the rotator keeps in Vault: records, staged values and published secrets, each written by check-and-set.

Every write goes through `Vault.put`, which resolves an answer that was lost, or a mismatch against oneself, by
reading what is there. Values leave this room only as `Secret`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from rotator.errors import AnswerLost, Failure, FenceLost, Gone, Mismatch, Permanent, Transient
from rotator.journal import Record
from rotator.keys import ApiKey, KeyRef, Secret, Visibility
from rotator.policy import Destination, Policy
from rotator.vault.kv import KV, At, Document, StaleRead
from rotator.vault.server import Server

__all__ = ["KV", "At", "Document", "Published", "Server", "Staged", "StaleRead", "Stored", "Vault"]

OUR_FIELDS = ("key_id", "user_id", "visibility", "created", "rotated_at")
MANAGED_BY = "rotator"
INDEX_SHARDS = 64  # few requests for an idle tick, small documents for a large fleet


@dataclass(frozen=True)
class Stored:
    """A record and the version it was read at or written as (0: not in Vault yet)."""

    record: Record
    version: int


@dataclass(frozen=True)
class Staged:
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
    policy: str | None  # the policy that marked it, from the custom metadata
    _fields: dict[str, Any] = field(repr=False, default_factory=dict)

    @classmethod
    def nothing(cls, at: At, version: int) -> Published:
        """A secret whose latest version was deleted: nothing, over which the next version may be written."""
        return cls(at, version, None, None, None, None, None, None)


class Vault:
    """Records, staged values and published secrets of all policies, over a `KV`."""

    def __init__(self, kv: KV, mount: str, state_path: str) -> None:
        self.kv = kv
        self._mount, self._state = mount, state_path.strip("/")

    def now(self) -> datetime:
        """The Vault server's time."""
        return self.kv.now()

    # the record

    def record_at(self, policy: str) -> At:
        """Where a policy's record is."""
        return At(self._mount, f"{self._state}/record/{policy}")

    def record(self, policy: str) -> Stored | None:
        """The record, or None if there never was one; raises Gone if it was deleted."""
        at = self.record_at(policy)
        try:
            document = self.kv.read(at)
        except Gone as error:
            gone = error
        else:
            if document is None:
                return None
            return Stored(Record.parse(document.data, str(at)), document.version)
        raise Gone(
            f"the record of {policy} was deleted in Vault (version {gone.version}). Undelete that version, or, if it "
            f"is lost, `rotator adopt {policy}` builds it anew from the secret and ECGrid",
            version=gone.version,
        )

    def save(self, record: Record, over: int) -> Stored:
        """Writes the record as the version after `over`; raises FenceLost if another run has written since.

        May be repeated with the same record while it raises Transient: its `nonce` shows whether it was written.
        """
        return Stored(record, self.put(self.record_at(record.policy), record.kept(), over))

    def policies_with_records(self) -> list[str]:
        """The names of all policies that have a record below the state path."""
        return self.kv.names(At(self._mount, f"{self._state}/record"))

    # the due index (see `rotator.vault.index`)

    def index_at(self, policy: str) -> At:
        """Where the due index has its entry for a policy: one of INDEX_SHARDS documents, by a hash of the name."""
        shard = int.from_bytes(sha256(policy.encode()).digest()[-8:], "big") % INDEX_SHARDS
        return At(self._mount, f"{self._state}/index/{shard:02d}")

    @property
    def brake_at(self) -> At:
        """Where it is noted that a person let the brake go: beside the index, so that it needs no right of its own."""
        return At(self._mount, f"{self._state}/index/brake")

    # the staged value

    def staged_at(self, policy: str) -> At:
        """Where a policy's staged value is."""
        return At(self._mount, f"{self._state}/staged/{policy}")

    def staged(self, policy: str) -> Staged | None:
        """The staged document, or None. Whichever run settles destroys it, so its versions may begin anew."""
        self.kv.forget(self.staged_at(policy))
        document = self.kv.read(self.staged_at(policy))
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
        return Staged(run, key, self.put(self.staged_at(policy), data, over))

    def unstage(self, policy: str) -> None:
        """Destroys the staged value: all versions and the metadata."""
        self.kv.destroy(self.staged_at(policy))

    # the published secret

    def published(self, to: Destination, version: int | None = None) -> Published | None:
        """What is published at a destination (or was, as that version); None if nothing ever was."""
        at = At(to.mount, to.path)
        document = self.kv.read(at, version)
        if document is None:
            return None
        data = document.data
        return Published(
            at=at,
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

    def publish(self, to: Destination, key: ApiKey, at: datetime, over: Published | None) -> int:
        """Writes the key over the version `over` (None: nothing), other fields kept; returns the new version.

        Raises Mismatch if the secret has another version by now.
        """
        data = dict(over._fields) if over else {}
        data |= (
            dict(to.fields) | _about(key) | {"rotated_at": _text(at), to.field: key.value.reveal()}
        )
        return self.put(At(to.mount, to.path), data, over.version if over else 0)

    def mark(self, to: Destination, policy: str, key: KeyRef, at: datetime) -> None:
        """Marks the secret as this policy's in its custom metadata; other entries are kept."""
        custom = {"managed_by": MANAGED_BY, "policy": policy, "rotated_at": _text(at)}
        if key.key_id is not None:
            custom["key_id"] = str(key.key_id)
        self.kv.annotate(At(to.mount, to.path), custom)

    def earlier_value(self, to: Destination, key_id: int, before: int) -> Secret | None:
        """The value of that key in an earlier version of the secret, if one of the last ten still has it."""
        for version in range(before - 1, max(0, before - 11), -1):
            try:
                old = self.published(to, version)
            except Failure:
                continue
            if old is not None and old.key_id == key_id:
                return old.value
        return None

    # rights

    def places(self, policy: Policy) -> list[At]:
        """Where the policy publishes."""
        return [At(to.mount, to.path) for to in policy.destinations]

    def needs(self, policy: Policy) -> dict[str, frozenset[str]]:
        """The capabilities that rotating this policy takes, by API path."""
        write = frozenset({"create", "read", "update"})
        record, staged = self.record_at(policy.name), self.staged_at(policy.name)
        index = self.index_at(policy.name)
        needs = {
            f"{record.mount}/data/{record.path}": write,
            f"{index.mount}/data/{index.path}": write,
            f"{staged.mount}/data/{staged.path}": write,
            f"{staged.mount}/metadata/{staged.path}": frozenset({"delete"}),
        }
        needs.update({f"{to.mount}/data/{to.path}": write for to in policy.destinations})
        return needs

    def rights(self, policy: Policy) -> dict[str, frozenset[str]]:
        """Every capability that the commands take for this policy, by API path.

        Beyond `needs`: without it rotations go on, but some other thing fails (the mark on the secret, `adopt --from`,
        records without a policy, whether versions expire, renewing the login).
        """
        record = self.record_at(policy.name)
        rights = self.needs(policy) | {
            f"{record.mount}/metadata/{self._state}/record/": frozenset({"list"}),
            f"{record.mount}/metadata/{record.path}": frozenset({"read", "delete"}),
            "auth/token/renew-self": frozenset({"update"}),
        }
        for at in (record, *self.places(policy)):
            rights[f"{at.mount}/config"] = frozenset({"read"})
        for to in policy.destinations:
            rights[f"{to.mount}/metadata/{to.path}"] = frozenset({"read", "patch"})
        return rights

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

    def accept_restored(self, stale: StaleRead) -> bool:
        """Whether a check-and-set on a stale version is accepted: then Vault was restored from a backup.

        The older version is written again as it is, and from then on counts. Nothing is written where there is
        nothing: that it is gone counts from now on, since every act on it needs a check-and-set all the same.
        """
        document = stale.document
        if document is not None:
            try:
                self.kv.write(stale.at, document.data, document.version)
            except (Failure, FenceLost):
                return False
        self.kv.forget(stale.at)
        return True

    # the one write

    def put(self, at: At, data: dict[str, Any], cas: int) -> int:
        """Writes the version after `cas` and returns its number; may be repeated until it returns or raises FenceLost.

        A lost answer, and a mismatch (which may be against oneself), are resolved by reading. Raises Transient while
        the server cannot tell.
        """
        try:
            return self.kv.write(at, data, cas)
        except (AnswerLost, Mismatch) as error:
            trouble: AnswerLost | Mismatch = error
        try:
            there = self.kv.read(at)
        except StaleRead as stale:
            there = stale.document
        if there is not None and there.version == cas + 1 and there.data == data:
            return there.version
        if (there.version if there else 0) > cas:
            raise Mismatch(f"{at} was written by another run, or another writer, in between")
        if isinstance(
            trouble, FenceLost
        ):  # the server has a newer version, this standby does not show it yet
            raise Transient(
                f"{at}: the read after a refused write is stale", kind="vault.StaleRead"
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


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time(text: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at if at is None or at.tzinfo else at.replace(tzinfo=UTC)


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, int | str) and str(value).isdecimal() else None


def _visibility(value: object) -> Visibility | None:
    return next((v for v in Visibility if v.value == value), None)
