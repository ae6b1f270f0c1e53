"""Tables on stdout: written out here for thousands of rows, and nobody sees a difference to what rich draws."""

from __future__ import annotations

import io
import random

import pytest
from rich import table as rich_table
from rich.console import Console
from rich.text import Text

from rotator.cli import output
from rotator.letters import visible

COLUMNS = ("POLICY", "STATE", "USER", "WHY", "", "KEY")
CELLS = (
    "ok", "failed", "overdue", "paused", "held", "-", "", None, 5, "a b c", " before", "behind  ", "中文", "é",
    "e\u0301", "x" * 30, "\x1b[31m", "a\tb", "\u200b", "two\nlines",
)  # fmt: skip
WIDTHS = (12, 40, 80, 400)


def by_rich(columns: tuple[str, ...], rows: list[list[object]]) -> rich_table.Table:
    """The same as rich has it."""
    made = rich_table.Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, no_wrap=name not in output.FOLDED, overflow="fold")
    for row in rows:
        texts = ["-" if cell is None or cell == "" else str(cell) for cell in row]
        made.add_row(*(Text(visible(text), output.STYLES.get(text, "")) for text in texts))
    return made


@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_looks_as_rich_draws_it(width: int, *, coloured: bool) -> None:
    """Whatever stands in it, folded or not, coloured or not; and it is as wide."""
    drawn = random.Random(width)
    for _ in range(100):
        columns = tuple(drawn.sample(COLUMNS, drawn.randint(1, len(COLUMNS))))
        cells = CELLS if drawn.random() < 0.5 else CELLS[:-1]
        rows: list[list[object]] = [
            [drawn.choice(cells) for _ in columns] for _ in range(drawn.randint(0, 5))
        ]
        told = []
        for table in (by_rich(columns, rows), output.table(columns, rows)):
            out = io.StringIO()
            console = Console(
                file=out,
                width=width,
                highlight=False,
                markup=False,
                emoji=False,
                force_terminal=coloured,
                color_system="standard" if coloured else None,
            )
            console.print(table)
            told.append((out.getvalue(), console.measure(table)))
        assert told[0] == told[1]
