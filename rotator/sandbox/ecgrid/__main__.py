"""`python -m rotator.sandbox.ecgrid`: the simulator as a process of its own."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading

from rotator.sandbox.ecgrid.listening import start
from rotator.sandbox.ecgrid.simulator import Simulator
from rotator.sandbox.ecgrid.switches import Switches
from rotator.sandbox.ecgrid.words import AuthLevel


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; prints one line of JSON with the URLs and the users' ids, and no key.

    Keys are handed out by the control API (`Control.add_key`). Exit 2: bad usage, or the port is taken.
    """
    options = _parser().parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        simulator = _simulator(options)
        running = start(simulator, options.port)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"the simulator cannot start: {error}\n")
        return 2
    with running:
        ids = [user.user_id for user in simulator.users()]
        urls = {"url": running.url, "rest_url": running.rest_url, "soap_url": running.soap_url}
        line = {**urls, "admin_user_id": ids[0], "user_ids": ids[1:]}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        stop.wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rotator.sandbox.ecgrid", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default: any free port")
    parser.add_argument(
        "--users", type=int, default=0, help="so many users with a key, from 5001 on"
    )
    parser.add_argument("--seed", type=int, help="the same keys every time (for benchmarks)")
    parser.add_argument("--switches", default="{}", metavar="JSON", help='as {"keyset": "replace"}')
    return parser


def _simulator(options: argparse.Namespace) -> Simulator:
    """An administrator (5000) and the users that were asked for, each with one Private key."""
    randomness = None if options.seed is None else random.Random(options.seed)
    switches = Switches.from_json(json.loads(options.switches))
    simulator = Simulator(switches, randomness=randomness)
    simulator.add_user(5000, login="admin", auth_level=AuthLevel.NetworkAdmin)
    for _ in range(options.users):
        simulator.add_key(simulator.add_user().user_id)
    return simulator


if __name__ == "__main__":
    sys.exit(main())
