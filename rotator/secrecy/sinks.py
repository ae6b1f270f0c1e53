"""The last points before something leaves the process as text; each passes it through the net.

Inside logging these are `Logger.handle` and `Handler.handle`, which every record passes, also one for a logger or a
handler that is made later; around it stdout, stderr and warnings. A catch is told as `leak.prevented`, with the place.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from rotator.secrecy.net import MASK, NET

# Is told the place of a catch.
Alarm = Callable[[str], None]
R = TypeVar("R")

# The one logger, with its children, that may speak.
OURS = "rotator"
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_DEPTH = 12
# Seconds.
_AGAIN = 60.0
_telling = threading.local()
_alarms: list[Alarm] = []
# Place -> when it last alarmed.
_alarmed: dict[str, float] = {}


def on_catch(alarm: Alarm) -> None:
    """From here on `alarm` is told the place of every catch; what it says itself raises no further one."""
    _alarms.append(alarm)


def scrub(text: str, place: str = "output") -> str:
    """The text without any watched secret; `**` if anything fails. `place` names the sink for the alarm."""
    try:
        clean = NET.scrub(text)
    except Exception:  # noqa: BLE001 - the net holds or it shows nothing, but it never throws
        return MASK
    if clean != text:
        caught(place)
    return clean


def scrub_all(value: object, place: str = "output", depth: int = _DEPTH) -> Any:
    """A structure of plain data, scrubbed; whatever is no plain data becomes its text."""
    if value is None or isinstance(value, bool | int | float):
        # A number has no spelling to hide in, but may be all of a secret.
        return value if value is None or scrub(str(value), place) == str(value) else MASK
    if isinstance(value, str):
        return scrub(value, place)
    if depth == 0:
        return MASK
    if isinstance(value, Mapping):
        return {
            scrub(str(key), place): scrub_all(inner, place, depth - 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub_all(inner, place, depth - 1) for inner in value]
    if isinstance(value, bytes | bytearray):
        return scrub(bytes(value).decode("latin-1"), place)
    return scrub(str(value), place)


def caught(place: str) -> None:
    """Raises the alarm: a value came as far as the net, which construction should have made impossible.

    The same place alarms once a minute at most, since what shows a secret once often does so in a loop.
    """
    now = time.monotonic()
    if getattr(_telling, "now", False) or now - _alarmed.get(place, -_AGAIN) < _AGAIN:
        return
    _telling.now, _alarmed[place] = True, now
    try:
        for alarm in _alarms:
            alarm(place)
    except Exception:  # noqa: BLE001 - whoever printed something must not fail because of us
        return
    finally:
        _telling.now = False


def guard() -> None:
    """Puts the net before every sink of this process. Again: does nothing more."""
    if isinstance(sys.stdout, _Scrubbed):
        return
    # Else a broken log call prints its arguments.
    logging.raiseExceptions = False
    # A filter, a formatter or a factory each misses some loggers, some handlers or some parts of a record.
    logging.Logger.handle = _cleaned(logging.Logger.handle)  # type: ignore[assignment,method-assign]  # see above
    logging.Handler.handle = _cleaned(logging.Handler.handle)  # type: ignore[assignment,method-assign]  # see above
    warnings.showwarning = _warned
    sys.stdout = cast(TextIO, _Scrubbed(sys.stdout, "stdout"))
    sys.stderr = cast(TextIO, _Scrubbed(sys.stderr, "stderr"))


def unguarded(stream: TextIO) -> TextIO:
    """What a stream of `guard` writes to: for a sink whose input is scrubbed already."""
    return stream.inner if isinstance(stream, _Scrubbed) else stream


class _Scrubbed(io.TextIOBase):
    """A text stream that scrubs each write; in all else the one below it."""

    def __init__(self, inner: TextIO, place: str) -> None:
        super().__init__()
        self.inner, self._place = inner, place

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError("a text stream takes text")
        with self._reader_may_leave():
            self.inner.write(scrub(text, self._place))
        return len(text)

    def flush(self) -> None:
        with self._reader_may_leave():
            self.inner.flush()

    @contextmanager
    def _reader_may_leave(self) -> Iterator[None]:
        """`| head` has seen enough: that is no failure of what was done, and the exit code stays the command's."""
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.inner.fileno())

    def isatty(self) -> bool:
        return self.inner.isatty()

    def fileno(self) -> int:
        return self.inner.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read only, as it is in the base class
        return self.inner.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # the same
        return self.inner.errors

    def close(self) -> None:
        """Nothing: the stream is the interpreter's."""


def _warned(  # noqa: PLR0917 - the signature is that of warnings.showwarning
    message: Warning | str,  # noqa: ARG001 - it quotes what it likes, and so does the source line
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,  # noqa: ARG001 - see above
) -> None:
    """A warning's class and place."""
    out = file or sys.stderr
    out.write(f"warning: {category.__name__} at {Path(filename).name}:{lineno}\n")


# log records


def _cleaned(
    handle: Callable[[Any, logging.LogRecord], R],
) -> Callable[[Any, logging.LogRecord], R]:
    """`handle` for records of ours, cleaned; a library may not speak, whoever gave it a level or a handler."""

    @wraps(handle)
    def handle_cleaned(self: Any, record: logging.LogRecord) -> R:
        name = str(record.name)
        if name != OURS and not name.startswith(f"{OURS}."):
            return cast(R, False)
        clean(record)
        return handle(self, record)

    return handle_cleaned


def clean(record: logging.LogRecord) -> None:
    """Takes every watched secret out of a record, in place: message, arguments, exception, stack and extras.

    An exception is left as its class and place: its text is whatever a library put there. Never raises.
    """
    try:
        file = "/".join(Path(record.pathname).parts[-2:])
        place = f"log {file or OURS}:{record.lineno}"
        record.msg, record.args = scrub(_message(record), place), ()
        if record.exc_info:
            record.exc_info, record.exc_text = None, _fault(record.exc_info)
        if record.exc_text:
            record.exc_text = scrub(record.exc_text, place)
        if record.stack_info:
            record.stack_info = scrub(record.stack_info, place)
        for name, value in list(vars(record).items()):
            if name not in _PLAIN:
                setattr(record, name, scrub_all(value, place))
    except Exception:  # noqa: BLE001 - a record that cannot be cleaned says nothing at all
        record.__dict__ = vars(logging.makeLogRecord({"name": OURS, "msg": MASK}))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a broken format: the arguments are lost, as they must be
        return str(record.msg)


def _fault(exc_info: Any) -> str:
    kind, _, traceback = exc_info if isinstance(exc_info, tuple) else (None, None, None)
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if kind is None or traceback is None:
        return kind.__name__ if kind else ""
    return f"{kind.__name__} at {Path(traceback.tb_frame.f_code.co_filename).name}:{traceback.tb_lineno}"
