"""Lines about many policies, made few: the alike ones told once, with those that they are about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MANY = 4  # lines that are folded; fewer are told one by one
SHOWN = 3  # policies that a folded line names


class Told(NamedTuple):
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


def folded(lines: Iterable[Told], fine: str) -> Iterator[Told]:
    """The lines, in their order; many that are alike are one, with the text of the first."""
    groups: dict[tuple[str, ...], list[Told]] = {}
    for line in lines:
        groups.setdefault(line.kind(fine), []).append(line)
    for group in groups.values():
        names = list(dict.fromkeys(line.policy for line in group))
        if len(group) < MANY or not group[0].policy:
            yield from group
        else:
            first, many = group[0], f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
            text = (
                f"{first.text} (and so on)"
                if any(one.text != first.text for one in group)
                else first.text
            )
            yield Told(
                first.state, first.what, many if len(names) > SHOWN else ", ".join(names), text
            )


def counts(states: Iterable[str]) -> str:
    """A last line that counts: `2 failed, 14 ok`."""
    return ", ".join(f"{number} {state}" for state, number in Counter(states).items())
