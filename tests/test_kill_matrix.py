"""The real command, killed at every request that it makes to Vault or ECGrid: one `run --once` mends it.

The command is forked from a process that has imported it already, since a start of Python costs more than a rotation.
What passes between two runs is Vault's time: the proxy moves the `Date` of its answers past the end of the claim.
A bounded sample runs by default; ROTATOR_TEST_EXTENT=every runs every kill, ROTATOR_TEST_SEED draws another sample.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from conftest import EVERY, OPERATOR, SEED, Rotator, VaultServer
from proxy import Answer, Forward, Proxy, Request, pass_on

from rotator.sandbox.ecgrid import AuthLevel, Running, Simulator

USER, OTHER, OTHER_OPERATOR = 5001, 5002, 5004
PAUSE = timedelta(seconds=40)  # longer than a claim
MONTH = timedelta(days=31)

PARENT = """
import json, os, sys
import rotator.cli.act, rotator.ecgrid.soap, rotator.reporting, rotator.vault.connection
from rotator.cli import main
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(order[name], flags, 0o600), number)
        os.chdir(order["directory"])
        os.environ.clear()
        os.environ.update(order["environment"])
        main(order["arguments"], prog_name="rotator")
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended; a negative code is the signal that killed it."""

    code: int
    stdout: str
    stderr: str


class Commands:
    """Runs the real command, one at a time, each in a process of its own that has everything imported."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            env={"PYTHONPATH": os.pathsep.join(sys.path), "LANG": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = 0  # of the command that runs now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._parent as parent:
            assert parent.stdin is not None
            parent.stdin.close()

    def __call__(
        self, arguments: list[str], policies: Path, environment: Mapping[str, str]
    ) -> Done:
        """Runs one command to its end."""
        out, err = self._directory / "stdout", self._directory / "stderr"
        order = {
            "stdin": os.devnull,
            "stdout": str(out),
            "stderr": str(err),
            "directory": str(policies.parent),
            "environment": dict(environment),
            "arguments": arguments,
        }
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        self.pid = int(self._parent.stdout.readline())
        code = int(self._parent.stdout.readline())
        self.pid = 0
        return Done(code, out.read_text(), err.read_text())

    def kill(self) -> None:
        """Ends the command that runs now, as the kernel would for want of memory."""
        while self.pid == 0:
            pass
        os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Scenario:
    """A policy, an account, and the command that is killed.

    `adopted`: the policy was adopted before. `due`: it was, a month ago, so that a tick rotates it. `back`: it was
    rotated since, and is rolled back; what `befalls` the older key comes after the kill.
    """

    account: Mapping[str, Any]
    policy: str = ""
    users: tuple[int, ...] = (USER,)
    adopted: bool = True
    due: bool = False
    own: bool = False
    login: bool = False
    form: str = "portal"
    back: bool = False
    befalls: str = ""

    @property
    def text(self) -> str:
        """The policy."""
        who = f"user_id: {self.users[0]}" if len(self.users) == 1 else f"users: {list(self.users)}"
        return f"{who}\nvisibility: Private\nschedule: {{every: 30d}}\n{self.policy}"


ADDS, REPLACES, UPDATES = ({"keyset": how} for how in ("add", "replace", "update"))
UNREADABLE = {"read_back": "masked", "list_shows": "masked"}
FIRST_ROTATE = "first: rotate\n"
REST, SOAP = (f"issue: generate\nverify: {how}\n" for how in ("get-api-key", "user-get-api-key"))
OWN = {"users": (OPERATOR,), "own": True, "login": True}
SCENARIOS = {
    "first, adding": Scenario(ADDS, adopted=False),
    "first, replacing": Scenario(REPLACES, adopted=False),
    "first: rotate, adding": Scenario(ADDS, FIRST_ROTATE, adopted=False),
    "first: rotate, replacing": Scenario(REPLACES, FIRST_ROTATE, adopted=False),
    "first: rotate, updating": Scenario(UPDATES, FIRST_ROTATE, adopted=False),
    "later, adding": Scenario(ADDS),
    "later, replacing": Scenario(REPLACES),
    "later, updating": Scenario(UPDATES),
    "due, adding": Scenario(ADDS, due=True),
    "due, replacing": Scenario(REPLACES, due=True),
    "later, replacing, unreadable": Scenario({**REPLACES, **UNREADABLE}),
    "later, adding, no grace": Scenario(ADDS, "grace: 0\n"),
    "later, two destinations": Scenario(REPLACES, "also: [{path: dr}]\n"),
    "two users, replacing": Scenario(REPLACES, users=(USER, OTHER)),
    "own key, adding": Scenario(ADDS, **OWN),  # type: ignore[arg-type]  # a mapping of its fields
    "own key, replacing": Scenario(REPLACES, **OWN),  # type: ignore[arg-type]  # the same
    "own key, first, replacing": Scenario(REPLACES, adopted=False, **OWN),  # type: ignore[arg-type]  # the same
    "own key, two users, replacing": Scenario(REPLACES, users=(OPERATOR, OTHER_OPERATOR), own=True),
    "service, REST": Scenario({}, REST, form="service"),
    "service, SOAP": Scenario({}, SOAP, form="service"),
    "service, SOAP, login": Scenario({}, SOAP, login=True, form="service"),
    "service, due, REST": Scenario({}, REST, due=True, form="service"),
    "service, first, SOAP": Scenario({}, SOAP, adopted=False, form="service"),
    "service, first: rotate, REST": Scenario(
        {}, REST + FIRST_ROTATE, adopted=False, form="service"
    ),
    "service, unreadable, REST": Scenario({"api_key_shows": "masked"}, REST, form="service"),
    "service, two users, SOAP": Scenario({}, SOAP, users=(USER, OTHER), form="service"),
    "service, own key, REST": Scenario({}, REST, form="service", **OWN),  # type: ignore[arg-type]  # the same
    "service, own key, SOAP": Scenario({}, SOAP, form="service", **OWN),  # type: ignore[arg-type]  # the same
    "service, own key, two users, REST": Scenario(
        {}, REST, users=(OPERATOR, OTHER_OPERATOR), own=True, form="service"
    ),
    "back": Scenario(ADDS, back=True),
    "back, refused": Scenario(ADDS, back=True, befalls="refused"),
    "back, gone": Scenario(ADDS, back=True, befalls="gone"),
    "back, another's": Scenario(ADDS, back=True, befalls="another's"),
    "back, two destinations": Scenario(ADDS, "also: [{path: dr}]\n", back=True),
    "back, two destinations, refused": Scenario(
        ADDS, "also: [{path: dr}]\n", back=True, befalls="refused"
    ),
    "back, two users": Scenario(REPLACES, users=(USER, OTHER), back=True),
    "back, own key": Scenario(ADDS, back=True, **OWN),  # type: ignore[arg-type]  # the same
    "back, service, two users": Scenario({}, SOAP, users=(USER, OTHER), form="service", back=True),
}


@dataclass(frozen=True)
class Kill:
    """Where the process is killed: at its request of that number, before it is forwarded, or once it was answered."""

    number: int
    answered: bool

    def __str__(self) -> str:
        return f"{'after' if self.answered else 'before'} request {self.number}"


@dataclass
class Place:
    """A fresh account and a fresh corner of Vault, and the real command between them."""

    scenario: Scenario
    number: int
    command: Rotator
    commands: Commands
    proxy: Proxy
    vault: VaultServer
    mount: str
    simulator: Simulator
    environment: dict[str, str] = field(default_factory=dict)
    ahead: timedelta = timedelta(0)  # how far Vault's clock is ahead

    def __post_init__(self) -> None:
        scenario, simulator = self.scenario, self.simulator
        simulator.reset()
        simulator.switch(form=scenario.form)
        for user_id in (OPERATOR, OTHER_OPERATOR):
            simulator.add_user(user_id, auth_level=AuthLevel.NetworkAdmin)
        for user_id in (USER, OTHER):
            simulator.add_user(user_id)
        users = {OPERATOR, *scenario.users}
        found = {user_id: simulator.add_key(user_id) for user_id in users}
        self.found = {record.key_id for record in found.values()}
        text = scenario.text.replace("{path: dr}", f"{{path: dr/{self.number}}}")
        path = f"ecgrid/{self.number}"
        self.command.policy("edi", f"{text}vault: {{path: {path}}}\n")
        self.environment = {
            **self.command.environment,
            "ROTATOR_VAULT__STATE_PATH": f"state/{self.number}",
            "ROTATOR_ECGRID__API_KEY": found[OPERATOR].value,
            "ROTATOR_DEADLINE": "2s",
            "ROTATOR_CLAIM_TTL": "30s",
            "ROTATOR_CHECK_EVERY": "0",
        }
        if scenario.own:
            self.environment["ROTATOR_ECGRID__API_KEY_VAULT"] = f"{self.mount}/{path}#api_key"
            own = self.environment.pop("ROTATOR_ECGRID__API_KEY")
            if scenario.adopted:
                self.vault.call("POST", f"{self.mount}/data/{path}", {"data": {"api_key": own}})
        if scenario.login:
            user = next(user for user in simulator.users() if user.user_id == OPERATOR)
            self.environment["ROTATOR_ECGRID__LOGIN"] = user.login
            self.environment["ROTATOR_ECGRID__PASSWORD"] = user.password
        if scenario.adopted:
            assert self.run("run", "--once").code == 0
        simulator.switch(**scenario.account)
        if scenario.due:
            self.pass_time(MONTH)
        if scenario.back:
            assert self.run("rotate", "edi").code == 0
        self.issued_before = simulator.issued()

    def pass_time(self, by: timedelta) -> None:
        """Lets time pass for Vault and ECGrid."""
        self.ahead += by
        self.simulator.advance(by.total_seconds())

    def run(self, *arguments: str, kill: Kill | None = None) -> Done:
        """Runs a command, perhaps to a violent end; nothing of it is under way when this returns."""

        def between(request: Request, forward: Forward) -> Answer | None:
            struck = kill is not None and request.number == kill.number
            if struck and kill is not None and not kill.answered:
                self.commands.kill()
                return None
            answer = forward()
            if struck:
                self.commands.kill()
                return None
            return answer.later(self.ahead)

        self.proxy.start_again(between)
        done = self.commands(list(arguments), self.command.policies, self.environment)
        self.requests = list(self.proxy.requests)
        self.proxy.start_again(pass_on)
        self.command.assert_silent(done.stdout, done.stderr)
        return done

    def rotate(self, kill: Kill | None = None) -> Done:
        """The command of this scenario."""
        if self.scenario.due:
            return self.run("run", "--once", kill=kill)
        if self.scenario.back:
            return self.run("rollback", "edi", kill=kill)
        return self.run("rotate", "edi", kill=kill)

    def tick(self) -> Done:
        """What comes a while later."""
        self.pass_time(PAUSE)
        return self.run("run", "--once", "--json")

    def befall(self) -> None:
        """What happens to the older key, unless it is the record's current one already."""
        at = f"{self.mount}/data/ecgrid/{self.number}?version=1"
        record = self.document(f"state/{self.number}/record/edi") or {}
        if not self.scenario.befalls or record["current"]["key_id"] in self.found:
            return
        value = self.vault.call("GET", at)["data"]["data"]["api_key"]
        if self.scenario.befalls == "gone":
            body = {"versions": [1]}
            self.vault.call("PUT", f"{self.mount}/destroy/ecgrid/{self.number}", body)
            return
        (older,) = self.ids_of(value)
        assert older is not None
        self.simulator.remove_key(older)
        if self.scenario.befalls == "another's":
            self.simulator.add_key(OTHER, value=value)

    # what is there

    def document(self, path: str) -> dict[str, Any] | None:
        """The latest version of a document, if there is one."""
        with suppress(httpx.HTTPStatusError):
            return dict(self.vault.call("GET", f"{self.mount}/data/{path}")["data"]["data"])
        return None

    def ids_of(self, value: str | None) -> set[int | None]:
        """The ids of the live keys with that value; None is that of a user's API key, where there are no records."""
        users = self.scenario.users
        if self.scenario.form == "service":
            return {None for user_id in users if value == self.simulator.api_key(user_id)}
        keys = [one for user_id in users for one in self.simulator.keys(user_id)]
        return {one.key_id for one in keys if one.live and one.value == value}

    def wrongs(self) -> list[str]:
        """Everything that is not as it must be after one run that was not disturbed."""
        wrongs = []
        secret = self.document(f"ecgrid/{self.number}") or {}
        record = self.document(f"state/{self.number}/record/edi") or {}
        value = secret.get("api_key")
        keys = [one for user_id in self.scenario.users for one in self.simulator.keys(user_id)]
        live = [one for one in keys if one.live]
        if value is None or self.simulator.who(value) not in self.scenario.users:
            wrongs.append("Vault does not hold a key that ECGrid accepts")
        current = record.get("current") or {}
        if current.get("key_id") not in self.ids_of(value):
            wrongs.append("the record names another key than Vault shows")
        if "also" in self.scenario.policy:
            elsewhere = self.document(f"dr/{self.number}") or {}
            if elsewhere.get("api_key") != value:
                wrongs.append("the further destination shows another key")
        issued = self.simulator.issued() - self.issued_before
        if issued > (0 if self.scenario.back else 2):
            wrongs.append(f"{issued} keys were issued")
        ours = {current.get("key_id"), *(other["key_id"] for other in record.get("others", []))}
        debts = [json.loads(debt) for debt in record.get("retiring", [])]
        ours |= {debt["key_id"] for debt in debts if debt["why"] == "replaced"}
        if strays := {one.key_id for one in live} - ours - self.found:
            wrongs.append(f"strays are alive: {strays}")
        if self.document(f"state/{self.number}/staged/edi") is not None:
            wrongs.append("something is still staged")
        if record.get("underway"):
            wrongs.append("a rotation is still open")
        if record.get("claim"):
            wrongs.append("the claim was not given back")
        return wrongs


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """The process that all commands are forked from."""
    with Commands(tmp_path_factory.mktemp("commands")) as commands:
        yield commands


def sample(undisturbed: Place, kills: list[Kill], name: str) -> list[Kill]:
    """One kill after ECGrid was asked for a key (or the claim), and for half of the scenarios one anywhere."""
    claims = (one.number for one in undisturbed.requests if one.is_write("/record/edi"))
    issue = max((one.number for one in undisturbed.requests if one.issues), default=next(claims))
    draw = random.Random(f"{SEED} {name}")
    late = draw.choice([kill for kill in kills if kill.number >= issue])
    return [late, draw.choice(kills)] if draw.random() < 0.5 else [late]


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", SCENARIOS)
def test_one_tick_mends_whatever_was_killed(
    rotator_command: Rotator,
    commands: Commands,
    vault: VaultServer,
    mount: str,
    simulator: Running,
    name: str,
) -> None:
    """Vault holds what ECGrid accepts; two keys at most; no live stray, nothing staged, open, or claimed."""
    with Proxy() as proxy:
        rotator_command.environment |= {
            "VAULT_ADDR": proxy.before("vault", vault.addr),
            "ROTATOR_ECGRID__REST_URL": proxy.before("ecgrid", simulator.rest_url),
            "ROTATOR_ECGRID__SOAP_URL": proxy.before("ecgrid", simulator.soap_url),
        }

        def fresh(number: int) -> Place:
            return Place(
                SCENARIOS[name],
                number,
                rotator_command,
                commands,
                proxy,
                vault,
                mount,
                simulator.simulator,
            )

        undisturbed = fresh(0)
        done = undisturbed.rotate()
        assert (done.code, undisturbed.wrongs()) == (0, []), done.stderr
        kills = [
            Kill(number, answered)
            for number in range(1, len(undisturbed.requests) + 1)
            for answered in (False, True)
        ]
        failures = []
        for number, kill in enumerate(kills if EVERY else sample(undisturbed, kills, name), 1):
            place = fresh(number)
            killed = place.rotate(kill)
            met = len(place.requests) >= kill.number
            cut = place.requests[kill.number - 1 if met else -1]
            place.befall()
            mended = place.tick()
            for _ in range(2 if place.scenario.back else 0):
                mended = place.tick()
            wrongs = place.wrongs()
            if killed.code != (-signal.SIGKILL if met else 0):
                wrongs.append(f"the command ended by itself with {killed.code}")
            if mended.code != 0:
                wrongs.append(f"the next run ended with {mended.code}: {mended.stdout}")
            if wrongs:
                failures.append(f"{kill} ({cut.method} {cut.path}): {'; '.join(wrongs)}")
        assert not failures, f"{name}: replay with seed {SEED}\n" + "\n".join(failures)
