"""Writes what is made from something else: the reference, the manual page, completions, the Prometheus rule.

`python docs/generate.py`; a test compares them with what this would write. Needs nothing but the package itself.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rotator import __version__  # noqa: E402 - the checkout that this file lies in
from rotator.cli import main  # noqa: E402
from rotator.policy import json_schema  # noqa: E402
from rotator.settings import Listen, Settings  # noqa: E402
from rotator.settings.sources import _FROM_FILES, _SECRETS, ALIASES, variable_of  # noqa: E402

COMPLETIONS: dict[str, type[ShellComplete]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}
SECTIONS = {
    "": "In general",
    "ecgrid": "ECGrid",
    "vault": "Vault",
    "sentry": "Sentry",
    "http": "Health, metrics, status page",
    "notify": "Notifications",
    "metrics": "Metrics of single commands",
    "log": "Log",
}
INTRODUCTION = """\
# Configuration

Made from the code by `docs/generate.py`; a test compares the two.

The environment goes before files, files before `rotator.toml` (in the working directory, or named by `ROTATOR_CONFIG`).
A misspelt `ROTATOR_...` name is an error with a suggestion; so is a secret that two sources give. `rotator validate`
tells everything that is wrong at once, offline.

- **A variable**, as in the tables.
- **A file**, for what is marked *file*: the variable's name with `_FILE` behind it names one, whose content, without
  the white space around it, is the value. In a systemd credentials directory it is the file with the variable's name in
  lower case: `rotator_ecgrid__api_key`. The files of ECGrid's key, login and password, and of Vault's token, RoleID and
  SecretID, are read again when what they held is refused or about to end: Vault Agent, for one, may replace them.
- **`rotator.toml`**: the name in lower case, where `__` begins a table: `ROTATOR_VAULT__MOUNT=kv` is `mount = "kv"` in
  `[vault]`. What is marked *file* may be named there too: `api_key_file = "..."`.

Durations are written as `90s`, `15m`, `12h`, `30d` or `8w`. What is marked *secret* belongs into a file. A pipe will do
(`ROTATOR_ECGRID__API_KEY_FILE=<(command)`): it is read once, and not again when the key changes.

A `rotator.toml` that everybody may write, or that belongs to somebody else than root and the user that runs the
command, is refused, since it decides where credentials go. The log says which one is used (`settings.read`).

**Proxies.** HTTPS_PROXY, HTTP_PROXY and ALL_PROXY are honoured for ECGrid, Vault, webhooks and Sentry, and so is
NO_PROXY: names with all below them, `*.name`, addresses, networks (`10.0.0.0/8`, `fd00::/8`), each with a port or
without, and `*`. This machine itself (`127.0.0.0/8`, `::1`, `localhost`) is never asked through a proxy. SOCKS is not
supported.

**Certificates.** SSL_CERT_FILE and SSL_CERT_DIR name the authorities for ECGrid, and for Vault where VAULT_CACERT and
VAULT_CAPATH do not. All are PEM; a key has no pass phrase.
"""


def names() -> Iterator[tuple[str, str, Any]]:
    """The settings in their order: section, name such as `vault.addr`, and pydantic's field."""
    for name, part in Settings.model_fields.items():
        kind = part.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from ((name, f"{name}.{key}", field) for key, field in kind.model_fields.items())
        else:
            yield "", name, part


def written(value: object) -> str:
    """A default as one would write it."""
    if isinstance(value, timedelta):
        seconds = int(value.total_seconds())
        units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
        return next(f"{seconds // size}{unit}" for unit, size in units if seconds % size == 0)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Listen):
        return f"{value.host}:{value.port}"
    return str(value)


def configuration() -> str:
    """docs/configuration.md."""
    unsaid = [name for _, name, field in names() if not field.description]
    if unsaid:
        raise SystemExit(f"docs/generate.py: say what these mean: {unsaid}")
    lines = [INTRODUCTION, "## Settings\n"]
    for section, title in SECTIONS.items():
        lines += [f"### {title}\n", "| variable | default | meaning |", "|---|---|---|"]
        for of, name, field in names():
            if of == section:
                spelt = f"`{variable_of(name)}`"
                if name in ALIASES:
                    spelt += f", `{ALIASES[name]}`"
                marks = [
                    word
                    for word, those in (("secret", _SECRETS), ("file", _FROM_FILES))
                    if name in those
                ]
                default = f"`{written(field.default)}`" if field.default is not None else ""
                meaning = field.description
                meaning += f" *{', '.join(marks)}*" if marks else ""
                lines.append(f"| {spelt} | {default} | {meaning} |")
        lines.append("")
    return "\n".join([*lines, *policy_reference()])


def policy_reference() -> Iterator[str]:
    """A table of everything that may stand in a policy, from its JSON Schema."""
    yield "## Policies\n"
    yield "A file holds one policy, or `defaults:` and `policies:` (a list). Necessary are a user, `visibility`,"
    yield "`schedule` and `vault.path`. To copy from, there are [sample policies](../policies)"
    yield "and the [cookbook](cookbook.md); [an editor and CI](checking-policies.md) can check them.\n"
    yield "| field | meaning |"
    yield "|---|---|"
    for name, field in json_schema()["$defs"]["fields"].items():
        yield from policy_rows(name, field)
    yield ""


def policy_rows(name: str, field: dict[str, Any]) -> Iterator[str]:
    """The row of one field, and those of the fields in it."""
    said = field.get("description", "")
    if "enum" in field:
        said += " One of " + ", ".join(f"`{choice}`" for choice in field["enum"]) + "."
    if "default" in field:
        said += f" Default: `{str(field['default']).lower()}`."
    yield f"| `{name}` | {said.replace('|', '/')} |"
    for part in (field, *field.get("oneOf", ()), field.get("items", {})):
        for inner, one in part.get("properties", {}).items():
            yield from policy_rows(f"{name}.{inner}", one)


def manual() -> str:
    """man/rotator.1."""
    lines = [
        f'.TH ROTATOR 1 "" "rotator {__version__}" "User Commands"',
        ".SH NAME",
        "rotator \\- rotates ECGrid API keys into HashiCorp Vault",
        ".SH SYNOPSIS",
        ".B rotator",
        "[\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIARGUMENT\\fR]...",
        ".SH DESCRIPTION",
        *roff(main.help or ""),
        ".SH OPTIONS",
        *options_of(main),
        ".SH COMMANDS",
    ]
    for name, command in main.commands.items():
        usage = " ".join(command.collect_usage_pieces(click.Context(command, info_name=name)))
        lines += [".SS", f"\\fBrotator {name}\\fR {escaped(usage)}", *roff(command.help or "")]
        lines += options_of(command)
    lines += [".SH EXIT STATUS"]
    for code, meaning in EXITS:
        lines += [".TP", f".B {code}", escaped(meaning)]
    lines += [
        ".SH ENVIRONMENT",
        "Secrets may be given as files: the variable's name with _FILE behind it.",
    ]
    for _, name, field in names():
        default = f" Default: {written(field.default)}." if field.default is not None else ""
        meaning = re.sub(r"\[(\w+)\]\([^)]*\)", r"\1", field.description).replace("`", "")
        lines += [".TP", f".B {escaped(variable_of(name))}", escaped(meaning + default)]
    lines += [".SH FILES", ".TP", ".I rotator.toml"]
    lines += [
        "Settings, in the working directory or where ROTATOR_CONFIG says.",
        ".TP",
        ".I policies/",
    ]
    lines += ["Policies: every *.yaml and *.yml below it.", ""]
    return "\n".join(lines)


EXITS = (
    ("0", "Done, or nothing to do."),
    (
        "1",
        "At least one rotation, repair, adoption, retirement or check failed, or a state could not be read.",
    ),
    ("2", "Bad usage, settings or policies: nothing was done."),
    ("3", "Nothing failed, but a policy that was named is being rotated by another rotator."),
    ("4", "check found a state other than in-sync."),
    (
        "130, 143",
        "SIGINT, SIGTERM ended a command before its work was done; what had been issued was finished first.",
    ),
)


def escaped(text: str) -> str:
    """Text that troff takes as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def roff(text: str) -> Iterator[str]:
    """Paragraphs."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield ".PP"
        yield escaped(" ".join(paragraph.split()))


def options_of(command: click.Command) -> Iterator[str]:
    """The options of a command, each with what it does."""
    context = click.Context(command, info_name="rotator", **main.context_settings)
    for option in command.get_params(context):
        record = option.get_help_record(context) if isinstance(option, click.Option) else None
        if record:
            yield from (".TP", f".B {escaped(record[0])}", escaped(record[1]))


def completion(shell: str) -> str:
    """The script that makes a shell complete, as `_ROTATOR_COMPLETE=SHELL_source rotator` prints it."""
    made = COMPLETIONS[shell](main, {}, "rotator", "_ROTATOR_COMPLETE")
    return made.source_template % made.source_vars() + "\n"


RULE = """\
# Made from ../../monitoring/rules.yaml by docs/generate.py; a test compares the two.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rotator
spec:
"""


def rule() -> str:
    """kubernetes/daemon/prometheusrule.yaml: the alerts as the Prometheus operator takes them."""
    groups = (ROOT / "monitoring" / "rules.yaml").read_text().partition("\ngroups:\n")[2]
    return RULE + textwrap.indent(f"groups:\n{groups}", "  ")


def everything() -> dict[Path, str]:
    """The files that are made, with what belongs into them."""
    return {
        ROOT / "docs" / "configuration.md": configuration(),
        ROOT / "man" / "rotator.1": manual(),
        ROOT / "kubernetes" / "daemon" / "prometheusrule.yaml": rule(),
        ROOT / "completions" / "rotator": completion("bash"),
        ROOT / "completions" / "_rotator": completion("zsh"),
        ROOT / "completions" / "rotator.fish": completion("fish"),
    }


if __name__ == "__main__":
    for path, text in everything().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
