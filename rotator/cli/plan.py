"""`rotator plan`: the rotations ahead, as a table, JSON, or a calendar; a pile-up is seen before it happens."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rotator.cli import in_json, is_quiet, output
from rotator.cli.common import FAILED, bad_usage, exits, fleet_from, length_of, say
from rotator.errors import Failure
from rotator.fleet.forecast import MOST, Ahead, ahead
from rotator.journal import Record
from rotator.policy import Policy

# Rich is imported where something is drawn: `--json` and `--ics` do without.
if TYPE_CHECKING:
    from rich.text import Text

# Characters of the longest bar.
BAR = 40
# Of the table.
ROWS = 200
# Of the chart.
DAYS = 62
LONGEST = timedelta(days=3660)


def plan(given: dict[str, str], *, span: str, ics: bool, json_: bool) -> None:
    """`rotator plan`."""
    with exits():
        length = length_of("--for", span)
        if ics and json_:
            bad_usage("--ics and --json are two forms of one answer: choose one")
        if length > LONGEST:
            bad_usage("--for: ten years at most")
        with fleet_from(given, ecgrid=False) as fleet:
            now = fleet.vault_time().replace(microsecond=0)
            until = now + length
            records = fleet.records(fleet.policies)
            rows = rotations(fleet.policies, records, now, until)
            if json_ or not is_quiet():
                shown = output.worth_telling(rows, lambda _: False)
                _print(shown, (now, until), ics=ics, json_=json_)
            _say_what_is_missing(rows, records)
            sys.exit(FAILED if any(isinstance(one, Failure) for one in records.values()) else 0)


def rotations(
    policies: list[Policy],
    records: dict[str, Record | Failure | None],
    now: datetime,
    until: datetime,
) -> list[Ahead]:
    """The rotations of all policies whose record could be read, in the order of their times."""
    rows = []
    for policy in policies:
        record = records[policy.name]
        if not isinstance(record, Failure):
            rows += ahead(policy, record, now, until)
    return sorted(rows, key=lambda row: (row.at, row.policy))


def _say_what_is_missing(rows: list[Ahead], records: dict[str, Record | Failure | None]) -> None:
    for name, record in records.items():
        if isinstance(record, Failure):
            say(f"error: {name} is not in the plan: {record} [{record.kind}]")
    for name, count in Counter(row.policy for row in rows).items():
        if count == MOST:
            say(f"note: {name} rotates more often than the plan shows; it stops at {MOST}")


def _print(rows: list[Ahead], span: tuple[datetime, datetime], *, ics: bool, json_: bool) -> None:
    if json_:
        output.print_json(
            {
                "from": in_json.instant(span[0]),
                "until": in_json.instant(span[1]),
                "rotations": [in_json.of_rotation(row) for row in rows],
            }
        )
    elif ics:
        sys.stdout.write(calendar(rows, span[0]))
    else:
        _table(rows, span[0])


def _table(rows: list[Ahead], now: datetime) -> None:
    out = output.console()
    terminal = sys.stdout.isatty()
    shown = rows[:ROWS] if terminal else rows
    cells = (
        (
            output.instant(row.at),
            output.distance(row.at, now),
            row.policy,
            row.user_id,
            row.why,
            output.distance(row.old_until, now),
        )
        for row in shown
    )
    if rows:
        out.print(output.table(("AT", "", "POLICY", "USER", "WHY", "OLD ENDS"), cells))
    if len(shown) < len(rows):
        out.print(f"... and {len(rows) - len(shown)} more; --json shows them all")
    if terminal:
        for line in chart(rows):
            out.print(line)
    out.print(output.counted(len(rows), "rotation", "rotations"))


def chart(rows: list[Ahead]) -> Iterator[Text]:
    """A line for each day with rotations, with a bar as long as they are many."""
    from rich.text import Text

    days = Counter(row.at.astimezone(UTC).date() for row in rows)
    most = max(days.values(), default=0)
    for day, count in sorted(days.items())[:DAYS]:
        bar = "█" * max(1, round(BAR * count / most))
        yield Text(f"{day:%a %Y-%m-%d} {bar} {count}", style="yellow" if count == most > 1 else "")


def calendar(rows: list[Ahead], now: datetime) -> str:
    """The rotations as an iCalendar (RFC 5545), one event each."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//rotator//plan//EN", "CALSCALE:GREGORIAN"]
    for row in rows:
        lines += [
            "BEGIN:VEVENT",
            f"UID:{row.policy}-{_stamp(row.at)}@rotator",
            f"DTSTAMP:{_stamp(now)}",
            f"DTSTART:{_stamp(row.at)}",
            "DURATION:PT1M",
            f"SUMMARY:rotate {row.policy}",
            f"DESCRIPTION:ECGrid key of user {row.user_id} ({row.why})",
            "TRANSP:TRANSPARENT",
            "END:VEVENT",
        ]
    lines.append("END:VCALENDAR")
    return "".join(f"{_folded(line)}\r\n" for line in lines)


def _stamp(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def _folded(line: str) -> str:
    """No line of a calendar is longer than 75 octets; ours are ASCII."""
    parts = [line[:75], *(line[start : start + 74] for start in range(75, len(line), 74))]
    return "\r\n ".join(parts)
