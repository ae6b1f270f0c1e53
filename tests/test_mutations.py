"""Each rule of the page, taken away in turn: a test of this kind then sees the damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from histories import a_storm, wrongs
from interleave import Chances, Interleaving, quiet_end
from memory import MemoryKV
from test_interleavings import KINDS, SETTINGS, rotate, scene_of, tick
from test_right import Asked, due, with_right
from worlds import USER, Process, Scene

from rotator.fleet import brake, verdict
from rotator.replacing import proving, publishing, restraint
from rotator.retiring import debts, ending
from rotator.rotation import page
from rotator.run import Run
from rotator.run.fence import Fence
from rotator.run.hand import Nothing, Unseen

Patch = pytest.MonkeyPatch


def claims_are_ignored(patch: Patch) -> None:
    """A policy that another run holds is rotated all the same."""
    others = tuple(step for step in page.ALWAYS if step.when.__name__ != "is_claimed_elsewhere")
    patch.setattr(page, "ALWAYS", others)


def there_is_no_fence(patch: Patch) -> None:
    """A run that was frozen past its claim goes on as if nothing had happened."""
    patch.setattr(Fence, "fenced", lambda self, seconds: seconds)
    patch.setattr(publishing, "still_claimed", lambda run: True)


def checks_and_sets_are_dropped(patch: Patch) -> None:
    """Every write wins."""
    write = MemoryKV.write

    def careless(self: MemoryKV, at: Any, data: Any, cas: int) -> int:
        path = self.store.paths.get(at)
        return write(self, at, data, path.latest if path else 0)

    patch.setattr(MemoryKV, "write", careless)


def keys_are_published_unverified(patch: Patch) -> None:
    """Staged is good enough."""
    patch.setattr(proving, "read_back", lambda run, key: None)
    patch.setattr(proving, "be_accepted", lambda run, key: None)


def nobody_looks_twice_before_retiring(patch: Patch) -> None:
    """What Vault shows at that moment plays no part."""
    patch.setattr(debts, "unfit", lambda run, current: None)
    patch.setattr(ending, "refuse_shown", lambda run, case, view: None)


def lost_answers_are_not_looked_for(patch: Patch) -> None:
    """Asking again is simpler."""
    lines = page.lines

    def careless(run: Run, taken: set[page.Step]) -> Any:
        if isinstance(run.hand, Unseen):
            run.holding.take(Nothing(asked=True))
        return lines(run, taken)

    patch.setattr(page, "lines", careless)


def the_brake_always_lets_go(patch: Patch) -> None:
    """Whatever the facts are."""
    patch.setattr(brake, "decide", lambda who, what, facts: verdict.GO)


def the_right_is_asked_for_too_late(patch: Patch) -> None:
    """Just before the request is sent, and not where it is decided on."""
    patch.setattr(restraint, "may_ask", lambda run, **how: None)


def races(
    tmp_path: Path, kind: Chances, setting: str, jobs: list[Callable[[Process], Any]]
) -> list[str]:
    """What goes wrong in a few hundred schedules, until something does."""
    for seed in range(300):
        scene = scene_of(tmp_path, seed, SETTINGS[setting])
        done = Interleaving(scene, jobs, seed, kind).run()
        wrongs = done.wrongs + done.faults() + quiet_end(scene)
        if wrongs:
            return wrongs
    return []


def keyset_stores_only(tmp_path: Path) -> list[str]:
    """An account whose KeySet answers with something that is no live key."""
    scene = Scene(tmp_path, keyset="store")
    scene.rotator().tick()
    scene.rotator().rotate()
    return [] if scene.works() == USER else ["a dead key is published"]


def secret_was_set_back(tmp_path: Path) -> list[str]:
    """Somebody restored the old value at the path; then its time to be retired comes."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    scene.rotator().rotate()
    old = scene.store.read(scene.published_at(), 1)
    assert old is not None
    scene.store.write(scene.published_at(), old.data, 2)
    scene.pass_time(hours=13)
    scene.rotator().tick()
    return [] if scene.works() == USER else ["the key that Vault shows was retired"]


def answers_get_lost(tmp_path: Path) -> list[str]:
    """Every second issuing answer is lost, on an account that adds keys."""
    scene = Scene(tmp_path)
    scene.rotator().tick()
    asked = 0

    def gate(call: str) -> str:
        nonlocal asked
        asked += call == "ecgrid KeySet"
        return "lose" if call == "ecgrid KeySet" and asked % 2 else "go"

    scene.rotator(gate).rotate()
    return [] if scene.issued() == 1 else [f"{scene.issued()} keys were issued"]


def everything_is_lost_for_long(tmp_path: Path) -> list[str]:
    """A fleet whose answers are all lost for some minutes."""
    return wrongs(tmp_path, a_storm())


def the_right_is_refused(tmp_path: Path) -> list[str]:
    """A policy is due while the fleet lets nobody issue."""
    scene = due(tmp_path)
    before = scene.stored().version
    with_right(scene, Asked(refused=("begin",))).tick()
    return [] if scene.stored().version == before else ["it was claimed and counted for nothing"]


MUTATIONS: dict[str, tuple[Callable[[Patch], None], Callable[[Path], list[str]]]] = {
    "claim": (claims_are_ignored, lambda path: races(path, KINDS["calm"], "adds", [tick, rotate])),
    "fence": (
        there_is_no_fence,
        lambda path: races(path, Chances(freeze=12), "adds", [tick, tick]),
    ),
    "check-and-set": (
        checks_and_sets_are_dropped,
        lambda path: races(path, KINDS["calm"], "adds", [tick, tick]),
    ),
    "verify": (keys_are_published_unverified, keyset_stores_only),
    "second look": (nobody_looks_twice_before_retiring, secret_was_set_back),
    "look": (lost_answers_are_not_looked_for, answers_get_lost),
    "brake": (the_brake_always_lets_go, everything_is_lost_for_long),
    "right": (the_right_is_asked_for_too_late, the_right_is_refused),
}


@pytest.mark.parametrize("rule", MUTATIONS)
def test_without_the_rule_the_damage_is_seen(tmp_path: Path, monkeypatch: Patch, rule: str) -> None:
    """And with it there is none."""
    mutate, experiment = MUTATIONS[rule]
    mutate(monkeypatch)
    assert experiment(tmp_path)


@pytest.mark.parametrize("rule", ["verify", "second look", "look", "brake", "right"])
def test_with_the_rule_there_is_no_damage(tmp_path: Path, rule: str) -> None:
    """The same experiment; the races without mutation are all of test_interleavings."""
    assert MUTATIONS[rule][1](tmp_path) == []
