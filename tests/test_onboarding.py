"""From nothing to a fleet, as start-here.md says; and what comes later: a user leaves, another environment, a move."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Roles, Rotator, VaultServer
from test_doctor import a_fleet
from test_vault_policy import printed

from rotator.keys import Issue, Verify
from rotator.policy import PolicyDefaults, load
from rotator.policy.adding import Calls, Entry, File

RATE, TEN_MINUTES = 1.5, 600  # ECGrid's default rate in requests a second; seconds
AT_ONCE = 8  # policies, by default: each of the first ones finds out for itself what the others are told then


@pytest.mark.parametrize("form", ["portal", "service"])
def test_two_hundred_users_have_policies_within_ten_minutes(
    rotator_command: Rotator, roles: Roles, form: str
) -> None:
    """Imported, validated, adopted, under the policy that was printed: counted in requests, at ECGrid's rate."""
    with a_fleet(rotator_command, 200, form) as model:
        (rotator_command.policies / "fleet.yaml").unlink()
        imported = rotator_command("import", "--out", "policies/users.yaml")
        assert "200 policies added, 1 user is a comment, 0 to look at" in imported.stdout
        rotator_command.environment |= roles.environment(printed(rotator_command))
        assert rotator_command("validate").stdout.endswith("200 policies, no errors\n")
        adopted = rotator_command("adopt", "--all", "--json")
        asked = sum(model.counts().values())
        assert (adopted.code, adopted.json["summary"]) == (0, {"adopted": 200}), adopted.stderr
        assert asked <= 200 * (3 if form == "service" else 4) + 2 * AT_ONCE + 30, model.counts()
        assert asked / RATE < TEN_MINUTES, model.counts()
        assert model.issued() == 0


def test_a_thousand_imported_users_are_due_at_times_of_their_own(tmp_path: Path) -> None:
    """Adopted in one second, and never more than a few in ten minutes; without the jitter all at once."""
    entries = [Entry(f"user{number}-example-com", number) for number in range(1, 1001)]
    calls = Calls(Issue.KEYSET, Verify.GET_KEY)
    path = tmp_path / "users.yaml"
    path.write_text(File(None).with_added(entries, "ecgrid/{name}", calls, PolicyDefaults()))

    def most() -> int:
        adopted = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
        due = [one.schedule.next_due(adopted, one.name) for one in load(path, PolicyDefaults())]
        tens = Counter((at - adopted) // timedelta(minutes=10) for at in due if at is not None)
        assert tens.total() == 1000
        return max(tens.values())

    assert most() <= 8
    path.write_text(path.read_text().replace(", jitter: 7d", ""))
    assert most() == 1000


def test_two_environments_share_a_vault_and_touch_nothing_of_each_other(
    rotator_command: Rotator, roles: Roles, vault: VaultServer, mount: str
) -> None:
    """Each with a state path and paths of its own, under the policy that is printed for it."""
    with a_fleet(rotator_command, 3) as production:
        of_production = printed(rotator_command)
        rotator_command.environment |= roles.environment(of_production)
        assert rotator_command("adopt", "--all").code == 0
        keys = {user_id: production.api_key(user_id) for user_id in (5001, 5002, 5003)}
        with a_fleet(rotator_command, 3) as test:
            rotator_command.environment["ROTATOR_VAULT__STATE_PATH"] = "rotator-test"
            fleet = rotator_command.policies / "fleet.yaml"
            refused = rotator_command("rotate", "--all")
            assert refused.code == 1  # not below its state path, and not its secrets
            fleet.write_text(fleet.read_text().replace("ecgrid/{name}", "test/{name}"))
            of_test = printed(rotator_command)
            assert "ecgrid" not in of_test.replace("rotator-test/ecgrid", "")
            rotator_command.environment |= roles.environment(of_test)
            done = rotator_command("rotate", "--all", "--json")
            assert (done.code, done.json["summary"]) == (0, {"rotated": 3}), done.stderr
            assert test.issued() == 3
        assert production.issued() == 0
    for number, value in enumerate(keys.values()):
        shown = vault.call("GET", f"{mount}/data/ecgrid/p{number}")["data"]["data"]["api_key"]
        assert shown == value


def test_a_state_path_moves_without_a_new_key(rotator_command: Rotator) -> None:
    """A rotator at the new place stops by itself; `adopt --all` builds the records, and all is in sync."""
    with a_fleet(rotator_command, 7) as model:
        assert rotator_command("rotate", "--all").code == 0
        rotator_command.environment["ROTATOR_VAULT__STATE_PATH"] = "rotator-moved"
        stopped = rotator_command("run", "--once", "--json")
        assert stopped.code == 1
        assert {one["error"]["kind"] for one in stopped.json["results"]} == {"fleet.RecordsLost"}
        assert rotator_command("adopt", "--all").code == 0
        assert rotator_command("check").code == 0
        assert rotator_command("run", "--once").code == 0
        assert model.issued() == 7


def test_a_user_that_left_is_left_alone(
    rotator_command: Rotator, vault: VaultServer, mount: str
) -> None:
    """Named by `check` until its record is deleted; an import leaves it out once it is not active, or in a comment."""
    with a_fleet(rotator_command, 3) as model:
        assert rotator_command("adopt", "--all").code == 0
        fleet = rotator_command.policies / "fleet.yaml"
        lines = fleet.read_text().splitlines(keepends=True)
        fleet.write_text("".join(line for line in lines if "p1," not in line))
        model.add_user(5002, status="Suspended")
        checked = rotator_command("check")
        assert (checked.code, "records without a policy here: p1" in checked.stdout) == (0, True)
        assert rotator_command("run", "--once").code == 0
        vault.call("DELETE", f"{mount}/metadata/rotator/record/p1")
        assert "without a policy" not in rotator_command("check").stdout
        assert rotator_command("import", "--out", str(fleet)).code == 0
        assert "# status Suspended, no policy: {name: user5002, user_id: 5002}" in fleet.read_text()
        assert [one.name for one in load(fleet, PolicyDefaults())] == ["p0", "p2"]
        model.add_user(5002)
        assert "nothing was added" in rotator_command("import", "--out", str(fleet)).stdout
