"""The errors of the program, sorted by what the catcher will do.

RotatorError
  BadInput               usage, settings or policies: nothing was done, exit 2
  FenceLost              another run moved first: start again from the record
    Mismatch             a check-and-set found another version than the one that was read
  Failure                a rotation, or a part of it, failed: reported, exit 1
    Permanent            trying again within this run cannot help
      Refused              the credential itself is not accepted (401)
      Forbidden            the credential is accepted, the act is not allowed (403)
      NotFound             what the call names does not exist (404)
      NoSuchCall           ECGrid does not have the call, which was not made
      Gone                 a document in Vault was deleted or destroyed: not "never existed"
    HeldBack             held back before anything was done: told, and nothing is recorded for it
    Transient            worth another try
      NotSent              the request certainly did not reach the other side
      AnswerLost           the request may have been carried out: look before doing it again

Whoever translates a library's exception raises ours after the `except` block has ended, so that neither
`__cause__` nor `__context__` carries a request, a header, a body or a frame with it. A message says what was being
done, what it means and what to do. It never quotes what the other side said.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import NamedTuple

# Seconds of Retry-After that are believed.
LONGEST_WISH = 3600.0


class RotatorError(Exception):
    """Base of all errors that this program raises on purpose; `str()` is a text for a person."""

    kind = "rotator.Error"

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        super().__init__(message)
        if kind is not None:
            self.kind = kind


class Problem(NamedTuple):
    """One thing that is wrong with the input: `where` is `file:line: field` or a setting's name."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class BadInput(RotatorError):
    """Settings, policies or usage that cannot be acted upon; carries every problem that was found."""

    kind = "input.Bad"

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class FenceLost(RotatorError):
    """Another run has taken over, or has written what this run was about to write."""

    kind = "rotation.FenceLost"


class Mismatch(FenceLost):
    """A check-and-set was refused: the document has another version than the one that was read."""

    kind = "vault.CheckAndSetMismatch"


class Failure(RotatorError):
    """A rotation, or a part of it, failed."""

    kind = "rotation.Failed"


class Permanent(Failure):
    """Trying again within this run cannot help."""


class Refused(Permanent):
    """The credential of the call is not accepted."""


class Forbidden(Permanent):
    """The caller is known but may not do this."""


class NotFound(Permanent):
    """What the call names does not exist."""


class NoSuchCall(Permanent):
    """The service does not have that call: nothing was sent that changes anything."""

    kind = "ecgrid.NoSuchCall"


class Gone(Permanent):
    """A document in Vault was deleted or destroyed; `version` is the number of the missing version."""

    kind = "vault.Deleted"

    def __init__(self, message: str, *, version: int, kind: str | None = None) -> None:
        super().__init__(message, kind=kind)
        self.version = version


class HeldBack(Failure):
    """Held back before anything was done: it is told, exit 1, and nothing is written for it."""


class Transient(Failure):
    """Worth another try; `retry_after` is the other side's own wish, in seconds."""

    def __init__(
        self, message: str, *, kind: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, kind=kind)
        self.retry_after = retry_after


def wish(header: str | None, now: str | None) -> float | None:
    """`Retry-After` in seconds: a number, or a date that is compared with the answer's own; None for anything else."""
    if header is None:
        return None
    try:
        if header.strip().isdecimal():
            seconds = float(header)
        else:
            seconds = (
                parsedate_to_datetime(header) - parsedate_to_datetime(now or "")
            ).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, min(seconds, LONGEST_WISH))


class NotSent(Transient):
    """The request certainly did not reach the other side (no connection could be made)."""


class AnswerLost(Transient):
    """The request may have been carried out, but its answer did not arrive, or cannot be used."""
