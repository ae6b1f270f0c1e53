"""`rotator explain`: the runbook, where the command is, without a network."""

from __future__ import annotations

import difflib
import re

from rotator.cli import in_json, output
from rotator.cli.common import bad_usage, exits
from rotator.reporting.runbook import Entry, entries

# The part of the runbook whose entries are no kinds of error.
ALERTS = "Alerts"


def explain(*, kind: str | None, json_: bool) -> None:
    """`rotator explain`: one entry of the runbook, or a line for each."""
    with exits():
        every = sorted(entries().values(), key=lambda one: one.about == ALERTS)
        shown = every if kind is None else [_entry(kind)]
        if json_:
            output.print_json({"entries": [in_json.of_entry(one) for one in shown]})
        elif kind is None:
            output.console().print(
                output.table(("KIND", "MEANS"), ((one.name, _first(one)) for one in shown))
            )
        else:
            (entry,) = shown
            paragraphs = (entry.name, *entry.means, f"To do: {entry.to_do}")
            output.console().print(output.plain("\n\n".join(paragraphs)))


def _first(entry: Entry) -> str:
    """The first sentence of what it means."""
    return re.split(r"(?<=[.:]) (?=[A-Z`])", entry.means[0])[0]


def _entry(kind: str) -> Entry:
    if kind not in entries():
        names = {name.lower(): name for name in entries()}
        near = difflib.get_close_matches(kind.lower(), names, 1)
        lists = "`rotator explain` without one lists them"
        hint = f"did you mean {names[near[0]]}?" if near else lists
        bad_usage(f"no kind of error is named {kind!r}; {hint}")
    return entries()[kind]
