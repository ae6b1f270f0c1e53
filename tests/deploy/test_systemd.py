"""The units as they ship, under a real systemd: started, reloaded, frozen, starved, stopped, badly set up."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Roles, Rotator, VaultServer, until
from machine import ROOT, Machine, install
from proxy import Proxy, pass_on

from rotator.sandbox.ecgrid import Fault, Running
from rotator.settings import Settings

pytestmark = pytest.mark.deploy

UNITS = ROOT / "systemd"
SERVICES = ("rotator.service", "rotator-once.service", "rotator-failed@.service")
EXPOSURE = 12  # tenths: 1.2
POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {{every: {every}}}
    grace: 0
    max_age: 60d
    vault: {{path: ecgrid/edi}}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine where the project is installed as docs/operations.md says."""
    where = tmp_path_factory.mktemp("systemd")
    with Machine(where / "machine", install(where / "install")) as running:
        for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.timer")]:
            running.write(f"/etc/systemd/system/{unit.name}", unit.read_text())
        running.write("/usr/lib/sysusers.d/rotator.conf", (UNITS / "rotator.sysusers").read_text())
        rules = (UNITS / "rotator-hooks.rules").read_text()
        running.write("/etc/polkit-1/rules.d/50-rotator.rules", rules)
        running("systemd-sysusers", "rotator.conf")
        running("systemctl", "daemon-reload")
        yield running


class Service:
    """The service of one test: its settings, its credentials, its policies, its drop-ins."""

    def __init__(self, machine: Machine, settings: dict[str, str], given: dict[str, str]) -> None:
        self.machine, self.settings, self.given = machine, settings, given
        self.units = ["rotator.service", "rotator-once.timer", "rotator-once.service"]
        self._since = machine("date", "+%s").strip()

    def set_up(self, every: str = "2s", policy: str = POLICY) -> None:
        """Writes everything that an operator writes."""
        machine = self.machine
        text = "".join(f"{name}={value}\n" for name, value in self.settings.items())
        machine.write("/etc/rotator/rotator.env", text)
        for name, value in self.given.items():
            machine.write(f"/etc/rotator/credentials/{name}", f"{value}\n", 0o600)
        machine("chmod", "0700", "/etc/rotator/credentials")
        self.policy("edi", policy.format(every=every))

    def policy(self, name: str, text: str) -> None:
        """Writes a policy file."""
        self.machine.write(
            f"/etc/rotator/policies/{name}.yaml", re.sub(r"^ {4}", "", text, flags=re.MULTILINE)
        )

    def drop_in(self, unit: str, text: str) -> None:
        """Overrides a part of a unit, as an operator does."""
        self.machine.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.machine("systemctl", "daemon-reload")

    def start(self, unit: str = "rotator.service", *, check: bool = True) -> None:
        """Starts a unit; with Type=notify that waits until it is ready."""
        self.machine("systemctl", "start", unit, check=check)

    def show(self, name: str, unit: str = "rotator.service") -> str:
        """A property of a unit."""
        return self.machine.show(unit, name)

    def log(self, unit: str = "rotator.service") -> str:
        """What the unit, and systemd about it, said in this test."""
        return self.machine.journal(f"--unit={unit}", f"--since=@{self._since}")

    def logged(self, event: str) -> int:
        """How often the daemon told of that event."""
        return self.log().count(f'"event": "{event}"') + self.log().count(f'"event":"{event}"')

    def process(self, name: str) -> Path:
        """A file of the daemon's in /proc."""
        return self.machine.path(f"/proc/{self.show('MainPID')}/{name}")

    def close(self) -> None:
        """Leaves the machine as it was."""
        self.machine("systemctl", "stop", *self.units, check=False)
        self.machine("systemctl", "reset-failed", check=False)
        for place in ("/etc/rotator", *(f"/etc/systemd/system/{unit}.d" for unit in self.units)):
            shutil.rmtree(self.machine.path(place), ignore_errors=True)
        self.machine("systemctl", "daemon-reload")


@pytest.fixture
def service(machine: Machine, roles: Roles, rotator_command: Rotator) -> Iterator[Service]:
    """The service between this test's mount and its simulator, logged in by AppRole with the policy that ships."""
    hcl = (ROOT / "vault" / "rotator.hcl").read_text()
    given = rotator_command.environment | roles.environment(hcl)
    settings = {name: value for name, value in given.items() if name.startswith("ROTATOR_")}
    key = settings.pop("ROTATOR_ECGRID__API_KEY")
    secret_id = settings.pop("ROTATOR_VAULT__SECRET_ID")
    settings |= {
        "VAULT_ADDR": given["VAULT_ADDR"],
        "ROTATOR_LOG__FORMAT": "json",
        "ROTATOR_CHECK_EVERY": "0",
    }
    made = Service(machine, settings, {"ecgrid__api_key": key, "vault__secret_id": secret_id})
    yield made
    made.close()
    rotator_command.assert_silent(machine.journal())


def faults_of_a_unit(machine: Machine, name: str, text: str) -> str:
    """What `systemd-analyze verify` prints: on many faults it ends with 0, so that its output is what counts."""
    machine.write(f"/tmp/verify/{name}", text)
    checked = name.replace("@.", "@x.")
    if checked != name:
        machine.write(f"/tmp/verify/{checked}", text)
    said = machine("systemd-analyze", "verify", "--man=no", f"/tmp/verify/{checked}", check=False)
    shutil.rmtree(machine.path("/tmp/verify"))
    return said


def is_exposed(machine: Machine, name: str, text: str) -> bool:
    """Whether `systemd-analyze security` finds it more exposed than the limit."""
    machine.write(f"/tmp/{name}", text)
    options = ("--offline=yes", f"--threshold={EXPOSURE}")
    said = machine(
        "sh", "-c", f"systemd-analyze security {' '.join(options)} /tmp/{name}; echo rc $?"
    )
    assert "Overall exposure level" in said
    return "rc 0" not in said


@pytest.mark.parametrize("name", [*SERVICES, "rotator-once.timer"])
def test_systemd_has_no_fault_to_find_in_a_unit(machine: Machine, name: str) -> None:
    """Not a word is printed."""
    assert faults_of_a_unit(machine, name, (UNITS / name).read_text()) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WatchdogSec=3min", "WatchDogSec=3min"),
        ("WatchdogSec=3min", "WatchdogSec=soon"),
        ("Type=notify", "Type=notfy"),
        ("/opt/rotator/bin/rotator run", "/opt/rotator/bin/rotor run"),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@system-servic"),
    ],
)
def test_a_fault_planted_in_a_unit_is_found(machine: Machine, old: str, new: str) -> None:
    """A misspelt key, a value that cannot be, and a program that is not there."""
    text = (UNITS / "rotator.service").read_text()
    assert faults_of_a_unit(machine, "rotator.service", text.replace(old, new, 1)) != ""


@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_is_exposed_to_as_little_as_may_be(machine: Machine, name: str) -> None:
    """systemd's own measure, where a bare Python unit has 9.6: at most 1.2."""
    assert not is_exposed(machine, name, (UNITS / name).read_text())


@pytest.mark.parametrize(
    "line", ["CapabilityBoundingSet=\n", "User=rotator\n", "RestrictNamespaces=yes\n"]
)
def test_a_protection_that_is_taken_away_is_noticed(machine: Machine, line: str) -> None:
    """The measure is above the limit without it."""
    text = (UNITS / "rotator.service").read_text()
    assert line in text
    assert is_exposed(machine, "rotator.service", text.replace(line, "", 1))


def test_both_services_are_walled_in_alike() -> None:
    """What protects the daemon protects the tick that a timer starts."""
    walls = [
        [
            line
            for line in text.partition("# Its own user")[2].partition("[Install]")[0].splitlines()
            if line
        ]
        for text in ((UNITS / name).read_text() for name in SERVICES[:2])
    ]
    assert walls[0] == walls[1]
    assert len(walls[0]) > 30


def test_the_example_of_an_environment_file_is_accepted() -> None:
    """With what is commented out in it, too; and it holds no secret."""
    text = (UNITS / "rotator.env").read_text()
    given = dict(re.findall(r"^#?([A-Z_]+)=(.+)$", text, re.MULTILINE))
    settings = Settings.load(given, ROOT / "tests")
    assert (settings.vault.auth, settings.vault.addr) == ("approle", given["VAULT_ADDR"])
    assert len(given) >= 6


def test_every_line_that_relaxes_something_says_why() -> None:
    """A line after `# Relaxed:` is the only one that leaves a door open."""
    text = (UNITS / "rotator.service").read_text()
    assert re.search(r"# Relaxed:.*(\n#.*)*\nProcSubset=all", text)
    assert re.search(r"# Relaxed:.*(\n#.*)*\nRestrictAddressFamilies=AF_UNIX", text)
    assert re.search(r"# Relaxed: no IPAddressDeny", text)


def test_the_service_starts_and_rotates_within_its_walls(
    service: Service, simulator: Running, vault: VaultServer, mount: str, rotator_command: Rotator
) -> None:
    """Ready at once, under its own user, without any right, and the keys in Vault are ones that ECGrid accepts."""
    service.set_up()
    service.start()
    assert (service.show("ActiveState"), service.show("SubState")) == ("active", "running")
    until(lambda: simulator.simulator.issued(5001) >= 2, "it rotates")
    until(lambda: "policies" in service.show("StatusText"), "it says how it stands")
    told = service.process("status").read_text()
    uid = service.machine("id", "-u", "rotator").strip()
    assert re.search(rf"^Uid:\s{uid}\s{uid}\s{uid}\s{uid}$", told, re.MULTILINE)
    assert re.search(r"^CapEff:\s0+$", told, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s1$", told, re.MULTILINE)
    assert re.search(r"^Seccomp:\s2$", told, re.MULTILINE)
    assert re.search(
        r"^Max core file size\s+0\s+0\s", service.process("limits").read_text(), re.MULTILINE
    )
    service.machine("systemctl", "stop", "rotator.service")
    value = vault.call("GET", f"{mount}/data/ecgrid/edi")["data"]["data"]["api_key"]
    assert simulator.simulator.who(value) == 5001


def test_credentials_reach_the_service_and_nobody_else(
    service: Service, simulator: Running, rotator_command: Rotator
) -> None:
    """Not by its environment or arguments, and not from where root keeps them; only as its own copies."""
    service.set_up(every="30d")
    service.start()
    until(lambda: service.logged("daemon.ready"), "it has logged in")
    rotator_command.assert_silent(
        service.process("environ").read_text(), service.process("cmdline").read_text()
    )
    assert list(service.process("root/etc/rotator/credentials").iterdir()) == []
    copies = service.process("root/run/credentials/rotator.service")
    assert {copy.name for copy in copies.iterdir()} == {
        "rotator_ecgrid__api_key",
        "rotator_vault__secret_id",
    }
    stranger = [
        "setpriv",
        "--reuid=nobody",
        "--clear-groups",
        "ls",
        "/run/credentials/rotator.service",
    ]
    assert "denied" in service.machine(*stranger, check=False)
    stranger[-1] = "/etc/rotator/credentials"
    assert "denied" in service.machine(*stranger, check=False)


def test_a_reload_takes_the_new_policies_or_keeps_the_old_ones(
    service: Service, simulator: Running
) -> None:
    """All or none; the service goes on either way, and says so in its status."""
    service.set_up(every="30d")
    service.start()
    until(lambda: service.logged("daemon.ready"), "it is ready")
    service.policy(
        "more", POLICY.format(every="30d").replace("5001", "5002").replace("edi", "more")
    )
    service.machine("systemctl", "reload", "rotator.service")
    until(lambda: "2 policies" in service.show("StatusText"), "the new policy is known")
    service.policy("more", "user_id: many")
    service.machine("systemctl", "reload", "rotator.service")
    until(lambda: "cannot be used" in service.show("StatusText"), "it says that they are bad")
    assert "2 policies" in service.show("StatusText")
    assert (service.show("ActiveState"), service.show("NRestarts")) == ("active", "0")


def test_a_frozen_service_is_restarted_by_the_watchdog(
    service: Service, simulator: Running
) -> None:
    """It is killed, comes back, and goes on rotating."""
    # It may be frozen with a claim, which lasts.
    service.settings |= {"ROTATOR_DEADLINE": "4s", "ROTATOR_CLAIM_TTL": "6s"}
    service.set_up()
    service.drop_in("rotator.service", "[Service]\nWatchdogSec=8s\nRestartSec=1s\n")
    service.start()
    until(lambda: simulator.simulator.issued(5001) >= 1, "it rotates")
    service.machine("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "rotator.service")
    until(lambda: service.show("NRestarts") != "0", "the watchdog restarts it")
    assert "Watchdog timeout" in service.log()
    before = simulator.simulator.issued(5001)
    until(lambda: simulator.simulator.issued(5001) > before, "it rotates again")


def test_a_stop_brings_an_issued_key_into_vault_first(
    service: Service, simulator: Running, vault: VaultServer, mount: str
) -> None:
    """SIGTERM in the middle of a rotation: a good end, in time, and what was issued is published."""
    service.set_up(every="2s")
    simulator.simulator.add_fault(Fault("latency", call="GetKey", nth=2, seconds=4.0))
    service.start()
    # The adoption has asked for the first time; the new key is asked for now, and not answered yet.
    until(lambda: simulator.simulator.faults() == [], "a key that was issued is verified")
    assert simulator.simulator.issued(5001) == 1
    service.machine("systemctl", "stop", "rotator.service")
    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")
    value = vault.call("GET", f"{mount}/data/ecgrid/edi")["data"]["data"]["api_key"]
    newest = max(simulator.simulator.keys(5001), key=lambda key: key.key_id)
    assert value == newest.value


def test_the_time_to_stop_is_longer_than_a_claim_lives() -> None:
    """Else systemd would kill a daemon that has a key in its memory only."""
    claim = Settings.load({}, ROOT / "tests").claim_ttl.total_seconds()
    for name in SERVICES[:2]:
        (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", (UNITS / name).read_text(), re.MULTILINE)
        assert claim + 10 <= int(stop) <= claim + 60


@pytest.mark.parametrize("fault", ["misspelt", "no-policies", "no-credential", "no-directory"])
def test_bad_settings_end_the_service_once_and_for_all(service: Service, fault: str) -> None:
    """No restart loop; somebody is told; what to do is in the log."""
    if fault == "misspelt":
        service.settings["ROTATOR_DEADLIN"] = "2m"
    if fault == "no-credential":
        del service.given["ecgrid__api_key"]
    service.set_up()
    if fault == "no-policies":
        service.machine("rm", "-r", "/etc/rotator/policies")
    if fault == "no-directory":
        service.machine("rm", "-r", "/etc/rotator/credentials")
    service.drop_in("rotator.service", "[Service]\nRestartSec=100ms\n")
    service.start(check=False)
    until(lambda: service.show("ActiveState") == "failed", "it has failed")
    assert service.show("NRestarts") == "0"
    told = "rotator-failed@rotator.service.service"
    until(
        lambda: "journalctl --unit=rotator.service says why" in service.log(told),
        "somebody is told",
    )
    words = {
        "misspelt": "ROTATOR_DEADLINE",
        "no-policies": "policies",
        "no-directory": "credential",
    }
    assert words.get(fault, "ROTATOR_ECGRID__API_KEY") in service.log()
    service.machine("systemctl", "reset-failed", "rotator.service")


def test_it_waits_for_a_vault_that_is_away(
    service: Service, simulator: Running, vault: VaultServer
) -> None:
    """Started before Vault is there, it is active and stays so, and rotates once Vault is back."""
    with Proxy(lambda _request, _forward: None) as proxy:
        service.settings["VAULT_ADDR"] = proxy.before("vault", vault.addr)
        service.set_up()
        service.start()
        until(lambda: service.logged("daemon.tick_failed"), "it says that it waits")
        assert service.show("ActiveState") == "active"
        proxy.start_again(pass_on)
        until(lambda: simulator.simulator.issued(5001) >= 1, "it rotates", 120)
    assert service.show("NRestarts") == "0"


def test_a_timer_starts_ticks_that_rotate_what_is_due(service: Service, simulator: Running) -> None:
    """The alternative to the daemon, with the same settings and credentials."""
    service.set_up(every="1s")
    assert "Next elapse" in service.machine("systemd-analyze", "calendar", "*:0/10")
    # Too often for its start limit, which nobody meets who looks every ten minutes.
    service.drop_in("rotator-once.service", "[Unit]\nStartLimitIntervalSec=0\n")
    quick = "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nRandomizedDelaySec=0\nAccuracySec=100ms\n"
    service.drop_in("rotator-once.timer", quick)
    service.start("rotator-once.timer")
    until(lambda: simulator.simulator.issued(5001) >= 2, "two ticks have rotated")
    service.machine("systemctl", "stop", "rotator-once.timer")
    until(
        lambda: service.show("ActiveState", "rotator-once.service") in ("inactive", "failed"),
        "the last tick has ended",
    )
    assert service.show("Result", "rotator-once.service") == "success"


def test_a_tick_with_a_failure_fails_its_unit(service: Service, simulator: Running) -> None:
    """Exit 1 is seen by systemd, and told."""
    service.settings |= {"ROTATOR_DEADLINE": "1s", "ROTATOR_CLAIM_TTL": "20s"}
    service.set_up(policy=POLICY + "    first: rotate\n")
    simulator.simulator.add_fault(Fault("status", call="KeySet", times=None, status=403))
    service.start("rotator-once.service", check=False)
    assert service.show("Result", "rotator-once.service") == "exit-code"
    told = "rotator-failed@rotator-once.service.service"
    until(lambda: "says why" in service.log(told), "somebody is told")


def test_a_hook_may_do_what_the_polkit_rule_names_and_nothing_else(
    service: Service, machine: Machine, simulator: Running
) -> None:
    """From within the walls: the unit that is named is reloaded, another one is not."""
    for name in ("edi-gateway", "another"):
        machine.write(
            f"/etc/systemd/system/{name}.service",
            f"[Service]\nExecStart=/bin/sleep 600\nExecReload=/bin/touch /run/{name}-reloaded\n",
        )
        machine("systemctl", "start", f"{name}.service")
    hooks = "".join(
        f"      - exec: [systemctl, --no-ask-password, reload, {name}.service]\n"
        for name in ("edi-gateway", "another")
    )
    service.set_up(every="30d", policy=f"{POLICY}    first: rotate\n    after:\n{hooks}")
    service.start("rotator-once.service", check=False)
    assert machine.path("/run/edi-gateway-reloaded").exists(), service.log("rotator-once.service")
    assert not machine.path("/run/another-reloaded").exists()
    assert "hook 2 (exec)" in service.log("rotator-once.service")
    machine("systemctl", "stop", "edi-gateway.service", "another.service")
