"""The commands that only look: status, validate, schema."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rotator.cli import Choice, in_json, is_quiet, output
from rotator.cli.choice import choose
from rotator.cli.common import FAILED, bad_usage, exits, fleet_from, input_from
from rotator.errors import BadInput, Failure, Problem, RotatorError
from rotator.hooks import absent
from rotator.policy import Policy, json_schema, warnings
from rotator.reporting.rows import LastFailure, Row

if TYPE_CHECKING:
    from rich.console import Console, Group

    from rotator.fleet import Fleet

ALARMING = ("overdue", "failed")
# Seconds.
WATCH_EVERY = 5.0
# Between two ticks, at the shortest.
CRONJOB = timedelta(minutes=1)


def status(
    given: dict[str, str],
    *,
    chosen: Choice,
    states: tuple[str, ...],
    strict: bool,
    watch: bool,
    json_: bool,
) -> None:
    """`rotator status`."""
    with exits():
        if watch and (json_ or not sys.stdout.isatty()):
            bad_usage(
                "--watch draws at a terminal: without it, or by `--json`, status answers once"
            )
        with fleet_from(given, ecgrid=False) as fleet:
            policies = choose(fleet.policies, chosen)
            if watch:
                _watch(fleet, policies, states)
                return
            now, rows, unread = _look(fleet, policies, states)
            shown = output.worth_telling(rows, _alarming)
            if json_:
                output.print_json({"policies": [in_json.of_row(row) for row in shown]})
            elif shown or not is_quiet():
                output.console().print(_drawn(shown, now, fleet.rights.why()))
            sys.exit(FAILED if unread or (strict and any(map(_alarming, rows))) else 0)


def _alarming(row: Row) -> bool:
    return row.state == "failed" or row.is_too_old


def _look(
    fleet: Fleet, policies: list[Policy], states: tuple[str, ...]
) -> tuple[datetime, list[Row], bool]:
    """Vault's time, a row for each policy in one of the states (none given: in any), and whether a record is unread."""
    now, records = fleet.vault_time(), fleet.records(policies)
    # What a record cannot keep is known from the alarms.
    if None in records.values():
        fleet.reports.alarms.read()
    every = fleet.reports.rows([(policy, records[policy.name]) for policy in policies], now)
    rows = [row for row in every if not states or row.state in states]
    return now, rows, any(isinstance(record, Failure) for record in records.values())


def _watch(fleet: Fleet, policies: list[Policy], states: tuple[str, ...]) -> None:
    """Draws anew every few seconds until it is interrupted; the alarming ones first, since a screen may be small."""
    from rich.live import Live

    console = output.console()
    with (
        suppress(KeyboardInterrupt),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            try:
                now, rows, _ = _look(fleet, policies, states)
            # Vault is away just now: said in place of the rows.
            except RotatorError as error:
                live.update(output.plain(f"{error} [{error.kind}]", "red"), refresh=True)
            else:
                rows.sort(key=lambda row: row.state not in ALARMING)
                live.update(_fitting(console, rows, now, fleet.rights.why()), refresh=True)
            time.sleep(WATCH_EVERY)


def _fitting(console: Console, rows: list[Row], now: datetime, held: Mapping[str, str]) -> Group:
    """As many rows as the screen has room for, with what was last seen of them; and how many are not shown."""
    from rich.console import Group

    shown = rows[: console.height]
    while True:
        drawn, left = _drawn(shown, now, held), len(rows) - len(shown)
        if left:
            rest = f"... and {left} of {len(rows)} policies more; the alarming ones come first"
            drawn = Group(*drawn.renderables, output.plain(rest, "bold"))
        over = len(console.render_lines(drawn, pad=False)) - console.height
        if over <= 0 or len(shown) <= 1:
            return drawn
        shown = shown[: max(1, len(shown) - over)]


def _drawn(rows: list[Row], now: datetime, held: Mapping[str, str]) -> Group:
    """The table, and below it what is held back for all, and what failed last."""
    from rich.console import Group

    drawn = output.table(
        ("POLICY", "STATE", "USER", "KEY", "AGE", "MAX", "LAST", "NEXT", "OLD ENDS"),
        (
            (
                row.policy,
                row.state,
                row.user_id,
                row.key_id,
                output.span(row.key_age),
                output.span(row.max_age),
                output.distance(row.last_rotated_at, now),
                output.distance(row.next_due_at, now),
                output.distance(row.previous_key_until, now),
            )
            for row in rows
        ),
    )
    return Group(
        drawn,
        *(output.plain(f"held back: {why} [{kind}]") for kind, why in held.items()),
        *(
            output.plain(
                f"{row.policy}: held until {output.instant(row.paused_until)}: {row.paused_reason}"
            )
            for row in rows
            if row.paused_until
        ),
        *(
            output.plain(f"{row.policy}: {_failed(row.last_failure, now)}")
            for row in rows
            if row.last_failure
        ),
        *(
            output.plain(f"{row.policy}: {problem}", "yellow")
            for row in rows
            for problem in row.hook_problems
        ),
    )


def _failed(failure: LastFailure, now: datetime) -> str:
    again = f", tried again {output.distance(failure.retry_at, now)}" if failure.retry_at else ""
    return f"failed in {failure.phase}: {failure.message} [{failure.kind}]{again}"


def validate(given: dict[str, str], *, path: str | None, json_: bool) -> None:
    """`rotator validate`: needs neither credentials nor a Vault address."""
    with exits():
        problems: list[str] = []
        doubts: list[str] = []
        policies: list[Policy] = []
        try:
            settings, policies = input_from(given, Path(path) if path else None)
            of_policies = (*warnings(policies), *too_quick(policies), *without_program(policies))
            doubts += [str(problem) for problem in (*settings.warnings, *of_policies)]
        except BadInput as error:
            if not json_:
                raise
            problems = [str(problem) for problem in error.problems]
        if json_:
            output.print_json(
                {
                    "valid": not problems,
                    "policies": len(policies),
                    "errors": problems,
                    "warnings": doubts,
                }
            )
            sys.exit(2 if problems else 0)
        if is_quiet():
            return
        out = output.console()
        for doubt in doubts:
            out.print(output.plain(f"warning: {doubt}"))
        out.print(f"{output.counted(len(policies), 'policy', 'policies')}, no errors")


def without_program(policies: list[Policy]) -> list[Problem]:
    """Hooks whose program this machine does not have; they run on whichever machine rotated."""
    return [
        Problem(f"{policy.where}: after", f"there is no program {program!r} on this machine")
        for policy in policies
        for program in absent(policy)
    ]


def too_quick(policies: list[Policy]) -> list[Problem]:
    """What only the daemon can meet: a CronJob ticks once a minute at the most, and keys are retired at ticks."""
    problems = []
    for policy in policies:
        gap, where = policy.schedule.longest_gap(), policy.where
        if gap is not None and gap < CRONJOB:
            what = "shorter than a minute: only the daemon meets it, a CronJob ticks less often"
            problems.append(Problem(f"{where}: schedule", what))
        elif timedelta(0) < policy.grace < CRONJOB:
            what = (
                "shorter than a minute: with a CronJob the replaced key lives until its next tick"
            )
            problems.append(Problem(f"{where}: grace", what))
    return problems


def schema() -> None:
    """`rotator schema`."""
    with exits():
        print(json.dumps(json_schema(), indent=2))
