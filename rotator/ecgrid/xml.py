"""XML as ECGrid writes and reads it: the standard library's parser, with whatever a document type brings refused."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from xml.sax.saxutils import escape, quoteattr

Element = ET.Element
ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
# White space and UTF-8's BOM, which some put before a declaration.
_BEFORE = b" \t\r\n\xef\xbb\xbf"
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class _Builder(ET.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type")


def parsed(body: bytes) -> Element | None:
    """The root of a document; None if it is none, or has a DTD, and with it entities and references to elsewhere."""
    parser = ET.XMLParser(target=_Builder())  # noqa: S314 - what makes it unsafe begins with a DOCTYPE
    try:
        parser.feed(body.lstrip(_BEFORE))
        root: Element = parser.close()
    except (ET.ParseError, ValueError, LookupError):
        return None
    return root


def local_name(element: Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def child(element: Element, name: str) -> Element | None:
    """The first child of that name, whatever its namespace."""
    return next((one for one in element if local_name(one) == name), None)


def request(namespace: str, operation: str, arguments: Mapping[str, str]) -> bytes | None:
    """The envelope of a call (SOAP 1.1, document/literal); None if an argument has characters that XML cannot carry."""
    if any(_FORBIDDEN.search(value) for value in arguments.values()):
        return None
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments.items())
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        f'<soap:Envelope xmlns:soap="{ENVELOPE}"><soap:Body>'
        f"<{operation} xmlns={quoteattr(namespace)}>{inner}</{operation}>"
        "</soap:Body></soap:Envelope>"
    ).encode()
