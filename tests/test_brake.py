"""The brake's decision: one pure function of facts, and the facts that a record tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rotator.fleet.brake import Brake
from rotator.fleet.verdict import (
    LONGEST_PAUSE,
    Facts,
    Trouble,
    decide,
    is_mass,
    limit_of,
    pause_after,
)
from rotator.journal import WATCH, Claim, Drift, Failed, Record, Underway
from rotator.keys import Issue, Visibility
from rotator.run.right import MASS_DRIFT, For

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CALM = Facts(now=NOW, limit=5, at_once=8, trouble={}, begun={})


def ago(seconds: float) -> datetime:
    """So long before now."""
    return NOW - timedelta(seconds=seconds)


def troubled(count: int, attempts: int = 1, *, again: bool = True) -> dict[str, Trouble]:
    """So many policies in trouble, t0 the latest."""
    return {f"t{n}": Trouble(ago(60 + n), attempts, again) for n in range(count)}


def facts(**changes: Any) -> Facts:
    """The calm ones, but for that."""
    return CALM._replace(**changes)


FULL: dict[str, For] = {f"b{number}": "begin" for number in range(8)}
BRAKED = facts(trouble=troubled(5))
TURN = facts(trouble=troubled(5, attempts=2), waiting=True)
WORKS = facts(trouble=troubled(5), waiting=True, tried=True, worked=True)
BEGUN = facts(trouble=troubled(5), begun={"due": "begin"}, looking=frozenset({"t0"}))
MANY_WAIT = facts(trouble=troubled(24), begun={"t0": "again"}, unresolved=frozenset(troubled(24)))
LEFT_BEHIND = facts(trouble=troubled(3), before=frozenset({"a", "b"}))
LEFT_ALONE = facts(before=frozenset("abcdefghijklm"), doubtful=13)
CASES: dict[str, tuple[str, For, Facts, str]] = {
    "nothing is wrong": ("due", "begin", CALM, "go"),
    "few are in trouble": ("due", "begin", facts(trouble=troubled(4)), "go"),
    "there is no brake": ("due", "begin", facts(limit=0, trouble=troubled(24)), "go"),
    "as many as may are at work": ("due", "begin", facts(begun=FULL), "soon"),
    "so many wait for a lost answer": ("due", "begin", facts(unresolved=frozenset(FULL)), "soon"),
    "it is one of them": ("b0", "begin", facts(begun=FULL), "go"),
    "it waits itself, and adds none": ("t0", "begin", MANY_WAIT, "go"),
    "a re-issue waits for no place": ("t0", "again", facts(begun=FULL), "go"),
    "few are, others were in doubt before": ("due", "begin", LEFT_BEHIND, "go"),
    "and one of these may be left behind": (
        "b2", "begin", LEFT_BEHIND._replace(begun={"due": "begin"}), "soon"
    ),
    "braked, one that is due": ("due", "begin", BRAKED, "go"),
    "braked, one in trouble": ("t3", "again", BRAKED, "go"),
    "braked, somebody has begun": ("due", "begin", facts(trouble=troubled(5), begun={"t1": "again"}), "soon"),
    "braked, the same for one in trouble": ("t0", "again", facts(trouble=troubled(5), begun={"x": "begin"}), "soon"),
    "braked, it has begun itself": ("t1", "again", facts(trouble=troubled(5), begun={"t1": "again"}), "go"),
    "a pause after a failure": ("t0", "again", facts(trouble=troubled(5), again_at=ago(-1)), "held"),
    "the pause is over": ("t0", "again", facts(trouble=troubled(5), again_at=NOW), "go"),
    "those in trouble come first": ("due", "begin", facts(trouble=troubled(5), looking=frozenset({"t0"})), "soon"),
    "one of them was tried last, in vain": ("t0", "again", TURN, "soon"),
    "it was tried by this process, and works": ("t0", "again", WORKS, "soon"),
    "so it is the turn of the due": ("due", "begin", TURN._replace(looking=frozenset({"t0"})), "go"),
    "after one that works, too": ("due", "begin", WORKS, "go"),
    "the right that it has it keeps": ("t0", "again", WORKS._replace(begun={"t0": "again"}), "go"),
    "one that is due keeps its right as well": ("due", "begin", BEGUN, "go"),
    "not while nobody is due": ("t0", "again", facts(trouble=troubled(5, attempts=2)), "go"),
    "no further one into doubt": ("due", "begin", facts(trouble=troubled(13)), "held"),
    "until one works": ("due", "begin", facts(trouble=troubled(24), waiting=True, worked=True), "go"),
    "until all were tried again, in vain": ("due", "begin", facts(trouble=troubled(13, attempts=2)), "go"),
    "not while nobody has looked for those from before": ("due", "begin", LEFT_ALONE, "held"),
    "though some were tried again, in vain": (
        "due", "begin", LEFT_ALONE._replace(trouble=troubled(5, attempts=2), doubtful=18), "held"
    ),
    "one in trouble may be tried": ("t0", "again", LEFT_ALONE._replace(trouble=troubled(1)), "go"),
    "not by publishing what they have": ("due", "begin", facts(trouble=troubled(13, attempts=9, again=False)), "held"),
    "a repair": ("drifted", "repair", CALM, "go"),
    "repairs go one at a time": ("drifted", "repair", facts(begun={"other": "repair"}), "soon"),
    "beside rotations": ("drifted", "repair", facts(begun={"other": "begin"}), "go"),
    "many drifted": ("drifted", "repair", facts(mass_drift="many"), "mass"),
    "which holds no rotation": ("due", "begin", facts(mass_drift="many"), "go"),
    "a repair is braked, too": ("drifted", "repair", facts(trouble=troubled(5), again_at=ago(-1)), "held"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_who_may_issue(case: str) -> None:
    """Go; held back for a moment, while others end; or held back, for everybody or for drift."""
    who, what, known, said = CASES[case]
    verdict = decide(who, what, known)
    held = "mass" if verdict.kind == MASS_DRIFT else "held"
    assert ("go" if verdict.go else "soon" if verdict.soon else held) == said
    assert verdict.go or verdict.why


@pytest.mark.parametrize(
    ("setting", "policies", "limit"),
    [(5, 1, 2), (5, 2, 2), (5, 5, 2), (5, 8, 4), (5, 10, 5), (5, 1000, 5), (0, 10, 0), (1, 10, 2)],
)
def test_the_limit_is_the_setting_or_half_of_the_policies(
    setting: int, policies: int, limit: int
) -> None:
    """At least two; 0 is no brake."""
    assert limit_of(setting, policies) == limit


def test_the_pause_doubles_up_to_five_minutes() -> None:
    """From half a minute on."""
    seconds = [pause_after(number).total_seconds() for number in range(7)]
    assert seconds == [0, 30, 60, 120, 240, 300, 300]
    assert pause_after(10**6) == LONGEST_PAUSE


@pytest.mark.parametrize(
    ("drifted", "checked", "mass"),
    [(4, 4, False), (5, 49, True), (5, 50, False), (25, 40, True), (6, 0, True)],
)
def test_drift_is_everybodys_from_a_tenth_on(drifted: int, checked: int, mass: bool) -> None:
    """And from the limit on; without a brake it never is."""
    assert is_mass(drifted, checked, 5) is mass
    assert not is_mass(drifted, checked, 0)


# what a record tells


def record(sent: int = 1, **changes: Any) -> Record:
    """One whose rotation is open."""
    underway = Underway(
        run="r", kind="rotate", reason="", by="", user_id=1, visibility=Visibility.PRIVATE,
        issue=Issue.KEYSET, baseline=(), began=ago(600), sent=sent,
    )  # fmt: skip
    return Record.new("edi").change(underway=underway, **changes)


def failed(seconds: float) -> Failed:
    """A failure so long ago."""
    return Failed(
        at=ago(seconds), phase="issue", kind="k", message="m", attempts=3, retry_at=None, digest=""
    )


def claim(seconds: float) -> Claim:
    """A claim until then."""
    return Claim(holder="h", by="b", until=ago(-seconds))


@pytest.mark.parametrize(
    ("known", "since"),
    [
        (Record.new("edi"), None),
        (record(sent=0), None),
        (record(claim=claim(60)), None),
        (record(claim=claim(-60)), ago(60)),
        (record(), ago(600)),
        (record(failed=failed(30)), ago(30)),
        (record(failed=failed(30), claim=claim(60)), ago(30)),
        (record(failed=failed(3600), claim=claim(60)), None),
    ],
)
def test_a_policy_is_in_trouble_from_a_request_until_its_key_is_there(
    known: Record, since: datetime | None
) -> None:
    """Once its run failed, or is gone; not while a first run is at work, nor where nothing was sent."""
    assert known.in_trouble(NOW) == since


def brake_of(boot: list[float], checked: int = 100) -> Brake:
    """A brake over ten policies, in a world of its own."""
    made = Brake(5, 8, lambda: NOW + timedelta(seconds=boot[0]), lambda: boot[0], lambda: checked)
    made.over([f"t{number}" for number in range(10)])
    return made


def test_what_a_person_let_go_counts_no_more_until_it_fails_anew() -> None:
    """And a record that no policy here names counts for an hour."""
    boot = [0.0]
    brake = brake_of(boot)
    for number in range(4):
        brake.saw(f"t{number}", record(failed=failed(30)))
    brake.saw("stranger", record(failed=failed(30)))
    assert brake.facts().braked
    boot[0] = 3600.0
    assert not brake.facts().braked
    brake.saw("t4", record(failed=failed(30)))
    assert brake.facts().braked
    brake.let_go_at = NOW
    assert brake.facts().trouble == {}
    brake.saw("t4", record(failed=failed(-5)))
    assert list(brake.facts().trouble) == ["t4"]


def test_what_was_in_doubt_before_a_process_began_may_have_nobody_at_work_on_it() -> None:
    """So processes that are killed one after the other brake as one; no alarm, since somebody may well be."""
    boot = [0.0]
    brake = brake_of(boot)
    for number in range(4):
        brake.saw(f"t{number}", record(claim=claim(60)))
    assert not brake.facts().braked
    brake.saw("t4", record(claim=claim(60)))
    assert brake.facts().braked
    assert "t4" in (brake.why_one_at_a_time() or "")
    assert brake.why() == {}
    brake.saw("t0", Record.new("edi"))
    assert not brake.facts().braked, "somebody was"


def test_who_failed_a_moment_ago_comes_after_all_that_work() -> None:
    """Where a person orders many at once: tried first, it would fail again, and nobody would be tried for a while."""
    boot = [0.0]
    brake = brake_of(boot)
    resting = failed(10).model_copy(update={"retry_at": ago(-20)})
    brake.saw("t1", record(failed=resting))
    assert sorted(["t1", "t2"], key=brake.turn) == ["t2", "t1"]
    boot[0] = 21.0
    assert brake.turn("t1") == brake.turn("t2")


def test_of_two_that_ask_in_one_moment_the_first_goes() -> None:
    """Both have counted their request, and see each other's: else neither would ever go, whenever the pause is over."""
    rotators = [brake_of([0.0]), brake_of([0.0])]
    for brake in rotators:
        for number in range(5):
            brake.saw(f"t{number}", record(failed=failed(400)))
    assert rotators[0].ask("t0", "again").go
    assert rotators[1].ask("t1", "again").go
    later = record(failed=failed(400)).change(watch_until=NOW + WATCH)
    rotators[0].saw("t1", later)
    rotators[1].saw("t0", later)
    assert rotators[0].ask("t0", "begin", NOW).go
    assert not rotators[1].ask("t1", "begin", NOW).go


def test_what_comes_into_doubt_afterwards_has_somebody_at_work_on_it() -> None:
    """Another rotator, for as long as its claim holds."""
    brake = brake_of([0.0])
    brake.saw("t9", Record.new("edi"))
    began = record(claim=claim(60))
    assert began.underway is not None
    later = began.change(underway=began.underway.model_copy(update={"began": ago(-1)}))
    for number in range(5):
        brake.saw(f"t{number}", later)
    assert not brake.facts().braked


def test_who_could_only_look_and_failed_lengthens_no_pause() -> None:
    """The pause counts from when a key was asked for last, not from when somebody at a limit failed once more."""
    boot = [0.0]
    brake = brake_of(boot)
    for number in range(5):
        brake.saw(f"t{number}", record(failed=failed(30)))
    assert brake.ask("t9", "begin").go, "ten minutes ago, with five minutes' pause"
    brake.ends("t9", None, worked=True)
    brake.saw("t0", record(failed=failed(0)))
    assert brake.facts().again_at is None, "it works, and nobody has asked since"


def test_a_mass_drift_is_over_once_half_of_them_are_well() -> None:
    """And does not begin again with the other half."""
    brake = brake_of([0.0], checked=20)
    drifted = Record.new("edi").change(drifted=Drift(since=ago(30), probed_at=ago(20)))
    for number in range(8):
        brake.saw(f"t{number}", drifted)
    assert brake.facts().mass_drift
    for number in range(3):
        brake.saw(f"t{number}", Record.new("edi"))
    assert brake.facts().mass_drift
    brake.saw("t3", Record.new("edi"))
    assert not brake.facts().mass_drift
    brake.saw("t8", drifted)
    assert not brake.facts().mass_drift


def test_a_drifted_key_is_probed_with_a_back_off_up_to_a_day() -> None:
    """The longer it is known to be refused, the seldomer."""
    waits = [Drift(since=NOW, probed_at=NOW + timedelta(seconds=s)) for s in (12, 100, 10**6)]
    later = [(one.again_at - one.probed_at).total_seconds() for one in waits]
    assert later == [30, 100, 86400]
