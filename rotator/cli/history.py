"""`rotator history`: what was done to the policies, when, why, by whom, and from when on that is all."""

from __future__ import annotations

import sys
from datetime import datetime
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from rotator.cli import Choice, in_json, is_quiet, output
from rotator.cli.choice import choose
from rotator.cli.common import FAILED, exits, fleet_from, length_of, say
from rotator.due import GRAIN
from rotator.errors import Failure
from rotator.journal import RETIREMENT, Past, Record

if TYPE_CHECKING:
    from rich.console import Group

COLUMNS = ("AT", "POLICY", "OUTCOME", "KEY", "REPLACES", "ENDED", "PUBLISHED", "WHY", "BY", "RUN")


class Line(NamedTuple):
    """A line of the history of a policy."""

    policy: str
    past: Past


def history(given: dict[str, str], *, chosen: Choice, since: str | None, json_: bool) -> None:
    """`rotator history`."""
    with exits():
        length = None if since is None else length_of("--since", since)
        with fleet_from(given, ecgrid=False) as fleet:
            policies = choose(fleet.policies, chosen)
            now = fleet.vault_time()
            begin = None if length is None else now - length
            histories = fleet.histories(policies)
            lines = output.worth_telling(_lines(histories, begin), lambda line: line.past.failed)
            complete = _complete(histories, now)
            latest = max(complete.values(), default=None)
            if json_:
                objects = [in_json.of_past(line.policy, line.past) for line in lines]
                output.print_json({"history": objects, "complete_since": in_json.exact(latest)})
            elif lines or not is_quiet():
                _print(lines, complete)
            lacking = _say_what_is_missing(histories, complete, begin)
            sys.exit(FAILED if lacking else 0)


def _lines(histories: dict[str, Record | Failure | None], begin: datetime | None) -> list[Line]:
    """What was going on after `begin`, the oldest first; of one policy in the order in which it was recorded.

    Vault tells whole seconds, so that two processes may differ by one.
    """
    lines = list[tuple[datetime, Line]]()
    for name, record in histories.items():
        history = record.history if isinstance(record, Record) else ()
        for past, moment in zip(
            history, accumulate((past.at for past in history), max), strict=True
        ):
            if begin is None or past.ended >= begin:
                lines.append((moment, Line(name, past)))
    return [line for _, line in sorted(lines, key=lambda one: one[0])]


def _complete(histories: dict[str, Record | Failure | None], now: datetime) -> dict[str, datetime]:
    """From when on the history of each policy is complete; without a line nothing is known to have been done."""
    return {
        name: record.complete_since() or max(now, record.history[-1].ended)
        for name, record in histories.items()
        if isinstance(record, Record) and record.history
    }


def _say_what_is_missing(
    histories: dict[str, Record | Failure | None],
    complete: dict[str, datetime],
    begin: datetime | None,
) -> bool:
    """Says which histories cannot be read, or do not reach back to `begin`; whether there are any."""
    unread = {name: one for name, one in histories.items() if isinstance(one, Failure)}
    for name, error in unread.items():
        say(f"error: the history of {name} cannot be read: {error} [{error.kind}]")
    short = {
        name: since
        for name, since in complete.items()
        if begin is not None and since - GRAIN > begin
    }
    for name, since in short.items():
        say(f"error: the history of {name} is complete since {output.instant(since)} only")
    return bool(unread or short)


def _print(lines: list[Line], complete: dict[str, datetime]) -> None:
    """The newest first; where a table would be too wide, a paragraph each."""
    out = output.console()
    rows = [_row(line) for line in reversed(lines)]
    whole = output.table(COLUMNS, rows)
    if output.fits(out, whole):
        out.print(whole)
    else:
        for row in rows:
            out.print(_paragraph(row))
    latest = max(complete.items(), key=lambda one: one[1], default=None)
    if latest is not None and not is_quiet():
        of = f" (of {latest[0]})" if len(complete) > 1 else ""
        out.print(f"complete since {output.instant(latest[1])}{of}")


def _row(line: Line) -> tuple[object, ...]:
    past, ends = line.past, line.past.about == RETIREMENT
    why = past.error or "; ".join(past.hook_problems) or past.reason
    return (
        output.instant(past.at),
        line.policy,
        past.outcome if not past.failed else f"{past.about} failed",
        past.key_id,
        None if ends else past.previous_key_id,
        past.previous_key_id if ends else None,
        ", ".join(f"{one.mount}/{one.path} v{one.version}" for one in past.published),
        f"{why}; {past.proof}" if past.proof else why,
        past.by,
        past.run,
    )


def _paragraph(row: tuple[object, ...]) -> Group:
    from rich.console import Group
    from rich.padding import Padding

    named = dict(zip(COLUMNS, row, strict=True))
    first = " ".join(str(named.pop(name)) for name in COLUMNS[:3])
    details = "; ".join(f"{name.lower()} {value}" for name, value in named.items() if value)
    return Group(output.plain(first), Padding(output.plain(details), (0, 0, 0, 2)))
