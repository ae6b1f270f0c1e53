"""ECGrid's REST API (v2.6): JSON in an envelope of `success`, `data`, `errorCode` and `message`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from rotator.ecgrid import answers, surface
from rotator.ecgrid.answers import Data
from rotator.ecgrid.description import KEY_RECORDS, VALUES
from rotator.ecgrid.spoken import Forms, Spoken
from rotator.ecgrid.surface import By, Offered, Session
from rotator.ecgrid.wire import Call, Outcome, Reply, Wire
from rotator.errors import Failure, NoSuchCall
from rotator.keys import Among, ApiKey, Me, Person, Secret, Seen, Visibility
from rotator.system import Description, SurfaceName

CREATE = Call("Create Key", changes=True)
GENERATE = Call("Generate API Key", changes=True)
GET = Call("Get Key")
GET_API_KEY = Call("Get API Key")
LIST = Call("List Keys")
DELETE = Call("Delete Key", changes=True)
USERS = Call("List Users")
ME = Call("Get Me")
VERSION = Call("Version (REST)")
LOGIN = Call("Login (REST)")
REFRESH = Call("Refresh Token")
LOGOUT = Call("Logout (REST)")
SESSION = Call("Session (REST)")

_OFFERED: Mapping[Offered, Call] = {
    "create": CREATE,
    "generate": GENERATE,
    "get": GET,
    "api_key": GET_API_KEY,
    "keys": LIST,
    "remove": DELETE,
}

Body = Mapping[str, int | str | Secret]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Rest:
    """The REST surface; see `Surface` for what every method promises."""

    name: SurfaceName = "rest"

    def __init__(
        self, wire: Wire, url: str, spoken: Spoken, now: Callable[[], datetime] = _utc_now
    ) -> None:
        """`url` without the `/v2`; `spoken` says what is there; `now` is what `expiresAt` is compared with."""
        self._wire, self._url, self._spoken, self._now = wire, url.rstrip("/"), spoken, now

    def create(self, user_id: int, visibility: Visibility, by: By, within: float) -> ApiKey:
        """Create Key: `POST /v2/keys/create` (ecgrid: Create Key)."""
        body = {"userId": user_id, "visibility": visibility.value}
        data = self._ask_described(CREATE, by, within, body=body)
        return surface.issued_record(CREATE, data, user_id, visibility)

    def generate(self, user_id: int, visibility: Visibility, by: By, within: float) -> ApiKey:
        """Generate API Key: `POST /v2/users/key-generate/{id}`, or as the service has it; it ends the one before."""
        data = self._ask_described(GENERATE, by, within, user_id=user_id)
        return surface.issued_value(GENERATE, data, user_id, visibility)

    def get(self, user_id: int, by: By, within: float) -> Seen:
        """Get Key: `POST /v2/keys/get-key` (seed-GetKey)."""
        data = self._ask_described(GET, by, within, body={"userId": user_id})
        return surface.read_record(GET, data, user_id)

    def api_key(self, user_id: int, by: By, within: float) -> Seen:
        """Get API Key: `GET /v2/users/key/{id}` (seed-GetAPIKey), or as the service has it; takes NetworkAdmin."""
        data = self._ask_described(GET_API_KEY, by, within, user_id=user_id)
        return surface.read_value(GET_API_KEY, data, user_id)

    def keys(self, user_id: int, visibility: Visibility, by: By, within: float) -> list[Seen]:
        """List Keys: `POST /v2/keys/list`."""
        body = {"userId": user_id, "visibility": visibility.value}
        data = self._ask_described(LIST, by, within, body=body)
        return surface.read_list(LIST, data, user_id, visibility)

    def remove(self, key_id: int, by: By, within: float) -> None:
        """Delete Key: `DELETE /v2/keys`, the id in the body."""
        data = self._ask_described(DELETE, by, within, body={"keyId": key_id})
        surface.removed(DELETE, data)

    def who_am_i(self, by: By, within: float) -> Me:
        """Get Me: `GET /v2/users/me`; of its answer only id, login, status, AuthLevel and the own key are taken."""
        return surface.read_me(ME, self._ask(ME, "GET", "/v2/users/me", by, within))

    def users(self, among: Among, page: int, by: By, within: float) -> list[Person]:
        """List Users: `POST /v2/users/list`; the name is not among what it takes."""
        body: dict[str, int | str] = {"pageNo": page, "recordsPerPage": surface.USERS_PER_PAGE}
        if among.network_id is not None:
            body["networkId"] = among.network_id
        if among.mailbox_id is not None:
            body["mailboxId"] = among.mailbox_id
        if among.level:
            body["authLevel"] = among.level
        return surface.read_users(USERS, self._ask_described(USERS, by, within, body=body))

    def user(self, user_id: int, by: By, within: float) -> Me:
        """REST has no call that shows one user: always raises NoSuchCall."""
        raise answers.no_such_call(Call("User"))

    def version(self, within: float) -> str:
        """Version: `GET /v2/auth/version`, without a credential."""
        return self._ask(VERSION, "GET", "/v2/auth/version", None, within).version

    def log_in(self, login: str, password: Secret, within: float) -> Session:
        """Login: `POST /v2/auth/login`. One page calls the name `login`, another `email`: it is sent as both."""
        body: Body = {"login": login, "email": login, "password": password}
        data = self._ask(LOGIN, "POST", "/v2/auth/login", None, within, body=body)
        return self._session(LOGIN, data, within)

    def refresh(self, session: Session, within: float) -> Session:
        """Refresh: `POST /v2/auth/refresh`, with the refresh token if the log-in gave one."""
        body = {"refreshToken": session.refresh} if session.refresh else {}
        by = By(session.token, is_session=True)
        data = self._ask(REFRESH, "POST", "/v2/auth/refresh", by, within, body=body)
        return self._session(REFRESH, data, within)

    def log_out(self, session: Session, within: float) -> None:
        """Logout: `POST /v2/auth/logout`."""
        self._ask(LOGOUT, "POST", "/v2/auth/logout", By(session.token, is_session=True), within)

    def warm(self, connections: int, within: float) -> None:
        """As `Surface.warm`."""
        self._wire.warm(self._url, connections, within)

    def offer(self, what: Offered, within: float) -> None:
        """As `Surface.offer`."""
        self._spoken.path(_OFFERED[what], within)

    def is_known(self, within: float) -> bool:
        """As `Surface.is_known`."""
        return self._spoken.is_known(self.name, within)

    def speaks(self, within: float) -> Description:
        """As `Surface.speaks`."""
        return self._spoken.of(self.name, within)

    def as_of(self, begun: Forms) -> Rest:
        """As `Surface.as_of`."""
        return Rest(self._wire, self._url, self._spoken.as_of(begun), self._now)

    def _session(self, call: Call, data: Data, within: float) -> Session:
        session = surface.opened(
            call, data.secret("token"), self._lasts(data), data.secret("refreshtoken")
        )
        if session.lasts is not None:
            return session
        # The log-in did not say how long it lasts: `POST /v2/auth/session` does.
        by = By(session.token, is_session=True)
        answer = self._ask(SESSION, "POST", "/v2/auth/session", by, within)
        return Session(session.token, self._lasts(answer), session.refresh)

    def _lasts(self, data: Data) -> float | None:
        ends = answers.moment(data.text("expiresat"))
        return None if ends is None else (ends - self._now()).total_seconds()

    def _ask_described(
        self,
        call: Call,
        by: By,
        within: float,
        *,
        user_id: int | None = None,
        body: Body | None = None,
    ) -> Data:
        """A call about keys, at the path that the service describes; what its answer tells of the others is learned."""
        until = time.monotonic() + within
        method, _, path = self._spoken.path(call, within).partition(" ")
        path = path.format(user_id)
        try:
            data = self._ask(call, method, path, by, until - time.monotonic(), body=body)
        except NoSuchCall:
            self._spoken.learn("values")
            raise
        if call in (GET, LIST):
            self._spoken.learn("records")
        return data

    def _ask(
        self,
        call: Call,
        method: str,
        path: str,
        by: By | None,
        within: float,
        *,
        body: Body | None = None,
    ) -> Data:
        if by is not None:
            surface.presentable(call, by)
        outcome = self._wire.send(
            call,
            method,
            self._url + path,
            headers=_headers(by, with_body=body is not None),
            content=None if body is None else _written(body),
            within=within,
        )
        answer = _answer(call, outcome)
        if isinstance(answer, Failure):
            raise answer
        return answer


def _headers(by: By | None, *, with_body: bool) -> dict[str, str]:
    headers = {"Accept": "application/json"}
    if with_body:
        headers["Content-Type"] = "application/json"
    if by is not None and by.is_session:
        headers["Authorization"] = f"Bearer {by.value.reveal()}"
    elif by is not None:
        headers["X-API-Key"] = by.value.reveal()
    return headers


def _written(body: Body) -> bytes:
    plain = {
        name: value.reveal() if isinstance(value, Secret) else value for name, value in body.items()
    }
    return json.dumps(plain).encode()


def _answer(call: Call, outcome: Outcome) -> Data | Failure:
    """What the envelope carries, or the error that the answer stands for."""
    if not isinstance(outcome, Reply):
        return outcome
    settled = answers.by_status(call, outcome)
    if settled is not None:
        return settled
    envelope = _envelope(outcome)
    if outcome.status == 400 and call.name in KEY_RECORDS and _asks_for_values(outcome):
        return answers.no_such_call(call)
    said = None if envelope is None else envelope.field("success").true
    if envelope is None or said is None:
        return answers.without_code(call, outcome)
    if said and outcome.status < 300:
        return envelope.field("data")
    code = envelope.text("errorcode")
    # Whatever it calls it: nobody knows how far it came.
    if outcome.status >= 500:
        return answers.without_code(call, outcome, code)
    return answers.by_code(call, code, outcome) or answers.without_code(call, outcome, code)


def _asks_for_values(reply: Reply) -> bool:
    """Whether a refusal names a parameter of the calls that keep named values: then it is one of them."""
    text = reply.body.lower()
    return any(name.encode() in text for name in VALUES)


def _envelope(reply: Reply) -> Data | None:
    try:
        raw = json.loads(reply.body)
    except (ValueError, RecursionError):
        return None
    return Data(raw) if isinstance(raw, dict) else None
