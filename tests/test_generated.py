"""What docs/generate.py makes from the code is what lies in the checkout: reference, manual, completions, alerts."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from test_architecture import ROOT

from rotator.settings import VaultSettings

MADE: dict[Path, str] = runpy.run_path(str(ROOT / "docs" / "generate.py"))["everything"]()


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in MADE])
def test_a_generated_file_equals_what_would_be_written(path: Path) -> None:
    """Else `python docs/generate.py` was forgotten after a change."""
    assert path.read_text() == MADE[path]


def test_a_setting_that_nobody_explains_stops_the_making(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the reference cannot lack one."""
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    monkeypatch.setattr(VaultSettings.model_fields["addr"], "description", None)
    with pytest.raises(SystemExit, match=r"vault\.addr"):
        made["configuration"]()
