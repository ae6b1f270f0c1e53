"""Which proxy is used for an address: what the variables name, NO_PROXY exempts, and loopback never has."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from conftest import Rotator
from receiver import Receiver, receiver

from rotator.errors import BadInput
from rotator.posting import post
from rotator.reporting.sentry import flush, send, start
from rotator.settings import proxy_for

PROXY = "http://proxy.example:3128"
VAULT = "https://vault.corp.example:8200/v1"


@pytest.fixture
def recorder() -> Iterator[Receiver]:
    """A proxy that keeps what it is asked, and passes nothing on."""
    with receiver() as there:
        yield there


def uses(url: str, **environ: str) -> bool:
    """Whether an address is asked through the proxy that is named for all."""
    return proxy_for(url, {"ALL_PROXY": PROXY, **environ}) == PROXY


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.9.8.7", "127.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_this_machine_is_never_asked_through_a_proxy(scheme: str, host: str) -> None:
    """Whatever the variables say: what is plain http there would be read by the proxy."""
    named = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), PROXY)
    assert proxy_for(f"{scheme}://{host}:8200/v1", named) is None


@pytest.mark.parametrize(
    ("listed", "url"),
    [
        ("vault.corp.example", VAULT),
        ("VAULT.Corp.Example", VAULT),
        ("corp.example", VAULT),
        (".corp.example", VAULT),
        ("*.corp.example", VAULT),
        ("corp.example", "https://corp.example."),
        ("other.example , vault.corp.example", VAULT),
        ("other.example vault.corp.example", VAULT),
        ("vault.corp.example:8200", VAULT),
        ("corp.example:443", "https://vault.corp.example"),
        ("*", VAULT),
        ("other.example, *", VAULT),
        ("10.0.0.0/8", "https://10.11.12.13:8200"),
        ("10.1.2.3/8", "https://10.11.12.13:8200"),
        ("10.11.12.13", "https://10.11.12.13:8200"),
        ("10.11.12.13:8200", "https://10.11.12.13:8200"),
        ("::ffff:10.11.12.13", "https://10.11.12.13:8200"),
        ("10.0.0.0/8", "https://[::ffff:10.11.12.13]:8200"),
        ("fd00::/8", "https://[fd12:3456::1]:8200"),
        ("fd12:3456:0::1", "https://[fd12:3456::1]:8200"),
        ("[fd12:3456::1]", "https://[fd12:3456::1]:8200"),
        ("[fd12:3456::1]:8200", "https://[fd12:3456::1]:8200"),
    ],
)
def test_what_no_proxy_lists_is_asked_directly(listed: str, url: str) -> None:
    """Names and all below them, addresses, networks, ports, spaces, and the star."""
    assert not uses(url, NO_PROXY=listed)


@pytest.mark.parametrize(
    ("listed", "url"),
    [
        ("", VAULT),
        (",, ,", VAULT),
        ("ault.corp.example", VAULT),
        ("corp.example.org", VAULT),
        ("*.corp.example", "https://corp.example"),
        ("vault.corp.example:443", VAULT),
        ("10.0.0.0/8", "https://11.0.0.1"),
        ("10.0.0.0/8", VAULT),
        ("10.11.12.13:443", "https://10.11.12.13:8200"),
        ("fd00::/8", "https://[fe80::1]:8200"),
        ("0.0.0.0/0", "https://[fd12:3456::1]:8200"),
        ("[fd12:3456::1]:443", "https://[fd12:3456::1]:8200"),
        ("10.0.0.0/99", "https://10.11.12.13:8200"),
    ],
)
def test_what_it_does_not_list_is_asked_through_the_proxy(listed: str, url: str) -> None:
    """A name that merely ends alike, another port, another network."""
    assert uses(url, NO_PROXY=listed)


def test_the_scheme_of_the_address_decides_and_lower_case_goes_first() -> None:
    """As curl has it; a name in lower case without a value means none."""
    other = "http://other.example:3128"
    assert proxy_for(VAULT, {"HTTPS_PROXY": PROXY, "ALL_PROXY": other}) == PROXY
    assert proxy_for("http://ecgrid.example", {"HTTPS_PROXY": PROXY}) is None
    assert proxy_for(VAULT, {"https_proxy": PROXY, "HTTPS_PROXY": other}) == PROXY
    assert proxy_for(VAULT, {"https_proxy": "", "HTTPS_PROXY": other}) is None
    assert proxy_for(VAULT, {"HTTPS_PROXY": "proxy.example:3128"}) == PROXY
    assert not uses(VAULT, no_proxy="*", NO_PROXY="other.example")


@pytest.mark.parametrize(
    "proxy", ["socks5://p:1080", "socks5h://p", "ftp://p", "http://", "http://p:x"]
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(variable: str, proxy: str) -> None:
    """And by no other; its address, which may hold a password, is not shown."""
    with pytest.raises(BadInput) as caught:
        proxy_for(VAULT, {variable: proxy})
    (problem,) = caught.value.problems
    assert problem.where == variable
    assert "http://proxy:3128" in problem.what
    assert ("SOCKS" in problem.what) == proxy.startswith("socks")
    assert proxy_for(VAULT, {variable: proxy, "NO_PROXY": "corp.example"}) is None


def test_a_socks_proxy_is_refused_by_its_name_alone(rotator_command: Rotator) -> None:
    """The command says which variable, and nothing of the certificates that are right."""
    rotator_command.policy(
        "edi", "user_id: 5001\nvisibility: Private\nschedule: manual\nvault: {path: e}\n"
    )
    away = {"VAULT_ADDR": "https://vault.example:8200", "ALL_PROXY": "socks5://127.0.0.1:1080"}
    rotator_command.environment |= away
    done = rotator_command("status")
    assert (done.code, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ALL_PROXY: names a SOCKS proxy")


@pytest.mark.full
def test_neither_vault_nor_ecgrid_nor_hooks_nor_sentry_on_this_machine_meet_the_proxy(
    rotator_command: Rotator, recorder: Receiver
) -> None:
    """A rotation with every variable set: the proxy is asked nothing."""
    proxy = f"http://{recorder.address}"
    with receiver() as there:
        rotator_command.policy(
            "edi",
            "user_id: 5001\nvisibility: Private\nschedule: {every: 30d}\nvault: {path: ecgrid/edi}\n"
            f"after: [{{webhook: 'http://{there.address}/hook'}}]\n",
        )
        named = {
            name: proxy
            for one in ("http", "https", "all")
            for name in (f"{one}_proxy", f"{one.upper()}_PROXY")
        }
        sentry = {"SENTRY_DSN": f"http://{secrets.token_hex(8)}@{there.address}/1"}
        rotator_command.environment |= named | sentry
        done = rotator_command("rotate", "edi", "--json")
        assert (done.code, done.json["summary"]) == (0, {"rotated": 1})
        failed = rotator_command("rotate", "edi", ROTATOR_ECGRID__API_KEY="x" * 20)
        assert failed.code == 1
        assert {taken.path for taken in there.taken} == {"/hook", "/api/1/envelope/"}
    assert recorder.taken == []


def test_a_webhook_elsewhere_goes_by_the_proxy_with_its_password(
    recorder: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not where NO_PROXY exempts it."""
    monkeypatch.setenv("HTTP_PROXY", f"http://some%20body:word@{recorder.address}")
    assert post("http://hooks.invalid/a", b"{}", {}, 30) == (200, "status 200")
    (taken,) = recorder.taken
    assert taken.path == "http://hooks.invalid/a"
    assert taken.headers["Proxy-Authorization"] == "Basic c29tZSBib2R5OndvcmQ="
    monkeypatch.setenv("NO_PROXY", "*.invalid")
    assert post("http://hooks.invalid/a", b"{}", {}, 30)[0] == 0
    assert len(recorder.taken) == 1


def test_sentry_elsewhere_goes_by_the_proxy(
    recorder: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same function decides for it."""
    monkeypatch.setenv("HTTP_PROXY", f"http://{recorder.address}")
    start("http://key@sentry.invalid/1", None, None, lambda _reason: None)
    send("edi: rotation failed", ["edi"], {})
    flush(30)
    assert [taken.path for taken in recorder.taken] == ["http://sentry.invalid/api/1/envelope/"]
