"""Where settings come from: environment, secret files, the systemd credentials directory, `rotator.toml`.

Every value is found with the place that it came from, for messages; what is misspelt, given twice or unreadable is
noted, all of it at once. Nothing here knows what a setting may be.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rotator.errors import Problem
from rotator.reading import near

_MAX_SECRET = 64 * 1024
# Seconds for what a pipe has to give.
_PIPE_PATIENCE = 10.0
_REMOVE = "; remove it"
_PREFIX = "ROTATOR_"
# What Kubernetes injects for a Service called rotator, or rotator-something; it never has two underscores together.
_INJECTED = re.compile(r"ROTATOR_((?!.*__).*_)?(SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_.*)")
_HOOKS = frozenset(
    f"ROTATOR_{name}" for name in ("POLICY", "KEY_ID", "VAULT_MOUNT", "VAULT_PATH", "VAULT_VERSION")
)
_SECRETS = (
    "ecgrid.api_key", "ecgrid.password", "vault.token", "vault.secret_id", "http.token", "notify.webhook",
    "notify.secret",
)  # fmt: skip
_FROM_FILES = (*_SECRETS, "ecgrid.login", "vault.role_id", "sentry.dsn")
ALIASES = {
    **{
        f"vault.{name}": f"VAULT_{name.upper()}"
        for name in (
            "addr", "token", "namespace", "cacert", "capath", "client_cert", "client_key", "skip_verify",
            "tls_server_name",
        )
    },
    **{f"sentry.{name}": f"SENTRY_{name.upper()}" for name in ("dsn", "environment", "release")},
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """A value, where it was found (for messages), and the file that it was read from, if it was."""

    value: object = field(repr=False)
    place: str
    file: Path | None = None


class Sources:
    """Looks every setting up in its sources, the foremost first."""

    def __init__(self, environ: Mapping[str, str], cwd: Path, names: tuple[str, ...]) -> None:
        """`names` are those of all settings, such as `deadline` and `vault.addr`. Reads `rotator.toml` in `cwd`."""
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        # The `rotator.toml` that was read.
        self.file: Path | None = None
        # Whether there is one that cannot be used.
        self.unread = False
        # Settings that are given, and not as they could be used.
        self.unusable: set[str] = set()
        self._environ, self._cwd, self._names = environ, cwd, names
        self._credentials = self._credential_files(environ.get("CREDENTIALS_DIRECTORY"))
        self._table, self._table_name = self._toml()

    def find(self, overrides: Mapping[str, str | None]) -> dict[str, Given]:
        """What is given, by names such as `vault.addr`; notes what is misspelt or given twice."""
        self._refuse_unknown()
        results = {}
        for name in self._names:
            before = len(self.problems)
            given = list(self._candidates(name))
            if not given and len(self.problems) > before:
                self.unusable.add(name)
            override = overrides.get(name)
            if override is not None:
                given.insert(0, Given(override, f"the option for {name}"))
            elif len(given) > 1:
                self._compare(name, given)
            if given:
                results[name] = given[0]
        return results

    def _candidates(self, name: str) -> Iterator[Given]:
        variables = [variable_of(name)] + ([ALIASES[name]] if name in ALIASES else [])
        for variable in variables:
            value = self._environ.get(variable)
            if value is not None and (value or variable.startswith(_PREFIX)):
                yield Given(value, variable)
        if name in _FROM_FILES:
            for variable in variables:
                yield from self._named_file(variable)
            for variable in variables:
                credential = self._credentials.get(variable.lower())
                if credential is not None:
                    yield from self._file(credential, f"credential {variable.lower()}", variable)
        if name in self._table:
            yield Given(self._table[name], f"{self._table_name}: {name}")
        if f"{name}_file" in self._table and name in _FROM_FILES:
            where = f"{self._table_name}: {name}_file"
            yield from self._file(self._cwd / str(self._table[f"{name}_file"]), where, name)

    def _named_file(self, variable: str) -> Iterator[Given]:
        file = self._environ.get(f"{variable}_FILE")
        if file:
            yield from self._file(self._cwd / file, f"{variable}_FILE", variable)
        elif file is not None and variable.startswith(_PREFIX):
            what = "is empty; name a file, or remove it"
            self.problems.append(Problem(f"{variable}_FILE", what))

    def _file(self, file: Path, where: str, direct: str) -> Iterator[Given]:
        text = read_secret(file, where, direct)
        if isinstance(text, Problem):
            self.problems.append(text)
            return
        # What a pipe gave is kept, since it gives it only once.
        if _is_pipe(file):
            yield Given(text, where)
            return
        if _open_to_all(file):
            what = "the file can be read by everybody; take that right away (chmod o-r)"
            self.warnings.append(Problem(where, what))
        yield Given(text, where, file)

    def _compare(self, name: str, given: list[Given]) -> None:
        first, *others = given
        for other in others:
            if name in _SECRETS:
                what = f"a secret must have one source, and {other.place} gives it too; remove one"
                self.problems.append(Problem(first.place, what))
            elif {first.place, other.place} == {variable_of(name), ALIASES.get(name)} and (
                first.value != other.value
            ):
                what = f"differs from {other.place}, which means the same; remove one"
                self.problems.append(Problem(first.place, what))

    def _credential_files(self, folder: str | None) -> dict[str, Path]:
        if not folder:
            return {}
        try:
            return {file.name: file for file in (self._cwd / folder).iterdir()}
        except OSError as error:
            kind = type(error).__name__
        self.problems.append(
            Problem("CREDENTIALS_DIRECTORY", f"names a directory that cannot be read ({kind})")
        )
        return {}

    def _toml(self) -> tuple[dict[str, object], str]:
        named = self._environ.get(f"{_PREFIX}CONFIG")
        file = self._cwd / (named or "rotator.toml")
        if not named and not is_there(file):
            return {}, ""
        # Which only those who have one pay for.
        import tomllib

        where = f"{_PREFIX}CONFIG" if named else "rotator.toml"
        problem, table = _of_strangers(file, where), {}
        if problem is not None:
            self.problems.append(problem)
            self.unread = True
            return {}, ""
        try:
            table = tomllib.loads(file.read_text("utf-8-sig"))
        except OSError as error:
            what = (
                f"names a file that cannot be read ({type(error).__name__}); correct or remove it"
            )
            problem = Problem(where, what if named else f"cannot be read ({type(error).__name__})")
        except UnicodeDecodeError:
            problem = Problem(where, "the file is not UTF-8 text; save it as UTF-8")
        except tomllib.TOMLDecodeError as error:
            # Only the position: the rest of the text is the parser's own.
            line = re.search(r"at line ([0-9]+)", str(error))
            place = f"{file.name}:{line[1]}" if line else file.name
            problem = Problem(place, "is not valid TOML; check quotes, brackets and equals signs")
        if problem is not None:
            self.problems.append(problem)
            self.unread = True
            return {}, ""
        self.file = file
        flat = dict(_flat(table))
        self._refuse_unknown_in(flat, file.name)
        if any(name in flat for name in _SECRETS) and _open_to_all(file):
            what = "holds a secret and can be read by everybody; take that right away (chmod o-r)"
            self.warnings.append(Problem(file.name, what))
        return flat, file.name

    def _refuse_unknown_in(self, flat: Mapping[str, object], file: str) -> None:
        known = {*self._names, *(f"{name}_file" for name in _FROM_FILES)}
        for name in flat:
            if name not in known:
                section = any(other.startswith(f"{name}.") for other in known)
                hint = f"; it is a table, write [{name}]" if section else near(name, known, _REMOVE)
                self.problems.append(Problem(f"{file}: {_shown(name)}", f"unknown setting{hint}"))

    def _refuse_unknown(self) -> None:
        known = {variable_of(name) for name in self._names} | {f"{_PREFIX}CONFIG"}
        known |= {f"{variable_of(name)}_FILE" for name in _FROM_FILES}
        hook = "ROTATOR_POLICY" in self._environ and len(_HOOKS & self._environ.keys()) > 1
        for name in sorted(self._environ):
            if not name.upper().startswith(_PREFIX) or name in known or _INJECTED.fullmatch(name):
                continue
            if not (hook and name in _HOOKS):
                self.problems.append(
                    Problem(_shown(name), f"unknown setting{near(name, known, _REMOVE)}")
                )
        lowered = {name.lower() for name in known}
        for name in sorted(self._credentials):
            if name.startswith(_PREFIX.lower()) and name not in lowered:
                what = f"unknown setting{near(name, lowered, _REMOVE)}"
                self.problems.append(Problem(f"credential {_shown(name)}", what))


def _of_strangers(file: Path, where: str) -> Problem | None:
    """Whether somebody else could have written the file, and so decide where credentials go: as ssh judges its own."""
    try:
        link, target = file.lstat(), file.stat()
    except OSError:
        # Said by whoever reads it.
        return None
    if {link.st_uid, target.st_uid} - {0, os.geteuid()}:
        what = (
            "belongs to another user, who could have credentials sent anywhere; chown it to root or to the user that "
            "runs the rotator"
        )
    elif target.st_mode & stat.S_IWOTH:
        what = "can be written by everybody, who could have credentials sent anywhere; chmod o-w it"
    else:
        return None
    return Problem(where, f"{'names a file that ' if where != file.name else ''}{what}")


def _is_pipe(file: Path) -> bool:
    try:
        return not stat.S_ISREG(file.stat().st_mode)
    except OSError:
        # Gone since it was read.
        return False


def _open_to_all(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        # Gone since it was read.
        return False


def is_there(file: Path) -> bool:
    """Whether there is such a file; False, too, for a name that no file can have."""
    try:
        return file.exists()
    except OSError:
        return False


def read_secret(file: Path, where: str, direct: str = "the setting itself") -> str | Problem:
    """The text of a secret's file; the file is never named, since a pasted secret may stand in its place."""
    try:
        if file.is_dir():
            return Problem(where, "names a directory; name the file in it")
        data = _read(file)
    except FileNotFoundError:
        return Problem(
            where, f"names a file that does not exist; a value itself goes into {direct}"
        )
    except (OSError, ValueError) as error:
        return Problem(where, f"names a file that cannot be read ({type(error).__name__})")
    if len(data) > _MAX_SECRET:
        return Problem(where, "names a file that is too large for a secret")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return Problem(where, "names a file that is not text")
    if not text.strip("\ufeff \t\r\n\v\f"):
        return Problem(where, "names a file that is empty")
    return text.strip("\ufeff \t\r\n\v\f")


def _read(file: Path) -> bytes:
    """The beginning of the file; of a pipe, too, such as `<(...)`, whose other end may still be at work on it."""
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb", buffering=0) as stream:
        data, until = b"", time.monotonic() + _PIPE_PATIENCE
        while len(data) <= _MAX_SECRET:
            part = stream.read(_MAX_SECRET + 1)
            if part:
                data += part
            elif (
                stat.S_ISREG(os.fstat(handle).st_mode)
                or time.monotonic() > until
                or (part is not None and data)
            ):
                break
            else:
                time.sleep(0.02)
        return data


def variable_of(name: str) -> str:
    """The variable of a setting: `ROTATOR_VAULT__ADDR` of `vault.addr`."""
    return _PREFIX + name.replace(".", "__").upper()


def _flat(table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", entry) for inner, entry in value.items())
        else:
            yield key, value


def _shown(name: str) -> str:
    """A misspelt name, unless it could be a pasted value."""
    return name if re.fullmatch(r"[A-Za-z_.-]{1,60}", name) else "(a name that is not shown)"
