"""Both forms of ECGrid, with every pair of calls, credential and way to replace a key, at default settings."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import OPERATOR, VaultServer, an_ecgrid

from rotator.cli.common import policies_from
from rotator.fleet import Fleet
from rotator.rotation import Order, Result
from rotator.sandbox.ecgrid import Running, Switches
from rotator.settings import Settings

FORMS = ("portal", "service")
ISSUES = ("keyset", "create-key", "generate")
VERIFIES = ("get-key", "key-get", "get-api-key", "user-get-api-key")
CREDENTIALS = ("key", "login")
WAYS = {"replaces": "replace", "adds": "add", "same id": "update"}
CHANGING = {"KeySet", "CreateKey", "GenerateAPIKey", "GenerateKey", "KeyRemove", "DeleteKey"}
CELLS = list(itertools.product(FORMS, ISSUES, VERIFIES))


@contextmanager
def a_fleet(
    where: Path, vault: VaultServer, mount: str, ecgrid: Running, credential: str, policy: str
) -> Iterator[Fleet]:
    """A rotator with one policy and a state path of its own, its other settings left alone."""
    name = f"p-{secrets.token_hex(4)}"
    folder = where / name
    folder.mkdir()
    (folder / f"{name}.yaml").write_text(
        f"user_id: 5001\nvisibility: Private\nschedule: {{every: 30d}}\nvault: {{path: {name}}}\n{policy}"
    )
    operator = next(user for user in ecgrid.simulator.users() if user.user_id == OPERATOR)
    own = {
        "key": {"ROTATOR_ECGRID__API_KEY": ecgrid.simulator.api_key(OPERATOR) or ""},
        "login": {
            "ROTATOR_ECGRID__LOGIN": operator.login,
            "ROTATOR_ECGRID__PASSWORD": operator.password,
        },
    }
    environ = {
        **vault.environment,
        **own[credential],
        "ROTATOR_VAULT__MOUNT": mount,
        "ROTATOR_VAULT__STATE_PATH": f"state-{name}",
        "ROTATOR_ECGRID__REST_URL": ecgrid.rest_url,
        "ROTATOR_ECGRID__SOAP_URL": ecgrid.soap_url,
        "ROTATOR_ECGRID__RATE": "1000",
    }
    settings = Settings.load(environ=environ, overrides={"policies": str(folder)})
    with Fleet(settings, policies_from(settings)) as fleet:
        yield fleet


def rotate(fleet: Fleet) -> Result:
    """What `rotate --all` does to the one policy."""
    order = Order("demand", since=fleet.vault_time(), grace=timedelta(hours=1))
    return fleet.tend(fleet.policies, order)[0]


def published(fleet: Fleet) -> str:
    """The value that Vault shows."""
    there = fleet.vault.published(fleet.policies[0].destinations[0])
    assert there is not None
    assert there.value is not None
    return there.value.reveal()


def is_there(form: str, issue: str, verify: str) -> bool:
    """Whether that ECGrid has both calls."""
    records = issue != "generate" or verify in ("get-key", "key-get")
    return form == "portal" or not records


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("form", "issue", "verify"), CELLS)
def test_what_is_there_rotates_and_what_is_not_is_refused_before_the_claim(
    tmp_path: Path,
    vault: VaultServer,
    mount: str,
    record_property: Callable[[str, object], None],
    form: str,
    issue: str,
    verify: str,
) -> None:
    """Twice each, so that the second starts from what the first has learned; what is refused has changed nothing."""
    told = []
    for credential, (way, keyset) in itertools.product(CREDENTIALS, WAYS.items()):
        switches = Switches.from_json({"form": form, "keyset": keyset, "create_key": keyset})
        policy = f"issue: {issue}\nverify: {verify}\n"
        with (
            an_ecgrid(switches) as running,
            a_fleet(tmp_path, vault, mount, running, credential, policy) as fleet,
        ):
            ecgrid = running.simulator
            results = [rotate(fleet), rotate(fleet)]
            if is_there(form, issue, verify):
                assert [r.outcome for r in results] == ["rotated", "rotated"], (results, way)
                assert ecgrid.who(published(fleet)) == 5001
                assert ecgrid.issued(5001) == 2
            else:
                assert [(r.outcome, r.phase) for r in results] == [("failed", "claim")] * 2, results
                assert_refused(fleet, results, issue)
                assert ecgrid.counts().keys().isdisjoint(CHANGING), ecgrid.counts()
            assert ecgrid.violations() == []
        told.append(results[0].outcome)
    what = "rotates" if set(told) == {"rotated"} else "refused before the claim"
    record_property("cell", [form, issue, verify, f"{what} ({len(told)} ways)"])


def assert_refused(fleet: Fleet, results: list[Result], issue: str) -> None:
    """The message says what to write instead and what it means; no key is counted, nothing is open."""
    for result in results:
        assert result.error is not None
        assert result.error.kind == "ecgrid.NoSuchCall"
        advice = "issue: generate" if issue != "generate" else "verify: get-api-key"
        assert advice in result.error.message
        assert issue == "generate" or "users: [a, b]" in result.error.message
    stored = fleet.vault.record(fleet.policies[0].name)
    assert stored is None or (stored.record.underway, stored.record.issued) == (None, ())
