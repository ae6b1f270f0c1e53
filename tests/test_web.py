"""The daemon's window: what it answers, to whom, and that nothing from outside becomes part of the page."""

from __future__ import annotations

import base64
import http.client
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Rotator, Started, until
from test_metrics import row, samples, value

from rotator.keys import Secret
from rotator.reporting import runbook
from rotator.reporting.rows import HistoryLine, LastFailure, Row, Standing
from rotator.secrecy.net import NET
from rotator.web import Health, Owed, Site, View, Window

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
SCRIPT = "<script>document.title='owned'</script>"
VOID = {"meta", "input", "link", "br", "rect"}
POLICY = "user_id: 5001\nvisibility: Private\nschedule: {every: 30d}\nvault: {path: ecgrid/edi}\n"


def a_view(*rows: Row, **more: Any) -> View:
    """A view of these policies, seen just now."""
    return View(Standing(datetime.now(UTC), rows), **more)


@contextmanager
def window(
    view: View | None = None, trouble: str = "", token: Secret | None = None
) -> Iterator[str]:
    """A window over that view; `trouble` is what is wrong with Vault."""
    site = Site(
        alive=lambda: [Health("scheduler", True)],
        ready=lambda: [Health("policies", True), Health("vault", not trouble, trouble)],
        metrics=lambda: b"# metrics\n",
        view=lambda: view or a_view(row()),
    )
    with Window(site, "127.0.0.1", 0, token) as there:
        yield f"http://127.0.0.1:{there.port}"


def get(url: str, **headers: str) -> httpx.Response:
    """The answer to a GET."""
    return httpx.get(url, headers=headers, timeout=30, trust_env=False)


class Page(HTMLParser):
    """A page taken apart: tags in order, text by the cell it is in; asserts that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.names: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-2:] in (["tr", "th"], ["th", "a"]) and "tbody" in self._open:
            self.names.append(data)


def test_health_is_200_or_503_with_reasons_as_json() -> None:
    """What is not well says why."""
    with window(trouble="Vault is sealed") as url:
        assert get(f"{url}/healthz").json() == {
            "status": "ok", "checks": [{"name": "scheduler", "ok": True, "why": None}],
        }  # fmt: skip
        answer = get(f"{url}/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"][1] == {
            "name": "vault",
            "ok": False,
            "why": "Vault is sealed",
        }
        assert "vault: Vault is sealed" in get(url).text


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"]
)
@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz"])
def test_nothing_but_get_is_answered(method: str, path: str) -> None:
    """There is nothing to change."""
    with window() as url:
        answer = httpx.request(method, url + path, timeout=30, trust_env=False)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


def test_other_addresses_are_not_there() -> None:
    """Neither are files."""
    with window() as url:
        for path in ("/x", "/../etc/passwd", "/%2e%2e/", "/metrics/"):
            assert get(url + path).status_code == 404


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://[", "localhost"),
        ("/", "["),
        ("/?" + "&".join(f"a{n}=1" for n in range(30)), "localhost"),
    ],
)
def test_what_no_browser_asks_for_is_400_and_no_event(
    target: str, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stranger must not fill the log."""
    with window() as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        connection.putrequest("GET", target, skip_host=True)
        connection.putheader("Host", host)
        connection.endheaders()
        assert connection.getresponse().status == 400
        connection.close()
    assert capsys.readouterr().err == ""


def test_nothing_from_outside_becomes_part_of_the_page() -> None:
    """An owner, a message or a question that is markup is shown as text."""
    failure = LastFailure(SCRIPT, SCRIPT, SCRIPT, at=NOW)
    view = a_view(
        row(SCRIPT, state="failed", last_failure=failure), owners={SCRIPT: f'"{SCRIPT}'},
        ahead={SCRIPT: [0, 1]}, places={"Environment": SCRIPT}, held={SCRIPT: SCRIPT},
        owed={SCRIPT: [Owed(8, "replaced", datetime.now(UTC), SCRIPT)]},
        history=lambda _: [HistoryLine(NOW, SCRIPT, SCRIPT)],
    )  # fmt: skip
    with window(view, trouble=SCRIPT) as url:
        for query in ("", f'?q=script&state={SCRIPT}&sort="{SCRIPT}', f'?q="{SCRIPT}'):
            page = Page(get(f"{url}/{query}").text)
            assert [tag for tag, _ in page.tags].count("script") == 1
            assert not [
                name for _, attributes in page.tags for name in attributes if name.startswith("on")
            ]


def test_the_policy_lets_nothing_run_but_the_page_itself() -> None:
    """Script and style by their hashes, no other source; no inline styles that it would forbid."""
    with window() as url:
        answer = get(url)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    page = Page(answer.text)
    assert not [attributes for _, attributes in page.tags if "style" in attributes]
    outside = [
        a
        for tag, a in page.tags
        for n in ("src", "href")
        if (a.get(n) or "").startswith(("http", "//"))
    ]
    assert outside == []


def test_filter_and_order_come_from_the_address() -> None:
    """So they work without a script, can be kept as a bookmark, and ten thousand rows weigh what is shown."""
    rows = [
        row(
            f"p{n:04}",
            user_id=6000 + n,
            key_age=timedelta(seconds=n),
            state="failed" if n == 7 else "ok",
        )
        for n in range(1000)
    ]
    view = a_view(*rows, owners={"p0500": "edi@example.com"})
    with window(view) as url:
        assert Page(get(url).text).names[0] == "p0007"
        assert len(Page(get(url).text).names) == 200
        assert len(Page(get(f"{url}/?show=all").text).names) == 1000
        assert Page(get(f"{url}/?state=failed").text).names == ["p0007"]
        assert Page(get(f"{url}/?q=EDI@example").text).names == ["p0500"]
        assert Page(get(f"{url}/?q=6042+p00").text).names == ["p0042"]
        assert Page(get(f"{url}/?sort=age").text).names[0] == "p0999"
        assert Page(get(f"{url}/?sort=nonsense&state=nonsense").text).names[0] == "p0007"
        assert "No policy fits" in get(f"{url}/?q=nothing").text


def test_names_are_in_the_order_that_people_count_in() -> None:
    """Also among those that are equally alarming."""
    names = ["p1", "p2", "p2b", "p10", "q"]
    with window(
        a_view(*(row(name, key_age=timedelta(minutes=1)) for name in sorted(names)))
    ) as url:
        for query in ("", "?sort=policy", "?sort=age", "?sort=last"):
            assert Page(get(f"{url}/{query}").text).names == names


def test_a_failure_is_open_and_has_what_the_runbook_says() -> None:
    """Its message, what to do, when it is tried again, and what it means: nothing has to be looked up elsewhere."""
    now = datetime.now(UTC)
    never = LastFailure("claim", "vault.Sealed", "Vault is sealed", at=now - timedelta(minutes=5))
    failure = never._replace(retry_at=now + timedelta(minutes=20))
    late = never._replace(retry_at=now - timedelta(minutes=3))
    rows = [
        row(name, state="failed", last_failure=one)
        for name, one in (("soon", failure), ("late", late), ("never", never))
    ]
    entry = runbook.entries()["vault.Sealed"]
    with window(a_view(*rows)) as url:
        text = get(url).text
    plain = " ".join(unescape(re.sub("<[^>]+>", "", text)).split())
    for told in (*entry.means, entry.to_do):
        assert told.replace("`", "") in plain
    assert "vault.Sealed in claim, 5 min ago" in plain
    assert "Tried again in 20 min" in plain
    assert "To be tried again since" in plain
    shut = re.sub("<details.*?</details>", "", text, flags=re.DOTALL)
    assert shut.count("<p>Vault is sealed</p>") == len(rows)


def test_the_chart_shows_what_fits() -> None:
    """And the years that are not this one, here and in the rows."""
    at = datetime(2026, 12, 30, 3, tzinfo=UTC)
    ahead = {"edi": [2, 0, 5, *[0] * 28], "as2": [0, 0, 1000, *[0] * 28]}
    rows = [row(name, next_due_at=datetime(2027, 1, 1, 3, tzinfo=UTC)) for name in ahead]
    with window(View(Standing(at, rows), ahead=ahead)) as url:
        everything, one = (get(f"{url}/{query}").text for query in ("", "?q=edi"))
    assert "1,007 rotations in the next 30 days, 1,005 on the busiest" in everything
    assert "7 rotations in the next 30 days, 5 on the busiest" in one
    assert "as2" not in one
    assert "<small>1 Jan 2027 03:00</small>" in one
    assert "Fri 1 Jan 2027</time> edi" in one
    assert "Wed 30 Dec</time> edi" in one


def test_keys_in_grace_holds_and_the_brake_are_told() -> None:
    """Which key lives until when, who waits for what, and what to do about it."""
    at = datetime.now(UTC)
    tomorrow = at + timedelta(days=1)
    told = f"{tomorrow.day} {tomorrow:%b %H:%M}".replace(f" {at.year}", "")
    owed = {
        "edi": [Owed(7, "replaced", tomorrow), Owed(8, "stray", tomorrow)],
        "dead": [Owed(9, "replaced", tomorrow)],
        "stuck": [Owed(number, "replaced", at, "ECGrid refuses") for number in range(11, 19)],
    }
    rows = [
        row(
            "edi",
            paused_until=datetime(2199, 1, 1, tzinfo=UTC),
            paused_reason="audit & more",
            state="failed",
        ),
        row("dead", previous_key="refused"),
        row("stuck"),
        row("off", state="paused", paused_reason="enabled: false"),
    ]
    view = a_view(*rows, owed=owed, held={"fleet.Braked": "5 policies are in doubt"})
    with window(view) as url:
        text = get(url).text
    for part in (
        f"key 7 lives until {told}", f"key 8, never published, is retired {told}",
        f"key 9 is refused already, and retired {told}", "and 3 more keys", "ECGrid refuses",
        "1 replaced key is in its grace; it ends in 24 h",
        "held until 1 Jan 2199 00:00: audit &amp; more", "<small>enabled: false</small>",
        "issuing is held back: 5 policies are in doubt [fleet.Braked]<br><b>To do:</b>",
    ):  # fmt: skip
        assert part in text


def test_ten_thousand_failures_are_bounded() -> None:
    """The first page weighs what it shows; where all are shown, the later ones lead to what else is known of them."""
    failure = LastFailure("claim", "vault.Sealed", "x" * 200, at=NOW)
    rows = [row(f"p{number}", state="failed", last_failure=failure) for number in range(10_000)]
    past = [HistoryLine(NOW, "rotated", "x" * 200)] * 10
    ahead = {one.policy: [1] * 31 for one in rows}
    with window(a_view(*rows, ahead=ahead, history=lambda _: past)) as url:
        assert len(get(url).content) < 1_500_000
        everything = get(f"{url}/?show=all")
        assert len(everything.content) < 15_000_000
        assert int(everything.headers["Content-Length"]) < 600_000
        assert everything.text.count("<details id=") == 2 * 200 + 1
        assert 'href="/?q=p9999"' in everything.text


def test_only_whoever_looks_at_the_page_pays_for_its_templates() -> None:
    """A daemon at which nobody looks does not load them, so neither does any other command."""
    code = "import sys, rotator.daemon, rotator.cli.act, rotator.cli.show; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_an_empty_fleet_says_what_to_do() -> None:
    """The first page that anybody sees."""
    with window(a_view()) as url:
        assert "rotator validate" in get(url).text


def test_what_is_old_says_so() -> None:
    """A page that looks well while nobody looks would be worse than none."""
    with window(View(Standing(datetime.now(UTC) - timedelta(hours=3), [row()]))) as url:
        assert "was read 3 h ago" in get(url).text


def test_a_token_is_asked_for_as_bearer_or_as_password() -> None:
    """Health goes without, and then tells no reasons."""
    token = secrets.token_urlsafe(24)
    basic = base64.b64encode(f"anybody:{token}".encode()).decode()
    with window(trouble="Vault is sealed", token=Secret(token)) as url:
        for path in ("/", "/metrics", "/nothing"):
            assert get(url + path).status_code == 401
            watched = len(NET)
            for wrong in (
                f"Bearer {token[::-1]}",
                "Bearer x",
                "Basic x",
                "Basic eDp5",
                "",
                f"Token {token}",
                "Bearer",
            ):
                assert get(url + path, Authorization=wrong).status_code == 401
            assert (
                len(NET) <= watched
            )  # a guess is no secret: else strangers choose what the log masks
        for right in (f"Bearer {token}", f"Basic {basic}"):
            assert (
                get(f"{url}/metrics", Authorization=right, Host="status.example.com").status_code
                == 200
            )
        assert get(f"{url}/readyz").json() == {"status": "failing"}
        assert "sealed" in get(f"{url}/readyz", Authorization=f"Bearer {token}").text


def test_without_a_token_only_addresses_and_localhost_are_answered() -> None:
    """A page elsewhere, whose name was made to point here, learns nothing through the operator's browser."""
    with window() as url:
        for host in ("evil.example.com", "evil.example.com:9464", "localhost.evil.example.com"):
            assert get(url, Host=host).status_code == 421
        for host in ("localhost:9464", "127.0.0.1", "[::1]:9464", "10.1.2.3:1"):
            assert get(url, Host=host).status_code == 200


def test_a_fault_in_what_is_shown_is_an_answer_and_not_the_end() -> None:
    """The next request is served."""

    def fault() -> View:
        raise ValueError(SCRIPT)

    site = Site(list, list, bytes, fault)
    with Window(site, "127.0.0.1", 0) as there:
        for _ in range(3):
            answer = get(f"http://127.0.0.1:{there.port}/")
            assert answer.status_code == 500
            assert SCRIPT not in answer.text


def test_clients_that_say_nothing_or_go_away_keep_nobody_waiting() -> None:
    """Half a request, and an answer that is not taken."""
    with window(a_view(*(row(f"p{n}") for n in range(3000)))) as url:
        port = int(url.rpartition(":")[2])
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for one in idle[:10]:
            one.sendall(b"GET /?show=all HTTP/1.0\r\n\r\n")
            one.close()
        assert get(f"{url}/healthz").status_code == 200
        for one in idle[10:]:
            one.close()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/" + "x" * 70000)
        assert connection.getresponse().status == 414
        connection.close()


@contextmanager
def slow_clients(url: str, number: int, first: bytes) -> Iterator[list[socket.socket]]:
    """So many connections that have sent `first` and go on no further."""
    port = int(url.rpartition(":")[2])
    made = []
    try:
        for _ in range(number):
            made.append(socket.create_connection(("127.0.0.1", port), 30))
            made[-1].sendall(first)
        yield made
    finally:
        for one in made:
            one.close()


@pytest.mark.parametrize("number", [34, 300])
@pytest.mark.parametrize(
    "first", [b"", b"G", b"GET / HTTP/1.1\r\nX: " + b"y" * 60000], ids=["silent", "slow", "large"]
)
def test_probes_are_answered_however_many_clients_hang(number: int, first: bytes) -> None:
    """And what they sent is not kept beyond the bound on clients at once."""
    with window() as url, slow_clients(url, number, first) as hanging:
        for _ in range(3):
            assert get(f"{url}/healthz").status_code == 200
            assert get(f"{url}/readyz").status_code == 200
        assert len(hanging) == number


def test_a_request_that_drips_is_cut_in_time() -> None:
    """A byte now and then is no way to stay."""
    with window() as url, slow_clients(url, 1, b"GET / HTTP/1.1\r\nX: ") as (one,):
        one.setblocking(False)

        def is_cut() -> bool:
            try:
                one.send(b"y")
                return one.recv(100) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True

        until(is_cut, "the connection is closed")


@pytest.mark.full
def test_whoever_does_not_take_the_answer_is_cut_and_holds_up_nobody() -> None:
    """The largest page, asked for by many who read nothing."""
    view = a_view(*(row(f"p{n}") for n in range(5000)))
    ask = b"GET /?show=all HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with window(view) as url, slow_clients(url, 20, ask) as reading:
        assert get(f"{url}/healthz").status_code == 200

        def is_cut() -> bool:
            try:
                reading[0].getpeername()
                reading[0].send(b"x", socket.MSG_DONTWAIT)
            except OSError:
                return True
            return False

        until(is_cut, "the connection is closed")
        assert get(f"{url}/healthz").status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 12000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\nHost: localhost\n\n", 200),
        (b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000, 405),
    ],
)
def test_what_is_too_long_or_no_request_is_answered_as_that(sent: bytes, status: int) -> None:
    """The answer arrives although not all was read."""
    with window() as url, slow_clients(url, 1, b"") as (one,):
        one.sendall(sent)
        answer = b""
        while part := one.recv(65536):
            answer += part
        assert int(answer.split()[1]) == status


def test_a_foreign_name_sees_of_health_no_more_than_the_word() -> None:
    """A page elsewhere, whose name was made to point here, learns no policy's name from a probe."""
    with window(trouble="edi: Vault is sealed") as url:
        for path in ("/readyz", "/healthz"):
            assert set(get(url + path, Host="evil.example.com").json()) == {"status"}
            assert "checks" in get(url + path, Host="localhost").json()
        assert get(f"{url}/readyz", Host="evil.example.com").status_code == 503


# the daemon


def listening(daemon: Started) -> str:
    """Where a daemon serves."""
    return f"http://127.0.0.1:{until(lambda: _port(daemon), 'the daemon listens')}"


def _port(daemon: Started) -> int | None:
    found = re.search(r'"event": "daemon.listening", "port": (\d+)', daemon.so_far()[1])
    return int(found[1]) if found else None


def test_the_daemon_shows_its_policies_its_health_and_its_metrics(rotator_command: Rotator) -> None:
    """And a failure as it happens, with what to do; no secret is on any page."""
    rotator_command.policy("edi", POLICY + "owner: edi-platform@example.com\n")
    rotator_command.environment |= {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "6s"}
    daemon = rotator_command.start(
        "run", ROTATOR_HTTP__LISTEN="127.0.0.1:0", ROTATOR_LOG__FORMAT="json"
    )
    url = listening(daemon)
    assert get(f"{url}/healthz").json()["status"] == "ok"
    until(lambda: get(f"{url}/readyz").status_code == 200, "it is ready")

    def state() -> float | None:
        return value(
            samples(get(f"{url}/metrics").text), "rotator_policy_state", policy="edi", state="ok"
        )

    until(state, "the policy is adopted")
    page = get(url).text
    for part in ("edi-platform@example.com", "user 5001", "1 policy"):
        assert part in page
    found = samples(get(f"{url}/metrics").text)
    assert value(found, "rotator_rotations_total", policy="edi", outcome="adopted") == 1
    assert value(found, "rotator_vault_token_ttl_seconds") is not None
    assert (value(found, "process_open_fds") or 0) > 0
    rotator_command.assert_silent(page, get(f"{url}/metrics").text)


@pytest.mark.full
def test_the_pages_numbers_are_those_of_plan_and_status(rotator_command: Rotator) -> None:
    """All of them, and those of one policy; holds, keys in grace and failures too, and where the rotator is at work."""
    rotator_command.policy("hourly", POLICY.replace("30d", "1h") + "grace: 30m\n")
    for name, user_id in (("p10", 5002), ("p2", 5003), ("p3", 5999)):
        rotator_command.policy(
            name,
            f"{{user_id: {user_id}, visibility: Private, schedule: {{every: 7d}}, vault: {{path: e/{name}}}}}",
        )
    rotator_command.environment |= {"ROTATOR_DEADLINE": "2s", "ROTATOR_CLAIM_TTL": "6s"}
    rotator_command.environment["SENTRY_ENVIRONMENT"] = "trial"
    assert rotator_command("run", "--once").code == 1
    assert rotator_command("rotate", "hourly").code == 0
    assert rotator_command("hold", "p10", "--for", "2d", "--reason", "audit").code == 0
    url = listening(
        rotator_command.start("run", ROTATOR_HTTP__LISTEN="127.0.0.1:0", ROTATOR_LOG__FORMAT="json")
    )
    until(lambda: "held until" in get(url).text, "the page shows the hold")
    page, only = get(f"{url}/?sort=policy").text, get(f"{url}/?q=hourly").text
    assert Page(page).names == ["hourly", "p2", "p3", "p10"]
    planned = rotator_command("plan", "--json").json["rotations"]
    hourly = [one for one in planned if one["policy"] == "hourly"]
    assert len(hourly) == 720
    assert f"<p>{len(planned)} rotations in the next 30 days" in page
    assert f"<p>{len(hourly)} rotations in the next 30 days" in only
    for one in rotator_command("status", "--json").json["policies"]:
        (shown,) = (part for part in page.split("<tr ") if f'row">{one["policy"]}<' in part)
        assert f"user {one['user_id']}" in shown
        assert f"</span> {one['state']}</span>" in shown
        for name in ("last_rotated_at", "next_due_at"):
            assert one[name] is None or f'datetime="{one[name]}"' in shown
        assert ("lives until" in shown) is (one["previous_key_until"] is not None)
        assert ("held until" in shown) is (one["paused_until"] is not None)
        assert (one["last_failure"] or {"kind": "<td"})["kind"] in shown
    for one in rotator_command("history", "--json").json["history"]:
        (shown,) = (part for part in page.split("<tr ") if f'id="history-{one["policy"]}"' in part)
        assert f"run {one['run']}" in shown
    vault = rotator_command.environment["VAULT_ADDR"].partition("://")[2]
    for place in ("Environment <b>trial", f"Vault <b>{vault}", "ECGrid <b>127.0.0.1"):
        assert f"{place}</b>" in page
    rotator_command.assert_silent(page, only)


def test_a_daemon_that_others_can_reach_needs_a_token_or_the_word(rotator_command: Rotator) -> None:
    """An open port is never an accident."""
    rotator_command.policy("edi", POLICY)
    rotator_command.environment["ROTATOR_HTTP__LISTEN"] = "0.0.0.0:0"
    refused = rotator_command("validate")
    assert (refused.code, "ROTATOR_HTTP__TOKEN" in refused.stderr) == (2, True)
    assert rotator_command("validate", ROTATOR_HTTP__TOKEN="none").code == 0
    token = secrets.token_urlsafe(24)
    rotator_command.secrets.add(token)
    assert rotator_command("validate", ROTATOR_HTTP__TOKEN=token).code == 0


def test_slow_clients_neither_keep_the_daemon_from_ending_nor_fill_its_memory(
    rotator_command: Rotator,
) -> None:
    """SIGTERM ends it while they hang."""
    rotator_command.policy("edi", POLICY)
    daemon = rotator_command.start(
        "run", ROTATOR_HTTP__LISTEN="127.0.0.1:0", ROTATOR_LOG__FORMAT="json"
    )
    url = listening(daemon)
    until(lambda: get(f"{url}/readyz").status_code == 200, "it is ready")

    def used() -> int:
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    before = used()
    large = b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000
    with slow_clients(url, 40, b"GET / HTT"), slow_clients(url, 40, large[:60000]):
        assert get(f"{url}/healthz").status_code == 200
        assert used() - before < 32 * 1024
        assert daemon.finish(send=signal.SIGTERM).code == 0


def test_an_address_that_is_taken_is_said_and_nothing_begins(rotator_command: Rotator) -> None:
    """Exit 1, which a service manager tries again: the settings may be right, and the address free the next time."""
    rotator_command.policy("edi", POLICY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = rotator_command("run", ROTATOR_HTTP__LISTEN=address)
    assert done.code == 1
    assert "ROTATOR_HTTP__LISTEN: cannot be listened at" in done.stderr
    assert "[daemon.CannotListen]" in done.stderr
    assert json.dumps("rotation") not in done.stderr
