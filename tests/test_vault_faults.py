"""A real Vault that fails in the middle of a rotation: the same run finishes when it is back, with one key issued."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from conftest import USERS, Finished, Rotator, VaultServer, in_every
from proxy import Answer, Between, Forward, Proxy, Request
from raft import MOUNT, Cluster, Node, cluster, wait_for

from rotator.sandbox.ecgrid import Running

USER = USERS[0]
POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""
AWAY = 1.5  # seconds until a server that was killed is started again

Where = Callable[[Request], bool]


def key_is_issued(request: Request) -> bool:
    """ECGrid has committed the new key; it is in the rotator's memory only."""
    return request.issues


def key_is_staged(request: Request) -> bool:
    """The key is staged."""
    return request.is_write("/staged/edi")


def key_is_published(request: Request) -> bool:
    """The key is published; the rotator does not know it."""
    return request.is_write("/ecgrid/edi")


def rotation_is_settled(request: Request) -> bool:
    """The staged value is destroyed, and the record is about to be closed."""
    return request.method == "DELETE" and request.path.endswith("/staged/edi")


MOMENTS = [key_is_issued, key_is_staged, key_is_published, rotation_is_settled]


@dataclass
class Line:
    """The rotator's connections; `after` lets something happen once a request was carried out."""

    command: Rotator
    proxy: Proxy
    simulator: Running
    seen: list[str] = field(default_factory=list)

    def to(self, addr: str) -> None:
        """Vault is there from now on."""
        self.command.environment["VAULT_ADDR"] = self.proxy.before("vault", addr)

    def after(self, where: Where, strike: Callable[[Request], None]) -> None:
        """Once, at that request of a rotation; an answer of Vault's to it is lost."""
        left = [strike]
        lock = threading.Lock()

        def between(request: Request, forward: Forward) -> Answer | None:
            with lock:
                now = left.pop() if left and where(request) else None
            answer = forward()
            if now is None:
                return answer
            now(request)
            self.seen.append(request.path)
            return answer if request.server == "ecgrid" else None

        self.proxy.start_again(between)

    def during(self, where: Where, rule: Between, requests: int) -> None:
        """So many requests to Vault after that one meet the rule."""
        left = [0]
        lock = threading.Lock()

        def between(request: Request, forward: Forward) -> Answer | None:
            with lock:
                meets = request.server == "vault" and left[0] > 0
                left[0] -= meets
            if meets:
                return rule(request, forward)
            answer = forward()
            if where(request) and not self.seen:
                self.seen.append(request.path)
                left[0] = requests
            return answer

        self.proxy.start_again(between)

    def rotate(self) -> Finished:
        """Rotates; whatever was to happen has happened."""
        before = self.simulator.simulator.issued()
        done = self.command("rotate", "edi", "--json")
        assert self.seen, "nothing happened"
        assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout + done.stderr
        assert self.simulator.simulator.issued() == before + 1
        return done


@pytest.fixture
def line(rotator_command: Rotator, simulator: Running, vault: VaultServer) -> Iterator[Line]:
    """A proxy before the simulator and the shared Vault; the policy is adopted on an account that replaces."""
    rotator_command.policy("edi", POLICY)
    simulator.simulator.switch(keyset="replace")
    with Proxy() as proxy:
        line = Line(rotator_command, proxy, simulator)
        line.to(vault.addr)
        for name, url in (("REST", simulator.rest_url), ("SOAP", simulator.soap_url)):
            rotator_command.environment[f"ROTATOR_ECGRID__{name}_URL"] = proxy.before("ecgrid", url)
        yield line


def left_behind(read: Callable[[str], dict[str, Any]], simulator: Running) -> list[str]:
    """What is not as it must be after a rotation."""
    secret, record = read("ecgrid/edi"), read("rotator/record/edi")
    wrongs = []
    if simulator.simulator.who(secret.get("api_key", "")) != USER:
        wrongs.append("Vault does not hold what ECGrid accepts")
    if (record.get("current") or {}).get("key_id") != secret.get("key_id"):
        wrongs.append("the record names another key")
    if record.get("underway") or record.get("claim"):
        wrongs.append("a rotation is open or claimed")
    if read("rotator/staged/edi"):
        wrongs.append("something is staged")
    return wrongs


# raft storage, one node


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One OpenBao that keeps its data."""
    with cluster(tmp_path_factory.mktemp("raft"), 1) as made:
        yield made


@pytest.fixture
def raft_line(line: Line, alone: Cluster) -> Line:
    """The line to that OpenBao, where nothing is yet."""
    for path in ("ecgrid/edi", "rotator/record/edi", "rotator/staged/edi"):
        alone.call("DELETE", f"{MOUNT}/metadata/{path}")
    line.to(alone.nodes[0].addr)
    line.command.environment |= {"VAULT_TOKEN": alone.token, "ROTATOR_VAULT__MOUNT": MOUNT}
    line.command.secrets |= {alone.token, alone.key}
    return line


def in_a_while(work: Callable[[], None]) -> threading.Timer:
    """Does that after the time that a server is away."""
    timer = threading.Timer(AWAY, work)
    timer.daemon = True
    timer.start()
    return timer


@pytest.mark.parametrize(
    "moment",
    [
        key_is_issued,
        pytest.param(key_is_staged, marks=in_every),
        key_is_published,
        pytest.param(rotation_is_settled, marks=in_every),
    ],
)
def test_vault_is_killed_and_started_again(
    raft_line: Line, alone: Cluster, simulator: Running, moment: Where
) -> None:
    """kill -9, a restart, and the unsealing: the run waits, and publishes the key that it has."""
    (node,) = alone.nodes
    timers = []

    def start() -> None:
        node.start(alone.nodes)
        alone.unseal(node)

    def strike(_request: Request) -> None:
        node.kill()
        timers.append(in_a_while(start))

    raft_line.after(moment, strike)
    raft_line.rotate()
    for timer in timers:
        timer.join()
    assert left_behind(alone.read, simulator) == []


@pytest.mark.parametrize(
    "moment",
    [key_is_issued, *(pytest.param(moment, marks=in_every) for moment in MOMENTS[1:])],
)
def test_vault_is_sealed_and_unsealed(
    raft_line: Line, alone: Cluster, simulator: Running, moment: Where
) -> None:
    """Every answer is 503 until a person comes."""
    (node,) = alone.nodes
    timers = []

    def strike(_request: Request) -> None:
        alone.seal(node)
        timers.append(in_a_while(lambda: alone.unseal(node)))

    raft_line.after(moment, strike)
    raft_line.rotate()
    for timer in timers:
        timer.join()
    assert left_behind(alone.read, simulator) == []


# raft storage, three nodes


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three OpenBaos that share their data."""
    with cluster(tmp_path_factory.mktemp("cluster"), 3) as made:
        yield made


@in_every
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("at", ["standby", "active"])
def test_the_active_node_dies(
    line: Line, three: Cluster, simulator: Running, moment: Where, at: str
) -> None:
    """Asked through a standby, or through the node that dies, behind an address that then leads to another one."""
    for path in ("ecgrid/edi", "rotator/record/edi", "rotator/staged/edi"):
        three.call("DELETE", f"{MOUNT}/metadata/{path}")
    active, standby = three.active, three.standby
    line.to(standby.addr if at == "standby" else active.addr)
    line.command.environment |= {"VAULT_TOKEN": three.token, "ROTATOR_VAULT__MOUNT": MOUNT}
    line.command.secrets |= {three.token, three.key}

    def strike(_request: Request) -> None:
        active.kill()
        if at == "active":
            line.proxy.lead("vault", standby.addr)

    line.after(moment, strike)
    line.rotate()
    assert left_behind(three.read, simulator) == []
    bring_back(three, active)


def bring_back(three: Cluster, node: Node) -> None:
    """The node that died votes again."""
    node.start(three.nodes)
    three.unseal(node)
    three.wait_for_all()


# the way to Vault


def cut(_request: Request, _forward: Forward) -> Answer | None:
    """The connection ends before the request arrives."""
    return None


def lose(_request: Request, forward: Forward) -> Answer | None:
    """The request is carried out, and its answer is lost."""
    forward()
    return None


def fail(_request: Request, _forward: Forward) -> Answer | None:
    """Something between the two is down."""
    return Answer.of(502, b"<html>Bad gateway</html>")


def break_down(_request: Request, forward: Forward) -> Answer | None:
    """Vault carries the request out and says that something went wrong."""
    forward()
    return Answer.of(500, b'{"errors": ["internal error"]}', "application/json")


@pytest.mark.parametrize("rule", [cut, lose, fail, break_down])
@pytest.mark.parametrize("moment", [key_is_issued, pytest.param(key_is_staged, marks=in_every)])
def test_the_way_to_vault_is_disturbed(
    line: Line, vault: VaultServer, mount: str, simulator: Running, moment: Where, rule: Between
) -> None:
    """For four requests from there on."""
    line.during(moment, rule, 4)
    line.rotate()
    assert left_behind(reading(vault, mount), simulator) == []


def reading(vault: VaultServer, mount: str) -> Callable[[str], dict[str, Any]]:
    """Reads documents of the shared Vault."""

    def read(path: str) -> dict[str, Any]:
        with suppress(httpx.HTTPStatusError):
            return dict(vault.call("GET", f"{mount}/data/{path}")["data"]["data"])
        return {}

    return read


# a login that ends


@pytest.mark.parametrize(
    "moment",
    [key_is_issued, *(pytest.param(moment, marks=in_every) for moment in MOMENTS[1:])],
)
def test_the_token_ends_in_the_middle(
    line: Line, vault: VaultServer, mount: str, simulator: Running, moment: Where
) -> None:
    """One new login, and the rotation completes."""
    approle(line, vault, mount)

    def strike(_request: Request) -> None:
        tokens = {request.header("X-Vault-Token") for request in line.proxy.requests}
        for token in tokens - {None}:
            vault.call("POST", "auth/token/revoke", {"token": token})

    line.after(moment, strike)
    line.rotate()
    logins = [one for one in line.proxy.requests if one.path.endswith("/login")]
    assert len(logins) == 2
    assert left_behind(reading(vault, mount), simulator) == []


def allow(vault: VaultServer, mount: str) -> None:
    """A policy, named as the mount, that allows everything there."""
    everything = '["create", "read", "update", "delete", "list", "patch"]'
    rules = f'path "{mount}/*" {{ capabilities = {everything} }}'
    vault.call("PUT", f"sys/policies/acl/{mount}", {"policy": rules})


def approle(line: Line, vault: VaultServer, mount: str) -> None:
    """A role of its own for the rotator, with tokens of a few minutes."""
    allow(vault, mount)
    vault.call("POST", f"sys/auth/{mount}", {"type": "approle"})
    vault.call("POST", f"auth/{mount}/role/rotator", {"token_policies": [mount], "token_ttl": "5m"})
    role = vault.call("GET", f"auth/{mount}/role/rotator/role-id")["data"]["role_id"]
    secret = vault.call("POST", f"auth/{mount}/role/rotator/secret-id", {})["data"]["secret_id"]
    line.command.secrets.add(secret)
    line.command.environment |= {
        "ROTATOR_VAULT__AUTH": "approle",
        "ROTATOR_VAULT__AUTH_MOUNT": mount,
        "ROTATOR_VAULT__ROLE_ID": role,
        "ROTATOR_VAULT__SECRET_ID": secret,
    }
    line.command.environment.pop("VAULT_TOKEN")


def test_a_login_that_cannot_outlast_the_rotation_is_refused_before_anything_is_issued(
    line: Line, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """A token that lives shorter than the deadline, and is given no longer life by logging in again."""
    approle(line, vault, mount)
    vault.call("POST", f"auth/{mount}/role/rotator", {"token_ttl": "30s", "token_max_ttl": "30s"})
    done = line.command("rotate", "edi", "--json")
    assert done.code == 1
    assert done.json["results"][0]["error"]["kind"] == "vault.TokenExpires", done.stdout
    assert simulator.simulator.issued() == 0


def test_a_token_that_ends_soon_is_renewed_before_anything_is_issued(
    line: Line, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Then the rotation goes on under it."""
    assert (
        line.command("run", "--once").code == 0
    )  # adopted: what follows asks once whether the login lasts
    allow(vault, mount)
    wish = {"policies": [mount], "ttl": "122s", "renewable": True}
    token = vault.call("POST", "auth/token/create", wish)["auth"]["client_token"]
    wait_for(lambda: vault.call("POST", "auth/token/lookup", {"token": token})["data"]["ttl"] < 120)
    line.command.secrets.add(token)
    line.command.environment["VAULT_TOKEN"] = token
    done = line.command("rotate", "edi", "--json")
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    paths = [one.path for one in line.proxy.requests]
    assert paths.count("/v1/auth/token/renew-self") == 1
    assert left_behind(reading(vault, mount), simulator) == []


# a standby that lags


@pytest.mark.parametrize("path", ["/record/edi", "/staged/edi", "/ecgrid/edi"])
@pytest.mark.parametrize("reads", [1, pytest.param(4, marks=in_every)])
def test_a_standby_answers_with_what_was(
    line: Line, vault: VaultServer, mount: str, simulator: Running, path: str, reads: int
) -> None:
    """Reads of a document show it as it was before the rotation wrote it, so many times after each write."""
    rotator_command = line.command
    assert rotator_command("run", "--once").code == 0
    old: dict[str, Answer] = {}
    stale: dict[str, int] = {}
    lock = threading.Lock()

    def between(request: Request, forward: Forward) -> Answer | None:
        if request.server != "vault" or not request.path.endswith(path):
            return forward()
        line.seen.append(request.path)
        if request.method == "GET":
            with lock:
                if stale.get(path, 0) > 0:
                    stale[path] -= 1
                    return old[path]
            answer = forward()
            old[path] = answer
            return answer
        answer = forward()
        if request.method in ("POST", "PUT") and path in old:
            stale[path] = reads
        return answer

    line.proxy.start_again(between)
    line.rotate()
    assert left_behind(reading(vault, mount), simulator) == []
