"""The hunt at an ECGrid as it describes itself: session ids in answers, numbered faults and problem JSON that quote."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import EVERY, VaultServer
from leaks.hunt import OPERATOR, Hunt, hunt, results
from test_leaks_hunt import FAULTS, PATIENCE, assert_nothing_found

from rotator.sandbox.ecgrid import Fault, Switches

REST = "issue: generate\nverify: get-api-key\n"
SOAP = "issue: generate\nverify: user-get-api-key\n"
CALLS = [
    ("GenerateAPIKey", SOAP), ("GenerateKey", REST), ("UserGetAPIKey", SOAP), ("GetAPIKey", REST), ("GetMe", REST),
]  # fmt: skip
NUMBERED: list[tuple[str, dict[str, Any]]] = [
    ("numbered", {"number": number, "quoting": True}) for number in (-1, 1, 2, 3, 8, 10, 11, 99)
]
SESSIONS = ("Login", "AuthLogin", "AuthSession", "Logout", "AuthLogout", "GetMe", "WhoAmI")
SHORT = PATIENCE | {"ROTATOR_ECGRID__TIMEOUT": "2"}


@pytest.fixture(params=["presented", "session"])
def quarry(
    request: pytest.FixtureRequest, tmp_path: Path, vault: VaultServer, mount: str
) -> Iterator[Hunt]:
    """A hunt of this test's own; Get Me and SessionInfo tell the credential itself, or a session of its own."""
    switches = Switches.service(
        session_shown=request.param,
        fault_shape="flat" if request.param == "session" else "error-info",
    )
    with hunt(tmp_path, vault, mount, switches) as made:
        yield made


def log_in(quarry: Hunt) -> None:
    """The rotator has a login, which SOAP uses."""
    user = next(user for user in quarry.simulator.simulator.users() if user.user_id == OPERATOR)
    quarry.environment |= {
        "ROTATOR_ECGRID__LOGIN": user.login,
        "ROTATOR_ECGRID__PASSWORD_FILE": quarry.secret_file("password", user.password),
    }


@pytest.mark.full
def test_nothing_leaks_when_the_service_fails_in_every_way(quarry: Hunt) -> None:
    """Each fault at each call of Generate's family, with answers that quote; what they leave open is then repaired."""
    faults = [*FAULTS, *NUMBERED]
    pairs = list(itertools.product(range(len(CALLS)), range(len(faults))))
    chosen = pairs if EVERY else [pair for pair in pairs if sum(pair) % 3 == 0]
    model = quarry.simulator.simulator
    for number, (call, fault) in enumerate(chosen):
        user_id, (name, calls), (kind, options) = 6001 + number, CALLS[call], faults[fault]
        quarry.policy(f"p{number}", user_id, calls + "first: rotate\n")
        if kind == "redirect":
            options = {**options, "url": f"http://{quarry.thief.address}/stolen"}
        model.add_fault(Fault(kind, call=name, about=user_id, times=None, **options))  # type: ignore[arg-type]  # kinds
    assert len(chosen) >= 40
    done = quarry.run("rotate", "--all", "--json", env=SHORT)
    assert done.code == 1
    failed = [one for one in results(done) if one["outcome"] == "failed"]
    assert len(failed) >= len(chosen) // 2
    assert "fleet.Braked" not in {one["error"]["kind"] for one in failed}
    quarry.run("status")
    model.clear_faults()
    quarry.run("check", "--repair", env=PATIENCE)
    quarry.run("check")
    assert len(quarry.sentry.taken) >= 20
    assert quarry.thief.taken == []
    assert_nothing_found(quarry)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("call", SESSIONS if EVERY else SESSIONS[::3])
def test_nothing_leaks_when_a_session_fails(quarry: Hunt, call: str) -> None:
    """At the log-in, the log-out, and whenever it is asked whose it is: refused, numbered, quoted, or cut."""
    log_in(quarry)
    quarry.policy("soap", 6001, SOAP)
    quarry.policy("rest", 6002, REST)
    faults = [("status", {"status": 401}), ("status", {"status": 500}), ("html", {"status": 200})]
    faults += [("half", {}), ("malformed", {})]
    for kind, options in [*faults, *NUMBERED] if EVERY else [*faults[::2], *NUMBERED[1::3]]:
        quoting = {} if kind in ("half", "malformed") else {"quoting": True}
        fault = Fault(kind, call=call, times=None, **{**options, **quoting})  # type: ignore[arg-type]  # kinds
        quarry.simulator.simulator.add_fault(fault)
        quarry.run("rotate", "--all", "--json", env=SHORT)
        quarry.simulator.simulator.clear_faults()
    assert_nothing_found(quarry)


@pytest.mark.full
@pytest.mark.parametrize("with_login", [True, False])
def test_nothing_leaks_when_all_goes_well(quarry: Hunt, *, with_login: bool) -> None:
    """Every command, by both surfaces, with a key and with a login; the session ids of all answers are hunted."""
    if with_login:
        log_in(quarry)
    for number, calls in enumerate((REST, SOAP)):
        quarry.policy(f"p{number}", 6001 + number, calls)
    commands = [
        "validate", "doctor --json", "run --once", "rotate --all --reason hunt", "rotate p0 --grace 0s --json",
        "rotate p1 --dry-run", "status --json", "check", "check --json --repair", "history p0", "plan",
        "--log-format json rotate p1", "doctor",
    ]  # fmt: skip
    codes = {command: quarry.run(*command.split()).code for command in commands}
    assert {command: code for command, code in codes.items() if code} == {}
    assert_nothing_found(quarry)


@pytest.mark.full
def test_a_session_id_is_a_secret_from_the_moment_it_is_read(quarry: Hunt) -> None:
    """Whoever prints or logs it shows nothing; without the net the hunt finds it."""
    log_in(quarry)
    quarry.policy("edi", 6001, SOAP)
    for deeds in (["show-session"], ["show-session", "lib-log"]):
        done = quarry.run("rotate", "edi", deeds=deeds, env=PATIENCE)
        assert "caller: Me(" in done.stderr
        assert "session: " in done.stderr
        assert quarry.findings() == []
    assert quarry.said_so != []
    quarry.run("rotate", "edi", deeds=["show-session", "no-stream-net"], env=PATIENCE)
    assert quarry.findings() != []


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (REST, Fault("status", call="GenerateKey", status=403, quoting=True, times=None)),
        (SOAP, Fault("numbered", call="GenerateAPIKey", number=2, quoting=True, times=None)),
    ],
)
def test_without_the_translation_the_hunt_finds_what_is_quoted(
    quarry: Hunt, text: str, fault: Fault
) -> None:
    """In problem JSON, and in the service's own faults."""
    quarry.policy("edi", 6001, text)
    quarry.simulator.simulator.add_fault(fault)
    quarry.run("rotate", "edi", env=SHORT)
    assert_nothing_found(quarry)
    quarry.run("rotate", "edi", deeds=["no-ecgrid-translation"], env=SHORT)
    assert quarry.findings() or quarry.said_so
