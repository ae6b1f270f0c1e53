"""SOAP envelopes: the one module that imports zeep and lxml.

zeep makes the requests and parses answers with DTDs, entities and external references forbidden. It does not read the
results: an answer with an element too many, or in another order, or one level deeper, is still the answer to an issuing
call, and a library's complaint about it would quote the key.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from xml.sax.saxutils import escape

from lxml import etree
from zeep import Client, Settings
from zeep.exceptions import Error as ZeepError
from zeep.loader import parse_xml
from zeep.transports import Transport

from rotator.ecgrid.answers import Data
from rotator.ecgrid.wire import Reply
from rotator.keys import Secret

DOCUMENTED_NAMESPACE = "http://www.ecgridos.net/"
_ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
_SETTINGS = Settings(strict=True, forbid_dtd=True, forbid_entities=True, forbid_external=True)
_OBJECTS = ("KeyIDInfo", "UserIDInfo")


@dataclass(frozen=True)
class Result:
    """What an envelope holds: the code of a fault (empty if it has none), or else the data of a result."""

    fault: str | None
    data: Data


class _None(Transport):
    """zeep's transport, which is never used: the WSDL is at hand, and what zeep writes is sent by our wire."""

    def __init__(self) -> None:
        # Without `super().__init__`, which would open a session of requests.
        self._close_session = False


class Envelopes:
    """Writes the requests after our WSDL, which is parsed once. May be used by any number of threads."""

    def __init__(self, namespace: str) -> None:
        make: Any = Client  # zeep is typed in name only
        self._client = make(io.BytesIO(_wsdl(namespace)), transport=_None(), settings=_SETTINGS)
        self._service = self._client.create_service(f"{{{namespace}}}ECGridOSSoap", "")
        self._lock = threading.Lock()  # a zeep client is not promised to be safe between threads

    def request(self, operation: str, arguments: Mapping[str, int | str | Secret]) -> bytes | None:
        """The envelope of a request; None if an argument has characters that XML cannot carry."""
        try:
            with self._lock:
                envelope = self._client.create_message(
                    self._service, operation, **_plain(arguments)
                )
            written: bytes = etree.tostring(envelope, xml_declaration=True, encoding="utf-8")
        except (ZeepError, ValueError, TypeError):
            return None
        return written


def _plain(arguments: Mapping[str, int | str | Secret]) -> dict[str, int | str]:
    return {n: v.reveal() if isinstance(v, Secret) else v for n, v in arguments.items()}


@cache
def _wsdl(namespace: str) -> bytes:
    text = (files("rotator") / "ecgrid" / "ecgridos.wsdl").read_text(encoding="utf-8")
    return text.replace(DOCUMENTED_NAMESPACE, escape(namespace, {'"': "&quot;"})).encode()


def opened(reply: Reply, operation: str) -> Result | None:
    """The result, or the fault, in the envelope of an answer; None if it is no envelope with either."""
    if not ("xml" in reply.content_type or not reply.content_type):
        return None
    root = _parsed(reply)
    body = _child(root, "Body") if root is not None and _name(root) == "Envelope" else None
    if body is None:
        return None
    fault = _child(body, "Fault")
    if fault is not None:
        return Result(_fault_code(fault), Data(None))
    response = _child(body, f"{operation}Response")
    if response is None or reply.status != 200:
        return None
    return Result(None, Data(_raw(_child(response, f"{operation}Result"))))


def _parsed(reply: Reply) -> Any:
    parse: Any = parse_xml  # typed for text only, where lxml wants the bytes with their declaration
    try:
        return parse(reply.body, None, settings=_SETTINGS)
    except (ZeepError, etree.Error, ValueError):
        return None


def _name(element: Any) -> str:
    """An element's name without its namespace: in an answer, either of the documented ones will do."""
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


def _child(element: Any, name: str) -> Any:
    return next((child for child in element if _name(child) == name), None)


def _fault_code(fault: Any) -> str:
    detail = _child(fault, "detail")
    found = (e for e in (() if detail is None else detail.iter()))
    code = next((e.text for e in found if _name(e) == "ECGridOSSOAPErrorCode"), None)
    return (code or "").strip()


def _raw(result: Any) -> object:
    """The result as plain data: a text, fields by name, or a list of records."""
    if result is None:
        return None
    if len(result) == 0:
        return result.text or ""
    objects = [child for child in result if _name(child) in _OBJECTS]
    if not objects:
        return {_name(child): child.text for child in result}
    fields = [{_name(inner): inner.text for inner in child} for child in objects]
    is_list = len(objects) > 1 or _name(result) == "KeyListResult"
    return fields if is_list else fields[0]
