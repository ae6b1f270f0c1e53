"""The simulated ECGrid: rights, sessions, rate limit, both answers to every open question, every kind of fault."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from conftest import until
from lxml import etree

from rotator.errors import Failure, NotSent
from rotator.keys import Agreement, Secret
from rotator.sandbox.ecgrid import (
    AuthLevel,
    Control,
    Fault,
    KeyRecord,
    Running,
    Simulator,
    Switches,
    start,
)

NAMESPACE = "http://www.ecgridos.net/"
USER = 5001


class Client:
    """A bare client of both surfaces: nothing is retried, followed or interpreted."""

    def __init__(self, running: Running, key: str, timeout: float = 30) -> None:
        self.key = key
        self.timeout = timeout
        self.address = urlsplit(running.url).netloc

    def send(
        self, method: str, path: str, body: bytes | None = None, /, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        connection = http.client.HTTPConnection(self.address, timeout=self.timeout)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return (
                response.status,
                {k.lower(): v for k, v in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()

    def rest(self, method: str, path: str, data: object = None, **headers: str) -> tuple[int, Any]:
        """Status and envelope, with the client's key unless another credential is given."""
        if not headers:
            headers = {"X_API_Key": self.key}
        body = None if data is None else json.dumps(data).encode()
        if body is not None:
            headers["Content_Type"] = "application/json"
        status, _, content = self.send(method, path, body, **headers)
        return status, json.loads(content)

    def soap(
        self, operation: str, session: str | None = None, namespace: str = NAMESPACE, **args: object
    ) -> tuple[int, Any]:
        """Status and the first element inside the SOAP body."""
        root = etree.Element(f"{{{namespace}}}{operation}", nsmap={"v": namespace})
        given = {"SessionID": self.key if session is None else session, **args}
        for name, value in given.items():
            etree.SubElement(root, f"{{{namespace}}}{name}").text = str(value)
        inner = etree.tostring(root).decode()
        body = (
            '<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>'
            f"{inner}</e:Body></e:Envelope>"
        ).encode()
        action = f'"{namespace}{operation}"'
        status, _, content = self.send(
            "POST", "/v4.1/prod/ECGridOS.asmx", body, Content_Type="text/xml", SOAPAction=action
        )
        return status, etree.fromstring(content)[0][0]

    def create(self, user_id: int = USER, visibility: str = "Private") -> dict[str, Any]:
        """Create Key, which has to work."""
        status, answer = self.rest(
            "POST", "/v2/keys/create", {"userId": user_id, "visibility": visibility}
        )
        assert (status, answer["success"]) == (200, True)
        return dict(answer["data"])

    def get(self, user_id: int = USER) -> tuple[int, Any]:
        """Get Key."""
        return self.rest("POST", "/v2/keys/get-key", {"userId": user_id})

    def list(self, user_id: int = USER) -> list[dict[str, Any]]:
        """The key list."""
        return list(self.rest("POST", "/v2/keys/list", {"userId": user_id})[1]["data"])

    def me(self, key: str) -> int:
        """The status of Get Me with that key."""
        return self.rest("GET", "/v2/users/me", X_API_Key=key)[0]


@pytest.fixture
def simulator() -> Simulator:
    """An administrator (1) and a user (5001), at a time that stands still until it is advanced."""
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    simulator = Simulator(clock=lambda: moment)
    simulator.add_user(1, login="admin", auth_level=AuthLevel.NetworkAdmin)
    simulator.add_user(USER, login="edi")
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
def old(simulator: Simulator) -> KeyRecord:
    """The user's key from before."""
    record = simulator.add_key(USER)
    simulator.advance(60)
    return record


def text(element: Any, name: str) -> str:
    """The text of the first descendant of that local name."""
    return str(element.xpath(f".//*[local-name()='{name}']")[0].text)


# Rights


@pytest.mark.parametrize("level", list(AuthLevel))
def test_another_users_key_takes_network_admin_or_higher(
    running: Running, client: Client, old: KeyRecord, level: AuthLevel
) -> None:
    """Issuing, reading, listing and removing for somebody else are refused below NetworkAdmin, on both surfaces."""
    sim = running.simulator
    sim.add_user(7, auth_level=level)
    caller = Client(running, sim.add_key(7).value)
    entitled = level <= AuthLevel.NetworkAdmin
    for call in ("create", "get-key", "list"):
        body = {"userId": USER, "visibility": "Private"}
        status, answer = caller.rest("POST", f"/v2/keys/{call}", body)
        assert (status, answer.get("errorCode")) == (
            (200, None) if entitled else (403, "AccessDenied")
        )
    status, answer = caller.soap("KeyGet", UserID=USER)
    assert status == (200 if entitled else 500)
    if not entitled:
        assert text(answer, "ECGridOSSOAPErrorCode") == "Authorization"
    status, _ = caller.rest("DELETE", "/v2/keys", {"keyId": old.key_id})
    assert status == (200 if entitled else 403)


def test_a_user_manages_its_own_keys_but_reads_its_api_key_only_by_get_me(
    running: Running, old: KeyRecord
) -> None:
    """General may create, read and remove its own; Get API Key is for NetworkAdmin, Get Me can show the key."""
    owner = Client(running, old.value)
    assert owner.create()["userId"] == USER
    assert owner.get()[0] == 200
    assert owner.rest("GET", f"/v2/users/key/{USER}")[0] == 403
    assert "apiKey" not in owner.rest("GET", "/v2/users/me")[1]["data"]
    running.simulator.switch(me_shows_key=True)
    shown = owner.rest("GET", "/v2/users/me")[1]["data"]["apiKey"]
    assert running.simulator.who(shown) == USER


def test_errors_have_the_documented_codes(client: Client, running: Running) -> None:
    """401, 403, 404 and 400 carry their errorCode, and the SOAP faults their ECGridOSSOAPErrorCode."""
    assert (
        client.rest("GET", "/v2/users/me", X_API_Key=token_hex(8))[1]["errorCode"]
        == "InvalidAPIKey"
    )
    bearer = f"Bearer {token_hex(8)}"
    assert (
        client.rest("GET", "/v2/users/me", Authorization=bearer)[1]["errorCode"] == "InvalidSession"
    )
    assert client.get(99)[1]["errorCode"] == "ObjectNotFound"
    bad = {"userId": USER, "visibility": "Secret"}
    assert client.rest("POST", "/v2/keys/create", bad)[1]["errorCode"] == "InvalidParameter"
    assert client.rest("POST", "/v2/keys/get-key", {"userId": True})[0] == 400
    assert client.rest("GET", "/v2/nothing")[0] == 404
    for code, args in (
        ("Authentication", {"session": token_hex(8), "UserID": USER}),
        ("ObjectNotFound", {"UserID": 99}),
        ("InvalidParameter", {"UserID": "one"}),
    ):
        status, fault = client.soap("KeyGet", **args)
        assert (status, text(fault, "ECGridOSSOAPErrorCode")) == (500, code)
        assert text(fault, "faultcode") == "soap:Client"


def test_errors_can_come_with_200(client: Client, running: Running) -> None:
    """Both surfaces can say no with a status that says yes."""
    running.simulator.switch(errors_with_200=True, faults_with_200=True)
    status, answer = client.get(99)
    assert (status, answer["success"], answer["errorCode"]) == (200, False, "ObjectNotFound")
    status, fault = client.soap("KeyGet", UserID=99)
    assert (status, etree.QName(fault).localname) == (200, "Fault")


def test_a_suspended_user_is_refused(running: Running, old: KeyRecord, client: Client) -> None:
    """The key of a user who is not active is not accepted."""
    running.simulator.add_user(USER, login="edi", status="Suspended")
    assert client.me(old.value) == 401


# Sessions


@pytest.mark.parametrize("field", ["login", "email"])
def test_rest_session_from_login_to_logout(client: Client, running: Running, field: str) -> None:
    """Either field logs in; the token works, is refreshed (the old one ends), and ends at logout."""
    user = running.simulator.users()[0]
    body = {field: getattr(user, field), "password": user.password}
    data = client.rest("POST", "/v2/auth/login", body, Accept="*/*")[1]["data"]
    assert set(data) == {"token", "expiresAt", "userId"}
    first = f"Bearer {data['token']}"
    about = client.rest("POST", "/v2/auth/session", Authorization=first)[1]["data"]
    assert about["userId"] == 1
    assert about["expiresAt"] == data["expiresAt"]
    renewed = client.rest("POST", "/v2/auth/refresh", Authorization=first)[1]["data"]["token"]
    assert client.rest("GET", "/v2/users/me", Authorization=first)[0] == 401
    second = f"Bearer {renewed}"
    assert client.rest("POST", "/v2/auth/logout", Authorization=second)[0] == 200
    assert client.rest("GET", "/v2/users/me", Authorization=second)[0] == 401
    assert running.simulator.sessions() == 0


def test_login_field_can_be_only_one(client: Client, running: Running) -> None:
    """Switched to one of the two, the other is not understood; a refresh token comes along where switched on."""
    user = running.simulator.users()[0]
    running.simulator.switch(login_field="email", refresh_token=True)
    by_login = {"login": user.login, "password": user.password}
    assert client.rest("POST", "/v2/auth/login", by_login, Accept="*/*")[0] == 401
    by_email = {"email": user.email, "password": user.password}
    data = client.rest("POST", "/v2/auth/login", by_email, Accept="*/*")[1]["data"]
    again = {"refreshToken": data["refreshToken"]}
    assert client.rest("POST", "/v2/auth/refresh", again, Accept="*/*")[1]["data"]["userId"] == 1


def soap_login(client: Client, running: Running) -> str:
    """A SOAP session of the administrator."""
    user = running.simulator.users()[0]
    args = {"UserName": user.login, "Password": user.password}
    return text(client.soap("Login", "", **args)[1], "LoginResult")


def test_soap_session_and_key_as_session(client: Client, running: Running) -> None:
    """A session from Login works until Logout; an API key in its place is accepted or not."""
    session = soap_login(client, running)
    assert text(client.soap("WhoAmI", session)[1], "UserID") == "1"
    assert client.soap("WhoAmI")[0] == 200
    running.simulator.switch(soap_accepts_api_key=False)
    assert text(client.soap("WhoAmI")[1], "ECGridOSSOAPErrorCode") == "Authentication"
    assert text(client.soap("Logout", session)[1], "LogoutResult") == "true"
    assert client.soap("WhoAmI", session)[0] == 500


def test_sessions_expire_and_are_few(client: Client, running: Running) -> None:
    """One too many ends the oldest, or is refused; time ends them all."""
    sim = running.simulator
    sim.switch(sessions_per_user=2, session_seconds=100)
    first, second, third = (soap_login(client, running) for _ in range(3))
    assert [client.soap("WhoAmI", s)[0] for s in (first, second, third)] == [500, 200, 200]
    sim.switch(session_overflow="refused")
    user = sim.users()[0]
    status, _ = client.soap("Login", "", UserName=user.login, Password=user.password)
    assert status == 500
    sim.advance(100)
    assert client.soap("WhoAmI", third)[0] == 500
    assert sim.sessions() == 0


def test_a_session_key_dies_with_its_session(client: Client, running: Running) -> None:
    """A key of visibility Session works until Logout, and is not to be had without a session."""
    session = soap_login(client, running)
    made = client.soap("KeySet", session, UserID=1, Visibility="Session")[1]
    key = text(made, "Key")
    assert client.me(key) == 200
    client.soap("Logout", session)
    assert client.me(key) == 401
    body = {"userId": 1, "visibility": "Session"}
    assert client.rest("POST", "/v2/keys/create", body)[0] == 400


# Rate limit


def test_rate_limit_on_both_surfaces(client: Client, running: Running) -> None:
    """Past the limit comes 429 with Retry-After until the period is over; the refused request is not carried out."""
    sim = running.simulator
    sim.switch(rate_limit=2, rate_period=60)
    client.create()
    client.create()
    sim.advance(15.5)
    body = json.dumps({"userId": USER, "visibility": "Private"}).encode()
    status, headers, content = client.send(
        "POST", "/v2/keys/create", body, X_API_Key=client.key, Content_Type="application/json"
    )
    assert (status, headers["retry-after"]) == (429, "45")
    assert json.loads(content)["errorCode"] == "RateLimitExceeded"
    assert client.soap("KeySet", UserID=USER, Visibility="Private")[0] == 429
    assert sim.issued() == 2
    sim.advance(44.5)
    assert client.get()[0] == 200


# Open questions


@pytest.mark.parametrize("over_soap", [False, True])
@pytest.mark.parametrize("mode", ["add", "replace", "update", "same", "store"])
def test_what_issuing_does(
    client: Client, running: Running, old: KeyRecord, mode: str, over_soap: bool
) -> None:
    """Each answer to "creates or updates": which key is live afterwards, and under which id."""
    sim = running.simulator
    other = sim.add_key(USER, "Shared")
    sim.switch(**{"keyset" if over_soap else "create_key": mode})
    if over_soap:
        made = client.soap("KeySet", UserID=USER, Visibility="Private")[1]
        key_id, value = int(text(made, "KeyID")), text(made, "Key")
    else:
        answer = client.create()
        key_id, value = answer["keyId"], answer["key"]
    assert (sim.who(value) == USER) is (mode != "store")
    assert (sim.who(old.value) == USER) is (mode in ("add", "same", "store"))
    assert (key_id == old.key_id) is (mode in ("update", "same"))
    assert (value == old.value) is (mode == "same")
    assert sim.who(other.value) == USER
    assert sim.issued(USER) == (0 if mode == "same" else 1)
    newest = max(record.created for record in sim.keys(USER) if record.visibility == "Private")
    assert (newest > old.created) is (mode != "same")


def test_replaced_records_can_stay_listed_and_created_can_stay(
    client: Client, running: Running, old: KeyRecord
) -> None:
    """A dead record in the list, and an updated one that keeps its time."""
    sim = running.simulator
    sim.switch(create_key="replace", replaced_stay_listed=True)
    client.create()
    assert len(client.list()) == 2
    assert sim.who(old.value) is None
    sim.advance(5)
    sim.switch(create_key="update", created_on_update="unchanged")
    before = client.list()[-1]
    after = client.create()
    assert (after["keyId"], after["created"]) == (before["keyId"], before["created"])
    assert after["key"] != before["key"]


def test_which_record_get_key_returns(client: Client, running: Running, old: KeyRecord) -> None:
    """The newest, the oldest, or the newest Private one."""
    sim = running.simulator
    private = sim.add_key(USER)
    sim.advance(1)
    shared = sim.add_key(USER, "Shared")
    for choice, record in (("newest", shared), ("oldest", old), ("newest-private", private)):
        sim.switch(get_key=choice)
        assert client.get()[1]["data"]["keyId"] == record.key_id
        assert text(client.soap("KeyGet", UserID=USER)[1], "KeyID") == str(record.key_id)


@pytest.mark.parametrize("display", ["full", "masked", "shortened", "ellipsis"])
def test_read_back(client: Client, running: Running, old: KeyRecord, display: str) -> None:
    """Get Key, the list and Get API Key each show the value whole or less; less never contradicts it."""
    running.simulator.switch(read_back=display, list_shows=display, api_key_shows=display)
    wanted = Agreement.EQUAL if display == "full" else Agreement.CONSISTENT
    whole = Secret(old.value)
    by_id = client.rest("GET", f"/v2/users/key/{USER}")[1]["data"]
    for seen in (client.get()[1]["data"]["key"], client.list()[0]["key"], by_id):
        assert whole.against(Secret(seen)) is wanted
    running.simulator.switch(list_shows="none")
    assert client.list()[0]["key"] is None
    assert b"Key>" not in etree.tostring(client.soap("KeyList", UserID=USER)[1][0][0])


@pytest.mark.parametrize(
    ("rule", "status"),
    [("anyone", 200), ("owner-403", 403), ("owner-404", 404), ("owner-masked", 200)],
)
def test_who_reads_a_private_key(
    client: Client, running: Running, old: KeyRecord, rule: str, status: int
) -> None:
    """An administrator gets the key, a 403, a 404 or a mask; the owner, with the key itself, gets it whole."""
    running.simulator.switch(private_read=rule)
    got, answer = client.get()
    assert got == status
    if status == 200:
        assert (answer["data"]["key"] == old.value) is (rule == "anyone")
    assert [record["keyId"] for record in client.list()] == [old.key_id]
    assert (client.list()[0]["key"] == old.value) is (rule == "anyone")
    assert Client(running, old.value).get()[1]["data"]["key"] == old.value


@pytest.mark.parametrize("same", [True, False])
def test_generate_replaces_the_users_api_key_at_once(
    client: Client, running: Running, old: KeyRecord, same: bool
) -> None:
    """One value, of which the previous is dead; apart from the records where the two are not the same thing."""
    sim = running.simulator
    sim.switch(api_key_is_record=same)
    first = client.rest("POST", f"/v2/users/key-generate/{USER}")[1]["data"]
    second = text(client.soap("GenerateAPIKey", UserID=USER)[1], "GenerateAPIKeyResult")
    assert (sim.who(first), sim.who(second)) == (None, USER)
    assert text(client.soap("UserGetAPIKey", UserID=USER)[1], "UserGetAPIKeyResult") == second
    assert (sim.who(old.value) == USER) is not same
    assert sim.issued(USER) == 2


def test_a_new_key_can_take_time_to_work(client: Client, running: Running) -> None:
    """Within the activation delay the value is refused, after it accepted."""
    running.simulator.switch(activation_delay=45)
    key = client.create()["key"]
    assert client.me(key) == 401
    running.simulator.advance(45)
    assert client.me(key) == 200


def test_removal_can_be_pretended(client: Client, running: Running, old: KeyRecord) -> None:
    """Remove answers true and keeps the key, or removes it; then it is not there to be removed again."""
    body = {"keyId": old.key_id}
    running.simulator.switch(key_remove="pretends")
    assert client.rest("DELETE", "/v2/keys", body) == (200, {"success": True, "data": True})
    assert client.me(old.value) == 200
    running.simulator.switch(key_remove="removes")
    assert text(client.soap("KeyRemove", KeyID=old.key_id)[1], "KeyRemoveResult") == "true"
    assert client.me(old.value) == 401
    assert client.rest("DELETE", "/v2/keys", body)[0] == 404


def test_quota(client: Client, running: Running, old: KeyRecord) -> None:
    """A user with as many keys as are allowed gets no further one; replacing one still works."""
    running.simulator.switch(key_quota=1)
    body = {"userId": USER, "visibility": "Private"}
    assert client.rest("POST", "/v2/keys/create", body)[0] == 400
    running.simulator.switch(create_key="replace")
    assert client.rest("POST", "/v2/keys/create", body)[0] == 200


def test_created_with_and_without_zone(client: Client, running: Running, old: KeyRecord) -> None:
    """As documented REST has a zone and SOAP none; both can have it, neither can, and there can be a fraction."""
    for zone, rest_has, soap_has in (
        ("documented", True, False),
        ("always", True, True),
        ("never", False, False),
    ):
        running.simulator.switch(created_zone=zone, created_fraction=zone != "documented")
        rest = client.get()[1]["data"]["created"]
        soap = text(client.soap("KeyGet", UserID=USER)[1], "Created")
        assert (rest.endswith("Z"), soap.endswith("Z")) == (rest_has, soap_has)
        assert datetime.fromisoformat(rest).replace(tzinfo=UTC) == old.created


def test_soap_speaks_one_namespace_at_a_time(client: Client, running: Running) -> None:
    """A request in the other namespace is a fault without a code of ECGridOS's own meaning."""
    other = "https://os.ecgrid.io/"
    assert client.soap("Version", namespace=other)[0] == 500
    running.simulator.switch(soap_namespace=other)
    status, answer = client.soap("Version", namespace=other)
    assert (status, etree.QName(answer).namespace) == (200, other)
    assert client.soap("Version")[0] == 500


@pytest.mark.parametrize("shape", ["guid", "ek-live", "alnum32", "alnum33", "special"])
def test_every_shape_of_key_survives_both_surfaces(
    client: Client, running: Running, shape: str
) -> None:
    """What was issued is what is read, what authenticates, and what no mask is seen in."""
    running.simulator.switch(key_shape=shape)
    key = text(client.soap("KeySet", UserID=USER, Visibility="Private")[1], "Key")
    assert client.get()[1]["data"]["key"] == key
    assert client.me(key) == 200
    assert text(client.soap("WhoAmI", key)[1], "UserID") == str(USER)
    assert not Secret(key).masked
    assert shape != "special" or set("+/=&<>\"'\\%") <= set(key)


def test_a_switch_that_does_not_exist_is_refused(simulator: Simulator) -> None:
    """Misspelled names and values outside the choices say what there is."""
    with pytest.raises(ValueError, match=r"it has .*keyset"):
        simulator.switch(keysett="add")
    with pytest.raises(ValueError, match="'replace'"):
        simulator.switch(keyset="ad")
    with pytest.raises(ValueError, match=r"there are .*KeySet"):
        simulator.add_fault(Fault("lost", "KeySett"))
    with pytest.raises(ValueError, match="must be carried out"):
        Fault("half", carried_out=False)


# Faults


def issue_over(client: Client, surface: str) -> int:
    """Issues for the user over REST or SOAP, and returns the status."""
    if surface == "soap":
        return client.soap("KeySet", UserID=USER, Visibility="Private")[0]
    return client.rest("POST", "/v2/keys/create", {"userId": USER, "visibility": "Private"})[0]


@pytest.mark.parametrize("surface", ["rest", "soap"])
@pytest.mark.parametrize(("kind", "issued"), [("lost", 1), ("half", 1), ("closed", 0), ("hang", 0)])
def test_no_answer(client: Client, running: Running, surface: str, kind: Any, issued: int) -> None:
    """The connection ends without an answer, or in its middle; the key was made, or was not; the next call works."""
    running.simulator.add_fault(Fault(kind, "issue", seconds=0.05))
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        issue_over(client, surface)
    assert running.simulator.issued(USER) == issued
    assert issue_over(client, surface) == 200


def test_a_hanging_answer_can_come_after_the_deed(client: Client, running: Running) -> None:
    """A client that gives up finds the key made."""
    running.simulator.add_fault(Fault("hang", "CreateKey", seconds=60, carried_out=True))
    with pytest.raises(TimeoutError):
        issue_over(Client(running, client.key, timeout=2), "rest")
    until(lambda: running.simulator.issued(USER) == 1, "the key is made")


def test_refused_connections(client: Client, running: Running) -> None:
    """The request is not carried out, nobody can connect meanwhile, and the same port answers afterwards."""
    running.simulator.add_fault(Fault("refused", "CreateKey", seconds=600))
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        issue_over(client, "rest")
    with pytest.raises(ConnectionRefusedError):
        client.get()
    assert running.simulator.issued() == 0


def test_the_same_port_after_refusing(client: Client, running: Running, old: KeyRecord) -> None:
    """When the time is over, connections are accepted again."""
    running.refuse(0.0)
    for _ in range(1000):
        try:
            assert client.get()[0] == 200
        except ConnectionError:
            threading.Event().wait(0.02)
            continue
        return
    pytest.fail("nobody answers on the port again")


@pytest.mark.parametrize("surface", ["rest", "soap"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_documented_errors(client: Client, running: Running, surface: str, status: int) -> None:
    """Each status in the surface's own form, without carrying the request out."""
    running.simulator.add_fault(Fault("status", "issue", status=status))
    expected = 500 if surface == "soap" and status not in (429, 503) else status
    assert issue_over(client, surface) == expected
    assert running.simulator.issued() == 0


def test_retry_after_of_an_error(client: Client, running: Running) -> None:
    """A 429 on demand names the seconds it was given."""
    running.simulator.add_fault(Fault("status", "version", status=429, retry_after=7))
    status, headers, _ = client.send("GET", "/v2/auth/version")
    assert (status, headers["retry-after"]) == (429, "7")


@pytest.mark.parametrize(("status", "done"), [(200, True), (502, False), (504, True)])
def test_a_proxys_page(client: Client, running: Running, status: int, done: bool) -> None:
    """HTML with 200, 502 or 504, whether the request was carried out or not."""
    running.simulator.add_fault(Fault("html", "CreateKey", status=status, carried_out=done))
    body = json.dumps({"userId": USER, "visibility": "Private"}).encode()
    got, headers, content = client.send(
        "POST", "/v2/keys/create", body, X_API_Key=client.key, Content_Type="application/json"
    )
    assert (got, headers["content-type"]) == (status, "text/html")
    assert content.startswith(b"<html>")
    assert running.simulator.issued() == int(done)


@pytest.mark.parametrize("kind", ["status", "html"])
def test_hostile_errors_quote_the_request(client: Client, running: Running, kind: Any) -> None:
    """The credential and the body come back in the error, on both surfaces; after the deed, the new key too."""
    sim = running.simulator
    sim.add_fault(Fault(kind, "CreateKey", status=400, quoting=True, carried_out=True))
    body = json.dumps({"userId": USER, "visibility": "Private"}).encode()
    _, _, content = client.send(
        "POST", "/v2/keys/create", body, X_API_Key=client.key, Content_Type="application/json"
    )
    for secret in (client.key, sim.keys(USER)[-1].value):
        assert secret.encode() in content
    sim.add_fault(Fault("status", "KeyGet", status=500, quoting=True))
    assert client.key in text(client.soap("KeyGet", UserID=USER)[1], "faultstring")


def test_stale_masked_malformed_and_other_users_answers(
    client: Client, running: Running, old: KeyRecord
) -> None:
    """Answers that are well-formed and wrong, each once."""
    sim = running.simulator
    new = client.create()
    sim.add_fault(Fault("stale", "GetKey"))
    assert client.get()[1]["data"]["keyId"] == old.key_id
    sim.add_fault(Fault("masked", "GetKey"))
    assert Secret(client.get()[1]["data"]["key"]).masked
    sim.add_fault(Fault("malformed", "GetKey"))
    assert not client.get()[1]["data"]["key"].isascii()
    sim.add_fault(Fault("other-user", "GetKey"))
    assert client.get()[1]["data"]["userId"] != USER
    sim.add_fault(Fault("other-user", "who"))
    assert client.rest("GET", "/v2/users/me", X_API_Key=new["key"])[1]["data"]["userId"] == 1
    assert client.get()[1]["data"] == new


def test_a_slow_and_a_late_answer_are_whole(client: Client, running: Running) -> None:
    """Byte by byte, or after a while: the answer is the true one."""
    running.simulator.add_fault(Fault("drip", "CreateKey", seconds=0.0))
    running.simulator.add_fault(Fault("latency", "GetKey", seconds=0.01))
    assert client.create() == client.get()[1]["data"]


def test_a_redirect_is_not_carried_out(client: Client, running: Running) -> None:
    """It names the address it was given."""
    target = "http://127.0.0.1:9/elsewhere"
    running.simulator.add_fault(Fault("redirect", "GetMe", url=target, status=302))
    status, headers, _ = client.send("GET", "/v2/users/me", X_API_Key=client.key)
    assert (status, headers["location"]) == (302, target)


def test_a_lost_request_can_land_later(client: Client, running: Running) -> None:
    """Nothing has happened when the connection breaks; after those seconds the key is there."""
    sim = running.simulator
    sim.add_fault(Fault("closed", "KeySet", lands_after=30))
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        issue_over(client, "soap")
    sim.advance(29)
    assert (sim.issued(), sim.keys(USER)) == (0, ())
    sim.advance(1)
    assert (sim.issued(), len(sim.keys(USER))) == (1, 1)


def test_faults_count_matching_requests_only(
    client: Client, running: Running, old: KeyRecord
) -> None:
    """The second and third Get Key about that user fail; other calls, other users and the fourth do not."""
    sim = running.simulator
    sim.add_fault(Fault("status", "GetKey", nth=2, times=2, about=USER, status=500))
    assert client.get(1)[0] == 200
    assert client.list()
    assert [client.get()[0] for _ in range(4)] == [200, 500, 500, 200]
    assert sim.faults() == []
    sim.add_fault(Fault("status", "*", times=None))
    assert [client.get()[0] for _ in range(3)] == [503, 503, 503]
    sim.clear_faults()
    assert client.get()[0] == 200


# Strictness, bookkeeping, control


@pytest.mark.parametrize("header", ["sentry_trace", "baggage", "traceparent", "X_Forwarded_For"])
def test_foreign_headers_are_violations(client: Client, running: Running, header: str) -> None:
    """A header that we did not choose is refused and remembered by name."""
    headers = {"X_API_Key": client.key, header: token_hex(4)}
    assert client.send("GET", "/v2/users/me", **headers)[0] == 400
    assert header.replace("_", "-").lower() in running.simulator.violations()[0]


@pytest.mark.parametrize("twice", [False, True])
def test_a_key_in_a_url_is_a_violation(client: Client, running: Running, twice: bool) -> None:
    """A value in path or query, however it is encoded, is refused; the note of it holds no value."""
    running.simulator.switch(key_shape="special")
    key = client.create()["key"]
    hidden = quote(quote(key, safe="") if twice else key, safe="")
    for target in (f"/v2/users/key/{hidden}", f"/v2/users/me?k={hidden}"):
        assert client.send("GET", target, X_API_Key=client.key)[0] == 400
    assert len(running.simulator.violations()) == 2
    assert key not in str(running.simulator.violations())


def test_xml_tricks_are_refused(client: Client) -> None:
    """A DTD, an entity, and what is no XML at all are faults."""
    action = f'"{NAMESPACE}Version"'
    entity = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>'
    for body in (entity, b"<a", b"", b"<a/>"):
        status, _, content = client.send(
            "POST", "/v4.1/prod/ECGridOS.asmx", body, Content_Type="text/xml", SOAPAction=action
        )
        assert (status, b"Fault" in content) == (500, True)


def test_requests_are_counted_in_order_and_hold_no_value(
    client: Client, running: Running, old: KeyRecord
) -> None:
    """The log of requests names call, user, caller, status and outcome; the values are to be had only on demand."""
    client.create()
    running.simulator.add_fault(Fault("lost", "GetKey"))
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        client.get()
    client.get(99)
    entries = running.simulator.requests()
    assert [(e.call, e.about, e.caller, e.status, e.outcome) for e in entries] == [
        ("CreateKey", USER, 1, 200, "ok"),
        ("GetKey", USER, 1, 0, "lost"),
        ("GetKey", 99, 1, 404, "ObjectNotFound"),
    ]
    assert running.simulator.counts() == {"CreateKey": 1, "GetKey": 2}
    secrets = running.simulator.secrets()
    assert {client.key, old.value} <= secrets
    shown = repr(entries) + repr(running.simulator.keys(USER)) + repr(running.simulator.users())
    assert not any(secret in shown for secret in secrets)


def test_control_does_what_the_handle_does(running: Running) -> None:
    """The control API sets the scene and looks behind it without touching the counts."""
    control = running.control
    user = control.add_user(auth_level="NetworkAdmin")
    key = control.add_key(user, value=token_hex(16), created="2026-01-01T00:00:00+00:00")
    client = Client(running, key["value"])
    assert control.who(key["value"]) == user
    assert control.switch(keyset="replace", rate_limit=None).keyset == "replace"
    assert control.switches() == running.simulator.switches
    fault = Fault("status", "GetMe", about=user)
    control.add_fault(fault)
    assert control.faults() == [fault]
    assert client.me(client.key) == 503
    control.clear_faults()
    control.next_value(value := token_hex(16))
    assert client.create(user)["key"] == value
    assert control.issued(user) == control.issued() == 1
    assert [entry["call"] for entry in control.requests()] == ["GetMe", "CreateKey"]
    assert control.counts() == {"GetMe": 1, "CreateKey": 1}
    assert {value, key["value"]} <= control.secrets()
    assert "value" not in control.keys(user)[0]
    assert [entry["user_id"] for entry in control.users()] == [1, USER, user]
    before = control.now()
    assert (control.advance(90) - before).total_seconds() == 90
    assert control.remove_key(key["key_id"])
    assert (control.violations(), control.sessions(), control.end_sessions()) == ([], 0, 0)
    control.reset()
    assert control.users() == []


def test_control_says_what_is_wrong(running: Running) -> None:
    """A bad name is a Failure with the choices; nobody there is NotSent."""
    with pytest.raises(Failure, match="Switches has no 'nonsense'"):
        running.control.switch(nonsense=1)
    with pytest.raises(Failure, match="does not accept add_key"):
        running.control.add_key(99)
    control = running.control
    running.close()
    with pytest.raises(NotSent, match="no simulator answers"):
        control.counts()


def test_the_state_outlives_the_server(simulator: Simulator, old: KeyRecord) -> None:
    """A simulator that is served again, on the same port, still knows its keys."""
    with start(simulator) as first:
        port = int(first.url.rpartition(":")[2])
    with start(simulator, port) as second:
        assert Client(second, old.value).get()[0] == 200


def test_many_threads_at_once_lose_nothing(client: Client, running: Running) -> None:
    """Concurrent issuing makes as many different keys as were asked for."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: client.create(), range(80)))
    assert len({one["key"] for one in made}) == len({one["keyId"] for one in made}) == 80
    assert running.simulator.issued(USER) == len(client.list()) == 80


def test_as_a_process_of_its_own() -> None:
    """One line of JSON with the URLs and no key; the control API works; SIGTERM ends it with 0."""
    command = [sys.executable, "-m", "rotator.sandbox.ecgrid", "--users", "3"]
    switches = ["--switches", json.dumps(Switches(keyset="replace").to_json())]
    with subprocess.Popen(
        [*command, *switches], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            urls = json.loads(line)
            control = Control(urls["url"])
            assert control.switches().keyset == "replace"
            assert urls["user_ids"] == [5001, 5002, 5003]
            assert len(control.keys(5003)) == 1
            assert control.who(control.add_key(urls["admin_user_id"])["value"]) == 5000
            assert not any(secret in line for secret in control.secrets())
        finally:
            process.terminate()
        assert process.wait(30) == 0


def test_bad_usage_of_the_process() -> None:
    """A switch that does not exist ends it with 2 and the reason."""
    command = [sys.executable, "-m", "rotator.sandbox.ecgrid", "--switches", '{"keyset": "ad"}']
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "Switches.keyset must be 'add'" in result.stderr
