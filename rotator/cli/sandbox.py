"""`rotator sandbox` and `rotator demo`: the real thing in a minute, with no account."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rotator import reporting
from rotator.cli import output
from rotator.cli.common import FAILED, exits, policies_from
from rotator.ecgrid import Urgency
from rotator.errors import Refused
from rotator.fleet import Fleet
from rotator.keys import Secret
from rotator.rotation import Order, Result
from rotator.sandbox.ecgrid import Fault, Form
from rotator.sandbox.scene import Sandbox
from rotator.sandbox.scene import sandbox as start
from rotator.settings import Settings

NEXT = """\
What to type next:
  rotator sandbox        the same two servers, to play with from another shell
  rotator validate       your own policies in ./policies, offline
  rotator doctor         your own Vault and ECGrid, before the first rotation
  rotator rotate --help  rotate now
"""


def sandbox(*, rest_port: int, form: Form, json_: bool) -> None:
    """`rotator sandbox`."""
    with exits(), start(rest_port, form=form) as running:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        environment = {**running.environment, "ROTATOR_POLICIES": str(running.policies)}
        if json_:
            output.print_json({"environment": environment, "control_url": running.ecgrid.url})
        else:
            lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
            print("\n".join(lines))
            print(
                "# in another terminal, with these exports: rotator doctor; rotator run --once; rotator rotate --all"
            )
            print("# Ctrl-C ends the sandbox and forgets everything")
        sys.stdout.flush()
        stop.wait()


@dataclass(frozen=True)
class _Tour:
    """What is told of one form of ECGrid."""

    title: str
    # The call that makes a key.
    issuing: str
    on_demand: str


_TOURS: dict[Form, _Tour] = {
    "portal": _Tour(
        "ECGrid as its portal describes it: KeySet makes a key beside the old one.",
        "KeySet",
        "rotator rotate --all --grace 0s (new keys; the old ones are retired at once)",
    ),
    "service": _Tour(
        "ECGrid as the service describes itself: KeySet stores values, only Generate makes a key.",
        "Generate",
        "rotator rotate --all (new keys; Generate ends the old ones at once)",
    ),
}


def demo() -> None:
    """`rotator demo`."""
    with exits():
        reporting.setup("ERROR")
        print("Starting a simulated ECGrid and a real OpenBao on loopback ...", flush=True)
        good = True
        for form, tour in _TOURS.items():
            _say(f"\n{tour.title}")
            with start(form=form) as running:
                good = _tour(running, tour) and good
        print(f"\n{NEXT}")
        if shutil.which("rotator") is None:
            _say(f"The PATH has no `rotator`: it is in {Path(sys.executable).parent}.\n")
        if not good:
            sys.exit(FAILED)


def _tour(running: Sandbox, tour: _Tour) -> bool:
    # In a place where nobody keeps a rotator.toml of their own.
    settings = Settings.load(
        running.environment, running.policies, {"policies": str(running.policies)}
    )
    policies = policies_from(settings)
    with Fleet(settings, policies) as fleet:
        _say(
            f"\n1. The first tick takes over the keys that {len(policies)} users have (nothing is cut off):\n"
        )
        first = fleet.tick()
        _show(first)
        old = _published(fleet)
        _say(f"\n2. {tour.on_demand}:\n")
        second = fleet.tend(policies, _order(fleet, "demo"))
        _show(second)
        _say("\n3. What ECGrid says to the old and to the new keys:\n")
        new = _published(fleet)
        proved = _proof(fleet, old, new, second)
        _say(
            f"\n4. The answer to the next {tour.issuing} is lost: the key is made, and nobody is told its value.\n"
        )
        running.ecgrid.simulator.add_fault(Fault("lost", call="issue"))
        third = fleet.tend(policies[:1], _order(fleet, "demo with a lost answer"))
        _show(third)
        issued = running.ecgrid.simulator.issued(policies[0].users[0])
        _say(
            f"\n   Healed by looking: {issued} keys were issued to this user in 2 rotations, none twice."
        )
        return proved and not any(result.bad for result in (*first, *second, *third))


def _say(text: str) -> None:
    """A sentence, wrapped between its words where the terminal ends."""
    output.console().print(text)


def _order(fleet: Fleet, reason: str) -> Order:
    return Order(
        "demand", reason=reason, since=fleet.vault_time(), grace=timedelta(0), retire_now=True
    )


def _show(results: list[Result]) -> None:
    output.results(results, json_=False)


def _published(fleet: Fleet) -> dict[str, Secret | None]:
    shown = {
        policy.name: fleet.vault.published(policy.destinations[0]) for policy in fleet.policies
    }
    return {name: published.value if published else None for name, published in shown.items()}


def _proof(
    fleet: Fleet,
    old: dict[str, Secret | None],
    new: dict[str, Secret | None],
    results: list[Result],
) -> bool:
    """One table: the old key is refused, the new one accepted, and where it is."""
    answers = {name: (_says(fleet, old[name]), _says(fleet, new[name])) for name in new}
    rows = []
    for result in results:
        place = result.published[0]
        rows.append(
            (
                result.policy,
                *answers[result.policy],
                f"{place.mount}/{place.path}",
                f"version {place.version}",
            )
        )
    output.console().print(output.table(("POLICY", "OLD KEY", "NEW KEY", "IN VAULT", "AS"), rows))
    return all(pair == ("refused", "accepted") for pair in answers.values())


def _says(fleet: Fleet, value: Secret | None) -> str:
    policy = fleet.policies[0]
    account = fleet.ecgrid.account(policy.issue, policy.verify, Urgency.CHECK)
    if value is None:
        return "none"
    try:
        account.who_am_i(10.0, caller=value)
    except Refused:
        return "refused"
    return "accepted"
