"""Policies: what is read as written, what is refused and in which words, what follows from defaults."""

from __future__ import annotations

import json
import os
import re
import secrets
import string
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from rotator.errors import BadInput, Problem
from rotator.keys import Issue, Verify, Visibility
from rotator.policy import (
    Destination,
    Exec,
    Policy,
    PolicyDefaults,
    Webhook,
    json_schema,
    load,
    warnings,
)
from rotator.policy.document import files
from rotator.policy.written import WrittenHook
from rotator.schedule import Cron, Every, Freeze, Manual, Window

BAD = Path(__file__).parent / "bad"
SAMPLES = Path(__file__).parent.parent / "policies"
GOOD = """\
user_id: 5001
visibility: Private
schedule: {every: 30d}
vault: {path: ecgrid/edi}
"""
WHEN = "window: {days: [sat], from: '01:00', to: '05:00'}, freeze: [{from: 2026-12-15, to: 2027-01-05}]"


def told(file: Path) -> str:
    """What loading the file is refused with, a line per problem, without the file's directory."""
    with pytest.raises(BadInput) as caught:
        load(file, PolicyDefaults())
    assert caught.value.__context__ is None
    return str(caught.value).replace(f"{file.parent}/", "") + "\n"


@pytest.fixture
def one(tmp_path: Path) -> Any:
    """Loads one policy of the given text."""

    def read(text: str, defaults: PolicyDefaults | None = None) -> Policy:
        file = tmp_path / "edi.yaml"
        file.write_text(text)
        [policy] = load(file, defaults or PolicyDefaults())
        return policy

    return read


@pytest.mark.parametrize("file", sorted(BAD.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_bad_file_is_refused_in_exactly_these_words(file: Path) -> None:
    """Beside each bad file stands what a person is told about it."""
    assert told(file) == file.with_suffix(".txt").read_text()


def test_the_samples_are_good_and_serve_the_users_of_the_sandbox() -> None:
    """The shipped policies load, name 5001 to 5003, and nothing about them is doubtful."""
    policies = load(SAMPLES, PolicyDefaults())
    assert [policy.users for policy in policies] == [(5001,), (5002,), (5003,)]
    assert warnings(policies) == []


def test_everything_that_a_policy_can_say_is_read_as_written(one: Any) -> None:
    """The full example: each field becomes the value that it names."""
    policy = one("""\
name: edi-gateway
users: [5001, 5002]
visibility: Shared
schedule:
  cron: "0 3 * * SUN"
  timezone: Europe/Berlin
  jitter: 2h
  window: {days: [sat, SUN], from: 22:30, to: "05:00"}
  freeze: [{from: 2026-12-15, to: 2027-01-05}]
max_age: 45d
grace: 0
issue: create-key
verify: key-get
probe: false
first: rotate
vault: {mount: kv, path: "ecgrid/{name}", field: token, fields: {base_url: "https://x", port: 0700}}
also: [{path: dr/edi}]
after: [{exec: [systemctl, reload, edi]}, {webhook: "https://example.com/hook"}]
enabled: false
owner: edi@example.com
tags: [prod, on]
""")
    assert (policy.name, policy.users, policy.visibility) == (
        "edi-gateway",
        (5001, 5002),
        Visibility.SHARED,
    )
    assert policy.schedule.rule == Cron.parse("0 3 * * sun")
    assert policy.schedule.timezone.key == "Europe/Berlin"
    assert policy.schedule.jitter == timedelta(hours=2)
    assert policy.schedule.window == Window((5, 6), time(22, 30), time(5))
    assert policy.schedule.freezes == (Freeze(date(2026, 12, 15), date(2027, 1, 5)),)
    assert (policy.max_age, policy.grace) == (timedelta(days=45), timedelta(0))
    assert (policy.issue, policy.verify) == (Issue.CREATE_KEY, Verify.KEY_GET)
    assert (policy.probe, policy.first, policy.enabled) == (False, "rotate", False)
    assert policy.destinations == (
        Destination(
            "kv", "ecgrid/edi-gateway", "token", (("base_url", "https://x"), ("port", "0700"))
        ),
        Destination("secret", "dr/edi"),
    )
    assert policy.after == (
        Exec(("systemctl", "reload", "edi")),
        Webhook("https://example.com/hook"),
    )
    assert (policy.owner, policy.tags) == ("edi@example.com", ("prod", "on"))
    assert policy.where.endswith("edi.yaml:1")


@pytest.mark.parametrize(
    ("schedule", "max_age", "grace"),
    [
        ("{every: 30d}", timedelta(days=45), timedelta(hours=24)),
        ("{every: 30d, jitter: 2h}", timedelta(days=45, hours=2), timedelta(hours=24)),
        ("{every: 12h}", timedelta(hours=18), timedelta(hours=6)),
        ("{every: 1s}", timedelta(seconds=1.5), timedelta(seconds=0.5)),
        ('{cron: "0 3 * * SUN", jitter: 1h}', timedelta(days=10.5, hours=1), timedelta(hours=24)),
        ("manual", None, timedelta(hours=24)),
    ],
)
def test_age_and_grace_default_to_what_the_schedule_makes_sensible(
    one: Any, schedule: str, max_age: timedelta | None, grace: timedelta
) -> None:
    """1.5 x the interval or longest gap, plus jitter; a day, or half the interval if that is less."""
    policy = one(GOOD.replace("{every: 30d}", schedule))
    assert (policy.max_age, policy.grace) == (max_age, grace)


@pytest.mark.parametrize(
    ("defaults", "extra", "expected"),
    [
        (PolicyDefaults(), "", Verify.GET_KEY),
        (PolicyDefaults(), "issue: generate\n", Verify.GET_API_KEY),
        (PolicyDefaults(verify=Verify.KEY_GET), "issue: generate\n", Verify.USER_GET_API_KEY),
        (
            PolicyDefaults(verify=Verify.USER_GET_API_KEY),
            "issue: generate\n",
            Verify.USER_GET_API_KEY,
        ),
        (PolicyDefaults(issue=Issue.GENERATE), "", Verify.GET_API_KEY),
        (PolicyDefaults(), "issue: generate\nverify: get-key\n", Verify.GET_KEY),
    ],
)
def test_generate_is_verified_by_its_own_family_unless_the_policy_says_otherwise(
    one: Any, defaults: PolicyDefaults, extra: str, expected: Verify
) -> None:
    """REST stays REST, and SOAP stays SOAP."""
    assert one(GOOD + extra, defaults).verify is expected


def test_defaults_merge_mappings_and_are_replaced_elsewhere(tmp_path: Path) -> None:
    """Mappings merge; lists and scalars replace; every and cron replace each other."""
    file = tmp_path / "all.yaml"
    file.write_text("""\
defaults:
  visibility: Private
  schedule: {every: 30d, timezone: Europe/Berlin}
  vault: {mount: kv, fields: {a: "1", b: "2"}}
  tags: [x, y]
policies:
  - {name: a, user_id: 1, vault: {path: "p/{name}", fields: {b: "3"}}, tags: [z]}
  - {name: b, user_id: 2, visibility: Public, schedule: {cron: "0 3 * * *"}, vault: {path: "{user_id}"}}
  - {name: c, user_id: 3, schedule: manual, vault: {path: c}}
""")
    a, b, c = load(file, PolicyDefaults())
    assert a.destinations == (Destination("kv", "p/a", fields=(("a", "1"), ("b", "3"))),)
    assert (a.tags, b.tags) == (("z",), ("x", "y"))
    assert b.schedule.rule == Cron.parse("0 3 * * *")
    assert b.schedule.timezone.key == "Europe/Berlin"
    assert b.destinations[0].path == "2"
    assert c.schedule.rule == Manual()
    assert [p.where.rpartition(":")[2] for p in (a, b, c)] == ["7", "8", "9"]


def test_a_mounted_config_map_is_read_once_and_its_versions_are_skipped(tmp_path: Path) -> None:
    """Links into ..data count; names that begin with a dot, and other files, do not."""
    version = tmp_path / "..2026_11_21"
    version.mkdir()
    (version / "edi.yaml").write_text(GOOD)
    (tmp_path / "..data").symlink_to("..2026_11_21")
    (tmp_path / "edi.yaml").symlink_to("..data/edi.yaml")
    (tmp_path / ".hidden.yaml").write_text("broken: [")
    (tmp_path / "README.md").write_text("no policy")
    below = tmp_path / "team"
    below.mkdir()
    (below / "b.yml").write_text(GOOD.replace("5001", "5002").replace("ecgrid/edi", "ecgrid/b"))
    (below / "loop").symlink_to(tmp_path)
    assert [policy.name for policy in load(tmp_path, PolicyDefaults())] == ["edi", "b"]


def test_two_files_may_not_share_a_name_a_user_or_a_destination(tmp_path: Path) -> None:
    """Each collision names the other place."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"name: same\n{GOOD}")
    with pytest.raises(BadInput) as caught:
        load(tmp_path, PolicyDefaults())
    fields = [problem.where.rpartition(" ")[2] for problem in caught.value.problems]
    assert fields == ["name", "user_id", "vault.path"]
    assert all(f"{tmp_path}/a.yaml:1" in problem.what for problem in caught.value.problems)


@pytest.mark.parametrize("what", ["directory", "missing", "pipe", "latin-1"])
def test_what_holds_no_policy_says_so(tmp_path: Path, what: str) -> None:
    """An empty directory, a path that is not there, something that is no file, and other encodings."""
    target = tmp_path / "p.yaml"
    if what == "directory":
        target.mkdir()
        expected = "no policy found"
    elif what == "missing":
        expected = "does not exist"
    elif what == "pipe":
        os.mkfifo(target)
        expected = "is not a regular file"
    else:
        target.write_bytes(b"user_id: 1\nowner: caf\xe9\n")
        expected = "is not UTF-8"
    with pytest.raises(BadInput, match=expected):
        load(target, PolicyDefaults())


@pytest.mark.parametrize("scalar", [
    "on", "off", "yes", "no", "Yes", "NO", "y", "n", "null", "~", "0700", "0o17", "0x1F", "1_000", "1e3", "22:30",
    "08:30", "190:20:30", "2026-12-15", "2026-12-15T03:00:00Z", ".inf", "-.inf", ".nan", "+1", "1.0", "true", "=",
])  # fmt: skip
@pytest.mark.parametrize("field", ["owner", "tags", "fields", "user_id", "every", "probe", "name"])
def test_a_scalar_means_what_is_written_or_is_refused(
    tmp_path: Path, scalar: str, field: str
) -> None:
    """No surprise of YAML 1.1 changes a value: text stays that text, everything else needs its own form."""
    text = {
        "owner": GOOD + f"owner: {scalar}\n",
        "tags": GOOD + f"tags: [{scalar}]\n",
        "fields": GOOD.replace("edi}", f"edi, fields: {{x: {scalar}}}}}"),
        "user_id": GOOD.replace("5001", scalar),
        "every": GOOD.replace("30d", scalar),
        "probe": GOOD + f"probe: {scalar}\n",
        "name": GOOD + f"name: {scalar}\n",
    }[field]
    file = tmp_path / "edi.yaml"
    file.write_text(text)
    good_names = {
        "on",
        "off",
        "yes",
        "no",
        "y",
        "n",
        "null",
        "0700",
        "0o17",
        "1e3",
        "true",
        "2026-12-15",
    }
    fits = field in {"owner", "tags", "fields"} or (field, scalar) == ("probe", "true")
    if not fits and not (field == "name" and scalar in good_names):
        with pytest.raises(BadInput):
            load(file, PolicyDefaults())
        return
    [policy] = load(file, PolicyDefaults())
    read = {
        "owner": policy.owner,
        "tags": "".join(policy.tags),
        "fields": dict(policy.destinations[0].fields).get("x"),
        "probe": str(policy.probe).lower(),
        "name": policy.name,
    }
    assert read[field] == scalar


def _pasted() -> list[str]:
    return [
        str(uuid.uuid4()),
        "{" + str(uuid.uuid4()).upper() + "}",
        f"ek_live_{secrets.token_urlsafe(12)}",
        f"hvs.{secrets.token_urlsafe(24)}",
        secrets.token_hex(16),
    ]


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("place", range(8))
def test_a_pasted_secret_is_refused_and_never_repeated(
    tmp_path: Path, kind: int, place: int
) -> None:
    """Wherever a key is pasted, as a value or a key, in good YAML or broken: refused, and not shown."""
    secret = _pasted()[kind]
    text = [
        GOOD + f"owner: '{secret}'\n",
        GOOD + f"'{secret}': x\n",
        GOOD.replace("edi}", f"edi, fields: {{token: '{secret}'}}}}"),
        GOOD.replace("5001", f"'{secret}'"),
        GOOD + f"owner: '{secret}\n",
        GOOD + f"  {secret}: oops: more\n",
        GOOD + f"owner: *{secret.strip('{}')}\n",
        GOOD + f"'{secret}': 1\n'{secret}': 2\n",
    ][place]
    file = tmp_path / "edi.yaml"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        load(file, PolicyDefaults())
    assert caught.value.__context__ is None
    shown = str(caught.value) + repr(caught.value.problems)
    assert not any(secret[i : i + 8] in shown for i in range(len(secret) - 7))


def test_the_digest_follows_what_is_said_and_not_where(tmp_path: Path) -> None:
    """A moved policy is the same policy; a changed field, a webhook's address too, is a change."""
    hook = "after: [{webhook: 'https://example.com/%s'}]\n"
    digests = []
    for number, text in enumerate(
        [GOOD + hook % "a", "# moved\n" + GOOD + hook % "a", GOOD + hook % "b"]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "edi.yaml").write_text(text)
        digests += [policy.digest for policy in load(folder, PolicyDefaults())]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        (GOOD, "5376b6beaa"),
        (GOOD.replace("{every: 30d}", "manual"), "2347b90d0b"),
        (GOOD.replace("user_id: 5001", "users: [5001, 5002]"), "667eaef6aa"),
        (
            GOOD.replace(
                "every: 30d", "cron: 0 3 * * SUN, timezone: Europe/Berlin, jitter: 2h, " + WHEN
            )
            + "also: [{mount: kv, path: 'also/{name}', field: key, fields: {base: x}}]\n"
            + "after: [{exec: [ls, -l]}, {webhook: 'https://example.com/a'}]\n"
            + "grace: 12h\nmax_age: 90d\nowner: EDI\ntags: [a, b]\nprobe: false\nfirst: rotate\n",
            "fa2c7db496",
        ),
    ],
)
def test_the_digest_is_what_it_was(one: Any, text: str, begins: str) -> None:
    """A release that works it out otherwise makes every policy look changed, and clears each back-off."""
    assert one(text).digest.startswith(begins)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("", []),
        ("issue: generate\n", ["issue"]),
        ("issue: generate\nverify: get-key\n", ["issue", "verify"]),
        ("issue: generate\ngrace: 24h\n", ["issue", "grace"]),
        ("issue: generate\ngrace: 0\n", ["issue"]),
        ("verify: get-api-key\n", ["verify"]),
        ("grace: 0\n", ["grace"]),
        ("grace: 59m\n", ["grace"]),
        ("grace: 1h\n", []),
    ],
)
def test_what_is_allowed_but_doubtful_is_warned_of(
    one: Any, extra: str, expected: list[str]
) -> None:
    """generate, pairs of calls that rarely fit, and a grace that slow consumers miss."""
    found = warnings([one(GOOD + extra)])
    assert [problem.where.rpartition(" ")[2] for problem in found] == expected


def test_a_grace_that_generate_does_not_keep_is_warned_of_with_the_way_out(one: Any) -> None:
    """Only where it is written; with two users it says how late a reader may be, and to write it changes no digest."""
    text = GOOD + "issue: generate\ngrace: 24h\n"
    told = [problem.what for problem in warnings([one(text)]) if problem.where.endswith(" grace")]
    assert len(told) == 1
    assert "users: [a, b]" in told[0]
    assert warnings([one(text.replace("user_id: 5001", "users: [5001, 5002]"))]) == []
    assert one(text).digest == one(GOOD + "issue: generate\n").digest


def test_a_bomb_is_refused_at_its_first_anchor(tmp_path: Path) -> None:
    """Aliases multiply nothing, because none is followed."""
    file = tmp_path / "bomb.yaml"
    levels = "\n".join(
        f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in range(9))}]" for i in range(1, 9)
    )
    file.write_text(f"a0: &a0 [x, x]\n{levels}\n")
    with pytest.raises(BadInput, match=r"bomb\.yaml:1: anchors"):
        load(file, PolicyDefaults())


def test_ten_thousand_policies_in_one_file_are_read(tmp_path: Path) -> None:
    """The largest fleet fits in a file."""
    entries = "".join(
        f"  - {{name: p{i}, user_id: {i}, vault: {{path: p/{i}}}}}\n" for i in range(1, 10001)
    )
    file = tmp_path / "fleet.yaml"
    file.write_text(
        f"defaults: {{visibility: Private, schedule: {{every: 30d}}}}\npolicies:\n{entries}"
    )
    policies = load(file, PolicyDefaults())
    assert len(policies) == 10000
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert {policy.schedule.next_due(now, policy.name) for policy in policies} == {
        now + timedelta(days=30)
    }
    assert policies[0].schedule.rule == Every(timedelta(days=30))


# The part of JSON Schema that the schema uses.


def _valid(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return _valid(value, target, root)
    checks: dict[str, Callable[[Any], bool]] = {
        "type": lambda wanted: _is(value, wanted),
        "enum": lambda words: value in words,
        "const": lambda word: value == word and type(value) is type(word),
        "pattern": lambda p: not isinstance(value, str) or re.search(p, value) is not None,
        "minimum": lambda least: not isinstance(value, int) or value >= least,
        "maximum": lambda most: not isinstance(value, int) or value <= most,
        "oneOf": lambda many: sum(_valid(value, s, root) for s in many) == 1,
        "not": lambda inner: not _valid(value, inner, root),
        "required": lambda keys: not isinstance(value, dict) or all(k in value for k in keys),
        "items": lambda s: not isinstance(value, list) or all(_valid(v, s, root) for v in value),
        "minItems": lambda least: not isinstance(value, list) or len(value) >= least,
        "minProperties": lambda least: len(value) >= least,
        "maxProperties": lambda most: len(value) <= most,
        "propertyNames": lambda s: all(_valid(k, s, root) for k in value),
        "properties": lambda ps: (
            not isinstance(value, dict)
            or all(_valid(v, ps[k], root) for k, v in value.items() if k in ps)
        ),
        "additionalProperties": lambda _: (
            not isinstance(value, dict) or value.keys() <= schema["properties"].keys()
        ),
    }
    silent = {"description", "title", "$schema", "$id", "$defs"}
    return all(checks[key](inner) for key, inner in schema.items() if key not in silent)


def _is(value: Any, wanted: str | list[str]) -> bool:
    kinds = {
        "string": str,
        "integer": int,
        "number": int | float,
        "boolean": bool,
        "object": dict,
        "array": list,
    }
    names = [wanted] if isinstance(wanted, str) else wanted
    return any(
        isinstance(value, kinds[n]) and (n == "boolean") == isinstance(value, bool) for n in names
    )


def _core(value: Any) -> Any:
    """Texts to what YAML 1.2 makes of them, as editors do."""
    if isinstance(value, dict):
        return {key: _core(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_core(inner) for inner in value]
    if value in ("true", "false"):
        return value == "true"
    return int(value) if re.fullmatch("[0-9]+", value) else value


def _editor(text: str) -> bool:
    schema = json_schema()
    return _valid(_core(yaml.load(text, yaml.CBaseLoader)), schema, schema)  # noqa: S506 - makes texts only


@pytest.mark.parametrize("file", sorted(SAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_an_editor_accepts_the_samples(file: Path) -> None:
    """The schema says of a sample what load says."""
    assert _editor(file.read_text())


@pytest.mark.parametrize("name", [
    "unknown-key", "no-user", "user-and-users", "users-single", "visibility-lower", "visibility-session",
    "schedule-word", "schedule-both", "every-no-unit", "window-no-days", "window-24", "freeze-single", "issue-typo",
    "probe-yes", "vault-scalar", "fields-reserved", "also-mapping", "after-both", "after-no-program", "webhook-ftp",
    "tags-scalar", "policies-empty", "policies-typo", "not-a-mapping",
])  # fmt: skip
def test_an_editor_marks_typical_mistakes(name: str) -> None:
    """What load refuses for its shape, the schema refuses too."""
    assert not _editor((BAD / f"{name}.yaml").read_text())


def test_the_schema_describes_every_field_and_is_json() -> None:
    """Each property, at every depth, has a description."""
    schema = json_schema()
    json.dumps(schema)

    def undescribed(node: Any, at: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        found = [
            f"{at}.{key}"
            for key, inner in node.get("properties", {}).items()
            if "description" not in inner and "$ref" not in inner
        ]
        return found + [
            place for key, inner in node.items() for place in undescribed(inner, f"{at}.{key}")
        ]

    assert undescribed(schema, "") == []


# what cannot be seen

STRANGE = {
    "\u00a0": "NO-BREAK SPACE",
    "\u200b": "ZERO WIDTH SPACE",
    "\u200d": "ZERO WIDTH JOINER",
    "\ufeff": "ZERO WIDTH NO-BREAK SPACE",
    "\u00ad": "SOFT HYPHEN",
    "\u202e": "RIGHT-TO-LEFT OVERRIDE",
    "\u3000": "IDEOGRAPHIC SPACE",
    "\u3164": "HANGUL FILLER",
    "\ufe0f": "VARIATION SELECTOR-16",
}
SOUND = """\
name: edi
user_id: 5001
visibility: Private
schedule: {every: 30d}
vault: {path: ecgrid/edi, fields: {base_url: "https://rest.ecgrid.io"}}
owner: edi-platform@example.com
tags: [prod]
after: [{exec: [systemctl, reload, edi]}]
"""
WORDS = (
    "edi\n",
    "5001",
    "Private",
    "30d",
    "ecgrid/edi",
    "base_url",
    "ecgrid.io",
    "platform",
    "prod",
    "reload",
    "visib",
)


def of_text(tmp_path: Path, text: str) -> list[str]:
    """The problems of a file of that text."""
    file = tmp_path / "edi.yaml"
    file.write_text(text)
    try:
        load(file, PolicyDefaults())
    except BadInput as error:
        return [str(problem).removeprefix(f"{file}:") for problem in error.problems]
    return []


@pytest.mark.parametrize("char", STRANGE, ids=STRANGE.values())
def test_what_cannot_be_seen_is_told_by_its_number_and_column(tmp_path: Path, char: str) -> None:
    """In names, paths, fields, lists and keys; and no second problem is made of it."""
    for word in WORDS:
        at = SOUND.index(word) + 2
        (problem,) = of_text(tmp_path, SOUND[:at] + char + SOUND[at:])
        line, column = SOUND.count("\n", 0, at) + 1, at - SOUND.rfind("\n", 0, at)
        told = f"{line}: has in column {column} U+{ord(char):04X} {STRANGE[char]}, which cannot be seen"
        assert problem.startswith(told), word


def test_what_cannot_be_seen_may_stand_in_a_comment(tmp_path: Path) -> None:
    """Nothing is made of it there."""
    assert of_text(tmp_path, SOUND + "# by\u00a0hand, \u201cas ever\u201d\n") == []


def test_an_escape_for_what_cannot_be_seen_is_refused_as_well(tmp_path: Path) -> None:
    """It would be published all the same."""
    (problem,) = of_text(tmp_path, SOUND.replace("rest.ecgrid", r"rest\u200b.ecgrid"))
    assert "U+200B ZERO WIDTH SPACE" in problem


@pytest.mark.parametrize("pair", ["\u201c\u201d", "\u2018\u2019", "\u201e\u201c", "\u00ab\u00bb"])
@pytest.mark.parametrize("word", ["Private", "30d", "prod", '"https://rest.ecgrid.io"'])
def test_a_quotation_mark_of_a_word_processor_is_told_as_one(
    tmp_path: Path, word: str, pair: str
) -> None:
    """It would be part of the value."""
    told = of_text(tmp_path, SOUND.replace(word, pair[0] + word.strip('"') + pair[1]))
    found = {problem.partition("column ")[2].split(" ")[1] for problem in told}
    assert found == {f"U+{ord(char):04X}" for char in pair}
    name = "Anne O\u2019Hara, \u0141\u00f3d\u017a"
    assert of_text(tmp_path, SOUND.replace("edi-platform@example.com", name)) == []


# every problem at once


def test_one_problem_hides_no_other(tmp_path: Path) -> None:
    """Neither lengths that do not fit, nor what two policies share, nor a bad destination beside a good one."""
    told = of_text(
        tmp_path,
        """\
policies:
  - {name: a, user_id: 5001, visibility: Privat, schedule: {every: 1d}, grace: 2d, max_age: 1h, vault: {path: x}}
  - {name: a, user_id: 5001, schedule: {every: 1d}, vault: {path: x}, also: [{path: "b d"}, {path: x}]}
  - {name: C, user_id: 5001, visibility: Private, schedule: {evry: 1d}, vault: {path: x}}
""",
    )
    assert sorted(": ".join(problem.split(": ")[:2]) for problem in told) == [
        "2: grace",
        "2: max_age",
        "2: visibility",
        "3: also[0].path",
        "3: also[1].path",
        "3: name",
        "3: user_id",
        "3: vault.path",
        "3: visibility",
        "4: name",
        "4: schedule",
        "4: schedule.evry",
        "4: user_id",
        "4: vault.path",
    ]


def test_one_problem_within_a_part_hides_no_other(tmp_path: Path) -> None:
    """What is refused of a part is taken out of it, and the rest is judged: one value, and several together."""
    told = of_text(
        tmp_path,
        """\
name: a
user_id: 5001
users: [5001, 5001, x]
visibility: Private
grace: 40d
schedule:
  every: 30d
  jitter: x
  window: {days: [sat, sonntag], from: "01:00", to: "01:00"}
vault: {path: "rotator/{name}", field: key_id, fileds: {}}
""",
    )
    assert sorted(": ".join(problem.split(": ")[:2]) for problem in told) == [
        "10: vault.field",
        "10: vault.fileds",
        "10: vault.path",
        "3: users",
        "3: users",
        "3: users[2]",
        "5: grace",
        "8: schedule.jitter",
        "9: schedule.window",
        "9: schedule.window.days[1]",
    ]


def test_what_was_written_of_a_webhook_is_not_shown() -> None:
    """Its address may hold a token, so not even the form that it was read into shows it."""
    token = secrets.token_hex(12)
    hook = WrittenHook.model_validate({"webhook": f"https://chat.example.com/{token}"})
    assert token in str(hook.webhook)
    assert token not in repr(hook) + str(hook)


def test_a_name_that_is_not_known_makes_no_two_paths_the_same(tmp_path: Path) -> None:
    """Whose name is refused is not accused of publishing where another with a refused name does."""
    told = of_text(
        tmp_path,
        """\
defaults: {visibility: Private, schedule: manual, vault: {path: "ecgrid/{name}"}}
policies:
  - {name: A, user_id: 5001}
  - {name: B, user_id: 5002}
""",
    )
    assert [": ".join(problem.split(": ")[:2]) for problem in told] == ["3: name", "4: name"]


@pytest.mark.parametrize(
    "zone", ["localtime", "posixrules", "posix/UTC", "right/UTC", "Factory", "posix/Europe/Berlin"]
)
def test_a_time_zone_means_the_same_on_every_machine(tmp_path: Path, zone: str) -> None:
    """Or due times would differ with the machine that looks."""

    def told(name: str) -> list[str]:
        return of_text(tmp_path, SOUND.replace("every: 30d", f"every: 30d, timezone: {name}"))

    (problem,) = told(zone)
    assert "schedule.timezone: must be a time zone such as Europe/Berlin or UTC" in problem
    for good in ("UTC", "Europe/Berlin", "US/Pacific", "Etc/GMT+3"):
        assert told(good) == []


def test_a_path_that_may_be_a_key_is_not_shown() -> None:
    """Whether or not there is a digit in it; a name of plain words is."""
    pasted = "Q" + "".join(secrets.choice(string.ascii_letters) for _ in range(24))
    problems: list[Problem] = []
    assert files(Path(pasted), problems) == files(Path("policies-of-another-team"), problems) == []
    assert [one.where for one in problems] == ["the policies", "policies-of-another-team"]
