"""The sandbox as a whole: a simulated ECGrid with three users, a real OpenBao, and the settings to use them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rotator.sandbox.ecgrid import AuthLevel, Form, Running, Simulator, Switches, start
from rotator.sandbox.openbao import OpenBao

ADMIN = 5000
# Those of the sample policies.
USERS = {5001: "Private", 5002: "Shared", 5003: "Private"}
_POLICIES: dict[Form, str] = {"portal": "policies", "service": "policies_service"}


@dataclass(frozen=True)
class Sandbox:
    """What is running; the rotator's own credentials are in files that only this user may read."""

    ecgrid: Running
    vault: OpenBao
    environment: dict[str, str]
    # That fit the form of this ECGrid.
    policies: Path


@contextmanager
def sandbox(port: int = 0, *, form: Form = "portal") -> Iterator[Sandbox]:
    """Starts both on loopback and ends them afterwards. Raises BadInput without the `sandbox` extra."""
    simulator = Simulator(Switches.from_json({"form": form}))
    simulator.add_user(ADMIN, login="admin", auth_level=AuthLevel.NetworkAdmin)
    own = simulator.add_key(ADMIN)
    for user_id, visibility in USERS.items():
        simulator.add_user(user_id)
        simulator.add_key(user_id, visibility)
    with (
        OpenBao.start() as vault,
        start(simulator, port) as ecgrid,
        tempfile.TemporaryDirectory(prefix="rotator-sandbox-") as folder,
    ):
        environment = {
            "VAULT_ADDR": vault.addr,
            "ROTATOR_VAULT__TOKEN_FILE": _file(folder, "vault-token", vault.token),
            "ROTATOR_ECGRID__REST_URL": ecgrid.rest_url,
            "ROTATOR_ECGRID__SOAP_URL": ecgrid.soap_url,
            "ROTATOR_ECGRID__API_KEY_FILE": _file(folder, "ecgrid-api-key", own.value),
            "ROTATOR_ECGRID__RATE": "100",
        }
        yield Sandbox(ecgrid, vault, environment, Path(__file__).parent / _POLICIES[form])


def _file(folder: str, name: str, value: str) -> str:
    path = Path(folder) / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(value)
    return str(path)
