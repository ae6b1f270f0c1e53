"""The rotator's own credential: where it comes from, and what is tried when ECGrid refuses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from rotator.errors import Failure, Permanent, Refused
from rotator.keys import Secret

# Seconds that a refused login is not tried again: too many refusals lock the user out.
LOGIN_RESTS = 600.0
# Seconds between two looks at the sources for a rotation of the own key.
POLL = 1.0

Source = Callable[[], Secret | None]
# Name, password.
Login = tuple[str, Secret]


class Credentials:
    """The API key from the first source that has one, else the login. May be used by any number of threads."""

    def __init__(
        self,
        sources: Sequence[Source],
        login: str | None = None,
        password: Secret | None = None,
        *,
        read_login: Callable[[], Login | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`sources` in the order in which they are tried; one that raises a Failure counts as having none.

        `read_login` reads the files of the login again; None where there are none, or none that can be used now.
        """
        self.login: Login | None = None
        if login is not None and password is not None:
            self.login = (login, password)
        self._sources, self._read_login = tuple(sources), read_login
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._value: Secret | None = None
        self._refused: list[Secret] = []
        self._by_login = False
        # And when.
        self._refused_login: tuple[Login, float] | None = None

    @property
    def has_login(self) -> bool:
        """Whether there is a login to fall back on."""
        return self.login is not None

    @property
    def alternatives(self) -> int:
        """How many different credentials there may be at most at one time."""
        return len(self._sources) + self.has_login

    def current(self) -> Secret | None:
        """The API key in use; None if it is the login. Reads the sources only the first time.

        If there is neither key nor login, raises the first source's Failure, else Refused (`ecgrid.InvalidAPIKey`) or,
        if there never was one, Permanent (`ecgrid.NoCredential`).
        """
        with self._lock:
            if self._value is None and not self._by_login:
                self._value, trouble = self._read()
                self._by_login = self._value is None and self.has_login
                if self._value is None and not self._by_login:
                    raise trouble or (key_refused() if self._refused else none_set())
            return self._value

    def replace(self, value: Secret) -> None:
        """From here on this is the own key: ECGrid has issued it, and may have ended the one before."""
        with self._lock:
            self._value, self._by_login = value, False
            self._forgive(value)

    def accepted(self, value: Secret) -> None:
        """ECGrid has accepted the value: whatever it was refused for earlier is over."""
        with self._lock:
            if self._refused:
                self._forgive(value)

    def reread(self, refused: Secret, within: float) -> Secret | None:
        """What to use instead of a value that ECGrid refused: another one from the sources, or None: the login.

        Without a login, waits up to `within` seconds for a source to change, since a rotation of the own key may be
        about to be published; then raises Refused (`ecgrid.InvalidAPIKey`).
        """
        until = self._clock() + within
        with self._lock:
            if refused not in self._refused:
                self._refused.append(refused)
        while not self._found_other():
            left = until - self._clock()
            if left <= 0:
                raise key_refused()
            self._sleep(min(POLL, left))
        with self._lock:
            return self._value

    def log_in_with(self) -> Login:
        """The login to use; once it was refused, as its files show it now.

        Raises Refused while that is still the refused one and ten minutes are not over, and Permanent
        (`ecgrid.NoCredential`) if there is none.
        """
        with self._lock:
            rests = False
            if self._refused_login is not None:
                (refused, refused_at) = self._refused_login
                self.login = self._read_login() or self.login
                rests = self.login == refused and self._clock() - refused_at < LOGIN_RESTS
            if rests:
                self._by_login = False
            login = self.login
        if login is None:
            raise none_set()
        if rests:
            raise login_refused()
        return login

    def refuse_login(self, login: Login) -> None:
        """ECGrid does not accept that login; the sources of keys are read again, too."""
        with self._lock:
            self._by_login = False
            self._refused_login = (login, self._clock())

    def _found_other(self) -> bool:
        with self._lock:
            # Another thread may have found it already.
            if self._value is None or self._value in self._refused:
                self._value, _ = self._read()
                self._by_login = self._value is None and self.has_login
            return self._value is not None or self._by_login

    def _read(self) -> tuple[Secret | None, Failure | None]:
        """The first value that was not refused, and the first trouble that a source had."""
        trouble: Failure | None = None
        for source in self._sources:
            try:
                value = source()
            except Failure as error:
                trouble = trouble or error
                continue
            if value is not None and value not in self._refused:
                return value, None
        return None, trouble

    def _forgive(self, value: Secret) -> None:
        self._refused = [refused for refused in self._refused if refused != value]


def key_refused() -> Refused:
    """The error for an own key that ECGrid does not accept."""
    return Refused(
        "ECGrid does not accept the rotator's own API key; put a valid one where ROTATOR_ECGRID__API_KEY_VAULT, "
        "ROTATOR_ECGRID__API_KEY or ROTATOR_ECGRID__API_KEY_FILE says, or set ROTATOR_ECGRID__LOGIN and "
        "ROTATOR_ECGRID__PASSWORD as the way back in",
        kind="ecgrid.InvalidAPIKey",
    )


def login_refused() -> Refused:
    """The error for an own login that ECGrid does not accept."""
    return Refused(
        "ECGrid does not accept the rotator's own login; check ROTATOR_ECGRID__LOGIN and ROTATOR_ECGRID__PASSWORD",
        kind="ecgrid.InvalidSession",
    )


def none_set() -> Permanent:
    """The error for a rotator that has nothing to show ECGrid."""
    return Permanent(
        "there is no credential for ECGrid; set ROTATOR_ECGRID__API_KEY, ROTATOR_ECGRID__API_KEY_VAULT, or "
        "ROTATOR_ECGRID__LOGIN and ROTATOR_ECGRID__PASSWORD",
        kind="ecgrid.NoCredential",
    )
