"""What a surface says of itself: a WSDL, or an OpenAPI document, read for the calls that the rotator makes.

Nothing that a description refers to is loaded, and no address in it is ever used. Both come from outside: what cannot
be understood is no description.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from rotator.ecgrid.xml import Element, local_name, parsed
from rotator.system import Description, Operation, SurfaceName

DOCUMENTED_NAMESPACE = "http://www.ecgridos.net/"
LOGIN_NAMES = ("loginname", "username", "email", "login")

# What the vendor's pages say of each SOAP call that we make (seed-KeySet, seed-KeyGet, seed-UserGetAPIKey, and the
# pages of the others). Also: the parameters without which a call is not the one that we mean.
DOCUMENTED: Mapping[str, Operation] = {
    "KeySet": Operation(parameters=("SessionID", "UserID", "Visibility"), result="KeyIDInfo"),
    "KeyGet": Operation(parameters=("SessionID", "UserID"), result="KeyIDInfo"),
    "KeyList": Operation(parameters=("SessionID", "UserID"), result="ArrayOfKeyIDInfo"),
    "KeyRemove": Operation(parameters=("SessionID", "KeyID"), result="boolean"),
    "GenerateAPIKey": Operation(parameters=("SessionID", "UserID"), result="string"),
    "UserGetAPIKey": Operation(parameters=("SessionID", "UserID"), result="string"),
    "UserListEx": Operation(
        parameters=("SessionID", "NetworkID", "MailboxID", "Name"), result="ArrayOfUserIDInfo"
    ),
    "WhoAmI": Operation(parameters=("SessionID",), result="UserIDInfo"),
    "UserInfo": Operation(parameters=("SessionID", "UserID"), result="UserIDInfo"),
    "Login": Operation(
        parameters=(
            "UserName",
            "Password",
            "SenderSolution",
            "SenderVersion",
            "SenderCompanyName",
            "SenderContact",
            "SenderContactEmail",
        ),
        result="string",
    ),
    "Logout": Operation(parameters=("SessionID",), result="boolean"),
    "Version": Operation(result="string"),
}
# The paths of REST's calls, those of the vendor's own pages first, then those of its page on migration.
PATHS: Mapping[str, tuple[str, ...]] = {
    "Create Key": ("POST /v2/keys/create",),
    "Get Key": ("POST /v2/keys/get-key",),
    "List Keys": ("POST /v2/keys/list",),
    "Delete Key": ("DELETE /v2/keys",),
    "Generate API Key": ("POST /v2/users/key-generate/{}", "POST /v2/users/{}/generate-api-key"),
    "List Users": ("POST /v2/users/list",),
    "Get API Key": ("GET /v2/users/key/{}", "GET /v2/users/{}/api-key"),
}
KEY_RECORDS = frozenset({"Create Key", "Get Key", "List Keys", "Delete Key"})
Form = Literal["portal", "service", "unknown"]
# Parameters of the calls that keep named values.
VALUES = ("systemobject", "objectid")


def of_values(operation: Operation) -> bool:
    """Whether a key call is about named values, not about the key records of users."""
    return any(name.casefold() in VALUES for name in operation.parameters)


def is_what_we_mean(call: str, operation: Operation) -> bool:
    """Whether a SOAP operation of that name is the call that the rotator makes, judged by what it takes and gives."""
    has = {name.casefold() for name in operation.parameters}
    if call == "Login":
        return "password" in has and any(name in has for name in LOGIN_NAMES)
    if call == "KeySet" and operation.result == "boolean":
        return False
    return all(name.casefold() in has for name in DOCUMENTED[call].parameters)


def form_of(surface: SurfaceName, known: Description) -> Form:
    """Which ECGrid it is: with key records as on the vendor's portal, or as the service describes itself, without."""
    if known.calls is None:
        forms: dict[str | None, Form] = {"records": "portal", "values": "service"}
        return forms.get(known.keys, "unknown")
    if surface == "soap":
        issuing = known.calls.get("KeySet")
        has = issuing is not None and is_what_we_mean("KeySet", issuing)
    else:
        issuing = known.calls.get(PATHS["Create Key"][0])
        has = issuing is not None and not of_values(issuing)
    return "portal" if has else "service"


# SOAP


def read_wsdl(body: bytes) -> tuple[str, dict[str, Operation]] | None:
    """The namespace, and of our calls those that the service has; None if this is no WSDL."""
    root = parsed(body)
    if root is None or local_name(root) != "definitions":
        return None
    ports, types = _children(root, "portType"), _children(root, "types")
    offered = {one.get("name", "") for port in ports for one in _children(port, "operation")}
    operations: dict[str, Operation] = {}
    namespace = root.get("targetNamespace", "")
    for schema in (schema for outer in types for schema in _children(outer, "schema")):
        elements = {one.get("name", ""): one for one in _children(schema, "element")}
        for call in DOCUMENTED.keys() & elements.keys() & offered:
            namespace = schema.get("targetNamespace", namespace)
            result = _fields(elements.get(f"{call}Response"))
            operations[call] = Operation(
                parameters=tuple(_fields(elements[call])), result=result.get(f"{call}Result", "")
            )
    return (namespace, operations) if namespace else None


def _children(parent: Element, name: str) -> Iterator[Element]:
    return (one for one in parent if local_name(one) == name)


def _fields(element: Element | None) -> dict[str, str]:
    """The elements within one, in order, with the names of their types."""
    if element is None:
        return {}
    inner = (one for one in element.iter() if one is not element and local_name(one) == "element")
    return {one.get("name", ""): one.get("type", "").rpartition(":")[2] for one in inner}


# REST


def read_openapi(body: bytes) -> dict[str, Operation] | None:
    """The operations by method and path, with the properties of their bodies; None if this is no OpenAPI document."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    paths = _object(document, "paths")
    if not paths or not isinstance(_object(document).get("openapi"), str):
        return None
    prefix = _prefix(document)
    return {
        _plain(method, path, prefix): Operation(parameters=tuple(_body(document, operation)))
        for path, item in paths.items()
        for method, operation in _object(item).items()
        if isinstance(operation, dict) and _plain(method, path, prefix) in _OURS
    }


_OURS = frozenset(path for paths in PATHS.values() for path in paths)


def _plain(method: str, path: str, prefix: str) -> str:
    """As in PATHS: the method in capitals, the path in small letters, a parameter without its name."""
    whole = path if path.casefold().startswith("/v2/") else prefix + path
    parts = ("{}" if part.startswith("{") else part.casefold() for part in whole.split("/"))
    return f"{method.upper()} {'/'.join(parts)}".rstrip("/")


def _prefix(document: object) -> str:
    """What stands before the paths; of the addresses in a description nothing else is looked at."""
    servers = _object(document).get("servers")
    first = _object(servers[0]) if isinstance(servers, list) and servers else {}
    url = first.get("url")
    try:
        return urlsplit(url).path.rstrip("/") if isinstance(url, str) else ""
    except ValueError:
        return ""


def _body(document: object, operation: object) -> list[str]:
    content = _object(operation, "requestBody", "content")
    schema = next((_object(kind, "schema") for name, kind in content.items() if "json" in name), {})
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        schema = _object(document, *reference[2:].split("/"))
    return [str(name) for name in _object(schema, "properties")]


def _object(value: object, *path: str) -> dict[str, Any]:
    """The object at a path within another; empty if there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
