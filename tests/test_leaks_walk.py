"""Every type of the package looked at for a way to show a value, and every error for what it carries along."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from conftest import Rotator, VaultServer, until
from leaks.hunt import canary
from leaks.parties import MISDEEDS, BeforeVault, Misdeed
from leaks.search import Search
from pydantic import BaseModel
from receiver import receiver
from worlds import POLICY

import rotator
from rotator.cli import main
from rotator.ecgrid import Credentials, ECGrid, Rate, Urgency
from rotator.errors import RotatorError
from rotator.keys import Issue, Secret, Verify, Visibility
from rotator.sandbox.ecgrid import Fault, Running
from rotator.settings import ECGridSettings, VaultSettings
from rotator.vault import At, Server

# What holds plain data from outside on purpose, each without it in its repr; see the field for why.
SPEAKING = ("value", "secret", "token", "password", "body", "data", "raw", "jwt", "credential")
# Fields that speak of such things, or could hold anything, and hold only what is ours: names, numbers, times, messages.
OURS = {
    "Alarm", "Answer.body", "Description.calls", "Document.custom", "Facts", "Problem", "Record.known", "Result",
    "Outcome.versions", "Standing", "System.callers", "System.hosts", "Underway.speaks",
    "VaultSettings.jwt_file", "View.owners", "_Page.entries",
    "Trouble.told", "View.places", "View.ahead", "View.owed", "View.held",
}  # fmt: skip
OPEN = ("Any", "object", "bytes", "dict", "Mapping")


def types() -> list[type]:
    """Every class that a module of the package defines; the sandbox's hold nobody's secrets."""
    found = []
    for module in pkgutil.walk_packages(rotator.__path__, "rotator."):
        if module.name.startswith("rotator.sandbox") or module.name.endswith("__main__"):
            continue
        made = vars(import_module(module.name)).values()
        found += [one for one in made if isinstance(one, type) and one.__module__ == module.name]
    return found


def shown_fields(one: type) -> Iterator[tuple[str, str, object]]:
    """The fields that a repr shows: name, type as it is written, default."""
    if dataclasses.is_dataclass(one) and "__repr__" not in _own_reprs(one):
        yield from ((f.name, str(f.type), f.default) for f in dataclasses.fields(one) if f.repr)
    elif "_field_defaults" in vars(one):
        kinds, defaults = vars(one)["__annotations__"], vars(one)["_field_defaults"]
        yield from (
            (name, kind.__forward_arg__, defaults.get(name)) for name, kind in kinds.items()
        )
    elif issubclass(one, BaseModel):
        for name, about in one.model_fields.items():
            if about.repr:
                yield name, str(about.annotation), about.default


def _own_reprs(one: type) -> set[str]:
    written = "__repr__" in vars(one) and not hasattr(vars(one)["__repr__"], "__wrapped__")
    return {"__repr__"} if written else set()


def test_no_field_that_a_repr_shows_could_hold_a_value() -> None:
    """A field named like a secret is a Secret, or in no repr; one that holds anything is known to hold ours."""
    found = []
    for one in types():
        for name, written, _ in shown_fields(one):
            place, is_secret = f"{one.__name__}.{name}", "Secret" in written or "ApiKey" in written
            named = any(word in name.lower() for word in SPEAKING) and not is_secret
            free = any(word in written.replace("[", " ").replace(",", " ").split() for word in OPEN)
            if {place, one.__name__} & OURS:
                continue
            if (named and written not in ("bool", "int", "float")) or free:
                found.append(f"{place}: {written}")
    assert found == []


def test_no_default_is_a_secret() -> None:
    """A default is in the source, and in `--help` and schemas."""
    for one in types():
        for name, _, default in shown_fields(one):
            assert not isinstance(default, Secret), f"{one.__name__}.{name}"
        for method in vars(one).values():
            if inspect.isfunction(method):
                for parameter in inspect.signature(method).parameters.values():
                    assert not isinstance(parameter.default, Secret), method.__qualname__


def test_every_model_hides_what_it_refuses() -> None:
    """Else a sibling's mistake prints a secret."""
    models = [one for one in types() if issubclass(one, BaseModel)]
    assert len(models) >= 5
    assert [
        one.__name__ for one in models if not one.model_config.get("hide_input_in_errors")
    ] == []


def test_no_error_shows_more_than_its_message() -> None:
    """No text of its own making, and nothing kept but names, numbers and kinds; a policy holds no secret."""
    errors = [one for one in types() if issubclass(one, Exception)]
    errors = [one for one in errors if not one.__module__.startswith("rotator.policy")]
    assert len(errors) >= 12
    kept = {
        "problems", "kind", "version", "retry_after", "place", "document", "phase", "status", "failed", "skew",
    }  # fmt: skip
    for one in errors:
        assert issubclass(one, RotatorError), one
        assert not {"__str__", "__repr__", "__reduce__"} & set(vars(one)), one
        names = set(inspect.signature(one.__init__).parameters) - {"self", "message"}
        assert names - kept == set(), one


# the errors themselves, from answers that quote all they know


def carried(error: BaseException | None, depth: int = 6) -> Iterator[str]:
    """All that an exception shows or has along: texts, arguments, attributes, notes, causes."""
    if error is None or not depth:
        return
    yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
    yield from getattr(error, "__notes__", [])
    yield "".join(traceback.format_exception(error))
    for inner in vars(error).values():
        yield from (repr(inner), repr(getattr(inner, "__dict__", "")))
    yield from carried(error.__cause__, depth - 1)
    yield from carried(error.__context__, depth - 1)


def raised(call: Callable[[], object]) -> RotatorError | None:
    """Our error that a call raises; any other one fails the test by ending it."""
    try:
        call()
    except RotatorError as error:
        return error
    return None


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kind", MISDEEDS)
def test_no_error_from_vault_carries_what_was_said(
    vault: VaultServer, mount: str, kind: str
) -> None:
    """Reading, writing, listing and logging in, with what stands before Vault quoting request and answer."""
    value, secret_id = canary(), canary()
    vault.call("POST", f"{mount}/data/here", {"data": {"api_key": value}})
    search = Search([value, secret_id, vault.token])
    with receiver() as thief, BeforeVault(vault.addr, thief.address) as before:
        server = Server(
            VaultSettings(addr=f"http://{before.address}", token=Secret(vault.token)),
            boot=lambda: 0.0,
        )
        raised(lambda: server.read(At(mount, "here")))
        before.misdeeds.append(Misdeed(kind))
        by_role = VaultSettings(
            addr=f"http://{before.address}",
            auth="approle",
            role_id="me",
            secret_id=Secret(secret_id),
        )
        errors = [
            raised(lambda: server.read(At(mount, "here"))),
            raised(lambda: server.write(At(mount, "here"), {"api_key": value}, 1)),
            raised(lambda: server.names(At(mount, ""))),
            raised(lambda: server.annotate(At(mount, "here"), {"k": "v"})),
            raised(Server(by_role, boot=lambda: 0.0).login_left),
        ]
        server.close()
        assert thief.taken == []
    assert sum(error is not None for error in errors) >= 3
    for error in errors:
        for text in carried(error):
            assert search.shown_in(text.encode()) is None
    assert all(error.__context__ is None for error in errors if error is not None)


ANSWERS = [
    *(
        Fault("status", status=status, quoting=True, times=None)
        for status in (400, 401, 403, 404, 500, 503)
    ),
    *(Fault("html", status=status, quoting=True, times=None) for status in (200, 403, 502)),
    *(Fault(kind, times=None) for kind in ("lost", "half", "malformed", "masked", "redirect")),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("fault", ANSWERS, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_no_error_from_ecgrid_carries_what_was_said(simulator: Running, fault: Fault) -> None:
    """Every call on both surfaces, with answers that quote credential, request and result."""
    model = simulator.simulator
    model.switch(key_shape="special")
    own = model.add_key(5000, value=canary())
    where = ECGridSettings(rest_url=simulator.rest_url, soap_url=simulator.soap_url)
    ecgrid = ECGrid(where, Credentials([lambda: Secret(own.value)]), Rate(1000.0))
    model.add_fault(fault)
    errors = []
    for issue, verify in (
        (Issue.CREATE_KEY, Verify.GET_KEY),
        (Issue.KEYSET, Verify.KEY_GET),
        (Issue.GENERATE, Verify.GET_API_KEY),
    ):
        account = ecgrid.account(issue, verify, Urgency.ROTATION)
        errors += [
            raised(lambda: account.issue(5001, Visibility.PRIVATE, 2.0)),  # noqa: B023 - called at once
            raised(lambda: account.read(5001, 2.0)),  # noqa: B023 - the same
            raised(lambda: account.keys(5001, Visibility.PRIVATE, 2.0)),  # noqa: B023 - the same
            raised(lambda: account.remove(1, 2.0)),  # noqa: B023 - the same
            raised(lambda: account.who_am_i(2.0)),  # noqa: B023 - the same
        ]
    ecgrid.close()
    search = Search(model.secrets() | {own.value})
    assert sum(error is not None for error in errors) >= 3
    for error in errors:
        for text in carried(error):
            assert search.shown_in(text.encode()) is None
    assert all(error.__context__ is None for error in errors if error is not None)


def test_no_option_takes_a_secret() -> None:
    """What is typed is in the shell's history, and `/proc/PID/cmdline` may be read by everybody."""
    names = {
        o for command in (main, *main.commands.values()) for p in command.params for o in p.opts
    }
    assert len(names) > 20
    words = ("token", "key", "secret", "password")
    assert [name for name in names if any(word in name for word in words)] == []


# Holds the command up, with every secret in its memory, until a file is there; not for ever.
HOOK = "touch {there}; for _ in $(seq 250); do test -e {over} && exit; sleep 0.1; done"


def test_no_secret_is_in_the_arguments_of_a_running_command(
    rotator_command: Rotator, tmp_path: Path
) -> None:
    """Nor in those of what it has started, nor in the environment of that."""
    there, over = tmp_path / "there", tmp_path / "over"
    hook = json.dumps(["sh", "-c", HOOK.format(there=there, over=over)])
    rotator_command.policy("edi", f"{POLICY}first: rotate\nafter: [{{exec: {hook}}}]\n")
    rotator_command.nursery = None  # else the arguments are those of the process it is forked from
    started = rotator_command.start("rotate", "edi")
    until(there.exists, "the rotation is over, and its hook runs")
    running = Path(f"/proc/{started.process.pid}")
    (child,) = "".join(one.read_text() for one in running.glob("task/*/children")).split()
    of_child = Path("/proc", child)
    shown = [
        path.read_text()
        for path in (running / "cmdline", of_child / "cmdline", of_child / "environ")
    ]
    over.touch()
    assert started.finish().code == 0
    assert "rotate" in shown[0]
    assert str(there) in shown[1]
    assert "ROTATOR_POLICY=edi" in shown[2]
    rotator_command.assert_silent(*shown)
