"""The commands that only look: status, validate, schema."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotator.cli import Choice, is_quiet, output
from rotator.cli.choice import choose
from rotator.cli.common import FAILED, bad_usage, exits, fleet_from, input_from
from rotator.errors import BadInput, Failure, Problem, RotatorError
from rotator.hooks import absent
from rotator.policy import Policy, json_schema, warnings
from rotator.reporting.rows import is_too_old

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
            told = output.worth_telling(rows, _alarming)
            if json_:
                output.rows_as_json(told, "policies")
            elif told or not is_quiet():
                output.console().print(_drawn(told, now, fleet.rights.why()))
            sys.exit(FAILED if unread or (strict and any(map(_alarming, rows))) else 0)


def _alarming(row: dict[str, Any]) -> bool:
    return row["state"] == "failed" or is_too_old(row)


def _look(
    fleet: Fleet, policies: list[Policy], states: tuple[str, ...]
) -> tuple[datetime, list[dict[str, Any]], bool]:
    """Vault's time, a row for each policy in one of the states (none given: in any), and whether a record is unread."""
    now, found = fleet.vault_time(), fleet.records(policies)
    # What a record cannot keep is known from the alarms.
    if None in found.values():
        fleet.reports.alarms.read()
    every = fleet.reports.rows([(policy, found[policy.name]) for policy in policies], now)
    rows = [one for one in every if not states or one["state"] in states]
    return now, rows, any(isinstance(record, Failure) for record in found.values())


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
                rows.sort(key=lambda one: one["state"] not in ALARMING)
                live.update(_fitting(console, rows, now, fleet.rights.why()), refresh=True)
            time.sleep(WATCH_EVERY)


def _fitting(
    console: Console, rows: list[dict[str, Any]], now: datetime, held: Mapping[str, str]
) -> Group:
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


def _drawn(rows: list[dict[str, Any]], now: datetime, held: Mapping[str, str]) -> Group:
    """The table, and below it what is held back for all, and what failed last."""
    from rich.console import Group

    def ahead(text: str | None) -> str:
        return output.distance(datetime.fromisoformat(text), now) if text else "-"

    def again(told: dict[str, Any]) -> str:
        return f", tried again {ahead(told['retry_at'])}" if told["retry_at"] else ""

    drawn = output.table(
        ("POLICY", "STATE", "USER", "KEY", "AGE", "MAX", "LAST", "NEXT", "OLD ENDS"),
        (
            (
                one["policy"],
                one["state"],
                one["user_id"],
                one["key_id"],
                output.span(one["key_age_s"]),
                output.span(one["max_age_s"]),
                ahead(one["last_rotated_at"]),
                ahead(one["next_due_at"]),
                ahead(one["previous_key_until"]),
            )
            for one in rows
        ),
    )
    paused = [one for one in rows if one["paused_until"]]
    failures = [(one["policy"], one["last_failure"]) for one in rows if one["last_failure"]]
    return Group(
        drawn,
        *(output.plain(f"held back: {why} [{kind}]") for kind, why in held.items()),
        *(
            output.plain(
                f"{one['policy']}: held until {one['paused_until']}: {one['paused_reason']}"
            )
            for one in paused
        ),
        *(
            output.plain(
                f"{name}: failed in {told['phase']}: {told['message']} [{told['kind']}]{again(told)}"
            )
            for name, told in failures
        ),
        *(
            output.plain(f"{one['policy']}: {problem}", "yellow")
            for one in rows
            for problem in one["hook_problems"]
        ),
    )


def validate(given: dict[str, str], *, path: str | None, json_: bool) -> None:
    """`rotator validate`: needs neither credentials nor a Vault address."""
    with exits():
        problems: list[str] = []
        told: list[str] = []
        policies: list[Policy] = []
        try:
            settings, policies = input_from(given, Path(path) if path else None)
            told += [str(warning) for warning in settings.warnings]
            doubts = (*warnings(policies), *too_quick(policies), *without_program(policies))
            told += [str(warning) for warning in doubts]
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
                    "warnings": told,
                }
            )
            sys.exit(2 if problems else 0)
        if is_quiet():
            return
        out = output.console()
        for warning in told:
            out.print(output.plain(f"warning: {warning}"))
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
    found = []
    for policy in policies:
        gap, where = policy.schedule.longest_gap(), policy.where
        if gap is not None and gap < CRONJOB:
            what = "shorter than a minute: only the daemon meets it, a CronJob ticks less often"
            found.append(Problem(f"{where}: schedule", what))
        elif timedelta(0) < policy.grace < CRONJOB:
            what = (
                "shorter than a minute: with a CronJob the replaced key lives until its next tick"
            )
            found.append(Problem(f"{where}: grace", what))
    return found


def schema() -> None:
    """`rotator schema`."""
    with exits():
        print(json.dumps(json_schema(), indent=2))
