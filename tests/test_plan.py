"""`plan`: the rotations ahead, as the schedules and the records have them."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Rotator
from worlds import POLICY, policy_from

from rotator.cli.plan import calendar, chart, rotations
from rotator.errors import Failure, Transient
from rotator.fleet.forecast import MOST, Ahead, Outlook, ahead, first
from rotator.journal import Failed, Held, Record
from rotator.keys import Visibility
from rotator.policy import Policy

NOW = datetime(2026, 1, 5, 3, 0, tzinfo=UTC)
MONTH = timedelta(days=30)


def known(user_id: int = 5001, days: int = 10) -> Record:
    """A record of a key that was published so long ago."""
    at = NOW - timedelta(days=days)
    held = Held(
        key_id=1,
        user_id=user_id,
        visibility=Visibility.PRIVATE,
        created=at,
        fingerprint="f",
        published_at=at,
    )
    return Record.new("edi").change(current=held, rotated_at=at)


def planned(
    policy: Policy, record: Record | None, span: timedelta = MONTH
) -> list[tuple[int, str]]:
    """The days from now, and why."""
    return [((one.at - NOW).days, one.why) for one in ahead(policy, record, NOW, NOW + span)]


@pytest.mark.parametrize(
    ("change", "days", "expected"),
    [
        ("{every: 12d}", 10, [(2, "scheduled"), (14, "scheduled"), (26, "scheduled")]),
        ("{every: 9d}", 10, [(0, "late"), (9, "scheduled"), (18, "scheduled"), (27, "scheduled")]),
        ("{every: 9d}", 20, [(0, "overdue"), (9, "scheduled"), (18, "scheduled"), (27, "scheduled")]),
        ("{every: 20d, freeze: [{from: 2026-01-10, to: 2026-01-20}]}", 10, [(15, "scheduled")]),
        ("{every: 9d, freeze: [{from: 2026-01-01, to: 2026-01-07}]}", 10,
         [(2, "scheduled"), (11, "scheduled"), (20, "scheduled"), (29, "scheduled")]),
        ("{every: 9d, freeze: [{from: 2026-01-05, to: 2026-01-07}]}", 10,
         [(2, "late"), (11, "scheduled"), (20, "scheduled"), (29, "scheduled")]),
        ("manual", 100, []),
    ],
)  # fmt: skip
def test_the_plan_is_what_the_schedule_asks_for(
    tmp_path: Path, change: str, days: int, expected: list[tuple[int, str]]
) -> None:
    """Counted from the last rotation; what is late begins as soon as it may, and the rest follows from there."""
    policy = policy_from(tmp_path, POLICY.replace("{every: 30d}", change).replace("12h", "1h"))
    assert planned(policy, known(days=days)) == expected


def test_a_new_policy_is_adopted_first_or_rotated_at_once(tmp_path: Path) -> None:
    """As its `first` says."""
    assert planned(policy_from(tmp_path, POLICY), None) == [(30, "scheduled")]
    rotated = policy_from(tmp_path, POLICY + "first: rotate\n")
    assert planned(rotated, None) == [(0, "first"), (30, "scheduled")]


def test_a_paused_policy_has_no_plan_and_a_failed_one_waits(tmp_path: Path) -> None:
    """The back-off of the last failure counts while the policy is the same."""
    policy = policy_from(tmp_path, POLICY)
    assert planned(policy_from(tmp_path, POLICY + "enabled: false\n", "off"), known(days=31)) == []
    failed = Failed(
        at=NOW,
        phase="issue",
        kind="x",
        message="x",
        attempts=1,
        retry_at=NOW + timedelta(days=1),
        digest=policy.digest,
    )
    assert planned(policy, known(days=31).change(failed=failed))[0] == (1, "retry")


def test_users_take_turns(tmp_path: Path) -> None:
    """The one that is not published is next."""
    text = POLICY.replace("user_id: 5001", "users: [5001, 5002]").replace("30d", "5d")
    policy = policy_from(tmp_path, text)
    rows = ahead(policy, known(5001, 1), NOW, NOW + timedelta(days=15))
    assert [row.user_id for row in rows] == [5002, 5001, 5002]
    fresh = policy_from(tmp_path, text + "first: rotate\n")
    assert [row.user_id for row in ahead(fresh, None, NOW, NOW + timedelta(days=6))] == [5001, 5002]


def test_a_very_short_schedule_does_not_fill_the_memory(tmp_path: Path) -> None:
    """The plan stops, and the command says so."""
    policy = policy_from(tmp_path, POLICY.replace("30d", "1s").replace("12h", "0"))
    assert len(ahead(policy, known(days=0), NOW, NOW + 12 * MONTH)) == MOST


@pytest.mark.parametrize(
    "schedule",
    [
        "{every: 1h}",
        "{every: 25m}",
        "{every: 9d, jitter: 7h}",
        "manual",
        '{cron: "10 */5 * * *", window: {from: "01:00", to: "20:00"}}',
    ],
)
def test_the_outlook_counts_what_the_plan_tells(tmp_path: Path, schedule: str) -> None:
    """At any later moment too, whatever is kept of what was planned before; and once the record is another one."""
    policy = policy_from(tmp_path, POLICY.replace("{every: 30d}", schedule).replace("12h", "10m"))
    outlook, now, record = Outlook(30), NOW, known(days=0)
    for hours in (0, 0, 1, 5, 7, 24, 300):
        now += timedelta(hours=hours)
        record = known(days=-3) if hours == 24 else record
        told = outlook.of([(policy, record)], now)[policy.name]
        expected = Counter(one.at.date() for one in ahead(policy, record, now, now + MONTH))
        days = [now.date() + timedelta(days=number) for number in range(31)]
        assert list(told) == [expected[day] for day in days]
        assert sum(told) == expected.total()


def test_what_could_not_be_read_has_no_outlook(tmp_path: Path) -> None:
    """A policy that was never adopted counts as adopted now, each time that it is asked for."""
    policy, outlook = policy_from(tmp_path, POLICY), Outlook(30)
    assert outlook.of([(policy, Transient("away", kind="vault.Timeout"))], NOW) == {}
    for hours in (0, 30):
        told = outlook.of([(policy, None)], NOW + timedelta(hours=hours))[policy.name]
        assert told == (*[0] * 30, 1)


def test_the_calendar_is_one_that_others_read() -> None:
    """CRLF, no line over 75 octets, one event for each rotation."""
    row = Ahead(
        "a-name-that-is-as-long-as-a-name-may-be-and-so-has-to-be-folded", 5001, NOW, "late"
    )
    text = calendar([row], NOW)
    lines = text.split("\r\n")
    assert (lines[0], lines[-2:]) == ("BEGIN:VCALENDAR", ["END:VCALENDAR", ""])
    assert max(map(len, lines)) <= 75
    assert "\n" not in text.replace("\r\n", "")
    unfolded = text.replace("\r\n ", "")
    assert f"SUMMARY:rotate {row.policy}" in unfolded
    assert "DTSTART:20260105T030000Z" in unfolded


def test_the_chart_has_a_bar_for_each_day() -> None:
    """The longest for the day on which most happens."""
    days = [0, 0, 0, 1]
    rows = [Ahead(f"p{n}", n, NOW + timedelta(days=day), "scheduled") for n, day in enumerate(days)]
    first, second = (line.plain for line in chart(rows))
    assert (first.endswith(" 3"), second.endswith(" 1")) == (True, True)
    assert first.count("█") > second.count("█") > 0


def test_rotations_of_all_policies_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    """Also where a record could not be read."""
    policies = [policy_from(tmp_path, POLICY, name) for name in ("a", "b")]
    found: dict[str, Record | None] = {"a": known(days=1), "b": known(days=5)}
    rows = rotations(policies, dict(found), NOW, NOW + MONTH)
    assert [row.policy for row in rows] == ["b", "a"]


def test_the_rotation_that_comes_first_is_the_one_that_the_plan_has_first(tmp_path: Path) -> None:
    """Whatever else is to be looked at sooner; a record that could not be read has none."""
    policies = [policy_from(tmp_path, POLICY, name) for name in ("a", "b", "c")]
    records: list[Record | Failure] = [known(days=1), known(days=5), Failure("it cannot be read")]
    found = list(zip(policies, records, strict=True))
    assert first(found, NOW) == (NOW + timedelta(days=25), "b")
    assert first(found[2:], NOW) is None


def test_the_command_prints_a_table_json_and_a_calendar(rotator_command: Rotator) -> None:
    """And the first rotation of the plan is what `status` calls next."""
    rotator_command.policy("edi", POLICY)
    assert rotator_command("run", "--once").code == 0
    due = rotator_command("status", "--json").json["policies"][0]["next_due_at"]
    (row,) = rotator_command("plan", "--for", "40d", "--json").json["rotations"]
    until = row.pop("previous_key_until")
    assert until > due
    assert row == {"policy": "edi", "user_id": 5001, "at": due, "why": "scheduled"}
    assert "1 rotation\n" in rotator_command("plan", "--for", "40d").stdout
    assert rotator_command("plan", "--for", "1d", "--json").json["rotations"] == []
    assert rotator_command("plan", "--ics").stdout.startswith("BEGIN:VCALENDAR")
    assert rotator_command("plan", "--ics", "--json").code == 2
    assert rotator_command("plan", "--for", "soon").code == 2
