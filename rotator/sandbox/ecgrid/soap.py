"""SOAP of the simulated ECGrid as the portal's pages have it."""

from __future__ import annotations

from rotator.sandbox.ecgrid import envelope
from rotator.sandbox.ecgrid.envelope import text
from rotator.sandbox.ecgrid.switches import Switches
from rotator.sandbox.ecgrid.wire import STATUS, Answer, Request, retry_after, timestamp
from rotator.sandbox.ecgrid.words import (
    Ask,
    Code,
    Credential,
    One,
    Refusal,
    Result,
    Session,
    ShownKey,
    ShownUser,
)

_FIELDS: dict[str, dict[str, str]] = {
    "KeySet": {"UserID": "user_id", "Visibility": "visibility"},
    "KeyGet": {"UserID": "user_id"},
    "KeyList": {"UserID": "user_id"},
    "KeyRemove": {"KeyID": "key_id"},
    "UserGetAPIKey": {"UserID": "user_id"},
    "GenerateAPIKey": {"UserID": "user_id"},
    "UserList": {"Name": "name"},
    "UserListEx": {"NetworkID": "network_id", "MailboxID": "mailbox_id", "Name": "name"},
    "WhoAmI": {},
    "Login": {"UserName": "login", "Password": "password"},
    "Logout": {},
    "Version": {},
}
_CODE: dict[Code, str] = {
    "InvalidAPIKey": "Authentication",
    "InvalidSession": "Authentication",
    "AccessDenied": "Authorization",
    "ObjectNotFound": "ObjectNotFound",
}
_SYSTEM_ERRORS = frozenset({"RateLimitExceeded", "InternalError", "ServiceUnavailable"})


class Soap:
    """SOAP 1.1, in the namespace that the switches name."""

    def decode(self, request: Request, switches: Switches) -> Ask:
        """As `Surface.decode`."""
        if request.method != "POST" or not request.headers.get("content-type", "").startswith(
            "text/xml"
        ):
            raise Refusal("InvalidParameter", "A SOAP 1.1 request is a POST of text/xml.")
        inside = envelope.operations(request.body)
        if inside is None or len(inside) != 1:
            raise Refusal("InvalidParameter", "The request is not an envelope with one call.")
        namespace, name = envelope.split(inside[0])
        action = request.headers.get("soapaction", "").strip('"')
        if namespace != switches.soap_namespace or name not in _FIELDS:
            raise Refusal("InvalidParameter", "There is no such operation in this namespace.")
        if action != namespace + name:
            raise Refusal("InvalidParameter", "The SOAPAction header was not recognized.")
        given = {envelope.split(child): child.text or "" for child in inside[0]}
        args: dict[str, object] = {
            ours: given.get((namespace, theirs)) for theirs, ours in _FIELDS[name].items()
        }
        session = given.get((namespace, "SessionID"), "")
        return Ask(name, args, Credential("session-id", session, request.address))

    def encode(self, ask: Ask, result: Result, switches: Switches) -> Answer:
        """As `Surface.encode`."""
        namespace = envelope.attribute(switches.soap_namespace)
        return envelope.answer(
            200,
            f'<{ask.call}Response xmlns="{namespace}">'
            f"<{ask.call}Result>{_result(result, switches)}</{ask.call}Result>"
            f"</{ask.call}Response>",
            {},
        )

    def refuse(self, refusal: Refusal, switches: Switches) -> Answer:
        """As `Surface.refuse`."""
        system = refusal.code in _SYSTEM_ERRORS
        code = "SystemError" if system else _CODE.get(refusal.code, "InvalidParameter")
        status = STATUS[refusal.code] if STATUS[refusal.code] in (429, 503) else 500
        return envelope.fault(
            200 if switches.faults_with_200 else status,
            client=not system,
            said=str(refusal),
            detail=f"<ECGridOSSOAPErrorCode>{code}</ECGridOSSOAPErrorCode>",
            headers=retry_after(refusal),
        )


SOAP = Soap()


def _result(result: Result, switches: Switches) -> str:
    if isinstance(result, list):
        return "".join(_listed(one, switches) for one in result)
    if isinstance(result, ShownKey):
        return _object("KeyIDInfo", _key(result, switches), switches)
    if isinstance(result, ShownUser):
        return _object("UserIDInfo", _user(result), switches)
    if isinstance(result, Session):
        return text(result.token)
    return str(result).lower() if isinstance(result, bool) else text(str(result))


def _listed(one: One, switches: Switches) -> str:
    if isinstance(one, ShownUser):
        user = one.user
        names = f"<FirstName>{text(user.first_name)}</FirstName><LastName>{text(user.last_name)}</LastName>"
        return f"<UserIDInfo>{_user(one)}{names}<Status>{user.status}</Status></UserIDInfo>"
    return f"<KeyIDInfo>{_key(one, switches)}</KeyIDInfo>" if isinstance(one, ShownKey) else ""


def _object(name: str, inner: str, switches: Switches) -> str:
    return f"<{name}>{inner}</{name}>" if switches.soap_result == "inner" else inner


def _key(shown: ShownKey, switches: Switches) -> str:
    value = "" if shown.value is None else f"<Key>{text(shown.value)}</Key>"
    return (
        f"<KeyID>{shown.key_id}</KeyID><UserID>{shown.user_id}</UserID>{value}"
        f"<Visibility>{shown.visibility}</Visibility>"
        f"<Created>{timestamp(shown.created, switches, zone=False)}</Created>"
    )


def _user(shown: ShownUser) -> str:
    user = shown.user
    return (
        f"<UserID>{user.user_id}</UserID><Login>{text(user.login)}</Login>"
        f"<NetworkID>{user.network_id}</NetworkID><MailboxID>{user.mailbox_id}</MailboxID>"
        f"<AuthLevel>{user.auth_level.name}</AuthLevel>"
    )
