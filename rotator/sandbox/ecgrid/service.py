"""SOAP of the simulated ECGrid as the service itself describes it, with the habits of the ASP.NET it runs on.

What it takes and answers is read from `service.wsdl`, so that the description and the deed cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from xml.etree import ElementTree as ET

from rotator.sandbox.ecgrid import envelope
from rotator.sandbox.ecgrid.people import VERSION
from rotator.sandbox.ecgrid.switches import Switches
from rotator.sandbox.ecgrid.wire import STATUS, Answer, Request, retry_after, timestamp
from rotator.sandbox.ecgrid.words import (
    Ask,
    Code,
    Credential,
    NamedValue,
    Refusal,
    Result,
    Session,
    ShownUser,
    number,
)

_SCHEMA = "{http://www.w3.org/2001/XMLSchema}"
_NUMBERS = frozenset({"int", "long", "short"})
_NEVER = datetime(1, 1, 1, tzinfo=UTC)
_OURS = {
    "LoginName": "login",
    "Password": "password",
    "UserID": "user_id",
    "NetworkID": "network_id",
    "MailboxID": "mailbox_id",
    "Name": "name",
    "Key": "key",
    "SystemObject": "system_object",
    "ObjectID": "object_id",
    "Visibility": "visibility",
    "Value": "value",
    "Meta": "meta",
    "DaysToLive": "days_to_live",
}
# The names of the service's errors, from -1 on.
_ERRORS = (
    "Unknown",
    "Success",
    "Session Timeout",
    "Access Denied",
    "Not Found",
    "Invalid ID",
    "Duplicate",
    "ID Exists On Network",
    "Invalid Data Type",
    "Invalid Data Length",
    "Data Error",
    "SQL Error",
    "Internal Error",
)
_NUMBER: dict[Code, int] = {
    "AccessDenied": 2,
    "ObjectNotFound": 3,
    "DuplicateObject": 5,
    "InvalidParameter": 7,
    "InvalidDataLength": 8,
}
_INTERNAL = 11
_DEAD = frozenset({"InvalidAPIKey", "InvalidSession"})

Values = dict[str, object]


class _Framework(Refusal):
    """ASP.NET itself refuses, before ECGrid's own code sees the request."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__("InvalidParameter", message)
        self.status = status


@dataclass(frozen=True)
class _Field:
    name: str
    type: str
    required: bool


@dataclass(frozen=True)
class _Schema:
    """What the WSDL says: elements and types with their fields, and the names of each enumeration."""

    fields: dict[str, tuple[_Field, ...]]
    choices: dict[str, tuple[str, ...]]


@cache
def _schema() -> _Schema:
    wsdl = (files("rotator.sandbox.ecgrid") / "service.wsdl").read_text(encoding="utf-8")
    (schema,) = ET.XML(wsdl).iter(f"{_SCHEMA}schema")
    named = [*schema.findall(f"{_SCHEMA}element"), *schema.findall(f"{_SCHEMA}complexType")]
    return _Schema(
        {one.attrib["name"]: _fields(one) for one in named},
        {
            one.attrib["name"]: tuple(
                each.attrib["value"] for each in one.iter(f"{_SCHEMA}enumeration")
            )
            for one in schema.findall(f"{_SCHEMA}simpleType")
        },
    )


def _fields(named: ET.Element) -> tuple[_Field, ...]:
    return tuple(
        _Field(
            each.attrib["name"],
            each.attrib["type"].partition(":")[2],
            each.attrib["minOccurs"] == "1",
        )
        for sequence in named.iter(f"{_SCHEMA}sequence")
        for each in sequence
    )


class ServiceSoap:
    """SOAP 1.1: the action chooses the call, and what of its body is not understood counts as absent."""

    def decode(self, request: Request, switches: Switches) -> Ask:
        """As `Surface.decode`."""
        plain = request.headers.get("content-type", "").startswith("text/xml")
        if request.method != "POST" or request.path.count("/") > 3 or not plain:
            raise _Framework("Request format is unrecognized.")
        action = request.headers.get("soapaction", "").strip('"')
        call = action.removeprefix(switches.soap_namespace)
        if call == action or f"{call}Response" not in _schema().fields:
            said = "Server did not recognize the value of HTTP Header SOAPAction"
            raise _Framework(f"{said}: {action}.")
        given = _given(request, call, switches)
        args: Values = {}
        for parameter in _schema().fields[call]:
            args[_OURS.get(parameter.name, "")] = _argument(given, parameter, switches)
        args.pop("", None)
        session = given.get("SessionID", "")
        return Ask(call, args, Credential("session-id", session, request.address))

    def encode(self, ask: Ask, result: Result, switches: Switches) -> Answer:
        """As `Surface.encode`."""
        values = {f"{ask.call}Result": _value(ask, result)}
        inner = _written(f"{ask.call}Response", values, switches)
        namespace = envelope.attribute(switches.soap_namespace)
        whole = f'<{ask.call}Response xmlns="{namespace}">{inner}</{ask.call}Response>'
        return envelope.answer(200, whole, {})

    def refuse(self, refusal: Refusal, switches: Switches) -> Answer:
        """As `Surface.refuse`."""
        if isinstance(refusal, _Framework):
            return envelope.fault(
                refusal.status, client=True, said=str(refusal), detail="", headers={}
            )
        code = _number(refusal, switches)
        words = _words(refusal, code, switches)
        status = STATUS[refusal.code] if STATUS[refusal.code] in (429, 503) else 500
        error = (
            f"<ErrorCode>{code}</ErrorCode><ErrorString>{envelope.text(words)}</ErrorString>"
            f"<ErrorItem/><ErrorMessage>{envelope.text(str(refusal))}</ErrorMessage>"
        )
        whole = error if switches.fault_shape == "flat" else f"<ErrorInfo>{error}</ErrorInfo>"
        return envelope.fault(
            200 if switches.faults_with_200 else status,
            client=code < _INTERNAL,
            said=f"{words}: {refusal}",
            detail=whole,
            headers=retry_after(refusal),
        )


SERVICE_SOAP = ServiceSoap()


def _given(request: Request, call: str, switches: Switches) -> dict[str, str]:
    """The parameters that the body holds, of the right element and namespace; raises Refusal for no envelope."""
    inside = envelope.operations(request.body)
    if inside is None:
        said = "Server was unable to read request. There is an error in the XML document."
        raise _Framework(said, switches.unread_status)
    namespace = switches.soap_namespace
    if not inside or envelope.split(inside[0]) != (namespace, call):
        return {}
    named = [(envelope.split(child), child.text or "") for child in inside[0]]
    return {name: value for (where, name), value in named if where == namespace}


def _argument(given: dict[str, str], parameter: _Field, switches: Switches) -> object:
    value = given.get(parameter.name)
    choices = _schema().choices.get(parameter.type)
    if value is None:
        return _default(parameter.type)
    if choices is not None and value not in choices:
        said = f"Server was unable to read request. {parameter.name} has a value that is not known."
        raise _Framework(said, switches.unread_status)
    if parameter.type not in _NUMBERS:
        return value
    try:
        return number(value, parameter.name)
    except Refusal:
        said = f"Server was unable to read request. {parameter.name} is not a number."
        raise _Framework(said, switches.unread_status) from None


def _default(type_: str) -> object:
    if type_ in _schema().choices:
        return _schema().choices[type_][0]
    plain: Values = {**dict.fromkeys(_NUMBERS, 0), "float": 0, "boolean": False}
    return {**plain, "dateTime": _NEVER}.get(type_)


def _number(refusal: Refusal, switches: Switches) -> int:
    if refusal.number is not None:
        return refusal.number
    dead = refusal.code in _DEAD
    return switches.dead_number if dead else _NUMBER.get(refusal.code, _INTERNAL)


def _words(refusal: Refusal, code: int, switches: Switches) -> str:
    known = -1 <= code <= _INTERNAL
    words = _ERRORS[code + 1] if known else "Error"
    if refusal.code in _DEAD and refusal.number is None:
        words = "Invalid SessionID"
    if switches.fault_words == "joined":
        return words.replace(" ", "")
    if switches.fault_words == "sentence" and "SessionID" not in words:
        return f"{words.capitalize()}."
    return words


def _value(ask: Ask, result: Result) -> object:
    """The result as a value of the schema: plain, the fields of an object, or a list of those."""
    if isinstance(result, list):
        return [_value(ask, one) for one in result]
    if isinstance(result, ShownUser):
        return _user(result)
    if isinstance(result, NamedValue):
        return _named(result)
    if isinstance(result, Session):
        return result.token
    return 0 if ask.call == "Logout" else result


def _user(shown: ShownUser) -> Values:
    user = shown.user
    return {
        "ECGridOSVersion": VERSION,
        "SessionID": shown.session_id,
        "UserID": user.user_id,
        "LoginName": user.login,
        "FirstName": user.first_name,
        "LastName": user.last_name,
        "EMail": user.email,
        "AuthLevel": user.auth_level.name,
        "LastLogin": shown.last_login,
        "OpenSessions": shown.open_sessions,
        "TimeOut": int(shown.time_out),
        "NetworkID": user.network_id,
        "MailboxID": user.mailbox_id,
        "Status": user.status,
        "LockedOut": user.locked_out,
        "ip": shown.address,
    }


def _named(kept: NamedValue) -> Values:
    return {
        "Key": kept.key,
        "Value": kept.value,
        "Meta": kept.meta,
        "Created": kept.created,
        "Expires": kept.expires,
        "Visibility": kept.visibility,
        "NetworkID": kept.owner.network_id,
        "MailboxID": kept.owner.mailbox_id,
        "UserID": kept.owner.user_id,
        "SessionID": kept.session,
    }


def _written(type_: str, values: Values, switches: Switches) -> str:
    """The fields of a type in their order; what is not known is left out, or what .NET has for nothing."""
    written = ""
    for one in _schema().fields[type_]:
        value = values.get(one.name)
        if value is None and one.required:
            value = _default(one.type)
        if value is not None:
            written += f"<{one.name}>{_content(one, value, switches)}</{one.name}>"
    return written


def _content(one: _Field, value: object, switches: Switches) -> str:
    if isinstance(value, list):
        (item,) = _schema().fields[one.type]
        each = (_content(item, part, switches) for part in value)
        return "".join(f"<{item.name}>{part}</{item.name}>" for part in each)
    if isinstance(value, dict):
        return _written(one.type, value, switches)
    if isinstance(value, datetime):
        return timestamp(value, switches, zone=False)
    return str(value).lower() if isinstance(value, bool) else envelope.text(str(value))
