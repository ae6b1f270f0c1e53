"""The due index: what says that a record need not be read now, so that a tick costs what is due, not the fleet.

Each policy has an entry in one of a few documents below `STATE_PATH/index/`: nothing is to be done for it before some
instant, as its record said at some version, under some digest of the policy. An entry that is missing, unreadable or
of another digest says nothing, and the record is read. Losing it all costs one slow tick. Beside it stands the gist of
that record (`journal.gist`): `status` and `plan` need not read it either, nor does the tick at which the instant has
come, if a rotation is due by it: the run that begins reads it.

It must never hide what is open, or owed, nor tell what was, so three rules hold, all by check-and-set on the document:

- Whoever is about to claim, or to change what the gist tells, first lowers the entry (it says nothing from then on) and
  leaves a hold there that outlives the claim, or the write: `hold`.
- Whoever meets a record that was deleted, or is older than its entry says, lowers the entry.
- An entry is raised only over the very version of the document that was read before the record was, only where that
  version showed no hold of anybody else that had not ended, and never from an older record than it stands for:
  `raise_`. Whoever loses the race leaves it: what says nothing heals at the next tick.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from rotator.errors import Failure, FenceLost, Gone, Permanent, Transient
from rotator.journal.gist import Kept
from rotator.vault import Vault
from rotator.vault.ahead import ALLOWED
from rotator.vault.kv import At, StaleRead

# Between the estimates that two processes have of Vault's time.
GUARD = timedelta(seconds=10)
# An entry whose instant is so long ago belongs to nobody any more.
FORGOTTEN = timedelta(days=7)
# Of a hold, against other writers of the same document.
TRIES = 20
# That an entry promises.
LONGEST = timedelta(days=1)
UNWRITABLE = -1

ForEach = Callable[[Callable[[At], "_Page"], Iterable[At]], Iterable["_Page"]]


class Entry(NamedTuple):
    """What the record of one policy, at `version`, promised: no work before `quiet_until`, drift checks aside.

    Of checks it only tells the last: how often they are due is each rotator's own setting. `digest` is the policy's.
    `gist` is the record's gist; None where there is none.
    """

    digest: str
    version: int
    quiet_until: datetime
    checked_at: datetime | None
    gist: Kept | None = None


class _Page(NamedTuple):
    """One document as it was read, and when; `version` is UNWRITABLE where that is in doubt."""

    version: int
    entries: dict[str, dict[str, Any]]
    read_at: datetime


class Look:
    """What the index said at one time; `raise_` writes over exactly that."""

    def __init__(self, place_of: Callable[[str], At], pages: dict[At, _Page]) -> None:
        self._at, self.pages = place_of, pages

    def lowered(self, holder: str) -> set[str]:
        """The policies whose records may be open: that somebody lowered, unless only `holder` is about to claim."""
        return {
            name
            for page in self.pages.values()
            for name, entry in page.entries.items()
            if "quiet_until" not in entry and set(_holds(entry)) != {holder}
        }

    def checked(self) -> dict[str, datetime]:
        """When policies were checked last, of those that the index vouches for."""
        entries = (item for page in self.pages.values() for item in page.entries.items())
        return {
            name: checked_at
            for name, entry in entries
            if (checked_at := _instant(entry.get("checked_at")))
        }

    def entry(self, name: str, digest: str) -> Entry | None:
        """The entry of that policy, unless it says nothing."""
        page = self.pages[self._at(name)]
        noted, now = page.entries.get(name), page.read_at
        if noted is None or noted.get("digest") != digest[:16]:
            return None
        quiet = _instant(noted.get("quiet_until"))
        checked = _instant(noted.get("checked_at"))
        # What is too far ahead was written while a clock was wrong.
        if quiet is None or quiet - now > LONGEST + ALLOWED or (checked or now) - now > ALLOWED:
            return None
        gist: Kept | None = noted["told"] if isinstance(noted.get("told"), dict) else None
        return Entry(digest, _number(noted.get("record")), quiet, checked, gist)


class DueIndex:
    """The index of all policies below one state path, for one process. Safe for use by many threads."""

    def __init__(self, vault: Vault, holder: str, hold_for: timedelta) -> None:
        """`holder` names this process and no other one, ever; a hold lasts between once and twice `hold_for`."""
        self._vault, self._holder, self._hold_for = vault, holder, hold_for
        self._holding: dict[str, datetime] = {}
        self._expected: frozenset[str] = frozenset()
        # As this process has read or written them last.
        self._pages: dict[At, _Page] = {}
        self._locks: defaultdict[At, threading.Lock] = defaultdict(threading.Lock)

    def look(self, names: Iterable[str], for_each: ForEach = map) -> Look:
        """Reads the entries of these policies, `for_each` document. Raises Transient if Vault cannot be read at all."""
        places = sorted({self._vault.index_at(name) for name in names})
        pages = dict(zip(places, for_each(self._read, places), strict=True))
        self._pages |= pages
        return Look(self._vault.index_at, pages)

    def lowered(self, names: Iterable[str], age: timedelta) -> set[str]:
        """The policies, whoever's, whose records may be open, by these names' documents; read if older than that."""
        now = self._vault.now()
        places = {self._vault.index_at(name) for name in names}
        old = {
            place
            for place in places
            if (page := self._pages.get(place)) is None or now - page.read_at > age
        }
        self._pages |= {place: self._read(place) for place in sorted(old)}
        return Look(self._vault.index_at, dict(self._pages)).lowered(self._holder)

    def last_look(self) -> Look:
        """The documents as this process has read or written them last; asks for nothing."""
        return Look(self._vault.index_at, dict(self._pages))

    def _read(self, place: At) -> _Page:
        """One document; what is deleted, lags behind, or cannot be understood says nothing."""
        kv = self._vault.kv
        version, data = 0, {}
        try:
            document = kv.read(place)
            if document is not None:
                version, data = document.version, document.data
        except Gone as gone:
            version = gone.version
        except StaleRead:
            # If Vault was restored from a backup, that version counts from the next look on.
            kv.forget(place)
            version = UNWRITABLE
        except Permanent:
            # A right is missing: the rotation will say which.
            version = UNWRITABLE
        entries = _unpacked(data.get("policies"))
        good = {name: entry for name, entry in entries.items() if isinstance(entry, dict)}
        return _Page(version, good, kv.now())

    def raise_(self, look: Look, entries: Mapping[str, Entry]) -> None:
        """Notes what these records promised, as read after `look` and with nobody of this process at work on them.

        One write for each document that changes. What cannot be written now is left for the next tick.
        """
        grouped: defaultdict[At, dict[str, Entry]] = defaultdict(dict)
        for name, entry in entries.items():
            grouped[self._vault.index_at(name)][name] = entry
        for place, group in grouped.items():
            page = look.pages.get(place)
            if page is None or page.version == UNWRITABLE:
                continue
            raised = self._raised(page, group)
            if raised == page.entries:
                continue
            with self._locks[place]:
                for name in group:
                    self._holding.pop(name, None)
                with suppress(Failure, FenceLost):
                    self._write(place, raised, page)

    def _raised(self, page: _Page, group: Mapping[str, Entry]) -> dict[str, dict[str, Any]]:
        kept = _living(page)
        for name, entry in group.items():
            known = kept.get(name, {})
            if self._others_hold(known, page.read_at):
                continue
            # Set back, or read too early.
            if _number(known.get("record")) > entry.version:
                _lower(kept, name)
                continue
            kept[name] = {
                "digest": entry.digest[:16],
                "record": entry.version,
                "quiet_until": _text(entry.quiet_until),
            }
            if entry.checked_at is not None:
                kept[name]["checked_at"] = _text(entry.checked_at)
            if entry.gist is not None:
                kept[name]["told"] = entry.gist
        return kept

    def _others_hold(self, entry: Mapping[str, Any], now: datetime) -> bool:
        return any(
            holder != self._holder and until + GUARD > now
            for holder, until in _holds(entry).items()
        )

    def lower(self, name: str) -> None:
        """Makes the entry say nothing: whoever has met a record that was deleted does so, for all others.

        Raises RotatorError if that cannot be written; then it is noticed within the hour.
        """
        place = self._vault.index_at(name)
        with self._locks[place]:
            page = self._read(place)
            if page.version == UNWRITABLE or "quiet_until" not in page.entries.get(name, {}):
                return
            kept = _living(page)
            _lower(kept, name)
            self._write(place, kept, page)

    def expect(self, names: Iterable[str]) -> None:
        """These policies will be held soon: whichever of them comes first is held with all others of its document."""
        self._expected = frozenset(names)

    def hold(self, name: str) -> None:
        """Lowers a policy's entry, for at least `hold_for` from now; does nothing while an earlier hold lasts so long.

        Raises Transient if that cannot be written now, Permanent if this login may not.
        """
        place = self._vault.index_at(name)
        with self._locks[place]:
            now = self._vault.now()
            if self._holding.get(name, now) >= now + self._hold_for:
                return
            for _ in range(TRIES):
                names = {name} | {
                    other for other in self._expected if self._vault.index_at(other) == place
                }
                try:
                    until = self._write_hold(place, names)
                except FenceLost:
                    continue
                self._holding.update(dict.fromkeys(names, until))
                return
        raise Transient(
            f"{place} is written by too many others at a time; nothing was issued",
            kind="vault.Contended",
        )

    def _write_hold(self, place: At, names: Iterable[str]) -> datetime:
        # What is known is tried first; if the document was written since, that fails, and it is read.
        page = self._pages.pop(place, None) or self._read(place)
        if page.version == UNWRITABLE:
            # Says why.
            self._vault.kv.read(place)
            raise FenceLost(f"{place} could not be read a moment ago")
        kept = _living(page)
        until = self._vault.now() + 2 * self._hold_for
        for name in names:
            known = kept.get(name, {})
            entry = {key: value for key, value in known.items() if key == "record"}
            holds = {
                holder: ends
                for holder, ends in _holds(known).items()
                if ends + GUARD > page.read_at
            } | {self._holder: until}
            kept[name] = {**entry, "holds": {holder: _text(ends) for holder, ends in holds.items()}}
        self._write(place, kept, page)
        return until

    def _write(self, place: At, entries: dict[str, dict[str, Any]], over: _Page) -> None:
        # As one string: OpenBao refuses a document of about a thousand of them.
        text = json.dumps(entries, separators=(",", ":"))
        version = self._vault.put(place, {"policies": text}, over.version)
        self._pages[place] = _Page(version, entries, self._vault.now())


def _lower(entries: dict[str, dict[str, Any]], name: str) -> None:
    """Leaves of an entry what others hold."""
    holds = entries.pop(name, {}).get("holds")
    if holds:
        entries[name] = {"holds": holds}


def _living(page: _Page) -> dict[str, dict[str, Any]]:
    """The entries without those that nobody has touched for long: of policies that are no more."""
    since = page.read_at - FORGOTTEN

    def last(entry: Mapping[str, Any]) -> datetime:
        quiet = _instant(entry.get("quiet_until"))
        return max((since if quiet is None else quiet, *_holds(entry).values()))

    return {name: dict(entry) for name, entry in page.entries.items() if last(entry) > since}


def _unpacked(text: object) -> dict[str, Any]:
    try:
        data = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _holds(entry: Mapping[str, Any]) -> dict[str, datetime]:
    """Who holds the policy, and until when."""
    holds = entry.get("holds")
    pairs = holds.items() if isinstance(holds, dict) else ()
    return {holder: until for holder, text in pairs if (until := _instant(text)) is not None}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _instant(text: object) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return instant if instant is None or instant.tzinfo else instant.replace(tzinfo=UTC)
