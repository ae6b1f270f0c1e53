"""Settings: where they come from, which source wins, what is refused and in which words."""

from __future__ import annotations

import json
import os
import pickle
import secrets
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import Rotator
from pydantic import BaseModel

from rotator import settings as room
from rotator.errors import BadInput
from rotator.keys import Issue, Secret, Verify
from rotator.settings import Listen, Settings, VaultField, sources

BAD = Path(__file__).parent / "bad"
CASES = sorted([*BAD.glob("*.env"), *BAD.glob("*.toml")])
SECRET_NAMES = {
    "ecgrid.api_key": "ROTATOR_ECGRID__API_KEY",
    "ecgrid.password": "ROTATOR_ECGRID__PASSWORD",
    "vault.token": "VAULT_TOKEN",
    "vault.secret_id": "ROTATOR_VAULT__SECRET_ID",
}


def told(case: Path, cwd: Path) -> str:
    """What loading the case is refused with, a line per problem."""
    environ = {}
    if case.suffix == ".env":
        environ = dict(line.split("=", 1) for line in case.read_text().splitlines())
    else:
        (cwd / "rotator.toml").write_text(case.read_text())
    with pytest.raises(BadInput) as caught:
        Settings.load(environ, cwd)
    assert caught.value.__context__ is None
    return f"{caught.value}\n"


def _value(settings: Settings, name: str) -> Secret:
    section, _, key = name.partition(".")
    value = getattr(getattr(settings, section), key)
    assert isinstance(value, Secret)
    return value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_bad_settings_are_refused_in_exactly_these_words(case: Path, tmp_path: Path) -> None:
    """Beside each bad case stands what a person is told about it."""
    assert told(case, tmp_path) == case.with_suffix(".txt").read_text()


def test_nothing_needs_to_be_set(tmp_path: Path) -> None:
    """Without any source every setting has its documented default."""
    settings = Settings.load({}, tmp_path)
    assert settings.policies == Path("policies")
    assert (settings.issue, settings.verify) == (Issue.KEYSET, Verify.GET_KEY)
    assert (settings.concurrency, settings.max_per_run) == (8, None)
    assert (settings.deadline, settings.claim_ttl) == (timedelta(minutes=2), timedelta(minutes=3))
    assert settings.check_every == timedelta(hours=1)
    assert (settings.ecgrid.rate, settings.ecgrid.timeout) == (1.5, 30)
    assert settings.http.listen == Listen("127.0.0.1", 9464)
    assert (settings.log.level, settings.log.format) == ("INFO", "auto")
    assert (settings.vault.mount, settings.vault.state_path) == ("secret", "rotator")
    assert settings.warnings == ()


def test_the_environment_goes_before_the_file_and_options_before_both(tmp_path: Path) -> None:
    """rotator.toml, then the environment, then the command line; each says where it came from."""
    (tmp_path / "rotator.toml").write_text(
        'deadline = "1m"\nconcurrency = 2\n[vault]\nmount = "kv"\n[log]\nlevel = "debug"\n'
    )
    environ = {"ROTATOR_VAULT__MOUNT": "team/kv", "ROTATOR_LOG__LEVEL": "warning"}
    settings = Settings.load(environ, tmp_path, {"log.level": "ERROR", "log.format": None})
    assert (settings.deadline, settings.concurrency) == (timedelta(minutes=1), 2)
    assert (settings.vault.mount, settings.log.level) == ("team/kv", "ERROR")
    assert settings.places == {
        "deadline": "rotator.toml: deadline",
        "concurrency": "rotator.toml: concurrency",
        "vault.mount": "ROTATOR_VAULT__MOUNT",
        "log.level": "the option for log.level",
    }


def test_the_variables_of_the_ecosystem_are_honoured_and_empty_ones_are_not(tmp_path: Path) -> None:
    """VAULT_* and SENTRY_*; an empty one counts as not set."""
    token = secrets.token_hex()
    environ = {
        "VAULT_ADDR": "https://vault.example.com:8200/",
        "ROTATOR_VAULT__ADDR": "https://vault.example.com:8200/",
        "VAULT_TOKEN": f" {token}\n",
        "VAULT_NAMESPACE": "",
        "VAULT_SKIP_VERIFY": "true",
        "SENTRY_ENVIRONMENT": "prod",
        "ROTATOR_ECGRID__API_KEY_VAULT": "secret/ecgrid/rotator#api_key",
        "ROTATOR_HTTP__LISTEN": "",
        "ROTATOR_CHECK_EVERY": "0",
    }
    settings = Settings.load(environ, tmp_path)
    assert settings.vault.addr == "https://vault.example.com:8200"
    assert settings.vault.token == Secret(token)
    assert settings.vault.namespace is None
    assert settings.sentry.environment == "prod"
    assert settings.ecgrid.api_key_vault == VaultField("secret/ecgrid/rotator", "api_key")
    assert settings.http.listen is None
    assert settings.check_every == timedelta(0)
    assert [problem.where for problem in settings.warnings] == ["VAULT_SKIP_VERIFY"]


@pytest.mark.parametrize("address", ["http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"])
def test_plain_http_reaches_loopback_only(tmp_path: Path, address: str) -> None:
    """For ECGrid and Vault alike."""
    environ = {"VAULT_ADDR": address, "ROTATOR_ECGRID__REST_URL": address}
    assert Settings.load(environ, tmp_path).vault.addr == address


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize("source", ["variable", "file", "credential", "toml", "toml-file"])
def test_a_secret_is_read_from_each_source_and_cleaned(
    tmp_path: Path, name: str, source: str
) -> None:
    """A line end or a BOM around a secret never becomes part of it."""
    value = secrets.token_urlsafe()
    environ = {} if name != "ecgrid.password" else {"ROTATOR_ECGRID__LOGIN": "edi"}
    _provide(tmp_path, environ, source, name, value)
    settings = Settings.load(environ, tmp_path)
    assert _value(settings, name) == Secret(value)
    shown = repr(settings) + str(settings) + settings.model_dump_json() + repr(vars(settings))
    assert value not in shown
    again = settings.read_again(name)
    assert again == (Secret(value) if source in ("file", "credential", "toml-file") else None)


def _provide(cwd: Path, environ: dict[str, str], source: str, name: str, value: str) -> None:
    variable = SECRET_NAMES[name]
    section, _, key = name.partition(".")
    file = cwd / "secret"
    file.write_text(f"\ufeff{value}\r\n")
    file.chmod(0o600)
    if source == "variable":
        environ[variable] = f"{value}\n"
    elif source == "file":
        environ[f"{variable}_FILE"] = str(file)
    elif source == "credential":
        (cwd / "credentials").mkdir()
        file.rename(cwd / "credentials" / variable.lower())
        environ["CREDENTIALS_DIRECTORY"] = str(cwd / "credentials")
    else:
        entry = f'{key} = "{value}"' if source == "toml" else f'{key}_file = "secret"'
        (cwd / "rotator.toml").write_text(f"[{section}]\n{entry}\n")
        (cwd / "rotator.toml").chmod(0o600)


@pytest.mark.parametrize("first", ["variable", "file", "credential", "toml"])
@pytest.mark.parametrize("second", ["variable", "file", "credential", "toml"])
def test_a_secret_from_two_sources_is_refused(tmp_path: Path, first: str, second: str) -> None:
    """Even the same value twice: nobody could say which of them counts after the next change."""
    value = secrets.token_urlsafe()
    environ: dict[str, str] = {}
    for source in sorted({first, second}):  # the credential first: it takes the file away
        _provide(tmp_path, environ, source, "ecgrid.api_key", value)
    if first == second:
        assert Settings.load(environ, tmp_path).ecgrid.api_key == Secret(value)
        return
    with pytest.raises(BadInput, match="must have one source") as caught:
        Settings.load(environ, tmp_path)
    assert value not in str(caught.value)


def test_a_secret_file_is_read_again_as_it_is_now(tmp_path: Path) -> None:
    """A rotated file shows its new value, and a vanished one says so."""
    file = tmp_path / "key"
    file.write_text("old")
    settings = Settings.load({"ROTATOR_ECGRID__API_KEY_FILE": str(file)}, tmp_path)
    value = secrets.token_urlsafe()
    file.write_text(value)
    assert settings.read_again("ecgrid.api_key") == Secret(value)
    file.unlink()
    with pytest.raises(
        BadInput, match="ROTATOR_ECGRID__API_KEY_FILE: names a file that does not exist"
    ):
        settings.read_again("ecgrid.api_key")


def test_a_secret_file_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    """It still works: mounted secrets are often readable."""
    file = tmp_path / "key"
    file.write_text(secrets.token_urlsafe())
    file.chmod(0o644)
    settings = Settings.load({"ROTATOR_ECGRID__API_KEY_FILE": str(file)}, tmp_path)
    assert [problem.where for problem in settings.warnings] == ["ROTATOR_ECGRID__API_KEY_FILE"]


@pytest.mark.parametrize("name", [
    "ROTATOR_SERVICE_HOST", "ROTATOR_SERVICE_PORT", "ROTATOR_SERVICE_PORT_HTTP", "ROTATOR_PORT",
    "ROTATOR_PORT_9464_TCP", "ROTATOR_PORT_9464_TCP_ADDR", "ROTATOR_METRICS_SERVICE_HOST", "ROTATOR_METRICS_PORT",
])  # fmt: skip
def test_what_kubernetes_injects_is_not_a_setting(tmp_path: Path, name: str) -> None:
    """A Service called rotator must not stop the rotator."""
    Settings.load({name: "tcp://10.0.0.1:9464"}, tmp_path)


def test_a_hook_may_call_the_rotator(tmp_path: Path) -> None:
    """What a hook is given is no misspelling while all of it is there."""
    given = {
        "POLICY": "edi",
        "KEY_ID": "1",
        "VAULT_MOUNT": "secret",
        "VAULT_PATH": "p",
        "VAULT_VERSION": "2",
    }
    Settings.load({f"ROTATOR_{name}": value for name, value in given.items()}, tmp_path)


def test_a_misspelt_credential_file_is_refused_and_others_are_left_alone(tmp_path: Path) -> None:
    """systemd units may carry credentials for their hooks."""
    (tmp_path / "other").write_text("x")
    (tmp_path / "rotator_ecgrid_api_key").write_text("x")
    with pytest.raises(BadInput) as caught:
        Settings.load({"CREDENTIALS_DIRECTORY": str(tmp_path)}, tmp_path)
    assert str(caught.value) == (
        "credential rotator_ecgrid_api_key: unknown setting; did you mean rotator_ecgrid__api_key?"
    )


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, ["VAULT_ADDR", "VAULT_TOKEN"]),
        (
            {"ROTATOR_VAULT__AUTH": "approle"},
            ["VAULT_ADDR", "ROTATOR_VAULT__ROLE_ID", "ROTATOR_VAULT__SECRET_ID"],
        ),
        (
            {"ROTATOR_VAULT__AUTH": "kubernetes", "ROTATOR_VAULT__JWT_FILE": "none"},
            ["VAULT_ADDR", "ROTATOR_VAULT__ROLE", "ROTATOR_VAULT__JWT_FILE"],
        ),
        ({"ROTATOR_VAULT__AUTH": "cert"}, ["VAULT_ADDR", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"]),
        (
            {"VAULT_ADDR": "https://v", "VAULT_TOKEN": "t", "VAULT_CACERT": "no-such-file"},
            ["VAULT_CACERT"],
        ),
        ({"VAULT_ADDR": "https://v", "VAULT_TOKEN": "t"}, []),
    ],
)
def test_what_vault_needs_is_asked_for_only_by_those_who_need_it(
    tmp_path: Path, environ: dict[str, str], missing: list[str]
) -> None:
    """Loading never asks; require_vault names everything that is missing."""
    settings = Settings.load(environ, tmp_path)
    found: list[str] = []
    try:
        settings.require_vault()
    except BadInput as error:
        found = [problem.where for problem in error.problems]
    assert found == missing


def test_an_own_credential_is_asked_for_only_by_those_who_need_it(tmp_path: Path) -> None:
    """Any of the three forms will do."""
    with pytest.raises(BadInput, match="ROTATOR_ECGRID__API_KEY: no credential"):
        Settings.load({}, tmp_path).require_ecgrid()
    for environ in (
        {"ROTATOR_ECGRID__API_KEY": "k"},
        {"ROTATOR_ECGRID__API_KEY_VAULT": "secret/a#b"},
        {"ROTATOR_ECGRID__LOGIN": "l", "ROTATOR_ECGRID__PASSWORD": "p"},
    ):
        Settings.load(environ, tmp_path).require_ecgrid()


@pytest.mark.parametrize("variable", sorted(f"ROTATOR_{n}" for n in (
    "DEADLINE", "ISSUE", "CONCURRENCY", "ECGRID__REST_URL", "ECGRID__RATE", "ECGRID__API_KEY_VAULT", "VAULT__AUTH",
    "VAULT__MOUNT", "HTTP__LISTEN", "LOG__LEVEL", "ECGRID__API_KEY_FILE", "CONFIG", "VAULT__SKIP_VERIFY",
    "ECGRID__API_KEY",
)))  # fmt: skip
def test_a_value_is_never_repeated(tmp_path: Path, variable: str) -> None:
    """A secret pasted into any setting, bad in itself, appears in no message, and no exception hangs on ours."""
    value = f"{secrets.token_urlsafe()} {secrets.token_urlsafe()}"
    with pytest.raises(BadInput) as caught:
        Settings.load({variable: value, "VAULT_TOKEN": value, "ROTATOR_CLAIM_TTL": "x"}, tmp_path)
    assert caught.value.__context__ is None
    shown = str(caught.value) + repr(caught.value.problems)
    assert not any(value[i : i + 8] in shown for i in range(len(value) - 7))


def test_every_model_hides_its_input() -> None:
    """hide_input_in_errors covers only the model that starts a validation, so each has it."""
    models = [m for m in vars(room).values() if isinstance(m, type) and issubclass(m, BaseModel)]
    ours = [model for model in models if model.__module__.startswith(room.__name__)]
    assert len(ours) >= 6
    assert all(model.model_config.get("hide_input_in_errors") for model in ours)


def test_settings_with_a_secret_cannot_be_pickled(tmp_path: Path) -> None:
    """A pickle would be a file with the value in it."""
    settings = Settings.load({"ROTATOR_ECGRID__API_KEY": secrets.token_hex()}, tmp_path)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(settings)


# files of others, and what can be read only once


def test_a_secret_from_a_pipe_is_read_once_and_kept(tmp_path: Path) -> None:
    """As `..._FILE=<(cat key)` gives it, also where its writer comes late; it has no file to be read again."""
    pipe, value = tmp_path / "pipe", secrets.token_hex(16)
    os.mkfifo(pipe)

    def write() -> None:
        time.sleep(0.2)
        with pipe.open("w") as stream:
            for part in (value[:5], f"{value[5:]}\n"):
                stream.write(part)
                stream.flush()
                time.sleep(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    settings = Settings.load({"ROTATOR_ECGRID__API_KEY_FILE": str(pipe)}, tmp_path)
    writer.join(30)
    assert settings.ecgrid.api_key == Secret(value)
    assert settings.read_again("ecgrid.api_key") is None


def test_a_pipe_that_gives_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In time."""
    monkeypatch.setattr(sources, "_PIPE_PATIENCE", 0.2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="ROTATOR_ECGRID__API_KEY_FILE: names a file that is empty"):
        Settings.load({"ROTATOR_ECGRID__API_KEY_FILE": str(tmp_path / "pipe")}, tmp_path)


@pytest.mark.parametrize("named", [False, True])
def test_a_rotator_toml_that_everybody_may_write_is_refused(tmp_path: Path, named: bool) -> None:
    """It would decide where credentials go."""
    file = tmp_path / ("other.toml" if named else "rotator.toml")
    file.write_text('[vault]\naddr = "https://vault.example:8200"\n')
    file.chmod(0o666)
    environ = {"ROTATOR_CONFIG": str(file)} if named else {}
    with pytest.raises(BadInput) as caught:
        Settings.load(environ, tmp_path)
    (problem,) = caught.value.problems
    assert problem.where == ("ROTATOR_CONFIG" if named else "rotator.toml")
    assert "chmod o-w" in problem.what
    file.chmod(0o644)
    assert Settings.load(environ, tmp_path).file == file


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("by_link", [False, True])
def test_a_rotator_toml_of_another_user_is_refused(tmp_path: Path, by_link: bool) -> None:
    """Also by a link that is another user's."""
    file = tmp_path / "rotator.toml"
    if by_link:
        (tmp_path / "mine.toml").write_text("")
        file.symlink_to("mine.toml")
    else:
        file.write_text("")
    os.lchown(file, 40_000, -1)
    with pytest.raises(BadInput, match=r"rotator\.toml: belongs to another user"):
        Settings.load({}, tmp_path)


# settings and policies together


def test_what_is_wrong_with_settings_and_with_policies_is_told_at_once(
    rotator_command: Rotator,
) -> None:
    """By every command; of what is given and bad it is not said that it is missing."""
    rotator_command.policy(
        "edi", "user_id: x\nvisibility: Private\nschedule: manual\nvault: {path: e}\n"
    )
    rotator_command.environment |= {
        "ROTATOR_CONCURRENCY": "none",
        "VAULT_ADDR": "vault",
        "ROTATOR_ECGRID__API_KEY_FILE": "nowhere",
    }
    del rotator_command.environment["ROTATOR_ECGRID__API_KEY"]
    for command in ("validate", "run --once", "rotate edi", "check"):
        done = rotator_command(*command.split())
        told = [line.split(": ")[1] for line in done.stderr.splitlines()]
        assert done.code == 2
        assert told == [
            "ROTATOR_ECGRID__API_KEY_FILE",
            "ROTATOR_CONCURRENCY",
            "VAULT_ADDR",
            "policies/edi.yaml:1",
        ], command
    bad = json.loads(rotator_command("validate", "--json").stdout)
    assert (bad["valid"], len(bad["errors"])) == (False, 4)


def test_a_setting_with_what_cannot_be_seen_says_so(tmp_path: Path) -> None:
    """By its number and place."""
    environ = {"ROTATOR_VAULT__ROLE": "edi\u200brole"}
    with pytest.raises(BadInput, match=r"its character 4 U\+200B ZERO WIDTH SPACE"):
        Settings.load(environ, tmp_path)


def test_what_a_pipe_gave_is_kept_since_it_gives_it_only_once() -> None:
    """A file would be read again."""
    value = secrets.token_hex(16)
    out, into = os.pipe()
    os.write(into, value.encode())
    os.close(into)
    try:
        settings = Settings.load({"ROTATOR_ECGRID__API_KEY_FILE": f"/dev/fd/{out}"})
        assert settings.ecgrid.api_key == Secret(value)
        assert settings.read_again("ecgrid.api_key") is None
    finally:
        os.close(out)
