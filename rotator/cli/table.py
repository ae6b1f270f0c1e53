"""Tables without lines: columns as wide as their longest cell, and colours for the words that name a state.

Rich measures, folds and pads each cell by itself, which takes half a millisecond a row: too long for a fleet of
thousands. So where nothing has to be folded the rows are written out here, as rich would write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import table as rich_table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text

HEAD = "bold"
# Between two columns.
GAP = 2


class Table:
    """What rich can draw and measure; of the texts it is given nothing is cut off."""

    def __init__(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        styles: Mapping[str, str],
        folded: Sequence[str],
    ) -> None:
        """`styles` of cells, by their text; the columns that are folded where the screen is too narrow for all."""
        self._columns, self._rows = tuple(columns), [tuple(row) for row in rows]
        self._styles, self._folded = styles, folded

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._by_rich())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [max(map(_width, cells)) for cells in zip(self._columns, *self._rows, strict=True)]
        too_wide = sum(widths) + GAP * (len(widths) - 1) > options.max_width
        if too_wide or not all(widths) or any("\n" in cell for row in self._rows for cell in row):
            yield self._by_rich()
            return
        head, gap = console.get_style(HEAD), " " * GAP
        for number, cell in enumerate(self._columns):
            yield from [Segment(gap, head)] if number else []
            yield Segment(_padded(cell, widths[number]), head)
        yield Segment.line()
        styles = {text: console.get_style(name) for text, name in self._styles.items()}
        for row in self._rows:
            line = ""
            for cell, width in zip(row, widths, strict=True):
                style = styles.get(cell)
                if style is not None:
                    yield from (Segment(line), Segment(_padded(cell, width), style))
                    line = gap
                else:
                    line += _padded(cell, width) + gap
            yield Segment(f"{line[:-GAP]}\n")

    def _by_rich(self) -> rich_table.Table:
        made = rich_table.Table(box=None, pad_edge=False, header_style=HEAD, padding=(0, GAP, 0, 0))
        for name in self._columns:
            made.add_column(name, no_wrap=name not in self._folded, overflow="fold")
        for row in self._rows:
            made.add_row(*(Text(cell, style=self._styles.get(cell, "")) for cell in row))
        return made


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
