"""Restraint: whether one more key may be asked for. Every issuing request passes here, whatever it is for.

What holds it back: the limits of a run and of a day, the back-off of an open rotation that failed, a drift that many
have, and the brake of the fleet. Nothing else is held back: a key that exists is proved and published at any time.

Keeps: never twice (3).
"""

from __future__ import annotations

from datetime import timedelta

from rotator.errors import HeldBack, Permanent, Transient
from rotator.inventory import drift
from rotator.keys import Secret
from rotator.replacing.beginning import Waits
from rotator.run import Run
from rotator.run.right import MASS_DRIFT, For

# Issuing requests of one run beyond the one that was asked for.
MOST_AGAIN = 3
# Between two keys for a policy whose published key is refused.
PAST_LIMIT = timedelta(minutes=5)
LIMIT = "rotation.IssueLimit"
HELD = "policy.Held"


def may_ask(run: Run, *, again: bool = False) -> None:
    """Comes back once the open rotation, or the one that is about to begin, may ask for a key.

    `again`: an earlier request of the rotation may have been carried out. Raises Waits, HeldBack or Stopped if it may
    not now, and Permanent (`rotation.IssueLimit`) or Transient at the limits.
    """
    underway = run.record.underway
    kind = underway.kind if underway is not None else "rotate"
    what = what_for(kind, again=again)
    if again:
        refuse_endless(run)
    if kind != "rotate":
        refuse_held(run)
    if what != "begin" or run.record.failed:
        refuse_above_limit(run)
    run.world.right.ask(what, run.record)
    if what == "repair":
        ask_witness(run, run.rotation.user_id)


def what_for(kind: str, *, again: bool) -> For:
    """What the right is asked for."""
    if again:
        return "again"
    return "repair" if kind == "repair" else "begin"


def refuse_endless(run: Run) -> None:
    """Raises Transient once a run has asked often enough, Waits while the rotation's back-off lasts."""
    if run.asked_again >= MOST_AGAIN or run.patiently.is_over:
        raise Transient(
            "the answer to the issuing request was lost at every try, and no key was found by looking; the next run "
            "looks again, then asks again",
            kind="ecgrid.AnswerLost",
        )
    if run.order.what != "demand":
        back_off(run)


def refuse_held(run: Run) -> None:
    """Raises HeldBack while a hold lasts: a drift is healed by keys that exist, and no key is issued for it.

    Unless a person ordered it by the policy's name.
    """
    hold = run.record.held(run.now())
    if hold is not None and not (run.order.what in ("demand", "adopt") and run.order.named):
        raise HeldBack(
            f"{hold.words}: no key that exists will do, and none is issued. `rotator rotate {run.policy.name}` issues "
            f"one, `rotator release {run.policy.name}` ends the hold",
            kind=HELD,
        )


def back_off(run: Run) -> None:
    """Raises Waits while the back-off lasts of the failure with which an earlier run of the rotation ended."""
    waits = run.record.waits_until(run.policy.digest, run.now())
    if waits is not None:
        raise Waits(waits)


def refuse_above_limit(run: Run) -> None:
    """Raises Permanent once three keys were issued beyond the schedule within 24 hours: something is wrong.

    A policy whose published key is refused is not stopped for good: one more key every five minutes.
    """
    record, now = run.record, run.now()
    if run.order.what == "demand" or record.issues_left(now) > 0:
        return
    if record.drifted is None and published_is_refused(run):
        record = drift.note_drift(run)
    since = max(record.issued)
    if record.drifted is not None and now - since >= PAST_LIMIT:
        text = (
            "three keys were asked for beyond the schedule within 24 hours; the published key is refused, so one more "
            "is asked for"
        )
        run.warn(text)
        run.world.report("rotation.past_limit", error=LIMIT, message=text)
        return
    until = (
        "no more until the first of these requests is a day old"
        if record.drifted is None
        else "the published key is refused, so one more is asked for every five minutes"
    )
    raise Permanent(
        f"three keys were asked for beyond the schedule within 24 hours: {until}. The log says what became of them; "
        "`rotator rotate` is not bound by this",
        kind=LIMIT,
    )


# a published key that is refused


def published_is_refused(run: Run) -> bool:
    """Whether ECGrid refuses the value that Vault shows, at two probes a tenth of the deadline apart."""
    value = run.sight.value_at(run.main)
    return value is not None and is_refused(run, value)


def is_refused(run: Run, value: Secret) -> bool:
    """Whether ECGrid refuses a value at two probes, a tenth of the deadline apart."""
    if not refuses(run, value):
        return False
    run.world.clock.sleep(run.world.deadline / 10)
    return refuses(run, value)


def refuses(run: Run, value: Secret) -> bool:
    """Whether ECGrid refuses a value now."""
    return run.answers_as(value) is None


def ask_witness(run: Run, user_id: int) -> None:
    """Raises HeldBack (`fleet.MassDrift`) if what made ECGrid refuse the published key was nothing of that key's.

    So it was if ECGrid also refuses the published key that was found well last, or now accepts both of them.
    """
    witness, value = run.world.right.witness(user_id), run.sight.value_at(run.main)
    if witness is None:
        return
    if refuses(run, witness):
        raise run.world.right.witness_refused()
    if value is not None and not refuses(run, value):
        raise HeldBack(
            "held back: ECGrid accepts the published key again, which it had refused; the next look takes it for well",
            kind=MASS_DRIFT,
        )
