"""ECGrid's SOAP API (v4.1): flat messages with the parameters that the service names, answers read by their names."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rotator import __version__
from rotator.ecgrid import answers, surface, xml
from rotator.ecgrid.answers import Data
from rotator.ecgrid.description import LOGIN_NAMES
from rotator.ecgrid.envelope import opened
from rotator.ecgrid.faults import Fault
from rotator.ecgrid.spoken import Forms, Spoken
from rotator.ecgrid.surface import By, Offered, Session
from rotator.ecgrid.wire import Call, Outcome, Reply, Wire
from rotator.errors import Failure, Permanent, Refused
from rotator.keys import Among, ApiKey, Me, Person, Secret, Seen, Visibility
from rotator.system import Description, Operation, SurfaceName

KEY_SET = Call("KeySet", changes=True)
GENERATE = Call("GenerateAPIKey", changes=True)
KEY_GET = Call("KeyGet")
USER_GET_API_KEY = Call("UserGetAPIKey")
KEY_LIST = Call("KeyList")
KEY_REMOVE = Call("KeyRemove", changes=True)
USER_LIST = Call("UserListEx")
WHO_AM_I = Call("WhoAmI")
USER_INFO = Call("UserInfo")
VERSION = Call("Version")
LOGIN = Call("Login")
LOGOUT = Call("Logout")

_OFFERED: Mapping[Offered, Call] = {
    "create": KEY_SET,
    "generate": GENERATE,
    "get": KEY_GET,
    "api_key": USER_GET_API_KEY,
    "keys": KEY_LIST,
    "remove": KEY_REMOVE,
}


class Soap:
    """The SOAP surface; see `Surface` for what every method promises."""

    name: SurfaceName = "soap"

    def __init__(self, wire: Wire, url: str, spoken: Spoken) -> None:
        """`spoken` says what the service at `url` speaks."""
        self._wire, self._url, self._spoken = wire, url, spoken

    def create(self, user_id: int, visibility: Visibility, by: By, within: float) -> ApiKey:
        """KeySet (seed-KeySet)."""
        data = self._ask(KEY_SET, by, within, userid=user_id, visibility=visibility.value)
        return surface.issued_record(KEY_SET, data, user_id, visibility)

    def generate(self, user_id: int, visibility: Visibility, by: By, within: float) -> ApiKey:
        """GenerateAPIKey; the key before is invalid at once."""
        data = self._ask(GENERATE, by, within, userid=user_id)
        return surface.issued_value(GENERATE, data, user_id, visibility)

    def get(self, user_id: int, by: By, within: float) -> Seen:
        """KeyGet (seed-KeyGet)."""
        data = self._ask(KEY_GET, by, within, userid=user_id)
        return surface.read_record(KEY_GET, data, user_id)

    def api_key(self, user_id: int, by: By, within: float) -> Seen:
        """UserGetAPIKey (seed-UserGetAPIKey)."""
        data = self._ask(USER_GET_API_KEY, by, within, userid=user_id)
        return surface.read_value(USER_GET_API_KEY, data, user_id)

    def keys(self, user_id: int, visibility: Visibility, by: By, within: float) -> list[Seen]:
        """KeyList."""
        data = self._ask(KEY_LIST, by, within, userid=user_id)
        return surface.read_list(KEY_LIST, data, user_id, visibility)

    def remove(self, key_id: int, by: By, within: float) -> None:
        """KeyRemove."""
        surface.removed(KEY_REMOVE, self._ask(KEY_REMOVE, by, within, keyid=key_id))

    def who_am_i(self, by: By, within: float) -> Me:
        """WhoAmI; its answer has no status."""
        return surface.read_me(WHO_AM_I, self._ask(WHO_AM_I, by, within))

    def users(self, among: Among, page: int, by: By, within: float) -> list[Person]:
        """UserListEx, whose one answer has all; 0 is every mailbox."""
        data = self._ask(
            USER_LIST,
            by,
            within,
            networkid=among.network_id or 0,
            mailboxid=among.mailbox_id or 0,
            name=among.name,
        )
        return surface.read_users(USER_LIST, data) if page == 1 else []

    def user(self, user_id: int, by: By, within: float) -> Me:
        """UserInfo."""
        return surface.read_me(USER_INFO, self._ask(USER_INFO, by, within, userid=user_id))

    def version(self, within: float) -> str:
        """Version, without a credential."""
        return self._ask(VERSION, None, within).version

    def log_in(self, login: str, password: Secret, within: float) -> Session:
        """Login. The session id does not say how long it lasts: an Authentication fault tells that it is over."""
        names = dict.fromkeys(LOGIN_NAMES, login)
        sender = dict.fromkeys(("sendercompanyname", "sendercontact", "sendercontactemail"), "")
        data = self._ask(
            LOGIN,
            None,
            within,
            **names,
            **sender,
            password=password,
            sendersolution="rotator",
            senderversion=__version__,
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
        """As `Surface.warm`."""
        self._wire.warm(self._url, connections, within)

    def offer(self, what: Offered, within: float) -> None:
        """As `Surface.offer`."""
        self._spoken.operation(_OFFERED[what], within)

    def is_known(self, within: float) -> bool:
        """As `Surface.is_known`."""
        return self._spoken.is_known(self.name, within)

    def speaks(self, within: float) -> Description:
        """As `Surface.speaks`."""
        return self._spoken.of(self.name, within)

    def as_of(self, begun: Forms) -> Soap:
        """As `Surface.as_of`."""
        return Soap(self._wire, self._url, self._spoken.as_of(begun))

    def _ask(
        self, call: Call, by: By | None, within: float, **arguments: int | str | Secret
    ) -> Data:
        """Asks, with those of the arguments that the service's call has; their names are in small letters here.

        Where the service knows no such action, what it speaks is read anew, and if that is news, it is asked again:
        nothing was carried out.
        """
        until = time.monotonic() + within
        if by is not None:
            arguments["sessionid"] = surface.presentable(call, by)
        namespace, operation = self._spoken.operation(call, within)
        answer = _answer(call, self._send(call, namespace, operation, arguments, until))
        if isinstance(answer, Failure) and answer.kind == "ecgrid.NotUnderstood":
            left = until - time.monotonic()
            if self._spoken.is_news(call, (namespace, operation), left):
                namespace, operation = self._spoken.operation(call, left)
                answer = _answer(call, self._send(call, namespace, operation, arguments, until))
        if isinstance(answer, Failure):
            raise answer
        return answer

    def _send(
        self,
        call: Call,
        namespace: str,
        operation: Operation,
        arguments: Mapping[str, int | str | Secret],
        until: float,
    ) -> Outcome | Permanent:
        """Sends the operation that the call is named for, once; what became of it, as `Wire.send`."""
        given = {name: arguments.get(name.casefold()) for name in operation.parameters}
        plain = {
            name: value.reveal() if isinstance(value, Secret) else str(value)
            for name, value in given.items()
            if value is not None
        }
        content = xml.request(namespace, call.name, plain)
        if content is None:
            return Permanent(
                f"ECGrid, {call.name}: the request cannot be written as XML; check ROTATOR_ECGRID__LOGIN and "
                "ROTATOR_ECGRID__PASSWORD for control characters",
                kind="ecgrid.InvalidParameter",
            )
        folder = namespace if namespace.endswith("/") else f"{namespace}/"
        headers = {
            "Content-Type": "text/xml; charset=utf-8",
            "SOAPAction": f'"{folder}{call.name}"',
        }
        left = until - time.monotonic()
        return self._wire.send(
            call, "POST", self._url, headers=headers, content=content, within=left
        )


def _answer(call: Call, outcome: Outcome | Permanent) -> Data | Failure:
    """What the result carries, or the error that the answer stands for."""
    if not isinstance(outcome, Reply):
        return outcome
    settled = answers.by_status(call, outcome)
    if settled is not None:
        return settled
    result = opened(outcome, call.name)
    if isinstance(result, Fault):
        return answers.by_fault(call, result, outcome)
    return answers.without_code(call, outcome) if result is None else result
