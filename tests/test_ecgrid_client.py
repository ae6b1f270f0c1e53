"""The ECGrid client against the simulator, over real HTTP: every call, every error, and that nothing is quoted."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

import pytest
from conftest import OPERATOR, USERS
from settled import settled

from rotator.ecgrid import Account, Credentials, ECGrid, Rate, Urgency
from rotator.errors import (
    AnswerLost,
    Failure,
    Forbidden,
    NotFound,
    NotSent,
    Permanent,
    Refused,
    Transient,
)
from rotator.keys import Agreement, ApiKey, Issue, KeyRef, Secret, Verify, Visibility
from rotator.sandbox.ecgrid import AuthLevel, Fault, Running

WITHIN = 20.0
USER = USERS[0]
OLD_NAMESPACE = "https://os.ecgrid.io/"
PRIVATE = Visibility.PRIVATE


@dataclass(frozen=True)
class At:
    """Where the simulator is, as the settings would say it."""

    rest_url: str
    soap_url: str
    soap_namespace: str | None = None


class World:
    """A client of one simulator, with the operator's key as its own credential."""

    def __init__(self, running: Running) -> None:
        self.running, self.simulator = running, running.simulator
        self.told: list[tuple[str, str]] = []
        self._made: list[ECGrid] = []

    def ecgrid(self, **changes: Any) -> ECGrid:
        """A client; keywords are `credentials`, `rate` and `soap_namespace`."""
        own = self.simulator.api_key(OPERATOR)
        assert own is not None
        namespace = changes.pop("soap_namespace", None)
        where = (self.running.rest_url, self.running.soap_url)
        credentials = changes.pop("credentials", None) or Credentials([lambda: Secret(own)])
        made = ECGrid(
            At(*where, namespace),
            credentials,
            changes.pop("rate", None) or Rate(None),
            keep=settled(*where),
            observer=lambda call, told, _: self.told.append((call, told)),
        )
        self._made.append(made)
        return made

    def account(
        self, issue: Issue = Issue.KEYSET, verify: Verify = Verify.GET_KEY, **changes: Any
    ) -> Account:
        """A client's view for a policy with these calls."""
        return self.ecgrid(**changes).account(issue, verify, Urgency.ROTATION)

    def close(self) -> None:
        """Closes all clients; asserts that no request was odd."""
        for made in self._made:
            made.close()
        assert self.simulator.violations() == []


@pytest.fixture
def world(simulator: Running) -> Iterator[World]:
    """The simulator and its clients."""
    world = World(simulator)
    yield world
    world.close()


BOTH = pytest.mark.parametrize("verify", [Verify.GET_KEY, Verify.KEY_GET], ids=["rest", "soap"])


@dataclass(frozen=True)
class Way:
    """One way to issue: the policy's calls, and the simulator's name of the request."""

    issue: Issue
    verify: Verify
    call: str


ISSUING = pytest.mark.parametrize(
    "way",
    [
        Way(Issue.KEYSET, Verify.GET_KEY, "KeySet"),
        Way(Issue.CREATE_KEY, Verify.GET_KEY, "CreateKey"),
        Way(Issue.GENERATE, Verify.GET_API_KEY, "GenerateKey"),
        Way(Issue.GENERATE, Verify.USER_GET_API_KEY, "GenerateAPIKey"),
    ],
    ids=lambda way: way.call,
)


def shown_anywhere(error: BaseException, secrets: set[str]) -> bool:
    """Whether a secret is in anything that an exception holds or that a traceback with locals would print."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    # The test's own frames know the secrets; the client's do not start before them.
    frames = [f for f in told.stack if "/tests/" not in f.filename.replace("\\", "/")]
    texts = [str(error), repr(error), repr(vars(error)), repr(error.args)]
    texts += ["".join(told.format_exception_only())]
    texts += [repr(f.locals) for f in frames]
    return any(secret in text for secret in secrets for text in texts)


def failing(world: World, call: Callable[[], object]) -> Failure:
    """The error of a call, which carries no cause and no secret of the simulator."""
    caught: Failure | None = None
    try:
        call()
    except Failure as error:
        caught = error
    assert caught is not None, "the call did not fail"
    assert caught.__cause__ is None
    assert caught.__context__ is None
    assert not shown_anywhere(caught, world.simulator.secrets())
    return caught


# the calls


@ISSUING
def test_each_issuing_call_makes_a_key_that_works(world: World, way: Way) -> None:
    """The answer holds the whole value; the probe made with it answers as that user."""
    account = world.account(way.issue, way.verify)
    key = account.issue(USER, PRIVATE, WITHIN)
    assert (key.ref.user_id, key.ref.visibility) == (USER, PRIVATE)
    assert (key.ref.key_id is None) is (way.issue is Issue.GENERATE)
    assert account.who_am_i(WITHIN, caller=key.value).user_id == USER
    assert world.simulator.counts()[way.call] == 1
    assert world.simulator.issued(USER) == 1


@pytest.mark.parametrize("verify", list(Verify), ids=lambda verify: verify.value)
def test_each_verifying_call_reads_the_key_back(world: World, verify: Verify) -> None:
    """Those that show a record show id, user, visibility and time; the others only whose key was asked for."""
    account = world.account(Issue.KEYSET, verify)
    key = account.issue(USER, PRIVATE, WITHIN)
    seen = account.read(USER, WITHIN)
    assert key.value.against(seen.shown) is Agreement.EQUAL
    if verify.shows_record:
        assert seen.ref == key.ref
    else:
        assert seen.ref == KeyRef(None, USER, None, None)


@BOTH
def test_the_list_is_of_that_visibility_only(world: World, verify: Verify) -> None:
    """Keys of another visibility, and Session keys, are not in it."""
    world.simulator.add_key(USER, "Shared")
    world.simulator.add_key(USER, "Session")
    mine = world.simulator.add_key(USER)
    account = world.account(Issue.KEYSET, verify)
    listed = account.keys(USER, PRIVATE, WITHIN)
    assert [seen.ref.key_id for seen in listed][-1] == mine.key_id
    assert {seen.ref.visibility for seen in listed} == {PRIVATE}
    assert len(account.keys(USER, Visibility.SHARED, WITHIN)) == 1
    assert account.keys(USER, Visibility.PUBLIC, WITHIN) == []


@BOTH
def test_a_removed_key_is_gone(world: World, verify: Verify) -> None:
    """Its value is refused, and removing it again finds nothing."""
    record = world.simulator.add_key(USER)
    account = world.account(Issue.KEYSET, verify)
    account.remove(record.key_id, WITHIN)
    assert world.simulator.who(record.value) is None
    error = failing(world, lambda: account.remove(record.key_id, WITHIN))
    assert (type(error), error.kind) == (NotFound, "ecgrid.ObjectNotFound")


def test_of_get_me_only_what_is_needed_is_taken(world: World) -> None:
    """Id, login, AuthLevel, status, and the own key where the answer carries it."""
    account = world.account()
    me = account.who_am_i(WITHIN)
    assert (me.user_id, me.login, me.auth_level, me.status, me.key) == (
        OPERATOR,
        f"user{OPERATOR}",
        "NetworkAdmin",
        "Active",
        None,
    )
    world.simulator.switch(me_shows_key=True)
    key = account.who_am_i(WITHIN).key
    assert key == Secret(world.simulator.api_key(OPERATOR) or "")


def test_below_network_admin_the_own_key_is_found_in_get_me(world: World) -> None:
    """Get API Key is refused to its owner; Get Me's answer may carry the key."""
    value = Secret(world.simulator.api_key(USER) or "")
    account = world.account(Issue.GENERATE, Verify.GET_API_KEY)
    error = failing(world, lambda: account.read(USER, WITHIN, caller=value))
    assert (type(error), error.kind) == (Forbidden, "ecgrid.AccessDenied")
    world.simulator.switch(me_shows_key=True)
    assert account.read(USER, WITHIN, caller=value).shown == value
    assert isinstance(
        failing(world, lambda: account.read(USERS[1], WITHIN, caller=value)), Forbidden
    )


def test_a_private_key_is_read_with_the_key_itself(world: World) -> None:
    """Where the rotator is refused, the caller is the owner."""
    world.simulator.switch(private_read="owner-403")
    value = Secret(world.simulator.keys(USER)[0].value)
    account = world.account()
    assert isinstance(failing(world, lambda: account.read(USER, WITHIN)), Forbidden)
    assert account.read(USER, WITHIN, caller=value).shown == value


@BOTH
def test_the_version_needs_no_credential(world: World, verify: Verify) -> None:
    """It is asked on the surface of the verifying call."""
    account = world.account(Issue.KEYSET, verify, credentials=Credentials([]))
    assert account.version(WITHIN) == {Verify.GET_KEY: "2.6", Verify.KEY_GET: "4.1"}[verify]


@pytest.mark.parametrize("namespace", ["http://www.ecgridos.net/", OLD_NAMESPACE])
@pytest.mark.parametrize("shape", ["typed", "inner"])
@pytest.mark.parametrize("zone", ["documented", "always", "never"])
def test_soap_answers_of_every_shape_are_understood(
    world: World, namespace: str, shape: str, zone: str
) -> None:
    """Both namespaces, a result with and without an inner object, times with and without a zone or a fraction."""
    world.simulator.switch(
        soap_namespace=namespace, soap_result=shape, created_zone=zone, created_fraction=True
    )
    account = world.account(Issue.KEYSET, Verify.KEY_GET, soap_namespace=namespace)
    key = account.issue(USER, PRIVATE, WITHIN)
    record = world.simulator.keys(USER)[-1]
    assert key.ref == KeyRef(record.key_id, USER, PRIVATE, record.created)
    assert account.read(USER, WITHIN).ref == key.ref
    assert account.keys(USER, PRIVATE, WITHIN)[-1].ref == key.ref


def test_a_wrong_namespace_names_the_setting(world: World) -> None:
    """The error says which setting to look at; nothing was issued."""
    account = world.account(Issue.KEYSET, Verify.KEY_GET, soap_namespace=OLD_NAMESPACE)
    error = failing(world, lambda: account.issue(USER, PRIVATE, WITHIN))
    assert isinstance(error, Permanent)
    assert "ROTATOR_ECGRID__SOAP_NAMESPACE" in str(error)


@pytest.mark.parametrize("shape", ["guid", "ek-live", "alnum32", "alnum33", "special"])
@pytest.mark.parametrize("issue", [Issue.KEYSET, Issue.CREATE_KEY])
def test_keys_of_every_shape_survive_both_surfaces(world: World, issue: Issue, shape: str) -> None:
    """Issued, read back over REST and SOAP, and presented as a credential to both."""
    world.simulator.switch(key_shape=shape)
    key = world.account(issue, Verify.GET_KEY).issue(USER, PRIVATE, WITHIN)
    assert key.value == Secret(world.simulator.keys(USER)[-1].value)
    for verify in Verify:
        if verify is not Verify.GET_API_KEY:
            account = world.account(issue, verify)
            assert account.read(USER, WITHIN, caller=key.value).shown == key.value


@pytest.mark.parametrize("value", ["plain <&>\" ' ]]> %41 +/=", "trailing\\"])
def test_a_value_with_spaces_or_markup_is_a_value_only_where_it_can_be_sent(
    world: World, value: str
) -> None:
    """An issued value that no header can carry counts as a lost answer."""
    text = value + token_hex(8)
    world.simulator.next_value(text)
    account = world.account(Issue.KEYSET)
    if " " in value:
        error = failing(world, lambda: account.issue(USER, PRIVATE, WITHIN))
        assert (type(error), error.kind) == (AnswerLost, "ecgrid.BadAnswer")
    else:
        assert account.issue(USER, PRIVATE, WITHIN).value == Secret(text)


@BOTH
@pytest.mark.parametrize("display", ["masked", "ellipsis", "shortened"])
def test_a_masked_value_is_shown_as_it_is(world: World, verify: Verify, display: str) -> None:
    """It does not contradict the whole value, and where it bears a mask it is no whole key."""
    world.simulator.switch(read_back=display)
    account = world.account(Issue.KEYSET, verify)
    key = account.issue(USER, PRIVATE, WITHIN)
    seen = account.read(USER, WITHIN)
    assert key.value.against(seen.shown) is Agreement.CONSISTENT
    assert (seen.whole is None) is (display != "shortened")


@BOTH
def test_a_session_key_is_no_key(world: World, verify: Verify) -> None:
    """A read that shows a Session key has found nothing to rotate."""
    world.simulator.add_user(7000)
    world.simulator.add_key(7000, "Session")
    account = world.account(Issue.KEYSET, verify)
    assert isinstance(failing(world, lambda: account.read(7000, WITHIN)), NotFound)


# errors

REFUSALS = [
    (401, Refused, "ecgrid.InvalidAPIKey"),
    (403, Forbidden, "ecgrid.AccessDenied"),
    (404, NotFound, "ecgrid.ObjectNotFound"),
    (400, Permanent, "ecgrid.InvalidParameter"),
    (429, Transient, "ecgrid.RateLimitExceeded"),
    (500, Transient, "ecgrid.InternalError"),
    (503, Transient, "ecgrid.Unavailable"),
]
# What REST says with 200 instead; SOAP has one code, SystemError, for all three.
WITH_200 = {
    429: "ecgrid.RateLimitExceeded",
    500: "ecgrid.InternalError",
    503: "ecgrid.UnknownError",
}


def error_of_a_read(world: World, verify: Verify, status: int) -> Failure:
    """The error when a read, made with a user's key, gets that error, in which everything is quoted."""
    world.simulator.add_fault(
        Fault("status", call="read", status=status, retry_after=7, quoting=True)
    )
    caller = Secret(world.simulator.api_key(USER) or "")
    account = world.account(Issue.KEYSET, verify)
    return failing(world, lambda: account.read(USER, WITHIN, caller=caller))


@BOTH
@pytest.mark.parametrize(("status", "family", "kind"), REFUSALS, ids=str)
def test_each_error_of_a_read_has_its_class_and_kind(
    world: World, verify: Verify, status: int, family: type[Failure], kind: str
) -> None:
    """Vendor text that quotes the credential goes nowhere; a 429 says when to come back."""
    error = error_of_a_read(world, verify, status)
    assert (type(error), error.kind) == (family, kind)
    if isinstance(error, Transient) and status == 429:
        assert error.retry_after == 7


@BOTH
@pytest.mark.parametrize(("status", "family", "kind"), REFUSALS, ids=str)
def test_errors_that_come_with_200_are_errors(
    world: World, verify: Verify, status: int, family: type[Failure], kind: str
) -> None:
    """`success: false`, and a fault, mean the same whatever the status they come with."""
    world.simulator.switch(errors_with_200=True, faults_with_200=True)
    error = error_of_a_read(world, verify, status)
    expected = WITH_200.get(status, kind)
    if verify.over_soap and status in WITH_200:
        expected = "ecgrid.InternalError"
    assert (type(error), error.kind) == (family, expected)


@ISSUING
@pytest.mark.parametrize(("status", "family", "kind"), REFUSALS[1:5], ids=str)
def test_a_refused_issuing_call_is_no_lost_answer(
    world: World,
    way: Way,
    status: int,
    family: type[Failure],
    kind: str,
) -> None:
    """ECGrid said no, so nothing was issued and nothing has to be looked for."""
    world.simulator.add_fault(
        Fault("status", call="issue", status=status, retry_after=1, quoting=True)
    )
    error = failing(
        world, lambda: world.account(way.issue, way.verify).issue(USER, PRIVATE, WITHIN)
    )
    assert (type(error), error.kind) == (family, kind)
    assert world.simulator.issued() == 0


LOST = [
    (Fault("lost", call="issue"), "ecgrid.AnswerLost"),
    (Fault("closed", call="issue"), "ecgrid.AnswerLost"),
    (Fault("half", call="issue"), "ecgrid.BadAnswer"),
    (Fault("html", call="issue", status=200, quoting=True), "ecgrid.Unavailable"),
    (Fault("html", call="issue", status=403, quoting=True), "ecgrid.Unavailable"),
    (Fault("html", call="issue", status=504, quoting=True), "ecgrid.Unavailable"),
    (Fault("status", call="issue", status=500, quoting=True), "ecgrid.InternalError"),
    (Fault("status", call="issue", status=503, quoting=True), "ecgrid.Unavailable"),
    (Fault("masked", call="issue"), "ecgrid.BadAnswer"),
    (Fault("malformed", call="issue"), "ecgrid.BadAnswer"),
    (Fault("redirect", call="issue"), "ecgrid.Redirect"),
]


@ISSUING
@pytest.mark.parametrize(("fault", "kind"), LOST, ids=[f"{f.kind}-{f.status}" for f, _ in LOST])
def test_every_unusable_answer_to_an_issuing_call_is_a_lost_one(
    world: World, way: Way, fault: Fault, kind: str
) -> None:
    """The request was sent exactly once, and whether it was carried out is for others to look."""
    world.simulator.add_fault(fault)
    error = failing(
        world, lambda: world.account(way.issue, way.verify).issue(USER, PRIVATE, WITHIN)
    )
    assert (type(error), error.kind) == (AnswerLost, kind)
    assert world.simulator.counts()[way.call] == 1


@pytest.mark.parametrize("issue", [Issue.KEYSET, Issue.CREATE_KEY])
def test_an_issuing_answer_about_another_user_is_a_lost_one(world: World, issue: Issue) -> None:
    """Such a key is never taken for the one that was asked for."""
    world.simulator.add_fault(Fault("other-user", call="issue"))
    error = failing(world, lambda: world.account(issue).issue(USER, PRIVATE, WITHIN))
    assert (type(error), error.kind) == (AnswerLost, "ecgrid.BadAnswer")


@BOTH
@pytest.mark.parametrize("kind", ["other-user", "malformed"])
def test_a_read_that_does_not_fit_is_tried_again(world: World, verify: Verify, kind: str) -> None:
    """Neither a stranger's record nor garbage is ever shown as this user's key, one by one or in a list."""
    account = world.account(Issue.KEYSET, verify)
    for call in (
        lambda: account.read(USER, WITHIN),
        lambda: account.keys(USER, PRIVATE, WITHIN),
    ):
        world.simulator.add_fault(Fault(kind))  # type: ignore[arg-type]  # one of the literals
        error = failing(world, call)
        assert (type(error), error.kind) == (Transient, "ecgrid.BadAnswer")


@BOTH
@pytest.mark.parametrize("kind", ["lost", "half", "closed"])
def test_a_read_whose_answer_is_cut_is_merely_transient(
    world: World, verify: Verify, kind: str
) -> None:
    """Nothing changed, so there is nothing to look for."""
    world.simulator.add_fault(Fault(kind, call="read"))  # type: ignore[arg-type]  # one of the literals
    error = failing(world, lambda: world.account(Issue.KEYSET, verify).read(USER, WITHIN))
    assert type(error) is Transient


@ISSUING
def test_a_call_that_cannot_connect_was_not_sent(world: World, way: Way) -> None:
    """So an issuing call may be repeated without looking first."""
    account = world.account(way.issue, way.verify)
    world.running.refuse(600)
    error = failing(world, lambda: account.issue(USER, PRIVATE, WITHIN))
    assert (type(error), error.kind) == (NotSent, "ecgrid.Unreachable")
    assert "ROTATOR_ECGRID__REST_URL" in str(error)


@BOTH
def test_a_hanging_call_ends(world: World, verify: Verify) -> None:
    """With a timeout that names its setting."""
    world.simulator.add_fault(Fault("hang", seconds=600))
    error = failing(world, lambda: world.account(Issue.KEYSET, verify).read(USER, 3.0))
    assert (type(error), error.kind) == (Transient, "ecgrid.Timeout")
    assert "ROTATOR_ECGRID__TIMEOUT" in str(error)


@ISSUING
def test_a_slow_drip_ends_too(world: World, way: Way) -> None:
    """Each byte comes well within any timeout, all of them would take minutes; the header drips as well."""
    world.simulator.add_fault(Fault("drip", call="issue", seconds=0.3))
    error = failing(world, lambda: world.account(way.issue, way.verify).issue(USER, PRIVATE, 1.0))
    assert (type(error), error.kind) == (AnswerLost, "ecgrid.Timeout")
    assert world.simulator.counts()[way.call] == 1


def test_a_call_without_time_is_not_sent(world: World) -> None:
    """An issuing call whose claim has run out never leaves the process."""
    for issue in Issue:
        error = failing(world, lambda issue=issue: world.account(issue).issue(USER, PRIVATE, 0.0))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        assert isinstance(error, NotSent)
    assert world.simulator.issued() == 0
    assert world.simulator.requests() == []


@BOTH
def test_a_redirect_is_never_followed(world: World, verify: Verify) -> None:
    """The key would travel along; the other place sees no request at all."""
    world.simulator.add_fault(Fault("redirect", status=307, url=f"{world.running.url}/v2/users/me"))
    error = failing(world, lambda: world.account(Issue.KEYSET, verify).read(USER, WITHIN))
    assert (type(error), error.kind) == (Transient, "ecgrid.Redirect")
    assert len(world.simulator.requests()) == 1


@pytest.mark.parametrize("ending", ["\n", "\r\n", " x", "\x00", "é", "\t"])
@BOTH
def test_a_credential_that_no_request_can_carry_is_not_sent(
    world: World, verify: Verify, ending: str
) -> None:
    """The error does not show it, and no request leaves."""
    value = token_hex(16) + ending
    account = world.account(Issue.KEYSET, verify, credentials=Credentials([lambda: Secret(value)]))
    error = failing(world, lambda: account.read(USER, WITHIN))
    assert (type(error), error.kind) == (Permanent, "secret.Malformed")
    assert not shown_anywhere(error, {value, value[:32]})
    assert world.simulator.requests() == []


def test_the_older_key_value_call_is_named_with_its_alternatives(world: World) -> None:
    """Where KeySet does not take a user's visibility, the error names create-key and generate."""
    world.simulator.add_fault(Fault("status", call="KeySet", status=400))
    message = str(failing(world, lambda: world.account().issue(USER, PRIVATE, WITHIN)))
    assert "create-key" in message
    assert "generate" in message


def test_a_key_that_ecgrid_keeps_is_reported(world: World) -> None:
    """A yes without a removal is for the second look to find; a no is an error."""
    world.simulator.switch(key_remove="pretends")
    record = world.simulator.add_key(USER)
    world.account().remove(record.key_id, WITHIN)
    assert world.simulator.who(record.value) == USER


def test_the_observer_is_told_of_every_request(world: World) -> None:
    """Name and status, or the kind of error; no address, no value."""
    account = world.account()
    account.who_am_i(WITHIN)
    world.simulator.add_fault(Fault("closed", call="GetKey"))
    failing(world, lambda: account.read(USER, WITHIN))
    assert world.told == [("Get Me", "200"), ("Get Key", "ecgrid.AnswerLost")]


def test_what_comes_back_shows_no_value(world: World) -> None:
    """Neither keys nor callers print what they hold."""
    world.simulator.switch(me_shows_key=True)
    account = world.account()
    key: ApiKey = account.issue(USER, PRIVATE, WITHIN)
    shown = [key, account.read(USER, WITHIN), account.keys(USER, PRIVATE, WITHIN)]
    text = repr([*shown, account.who_am_i(WITHIN)])
    assert not any(secret in text for secret in world.simulator.secrets())


def test_a_network_user_is_told_what_it_takes(world: World) -> None:
    """The rotator below NetworkAdmin may not act on others; the error names the level."""
    world.simulator.add_user(8000, auth_level=AuthLevel.NetworkUser)
    value = world.simulator.add_key(8000).value
    account = world.account(credentials=Credentials([lambda: Secret(value)]))
    error = failing(world, lambda: account.issue(USER, PRIVATE, WITHIN))
    assert (type(error), error.kind) == (Forbidden, "ecgrid.AccessDenied")
    assert "NetworkAdmin" in str(error)


def test_created_without_a_zone_is_utc(world: World) -> None:
    """REST and SOAP show one and the same time."""
    created = datetime(2025, 1, 15, 8, 30, tzinfo=UTC)
    world.simulator.add_user(7001)
    world.simulator.add_key(7001, created=created)
    for verify in (Verify.GET_KEY, Verify.KEY_GET):
        assert world.account(Issue.KEYSET, verify).read(7001, WITHIN).ref.created == created
