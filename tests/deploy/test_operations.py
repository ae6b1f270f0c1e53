"""What docs/operations.md says to type on a machine with systemd, typed there as root, in order and as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from conftest import Roles, Rotator
from machine import CHECKOUT, ROOT, Machine, install
from pages import MARK, blocks

from rotator.sandbox.ecgrid import Running

pytestmark = pytest.mark.deploy

PAGE = ROOT / "docs" / "operations.md"
POLICY = """\
user_id: 5001
visibility: Private
schedule: {every: 30d}
vault: {path: ecgrid/edi-gateway}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the package in /opt/rotator, and this checkout."""
    where = tmp_path_factory.mktemp("operations")
    with Machine(where / "machine", install(where / "install")) as running:
        yield running


@pytest.fixture
def started_here(machine: Machine, roles: Roles, rotator_command: Rotator) -> Iterator[Machine]:
    """With `my-rotator` in the checkout, as docs/start-here.md leaves it."""
    hcl = (ROOT / "vault" / "rotator.hcl").read_text()
    given = rotator_command.environment | roles.environment(hcl)
    settings = {name: value for name, value in given.items() if name.startswith("ROTATOR_")}
    key = settings.pop("ROTATOR_ECGRID__API_KEY")
    secret_id = settings.pop("ROTATOR_VAULT__SECRET_ID")
    settings["VAULT_ADDR"] = given["VAULT_ADDR"]
    here = f"{CHECKOUT}/my-rotator"
    machine.write(f"{here}/rotator.env", "".join(f"{n}={v}\n" for n, v in settings.items()), 0o600)
    machine.write(f"{here}/policies/edi-gateway.yaml", POLICY, 0o600)
    machine.write(f"{here}/credentials/ecgrid__api_key", f"{key}\n", 0o600)
    machine.write(f"{here}/credentials/vault__secret_id", secret_id, 0o600)
    machine("chmod", "0700", here, f"{here}/credentials")
    yield machine
    rotator_command.assert_silent(machine.journal())


def type_in(machine: Machine, *texts: str) -> list[str]:
    """What each text prints, typed in order by root in the checkout; fails at the first that fails."""
    script = "".join(f"printf '{MARK}'\n{text}" for text in texts)
    root = f"set -eu; cd {CHECKOUT}; PATH=/usr/local/sbin:$PATH\n"
    return machine("sh", "-c", root + script).split(MARK)[1:]


def test_the_steps_for_systemd_lead_to_a_service_that_rotates(
    started_here: Machine, simulator: Running, rotator_command: Rotator
) -> None:
    """Installed, looked at, started, rotated on demand beside it, then the timer instead; exit codes are passed on."""
    machine = started_here
    texts = [block.text for block in blocks(PAGE) if block.kind == "sh systemd"]
    said = type_in(machine, *texts, "rotator rotate edi-gatewya || echo ended with $?\n")
    rotator_command.assert_silent(*said)
    looked = next(text for text in said if "Vault login" in text)
    assert not re.search(r"^(failed|warning)", looked, re.MULTILINE), looked
    ran = next(text for text in said if "rotated" in text)
    assert re.search(r"^edi-gateway +rotated +5001", ran, re.MULTILINE), ran
    assert re.search(r"^edi-gateway +ok +5001", ran, re.MULTILINE), ran
    assert simulator.simulator.issued(5001) == 1
    assert machine.show("rotator.service", "ActiveState") == "inactive"
    assert machine.show("rotator-once.timer", "ActiveState") == "active"
    assert machine.path("/etc/rotator/credentials").stat().st_mode & 0o077 == 0
    assert "no policy is named 'edi-gatewya'" in said[-1]
    assert "ended with 2" in said[-1]


@pytest.mark.parametrize(
    "planted", ["cp systemd/rotator.sysuser /tmp", "systemctl start rotatr.service"]
)
def test_a_step_that_is_wrong_is_noticed(machine: Machine, planted: str) -> None:
    """A file or a unit that is not there; nothing that follows is typed."""
    with pytest.raises(AssertionError, match=r"rotator\.sysuser|rotatr") as caught:
        type_in(machine, f"{planted}\n", "echo rea''ched\n")
    assert "reached" not in str(caught.value)
