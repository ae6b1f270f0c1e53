"""Comparing ECGrid with Vault: what `check` shows, and what the drift check asks to be repaired.

The rules: a refused key is believed to be at a second probe, some time later; other live keys of the user are told, and
are no drift; nothing here issues or publishes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rotator.errors import Forbidden, NotFound
from rotator.keys import Agreement, Secret, Seen
from rotator.rotation import due, finding, restraint
from rotator.rotation.run import Run
from rotator.vault import Published


@dataclass
class Check:
    """What `check` found for one policy."""

    state: str  # in-sync | drift | not-published | no-key | unreadable | refused
    why: str = ""
    warnings: list[str] = field(default_factory=list)
    refused: bool = False  # ECGrid does not accept the published key


def compare(run: Run) -> Check:
    """Compares what Vault publishes with what ECGrid accepts; raises Failure if one of them cannot be read."""
    if run.sight.stored is None:
        run.observe()
    there = run.sight.at(run.main)
    user_id = run.record.current.user_id if run.record.current else run.policy.users[0]
    if there is None or there.value is None:
        return unpublished(run, user_id)
    user_id = there.user_id or user_id
    check = compare_published(run, there, there.value, user_id)
    for to in run.policy.destinations[1:]:
        if check.state == "in-sync" and not run.sight.covers(there.value, to):
            check.state = "not-published"
            check.why = f"{to.mount}/{to.path} does not show the key that {there.at} shows"
    if run.record.underway is not None:
        check.warnings.append("a rotation is open: the next run finishes it")
    if not due.fits(run.policy, run.record):
        check.warnings.append(
            "the policy was never adopted, or its user or visibility has changed since"
        )
    return check


def compare_published(run: Run, there: Published, value: Secret, user_id: int) -> Check:
    """Whether ECGrid accepts the published value as that user's, and shows no other value under its id."""
    answers_as = run.answers_as(value)
    try:
        shown, hidden = shown_now(run, user_id), False
    except (Forbidden, NotFound) as error:
        shown, hidden = [], isinstance(error, Forbidden)
    if answers_as is None:
        state = "drift" if shown or hidden else "no-key"
        return Check(state, "ECGrid does not accept the published key", refused=True)
    if answers_as not in run.policy.users:
        return Check("drift", f"the published key is user {answers_as}'s")
    for seen in shown:
        if seen.ref.key_id == there.key_id and value.against(seen.shown) is Agreement.CONTRADICTS:
            return Check("drift", f"ECGrid shows another value under key {there.key_id}")
    check = Check("in-sync")
    for key_id in finding.foreign(run, [seen for seen in shown if seen.ref.key_id != there.key_id]):
        check.warnings.append(
            f"user {user_id} has another live key, {key_id}, that this policy does not know"
        )
    if run.record.current is not None and not run.record.shows(value):
        check.warnings.append(
            "Vault shows an older key of this policy than the record, or one written by others"
        )
    return check


def shown_now(run: Run, user_id: int) -> list[Seen]:
    """Every key of the user and the policy's visibility; raises Forbidden or NotFound where none may be seen."""
    if run.generates:
        return [run.patiently(lambda: run.account.read(user_id, run.within()))]
    return run.patiently(lambda: run.account.keys(user_id, run.policy.visibility, run.within()))


def unpublished(run: Run, user_id: int) -> Check:
    """Nothing is published: is there a key that could be?"""
    try:
        shown = shown_now(run, user_id)
    except Forbidden as error:
        return Check("refused", f"ECGrid refuses to show user {user_id}'s keys ({error.kind})")
    except NotFound:
        shown = []
    if not shown:
        return Check("no-key", f"user {user_id} has no key, and nothing is published")
    if any(seen.whole for seen in finding.all_shown(run, user_id)):
        return Check("not-published", "ECGrid has a key, and the destination does not show it")
    return Check(
        "unreadable", "ECGrid has a key whose value cannot be read, and nothing is published"
    )


# the drift check, as a step of the page


def is_asked_for(run: Run) -> bool:
    """Whether to look for drift now: once, when it was ordered, or while a lost request may still land."""
    if run.sight.sync in ("looked", "drifted") or run.record.underway is not None:
        return False
    watched = run.order.what == "schedule" and due.may_still_land(run.record, run.now())
    return run.order.what == "repair" or watched or run.sight.sync == "doubted"


def look(run: Run) -> None:
    """Compares, and asks for a repair if Vault does not hold what ECGrid accepts; else notes when it was checked.

    A published key that is refused for the first time is believed to be after a second probe, some time later.
    """
    run.sight.looked()
    run.sight.look_at_staged()
    check = compare(run)
    if check.refused and run.record.drifted is None:
        run.world.clock.sleep(run.world.deadline / 10)
        run.sight.again_at(run.main)
        check = compare(run)
    if check.refused:
        restraint.note_drift(run)
    heed(run, check)
    record = run.record
    if check.state != "in-sync":
        run.world.report("policy.drift", state=check.state)
    elif record.current is not None and run.claim.others is None:
        now = run.now()
        # What failed was on demand, or is well again; what is still wanted has still failed.
        wanted = due.kind_wanted(run.policy, record, due.SCHEDULE, now)
        failed = record.failed if wanted else None
        run.claim.give_back(record.change(checked_at=now, failed=failed, drifted=None))


def heed(run: Run, check: Check) -> None:
    """Says what was found, and asks for a repair if Vault does not hold what ECGrid accepts."""
    for warning in check.warnings:
        run.warn(warning)
    if check.state == "in-sync":
        return
    run.warn(f"found {check.state}: {check.why}")
    # What nobody may look at, and was never adopted, is a person's to begin with.
    if check.state != "refused" or run.record.current is not None:
        run.sight.drifted()
