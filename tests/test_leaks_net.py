"""The net under everything: what it finds, what it leaves alone, what it forgets, and that it never throws."""

from __future__ import annotations

import base64
import gc
import io
import json
import logging
import re
import secrets
import string
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from leaks.hunt import canary
from leaks.search import Search, spellings
from sentry_sdk.envelope import Envelope, Item, PayloadRef
from sentry_sdk.session import Session

from rotator.keys import Secret
from rotator.reporting import sentry
from rotator.secrecy import sinks
from rotator.secrecy.net import LINGER, MASK, NET, PIECE, Net

UNSEARCHED = 2  # spellings that nobody reads: rot13, and backwards
WORDS = (
    "root", "password", "Private", "edi", "edi-gateway", "ek_live_...", "2026", "2026-11-21", "aA1!", "**********",
    "-----------", "xxxxxxxx",
)  # fmt: skip


def value(shape: str) -> str:
    """A value of a shape that ECGrid, Vault or a person makes."""
    return {
        "special": canary(),
        "guid": f"{secrets.token_hex(4)}-{secrets.token_hex(2)}-4{secrets.token_hex(1)}0-{secrets.token_hex(8)}",
        "alnum": secrets.token_hex(4) + "Zz" + secrets.token_hex(12),
        "live": "ek_live_" + secrets.token_urlsafe(24),
    }[shape]


SHAPES = ("special", "guid", "alnum", "live")


@pytest.fixture
def alarms() -> Iterator[list[str]]:
    """The places of the alarms that were raised."""
    places: list[str] = []
    sinks._alarmed.clear()
    sinks.on_catch(places.append)
    yield places
    sinks._alarms.remove(places.append)


def watched(net: Net, text: str) -> Secret:
    """A secret that this net watches, too."""
    made = Secret(text)
    net.add(made, text)
    return made


@pytest.mark.parametrize("shape", SHAPES)
def test_every_spelling_is_masked_and_nothing_else(shape: str) -> None:
    """Nothing of the secret is left by the hunt's own search; the words around it stay."""
    text = value(shape)
    secret, search = Secret(text), Search([text])
    for spelling in list(spellings(text))[:-UNSEARCHED]:
        shown = f"before it, {spelling} , and after it"
        clean = sinks.scrub(shown)
        assert clean.startswith("before it, ")
        assert clean.endswith(", and after it")
        assert search.shown_in(clean.encode()) is None
        assert search.shown_in(shown.encode()) is not None
    assert secret is not None


@pytest.mark.parametrize("shape", SHAPES)
def test_any_ten_characters_are_found(shape: str) -> None:
    """Cut off anywhere, in any case, coloured, or broken over lines; only letters may be a word, only digits a date."""
    text = value(shape)
    secret = Secret(text)
    for at in range(len(text) - PIECE + 1):
        piece = text[at : at + PIECE]
        if re.sub("[-_./:]", "", piece).isalpha() or re.sub("[-_./:]", "", piece).isdigit():
            continue
        for shown in (
            piece,
            piece.upper(),
            piece[:5] + "\n" + piece[5:],
            f"{piece[:3]}\x1b[1;31m{piece[3:]}",
        ):
            assert NET.holds(f"cut: {shown}"), at
    assert secret is not None


def test_base64_of_what_stands_around_it_is_found() -> None:
    """As in a Basic header, whatever its length."""
    text = value("live")
    secret = Secret(text)
    for before in range(7):
        shown = base64.b64encode(b"u" * before + b":" + text.encode()).decode()
        assert MASK in sinks.scrub(f"Authorization: Basic {shown}")
    assert secret is not None


@pytest.mark.parametrize("word", WORDS)
def test_words_and_names_stay(word: str) -> None:
    """A secret that is an everyday word does not make the log unreadable: it is not watched."""
    net = Net()
    secret = watched(net, word)
    said = f"the {word} of edi-gateway in secret/ecgrid/{word}"
    assert net.scrub(said) == said
    assert len(net) == 0
    assert secret is not None


@pytest.mark.parametrize("short", ["P@s5w0d", "aA1!bB2?", "hunter22x", "edi-gateway-key-old"])
def test_a_short_or_wordy_secret_is_found_as_a_whole(short: str) -> None:
    """Password rules allow eight characters; part of it, or its words in another case, are left alone."""
    net = Net()
    secret = watched(net, short)
    for shown in (
        short,
        json.dumps({"a": short}),
        base64.b64encode(f"me:{short}".encode()).decode(),
    ):
        assert MASK in net.scrub(f"it is {shown}.")
    assert net.scrub(short[:-1]) == short[:-1]
    assert secret is not None


def test_a_secret_is_watched_as_long_as_it_lives_and_a_minute_longer() -> None:
    """Not longer: the net grows with what is in flight."""
    now = [0.0]
    net, text = Net(lambda: now[0]), value("alnum")
    one, other = watched(net, text), watched(net, text)
    del one
    gc.collect()
    now[0] += 2 * LINGER
    assert net.holds(text)
    del other
    gc.collect()
    now[0] += LINGER - 1
    assert net.holds(text)
    now[0] += 2
    assert not net.holds(text)
    assert (len(net), net._pieces, net._wholes) == (0, {}, {})


def test_it_keeps_no_value() -> None:
    """Only numbers."""
    text = value("special")
    net = Net()
    secret = watched(net, text)
    kept = repr([net._pieces, net._wholes, [ticket.pieces for ticket in net._held.values()]])
    assert Search([text]).shown_in(kept.encode()) is None
    assert secret is not None


def test_a_text_that_was_harmless_is_searched_again_after_a_new_secret() -> None:
    """What a text gives away depends on what is secret by now."""
    net, text = Net(), value("alnum")
    first = watched(net, value("alnum"))
    assert net.scrub(text) == text
    second = watched(net, text)
    assert net.scrub(text) == MASK
    assert first != second


def test_threads_may_add_drop_and_search_at_once() -> None:
    """None of them fails, and in the end nothing is left."""
    now = [0.0]
    net, failed = Net(lambda: now[0]), []

    def work() -> None:
        try:
            for _ in range(200):
                text = value("live")
                secret = watched(net, text)
                assert MASK in net.scrub(f"x {text}")
                assert secret is not None
        except Exception as error:  # noqa: BLE001 - told by the test
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    now[0] += LINGER
    assert not net.holds("anything at all")
    assert (failed, len(net)) == ([], 0)


KEPT = Secret(secrets.token_urlsafe(30))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.just(KEPT),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet=string.printable) | st.text(alphabet="\\u00%&#;x1bf\x1b[m"))
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    """Whatever it is made of."""
    assert sinks.scrub(text) == text


@pytest.mark.full
@settings(max_examples=300, deadline=None)
@given(PLAIN, st.text(), st.text())
def test_structures_are_scrubbed_and_never_raise(data: Any, before: str, after: str) -> None:
    """Each odd structure, with a secret put into its middle, comes out as plain JSON without it."""
    text = KEPT._value()
    clean = sinks.scrub_all({"data": data, "here": [f"{before} {text} {after}", {text: 1}]})
    assert Search([text]).shown_in(json.dumps(clean).encode()) is None


@pytest.mark.full
@settings(max_examples=300, deadline=None)
@given(PLAIN, PLAIN, st.text())
def test_records_are_cleaned_whatever_is_in_them(message: Any, extra: Any, fmt: str) -> None:
    """A broken format, an exception, odd extras: never an error, never a secret."""
    text = KEPT._value()
    try:
        raise ValueError(text)
    except ValueError:
        raised = sys.exc_info()
    record = logging.makeLogRecord(
        {
            "name": "rotator",
            "msg": f"{fmt} %s %d {text}",
            "args": (message, text),
            "exc_info": raised,
        }
        | {"stack_info": text, "extra_one": extra, "extra_two": {"k": text}}
    )
    sinks.clean(record)
    shown = repr(vars(record)).encode(errors="replace")
    assert Search([text]).shown_in(shown) is None
    assert record.exc_text is not None
    assert record.exc_text.startswith("ValueError at test_leaks_net.py:")


def test_an_object_that_fights_back_is_masked() -> None:
    """Its text cannot be made."""

    class Fighter:
        def __str__(self) -> str:
            raise RuntimeError(KEPT._value())

        __repr__ = __str__

    record = logging.makeLogRecord({"name": "rotator", "msg": Fighter(), "k": Fighter()})
    sinks.clean(record)
    assert record.getMessage() == MASK


def test_a_catch_is_an_alarm_that_names_the_place(alarms: list[str]) -> None:
    """Once in a minute; none for a text that showed nothing."""
    assert sinks.scrub("harmless", "status page") == "harmless"
    assert alarms == []
    assert sinks.scrub(KEPT._value(), "status page") == MASK
    assert sinks.scrub(f"again {KEPT._value()}", "status page") == f"again {MASK}"
    assert alarms == ["status page"]


def test_an_alarm_that_shows_a_secret_itself_ends_there(alarms: list[str]) -> None:
    """No recursion, and still masked."""
    shown: list[str] = []

    def careless(_: str) -> None:
        shown.append(sinks.scrub(KEPT._value(), "alarm"))

    sinks.on_catch(careless)
    try:
        assert sinks.scrub(KEPT._value(), "log") == MASK
    finally:
        sinks._alarms.remove(careless)
    assert (shown, alarms) == ([MASK], ["log"])


def test_a_stream_is_scrubbed_and_otherwise_the_same() -> None:
    """What prints tables and what asks for its encoding find what they need."""
    inner = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    stream = sinks._Scrubbed(inner, "stdout")
    assert stream.write(f"{{{KEPT._value()}}}\n") == len(KEPT._value()) + 3
    stream.flush()
    assert inner.buffer.getvalue() == b"{**}\n"
    assert (stream.encoding, stream.errors, stream.isatty()) == ("utf-8", "backslashreplace", False)
    with pytest.raises(TypeError):
        stream.write(b"bytes")  # type: ignore[arg-type]  # as click tries


def envelopes() -> dict[str, Envelope]:
    """One of each kind of item, with the secret wherever there is room."""
    text = KEPT._value()
    made = {
        name: Envelope(headers={"event_id": "1", "trace": {"transaction": text}, "k": text})
        for name in (
            "event",
            "transaction",
            "check_in",
            "log",
            "session",
            "attachment",
            "filename",
            "profile",
        )
    }
    made["event"].add_event({"message": text, "extra": {text: [text]}, "tags": {"k": f"x{text}"}})
    made["transaction"].add_transaction({"transaction": f"rotate {text}", "spans": []})
    made["check_in"].add_checkin({"monitor_slug": text, "status": "ok"})
    made["log"].add_item(Item(PayloadRef(json={"items": [{"body": text}]}), type="log"))
    made["session"].add_session(Session(did=text))
    made["attachment"].add_item(Item(text.encode(), type="attachment", filename="a.txt"))
    made["filename"].add_item(Item(b"harmless", type="attachment", filename=f"{text}.txt"))
    made["profile"].add_profile({"text": text})
    return made


@pytest.mark.parametrize("kind", envelopes())
def test_an_envelope_of_any_kind_leaves_without_the_secret(kind: str) -> None:
    """Rewritten, or, where that cannot be done, dropped."""
    clean = sentry.scrubbed(envelopes()[kind])
    assert (clean is None) == (kind == "attachment")
    if clean is not None:
        assert Search([KEPT._value()]).shown_in(clean.serialize()) is None
        assert clean.items[0].type == envelopes()[kind].items[0].type


def test_an_envelope_that_cannot_be_scrubbed_is_dropped() -> None:
    """Closed on failure."""
    broken = Envelope(headers={"event_id": "1"})
    broken.items = [None]  # type: ignore[list-item]  # the point
    assert sentry.scrubbed(broken) is None


def test_a_report_without_a_secret_arrives_as_it_was() -> None:
    """Scrubbing rewrites it, and changes nothing."""
    event: Any = {
        "message": "rotation of edi failed in issue",
        "tags": {"policy": "edi"},
        "n": [1, 2.5, None, True],
    }
    envelope = Envelope(headers={"event_id": "1"})
    envelope.add_event(event)
    clean = sentry.scrubbed(envelope)
    assert clean is not None
    assert json.loads(clean.items[0].get_bytes()) == event
