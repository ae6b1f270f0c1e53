"""The login to Vault: renewed in time, kept until there is another, read again from its source, told when refused."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Roles, Rotator, VaultServer, until
from proxy import Answer, Forward, Proxy, Request
from test_daemon import FIRST_USER, fleet_of, logged, record

from rotator.errors import BadInput, Forbidden, Permanent
from rotator.sandbox.ecgrid import Running
from rotator.settings import Settings
from rotator.vault import At, Server, Vault

WRITE = 'path "secret/*" { capabilities = ["create", "read", "update", "delete", "list", "patch"] }'
ITSELF = """
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
"""
EVERYTHING = WRITE + ITSELF
NO_PATCH = WRITE.replace(', "patch"', "")


class Connected:
    """Servers of this test, whose requests a proxy sees."""

    def __init__(self, vault: VaultServer) -> None:
        self.proxy = Proxy()
        self.addr = self.proxy.before("vault", vault.addr)
        self._made: list[Server] = []

    def server(self, environment: dict[str, str]) -> Server:
        """With the settings that these variables make."""
        settings = Settings.load(environment | {"VAULT_ADDR": self.addr})
        boot, again = time.monotonic, settings.read_again
        self._made.append(Server(settings.vault, boot=boot, read_again=again))
        return self._made[-1]

    def count(self, end: str) -> int:
        """How many requests to a path that ends so there were."""
        return sum(request.path.endswith(end) for request in list(self.proxy.requests))

    def close(self) -> None:
        """Disconnects."""
        for server in self._made:
            server.close()
        self.proxy.__exit__()


@pytest.fixture
def connected(vault: VaultServer) -> Iterator[Connected]:
    """A way to make servers."""
    made = Connected(vault)
    yield made
    made.close()


def token(vault: VaultServer, **wish: object) -> str:
    """A token that may do everything, as wished."""
    made = vault.call("POST", "auth/token/create", {"policies": ["root"], "ttl": "1h", **wish})
    return str(made["auth"]["client_token"])


def revoke(vault: VaultServer, value: str) -> None:
    """Ends a token."""
    vault.call("POST", "auth/token/revoke", {"token": value})


def token_of(server: Server) -> str:
    """The token in use."""
    return server.logins.current().token.reveal()


# what replaces a login


def test_a_login_that_cannot_be_made_anew_leaves_the_living_one(
    connected: Connected, vault: VaultServer, roles: Roles, mount: str
) -> None:
    """Its SecretID is gone; the token is good for what it still lives."""
    environment = roles.environment(EVERYTHING)
    server = connected.server(environment)
    at = At(mount, "a")
    assert server.write(at, {"a": "b"}, 0) == 1
    role = environment["ROTATOR_VAULT__ROLE_ID"]
    name = next(
        name
        for name in vault.call("LIST", f"auth/{environment['ROTATOR_VAULT__AUTH_MOUNT']}/role")[
            "data"
        ]["keys"]
        if role
    )
    vault.call(
        "POST",
        f"auth/{environment['ROTATOR_VAULT__AUTH_MOUNT']}/role/{name}/secret-id/destroy",
        {"secret_id": environment["ROTATOR_VAULT__SECRET_ID"]},
    )
    for _ in range(3):
        with pytest.raises(Permanent) as refused:
            server.outlast(10**7)
        assert refused.value.kind == "vault.LoginRefused"
    assert server.read(at) is not None
    assert connected.count("/login") == 2  # the second was refused, and is not tried again at once


@pytest.mark.parametrize("looks_itself_up", [True, False])
def test_what_the_login_may_not_do_is_no_reason_for_logins(
    connected: Connected, roles: Roles, mount: str, looks_itself_up: bool
) -> None:
    """Five patches of metadata that are forbidden; one new login at most, where the old cannot show that it lives."""
    hcl = NO_PATCH + (ITSELF if looks_itself_up else "")
    server = connected.server(roles.environment(hcl))
    at = At(mount, "a")
    server.write(at, {"a": "b"}, 0)
    for _ in range(5):
        with pytest.raises(Forbidden):
            server.annotate(at, {"policy": "edi"})
        assert server.read(at) is not None
    assert connected.count("/login") == (1 if looks_itself_up else 2)


def test_a_token_that_ended_is_replaced_by_one_login_however_many_meet_it(
    connected: Connected, vault: VaultServer, roles: Roles, mount: str
) -> None:
    """Eight threads at once."""
    server = connected.server(roles.environment(EVERYTHING))
    at = At(mount, "a")
    server.write(at, {"a": "b"}, 0)
    revoke(vault, token_of(server))
    threads = [threading.Thread(target=server.read, args=(at,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert connected.count("/login") == 2


# the source


def test_the_file_of_a_token_is_read_again_once_the_token_is_refused(
    connected: Connected, vault: VaultServer, mount: str, tmp_path: Path
) -> None:
    """As Vault Agent replaces it; before that nothing is asked twice."""
    first, second, file = token(vault), token(vault), tmp_path / "token"
    file.write_text(first)
    server = connected.server({"VAULT_TOKEN_FILE": str(file)})
    at = At(mount, "a")
    server.write(at, {"a": "b"}, 0)
    file.write_text(f"{second}\n")
    assert server.read(at) is not None
    assert token_of(server) == first
    revoke(vault, first)
    assert server.read(at) is not None
    assert token_of(server) == second
    file.unlink()
    revoke(vault, second)
    with pytest.raises(Forbidden):
        server.read(at)


def test_the_file_of_a_token_is_read_again_once_the_token_is_about_to_end(
    connected: Connected, vault: VaultServer, tmp_path: Path
) -> None:
    """It cannot be renewed, and the one in the file lives longer."""
    file = tmp_path / "token"
    file.write_text(token(vault, ttl="90s", renewable=False))
    server = connected.server({"VAULT_TOKEN_FILE": str(file)})
    with pytest.raises(Permanent) as ends:
        server.outlast(120.0)
    assert ends.value.kind == "vault.TokenExpires"
    file.write_text(token(vault))
    server.outlast(120.0)
    assert server.login_left() > 120


def test_the_file_of_a_secret_id_is_read_again_at_each_login(
    connected: Connected, vault: VaultServer, roles: Roles, mount: str, tmp_path: Path
) -> None:
    """The one before was used up."""
    environment, other = roles.environment(EVERYTHING), roles.environment(EVERYTHING)
    file = tmp_path / "secret-id"
    file.write_text(environment.pop("ROTATOR_VAULT__SECRET_ID"))
    environment["ROTATOR_VAULT__SECRET_ID_FILE"] = str(file)
    (tmp_path / "role-id").write_text(environment.pop("ROTATOR_VAULT__ROLE_ID"))
    environment["ROTATOR_VAULT__ROLE_ID_FILE"] = str(tmp_path / "role-id")
    server = connected.server(environment)
    at = At(mount, "a")
    server.write(at, {"a": "b"}, 0)
    file.write_text(other["ROTATOR_VAULT__SECRET_ID"])
    (tmp_path / "role-id").write_text(other["ROTATOR_VAULT__ROLE_ID"])
    revoke(vault, token_of(server))
    assert server.read(at) is not None


# how long, and how often


@pytest.mark.full
def test_an_idle_daemon_renews_a_token_of_fifteen_seconds_in_time(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Its turns come every ten seconds, unless the login needs one sooner."""
    fleet_of(rotator_command, simulator, 1, "30d")
    value = token(vault, ttl="15s", renewable=True)
    rotator_command.secrets.add(value)
    with Proxy() as proxy:
        daemon = rotator_command.start(
            "run",
            VAULT_ADDR=proxy.before("vault", vault.addr),
            VAULT_TOKEN=value,
            ROTATOR_CHECK_EVERY="0",
            ROTATOR_DEADLINE="5s",
            ROTATOR_CLAIM_TTL="7s",
        )

        def renewed() -> int:
            return sum(one.path.endswith("/renew-self") for one in list(proxy.requests))

        until(lambda: renewed() >= 3, "it is renewed again and again", 60)
        assert record(vault, mount, "p00").get("current")
        assert logged(daemon, "daemon.tick_failed") == []
        assert daemon.finish(send=signal.SIGTERM).code == 0


@pytest.mark.parametrize("life", ["15s", "1h"])
def test_half_of_a_logins_life_is_never_over_before_it_is_renewed(
    vault: VaultServer, life: str
) -> None:
    """Whatever its length, if it is asked when it said that it should be."""
    clock = [1000.0]
    environment = vault.environment | {"VAULT_TOKEN": token(vault, ttl=life)}
    server = Server(Settings.load(environment).vault, boot=lambda: clock[0])
    whole = server.login_left()
    for _ in range(5):
        clock[0] += server.refresh()
        assert server.login_left() >= whole / 3
        server.refresh()
        assert server.login_left() > whole / 2
    server.close()


def test_a_token_that_cannot_be_renewed_fails_turns_in_its_last_hour_only(
    vault: VaultServer,
) -> None:
    """Not for weeks: that it is about to end is told by an alarm of its own."""
    clock = [1000.0]
    environment = vault.environment | {"VAULT_TOKEN": token(vault, ttl="480h", renewable=False)}
    server = Server(Settings.load(environment).vault, boot=lambda: clock[0])
    server.refresh()
    clock[0] += 478 * 3600
    server.refresh()
    clock[0] += 1.5 * 3600
    with pytest.raises(Permanent) as ends:
        server.refresh()
    assert ends.value.kind == "vault.TokenExpires"
    server.close()


def test_a_token_with_few_uses_left_is_refused_before_anything_is_issued(
    rotator_command: Rotator, vault: VaultServer, simulator: Running
) -> None:
    """Thirty are enough for a rotation; they are counted from what the token tells once."""
    fleet_of(rotator_command, simulator, 1, "30d")
    assert rotator_command("run", "--once").code == 0
    for uses, code in ((25, 1), (80, 0)):
        value = token(vault, num_uses=uses)
        rotator_command.secrets.add(value)
        done = rotator_command("rotate", "p00", "--json", VAULT_TOKEN=value)
        assert done.code == code, done.stdout
        assert simulator.simulator.issued(FIRST_USER) == 1 - code
        if code:
            assert done.json["results"][0]["error"]["kind"] == "vault.TokenUses"


def test_a_token_whose_uses_do_not_suffice_for_all_serves_as_many_as_they_do(
    rotator_command: Rotator, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """Eight policies at once: whoever begins has thirty uses of its own, and nothing is left half done."""
    names = fleet_of(rotator_command, simulator, 8, "30d")
    assert rotator_command("run", "--once").code == 0
    value = token(vault, num_uses=100)
    rotator_command.secrets.add(value)
    done = rotator_command("rotate", "--all", "--json", VAULT_TOKEN=value)
    assert done.code == 1
    rotated = [one["policy"] for one in done.json["results"] if one["outcome"] == "rotated"]
    kinds = {one["error"]["kind"] for one in done.json["results"] if one["error"]}
    assert rotated
    assert kinds == {"vault.TokenUses"}
    assert sum(simulator.simulator.issued(FIRST_USER + n) for n in range(8)) == len(rotated)
    assert not any(record(vault, mount, name).get("underway") for name in names)


def test_a_login_by_role_with_few_uses_is_made_anew_in_time(
    rotator_command: Rotator, vault: VaultServer, roles: Roles, simulator: Running
) -> None:
    """`token_num_uses: 40`: one login for each rotation or so, and none is refused in its midst."""
    fleet_of(rotator_command, simulator, 3, "30d")
    environment = roles.environment(_shipped())
    where = environment["ROTATOR_VAULT__AUTH_MOUNT"]
    (name,) = vault.call("LIST", f"auth/{where}/role")["data"]["keys"]
    vault.call("POST", f"auth/{where}/role/{name}", {"token_num_uses": 40})
    environment["ROTATOR_CONCURRENCY"] = "1"
    assert rotator_command("run", "--once", **environment).code == 0  # type: ignore[arg-type]
    done = rotator_command("rotate", "--all", "--json", **environment)  # type: ignore[arg-type]
    assert (done.code, done.json["summary"]) == (0, {"rotated": 3}), done.stdout


def _shipped() -> str:
    root = Path(__file__).parent.parent
    return (root / "vault" / "rotator.hcl").read_text()


# what is told of a login that is refused


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"ROTATOR_VAULT__SECRET_ID": secrets.token_hex(16)}, "ROTATOR_VAULT__SECRET_ID"),
        ({"ROTATOR_VAULT__ROLE_ID": secrets.token_hex(16)}, "ROTATOR_VAULT__ROLE_ID"),
        ({"ROTATOR_VAULT__AUTH_MOUNT": "nowhere"}, "ROTATOR_VAULT__AUTH_MOUNT"),
        ({"VAULT_NAMESPACE": "nowhere"}, "VAULT_NAMESPACE"),
    ],
)
def test_a_refused_login_names_the_method_its_mount_and_the_settings(
    connected: Connected, roles: Roles, changed: dict[str, str], named: str
) -> None:
    """And nothing of KV."""
    environment = roles.environment(EVERYTHING) | changed
    with pytest.raises(Permanent) as refused:
        connected.server(environment).login_left()
    told = str(refused.value)
    assert refused.value.kind == "vault.LoginRefused"
    mount = environment["ROTATOR_VAULT__AUTH_MOUNT"]
    assert f"method approle, mounted at auth/{mount}" in told
    assert named in told
    assert "KV" not in told


@pytest.mark.parametrize(
    "changed",
    [{"VAULT_TOKEN": secrets.token_hex(16)}, {"VAULT_NAMESPACE": "nowhere"}],
    ids=["token", "namespace"],
)
def test_a_refused_token_names_address_and_namespace_too(
    connected: Connected, vault: VaultServer, changed: dict[str, str]
) -> None:
    """Either may be what is wrong."""
    with pytest.raises(Permanent) as refused:
        connected.server(vault.environment | changed).login_left()
    for name in ("VAULT_TOKEN", "VAULT_ADDR", "VAULT_NAMESPACE"):
        assert name in str(refused.value)


def test_a_prefix_that_is_none_of_vaults_names_address_and_namespace(
    connected: Connected, vault: VaultServer
) -> None:
    """Vault answers there, and knows no such path."""
    connected.addr += "/v1/vault"
    with pytest.raises(Permanent) as refused:
        connected.server(vault.environment).login_left()
    assert "VAULT_ADDR and VAULT_NAMESPACE" in str(refused.value)


@pytest.mark.parametrize("addr", ["https://vault:8200/v1", "https://vault/v1/", "HTTPS://v/V/v1"])
def test_an_address_with_the_apis_own_prefix_is_refused(addr: str) -> None:
    """Offline."""
    with pytest.raises(BadInput) as refused:
        Settings.load({"VAULT_ADDR": addr})
    assert "/v1" in str(refused.value)


def test_scheme_and_host_of_an_address_are_in_lower_case() -> None:
    """So that what compares them (certificates, proxies, loopback) is not misled; the path stays."""
    found = Settings.load(
        {
            "VAULT_ADDR": "HTTPS://Vault.Example:8200/Prefix",
            "ROTATOR_ECGRID__REST_URL": "HTTP://LOCALHOST:1/Rest",
            "ROTATOR_NOTIFY__WEBHOOK": "Https://Hooks.Example/A?b=C",
        }
    )
    assert found.vault.addr == "https://vault.example:8200/Prefix"
    assert found.ecgrid.rest_url == "http://localhost:1/Rest"
    assert found.notify.webhook == "https://hooks.example/A?b=C"


# rights


def test_a_right_that_is_taken_away_is_missed_before_the_next_issue(
    connected: Connected, vault: VaultServer, roles: Roles, mount: str
) -> None:
    """What is known of rights is a minute old at most, and none the moment that a write is refused."""
    clock = [1000.0]
    settings = Settings.load(roles.environment(EVERYTHING) | {"VAULT_ADDR": connected.addr})
    server = Server(settings.vault, boot=lambda: clock[0])
    paths = {f"{mount}/data/{number}": frozenset({"update"}) for number in range(50)}
    assert server.missing(paths) == {}
    assert server.missing(paths) == {}
    asked = connected.count("/capabilities-self")
    assert asked == 1
    roles.grant(EVERYTHING.replace('"update", ', ""))
    assert server.missing(paths) == {}
    clock[0] += 61.0
    assert server.missing(paths).keys() == paths.keys()
    roles.grant(EVERYTHING)
    assert server.missing(paths) == {}
    roles.grant(EVERYTHING.replace('"update", ', "").replace('"create", ', ""))
    with pytest.raises(Forbidden):
        server.write(At(mount, "a"), {"a": "b"}, 0)
    assert server.missing(paths).keys() == paths.keys()
    server.close()


def test_those_that_wait_are_asked_for_together_with_the_one_whose_turn_it_is(
    connected: Connected, vault: VaultServer, mount: str
) -> None:
    """Fifty policies, each beginning more than a minute after all were asked for: one request, not fifty."""
    clock = [1000.0]
    settings = Settings.load(vault.environment | {"VAULT_ADDR": connected.addr})
    server = Server(settings.vault, boot=lambda: clock[0])
    needs = [{f"{mount}/data/{number}": frozenset({"update"})} for number in range(50)]
    server.missing({path: of for one in needs for path, of in one.items()})
    clock[0] += 61.0
    for one in needs:
        assert server.missing(one) == {}
    assert connected.count("/capabilities-self") == 2
    server.close()


# a mount whose name has slashes


def test_the_mount_of_a_path_is_vaults_to_tell(
    rotator_command: Rotator, vault: VaultServer, simulator: Running
) -> None:
    """`API_KEY_VAULT` begins with a mount of three names."""
    name = f"team/edi/{secrets.token_hex(4)}"
    vault.call("POST", f"sys/mounts/{name}", {"type": "kv", "options": {"version": "2"}})
    try:
        own = rotator_command.environment.pop("ROTATOR_ECGRID__API_KEY")
        until(lambda: _written(vault, f"{name}/data/ecgrid/own", own), "the mount is ready")
        fleet_of(rotator_command, simulator, 1, "30d")
        place = {"ROTATOR_ECGRID__API_KEY_VAULT": f"{name}/ecgrid/own#api_key"}
        done = rotator_command("run", "--once", "--json", **place)  # type: ignore[arg-type]
        assert (done.code, done.json["summary"]) == (0, {"adopted": 1}), done.stderr
    finally:
        vault.call("DELETE", f"sys/mounts/{name}")


def test_offline_any_split_of_the_own_keys_place_may_be_a_destination(
    rotator_command: Rotator,
) -> None:
    """Only Vault knows where the mount ends; that it is the rotator's own is seen all the same."""
    rotator_command.policy(
        "own",
        """
        user_id: 5001
        visibility: Private
        schedule: {every: 30d}
        vault: {mount: team/edi/kv, path: ecgrid/own}
        """,
    )
    place = {"ROTATOR_ECGRID__API_KEY_VAULT": "team/edi/kv/ecgrid/own#api_key"}
    del rotator_command.environment["ROTATOR_ECGRID__API_KEY"]
    done = rotator_command("validate", **place)  # type: ignore[arg-type]
    assert (done.code, "needs a way back in" in done.stderr) == (2, True), done.stderr
    login = {"ROTATOR_ECGRID__LOGIN": "rotator", "ROTATOR_ECGRID__PASSWORD": secrets.token_hex(8)}
    rotator_command.secrets.add(login["ROTATOR_ECGRID__PASSWORD"])
    assert rotator_command("validate", **place, **login).code == 0  # type: ignore[arg-type]


def _written(vault: VaultServer, path: str, value: str) -> bool:
    try:
        vault.call("POST", path, {"data": {"api_key": value}})
    except Exception:  # noqa: BLE001 - a new mount is not ready at once
        return False
    return True


def test_a_gone_document_is_named_by_its_path(
    connected: Connected, vault: VaultServer, mount: str
) -> None:
    """So is a record, with its path."""
    server = connected.server(vault.environment)
    kept = Vault(server, mount, "rotator")
    for path in ("rotator/record/edi", "ecgrid/edi"):
        server.write(At(mount, path), {"a": "b"}, 0)
        vault.call("DELETE", f"{mount}/data/{path}")
        with pytest.raises(Permanent) as gone:
            kept.record("edi") if "record" in path else server.read(At(mount, path))
        assert f"{mount}/{path}" in str(gone.value)


def answer_nothing(_request: Request, _forward: Forward) -> Answer | None:
    """No answer."""
    return None


def test_a_request_that_fails_is_named_by_its_path(
    connected: Connected, vault: VaultServer, mount: str
) -> None:
    """Whatever it failed of."""
    server = connected.server(vault.environment)
    server.write(At(mount, "ecgrid/edi"), {"a": "b"}, 0)
    connected.proxy.between = answer_nothing
    with pytest.raises(Exception, match=f"{mount}/data/ecgrid/edi"):
        server.read(At(mount, "ecgrid/edi"))
