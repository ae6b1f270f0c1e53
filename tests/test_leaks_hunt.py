"""The hunt for a leaked secret: the real command at DEBUG, through every command and every failure we can think of.

By default a selection that covers every kind of fault and every place; ROTATOR_TEST_EXTENT=every takes all of them.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import EVERY, VaultServer
from leaks.hunt import OPERATOR, Hunt, canary, hunt, results
from leaks.parties import MISDEEDS, Misdeed

from rotator.sandbox.ecgrid import Fault

PATIENCE = {
    "ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "4s", "ROTATOR_CONCURRENCY": "24",
    "ROTATOR_BRAKE": "0",  # else most faults would never be met
}  # fmt: skip
SOAP, REST = "issue: keyset\nverify: key-get\n", "issue: create-key\nverify: get-key\n"
VALUES = "issue: generate\nverify: get-api-key\n"
# What is asked of ECGrid, by the policy that asks it.
CALLS = [
    ("KeySet", SOAP), ("CreateKey", REST), ("GenerateAPIKey", "issue: generate\nverify: user-get-api-key\n"),
    ("KeyGet", SOAP), ("GetKey", REST), ("GetAPIKey", VALUES), ("KeyList", SOAP), ("ListKeys", REST),
    ("WhoAmI", SOAP), ("GetMe", REST),
]  # fmt: skip
STATUSES = (400, 401, 403, 404, 500, 503)  # 429 slows everybody down: see below
FAULTS: list[tuple[str, dict[str, Any]]] = [
    *(("status", {"status": status, "quoting": True}) for status in STATUSES),
    *(("html", {"status": status, "quoting": True}) for status in (200, 403, 502)),
    *(
        (kind, {})
        for kind in ("lost", "half", "closed", "stale", "masked", "malformed", "other-user")
    ),
    ("hang", {"seconds": 3.0}),
    ("drip", {"seconds": 0.001}),
    ("redirect", {"status": 307}),
    ("redirect", {"status": 302}),
]
WHERE = {
    "published": ("POST|PUT", "/data/ecgrid/{}$"),
    "shown": ("GET", "/data/ecgrid/{}$"),
    "staged": ("POST|PUT", "/staged/{}$"),
    "record": ("POST|PUT", "/record/{}$"),
    "mark": ("PATCH", "/metadata/ecgrid/{}$"),
    "unstage": ("DELETE", "/staged/{}$"),
}


@pytest.fixture
def quarry(tmp_path: Path, vault: VaultServer, mount: str) -> Iterator[Hunt]:
    """A hunt of this test's own."""
    with hunt(tmp_path, vault, mount) as made:
        yield made


def every(step: int, of: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """All in a full run, else each `step`th, which still meets every kind and every place."""
    return of if EVERY else of[::step]


def assert_nothing_found(quarry: Hunt) -> None:
    """No secret anywhere, and none that only the net held back."""
    assert quarry.findings() == []
    assert quarry.said_so == []


@pytest.mark.full
def test_nothing_leaks_when_ecgrid_fails_in_every_way(quarry: Hunt) -> None:
    """Each fault at each call, with answers that quote the request back; what they leave open is then repaired."""
    pairs = list(itertools.product(range(len(CALLS)), range(len(FAULTS))))
    chosen = pairs if EVERY else [pair for pair in pairs if sum(pair) % 3 == 0]
    model = quarry.simulator.simulator
    for number, (call, fault) in enumerate(chosen):
        user_id, (name, calls), (kind, options) = 6001 + number, CALLS[call], FAULTS[fault]
        quarry.policy(f"p{number}", user_id, calls + "first: rotate\n")
        if kind == "redirect":
            options = {**options, "url": f"http://{quarry.thief.address}/stolen"}
        model.add_fault(Fault(kind, call=name, about=user_id, times=None, **options))  # type: ignore[arg-type]  # kinds
    assert len(chosen) >= 60
    done = quarry.run("rotate", "--all", "--json", env={**PATIENCE, "ROTATOR_ECGRID__TIMEOUT": "2"})
    assert done.code == 1
    failed = [one for one in results(done) if one["outcome"] == "failed"]
    assert len(failed) >= len(chosen) // 2
    assert "fleet.Braked" not in {one["error"]["kind"] for one in failed}
    quarry.run("status")
    model.clear_faults()
    quarry.run("check", "--repair", env=PATIENCE)
    quarry.run("check")
    assert len(quarry.sentry.taken) >= 20
    assert quarry.thief.taken == []
    assert_nothing_found(quarry)


@pytest.mark.full
def test_nothing_leaks_when_ecgrid_wants_us_to_wait(quarry: Hunt) -> None:
    """A 429 that quotes the request, to an issuing call and to a read."""
    for number, call in enumerate(("KeySet", "KeyGet")):
        quarry.policy(f"p{number}", 6001 + number, SOAP + "first: rotate\n")
        fault = Fault(
            "status", call=call, about=6001 + number, status=429, retry_after=1, quoting=True
        )
        quarry.simulator.simulator.add_fault(fault)
    assert quarry.run("rotate", "--all").code == 0
    assert_nothing_found(quarry)


@pytest.mark.full
def test_nothing_leaks_when_vault_fails_in_every_way(quarry: Hunt) -> None:
    """Answers that quote token and document, broken ones, redirects to another host, at every kind of request."""
    places = list(itertools.product(WHERE, MISDEEDS))
    for number, (place, kind) in enumerate(places if EVERY else places[::3]):
        method, path = WHERE[place]
        quarry.policy(f"p{number}", 6001 + number, SOAP if number % 2 else REST)
        quarry.before_vault.misdeeds.append(Misdeed(kind, method, path.format(f"p{number}")))
    done = quarry.run("rotate", "--all", "--json", env=PATIENCE)
    assert done.code == 1
    assert sum(one["outcome"] == "failed" for one in results(done)) >= 15
    assert [misdeed for misdeed in quarry.before_vault.misdeeds if not misdeed.met] == []
    quarry.before_vault.misdeeds.clear()
    quarry.run("run", "--once", env=PATIENCE)
    assert quarry.thief.taken == []
    assert_nothing_found(quarry)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", MISDEEDS if EVERY else MISDEEDS[::3])
@pytest.mark.parametrize("auth", ["token", "approle"])
def test_nothing_leaks_when_vault_fails_at_the_login(quarry: Hunt, auth: str, kind: str) -> None:
    """Neither the token nor the SecretID, whatever is said to them."""
    quarry.policy("edi", 6001)
    if auth == "approle":
        approle(quarry)
    misdeed = Misdeed(kind, path="auth/(token/lookup-self|.*/login)")
    quarry.before_vault.misdeeds.append(misdeed)
    quarry.run("rotate", "edi", "--json", env=PATIENCE)
    assert misdeed.met
    assert quarry.thief.taken == []
    assert_nothing_found(quarry)


def approle(quarry: Hunt) -> None:
    """Lets the command log in by AppRole, with a SecretID of our own making."""
    vault, name = quarry.vault, quarry.mount
    if f"{name}/" not in vault.call("GET", "sys/auth")["data"]:
        vault.call("POST", f"sys/auth/{name}", {"type": "approle"})
    secret_id = canary()
    rights = 'path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }'
    vault.call("PUT", f"sys/policies/acl/{name}", {"policy": rights})
    vault.call("POST", f"auth/{name}/role/rotator", {"token_policies": name, "token_ttl": "1h"})
    role_id = vault.call("GET", f"auth/{name}/role/rotator/role-id")["data"]["role_id"]
    vault.call("POST", f"auth/{name}/role/rotator/custom-secret-id", {"secret_id": secret_id})
    del quarry.environment["ROTATOR_VAULT__TOKEN_FILE"]
    quarry.environment |= {
        "ROTATOR_VAULT__AUTH": "approle",
        "ROTATOR_VAULT__AUTH_MOUNT": name,
        "ROTATOR_VAULT__ROLE_ID": role_id,
        "ROTATOR_VAULT__SECRET_ID_FILE": quarry.secret_file("secret-id", secret_id),
    }


@pytest.mark.full
def test_nothing_leaks_when_all_goes_well(quarry: Hunt) -> None:
    """Every command, in both forms, with a login and AppRole; hooks and webhooks run and are told no secret."""
    approle(quarry)
    user = next(user for user in quarry.simulator.simulator.users() if user.user_id == OPERATOR)
    quarry.environment |= {
        "ROTATOR_ECGRID__LOGIN": user.login,
        "ROTATOR_ECGRID__PASSWORD_FILE": quarry.secret_file("password", user.password),
        "ROTATOR_CHECK_EVERY": "1s",
    }
    for number, calls in enumerate((SOAP, REST, VALUES)):
        quarry.policy(f"p{number}", 6001 + number, calls + "grace: 1s\n")
    commands = [
        "validate", "doctor --json", "run --once", "rotate --all --reason hunt", "rotate p0 --grace 0s --json",
        "rotate p1 --dry-run", "status --json", "status --strict", "check", "check --json --repair", "adopt p2",
        "history p0", "history p1 --json", "run --once --json", "schema", "--log-format json rotate p2",
    ]  # fmt: skip
    codes = {command: quarry.run(*command.split()).code for command in commands}
    assert {command: code for command, code in codes.items() if code} == {}
    assert len(quarry.webhook.taken) >= 5
    assert len(list(quarry.home.glob("hook.*"))) >= 5
    assert_nothing_found(quarry)


ENDS = {
    "newline": "\n\n",
    "inner": "\nmore",
    "nul": "\0",
    "umlaut": "é",
    "space": " x",
    "binary": "\udcff",
}
GIVEN = (
    "VAULT_TOKEN",
    "ROTATOR_ECGRID__API_KEY",
    "ROTATOR_ECGRID__PASSWORD",
    "ROTATOR_VAULT__SECRET_ID",
)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", GIVEN)
def test_nothing_leaks_from_a_secret_that_is_spoilt(quarry: Hunt, name: str) -> None:
    """With line breaks, control characters and what is not text in its file, or the file's text as its name."""
    quarry.policy("edi", 6001)
    for given in ("ROTATOR_VAULT__TOKEN_FILE", "ROTATOR_ECGRID__API_KEY_FILE"):
        if given.startswith(name.replace("VAULT_TOKEN", "ROTATOR_VAULT__TOKEN")):
            del quarry.environment[given]
    for end, text in ENDS.items() if EVERY else list(ENDS.items())[:4:2]:
        path = Path(quarry.secret_file(f"spoilt-{end}", "spoilt"))
        value = canary()
        quarry.secrets.add(value)
        path.write_bytes((value + text).encode(errors="surrogateescape"))
        quarry.run("rotate", "edi", env={**PATIENCE, f"{name}_FILE": str(path)})
        quarry.run("validate", env={f"{name}_FILE": value})
    assert_nothing_found(quarry)


SETTINGS = (
    "ROTATOR_POLICIES", "ROTATOR_ECGRID__REST_URL", "ROTATOR_ECGRID__SOAP_NAMESPACE", "ROTATOR_ECGRID__API_KEY_VAULT",
    "ROTATOR_ECGRID__RATE", "ROTATOR_ISSUE", "VAULT_ADDR", "VAULT_NAMESPACE", "VAULT_CACERT", "VAULT_SKIP_VERIFY",
    "ROTATOR_VAULT__AUTH", "ROTATOR_VAULT__MOUNT", "ROTATOR_CONCURRENCY", "ROTATOR_DEADLINE", "SENTRY_DSN",
    "ROTATOR_HTTP__LISTEN", "ROTATOR_CONFIG",
)  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("together", [1, 6])
def test_nothing_leaks_from_a_secret_in_the_wrong_setting(quarry: Hunt, together: int) -> None:
    """Each setting has a key pasted into it, alone (every fourth, by default) or with others."""
    quarry.policy("edi", 6001)
    names = SETTINGS if EVERY or together > 1 else SETTINGS[::4]
    for start in range(0, len(names), together):
        value = canary()
        quarry.secrets.add(value)
        pasted = dict.fromkeys(names[start : start + together], value)
        done = quarry.run("rotate", "edi", env=PATIENCE | pasted)
        assert done.code in (1, 2), names[start]
    assert_nothing_found(quarry)


def test_nothing_leaks_from_files_for_tls_that_cannot_be_used(quarry: Hunt) -> None:
    """A key with a pass phrase, another's key, one that is no PEM or may not be read; or a secret in their place."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine")
    quarry.policy("edi", 6001)
    phrase, folder = canary(), quarry.directory / "given" / "tls"
    quarry.secrets.add(phrase)
    folder.mkdir(parents=True)
    (folder / "phrase").write_text(phrase)
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=one -keyout key.pem -out cert.pem",
        "genpkey -algorithm RSA -out other.pem",
        "pkcs8 -topk8 -in key.pem -out encrypted.pem -passout file:phrase",
        "pkey -in key.pem -outform der -out key.der",
    ):
        subprocess.run(
            [openssl, *command.split()], cwd=folder, check=True, capture_output=True, timeout=120
        )
    value = canary()
    (folder / "secret.pem").write_text(value)
    quarry.secrets |= {value, *(folder / "key.pem").read_text().splitlines()[1:-1]}
    cert = {"VAULT_CLIENT_CERT": str(folder / "cert.pem")}
    for key in ("encrypted.pem", "other.pem", "key.der", "secret.pem", "nowhere", value):
        done = quarry.run(
            "rotate", "edi", env={**PATIENCE, **cert, "VAULT_CLIENT_KEY": str(folder / key)}
        )
        assert (done.code, "VAULT_CLIENT_KEY" in done.stderr) == (2, True), key
    for name in ("VAULT_CACERT", "VAULT_CAPATH", "VAULT_CLIENT_CERT"):
        for file in ("secret.pem", value):
            done = quarry.run("rotate", "edi", env={**PATIENCE, name: str(folder / file)})
            assert (done.code, name in done.stderr) == (2, True), name
    assert quarry.thief.taken == []
    assert_nothing_found(quarry)
