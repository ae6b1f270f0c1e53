"""Ending one key: shown to be that user's, KeyRemove, and the proof that it is refused.

The rules: ECGrid's yes alone proves nothing; what any destination shows, or what is not plainly that user's, is not
touched; KeyRemove is sent once, under the claim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rotator.errors import AnswerLost, Failure, Forbidden, NoSuchCall, NotFound, Refused
from rotator.journal import Debt, Held
from rotator.keys import Agreement, Secret, Seen
from rotator.rotation import restraint
from rotator.rotation.run import Run, unknown_if_lost
from rotator.vault import Published


class RetirementFailed(Failure):
    """A key that was to be retired is still there, or may be: the debt stays."""

    kind = "ecgrid.NotRetired"


class Postponed(Failure):
    """The look before KeyRemove said no: nothing was sent."""

    kind = "ecgrid.NotRetired"


@dataclass(frozen=True)
class View:
    """The keys that ECGrid's list shows of one user to one caller (None: the rotator itself)."""

    caller: Secret | None
    shown: list[Seen]

    def has(self, key_id: int | None) -> bool:
        """Whether it shows that key."""
        return key_id is not None and any(seen.ref.key_id == key_id for seen in self.shown)


GONE = "ECGrid has no such key"
VALUE_REFUSED = "its value is refused"  # a proof


def end(run: Run, debt: Debt, current: Held, published: Secret, value: Secret | None) -> str:
    """Ends a key and returns how that is proved; `published` is the current key's value, `value` its own if at hand.

    Raises Postponed or NoSuchCall before anything is sent; RetirementFailed, or another Failure, if it is not proved.
    """
    try:
        view = look(run, debt, [published] if debt.user_id == current.user_id else [], value)
    except NoSuchCall:
        if value is not None and not accepts(run, value):
            return VALUE_REFUSED
        raise
    if view is None or not view.has(debt.key_id):
        if value is not None and not accepts(run, value):
            return (
                VALUE_REFUSED  # somebody's doing, or this account ends a key when it makes another
            )
        if value is None and view is not None and witness(view, debt, current):
            return "ECGrid's list has the current key and not this one"
        if not read_shows(run, debt, value):
            raise Postponed(
                f"ECGrid does not show it as a key of user {debt.user_id}, so nothing was sent; remove it there by "
                "hand, or give the rotator's user the right to see it"
            )
    refuse_shown(run, debt, view, published)
    said = remove(run, debt, restraint.within(run))
    if value is not None:
        if accepts(run, value):
            raise unproved(debt, said, "it is still accepted")
        return VALUE_REFUSED
    if not unlisted(run, debt, current, view, said):
        raise unproved(debt, said, "ECGrid's list does not show that it is gone")
    return "ECGrid's list has it no more"


def unproved(debt: Debt, said: str, why: str) -> RetirementFailed:
    """KeyRemove was sent, and the key may live."""
    return RetirementFailed(f"KeyRemove was sent for key {debt.key_id} ({said}), but {why}")


def value_of(run: Run, debt: Debt) -> Secret | None:
    """The value of that key: as this run has replaced it, or in an earlier version of a secret."""
    if run.replaced is not None and run.replaced.ref.key_id == debt.key_id:
        return run.replaced.value
    fingerprint = run.record.fingerprint_of(debt.key_id)
    for old in earlier(run):
        fits = old.value is not None and fingerprint in (None, run.record.fingerprint(old.value))
        if old.key_id == debt.key_id and fits:
            return old.value
    return None


def earlier(run: Run) -> Iterator[Published]:
    """What the destinations showed before, the latest first."""
    for to in run.policy.destinations:
        there = run.sight.at(to)
        if there is not None:
            yield from run.world.vault.earlier(to, there.version)


def look(run: Run, debt: Debt, owners: list[Secret], value: Secret | None) -> View | None:
    """The list as the rotator sees it, else as the user does, with a key of its own; None where nobody may read it."""
    visibility = debt.visibility or run.policy.visibility
    for caller in [None, *owners, *([] if value is None else [value])]:
        try:
            shown = run.account.keys(debt.user_id, visibility, run.within(), caller=caller)
        except (Forbidden, NotFound, Refused):
            continue
        return View(caller, shown)
    return None


def witness(view: View, debt: Debt, current: Held) -> bool:
    """Whether a list that lacks the key shows the current one, of the same user and visibility: it can be believed."""
    same = debt.user_id == current.user_id and debt.visibility in (None, current.visibility)
    return same and view.has(current.key_id)


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


def refuse_shown(run: Run, debt: Debt, view: View | None, published: Secret) -> None:
    """Raises Postponed if the key is shown anywhere: by a destination under its id, or by ECGrid with that value."""
    for to in run.policy.destinations:
        there = run.sight.at(to)
        if there is not None and there.key_id == debt.key_id:
            raise Postponed(f"{to.mount}/{to.path} shows it")
    for seen in view.shown if view else ():
        if seen.ref.key_id == debt.key_id and published.against(seen.shown) is Agreement.EQUAL:
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


def unlisted(run: Run, debt: Debt, current: Held, before: View | None, said: str) -> bool:
    """The proof by one caller's list: it showed the key, lacks it now, and shows the user's current key still."""
    if before is None:
        return False
    visibility = debt.visibility or run.policy.visibility
    try:
        shown = run.patiently(
            lambda: run.account.keys(debt.user_id, visibility, run.within(), caller=before.caller)
        )
    except (Forbidden, NotFound, Refused):
        return False
    after = View(before.caller, shown)
    if said == GONE:
        return not after.has(debt.key_id) and witness(after, debt, current)
    if after.has(debt.key_id) or not before.has(debt.key_id):
        return False
    if not before.has(current.key_id):  # another user's or visibility's, or nobody tells its id
        others = [seen for seen in before.shown if seen.ref.key_id != debt.key_id]
        return debt.user_id != current.user_id or any(after.has(o.ref.key_id) for o in others)
    return after.has(current.key_id)
