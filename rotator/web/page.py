"""The status page, as text. Everything that comes from outside passes `escape`, and the policy runs no other script.

It is rendered here, filtered and sorted by the address (`/?q=edi&state=failed&sort=age`), so that it works without its
script too, and ten thousand policies weigh as much as one page of them. The script only filters while you type, and
fetches the page again.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import urlencode

from rotator import __version__
from rotator.letters import visible
from rotator.reporting import runbook
from rotator.reporting.standing import Row
from rotator.web.values import Health, View

PAGE = 200  # rows, unless all are asked for
DAYS = 30
STALE = timedelta(minutes=10)  # from which on the page says that what it shows is old
NONE = "-"
NAMED = 25  # policies that are named for a day of the schedule
# What a state means for whoever looks, the most alarming first; the mark says it without colour.
STATES = {
    "overdue": ("bad", "!", "older than its maximum age"),
    "failed": ("bad", "✕", "the last rotation failed"),
    "not-adopted": ("warn", "?", "no key of this policy is published yet"),
    "due": ("warn", "…", "its time has come"),
    "rotating": ("busy", "↻", "a rotation is under way"),
    "paused": ("off", "‖", "held by a person, or not enabled"),
    "ok": ("good", "✓", "nothing to do"),
}
URGENCY = {state: number for number, state in enumerate(STATES)}


def escape(text: str) -> str:
    """A text of whoever, as a part of the page that shows it and does nothing else."""
    return html.escape(visible(text))


def _read(name: str) -> str:
    return files("rotator.web").joinpath(name).read_text("utf-8")


STYLE, SCRIPT = _read("page.css"), _read("page.js")
PAGE_TEMPLATE = Template(_read("page.html"))


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


def _by_share(row: Row) -> float:
    """How much of its maximum age is used up; a key without one sorts last."""
    age, most = row["key_age_s"], row["max_age_s"]
    return -(age / most) if age is not None and most else 1.0


ORDERS: Mapping[str, tuple[str, Callable[[Row], Any]]] = {
    "state": ("State", lambda row: (URGENCY.get(row["state"], 9), _by_share(row), row["policy"])),
    "policy": ("Policy", lambda row: row["policy"]),
    "age": ("Age of the key", lambda row: (_by_share(row), row["policy"])),
    "last": ("Last rotation", lambda row: (row["last_rotated_at"] or "", row["policy"])),
    "next": ("Next rotation", lambda row: (row["next_due_at"] or "9999", row["policy"])),
}


@dataclass(frozen=True)
class Asked:
    """What the address asks for; what it asks for in vain is ignored."""

    text: str = ""
    state: str = ""
    sort: str = "state"
    everything: bool = False

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Asked:
        """From the parts of a query."""
        state, sort = query.get("state", ""), query.get("sort", "state")
        return cls(
            query.get("q", "")[:200],
            state if state in STATES else "",
            sort if sort in ORDERS else "state",
            query.get("show") == "all",
        )

    @property
    def address(self) -> str:
        """The address that asks for this."""
        told = {
            "q": self.text,
            "state": self.state,
            "sort": self.sort if self.sort != "state" else "",
        }
        told["show"] = "all" if self.everything else ""
        return "/?" + urlencode({name: value for name, value in told.items() if value})

    def choose(self, view: View) -> list[Row]:
        """The rows that are asked for, in that order."""
        words = self.text.lower().split()
        rows = [
            row
            for row in view.standing.rows
            if (not self.state or row["state"] == self.state)
            and all(word in _searched(row, view) for word in words)
        ]
        return sorted(rows, key=ORDERS[self.sort][1])


def _searched(row: Row, view: View) -> str:
    failure = row["last_failure"] or {}
    owner = view.owners.get(row["policy"], "")
    return (
        f"{row['policy']} {row['user_id']} {row['key_id']} {owner} {row['state']} {failure.get('kind', '')}"
    ).lower()


def render(view: View, checks: Sequence[Health], asked: Asked) -> str:
    """The whole page."""
    rows = asked.choose(view)
    shown = rows if asked.everything else rows[:PAGE]
    total, at = len(view.standing.rows), view.standing.at
    return PAGE_TEMPLATE.substitute(
        style=STYLE,
        script=SCRIPT,
        version=escape(__version__),
        title=_title(view),
        query=escape(asked.text),
        states=_options([("", "any state"), *((state, state) for state in STATES)], asked.state),
        orders=_options([(name, told) for name, (told, _) in ORDERS.items()], asked.sort),
        everything='<input type="hidden" name="show" value="all">' if asked.everything else "",
        count=_count(len(shown), len(rows), total),
        as_of=f'<time datetime="{_instant(at)}">{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC</time>',
        troubles=_troubles(checks, view),
        tally=_tally(view.standing.rows, asked),
        table=_table(shown, view, asked) if rows else _nothing(total),
        more=_more(len(rows), asked),
        ahead=_ahead(view),
    )


def _title(view: View) -> str:
    states = Counter(row["state"] for row in view.standing.rows)
    bad = [f"{states[state]} {state}" for state in ("overdue", "failed") if states[state]]
    return ", ".join(bad) or "all well"


def _count(shown: int, found: int, total: int) -> str:
    if found == total:
        return f"{shown:,} of {total:,} policies" if shown < total else f"{total:,} policies"
    return f"{shown:,} of {found:,} that fit, among {total:,} policies"


def _options(choices: Iterable[tuple[str, str]], chosen: str) -> str:
    return "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}>{told}</option>'
        for value, told in choices
    )


def _troubles(checks: Sequence[Health], view: View) -> str:
    """What is not well with the rotator itself, or with the fleet; also if what the page shows is old."""
    told = [f"{check.name}: {check.why}" for check in checks if not check.ok]
    told += [f"issuing is held back: {why}" for why in view.held]
    age = datetime.now(UTC) - view.standing.at
    if age > STALE:
        told.append(f"what is shown here was read {_span(age.total_seconds())} ago")
    if not told:
        return ""
    items = "".join(f"<li>{escape(one)}</li>" for one in told)
    return (
        f'<section class="troubles" aria-label="Troubles of the rotator"><ul>{items}</ul></section>'
    )


def _tally(rows: Sequence[Row], asked: Asked) -> str:
    counted = Counter(row["state"] for row in rows)
    items = []
    for state, (tone, mark, meaning) in STATES.items():
        if not counted[state]:
            continue
        chosen = state == asked.state
        to = replace(asked, state="" if chosen else state).address
        items.append(
            f'<li><a class="{tone}" href="{escape(to)}" title="{meaning}"{_if(chosen, " aria-current=true")}>'
            f'<span aria-hidden="true">{mark}</span> <b>{counted[state]:,}</b> {state}</a></li>'
        )
    return "".join(items)


def _if(condition: bool, text: str) -> str:
    return text if condition else ""


def _nothing(total: int) -> str:
    if total:
        return '<p class="nothing">No policy fits. <a href="/">Show all</a></p>'
    return (
        '<p class="nothing">There are no policies yet. Each is a YAML file in the directory that '
        "<code>ROTATOR_POLICIES</code> names; <code>rotator validate</code> checks it.</p>"
    )


def _more(found: int, asked: Asked) -> str:
    if asked.everything or found <= PAGE:
        return ""
    to = escape(replace(asked, everything=True).address)
    return f'<p><a href="{to}">Show all {found:,}</a></p>'


def _table(rows: Sequence[Row], view: View, asked: Asked) -> str:
    heads = "".join(
        _head(name, told, asked)
        for name, told in (
            ("policy", "Policy"),
            ("state", "State"),
            ("age", "Age of the key"),
            ("last", "Last rotation"),
            ("next", "Next rotation"),
        )
    )
    heads += '<th role="columnheader" scope="col">Last failure, and what to do</th>'
    body = "".join(_row(row, view) for row in rows)
    return (
        '<table role="table"><caption class="unseen">Policies</caption>'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead><tbody role="rowgroup">{body}</tbody></table>'
    )


def _head(name: str, told: str, asked: Asked) -> str:
    sorted_so = name == asked.sort
    to = escape(replace(asked, sort=name).address)
    return (
        f'<th role="columnheader" scope="col"{_if(sorted_so, " aria-sort=ascending")}>'
        f'<a id="by-{name}" href="{to}">{told}</a></th>'
    )


def _row(row: Row, view: View) -> str:
    now = view.standing.at
    name, state = escape(row["policy"]), row["state"]
    tone, mark, meaning = STATES.get(state, ("warn", "?", ""))
    owner = view.owners.get(row["policy"])
    key = "" if row["key_id"] is None else f", key {row['key_id']}"
    about = f"user {row['user_id']}{key}" + (f", {escape(owner)}" if owner else "")
    marked = f'<span aria-hidden="true">{mark}</span> {escape(state)}'
    cells = (
        f'<th role="rowheader" scope="row">{name}<small>{about}</small></th>',
        f'<td role="cell"><span class="state {tone}" title="{meaning}">{marked}</span>{_pause(row)}</td>',
        f'<td role="cell" data-name="age">{_age(row)}</td>',
        f'<td role="cell" data-name="last">{_when(row["last_rotated_at"], now)}</td>',
        f'<td role="cell" data-name="next">{_when(row["next_due_at"], now, "due ")}</td>',
        f'<td role="cell" class="failure">{_failure(row["last_failure"], now)}</td>',
    )
    return f'<tr role="row">{"".join(cells)}</tr>\n'


def _pause(row: Row) -> str:
    """Until when, and why, the policy begins nothing by itself, unless another state is shown."""
    if row["state"] != "paused":
        return ""
    ends = row["paused_until"]
    until = f"until {datetime.fromisoformat(ends):%d %b %H:%M}: " if ends else ""
    return f"<small>{until}{escape(row['paused_reason'])}</small>"


def _age(row: Row) -> str:
    """The key's age against its maximum, as a bar and in words."""
    age, most = row["key_age_s"], row["max_age_s"]
    if age is None:
        return "no key"
    if not most:
        return f"{_span(age)}<small>no maximum</small>"
    share = min(1.0, max(0.0, age / most))
    tone = "bad" if age > most else "warn" if share > 0.9 else "good"
    return (
        f'<svg class="bar {tone}" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="100" height="6"/><rect class="full" width="{100 * share:.1f}" height="6"/></svg>'
        f"<span>{_span(age)} of {_span(most)}</span>"
    )


def _when(instant: str | None, now: datetime, past: str = "") -> str:
    if not instant:
        return NONE
    at = datetime.fromisoformat(instant)
    left = (at - now).total_seconds()
    told = f"in {_span(left)}" if left >= 0 else f"{past}{_span(-left)} ago"
    return f'<time datetime="{escape(instant)}">{told}<small>{at.astimezone(UTC):%d %b %H:%M}</small></time>'


def _failure(failure: Mapping[str, Any] | None, now: datetime) -> str:
    if failure is None:
        return NONE
    kind = str(failure["kind"])
    again = failure.get("retry_at")
    at = failure.get("at")
    times = [f"{_when(at, now)}"] if at else []
    times += [f"tried again {_when(again, now)}"] if again else []
    return (
        f"<details><summary>{escape(kind)} <small>in {escape(str(failure['phase']))}</small></summary>"
        f"<p>{escape(str(failure['message']))}</p><p><b>To do:</b> {_coded(runbook.next_step(kind))}</p>"
        f"<p><small>{' · '.join(times)} · {escape(runbook.link(kind))}</small></p></details>"
    )


def _coded(text: str) -> str:
    """With what stands between backquotes as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ahead(view: View) -> str:
    """The rotations of the next 30 days, a column for each day; in words below it."""
    first = view.standing.at.astimezone(UTC).date()
    named: dict[date, list[str]] = {first + timedelta(days=number): [] for number in range(DAYS)}
    for at, policy in view.ahead:
        if (day := at.astimezone(UTC).date()) in named:
            named[day].append(policy)
    most = max(len(policies) for policies in named.values())
    if not most:
        return f"<p>No rotation is due in the next {DAYS} days.</p>{_in_grace(view)}"
    total = sum(len(policies) for policies in named.values())
    summary = f"{total:,} rotations in the next {DAYS} days, {most:,} on the busiest"
    columns = "".join(
        _column(number, day, len(policies), most)
        for number, (day, policies) in enumerate(named.items())
    )
    listed = "".join(_day(day, policies) for day, policies in named.items() if policies)
    marks = [first, first + timedelta(days=DAYS // 2), first + timedelta(days=DAYS - 1)]
    scale = "".join(f"<span>{day:%d %b}</span>" for day in marks)
    return (
        f'<svg class="ahead" viewBox="0 0 600 72" role="img" aria-label="{summary}">{columns}</svg>'
        f'<p class="scale" aria-hidden="true">{scale}</p><p><small>{summary}</small></p>'
        f'<details id="days"><summary>Which, and when (UTC)</summary><ol>{listed}</ol></details>{_in_grace(view)}'
    )


def _in_grace(view: View) -> str:
    """How many replaced keys live on, and when the first and the last of them end."""
    ends = sorted(one for row in view.standing.rows if (one := row.get("previous_key_until")))
    if not ends:
        return ""
    now, last = view.standing.at, ""
    if len(ends) > 1:
        last = f", the last {_when(ends[-1], now, 'due ')}"
    number = f"{len(ends):,} replaced keys live on" if last else "1 replaced key lives on"
    return f"<p>{number}: it ends {_when(ends[0], now, 'due ')}{last}</p>"


def _column(number: int, day: date, count: int, most: int) -> str:
    left, height = number * 20, 60 * count / most
    told = f'<text x="{left + 9.5}" y="{70 - height:.1f}">{count}</text>' if count else ""
    return (
        f'<g{_if(day.weekday() >= 5, " class=weekend")}><rect class="back" x="{left}" y="12" width="19" height="60"/>'
        f'<rect class="full" x="{left}" y="{72 - height:.1f}" width="19" height="{height:.1f}"/>{told}</g>'
    )


def _day(day: date, policies: Sequence[str]) -> str:
    some = sorted(set(policies))
    rest = f" and {len(some) - NAMED:,} more" if len(some) > NAMED else ""
    told = ", ".join(escape(name) for name in some[:NAMED])
    return f'<li><time datetime="{day}">{day:%a %d %b}</time> {told}{rest}</li>'
