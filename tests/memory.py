"""A small world in memory for the interleaving tests: KV v2, ECGrid without HTTP, and a clock that only tests move.

Every call passes a gate, where a test may switch to another rotator, let time pass, lose the answer, or end the
process. The KV is held to a real server by `test_kv_contract.py`; ECGrid is the simulator itself.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rotator.ecgrid import Urgency
from rotator.errors import (
    AnswerLost,
    Forbidden,
    Gone,
    Mismatch,
    NoSuchCall,
    NotFound,
    Permanent,
    Refused,
    Transient,
)
from rotator.keys import ApiKey, Issue, KeyRef, Me, Secret, Seen, Verify, Visibility
from rotator.sandbox.ecgrid import Simulator
from rotator.sandbox.ecgrid.words import Ask, Credential, Refusal, ShownKey, ShownUser
from rotator.system import Description, SurfaceName
from rotator.vault import At, Document, StaleRead

START = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)
# Before a call: "go", "lose" (carried out, answer lost), "fail" (not carried out), or, for issuing calls, "late"
# (carried out some time after the answer was lost).
Gate = Callable[[str], str]


def go(_call: str) -> str:
    """A gate that always lets pass."""
    return "go"


class Time:
    """The one clock of a world; sleeping moves it, unless a test decides otherwise."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.sleeping: Callable[[float], None] = self.pass_by

    def boot(self) -> float:
        """Seconds since some moment."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Waits, in this world's time."""
        self.sleeping(seconds)

    def pass_by(self, seconds: float) -> None:
        """Moves the clock."""
        self.seconds += seconds

    def now(self) -> datetime:
        """The wall clock of everybody in this world."""
        return START + timedelta(seconds=self.seconds - 1000.0)


@dataclass
class _Path:
    versions: dict[int, dict[str, Any] | None] = field(
        default_factory=dict
    )  # None: deleted or destroyed
    latest: int = 0
    custom: dict[str, str] = field(default_factory=dict)


STRINGS = 990  # of a document, as OpenBao counts them: values and names of fields


def strings_in(data: object) -> int:
    """How many strings a JSON value has."""
    if isinstance(data, dict):
        return len(data) + sum(map(strings_in, data.values()))
    if isinstance(data, list):
        return sum(map(strings_in, data))
    return isinstance(data, str)


class Store:
    """What the KV v2 server holds: shared by all who connect to it."""

    def __init__(self) -> None:
        self.paths: dict[At, _Path] = {}
        self.log: list[tuple[At, int]] = []  # every write, in order

    def write(self, at: At, data: dict[str, Any], cas: int) -> int:
        """Writes one version by check-and-set."""
        if strings_in(data) > STRINGS:
            raise Permanent(f"{at}: too many strings", kind="vault.InvalidRequest")
        path = self.paths.setdefault(at, _Path())
        if path.latest != cas:
            raise Mismatch(f"{at}: version {path.latest}, not {cas}")
        path.latest += 1
        path.versions[path.latest] = json.loads(json.dumps(data))
        path.versions.pop(path.latest - 10, None)
        self.log.append((at, path.latest))
        return path.latest

    def delete(self, at: At) -> None:
        """Deletes the latest version softly: the number stays."""
        self.paths[at].versions[self.paths[at].latest] = None

    def read(self, at: At, version: int | None) -> Document | None:
        """One version, or the latest."""
        path = self.paths.get(at)
        if path is None or path.latest == 0:
            return None
        number = path.latest if version is None else version
        if number not in path.versions:
            return None
        data = path.versions[number]
        if data is None:
            raise Gone(f"{at}: version {number} was deleted", version=number)
        return Document(copy.deepcopy(data), number, dict(path.custom))


class MemoryKV:
    """One process' connection to a `Store`: a `rotator.vault.KV`."""

    def __init__(self, store: Store, time: Time, gate: Gate = go) -> None:
        self.store, self.time, self.gate = store, time, gate
        self.lag: Callable[[At], int] = lambda _at: 0  # how many versions a read is behind
        self._written: dict[At, int] = {}

    def now(self) -> datetime:
        """The server's time, in whole seconds as `Date` tells it."""
        return self.time.now().replace(microsecond=0)

    def sure_of_time(self) -> None:
        """It always is, here."""

    def read(self, at: At, version: int | None = None) -> Document | None:
        """See `KV.read`."""
        if self.gate(f"vault read {at.path}") != "go":
            raise Transient("no answer", kind="vault.Timeout")
        behind = self.lag(at) if version is None else 0
        path = self.store.paths.get(at)
        if behind and path is not None and path.latest:
            old = path.latest - behind
            document = self.store.read(at, old) if old > 0 and path.versions.get(old) else None
        else:
            document = self.store.read(at, version)
        if version is None and (document.version if document else 0) < self._written.get(at, 0):
            raise StaleRead(at, document)
        return document

    def write(self, at: At, data: dict[str, Any], cas: int) -> int:
        """See `KV.write`."""
        fate = self.gate(f"vault write {at.path}")
        if fate == "fail":
            raise AnswerLost("no answer", kind="vault.Timeout")
        version = self.store.write(at, data, cas)
        if fate == "lose":
            raise AnswerLost("no answer", kind="vault.Timeout")
        self._written[at] = version
        return version

    def destroy(self, at: At) -> None:
        """See `KV.destroy`."""
        fate = self.gate(f"vault destroy {at.path}")
        if fate != "fail":
            self.store.paths.pop(at, None)
        if fate != "go":
            raise AnswerLost("no answer", kind="vault.Timeout")
        self._written.pop(at, None)

    def annotate(self, at: At, custom: dict[str, str]) -> None:
        """See `KV.annotate`."""
        if self.gate(f"vault annotate {at.path}") != "go":
            raise AnswerLost("no answer", kind="vault.Timeout")
        if at not in self.store.paths:
            raise NotFound(f"{at}: nothing there", kind="vault.NotFound")
        self.store.paths[at].custom.update(custom)

    def forget(self, at: At) -> None:
        """See `KV.forget`."""
        self._written.pop(at, None)

    def names(self, at: At) -> list[str]:
        """See `KV.names`."""
        if self.gate(f"vault list {at.path}") != "go":
            raise Transient("no answer", kind="vault.Timeout")
        whole = [
            p.path.removeprefix(f"{at.path}/")
            for p in self.store.paths
            if p.mount == at.mount and p.path.startswith(f"{at.path}/")
        ]
        return sorted(name for name in whole if "/" not in name)

    def missing(self, needs: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """Nothing is missing here."""
        return {}

    def outlast(self, seconds: float) -> None:
        """The login never ends here."""


_RECORDS = ("KeySet", "CreateKey", "GetKey", "ListKeys", "DeleteKey")


class Direct:
    """One process' `Account` at a simulator, without HTTP: the answers are the simulator's own."""

    def __init__(
        self,
        simulator: Simulator,
        own: Own,
        issue: Issue,
        verify: Verify,
        *,
        gate: Gate = go,
    ) -> None:
        self.simulator, self.own, self.gate = simulator, own, gate
        self.later: Callable[[Ask], None] = lambda _ask: None
        self._issue, self._verify = issue, verify

    def reserve(self, requests: int) -> None:
        """There is no rate here."""

    def urgent(self) -> None:
        """Nobody queues here."""

    def warm(self, connections: int) -> None:
        """There are no connections here."""

    def use(self, value: Secret) -> None:
        """See `Account.use`."""
        self.own.value = value

    def require(self, user_id: int, visibility: Visibility, within: float) -> list[str]:
        """See `Account.require`."""
        if self._issue is not Issue.GENERATE or self._verify.shows_record:
            self._refuse_records()
        return []

    def speaks(self, within: float) -> dict[SurfaceName, Description]:
        """There are no two forms here."""
        return {}

    def go_on(self, begun: Mapping[SurfaceName, Description]) -> None:
        """Nor here."""

    def _refuse_records(self) -> None:
        """Raises NoSuchCall where the calls of key records are a store of named values."""
        if self.simulator.switches.form == "service":
            raise NoSuchCall("no such call")

    def issue(self, user_id: int, visibility: Visibility, within: float) -> ApiKey:
        """See `Account.issue`."""
        call = {
            Issue.KEYSET: "KeySet",
            Issue.CREATE_KEY: "CreateKey",
            Issue.GENERATE: "GenerateKey",
        }[self._issue]
        answer = self._ask(
            call, {"user_id": user_id, "visibility": visibility.value}, None, issues=True
        )
        if isinstance(answer, str):
            return ApiKey(KeyRef(None, user_id, None, None), Secret(answer))
        seen = _seen(answer)
        if seen.whole is None:
            raise AnswerLost("the value is masked", kind="ecgrid.BadAnswer")
        return seen.whole

    def read(self, user_id: int, within: float, caller: Secret | None = None) -> Seen:
        """See `Account.read`."""
        call = "GetKey" if self._verify.shows_record else "GetAPIKey"
        answer = self._ask(call, {"user_id": user_id}, caller)
        if isinstance(answer, str):
            return Seen(KeyRef(None, user_id, None, None), Secret(answer))
        return _seen(answer)

    def keys(
        self, user_id: int, visibility: Visibility, within: float, caller: Secret | None = None
    ) -> list[Seen]:
        """See `Account.keys`."""
        answer = self._ask("ListKeys", {"user_id": user_id, "visibility": visibility.value}, caller)
        return [_seen(one) for one in answer]

    def remove(self, key_id: int, within: float) -> None:
        """See `Account.remove`."""
        self._ask("DeleteKey", {"key_id": key_id}, None, changes=True)

    def who_am_i(self, within: float, caller: Secret | None = None) -> Me:
        """See `Account.who_am_i`."""
        answer: ShownUser = self._ask("GetMe", {}, caller)
        user = answer.user
        return Me(
            user.user_id,
            user.login,
            user.auth_level.name,
            user.status,
            network_id=user.network_id,
        )

    def knows(self, user_id: int, within: float) -> bool | None:
        """See `Account.knows`."""
        try:
            self._ask("UserInfo", {"user_id": user_id}, None)
        except NotFound:
            return False
        return True

    def version(self, within: float) -> str:
        """See `Account.version`."""
        return "test"

    def _ask(
        self,
        call: str,
        args: dict[str, Any],
        caller: Secret | None,
        *,
        issues: bool = False,
        changes: bool = False,
    ) -> Any:
        if call in _RECORDS:
            self._refuse_records()
        fate = self.gate(f"ecgrid {call}")
        lost = AnswerLost if issues or changes else Transient
        if fate == "fail":
            raise lost("no answer", kind="ecgrid.Timeout")
        key = caller or self.own.value
        if fate == "late":
            self.later(Ask(call, args, Credential("api-key", key.reveal())))
            raise lost("no answer", kind="ecgrid.Timeout")
        answer: Any = None
        refusal = None
        try:
            answer = self.simulator.perform(Ask(call, args, Credential("api-key", key.reveal())))
        except Refusal as error:
            refusal = error.code
        if refusal is not None:
            kinds = {
                "InvalidAPIKey": Refused,
                "AccessDenied": Forbidden,
                "ObjectNotFound": NotFound,
            }
            raise kinds.get(refusal, Permanent)(f"{call} refused", kind=f"ecgrid.{refusal}")
        if fate == "lose":
            raise lost("no answer", kind="ecgrid.Timeout")
        return answer


def _seen(shown: ShownKey) -> Seen:
    ref = KeyRef(shown.key_id, shown.user_id, Visibility(shown.visibility), shown.created)
    return Seen(ref, Secret(shown.value) if shown.value else None)


class Here:
    """`Whose` of a world with one ECGrid: whoever has the key in use is asked for once."""

    def __init__(self, account: Direct, own: Own, known: list[tuple[Secret, int]]) -> None:
        """`known` outlives the process, as what is remembered in Vault does."""
        self._account, self._own, self._known = account, own, known

    def mark(self) -> str:
        """See `Whose.mark`."""
        return "here"

    def is_ours(self, mark: str) -> bool:
        """See `Whose.is_ours`."""
        return mark in ("", "here")

    def refuse_lost(self) -> None:
        """One policy is never many."""

    def own_user(self, within: float) -> int | None:
        """See `Whose.own_user`."""
        user_id = self.own_user_if_known()
        if user_id is None:
            shown = self._own.value
            user_id = self._account.who_am_i(within).user_id
            self._known.append((shown, user_id))
        return user_id

    def own_user_if_known(self) -> int | None:
        """See `Whose.own_user_if_known`."""
        return next((user_id for key, user_id in self._known if key == self._own.value), None)


@dataclass
class Own:
    """The rotator's own key, in one process."""

    value: Secret


def in_turn(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """`Hands.together` without threads: one after the other, the first error last, as there."""
    results: list[Any] = []
    errors: list[Exception] = []
    for call in calls:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - re-raised below, after the others had their turn
            errors.append(error)
    if errors:
        raise errors[0]
    return results


def account_of(
    simulator: Simulator, own: Own, gate: Gate = go, later: Callable[[Ask], None] | None = None
) -> Callable[[Issue, Verify, Urgency], Direct]:
    """What `World.account` is, over the simulator itself; `later` keeps the requests that land later."""

    def account(issue: Issue, verify: Verify, _urgency: Urgency) -> Direct:
        made = Direct(simulator, own, issue, verify, gate=gate)
        made.later = later or made.later
        return made

    return account
