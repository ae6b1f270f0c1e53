"""Due times: cron, interval, jitter, window, freeze and daylight saving, without a clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotator.errors import BadInput
from rotator.schedule import Cron, Every, Freeze, Manual, Schedule, Window, duration

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cron(text: str, zone: str = "UTC") -> Schedule:
    return Schedule(Cron.parse(text), ZoneInfo(zone))


def times(schedule: Schedule, first: str, last: str) -> list[str]:
    """Local times of the occurrences from `first` up to `last`, both in UTC."""
    found = schedule.occurrences(utc(first) - timedelta(seconds=1), utc(last), "p")
    return [due.astimezone(schedule.timezone).strftime("%m-%d %H:%M") for due in found]


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("8w", timedelta(weeks=8)),
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, length: timedelta) -> None:
    """As the documents write them."""
    assert duration(text) == length


@pytest.mark.parametrize(
    "text",
    ["", "30", "1h30m", "-1d", "030d", "1 d", "1D", "1y", "٣d", "1d\n", "9999999999w"],
)
def test_anything_else_is_no_duration(text: str) -> None:
    """No number without a unit, no composite, no sign, no other digits."""
    with pytest.raises(BadInput):
        duration(text)


@pytest.mark.parametrize(
    ("text", "first", "last", "expected"),
    [
        ("0 3 * * SUN", "2026-11-01", "2026-11-15", ["11-01 03:00", "11-08 03:00"]),
        ("0 3 * * 0", "2026-11-01", "2026-11-08", ["11-01 03:00"]),
        ("0 3 * * 7", "2026-11-01", "2026-11-08", ["11-01 03:00"]),
        ("0 3 * * 6-7", "2026-11-01", "2026-11-09", ["11-01 03:00", "11-07 03:00", "11-08 03:00"]),
        ("0 3 * * mon,Wed", "2026-11-01", "2026-11-06", ["11-02 03:00", "11-04 03:00"]),
        ("*/20 0-1 1 1 *", "2026-01-01", "2026-01-02", [
            "01-01 00:00", "01-01 00:20", "01-01 00:40", "01-01 01:00", "01-01 01:20", "01-01 01:40",
        ]),
        ("10-30/10,45 4 1 1 *", "2026-01-01", "2026-01-02", [
            "01-01 04:10", "01-01 04:20", "01-01 04:30", "01-01 04:45",
        ]),
        ("0 0 13 * fri", "2026-02-01", "2026-02-28", [
            "02-06 00:00", "02-13 00:00", "02-20 00:00", "02-27 00:00",
        ]),
        ("0 0 13 * *", "2026-02-01", "2026-03-31", ["02-13 00:00", "03-13 00:00"]),
        ("0 0 */2 * mon", "2026-06-01", "2026-06-30", ["06-01 00:00", "06-15 00:00", "06-29 00:00"]),
        ("0 0 31 JAN-mar *", "2026-01-01", "2026-12-31", ["01-31 00:00", "03-31 00:00"]),
        ("0 0 29 2 *", "2026-01-01", "2033-01-01", ["02-29 00:00", "02-29 00:00"]),
    ],
)  # fmt: skip
def test_cron_fires_as_vixie_cron_does(
    text: str, first: str, last: str, expected: list[str]
) -> None:
    """0 and 7 are Sunday, names in any case, lists, ranges, steps, and either day where both are restricted."""
    assert times(cron(text), first, last) == expected


@pytest.mark.parametrize("text", [
    "", "0 3 * *", "0 3 * * * *", "@daily", "@reboot", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *",
    "* * * 0 *", "0 0 * * sat-sun",
    "* * * 13 *", "* * * * 8", "5-1 * * * *", "0 0 * * fri-mon", "0 0 * dec-jan *", "*/0 * * * *",
    "5/10 * * * *", "*/x * * * *", "* * * * ?", "* * L * *", "0 0 * * 5#2", "1,,2 * * * *", ", * * * *", "- * * * *",
    "-1 * * * *", "+1 * * * *", "0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "mon * * * *", "٣ * * * *", "H * * * *",
])  # fmt: skip
def test_what_is_no_cron_expression_or_never_fires_is_refused(text: str) -> None:
    """Backwards ranges, nicknames, other dialects and impossible days included."""
    with pytest.raises(BadInput):
        Cron.parse(text)


@pytest.mark.parametrize(
    ("text", "gap"),
    [
        ("* * * * *", MINUTE),
        ("0 * * * *", HOUR),
        ("0 9-17 * * *", 16 * HOUR),
        ("0 3 * * *", DAY),
        ("0 3 * * SUN", 7 * DAY),
        ("0 3 * * 1-5", 3 * DAY),
        ("0 0 1 * *", 31 * DAY),
        ("0 0 31 * *", 61 * DAY),
        ("0 0 1 1 *", 366 * DAY),
        ("0 0 29 2 *", 1461 * DAY),
    ],
)
def test_the_longest_gap_of_a_cron_schedule_is_known(text: str, gap: timedelta) -> None:
    """It makes the default of max_age."""
    assert cron(text).longest_gap() == gap


def test_an_interval_is_elapsed_time_whatever_the_wall_clock_does() -> None:
    """30 days over a change to summer time are 720 hours."""
    schedule = Schedule(Every(30 * DAY), ZoneInfo("Europe/Berlin"))
    assert schedule.next_due(utc("2026-03-15T12:00:00"), "p") == utc("2026-04-14T12:00:00")
    assert schedule.longest_gap() == 30 * DAY


def test_a_manual_schedule_is_never_due() -> None:
    """And has no gap."""
    schedule = Schedule(Manual(), ZoneInfo("UTC"))
    assert schedule.next_due(utc("2026-01-01"), "p") is None
    assert schedule.longest_gap() is None
    assert list(schedule.occurrences(utc("2026-01-01"), utc("2030-01-01"), "p")) == []


@pytest.mark.parametrize(
    ("zone", "text", "day", "expected"),
    [
        ("Europe/Berlin", "30 2 * * *", "2026-03-29", ["03-29 03:30"]),
        ("Europe/Berlin", "0,15,30,45 2 * * *", "2026-03-29", [
            "03-29 03:00", "03-29 03:15", "03-29 03:30", "03-29 03:45",
        ]),
        ("Europe/Berlin", "15 * * * *", "2026-03-29", None),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25", ["10-25 02:30"]),
        ("America/New_York", "30 2 * * *", "2026-03-08", ["03-08 03:30"]),
        ("America/New_York", "30 1 * * *", "2026-11-01", ["11-01 01:30"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-04", ["10-04 02:45"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-05", ["04-05 01:45"]),
        ("America/Havana", "30 0 * * *", "2026-03-08", ["03-08 01:30"]),
        ("Asia/Kolkata", "30 2 * * *", "2026-03-29", ["03-29 02:30"]),
    ],
)  # fmt: skip
def test_a_skipped_or_doubled_time_fires_once(
    zone: str, text: str, day: str, expected: list[str] | None
) -> None:
    """In a gap within the hour after it begins, in a repeated hour the first time."""
    schedule = cron(text, zone)
    first = datetime.combine(date.fromisoformat(day), time(), schedule.timezone).astimezone(UTC)
    last = datetime.combine(date.fromisoformat(day) + DAY, time(), schedule.timezone).astimezone(
        UTC
    )
    found = list(schedule.occurrences(first - timedelta(seconds=1), last - MINUTE, "p"))
    local = [due.astimezone(schedule.timezone).strftime("%m-%d %H:%M") for due in found]
    assert local == expected if expected else len(set(found)) == len(found) == 23


def test_a_day_that_a_zone_skips_whole_fires_as_it_is_skipped() -> None:
    """Apia had no 30 December 2011: its times fire within the hour after the gap begins, and once."""
    schedule = cron("0 3,15 30 12 *", "Pacific/Apia")
    found = list(schedule.occurrences(utc("2011-12-01"), utc("2012-01-31"), "p"))
    assert found == [utc("2011-12-30T10:00:00")]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    "text", ["30 2 * * *", "30 1 * * *", "0 0 * * *", "45 1 * * SUN", "0 12 1 * *"]
)
def test_in_a_year_every_matching_day_fires_exactly_once(zone: str, text: str) -> None:
    """Once a day that matches, on that day, and never twice at one instant, changes of the clock included."""
    schedule = cron(text, zone)
    assert isinstance(schedule.rule, Cron)
    start = datetime(2026, 1, 1, tzinfo=schedule.timezone).astimezone(UTC) - timedelta(seconds=1)
    end = datetime(2027, 1, 1, tzinfo=schedule.timezone).astimezone(UTC) - MINUTE
    found = list(schedule.occurrences(start, end, "p"))
    days = [due.astimezone(schedule.timezone).date() for due in found]
    year = [date(2026, 1, 1) + DAY * number for number in range(365)]
    assert days == [day for day in year if schedule.rule.on(day)]
    assert all(a < b for a, b in pairwise(found))


@pytest.mark.parametrize("zone", ZONES)
def test_in_a_year_an_hourly_cron_fires_once_in_each_hour_but_the_repeated(zone: str) -> None:
    """8760 hours, of which the one that the clock repeats fires once."""
    found = times(cron("0 * * * *", zone), "2026-01-01", "2026-12-31T23:59:59")
    lost = {"UTC": 0, "Asia/Kolkata": 0, "Australia/Lord_Howe": 0}.get(zone, 1)
    assert len(found) == 8760 - lost


def test_the_window_belongs_to_the_day_it_starts_on() -> None:
    """Saturday 22:00 to 02:00 is open on early Sunday and closed on early Saturday; its end is outside."""
    window = Window((5,), time(22), time(2))
    schedule = Schedule(Every(DAY), ZoneInfo("UTC"), window=window)
    states = {
        "2026-11-21T01:00:00": False,
        "2026-11-21T21:59:59": False,
        "2026-11-21T22:00:00": True,
        "2026-11-22T01:59:59": True,
        "2026-11-22T02:00:00": False,
        "2026-11-22T22:30:00": False,
    }
    assert {text: schedule.open_at(utc(text)) for text in states} == states


def test_a_due_time_moves_to_the_opening_and_past_the_freeze() -> None:
    """Forward only: to the first instant that both allow, the freeze's last day included."""
    schedule = Schedule(
        Every(DAY),
        ZoneInfo("Europe/Berlin"),
        window=Window((5, 6), time(1), time(5)),
        freezes=(Freeze(date(2026, 12, 15), date(2027, 1, 2)),),
    )
    assert schedule.next_due(utc("2026-12-14T12:00:00"), "p") == utc("2027-01-03T00:00:00")
    assert schedule.frozen_at(utc("2027-01-02T22:59:59"))
    assert not schedule.frozen_at(utc("2027-01-02T23:00:00"))
    assert schedule.next_due(utc("2026-12-11T01:30:00"), "p") == utc("2026-12-12T01:30:00")


@pytest.mark.parametrize(
    ("zone", "start", "end", "after", "expected"),
    [
        ("Europe/Berlin", time(2, 30), time(4), "2026-03-28T22:00:00", "2026-03-29T01:00:00"),
        ("Europe/Berlin", time(2, 15), time(2, 45), "2026-03-28T22:00:00", "2026-03-30T00:15:00"),
        ("Europe/Berlin", time(1, 30), time(2, 30), "2026-10-25T00:40:00", "2026-10-25T01:00:00"),
        ("Australia/Lord_Howe", time(2, 10), time(3), "2026-10-03T14:00:00", "2026-10-03T15:30:00"),
    ],
)
def test_a_window_follows_the_wall_clock_through_a_change(
    zone: str, start: time, end: time, after: str, expected: str
) -> None:
    """One that begins in a gap opens as the gap ends, one that lies in it stays shut, a repeated end opens again."""
    schedule = Schedule(
        Every(timedelta(seconds=1)), ZoneInfo(zone), window=Window(tuple(range(7)), start, end)
    )
    assert schedule.next_due(utc(after), "p") == utc(expected)


def test_jitter_is_of_the_name_alone_and_spreads() -> None:
    """The same each time, less than its length, and different between names."""
    schedule = Schedule(Every(DAY), ZoneInfo("UTC"), jitter=2 * HOUR)
    start = utc("2026-01-01")
    moved = [schedule.next_due(start, f"p{number}") for number in range(1000)]
    offsets = [due - start - DAY for due in moved if due is not None]
    assert len(offsets) == 1000
    assert all(timedelta(0) <= offset <= 2 * HOUR for offset in offsets)
    assert len(set(offsets)) > 800
    assert [schedule.next_due(start, f"p{number}") for number in range(1000)] == moved


def _first_allowed(schedule: Schedule, due: datetime) -> Iterator[datetime]:
    """Minute by minute, the slow way."""
    while True:
        if _is_allowed(schedule, due):
            yield due
        due += MINUTE


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    clock = st.integers(0, 1439).map(lambda minute: time(minute // 60, minute % 60))
    start, end = draw(st.tuples(clock, clock).filter(lambda pair: pair[0] != pair[1]))
    days = draw(st.lists(st.integers(0, 6), min_size=1, unique=True).map(sorted))
    first = draw(st.dates(date(2026, 1, 1), date(2027, 12, 31)))
    return Schedule(
        draw(
            st.one_of(
                st.integers(1, 90 * 24 * 60).map(lambda minutes: Every(minutes * MINUTE)),
                st.sampled_from(["0 3 * * SUN", "*/30 1-2 * * *", "15 2 1 * *", "0 0 * 3 mon"]).map(
                    Cron.parse
                ),
            )
        ),
        ZoneInfo(draw(st.sampled_from(ZONES))),
        jitter=draw(st.integers(0, 48)) * HOUR,
        window=draw(st.sampled_from([None, Window(tuple(days), start, end)])),
        freezes=draw(
            st.sampled_from([(), (Freeze(first, first + draw(st.integers(0, 9)) * DAY),)])
        ),
    )


@settings(deadline=None, max_examples=200)
@given(schedules(), st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)))  # noqa: DTZ001 - hypothesis adds the zone below
def test_a_due_time_is_after_the_last_rotation_allowed_and_always_the_same(
    schedule: Schedule, naive: datetime
) -> None:
    """In the window, out of every freeze, later than what it counts from, and a function of nothing else."""
    after = naive.replace(tzinfo=UTC, second=0, microsecond=0)
    due = schedule.next_due(after, "p")
    assert due is not None
    assert due > after
    assert due.utcoffset() == timedelta(0)
    assert schedule.open_at(due)
    assert not schedule.frozen_at(due)
    assert schedule.next_due(after, "p") == due


@pytest.mark.parametrize(
    ("window", "freezes", "first", "last"),
    [
        (Window((5, 6), time(1), time(5)), (), "2026-11-28T00:00:00", "2026-11-28T04:00:00"),
        (Window((5,), time(22), time(2)), (), "2026-11-28T21:00:00", "2026-11-29T01:00:00"),
        (
            None,
            (Freeze(date(2026, 11, 20), date(2026, 11, 29)),),
            "2026-11-29T23:00:00",
            "2026-11-30T23:00:00",
        ),
        (
            Window((5,), time(22), time(2)),
            (Freeze(date(2026, 11, 29), date(2026, 11, 30)),),
            "2026-11-28T21:00:00",
            "2026-11-28T23:00:00",
        ),
    ],
)
def test_a_fleet_that_a_window_or_a_freeze_held_back_is_spread_again(
    window: Window | None, freezes: tuple[Freeze, ...], first: str, last: str
) -> None:
    """200 policies that were adopted together are due all over what there is of the opening, not in one second."""
    schedule = Schedule(
        Every(30 * DAY), ZoneInfo("Europe/Berlin"), jitter=DAY, window=window, freezes=freezes
    )
    adopted, begin, end = utc("2026-10-25T00:00:00"), utc(first), utc(last)
    due = [schedule.next_due(adopted, f"partner-{number}") for number in range(200)]
    moments = [one for one in due if one is not None]
    quarters = {(one - begin) * 4 // (end - begin) for one in moments}
    assert quarters == {0, 1, 2, 3}, "spread over all of it"
    assert len(moments) == 200
    assert max(moments.count(one) for one in moments) <= 5


def test_without_jitter_what_was_held_back_is_due_as_the_window_opens() -> None:
    """Nobody asked for it to be spread."""
    window = Window((5, 6), time(1), time(5))
    schedule = Schedule(Every(30 * DAY), ZoneInfo("Europe/Berlin"), window=window)
    due = {schedule.next_due(utc("2026-10-25T00:00:00"), f"p{number}") for number in range(20)}
    assert due == {utc("2026-11-28T00:00:00")}


@settings(deadline=None, max_examples=60)
@given(schedules(), st.datetimes(datetime(2026, 3, 1), datetime(2026, 11, 30)))  # noqa: DTZ001 - hypothesis adds the zone below
def test_a_due_time_is_in_the_first_opening_that_is_allowed(
    schedule: Schedule, naive: datetime
) -> None:
    """No earlier minute would have done; one that was moved is spread by up to the jitter, while it stays allowed."""
    after = naive.replace(tzinfo=UTC, second=0, microsecond=0)
    bare = Schedule(schedule.rule, schedule.timezone).next_due(after, "p")
    assert bare is not None
    due = schedule.next_due(after, "p")
    moved = Schedule(schedule.rule, schedule.timezone, schedule.jitter).next_due(after, "p")
    assert moved is not None
    assert bare <= moved <= bare + schedule.jitter
    assert due is not None
    first = schedule.allowed(moved)
    expected = next(_first_allowed(schedule, moved))
    assert first <= expected
    assert expected - first < MINUTE
    if first == moved:
        assert due == moved
    else:
        assert first <= due <= first + schedule.jitter
        assert all(
            _is_allowed(schedule, first + MINUTE * n) for n in range((due - first) // MINUTE)
        )


def _is_allowed(schedule: Schedule, at: datetime) -> bool:
    return schedule.open_at(at) and not schedule.frozen_at(at)
