"""The status page in a real browser: seen, used by keyboard, checked for accessibility, and attacked."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from browser import Browser
from conftest import until

from rotator.reporting.rows import HistoryLine, LastFailure, Row, Standing, State
from rotator.web import Health, Owed, Site, View, Window

pytestmark = pytest.mark.deploy

AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
SHOTS = os.environ.get("ROTATOR_SCREENSHOTS")  # a directory to leave the pictures in
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
STATES: tuple[State, ...] = (
    "ok",
    "ok",
    "ok",
    "due",
    "rotating",
    "paused",
    "failed",
    "overdue",
    "not-adopted",
)

STATES_OF: dict[str, tuple[State, ...]] = {
    "mixed": STATES,
    "well": ("ok",),
    "failing": ("failed", "overdue"),
}


def a_row(number: int, now: datetime, states: tuple[State, ...] = STATES) -> Row:
    """One of many policies, in one of the states."""
    state, age = states[number % len(states)], timedelta(days=number % 40)
    most = timedelta(days=30 if state == "overdue" else 45)
    age = most + timedelta(hours=1) if state == "overdue" else age
    failure = LastFailure(
        "claim", "vault.MissingCapability", f"no {SCRIPT}", at=now, retry_at=now + timedelta(minutes=5),
    )  # fmt: skip
    return Row(
        f"{SCRIPT if number == 1 else 'edi'}-{number:04}",
        5000 + number,
        state,
        key_id=None if state == "not-adopted" else 9000 + number,
        key_age=None if state == "not-adopted" else age,
        max_age=most,
        previous_key="accepted",
        last_rotated_at=now - age,
        next_due_at=now + timedelta(days=number % 30),
        paused_until=now + timedelta(days=50) if state == "paused" else None,
        paused_reason=SCRIPT if state == "paused" else None,
        last_failure=failure if state in ("failed", "overdue") else None,
    )


@contextmanager
def window(policies: int, trouble: str = "", states: tuple[State, ...] = STATES) -> Iterator[str]:
    """A window over so many policies, of which some have owners who are not to be trusted."""
    now = datetime.now(UTC)
    rows = [a_row(number, now, states) for number in range(policies)]
    owners = {
        row.policy: SCRIPT if number % 2 else "edi@example.com" for number, row in enumerate(rows)
    }
    ahead = {
        row.policy: [(number + day) % 30 == 7 for day in range(31)]
        for number, row in enumerate(rows)
    }
    owed = {
        row.policy: [Owed(8000 + number, "replaced", now, SCRIPT if number % 3 else None)]
        for number, row in enumerate(rows)
    }
    places = {
        "Environment": "production",
        "Vault": "vault.example.com:8200",
        "ECGrid": "rest.ecgrid.io",
    }
    health = [Health("vault", not trouble, trouble)]

    def view() -> View:
        past = [HistoryLine(now, "rotated", f"key 9000; replaces key 8000; {SCRIPT}")] * 10
        return View(
            Standing(datetime.now(UTC), rows), places, owners, ahead, owed, history=lambda _: past
        )

    with Window(Site(lambda: health, lambda: health, bytes, view), "127.0.0.1", 0) as there:
        yield f"http://127.0.0.1:{there.port}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all that is looked at."""
    with tempfile.TemporaryDirectory() as profile, Browser(Path(profile)) as there:
        yield there


def refusals(browser: Browser) -> list[str]:
    """What the page's security policy has stopped, and errors of its script."""
    told = [event["params"] for event in browser.events if event.get("method") == "Log.entryAdded"]
    return [entry["entry"]["text"] for entry in told if "favicon" not in json.dumps(entry)]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    ("policies", "kind"),
    [
        (0, "well"),
        (3, "mixed"),
        (3, "failing"),
        (200, "mixed"),
        (10000, "well"),
        (10000, "failing"),
    ],
)
def test_the_page_can_be_read_by_everybody(
    browser: Browser, tmp_path: Path, policies: int, kind: str, width: int, dark: bool
) -> None:
    """No violation that axe-core finds, with failures opened; it fits the width; nothing was refused or run."""
    browser.look_at(width, dark=dark)
    trouble = "no connection (ConnectError); check VAULT_ADDR" if policies == 3 else ""
    with window(policies, trouble, STATES_OF[kind]) as url:
        browser.open(url)
        browser.run(
            "[...document.querySelectorAll('details')].slice(0, 9).forEach(one => one.open = true)"
        )
        browser.run(f"{AXE.read_text()};0")
        found = browser.run(
            "axe.run().then(all => all.violations.map(one => [one.id, one.nodes[0].html]))"
        )
        assert found == []
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert "owned" not in browser.run("document.title")
        assert browser.run("document.images.length") == 0
        assert refusals(browser) == []
        shot = tmp_path / "page.png"
        browser.screenshot(shot, whole=policies < 10)
        if SHOTS:
            name = f"{policies}-{kind}-{width}-{'dark' if dark else 'light'}.png"
            (Path(SHOTS) / name).write_bytes(shot.read_bytes())
        assert shot.stat().st_size > 5000
        browser.open("about:blank")  # else it asks for the page anew when nobody serves it any more


def key(browser: Browser, name: str, text: str = "") -> None:
    """Presses a key."""
    for kind in ("keyDown", "keyUp"):
        given = {"type": kind, "key": name, "code": name}
        codes = {"Tab": 9, "Enter": 13}
        if kind == "keyDown" and (text or name == "Enter"):
            given["text"] = text or "\r"
        browser.ask("Input.dispatchKeyEvent", windowsVirtualKeyCode=codes.get(name, 0), **given)


def wait_in(browser: Browser, condition: str) -> None:
    """Waits until that holds in the page."""
    until(lambda: browser.run(condition), condition)


def test_it_is_used_by_keyboard_alone_and_refreshes_itself(browser: Browser) -> None:
    """Skip link, filter as you type, a failure opened; refreshing keeps what is open and what has the focus."""
    browser.look_at(1280, dark=False)
    with window(300) as url:
        browser.open(url)
        key(browser, "Tab")
        assert browser.run("document.activeElement.className") == "skip"
        key(browser, "Tab")
        assert browser.run("document.activeElement.id") == "q"
        for letter in "0007":
            key(browser, letter, letter)
        wait_in(browser, "document.querySelectorAll('tbody tr').length === 1")
        assert browser.run("location.search") == "?q=0007"
        assert browser.run("document.activeElement.id") == "q"
        assert "1 of 1 that fit, among 300" in browser.run(
            "document.getElementById('count').textContent"
        )
        browser.run("document.querySelector('tbody summary').focus()")
        key(browser, "Enter")
        assert browser.run("document.querySelector('tbody details').open")
        browser.run("window.before = document.querySelector('tbody tr')")
        browser.run("document.dispatchEvent(new Event('visibilitychange'))")
        wait_in(browser, "document.querySelector('tbody tr') !== window.before")
        assert browser.run("document.querySelector('tbody details').open")
        assert browser.run("document.activeElement.tagName") == "SUMMARY"


def test_it_says_so_when_the_rotator_is_gone(browser: Browser) -> None:
    """What it shows is kept, and marked."""
    browser.look_at(1280, dark=False)
    with window(3) as url:
        browser.open(url)
    browser.run("document.dispatchEvent(new Event('visibilitychange'))")
    wait_in(browser, "document.body.classList.contains('lost')")
    assert browser.run("document.querySelectorAll('tbody tr').length") == 3


def test_two_thousand_rows_are_light_and_shown_at_once(
    browser: Browser, record_property: Callable[[str, object], None]
) -> None:
    """Weight over the wire and time until painted, for the benchmark: all rows, which nobody has to ask for."""
    with window(2000) as url:
        for name, address in (("page", url), ("all", f"{url}?show=all")):
            packed = httpx.get(address, timeout=30, trust_env=False)
            size = int(packed.headers["Content-Length"])
            browser.open(address)
            took = browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd")
            record_property(f"status_{name}_bytes", size)
            record_property(f"status_{name}_ms", round(took))
            assert size < 200_000
