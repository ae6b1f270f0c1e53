"""The two surfaces of the simulated ECGrid: bytes to `Ask`, and results and refusals back to bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, Protocol
from xml.sax.saxutils import escape

from lxml import etree

from rotator.sandbox.ecgrid.switches import Switches
from rotator.sandbox.ecgrid.words import (
    Ask,
    Code,
    Credential,
    Refusal,
    Result,
    Session,
    ShownKey,
    ShownUser,
)

SOAP_PATH = "/v4.1/prod/ECGridOS.asmx"
_ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
_DOCUMENTED_NAMESPACE = "http://www.ecgridos.net/"

_ROUTES: dict[tuple[str, str], str] = {
    ("POST", "/v2/keys/create"): "CreateKey",
    ("POST", "/v2/keys/get-key"): "GetKey",
    ("POST", "/v2/keys/list"): "ListKeys",
    ("DELETE", "/v2/keys"): "DeleteKey",
    ("GET", "/v2/users/me"): "GetMe",
    ("POST", "/v2/auth/login"): "AuthLogin",
    ("POST", "/v2/auth/refresh"): "AuthRefresh",
    ("POST", "/v2/auth/logout"): "AuthLogout",
    ("POST", "/v2/auth/session"): "AuthSession",
    ("GET", "/v2/auth/version"): "AuthVersion",
}
_ROUTES_BY_ID: dict[tuple[str, str], str] = {
    ("GET", "/v2/users/key"): "GetAPIKey",
    ("POST", "/v2/users/key-generate"): "GenerateKey",
}
KNOWN_PATHS = frozenset(path for _, path in _ROUTES) | {SOAP_PATH}
KNOWN_PATH_WITH_ID = re.compile(r"/v2/users/(key|key-generate)/\d{1,10}")
_REST_FIELDS = {
    "userId": "user_id",
    "keyId": "key_id",
    "visibility": "visibility",
    "password": "password",
    "refreshToken": "refresh_token",
}
_SOAP_FIELDS: dict[str, dict[str, str]] = {
    "KeySet": {"UserID": "user_id", "Visibility": "visibility"},
    "KeyGet": {"UserID": "user_id"},
    "KeyList": {"UserID": "user_id"},
    "KeyRemove": {"KeyID": "key_id"},
    "UserGetAPIKey": {"UserID": "user_id"},
    "GenerateAPIKey": {"UserID": "user_id"},
    "WhoAmI": {},
    "Login": {"UserName": "login", "Password": "password"},
    "Logout": {},
    "Version": {},
}
_STATUS: dict[Code, int] = {
    "InvalidAPIKey": 401,
    "InvalidSession": 401,
    "AccessDenied": 403,
    "ObjectNotFound": 404,
    "InvalidParameter": 400,
    "DuplicateObject": 400,
    "RateLimitExceeded": 429,
    "InternalError": 500,
    "ServiceUnavailable": 503,
}
_SOAP_CODE: dict[Code, str] = {
    "InvalidAPIKey": "Authentication",
    "InvalidSession": "Authentication",
    "AccessDenied": "Authorization",
    "ObjectNotFound": "ObjectNotFound",
    "InvalidParameter": "InvalidParameter",
    "DuplicateObject": "InvalidParameter",
    "RateLimitExceeded": "SystemError",
    "InternalError": "SystemError",
    "ServiceUnavailable": "SystemError",
}


@dataclass(frozen=True)
class Request:
    """An HTTP request; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    address: str = "127.0.0.1"

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes = field(repr=False)
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Surface(Protocol):
    """One of the two ways to speak to ECGrid."""

    def decode(self, request: Request, switches: Switches) -> Ask:
        """The request, free of its surface; raises Refusal if it cannot be understood."""

    def encode(self, ask: Ask, result: Result, switches: Switches) -> Answer:
        """The answer to a request that was carried out."""

    def refuse(self, refusal: Refusal, switches: Switches) -> Answer:
        """The answer to a request that was refused."""


class Rest:
    """REST v2.6: JSON in the envelope of success, data, errorCode and message."""

    def decode(self, request: Request, switches: Switches) -> Ask:
        """As `Surface.decode`."""
        args: dict[str, object] = {}
        call = _ROUTES.get((request.method, request.path))
        if call is None:
            front, _, last = request.path.rpartition("/")
            call = _ROUTES_BY_ID.get((request.method, front))
            args["user_id"] = last
        if call is None:
            raise Refusal("ObjectNotFound", "There is no such endpoint.")
        if call == "AuthLogin":
            args["login"] = None
        args.update(_json_args(request, switches))
        return Ask(call, args, _rest_credential(request))

    def encode(self, ask: Ask, result: Result, switches: Switches) -> Answer:
        """As `Surface.encode`."""
        data = _rest_data(ask, result, switches)
        return _json_answer(200, {"success": True, "data": data}, {})

    def refuse(self, refusal: Refusal, switches: Switches) -> Answer:
        """As `Surface.refuse`."""
        envelope = {
            "success": False,
            "data": None,
            "errorCode": refusal.code,
            "message": str(refusal),
        }
        status = 200 if switches.errors_with_200 else _STATUS[refusal.code]
        return _json_answer(status, envelope, _retry_after(refusal))


class Soap:
    """SOAP 1.1, in the namespace that the switches name."""

    def decode(self, request: Request, switches: Switches) -> Ask:
        """As `Surface.decode`."""
        if request.method != "POST" or not request.headers.get("content-type", "").startswith(
            "text/xml"
        ):
            raise Refusal("InvalidParameter", "A SOAP 1.1 request is a POST of text/xml.")
        operation = _operation(request.body)
        name = etree.QName(operation)
        namespace = switches.soap_namespace
        action = request.headers.get("soapaction", "").strip('"')
        if name.namespace != namespace or name.localname not in _SOAP_FIELDS:
            raise Refusal("InvalidParameter", "There is no such operation in this namespace.")
        if action != namespace + name.localname:
            raise Refusal("InvalidParameter", "The SOAPAction header was not recognized.")
        values = {etree.QName(e).localname: e.text or "" for e in operation if _in(e, namespace)}
        wanted = _SOAP_FIELDS[name.localname]
        args: dict[str, object] = {ours: values.get(theirs) for theirs, ours in wanted.items()}
        kind = Credential("session-id", values.get("SessionID", ""), request.address)
        return Ask(name.localname, args, kind)

    def encode(self, ask: Ask, result: Result, switches: Switches) -> Answer:
        """As `Surface.encode`."""
        inner = _soap_result(result, switches)
        namespace = escape(switches.soap_namespace, {'"': "&quot;"})
        return _soap_answer(
            200,
            f'<{ask.call}Response xmlns="{namespace}">'
            f"<{ask.call}Result>{inner}</{ask.call}Result></{ask.call}Response>",
            {},
        )

    def refuse(self, refusal: Refusal, switches: Switches) -> Answer:
        """As `Surface.refuse`."""
        code = _SOAP_CODE[refusal.code]
        side = "Server" if code == "SystemError" else "Client"
        status = _STATUS[refusal.code] if _STATUS[refusal.code] in (429, 503) else 500
        return _soap_answer(
            200 if switches.faults_with_200 else status,
            f"<soap:Fault><faultcode>soap:{side}</faultcode>"
            f"<faultstring>{_text(str(refusal))}</faultstring><detail>"
            f"<ECGridOSSOAPErrorCode>{code}</ECGridOSSOAPErrorCode></detail></soap:Fault>",
            _retry_after(refusal),
        )


REST: Surface = Rest()
SOAP: Surface = Soap()


def wsdl(switches: Switches, soap_url: str) -> Answer:
    """The WSDL that the client ships, with the namespace and the address as served here."""
    text = _wsdl_text().replace(_DOCUMENTED_NAMESPACE, _text(switches.soap_namespace))

    def served(found: re.Match[str]) -> str:
        return f"{found[1]}{_text(soap_url)}{found[2]}"

    text = re.sub(r'(<(?:\w+:)?address\s[^>]*?location=")[^"]*(")', served, text)
    return Answer(200, text.encode(), "text/xml; charset=utf-8")


@cache
def _wsdl_text() -> str:
    # Through the outer package, so that reading a file does not import the client.
    return (files("rotator") / "sandbox" / "ecgrid" / "portal.wsdl").read_text(encoding="utf-8")


def status_code(status: int) -> Code:
    """The error code that goes with a status; InternalError where none is documented."""
    return next((code for code, known in _STATUS.items() if known == status), "InternalError")


def _retry_after(refusal: Refusal) -> dict[str, str]:
    return {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}


def _timestamp(moment: datetime, switches: Switches, *, zone: bool) -> str:
    fraction = f".{moment.microsecond:06d}0" if switches.created_fraction else ""
    zone = zone if switches.created_zone == "documented" else switches.created_zone == "always"
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}{'Z' if zone else ''}"


# REST


def _json_args(request: Request, switches: Switches) -> dict[str, object]:
    if not request.body:
        return {}
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Refusal("InvalidParameter", "The body must be application/json.")
    try:
        data = json.loads(request.body)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise Refusal("InvalidParameter", "The body must be a JSON object.")
    args: dict[str, object] = {
        ours: data[theirs] for theirs, ours in _REST_FIELDS.items() if theirs in data
    }
    for name in ("login", "email"):
        if name in data and switches.login_field in ("both", name):
            args["login"] = data[name]
    return args


def _rest_credential(request: Request) -> Credential:
    if "x-api-key" in request.headers:
        return Credential("api-key", request.headers["x-api-key"], request.address)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Credential("token", token.strip(), request.address)
    return Credential("none", "", request.address)


def _rest_data(ask: Ask, result: Result, switches: Switches) -> object:
    if isinstance(result, list):
        return [_rest_key(shown, switches) for shown in result]
    if isinstance(result, ShownKey):
        return _rest_key(result, switches)
    if isinstance(result, ShownUser):
        return _rest_user(ask, result, switches)
    if isinstance(result, Session):
        token = {"token": result.token, "userId": result.user_id}
        expires = {"expiresAt": _timestamp(result.expires, switches, zone=True)}
        refresh = {"refreshToken": result.refresh_token} if result.refresh_token else {}
        return {**token, **expires, **refresh}
    return result


def _rest_key(shown: ShownKey, switches: Switches) -> dict[str, object]:
    return {
        "keyId": shown.key_id,
        "userId": shown.user_id,
        "key": shown.value,
        "visibility": shown.visibility,
        "created": _timestamp(shown.created, switches, zone=True),
    }


def _rest_user(ask: Ask, shown: ShownUser, switches: Switches) -> dict[str, object]:
    user = shown.user
    data: dict[str, object] = {
        "userId": user.user_id,
        "login": user.login,
        "networkId": user.network_id,
        "mailboxId": user.mailbox_id,
        "authLevel": user.auth_level.name,
    }
    if ask.call == "AuthSession":
        expires = shown.expires
        data["expiresAt"] = _timestamp(expires, switches, zone=True) if expires else None
        return data
    data.update({"email": user.email, "status": user.status})
    if shown.key is not None:
        data[switches.me_key_field] = shown.key
    return data


def _json_answer(status: int, envelope: Mapping[str, object], headers: Mapping[str, str]) -> Answer:
    return Answer(status, json.dumps(envelope).encode(), "application/json; charset=utf-8", headers)


# SOAP


def _operation(body: bytes) -> Any:
    """The first element of the SOAP body, with DTD, entities and network off."""
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_comments=True,
        remove_pis=True,
    )
    root: Any = None
    with suppress(etree.XMLSyntaxError, ValueError):
        root = etree.fromstring(body, parser)
    if root is None or root.getroottree().docinfo.doctype:
        raise Refusal("InvalidParameter", "The request is not well-formed XML without a DTD.")
    inner = root.find(f"{{{_ENVELOPE}}}Body") if root.tag == f"{{{_ENVELOPE}}}Envelope" else None
    if inner is None or len(inner) != 1:
        raise Refusal("InvalidParameter", "The request is not a SOAP 1.1 envelope with one call.")
    return inner[0]


def _in(element: Any, namespace: str) -> bool:
    return bool(etree.QName(element).namespace == namespace)


def _text(value: str) -> str:
    # Other control characters have no place in XML 1.0, escaped or not.
    return escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", value))


def _soap_result(result: Result, switches: Switches) -> str:
    if isinstance(result, list):
        return "".join(f"<KeyIDInfo>{_soap_key(shown, switches)}</KeyIDInfo>" for shown in result)
    if isinstance(result, ShownKey):
        return _soap_object("KeyIDInfo", _soap_key(result, switches), switches)
    if isinstance(result, ShownUser):
        return _soap_object("UserIDInfo", _soap_user(result), switches)
    if isinstance(result, Session):
        return _text(result.token)
    return str(result).lower() if isinstance(result, bool) else _text(result)


def _soap_object(name: str, inner: str, switches: Switches) -> str:
    return f"<{name}>{inner}</{name}>" if switches.soap_result == "inner" else inner


def _soap_key(shown: ShownKey, switches: Switches) -> str:
    value = "" if shown.value is None else f"<Key>{_text(shown.value)}</Key>"
    return (
        f"<KeyID>{shown.key_id}</KeyID><UserID>{shown.user_id}</UserID>{value}"
        f"<Visibility>{shown.visibility}</Visibility>"
        f"<Created>{_timestamp(shown.created, switches, zone=False)}</Created>"
    )


def _soap_user(shown: ShownUser) -> str:
    user = shown.user
    return (
        f"<UserID>{user.user_id}</UserID><Login>{_text(user.login)}</Login>"
        f"<NetworkID>{user.network_id}</NetworkID><MailboxID>{user.mailbox_id}</MailboxID>"
        f"<AuthLevel>{user.auth_level.name}</AuthLevel>"
    )


def _soap_answer(status: int, inner: str, headers: Mapping[str, str]) -> Answer:
    text = (
        '<?xml version="1.0" encoding="utf-8"?>'
        f'<soap:Envelope xmlns:soap="{_ENVELOPE}"><soap:Body>{inner}</soap:Body></soap:Envelope>'
    )
    return Answer(status, text.encode(), "text/xml; charset=utf-8", headers)
