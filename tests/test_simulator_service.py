"""The simulated ECGrid's second form: the service's own calls, faults and habits, and descriptions that go wrong."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from conftest import ROOT
from lxml import etree
from test_simulator import Client, text

from rotator.sandbox.ecgrid import (
    AuthLevel,
    Control,
    Fault,
    Running,
    Simulator,
    Switches,
    start,
)

NAMESPACE = "https://os.ecgrid.io/"
PORTAL = "http://www.ecgridos.net/"
SOAP_PATH = "/v4.1/prod/ECGridOS.asmx"
SWAGGER = "/swagger/v2/swagger.json"
USER = 5001
ON_USER: dict[str, Any] = {"SystemObject": "User", "ObjectID": USER}
XSD = "{http://www.w3.org/2001/XMLSchema}"
WSDL = "{http://schemas.xmlsoap.org/wsdl/}"


@pytest.fixture
def simulator() -> Simulator:
    """An administrator (1) and a user (5001), each with an API key, at a time that stands still."""
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    simulator = Simulator(Switches.service(), clock=lambda: moment)
    simulator.add_user(1, login="admin@example.com", auth_level=AuthLevel.NetworkAdmin)
    simulator.add_user(USER, login="edi", first_name="Edith", last_name="Doe")
    return simulator


@pytest.fixture
def running(simulator: Simulator) -> Iterator[Running]:
    """The simulator, served."""
    with start(simulator) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Client:
    """A client with the administrator's key."""
    return Client(running, running.simulator.add_key(1).value)


@pytest.fixture
def old(simulator: Simulator) -> str:
    """The user's API key."""
    return simulator.add_key(USER).value


def call(client: Client, operation: str, session: str | None = None, **args: object) -> Any:
    """The `...Result` element of a call that works."""
    status, answer = client.soap(operation, session, NAMESPACE, **args)
    assert status == 200, answer
    (result,) = answer
    assert result.tag == f"{{{NAMESPACE}}}{operation}Result"
    return result


def names(element: Any) -> list[str]:
    """The local names of the children, in order."""
    return [child.tag.rpartition("}")[2] for child in element]


def fault(client: Client, operation: str, session: str | None = None, **args: object) -> Any:
    """The fault of a call that is refused with 500."""
    status, answer = client.soap(operation, session, NAMESPACE, **args)
    assert (status, answer.tag.rpartition("}")[2]) == (500, "Fault")
    return answer


def post(client: Client, body: bytes, action: str) -> tuple[int, Any]:
    """Status and first element of the SOAP body, for an envelope that is written by hand."""
    status, _, content = client.send(
        "POST", SOAP_PATH, body, Content_Type="text/xml", SOAPAction=action
    )
    return status, etree.fromstring(content)[0][0]


def envelope(inner: str) -> bytes:
    """An envelope around it."""
    soap = "http://schemas.xmlsoap.org/soap/envelope/"
    return f'<e:Envelope xmlns:e="{soap}"><e:Body>{inner}</e:Body></e:Envelope>'.encode()


# SOAP


def test_version_and_time_need_no_credential(client: Client) -> None:
    """Version names the build, and NowUTC is a time."""
    assert call(client, "Version", "").text.startswith("ECGridOS API v4.1 (Build ")
    assert call(client, "NowUTC", "").text == "2026-03-01T12:00:00"


def test_a_session_from_login_to_logout(client: Client, running: Running) -> None:
    """Login takes LoginName and Password, Logout answers with a number, and the session is then refused."""
    admin = running.simulator.users()[0]
    session = call(client, "Login", "", LoginName=admin.login, Password=admin.password).text
    assert text(call(client, "WhoAmI", session), "SessionID") == session
    assert running.simulator.sessions() == 1
    assert int(call(client, "Logout", session).text) == 0
    assert "Invalid SessionID" in text(fault(client, "WhoAmI", session), "faultstring")


def test_who_am_i_shows_a_live_credential(client: Client, running: Running) -> None:
    """SessionInfo holds the key that was presented, or by switch a session that is open from then on."""
    shown = call(client, "WhoAmI")
    assert text(shown, "SessionID") == client.key
    assert (text(shown, "UserID"), text(shown, "LoginName")) == ("1", "admin@example.com")
    running.simulator.switch(session_shown="session")
    session = text(call(client, "WhoAmI"), "SessionID")
    assert session != client.key
    assert session == client.rest("GET", "/v2/users/me")[1]["data"]["sessionId"]
    assert text(call(client, "WhoAmI", session), "UserID") == "1"
    assert {session, client.key} <= running.simulator.secrets()


def test_generate_ends_the_key_before_at_once(client: Client, running: Running, old: str) -> None:
    """A GUID takes its place, and is what UserGetAPIKey and REST's Get API Key read; it is the only thing issued."""
    new = call(client, "GenerateAPIKey", UserID=USER).text
    assert [len(part) for part in new.split("-")] == [8, 4, 4, 4, 12]
    assert call(client, "UserGetAPIKey", UserID=USER).text == new
    assert client.rest("GET", f"/v2/users/key/{USER}")[1] == {"success": True, "data": new}
    assert (running.simulator.who(old), running.simulator.who(new)) == (None, USER)
    assert running.simulator.issued() == 1


def test_a_users_own_key_makes_the_next_and_dies_with_the_answer(
    client: Client, running: Running, old: str
) -> None:
    """So a retry with the old one is refused, although the first call was carried out."""
    new = call(client, "GenerateAPIKey", old, UserID=USER).text
    fault(client, "GenerateAPIKey", old, UserID=USER)
    assert (running.simulator.who(new), running.simulator.issued()) == (USER, 1)


def test_key_calls_are_a_store_of_named_values(client: Client, running: Running, old: str) -> None:
    """What KeySet stores is what KeyGet and KeyList show, and KeyRemove takes away; nobody has another API key."""
    named: dict[str, Any] = {"Key": "color", **ON_USER, "Visibility": "Shared"}
    stored = call(client, "KeySet", **named, Value="blue", Meta="m", DaysToLive=7)
    assert stored.text == "true"
    shown = call(client, "KeyGet", **named)
    assert (text(shown, "Value"), text(shown, "Meta")) == ("blue", "m")
    assert text(shown, "Expires") == "2026-03-08T12:00:00"
    assert [text(one, "Key") for one in call(client, "KeyList", **ON_USER)] == ["color"]
    by_rest = client.rest("POST", "/v2/keys/list", {"systemObject": "User", "objectId": USER})
    assert by_rest == (200, {"success": True, "data": [_rest_value()]})
    assert call(client, "KeyRemove", **named).text == "true"
    assert len(call(client, "KeyList", **ON_USER)) == 0
    assert (running.simulator.issued(), running.simulator.who(old)) == (0, USER)


def _rest_value() -> dict[str, str]:
    times = {"created": "2026-03-01T12:00:00Z", "expires": "2026-03-08T12:00:00Z"}
    return {"key": "color", "value": "blue", "meta": "m", "visibility": "Shared", **times}


def test_a_private_value_is_its_setters_and_an_old_one_nobodys(
    client: Client, running: Running, old: str
) -> None:
    """For others, and after its days, it is not found."""
    named: dict[str, Any] = {
        "Key": "color",
        "SystemObject": "Network",
        "ObjectID": 1,
        "Visibility": "Private",
    }
    call(client, "KeySet", **named, Value="blue", Meta="", DaysToLive=1)
    assert text(fault(client, "KeyGet", old, **named), "ErrorString") == "Not Found"
    assert text(call(client, "KeyGet", **named), "Value") == "blue"
    running.simulator.advance(90000)
    assert text(fault(client, "KeyGet", **named), "ErrorCode") == "3"


def test_the_portals_arguments_store_nothing(client: Client, running: Running, old: str) -> None:
    """KeySet with UserID and Visibility alone has no name for the value: invalid data length, number 8."""
    refused = fault(client, "KeySet", UserID=USER, Visibility="Private")
    assert names(refused.find("detail")[0]) == [
        "ErrorCode",
        "ErrorString",
        "ErrorItem",
        "ErrorMessage",
    ]
    assert (text(refused, "ErrorCode"), text(refused, "ErrorString")) == (
        "8",
        "Invalid Data Length",
    )


@pytest.mark.parametrize(
    ("words", "denied", "dead"),
    [
        ("spaced", "Access Denied", "Invalid SessionID"),
        ("joined", "AccessDenied", "InvalidSessionID"),
        ("sentence", "Access denied.", "Invalid SessionID"),
    ],
)
def test_numbered_faults(
    client: Client, running: Running, old: str, words: str, denied: str, dead: str
) -> None:
    """Number and words of "no right" and of a dead credential, in the ErrorInfo element or right under the detail."""
    running.simulator.switch(fault_words=words, dead_number=4)
    refused = fault(client, "UserGetAPIKey", old, UserID=1)
    assert (text(refused, "ErrorCode"), text(refused, "ErrorString")) == ("2", denied)
    refused = fault(client, "WhoAmI", "0" * 36)
    assert (text(refused, "ErrorCode"), text(refused, "ErrorString")) == ("4", dead)
    assert names(refused.find("detail")) == ["ErrorInfo"]
    running.simulator.switch(fault_shape="flat")
    assert names(fault(client, "WhoAmI", "x").find("detail"))[0] == "ErrorCode"


@pytest.mark.parametrize(
    ("number", "words"), [(-1, "Unknown"), (10, "SQL Error"), (11, "Internal Error"), (99, "Error")]
)
def test_any_numbered_fault_can_be_ordered(
    client: Client, running: Running, old: str, number: int, words: str
) -> None:
    """It carries nothing out, unless it is to."""
    running.simulator.add_fault(Fault("numbered", "issue", number=number))
    refused = fault(client, "GenerateAPIKey", UserID=USER)
    assert (text(refused, "ErrorCode"), text(refused, "ErrorString")) == (str(number), words)
    assert running.simulator.issued() == 0
    running.simulator.add_fault(Fault("numbered", "issue", number=number, carried_out=True))
    fault(client, "GenerateAPIKey", UserID=USER)
    assert running.simulator.issued() == 1


def test_an_unknown_action_is_the_frameworks_fault(client: Client, running: Running) -> None:
    """Of the portal's namespace, of no operation, or none at all: an empty detail, and nothing is carried out."""
    body = envelope(f'<Version xmlns="{NAMESPACE}"/>')
    for action in (f'"{PORTAL}Version"', f"{NAMESPACE}Nonsense", NAMESPACE, ""):
        status, answer = post(client, body, action)
        said = text(answer, "faultstring")
        assert said.startswith("Server did not recognize the value of HTTP Header SOAPAction: ")
        assert (status, text(answer, "faultcode")) == (500, "soap:Client")
        assert len(answer.find("detail")) == 0
    assert running.simulator.counts() == {"unknown": 4}


def test_elements_of_another_namespace_count_as_absent(
    client: Client, running: Running, old: str
) -> None:
    """The call is carried out all the same: without its credential, or on the object that nothing names."""
    action = f"{NAMESPACE}GenerateAPIKey"
    mine = f"<SessionID>{client.key}</SessionID>"
    for inner in (
        f'<GenerateAPIKey xmlns="{PORTAL}">{mine}<UserID>{USER}</UserID></GenerateAPIKey>',
        f'<GenerateAPIKey xmlns="{NAMESPACE}"/>',
        "",
    ):
        status, answer = post(client, envelope(inner), action)
        assert (status, text(answer, "ErrorString")) == (500, "Invalid SessionID")
    body = (
        f'<KeyList xmlns="{NAMESPACE}">{mine}<ObjectID xmlns="{PORTAL}">{USER}</ObjectID></KeyList>'
    )
    status, answer = post(client, envelope(body), f"{NAMESPACE}KeyList")
    assert (status, len(answer[0])) == (200, 0)
    counts = running.simulator.counts()
    assert counts == {"GenerateAPIKey": 3, "KeyList": 1}
    assert [entry.credential for entry in running.simulator.requests()] == [
        *["none"] * 3,
        "session-id",
    ]


@pytest.mark.parametrize("status", [400, 500])
def test_what_cannot_be_read_is_not_carried_out(
    client: Client, running: Running, old: str, status: int
) -> None:
    """No XML, no envelope, a DTD, no number, an enumeration's unknown name: the framework's fault, with 400 or 500."""
    running.simulator.switch(unread_status=status)
    mine = f"<SessionID>{client.key}</SessionID>"
    bodies = [
        b"",
        b"<a",
        b"<a/>",
        b'<!DOCTYPE a [<!ENTITY x "y">]>' + envelope(""),
        envelope(
            f'<GenerateAPIKey xmlns="{NAMESPACE}">{mine}<UserID>one</UserID></GenerateAPIKey>'
        ),
    ]
    for body in bodies:
        answer = post(client, body, f"{NAMESPACE}GenerateAPIKey")
        assert (answer[0], len(answer[1].find("detail"))) == (status, 0)
        assert "unable to read request" in text(answer[1], "faultstring")
    kind = f"<SystemObject>Planet</SystemObject>{mine}"
    answer = post(
        client,
        envelope(f'<KeyList xmlns="{NAMESPACE}">{kind}</KeyList>'),
        f"{NAMESPACE}KeyList",
    )
    assert answer[0] == status
    assert (running.simulator.issued(), running.simulator.counts()) == (0, {"unknown": 6})


def test_a_get_on_an_operation_is_refused(client: Client, running: Running) -> None:
    """Whether the call stands in the path or in the query; with a key in it, it is a violation besides."""
    assert client.send("GET", f"{SOAP_PATH}/Version")[0] == 500
    assert client.send("GET", f"{SOAP_PATH}?op=Version")[0] == 500
    assert client.send("GET", SOAP_PATH)[0] == 500
    assert running.simulator.violations() == []
    assert client.send("GET", f"{SOAP_PATH}/WhoAmI?SessionID={client.key}")[0] == 500
    assert len(running.simulator.violations()) == 1


def test_wrong_passwords_lock_a_user_out(client: Client, running: Running) -> None:
    """After five of them the right one is refused as well; the API key still works, and UserInfo tells."""
    admin = running.simulator.users()[0]
    for _ in range(5):
        refused = fault(client, "Login", "", LoginName=admin.login, Password="wrong")
        assert text(refused, "ErrorString") == "Access Denied"
    fault(client, "Login", "", LoginName=admin.login, Password=admin.password)
    assert text(call(client, "UserInfo", UserID=1), "LockedOut") == "true"


# Users


def _people(simulator: Simulator) -> None:
    for number in range(5002, 5040):
        simulator.add_user(number, login=f"user{number}", mailbox_id=number % 2 + 1)
    simulator.add_user(6001, login="far", network_id=2, status="Suspended", locked_out=True)


def test_users_are_listed_whole_over_soap(client: Client, running: Running, old: str) -> None:
    """UserList those of the caller's network, in one answer, by a part of login or name; UserListEx those elsewhere."""
    _people(running.simulator)
    assert len(call(client, "UserList", Name="")) == 40
    (edith,) = call(client, "UserList", Name="edit")
    assert (text(edith, "UserID"), text(edith, "FirstName")) == (str(USER), "Edith")
    assert (text(edith, "Status"), text(edith, "LockedOut")) == ("Active", "false")
    assert len(call(client, "UserListEx", NetworkID=0, MailboxID=2, Name="")) == 19
    assert text(fault(client, "UserListEx", NetworkID=2, MailboxID=0, Name=""), "ErrorCode") == "2"
    assert text(fault(client, "UserList", old, Name=""), "ErrorCode") == "2"


@pytest.mark.parametrize("form", ["portal", "service"])
def test_users_are_listed_in_pages_over_rest(form: str) -> None:
    """25 at a time unless asked otherwise, filtered, as a bare list or inside an object, in both forms."""
    simulator = Simulator(Switches.from_json({"form": form}))
    simulator.add_user(1, login="root", auth_level=AuthLevel.NetOps)
    _people(simulator)
    key = simulator.add_key(1).value
    with start(simulator) as running:
        client = Client(running, key)

        def listed(**body: object) -> Any:
            status, answer = client.rest("POST", "/v2/users/list", body)
            assert status == 200
            return answer["data"]

        assert [len(listed()), len(listed(pageNo=2)), len(listed(pageNo=3))] == [25, 14, 0]
        assert len(listed(recordsPerPage=100)) == 39
        assert [one["userId"] for one in listed(authLevel="NetOps")] == [1]
        (far,) = listed(networkId=2)
        assert (far["status"], far["lockedOut"]) == ("Suspended", True)
        assert far["loginName" if form == "service" else "login"] == "far"
        assert listed(networkId=2, status="Active") == []
        simulator.switch(user_list="object")
        assert len(listed(mailboxId=2, recordsPerPage=7)["users"]) == 7


def test_a_mailbox_admin_acts_for_its_users_only_by_switch(
    client: Client, running: Running, old: str
) -> None:
    """The portal wants a NetworkAdmin; other pages of the vendor's say otherwise."""
    running.simulator.add_user(7, auth_level=AuthLevel.MailboxAdmin)
    key = running.simulator.add_key(7).value
    fault(client, "UserGetAPIKey", key, UserID=USER)
    running.simulator.switch(mailbox_admins=True)
    assert call(client, "UserGetAPIKey", key, UserID=USER).text == old
    running.simulator.add_user(USER, mailbox_id=2)
    fault(client, "UserGetAPIKey", key, UserID=USER)


# REST


def test_get_me_carries_a_live_credential(client: Client) -> None:
    """sessionId is the key that was presented; the login is called loginName."""
    data = client.rest("GET", "/v2/users/me")[1]["data"]
    assert (data["sessionId"], data["loginName"]) == (client.key, "admin@example.com")
    assert {"ecgridOsVersion", "timeOut", "userId", "networkId", "authLevel"} <= set(data)
    assert "login" not in data


def test_the_portals_bodies_are_told_what_is_missing(client: Client, old: str) -> None:
    """Create Key, Get Key and List Keys with a userId: 400, a problem that names systemObject and objectId."""
    for path in ("create", "get-key", "list"):
        body = {"userId": USER, "visibility": "Private"}
        status, headers, content = client.send(
            "POST",
            f"/v2/keys/{path}",
            json.dumps(body).encode(),
            X_API_Key=client.key,
            Content_Type="application/json",
        )
        problem = json.loads(content)
        assert (status, headers["content-type"].partition(";")[0]) == (
            400,
            "application/problem+json",
        )
        assert list(problem) == ["type", "title", "status", "detail", "traceId"]
        assert "systemObject" in problem["detail"]
        assert "objectId" in problem["detail"]


def test_named_values_over_rest(client: Client, running: Running, old: str) -> None:
    """Create, read and delete, without an API key being made; what is missing is 404."""
    named = {"key": "color", "systemObject": "User", "objectId": USER, "visibility": "Private"}
    status, answer = client.rest(
        "POST", "/v2/keys/create", {**named, "value": "blue", "daysToLive": -1}
    )
    assert (status, answer["data"]["expires"]) == (200, "9999-12-31T00:00:00Z")
    assert client.rest("POST", "/v2/keys/get-key", named)[1]["data"]["value"] == "blue"
    assert client.rest("DELETE", "/v2/keys", named)[1]["data"] is True
    assert client.rest("POST", "/v2/keys/get-key", named)[0] == 404
    assert running.simulator.issued() == 0


@pytest.mark.parametrize(
    ("switch", "takes"),
    [("both", {"key", "password"}), ("api-key", {"key"}), ("password", {"password"})],
)
def test_login_by_key_or_password(
    client: Client, running: Running, switch: str, takes: set[str]
) -> None:
    """A key gives data.sessionKey, a password data.token; either opens a session."""
    running.simulator.switch(rest_login=switch)
    admin = running.simulator.users()[0]
    bodies: dict[str, dict[str, str]] = {
        "key": {"apiKey": client.key},
        "password": {"login": admin.login, "password": admin.password},
    }
    for kind, field in (("key", "sessionKey"), ("password", "token")):
        status, answer = client.rest("POST", "/v2/auth/login", bodies[kind])
        assert (status == 200) == (kind in takes)
        if status == 200:
            token = answer["data"][field]
            assert client.rest("GET", "/v2/users/me", Authorization=f"Bearer {token}")[0] == 200


def test_paths_of_the_own_key_can_be_the_migration_pages(client: Client, old: str) -> None:
    """Then the older ones are not there."""
    new = f"/v2/users/{USER}/api-key"
    assert client.rest("GET", new)[0] == 404
    _switch(client, key_paths="users/id")
    assert client.rest("GET", new)[1]["data"] == old
    assert client.rest("GET", f"/v2/users/key/{USER}")[0] == 404
    made = client.rest("POST", f"/v2/users/{USER}/generate-api-key")[1]["data"]
    assert client.rest("GET", new)[1]["data"] == made


def _switch(client: Client, **changes: Any) -> None:
    Control(f"http://{client.address}").switch(**changes)


def test_errors_can_be_the_portals_envelope(client: Client, running: Running, old: str) -> None:
    """By switch; and "no right" can look like "not there"."""
    running.simulator.switch(rest_errors="envelope")
    path = f"/v2/users/key/{USER}"
    stranger = running.simulator.add_user(9).user_id
    key = running.simulator.add_key(stranger).value
    status, answer = client.rest("GET", path, X_API_Key=key)
    assert (status, answer["errorCode"]) == (403, "AccessDenied")
    running.simulator.switch(denied_as_404=True)
    status, answer = client.rest("GET", path, X_API_Key=key)
    assert (status, answer["errorCode"]) == (404, "ObjectNotFound")


# What it says of itself


def _operations(wsdl: bytes) -> dict[str, Any]:
    """Each SOAP operation's parameters and result, with their types down to plain ones."""

    assert b"<!DOCTYPE" not in wsdl
    hardened = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    root = etree.fromstring(wsdl, hardened)
    schema = next(one for one in root.iter(f"{XSD}schema") if one.get("elementFormDefault"))
    elements = {one.get("name"): one for one in schema.iterchildren(f"{XSD}element")}
    types = {one.get("name"): one for one in schema.iterchildren(f"{XSD}complexType")}

    def fields(named: Any) -> list[tuple[Any, ...]]:
        inner = (one for one in named.iter(f"{XSD}element") if one is not named)
        return [
            (*(one.get(part) for part in ("name", "minOccurs", "maxOccurs")), kind(one))
            for one in inner
        ]

    def kind(element: Any) -> Any:
        local = element.get("type").partition(":")[2]
        return (local, fields(types[local])) if local in types else local

    (port,) = (
        one for one in root.findall(f"{WSDL}portType") if one.get("name", "").endswith("v4Soap")
    )
    offered = [str(one.get("name")) for one in port]
    return {name: (fields(elements[name]), fields(elements[f"{name}Response"])) for name in offered}


def _in_words(fields: list[Any]) -> str:
    """Parameters, or fields of a type: names, types, and how often each may be there."""

    def one(name: str, least: str, most: str, kind: Any) -> str:
        times = "" if (least, most) == ("1", "1") else f" {least}..{most}".replace("unbounded", "*")
        if isinstance(kind, tuple):
            return f"{name}: {kind[0]}{times} ({_in_words(kind[1])})"
        return f"{name}: {kind}{times}"

    return ", ".join(one(*field) for field in fields) or "nothing"


def test_our_wsdl_agrees_with_the_services_own(client: Client) -> None:
    """Each operation has the same parameters and result, name by name, in order, down to the fields of its types."""
    ours = _operations(client.send("GET", f"{SOAP_PATH}?WSDL")[2])
    assert len(ours) == 14
    lines = [
        line
        for name, (takes, answers) in sorted(ours.items())
        for line in (name, f"  takes {_in_words(takes)}", f"  answers {_in_words(answers)}")
    ]
    theirs = (ROOT / "tests" / "operations.txt").read_text().splitlines()
    assert lines == [line for line in theirs if not line.startswith("#")]


def test_what_is_answered_is_what_the_wsdl_says(client: Client, running: Running, old: str) -> None:
    """Every operation answers with its result's fields in the WSDL's order, the required ones included."""
    admin = running.simulator.users()[0]
    values = {
        "LoginName": admin.login,
        "Password": admin.password,
        "Name": "",
        "UserID": USER,
        "NetworkID": 0,
        "MailboxID": 0,
        "Key": "k",
        **ON_USER,
        "Visibility": "Private",
        "Value": "v",
        "Meta": "",
        "DaysToLive": 0,
    }
    operations = _operations(client.send("GET", f"{SOAP_PATH}?WSDL")[2])
    order = sorted(operations, key=lambda name: (name in ("KeyRemove", "Logout"), name != "KeySet"))
    for name in order:
        parameters, ((_, _, _, result),) = operations[name]
        given = {one[0]: values[one[0]] for one in parameters if one[0] != "SessionID"}
        session = None
        if name == "Logout":
            session = call(client, "Login", "", LoginName=admin.login, Password=admin.password).text
        answer = call(client, name, session, **given)
        if isinstance(result, tuple):
            found, expected = names(answer), [one[0] for one in result[1]]
            if result[0].startswith("ArrayOf"):
                assert set(found) == set(expected)
                answer, expected = answer[0], [one[0] for one in result[1][0][3][1]]
                found = names(answer)
            assert found == [one for one in expected if one in found]


def test_no_address_of_the_wsdl_can_be_called(client: Client) -> None:
    """They are http on hosts that do not exist, and so is the schema that it imports."""
    _, headers, content = client.send("GET", f"{SOAP_PATH}?wsdl")
    assert headers["content-type"].startswith("text/xml")
    root = etree.fromstring(content)
    places = [
        one.attrib[name]
        for one in root.iter(etree.Element)
        for name in ("location", "schemaLocation")
        if "://" in one.get(name, "")
    ]
    hosts = {urlsplit(place).hostname for place in places}
    assert len(places) == 3
    assert all(str(host).endswith(".invalid") for host in hosts)
    assert {urlsplit(place).scheme for place in places} == {"http"}


@pytest.mark.parametrize("switches", [{}, {"key_paths": "users/id", "rest_login": "api-key"}])
def test_swagger_names_what_is_offered_and_nothing_else(
    client: Client, old: str, switches: dict[str, str]
) -> None:
    """Every path and method in it is there, and the bodies are those of named values."""
    _switch(client, **switches)
    document = json.loads(client.send("GET", SWAGGER)[2])
    assert document["openapi"].startswith("3.")
    for path, methods in document["paths"].items():
        for method in methods:
            status, answer = client.rest(method.upper(), path.replace("{id}", str(USER)), {})
            assert answer.get("detail") != "There is no such endpoint.", (path, status)
    schemas = document["components"]["schemas"]
    created = document["paths"]["/v2/keys/create"]["post"]["requestBody"]["content"]
    assert created["application/json"]["schema"]["$ref"].endswith("/CreateKeyRequest")
    assert list(schemas["CreateKeyRequest"]["properties"]) == [
        "key",
        "systemObject",
        "objectId",
        "visibility",
        "value",
        "meta",
        "daysToLive",
    ]
    own = "/v2/users/{id}/api-key" if switches else "/v2/users/key/{id}"
    assert own in document["paths"]
    assert ("password" in schemas["AuthLoginRequest"]["properties"]) == (not switches)


def test_the_portal_has_no_swagger_unless_it_is_switched_on() -> None:
    """Then its keys are those of users."""
    with start(Simulator()) as running:
        url = running.rest_url + SWAGGER
        assert requests.get(url, timeout=30).status_code == 404
        running.simulator.switch(swagger="served")
        schemas = requests.get(url, timeout=30).json()["components"]["schemas"]
        assert list(schemas["CreateKeyRequest"]["properties"]) == ["userId", "visibility"]


@pytest.mark.parametrize("path", [f"{SOAP_PATH}?WSDL", SWAGGER])
def test_descriptions_that_go_wrong(client: Client, running: Running, path: str) -> None:
    """Each way is what it says, and each reading is noted under a name of its own."""
    switch, name = ("wsdl", "Description") if "WSDL" in path else ("swagger", "OpenAPI")
    whole = client.send("GET", path)[2]
    seen: dict[str, tuple[int, dict[str, str], bytes]] = {}
    for manner in ("missing", "html", "huge", "malformed", "other", "redirect"):
        running.simulator.switch(**{switch: manner})
        seen[manner] = client.send("GET", path)
    assert {manner: status for manner, (status, _, _) in seen.items()} == {
        "missing": 404,
        "html": 200,
        "huge": 200,
        "malformed": 200,
        "other": 200,
        "redirect": 302,
    }
    assert seen["html"][1]["content-type"] == "text/html"
    huge = seen["huge"][2]
    assert (len(huge), huge.rstrip()[:99]) == (20 << 20, whole[:99])
    assert whole.startswith(seen["malformed"][2])
    assert b"GenerateAPIKey" not in seen["other"][2]
    assert running.simulator.counts() == {name: 7}
    assert seen["redirect"][1]["location"] == f"{running.url}/elsewhere"
    assert client.send("GET", "/elsewhere")[0] == 200
    assert running.simulator.counts() == {name: 7, "Elsewhere": 1}
    assert running.simulator.violations() == []


def test_a_description_can_have_a_dtd(client: Client, running: Running) -> None:
    """With an entity here and one elsewhere: whoever resolves it is seen there."""
    running.simulator.switch(wsdl="dtd")
    content = client.send("GET", f"{SOAP_PATH}?WSDL")[2]
    assert b"<!DOCTYPE" in content
    assert f'SYSTEM "{running.url}/elsewhere"'.encode() in content
    assert b"&here;&there;" in content


def test_a_description_can_come_without_an_end(running: Running) -> None:
    """Byte by byte, until the reader leaves or the simulator is closed."""
    running.simulator.switch(wsdl="drip")
    address = urlsplit(running.url)
    with socket.create_connection((address.hostname, address.port or 0), 30) as connection:
        connection.sendall(f"GET {SOAP_PATH}?WSDL HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        reader = connection.makefile("rb")
        head = [reader.readline() for _ in range(4)]
        assert b"200" in head[0]
        assert not any(line.lower().startswith(b"content-length") for line in head)
        assert len(reader.read(8)) == 8
        running.close()
        reader.read()


def test_a_credential_on_a_description_is_noted_and_a_violation(
    client: Client, running: Running
) -> None:
    """The log of requests says what kind of credential there was, and nowhere which."""
    client.send("GET", f"{SOAP_PATH}?WSDL")
    client.send("GET", SWAGGER, X_API_Key=client.key)
    entries = [
        (one["call"], one["credential"], one["caller"]) for one in running.control.requests()
    ]
    assert entries == [("Description", "none", None), ("OpenAPI", "api-key", 1)]
    assert len(running.simulator.violations()) == 1
    assert client.key not in json.dumps(running.control.requests())


def test_reading_a_description_is_no_call_to_ecgrid(client: Client, running: Running) -> None:
    """It does not count for the rate limit, and meets only a fault that names it."""
    running.simulator.switch(rate_limit=1)
    running.simulator.add_fault(Fault("closed"))
    for _ in range(3):
        assert client.send("GET", f"{SOAP_PATH}?WSDL")[0] == 200
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        client.rest("GET", "/v2/users/me")
    running.simulator.add_fault(Fault("status", "Description", status=503, retry_after=7))
    status, headers, _ = client.send("GET", f"{SOAP_PATH}?WSDL")
    assert (status, headers["retry-after"]) == (503, "7")


# Which form


def test_the_form_brings_what_is_natural_for_it(running: Running) -> None:
    """By name, as JSON and over the control API alike; what is given besides stays."""
    natural = Switches.service()
    assert natural == Switches.from_json({"form": "service"})
    assert (natural.soap_namespace, natural.key_shape) == (NAMESPACE, "guid")
    assert Switches.service(soap_namespace="http://ecgridos.net/").key_shape == "guid"
    control = running.control
    assert control.switches() == natural
    assert control.switch(form="portal", rate_limit=9) == Switches(rate_limit=9)
    assert control.switch(form="service", rate_limit=None) == natural


def test_secrets_and_what_is_shown_of_them(client: Client, running: Running, old: str) -> None:
    """Session ids are among the secrets; neither the log of requests nor the users and keys show one."""
    running.simulator.switch(session_shown="session")
    session = text(call(client, "WhoAmI"), "SessionID")
    key = client.rest("POST", "/v2/auth/login", {"apiKey": old})[1]["data"]["sessionKey"]
    control = running.control
    assert {session, key, old, client.key} <= control.secrets()
    shown = json.dumps([control.requests(), control.users(), control.keys(USER)])
    assert not any(secret in shown for secret in control.secrets())
