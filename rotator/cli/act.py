"""The commands that act: rotate, run, check, adopt."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, NoReturn

from rotator import reporting
from rotator.cli import Choice, in_json, is_quiet, output
from rotator.cli.choice import choose, require
from rotator.cli.common import (
    BUSY,
    FAILED,
    OUT_OF_SYNC,
    Stop,
    bad_usage,
    exits,
    fleet_from,
    length_of,
    policies_from,
)
from rotator.cli.folding import Statement, counts, folded
from rotator.errors import Failure, RotatorError
from rotator.fleet import Fleet
from rotator.fleet.renaming import take_over, would_take_over
from rotator.letters import visible
from rotator.policy import Policy
from rotator.reporting.to_sentry import CheckIns, slug
from rotator.rotation import Check, Order, Result, Word

IN_SYNC = "in-sync"


def rotate(
    given: dict[str, str],
    *,
    chosen: Choice,
    reason: str,
    grace: str | None,
    dry_run: bool,
    json_: bool,
) -> None:
    """`rotator rotate`."""
    with exits():
        require(chosen)
        overlap = None if grace is None else _grace(grace)
        with fleet_from(given) as fleet:
            named = bool(chosen.names)
            policies = choose(fleet.policies, chosen, enabled=True)
            try:
                with _watched(fleet, [], json_):
                    since = fleet.patiently(fleet.vault_time)
            except RotatorError as error:
                results = (fleet.not_seen if dry_run else fleet.failed)(policies, error)
                _end(fleet, None, results, json_, named=named)
            order = Order(
                "demand",
                reason=_reason(reason) or "on demand",
                since=since,
                grace=overlap,
                retire_now=overlap == timedelta(0),
                named=named,
            )
            _carry_out(fleet, policies, order, json_, dry_run=dry_run)


def rollback(given: dict[str, str], *, name: str, reason: str, dry_run: bool, json_: bool) -> None:
    """`rotator rollback`."""
    with exits(), fleet_from(given) as fleet:
        policies = choose(fleet.policies, Choice((name,)))
        order = Order("rollback", reason=_reason(reason) or "rollback", named=True)
        _carry_out(fleet, policies, order, json_, dry_run=dry_run)


def _reason(text: str) -> str:
    return visible(" ".join(text.split()))


def run(
    given: dict[str, str], *, once: bool, shard: str | None, dry_run: bool, json_: bool
) -> None:
    """`rotator run`, and `rotator run --once`."""
    with exits():
        if dry_run and not once:
            bad_usage("--dry-run is for one tick: run --once --dry-run")
        part = _shard(shard)
        with fleet_from(given, serving=not once) as fleet:
            if not once:
                from rotator.daemon import serve

                serve(fleet, part, lambda: policies_from(fleet.settings))
                return
            if dry_run:
                _end(
                    fleet,
                    None,
                    _seen(fleet, fleet.of_shard(part), lambda: fleet.dry_tick(part)),
                    json_,
                    named=False,
                )
            stop = Stop(fleet)
            check_ins = CheckIns(slug("rotator-once", part), fleet.settings.sentry.cron)

            def tick() -> list[Result]:
                with fleet.reports.ticking(check_ins):
                    return fleet.tick(part)

            with _watched(fleet, [], json_):
                results = _seen(fleet, fleet.of_shard(part), tick)
            if not output.is_screen(json_):
                reporting.event("run.summary", **output.summary_of(results))
            _end(fleet, stop, results, json_, named=False)


def _seen(fleet: Fleet, policies: list[Policy], look: Callable[[], list[Result]]) -> list[Result]:
    """What a tick says; where Vault cannot be asked at all, that, of each policy."""
    try:
        return look()
    except RotatorError as error:
        return fleet.not_seen(policies, error)


def check(
    given: dict[str, str], *, chosen: Choice, repair: bool, dry_run: bool, json_: bool
) -> None:
    """`rotator check`, and `rotator check --repair`."""
    with exits(), fleet_from(given) as fleet:
        if dry_run and not repair:
            bad_usage("check changes nothing: --dry-run is for check --repair")
        policies = choose(fleet.policies, chosen)
        if repair:
            order = Order("repair", reason="check --repair", named=bool(chosen.names))
            _carry_out(fleet, policies, order, json_, dry_run=dry_run)
        with output.counting("policies", len(policies)) as tell:
            answers = fleet.check(policies, tell)
        checked = [_checked(name, one) for name, one in answers.items()]
        shown = output.worth_telling(checked, lambda one: one.state != IN_SYNC)
        without = [] if chosen.names or chosen.filters else fleet.without_policy()
        if json_:
            rows = [in_json.of_check(one) for one in shown]
            output.print_json({"results": rows, "without_policy": without})
        elif shown or not is_quiet():
            _print_checked(shown, without)
        states = {one.state for one in checked}
        sys.exit(FAILED if "failed" in states else OUT_OF_SYNC if states - {IN_SYNC} else 0)


class Checked(NamedTuple):
    """What `check` found of a policy, or why it found nothing."""

    policy: str
    state: str
    why: str
    warnings: tuple[str, ...] = ()


def _checked(policy: str, answer: Check | Failure) -> Checked:
    if isinstance(answer, Failure):
        return Checked(policy, "failed", f"{answer} [{answer.kind}]")
    return Checked(policy, answer.state, answer.why, tuple(answer.warnings))


def _print_checked(checked: list[Checked], without: list[str]) -> None:
    """What is wrong first, what is alike once, and how many are in which state."""
    ranked = sorted(checked, key=lambda one: (one.state != "failed", one.state == IN_SYNC))
    out = output.console()
    states = folded((Statement(one.state, "", one.policy, one.why) for one in ranked), fine=IN_SYNC)
    rows = ((one.title, one.state, one.text) for one in states)
    out.print(output.table(("POLICY", "STATE", "WHY"), rows))
    warnings = (
        Statement("warning", "", one.policy, text) for one in ranked for text in one.warnings
    )
    for warning in folded(warnings, fine=""):
        out.print(output.plain(f"{warning.title}: {warning.text}"))
    if without:
        out.print(output.plain(f"records without a policy here: {', '.join(without)}"))
    print(counts(one.state for one in ranked))


def adopt(
    given: dict[str, str],
    *,
    chosen: Choice,
    ecgrid: bool,
    old: str | None,
    dry_run: bool,
    json_: bool,
) -> None:
    """`rotator adopt`."""
    with exits():
        if not ecgrid:
            require(chosen)
        elif chosen != Choice():
            bad_usage("--ecgrid is about all policies: without NAME, --tag, --owner and --all")
        if old is not None and len(chosen.names) != 1:
            bad_usage("--from OLD takes exactly one NAME")
        with fleet_from(given) as fleet:
            if ecgrid:
                _adopt_ecgrid(fleet, json_, dry_run=dry_run)
                return
            policies = choose(fleet.policies, chosen)
            if old is not None and dry_run:
                said = would_take_over(fleet.vault, policies[0], old)
                results = [Result(policies[0].name, "unchanged", warnings=(said,))]
                _end(fleet, None, results, json_, named=True)
            if old is not None:
                try:
                    new = policies[0]
                    take_over(fleet.vault, new, old, lambda: fleet.index.hold(new.name))
                except RotatorError as error:
                    _end(fleet, None, fleet.failed(policies, error), json_, named=True)
            order = Order("adopt", reason="adopt", named=bool(chosen.names))
            _carry_out(fleet, policies, order, json_, dry_run=dry_run, old=old)


def _adopt_ecgrid(fleet: Fleet, json_: bool, *, dry_run: bool) -> None:
    """Whatever is configured is the ECGrid that the records are about from here on; prints which it is."""
    fleet.vault_time()
    which = fleet.adopt_ecgrid(dry_run=dry_run)
    system = fleet.whose.system()
    if json_:
        output.print_json(
            {
                "ecgrid": "same" if which == "the same" else "other",
                "hosts": system.hosts,
                "network_id": system.network_id,
            }
        )
        return
    hosts = ", ".join(system.hosts.values())
    meaning = (
        "all records stay as they are"
        if which == "the same"
        else "each record is a new start, whose debts and baselines are forgotten"
    )
    if not is_quiet():
        print(f"{which} ECGrid, at {hosts} (network {system.network_id}): {meaning}")


def _grace(text: str) -> timedelta:
    return timedelta(0) if text == "0" else length_of("--grace", text)


def _shard(text: str | None) -> tuple[int, int] | None:
    """I/N, or what Kubernetes tells the pods of an Indexed Job."""
    if text is None and "JOB_COMPLETION_INDEX" in os.environ:
        count = os.environ.get("JOB_COMPLETIONS")
        if count is None:
            bad_usage(
                "JOB_COMPLETION_INDEX is set but JOB_COMPLETIONS is not: give both, or --shard I/N"
            )
        text = f"{os.environ['JOB_COMPLETION_INDEX']}/{count}"
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        bad_usage(f"--shard {text!r}: I/N, with I from 0 to N-1")
    return int(index), int(count)


def _carry_out(
    fleet: Fleet,
    chosen: list[Policy],
    order: Order,
    json_: bool,
    *,
    dry_run: bool,
    old: str | None = None,
) -> NoReturn:
    """Carries an order out, with progress at a terminal, or only tries it; prints the results and exits.

    `old`: the name whose record was taken over before.
    """
    if dry_run:
        _end(fleet, None, fleet.dry_run(chosen, order), json_, named=order.named)
    stop = Stop(fleet)
    with _watched(fleet, chosen, json_):
        results = fleet.tend(chosen, order)
    if old is not None:
        results = [_took_over(result, old) for result in results]
    _end(fleet, stop, results, json_, named=order.named)


def _took_over(result: Result, old: str) -> Result:
    """The same, of a policy whose record was that of `old` before."""
    took_over = f"took over the record of {old}, which there is no more"
    outcome: Word = "adopted" if result.outcome == "unchanged" else result.outcome
    return result._replace(outcome=outcome, warnings=(took_over, *result.warnings))


@contextmanager
def _watched(fleet: Fleet, policies: list[Policy], json_: bool) -> Iterator[None]:
    """Meanwhile a terminal shows how far the work is; what is printed there afterwards is not logged there, too."""
    names = [policy.name for policy in policies]
    if output.is_screen(json_):
        fleet.prints_results()
    with output.progress(names, wanted=not json_ and not is_quiet()) as shown:
        fleet.progress, fleet.waits, fleet.done = shown.tell, shown.waits, shown.done
        yield


def _end(
    fleet: Fleet, stop: Stop | None, results: list[Result], json_: bool, *, named: bool
) -> NoReturn:
    """Prints the results and exits with their code: 1 goes before 3."""
    fleet.report_skew()
    output.results(results, json_)
    code = 0
    if any(result.bad for result in results):
        code = FAILED
    elif named and any(result.outcome == "busy" for result in results):
        code = BUSY
    complete = not any(result.stopped for result in results)
    sys.exit(stop.code(code, complete=complete) if stop else code)
