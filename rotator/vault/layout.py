"""Where the rotator's documents are in Vault, and what its login has to be allowed there: one source of both.

What a rotation proves before it issues, what `doctor` looks at and what `vault-policy` prints are all made of it.
"""

from __future__ import annotations

from hashlib import sha256

from rotator.policy import Policy
from rotator.vault.kv import At

# Few requests for an idle tick, small documents for a large fleet.
INDEX_SHARDS = 64
WRITE = frozenset({"create", "read", "update"})
CAPABILITIES, RENEW = "sys/capabilities-self", "auth/token/renew-self"
LOOK_UP = "auth/token/lookup-self"
# Capabilities by API path.
Rights = dict[str, frozenset[str]]


class Layout:
    """Where everything is below a mount and a state path, and the rights that it takes."""

    def __init__(self, mount: str, state_path: str) -> None:
        self._mount, self._state = mount, state_path.strip("/")
        self._index = [At(mount, f"{self._state}/index/{n:02d}") for n in range(INDEX_SHARDS)]

    def record_at(self, policy: str) -> At:
        """Where a policy's record is."""
        return At(self._mount, f"{self._state}/record/{policy}")

    @property
    def state_at(self) -> At:
        """Where everything is that the rotators of one ECGrid have to share."""
        return At(self._mount, self._state)

    @property
    def system_at(self) -> At:
        """Where it is remembered which ECGrid the records are about, and what it speaks."""
        return At(self._mount, f"{self._state}/ecgrid")

    @property
    def told_at(self) -> At:
        """Where it is kept what is wrong, and what was told of it."""
        return At(self._mount, f"{self._state}/told")

    def index_at(self, policy: str) -> At:
        """Where the due index has its entry for a policy: one of INDEX_SHARDS documents, by a hash of the name."""
        return self._index[index_shard(policy)]

    @property
    def brake_at(self) -> At:
        """Where it is noted that a person let the brake go: beside the index, so that it needs no right of its own."""
        return At(self._mount, f"{self._state}/index/brake")

    def staged_at(self, policy: str) -> At:
        """Where a policy's staged value is."""
        return At(self._mount, f"{self._state}/staged/{policy}")

    def places(self, policy: Policy) -> list[At]:
        """Where the policy publishes."""
        return [At(to.mount, to.path) for to in policy.destinations]

    def needs(self, policy: Policy) -> Rights:
        """The capabilities that rotating this policy takes, by API path."""
        record, staged = self.record_at(policy.name), self.staged_at(policy.name)
        index = self.index_at(policy.name)
        needs = {
            f"{record.mount}/data/{record.path}": WRITE,
            f"{index.mount}/data/{index.path}": WRITE,
            f"{staged.mount}/data/{staged.path}": WRITE,
            f"{staged.mount}/metadata/{staged.path}": frozenset({"delete"}),
        }
        needs.update({f"{to.mount}/data/{to.path}": WRITE for to in policy.destinations})
        return needs

    def rights(self, policy: Policy) -> Rights:
        """Every capability that the commands take for this policy, by API path.

        Beyond `needs`: without it rotations go on, but some other thing fails (the mark on the secret, `adopt --from`,
        records without a policy, whether versions expire, renewing the login).
        """
        record = self.record_at(policy.name)
        rights = self.needs(policy) | {
            f"{record.mount}/metadata/{self._state}/record/": frozenset({"list"}),
            f"{record.mount}/metadata/{record.path}": frozenset({"read", "delete"}),
            RENEW: frozenset({"update"}),
        }
        for place in (record, *self.places(policy)):
            rights[f"{place.mount}/config"] = frozenset({"read"})
        for to in policy.destinations:
            rights[f"{to.mount}/metadata/{to.path}"] = frozenset({"read", "patch"})
        return rights

    def of_system(self) -> Rights:
        """What it takes to remember which ECGrid the records are about; rotations go on without it."""
        return {f"{self.system_at.mount}/data/{self.system_at.path}": WRITE}

    def of_told(self) -> Rights:
        """What it takes to keep what was told of what is wrong; rotations go on without it."""
        return {f"{self.told_at.mount}/data/{self.told_at.path}": WRITE}

    def of_login(self, auth: str, mount: str) -> Rights:
        """What a login by that method takes beside; how long what it is made with lives is asked for, too."""
        asks: Rights = {}
        if auth == "token":
            asks[LOOK_UP] = frozenset({"read"})
        elif auth == "approle":
            asks[secret_ids(mount)] = frozenset({"update"})
        return {CAPABILITIES: frozenset({"update"}), RENEW: frozenset({"update"}), **asks}

    def state(self) -> tuple[str, str]:
        """The API paths that all of the rotator's own documents are below."""
        return f"{self._mount}/data/{self._state}/", f"{self._mount}/metadata/{self._state}/"


def secret_ids(mount: str, role: str = "+") -> str:
    """The API path that tells of a role's SecretIDs (`+`: any role's), to those who know the SecretID."""
    return f"auth/{mount}/role/{role}/secret-id/lookup"


def index_shard(policy: str) -> int:
    """Which document of the due index has a policy's entry."""
    return int.from_bytes(sha256(policy.encode()).digest()[-8:], "big") % INDEX_SHARDS
