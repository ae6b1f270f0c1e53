"""Which ECGrid the records are about, and what it speaks, as a value: kept in Vault at `MOUNT/STATE_PATH/ecgrid`.

It never holds a key's value. All times are the Vault server's, in UTC.
"""

from __future__ import annotations

import base64
import secrets
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from rotator.kept import AS_KEPT_IF_ANY, AS_READ, Value
from rotator.keys import Secret

FORMAT = 1
GOOD_FOR, NOTHING_GOOD_FOR = timedelta(days=1), timedelta(hours=1)
# Credentials whose user is remembered.
CALLERS = 8

SurfaceName = Literal["rest", "soap"]


def _of_known_surfaces(hosts: Any) -> Any:
    if not isinstance(hosts, dict):
        return hosts
    return {name: host for name, host in hosts.items() if name in get_args(SurfaceName)}


class _Known(Value):
    # What a newer rotator adds here is read over: nothing of it is lost that could not be found out again.
    model_config = ConfigDict(extra="ignore")


class Operation(_Known):
    """A call as the service describes it: its parameters in order, and the kind of its result, as far as it is told."""

    parameters: tuple[str, ...] = ()
    result: str = ""


class Description(_Known):
    """What a surface says of itself: of the calls that the rotator makes, those that it has.

    `calls` None: there is no description to be had. `keys` is what its key calls turned out to be about where only
    asking could tell: key records, or named values.
    """

    url: str
    read_at: datetime
    namespace: str = ""
    calls: dict[str, Operation] | None = None
    keys: Literal["records", "values"] | None = None

    def is_fresh(self, now: datetime) -> bool:
        """Whether it need not be read anew yet."""
        return now - self.read_at < (NOTHING_GOOD_FOR if self.calls is None else GOOD_FOR)

    def kept_at(self, now: datetime) -> Self:
        """The same, since there was nothing newer to be had now: to be tried again in an hour."""
        late = timedelta(0) if self.calls is None else GOOD_FOR - NOTHING_GOOD_FOR
        return self.model_copy(update={"read_at": now - late})


Kept = Annotated[Description | None, AS_READ, AS_KEPT_IF_ANY]


class System(_Known):
    """What a state path knows of its ECGrid.

    `mark` is a random word that each record repeats; empty until it was proved whose ECGrid this is. `unmarked` tells
    whether records without a mark, as the version before wrote them, are this one's. `callers` has user and network of
    each credential that was used, by its fingerprint.
    """

    format: int = FORMAT
    nonce: str = ""
    hmac_key: Annotated[str, Field(repr=False)]
    mark: str = ""
    unmarked: bool = True
    hosts: Annotated[dict[SurfaceName, str], BeforeValidator(_of_known_surfaces)] = Field(
        default_factory=dict
    )
    network_id: int | None = None
    callers: dict[str, tuple[int, int | None]] = Field(default_factory=dict)
    rest: Kept = None
    soap: Kept = None

    @classmethod
    def new(cls) -> Self:
        """One that knows nothing yet, with a fresh random key for fingerprints."""
        return cls(hmac_key=base64.b64encode(secrets.token_bytes(32)).decode())

    @classmethod
    def parse(cls, data: object) -> Self | None:
        """What the document says; None if it cannot be understood: then everything is found out anew."""
        try:
            return cls.model_validate(data)
        except ValidationError:
            return None

    def kept(self) -> dict[str, Any]:
        """The document that `parse` reads."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return data | {"format": self.format, "nonce": secrets.token_hex(8)}

    def fingerprint(self, credential: Secret) -> str:
        """The fingerprint of a credential under this document's key."""
        return credential.fingerprint(base64.b64decode(self.hmac_key))

    def change(self, **fields: object) -> Self:
        """The same with other fields."""
        return self.model_copy(update=fields)

    def caller(self, credential: Secret) -> tuple[int | None, int | None]:
        """User and network of a credential, None where they are not known."""
        return self.callers.get(self.fingerprint(credential), (None, None))

    def knowing(self, credential: Secret, user_id: int, network_id: int | None) -> Self:
        """With one more credential; the oldest of too many is forgotten."""
        mine = self.fingerprint(credential)
        others = [one for one in self.callers.items() if one[0] != mine]
        return self.change(callers=dict([*others, (mine, (user_id, network_id))][-CALLERS:]))
