"""Which policies a command takes: by name, by tag and owner, or all; and what a shell completes of them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from contextlib import suppress

from rotator.cli import Choice
from rotator.cli.common import bad_usage, defaults_from
from rotator.errors import BadInput, Problem
from rotator.policy import Policy, readable
from rotator.settings import Settings


def require(chosen: Choice) -> None:
    """Sees to it that a command that acts was told upon what; raises BadInput."""
    _one_way(chosen)
    if chosen == Choice():
        bad_usage("say which policies: NAME..., or --tag TAG and --owner OWNER, or --all")


def choose(policies: list[Policy], chosen: Choice, *, enabled: bool = False) -> list[Policy]:
    """The policies that were chosen: named ones in the order given, all if nothing was said.

    `enabled`: what is not enabled has to be named. Raises BadInput for a name, a tag or an owner that nobody has.
    """
    _one_way(chosen)
    if chosen.names:
        return _named(policies, chosen.names)
    policies = [policy for policy in policies if policy.enabled or not enabled]
    _require(chosen.tags, {tag for policy in policies for tag in policy.tags}, "has the tag")
    _require(chosen.owners, {policy.owner for policy in policies if policy.owner}, "has the owner")
    fitting = [policy for policy in policies if _fits(policy, chosen)]
    if not fitting and chosen.filters:
        bad_usage("no policy has that tag and that owner")
    return fitting


def _one_way(chosen: Choice) -> None:
    if bool(chosen.names) + chosen.filters + chosen.every > 1:
        bad_usage(
            "NAME... is one way to say which policies, --tag and --owner another, --all a third"
        )


def _fits(policy: Policy, chosen: Choice) -> bool:
    tagged = not chosen.tags or not set(chosen.tags).isdisjoint(policy.tags)
    return tagged and (not chosen.owners or policy.owner in chosen.owners)


def _named(policies: list[Policy], names: Iterable[str]) -> list[Policy]:
    by_name = {policy.name: policy for policy in policies}
    otherwise = f"; there are {len(by_name)}: `rotator status` lists them"
    _require(names, by_name, "is named", otherwise)
    return [by_name[name] for name in dict.fromkeys(names)]


def _require(texts: Iterable[str], known: Collection[str], what: str, otherwise: str = "") -> None:
    """Raises BadInput with all the texts that nobody has; `otherwise`: what is said where none is near."""
    problems = [
        Problem("", f"no policy {what} {text!r}{_near(text, known) or otherwise}")
        for text in texts
        if text not in known
    ]
    if problems:
        raise BadInput(problems)


def _near(text: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(text, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def offered(what: str | None, path: str | None, begun: str) -> list[str]:
    """The names, tags or owners that begin so, from the policy files, at `path` if one is given; never an error."""
    policies: list[Policy] = []
    # Somebody is typing: nothing is said, whatever is wrong.
    with suppress(Exception):
        settings, _ = Settings.look(overrides={"policies": path} if path else {})
        if settings is not None:
            policies = readable(settings.policies, defaults_from(settings))
    if what == "tags":
        texts = {tag for policy in policies for tag in policy.tags}
    elif what == "owners":
        texts = {policy.owner for policy in policies if policy.owner}
    else:
        texts = {policy.name for policy in policies}
    return sorted(text for text in texts if text.startswith(begun))
