"""Who ECGrid's users are, which calls it offers for their keys, and who has none yet. Asks, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from typing import NamedTuple, TypeVar

from rotator.ecgrid import ECGrid, InMemory, Urgency
from rotator.errors import Failure, NoSuchCall, NotFound, Permanent, Refused, Transient
from rotator.fleet.world import Surroundings
from rotator.keys import Among, Issue, Me, Person, Verify, Visibility
from rotator.policy.adding import Calls
from rotator.settings import Settings
from rotator.system import SurfaceName
from rotator.threads import Hands, Tell

T = TypeVar("T")

# Users; a page with fewer is the last one.
PAGE = 25
# Seconds between two attempts at least.
PAUSE = 1.0
# Whose keys are looked for, the likeliest first.
KINDS = (Visibility.PRIVATE, Visibility.SHARED, Visibility.PUBLIC)
# In the order in which they are looked for, where what the settings name is not offered.
PAIRS = (
    Calls(Issue.KEYSET, Verify.GET_KEY),
    Calls(Issue.CREATE_KEY, Verify.GET_KEY),
    Calls(Issue.KEYSET, Verify.KEY_GET),
    Calls(Issue.GENERATE, Verify.GET_API_KEY),
    Calls(Issue.GENERATE, Verify.USER_GET_API_KEY),
)
NO_KEY = "has no key yet: adopting it issues the first one"
UNTOLD = "whether it has a key was not told [{}]"


class Listing(NamedTuple):
    """The users that were found; `whole` is false where ECGrid showed the same page again, and there may be more."""

    people: list[Person]
    whole: bool


class About(NamedTuple):
    """What is to be known of a user's key: that there is none, or why that was not told; and its visibility."""

    note: str = ""
    visibility: Visibility = KINDS[0]


@contextmanager
def census(settings: Settings) -> Iterator[Census]:
    """Everything that is needed to ask. Vault is asked for the rotator's own key alone, if that is where it is."""
    around = Surroundings(settings, keep=InMemory())
    try:
        yield Census(settings, around.ecgrid)
    finally:
        around.close()


class Census:
    """Asks ECGrid; what is transient is tried again until the deadline. Raises Failure."""

    def __init__(self, settings: Settings, ecgrid: ECGrid) -> None:
        self._ecgrid, self._directory = ecgrid, ecgrid.directory()
        self._concurrency, self._within = settings.concurrency, settings.ecgrid.timeout
        self._deadline = settings.deadline.total_seconds()

    def me(self) -> Me:
        """The rotator's own user."""
        return self._patiently(lambda: self._directory.who_am_i(self._within))

    def people(self, among: Among, tell: Tell) -> Listing:
        """The users, by their ids: over REST, or over SOAP where REST does not answer."""
        first, over = self._patiently(lambda: self._first(among))
        seen = {one.user_id: one for one in first}
        page, last = first, over == "soap"
        whole = True
        for number in count(2):
            tell(len(seen))
            if last or len(page) < PAGE:
                break
            page = self._page(over, among, number)
            new = {one.user_id: one for one in page if one.user_id not in seen}
            whole, last = bool(new) or not page or len(seen) != PAGE, not new
            seen |= new
        people = [seen[user_id] for user_id in sorted(seen) if among.has(seen[user_id])]
        return Listing(people, whole)

    def _first(self, among: Among) -> tuple[list[Person], SurfaceName]:
        try:
            return self._directory.users("rest", among, 1, self._within), "rest"
        except Failure as error:
            trouble = error
        with suppress(Failure) if not isinstance(trouble, NoSuchCall) else nullcontext():
            return self._directory.users("soap", among, 1, self._within), "soap"
        raise trouble

    def _page(self, over: SurfaceName, among: Among, number: int) -> list[Person]:
        return self._patiently(lambda: self._directory.users(over, among, number, self._within))

    def calls(self, first: Calls | None, user_id: int) -> Calls:
        """How keys are issued and read here: as `first` says, if ECGrid has these calls; raises NoSuchCall."""
        for pair in filter(None, (first, *PAIRS)):
            with suppress(NoSuchCall):
                self._patiently(partial(self._require, pair, user_id))
                return pair
        raise NoSuchCall("ECGrid offers no call by which the rotator could make and read keys")

    def _require(self, pair: Calls, user_id: int) -> None:
        account = self._ecgrid.account(pair.issue, pair.verify, Urgency.CHECK)
        account.require(user_id, KINDS[0], self._within)

    def keys(self, people: Iterable[Person], calls: Calls, tell: Tell) -> dict[int, About]:
        """What is to be known of those users' keys."""
        people = list(people)

        def one(person: Person) -> About:
            try:
                return self._patiently(lambda: self._about(person.user_id, calls))
            except Transient as error:
                # Of that user alone, as it may be.
                if error.kind != "ecgrid.InternalError":
                    raise
                return About(UNTOLD.format(error.kind))

        hands = Hands(self._concurrency, "census")
        try:
            answers = hands.map(one, people, tell)
        finally:
            hands.close()
        return {person.user_id: about for person, about in zip(people, answers, strict=True)}

    def _about(self, user_id: int, calls: Calls) -> About:
        account = self._ecgrid.account(calls.issue, calls.verify, Urgency.CHECK)
        try:
            if calls.issue is Issue.GENERATE:
                account.read(user_id, self._within)
                return About()
            has = (kind for kind in KINDS if account.keys(user_id, kind, self._within))
            kind = next(has, None)
            return About(NO_KEY) if kind is None else About(visibility=kind)
        except NotFound:
            return About(NO_KEY)
        except Refused:
            raise
        except Permanent as error:
            return About(UNTOLD.format(error.kind))

    def _patiently(self, call: Callable[[], T]) -> T:
        until = time.monotonic() + self._deadline
        while True:
            try:
                return call()
            except Transient as error:
                pause = max(PAUSE, error.retry_after or 0.0)
                if time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
