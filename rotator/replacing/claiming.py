"""The claim: the exclusive right to rotate, taken after everything that can fail without harm has been tried.

The rules: no key is asked for before a write to Vault has proved that it can be kept; what ECGrid had before is in that
write; and a rotation is taken over only once its claim has ended, under the user and visibility that it began with.

Keeps: never lost (1), never twice (3).
"""

from __future__ import annotations

import secrets

from rotator import due
from rotator.ecgrid import Urgency
from rotator.errors import Forbidden, NoSuchCall, NotFound, Permanent, Refused
from rotator.inventory import lookup
from rotator.journal import LOOKS, Held, Record, Underway, changes
from rotator.keys import Secret, Seen, Visibility
from rotator.replacing import beginning, proving, restraint, rotators_own
from rotator.retiring import previous
from rotator.run import Run, evidence
from rotator.run.hand import Hand, Nothing, Unproved, Unseen
from rotator.vault import Published

# Of a rotation in steady state: issue, read back, probe.
REQUESTS = 3
# One to issue, two that then run side by side with staging.
CONNECTIONS = 3


def claim(run: Run) -> None:
    """Takes the claim, with what ECGrid has now as the baseline; everything that can fail without harm fails before."""
    kind = beginning.wanted(run)
    if kind is None:
        return
    by_itself = kind == "repair" or bool(run.record.failed)
    underway, seen = opening(run, kind)
    run.holding.take(Nothing(counted=bool(underway.sent) and by_itself, seen=seen))
    run.claim.save(changes.begun(leaking(run), underway, run.now(), beyond_schedule=by_itself))
    prove_room(run)
    run.holding.begin(underway.run)
    user_id, reason = underway.user_id, run.order.reason
    run.world.report("rotation.started", kind=kind, user_id=user_id, reason=reason)


def opening(run: Run, kind: due.Kind) -> tuple[Underway, tuple[Seen, ...] | None]:
    """The rotation as it is to be opened, with everything tried that can fail without harm; changes nothing.

    And what ECGrid has answered when it was asked for the baseline, None if it was not asked.
    """
    user_id, visibility = run.target(kind)
    if kind == "rotate":
        restraint.may_ask(run)
    prepare(run, user_id, visibility)
    if run.order.what != "adopt" and beginning.lost_its_record(run):
        run.world.whose.refuse_lost()
    if kind == "rotate":
        previous.ask_before(run, user_id)
    say_what_is_odd(run)
    baseline, seen = lookup.what_is_known(run, user_id, visibility)
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
        # Counted before it is sent; adoption and repair look for a key first.
        sent=1 if kind == "rotate" else 0,
        speaks=run.account.speaks(run.within()),
    )
    return underway, seen


def prove_room(run: Run) -> None:
    """Shows that Vault takes a secret as large as the one that will be published, where that is large and grows."""
    vault, staged, name = run.world.vault, run.sight.staged, run.policy.name
    sizes = {to: vault.unproved_size(to, run.sight.at(to)) for to in run.policy.destinations}
    to, size = max(sizes.items(), key=lambda one: one[1])
    if size:
        run.patiently(lambda: vault.prove_room(name, run.rotation.run, to, size, staged))
        run.sight.nothing_staged()


def say_what_is_odd(run: Run) -> None:
    """What a person should know before this rotation, and may want to mend."""
    current = run.record.current
    if beginning.lost_its_record(run):
        run.warn(
            "there is a secret of this policy but no record: it is built anew; keys to be retired may be forgotten"
        )
    if current is not None and not due.fits(run.policy, run.record):
        run.warn(left_alone(current))
    previous.warn(run)
    if run.order.what == "demand" and cuts_off(run):
        run.warn(
            "rotated again within the grace: consumers that have not read the last key yet are cut off"
        )


def cuts_off(run: Run) -> bool:
    """Whether a key is replaced, by a policy of two users, that was published less than the grace ago."""
    policy, record = run.policy, run.record
    if record.rotated_at is None or run.now() - record.rotated_at >= policy.grace:
        return False
    return len(policy.users) > 1 and record.previous_of(run.target()[0]) is not None


def left_alone(held: Held) -> str:
    """What is said of a key that a change of the policy's user or visibility has left behind."""
    return f"{held.ref.words} is no longer this policy's: left alone"


def take_over(run: Run) -> None:
    """Claims a rotation that another run left open; whatever it may have issued is looked for first."""
    beginning.refuse_open(run)
    be_urgent(run)
    run.world.vault.kv.outlast(run.world.deadline)
    run.claim.save(leaking(run))
    underway = run.rotation
    run.account.go_on(underway.speaks)
    made = underway.kind != "rollback"
    if made and underway.issue is not run.policy.issue and lacks_its_calls(run):
        give_up(run)
        return
    run.holding.take(left_in_hand(run, underway))
    run.warn("finishes a rotation that was interrupted")
    run.world.report("rotation.recovered", staged=isinstance(run.hand, Unproved))
    proving.see_if_shown(run)


def leaking(run: Run) -> Record:
    """The record; with `--grace 0s` the current key has leaked, and is never to be published again."""
    return run.record.leaking() if run.order.retire_now else run.record


def left_in_hand(run: Run, underway: Underway) -> Hand:
    """What there is of a rotation that was taken over: this run's own key for it, or the staged one, or none."""
    own, staged = run.holding.key_for(underway.run), run.sight.staged
    if own is not None and not run.record.owes(own.ref.key_id):
        run.holding.without_orphan()
        return Unproved(own, "answered")
    if staged is not None and staged.key is not None and staged.run == underway.run:
        return Unproved(staged.key, "made" if underway.sent else "found")
    return Unseen() if underway.sent else Nothing()


def lacks_its_calls(run: Run) -> bool:
    """Whether ECGrid has the calls no more by which the open rotation was begun: nobody can look for its key."""
    underway = run.rotation

    def ask() -> object:
        if run.generates:
            return run.account.read(underway.user_id, run.within())
        return run.account.keys(underway.user_id, underway.visibility, run.within())

    try:
        run.patiently(ask)
    except Permanent as error:
        # Any other refusal is told where the call is needed.
        return error.kind in (NoSuchCall.kind, "ecgrid.NotUnderstood")
    return False


def give_up(run: Run) -> None:
    """Closes the open rotation, for whose key nobody can look; what Vault shows is held against ECGrid, and mended."""
    underway, record = run.rotation, run.record
    run.warn(
        f"the rotation that was begun by `issue: {underway.issue.value}` was given up: this ECGrid does not have that "
        "call, and shows no key that it may have made"
    )
    run.claim.give_back(evidence.failed(run, changes.closed(record), NoSuchCall.kind))
    run.holding.let_go()
    run.sight.doubt()
    run.world.report("rotation.given_up", issue=underway.issue.value)


def be_urgent(run: Run) -> None:
    """What is past issue goes first; one that failed shares with what is due, unless consumers have a dead key.

    One for which looking has found nothing is looked for last, as the drift checks are.
    """
    if run.record.failed is None or run.record.drifted is not None or run.sight.staged is not None:
        run.account.urgent()
    else:
        run.ask_as(Urgency.STUCK if run.rotation.looks < LOOKS else Urgency.CHECK)


def is_left_over(run: Run) -> bool:
    """Whether this run's claim is still in the record, though nothing is open."""
    claim = run.record.claim
    return claim is not None and claim.holder == run.id and run.record.underway is None


def give_back(run: Run) -> None:
    """Gives it back: else others would wait until it ends."""
    run.claim.give_back(run.record)


def prepare(run: Run, user_id: int, visibility: Visibility) -> None:
    """Everything that may wait or fail, before the claim: rights, login, destinations, ECGrid's rate, connections."""
    vault = run.world.vault
    vault.require([run.policy])
    vault.kv.outlast(run.world.deadline)
    for to in run.policy.destinations:
        refuse_others(run, run.sight.at(to))
    run.account.reserve(REQUESTS)
    # Waiting for the rate does not count.
    run.patiently.begin_anew()
    rotators_own.check(run)
    for warning in run.patiently(lambda: run.account.require(user_id, visibility, run.within())):
        run.warn(warning)
    if run.policy.probe and not run.record.probe_tells:
        refuse_blind_probe(run)
    run.account.warm(CONNECTIONS)


def refuse_others(run: Run, document: Published | None) -> None:
    """Raises Permanent if the secret is marked as another policy's: another team may own it."""
    if document is not None and document.policy not in (None, run.policy.name):
        raise Permanent(
            f"{document.at} is marked as policy {document.policy}'s; choose another path, or, if it was renamed, "
            f"run `rotator adopt {run.policy.name} --from {document.policy}`",
            kind="policy.OthersSecret",
        )


def refuse_blind_probe(run: Run) -> None:
    """Raises Permanent if ECGrid accepts a key that nobody issued: then the probe proves nothing.

    Asked for the first policies of a process that need it, and never again where it does.
    """
    if run.world.learnt.probe_tells or refuses_anything(run):
        run.world.learnt.probe_tells = True
        run.sight.note(run.record.change(probe_tells=True))
        return
    raise Permanent(
        "ECGrid answers a call made with a random key: the probe cannot tell a good key from a bad one. "
        "Is there a proxy that adds a credential? Else set `probe: false`",
        kind="ecgrid.AcceptsAnything",
    )


def refuses_anything(run: Run) -> bool:
    """Whether ECGrid refuses a call made with a random key."""
    try:
        run.patiently(lambda: run.probe(Secret(secrets.token_hex(16))))
    except (Refused, Forbidden, NotFound):
        return True
    return False
