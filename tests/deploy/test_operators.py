"""What the documents give to operators in a cluster, held against the operators' own definitions."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_recipes import objects

pytestmark = pytest.mark.deploy

ACCEPTS = Path(__file__).parent / "operators" / "accepts.js"
KINDS = ("SecretStore", "ExternalSecret")


def said_of(*given: dict[str, Any]) -> list[str | None]:
    """What the External Secrets Operator's definitions object to in each of these; None: nothing."""
    done = subprocess.run(
        ["node", ACCEPTS],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: list[str | None] = json.loads(done.stdout)
    return said


def test_external_secrets_accepts_its_objects() -> None:
    """Each is valid by the schema of the operator's release, types and all."""
    assert said_of(*(objects()[kind] for kind in KINDS)) == [None, None]


def test_what_external_secrets_does_not_accept_is_noticed() -> None:
    """A field of another type, and one that is left out."""
    store, wanted = (copy.deepcopy(objects()[kind]) for kind in KINDS)
    del store["spec"]["provider"]["vault"]["server"]
    wanted["spec"]["refreshInterval"] = 60
    missing, typed = said_of(store, wanted)
    assert "server" in (missing or "")
    assert "refreshInterval" in (typed or "")
