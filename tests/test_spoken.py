"""What ECGrid speaks is found out from the service itself, at no one's risk, and remembered."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from conftest import OPERATOR, ROOT, USERS, Roles, Rotator, VaultServer, an_ecgrid, events

from rotator.ecgrid import Account, Credentials, ECGrid, Rate, Urgency
from rotator.ecgrid.description import read_openapi, read_wsdl
from rotator.ecgrid.spoken import InMemory
from rotator.errors import Failure, Permanent
from rotator.keys import Issue, Secret, Verify, Visibility
from rotator.sandbox.ecgrid import AuthLevel, Running, Switches

SHIPPED = (ROOT / "vault" / "rotator.hcl").read_text()
USER, PRIVATE, WITHIN = USERS[0], Visibility.PRIVATE, 20.0
READS = ("Description", "OpenAPI")
GENERATE = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    issue: generate
    verify: VERIFY
    vault: {path: ecgrid/edi}
"""
KEYSET = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    verify: key-get
    vault: {path: ecgrid/edi}
"""


class Clocked(InMemory):
    """A memory whose time the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        """The local clock's, and so much ahead."""
        return super().now() + self.ahead


class Client:
    """One process' client of an ECGrid; `boot` is its clock."""

    def __init__(self, running: Running, keep: InMemory, namespace: str | None = None) -> None:
        self.rest_url, self.soap_url = running.rest_url, running.soap_url
        self.soap_namespace = namespace
        own = running.simulator.api_key(OPERATOR) or ""
        self.ecgrid = ECGrid(self, Credentials([lambda: Secret(own)]), Rate(None), keep=keep)

    def account(self, issue: Issue, verify: Verify) -> Account:
        """For a policy with these calls."""
        return self.ecgrid.account(issue, verify, Urgency.ROTATION)


@pytest.fixture
def keep() -> Clocked:
    """A memory that outlives clients."""
    return Clocked()


def reads(running: Running) -> int:
    """How often a description was read."""
    return sum(running.simulator.counts().get(call, 0) for call in READS)


def credentials_shown(running: Running) -> set[int | None]:
    """Who asked for descriptions, as far as a credential told."""
    return {entry.caller for entry in running.simulator.requests() if entry.call in READS}


# at what cost


@pytest.mark.parametrize("verify", ["get-api-key", "user-get-api-key"])
def test_a_steady_rotation_by_generate_costs_three_requests(
    rotator_service: Rotator, service: Running, verify: str
) -> None:
    """And reading what the service speaks none; the first process reads each description once at most."""
    rotator_service.policy("edi", GENERATE.replace("VERIFY", verify))
    assert rotator_service("run", "--once").code == 0
    assert max(service.simulator.counts().get(call, 0) for call in READS) == 1
    assert credentials_shown(service) == {None}
    rotator_service("rotate", "edi")
    before = service.simulator.counts()
    done = rotator_service("rotate", "edi", "--json")
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1})
    after = service.simulator.counts()
    asked = {call: after[call] - before.get(call, 0) for call in after}
    assert sum(asked.values()) == 3, asked
    assert (asked.get("GenerateKey", 0) + asked.get("GenerateAPIKey", 0), asked["GetMe"]) == (1, 1)


def test_a_steady_rotation_by_keyset_costs_three_requests(
    rotator_command: Rotator, simulator: Running
) -> None:
    """In the portal's form as well."""
    rotator_command.policy("edi", KEYSET)
    for _ in range(2):
        rotator_command("rotate", "edi")
    before = simulator.simulator.counts()
    assert rotator_command("rotate", "edi").code == 0
    after = simulator.simulator.counts()
    assert {
        call: after[call] - before.get(call, 0)
        for call in after
        if after[call] > before.get(call, 0)
    } == {
        "KeySet": 1,
        "KeyGet": 1,
        "GetMe": 1,
    }


def test_a_large_description_is_read_for_our_calls_alone() -> None:
    """Of 1,500 operations besides, nothing is kept."""
    more = "".join(
        f'<s:element name="Other{n}"><s:complexType><s:sequence><s:element name="SessionID" type="s:string"/>'
        f"</s:sequence></s:complexType></s:element>"
        for n in range(1500)
    )
    text = (
        '<definitions xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:s="http://www.w3.org/2001/XMLSchema">'
        f'<types><s:schema targetNamespace="urn:x">{more}<s:element name="Version"/></s:schema></types>'
        '<portType><operation name="Version"/><operation name="Other1"/></portType></definitions>'
    )
    found = read_wsdl(text.encode())
    assert found is not None
    assert (found[0], list(found[1])) == ("urn:x", ["Version"])


def test_help_does_not_load_what_reads_descriptions() -> None:
    """Nor does anything that asks no ECGrid."""
    code = (
        "import sys; from rotator.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(n for n in sys.modules if n.startswith(('rotator.ecgrid', 'rotator.system', 'xml.etree'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# descriptions that are none


BAD = ("missing", "html", "huge", "malformed", "dtd", "redirect")


@pytest.mark.parametrize("wsdl", BAD)
def test_without_a_description_the_portal_s_form_is_spoken(keep: Clocked, wsdl: str) -> None:
    """With a warning; no credential goes where the description was asked for, and nothing it names is fetched."""
    with an_ecgrid(Switches.from_json({"wsdl": wsdl})) as running:
        client = Client(running, keep)
        account = client.account(Issue.KEYSET, Verify.KEY_GET)
        assert any("could not be read" in text for text in account.require(USER, PRIVATE, WITHIN))
        assert account.issue(USER, PRIVATE, WITHIN).ref.user_id == USER
        assert running.simulator.counts()["Description"] == 1
        assert credentials_shown(running) == {None}
        assert running.simulator.violations() == []
        client.ecgrid.close()
        again = Client(running, keep)
        again.account(Issue.KEYSET, Verify.KEY_GET).read(USER, WITHIN)
        again.ecgrid.close()
        assert running.simulator.counts()["Description"] == 1  # for an hour
        keep.ahead = timedelta(hours=1)
        later = Client(running, keep)
        later.account(Issue.KEYSET, Verify.KEY_GET).read(USER, WITHIN)
        later.ecgrid.close()
        assert running.simulator.counts()["Description"] == 2


def test_a_description_that_drips_is_given_up_in_time(
    keep: Clocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte it would never end; the time for it is bounded as a whole."""
    monkeypatch.setattr("rotator.ecgrid.spoken.READ_TIMEOUT", 1.0)
    with an_ecgrid(Switches(wsdl="drip")) as running:
        client = Client(running, keep)
        key = client.account(Issue.KEYSET, Verify.KEY_GET).issue(USER, PRIVATE, WITHIN)
        assert key.ref.user_id == USER
        client.ecgrid.close()
        assert credentials_shown(running) == {None}


def test_a_service_with_other_operations_is_sent_nothing(keep: Clocked) -> None:
    """It describes itself, and has none of our calls: no credential goes there."""
    with an_ecgrid(Switches(wsdl="other")) as running:
        client = Client(running, keep)
        for ask in (
            lambda: client.account(Issue.KEYSET, Verify.KEY_GET).issue(USER, PRIVATE, WITHIN),
            lambda: client.account(Issue.KEYSET, Verify.KEY_GET).read(USER, WITHIN),
        ):
            assert kind_of(ask) == "ecgrid.NoSuchCall"
        client.ecgrid.close()
        assert running.simulator.counts() == {"Description": 1}


@pytest.mark.parametrize("swagger", ["missing", "html", "malformed"])
@pytest.mark.parametrize("issue", [Issue.CREATE_KEY, Issue.KEYSET])
def test_rest_that_does_not_describe_itself_tells_by_a_refusal(
    keep: Clocked, swagger: str, issue: Issue
) -> None:
    """The list, which changes nothing, is refused with the name of a parameter of named values; that is remembered."""
    with an_ecgrid(Switches.service(swagger=swagger, wsdl="missing")) as running:
        client = Client(running, keep)
        account = client.account(issue, Verify.GET_KEY)
        assert kind_of(lambda: account.require(USER, PRIVATE, WITHIN)) == "ecgrid.NoSuchCall"
        asked = running.simulator.counts()
        assert kind_of(lambda: account.require(USER, PRIVATE, WITHIN)) == "ecgrid.NoSuchCall"
        assert running.simulator.counts() == asked
        assert (asked["ListKeys"], running.simulator.issued()) == (1, 0)
        client.ecgrid.close()


def kind_of(call: Any) -> str:
    """The kind of the failure that a call raises."""
    with pytest.raises(Failure) as caught:
        call()
    assert isinstance(caught.value, Permanent)
    return caught.value.kind


# growing old


def test_a_description_is_read_anew_after_a_day(keep: Clocked) -> None:
    """A failed re-read keeps the old copy, and is not repeated for an hour."""
    with an_ecgrid(Switches.service()) as running:
        for hours, wsdl, expected in (
            (0, "served", 1),
            (23, "served", 1),
            (24, "html", 2),
            (24.5, "html", 2),
            (25, "html", 3),
            (26, "served", 4),
            (49, "served", 4),
        ):
            keep.ahead = timedelta(hours=hours)
            running.simulator.switch(wsdl=wsdl)
            client = Client(running, keep)
            client.account(Issue.GENERATE, Verify.USER_GET_API_KEY).read(USER, WITHIN)
            client.ecgrid.close()
            assert running.simulator.counts()["Description"] == expected, hours
        assert running.simulator.violations() == []


def test_an_action_that_became_unknown_has_the_description_read_anew(keep: Clocked) -> None:
    """The service was remembered in the portal's form and is the other now: the call is made again, in that form."""
    with an_ecgrid(Switches()) as before:
        client = Client(before, keep)
        client.account(Issue.GENERATE, Verify.USER_GET_API_KEY).read(USER, WITHIN)
        value = before.simulator.api_key(USER)
        before.simulator.switch(form="service")
        before.simulator.add_user(USER, api_key=value)
        before.simulator.add_user(
            OPERATOR, auth_level=AuthLevel.NetworkAdmin, api_key=client_key(before)
        )
        client.ecgrid.close()
        client = Client(before, keep)
        shown = client.account(Issue.GENERATE, Verify.USER_GET_API_KEY).read(USER, WITHIN)
        assert shown.shown is not None
        assert (
            kind_of(
                lambda: client.account(Issue.KEYSET, Verify.KEY_GET).issue(USER, PRIVATE, WITHIN)
            )
            == "ecgrid.NoSuchCall"
        )
        client.ecgrid.close()
        assert before.simulator.counts()["Description"] == 2


def client_key(running: Running) -> str:
    """The operator's key."""
    return next(record.value for record in running.simulator.keys(OPERATOR))


def test_a_namespace_that_is_set_overrides_the_description_s_alone(keep: Clocked) -> None:
    """Parameters are the description's all the same; the unknown action is told with the settings to look at."""
    with an_ecgrid(Switches.service()) as running:
        client = Client(running, keep, "http://www.ecgridos.net/")
        account = client.account(Issue.GENERATE, Verify.USER_GET_API_KEY)
        with pytest.raises(Permanent) as caught:
            account.issue(USER, PRIVATE, WITHIN)
        assert caught.value.kind == "ecgrid.NotUnderstood"
        assert "ROTATOR_ECGRID__SOAP_NAMESPACE" in str(caught.value)
        assert running.simulator.issued() == 0
        client.ecgrid.close()


def test_an_open_rotation_is_finished_in_the_form_it_was_begun_in(
    rotator_command: Rotator, simulator: Running, vault: VaultServer, mount: str
) -> None:
    """A description that has changed meanwhile, or is somebody else's, does not strand a key that was issued."""
    rotator_command.policy("edi", KEYSET)
    rotator_command("run", "--once")
    simulator.simulator.switch(activation_delay=3600.0)
    short: dict[str, Any] = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "10s"}
    assert rotator_command("rotate", "edi", **short).code == 1
    assert simulator.simulator.issued(USER) == 1
    vault.call("DELETE", f"{mount}/metadata/rotator/ecgrid")
    simulator.simulator.switch(wsdl="other")
    simulator.simulator.advance(3600.0)
    done = rotator_command("run", "--once", "--json", **short)
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    assert simulator.simulator.issued(USER) == 1
    again = rotator_command("rotate", "edi", "--json", **short)
    assert again.json["results"][0]["error"]["kind"] == "ecgrid.NoSuchCall"


# in Vault


def test_a_right_that_is_missing_is_a_warning_and_a_line_of_doctor(
    rotator_service: Rotator, service: Running, roles: Roles
) -> None:
    """An upgraded deployment goes on; doctor prints the line to add to the Vault policy."""
    rotator_service.policy("edi", GENERATE.replace("VERIFY", "user-get-api-key"))
    old = "\n".join(line for line in SHIPPED.splitlines() if "/rotator/ecgrid" not in line)
    rotator_service.environment |= roles.environment(old)
    done = rotator_service("rotate", "edi", "--json")
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    assert len(events(done.stderr, "ecgrid.not_remembered")) == 1
    told = rotator_service("doctor", "--json").json["checks"]
    line = next(one for one in told if one["what"] == "Vault rights for what ECGrid speaks")
    assert (line["state"], "capabilities = [" in line["found"]) == ("warning", True)
    assert all(one["state"] != "failed" for one in told), told


def test_what_is_found_out_is_kept_in_vault_and_not_by_those_who_only_look(
    rotator_service: Rotator, service: Running, vault: VaultServer, mount: str
) -> None:
    """`check`, `status` and `doctor` write nothing; the first `run` does, and what it wrote holds no secret."""
    rotator_service.policy("edi", GENERATE.replace("VERIFY", "user-get-api-key"))
    for command in ("check", "status", "doctor", "plan"):
        rotator_service(command)
    with pytest.raises(httpx.HTTPStatusError):
        vault.call("GET", f"{mount}/data/rotator/ecgrid")
    rotator_service("run", "--once")
    kept = vault.call("GET", f"{mount}/data/rotator/ecgrid")["data"]["data"]
    assert json.loads(kept["soap"])["namespace"] == "https://os.ecgrid.io/"
    assert kept["hosts"] == {"rest": "127.0.0.1", "soap": "127.0.0.1"}
    rotator_service.assert_silent(json.dumps(kept))


# what descriptions may look like


def test_openapi_may_refer_to_bodies_and_stand_behind_a_prefix() -> None:
    """A reference within the document is followed, one to elsewhere is not; of addresses only the path is looked at."""
    body: dict[str, Any] = {"properties": {"systemObject": {}, "objectId": {}}}
    document = {
        "openapi": "3.0.1",
        "servers": [{"url": "http://elsewhere.invalid/v2"}],
        "components": {"schemas": {"Values": body}},
        "paths": {
            "/keys/create": {
                "post": {
                    "requestBody": {
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Values"}}
                        }
                    }
                }
            },
            "/users/{userId}/api-key": {"get": {}},
        },
    }
    found = read_openapi(json.dumps(document).encode())
    assert found is not None
    assert set(found["POST /v2/keys/create"].parameters) == {"systemObject", "objectId"}
    assert "GET /v2/users/{}/api-key" in found
    for bad in (b"", b"[]", b"{}", b'{"paths": {}}', b'{"openapi": "3", "paths": []}', b"\xff"):
        assert read_openapi(bad) is None


def test_paths_that_are_described_are_used(keep: Clocked) -> None:
    """Where Generate and Get API Key stand at the paths of the page on migration, they are called there."""
    with an_ecgrid(Switches.service(key_paths="users/id")) as running:
        client = Client(running, keep)
        account = client.account(Issue.GENERATE, Verify.GET_API_KEY)
        key = account.issue(USER, PRIVATE, WITHIN)
        assert running.simulator.who(key.value.reveal()) == USER
        assert account.read(USER, WITHIN).shown == key.value
        client.ecgrid.close()
