"""A value in memory: what it says about others, and that it never says itself."""

from __future__ import annotations

import copy
import json
import pickle
import secrets

import pytest

from rotator.errors import Permanent
from rotator.inventory.lookup import named
from rotator.keys import Agreement, KeyRef, Secret, Seen


@pytest.fixture
def text() -> str:
    """A value as ECGrid might make one, with the characters that break encodings."""
    return f"ek_{secrets.token_urlsafe(12)}+/=&<>\"'\\%{secrets.token_hex(6)}"


def test_it_has_no_readable_form(text: str) -> None:
    """Neither str, repr, format nor a dump of its attributes shows it."""
    value = Secret(text)
    shown = [
        str(value),
        repr(value),
        f"{value}",
        f"{value!r:>80}",
        f"{value}",
        repr([value]),
        repr(dir(value)),
    ]
    assert not any(text in form or text[:10] in form for form in shown)
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize(
    "escape", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, hash, list, len, bytes]
)
def test_it_cannot_be_copied_serialised_or_iterated(text: str, escape: object) -> None:
    """Each of these would be one more place to leak from."""
    with pytest.raises(TypeError) as refused:
        escape(Secret(text))  # type: ignore[operator]  # that it fails is the point
    assert text not in str(refused.value)


def test_it_cannot_be_changed(text: str) -> None:
    """Not even by its own attribute."""
    with pytest.raises(AttributeError):
        Secret(text)._value = str


def test_equality_is_by_value_and_only_among_secrets(text: str) -> None:
    """A plain text is never equal, so no test of membership can be turned into an oracle by mistake."""
    assert Secret(text) == Secret(text)
    assert Secret(text) != Secret(text + "x")
    assert Secret(text) != text


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "  {}\t", "\ufeff{}", "\ufeff{}\n"])
def test_white_space_and_bom_around_a_value_are_dropped(text: str, around: str) -> None:
    """As editors and `kubectl create secret --from-file` leave them."""
    assert Secret.clean(around.format(text), "the file") == Secret(text)


@pytest.mark.parametrize("bad", ["", " \n", "{}\x00", "{}\x1b[0m", "{}é", "{}\n{}", "{} {}"])
def test_what_no_header_can_carry_is_refused_by_source_alone(text: str, bad: str) -> None:
    """The message names where it came from and nothing of it."""
    with pytest.raises(Permanent) as refused:
        Secret.clean(bad.format(text, text), "ROTATOR_X")
    assert "ROTATOR_X" in str(refused.value)
    assert text not in str(refused.value)


@pytest.mark.parametrize(
    ("show", "says"),
    [
        (lambda v: v, Agreement.EQUAL),
        (lambda v: v[:6] + "..." + v[-4:], Agreement.CONSISTENT),
        (lambda v: v[:6] + "…", Agreement.CONSISTENT),
        (lambda v: "********" + v[-4:], Agreement.CONSISTENT),
        (lambda v: "•" * 12, Agreement.CONSISTENT),
        (lambda v: v[:12], Agreement.CONSISTENT),
        (lambda v: v[-12:], Agreement.CONSISTENT),
        (lambda v: "zz" + v[:6] + "...", Agreement.CONTRADICTS),
        (lambda v: "****" + v[-4:] + "zz", Agreement.CONTRADICTS),
        (lambda v: v + "z", Agreement.CONTRADICTS),
        (lambda v: secrets.token_hex(20), Agreement.CONTRADICTS),
    ],
)
def test_what_is_shown_agrees_or_contradicts(text: str, show: object, says: Agreement) -> None:
    """A masked or shortened value can fit; only a whole one can be equal."""
    shown = Secret(show(text))  # type: ignore[operator]  # the table's functions
    assert Secret(text).against(shown) is says


def test_nothing_shown_says_nothing(text: str) -> None:
    """Some lists leave the value out."""
    assert Secret(text).against(None) is Agreement.SILENT


@pytest.mark.parametrize("mask", ["...", "…", "****", "••••", "xxxxxxxx"])
def test_the_marks_of_a_mask_are_known(text: str, mask: str) -> None:
    """Such a value is never taken for a key."""
    assert Secret(text[:8] + mask + text[-4:]).masked
    assert not Secret(text).masked


def test_fingerprints_compare_and_tell_nothing(text: str) -> None:
    """The same under one key, different under another."""
    one, two = secrets.token_bytes(32), secrets.token_bytes(32)
    assert Secret(text).fingerprint(one) == Secret(text).fingerprint(one)
    assert Secret(text).fingerprint(one) != Secret(text).fingerprint(two)


@pytest.mark.parametrize(
    ("shown", "own", "record"),
    [
        ("whole other", None, 1),
        ("other whole", None, 2),
        ("masked other", None, 1),
        ("masked masked", None, None),
        ("masked masked", 2, 2),
        ("masked whole", 1, 2),
        ("other masked", 1, 2),
        ("other other", 1, None),
        ("silent", None, 1),
        ("silent silent", None, None),
        ("", 1, None),
    ],
)
def test_a_value_belongs_to_the_one_record_that_it_cannot_but_be(
    text: str, shown: str, own: int | None, record: int | None
) -> None:
    """The record that shows it in full, else the one that it says it is, else the only one that fits; else to none."""
    value = Secret(text)
    as_shown = {
        "whole": value,
        "masked": Secret(f"{text[:8]}****"),
        "other": Secret(secrets.token_urlsafe(24)),
        "silent": None,
    }
    seen = [
        Seen(KeyRef(number, 5001, None, None), as_shown[word])
        for number, word in enumerate(shown.split(), 1)
    ]
    assert named(seen, value, 5001, own).key_id == record
