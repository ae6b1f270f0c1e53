"""The rotator as a caller of ECGrid: its own key or its sessions, and what follows when one of them is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from rotator.ecgrid.credentials import Credentials, Login
from rotator.ecgrid.rate import Rate, Urgency
from rotator.ecgrid.surface import By, Session, Surface
from rotator.errors import Failure, NotSent, Refused
from rotator.keys import Secret

T = TypeVar("T")

# Seconds before its end from which on a session is renewed.
RENEW_BEFORE = 60.0
# Seconds: closing down waits no longer for ECGrid.
LOG_OUT_TIMEOUT = 5.0
# The one at hand may have ended, a fresh one has not.
ATTEMPTS_WITH_SESSION = 2


class SharedSession:
    """One session on one surface, for all threads: opened when first needed, renewed before it ends."""

    def __init__(
        self, surface: Surface, credentials: Credentials, rate: Rate, clock: Callable[[], float]
    ) -> None:
        self._surface, self._credentials, self._rate = surface, credentials, rate
        self._clock = clock
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._renew_at = float("inf")

    def token(self, within: float) -> Secret:
        """The token to present; raises Refused if the login is not accepted, else as `Surface.log_in`."""
        until = self._clock() + within
        with self._lock:
            session = self._session
            if session is not None and self._clock() >= self._renew_at:
                session = self._renewed(session, until - self._clock())
                self._keep(session)
            if session is None:
                session = self._opened(until - self._clock())
                self._keep(session)
            return session.token

    def drop(self, token: Secret) -> None:
        """ECGrid does not accept the token any more: the next call opens a session anew."""
        with self._lock:
            if self._session is not None and self._session.token == token:
                self._keep(None)

    def close(self) -> None:
        """Logs out, if there is a session; ECGrid ends it by itself if that cannot be done."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            try:
                self._surface.log_out(session, LOG_OUT_TIMEOUT)
            except Failure:
                return

    def _keep(self, session: Session | None) -> None:
        self._session = session
        lasts = None if session is None else session.lasts
        # One that lasts no longer than the margin is used for what it is worth.
        lead = RENEW_BEFORE if lasts is not None and lasts > 2 * RENEW_BEFORE else 0.0
        self._renew_at = float("inf") if lasts is None else self._clock() + lasts - lead

    def _renewed(self, session: Session, within: float) -> Session | None:
        try:
            return self._rate.heed(lambda: self._surface.refresh(session, within))
        except Failure:
            return None

    def _opened(self, within: float) -> Session:
        """A new session; a login that is refused gives way to what its files show by then."""
        until = self._clock() + within
        while True:
            login = self._credentials.log_in_with()
            # Counted, and first in line: whoever waits for the session has been granted its own requests already.
            if not self._rate.reserve(1, Urgency.PAST_ISSUE, until - self._clock()):
                raise NotSent(
                    "ECGrid, Login: no time left to wait for ECGrid's rate limit",
                    kind="ecgrid.RateLimitExceeded",
                    retry_after=self._rate.pause_left(),
                )
            try:
                return self._logged_in(login, until)
            except Refused:
                self._credentials.refuse_login(login)

    def _logged_in(self, login: Login, until: float) -> Session:
        return self._rate.heed(lambda: self._surface.log_in(*login, until - self._clock()))


class Own:
    """Makes calls as the rotator itself, on both surfaces."""

    def __init__(
        self,
        rest: Surface,
        soap: Surface,
        credentials: Credentials,
        rate: Rate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rest = rest
        self._credentials, self._clock = credentials, clock
        self._rest_session = SharedSession(rest, credentials, rate, clock)
        self._soap_session = SharedSession(soap, credentials, rate, clock)

    def call(self, surface: Surface, make: Callable[[By], T], until: float) -> T:
        """Makes a call with the own credential; a refused one is replaced, and the call repeated, until `until`.

        Repeating is safe for an issuing call too: a refused one has issued nothing. Raises what the call raises, and
        Refused once there is no other credential.
        """
        attempts = self._credentials.alternatives + ATTEMPTS_WITH_SESSION
        while True:
            by = self.present(surface, until)
            attempts -= 1
            try:
                answer = make(by)
            except Refused as error:
                refusal = error
            else:
                if not by.is_session:
                    self._credentials.accepted(by.value)
                return answer
            self._turned_down(surface, by, until)
            if attempts <= 0:
                raise refusal

    def present(self, surface: Surface, until: float) -> By:
        """The own credential for a surface: SOAP takes a session where there is a login, REST the key before it."""
        if not (surface.name == "soap" and self._credentials.has_login):
            key = self._credentials.current()
            if key is not None:
                return By(key)
        return By(self._session(surface).token(until - self._clock()), is_session=True)

    def _session(self, surface: Surface) -> SharedSession:
        return {"soap": self._soap_session, "rest": self._rest_session}[surface.name]

    def close(self) -> None:
        """Logs out of both surfaces."""
        self._soap_session.close()
        self._rest_session.close()

    def _turned_down(self, surface: Surface, by: By, until: float) -> None:
        """Another credential is at hand when this returns; raises Refused if there is none."""
        if by.is_session:
            self._session(surface).drop(by.value)
            return
        if surface.name == "soap" and self._is_accepted(by, until):
            raise Refused(
                "ECGrid accepts the rotator's own API key over REST but not over SOAP, where this account takes a "
                "session only: set ROTATOR_ECGRID__LOGIN and ROTATOR_ECGRID__PASSWORD",
                kind="ecgrid.InvalidSession",
            )
        self._credentials.reread(by.value, until - self._clock())

    def _is_accepted(self, by: By, until: float) -> bool:
        try:
            self._rest.who_am_i(by, until - self._clock())
        except Failure:
            return False
        return True
