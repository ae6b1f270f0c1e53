"""Lines about many policies, made few: the alike ones told once, with those that they are about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

# Lines that are folded; fewer are told one by one.
MANY = 4
# Policies that a folded line names.
SHOWN = 3


class Statement(NamedTuple):
    """A line: how it stands, what it is about, for which policy, and what there is to say."""

    state: str
    what: str
    policy: str
    text: str

    @property
    def title(self) -> str:
        """What it is about, and for whom."""
        return f"{self.what} {self.policy}".strip()

    def kind(self, fine: str) -> tuple[str, ...]:
        """What is the same in lines that are alike: of those in the state `fine` that alone, else also the words."""
        if self.state == fine:
            return self.state, self.what
        words = re.sub(
            r"\d+", "0", self.text.replace(self.policy, "NAME") if self.policy else self.text
        )
        return self.state, self.what, words


def folded(lines: Iterable[Statement], fine: str) -> Iterator[Statement]:
    """The lines, in their order; many that are alike are one, with the text of the first."""
    groups: dict[tuple[str, ...], list[Statement]] = {}
    for line in lines:
        groups.setdefault(line.kind(fine), []).append(line)
    for group in groups.values():
        names = list(dict.fromkeys(line.policy for line in group))
        if len(group) < MANY or not group[0].policy:
            yield from group
        else:
            first = group[0]
            text = (
                f"{first.text} (and so on)"
                if any(one.text != first.text for one in group)
                else first.text
            )
            yield Statement(first.state, first.what, some_of(names), text)


def some_of(names: Sequence[str]) -> str:
    """The policies that a folded line is about."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def said_once(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Policies, and what there is to say of each: the same of many is said once, where it comes first."""
    lines = list(lines)
    about: dict[str, list[str]] = {}
    for policy, text in lines:
        about.setdefault(text, []).append(policy)
    for policy, text in lines:
        names = about[text]
        if len(names) < MANY:
            yield policy, text
        elif policy == names[0]:
            yield some_of(names), text


def counts(states: Iterable[str]) -> str:
    """A last line that counts: `2 failed, 14 ok`."""
    return ", ".join(f"{number} {state}" for state, number in Counter(states).items())
