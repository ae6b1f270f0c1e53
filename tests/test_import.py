"""`import`: policies for ECGrid's users, out of both forms of ECGrid, in a new file or in one that somebody wrote."""

from __future__ import annotations

import re
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import Finished, Rotator, VaultServer, until

from rotator.errors import BadInput
from rotator.keys import Issue, Person, Verify, Visibility
from rotator.policy import PolicyDefaults, load
from rotator.policy.adding import Calls, Entry, File, name_for
from rotator.sandbox.ecgrid import AuthLevel, Fault, Running, Simulator, Switches
from rotator.sandbox.ecgrid.listening import start

OWN = 4000
CALLS = {
    "portal": Calls(Issue.KEYSET, Verify.GET_KEY),
    "service": Calls(Issue.GENERATE, Verify.GET_API_KEY),
}
Point = Callable[[Running], Simulator]


@contextmanager
def a_network(form: str, users: int) -> Iterator[Running]:
    """An ECGrid of that form with so many users beside the rotator's own, each with a key."""
    model = Simulator(Switches.from_json({"form": form}))
    model.add_user(OWN, auth_level=AuthLevel.NetworkAdmin, login="rotator")
    model.add_key(OWN)
    for user_id in range(5001, 5001 + users):
        model.add_user(
            user_id, login=f"user{user_id}@example.com", auth_level=AuthLevel.MailboxUser
        )
        model.add_key(user_id)
    with start(model) as running:
        yield running
    assert model.violations() == []


@pytest.fixture
def network(rotator_command: Rotator) -> Iterator[Callable[[str, int], Simulator]]:
    """Makes an ECGrid and points the command at it, which knows of no Vault."""
    rotator_command.environment = {
        name: value
        for name, value in rotator_command.environment.items()
        if not name.startswith(("VAULT", "ROTATOR_VAULT"))
    }
    with ExitStack() as stack:

        def make(form: str, users: int) -> Simulator:
            running = stack.enter_context(a_network(form, users))
            rotator_command.environment |= {
                "ROTATOR_ECGRID__REST_URL": running.rest_url,
                "ROTATOR_ECGRID__SOAP_URL": running.soap_url,
                "ROTATOR_ECGRID__API_KEY": running.simulator.api_key(OWN) or "",
            }
            rotator_command.secrets |= running.simulator.secrets()
            return running.simulator

        yield make


def imported(command: Rotator, *options: str) -> tuple[Finished, dict[int, str]]:
    """What `import` printed is a policy file that is valid; the policies' names by their users."""
    done = command("import", *options)
    assert done.code == 0, done.stderr
    path = command.directory / "printed.yaml"
    path.write_text(done.stdout)
    policies = load(path, PolicyDefaults())
    assert command("validate", str(path)).code == 0
    return done, {policy.users[0]: policy.name for policy in policies}


@pytest.mark.parametrize("form", ["portal", "service"])
@pytest.mark.parametrize("users", [1, 25, 26])
def test_every_user_of_the_network_gets_a_policy(
    rotator_command: Rotator, network: Callable[[str, int], Simulator], form: str, users: int
) -> None:
    """With the calls that this ECGrid offers, a jitter, and a place of its own; page by page, and no page too many."""
    model = network(form, users)
    done, names = imported(rotator_command)
    assert names == {5001 + number: f"user{5001 + number}-example-com" for number in range(users)}
    assert model.counts()["ListUsers"] == (users + 1) // 25 + 1
    policies = load(rotator_command.directory / "printed.yaml", PolicyDefaults())
    assert {Calls(one.issue, one.verify) for one in policies} == {CALLS[form]}
    assert {bool(one.schedule.jitter) for one in policies} == {True}
    assert len({one.destinations for one in policies}) == users
    assert "# the rotator's own user, no policy: {name: rotator, user_id: 4000}" in done.stdout
    assert model.issued() == 0


@pytest.mark.full
@pytest.mark.parametrize("form", ["portal", "service"])
def test_five_thousand_users_are_imported(
    rotator_command: Rotator, network: Callable[[str, int], Simulator], form: str
) -> None:
    """All pages, and each user's key is asked for once; with the file there, who is new is added by few requests."""
    model = network(form, 5000)
    done = rotator_command("import", "--out", "policies/users.yaml", timeout=400)
    assert done.code == 0, done.stderr
    assert "5000 policies added, 1 user is a comment, 0 to look at" in done.stdout
    policies = load(rotator_command.policies, PolicyDefaults())
    assert [one.users for one in policies] == [(user_id,) for user_id in range(5001, 10001)]
    asked = sum(model.counts().values())
    assert asked < 5000 + 201 + 10
    model.add_user(20000, login="late")
    again = rotator_command("import", "--out", "policies/users.yaml", timeout=400)
    assert "1 policy added, 0 users are a comment, 1 to look at" in again.stdout
    assert sum(model.counts().values()) < asked + 201 + 10


@pytest.mark.parametrize("form", ["portal", "service"])
def test_no_user_is_no_file(
    rotator_command: Rotator, network: Callable[[str, int], Simulator], form: str
) -> None:
    """Nothing is printed and no file made; stderr says why."""
    network(form, 0)
    done = rotator_command("import")
    assert (done.code, done.stdout) == (0, "")
    assert "no user is left to have a policy: 1 user is none" in done.stderr
    assert rotator_command("import", "--out", "policies/users.yaml").code == 0
    assert not (rotator_command.policies / "users.yaml").exists()


@pytest.mark.parametrize("form", ["portal", "service"])
def test_who_is_not_active_is_a_comment_and_who_has_no_key_is_marked(
    rotator_command: Rotator, network: Callable[[str, int], Simulator], form: str
) -> None:
    """In the list over REST, and over SOAP where REST has none."""
    model = network(form, 2)
    model.add_user(5003, login="asleep", status="Suspended")
    model.add_user(5004, login="keyless")
    printed = [imported(rotator_command)]
    model.add_fault(Fault("status", call="ListUsers", status=404, times=None))
    printed.append(imported(rotator_command))
    assert model.counts()["UserListEx"] == 1
    for done, names in printed:
        assert names.keys() == {5001, 5002, 5004}
        assert "  # status Suspended, no policy: {name: asleep, user_id: 5003}\n" in done.stdout
        mark = "  # has no key yet: adopting it issues the first one\n  - {name: keyless, user_id: 5004}\n"
        assert done.stdout.count("has no key yet") == 1
        assert mark in done.stdout


def test_a_key_that_is_not_private_is_the_policys(
    rotator_command: Rotator, network: Callable[[str, int], Simulator]
) -> None:
    """Else adopting would issue a private one beside it."""
    model = network("portal", 1)
    model.add_user(5002, login="shared")
    model.add_key(5002, "Shared")
    done, _ = imported(rotator_command)
    assert "  - {name: shared, user_id: 5002, visibility: Shared}\n" in done.stdout
    assert "no key yet" not in done.stdout


@pytest.mark.parametrize("form", ["portal", "service"])
def test_a_list_may_be_bare_or_in_an_object_paged_or_not(
    rotator_command: Rotator, network: Callable[[str, int], Simulator], form: str
) -> None:
    """Also if a page is cut off, or is one request too many: it is asked for again."""
    model = network(form, 60)
    for pages, shape in (("asked", "object"), ("all", "bare"), ("all", "object")):
        model.switch(user_pages=pages, user_list=shape)
        model.add_fault(Fault("half", call="ListUsers", nth=2 if pages == "asked" else 1))
        model.add_fault(Fault("status", call="ListUsers", status=429, retry_after=1, nth=2))
        done, names = imported(rotator_command)
        assert len(names) == 60
        assert "warning" not in done.stderr


def test_the_same_page_again_and_again_ends_it_with_a_warning(
    rotator_command: Rotator, network: Callable[[str, int], Simulator]
) -> None:
    """A service that knows no pages may have more users than it shows."""
    model = network("portal", 60)
    model.switch(user_pages="first")
    done, names = imported(rotator_command)
    assert len(names) == 24  # and the rotator's own user
    assert model.counts()["ListUsers"] == 2
    assert "the same page of users again and again: there may be more" in done.stderr
    told = rotator_command("import", "--json").json
    assert (told["whole"], len(told["users"]), told["file"]) == (False, 25, None)


def test_a_page_that_stays_cut_off_is_a_failure_that_writes_nothing(
    rotator_command: Rotator, network: Callable[[str, int], Simulator]
) -> None:
    """Part of the users would look like all of them."""
    model = network("portal", 60)
    model.add_fault(Fault("half", call="ListUsers", nth=3, times=None))
    done = rotator_command("import", "--out", "policies/users.yaml", ROTATOR_DEADLINE="2s")
    assert (done.code, done.stdout) == (1, "")
    assert list(rotator_command.policies.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "users"),
    [
        ("--level mailboxuser", [5001, 5002]),
        ("--level TPUser", [6001]),
        ("--name EDIT", [6001]),
        ("--mailbox 2", [6001, 6002]),
        ("--network 2", [7001]),
        ("--network 2 --name nobody", []),
    ],
)
@pytest.mark.parametrize("over", ["rest", "soap"])
def test_users_are_narrowed_by_network_mailbox_name_and_level(
    rotator_command: Rotator,
    network: Callable[[str, int], Simulator],
    options: str,
    users: list[int],
    over: str,
) -> None:
    """Over both surfaces, though neither heeds all of them."""
    model = network("service", 2)
    model.add_user(OWN, auth_level=AuthLevel.NetOps, login="rotator", mailbox_id=3)
    model.add_user(6001, login="e1", first_name="Edith", mailbox_id=2, auth_level="TPUser")
    model.add_user(6002, login="other", mailbox_id=2)
    model.add_user(7001, login="elsewhere", network_id=2)
    if over == "soap":
        model.add_fault(Fault("status", call="ListUsers", status=404, times=None))
    done = rotator_command("import", "--json", *options.split())
    assert done.code == 0, done.stderr
    assert [one["user_id"] for one in done.json["users"]] == users


def test_names_are_slugs_of_logins_whatever_is_in_them(
    rotator_command: Rotator, network: Callable[[str, int], Simulator]
) -> None:
    """Quotes, colons, emoji, line breaks; the user's id behind what clashes, or where nothing is left."""
    model = network("portal", 0)
    logins = {
        5001: 'Zoë O\'Hara: "EDI" \U0001f642',
        5002: "a\nb: {c}\r\n- d",
        5003: "\u65e5\u672c",
        5004: "x" * 100,
        5005: "x" * 90,
        5006: "bob@example.com",
        5007: "BOB.example.com",
        5008: "# - {name: bob}",
        5009: "null",
        5010: "{{name}}",
        5011: f"{0xABCDEF0:08x}-1111-2222-3333-{0xABCDEF0:012x}",
    }
    for user_id, login in logins.items():
        model.add_user(user_id, login=login)
        model.add_key(user_id)
    model.add_user(5012, login="gone: {x}\n- {name: evil}", status="Terminated")
    rotator_command.policy(
        "bob",
        "{name: bob-example-com, user_id: 1, visibility: Private, schedule: manual, vault: {path: p}}",
    )
    done, names = imported(rotator_command)
    assert names == {
        5001: "zoe-o-hara-edi",
        5002: "ab-c-d",
        5003: "user-5003",
        5004: "x" * 63,
        5005: "x" * 58 + "-5005",
        5006: "bob-example-com-5006",
        5007: "bob-example-com-5007",
        5008: "name-bob",
        5009: "null",
        5010: "name",
        5011: names[5011],
    }
    assert names[5011].endswith("-5011")
    assert (
        "  # status Terminated, no policy: {name: gone-x-name-evil, user_id: 5012}\n" in done.stdout
    )


def test_no_name_is_given_twice() -> None:
    """Even where the name with the id is taken too."""
    taken: set[str] = set()
    for login in ("a", "a-7", "A", "user-7", ""):
        name = name_for(Person(7, login, "", "", ""), taken)
        assert name not in taken
        taken.add(name)
    assert taken == {"a", "a-7", "user-7-2", "user-7", "user-7-3"}


def test_the_path_is_the_templates(
    rotator_command: Rotator, network: Callable[[str, int], Simulator]
) -> None:
    """One without a place for the name would publish all keys at one path."""
    network("portal", 2)
    imported(rotator_command, "--path", "team/{user_id}/key")
    policies = load(rotator_command.directory / "printed.yaml", PolicyDefaults())
    assert [one.destinations[0].path for one in policies] == ["team/5001/key", "team/5002/key"]
    for path in ("team/key", "team/{login}", "rotator/{name}", "a b/{name}"):
        done = rotator_command("import", "--path", path)
        assert (done.code, done.stdout) == (2, ""), path


@pytest.mark.parametrize("form", ["portal", "service"])
def test_an_import_that_is_interrupted_logs_out_and_writes_nothing(
    rotator_command: Rotator, network: Callable[[str, int], Simulator], form: str
) -> None:
    """With Ctrl-C, in the middle of asking for the users' keys by a login: no session is left at ECGrid."""
    model = network(form, 60)
    del rotator_command.environment["ROTATOR_ECGRID__API_KEY"]
    operator = next(user for user in model.users() if user.user_id == OWN)
    rotator_command.environment |= {
        "ROTATOR_ECGRID__LOGIN": operator.login,
        "ROTATOR_ECGRID__PASSWORD": operator.password,
        "ROTATOR_ECGRID__RATE": "10",
    }
    started = rotator_command.start("import", "--out", "policies/users.yaml")
    asks = "ListKeys" if form == "portal" else "GetAPIKey"
    assert until(lambda: model.counts().get(asks, 0) > 3, "it asks for the users' keys")
    assert model.sessions() > 0
    done = started.finish(send=signal.SIGINT)
    assert (done.code, done.stdout, "interrupted" in done.stderr) == (130, "", True), done.stderr
    assert model.sessions() == 0, model.counts()
    assert list(rotator_command.policies.iterdir()) == []


def test_the_rotators_own_key_may_be_in_vault(
    rotator_command: Rotator,
    network: Callable[[str, int], Simulator],
    vault: VaultServer,
    mount: str,
) -> None:
    """Then, and only then, Vault is asked; nothing is written to it."""
    network("portal", 1)
    key = rotator_command.environment.pop("ROTATOR_ECGRID__API_KEY")
    vault.call("POST", f"{mount}/data/own", {"data": {"api_key": key}})
    rotator_command.environment |= vault.environment
    rotator_command.environment["ROTATOR_ECGRID__API_KEY_VAULT"] = f"{mount}/own#api_key"
    _, names = imported(rotator_command)
    assert names.keys() == {5001}
    assert vault.call("LIST", f"{mount}/metadata/")["data"]["keys"] == ["own"]


# a file that is there


HAND = """\
# our policies
defaults:
  visibility: Private   # as agreed
  schedule: {every: 10d}

policies:
    -   name: first
        user_id: 1
        vault: {path: team/first}
        after:
          - exec: [echo,
                   done]   # told

    # - {name: asleep, user_id: 3}
"""
BY_HAND = {
    "block": HAND,
    "crlf": HAND.replace("\n", "\r\n"),
    "no line end": HAND.rstrip("\n"),
    "key behind": HAND.replace("# our policies\ndefaults", "xxx").split("xxx")[0]
    + HAND[HAND.index("policies:\n") :]
    + "\n# common to all\ndefaults:\n  visibility: Shared\n  schedule: manual\n",
    "indentless": "policies:\n- user_id: 1\n  name: first\n  visibility: Private\n  schedule: manual\n"
    "  vault: {path: a}\n# end\n",
    "flow items": "policies:\n"
    "  - {name: first, user_id: 1, visibility: Private, schedule: manual, vault: {path: a}}  # x",
    "flow list": "policies: [{name: first, user_id: 1, visibility: Private, schedule: manual, vault: {path: a}}]\n",
    "flow lines": "policies: [\n    {name: first, user_id: 1, visibility: Private, schedule: manual,\n"
    "     vault: {path: a}},  # first\n]\n",
    "flow file": '{"policies": [{"name": "first", "user_id": 1, "visibility": "Private", "schedule": "manual", '
    '"vault": {"path": "a"}}]}',
    "block scalar": "policies:\n  - name: first\n    user_id: 1\n    visibility: Private\n    schedule: manual\n"
    "    vault: {path: a}\n    owner: |-\n      us\n\n",
    "byte order mark": "\ufeff" + HAND,
}


@pytest.mark.parametrize("written", BY_HAND.values(), ids=BY_HAND)
def test_a_file_is_added_to_in_its_own_style(tmp_path: Path, written: str) -> None:
    """Nothing in it is lost or moved; the old policies are what they were, the new ones are whole."""
    path = tmp_path / "fleet.yaml"
    path.write_bytes(written.encode())
    before = load(path, PolicyDefaults())
    file = File(path)
    entries = [
        Entry("second", 2, "a mark"),
        Entry("third", 4),
        Entry("fourth", 5, "no policy", aside=True),
    ]
    text = file.with_added(entries, "ecgrid/{name}", CALLS["portal"], PolicyDefaults())
    path.write_bytes(text.encode())
    after = load(path, PolicyDefaults())
    assert [(one.name, one.users, one.digest) for one in after[: len(before)]] == [
        (one.name, one.users, one.digest) for one in before
    ]
    assert [(one.name, one.users[0]) for one in after[len(before) :]] == [
        ("second", 2),
        ("third", 4),
    ]
    assert {to.path for one in after for to in one.destinations} > {"ecgrid/second", "ecgrid/third"}
    assert {one.visibility for one in after[len(before) :]} == {Visibility.PRIVATE}
    old = iter(text)
    assert all(char in old for char in written.removeprefix("\ufeff"))  # in order, every one
    ends = set(re.findall(r"\r\n|\n", text))
    assert len(ends) == 1
    assert File(path).mentioned >= {5}


def test_what_is_added_looks_like_what_is_there(tmp_path: Path) -> None:
    """Indentation, flow or block; what its defaults say is not said again."""
    path = tmp_path / "fleet.yaml"
    path.write_text(HAND)
    text = File(path).with_added(
        [Entry("second", 2)], "x/{name}", CALLS["service"], PolicyDefaults()
    )
    assert text == HAND + (
        "    -   name: second\n"
        "        user_id: 2\n"
        "        issue: generate\n"
        "        verify: get-api-key\n"
        '        vault: {path: "x/{name}"}\n'
    )


def test_a_file_without_news_stays_byte_for_byte_and_one_with_news_keeps_its_rights(
    rotator_command: Rotator, network: Callable[[str, int], Simulator]
) -> None:
    """Also as a link; written in one go, with no draft left beside it."""
    model = network("portal", 2)
    model.add_user(5003, login="asleep", status="Suspended")
    place = rotator_command.directory / "kept.yaml"
    link = rotator_command.policies / "users.yaml"
    assert rotator_command("import", "--out", str(place)).code == 0
    place.write_bytes(place.read_bytes().replace(b"\n", b"\r\n") + b"    # mine\r\n")
    place.chmod(0o640)
    link.symlink_to(place)
    before, inode = place.read_bytes(), place.stat().st_ino
    done = rotator_command("import", "--out", "policies/users.yaml")
    assert (done.code, place.read_bytes(), place.stat().st_ino) == (0, before, inode)
    assert "nothing was added" in done.stdout
    model.add_user(5004, login="late")
    assert rotator_command("import", "--out", "policies/users.yaml").code == 0
    assert place.read_bytes().startswith(before)
    assert link.is_symlink()
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert sorted(one.name for one in rotator_command.directory.glob("*.yaml")) == ["kept.yaml"]
    assert list(rotator_command.directory.glob(".kept*")) == []
    assert rotator_command("validate").code == 0


@pytest.mark.parametrize(
    "written",
    [
        "user_id: 1\nvisibility: Private\nschedule: manual\nvault: {path: a}\n",
        "defaults: {visibility: Private}\n",
        "policies: []\n",
        "policies: {a: 1}\n",
        "- a\n",
        "a: [\n",
        "",
    ],
)
def test_a_file_without_policies_is_refused_and_left_alone(
    rotator_command: Rotator, network: Callable[[str, int], Simulator], written: str
) -> None:
    """With exit 2, before anybody is asked."""
    model = network("portal", 1)
    path = rotator_command.policy("users", written)
    done = rotator_command("import", "--out", "policies/users.yaml")
    assert (done.code, path.read_text(), model.counts()) == (2, written, {})
    assert "users.yaml" in done.stderr


def test_a_file_that_changes_meanwhile_is_left_alone(
    rotator_command: Rotator, network: Callable[[str, int], Simulator]
) -> None:
    """Somebody is editing it."""
    model = network("portal", 1)
    path = rotator_command.policies / "users.yaml"
    assert rotator_command("import", "--out", str(path)).code == 0
    model.add_user(5002, login="late")
    model.add_fault(Fault("latency", call="ListUsers", seconds=3))
    before = model.counts()["GetMe"]
    running = rotator_command.start("import", "--out", str(path))
    until(lambda: model.counts()["GetMe"] > before, "the users are about to be asked for")
    edited = path.read_text() + "    # mine\n"
    path.write_text(edited)
    done = running.finish()
    assert (done.code, path.read_text()) == (2, edited)
    assert "was changed while ECGrid was asked" in done.stderr


def test_an_error_in_the_policies_stops_it_before_it_asks(
    rotator_command: Rotator, network: Callable[[str, int], Simulator]
) -> None:
    """Who has a policy is not known then."""
    model = network("portal", 1)
    rotator_command.policy("bad", "user_id: x")
    done = rotator_command("import")
    assert (done.code, done.stdout, model.counts()) == (2, "", {})


def test_a_file_that_could_not_be_written_is_refused_before_anybody_is_asked(
    rotator_command: Rotator, network: Callable[[str, int], Simulator]
) -> None:
    """Its directory is not there: with exit 2 at once, and not after minutes of questions."""
    model = network("portal", 1)
    done = rotator_command("import", "--out", "nowhere/users.yaml")
    assert (done.code, done.stdout, model.counts()) == (2, "", {})
    assert "there is no directory nowhere: make it first" in done.stderr


def test_a_directory_is_no_file_to_add_to(tmp_path: Path) -> None:
    """Nor is anything else that is no regular file."""
    with pytest.raises(BadInput):
        File(tmp_path)
