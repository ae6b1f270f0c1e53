"""What each surface speaks: found out from the service itself, once, and remembered.

A description is read without a credential, in bounded time and size, from the address in the settings and no other.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, Protocol

from rotator.ecgrid import answers
from rotator.ecgrid.description import (
    DOCUMENTED,
    DOCUMENTED_NAMESPACE,
    KEY_RECORDS,
    PATHS,
    Form,
    form_of,
    is_what_we_mean,
    of_values,
    read_openapi,
    read_wsdl,
)
from rotator.ecgrid.rate import Rate, Urgency
from rotator.ecgrid.wire import Call, Reply, Wire
from rotator.system import Description, Operation, SurfaceName, System

# Seconds.
READ_TIMEOUT = 10.0
# Bytes.
LARGEST = 8 * 1024 * 1024
# Seconds: a service that goes on not knowing a call is not asked each time what it has.
ASKED_AGAIN_AFTER = 60.0
OPENAPI_PATH = "/swagger/v2/swagger.json"

WSDL = Call("WSDL")
OPENAPI = Call("OpenAPI description")

Change = Callable[[System], System]
Forms = Mapping[SurfaceName, Description]


class Keep(Protocol):
    """Where what was found out outlives the process."""

    def now(self) -> datetime:
        """The time by which a description grows old."""

    def system(self) -> System:
        """What is remembered."""

    def remember(self, change: Change) -> None:
        """Changes what is remembered; where that cannot be done, for this process alone."""


class InMemory:
    """Remembers for this process alone."""

    def __init__(self) -> None:
        self._system = System.new()

    def now(self) -> datetime:
        """As `Keep.now`: the local clock's."""
        return datetime.now(UTC)

    def system(self) -> System:
        """As `Keep.system`."""
        return self._system

    def remember(self, change: Change) -> None:
        """As `Keep.remember`."""
        self._system = change(self._system)


class Spoken:
    """What both surfaces speak. May be used by any number of threads."""

    def __init__(
        self,
        wire: Wire,
        rate: Rate,
        keep: Keep,
        urls: Mapping[SurfaceName, str],
        namespace: str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`namespace`: where the description is not to be believed about it."""
        self._wire, self._rate, self._keep, self._clock = wire, rate, keep, clock
        self._namespace = namespace
        self._at: Mapping[SurfaceName, str] = {
            "soap": f"{urls['soap']}?WSDL",
            "rest": urls["rest"].rstrip("/") + OPENAPI_PATH,
        }
        self._begun: Forms = {}
        self._locks = {surface: threading.Lock() for surface in self._at}
        self._read_at: dict[SurfaceName, float] = {}

    def of(self, surface: SurfaceName, within: float) -> Description:
        """The surface's description, read within so many seconds if need be; `calls` None: there is none to be had."""
        if surface in self._begun:
            return self._begun[surface]
        with self._locks[surface]:
            known = self._known(surface)
            if known is None or not known.is_fresh(self._keep.now()):
                known = self._read(surface, known, within)
        return known

    def as_of(self, begun: Forms) -> Spoken:
        """The same, but for those surfaces: what is open is finished in the form that it was begun in."""
        other = copy.copy(self)
        other._begun = begun  # noqa: SLF001 - one makes another
        return other

    def is_news(self, call: Call, before: tuple[str, Operation], within: float) -> bool:
        """Whether the description, read anew since a call was answered as unknown, says otherwise about it than it did.

        May raise what `operation` raises.
        """
        with self._locks["soap"]:
            last = self._read_at.get("soap")
            if last is None or self._clock() - last >= ASKED_AGAIN_AFTER:
                self._read("soap", self._known("soap"), within)
        return self.operation(call, within) != before

    def anew(self, surface: SurfaceName, within: float) -> tuple[Description, Form]:
        """The description, read anew whatever is remembered, and which of the two forms it tells of."""
        with self._locks[surface]:
            known = self._read(surface, self._known(surface), within)
        return known, form_of(surface, known)

    def operation(self, call: Call, within: float) -> tuple[str, Operation]:
        """The namespace and the parameters of a SOAP call; raises Permanent (`ecgrid.NoSuchCall`).

        Where there is no description, as the vendor's pages have it.
        """
        known = self.of("soap", within)
        calls = DOCUMENTED if known.calls is None else known.calls
        operation = calls.get(call.name)
        if operation is None or not is_what_we_mean(call.name, operation):
            raise answers.no_such_call(call)
        return self._namespace or known.namespace or DOCUMENTED_NAMESPACE, operation

    def path(self, call: Call, within: float) -> str:
        """Method and path of a REST call; raises Permanent (`ecgrid.NoSuchCall`)."""
        known, paths = self.of("rest", within), PATHS[call.name]
        about_values = known.keys == "values"
        if known.calls is not None:
            paths = tuple(path for path in paths if path in known.calls)
            about_values = any(of_values(known.calls[path]) for path in paths)
        if not paths or (about_values and call.name in KEY_RECORDS):
            raise answers.no_such_call(call)
        return paths[0]

    def is_known(self, surface: SurfaceName, within: float) -> bool:
        """Whether the surface has said what it speaks, in a description or by how it answered."""
        known = self.of(surface, within)
        return known.calls is not None or known.keys is not None

    def learn(self, keys: Literal["records", "values"]) -> None:
        """What REST's key calls are about, as an answer told where no description could."""
        known = self._known("rest")
        if known is not None and known.calls is None and known.keys != keys:
            self._note("rest", known.model_copy(update={"keys": keys}))

    def _known(self, surface: SurfaceName) -> Description | None:
        system = self._keep.system()
        known = {"soap": system.soap, "rest": system.rest}[surface]
        return known if known is not None and known.url == self._at[surface] else None

    def _note(self, surface: SurfaceName, known: Description) -> None:
        self._keep.remember(lambda system: system.change(**{surface: known}))

    def _read(self, surface: SurfaceName, before: Description | None, within: float) -> Description:
        """Reads the description anew; a failed re-read keeps what was known, and is not repeated for an hour."""
        url, now = self._at[surface], self._keep.now()
        self._read_at[surface] = self._clock()
        fetched = self._fetched(surface, url, min(READ_TIMEOUT, within))
        known = fetched or (before.kept_at(now) if before else Description(url=url, read_at=now))
        self._note(surface, known)
        return known

    def _fetched(self, surface: SurfaceName, url: str, within: float) -> Description | None:
        until = self._clock() + within
        call = {"soap": WSDL, "rest": OPENAPI}[surface]
        if not self._rate.reserve(1, Urgency.PAST_ISSUE, within):
            return None
        reply = self._wire.send(
            call,
            "GET",
            url,
            headers={},
            content=None,
            within=until - self._clock(),
            largest=LARGEST,
        )
        if not isinstance(reply, Reply) or reply.status != 200 or reply.is_page:
            return None
        if surface == "soap":
            read = read_wsdl(reply.body)
            namespace, calls = read if read is not None else ("", None)
        else:
            namespace, calls = "", read_openapi(reply.body)
        if calls is None:
            return None
        return Description(url=url, read_at=self._keep.now(), namespace=namespace, calls=calls)
