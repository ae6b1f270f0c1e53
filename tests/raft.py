"""OpenBao with raft storage on loopback, as one node or as three: servers that keep their data when they are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from conftest import until

from rotator.sandbox.openbao import _LAUNCH, _binary, _free_port

PATIENCE = 90.0  # seconds for anything that a cluster does
MOUNT = "kv"
LIMIT = 128 * 1024  # bytes of an entry that the storage takes
CONFIG = """
storage "raft" {{
  max_entry_size = {limit}
  path = "{directory}/raft"
  node_id = "{name}"
  performance_multiplier = 1
  {joins}
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_disable = true
}}
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
"""


@dataclass
class Node:
    """One server, which may be killed and started again."""

    directory: Path
    port: int = field(default_factory=_free_port)
    cluster_port: int = field(default_factory=_free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def addr(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, others: list[Node]) -> None:
        """Starts the server, sealed unless it is new."""
        (self.directory / "raft").mkdir(parents=True, exist_ok=True)
        joins = "\n  ".join(
            f'retry_join {{ leader_api_addr = "{other.addr}" }}'
            for other in others
            if other is not self
        )
        config = self.directory / "config.hcl"
        config.write_text(
            CONFIG.format(
                directory=self.directory,
                limit=LIMIT,
                name=self.directory.name,
                port=self.port,
                cluster_port=self.cluster_port,
                joins=joins,
            )
        )
        command = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())]
        server = [_binary(), "server", f"-config={config}", "-log-level=error"]
        begun = threading.Event()

        def keep() -> None:  # the server dies with the thread that started it
            self._process = subprocess.Popen(
                [*command, *server],
                env={"PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            begun.set()
            self._process.wait()

        threading.Thread(target=keep, daemon=True).start()
        assert begun.wait(PATIENCE)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        token: str = "",
        within: float = 10.0,
    ) -> tuple[int, dict[str, Any]]:
        """Status and parsed body of `/v1/PATH`; status 0 if nobody answers within so many seconds."""
        try:
            answer = httpx.request(
                method,
                f"{self.addr}/v1/{path}",
                json=body,
                headers={"X-Vault-Token": token} if token else {},
                timeout=within,
                trust_env=False,
            )
        except httpx.HTTPError:
            return 0, {}
        return answer.status_code, dict(answer.json()) if answer.content else {}

    @property
    def health(self) -> int:
        """200 if it is active, 429 a standby, 503 sealed, 501 new, 0 gone."""
        return self.ask("GET", "sys/health")[0]


@dataclass
class Cluster:
    """Nodes that share their data, initialised and unsealed, with KV v2 at MOUNT/."""

    nodes: list[Node]
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def begin(self) -> None:
        """Starts the nodes; returns once each of them may be lost without harm, if they are three."""
        for node in self.nodes:
            node.start(self.nodes)
        first = self.nodes[0]
        wait_for(lambda: all(node.health for node in self.nodes))
        shares = {"secret_shares": 1, "secret_threshold": 1}
        status, told = first.ask("PUT", "sys/init", shares, within=PATIENCE)  # never asked twice
        assert status == 200, told
        self.key, self.token = told["keys_base64"][0], told["root_token"]
        self.unseal(first)
        wait_for(lambda: first.health == 200)
        for node in self.nodes[1:]:
            self.unseal(node)
        wait_for(lambda: self.call("POST", f"sys/mounts/{MOUNT}", KV2) in (204, 400))
        wait_for(lambda: self.call("POST", f"{MOUNT}/data/ready", {"data": {}}) == 200)
        self.wait_for_all()

    def wait_for_all(self) -> None:
        """Returns once every node votes: until then the loss of the active one may be the loss of all."""
        if len(self.nodes) > 1:
            wait_for(self._all_vote)

    def _all_vote(self) -> bool:
        _, told = self.active.ask("GET", "sys/storage/raft/autopilot/state", token=self.token)
        about = told.get("data") or {}
        return bool(about.get("healthy")) and len(about.get("voters") or ()) == len(self.nodes)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> int:
        """The active node's status for a request with the root token."""
        return self.active.ask(method, path, body, self.token)[0]

    def read(self, path: str) -> dict[str, Any]:
        """The data of a document, {} if there is none."""
        _, told = self.active.ask("GET", f"{MOUNT}/data/{path}", token=self.token)
        return dict((told.get("data") or {}).get("data") or {})

    @property
    def active(self) -> Node:
        """The node that writes; waits until there is one."""
        found: list[Node] = []

        def look() -> bool:
            found[:] = [node for node in self.nodes if node.health == 200]
            return bool(found)

        wait_for(look)
        return found[0]

    @property
    def standby(self) -> Node:
        """A node that answers and does not write."""
        active = self.active
        return next(node for node in self.nodes if node is not active and node.health == 429)

    def unseal(self, node: Node) -> None:
        """Unseals it, as soon as it answers."""
        wait_for(lambda: node.ask("PUT", "sys/unseal", {"key": self.key})[0] == 200)
        wait_for(lambda: node.health in (200, 429))

    def seal(self, node: Node) -> None:
        """Seals it."""
        node.ask("PUT", "sys/seal", token=self.token)
        wait_for(lambda: node.health == 503)


KV2 = {"type": "kv", "options": {"version": "2"}}


def wait_for(fact: Callable[[], bool]) -> None:
    """Waits until that holds of the cluster."""
    until(fact, "the cluster gets that far", PATIENCE)


@contextmanager
def cluster(directory: Path, size: int) -> Iterator[Cluster]:
    """A cluster of so many nodes, ended afterwards."""
    nodes = [Node(directory / f"n{number}") for number in range(1, size + 1)]
    made = Cluster(nodes)
    try:
        made.begin()
        yield made
    finally:
        for node in nodes:
            node.kill()
