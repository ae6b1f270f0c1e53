"""What the commands share: loading, signals, exit codes."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from rotator import __version__, reporting
from rotator.errors import BadInput, Problem, RotatorError
from rotator.files import KIND, NO_MORE, out_of_files
from rotator.letters import visible
from rotator.policy import Judge, Policy, PolicyDefaults, load, own_key_problems, warnings
from rotator.reporting import runbook
from rotator.schedule import duration
from rotator.secrecy.sinks import guard
from rotator.settings import Settings

# Half of a command's start, for those that ask nobody.
if TYPE_CHECKING:
    from rotator.fleet import Fleet

BAD_INPUT, FAILED, BUSY, OUT_OF_SYNC = 2, 1, 3, 4
# Between two looks for garbage: a fleet of thousands has a million, and next to nothing of it is in circles.
NEW_OBJECTS = 400_000
AS_EVER = gc.get_threshold()
NO_FILE = f"error: {NO_MORE} [{KIND}]"


def say(text: str) -> None:
    """An error or a note for a person, on stderr."""
    print(visible(text), file=sys.stderr)


def _fault(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"error: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}, a fault of rotator "
        f"{__version__}; its details are withheld since they may hold a secret. Please report this line"
    )


@contextmanager
def exits() -> Iterator[None]:
    """Turns our errors into their text and exit code; anything else into its place and class, without values."""
    # Before anything can be said.
    guard()
    # What is loaded by now is never garbage: it need not be looked through, nor what is new every few hundred objects.
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
    gc.enable()
    try:
        yield
        return
    except BadInput as error:
        code, text = BAD_INPUT, "\n".join(f"error: {problem}" for problem in error.problems)
    except RotatorError as error:
        code, text = FAILED, f"error: {error} [{error.kind}]"
    except KeyboardInterrupt:
        say("interrupted")
        # Nothing has begun that threads would have to finish.
        os._exit(128 + signal.SIGINT)
    except Exception as error:  # noqa: BLE001 - the last line: its text may quote anything
        code, text = FAILED, NO_FILE if out_of_files(error) else _fault(error)
    say(text)
    sys.exit(code)


def settings_from(given: dict[str, str], problems: list[Problem]) -> Settings | None:
    """The settings, with logging started; what is wrong with some is noted, and one looks further by the others."""
    # Before there is a secret in memory; the level and form that were asked for come with them.
    reporting.setup()
    settings, faults = Settings.look(overrides=given)
    problems += faults
    if settings is None:
        return None
    reporting.setup(settings.log.level, settings.log.format)
    runbook.is_at(settings.notify.runbook)
    if settings.file is not None:
        reporting.event("settings.read", file=str(settings.file.absolute()))
    for warning in settings.warnings:
        reporting.event("settings.warning", message=str(warning))
    return settings


def defaults_from(settings: Settings) -> PolicyDefaults:
    """What the settings say about policies."""
    return PolicyDefaults(
        issue=settings.issue,
        verify=settings.verify,
        mount=settings.vault.mount,
        state_path=settings.vault.state_path,
    )


def policies_from(settings: Settings, path: Path | None = None) -> list[Policy]:
    """Every policy; raises BadInput with all problems at once."""
    return load(path or settings.policies, defaults_from(settings), judge_of(settings))


def judge_of(settings: Settings) -> Judge:
    """What the settings find wrong with policies."""
    own = settings.ecgrid
    return lambda seen: own_key_problems(seen, own.api_key_vault, has_login=own.login is not None)


def input_from(
    given: dict[str, str], path: Path | None = None, *require: Callable[[Settings], None]
) -> tuple[Settings, list[Policy]]:
    """Settings and policies; raises BadInput with what is wrong with either, and with what is required, all at once."""
    problems: list[Problem] = []
    policies: list[Policy] = []
    settings = settings_from(given, problems)
    for read in (lambda one: policies.extend(policies_from(one, path)), *require):
        try:
            if settings is not None:
                read(settings)
        except BadInput as error:
            problems += error.problems
    if problems or settings is None:
        raise BadInput(list(dict.fromkeys(problems)))
    return settings, policies


@contextmanager
def fleet_from(
    given: dict[str, str], *, ecgrid: bool = True, serving: bool = False
) -> Iterator[Fleet]:
    """Everything that is needed to act, checked as far as it can be without asking anybody."""
    from rotator.fleet import Fleet

    needed = [Settings.require_vault, *([Settings.require_ecgrid] if ecgrid else [])]
    settings, policies = input_from(given, None, *needed)
    # A command would say them each time: `validate` does so when asked.
    if serving:
        # What a daemon leaves adds up over months.
        gc.set_threshold(*AS_EVER)
        for problem in warnings(policies):
            reporting.event("policy.warning", message=str(problem))
    reporting.start_sentry(
        settings.sentry.dsn, settings.sentry.environment, settings.sentry.release
    )
    with Fleet(settings, policies, serving=serving) as fleet:
        try:
            yield fleet
        finally:
            reporting.flush()


def bad_usage(text: str) -> NoReturn:
    """Raises BadInput for options that do not go together."""
    raise BadInput([Problem("", text)])


def length_of(option: str, text: str) -> timedelta:
    """A duration that was given with an option; raises BadInput, which names that."""
    try:
        return duration(text)
    except BadInput as error:
        problem = str(error)
    bad_usage(f"{option} {text!r}: {problem}")


class Stop:
    """SIGINT and SIGTERM: nothing new is begun, what is past issue is finished. A second one insists."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self.signal = fleet, 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        self._fleet.stopping.set()

    def code(self, otherwise: int, *, complete: bool) -> int:
        """The exit code: the signal's if it ended the command before its work was done."""
        return 128 + self.signal if self.signal and not complete else otherwise
