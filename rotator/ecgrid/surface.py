"""The port: what the rotator asks of ECGrid, and how what REST and SOAP answer is judged.

A surface that lacks a call raises NoSuchCall (REST has no `user`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from rotator.ecgrid import answers
from rotator.ecgrid.answers import Data
from rotator.ecgrid.wire import Call
from rotator.errors import Permanent
from rotator.keys import Among, ApiKey, KeyRef, Me, Person, Secret, Seen, Visibility
from rotator.system import Description, SurfaceName

# As the vendor's pages have it where nothing is asked for.
USERS_PER_PAGE = 25
# The calls about keys.
Offered = Literal["create", "generate", "get", "api_key", "keys", "remove"]


class By(NamedTuple):
    """The credential of a call: an API key, or a session (REST: a JWT, SOAP: a session id)."""

    value: Secret
    is_session: bool = False


class Session(NamedTuple):
    """A session as a log-in gives it: how many seconds it lasts, where that was said, and what renews it."""

    token: Secret
    lasts: float | None = None
    refresh: Secret | None = None


class Surface(Protocol):
    """One way to speak to ECGrid, by its `name`. `within` is the time for the whole call, in seconds.

    Every method raises the errors of `rotator.errors` with the kinds `ecgrid.*`: Refused (401), Forbidden (403),
    NotFound (404), Permanent (400), Transient. Calls that change something raise AnswerLost where they may have been
    carried out: at a 5xx, a timeout, a cut connection, and at an answer that cannot be used.
    """

    name: SurfaceName

    def create(self, user_id: int, visibility: Visibility, by: By, within: float) -> ApiKey:
        """Issues a key record (seed-KeySet; Create Key)."""

    def generate(self, user_id: int, visibility: Visibility, by: By, within: float) -> ApiKey:
        """Issues the user's API key, which ends the one before at once (GenerateAPIKey); it has no key id."""

    def get(self, user_id: int, by: By, within: float) -> Seen:
        """A key record of the user (seed-GetKey; seed-KeyGet)."""

    def api_key(self, user_id: int, by: By, within: float) -> Seen:
        """The user's API key, without a record (seed-GetAPIKey; seed-UserGetAPIKey)."""

    def keys(self, user_id: int, visibility: Visibility, by: By, within: float) -> list[Seen]:
        """The user's key records of that visibility (List Keys; KeyList)."""

    def remove(self, key_id: int, by: By, within: float) -> None:
        """Ends a key at once and for good (Delete Key; KeyRemove)."""

    def who_am_i(self, by: By, within: float) -> Me:
        """Whose credential that is (Get Me; WhoAmI)."""

    def users(self, among: Among, page: int, by: By, within: float) -> list[Person]:
        """A page, from 1 on, of those users, and maybe others (List Users; UserListEx, which has one page)."""

    def user(self, user_id: int, by: By, within: float) -> Me:
        """A user, by id (UserInfo)."""

    def version(self, within: float) -> str:
        """ECGrid's version; needs no credential."""

    def log_in(self, login: str, password: Secret, within: float) -> Session:
        """Opens a session (Login)."""

    def refresh(self, session: Session, within: float) -> Session:
        """Renews a session before it ends; raises Refused where that cannot be done."""

    def log_out(self, session: Session, within: float) -> None:
        """Ends a session (Logout)."""

    def warm(self, connections: int, within: float) -> None:
        """Sees to it that so many calls find an open connection."""

    def offer(self, what: Offered, within: float) -> None:
        """Raises Permanent (`ecgrid.NoSuchCall`) if the service is known not to have that call, which is not made."""

    def is_known(self, within: float) -> bool:
        """Whether the service has told what it has, in a description or by how it answered."""

    def speaks(self, within: float) -> Description:
        """What is known of that."""

    def as_of(self, begun: Mapping[SurfaceName, Description]) -> Surface:
        """The same surface in the form that it had then."""


def presentable(call: Call, by: By) -> Secret:
    """The credential, if it can be sent at all; raises Permanent (`secret.Malformed`)."""
    if not answers.is_sendable(by.value):
        raise Permanent(
            f"ECGrid, {call.name}: the credential is empty or has a character that no request can carry; check where "
            "it comes from",
            kind="secret.Malformed",
        )
    return by.value


def issued_record(call: Call, data: Data, user_id: int, visibility: Visibility) -> ApiKey:
    """The key that an issuing call made; raises AnswerLost if it is not a whole key of that user and visibility.

    Then a key may well be there, but this answer does not tell which: it has to be looked for.
    """
    shown = answers.seen(data)
    whole = shown.whole if shown else None
    if whole is None:
        raise answers.bad_answer(
            call, "the answer holds no whole key (masked, malformed or missing)"
        )
    if whole.ref.user_id != user_id or whole.ref.visibility is not visibility:
        raise answers.bad_answer(call, "the answer is about another user or visibility")
    return whole


def issued_value(call: Call, data: Data, user_id: int, visibility: Visibility) -> ApiKey:
    """The user's API key that a generating call made; raises AnswerLost if the answer is not a whole value."""
    value = data.secret()
    if value is None or value.masked or value == Secret(""):
        raise answers.bad_answer(
            call, "the answer holds no whole key (masked, malformed or missing)"
        )
    return ApiKey(KeyRef(None, user_id, visibility, None), value)


def read_record(call: Call, data: Data, user_id: int) -> Seen:
    """The key record that a read shows; raises NotFound if it shows none, Transient if it does not fit."""
    if data.empty or answers.is_session_key(data):
        raise answers.nothing_there(call)
    shown = answers.seen(data)
    if shown is None:
        raise answers.bad_answer(call, "the answer holds no usable key record")
    if shown.ref.user_id != user_id:
        raise answers.bad_answer(call, "the answer is about another user")
    return shown


def read_value(call: Call, data: Data, user_id: int) -> Seen:
    """The user's API key that a read shows; raises NotFound if there is none, Transient if it is garbage."""
    value = data.secret()
    if value is None:
        raise answers.nothing_there(call)
    if value == Secret(""):
        raise answers.bad_answer(call, "the answer holds no usable key")
    return Seen(KeyRef(None, user_id, None, None), value)


def read_list(call: Call, data: Data, user_id: int, visibility: Visibility) -> list[Seen]:
    """The records of that visibility; raises Transient if the list is none, or about somebody else."""
    entries = [] if data.empty else data.items
    if entries is None:
        raise answers.bad_answer(call, "the answer is no list")
    shown = [answers.seen(one) for one in entries if not answers.is_session_key(one)]
    listed = [one for one in shown if one is not None]
    if len(listed) < len(shown):
        raise answers.bad_answer(call, "the answer holds an unusable key record")
    if any(one.ref.user_id != user_id for one in listed):
        raise answers.bad_answer(call, "the answer is about another user")
    return [one for one in listed if one.ref.visibility is visibility]


def read_me(call: Call, data: Data) -> Me:
    """The caller; raises Transient if the answer does not say who that is."""
    caller = answers.me(data)
    if caller is None:
        raise answers.bad_answer(call, "the answer does not say whose credential this is")
    return caller


def read_users(call: Call, data: Data) -> list[Person]:
    """The users of a list; raises Transient if it is none, or does not say who they are."""
    entries = [] if data.empty else data.listed
    if entries is None:
        raise answers.bad_answer(call, "the answer is no list")
    shown = [answers.person(one) for one in entries]
    listed = [one for one in shown if one is not None]
    if len(listed) < len(shown):
        raise answers.bad_answer(call, "the answer holds an unusable user")
    return listed


def removed(call: Call, data: Data) -> None:
    """Nothing, if the answer says yes; raises Permanent (`ecgrid.NotRemoved`) if no, AnswerLost if neither."""
    if data.true is None:
        raise answers.bad_answer(call, "the answer is neither yes nor no")
    if not data.true:
        raise Permanent(
            f"ECGrid, {call.name}: ECGrid did not remove the key, and does not say why; see it in ECGrid's portal",
            kind="ecgrid.NotRemoved",
        )


def opened(
    call: Call, token: Secret | None, lasts: float | None, refresh: Secret | None
) -> Session:
    """The session of a log-in; raises Transient if the answer holds none."""
    if token is None or not answers.is_sendable(token):
        raise answers.bad_answer(call, "the answer holds no session")
    return Session(token, lasts, refresh)
