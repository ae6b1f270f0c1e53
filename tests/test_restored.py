"""A Vault that was set back under a process that remembers what it wrote; and a standby that only lags."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from worlds import USER, Process, Scene

from rotator.rotation import Order, compare
from rotator.vault import StaleRead


def set_back(scene: Scene, process: Process, what: str) -> None:
    """The process rotates, and what Vault holds of the record, the secret, or both, is what it was before."""
    before = copy.deepcopy(scene.store.paths)
    assert process.rotate().outcome == "rotated"
    for at, path in before.items():
        if what in ("both", "secret" if at.path == "ecgrid/edi" else "record"):
            scene.store.paths[at] = path


@pytest.mark.parametrize("keyset", ["add", "replace", "update"])
@pytest.mark.parametrize("what", ["record", "secret", "both"])
def test_a_vault_that_was_set_back_is_healed_by_the_process_that_knows(
    tmp_path: Path, keyset: str, what: str
) -> None:
    """Found out by a check-and-set under the claim, said, and checked for drift before anything else."""
    scene = Scene(tmp_path, keyset=keyset)
    process = scene.rotator()
    process.tick()
    set_back(scene, process, what)
    result = process.repair()
    assert not result.bad, result
    assert any("restored from a backup" in warning for warning in result.warnings)
    record = scene.stored().record
    assert (scene.works(), record.claim, record.underway) == (USER, None, None)
    assert what != "both" or record.shows(scene.published().value)


@pytest.mark.parametrize("what", ["record", "secret"])
def test_what_only_lags_is_never_written_over(tmp_path: Path, what: str) -> None:
    """The standby shows the version before for ever: the run fails, and has written nothing but its claim."""
    scene = Scene(tmp_path)
    process = scene.rotator()
    process.tick()
    process.rotate()
    secret, log = scene.published(), len(scene.store.log)
    process.kv.lag = lambda at: int(
        at.path == ("ecgrid/edi" if what == "secret" else "rotator/record/edi")
    )
    result = process.repair()
    assert result.error is not None
    assert result.error.kind == "vault.StaleRead"
    assert scene.published().version == secret.version
    assert all(at.path == "rotator/record/edi" for at, _ in scene.store.log[log:])


def test_only_comparing_writes_nothing_whatever_is_read(tmp_path: Path) -> None:
    """`check` has no claim, so it only says what it met."""
    scene = Scene(tmp_path)
    process = scene.rotator()
    process.tick()
    set_back(scene, process, "secret")
    log = len(scene.store.log)
    with pytest.raises(StaleRead):
        compare(process.run(Order("repair")))
    assert len(scene.store.log) == log
