"""The claim: the exclusive right to rotate, taken after everything that can fail without harm has been tried."""

from __future__ import annotations

import secrets

from rotator.ecgrid import Urgency
from rotator.errors import Forbidden, NotFound, Permanent, Refused
from rotator.journal import Held, Known, Underway, known_from
from rotator.keys import Issue, Secret, Seen, Visibility
from rotator.rotation import due, own, restraint
from rotator.rotation.run import Run
from rotator.vault import Published

REQUESTS = 3  # of a rotation in steady state: issue, read back, probe
CONNECTIONS = 3  # one to issue, two that then run side by side with staging


def claim(run: Run) -> None:
    """Takes the claim, with what ECGrid has now as the baseline; everything that can fail without harm fails before."""
    kind = due.wanted(run)
    if kind is None:
        return
    user_id, visibility = run.target(kind)
    by_itself = kind == "repair" or bool(run.record.failed)
    if kind == "rotate":
        restraint.may_ask(run)
    prepare(run)
    say_what_is_odd(run)
    baseline = run.record.baseline(user_id, visibility)
    if baseline is None:
        baseline = what_there_is(run, user_id, visibility)
    sent = (
        1 if kind == "rotate" else 0
    )  # counted before it is sent; adoption and repair look for a key first
    underway = Underway(
        run=secrets.token_hex(8),
        kind=kind,
        reason=run.order.reason,
        by=run.world.who,
        user_id=user_id,
        visibility=visibility,
        issue=run.policy.issue,
        baseline=baseline,
        began=run.now(),
        sent=sent,
    )
    record = run.record.change(underway=underway)
    if sent:
        record = record.counting_issue(run.now(), beyond_schedule=by_itself)
        run.done |= {"counted"} if by_itself else set()
    run.save(record.knowing(user_id, visibility, baseline))
    run.done.add("claimed")
    run.world.report("rotation.started", kind=kind, user_id=user_id, reason=run.order.reason)


def say_what_is_odd(run: Run) -> None:
    """What a person should know before this rotation, and may want to mend."""
    policy, record, now = run.policy, run.record, run.now()
    current = record.current
    if due.lost_its_record(run):
        run.warn(
            "there is a secret of this policy but no record: it is built anew; keys to be retired may be forgotten"
        )
    if current is not None and not due.fits(policy, record):
        run.warn(left_alone(current))
    early = record.rotated_at is not None and now - record.rotated_at < policy.grace
    cut_off = len(policy.users) > 1 and record.previous_of(run.target()[0]) is not None
    if cut_off and run.order.what == "demand" and early:
        run.warn(
            "rotated again within the grace: consumers that have not read the last key yet are cut off"
        )


def left_alone(held: Held) -> str:
    """What is said of a key that a change of the policy's user or visibility has left behind."""
    return f"key {held.key_id} of user {held.user_id} is no longer this policy's: left alone"


def take_over(run: Run) -> None:
    """Claims a rotation that another run left open; whatever it may have issued is looked for first."""
    be_urgent(run)
    run.world.vault.kv.outlast(run.world.deadline)
    run.save(run.record)
    underway = run.rotation
    run.clean = underway.sent == 0
    run.must_look = underway.sent > 0
    staged, orphan = run.staged, run.orphan
    if (
        orphan is not None
        and run.orphan_of == underway.run
        and not run.record.owes(orphan.ref.key_id)
    ):
        run.key, run.issued, run.must_look, run.orphan = orphan, True, False, None
    elif staged is not None and staged.key is not None and staged.run == underway.run:
        run.key, run.must_look = staged.key, False
    run.warn("finishes a rotation that was interrupted")
    run.world.report("rotation.recovered", run=underway.run, staged=run.key is not None)


def be_urgent(run: Run) -> None:
    """What is past issue goes first; one that failed shares with what is due, unless consumers have a dead key."""
    if run.record.failed is None or run.record.drifted is not None or run.staged is not None:
        run.account.urgent()
    else:
        run.account = run.world.account(run.policy.issue, run.policy.verify, Urgency.STUCK)


def is_left_over(run: Run) -> bool:
    """Whether this run's claim is still in the record, though nothing is open."""
    claim = run.record.claim
    return claim is not None and claim.holder == run.id and run.record.underway is None


def give_back(run: Run) -> None:
    """Gives it back: else others would wait until it ends."""
    run.give_back(run.record)


def prepare(run: Run) -> None:
    """Everything that may wait or fail, before the claim: rights, login, destinations, ECGrid's rate, connections."""
    vault = run.world.vault
    vault.require([run.policy])
    vault.kv.outlast(run.world.deadline)
    for to in run.policy.destinations:
        refuse_others(run, run.seen(to))
    run.account.reserve(REQUESTS)
    run.deadline = (
        run.world.clock.boot() + run.world.deadline
    )  # waiting for the rate does not count
    own.check(run)
    if run.policy.probe and not run.record.probe_tells:
        refuse_blind_probe(run)
    run.account.warm(CONNECTIONS)


def refuse_others(run: Run, there: Published | None) -> None:
    """Raises Permanent if the secret is marked as another policy's: another team may own it."""
    if there is not None and there.policy not in (None, run.policy.name):
        raise Permanent(
            f"{there.at} is marked as policy {there.policy}'s; choose another path, or, if it was renamed, "
            f"run `rotator adopt {run.policy.name} --from {there.policy}`",
            kind="policy.OthersSecret",
        )


def refuse_blind_probe(run: Run) -> None:
    """Raises Permanent if ECGrid accepts a key that nobody issued: then the probe proves nothing. Asked once."""
    try:
        run.patiently(lambda: run.probe(Secret(secrets.token_hex(16))))
    except (Refused, Forbidden, NotFound):
        run.note(run.record.change(probe_tells=True))
        return
    raise Permanent(
        "ECGrid answers a call made with a random key: the probe cannot tell a good key from a bad one. "
        "Is there a proxy that adds a credential? Else set `probe: false`",
        kind="ecgrid.AcceptsAnything",
    )


def what_there_is(run: Run, user_id: int, visibility: Visibility) -> tuple[Known, ...]:
    """The baseline: every key of that user and visibility, as far as ECGrid shows them."""
    if run.policy.issue is Issue.GENERATE:
        shown = [read_if_any(run, user_id)]
    else:
        try:
            shown = list(run.patiently(lambda: run.account.keys(user_id, visibility, run.within())))
        except (Forbidden, NotFound):
            shown = [read_if_any(run, user_id)]
    return known_from(run.record, [seen for seen in shown if seen is not None])


def read_if_any(run: Run, user_id: int) -> Seen | None:
    """What the policy's reading call shows of that user, None where there is nothing or it may not be read."""
    try:
        return run.patiently(lambda: run.account.read(user_id, run.within()))
    except (Forbidden, NotFound):
        return None
