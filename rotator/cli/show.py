"""The commands that only look: status, history, validate, schema."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rotator.cli import output
from rotator.cli.common import FAILED, choose, exits, fleet_from, policies_from, settings_from
from rotator.errors import BadInput, Failure, Problem
from rotator.policy import Policy, json_schema, warnings

CRONJOB = timedelta(minutes=1)  # between two ticks, at the shortest


def status(given: dict[str, str], *, names: tuple[str, ...], strict: bool, json_: bool) -> None:
    """`rotator status`."""
    from rotator.fleet.standing import row

    with exits(), fleet_from(given, ecgrid=False) as fleet:
        chosen = choose(fleet.policies, names) if names else fleet.policies
        now = fleet.vault_time()
        found = fleet.records(chosen)
        rows = [row(policy, found[policy.name], now) for policy in chosen]
        if json_:
            output.rows_as_json(rows, "policies")
        else:
            _print_status(rows, now)
        unread = any(isinstance(record, Failure) for record in found.values())
        alarming = any(one["state"] in ("overdue", "failed") for one in rows)
        sys.exit(FAILED if unread or (strict and alarming) else 0)


def _print_status(rows: list[dict[str, Any]], now: datetime) -> None:
    def ahead(text: str | None) -> str:
        return output.distance(datetime.fromisoformat(text), now) if text else "-"

    out = output.console()
    out.print(
        output.table(
            ("POLICY", "STATE", "USER", "KEY", "AGE", "MAX", "LAST", "NEXT"),
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
                )
                for one in rows
            ),
        )
    )
    for one in rows:
        if one["last_failure"]:
            failure = one["last_failure"]
            out.print(
                f"{one['policy']}: failed in {failure['phase']}: {failure['message']} [{failure['kind']}]"
            )


def history(given: dict[str, str], *, name: str, json_: bool) -> None:
    """`rotator history`."""
    with exits(), fleet_from(given, ecgrid=False) as fleet:
        (policy,) = choose(fleet.policies, [name])
        stored = fleet.vault.record(policy.name)
        past = stored.record.history if stored else ()
        if json_:
            output.print_json(
                {"policy": name, "history": [one.model_dump(mode="json") for one in past]}
            )
            return
        out = output.console()
        out.print(
            output.table(
                ("AT", "OUTCOME", "USER", "KEY", "REPLACES", "PUBLISHED", "BY", "WHY"),
                (
                    (
                        output.instant(one.at),
                        one.outcome,
                        one.user_id,
                        one.key_id,
                        one.previous_key_id,
                        ", ".join(
                            f"{place.mount}/{place.path} v{place.version}"
                            for place in one.published
                        ),
                        one.by,
                        one.error or one.reason,
                    )
                    for one in reversed(past)
                ),
            )
        )


def validate(given: dict[str, str], *, path: str | None, json_: bool) -> None:
    """`rotator validate`: needs neither credentials nor a Vault address."""
    with exits():
        problems: list[str] = []
        told: list[str] = []
        policies: list[Policy] = []
        try:
            settings = settings_from(given)
            told += [str(warning) for warning in settings.warnings]
            policies = policies_from(settings, Path(path) if path else None)
            told += [str(warning) for warning in (*warnings(policies), *too_quick(policies))]
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
        out = output.console()
        for warning in told:
            out.print(f"warning: {warning}")
        out.print(f"{len(policies)} policies, no errors")


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
