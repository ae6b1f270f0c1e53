"""Comparing ECGrid with Vault: what `check` shows, and what the drift check asks to be repaired.

The rules: a refused key is believed to be at a second probe, some time later; other live keys of the user are told, and
are no drift; nothing here issues or publishes.

Keeps: never lost (1), never silent (4).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rotator import due
from rotator.errors import Forbidden, NotFound
from rotator.inventory import lookup
from rotator.journal import Record, changes
from rotator.keys import Agreement, Secret, Seen
from rotator.run import Run
from rotator.vault import Published


@dataclass
class Check:
    """What `check` found for one policy."""

    # in-sync | drift | not-published | no-key | unreadable | refused.
    state: str
    why: str = ""
    warnings: list[str] = field(default_factory=list)
    # ECGrid does not accept the published key.
    refused: bool = False


def compare(run: Run) -> Check:
    """Compares what Vault publishes with what ECGrid accepts; raises Failure if one of them cannot be read."""
    if run.sight.stored is None:
        run.observe()
    main, current = run.sight.at(run.main), run.record.current
    user_id = current.user_id if current else run.policy.users[0]
    if main is None or main.value is None:
        return unpublished(run, user_id)
    check = compare_published(run, main, main.value, main.user_id or user_id)
    if check.state == "in-sync":
        compare_further(run, main, main.value, check)
    check.warnings += what_is_to_come(run)
    return check


def what_is_to_come(run: Run) -> list[str]:
    """What a check leaves to the next run."""
    texts = []
    if run.record.underway is not None:
        texts.append("a rotation is open: the next run finishes it")
    if not due.fits(run.policy, run.record):
        texts.append("the policy was never adopted, or its user or visibility has changed since")
    return texts


def compare_further(run: Run, main: Published, value: Secret, check: Check) -> None:
    """Whether the further destinations show what the first one does."""
    for to in run.policy.destinations[1:]:
        if not run.sight.covers(value, to):
            check.state = "not-published"
            check.why = f"{to.mount}/{to.path} does not show the key that {main.at} shows"
            return


def compare_published(run: Run, main: Published, value: Secret, user_id: int) -> Check:
    """Whether ECGrid accepts the published value as that user's, and shows no other value under its id."""
    answers_as, shown = run.answers_as(value), shown_or_refusal(run, user_id)
    # Where it is refused to show the user's keys, there may be some.
    if answers_as is None:
        state = "drift" if shown else "no-key"
        return Check(state, "ECGrid does not accept the published key", refused=True)
    if answers_as not in run.policy.users:
        return Check("drift", f"the published key is user {answers_as}'s")
    keys = shown if isinstance(shown, list) else []
    if is_contradicted(value, main.key_id, keys):
        return Check("drift", f"ECGrid shows another value under key {main.key_id}")
    return Check("in-sync", warnings=oddities(run, main, value, user_id, keys))


def is_contradicted(value: Secret, key_id: int | None, keys: list[Seen]) -> bool:
    """Whether ECGrid shows another value under that id."""
    texts = [seen.shown for seen in keys if seen.ref.key_id == key_id]
    return any(value.against(text) is Agreement.CONTRADICTS for text in texts)


def oddities(run: Run, main: Published, value: Secret, user_id: int, keys: list[Seen]) -> list[str]:
    """What a person may want to know of a published key that is in order, and of the other keys that ECGrid shows."""
    others = [seen for seen in keys if seen.ref.key_id != main.key_id]
    texts = [
        f"user {user_id} has another live key, {key_id}, that this policy does not know"
        for key_id in lookup.foreign(run, others)
    ]
    if run.record.current is not None and not run.record.shows(value):
        texts.append(
            "Vault shows an older key of this policy than the record, or one written by others"
        )
    return texts


def shown_or_refusal(run: Run, user_id: int) -> list[Seen] | Forbidden:
    """Every key of the user and the policy's visibility, or ECGrid's refusal to show them."""
    visibility = run.policy.visibility
    try:
        if run.generates:
            return [run.patiently(lambda: run.account.read(user_id, run.within()))]
        return run.patiently(lambda: run.account.keys(user_id, visibility, run.within()))
    except NotFound:
        return []
    except Forbidden as error:
        return error


def unpublished(run: Run, user_id: int) -> Check:
    """Nothing is published: is there a key that could be?"""
    shown = shown_or_refusal(run, user_id)
    if isinstance(shown, Forbidden):
        return Check("refused", f"ECGrid refuses to show user {user_id}'s keys ({shown.kind})")
    if not shown:
        return Check("no-key", f"user {user_id} has no key, and nothing is published")
    if any(seen.whole for seen in lookup.all_shown(run, user_id)):
        return Check("not-published", "ECGrid has a key, and the destination does not show it")
    return Check(
        "unreadable", "ECGrid has a key whose value cannot be read, and nothing is published"
    )


def note_drift(run: Run) -> Record:
    """The published key is refused: written with the next change of the record."""
    run.sight.note(changes.drifting(run.record, run.now()))
    return run.record


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
        note_drift(run)
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
