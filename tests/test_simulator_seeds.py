"""The simulator against the vendor's pages: every example request is taken, every example answer is what it gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

import pytest
import requests
from lxml import etree

from rotator.sandbox.ecgrid import AuthLevel, Running, Simulator, Switches, start


def joined(*pieces: str, by: str = "") -> str:
    """The pieces as one word, so that no line here holds anything that looks like a key."""
    return by.join(pieces)


# The values of the pages' examples.
GET_KEY_VISIBLE = joined("ek", "live", "abc123xyz789", by="_")
KEY_GET_VALUE = joined("abc123def456", "ghi789jkl012", "mno345pq")
KEY_SET_VALUE = joined("xyz987uvw654", "rst321opq098", "nml765kj")
USER_API_KEY = joined("abc123def456", "ghi789jkl012", "mno345pqr")
GUID_API_KEY = joined("a1b2c3d4", "e5f6", "7890", "abcd", "ef1234567890", by="-")
NAMESPACE = "http://www.ecgridos.net/"


@pytest.fixture
def running() -> Iterator[Running]:
    """ECGrid at the moment of the KeySet example, holding the records that the pages show."""
    switches = Switches(read_back="full", api_key_is_record=False)
    clock = datetime(2026, 5, 7, 10, tzinfo=UTC)
    simulator = Simulator(switches, clock=lambda: clock)
    simulator.add_user(1, login="admin", auth_level=AuthLevel.NetworkAdmin)
    simulator.add_user(5001, api_key=USER_API_KEY)
    simulator.add_user(12345, api_key=GUID_API_KEY)
    created = datetime(2025, 1, 15, 8, 30, tzinfo=UTC)
    simulator.add_key(5001, value=KEY_GET_VALUE, key_id=1042, created=created)
    with start(simulator) as server:
        yield server


@pytest.fixture
def admin(running: Running) -> str:
    """The administrator's key; its id is that of no example."""
    return running.simulator.add_key(1, key_id=1).value


def soap(running: Running, operation: str, arguments: Mapping[str, object]) -> Any:
    """The operation's `...Result` element, as an envelope of SOAP 1.1 gets it."""
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in arguments.items())
    body = (
        '<soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/"><soap:Body>'
        f'<{operation} xmlns="{NAMESPACE}">{inner}</{operation}></soap:Body></soap:Envelope>'
    )
    headers = {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": f'"{NAMESPACE}{operation}"'}
    answer = requests.post(running.soap_url, body.encode(), headers=headers, timeout=30)
    assert answer.status_code == 200
    found = etree.fromstring(answer.content).find(f".//{{{NAMESPACE}}}{operation}Result")
    assert found is not None
    return found


def fields(element: Any) -> dict[str, str]:
    """The children of an element, in order."""
    return {etree.QName(child).localname: child.text for child in element}


def session(running: Running) -> str:
    """A session token from Login(), as the pages ask for."""
    user = running.simulator.users()[0]
    login = {
        "UserName": user.login,
        "Password": user.password,
        "SenderSolution": "example",
        "SenderVersion": "1",
        "SenderCompanyName": "Example",
        "SenderContact": "Someone",
        "SenderContactEmail": "someone@example.com",
    }
    return str(soap(running, "Login", login).text)


def test_get_key_page(running: Running, admin: str) -> None:
    """The example's request (Python, JSON) gets the example's record; its value ends in an ellipsis on the page."""
    created = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
    value = GET_KEY_VISIBLE + token_hex(12)
    running.simulator.add_key(12345, value=value, key_id=9001, created=created)
    running.simulator.switch(read_back="ellipsis")
    headers = {"X-API-Key": admin}
    url = f"{running.rest_url}/v2/keys/get-key"
    answer = requests.post(url, json={"userId": 12345}, headers=headers, timeout=30)
    assert answer.status_code == 200
    assert answer.json() == {
        "success": True,
        "data": {
            "keyId": 9001,
            "userId": 12345,
            "key": GET_KEY_VISIBLE + "...",
            "visibility": "Private",
            "created": "2025-01-15T10:30:00Z",
        },
    }
    assert list(answer.json()["data"]) == ["keyId", "userId", "key", "visibility", "created"]


def test_get_api_key_page(running: Running, admin: str) -> None:
    """The example's GET, with the id in the path, answers with the plain string."""
    url = f"{running.rest_url}/v2/users/key/12345"
    answer = requests.get(url, headers={"X-API-Key": admin}, timeout=30)
    assert answer.status_code == 200
    assert answer.json() == {"success": True, "data": GUID_API_KEY}


def test_key_get_page(running: Running) -> None:
    """KeyGet with a session answers with the example's KeyIDInfo, field for field and in its order."""
    result = soap(running, "KeyGet", {"SessionID": session(running), "UserID": 5001})
    assert list(fields(result).items()) == [
        ("KeyID", "1042"),
        ("UserID", "5001"),
        ("Key", KEY_GET_VALUE),
        ("Visibility", "Private"),
        ("Created", "2025-01-15T08:30:00"),
    ]


def test_key_set_page(running: Running) -> None:
    """KeySet with Shared visibility answers with the example's new record, and that key is then live."""
    running.simulator.next_value(KEY_SET_VALUE)
    arguments = {"SessionID": session(running), "UserID": 5001, "Visibility": "Shared"}
    assert list(fields(soap(running, "KeySet", arguments)).items()) == [
        ("KeyID", "1043"),
        ("UserID", "5001"),
        ("Key", KEY_SET_VALUE),
        ("Visibility", "Shared"),
        ("Created", "2026-05-07T10:00:00"),
    ]
    assert running.simulator.who(KEY_SET_VALUE) == 5001


def test_the_inner_element_of_the_examples_is_one_of_the_answers(running: Running) -> None:
    """The pages' XML has a KeyIDInfo element: switched on, the result holds it."""
    running.simulator.switch(soap_result="inner")
    result = soap(running, "KeyGet", {"SessionID": session(running), "UserID": 5001})
    assert [etree.QName(child).localname for child in result] == ["KeyIDInfo"]
    assert fields(result[0])["KeyID"] == "1042"


def test_user_get_api_key_page(running: Running) -> None:
    """UserGetAPIKey answers with the example's plain string, which is a value for X-API-Key."""
    result = soap(running, "UserGetAPIKey", {"SessionID": session(running), "UserID": 5001})
    assert result.text == USER_API_KEY
    url = f"{running.rest_url}/v2/users/me"
    me = requests.get(url, headers={"X-API-Key": USER_API_KEY}, timeout=30).json()
    assert me["data"]["userId"] == 5001


@pytest.mark.parametrize(
    "extra",
    [
        {"User-Agent": "curl/8.5.0"},
        {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAA"},
        {"Accept-Language": "*", "Sec-Fetch-Mode": "cors", "User-Agent": "node"},
    ],
    ids=["curl", "Java", "Node.js"],
)
def test_what_the_pages_other_clients_send_is_taken(
    running: Running, admin: str, extra: dict[str, str]
) -> None:
    """The headers that each example's HTTP library adds are no violation."""
    headers = {"X-API-Key": admin, "Content-Type": "application/json", **extra}
    body = json.dumps({"userId": 5001})
    url = f"{running.rest_url}/v2/keys/get-key"
    answer = requests.post(url, body, headers=headers, timeout=30)
    assert answer.status_code == 200
    assert running.simulator.violations() == []


def test_the_python_example_of_the_soap_pages(running: Running) -> None:
    """zeep, given only `?WSDL`, calls KeyGet at the address that is served there."""
    zeep = pytest.importorskip("zeep")
    client = zeep.Client(running.soap_url + "?WSDL")
    result = client.service.KeyGet(SessionID=session(running), UserID=5001)
    assert (result.KeyID, result.UserID, str(result.Visibility)) == (1042, 5001, "Private")
    assert result.Key == KEY_GET_VALUE


def test_the_wsdl_speaks_of_the_namespace_in_force(running: Running) -> None:
    """Switched to the older wiki's namespace, the WSDL names that one and no other of the vendor's."""
    running.simulator.switch(soap_namespace="https://os.ecgrid.io/")
    text = requests.get(running.soap_url + "?wsdl", timeout=30).text
    assert 'targetNamespace="https://os.ecgrid.io/"' in text
    assert NAMESPACE not in text
    assert f'location="{running.soap_url}"' in text
