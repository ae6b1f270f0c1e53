"""The status page, as text, by a template that escapes whatever comes from outside; its policy runs no other script.

It is rendered here, filtered and sorted by the address, so that it works without its script too, and ten thousand
policies weigh as much as one page of them. The script only filters while you type, and fetches the page again.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from rotator import __version__
from rotator.letters import visible
from rotator.reporting import runbook
from rotator.reporting.rows import Row
from rotator.web.asked import ORDERS, STATES, Asked, natural
from rotator.web.lines import Times, line, span
from rotator.web.view import Health, View

# Rows, unless all are asked for; so many of those are shown with all that is known of them.
PAGE = 200
# Of the schedule; the last one ends on one day more.
DAYS = 30
# From which on the page says that what it shows is old.
STALE = timedelta(minutes=10)
# Of failures, of which what the runbook says is kept as it is shown.
KINDS = 256
# Policies that are named for a day of the schedule.
NAMED = 25


def _read(name: str) -> str:
    return files("rotator.web").joinpath(name).read_text("utf-8")


STYLE, SCRIPT = _read("page.css"), _read("page.js")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(SCRIPT)}",
        f"style-src {_hash(STYLE)}",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


@dataclass(frozen=True)
class Day:
    """A day of the schedule: how many rotations it has, whose, and how many of the busiest day's that is."""

    date: date
    count: int
    # Of a hundred.
    share: float
    policies: Sequence[str]


def coded(text: str) -> Markup:
    """With what stands between backquotes as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))  # noqa: S704 - escaped


def _shown(value: object) -> object:
    """What a template shows of a value: a text of whoever with what nobody could see written out."""
    return visible(value) if type(value) is str else value


@lru_cache(maxsize=KINDS)
def to_do(kind: str) -> Markup:
    """What a person should do about a failure of that kind."""
    return coded(runbook.next_step(kind))


@lru_cache(maxsize=KINDS)
def means(kind: str) -> list[Markup]:
    """What the runbook says of that kind of failure, in paragraphs; nothing if it does not know it."""
    entry = runbook.entries().get(kind)
    return [coded(text) for text in entry.means] if entry else []


_TEMPLATES = Environment(
    loader=PackageLoader("rotator.web", "."),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals |= {
    "STYLE": Markup(STYLE),  # noqa: S704 - the package's own
    "SCRIPT": Markup(SCRIPT),  # noqa: S704 - the same
    "STATES": STATES,
    "ORDERS": ORDERS,
    "NAMED": NAMED,
    "version": __version__,
    "to_do": to_do,
    "means": means,
}
_TEMPLATES.filters["number"] = "{:,}".format


def render(view: View, checks: Sequence[Health], asked: Asked) -> str:
    """The whole page."""
    rows = asked.choose(view)
    shown, times = rows if asked.everything else rows[:PAGE], Times(view.standing.at)
    return _TEMPLATES.get_template("page.html").render(
        view=view,
        asked=asked,
        at=times.at,
        times=times,
        title=_title(view),
        rows=[line(row, view, times, full=number < PAGE) for number, row in enumerate(shown)],
        with_all=PAGE,
        found=len(rows),
        total=len(view.standing.rows),
        states=Counter(row.state for row in view.standing.rows),
        troubles=list(_troubles(checks, view)),
        days=_days(rows, view),
        graces=_graces(rows, view),
    )


def _title(view: View) -> str:
    states = Counter(row.state for row in view.standing.rows)
    bad = [f"{states[state]} {state}" for state in ("overdue", "failed") if states[state]]
    return ", ".join(bad) or "all well"


def _troubles(checks: Iterable[Health], view: View) -> Iterator[tuple[str, Markup | None]]:
    """What is not well with the rotator itself, or with the fleet, each with what to do if the runbook tells it.

    Also if what the page shows is old.
    """
    yield from ((f"{check.name}: {check.why}", None) for check in checks if not check.ok)
    for kind, why in view.held.items():
        yield f"issuing is held back: {why} [{kind}]", to_do(kind)
    age = datetime.now(UTC) - view.standing.at
    if age > STALE:
        yield f"what is shown here was read {span(age.total_seconds())} ago", None


def _graces(rows: Iterable[Row], view: View) -> list[datetime]:
    """When each grace ends that a replaced key has, the next first."""
    kept = (row for row in rows if row.previous_key != "refused")
    owed = (one for row in kept for one in view.owed.get(row.policy, ()))
    now = view.standing.at
    return sorted(one.due_at for one in owed if one.why == "replaced" and one.due_at > now)


def _days(rows: Iterable[Row], view: View) -> list[Day]:
    """The rotations of these policies, day by day; empty if there are none."""
    named: dict[int, list[str]] = defaultdict(list)
    totals: Counter[int] = Counter()
    for name in sorted((row.policy for row in rows), key=natural):
        for number, count in enumerate(view.ahead.get(name, ())):
            if count:
                named[number].append(name)
                totals[number] += count
    first, most = view.standing.at.astimezone(UTC).date(), max(totals.values(), default=0)
    return [
        Day(
            first + timedelta(days=number),
            totals[number],
            100 * totals[number] / most,
            named[number],
        )
        for number in range(DAYS + 1)
        if most
    ]
