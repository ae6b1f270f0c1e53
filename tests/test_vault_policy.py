"""The Vault policy and the roles that ship: enough for every command, nothing in them is idle, and `doctor` says so."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import httpx
import pytest
from conftest import Roles, Rotator, VaultServer

from rotator.cli.doctor import findings
from rotator.errors import Permanent
from rotator.fleet import Fleet
from rotator.policy import PolicyDefaults, load
from rotator.sandbox.ecgrid import Running
from rotator.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = (ROOT / "vault" / "rotator.hcl").read_text()
GIVEN = re.findall(r'^path "([^"]+)" +\{ capabilities = \[(.+)\] \}$', SHIPPED, re.MULTILINE)
RIGHTS = [(path, name) for path, names in GIVEN for name in re.findall(r'"(\w+)"', names)]
OF_TOKENS = "auth/token/lookup-self"  # used by no other login
OF_APPROLES = "auth/approle/role/+/secret-id/lookup"  # the same
POLICY = """
    user_id: 5001
    visibility: Private
    schedule: {every: 30d}
    vault: {path: ecgrid/edi}
"""


def without(right: tuple[str, str]) -> str:
    """The shipped policy without one capability on one path."""
    path, name = right
    lines = []
    for line in SHIPPED.splitlines():
        if line.startswith(f'path "{path}"'):
            left = [f'"{other}"' for at, other in RIGHTS if at == path and other != name]
            lines += [f'path "{path}" {{ capabilities = [{", ".join(left)}] }}'] if left else []
        else:
            lines.append(line)
    return "\n".join(lines)


def printed(command: Rotator, *arguments: str, **environment: str) -> str:
    """What `vault-policy` prints; it knows of no Vault, and of no credential."""
    strangers = {name: "" for name in command.environment if name.startswith("VAULT_")}
    given = {"ROTATOR_VAULT__AUTH": "approle", **strangers, **environment}
    started = command.start("vault-policy", *arguments, **given)
    done = started.finish()
    assert (done.code, done.stderr) == (0, "")
    return done.stdout


def rules_of(hcl: str) -> dict[str, str]:
    """Its lines by their paths."""
    return {
        path: line
        for line in hcl.splitlines()
        for path in re.findall(r'^path "([^"]+)" \{ capabilities = \[.+\] \}$', line)
    }


@pytest.mark.sampled(1)
@pytest.mark.parametrize("which", ["shipped", "printed"])
def test_every_command_works_with_what_the_policy_allows(
    rotator_command: Rotator, roles: Roles, simulator: Running, which: str
) -> None:
    """Logged in by the AppRole that ships, without Vault's own `default` policy; no warning either."""
    rotator_command.policy("edi", POLICY)
    hcl = SHIPPED if which == "shipped" else printed(rotator_command)
    rotator_command.environment |= roles.environment(hcl)
    for arguments in (
        ["validate"],
        ["import"],
        ["doctor"],
        ["adopt", "edi", "--dry-run"],
        ["run", "--once", "--dry-run"],
        ["run", "--once"],
        ["rotate", "edi", "--dry-run"],
        ["rotate", "edi", "--grace", "0s"],
        ["rotate", "--all"],
        ["rollback", "edi", "--dry-run"],
        ["rollback", "edi", "--reason", "a trial"],
        ["hold", "edi", "--for", "1h", "--reason", "a trial"],
        ["run", "--once"],
        ["release", "edi"],
        ["release", "--brake"],
        ["status", "--strict"],
        ["plan"],
        ["plan", "--ics"],
        ["check"],
        ["check", "--repair", "--dry-run"],
        ["check", "--repair"],
        ["adopt", "edi"],
        ["adopt", "--all"],
        ["adopt", "--ecgrid"],
        ["history", "edi"],
        ["history", "--all"],
        ["explain", "vault.MissingCapability"],
        ["schema"],
        ["vault-policy"],
        ["vault-policy", "--reader"],
    ):
        done = rotator_command(*arguments)
        said = done.stdout + done.stderr
        assert done.code == 0, (arguments, said)
        told = {"explain", "vault-policy", "--brake", "--ecgrid"} & {*arguments}
        if not told:  # the texts of these have such words by themselves
            assert not re.search(r"\bwarning\b|denied|Forbidden|missing", said), (arguments, said)
    (rotator_command.policies / "edi.yaml").rename(rotator_command.policies / "renamed.yaml")
    if which == "printed":
        again = printed(rotator_command, ROTATOR_VAULT__AUTH_MOUNT="approle")
        assert again == hcl  # records are under the wildcard
    renamed = rotator_command("adopt", "renamed", "--from", "edi")
    assert renamed.code == 0, renamed.stderr
    assert rotator_command("check").code == 0
    assert simulator.simulator.issued(5001) == 2


def test_the_daemon_works_with_what_the_shipped_policy_allows(
    rotator_command: Rotator, roles: Roles, simulator: Running
) -> None:
    """It adopts, rotates and ends, as the commands do."""
    rotator_command.policy("edi", POLICY.replace("30d", "1s"))
    rotator_command.environment |= roles.environment(SHIPPED)
    daemon = rotator_command.start("run", ROTATOR_CHECK_EVERY="1s")
    for _ in range(600):
        if simulator.simulator.issued(5001) > 1:
            break
        time.sleep(0.1)
    done = daemon.finish(send=signal.SIGTERM)
    assert simulator.simulator.issued(5001) > 1, done.stderr
    assert done.code == 0
    assert not re.search(r"denied|Forbidden|MissingCapability", done.stderr), done.stderr


def refused(command: Rotator, environment: dict[str, str], mount: str) -> list[str]:
    """What `doctor` finds at fault in Vault, asked within this process."""
    settings = Settings.load(
        {**command.environment, **environment, "VAULT_TOKEN": environment.get("VAULT_TOKEN", "")},
        command.directory,
    )
    policies = load(command.policies, PolicyDefaults(mount=mount))
    with Fleet(settings, policies) as fleet:
        lines = list(findings(fleet))
    return [f"{line.what}: {line.found}" for line in lines if line.state != "ok"]


def test_each_capability_that_is_missing_fails_in_doctor(
    rotator_command: Rotator, roles: Roles, mount: str
) -> None:
    """By its path and name, and it alone; so nothing in the policy is more than is needed."""
    rotator_command.policy("edi", POLICY)
    unnoticed = []
    for right in RIGHTS:
        path, name = right
        hcl = without(right)
        of_tokens = path == OF_TOKENS
        environment = {"VAULT_TOKEN": roles.token(hcl)} if of_tokens else roles.environment(hcl)
        found = refused(rotator_command, environment, mount)
        # Without these there is nothing to look up what is missing with.
        blind = path == "sys/capabilities-self"
        shown = path.replace("secret/", f"{mount}/", 1).rstrip("*")
        shown = shown.removeprefix(
            "auth/approle/"
        )  # where it is mounted here, only the login knows
        named = (
            "Forbidden" in found[0]
            if blind and found
            else shown in str(found) and name in str(found)
        )
        if len(found) != 1 or not named:
            unnoticed.append((right, found))
    assert unnoticed == []


def test_a_right_that_was_granted_is_noticed_without_a_restart(
    rotator_command: Rotator, roles: Roles, mount: str
) -> None:
    """The daemon goes on as soon as somebody has done what its error says."""
    rotator_command.policy("edi", POLICY)
    lacking = without(
        next(right for right in RIGHTS if "/ecgrid/" in right[0] and "data" in right[0])
    )
    environment = roles.environment(lacking)
    settings = Settings.load(
        {**rotator_command.environment, **environment}, rotator_command.directory
    )
    policies = load(rotator_command.policies, PolicyDefaults(mount=mount))
    with Fleet(settings, policies) as fleet:
        with pytest.raises(Permanent, match="lacks"):
            fleet.vault.require(policies)
        roles.grant(SHIPPED)
        fleet.vault.require(policies)


def test_doctor_is_content_with_the_shipped_policy(
    rotator_command: Rotator, roles: Roles, mount: str
) -> None:
    """Else the test above would find a fault of its own making."""
    rotator_command.policy("edi", POLICY)
    assert refused(rotator_command, roles.environment(SHIPPED), mount) == []


def test_no_right_is_given_below_another_path_or_by_a_wildcard_alone() -> None:
    """Everything in the policy is below the state path, the publishing path, or the login's own affairs."""
    assert len(RIGHTS) > 15
    state = r"secret/\w+/(rotator/\w+|ecgrid)/\*|secret/data/rotator/(ecgrid|told)"
    ours = state + r"|secret/config|(auth/token|sys)/[a-z-]+-self"
    ours += f"|{re.escape(OF_APPROLES)}"
    outside = [path for path, name in RIGHTS if name == "sudo" or not re.fullmatch(ours, path)]
    assert outside == []


@pytest.mark.parametrize("role", ["approle", "kubernetes", "jwt"])
def test_a_role_gives_the_shipped_policy_and_nothing_else(role: str) -> None:
    """Not even `default`; and a login lives longer than a claim."""
    told = json.loads((ROOT / "vault" / f"{role}.json").read_text())
    assert told["token_policies"] == ["rotator"]
    assert told["token_no_default_policy"] is True
    assert told["token_ttl"] == "20m"


def test_the_printed_policy_is_the_shipped_one_made_exact(rotator_command: Rotator) -> None:
    """Nothing is allowed that the shipped one does not allow, but within the state path."""
    rotator_command.policy("edi", POLICY)
    shipped = {path: set(re.findall(r'"(\w+)"', names)) for path, names in GIVEN}
    shipped = {path.replace("/ecgrid/*", "/ecgrid/edi"): names for path, names in shipped.items()}
    ours = rules_of(
        printed(rotator_command, ROTATOR_VAULT__AUTH="token", ROTATOR_VAULT__MOUNT="secret")
    )
    assert shipped.pop(OF_APPROLES) == {"update"}  # this login is a token
    state = {path for path in shipped if "/rotator/" in path}
    assert (
        ours.keys() - {"secret/data/rotator/*", "secret/metadata/rotator/*"}
        == shipped.keys() - state
    )
    for path, line in ours.items():
        names = set(re.findall(r'"(\w+)"', line.partition("{")[2]))
        under = [shipped[one] for one in state if one.startswith(path.rstrip("*"))]
        assert names == (set().union(*under) if under else shipped[path]), path


def test_each_rule_that_is_left_out_of_the_printed_policy_fails_in_doctor(
    rotator_command: Rotator, roles: Roles, vault: VaultServer, mount: str, simulator: Running
) -> None:
    """By its path; with all of them it finds nothing. The rotator's own key is read from Vault here."""
    key = rotator_command.environment.pop("ROTATOR_ECGRID__API_KEY")
    vault.call("POST", f"{mount}/data/team/own", {"data": {"api_key": key}})
    rotator_command.environment["ROTATOR_ECGRID__API_KEY_VAULT"] = f"{mount}/team/own#api_key"
    rotator_command.policy("edi", POLICY)
    hcl = printed(rotator_command)
    assert refused(rotator_command, roles.environment(hcl), mount) == []
    unnoticed = []
    for path, line in rules_of(hcl).items():
        found = refused(rotator_command, roles.environment(hcl.replace(line, "")), mount)
        blind = path == "sys/capabilities-self"
        shown = path.removeprefix("auth/approle/").rstrip("*")
        if not found or (shown not in str(found) and not blind):
            unnoticed.append((path, found))
    assert unnoticed == []
    assert len(rules_of(hcl)) == 9


def test_more_than_200_secrets_are_allowed_by_directory(
    rotator_command: Rotator, roles: Roles, mount: str
) -> None:
    """With a comment that says so; up to then exactly. What is in no directory is named in any case."""
    entries = [f"  - {{name: p{number}, user_id: {number}}}" for number in range(1, 200)]
    fleet = "defaults:\n  visibility: Private\n  schedule: manual\n  vault: {path: 'edi/{name}'}\npolicies:\n"
    top = "user_id: 999\nvisibility: Private\nschedule: manual\nvault: {path: top}\n"
    rotator_command.policy("top", top)
    rotator_command.policy("fleet", fleet + "\n".join(entries))
    exact = rules_of(printed(rotator_command))
    assert {f"{mount}/data/edi/p{number}" for number in range(1, 200)} < exact.keys()
    rotator_command.policy("fleet", fleet + "\n".join([*entries, "  - {name: p200, user_id: 200}"]))
    hcl = printed(rotator_command)
    folded = rules_of(hcl)
    assert {path for path in folded if path.startswith(f"{mount}/data/")} == {
        f"{mount}/data/rotator/*",
        f"{mount}/data/edi/*",
        f"{mount}/data/top",
    }
    assert (
        f"# 200 secrets are published here: so many are not named one by one\n{folded[f'{mount}/data/edi/*']}"
        in hcl
    )
    settings = Settings.load(
        {**rotator_command.environment, **roles.environment(hcl)}, rotator_command.directory
    )
    policies = load(rotator_command.policies, PolicyDefaults(mount=mount))
    with Fleet(settings, policies) as there:
        there.vault.require(policies)


def test_a_reader_is_allowed_to_read_the_secrets_and_nothing_else(
    rotator_command: Rotator, roles: Roles, vault: VaultServer, mount: str
) -> None:
    """Of the policies that are named; as HCL and, for tools, as JSON, both of which Vault takes."""
    rotator_command.policy("edi", POLICY)
    rotator_command.policy(
        "other", POLICY.replace("5001", "5002").replace("ecgrid/edi", "ecgrid/other")
    )
    assert rotator_command("adopt", "--all").code == 0
    hcl = printed(rotator_command, "--reader", "edi")
    assert rules_of(hcl).keys() == {f"{mount}/data/ecgrid/edi"}
    assert json.loads(printed(rotator_command, "--reader", "edi", "--json")) == {
        "path": {f"{mount}/data/ecgrid/edi": {"capabilities": ["read"]}}
    }
    reads = httpx.Client(
        base_url=vault.addr,
        headers={"X-Vault-Token": roles.token(hcl)},
        timeout=30,
        trust_env=False,
    )
    with reads:
        codes = {
            path: reads.get(f"/v1/{mount}/{path}").status_code
            for path in ("data/ecgrid/edi", "data/ecgrid/other", "data/rotator/record/edi")
        }
    assert list(codes.values()) == [200, 403, 403]
    both = rules_of(printed(rotator_command, "--reader"))
    assert both.keys() == {f"{mount}/data/ecgrid/edi", f"{mount}/data/ecgrid/other"}
