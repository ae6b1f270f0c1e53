"""What the rotation asks of ECGrid for one policy: each question goes to the surface that the policy's calls name."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol, TypeVar

from rotator.ecgrid.caller import Own
from rotator.ecgrid.rate import RATE_KIND, Grant, Rate, Urgency
from rotator.ecgrid.surface import By, Offered, Surface
from rotator.ecgrid.window import Slot
from rotator.errors import Failure, Forbidden, NotFound, NotSent, Transient
from rotator.keys import (
    Among,
    ApiKey,
    Issue,
    KeyRef,
    Me,
    Person,
    Secret,
    Seen,
    Verify,
    Visibility,
)
from rotator.system import Description, SurfaceName

T = TypeVar("T")

UNDESCRIBED = (
    "the SOAP service's description could not be read: it is taken to be as the vendor's pages say; "
    "see `rotator doctor`"
)
# Seconds for opening connections and sessions ahead.
WARM_TIMEOUT = 10.0


class Account(Protocol):
    """ECGrid, as a rotation of one policy sees it. `within` is the time for the whole call, in seconds.

    A call asks with the rotator's own credential, or with `caller` where that is given. Errors are those of
    `rotator.errors`, with the kinds `ecgrid.*`: Refused, Forbidden, NotFound, Permanent, Transient; `issue` and
    `remove` raise AnswerLost where they may have been carried out, NotSent where they surely were not.
    """

    def reserve(self, requests: int) -> None:
        """Blocks until a rotation of so many requests may begin; the calls that follow draw on them first."""

    def urgent(self) -> None:
        """From here on, past issue: first in line."""

    def warm(self, connections: int) -> None:
        """Opens connections, and sessions where they are needed, for the issue and the calls that follow it.

        Raises Refused if the login is not accepted; what else goes wrong, the calls themselves will tell.
        """

    def require(self, user_id: int, visibility: Visibility, within: float) -> list[str]:
        """Sees to it that ECGrid has the policy's calls, and changes nothing; what a person should know, in words.

        Costs no request where that is known. Raises Permanent (`ecgrid.NoSuchCall`) if one is not there.
        """

    def speaks(self, within: float) -> dict[SurfaceName, Description]:
        """What the surfaces of the policy's calls speak now; costs no request where that is known."""

    def go_on(self, begun: Mapping[SurfaceName, Description]) -> None:
        """From here on what was begun is finished: in the form that the surfaces had then."""

    def issue(self, user_id: int, visibility: Visibility, within: float) -> ApiKey:
        """A new key, by the policy's issuing call. The request is sent once at most."""

    def read(self, user_id: int, within: float, caller: Secret | None = None) -> Seen:
        """The user's key, by the policy's verifying call."""

    def keys(
        self, user_id: int, visibility: Visibility, within: float, caller: Secret | None = None
    ) -> list[Seen]:
        """The user's keys of that visibility, as the list shows them."""

    def remove(self, key_id: int, within: float) -> None:
        """Ends a key; raises NotFound if it is not there."""

    def who_am_i(self, within: float, caller: Secret | None = None) -> Me:
        """Whose credential that is: the probe, and the own identity."""

    def knows(self, user_id: int, within: float) -> bool | None:
        """Whether there is such a user, as the rotator itself may see it; None where that cannot be told."""

    def use(self, value: Secret) -> None:
        """The own key was rotated: this is the one to ask with from here on."""

    def version(self, within: float) -> str:
        """ECGrid's version, on the surface of the verifying call; needs no credential."""


class Directory(Protocol):
    """ECGrid's users, as whoever looks for them sees it; errors as for `Account`."""

    def users(self, over: SurfaceName, among: Among, page: int, within: float) -> list[Person]:
        """A page, from 1 on, of those users, and maybe others; over SOAP the first has all."""

    def who_am_i(self, within: float) -> Me:
        """Whose credential the rotator's own is."""


class OnWire:
    """The account behind the two surfaces; see `Account` for what every method promises."""

    def __init__(
        self,
        rest: Surface,
        soap: Surface,
        own: Own,
        rate: Rate,
        use: Callable[[Secret], None],
        *,
        issue: Issue,
        verify: Verify,
        urgency: Urgency,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own, self._rate, self._use, self._clock = own, rate, use, clock
        self._issue, self._verify, self._urgency = issue, verify, urgency
        over_soap = issue is Issue.KEYSET or (
            issue is Issue.GENERATE and verify is Verify.USER_GET_API_KEY
        )
        self._issuing = soap if over_soap else rest
        self._reading = soap if verify.over_soap else rest
        self._both: Mapping[SurfaceName, Surface] = {"rest": rest, "soap": soap}
        # X-API-Key is what a key is documented for.
        self._probing = rest
        self._grant: Grant | None = None

    def reserve(self, requests: int) -> None:
        """As `Account.reserve`."""
        if self._grant is not None:
            self._rate.give_back(self._grant)
        self._grant = self._rate.grant(requests, self._urgency)

    def urgent(self) -> None:
        """As `Account.urgent`."""
        self._urgency = Urgency.PAST_ISSUE

    def warm(self, connections: int) -> None:
        """As `Account.warm`: to the issuing surface first, then to those of the read and the probe."""
        until = self._clock() + WARM_TIMEOUT
        order = [self._issuing, self._reading, self._probing]
        more = [self._reading] * max(0, connections - len(order))
        for surface, wanted in Counter([*order, *more][:connections]).items():
            surface.warm(wanted, until - self._clock())
            try:
                self._own.present(surface, until)
            except Transient:
                continue

    def require(self, user_id: int, visibility: Visibility, within: float) -> list[str]:
        """As `Account.require`. Where REST does not say what its key calls are about, its list is asked."""
        until = self._clock() + within
        records = self._verify.shows_record or self._issue is not Issue.GENERATE
        issuing: Offered = "generate" if self._issue is Issue.GENERATE else "create"
        reading: Offered = "get" if self._verify.shows_record else "api_key"
        warnings = []
        for surface, what in ((self._issuing, issuing), (self._reading, reading)):
            surface.offer(what, until - self._clock())
            if surface.is_known(until - self._clock()):
                continue
            if surface.name == "soap":
                warnings.append(UNDESCRIBED)
            elif records:
                self._find_out(surface, user_id, visibility, until)
        return warnings[:1]

    def speaks(self, within: float) -> dict[SurfaceName, Description]:
        """As `Account.speaks`."""
        until = self._clock() + within
        used = (self._issuing, self._reading)
        return {surface.name: surface.speaks(until - self._clock()) for surface in used}

    def go_on(self, begun: Mapping[SurfaceName, Description]) -> None:
        """As `Account.go_on`."""
        self._issuing, self._reading = self._issuing.as_of(begun), self._reading.as_of(begun)

    def _find_out(
        self, surface: Surface, user_id: int, visibility: Visibility, until: float
    ) -> None:
        # Then the call itself will tell.
        with suppress(Forbidden, NotFound):
            self._ask(
                surface,
                lambda by, left: surface.keys(user_id, visibility, by, left),
                until - self._clock(),
                None,
            )

    def issue(self, user_id: int, visibility: Visibility, within: float) -> ApiKey:
        """As `Account.issue`."""
        surface = self._issuing
        issuing = surface.generate if self._issue is Issue.GENERATE else surface.create
        return self._ask(
            surface, lambda by, left: issuing(user_id, visibility, by, left), within, None
        )

    def read(self, user_id: int, within: float, caller: Secret | None = None) -> Seen:
        """As `Account.read`. Get API Key is for NetworkAdmin and up; below, a key's owner may find it in Get Me."""
        until = self._clock() + within
        surface = self._reading
        reading = surface.get if self._verify.shows_record else surface.api_key
        try:
            return self._ask(surface, lambda by, left: reading(user_id, by, left), within, caller)
        except Forbidden as error:
            refusal = error
        if caller is None or self._verify is not Verify.GET_API_KEY:
            raise refusal
        me = self.who_am_i(until - self._clock(), caller)
        if me.key is None or me.user_id != user_id:
            raise refusal
        return Seen(KeyRef(None, user_id, None, None), me.key)

    def keys(
        self, user_id: int, visibility: Visibility, within: float, caller: Secret | None = None
    ) -> list[Seen]:
        """As `Account.keys`."""
        surface = self._reading
        return self._ask(
            surface, lambda by, left: surface.keys(user_id, visibility, by, left), within, caller
        )

    def remove(self, key_id: int, within: float) -> None:
        """As `Account.remove`."""
        surface = self._reading
        self._ask(surface, lambda by, left: surface.remove(key_id, by, left), within, None)

    def who_am_i(self, within: float, caller: Secret | None = None) -> Me:
        """As `Account.who_am_i`: Get Me, over REST for every policy."""
        return self._ask(self._probing, self._probing.who_am_i, within, caller)

    def users(self, over: SurfaceName, among: Among, page: int, within: float) -> list[Person]:
        """As `Directory.users`."""
        surface = self._both[over]
        return self._ask(
            surface, lambda by, left: surface.users(among, page, by, left), within, None
        )

    def knows(self, user_id: int, within: float) -> bool | None:
        """As `Account.knows`: over SOAP for every policy, since REST has no such call."""
        soap = self._both["soap"]
        try:
            self._ask(soap, lambda by, left: soap.user(user_id, by, left), within, None)
        except NotFound:
            return False
        except Failure:
            return None
        return True

    def use(self, value: Secret) -> None:
        """As `Account.use`."""
        self._use(value)

    def version(self, within: float) -> str:
        """As `Account.version`."""
        until = self._clock() + within
        slot = self._draw(until)
        return self._rate.heed(lambda: self._reading.version(until - self._clock()), slot)

    def _ask(
        self,
        surface: Surface,
        make: Callable[[By, float], T],
        within: float,
        caller: Secret | None,
    ) -> T:
        """Makes a call as the caller or as the rotator itself; waiting for the rate counts against `within`."""
        until = self._clock() + within

        def metered(by: By) -> T:
            slot = self._draw(until)
            return self._rate.heed(lambda: make(by, until - self._clock()), slot)

        if caller is not None:
            return metered(By(caller))
        return self._own.call(surface, metered, until)

    def _draw(self, until: float) -> Slot:
        """Takes a granted request, or waits for one; raises NotSent if that would take too long."""
        slot = self._rate.draw(self._grant, self._urgency, until - self._clock())
        if slot is None:
            raise NotSent(
                "ECGrid was not asked: the rate limit leaves no time for it now; ROTATOR_ECGRID__RATE sets the rate, "
                "which is lower while ECGrid answers 429",
                kind=RATE_KIND,
                retry_after=self._rate.pause_left(),
            )
        return slot
