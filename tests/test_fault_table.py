"""Every refusal of ECGrid's, whatever it looks like, leads to the right kind: the table of `rotator.ecgrid.faults`."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Iterator

import pytest
from conftest import OPERATOR, USERS, an_ecgrid

from rotator.ecgrid import Account, Credentials, ECGrid, Rate, Urgency
from rotator.ecgrid.answers import Data, by_fault
from rotator.ecgrid.envelope import opened
from rotator.ecgrid.faults import Fault as Told
from rotator.ecgrid.wire import Call, Reply
from rotator.errors import (
    AnswerLost,
    Failure,
    Forbidden,
    NotFound,
    Permanent,
    Refused,
    Transient,
)
from rotator.keys import Issue, Secret, Verify, Visibility
from rotator.sandbox.ecgrid import AuthLevel, Fault, Running, Switches

USER, PRIVATE, WITHIN = USERS[0], Visibility.PRIVATE, 20.0
CHANGING, READING = Call("GenerateAPIKey", changes=True), Call("UserGetAPIKey")
ENVELOPE = (
    '<soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/"><soap:Body>{}</soap:Body>'
    "</soap:Envelope>"
)
FAULT = "<soap:Fault><faultcode>{side}</faultcode><faultstring>{text}</faultstring>{detail}</soap:Fault>"


def told(text: str, detail: str = "<detail/>", *, side: str = "soap:Server") -> str:
    """A fault in its envelope."""
    return ENVELOPE.format(FAULT.format(side=side, text=text, detail=detail))


def named(code: str, text: str = "Failed") -> str:
    """As the portal has it."""
    return told(text, f"<detail><ECGridOSSOAPErrorCode>{code}</ECGridOSSOAPErrorCode></detail>")


def numbered(number: int, words: str = "", text: str = "Failed", *, flat: bool = False) -> str:
    """As the service has it."""
    info = f"<ErrorCode>{number}</ErrorCode><ErrorString>{words}</ErrorString><ErrorItem/><ErrorMessage/>"
    return told(text, f"<detail>{info if flat else f'<ErrorInfo>{info}</ErrorInfo>'}</detail>")


def reply(body: str, status: int = 500, kind: str = "text/xml") -> Reply:
    """An answer as the wire hands it on."""
    return Reply(status, kind, None, body.encode())


def error(call: Call, answer: Reply) -> Failure:
    """What a fault leads to."""
    fault = opened(answer, call.name)
    assert isinstance(fault, Told)
    return by_fault(call, fault, answer)


# What a fault says; its kind; and whether it proves that nothing was carried out.
UNREAD = [
    "Server did not recognize the value of HTTP Header SOAPAction: http://www.ecgridos.net/GenerateAPIKey.",
    "System.Web.Services.Protocols.SoapException: Server was unable to read request. ---&gt; ...",
    "Server was unable to read request.",
    "Request format is unrecognized.",
    "Possible SOAP version mismatch: Envelope namespace urn:x was unexpected.",
]
REFUSALS = {
    "ecgrid.AccessDenied": (
        named("Authorization"),
        named("AccessDenied"),
        named("Access Denied"),
        named("accessdenied"),
        named("2", "Access denied"),
        named("Unheard", "You are not authorized"),
        numbered(2, "AccessDenied"),
        numbered(2, "Access Denied", flat=True),
        numbered(11, "access denied."),
        numbered(2, "", "Access Denied"),
        told("Access is denied.", ""),
        told("Server was unable to process request. ---&gt; Access Denied"),
    ),
    "ecgrid.InvalidAPIKey": (
        named("Authentication"),
        numbered(1, "Invalid SessionID"),
        numbered(8, "InvalidSessionID"),
        numbered(1, "Session Timeout"),
        numbered(7, "SessionID has expired."),
        told("Invalid SessionID", ""),
        told("Server was unable to process request. ---&gt; Invalid Session ID."),
    ),
    "ecgrid.ObjectNotFound": (
        named("ObjectNotFound"),
        named("NotFound"),
        numbered(3, "Not Found"),
        numbered(3, "NotFound", flat=True),
        numbered(99, "User does not exist."),
    ),
    "ecgrid.InvalidParameter": (
        named("InvalidParameter"),
        numbered(8, "Invalid Data Length"),
        numbered(8, "Invalid data length.", flat=True),
        numbered(4, "InvalidID"),
    ),
    "ecgrid.DuplicateObject": (numbered(5, "Duplicate"), numbered(6, "IDExistsOnNetwork")),
}
LOST = {
    "ecgrid.InternalError": (
        named("SystemError"),
        named("InternalError"),
        numbered(11, "Internal Error"),
        numbered(10, "SQLError"),
        numbered(9, "Data Error"),
        numbered(10, "SQL Error: access denied for user"),
        told(
            "Server was unable to process request. ---&gt; Object reference not set to an instance of an object."
        ),
        told("Server was unable to process request. ---&gt; The given key was not found."),
        told("Server was unable to process request. ---&gt; Invalid column name.", ""),
    ),
    "ecgrid.UnknownError": (
        numbered(-1, "Unknown"),
        *(numbered(number) for number in range(-2, 20)),
        numbered(12345, "Oops"),
        named("7"),
        named("Unheard"),
        told("Oops"),
        told("", ""),
    ),
}
HINTED = {2: Forbidden, 3: NotFound}


@pytest.mark.parametrize("text", UNREAD)
@pytest.mark.parametrize(
    "side", ["soap:Client", "soap:Client.Unread", "Sender", "q0:VersionMismatch"]
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_what_the_framework_could_not_read_was_not_carried_out(
    text: str, side: str, status: int
) -> None:
    """Permanent, and no lost answer, also for a call that changes something."""
    for call in (CHANGING, READING):
        found = error(call, reply(told(text, side=side), status))
        assert (type(found), found.kind) == (Permanent, "ecgrid.NotUnderstood")


def test_only_the_framework_itself_says_that_it_could_not_read() -> None:
    """The same words from the service's own code, or from its server side, prove nothing."""
    text = UNREAD[1]
    for body in (told(text), numbered(-1, "Unknown", text)):
        assert isinstance(error(CHANGING, reply(body)), AnswerLost)


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("status", [200, 500])
def test_words_that_refuse_prove_that_nothing_was_made(kind: str, status: int) -> None:
    """Whatever the number beside them is, and wherever they stand."""
    classes = {"ecgrid.AccessDenied": Forbidden, "ecgrid.InvalidAPIKey": Refused}
    classes["ecgrid.ObjectNotFound"] = NotFound
    for body, call in itertools.product(REFUSALS[kind], (CHANGING, READING)):
        found = error(call, reply(body, status))
        assert (found.kind, type(found)) == (kind, classes.get(kind, Permanent)), body


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("status", [200, 500])
def test_what_may_have_been_carried_out_is_a_lost_answer(kind: str, status: int) -> None:
    """Failures within, words that nobody knows, and every number without words."""
    for body in LOST[kind]:
        found = error(CHANGING, reply(body, status))
        assert (found.kind, type(found)) == (kind, AnswerLost), body


def test_a_number_alone_is_a_hint_for_what_changes_nothing() -> None:
    """Of access and existence; never that a key is dead."""
    for number in range(-2, 20):
        found = error(READING, reply(numbered(number)))
        assert isinstance(found, HINTED.get(number, Transient)), number
        assert not isinstance(found, Refused)


def test_no_text_of_a_fault_is_told() -> None:
    """It may repeat the request."""
    canary = secrets.token_hex(16)
    for body in (told(f"Oops {canary}"), numbered(2, f"Access Denied {canary}"), named(canary)):
        found = error(CHANGING, reply(body))
        assert canary not in f"{found} {found!r} {opened(reply(body), CHANGING.name)!r}"


# answers as servers and proxies write them


RESULT = ENVELOPE.format(
    "<UserGetAPIKeyResponse><UserGetAPIKeyResult>{}</UserGetAPIKeyResult></UserGetAPIKeyResponse>"
)
PROLOG = '<?xml version="1.0" encoding="{}"?>'
WRITTEN: dict[str, Callable[[str], bytes]] = {
    "as it should be": lambda text: (PROLOG.format("utf-8") + text).encode(),
    "after a blank line": lambda text: ("\r\n \n" + PROLOG.format("utf-8") + text).encode(),
    "with a BOM": lambda text: (PROLOG.format("utf-8") + text).encode("utf-8-sig"),
    "a BOM after a blank line": lambda text: (
        b"\n" + (PROLOG.format("utf-8") + text).encode("utf-8-sig")
    ),
    "a blank line after a BOM": lambda text: ("\n" + PROLOG.format("utf-8") + text).encode(
        "utf-8-sig"
    ),
    "in UTF-16": lambda text: (PROLOG.format("utf-16") + text).encode("utf-16"),
    "blank lines at the end": lambda text: (PROLOG.format("utf-8") + text + "\n\n").encode(),
}


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("kind", ["text/xml", "text/plain", "", "application/json"])
@pytest.mark.parametrize("status", [200, 201])
def test_a_soap_answer_is_read_however_it_is_written(how: str, kind: str, status: int) -> None:
    """As a REST answer is: neither the content type nor what stands before the document decides."""
    value = secrets.token_hex(16)
    found = opened(Reply(status, kind, None, WRITTEN[how](RESULT.format(value))), "UserGetAPIKey")
    assert isinstance(found, Data)
    assert found.secret() == Secret(value)
    fault = opened(
        Reply(500, kind, None, WRITTEN[how](numbered(2, "Access Denied"))), "UserGetAPIKey"
    )
    assert isinstance(fault, Told)
    assert fault.code == "AccessDenied"


# over HTTP, from an ECGrid as the service describes itself

SHAPES = list(
    itertools.product(
        ("error-info", "flat"), ("spaced", "joined", "sentence"), (False, True), ("key", "login")
    )
)


class Clients:
    """Accounts for `generate` by both surfaces, with a credential of a kind."""

    def __init__(self, running: Running, credential: str) -> None:
        self.rest_url, self.soap_url, self.soap_namespace = running.rest_url, running.soap_url, None
        operator = next(u for u in running.simulator.users() if u.user_id == OPERATOR)
        own = running.simulator.api_key(OPERATOR) or ""
        keys = [lambda: Secret(own)] if credential == "key" else []
        self.by_login = credential == "login"
        login = (operator.login, Secret(operator.password)) if self.by_login else ()
        self.ecgrid = ECGrid(self, Credentials(keys, *login), Rate(None))

    def account(self, verify: Verify) -> Account:
        """By that surface."""
        return self.ecgrid.account(Issue.GENERATE, verify, Urgency.ROTATION)


SURFACES = {Verify.GET_API_KEY: "GenerateKey", Verify.USER_GET_API_KEY: "GenerateAPIKey"}


def failing(ask: Callable[[], object]) -> Failure:
    """The failure of a call."""
    with pytest.raises(Failure) as caught:
        ask()
    return caught.value


@pytest.fixture(params=SHAPES, ids=str)
def shaped(request: pytest.FixtureRequest) -> Iterator[tuple[Running, Clients]]:
    """The service, with faults of one shape, and a credential of one kind."""
    shape, words, with_200, credential = request.param
    switches = Switches.service(
        fault_shape=shape,
        fault_words=words,
        faults_with_200=with_200,
        errors_with_200=False,
        rest_errors="problem" if shape == "flat" else "envelope",
    )
    with an_ecgrid(switches) as running:
        clients = Clients(running, credential)
        yield running, clients
        clients.ecgrid.close()
        assert running.simulator.violations() == []


def test_generate_meets_every_refusal_of_the_service(shaped: tuple[Running, Clients]) -> None:
    """By both surfaces, with a key and with a login: refused is refused, and what may be carried out is looked for."""
    running, clients = shaped
    for verify, call in SURFACES.items():
        account = clients.account(verify)
        key = account.issue(USER, PRIVATE, WITHIN)
        assert account.read(USER, WITHIN).shown == key.value
        assert running.simulator.who(key.value.reveal()) == USER
        for ask in (account.issue, lambda user_id, _, within: account.read(user_id, within)):  # noqa: B023 - called here
            assert isinstance(failing(lambda: ask(1, PRIVATE, WITHIN)), NotFound)  # noqa: B023 - the same
        dead = Secret(secrets.token_hex(16))
        assert isinstance(failing(lambda: account.read(USER, WITHIN, dead)), Refused)  # noqa: B023 - the same
        assert_numbers(running, clients, account, call)


def assert_numbers(running: Running, clients: Clients, account: Account, call: str) -> None:
    """Each of the service's own errors once; a session that is dead by its words is opened anew."""
    model = running.simulator
    for number in range(-1, 12):
        before = model.issued()
        model.add_fault(Fault("numbered", call=call, number=number, quoting=True))
        if number == 1 and call == "GenerateAPIKey" and clients.by_login:
            account.issue(USER, PRIVATE, WITHIN)
            assert model.issued() == before + 1
            continue
        told = failing(lambda: account.issue(USER, PRIVATE, WITHIN))
        assert isinstance(told, expected_of(number, call)), (number, told.kind)
        assert not any(secret in str(told) for secret in model.secrets())
        assert model.issued() == before


def expected_of(number: int, call: str) -> type[Failure]:
    """What the service's own error of that number, with its words, means for Generate."""
    if call == "GenerateKey":  # REST has no numbers: an error of the server
        return AnswerLost
    known: dict[int, type[Failure]] = {2: Forbidden, 3: NotFound}
    known |= dict.fromkeys((4, 5, 6, 7, 8), Permanent)
    return known.get(number, AnswerLost) if number != 1 else Refused


def test_a_user_without_the_right_is_told_so() -> None:
    """By both surfaces, of Generate and of reading: permanent, and nothing is made."""
    for denied_as_404 in (False, True):
        with an_ecgrid(Switches.service(denied_as_404=denied_as_404)) as running:
            running.simulator.add_user(OPERATOR, auth_level=AuthLevel.General)
            clients = Clients(running, "key")
            for verify in SURFACES:
                account = clients.account(verify)
                for ask in (
                    lambda: account.issue(USER, PRIVATE, WITHIN),  # noqa: B023 - called here
                    lambda: account.read(USER, WITHIN),  # noqa: B023 - the same
                ):
                    assert isinstance(failing(ask), Forbidden | NotFound)
            assert running.simulator.issued() == 0
            clients.ecgrid.close()


@pytest.mark.parametrize("rest_errors", ["envelope", "problem"])
def test_rest_s_errors_are_told_by_their_status(rest_errors: str) -> None:
    """With the portal's envelope and as problem JSON; they are not quoted."""
    expected = {400: Permanent, 401: Refused, 403: Forbidden, 404: NotFound, 429: Transient}
    with an_ecgrid(Switches.service(rest_errors=rest_errors)) as running:
        clients = Clients(running, "key")
        account = clients.account(Verify.GET_API_KEY)
        account.read(USER, WITHIN)
        for status in (400, 403, 404, 429, 500, 503, 401):  # after the last the key is refused
            fault = Fault("status", call="GenerateKey", times=None, status=status, quoting=True)
            running.simulator.add_fault(fault)
            within = 1.0 if status == 401 else WITHIN
            told = failing(lambda: account.issue(USER, PRIVATE, within))  # noqa: B023 - called here
            assert isinstance(told, expected.get(status, AnswerLost)), status
            assert (status == 429) is not isinstance(told, AnswerLost | Permanent), status
            assert not any(secret in str(told) for secret in running.simulator.secrets())
            running.simulator.clear_faults()
        assert running.simulator.issued() == 0
        clients.ecgrid.close()


def test_the_two_descriptions_of_an_error_are_one(service: Running) -> None:
    """The same refusal by REST and by SOAP has one kind."""
    clients = Clients(service, "key")
    kinds = {
        json.dumps(failing(lambda: clients.account(verify).issue(1, PRIVATE, WITHIN)).kind)  # noqa: B023 - called here
        for verify in SURFACES
    }
    assert kinds == {'"ecgrid.ObjectNotFound"'}
    clients.ecgrid.close()
