"""What the simulated ECGrid says of itself, `SOAP_URL?WSDL` and `/swagger/v2/swagger.json`, and how that can go wrong.

Both are read without a credential. `/elsewhere` is where a redirect and a DTD's entity point: to be asked there at all,
which is noted as `Elsewhere`, shows a reader that follows what it read.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files

from rotator.sandbox.ecgrid import rest
from rotator.sandbox.ecgrid.envelope import XML, attribute
from rotator.sandbox.ecgrid.switches import Description, Form, Switches
from rotator.sandbox.ecgrid.wire import SOAP_PATH, STATUS, Answer, Request, retry_after
from rotator.sandbox.ecgrid.words import Ask, Refusal, Result

SWAGGER_PATH = "/swagger/v2/swagger.json"
_ELSEWHERE = "/elsewhere"
_JSON = "application/json; charset=utf-8"
_HUGE = 20 << 20
_NAMESPACES = {"portal": "http://www.ecgridos.net/", "service": "https://os.ecgrid.io/"}
_CALLS = {
    SOAP_PATH: "Description",
    SWAGGER_PATH: "OpenAPI",
    _ELSEWHERE: "Elsewhere",
}
_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><p>Hello.</p></body></html>"
_OTHER_SWAGGER = b'{"openapi": "3.0.1", "paths": {"/forecast": {"get": {"responses": {}}}}}'
_OTHER_WSDL = """\
<?xml version="1.0" encoding="utf-8"?>
<wsdl:definitions xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:s="http://www.w3.org/2001/XMLSchema"
                  xmlns:tns="http://weather.invalid/" targetNamespace="http://weather.invalid/">
  <wsdl:types>
    <s:schema elementFormDefault="qualified" targetNamespace="http://weather.invalid/">
      <s:element name="Forecast">
        <s:complexType>
          <s:sequence>
            <s:element minOccurs="0" maxOccurs="1" name="City" type="s:string"/>
          </s:sequence>
        </s:complexType>
      </s:element>
    </s:schema>
  </wsdl:types>
  <wsdl:message name="ForecastIn">
    <wsdl:part name="parameters" element="tns:Forecast"/>
  </wsdl:message>
  <wsdl:portType name="WeatherSoap">
    <wsdl:operation name="Forecast">
      <wsdl:input message="tns:ForecastIn"/>
    </wsdl:operation>
  </wsdl:portType>
</wsdl:definitions>
"""


def asked(request: Request) -> bool:
    """Whether a request is for a description, or for where one must not lead."""
    wsdl = request.path == SOAP_PATH and request.query.lower() == "wsdl"
    return request.method == "GET" and (wsdl or request.path in (SWAGGER_PATH, _ELSEWHERE))


class Descriptions:
    """Answers with the description, in the manner that the switches name."""

    def decode(self, request: Request, switches: Switches) -> Ask:
        """As `Surface.decode`; a credential is noted, and needed by nobody."""
        home = f"http://{request.headers.get('host', '')}"
        return Ask(_CALLS[request.path], {"home": home}, rest.presented(request))

    def encode(self, ask: Ask, result: Result, switches: Switches) -> Answer:
        """As `Surface.encode`."""
        home = str(ask.args["home"])
        if ask.call == "OpenAPI":
            whole = Answer(200, _swagger(switches).encode(), _JSON)
            return _in_its_manner(whole, switches.swagger, home)
        whole = Answer(200, _wsdl(switches, home).encode(), XML)
        return whole if ask.call == "Elsewhere" else _in_its_manner(whole, switches.wsdl, home)

    def refuse(self, refusal: Refusal, switches: Switches) -> Answer:
        """As `Surface.refuse`."""
        said = str(refusal).encode()
        return Answer(STATUS[refusal.code], said, "text/plain", retry_after(refusal))


DESCRIPTIONS = Descriptions()


def _in_its_manner(whole: Answer, manner: Description, home: str) -> Answer:
    kind = whole.content_type
    front, end = whole.body[:-2], whole.body[-2:]
    if manner == "huge":
        # White space before the last characters: well-formed, whichever language it is in.
        return Answer(200, front.ljust(_HUGE - len(end)) + end, kind)
    other = _OTHER_WSDL.encode() if kind == XML else _OTHER_SWAGGER
    answers = {
        "served": whole,
        "missing": Answer(404, b"There is nothing here.", "text/plain"),
        "html": Answer(200, _PAGE, "text/html"),
        "drip": Answer(200, front, kind, endless=True),
        "malformed": Answer(200, whole.body[: len(whole.body) // 2], kind),
        "dtd": Answer(200, _with_doctype(whole.body, home), kind),
        "other": Answer(200, other, kind),
        "redirect": Answer(302, b"", "text/plain", {"Location": home + _ELSEWHERE}),
    }
    return answers[manner]


def _with_doctype(body: bytes, home: str) -> bytes:
    """The same with entities, of which one stands here and one elsewhere."""
    entities = f'<!ENTITY here "ECGrid"><!ENTITY there SYSTEM "{home}{_ELSEWHERE}">'
    head = f"<!DOCTYPE wsdl:definitions [{entities}]>\n<wsdl:definitions"
    used = "<wsdl:documentation>&here;&there;</wsdl:documentation><wsdl:types>"
    text = body.decode().replace("<wsdl:definitions", head, 1)
    return text.replace("<wsdl:types>", used, 1).encode()


def _wsdl(switches: Switches, home: str) -> str:
    """The form's own, in the namespace in force; the portal's names the address that it was asked at."""
    namespace = attribute(switches.soap_namespace)
    whole = _wsdl_text(switches.form).replace(f'"{_NAMESPACES[switches.form]}', f'"{namespace}')
    if switches.form == "service":
        return whole

    def served(matched: re.Match[str]) -> str:
        return f"{matched[1]}{attribute(home + SOAP_PATH)}{matched[2]}"

    return re.sub(r'(<(?:\w+:)?address\s[^>]*?location=")[^"]*(")', served, whole)


@cache
def _wsdl_text(form: Form) -> str:
    return (files("rotator.sandbox.ecgrid") / f"{form}.wsdl").read_text(encoding="utf-8")


def _swagger(switches: Switches) -> str:
    """OpenAPI 3 of what this form offers with these switches: paths, methods, properties of bodies."""
    paths: dict[str, dict[str, object]] = {}
    schemas: dict[str, object] = {}
    for route in rest.routes(switches):
        operation: dict[str, object] = {
            "operationId": route.call,
            "responses": {"200": {"description": "Done"}},
        }
        if "{id}" in route.path:
            where = {"name": "id", "in": "path", "required": True}
            operation["parameters"] = [{**where, "schema": {"type": "integer"}}]
        if route.fields:
            name = f"{route.call}Request"
            properties = {theirs: {"type": _type(theirs)} for theirs in route.fields}
            schemas[name] = {"type": "object", "properties": properties}
            reference = {"schema": {"$ref": f"#/components/schemas/{name}"}}
            operation["requestBody"] = {"content": {"application/json": reference}}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    document = {
        "openapi": "3.0.1",
        "info": {"title": "ECGrid, simulated", "version": "2.6"},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    return json.dumps(document)


def _type(name: str) -> str:
    whole = name.endswith("Id") or name in ("pageNo", "recordsPerPage", "daysToLive")
    return "integer" if whole else "string"
