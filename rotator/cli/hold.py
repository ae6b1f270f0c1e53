"""`rotator hold` and `rotator release`: a freeze without touching a file; and letting the fleet's brake go."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import timedelta
from typing import NoReturn

from rotator import reporting
from rotator.cli import Choice, in_json, is_quiet, output
from rotator.cli.choice import choose, require
from rotator.cli.common import BUSY, FAILED, bad_usage, exits, fleet_from, length_of
from rotator.fleet.holds import LONGEST, Answer, put
from rotator.fleet.rights import let_go
from rotator.journal import Hold
from rotator.letters import visible


def hold(given: dict[str, str], *, chosen: Choice, span: str, reason: str, json_: bool) -> None:
    """`rotator hold`."""
    with exits():
        require(chosen)
        length, why = length_of("--for", span), visible(" ".join(reason.split()))
        if not timedelta(0) < length <= LONGEST:
            bad_usage(f"--for {span!r}: 90 days at most, and longer than nothing")
        if not why:
            bad_usage("--reason: say why, for whoever finds the policy held")
        with fleet_from(given, ecgrid=False) as fleet:
            policies, by = choose(fleet.policies, chosen), fleet.who
            now = fleet.patiently(fleet.vault_time).replace(microsecond=0)
            fleet.server.sure_of_time()
            frozen = Hold(at=now, until=now + length, reason=why, by=by)
            logged = not output.is_screen(json_)
            _end(put(fleet, policies, frozen, by, logged=logged), json_)


def release(given: dict[str, str], *, chosen: Choice, brake: bool, json_: bool) -> None:
    """`rotator release`."""
    with exits():
        if not brake:
            require(chosen)
        elif chosen != Choice():
            bad_usage("--brake is about all policies: without NAME, --tag, --owner and --all")
        with fleet_from(given, ecgrid=False) as fleet:
            if not brake:
                policies = choose(fleet.policies, chosen)
                fleet.patiently(fleet.vault_time)
                logged = not output.is_screen(json_)
                _end(put(fleet, policies, None, fleet.who, logged=logged), json_)
            moment = fleet.patiently(lambda: let_go(fleet.vault, fleet.who))
            reporting.event(
                "fleet.brake_let_go",
                by=fleet.who,
                message="a person let the brake go: issuing goes on",
            )
            if json_:
                output.print_json({"let_go_at": output.instant(moment), "by": fleet.who})
            elif not is_quiet():
                output.console().print(f"the brake was let go at {output.instant(moment)}")


def _end(answers: list[Answer], json_: bool) -> NoReturn:
    """Prints what became of each policy and exits: 1 goes before 3."""
    counted = Counter(str(answer.outcome) for answer in answers)
    shown = output.worth_telling(answers, lambda answer: answer.outcome == "failed")
    if json_:
        output.print_json(
            {"results": [in_json.of_hold(answer) for answer in shown], "summary": dict(counted)}
        )
    elif shown or not is_quiet():
        columns = ("POLICY", "OUTCOME", "UNTIL", "WHY", "")
        width = len(columns) if any(answer.message for answer in shown) else len(columns) - 1
        cells = (
            (answer.policy, answer.outcome, output.instant(until), why, answer.message)[:width]
            for answer in shown
            for until, why in [
                (answer.hold.until, answer.hold.reason) if answer.hold else (None, None)
            ]
        )
        output.console().print(output.table(columns[:width], cells))
    sys.exit(FAILED if counted["failed"] else BUSY if counted["busy"] else 0)
