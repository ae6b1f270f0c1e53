"""The rotator's own credential: where it is read, what happens when it is refused, sessions on both surfaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex

import pytest
from conftest import OPERATOR, USERS
from test_ecgrid_client import WITHIN, World, failing

from rotator.ecgrid import Account, Credentials, Rate, Urgency
from rotator.ecgrid.caller import SharedSession
from rotator.ecgrid.rest import Rest
from rotator.ecgrid.soap import Soap
from rotator.ecgrid.surface import By
from rotator.ecgrid.wire import Wire
from rotator.errors import Failure, Forbidden, NotSent, Permanent, Refused, Transient
from rotator.keys import Issue, Secret, Verify, Visibility
from rotator.sandbox.ecgrid import Fault, Running

USER = USERS[0]
PRIVATE = Visibility.PRIVATE
REST, SOAP = Verify.GET_KEY, Verify.KEY_GET
BOTH = pytest.mark.parametrize("verify", [REST, SOAP], ids=["rest", "soap"])


@pytest.fixture
def world(simulator: Running) -> Iterator[World]:
    """The simulator and its clients."""
    world = World(simulator)
    yield world
    world.close()


def fresh() -> Secret:
    """A value that nobody knows."""
    return Secret(token_hex(16))


class Clock:
    """A clock that sleeping moves on."""

    def __init__(self) -> None:
        self.at = 0.0
        self.naps: list[float] = []
        self.then: Callable[[], None] | None = None

    def __call__(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        """Sleeps without waiting, and then lets something happen."""
        self.naps.append(seconds)
        self.at += seconds
        if self.then is not None:
            self.then()


# the sources


def test_sources_are_asked_in_order_and_only_once() -> None:
    """The first that has a value gives it; it is not read again for every call."""
    value, asked = fresh(), list[int]()

    def source(number: int, answer: Secret | None) -> Callable[[], Secret | None]:
        def read() -> Secret | None:
            asked.append(number)
            return answer

        return read

    credentials = Credentials([source(1, None), source(2, value), source(3, fresh())])
    assert credentials.current() == value
    assert credentials.current() == value
    assert asked == [1, 2]


def test_a_source_that_fails_counts_as_empty() -> None:
    """Another one stands in; with none, its own error is what is wrong."""

    def broken() -> Secret | None:
        raise Transient("Vault is sealed", kind="vault.Sealed")

    value = fresh()
    assert Credentials([broken, lambda: value]).current() == value
    with pytest.raises(Transient) as caught:
        Credentials([broken, lambda: None]).current()
    assert caught.value.kind == "vault.Sealed"


def test_without_any_credential_the_settings_are_named() -> None:
    """The error says what to set."""
    with pytest.raises(Permanent, match="ROTATOR_ECGRID__API_KEY") as caught:
        Credentials([]).current()
    assert caught.value.kind == "ecgrid.NoCredential"


def test_a_login_shows_no_key() -> None:
    """`current` is None: there is no key that a rotation could end."""
    assert Credentials([], "rotator", fresh()).current() is None
    assert Credentials([lambda: None], "rotator", fresh()).current() is None


def test_a_refused_value_gives_way_to_a_changed_source() -> None:
    """The source is read again, and what it has now is used."""
    held = [fresh()]
    credentials = Credentials([lambda: held[0]])
    old = credentials.current()
    assert old is not None
    held[0] = fresh()
    assert credentials.reread(old, 0.0) == held[0]
    assert credentials.current() == held[0]


def test_the_next_source_and_at_last_the_login_stand_in() -> None:
    """In the order of the sources; none of the refused values comes back."""
    first, second = fresh(), fresh()
    credentials = Credentials([lambda: first, lambda: second], "rotator", fresh())
    assert credentials.current() == first
    assert credentials.reread(first, 0.0) == second
    assert credentials.reread(second, 0.0) is None
    assert credentials.current() is None


def test_without_a_login_a_rotation_of_the_own_key_is_waited_for() -> None:
    """About once a second the source is looked at, and the new value used as soon as it is there."""
    clock, held = Clock(), [fresh()]
    credentials = Credentials([lambda: held[0]], clock=clock, sleep=clock.sleep)
    old, new = credentials.current(), fresh()
    assert old is not None

    def publish() -> None:
        if clock.at >= 7:
            held[0] = new

    clock.then = publish
    assert credentials.reread(old, 30.0) == new
    assert (clock.at, set(clock.naps)) == (7.0, {1.0})


def test_when_nothing_changes_the_error_names_the_settings() -> None:
    """After the time given; the value goes nowhere."""
    clock, value = Clock(), fresh()
    credentials = Credentials([lambda: value], clock=clock, sleep=clock.sleep)
    with pytest.raises(Refused, match="ROTATOR_ECGRID__API_KEY_VAULT") as caught:
        credentials.reread(value, 4.5)
    assert caught.value.kind == "ecgrid.InvalidAPIKey"
    assert clock.at == 4.5
    with pytest.raises(Refused, match="does not accept"):  # not that there is none
        credentials.current()


def test_a_value_that_was_accepted_after_all_may_be_used_again() -> None:
    """A refusal is not for ever."""
    value = fresh()
    credentials = Credentials([lambda: value], "rotator", fresh())
    assert credentials.reread(value, 0.0) is None
    credentials.accepted(value)
    assert credentials.reread(fresh(), 0.0) == value


def test_a_replaced_value_is_used_at_once() -> None:
    """Whatever the sources still say."""
    old, new = fresh(), fresh()
    credentials = Credentials([lambda: old])
    assert credentials.current() == old
    credentials.replace(new)
    assert credentials.current() == new
    assert credentials.reread(old, 0.0) == new


# over the wire


def login(world: World, user_id: int = OPERATOR) -> tuple[str, Secret]:
    """A user's login and password."""
    user = next(user for user in world.simulator.users() if user.user_id == user_id)
    return user.login, Secret(user.password)


def signed_in(world: World, verify: Verify = REST, **switches: object) -> Account:
    """A client that has a login and nothing else."""
    world.simulator.switch(**switches)
    issue = Issue.KEYSET if verify is SOAP else Issue.CREATE_KEY
    return world.account(issue, verify, credentials=Credentials([], *login(world)))


@BOTH
@pytest.mark.parametrize("field", ["both", "login", "email"])
def test_a_login_serves_many_calls_with_one_session(
    world: World, verify: Verify, field: str
) -> None:
    """It is opened once per surface, whatever the log-in page calls the name."""
    account = signed_in(world, verify, login_field=field, soap_accepts_api_key=False)
    for _ in range(3):
        account.read(USER, WITHIN)
    account.issue(USER, PRIVATE, WITHIN)
    counts = world.simulator.counts()
    assert counts.get("Login", 0) + counts.get("AuthLogin", 0) == 1


@BOTH
def test_threads_share_the_session(world: World, verify: Verify) -> None:
    """Eight at once open one session; sessions are few per user."""
    account = signed_in(world, verify)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: account.keys(USER, PRIVATE, WITHIN), range(24)))
    counts = world.simulator.counts()
    assert counts.get("Login", 0) + counts.get("AuthLogin", 0) == 1
    assert world.simulator.sessions() == 1


@BOTH
def test_closing_logs_out(world: World, verify: Verify) -> None:
    """No session is left behind."""
    ecgrid = world.ecgrid(credentials=Credentials([], *login(world)))
    account = ecgrid.account(Issue.KEYSET, verify, Urgency.ROTATION)
    account.read(USER, WITHIN)
    assert world.simulator.sessions() == 1
    ecgrid.close()
    assert world.simulator.sessions() == 0


@BOTH
def test_closing_does_not_mind_a_dead_ecgrid(world: World, verify: Verify) -> None:
    """The session ends by itself."""
    ecgrid = world.ecgrid(credentials=Credentials([], *login(world)))
    ecgrid.account(Issue.KEYSET, verify, Urgency.ROTATION).read(USER, WITHIN)
    world.running.refuse(600)
    ecgrid.close()


@BOTH
def test_an_ended_session_is_opened_anew(world: World, verify: Verify) -> None:
    """Also for an issuing call, which is then carried out once."""
    account = signed_in(world, verify)
    account.read(USER, WITHIN)
    assert world.simulator.end_sessions() == 1
    account.issue(USER, PRIVATE, WITHIN)
    assert world.simulator.issued(USER) == 1
    assert world.simulator.sessions() == 1


@pytest.mark.parametrize("token", [False, True], ids=["by-jwt", "by-refresh-token"])
def test_a_session_is_renewed_before_it_ends(world: World, token: bool) -> None:
    """A minute ahead, by Refresh; where ECGrid has forgotten it, by logging in again."""
    world.simulator.switch(session_seconds=3600.0, refresh_token=token)
    clock, wire = Clock(), Wire([world.running.rest_url])
    credentials = Credentials([], *login(world))
    rest = Rest(wire, world.running.rest_url, world.ecgrid().spoken)
    session = SharedSession(rest, credentials, Rate(None), clock)
    first = session.token(WITHIN)
    clock.at += 3500
    assert session.token(WITHIN) == first
    clock.at += 60
    second = session.token(WITHIN)
    assert rest.who_am_i(By(second, is_session=True), WITHIN).user_id == OPERATOR
    assert second != first
    assert world.simulator.counts()["AuthLogin"] == 1
    world.simulator.end_sessions()
    clock.at += 3560
    session.token(WITHIN)
    assert world.simulator.counts()["AuthLogin"] == 2
    session.close()
    wire.close()
    assert world.simulator.sessions() == 0


@BOTH
def test_a_wrong_password_names_the_settings(world: World, verify: Verify) -> None:
    """And not the password."""
    wrong = Secret("aA1!" + token_hex(12))
    credentials = Credentials([], login(world)[0], wrong)
    account = world.account(Issue.KEYSET, verify, credentials=credentials)
    error = failing(world, lambda: account.read(USER, WITHIN))
    assert (type(error), error.kind) == (Refused, "ecgrid.InvalidSession")
    assert "ROTATOR_ECGRID__PASSWORD" in str(error)
    assert wrong.against(Secret(str(error))).value == "contradicts"


@BOTH
def test_a_refused_login_is_not_tried_again_at_once(world: World, verify: Verify) -> None:
    """Too many would lock the user out: ten minutes later, or in a process that reads another one."""
    clock = Clock()
    wrong = Secret("aA1!" + token_hex(12))
    credentials = Credentials([], login(world)[0], wrong, clock=clock)
    account = world.account(Issue.KEYSET, verify, credentials=credentials)
    for _ in range(3):
        assert failing(world, lambda: account.read(USER, WITHIN)).kind == "ecgrid.InvalidSession"
    tried = sum(world.simulator.counts().values())
    assert tried == 1
    clock.at += 601
    assert failing(world, lambda: account.read(USER, WITHIN)).kind == "ecgrid.InvalidSession"
    assert sum(world.simulator.counts().values()) == 2


def test_with_a_login_soap_takes_a_session_and_rest_the_key(world: World) -> None:
    """The key stays what REST is documented for."""
    world.simulator.switch(soap_accepts_api_key=False)
    key = Secret(world.simulator.api_key(OPERATOR) or "")
    credentials = Credentials([lambda: key], *login(world))
    account = world.account(Issue.KEYSET, REST, credentials=credentials)
    account.issue(USER, PRIVATE, WITHIN)
    account.read(USER, WITHIN)
    assert {"Login", "KeySet", "GetKey"} == set(world.simulator.counts())


def test_a_key_that_soap_does_not_take_names_the_login(world: World) -> None:
    """At once, without waiting for the key to change: REST accepts it."""
    world.simulator.switch(soap_accepts_api_key=False)
    account = world.account(Issue.KEYSET, SOAP)
    error = failing(world, lambda: account.issue(USER, PRIVATE, 600.0))
    assert isinstance(error, Refused)
    assert "ROTATOR_ECGRID__LOGIN" in str(error)
    assert "ROTATOR_ECGRID__PASSWORD" in str(error)
    assert world.simulator.issued() == 0


@BOTH
def test_a_rotated_own_key_is_read_again(world: World, verify: Verify) -> None:
    """The refused call is repeated once with what the source has now; nothing is issued twice."""
    held = [Secret(world.simulator.api_key(OPERATOR) or "")]
    issue = Issue.KEYSET if verify is SOAP else Issue.CREATE_KEY
    account = world.account(issue, verify, credentials=Credentials([lambda: held[0]]))
    account.read(USER, WITHIN)
    for record in world.simulator.keys(OPERATOR):
        world.simulator.remove_key(record.key_id)
    held[0] = Secret(world.simulator.add_key(OPERATOR).value)
    account.issue(USER, PRIVATE, WITHIN)
    assert world.simulator.issued(USER) == 1


@BOTH
def test_a_rotation_that_is_about_to_be_published_is_waited_for(
    world: World, verify: Verify
) -> None:
    """The source still has the old key when ECGrid refuses it, and the new one at a later look."""
    new = Secret(world.simulator.api_key(OPERATOR) or "")
    published = iter([fresh(), None, new])
    account = world.account(
        Issue.KEYSET, verify, credentials=Credentials([lambda: next(published)])
    )
    account.read(USER, 600.0)
    assert next(published, None) is None


@BOTH
def test_a_refused_own_key_without_a_way_out_is_an_error_in_time(
    world: World, verify: Verify
) -> None:
    """Of its own kind, with the settings' names."""
    value = fresh()
    account = world.account(Issue.KEYSET, verify, credentials=Credentials([lambda: value]))
    error = failing(world, lambda: account.read(USER, 0.5))
    assert (type(error), error.kind) == (Refused, "ecgrid.InvalidAPIKey")
    assert "ROTATOR_ECGRID__API_KEY" in str(error)


@BOTH
def test_two_refused_keys_lead_to_the_login(world: World, verify: Verify) -> None:
    """Each is tried once, in order."""
    first, second = fresh(), fresh()
    credentials = Credentials([lambda: first, lambda: second], *login(world))
    account = world.account(Issue.KEYSET, verify, credentials=credentials)
    account.who_am_i(WITHIN)
    assert world.simulator.counts()["GetMe"] == 3
    account.read(USER, WITHIN)


@BOTH
def test_a_refused_caller_is_the_callers_affair(world: World, verify: Verify) -> None:
    """The probe of a dead key says so at once, and the own credential is not touched."""
    account = world.account(Issue.KEYSET, verify)
    error = failing(world, lambda: account.read(USER, 600.0, caller=fresh()))
    assert (type(error), error.kind) == (Refused, "ecgrid.InvalidAPIKey")
    assert len(world.simulator.requests()) == 1
    account.read(USER, WITHIN)


def test_the_own_key_is_used_from_when_it_is_issued(world: World) -> None:
    """Before it is published anywhere."""
    world.simulator.switch(keyset="replace")
    account = world.account(Issue.KEYSET, SOAP)
    key = account.issue(OPERATOR, PRIVATE, WITHIN)
    account.use(key.value)
    assert account.who_am_i(WITHIN).user_id == OPERATOR
    assert world.simulator.counts()["GetMe"] == 1


def test_a_user_below_network_admin_still_reads_its_own(world: World) -> None:
    """And is told apart from one that is refused."""
    value = Secret(world.simulator.api_key(USER) or "")
    account = world.account(credentials=Credentials([lambda: value]))
    assert account.read(USER, WITHIN).shown == value
    assert isinstance(failing(world, lambda: account.read(USERS[1], WITHIN)), Forbidden)


# the rate


def test_granted_requests_are_drawn_on_first(world: World) -> None:
    """Three that were reserved go out at once; the fourth would come too late and is not sent."""
    account = world.account(rate=Rate(0.001))
    account.reserve(3)
    account.issue(USER, PRIVATE, WITHIN)
    account.read(USER, WITHIN)
    account.who_am_i(WITHIN)
    error = failing(world, lambda: account.who_am_i(WITHIN))
    assert (type(error), error.kind) == (NotSent, "ecgrid.RateLimitExceeded")
    assert len(world.simulator.requests()) == 3


@BOTH
def test_a_429_holds_everybody_back(world: World, verify: Verify) -> None:
    """Another policy's call is not even sent while ECGrid wants to be left alone."""
    ecgrid = world.ecgrid()
    world.simulator.add_fault(Fault("status", status=429, retry_after=100))
    one = ecgrid.account(Issue.KEYSET, verify, Urgency.ROTATION)
    other = ecgrid.account(Issue.CREATE_KEY, REST, Urgency.PAST_ISSUE)
    for account in (one, other):
        error: Failure = failing(world, lambda account=account: account.read(USER, WITHIN))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        assert isinstance(error, Transient)
        assert error.kind == "ecgrid.RateLimitExceeded"
        assert (error.retry_after or 0) > 90
    assert len(world.simulator.requests()) == 1


def test_soap_can_say_whose_a_credential_is(world: World) -> None:
    """WhoAmI, with a key and with a session; its answer has no status."""
    wire = Wire([world.running.soap_url])
    soap = Soap(wire, world.running.soap_url, world.ecgrid().spoken)
    value = Secret(world.simulator.api_key(USER) or "")
    session = soap.log_in(*login(world), WITHIN)
    for by, user_id in ((By(value), USER), (By(session.token, is_session=True), OPERATOR)):
        me = soap.who_am_i(by, WITHIN)
        assert (me.user_id, me.login, me.status) == (user_id, f"user{user_id}", "")
    soap.log_out(session, WITHIN)
    wire.close()
