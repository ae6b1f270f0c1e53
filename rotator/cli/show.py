"""The commands that only look: status, history, validate, schema."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from rotator.cli import output
from rotator.cli.common import FAILED, choose, exits, fleet_from, policies_from, settings_from
from rotator.errors import BadInput, Failure
from rotator.journal import Record
from rotator.policy import Policy, json_schema, warnings
from rotator.rotation.due import due_since, fits, is_due, is_overdue, key_age


def status(given: dict[str, str], *, names: tuple[str, ...], strict: bool, json_: bool) -> None:
    """`rotator status`."""
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


def row(policy: Policy, record: Record | Failure | None, now: datetime) -> dict[str, Any]:
    """One policy of `status --json`."""
    if isinstance(record, Failure):
        failure = {
            "at": None,
            "phase": "observe",
            "kind": record.kind,
            "message": str(record),
            "retry_at": None,
        }
        return _row(policy, None, now) | {"state": "failed", "last_failure": failure}
    return _row(policy, record, now)


def _row(policy: Policy, record: Record | None, now: datetime) -> dict[str, Any]:
    record = record or Record.new(policy.name)
    current, failed = record.current, record.failed
    due, age = due_since(policy, record), key_age(current, now)
    failure = None
    if failed is not None:
        failure = {
            "at": output.instant(failed.at),
            "phase": failed.phase,
            "kind": failed.kind,
            "message": failed.message,
            "retry_at": output.instant(failed.retry_at) if failed.retry_at else None,
        }
    return {
        "policy": policy.name,
        "user_id": current.user_id if current else policy.users[0],
        "key_id": current.key_id if current else None,
        "key_age_s": round(age.total_seconds()) if age is not None else None,
        "max_age_s": round(policy.max_age.total_seconds()) if policy.max_age else None,
        "last_rotated_at": output.instant(record.rotated_at) if record.rotated_at else None,
        "next_due_at": output.instant(due) if due and policy.enabled else None,
        "state": _state(policy, record, now),
        "last_failure": failure,
    }


def _state(policy: Policy, record: Record, now: datetime) -> str:
    """The one word for a policy, the most alarming first."""
    if is_overdue(policy, record, now):
        return "overdue"
    if record.failed is not None:
        return "failed"
    if record.underway is not None:
        return "rotating"
    if not policy.enabled:
        return "paused"
    if not fits(policy, record):
        return "not-adopted"
    return "due" if is_due(policy, record, now) else "ok"


def history(given: dict[str, str], *, name: str, json_: bool) -> None:
    """`rotator history`."""
    with exits(), fleet_from(given, ecgrid=False) as fleet:
        (policy,) = choose(fleet.policies, [name])
        record = fleet.records([policy])[name]
        if isinstance(record, Failure):
            raise record
        past = record.history if record else ()
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
            told += [str(warning) for warning in warnings(policies)]
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


def schema() -> None:
    """`rotator schema`."""
    with exits():
        print(json.dumps(json_schema(), indent=2))
