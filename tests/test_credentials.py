"""The rotator's own credentials: files are read again when what they held is refused; ends are told in time."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import OPERATOR, Finished, Rotator
from proxy import Answer, Forward, Proxy, Request

from rotator.sandbox.ecgrid import Running

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
