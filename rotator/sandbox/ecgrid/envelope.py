"""SOAP 1.1's envelope, read with nothing from outside and written: what both forms of ECGrid have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from rotator.sandbox.ecgrid.wire import Answer

_ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
XML = "text/xml; charset=utf-8"


class _NoDoctype(ET.TreeBuilder):
    """Refuses a document with a DTD, and with it every entity."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Raises ValueError."""
        raise ValueError("there is a DTD")


def split(element: ET.Element) -> tuple[str, str]:
    """An element's namespace and local name."""
    namespace, _, name = element.tag.rpartition("}")
    return namespace.removeprefix("{"), name


def operations(body: bytes) -> list[ET.Element] | None:
    """What is inside the SOAP body; None for what is no XML, has a DTD, or is no envelope."""
    root = None
    with suppress(ET.ParseError, ValueError, LookupError):
        root = ET.XML(body, ET.XMLParser(target=_NoDoctype()))  # noqa: S314  # a DTD ends it
    inner = root.find(f"{{{_ENVELOPE}}}Body") if root is not None else None
    if root is None or inner is None or root.tag != f"{{{_ENVELOPE}}}Envelope":
        return None
    return list(inner)


def text(value: str) -> str:
    """A value as text in XML; control characters have no place in XML 1.0, escaped or not."""
    return escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", value))


def attribute(value: str) -> str:
    """A value as an attribute between double quotes."""
    return escape(value, {'"': "&quot;"})


def answer(status: int, inner: str, headers: Mapping[str, str]) -> Answer:
    """An envelope with this in its body."""
    whole = (
        '<?xml version="1.0" encoding="utf-8"?>'
        f'<soap:Envelope xmlns:soap="{_ENVELOPE}"><soap:Body>{inner}</soap:Body></soap:Envelope>'
    )
    return Answer(status, whole.encode(), XML, headers)


def fault(
    status: int, *, client: bool, said: str, detail: str, headers: Mapping[str, str]
) -> Answer:
    """A fault, with XML for its detail."""
    side = "Client" if client else "Server"
    inner = (
        f"<soap:Fault><faultcode>soap:{side}</faultcode><faultstring>{text(said)}</faultstring>"
        f"<detail>{detail}</detail></soap:Fault>"
    )
    return answer(status, inner, headers)
