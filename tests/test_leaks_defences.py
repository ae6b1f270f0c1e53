"""Mistakes with a secret in hand, ours and the libraries', and the defences that make them harmless.

With its defences the program shows nothing, whatever it does wrong. With one of them taken away the hunt finds what
that one held back: in what left the process, or by the net's alarm where the net still catches it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import EVERY, VaultServer
from leaks.driver import RAISED
from leaks.hunt import Hunt, canary, hunt
from leaks.parties import Misdeed

from rotator.sandbox.ecgrid import Fault

IMPATIENT = {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "60s"}
MISTAKES = (
    "lib-log", "http-debug", "log", "event", "log-secret", "print", "warn", "thread", "del", "sentry", "exit",
)  # fmt: skip
AIDS = {
    "SENTRY_PRINT_ENVELOPES": "1",
    "SENTRY_DEBUG": "1",
    "SENTRY_TRACE": "0" * 31 + "1-" + "0" * 15 + "1-1",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONDEVMODE": "1",
}


# Nobody is there; but TLS is made ready, which is where the interpreter opens the file for its keys.
OVER_TLS = {"ROTATOR_ECGRID__REST_URL": "https://127.0.0.1:1"}


@pytest.fixture
def quarry(tmp_path: Path, vault: VaultServer, mount: str) -> Iterator[Hunt]:
    """A hunt of this test's own, with one policy and a secret that mistakes are made with."""
    with hunt(tmp_path, vault, mount) as made:
        value = canary()
        made.secrets.add(value)
        made.environment["CANARY"] = value
        made.policy("edi", 6001)
        yield made


@pytest.mark.full
def test_with_all_defences_every_mistake_shows_nothing(quarry: Hunt) -> None:
    """All of them in one process; where only the net stood between, it raised its alarm and named the place."""
    done = quarry.run("--log-format", "json", "rotate", "edi", deeds=MISTAKES)
    assert quarry.findings() == []
    lines = [json.loads(line) for line in done.stderr.splitlines() if '"leak.prevented"' in line]
    places = {re.sub(r":\d+", "", line["place"]) for line in lines}
    assert places == {"stdout", "stderr", "sentry", "log leaks/driver.py", "log rotator"}
    assert {line["level"] for line in lines} == {"error"}
    assert any(b"leak.prevented" in taken.body for taken in quarry.sentry.taken)
    assert done.stderr.count("Carrier at driver.py") >= 3  # the thread, __del__, and the end


@pytest.mark.sampled(1)
@pytest.mark.parametrize("where", RAISED if EVERY else ["wire", "vault", "fleet"])
def test_an_exception_with_a_secret_in_it_shows_nothing(quarry: Hunt, where: str) -> None:
    """Raised in the middle of each layer: class and place are told, and the exit code is 1."""
    done = quarry.run("rotate", "edi", deeds=[f"raise-{where}"], env=IMPATIENT)
    assert done.code == 1
    assert "Carrier" in done.stdout + done.stderr
    assert quarry.findings() == []
    assert quarry.said_so == []


@pytest.mark.full
def test_debugging_aids_open_no_hole(quarry: Hunt) -> None:
    """Whatever the environment or the interpreter's options ask for: nothing is printed, sent or written for it."""
    keylog = quarry.directory / "tmp" / "tls-keys"
    aids = AIDS | {
        "SENTRY_SPOTLIGHT": f"http://{quarry.thief.address}/stream",
        "SSLKEYLOGFILE": str(keylog),
    }
    done = quarry.run("rotate", "edi", env=aids)
    assert done.code == 0
    assert quarry.run("rotate", "edi", deeds=["sentry"], env=aids).code == 0
    assert quarry.run("rotate", "edi", env=aids | OVER_TLS | IMPATIENT).code == 1
    assert not keylog.exists()
    assert quarry.thief.taken == []
    assert "Envelope" not in done.stderr + done.stdout
    assert quarry.findings() == []


def test_the_process_can_neither_dump_core_nor_be_looked_into(quarry: Hunt) -> None:
    """Told by the process itself, in the middle of its work."""
    done = quarry.run("rotate", "edi", deeds=["tell-process"])
    told = json.loads(re.search(r"process: (.*)", done.stderr)[1])  # type: ignore[index]  # it is there
    assert told == {"core": [0, 0], "dumpable": 0, "raise_exceptions": False}


def _echo_by_vault(quarry: Hunt) -> None:
    quarry.before_vault.misdeeds.append(Misdeed("echo-500", "POST|PUT", "/data/ecgrid/edi$"))


def _quote_by_ecgrid(quarry: Hunt) -> None:
    quarry.simulator.simulator.add_fault(
        Fault("status", call="KeySet", status=400, quoting=True, times=None)
    )


def _send_elsewhere(quarry: Hunt) -> None:
    url = f"http://{quarry.thief.address}/stolen"
    quarry.simulator.simulator.add_fault(Fault("redirect", call="GetKey", url=url, times=None))


def _vault_sends_elsewhere(quarry: Hunt) -> None:
    quarry.before_vault.misdeeds.append(Misdeed("redirect-307", "POST|PUT", "/data/ecgrid/edi$"))


def _newline_in_the_token(quarry: Hunt) -> None:
    path = Path(quarry.environment["ROTATOR_VAULT__TOKEN_FILE"])
    path.write_text(f"{path.read_text().strip()}\nmore")


def _key_in_the_environment(quarry: Hunt) -> None:
    path = Path(quarry.environment.pop("ROTATOR_ECGRID__API_KEY_FILE"))
    quarry.environment["ROTATOR_ECGRID__API_KEY"] = path.read_text().strip()


Scene = Callable[[Hunt], None]
# The defence, the mistakes that it holds, and what goes wrong outside; then without it.
TAKEN: dict[str, tuple[tuple[str, ...], Scene | None]] = {
    "no-secret": (("log-secret",), None),
    "no-silence": (("lib-log",), None),
    "no-log-net": (("log",), None),
    "no-stream-net": (("print",), None),
    "no-net": (("event",), None),
    "no-transport": (("sentry",), None),
    "no-hooks": (("thread", "del", "exit"), None),
    "no-warning-hook": (("warn",), None),
    "no-withholding": (("raise-vault",), None),
    "no-translation": ((), _echo_by_vault),
    "no-ecgrid-translation": ((), _quote_by_ecgrid),
    "no-cleaning": ((), _newline_in_the_token),
    "follow-redirects": ((), _send_elsewhere),
    "follow-redirects ": ((), _vault_sends_elsewhere),
    "hook-environment": ((), _key_in_the_environment),
    "no-dropping": ((), None),
}


# Mistakes that the net catches, and alarms of, while it is whole: here only what got out tells anything.
MESHES = ("no-log-net", "no-stream-net", "no-net", "no-transport")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("defence", TAKEN)
def test_without_a_defence_the_hunt_finds_the_leak(quarry: Hunt, defence: str) -> None:
    """Each in turn; what the same mistake shows with it is nothing, as the other tests find."""
    mistakes, scene = TAKEN[defence]
    if scene is not None:
        scene(quarry)
    keylog = quarry.directory / "tmp" / "tls-keys"
    aids = OVER_TLS | {"SSLKEYLOGFILE": str(keylog)} if defence == "no-dropping" else {}
    quarry.run("rotate", "edi", deeds=[*mistakes, defence.strip()], env=IMPATIENT | aids)
    caught = quarry.said_so and defence not in MESHES
    assert quarry.findings() or caught or keylog.exists()


def test_a_proxys_password_is_told_to_nobody_else(quarry: Hunt) -> None:
    """Neither by what cannot be reached over it, nor by a mistake with its address in hand."""
    password = canary()
    quarry.secrets.add(password)
    proxy = f"http://somebody:{quote(password, safe='')}@127.0.0.1:1"
    away = IMPATIENT | {"VAULT_ADDR": "https://vault.invalid:8200"}
    for name in ("https_proxy", "HTTPS_PROXY"):
        done = quarry.run("rotate", "edi", deeds=["show-proxy"], env=away | {name: proxy})
        assert done.code == 1
        assert "proxy is" in done.stderr
    assert quarry.findings() == []
    assert quarry.said_so != []


def test_a_secret_is_not_shown_before_logging_was_set_up(quarry: Hunt) -> None:
    """Printed, warned of, logged by a library and by us, right after the settings were read."""
    done = quarry.run("rotate", "edi", deeds=["early"])
    assert done.code == 0
    assert "early: " in done.stdout
    assert quarry.findings() == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize("scene", [scene for _, scene in TAKEN.values() if scene])
def test_with_its_defence_the_same_scene_shows_nothing(quarry: Hunt, scene: Scene) -> None:
    """And nobody to whom the command was sent on hears of it."""
    scene(quarry)
    quarry.run("rotate", "edi", env=IMPATIENT)
    assert (quarry.findings(), quarry.said_so, quarry.thief.taken) == ([], [], [])
