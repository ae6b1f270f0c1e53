"""Documents of a rotation that somebody deletes in Vault (`vault kv delete`): the next run goes on, or says which."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import USERS, Rotator, VaultServer
from memory import Store
from test_forged import Forge
from worlds import USER

from rotator.errors import Gone
from rotator.sandbox.ecgrid import Running
from rotator.vault import At

STAGED = At("secret", "rotator/staged/edi")


@pytest.mark.parametrize("keyset", ["add", "replace"])
def test_a_staged_key_that_was_deleted_is_not_staged(tmp_path: Path, keyset: str) -> None:
    """The rotation that staged it is finished: by the key that ECGrid has, or one more."""
    forge = Forge(tmp_path, keyset=keyset)
    forge.open()
    forge.stage(forge.issue())
    store: Store = forge.scene.store
    store.delete(STAGED)
    assert forge.tick().outcome == "rotated"
    assert forge.wrongs() == []


@pytest.mark.parametrize("order", ["tick", "rotate", "repair", "adopt"])
def test_whatever_is_asked_for_a_deleted_staged_document_is_no_obstacle(
    tmp_path: Path, order: str
) -> None:
    """Nor where no rotation is open."""
    forge = Forge(tmp_path)
    forge.stage(forge.issue())
    forge.scene.store.delete(STAGED)
    assert not getattr(forge.scene.rotator(), order)().bad
    assert forge.scene.works() == USER


def test_the_command_goes_on_after_a_staged_document_was_deleted(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """The real server's answer for it; the next document is written over it."""
    rotator_command.policy(
        "edi",
        f"""
        user_id: {USERS[0]}
        visibility: Private
        schedule: {{every: 30d}}
        vault: {{path: ecgrid/edi}}
        """,
    )
    assert rotator_command("run", "--once").code == 0
    place = f"{mount}/data/rotator/staged/edi"
    vault.call("POST", place, {"data": {"run": "somebody"}})
    vault.call("DELETE", place)
    done = rotator_command("rotate", "edi", "--json")
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    assert simulator.simulator.issued() == 1


def test_a_deleted_record_is_named_by_its_path(tmp_path: Path) -> None:
    """It is not one that never was."""
    forge = Forge(tmp_path)
    forge.scene.store.delete(At("secret", "rotator/record/edi"))
    with pytest.raises(Gone, match="secret/rotator/record/edi"):
        forge.scene.vault.record("edi")
    error = forge.tick().error
    assert error is not None
    assert "secret/rotator/record/edi" in error.message
