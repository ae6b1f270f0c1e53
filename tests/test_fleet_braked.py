"""What a fleet does when everything fails, with the real command, a real OpenBao and the simulated ECGrid."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Finished, Rotator, VaultServer, events, until
from test_daemon import FIRST_USER, fleet_of, published, record

from rotator.sandbox.ecgrid import Fault, Running

SIZE = 24
BRAKE, AT_ONCE = 5, 8  # the settings' defaults
QUICK = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "5s", "ROTATOR_CHECK_EVERY": "0"}
REPLACES = {"keyset": "replace", "read_back": "masked", "list_shows": "masked"}


def adopted(command: Rotator, simulator: Running, size: int = SIZE) -> list[str]:
    """So many policies whose keys are published, and not due for a month."""
    names = fleet_of(command, simulator, size, "30d")
    command.environment |= QUICK
    assert command("run", "--once", "--json").json["summary"] == {"adopted": size}
    return names


def make_due(vault: VaultServer, mount: str, names: list[str]) -> None:
    """A month passes for these policies: in their records, which the due index then knows nothing of."""
    long_ago = datetime.now(UTC) - timedelta(days=31)
    for name in names:
        told = vault.call("GET", f"{mount}/data/rotator/record/{name}")["data"]
        data = told["data"] | {"rotated_at": long_ago.isoformat().replace("+00:00", "Z")}
        body = {"data": data, "options": {"cas": told["metadata"]["version"]}}
        vault.call("POST", f"{mount}/data/rotator/record/{name}", body)
    forget_index(vault, mount)


def forget_index(vault: VaultServer, mount: str) -> None:
    """The due index is lost."""
    for key in vault.call("GET", f"{mount}/metadata/rotator/index?list=true")["data"]["keys"]:
        vault.call("DELETE", f"{mount}/metadata/rotator/index/{key}")


def user_of(name: str) -> int:
    """The user of a policy of `fleet_of`."""
    return FIRST_USER + int(name.removeprefix("p"))


def dead(vault: VaultServer, mount: str, simulator: Running, names: list[str]) -> list[str]:
    """The policies whose consumers are cut off."""
    model = simulator.simulator
    return [n for n in names if model.who(published(vault, mount, n)) != user_of(n)]


def in_doubt(vault: VaultServer, mount: str, names: list[str]) -> list[str]:
    """The policies for which a key may have been made that nobody has."""
    return [n for n in names if record(vault, mount, n).get("underway", {}).get("sent")]


def kinds(done: Finished) -> Counter[str]:
    """What failed, and how often; and the outcomes of the others."""
    results = done.json["results"]
    return Counter(one["error"]["kind"] if one["error"] else one["outcome"] for one in results)


def asked(simulator: Running, call: str = "KeySet") -> int:
    """How many requests for a key ECGrid saw."""
    return sum(entry.call == call for entry in simulator.simulator.requests())


def well(vault: VaultServer, mount: str, simulator: Running, names: list[str]) -> bool:
    """Whether each has a key that works, nothing is open, and each record is as the version before reads it."""
    there = [record(vault, mount, name) for name in names]
    fine = all(not one.get("underway") and one["format"] == 1 for one in there)
    return fine and not dead(vault, mount, simulator, names)


TROUBLES: dict[str, Fault] = {
    "503": Fault("status", call="KeySet", status=503, times=None),
    "lost": Fault("lost", call="KeySet", times=None),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_fleet_brakes_before_it_harms_and_is_well_by_itself_afterwards(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running, trouble: str
) -> None:
    """All are due while KeySet fails for all; then ECGrid is well again, and others come due.

    Where answers are lost KeySet was carried out, the old key is dead, and the values are masked.
    """
    names = adopted(rotator_command, simulator, SIZE + 4)
    troubled, others = names[:SIZE], names[SIZE:]
    simulator.simulator.switch(**REPLACES)
    simulator.simulator.add_fault(TROUBLES[trouble])
    make_due(vault, mount, troubled)
    done = rotator_command("run", "--once", "--json")
    told = kinds(done)
    assert (done.code, told["fleet.Braked"] >= SIZE - BRAKE - AT_ONCE) == (1, True), told
    assert len(events(done.stderr, "fleet.braked")) == 1
    assert len(in_doubt(vault, mount, names)) <= BRAKE + AT_ONCE
    assert len(dead(vault, mount, simulator, names)) <= BRAKE + AT_ONCE
    before = asked(simulator)
    again = rotator_command("run", "--once", "--json")  # another process, while all wait
    assert again.code == 1
    assert asked(simulator) <= before + 4
    assert len(in_doubt(vault, mount, names)) <= BRAKE + AT_ONCE + 1
    simulator.simulator.clear_faults()
    simulator.simulator.switch(read_back="full", list_shows="full")
    daemon = rotator_command.start("run")
    make_due(vault, mount, others)
    until(lambda: well(vault, mount, simulator, names), "all are well", 120)
    issued = [simulator.simulator.issued(user_of(name)) for name in names]
    assert all(issued), "each was rotated"
    assert events(daemon.so_far()[1], "rotation.failed", error="rotation.IssueLimit") == []
    until(lambda: events(daemon.so_far()[1], "fleet.brake_over"), "it says so", 30)
    daemon.kill()
