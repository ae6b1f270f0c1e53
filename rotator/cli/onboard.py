"""`rotator import`: a policy file for ECGrid's users that no policy names yet."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rotator.cli import is_quiet, output
from rotator.cli.common import bad_usage, defaults_from, exits, judge_of, say, settings_from
from rotator.errors import BadInput, Problem
from rotator.fleet.census import About, Census, census
from rotator.keys import Among, Me, Person
from rotator.policy import Policy, together
from rotator.policy.adding import Calls, Entry, File, name_for
from rotator.settings import Settings

OWN = "the rotator's own user, no policy"
CHANGED = "was changed while ECGrid was asked: nothing was written, try again"


class Wish(NamedTuple):
    """What was asked for."""

    among: Among
    path: str | None
    out: Path | None


class News(NamedTuple):
    """What came of it: the text of the file, what is new in it, and whether ECGrid showed all of its users."""

    text: str
    entries: list[Entry]
    whole: bool


def import_users(
    given: dict[str, str],
    *,
    network: int | None,
    mailbox: int | None,
    name: str,
    level: str | None,
    path: str | None,
    out: str | None,
    json_: bool,
) -> None:
    """`rotator import`."""
    with exits():
        if path is not None and not {"{name}", "{user_id}"} & set(_braces(path)):
            bad_usage(
                "--path: needs {name} or {user_id}, or all keys would be published at one place"
            )
        settings = _settings(given)
        among = Among(network, mailbox, name, level or "")
        wish = Wish(among, path, Path(out) if out else None)
        file = File(wish.out)
        _require_directory(wish.out)
        policies = _all_policies(settings, wish, file.text)
        with census(settings) as asked:
            news = _news(settings, asked, wish, file, policies)
        policies_left = [one for one in news.entries if not one.aside]
        written = bool(news.entries) and bool(policies_left or file.text)
        if written:
            _all_policies(
                settings, Wish(among, path, wish.out or settings.policies / "new.yaml"), news.text
            )
        if written and wish.out is not None:
            _write(wish.out, file.text, news.text)
        _tell(news, wish.out, written=written, json_=json_)


def _braces(path: str) -> Iterator[str]:
    return (f"{{{part.partition('}')[0]}}}" for part in path.split("{")[1:])


def _settings(given: dict[str, str]) -> Settings:
    problems: list[Problem] = []
    settings = settings_from(given, problems)
    if settings is not None:
        try:
            settings.require_ecgrid()
            if settings.ecgrid.api_key_vault is not None:
                settings.require_vault()
        except BadInput as error:
            problems += error.problems
    if problems or settings is None:
        raise BadInput(problems)
    return settings


def _all_policies(settings: Settings, wish: Wish, text: str) -> list[Policy]:
    """The policies that there are, with what is in the file; raises BadInput if they do not go together."""
    draft = (wish.out, text) if wish.out is not None and text else None
    return together(settings.policies, defaults_from(settings), judge_of(settings), draft)


def _news(
    settings: Settings, asked: Census, wish: Wish, file: File, policies: list[Policy]
) -> News:
    me = asked.me()
    among = wish.among
    if among.network_id is None:
        among = among._replace(network_id=me.network_id)
    with output.counting("users") as tell:
        survey = asked.people(among, tell)
    known = {user_id for policy in policies for user_id in policy.users} | file.mentioned
    new = [one for one in survey.people if one.user_id not in known]
    defaults = defaults_from(settings)
    calls = asked.calls(file.calls(defaults), me.user_id) if new else None
    if calls is None:
        return News(file.text, [], survey.whole)
    about = _keys(asked, [one for one in new if _why_not(one, me) is None], calls)
    entries = list(_entries(new, me, about, {policy.name for policy in policies}))
    text = file.with_added(entries, file.template(wish.path), calls, defaults)
    return News(text, entries, survey.whole)


def _keys(asked: Census, people: list[Person], calls: Calls) -> dict[int, About]:
    with output.counting("keys", len(people)) as tell:
        return asked.keys(people, calls, tell)


def _why_not(person: Person, me: Me) -> str | None:
    """Why a user gets no policy."""
    if person.user_id == me.user_id:
        return OWN
    return None if person.active else f"status {person.status}, no policy"


def _entries(
    people: list[Person], me: Me, about: dict[int, About], taken: set[str]
) -> Iterator[Entry]:
    for person in people:
        name = name_for(person, taken)
        taken.add(name)
        why_not = _why_not(person, me)
        known = about.get(person.user_id, About(why_not or ""))
        yield Entry(name, person.user_id, known.note, why_not is not None, known.visibility)


def _require_directory(path: Path | None) -> None:
    """Raises BadInput if the file could not be written for want of its directory: before minutes are spent on it."""
    if path is not None and not path.resolve().parent.is_dir():
        raise BadInput([Problem(str(path), f"there is no directory {path.parent}: make it first")])


def _write(path: Path, before: str, text: str) -> None:
    """Puts the text in the place of the file, whole or not at all; a link goes on pointing where it did."""
    place = path.resolve()
    try:
        content = place.read_bytes() if place.exists() else b""
        mark = content[:3] if content.startswith(b"\xef\xbb\xbf") else b""
        if content[len(mark) :] != before.encode():
            raise BadInput([Problem(str(path), CHANGED)])
        mode = stat.S_IMODE(place.stat().st_mode) if content else 0o666 & ~_umask()
        handle, draft = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(mark + text.encode())
                stream.flush()
                os.fchmod(handle, mode)
                os.fsync(handle)
            Path(draft).replace(place)
        except BaseException:
            Path(draft).unlink()
            raise
    except OSError as error:
        trouble = f"cannot be written ({error.strerror})"
    else:
        return
    raise BadInput([Problem(str(path), trouble)])


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _tell(news: News, out: Path | None, *, written: bool, json_: bool) -> None:
    if json_:
        rows = [entry._asdict() for entry in news.entries]
        output.print_json(
            {"file": str(out) if out and written else None, "users": rows, "whole": news.whole}
        )
    elif out is None and written:
        print(news.text, end="")
    made = sum(not one.aside for one in news.entries)
    asides = output.counted(len(news.entries) - made, "user is", "users are")
    keyless = sum(bool(one.note) and not one.aside for one in news.entries)
    text = f"{output.counted(made, 'policy', 'policies')} added, {asides} a comment, {keyless} to look at"
    if not news.entries:
        text = "every user has a policy, or a comment: nothing was added"
    elif not written:
        text = f"no user is left to have a policy: {asides} none"
    if is_quiet():
        pass
    elif out is None:
        say(text)
    elif not json_:
        print(text)
    if not news.whole:
        say(
            "warning: ECGrid shows the same page of users again and again: there may be more. "
            "Narrow them by --mailbox, --name or --level"
        )
