"""What a SOAP answer holds: a result, read by the names in it, or a fault.

A result is not held against a schema: an answer with an element too many, or in another order, or one level deeper, is
still the answer to an issuing call.
"""

from __future__ import annotations

from rotator.ecgrid.answers import Data
from rotator.ecgrid.faults import Fault
from rotator.ecgrid.wire import Reply
from rotator.ecgrid.xml import Element, child, local_name, parsed

_OBJECTS = ("KeyIDInfo", "UserIDInfo", "SessionInfo")
_LISTS = ("KeyListResult", "UserListExResult")
# Characters of a fault's text that are looked at.
_LONGEST = 300


def opened(reply: Reply, operation: str) -> Data | Fault | None:
    """The result, or the fault, in the envelope of an answer; None if it is no envelope with either."""
    root = parsed(reply.body)
    body = child(root, "Body") if root is not None and local_name(root) == "Envelope" else None
    if body is None:
        return None
    fault = child(body, "Fault")
    if fault is not None:
        return _fault(fault)
    response = child(body, f"{operation}Response")
    if response is None or not 200 <= reply.status < 300:
        return None
    return Data(_raw(child(response, f"{operation}Result")))


def _fault(fault: Element) -> Fault:
    """SOAP 1.1's `faultcode`, `faultstring` and `detail`; of SOAP 1.2 the names that take their place."""
    code, text = child(fault, "faultcode"), child(fault, "faultstring")
    if code is None:
        outer = child(fault, "Code")
        code = child(outer, "Value") if outer is not None else None
        text = child(fault, "Reason")
    detail = child(fault, "detail")
    if detail is None:
        detail = child(fault, "Detail")
    said = {} if detail is None else {local_name(one): _text(one) for one in detail.iter()}
    return Fault(
        side=_text(code).rpartition(":")[2],
        named=said.get("ECGridOSSOAPErrorCode", ""),
        number=said.get("ErrorCode", ""),
        words=tuple(said[name] for name in ("ErrorString", "ErrorMessage") if said.get(name)),
        text=_text(text),
        bare=detail is None or len(detail) == 0,
    )


def _text(element: Element | None) -> str:
    return "".join(element.itertext()).strip()[:_LONGEST] if element is not None else ""


def _raw(result: Element | None) -> object:
    """The result as plain data: a text, fields by name, or a list of records."""
    if result is None:
        return None
    if len(result) == 0:
        return result.text or ""
    objects = [one for one in result if local_name(one) in _OBJECTS]
    if not objects:
        return {local_name(one): one.text for one in result}
    fields = [{local_name(inner): inner.text for inner in one} for one in objects]
    is_list = len(objects) > 1 or local_name(result) in _LISTS
    return fields if is_list else fields[0]
