"""The daemon while the machine's clock is set: forward, and back. What is due is Vault's time, so nothing changes."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest
from conftest import Rotator, VaultServer, until
from test_daemon import (
    FIRST_USER,
    QUICK,
    assert_each_due_time_once,
    fleet_of,
    grown,
    logged,
    rotations,
)

from rotator.sandbox.ecgrid import Running

LIBRARY = os.environ.get("ROTATOR_TEST_FAKETIME") or next(
    (str(found) for found in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), ""
)
# Under libfaketime, with the monotonic clock left alone, Python's own sleep fails with EINVAL.
SLEEP = "import threading, time\ntime.sleep = lambda seconds: threading.Event().wait(seconds) and None\n"

pytestmark = pytest.mark.deploy


@pytest.mark.parametrize("step", ["+86400s", "-86400s"])
def test_setting_the_clock_neither_loses_nor_doubles_a_rotation(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    tmp_path: Path,
    step: str,
) -> None:
    """It goes on at Vault's pace, and says that the clocks differ."""
    assert LIBRARY, "libfaketime is missing: install the package faketime"
    (name,) = fleet_of(rotator_command, simulator, 1, "2s")
    clock, site = tmp_path / "clock", tmp_path / "site"
    clock.write_text("+0s\n")
    site.mkdir()
    (site / "sitecustomize.py").write_text(SLEEP)
    rotator_command.environment |= {
        **QUICK,
        "LD_PRELOAD": LIBRARY,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": f"{site}:{rotator_command.environment['PYTHONPATH']}",
    }
    daemon = rotator_command.start("run")
    until(partial(grown, vault, mount, name, 1), "it rotates")
    clock.write_text(f"{step}\n")
    before = len(rotations(vault, mount, name))
    until(partial(grown, vault, mount, name, before + 2), "it goes on")
    assert logged(daemon, "vault.clock_skew")
    clock.write_text("+0s\n")
    before = len(rotations(vault, mount, name))
    until(
        partial(grown, vault, mount, name, before + 2), "it goes on when the clock is right again"
    )
    assert daemon.finish(send=signal.SIGTERM).code == 0
    past = rotations(vault, mount, name)
    assert_each_due_time_once(past, 2.0)
    assert simulator.simulator.issued(FIRST_USER) == len(past)
