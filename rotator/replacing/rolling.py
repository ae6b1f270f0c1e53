"""The way back: the key before is published again, and the newer one is owed its end.

Its value comes from an earlier version of the secret, and nowhere else. Nothing is written unless ECGrid accepts it.
What was begun is finished by whichever run comes to it, or undone if ECGrid accepts that key no more.

Keeps: never lost (1), never unverified (2).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from rotator import due
from rotator.errors import Gone, HeldBack, Permanent
from rotator.inventory import lookup
from rotator.journal import WATCH, Known, Record, Underway
from rotator.keys import ApiKey, KeyRef, Secret
from rotator.replacing import beginning, claiming, proving, publishing, rotators_own
from rotator.run import CONTENDED, Run, evidence
from rotator.run.hand import Proved, Shown
from rotator.vault import Published

# Of the secret that are looked at; Vault keeps ten, if nobody has said otherwise.
VERSIONS = 100


class NoWayBack(Permanent):
    """The key before cannot be published again."""

    kind = "rotation.NoWayBack"


def is_wanted(run: Run) -> bool:
    """Whether a person ordered a rollback, and nothing is open."""
    return beginning.is_wanted(run) and beginning.wanted(run) == "rollback"


def is_open(run: Run) -> bool:
    """Whether that is what is open."""
    return run.rotation.kind == "rollback"


def claim(run: Run) -> None:
    """Finds the key before, has it accepted by ECGrid, and takes the claim, which takes away what is owed for that key.

    Only upon the record that the command has met: one that others have written since is a person's to look at.
    """
    if run.holding.began is not None or run.restarts:
        conclude(run)
        return
    prepare(run)
    key = key_before(run)
    record, ref, now = run.record, key.ref, run.now()
    debt = next((debt for debt in record.retiring if debt.key_id == ref.key_id), None)
    underway = Underway(
        run=secrets.token_hex(8),
        kind="rollback",
        reason=run.order.reason,
        by=run.world.who,
        user_id=ref.user_id,
        visibility=run.policy.visibility,
        issue=run.policy.issue,
        baseline=(),
        began=now,
        speaks=run.account.speaks(run.within()),
        older=Known(key_id=ref.key_id, created=ref.created, fingerprint=record.before),
        debt=debt,
    )
    # What was sent to end it may still land.
    if debt is not None and debt.tried:
        record = record.change(watch_until=now + WATCH)
    run.claim.save(record.not_owing(ref.key_id).change(underway=underway))
    run.holding.begin(underway.run)
    warn_of_age(run, key)
    take(run, key)
    run.world.report(
        "rotation.started", kind="rollback", user_id=ref.user_id, reason=run.order.reason
    )


def conclude(run: Run) -> None:
    """What another run has made of the rollback, or of the record; raises HeldBack unless it is rolled back."""
    mine = [
        past.outcome
        for past in run.record.history
        if past.rotation and past.rotation == run.holding.began
    ]
    if "rolled-back" in mine:
        run.outcome.settled("rolled-back")
        return
    raise HeldBack(
        "another run has written the record meanwhile, and this one has done no more: see what is published now, and "
        "give the command again if that is still to be undone",
        kind=CONTENDED,
    )


def prepare(run: Run) -> None:
    """Everything that may fail without harm, before the claim."""
    vault = run.world.vault
    vault.require([run.policy])
    vault.kv.outlast(run.world.deadline)
    for to in run.policy.destinations:
        claiming.refuse_others(run, run.sight.at(to))
    rotators_own.check(run)


def warn_of_age(run: Run, key: ApiKey) -> None:
    """One that is older than the policy allows is published all the same: the alarm comes."""
    created, most = key.ref.created, run.policy.max_age
    if created is not None and most is not None and run.now() - created > most:
        run.warn(
            f"{key.ref.words} is {run.now() - created} old, and `max_age` is {most}: rotate soon"
        )


def take(run: Run, key: ApiKey) -> None:
    """Goes on with the key before, which ECGrid has just accepted; the rotator uses its own from here on."""
    shown = run.sight.covers(key.value, run.main) and not run.sight.lags(run.main)
    run.holding.take(Shown(key, "found") if shown else Proved(key, "found"))
    if run.world.whose.own_user_if_known() == key.ref.user_id:
        run.account.use(key.value)


# which key that is


def key_before(run: Run) -> ApiKey:
    """The key before, as ECGrid accepts it now; raises NoWayBack if there is none that may be published again."""
    record, policy = run.record, run.policy
    if not due.fits(policy, record):
        raise NoWayBack(
            "the policy was never adopted, or its user or visibility has changed since: no key before is this policy's"
        )
    if not record.before:
        raise NoWayBack(
            "the record knows no key before the present one that may be published again: there was none, or it was "
            "replaced with `--grace 0s`, or by a version that did not note it"
        )
    older = shown_before(run, record.before)
    if older is None or older.value is None:
        raise NoWayBack(
            f"no version of {run.main.mount}/{run.main.path} in Vault has the key before any more"
        )
    user_id = require_accepted(run, older, older.value)
    key = ApiKey(named(run, older, older.value, user_id), older.value)
    refuse_unfit(run, key.ref)
    return key


def require_accepted(run: Run, older: Published, value: Secret) -> int:
    """Whose key it is, as ECGrid accepts it; raises NoWayBack if it does not, or as another user's than it was."""
    if not run.record.probe_tells:
        claiming.refuse_blind_probe(run)
    user_id = run.answers_as(value)
    if user_id in run.policy.users and older.user_id in (None, user_id):
        return user_id
    answer = (
        "is not accepted by ECGrid any more" if user_id is None else f"answers as user {user_id}"
    )
    raise NoWayBack(f"the key before {answer}: `rotator rotate {run.policy.name}` makes a new one")


def shown_before(run: Run, fingerprint: str) -> Published | None:
    """What the first destination shows, or showed, with the value of that fingerprint; the latest. None: nothing."""
    for document in versions(run):
        if document.value is not None and run.record.fingerprint(document.value) == fingerprint:
            return document
    return None


def versions(run: Run) -> Iterator[Published]:
    """What the first destination shows and showed before, the latest first, as far as Vault has it."""
    latest = run.sight.again_at(run.main)
    if latest is None:
        return
    yield latest
    for version in range(latest.version - 1, max(0, latest.version - VERSIONS), -1):
        try:
            old = run.patiently(lambda: run.world.vault.published(run.main, version))  # noqa: B023 - called at once
        except Gone:
            continue
        # And so are all before.
        if old is None:
            return
        yield old


def named(run: Run, older: Published, value: Secret, user_id: int) -> KeyRef:
    """Which key record that is: as this policy's record knows it, else as the secret says, else as ECGrid tells."""
    visibility, record = run.policy.visibility, run.record
    baseline = record.baseline(user_id, visibility) or ()
    known = [one for one in baseline if one.fingerprint == record.before][:1]
    key_id = next((one.key_id for one in known if one.key_id), older.key_id)
    if key_id is None and not run.generates:
        key_id = lookup.ref_of(run, value, user_id).key_id
    return KeyRef(key_id, user_id, visibility, known[0].created if known else older.created)


def refuse_unfit(run: Run, ref: KeyRef) -> None:
    """Raises NoWayBack for a stray, and where one of the debts may be the key's own without anybody telling."""
    if ref.key_id in run.record.strays:
        raise NoWayBack(f"{ref.words} was noted as a stray: it is never published again")
    if ref.key_id is not None or run.generates:
        return
    owed = [debt.key_id for debt in run.record.retiring if debt.user_id == ref.user_id]
    unknown = next((key_id for key_id in owed if not run.record.fingerprint_of(key_id)), None)
    if unknown is not None:
        raise NoWayBack(
            f"nobody tells the id of the key before, and it may be one that is to be retired ({unknown})"
        )


# a rollback that was interrupted


def go_on(run: Run) -> None:
    """Finishes a rollback that another run began, if ECGrid accepts its key still; else undoes it."""
    underway = run.rotation
    before = underway.older or Known(key_id=None)
    if run.sight.staged is not None and run.sight.staged.key is not None:
        proving.note_stray(run, run.sight.staged.key)
    older = shown_before(run, before.fingerprint or "")
    if older is None or older.value is None:
        undo(run, "no version of the secret in Vault has it any more")
    elif not answers_in_the_end(run, older.value, underway.user_id):
        undo(run, "ECGrid does not accept it as that user's any more")
    else:
        ref = KeyRef(before.key_id, underway.user_id, underway.visibility, before.created)
        take(run, ApiKey(ref, older.value))


def answers_in_the_end(run: Run, value: Secret, user_id: int) -> bool:
    """Whether ECGrid accepts it as that user's, asked twice, some time apart: a refusal may be a moment's."""
    if run.answers_as(value) == user_id:
        return True
    run.world.clock.sleep(run.world.deadline / 10)
    return run.answers_as(value) == user_id


def undo(run: Run, why: str) -> None:
    """Closes the rollback, with the newer key published and the debt restored; then it is held against ECGrid."""
    underway = run.rotation
    record = publish_newer(run)
    owed = underway.debt is not None and not record.owes(underway.debt.key_id)
    debts = (*record.retiring, underway.debt) if owed else record.retiring
    closed = record.change(underway=None, retiring=debts)
    run.claim.give_back(evidence.failed(run, closed, NoWayBack.kind))
    run.holding.let_go()
    run.sight.doubt()
    run.warn(f"the rollback that was begun is undone, since {why}")
    run.world.report("rotation.undone", message=why)


def publish_newer(run: Run) -> Record:
    """Publishes the newer key again, where Vault has its value; returns the record that tells where it is shown."""
    current = run.record.current
    newer = shown_before(run, current.fingerprint) if current is not None else None
    if current is None or newer is None or newer.value is None:
        return run.record
    key = ApiKey(current.ref, newer.value)
    show_again(run, key)
    return run.record.change(places=publishing.ledger(run, key))


def show_again(run: Run, key: ApiKey) -> None:
    """Publishes the newer key again, where the older one was shown already and the newer one is accepted."""
    if not run.sight.covers(key.value, run.main) and run.answers_as(key.value) == key.ref.user_id:
        publishing.show(run, key, run.main)
