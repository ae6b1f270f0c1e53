"""`doctor` and `check` over many policies: few requests, what is wrong first, what is alike once, how far they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import OPERATOR, Roles, Rotator
from terminal import at_a_terminal, shown_on
from test_vault_policy import printed

from rotator.sandbox.ecgrid import AuthLevel, Simulator, Switches
from rotator.sandbox.ecgrid.listening import start

HEAD = """
defaults:
  visibility: Private
  schedule: {every: 30d, jitter: 7d}
  vault: {path: "ecgrid/{name}"}
"""


@contextmanager
def a_fleet(command: Rotator, policies: int, form: str = "portal") -> Iterator[Simulator]:
    """So many policies, and the users with their keys in an ECGrid of that form."""
    model = Simulator(Switches.from_json({"form": form}))
    model.add_user(OPERATOR, auth_level=AuthLevel.NetworkAdmin)
    model.add_key(OPERATOR)
    for user_id in range(5001, 5001 + policies):
        model.add_user(user_id)
        model.add_key(user_id)
    lines = [f"  - {{name: p{number}, user_id: {5001 + number}}}" for number in range(policies)]
    calls = "  issue: generate\n  verify: get-api-key\n" if form == "service" else ""
    command.policy("fleet", HEAD + calls + "policies:\n" + "\n".join(lines))
    with start(model) as running:
        command.environment |= {
            "ROTATOR_ECGRID__REST_URL": running.rest_url,
            "ROTATOR_ECGRID__SOAP_URL": running.soap_url,
            "ROTATOR_ECGRID__API_KEY": model.api_key(OPERATOR) or "",
        }
        command.secrets |= model.secrets()
        yield model
        command.secrets |= model.secrets()
    assert model.violations() == []


@pytest.mark.parametrize("form", ["portal", "service"])
def test_doctor_asks_ecgrid_few_things_for_200_policies(
    rotator_command: Rotator, form: str
) -> None:
    """So few that it takes half a minute at the default rate; lines that are alike are one, and the last one counts."""
    with a_fleet(rotator_command, 200, form) as model:
        done = rotator_command("doctor")
        asked = sum(model.counts().values())
    assert done.code == 0, done.stdout
    assert asked <= 20, model.counts()
    lines = done.stdout.splitlines()
    assert len(lines) < 25, done.stdout
    assert re.search(
        r"^ok +Vault rights for p0, p1, p2 and 197 more +\S", done.stdout, re.MULTILINE
    )
    assert "5 of 200 policies: `rotator doctor NAME...` looks at those that it names" in done.stdout
    assert re.fullmatch(r"\d+ ok", lines[-1])


def test_doctor_looks_at_all_that_it_names(rotator_command: Rotator) -> None:
    """By name at each; by tag, or all, at some."""
    with a_fleet(rotator_command, 12) as model:
        names = [f"p{number}" for number in range(8)]
        named = rotator_command("doctor", "--json", *names).json["checks"]
        assert {f"keys of {name}" for name in names} <= {one["what"] for one in named}
        assert not [one for one in named if one["what"].endswith((" p8", " p11"))]
        model.remove_key(model.keys(5012)[0].key_id)
        every = rotator_command("doctor", "--json").json["checks"]
    looked = [one for one in every if one["what"].startswith("keys of ")]
    assert len(looked) == 5
    assert looked[0]["what"] == "keys of p11"
    assert looked[0]["state"] == "warning"


def test_doctor_tells_what_fails_first_and_what_fails_alike_once(
    rotator_command: Rotator, roles: Roles
) -> None:
    """Thirty policies that lack the same rights are one line, which names the way to grant them."""
    with a_fleet(rotator_command, 40):
        few = printed(rotator_command, *(f"p{number}" for number in range(10)))
        rotator_command.environment |= roles.environment(few)
        done = rotator_command("doctor")
        checks = rotator_command("doctor", "--json").json["checks"]
    assert done.code == 1
    lines = done.stdout.splitlines()
    assert [bool(re.match("failed", line)) for line in lines[1:4]] == [True, False, False], lines
    assert "Vault rights for p10, p11, p12 and 27 more" in lines[1]
    assert "`rotator vault-policy` prints" in lines[1]
    assert re.fullmatch(r"30 failed, \d+ ok", lines[-1])
    assert [one["state"] for one in checks] == ["failed"] * 30 + ["ok"] * (len(checks) - 30)


def test_check_tells_what_is_wrong_first_and_counts(rotator_command: Rotator) -> None:
    """Two requests a policy; what is in sync is one line, and so are drifts of one kind."""
    with a_fleet(rotator_command, 20) as model:
        assert rotator_command("adopt", "--all").code == 0
        before = model.counts()
        well = rotator_command("check")
        asked = sum(model.counts().values()) - sum(before.values())
        for user_id in (5003, 5007, 5011, 5015, 5019):
            model.remove_key(model.keys(user_id)[0].key_id)
        ill = rotator_command("check")
    assert (well.code, ill.code) == (0, 4)
    assert asked <= 2 * 20 + 3
    assert well.stdout.splitlines()[1].startswith("p0, p1, p2 and 17 more  in-sync")
    assert well.stdout.splitlines()[-1] == "20 in-sync"
    first = ill.stdout.splitlines()[1]
    assert first.startswith("p2, p6, p10 and 2 more  no-key")
    assert ill.stdout.splitlines()[-1] == "5 no-key, 15 in-sync"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("doctor", r"users in ECGrid: \d of 5"),
        ("doctor", r"policies in Vault: \d+ of 30"),
        ("check", r"policies: \d+ of 30, \d+s left"),
    ],
)
def test_how_far_they_are_shows_at_a_terminal(
    rotator_command: Rotator, command: str, shown: str
) -> None:
    """With the time that is left; in a pipe there is nothing but the result."""
    with a_fleet(rotator_command, 30):
        with at_a_terminal(rotator_command, command, ROTATOR_ECGRID__RATE="60") as (_, screen):
            assert re.search(shown, shown_on(screen))
        assert rotator_command(command).stderr == ""
