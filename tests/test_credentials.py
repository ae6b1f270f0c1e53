"""The rotator's own credentials: files are read again when what they held is refused; ends are told in time."""

from __future__ import annotations

import base64
import json
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import OPERATOR, ROOT, Finished, Roles, Rotator, VaultServer, events, until
from proxy import Answer, Forward, Proxy, Request
from receiver import Receiver, receiver

from rotator.ends import (
    End,
    between,
    of_certificate,
    of_jwt,
    of_own_key,
    of_secret_id,
    of_token,
)
from rotator.sandbox.ecgrid import Running

EVERYTHING = 'path "*" { capabilities = ["create", "read", "update", "delete", "list", "patch"] }'
SHIPPED = (ROOT / "vault" / "rotator.hcl").read_text()
POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""

# files


class Files:
    """The rotator's own credential for ECGrid in files, and what there is behind a proxy to replace it with."""

    def __init__(self, command: Rotator, simulator: Running) -> None:
        self.command, self.simulator = command, simulator
        (user,) = [one for one in simulator.simulator.users() if one.user_id == OPERATOR]
        self.right = {
            "API_KEY": command.environment.pop("ROTATOR_ECGRID__API_KEY"),
            "LOGIN": user.login,
            "PASSWORD": user.password,
        }

    def write(self, name: str, value: str | None = None) -> None:
        """Puts a value, by default the right one, into the file of that setting."""
        self.at(name).write_text(f"{value or self.right[name]}\n")
        self.command.environment[f"ROTATOR_ECGRID__{name}_FILE"] = str(self.at(name))

    def wrong(self, name: str) -> str:
        """Puts what nobody accepts into the file of that setting."""
        value = f"aA1!{secrets.token_hex(16)}"
        self.command.secrets.add(value)
        self.write(name, value)
        return value

    def at(self, name: str) -> Path:
        """The file of that setting."""
        return self.command.directory / name.lower()

    def rotate(self, refused: Callable[[], object]) -> Finished:
        """Rotates; `refused` is called, once, before the first refusal of ECGrid arrives."""
        met: list[Answer] = []

        def between(_request: Request, forward: Forward) -> Answer | None:
            answer = forward()
            if not met and answer.status in (401, 500):
                met.append(answer)
                refused()
            return answer

        self.command.policy("edi", POLICY)
        with Proxy(between) as proxy:
            done = self.command(
                "rotate",
                "edi",
                "--json",
                ROTATOR_ECGRID__REST_URL=proxy.before("ecgrid", self.simulator.rest_url),
                ROTATOR_ECGRID__SOAP_URL=proxy.before("ecgrid", self.simulator.soap_url),
                ROTATOR_DEADLINE="5s",
            )
        assert met
        return done

    def logins(self) -> int:
        """How often a login was tried."""
        counts = self.simulator.simulator.counts()
        return counts.get("Login", 0) + counts.get("AuthLogin", 0)


@pytest.fixture
def files(rotator_command: Rotator, simulator: Running) -> Files:
    """No credential yet."""
    return Files(rotator_command, simulator)


@pytest.mark.parametrize("name", ["LOGIN", "PASSWORD"])
def test_the_files_of_the_login_are_read_again_once_it_is_refused(files: Files, name: str) -> None:
    """The same run goes on with what they hold by then: a refused login costs no ten minutes if its source changes."""
    files.write("LOGIN")
    files.write("PASSWORD")
    files.wrong(name)
    done = files.rotate(lambda: files.write(name))
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout
    assert files.logins() == 3  # refused over REST; then one session for each surface


@pytest.mark.parametrize("then", ["the same", "gone"])
def test_a_refused_login_whose_files_did_not_change_is_tried_once(files: Files, then: str) -> None:
    """However many calls need one."""
    files.write("LOGIN")
    files.wrong("PASSWORD")
    done = files.rotate(lambda: files.at("PASSWORD").unlink() if then == "gone" else None)
    assert done.code == 1
    assert done.json["results"][0]["error"]["kind"] == "ecgrid.InvalidSession"
    assert files.logins() == 1


def test_the_file_of_the_own_key_is_read_again_once_it_is_refused(files: Files) -> None:
    """The same."""
    files.wrong("API_KEY")
    done = files.rotate(lambda: files.write("API_KEY"))
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout


def test_an_own_key_whose_file_is_gone_when_it_is_refused_is_no_fault(files: Files) -> None:
    """It is in replacement, perhaps: meanwhile the login stands in."""
    for name in ("LOGIN", "PASSWORD"):
        files.write(name)
    files.wrong("API_KEY")
    done = files.rotate(lambda: files.at("API_KEY").unlink())
    assert (done.code, done.json["summary"]) == (0, {"rotated": 1}), done.stdout


# ends

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
DAY = 86400
YEAR = {"creation_time": int(NOW.timestamp()) - 300 * DAY, "creation_ttl": 365 * DAY}


def days(end: End) -> tuple[float | None, float | None]:
    """In how many days it ends, and in how many that is near."""
    return tuple(
        None if at is None else (at - NOW) / timedelta(days=1) for at in (end.at, end.near)
    )  # type: ignore[return-value]  # two of them


@pytest.mark.parametrize(
    ("told", "left", "cut", "ends"),
    [
        ({}, 0.0, False, (None, None)),
        ({"renewable": False}, 65.0, False, (65, 51)),
        ({"renewable": True, "period": DAY}, 1.0, False, (None, None)),
        ({"renewable": True, "explicit_max_ttl": 320 * DAY}, 1.0, False, (20, 6)),
        ({"renewable": True}, 65.0, True, (65, 51)),
        ({"renewable": True}, 65.0, False, (None, None)),
    ],
    ids=["root", "not renewable", "periodic", "explicit maximum", "cut short", "renewable"],
)
def test_a_token_ends_where_no_renewal_gets_it_further(
    told: dict[str, Any], left: float, cut: bool, ends: tuple[float | None, float | None]
) -> None:
    """How far a renewal gets, only a renewal that is cut short tells."""
    end = of_token(YEAR | told, NOW, left * DAY if left else float("inf"), cut=cut)
    assert days(end) == ends
    assert bool(end.unknown) == (end.at is None and told == {"renewable": True})


@pytest.mark.parametrize(("life", "lead"), [(90, 14), (28, 14), (20, 10), (14, 1.4), (1, 0.1)])
def test_what_lives_for_days_only_is_not_near_its_end_all_the_time(life: int, lead: float) -> None:
    """Somebody's automatism replaces it."""
    end = between("vault.token", NOW, NOW + timedelta(days=life))
    assert end.at is not None
    assert end.near is not None
    assert (end.at - end.near) / timedelta(days=1) == pytest.approx(lead)


def jwt(**claims: object) -> str:
    """A token with these claims, signed by nobody."""
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{middle}.x"


def test_a_jwt_ends_as_it_says_itself() -> None:
    """Without a time of issue its life begins when it is read; without an end it has none."""
    at = int(NOW.timestamp())
    assert days(of_jwt(jwt(iat=at, exp=at + 90 * DAY), NOW)) == (90, 76)
    assert days(of_jwt(jwt(exp=at + 10 * DAY), NOW)) == (10, 9)
    assert of_jwt(jwt(sub="rotator"), NOW) == End("vault.jwt_file")
    for text in ("", "x", "a.b.c", "e30.e30.x", jwt(exp="soon"), "e30.W10.x"):
        assert of_jwt(text, NOW).at is None


def test_a_secret_id_that_is_used_up_or_nearly_is_at_its_end() -> None:
    """0 uses is Vault's word for any number; of one that is gone it tells nothing."""
    told = {"expiration_time": "0001-01-01T00:00:00Z", "secret_id_num_uses": 0}
    assert of_secret_id(told, NOW) == End("vault.secret_id")
    assert not of_secret_id(told | {"secret_id_num_uses": 30}, NOW).is_near(NOW)
    assert of_secret_id(told | {"secret_id_num_uses": 10}, NOW).is_near(NOW)
    assert of_secret_id({}, NOW).is_near(NOW)


def test_an_own_key_is_near_its_end_once_its_rotation_is_late() -> None:
    """Not already when it is to be rotated within a fortnight, as it always is."""
    made, due = NOW - timedelta(days=28), NOW + timedelta(days=2)
    end = of_own_key(made, timedelta(days=45), due)
    assert days(end) == (17, 3)
    assert days(of_own_key(NOW, timedelta(days=15), NOW + timedelta(days=14)))[1] == 14


def certificate(folder: Path, length: int) -> Path:
    """A certificate for so many days, and its key behind it."""
    file = folder / "client.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", str(folder / "client.key"), "-out", str(file), "-days", str(length), "-subj", "/CN=rotator"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return file


def test_of_several_certificates_the_first_to_end_counts(tmp_path: Path) -> None:
    """One that cannot be read is told, not skipped."""
    long, short = (certificate(tmp_path, length).read_text() for length in (400, 40))
    end = of_certificate(f"Issuer: x\n{long}\n{short}")
    assert end.at is not None
    assert round((end.at - datetime.now(UTC)) / timedelta(days=1)) == 40
    for broken in ("", "x", long.replace("M", "N"), long[:200] + long[-40:]):
        assert of_certificate(broken).unknown


def told(done: Finished) -> dict[str, tuple[str, str]]:
    """What `doctor --json` says of ends: by credential the state, and the words."""
    assert done.code == 0, done.stdout
    return {
        one["what"].removeprefix("end of "): (one["state"], one["found"])
        for one in done.json["checks"]
        if one["what"].startswith("end of ")
    }


def token(vault: VaultServer, command: Rotator, **wish: object) -> str:
    """A token that may do everything, as wished."""
    made = vault.call("POST", "auth/token/create", {"policies": ["root"], **wish})["auth"]
    command.secrets.add(made["client_token"])
    return str(made["client_token"])


def in_days(words: str) -> int:
    """In how many days it ends, in doctor's words."""
    found = re.search(r"ends \S+Z, in (\d+) days", words)
    assert found, words
    return int(found[1])


def test_doctor_says_when_a_token_ends(rotator_command: Rotator, vault: VaultServer) -> None:
    """And that the root's does not."""
    rotator_command.policy("edi", POLICY)
    assert told(rotator_command("doctor", "--json")) == {"vault.token": ("ok", "does not end")}
    given = token(vault, rotator_command, ttl="480h", renewable=False)
    state, words = told(rotator_command("doctor", "--json", VAULT_TOKEN=given))["vault.token"]
    assert (state, in_days(words)) == ("ok", 20)


def test_a_token_of_which_half_is_over_is_renewed_also_by_a_single_tick(
    rotator_command: Rotator, vault: VaultServer
) -> None:
    """A CronJob has no other process that would do it."""
    rotator_command.policy("edi", POLICY)
    given = token(vault, rotator_command, ttl="10h", renewable=True)
    asked = {"token": given}

    def left() -> int:
        return int(vault.call("POST", "auth/token/lookup", asked)["data"]["ttl"])

    vault.call("POST", "auth/token/renew", asked | {"increment": "6h"})
    assert rotator_command("run", "--once", VAULT_TOKEN=given).code == 0
    assert left() <= 6 * 3600
    vault.call("POST", "auth/token/renew", asked | {"increment": "1h"})
    assert rotator_command("run", "--once", VAULT_TOKEN=given).code == 0
    assert left() > 9 * 3600


def test_doctor_says_when_the_secret_id_and_the_certificate_end(
    rotator_command: Rotator, roles: Roles, vault: VaultServer, tmp_path: Path
) -> None:
    """Where it may look that up; else how to let it."""
    rotator_command.policy("edi", POLICY)
    rotator_command.environment |= roles.environment(SHIPPED) | {
        "VAULT_CLIENT_CERT": str(certificate(tmp_path, 400)),
        "VAULT_CLIENT_KEY": str(tmp_path / "client.key"),
    }
    found = told(rotator_command("doctor", "--json"))
    assert {name: (state, in_days(words)) for name, (state, words) in found.items()} == {
        "vault.secret_id": ("ok", 90),
        "vault.client_cert": ("ok", 400),
    }
    (line,) = [line for line in SHIPPED.splitlines() if "secret-id/lookup" in line]
    roles.grant(SHIPPED.replace(line, ""))
    where = rotator_command.environment["ROTATOR_VAULT__AUTH_MOUNT"]
    state, words = told(rotator_command("doctor", "--json"))["vault.secret_id"]
    assert state == "warning"
    assert line.replace("auth/approle", f"auth/{where}") in words


@pytest.fixture
def sink() -> Iterator[Receiver]:
    """A webhook."""
    with receiver() as there:
        yield there


def alarms(sink: Receiver) -> list[tuple[str, str | None]]:
    """What it was told of the rotator's own credentials."""
    told = [one for one in sink.documents() if "(vault." in str(one["policy"])]
    return [(one["event"], one["kind"]) for one in told]


def test_a_jwt_that_is_about_to_end_is_an_alarm_a_metric_and_a_warning(
    rotator_command: Rotator, vault: VaultServer, sink: Receiver, tmp_path: Path
) -> None:
    """It was made a year ago and ends in five days."""
    rotator_command.policy("edi", POLICY)
    now, key = int(time.time()), tmp_path / "key.pem"
    _openssl("genrsa", "-out", str(key), "2048")
    claims = {"iat": now - 360 * DAY, "exp": now + 5 * DAY, "aud": "vault", "sub": "rotator"}
    head = base64.urlsafe_b64encode(b'{"alg":"RS256","typ":"JWT"}').rstrip(b"=").decode()
    signed = f"{head}.{jwt(**claims).split('.')[1]}"
    signature = _openssl("dgst", "-sha256", "-sign", str(key), given=signed.encode())
    text = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    rotator_command.secrets.add(text)
    (tmp_path / "jwt").write_text(text)
    mount = f"jwt-{secrets.token_hex(4)}"
    vault.call("POST", f"sys/auth/{mount}", {"type": "jwt"})
    try:
        public = _openssl("rsa", "-in", str(key), "-pubout").decode()
        vault.call("POST", f"auth/{mount}/config", {"jwt_validation_pubkeys": [public]})
        role = {
            "role_type": "jwt",
            "bound_audiences": ["vault"],
            "user_claim": "sub",
            "token_policies": [mount],
        }
        vault.call("PUT", f"sys/policies/acl/{mount}", {"policy": EVERYTHING})
        vault.call("POST", f"auth/{mount}/role/rotator", role)
        rotator_command.environment |= {
            "VAULT_TOKEN": "",
            "ROTATOR_VAULT__AUTH": "jwt",
            "ROTATOR_VAULT__AUTH_MOUNT": mount,
            "ROTATOR_VAULT__ROLE": "rotator",
            "ROTATOR_VAULT__JWT_FILE": str(tmp_path / "jwt"),
            "ROTATOR_NOTIFY__WEBHOOK": sink.url,
            "ROTATOR_METRICS__TEXTFILE": str(tmp_path / "metrics"),
            "ROTATOR_LOG__FORMAT": "json",
        }
        done = rotator_command("run", "--once")
        assert done.code == 0, done.stderr
        assert alarms(sink) == [("credential", "fleet.CredentialEnds")]
        (line,) = events(done.stderr, "fleet.credential_ends")
        assert "vault.jwt_file ends" in line["message"]
        metric = 'rotator_credential_end_timestamp_seconds{credential="vault.jwt_file"} '
        (value,) = [
            row.removeprefix(metric)
            for row in (tmp_path / "metrics").read_text().splitlines()
            if row.startswith(metric)
        ]
        assert float(value) == claims["exp"]
        state, words = told(rotator_command("doctor", "--json"))["vault.jwt_file"]
        assert (state, in_days(words)) == ("warning", 5)
    finally:
        vault.call("DELETE", f"sys/auth/{mount}")
        vault.call("DELETE", f"sys/policies/acl/{mount}")


def _openssl(*arguments: str, given: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *arguments], input=given, check=True, capture_output=True)
    return done.stdout


@pytest.mark.full
def test_a_secret_id_that_is_about_to_end_gives_way_to_what_its_file_holds_by_then(
    rotator_command: Rotator, roles: Roles, vault: VaultServer, sink: Receiver, tmp_path: Path
) -> None:
    """Without a restart: the alarm is over. Its end is looked up once for each login, not in each turn."""
    rotator_command.policy("edi", POLICY)
    environment = roles.environment(SHIPPED)
    at = f"auth/{environment['ROTATOR_VAULT__AUTH_MOUNT']}/role"
    (role,) = vault.call("LIST", at)["data"]["keys"]
    few = vault.call("POST", f"{at}/{role}/secret-id", {"num_uses": 5})["data"]["secret_id"]
    rotator_command.secrets.add(few)
    (tmp_path / "secret-id").write_text(few)
    lasting = environment.pop("ROTATOR_VAULT__SECRET_ID")
    rotator_command.environment |= environment | {
        "ROTATOR_VAULT__SECRET_ID_FILE": str(tmp_path / "secret-id"),
        "ROTATOR_NOTIFY__WEBHOOK": sink.url,
    }
    with Proxy() as proxy:
        addr = proxy.before("vault", vault.addr)
        daemon = rotator_command.start("run", VAULT_ADDR=addr, ROTATOR_CHECK_EVERY="0")

        def turn() -> bool:
            daemon.process.send_signal(signal.SIGUSR1)
            kind = "fleet.CredentialEnds"
            return alarms(sink) == [("credential", kind), ("recovered", kind)]

        until(lambda: alarms(sink), "it is told")
        assert "may be used 4 more times" in sink.documents()[-1]["message"]
        (tmp_path / "secret-id").write_text(lasting)
        until(turn, "it is over")
        paths = [one.path.rpartition("/")[2] for one in list(proxy.requests)]
        assert (paths.count("login"), paths.count("lookup")) == (2, 2)
        assert daemon.finish(send=signal.SIGTERM).code == 0


def test_doctor_says_when_the_own_key_is_too_old_that_a_policy_rotates(
    files: Files, vault: VaultServer, mount: str
) -> None:
    """At the policy's max_age, half again of what it is to be rotated after."""
    command = files.command
    vault.call("POST", f"{mount}/data/ecgrid/own", {"data": {"api_key": files.right["API_KEY"]}})
    command.environment["ROTATOR_ECGRID__API_KEY_VAULT"] = f"{mount}/ecgrid/own#api_key"
    files.write("LOGIN")
    files.write("PASSWORD")
    command.policy("own", POLICY.replace("5001", str(OPERATOR)).replace("/edi", "/own"))
    assert "ecgrid.api_key" not in told(command("doctor", "--json"))
    assert command("run", "--once").code == 0
    state, words = told(command("doctor", "--json"))["ecgrid.api_key"]
    assert (state, in_days(words)) == ("ok", 45)
