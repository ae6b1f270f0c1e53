"""What a fleet does when everything fails, with the real command, a real OpenBao and the simulated ECGrid."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from conftest import OPERATOR, Finished, Rotator, VaultServer, events, in_every, until
from proxy import Answer, Forward, Proxy, Request
from test_daemon import FIRST_USER, fleet_of, published, record

from rotator.fleet.verdict import LEAST
from rotator.sandbox.ecgrid import Fault, Running

SIZE = 24
BRAKE, AT_ONCE = 5, 8  # the settings' defaults
QUICK = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "5s", "ROTATOR_CHECK_EVERY": "0"}
COMPRESSED = ("ROTATOR_DEADLINE", "ROTATOR_CLAIM_TTL", "ROTATOR_ECGRID__RATE")
PACES = ["quick", pytest.param("default", marks=in_every)]
SERVED_WITHIN = 90.0  # seconds in which who is due is served, whoever is stuck
WELL_WITHIN = 600.0  # seconds after the trouble, at the default rate, for SIZE policies
REPLACES = {"keyset": "replace", "read_back": "masked", "list_shows": "masked"}


def adopted(command: Rotator, simulator: Running, size: int = SIZE, grace: str = "0") -> list[str]:
    """So many policies whose keys are published, and not due for a month."""
    names = fleet_of(command, simulator, size, "30d", grace)
    command.environment |= QUICK
    assert command("run", "--once", "--json").json["summary"] == {"adopted": size}
    return names


def take_pace(command: Rotator, pace: str) -> None:
    """Deadline, claims and ECGrid's rate are the defaults from here on, or stay compressed."""
    for name in COMPRESSED if pace == "default" else ():
        command.environment.pop(name)


def make_due(vault: VaultServer, mount: str, names: list[str]) -> None:
    """A month passes for these policies: in their records, which the due index then knows nothing of."""
    long_ago = datetime.now(UTC) - timedelta(days=31)
    for name in names:
        told = vault.call("GET", f"{mount}/data/rotator/record/{name}")["data"]
        data = told["data"] | {"rotated_at": long_ago.isoformat().replace("+00:00", "Z")}
        body = {"data": data, "options": {"cas": told["metadata"]["version"]}}
        vault.call("POST", f"{mount}/data/rotator/record/{name}", body)
    forget_index(vault, mount)


def forget_index(vault: VaultServer, mount: str) -> None:
    """The due index is lost."""
    for key in vault.call("GET", f"{mount}/metadata/rotator/index?list=true")["data"]["keys"]:
        vault.call("DELETE", f"{mount}/metadata/rotator/index/{key}")


def user_of(name: str) -> int:
    """The user of a policy of `fleet_of`."""
    return FIRST_USER + int(name.removeprefix("p"))


def dead(vault: VaultServer, mount: str, simulator: Running, names: list[str]) -> list[str]:
    """The policies whose consumers are cut off."""
    model = simulator.simulator
    return [n for n in names if model.who(published(vault, mount, n)) != user_of(n)]


def in_doubt(vault: VaultServer, mount: str, names: list[str]) -> list[str]:
    """The policies for which a key may have been made that nobody has."""
    return [n for n in names if record(vault, mount, n).get("underway", {}).get("sent")]


def keys_made(vault: VaultServer, mount: str, name: str) -> int:
    """How many keys the open rotation of a policy is known to have made that nobody has."""
    return int(record(vault, mount, name).get("underway", {}).get("made", 0))


def kinds(done: Finished) -> Counter[str]:
    """What failed, and how often; and the outcomes of the others."""
    results = done.json["results"]
    return Counter(one["error"]["kind"] if one["error"] else one["outcome"] for one in results)


def through(proxy: Proxy, vault: VaultServer, command: Rotator, **more: str) -> Finished:
    """One tick of a process that reaches Vault through that proxy."""
    return command("run", "--once", "--json", VAULT_ADDR=proxy.before("vault", vault.addr), **more)  # type: ignore[arg-type]


def asked(simulator: Running, call: str = "KeySet") -> int:
    """How many requests for a key ECGrid saw."""
    return sum(entry.call == call for entry in simulator.simulator.requests())


def all_issued(simulator: Running, names: list[str]) -> bool:
    """Whether ECGrid has made a key for each."""
    return all(simulator.simulator.issued(user_of(name)) for name in names)


def well(vault: VaultServer, mount: str, simulator: Running, names: list[str]) -> bool:
    """Whether each has a key that works, nothing is open, and each record is as the version before reads it."""
    there = [record(vault, mount, name) for name in names]
    fine = all(not one.get("underway") and one["format"] == 1 for one in there)
    return fine and not dead(vault, mount, simulator, names)


TROUBLES: dict[str, Fault] = {
    "503": Fault("status", call="KeySet", status=503, times=None),
    "lost": Fault("lost", call="KeySet", times=None),
}


@pytest.mark.full
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("pace", PACES)
def test_a_fleet_brakes_before_it_harms_and_is_well_by_itself_afterwards(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    trouble: str,
    pace: str,
) -> None:
    """All are due while KeySet fails for all; then ECGrid is well again, and others come due.

    Where answers are lost KeySet was carried out, the old key is dead, and the values are masked.
    """
    names = adopted(rotator_command, simulator, SIZE + 4)
    troubled, others = names[:SIZE], names[SIZE:]
    simulator.simulator.switch(**REPLACES)
    simulator.simulator.add_fault(TROUBLES[trouble])
    make_due(vault, mount, troubled)
    take_pace(rotator_command, pace)
    done = rotator_command("run", "--once", "--json", timeout=WELL_WITHIN)
    told = kinds(done)
    assert (done.code, told["fleet.Braked"] >= SIZE - BRAKE - AT_ONCE) == (1, True), told
    assert len(events(done.stderr, "fleet.braked")) == 1
    assert len(in_doubt(vault, mount, names)) <= BRAKE + AT_ONCE
    assert len(dead(vault, mount, simulator, names)) <= BRAKE + AT_ONCE
    before = asked(simulator)
    again = rotator_command("run", "--once", "--json", timeout=WELL_WITHIN)  # while all wait
    assert again.code == 1
    assert asked(simulator) <= before + 4
    assert len(in_doubt(vault, mount, names)) <= BRAKE + AT_ONCE + 1
    simulator.simulator.clear_faults()
    simulator.simulator.switch(read_back="full", list_shows="full")
    daemon = rotator_command.start("run")
    make_due(vault, mount, others)
    late = [name for name in names if keys_made(vault, mount, name) > 2]
    prompt = [name for name in names if name not in late]
    patience = WELL_WITHIN if pace == "default" else 120.0
    until(
        lambda: all_issued(simulator, prompt) and well(vault, mount, simulator, prompt),
        "they are rotated, and well",
        patience,
    )
    assert len(late) <= AT_ONCE
    assert trouble == "lost" or not late, "what made nothing counts for no limit"
    if late:  # three keys that nobody has were made for each; a person need not wait five minutes
        done = rotator_command("rotate", "--json", *late, timeout=WELL_WITHIN)
        assert done.json["summary"] == {"rotated": len(late)}
    assert well(vault, mount, simulator, names)
    assert all_issued(simulator, names)
    until(lambda: events(daemon.so_far()[1], "fleet.brake_over"), "it says so", 30)
    daemon.kill()


@pytest.mark.full
@pytest.mark.parametrize("pace", PACES)
def test_who_is_due_is_served_while_many_are_stuck(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running, pace: str
) -> None:
    """Four of them, beside 24 that were made without a brake, and each of which may have a key that nobody has."""
    names = adopted(rotator_command, simulator, SIZE + 4, grace="24h")
    stuck, due = names[:SIZE], names[SIZE:]
    simulator.simulator.add_fault(TROUBLES["503"])
    make_due(vault, mount, stuck)
    without = {"ROTATOR_BRAKE": "0", "ROTATOR_CONCURRENCY": str(SIZE)}
    rotator_command("run", "--once", "--json", **without)  # type: ignore[arg-type]
    assert in_doubt(vault, mount, names) == stuck
    simulator.simulator.clear_faults()
    make_due(vault, mount, due)
    take_pace(rotator_command, pace)
    daemon = rotator_command.start("run")
    until(lambda: all_issued(simulator, due), "they are served", SERVED_WITHIN)
    until(lambda: well(vault, mount, simulator, names), "all are well", WELL_WITHIN)
    daemon.kill()


@contextmanager
def vault_goes_away(
    simulator: Running, vault: VaultServer, command: Rotator, keys: int
) -> Iterator[tuple[Proxy, threading.Event]]:
    """ECGrid answers once it was asked for so many keys; from then on there is no Vault, while the event is set."""
    away = threading.Event()
    together = threading.Barrier(keys, away.set)

    def gate(request: Request, forward: Forward) -> Answer | None:
        if request.server == "vault":
            return None if away.is_set() else forward()
        answer = forward()
        if request.issues:
            together.wait(60)
        return answer

    with Proxy(gate) as proxy:
        command.environment |= {
            "VAULT_ADDR": proxy.before("vault", vault.addr),
            "ROTATOR_ECGRID__REST_URL": proxy.before("rest", simulator.rest_url),
            "ROTATOR_ECGRID__SOAP_URL": proxy.before("soap", simulator.soap_url),
        }
        yield proxy, away


def test_a_vault_that_goes_away_past_eight_issues_has_all_keys_one_tick_after_its_return(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Though the process that had them is gone, none is asked for again, and more are in trouble than brake a fleet."""
    names = adopted(rotator_command, simulator, AT_ONCE)
    simulator.simulator.switch(keyset="replace")
    make_due(vault, mount, names)
    with vault_goes_away(simulator, vault, rotator_command, AT_ONCE) as (_, away):
        done = rotator_command("run", "--once", "--json")
        assert (done.code, asked(simulator)) == (1, AT_ONCE), done.stdout
        assert dead(vault, mount, simulator, names) == names
        away.clear()
        done = rotator_command("run", "--once", "--json")
    assert kinds(done) == {"rotated": AT_ONCE}
    assert asked(simulator) == AT_ONCE
    assert well(vault, mount, simulator, names)


def test_a_vault_that_comes_back_meanwhile_gets_the_keys_from_memory(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """The run that issued them goes on past its deadline, as long as its claims last."""
    names = adopted(rotator_command, simulator, AT_ONCE)
    simulator.simulator.switch(keyset="replace")
    make_due(vault, mount, names)
    patient = {"ROTATOR_CLAIM_TTL": "60s"}
    with vault_goes_away(simulator, vault, rotator_command, AT_ONCE) as (proxy, away):
        tick = rotator_command.start("run", "--once", "--json", **patient)
        until(away.is_set, "all keys are issued")
        gone = len(proxy.requests)
        until(lambda: len(proxy.requests) > gone + 3 * AT_ONCE, "each tried again", 60)
        away.clear()
        done = tick.finish()
    assert kinds(done) == {"rotated": AT_ONCE}
    assert asked(simulator) == AT_ONCE
    assert well(vault, mount, simulator, names)


@pytest.mark.parametrize(("size", "most"), [(2, 2), (5, 5), (10, 10)])
def test_small_fleets_brake_too(
    rotator_command: Rotator,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    size: int,
    most: int,
) -> None:
    """Half of the policies, and at least two, may be in trouble; and one at a time, when one at a time is set."""
    names = adopted(rotator_command, simulator, size)
    simulator.simulator.switch(**REPLACES)
    simulator.simulator.add_fault(TROUBLES["lost"])
    make_due(vault, mount, names)
    rotator_command("run", "--once", "--json", ROTATOR_CONCURRENCY="1")
    limit = max(LEAST, min(BRAKE, size // 2))
    assert len(dead(vault, mount, simulator, names)) <= min(most, limit + 1)
    assert len(in_doubt(vault, mount, names)) <= limit + 1


def test_two_rotators_at_once_brake_together(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """At most the limit in doubt, and what each of them had begun; a third that comes later adds nothing."""
    names = adopted(rotator_command, simulator)
    simulator.simulator.switch(**REPLACES)
    simulator.simulator.add_fault(TROUBLES["lost"])
    make_due(vault, mount, names)
    rotator_command.environment["ROTATOR_CONCURRENCY"] = "3"
    both = [rotator_command.start("run", "--once", "--json") for _ in range(2)]
    assert [one.finish().code for one in both] == [1, 1]
    bound = BRAKE + 2 * 3
    assert len(dead(vault, mount, simulator, names)) <= bound
    rotator_command("run", "--once", "--json")
    assert len(dead(vault, mount, simulator, names)) <= bound + 1
    assert len(in_doubt(vault, mount, names)) <= bound + 1


@pytest.mark.full
def test_rotate_all_is_held_and_a_named_policy_is_not(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """While others are in trouble a leaked key can be replaced; and a person may let go, once."""
    names = adopted(rotator_command, simulator)
    simulator.simulator.switch(**REPLACES)
    simulator.simulator.add_fault(TROUBLES["lost"])
    done = rotator_command("rotate", "--all", "--json")
    assert (done.code, kinds(done)["fleet.Braked"] >= SIZE - BRAKE - AT_ONCE) == (1, True)
    made = Counter(
        entry.about for entry in simulator.simulator.requests() if entry.call == "KeySet"
    )
    assert max(made.values()) <= 4
    assert len(made) <= BRAKE + AT_ONCE
    shown = rotator_command("status")
    assert ("held back:" in shown.stdout, "[fleet.Braked]" in shown.stdout) == (True, True)
    before = asked(simulator)
    assert kinds(rotator_command("rotate", "--all", "--json"))["fleet.Braked"]
    assert asked(simulator) <= before + 2
    assert rotator_command("release", "--brake").code == 0
    rotator_command("rotate", "--all", "--json")
    assert asked(simulator) >= before + BRAKE
    simulator.simulator.clear_faults()
    free = next(name for name in names if name not in in_doubt(vault, mount, names))
    assert rotator_command("rotate", free, "--json").json["summary"] == {"rotated": 1}
    assert rotator_command("release", "--brake", "--json").json["by"]
    done = rotator_command("rotate", "--all", "--json")
    assert done.json["summary"] == {"rotated": SIZE}, kinds(done)
    assert not dead(vault, mount, simulator, names)


def test_no_more_keys_than_a_tick_may_issue_though_the_look_read_nothing(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """The limit counts where a key is asked for, not where it was expected."""
    names = adopted(rotator_command, simulator, 6)
    make_due(vault, mount, names)
    failed: set[str] = set()

    def once(request: Request, forward: Forward) -> Answer | None:
        """Each record's first read is refused for a moment."""
        if (
            request.method == "GET"
            and "/data/rotator/record/" in request.path
            and request.path not in failed
        ):
            failed.add(request.path)
            return Answer.of(429, b'{"errors":[]}', "application/json")
        return forward()

    with Proxy(once) as proxy:
        done = through(proxy, vault, rotator_command, ROTATOR_MAX_PER_RUN="1")
    assert len(failed) == len(names)
    assert (kinds(done), asked(simulator)) == ({"rotated": 1, "not-due": 5}, 1)


def test_policies_that_are_broken_for_themselves_never_stop_the_others(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Five users whom ECGrid refuses, and five whose secret Vault refuses for good once the key is made."""
    names = adopted(rotator_command, simulator, 20)
    # On a busy machine a refusal that came after the end of a short claim would count as a lost answer.
    rotator_command.environment |= {"ROTATOR_DEADLINE": "10s", "ROTATOR_CLAIM_TTL": "60s"}
    refused, stuck, healthy = names[:5], names[5:10], names[10:]
    for name in refused:
        simulator.simulator.add_fault(
            Fault("status", call="KeySet", status=404, about=user_of(name), times=None)
        )

    def never(request: Request, forward: Forward) -> Answer | None:
        """Vault may say what it likes of rights: these secrets are not written."""
        place = request.path.rpartition("/data/ecgrid/")[2]
        if request.method in ("PUT", "POST") and place in stuck:
            return Answer.of(403, b'{"errors":["permission denied"]}', "application/json")
        return forward()

    make_due(vault, mount, names)
    outcomes: set[str] = set()
    with Proxy(never) as proxy:

        def all_rotated() -> bool:
            """By ticks, one after another: those that are stuck make the others wait now and then."""
            results = through(proxy, vault, rotator_command).json["results"]
            outcomes.update(r["policy"] for r in results if r["outcome"] == "rotated")
            return outcomes >= set(healthy)

        until(all_rotated, "all that are well for themselves are rotated", 180)
    assert sorted(outcomes) == healthy
    assert in_doubt(vault, mount, names) == stuck
    simulator.simulator.clear_faults()
    done = rotator_command(
        "run", "--once", "--json"
    )  # the keys that were made are published at once
    assert {r["policy"] for r in done.json["results"] if r["outcome"] == "rotated"} == set(stuck)


def test_when_vault_takes_a_right_away_only_few_keys_are_made_and_none_is_lost(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Destinations are refused after the rights were asked for; once they are given back, all is published at once."""
    names = adopted(rotator_command, simulator, 20)
    simulator.simulator.switch(keyset="replace")
    taken = [True]

    def gate(request: Request, forward: Forward) -> Answer | None:
        """No destination is written."""
        if taken[0] and request.method in ("PUT", "POST") and "/data/ecgrid/" in request.path:
            return Answer.of(403, b'{"errors":["permission denied"]}', "application/json")
        return forward()

    make_due(vault, mount, names)
    with Proxy(gate) as proxy:
        done = through(proxy, vault, rotator_command)
        assert (done.code, asked(simulator) <= BRAKE + AT_ONCE) == (1, True), kinds(done)
        few = dead(vault, mount, simulator, names)
        assert len(few) <= BRAKE + AT_ONCE
        taken[0] = False
        through(proxy, vault, rotator_command)
    assert not dead(vault, mount, simulator, names)
    assert not in_doubt(vault, mount, names)


@pytest.mark.full
def test_a_mass_of_refused_keys_is_no_reason_to_issue(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """ECGrid answers 401 to every API key for a while; the rotator itself comes in by its login."""
    rotator_command.environment |= by_login(rotator_command, simulator)
    names = adopted(rotator_command, simulator, 12)
    simulator.simulator.switch(keyset="replace")
    simulator.simulator.add_fault(Fault("status", call="GetMe", status=401, times=None))
    checking = {"ROTATOR_CHECK_EVERY": "2s"}
    daemon = rotator_command.start("run", **checking, ROTATOR_HTTP__LISTEN="127.0.0.1:0")
    until(lambda: events(daemon.so_far()[1], "fleet.mass_drift"), "it says so", 60)
    port = events(daemon.so_far()[1], "daemon.listening")[0]["port"]
    told = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30, trust_env=False).text
    assert 'rotator_held_back{kind="fleet.MassDrift"} 1.0' in told
    until(lambda: "held back" in page_at(port), "the page says so", 30)
    until(lambda: drifting(vault, mount, names) >= BRAKE, "more and more are refused", 60)
    held = rotator_command("check", "--repair", "--json")
    assert (held.code, kinds(held)["fleet.MassDrift"] > 0) == (1, True), kinds(held)
    assert asked(simulator) == 0
    simulator.simulator.clear_faults()
    until(lambda: drifting(vault, mount, names) == 0, "all are well", 150)
    assert (asked(simulator), dead(vault, mount, simulator, names)) == (0, [])
    daemon.kill()


def page_at(port: int) -> str:
    """The status page."""
    return httpx.get(f"http://127.0.0.1:{port}/", timeout=30, trust_env=False).text


def drifting(vault: VaultServer, mount: str, names: list[str]) -> int:
    """How many policies' published keys are known to be refused."""
    return sum("drifted" in record(vault, mount, name) for name in names)


def test_a_key_that_was_really_removed_is_replaced_whatever_the_check_finds(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """One alone by itself; many once a person names them."""
    names = adopted(rotator_command, simulator, 12)
    remove = names[:1]
    for name in remove:
        remove_keys(simulator, name)
    assert kinds(rotator_command("check", "--repair", "--json")) == {"repaired": 1, "unchanged": 11}
    for name in names:
        remove_keys(simulator, name)
    assert kinds(rotator_command("check", "--repair", "--json")) == {"fleet.MassDrift": 12}
    patient = {"ROTATOR_DEADLINE": "20s", "ROTATOR_CLAIM_TTL": "25s"}  # they go one at a time
    done = rotator_command("check", "--repair", "--json", *names, **patient)  # type: ignore[arg-type]
    assert kinds(done) == {"repaired": 12}
    assert well(vault, mount, simulator, names)


def remove_keys(simulator: Running, name: str) -> None:
    """Somebody ends the keys of a policy's user."""
    for key in simulator.simulator.keys(user_of(name)):
        simulator.simulator.remove_key(key.key_id)


def by_login(command: Rotator, simulator: Running) -> dict[str, str]:
    """The environment of a rotator that comes in by its login alone."""
    user = next(user for user in simulator.simulator.users() if user.user_id == OPERATOR)
    command.environment.pop("ROTATOR_ECGRID__API_KEY", None)
    return {"ROTATOR_ECGRID__LOGIN": user.login, "ROTATOR_ECGRID__PASSWORD": user.password}
