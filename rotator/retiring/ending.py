"""Ending one key: shown to be that user's, KeyRemove, and the proof that it is refused.

The rules: ECGrid's yes alone proves nothing; what any destination shows, or what is not plainly that user's, is not
touched; KeyRemove is sent once, under the claim.

Keeps: never lost (1), never silent (4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rotator.errors import AnswerLost, Failure, Forbidden, NoSuchCall, NotFound, Refused
from rotator.journal import Debt, Held
from rotator.keys import Agreement, Secret, Seen
from rotator.run import Run, unknown_if_lost
from rotator.vault import Published


class RetirementFailed(Failure):
    """A key that was to be retired is still there, or may be: the debt stays."""

    kind = "ecgrid.NotRetired"


class Postponed(Failure):
    """The look before KeyRemove said no: nothing was sent."""

    kind = "ecgrid.NotRetired"


class Case(NamedTuple):
    """A key that is to be ended, and what is known of it: `published` is the current key's value, `value` its own."""

    debt: Debt
    current: Held
    published: Secret
    value: Secret | None

    @property
    def is_current_users(self) -> bool:
        """Whether it is the same user's as the current key."""
        return self.debt.user_id == self.current.user_id


class View(NamedTuple):
    """The keys that ECGrid's list shows of one user to one caller (None: the rotator itself)."""

    caller: Secret | None
    shown: list[Seen]

    def has(self, key_id: int | None) -> bool:
        """Whether it shows that key."""
        return key_id is not None and any(seen.ref.key_id == key_id for seen in self.shown)

    def shows(self, value: Secret, key_id: int) -> bool:
        """Whether it shows that key with that value."""
        shown = [seen.shown for seen in self.shown if seen.ref.key_id == key_id]
        return any(value.against(text) is Agreement.EQUAL for text in shown)

    def is_complete(self, case: Case) -> bool:
        """Whether it shows the current key, of the same user and visibility: what it lacks is not there."""
        debt, current = case.debt, case.current
        same = case.is_current_users and debt.visibility in (None, current.visibility)
        return same and self.has(current.key_id)

    def shows_still(self, before: View, case: Case) -> bool:
        """Whether it shows the current key, if it did before; else any of that user's keys from before."""
        if before.has(case.current.key_id):
            return self.has(case.current.key_id)
        rest = any(self.has(seen.ref.key_id) for seen in before.shown)
        return rest or not case.is_current_users


GONE = "ECGrid has no such key"
# A proof.
VALUE_REFUSED = "its value is refused"


def end(run: Run, case: Case) -> str:
    """Ends a key and returns how that is proved.

    Raises Postponed or NoSuchCall before anything is sent; RetirementFailed, or another Failure, if it is not proved.
    """
    try:
        view = look(run, case)
    except NoSuchCall:
        if is_refused(run, case.value):
            return VALUE_REFUSED
        raise
    if view is None or not view.has(case.debt.key_id):
        proof = proof_before(run, case, view)
        if proof is not None:
            return proof
    refuse_shown(run, case, view)
    return proof_after(run, case, view, remove(run, case.debt, run.within_claim()))


def proof_before(run: Run, case: Case, view: View | None) -> str | None:
    """How it is proved that a key which no list shows is ended already; None if Get Key shows it still.

    It was somebody's doing, or this account ends a key when it makes another. Raises Postponed if it is not known
    whose it is.
    """
    if is_refused(run, case.value):
        return VALUE_REFUSED
    if case.value is None and view is not None and view.is_complete(case):
        return "ECGrid's list has the current key and not this one"
    if read_shows(run, case.debt, case.value):
        return None
    raise Postponed(
        f"ECGrid does not show it as a key of user {case.debt.user_id}, so nothing was sent; remove it there by "
        "hand, or give the rotator's user the right to see it"
    )


def proof_after(run: Run, case: Case, view: View | None, answer: str) -> str:
    """How it is proved that KeyRemove, with that answer, has ended the key; raises RetirementFailed if it is not."""
    if case.value is None:
        if view is not None and is_unlisted(run, case, view, answer):
            return "ECGrid's list has it no more"
        doubt = "ECGrid's list does not show that it is gone"
    else:
        if is_refused(run, case.value):
            return VALUE_REFUSED
        doubt = "it is still accepted"
    raise RetirementFailed(f"KeyRemove was sent for key {case.debt.key_id} ({answer}), but {doubt}")


def value_of(run: Run, debt: Debt) -> Secret | None:
    """The value of that key: as this run has replaced it, or in an earlier version of a secret."""
    if run.replaced is not None and run.replaced.ref.key_id == debt.key_id:
        return run.replaced.value
    fingerprint = run.record.fingerprint_of(debt.key_id)
    for old in earlier(run):
        if old.key_id != debt.key_id or old.value is None:
            continue
        if fingerprint in (None, run.record.fingerprint(old.value)):
            return old.value
    return None


def earlier(run: Run) -> Iterator[Published]:
    """What the destinations showed before, the latest first."""
    for to in run.policy.destinations:
        document = run.sight.at(to)
        if document is not None:
            yield from run.world.vault.earlier(to, document.version)


def look(run: Run, case: Case) -> View | None:
    """The list as the rotator sees it, else as the user does, with a key of its own; None where nobody may read it."""
    owners = [case.published if case.is_current_users else None, case.value]
    for caller in (None, *(value for value in owners if value is not None)):
        try:
            return View(caller, list_of(run, case.debt, caller))
        except (Forbidden, NotFound, Refused):
            continue
    return None


def list_of(run: Run, debt: Debt, caller: Secret | None) -> list[Seen]:
    """The keys of that user and visibility, as ECGrid lists them to that caller."""
    visibility = debt.visibility or run.policy.visibility
    return run.account.keys(debt.user_id, visibility, run.within(), caller=caller)


def read_shows(run: Run, debt: Debt, value: Secret | None) -> bool:
    """Whether Get Key shows that key as that user's."""
    for caller in (None, value):
        try:
            seen = run.account.read(debt.user_id, run.within(), caller=caller)
        except (Forbidden, NotFound, Refused):
            continue
        if (seen.ref.key_id, seen.ref.user_id) == (debt.key_id, debt.user_id):
            return True
    return False


def refuse_shown(run: Run, case: Case, view: View | None) -> None:
    """Raises Postponed if the key is shown anywhere: by a destination under its id, or by ECGrid with that value."""
    for to in run.policy.destinations:
        document = run.sight.at(to)
        if document is not None and document.key_id == case.debt.key_id:
            raise Postponed(f"{to.mount}/{to.path} shows it")
    if view is not None and view.shows(case.published, case.debt.key_id):
        raise Postponed("ECGrid shows the published value under its id")


def remove(run: Run, debt: Debt, within: float) -> str:
    """Sends KeyRemove, once; returns what came of it, in words."""
    try:
        answer = unknown_if_lost(lambda: run.account.remove(debt.key_id, within))()
    except NotFound:
        return GONE
    return "the answer was lost" if isinstance(answer, AnswerLost) else "ECGrid said yes"


def accepts(run: Run, value: Secret) -> bool:
    """Whether ECGrid accepts a value."""
    return run.answers_as(value) is not None


def is_refused(run: Run, value: Secret | None) -> bool:
    """Whether the value is at hand, and ECGrid refuses it."""
    return value is not None and not accepts(run, value)


def is_unlisted(run: Run, case: Case, before: View, answer: str) -> bool:
    """The proof by one caller's list: it showed the key, lacks it now, and can be believed still."""
    try:
        shown = run.patiently(lambda: list_of(run, case.debt, before.caller))
    except (Forbidden, NotFound, Refused):
        return False
    after = View(before.caller, shown)
    if after.has(case.debt.key_id):
        return False
    if answer == GONE:
        return after.is_complete(case)
    return before.has(case.debt.key_id) and after.shows_still(before, case)
