"""Which policies a command takes: by name, by tag and owner, or all; and what a shell completes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Rotator

POLICIES = """
    defaults:
      visibility: Private
      schedule: manual
      vault: {path: "ecgrid/{name}"}
      tags: [prod]
      owner: edi@example.com
    policies:
      - {name: gateway, user_id: 5001, tags: [prod, pilot]}
      - {name: batch, user_id: 5002, owner: "night shift"}
      - {name: portal, user_id: 5003, tags: [test]}
      - {name: asleep, user_id: 5004, enabled: false}
"""


@pytest.fixture
def fleet(rotator_command: Rotator) -> Rotator:
    """Four policies with two owners and three tags; one is not enabled."""
    rotator_command.policy("fleet", POLICIES)
    return rotator_command


@pytest.mark.parametrize(
    ("typed", "chosen"),
    [
        ("", "gateway batch portal asleep"),
        ("portal gateway", "portal gateway"),
        ("--tag pilot", "gateway"),
        ("--tag pilot --tag test", "gateway portal"),
        ("--owner edi@example.com", "gateway portal asleep"),
        ("--tag prod --owner edi@example.com", "gateway asleep"),
        ("--state paused", "asleep"),
        ("--tag prod --state not-adopted --state paused", "gateway batch asleep"),
        ("--state failed", ""),
    ],
)
def test_status_shows_the_policies_that_were_chosen(
    fleet: Rotator, typed: str, chosen: str
) -> None:
    """Tag and owner both have to fit; of one kind, any that is given."""
    done = fleet("status", "--json", *typed.split())
    assert done.code == 0, done.stderr
    assert [row["policy"] for row in done.json["policies"]] == chosen.split()


@pytest.mark.parametrize(
    ("command", "chosen"),
    [
        ("rotate --dry-run --tag prod", "gateway batch"),
        ("rotate --dry-run --owner edi@example.com", "gateway portal"),
        ("rotate --dry-run --all", "gateway batch portal"),
        ("rotate --dry-run asleep", "asleep"),
        ("check --tag prod", "gateway batch asleep"),
        ("adopt --tag test", "portal"),
        ("check --repair --tag test", "portal"),
    ],
)
def test_what_is_not_enabled_is_rotated_only_by_name(
    fleet: Rotator, command: str, chosen: str
) -> None:
    """Looking at it, and taking its key over, harm nobody."""
    done = fleet(*command.split(), "--json")
    assert [row["policy"] for row in done.json["results"]] == chosen.split(), done.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("rotate --tag porduction", "no policy has the tag 'porduction'"),
        ("rotate --tag piolt", "no policy has the tag 'piolt'; did you mean pilot?"),
        ("status --owner edi@example.org", "did you mean edi@example.com?"),
        ("check --tag pilot --owner 'night shift'", "no policy has that tag and that owner"),
        ("status gatway", "no policy is named 'gatway'; did you mean gateway?"),
        ("status gateway --tag pilot", "NAME... is one way"),
        ("rotate --all --tag pilot", "NAME... is one way"),
        ("adopt", "say which policies: NAME..., or --tag TAG and --owner OWNER, or --all"),
    ],
)
def test_what_fits_nobody_is_refused(fleet: Rotator, typed: str, said: str) -> None:
    """With exit 2 and a likely spelling; nothing is done."""
    words = [word.strip("'") for word in typed.replace("night shift", "night\0shift").split()]
    done = fleet(*(word.replace("\0", " ") for word in words))
    assert (done.code, done.stdout) == (2, "")
    assert said in done.stderr


def completed(command: Rotator, typed: str, **environment: str) -> list[str]:
    """What a shell offers for the last word."""
    environment |= {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    started = command.start(_ROTATOR_COMPLETE="bash_complete", **environment)
    done = started.finish()
    assert (done.code, done.stderr) == (0, ""), done
    return [line.removeprefix("plain,") for line in done.stdout.split("\n") if line]


def test_a_shell_completes_names_tags_owners_and_states(fleet: Rotator) -> None:
    """Out of the policy files, also those that --policies names; nothing is asked of Vault or ECGrid."""
    fleet.environment = {
        name: value
        for name, value in fleet.environment.items()
        if not name.startswith(("VAULT", "ROTATOR_"))
    }
    assert completed(fleet, "rotator rotate p") == ["portal"]
    assert completed(fleet, "rotator status ") == ["asleep", "batch", "gateway", "portal"]
    assert completed(fleet, "rotator check --tag p") == ["pilot", "prod"]
    assert completed(fleet, "rotator adopt --owner e") == ["edi@example.com"]
    assert completed(fleet, "rotator history g") == ["gateway"]
    assert completed(fleet, "rotator status --state o") == ["ok", "overdue"]
    fleet.policies.rename(fleet.directory / "elsewhere")
    assert completed(fleet, "rotator status p") == []
    assert completed(fleet, "rotator --policies elsewhere status p") == ["portal"]


def test_a_shell_is_told_nothing_of_what_is_wrong(fleet: Rotator, tmp_path: Path) -> None:
    """Files that are broken, settings that are none: what can be read is offered, in silence."""
    fleet.policy("broken", "a: [")
    fleet.policy("doubtful", "{user_id: 5005, visibility: private, owner: [], schedule: manual}")
    assert completed(fleet, "rotator rotate p") == ["portal"]
    assert completed(fleet, "rotator rotate p", ROTATOR_DEADLINE="soon") == ["portal"]
    (fleet.directory / "rotator.toml").write_text("[")
    assert completed(fleet, "rotator rotate p") == []
    assert completed(fleet, "rotator rotate p", ROTATOR_POLICIES=str(tmp_path / "nowhere")) == []
