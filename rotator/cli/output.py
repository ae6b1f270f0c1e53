"""Results on stdout: one JSON object, or tables that are plain in a pipe and coloured at a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from rotator import reporting
from rotator.cli import in_json, is_quiet
from rotator.cli.folding import said_once
from rotator.letters import as_json, visible

# Rich is imported where something is drawn: `--json` and `validate` do without.
if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.text import Text

    from rotator.cli.table import Table
    from rotator.rotation import Result

T = TypeVar("T")
STYLES = {
    "rotated": "green", "repaired": "green", "adopted": "green", "ok": "green", "in-sync": "green",
    "retired": "green", "would-rotate": "cyan", "due": "yellow", "busy": "yellow", "rotating": "yellow",
    "failed": "bold red", "overdue": "bold red", "drift": "bold red", "no-key": "bold red",
    "not-published": "red", "unreadable": "red", "refused": "red", "not-adopted": "yellow", "paused": "dim",
    "held": "yellow", "released": "green", "rolled-back": "green",
}  # fmt: skip
RESULT = ("POLICY", "OUTCOME", "USER", "KEY", "REPLACES", "OLD ENDS", "TOOK", "PUBLISHED")
# Columns of texts and paths, which are folded where the screen is too narrow for all.
FOLDED = ("POLICY", "PUBLISHED", "WHY", "FOUND", "CHECK", "MEANS", "BY", "")
# Seconds from which on a single policy's progress is shown.
SOON = 1.0
FAILED_IN = "failed in "
# Results, of which those that are not due are left out.
MANY = 20
# Lines in a pipe are never wrapped.
PIPE_WIDTH = 400


def console() -> Console:
    """stdout: coloured at a terminal unless NO_COLOR is set, plain and unwrapped in a pipe."""
    from rich.console import Console

    return Console(
        width=None if sys.stdout.isatty() else PIPE_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def is_screen(json_: bool) -> bool:
    """Whether results are printed for a person who sees the log, too."""
    return not json_ and sys.stdout.isatty() and sys.stderr.isatty()


def print_json(value: object) -> None:
    """One JSON object."""
    print(as_json(json.dumps(value, indent=2, ensure_ascii=False)))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table without lines, of which nothing is cut off; cells that name a state are coloured."""
    from rotator.cli.table import Table

    return Table(columns, (tuple(map(_cell, row)) for row in rows), STYLES, FOLDED)


def fits(out: Console, drawn: Table) -> bool:
    """Whether it can be shown without folding anything."""
    as_wide_as_need_be = out.options.update(max_width=PIPE_WIDTH)
    return out.measure(drawn, options=as_wide_as_need_be).maximum <= out.width


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else visible(str(value))


def plain(text: str, style: str = "") -> Text:
    """A text as it is, whoever wrote it: what a terminal would obey is shown as an escape."""
    from rich.text import Text

    return Text(visible(text), style=style)


def span(length: timedelta | float | None) -> str:
    """A length of time (a number is seconds) as a person says it: `90s`, `15m`, `12h`, `30d`."""
    if length is None:
        return "-"
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def instant(moment: datetime | None) -> str:
    """A time as people and machines read it: RFC 3339, UTC, whole seconds."""
    return in_json.instant(moment) or "-"


def distance(moment: datetime | None, now: datetime) -> str:
    """How far away a time is: `in 3d`, `2h ago`."""
    if moment is None:
        return "-"
    left = (moment - now) / timedelta(seconds=1)
    return f"in {span(left)}" if left >= 0 else f"{span(-left)} ago"


def counted(number: int, one: str, many: str) -> str:
    """`1 policy`, `2 policies`."""
    return f"{number} {one if number == 1 else many}"


def worth_telling(rows: Iterable[T], failed: Callable[[T], bool]) -> list[T]:
    """All of them; with `--quiet` those that failed."""
    quiet = is_quiet()
    return [row for row in rows if not quiet or failed(row)]


def summary_of(results: Iterable[Result]) -> dict[str, int]:
    """How many results had which outcome."""
    return dict(Counter(result.outcome for result in results))


def results(every: list[Result], json_: bool) -> None:
    """The results of a command that acts."""
    shown = worth_telling(every, lambda result: result.bad)
    if json_:
        objects = [in_json.of_result(result) for result in shown]
        print_json({"results": objects, "summary": summary_of(every)})
        return
    out = console()
    if len(shown) > MANY:
        shown = [result for result in shown if result.outcome != "not-due"]
    rows = [_row(result) for result in shown]
    whole = table(RESULT, rows)
    # Then the places stand beneath, by policy as all that is long.
    beneath = not fits(out, whole)
    if rows:
        out.print(table(RESULT[:-1], (row[:-1] for row in rows)) if beneath else whole)
    for result, row in zip(shown, rows, strict=True):
        # A text says where it would.
        if beneath and row[-1] and result.outcome != "would-rotate":
            out.print(plain(f"{result.policy}: published at {row[-1]}"))
    remarks = [remark for result in shown for remark in _remarks(result)]
    for about, text in said_once(remarks):
        style = "red" if text.startswith(FAILED_IN) else "yellow"
        out.print(plain(f"{about}: {text}", style))
    if not is_quiet():
        summary = ", ".join(f"{count} {name}" for name, count in summary_of(every).items())
        out.print(summary or "nothing to do")


def _remarks(result: Result) -> Iterator[tuple[str, str]]:
    if result.error:
        why = f"{result.error.message} [{result.error.kind}]"
        yield result.policy, f"{FAILED_IN}{result.phase}: {why}"
    yield from ((result.policy, warning) for warning in result.warnings)


def _row(result: Result) -> tuple[object, ...]:
    return (
        result.policy,
        result.outcome,
        result.user_id,
        result.key_id,
        result.previous_key_id,
        _old_ends(result),
        f"{result.duration_s:.2f}s",
        ", ".join(f"{to.mount}/{to.path} v{to.version}" for to in result.published),
    )


def _old_ends(result: Result) -> str | None:
    """How long the replaced key lives on."""
    if result.previous_key_until is None or result.started_at is None:
        return None
    ended = result.started_at + timedelta(seconds=result.duration_s)
    return distance(result.previous_key_until, ended)


def _screen() -> Console:
    """The terminal that progress is drawn on. It folds what is long by itself: a line of the log stays one."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True)


@contextmanager
def progress(names: Sequence[str], wanted: bool) -> Iterator[Progress]:
    """At a terminal, on stderr: what goes on, how many are done, and how long the rest will take.

    One policy alone is shown once it takes a while.
    """
    shown = Progress(names)
    if not wanted or not sys.stderr.isatty():
        yield shown
        return
    from rich.live import Live

    live = Live(
        console=_screen(),
        refresh_per_second=8,
        transient=True,
        get_renderable=shown.picture,
    )
    # Which is the display's own by now.
    with live, reporting.lines_through(sys.stderr):
        yield shown


class Progress:
    """What is known of the work on some policies; many threads tell it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._state = dict.fromkeys(names, "waiting")
        self._done, self._waits = 0, ""
        self._began = time.monotonic()

    def tell(self, policy: str, event: str) -> None:
        """What it does now."""
        self._state[policy] = event.removeprefix("rotation.")

    def done(self) -> None:
        """The work on one of them has ended."""
        self._done += 1

    def waits(self, why: str | None, left: float) -> None:
        """What Vault is waited for, and for how many seconds at most; None: no more."""
        self._waits = f"waits for Vault, for {span(left)} at most [{why}]" if why else ""

    def picture(self) -> Group | Text:
        """What is shown of it."""
        from rich.console import Group

        took, total = time.monotonic() - self._began, len(self._state)
        if not self._waits and (total == 0 or (total == 1 and took < SOON)):
            return plain("")
        going = [item for item in list(self._state.items()) if item[1] != "waiting"][-15:]
        left = span(took / self._done * (total - self._done)) if self._done else "some time"
        words = self._waits or f"{self._done} of {total} done, {left} left"
        return Group(table(("POLICY", "NOW"), going), plain(words)) if going else plain(words)


@contextmanager
def counting(what: str, of: int | None = None) -> Iterator[Callable[[int], None]]:
    """A live line on stderr, at a terminal, of how many are done, out of how many, and how long the rest will take."""
    if not sys.stderr.isatty() or of == 0:
        yield lambda done: None
        return
    from rich.live import Live

    began = time.monotonic()
    live = Live(plain(f"{what} ..."), console=_screen(), transient=True)
    with live, reporting.lines_through(sys.stderr):

        def tell(done: int) -> None:
            left = (time.monotonic() - began) / max(done, 1) * ((of or done) - done)
            rest = f" of {of}, {span(left)} left" if of else ""
            live.update(plain(f"{what}: {done}{rest}"))

        yield tell
