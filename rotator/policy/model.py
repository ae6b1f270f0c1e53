"""What a rotation policy is, once it is known to be good."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cached_property
from typing import Literal, NamedTuple

from rotator.errors import Problem
from rotator.keys import Issue, Verify, Visibility
from rotator.schedule import Schedule


class Destination(NamedTuple):
    """Where a key is published: KV v2 secret `mount/path`, the value in `field`, `fields` beside it."""

    mount: str
    path: str
    field: str = "api_key"
    fields: tuple[tuple[str, str], ...] = ()


class Exec(NamedTuple):
    """A command to run after a rotation."""

    argv: tuple[str, ...]


@dataclass(frozen=True)
class Webhook:
    """An address to post to after a rotation; it may carry a token of its own, so it is not shown."""

    url: str

    def __repr__(self) -> str:
        return "Webhook(**)"


Hook = Exec | Webhook


class PolicyDefaults(NamedTuple):
    """What the settings say about policies; records are below `mount/state_path`."""

    issue: Issue = Issue.KEYSET
    verify: Verify = Verify.GET_KEY
    mount: str = "secret"
    state_path: str = "rotator"

    def verify_with(self, issue: Issue) -> Verify:
        """How a key is read back that is issued so, where the policy does not say."""
        if issue is Issue.GENERATE and self.verify.shows_record:
            return Verify.USER_GET_API_KEY if self.verify.over_soap else Verify.GET_API_KEY
        return self.verify


# Of a policy: about its text, not in it.
_ABOUT = ("where", "says_grace")


@dataclass(frozen=True)
class Policy:
    """Which user's key is rotated, when, and where it is published.

    `destinations` begins with `vault`, then come those of `also`. `max_age` is None where nothing is
    ever overdue. `where` is `file:line`, for messages.
    """

    name: str
    users: tuple[int, ...]
    visibility: Visibility
    schedule: Schedule
    max_age: timedelta | None
    grace: timedelta
    issue: Issue
    verify: Verify
    probe: bool
    first: Literal["adopt", "rotate"]
    destinations: tuple[Destination, ...]
    after: tuple[Hook, ...]
    enabled: bool
    owner: str | None
    tags: tuple[str, ...]
    where: str
    # Whether `grace` is the policy's own word.
    says_grace: bool = False

    @property
    def over_soap(self) -> bool:
        """Whether one of the policy's calls speaks SOAP."""
        return self.verify.over_soap or self.issue is Issue.KEYSET

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the policy comes to, defaults filled in: it changes when the policy does.

        One more field would change that of every policy, and so clear each back-off at an upgrade: leave it out of
        the digest where it is not said.
        """
        said = [getattr(self, name) for name in _SAID]
        hooks = [hook.url for hook in self.after if isinstance(hook, Webhook)]
        return hashlib.sha256(repr((said, hooks)).encode()).hexdigest()


_SAID = tuple(part.name for part in fields(Policy) if part.name not in _ABOUT)


class Sight(NamedTuple):
    """What can be told of a policy although something may be wrong with it: enough to compare it with others."""

    name: str | None
    users: tuple[int, ...]
    destinations: tuple[Destination | None, ...]
    where: str


def warnings(policies: Sequence[Policy]) -> list[Problem]:
    """What is allowed and still deserves a second look, policy by policy."""
    return [
        Problem(f"{policy.where}: {field}", what)
        for policy in policies
        for field, what in _doubts(policy)
    ]


def _doubts(policy: Policy) -> Iterator[tuple[str, str]]:
    generates = policy.issue is Issue.GENERATE
    if generates and len(policy.users) == 1:
        yield (
            "issue",
            (
                "generate kills the old key at once: consumers fail until they read the new one; "
                "users: [a, b] rotates without that"
            ),
        )
    if generates and len(policy.users) == 1 and policy.says_grace and policy.grace:
        yield (
            "grace",
            (
                "generate ends the replaced key at once, whatever grace says; with users: [a, b] one key stays valid "
                "while the other changes"
            ),
        )
    if policy.verify.shows_record == generates:
        pair = "get-api-key or user-get-api-key" if generates else "get-key or key-get"
        yield (
            "verify",
            (
                f"{policy.issue.value} goes with {pair}; {policy.verify.value} fails wherever a user's "
                "API key is not its key record"
            ),
        )
    if not generates and policy.grace < timedelta(hours=1):
        yield (
            "grace",
            (
                "under 1h: consumers that cache the key, as Vault Agent does for minutes, "
                "may still use the old one when it is retired"
            ),
        )
    gap = policy.schedule.longest_gap()
    if policy.max_age is not None and gap is not None and policy.max_age < gap:
        yield "max_age", "shorter than the longest gap of cron: every such gap ends with an alarm"
