"""The commands and their options. This module knows click and nothing else: `--help` costs no more than click does.

stdout carries results only, stderr logs and errors only. Exit codes: 0 done, or nothing to do; 1 something failed;
2 bad usage, settings or policies, nothing was done; 3 busy elsewhere; 4 `check` found a state other than in-sync.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import click

from rotator import __version__

Command = Callable[..., Any]
# In a context's meta.
QUIET = "rotator.quiet"


class _Ordered(click.Group):
    """Lists the commands in the order of a user's day, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Ordered,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try it with no account at all: rotator demo. Settings: environment, rotator.toml; see docs/.",
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="How much is told on stderr (default INFO).",
)
@click.option(
    "--log-format", type=click.Choice(["json", "console", "auto"]), help="How it is told."
)
@click.option("--policies", metavar="PATH", help="Policy file or directory (default ./policies).")
@click.version_option(__version__, prog_name="rotator", message="%(prog)s %(version)s")
@click.pass_context
def main(
    ctx: click.Context, log_level: str | None, log_format: str | None, policies: str | None
) -> None:
    """Rotates ECGrid API keys into HashiCorp Vault: issues a new key, verifies it, publishes it, retires the old one.

    A key's value is never printed or logged.
    """
    given = {"log.level": log_level, "log.format": log_format, "policies": policies}
    ctx.obj = {name: value for name, value in given.items() if value is not None}


def as_json(command: Command) -> Command:
    """The option of every command that prints results."""
    return click.option("--json", "json_", is_flag=True, help="Print one JSON object.")(command)


def _hush(ctx: click.Context) -> None:
    """What asks `is_quiet` prints less, and the log tells errors alone, unless a level was given."""
    ctx.meta[QUIET] = True
    ctx.obj.setdefault("log.level", "ERROR")


def is_quiet() -> bool:
    """Whether only what failed is to be told."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and QUIET in ctx.meta


def reports(command: Command) -> Command:
    """The options that every command which acts or reports has."""
    quiet = click.option(
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=lambda ctx, _, given: _hush(ctx) if given else None,
        help="Tell only what failed.",
    )
    return as_json(quiet(command))


class Choice(NamedTuple):
    """Which policies a command is to take: the named ones, or those with a tag and an owner; else all."""

    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    # Said aloud.
    every: bool = False

    @property
    def filters(self) -> bool:
        """Whether tags or owners decide."""
        return bool(self.tags or self.owners)


def _offered(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:
    """What a shell may complete: names, tags and owners out of the policy files."""
    from rotator.cli.choice import offered

    return offered(param.name, ctx.find_root().params.get("policies"), begun)


def policies(all_: str | None = None) -> Callable[[Command], Command]:
    """NAME..., `--tag` and `--owner`, which reach the command as one `Choice`: `chosen`.

    `all_`: what `--all` does, for a command that acts; `choice.require` then sees to it that one of them is given.
    """
    options = [
        click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=_offered),
        click.option(
            "--tag",
            "tags",
            metavar="TAG",
            multiple=True,
            help="Those with this tag (with any, if repeated).",
            shell_complete=_offered,
        ),
        click.option(
            "--owner",
            "owners",
            metavar="OWNER",
            multiple=True,
            help="Those of this owner (of any, if repeated).",
            shell_complete=_offered,
        ),
    ]
    if all_ is not None:
        options.append(click.option("--all", "every", is_flag=True, help=all_))

    def decorate(command: Command) -> Command:
        @wraps(command)
        def folded(
            *given: Any,
            names: tuple[str, ...],
            tags: tuple[str, ...],
            owners: tuple[str, ...],
            every: bool = False,
            **others: Any,
        ) -> Any:
            return command(*given, chosen=Choice(names, tags, owners, every), **others)

        made: Command = folded
        for option in reversed(options):
            made = option(made)
        return made

    return decorate


# In the words of `status`.
STATES = ("ok", "due", "overdue", "rotating", "failed", "paused", "not-adopted")
ID = click.IntRange(min=1)
LEVELS = (
    "Root", "TechOps", "NetOps", "NetworkAdmin", "NetworkUser", "MailboxAdmin", "MailboxUser", "TPUser", "General",
)  # fmt: skip
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Say what would happen; write nothing anywhere."
)
SHARD = click.option(
    "--shard", metavar="I/N", help="Only the I-th of N shards, from 0 (default: the Indexed Job's)."
)


@main.command()
@policies(all_="Every policy; what is not enabled has to be named.")
@click.option("--reason", metavar="TEXT", default="", help="Why, for the history.")
@click.option(
    "--grace", metavar="DURATION", help="How long the replaced key stays valid; 0s: a leaked key."
)
@DRY_RUN
@reports
@click.pass_obj
def rotate(given: dict[str, str], /, **options: Any) -> None:
    """Rotate now, whatever the schedule says.

    What was interrupted is finished first. Ends with a published key that was issued after the command began.
    """
    from rotator.cli import act

    act.rotate(given, **options)


@main.command()
@click.option("--once", is_flag=True, help="One tick, then exit: for a CronJob.")
@SHARD
@DRY_RUN
@reports
@click.pass_obj
def run(given: dict[str, str], /, **options: Any) -> None:
    """The daemon: rotate every policy when it is due, until SIGTERM."""
    from rotator.cli import act

    act.run(given, **options)


@main.command()
@policies()
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    metavar="STATE",
    multiple=True,
    help="Those in this state (in any, if repeated).",
)
@click.option("--strict", is_flag=True, help="Exit 1 if anything is overdue or failed.")
@click.option("--watch", is_flag=True, help="Draw it anew every five seconds, until interrupted.")
@reports
@click.pass_obj
def status(given: dict[str, str], /, **options: Any) -> None:
    """A row per policy: the key's age against its maximum, last and next rotation, state, last failure."""
    from rotator.cli import show

    show.status(given, **options)


@main.command()
@click.option(
    "--for", "span", metavar="DURATION", default="30d", help="How far ahead (default 30d)."
)
@click.option("--ics", is_flag=True, help="Print an iCalendar.")
@reports
@click.pass_obj
def plan(given: dict[str, str], /, **options: Any) -> None:
    """The rotations ahead, with windows, freezes and jitter applied."""
    from rotator.cli.plan import plan as look_ahead

    look_ahead(given, **options)


@main.command()
@policies()
@click.option("--repair", is_flag=True, help="Finish interrupted rotations and heal drift.")
@DRY_RUN
@reports
@click.pass_obj
def check(given: dict[str, str], /, **options: Any) -> None:
    """Compare ECGrid with Vault and change nothing."""
    from rotator.cli import act

    act.check(given, **options)


@main.command()
@policies(all_="Every policy.")
@click.option(
    "--from", "old", metavar="OLD", help="Take over the record of a policy that was renamed."
)
@click.option(
    "--ecgrid",
    is_flag=True,
    help="What is configured is the ECGrid that the records are about: at a new address, or another one.",
)
@DRY_RUN
@reports
@click.pass_obj
def adopt(given: dict[str, str], /, **options: Any) -> None:
    """Take the user's present key over without rotating it."""
    from rotator.cli import act

    act.adopt(given, **options)


@main.command()
@policies(all_="Every policy.")
@click.option("--for", "span", metavar="DURATION", required=True, help="How long, 90d at most.")
@click.option("--reason", metavar="TEXT", required=True, help="Why, for `status` and the history.")
@reports
@click.pass_obj
def hold(given: dict[str, str], /, **options: Any) -> None:
    """Begin nothing for these policies by itself for a while, without touching a file.

    Not by schedule, `--all`, `--tag` or `--owner`; `rotate NAME` rotates. Keys are retired and checked all the same.
    """
    from rotator.cli.hold import hold as freeze

    freeze(given, **options)


@main.command()
@click.argument("name", shell_complete=_offered)
@click.option("--reason", metavar="TEXT", default="", help="Why, for the history.")
@click.option("--dry-run", is_flag=True, help="Say what would happen; write nothing anywhere.")
@reports
@click.pass_obj
def rollback(given: dict[str, str], /, **options: Any) -> None:
    """Publish the key before again, if ECGrid accepts it still; the newer one ends after the grace.

    Once more goes forward again. What was replaced with `--grace 0s` never comes back.
    """
    from rotator.cli import act

    act.rollback(given, **options)


@main.command()
@policies(all_="Every policy.")
@click.option(
    "--brake", is_flag=True, help="Issuing goes on at full speed, once, for all policies."
)
@reports
@click.pass_obj
def release(given: dict[str, str], /, **options: Any) -> None:
    """End the hold of these policies; or, with `--brake`, let the fleet's brake go.

    The brake: who is in trouble now holds nobody back any more, until they, or others, fail anew.
    """
    from rotator.cli.hold import release as let_go

    let_go(given, **options)


@main.command()
@policies(all_="Every policy, as without a choice.")
@click.option(
    "--since", metavar="DURATION", help="What was done since; exit 1 where that is not all known."
)
@reports
@click.pass_obj
def history(given: dict[str, str], /, **options: Any) -> None:
    """Past rotations, and keys that were ended: when, why, by whom, key ids, how it was proved, outcome.

    Says from when on it is complete: a policy's last fifty lines are kept.
    """
    from rotator.cli.history import history as look_back

    look_back(given, **options)


@main.command()
@click.argument("kind", required=False)
@as_json
def explain(**options: Any) -> None:
    """The runbook's entry for a kind of error, such as vault.Sealed: what it means, and what to do.

    Without KIND: a line for each, alerts last.
    """
    from rotator.cli.explain import explain as show_entry

    show_entry(**options)


@main.command()
@click.argument("path", required=False)
@reports
@click.pass_obj
def validate(given: dict[str, str], /, **options: Any) -> None:
    """Settings and policies, offline: every error at once."""
    from rotator.cli import show

    show.validate(given, **options)


@main.command()
@policies()
@reports
@click.pass_obj
def doctor(given: dict[str, str], /, **options: Any) -> None:
    """Connectivity, credentials, rights, clock, key family; each line says how to fix it."""
    from rotator.cli.doctor import doctor as examine

    examine(given, **options)


@main.command("import")
@click.option("--network", metavar="ID", type=ID, help="Its users (default: the rotator's own).")
@click.option("--mailbox", metavar="ID", type=ID, help="Only the users of this mailbox.")
@click.option("--name", metavar="PART", default="", help="Only those with this in login or name.")
@click.option(
    "--level",
    metavar="LEVEL",
    type=click.Choice(LEVELS, case_sensitive=False),
    help="Only those with this AuthLevel.",
)
@click.option(
    "--path", metavar="TEMPLATE", help="Where keys are published (default ecgrid/{name})."
)
@click.option("--out", metavar="FILE", help="Add them to this file, or make it.")
@reports
@click.pass_obj
def import_(given: dict[str, str], /, **options: Any) -> None:
    """Print policies for ECGrid's users that no policy names yet; writes nothing to Vault."""
    from rotator.cli.onboard import import_users

    import_users(given, **options)


@main.command()
@policies()
@click.option("--reader", is_flag=True, help="For those who read the secrets, not for the rotator.")
@as_json
@click.pass_obj
def vault_policy(given: dict[str, str], /, **options: Any) -> None:
    """Print the least Vault policy that the policies and settings need; asks nobody."""
    from rotator.cli.vault_policy import vault_policy as allow

    allow(given, **options)


@main.command()
def schema() -> None:
    """JSON Schema of the policy file, for editors."""
    from rotator.cli import show

    show.schema()


@main.command()
@click.option(
    "--rest-port", type=int, default=0, help="Port of the ECGrid simulator (default: any free one)."
)
@click.option(
    "--form",
    type=click.Choice(["portal", "service"]),
    default="portal",
    show_default=True,
    help="Which of the two ECGrids: as its portal, or as the service itself describes it.",
)
@as_json
def sandbox(**options: Any) -> None:
    """Start an ECGrid simulator and a real OpenBao on loopback; print the settings to use them."""
    from rotator.cli.sandbox import sandbox as serve

    serve(**options)


@main.command()
def demo() -> None:
    """Rotate sample policies for real against the sandbox, show what happened, and exit."""
    from rotator.cli.sandbox import demo as tour

    tour()
