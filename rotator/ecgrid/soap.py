"""ECGrid's SOAP API (v4.1). zeep writes the requests after our WSDL; the answers are read by the names in them.

zeep is imported when the first call is made: a fleet that speaks only REST never pays for it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rotator import __version__
from rotator.ecgrid import answers, surface
from rotator.ecgrid.answers import Data
from rotator.ecgrid.surface import By, Session
from rotator.ecgrid.wire import Call, Outcome, Reply, Wire
from rotator.errors import Failure, Permanent, Refused
from rotator.keys import ApiKey, Me, Secret, Seen, Visibility

if TYPE_CHECKING:
    from rotator.ecgrid.envelope import Envelopes

KEY_SET = Call("KeySet", changes=True)
GENERATE = Call("GenerateAPIKey", changes=True)
KEY_GET = Call("KeyGet")
USER_GET_API_KEY = Call("UserGetAPIKey")
KEY_LIST = Call("KeyList")
KEY_REMOVE = Call("KeyRemove", changes=True)
WHO_AM_I = Call("WhoAmI")
VERSION = Call("Version")
LOGIN = Call("Login")
LOGOUT = Call("Logout")


class Soap:
    """The SOAP surface; see `Surface` for what every method promises."""

    def __init__(self, wire: Wire, url: str, namespace: str) -> None:
        """`namespace` is that of the operations; their SOAPAction is the namespace and the name."""
        self._wire, self._url, self._namespace = wire, url, namespace
        self._made: Envelopes | None = None
        self._lock = threading.Lock()

    def create(self, user_id: int, visibility: Visibility, by: By, within: float) -> ApiKey:
        """KeySet (seed-KeySet)."""
        data = self._ask(KEY_SET, by, within, UserID=user_id, Visibility=visibility.value)
        return surface.issued_record(KEY_SET, data, user_id, visibility)

    def generate(self, user_id: int, visibility: Visibility, by: By, within: float) -> ApiKey:
        """GenerateAPIKey; the key before is invalid at once."""
        data = self._ask(GENERATE, by, within, UserID=user_id)
        return surface.issued_value(GENERATE, data, user_id, visibility)

    def get(self, user_id: int, by: By, within: float) -> Seen:
        """KeyGet (seed-KeyGet)."""
        data = self._ask(KEY_GET, by, within, UserID=user_id)
        return surface.read_record(KEY_GET, data, user_id)

    def api_key(self, user_id: int, by: By, within: float) -> Seen:
        """UserGetAPIKey (seed-UserGetAPIKey)."""
        data = self._ask(USER_GET_API_KEY, by, within, UserID=user_id)
        return surface.read_value(USER_GET_API_KEY, data, user_id)

    def keys(self, user_id: int, visibility: Visibility, by: By, within: float) -> list[Seen]:
        """KeyList."""
        data = self._ask(KEY_LIST, by, within, UserID=user_id)
        return surface.read_list(KEY_LIST, data, user_id, visibility)

    def remove(self, key_id: int, by: By, within: float) -> None:
        """KeyRemove."""
        surface.removed(KEY_REMOVE, self._ask(KEY_REMOVE, by, within, KeyID=key_id))

    def who_am_i(self, by: By, within: float) -> Me:
        """WhoAmI; its answer has no status."""
        return surface.read_me(WHO_AM_I, self._ask(WHO_AM_I, by, within))

    def version(self, within: float) -> str:
        """Version, without a credential."""
        return self._ask(VERSION, None, within).version

    def log_in(self, login: str, password: Secret, within: float) -> Session:
        """Login. The session id does not say how long it lasts: an Authentication fault tells that it is over."""
        data = self._ask(
            LOGIN,
            None,
            within,
            UserName=login,
            Password=password,
            SenderSolution="rotator",
            SenderVersion=__version__,
            SenderCompanyName="",
            SenderContact="",
            SenderContactEmail="",
        )
        return surface.opened(LOGIN, data.secret(), None, None)

    def refresh(self, session: Session, within: float) -> Session:
        """SOAP sessions cannot be renewed: always raises Refused."""
        raise Refused(
            "ECGrid, Login: a SOAP session cannot be renewed", kind="ecgrid.InvalidSession"
        )

    def log_out(self, session: Session, within: float) -> None:
        """Logout: sessions are few per user."""
        self._ask(LOGOUT, By(session.token, is_session=True), within)

    def warm(self, connections: int, within: float) -> None:
        """As `Surface.warm`; also reads the WSDL, if nobody has yet."""
        self._envelopes()
        self._wire.warm(self._url, connections, within)

    def _envelopes(self) -> Envelopes:
        with self._lock:
            if self._made is None:
                from rotator.ecgrid.envelope import Envelopes

                self._made = Envelopes(self._namespace)
            return self._made

    def _ask(
        self, call: Call, by: By | None, within: float, **arguments: int | str | Secret
    ) -> Data:
        if by is not None:
            arguments = {"SessionID": surface.presentable(call, by), **arguments}
        outcome = self._exchange(call, arguments, within)
        answer = _answer(call, outcome)
        if isinstance(answer, Failure):
            raise answer
        return answer

    def _exchange(
        self, call: Call, arguments: dict[str, int | str | Secret], within: float
    ) -> Outcome | Permanent:
        """Sends the operation that the call is named for, once; what became of it, as `Wire.send`."""
        content = self._envelopes().request(call.name, arguments)
        if content is None:
            return Permanent(
                f"ECGrid, {call.name}: the request cannot be written as XML; check ROTATOR_ECGRID__LOGIN and "
                "ROTATOR_ECGRID__PASSWORD for control characters",
                kind="ecgrid.InvalidParameter",
            )
        headers = {
            "Content-Type": "text/xml; charset=utf-8",
            "SOAPAction": f'"{self._namespace}{call.name}"',
        }
        return self._wire.send(
            call, "POST", self._url, headers=headers, content=content, within=within
        )


def _answer(call: Call, outcome: Outcome | Permanent) -> Data | Failure:
    """What the result carries, or the error that the answer stands for."""
    if not isinstance(outcome, Reply):
        return outcome
    settled = answers.by_status(call, outcome)
    if settled is not None:
        return settled
    from rotator.ecgrid.envelope import opened

    result = opened(outcome, call.name)
    if result is None:
        return answers.without_code(call, outcome)
    if result.fault is None:
        return result.data
    return answers.by_code(call, result.fault, outcome) or _unknown_fault(call, outcome)


def _unknown_fault(call: Call, reply: Reply) -> Failure:
    return call.lost(
        "ecgrid.UnknownError",
        f"a SOAP fault without a known code ({reply.status}); check ROTATOR_ECGRID__SOAP_URL and "
        "ROTATOR_ECGRID__SOAP_NAMESPACE",
        reply.retry_after,
    )
