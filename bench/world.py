"""What the measurements take place in: both servers in processes of their own, and fleets of policies between them."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from bench.measure import BenchError, Spent, run
from rotator.journal import Caller, Past, Place, Record
from rotator.keys import ApiKey, KeyRef, Secret, Visibility
from rotator.sandbox.ecgrid import Fault
from rotator.sandbox.ecgrid.control import Control
from rotator.sandbox.openbao import OpenBao
from rotator.system import System

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
ROTATOR = Path(sys.executable).with_name("rotator")
ADMIN = 5000  # the user whose key the rotator itself uses
FIRST_USER = 10_001
STATE = "rotator"  # ROTATOR_VAULT__STATE_PATH
INDEX_DOCUMENTS = 64
AT_ONCE = 8
A_YEAR = 12  # lines of history: a year of rotations every 30 days
POLICY = """\
user_id: {user_id}
visibility: Private
schedule: {{every: 30d}}
vault: {{path: ecgrid/{name}}}
"""


class Kv:
    """A bare client of one Vault, quick enough to fill it. Safe for use by many threads."""

    def __init__(self, addr: str, token: str) -> None:
        self._address, self._token = urlsplit(addr).netloc, token
        self._idle: deque[http.client.HTTPConnection] = deque()

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The parsed answer to `/v1/PATH`; `{}` for an empty one, and where there is nothing."""
        connection = self._take()
        sent = None if body is None else json.dumps(body)
        connection.request(method, f"/v1/{path}", sent, {"X-Vault-Token": self._token})
        answer = connection.getresponse()
        text = answer.read()
        self._idle.append(connection)
        if answer.status >= 400 and answer.status != 404:
            raise BenchError(f"Vault answers {method} {path} with status {answer.status}")
        return dict(json.loads(text)) if text else {}

    def _take(self) -> http.client.HTTPConnection:
        try:
            return self._idle.pop()
        except IndexError:
            return http.client.HTTPConnection(self._address, timeout=60)

    def close(self) -> None:
        """Closes every connection."""
        while self._idle:
            self._idle.pop().close()


@dataclass(frozen=True)
class World:
    """Both servers, running."""

    vault: OpenBao
    ecgrid: Control
    ecgrid_pid: int
    rest_url: str
    soap_url: str
    own_key: str = field(repr=False)
    kv: Kv
    folder: Path

    def latency(self, seconds: float) -> None:
        """From here on every request to ECGrid is carried out so much later, and then answered at once."""
        self.ecgrid.clear_faults()
        if seconds:
            self.ecgrid.add_fault(Fault("latency", times=None, seconds=seconds))

    def mount(self) -> str:
        """A fresh KV v2 mount."""
        name = f"kv-{secrets.token_hex(4)}"
        self.kv.call("POST", f"sys/mounts/{name}", {"type": "kv", "options": {"version": "2"}})
        for _ in range(1000):  # it is set up in the background, and refuses requests until then
            try:
                self.kv.call("GET", f"{name}/config")
            except BenchError:
                continue
            return name
        raise BenchError("a KV v2 mount did not become ready")

    def keys(self, count: int) -> list[ApiKey]:
        """So many new users of ECGrid with one Private key each."""
        first = max(FIRST_USER, 1 + max(user["user_id"] for user in self.ecgrid.users()))

        def make(user_id: int) -> ApiKey:
            self.ecgrid.add_user(user_id)
            return _key(self.ecgrid.add_key(user_id))

        return at_once(make, range(first, first + count))


def at_once(call: Callable[[int], T], numbers: Iterable[int]) -> list[T]:
    """One call for each number, several at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(call, numbers))


def _key(record: dict[str, Any]) -> ApiKey:
    created = datetime.fromisoformat(record["created"])
    ref = KeyRef(record["key_id"], record["user_id"], Visibility.PRIVATE, created)
    return ApiKey(ref, Secret(record["value"]))


@contextmanager
def world() -> Iterator[World]:
    """Starts both servers on loopback, and ends them afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="rotator-bench-") as folder,
        OpenBao.start() as vault,
        _simulator() as (process, told),
    ):
        ecgrid = Control(told["url"], timeout=120)
        own = str(ecgrid.add_key(ADMIN)["value"])
        with closing(Kv(vault.addr, vault.token)) as kv:
            urls = told["rest_url"], told["soap_url"]
            yield World(vault, ecgrid, process.pid, *urls, own, kv, Path(folder))


@contextmanager
def _simulator() -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "rotator.sandbox.ecgrid"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, json.loads(process.stdout.readline() if process.stdout else "{}")
        finally:
            process.terminate()


@dataclass(frozen=True)
class Fleet:
    """Policies, one file each, in a directory of their own, and their records in a mount of their own."""

    world: World
    mount: str
    names: list[str]
    keys: list[ApiKey]
    directory: Path

    @property
    def policies(self) -> Path:
        """The directory of the policy files."""
        return self.directory / "policies"

    def environment(self, **more: str) -> dict[str, str]:
        """All that a command gets; keywords are further variables, or others."""
        return {
            "PATH": os.defpath,
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",
            "VAULT_ADDR": self.world.vault.addr,
            "VAULT_TOKEN": self.world.vault.token,
            "ROTATOR_POLICIES": str(self.policies),
            "ROTATOR_VAULT__MOUNT": self.mount,
            "ROTATOR_ECGRID__REST_URL": self.world.rest_url,
            "ROTATOR_ECGRID__SOAP_URL": self.world.soap_url,
            "ROTATOR_ECGRID__API_KEY": self.world.own_key,
            "ROTATOR_ECGRID__RATE": "3600",  # the highest that may be set: no limit
            "ROTATOR_CHECK_EVERY": "0",
            "ROTATOR_HTTP__LISTEN": "",
            "ROTATOR_LOG__LEVEL": "WARNING",
            **more,
        }

    def command(self, *arguments: str, **more: str) -> Spent:
        """Runs `rotator` to its end; raises BenchError if it fails."""
        return run([ROTATOR, *arguments], self.environment(**more), self.directory)

    def become_due(self) -> None:
        """As if the last rotation had been 31 days ago and what it replaced had been retired since.

        By the records, and by what the due index tells of them: as a rotator that is always there finds it.
        """
        now = datetime.now(UTC)
        past = (now - timedelta(days=31)).isoformat()

        def move(number: int) -> None:
            path = f"{self.mount}/data/{STATE}/record/{self.names[number]}"
            self._change(path, lambda data: {**data, "rotated_at": past, "retiring": []})

        def tell(number: int) -> None:
            path = f"{self.mount}/data/{STATE}/index/{number:02d}"
            self._change(path, told)

        def told(data: dict[str, Any]) -> dict[str, Any]:
            entries = json.loads(data["policies"])
            for entry in filter(lambda one: "told" in one, entries.values()):
                entry["quiet_until"] = (now - timedelta(seconds=1)).isoformat()
                entry["record"] += 1
                entry["told"] = {**entry["told"], "rotated": past, "debts": []}
            return {"policies": json.dumps(entries)}

        at_once(move, range(len(self.names)))
        at_once(tell, range(INDEX_DOCUMENTS))

    def _change(self, path: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        found = self.world.kv.call("GET", path).get("data")
        if found is not None:
            cas = {"cas": found["metadata"]["version"]}
            self.world.kv.call("POST", path, {"data": change(found["data"]), "options": cas})

    def forget_index(self) -> None:
        """The next tick reads every record."""

        def drop(number: int) -> None:
            self.world.kv.call("DELETE", f"{self.mount}/metadata/{STATE}/index/{number:02d}")

        at_once(drop, range(INDEX_DOCUMENTS))

    def exposures(self) -> list[float]:
        """For each policy, the seconds from ECGrid's commit of its newest key to Vault's of the newest version."""
        return at_once(lambda n: self.exposure(n).total_seconds(), range(len(self.names)))

    def exposure(self, number: int) -> timedelta:
        """Both instants are the servers' own: the record's `created`, and the version's `created_time`."""
        return self.published_at(number) - self.committed_at(number)

    def committed_at(self, number: int) -> datetime:
        """When ECGrid made the newest key of that policy's user."""
        user_id = self.keys[number].ref.user_id
        return datetime.fromisoformat(self.world.ecgrid.keys(user_id)[-1]["created"])

    def published_at(self, number: int) -> datetime:
        """When Vault made the version of the published secret that it shows."""
        path = f"{self.mount}/metadata/ecgrid/{self.names[number]}"
        about = self.world.kv.call("GET", path)["data"]
        return instant(about["versions"][str(about["current_version"])]["created_time"])


def instant(text: str) -> datetime:
    """Vault's times have nanoseconds, with trailing zeros left out."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00")


Manner = Literal["settled", "new", "records"]


def fleet(world: World, count: int, manner: Manner = "settled", *, history: int = A_YEAR) -> Fleet:
    """So many policies, in one of three manners.

    `settled`: rotated a moment ago, with so many lines of history; nothing is due. `new`: the users have keys, and the
    rotator has never seen them. `records`: settled, but only the records exist, and neither users nor secrets: that is
    all that is looked at while nothing is due. Records bear the mark of the ECGrid that is remembered beside them.
    """
    names = [f"policy-{number:05d}" for number in range(count)]
    numbers = range(count)
    invented = manner == "records"
    keys = [_invented(FIRST_USER + n) for n in numbers] if invented else world.keys(count)
    mount, directory = world.mount(), Path(tempfile.mkdtemp(dir=world.folder))
    made = Fleet(world, mount, names, keys, directory)
    made.policies.mkdir()
    system = System.new().change(mark=secrets.token_hex(8))
    if manner != "new":
        world.kv.call("POST", f"{mount}/data/{STATE}/ecgrid", {"data": system.kept()})

    def settle(number: int) -> None:
        name, key = names[number], keys[number]
        text = POLICY.format(user_id=key.ref.user_id, name=name)
        (made.policies / f"{name}.yaml").write_text(text)
        if manner == "new":
            return
        record = settled(name, key, mount, world.own_key, history).change(ecgrid=system.mark)
        world.kv.call("POST", f"{mount}/data/{STATE}/record/{name}", {"data": record.kept()})
        if not invented:
            world.kv.call("POST", f"{mount}/data/ecgrid/{name}", {"data": _shown(key)})

    at_once(settle, numbers)
    return made


def _invented(user_id: int) -> ApiKey:
    ref = KeyRef(user_id, user_id, Visibility.PRIVATE, datetime.now(UTC))
    return ApiKey(ref, Secret(secrets.token_urlsafe(24)))


def _shown(key: ApiKey) -> dict[str, Any]:
    """The published secret."""
    ref = key.ref
    return {
        "api_key": key.value.reveal(),
        "key_id": ref.key_id,
        "user_id": ref.user_id,
        "visibility": "Private",
        "created": ref.created.isoformat() if ref.created else None,
        "rotated_at": datetime.now(UTC).isoformat(),
    }


def settled(name: str, key: ApiKey, mount: str, own_key: str, history: int) -> Record:
    """The record that a rotation leaves, with that many lines of history."""
    now, user_id = datetime.now(UTC), key.ref.user_id
    record = Record.new(name).holding(key, Visibility.PRIVATE, now, now)
    place = Place(mount=mount, path=f"ecgrid/{name}", field="api_key", version=1)
    caller = Caller(fingerprint=record.fingerprint(Secret(own_key)), user_id=ADMIN)
    record = record.change(
        nonce=secrets.token_hex(8),
        places=(place,),
        probe_tells=True,
        caller=caller,
        checked_at=now,
    )
    for number in range(history):
        past = Past(
            at=now - timedelta(days=30) * (history - number - 1),
            duration_s=0.123,
            outcome="rotated",
            reason="scheduled",
            by="rotator-0:1234",
            run=secrets.token_hex(8),
            user_id=user_id,
            key_id=key.ref.key_id,
            previous_key_id=key.ref.key_id,
            published=(place,),
        )
        record = record.remembering(past)
    return record
