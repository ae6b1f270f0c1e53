"""What the page on consumers gives to applications, really run: across a rotation, and after a key was refused."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pages
import pytest
import yaml
from conftest import until
from test_architecture import ROOT

from rotator.policy import PolicyDefaults, load
from rotator.schedule import duration

PAGE = ROOT / "docs" / "consumers.md"
GRACE = timedelta(hours=1)  # the shortest one that the page has an interval for


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pages.Desk]:
    """A desk at which the page was typed, with all the files that it writes."""
    with (
        pytest.MonkeyPatch.context() as patch,
        pages.desk(tmp_path_factory.mktemp("desk"), adopted=True) as desk,
    ):
        patch.setenv("HOME", str(desk.where))
        typed = desk.read(PAGE)
        assert typed.code == 0, typed.said
        yield desk


def key_of(file: Path) -> str:
    """The value in the file that the agent writes."""
    found = re.fullmatch(r"ECGRID_API_KEY=(\S+)\n", file.read_text())
    assert found, "one line, as an environment file has it"
    return found[1]


def test_the_agent_writes_the_new_key_within_its_interval(read: pages.Desk) -> None:
    """The page's own configuration, with a second in place of five minutes; the file is its owner's alone."""
    model = read.running.ecgrid.simulator
    file = read.where / "ecgrid.env"
    assert model.who(key_of(file)) == 5001
    assert file.stat().st_mode & 0o777 == 0o600
    quick = (read.where / "agent.hcl").read_text().replace('"5m"', '"1s"')
    (read.where / "quick.hcl").write_text(quick)
    before = key_of(file)
    agent = subprocess.Popen(
        [str(read.where / "bin" / "vault"), "agent", "-config=quick.hcl"],
        cwd=read.where,
        env={
            **os.environ,
            "VAULT_ADDR": read.running.vault.addr,
            "BAO_ADDR": read.running.vault.addr,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert read.type("rotator rotate edi-gateway").returncode == 0
        until(lambda: key_of(file) != before, "the agent wrote the new key")
    finally:
        agent.terminate()
        agent.wait(30)
    assert model.who(key_of(file)) == 5001
    shown = read.type("cat agent.log").stdout
    assert not any(secret in shown for secret in model.secrets())


def test_a_reader_of_python_gets_over_a_key_that_was_ended(read: pages.Desk) -> None:
    """Refused once, it reads Vault again and goes on; the same value refused twice is an error, and no loop."""
    code = """
import os, subprocess, sys, edi
token = open(os.path.expanduser("~/.vault-token")).read().strip()
url = os.environ["ROTATOR_ECGRID__REST_URL"] + "/v2/users/me"
key = edi.Key(os.environ["VAULT_ADDR"], token)
print(edi.ask(key, url)["userId"])
subprocess.run(["rotator", "rotate", "edi-gateway", "--grace", "0s"], check=True, capture_output=True)
print(edi.ask(key, url)["userId"])
sys.stdout.flush()
"""
    (read.where / "across.py").write_text(code)
    done = read.type("python3 across.py")
    assert (done.returncode, done.stdout.split()) == (0, ["5001", "5001"]), done.stderr
    model = read.running.ecgrid.simulator
    for record in model.keys(5001):
        model.remove_key(record.key_id)
    asked = len(model.requests())
    done = read.type("python3 edi.py || sh ask.sh")
    assert done.returncode != 0
    assert [entry.status for entry in model.requests()[asked:]] == [401, 401, 401]
    assert read.type("rotator check --repair edi-gateway").returncode == 0
    assert read.type("python3 edi.py && sh ask.sh").returncode == 0


# the operators: their fields, as their definitions have them; True: it has to be there

SHAPES: dict[str, dict[str, bool]] = {
    "SecretStore.spec": {"provider": True, "refreshInterval": False},
    "SecretStore.spec.provider.vault": {
        "server": True, "path": False, "version": False, "auth": False, "caBundle": False, "caProvider": False,
        "namespace": False,
    },
    "SecretStore.spec.provider.vault.auth.kubernetes": {
        "mountPath": True, "role": True, "serviceAccountRef": False, "secretRef": False,
    },
    "ExternalSecret.spec": {
        "refreshInterval": False, "refreshPolicy": False, "secretStoreRef": False, "target": False, "data": False,
        "dataFrom": False,
    },
    "ExternalSecret.spec.data": {"secretKey": True, "remoteRef": True, "sourceRef": False},
    "VaultConnection.spec": {
        "address": True, "caCertSecretRef": False, "headers": False, "skipTLSVerify": False, "tlsServerName": False,
        "timeout": False,
    },
    "VaultAuth.spec": {
        "vaultConnectionRef": False, "method": False, "mount": False, "kubernetes": False, "namespace": False,
        "allowedNamespaces": False,
    },
    "VaultAuth.spec.kubernetes": {
        "role": False, "serviceAccount": False, "audiences": False, "tokenExpirationSeconds": False,
    },
    "VaultStaticSecret.spec": {
        "vaultAuthRef": False, "type": True, "mount": True, "path": True, "version": False, "refreshAfter": False,
        "destination": True, "rolloutRestartTargets": False, "hmacSecretData": False, "namespace": False,
    },
    "VaultStaticSecret.spec.destination": {
        "name": True, "create": False, "overwrite": False, "labels": False, "type": False, "transformation": False,
    },
    "VaultStaticSecret.spec.rolloutRestartTargets": {"kind": True, "name": True},
}  # fmt: skip
VERSIONS = {
    "SecretStore": "external-secrets.io/v1",
    "ExternalSecret": "external-secrets.io/v1",
    "VaultConnection": "secrets.hashicorp.com/v1beta1",
    "VaultAuth": "secrets.hashicorp.com/v1beta1",
    "VaultStaticSecret": "secrets.hashicorp.com/v1beta1",
}


def objects() -> dict[str, Any]:
    """What the page gives to a cluster, by kind."""
    texts = [block.text for block in pages.blocks(PAGE) if "apiVersion:" in block.text]
    return {one["kind"]: one for text in texts for one in yaml.safe_load_all(text)}


def faults(kinds: dict[str, Any]) -> list[str]:
    """Fields that an operator does not know, or lacks."""
    found = [
        f"{kind}: {one['apiVersion']}"
        for kind, one in kinds.items()
        if one["apiVersion"] != VERSIONS[kind]
    ]
    for path, fields in SHAPES.items():
        kind, *steps = path.split(".")
        at = [kinds[kind]]
        for step in steps:
            deeper = [one[step] for one in at]
            at = [inner for one in deeper for inner in (one if isinstance(one, list) else [one])]
        for one in at:
            found += [f"{path}.{name} is unknown" for name in one.keys() - fields.keys()]
            found += [
                f"{path}.{name} is missing"
                for name, needed in fields.items()
                if needed and name not in one
            ]
    return found


def test_the_operators_know_every_field_of_their_objects() -> None:
    """And have all that they need; a field that is misspelt, or left out, is noticed."""
    kinds = objects()
    assert kinds.keys() == VERSIONS.keys()
    assert faults(kinds) == []
    kinds["VaultStaticSecret"]["spec"]["name"] = kinds["VaultStaticSecret"]["spec"].pop("path")
    assert len(faults(kinds)) == 2


def test_the_operators_read_what_the_policy_publishes_often_enough() -> None:
    """One secret, its mount and field, under one role; at least four times within the shortest grace of the page."""
    (policy,) = [
        one for one in load(ROOT / "policies", PolicyDefaults()) if one.name == "edi-gateway"
    ]
    to, kinds = policy.destinations[0], objects()
    store, copied = (
        kinds["SecretStore"]["spec"]["provider"]["vault"],
        kinds["ExternalSecret"]["spec"],
    )
    static, login = kinds["VaultStaticSecret"]["spec"], kinds["VaultAuth"]["spec"]
    (field,) = copied["data"]
    assert (store["path"], field["remoteRef"]) == (to.mount, {"key": to.path, "property": to.field})
    assert (static["mount"], static["path"], static["type"]) == (to.mount, to.path, "kv-v2")
    assert store["auth"]["kubernetes"]["role"] == login["kubernetes"]["role"] == policy.name
    assert copied["secretStoreRef"]["name"] == kinds["SecretStore"]["metadata"]["name"]
    assert static["vaultAuthRef"] == kinds["VaultAuth"]["metadata"]["name"]
    assert login["vaultConnectionRef"] == kinds["VaultConnection"]["metadata"]["name"]
    agent = re.findall(r'static_secret_render_interval = "(\w+)"', PAGE.read_text())
    intervals = [copied["refreshInterval"], static["refreshAfter"], *agent]
    assert len(intervals) == 3
    assert all(4 * duration(one) <= GRACE for one in intervals)
    assert max(intervals, key=duration) in re.findall(
        r"^\| `1h` \| (\w+) \|", PAGE.read_text(), re.MULTILINE
    )
