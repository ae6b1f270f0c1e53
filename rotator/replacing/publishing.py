"""Showing the new key: publish and read back, then settle the record; further destinations follow the first.

The rules: each write is a check-and-set on the version that was observed, and is read back; other fields are kept; a
secret that another policy marked is never written; the staged value is destroyed before the record is closed; and the
change that closes it owes the key before its end.

Keeps: never lost (1), never unverified (2).
"""

from __future__ import annotations

from datetime import datetime

from rotator import due
from rotator.errors import Failure, FenceLost, Mismatch, RotatorError, Transient
from rotator.inventory import lookup
from rotator.journal import Held, Place, Record, Underway, changes
from rotator.keys import ApiKey, KeyRef, Secret, Visibility
from rotator.policy import Destination
from rotator.replacing import claiming, proving
from rotator.run import Run, evidence
from rotator.run.hand import Known, Shown
from rotator.run.outcome import Word


def publish(run: Run) -> None:
    """Writes the key to every destination, the first one first, each on the version that was observed."""
    if proving.see_if_shown(run):
        return
    held = run.in_hand
    key = held.key
    run.replaced = replaced(run)
    show(run, key, run.main)
    run.holding.take(Shown(key, held.came, held.by_owner))
    exposure = run.world.clock.boot() - run.issued_at if run.issued_at else None
    run.world.report(
        "rotation.published",
        key_id=key.ref.key_id,
        version=run.outcome.versions[_at(run.main)],
        exposure_s=exposure,
    )


def replaced(run: Run) -> ApiKey | None:
    """The key that this rotation replaces, where the first destination shows it."""
    current, value = run.record.current, run.sight.value_at(run.main)
    if current is None or value is None or not run.record.shows(value):
        return run.replaced
    return ApiKey(current.ref, value)


def show(run: Run, key: ApiKey, to: Destination) -> None:
    """Publishes at one destination and reads it back; another writer in between is merged with, or wins the fence."""
    vault = run.world.vault
    run.claim.fenced(run.world.timeout)
    now = run.now()

    def write() -> int:
        while True:
            before = run.sight.at(to)
            claiming.refuse_others(run, before)
            try:
                return vault.publish(to, key, now, before)
            except Mismatch:
                pass
            document = run.sight.again_at(to)
            mine_still = still_claimed(run)
            same = (document.value if document else None) == (before.value if before else None)
            if not mine_still or not same:
                raise FenceLost(f"{to.mount}/{to.path} was changed by another run")

    version = run.patiently(write)
    read_back(run, key, to, version)
    run.outcome.shows(to, version)


def still_claimed(run: Run) -> bool:
    """Whether the record in Vault is the one this run wrote last."""
    stored = run.patiently(lambda: run.world.vault.record(run.policy.name))
    return (
        stored is not None
        and run.sight.stored is not None
        and stored.version == run.sight.stored.version
    )


def read_back(run: Run, key: ApiKey, to: Destination, version: int) -> None:
    """Proves that Vault shows what was written: that version or a later one, with this value."""

    def ask() -> None:
        document = run.sight.again_at(to)
        if document is None or document.version < version:
            raise Transient(
                f"{to.mount}/{to.path} does not show version {version} yet", kind="vault.StaleRead"
            )
        if document.value is None or document.value != key.value:
            raise FenceLost(f"{to.mount}/{to.path} was overwritten by another run")

    run.patiently(ask)


def settle(run: Run) -> None:
    """Destroys the staged value, then closes the record: the new key current, the one it replaces to be retired."""
    held, underway, vault = run.in_hand, run.rotation, run.world.vault
    key = held.key
    show_elsewhere(run, key)
    if run.sight.staged is not None:
        run.claim.fenced(run.world.timeout)
        run.patiently(lambda: vault.unstage(run.policy.name))
    now = run.now()
    record = close(run, held, underway, now)
    run.claim.give_back(record)
    run.sight.nothing_staged()
    run.holding.let_go()
    if run.sight.sync == "drifted":
        run.sight.looked()
    own = run.holding.began == underway.run and underway.sent > 0
    word = outcome(run, underway)
    run.outcome.settled(word, answers=own)
    mark(run, key, now)
    run.world.report("rotation.settled", key_id=key.ref.key_id, outcome=word)


def close(run: Run, held: Known, underway: Underway, now: datetime) -> Record:
    """The record of the settled rotation."""
    key, record, places = held.key, run.record, ledger(run, held.key)
    closed = changes.settled(
        record,
        underway,
        key,
        now,
        past=evidence.settled(run, key, outcome(run, underway), places, now),
        replaced=replaced_by(run, key, key.ref.visibility or underway.visibility),
        until=now + run.grace,
        places=places,
        users=run.policy.users,
    )
    for place in record.places:
        if not any(place.same_place(other) for other in places):
            run.warn(f"{place.mount}/{place.path} is no longer a destination: it is left as it is")
    # A new start: what was before is no way back.
    if not due.fits(run.policy, record):
        closed = closed.change(before="")
    hooks_due = places[0] if run.policy.after else None
    return closed.change(hooks_due=hooks_due, owner_reads=record.owner_reads or held.by_owner)


def replaced_by(run: Run, key: ApiKey, visibility: Visibility) -> KeyRef | None:
    """The user's key before, which is to be ended; None if there is none, or if it is this policy's no longer."""
    previous = run.record.previous_of(key.ref.user_id)
    if previous is None:
        return None
    if previous.visibility != visibility:
        run.warn(claiming.left_alone(previous))
        return None
    return (
        None if previous.fingerprint == run.record.fingerprint(key.value) else named(run, previous)
    )


def named(run: Run, previous: Held) -> KeyRef:
    """The replaced key; one whose id nobody told is asked for it once more, and is left to a person if that fails."""
    ref, value = previous.ref, run.replaced
    if ref.key_id is not None or run.generates:
        return ref
    if value is not None and run.record.fingerprint(value.value) == previous.fingerprint:
        ref = lookup.ref_of(run, value.value, previous.user_id)
    if ref.key_id is None:
        run.warn(
            f"nobody tells the id of user {previous.user_id}'s replaced key, so it is not retired: remove it at ECGrid "
            "by hand"
        )
    return ref


def outcome(run: Run, underway: Underway) -> Word:
    """The word for what a settled rotation did."""
    if underway.kind == "repair":
        return "repaired"
    if underway.kind == "rollback":
        return "rolled-back"
    on_demand = run.order.what == "demand" and underway.sent > 0
    if underway.kind == "adopt" and run.outcome.word is None and not on_demand:
        return "adopted"
    return "rotated"


def mark(run: Run, key: ApiKey, time: datetime) -> None:
    """Custom metadata, after all that matters: a failure is a warning."""
    for to in run.policy.destinations:
        try:
            if not run.sight.covers(key.value, to):
                continue
            run.world.vault.mark(to, run.policy.name, key.ref, time)
        except Failure as error:
            run.warn(
                f"{to.mount}/{to.path}: its custom metadata could not be written ({error.kind})"
            )


# further destinations


def show_elsewhere(run: Run, key: ApiKey) -> None:
    """Publishes at the further destinations; one that fails is retried by every later run, and retires nothing."""
    for to in run.policy.destinations[1:]:
        try:
            if not run.sight.covers(key.value, to):
                show(run, key, to)
        except FenceLost:
            raise
        except RotatorError as error:
            run.warn(f"{to.mount}/{to.path} does not have the key yet ({error.kind})")


def lacks_a_destination(run: Run) -> bool:
    """Whether the record says that a destination of the policy does not have the current key."""
    return run.claim.others is None and bool(due.lacking(run.policy, run.record))


def fill(run: Run) -> None:
    """Writes the current key to the destinations that lack it, from one that shows it; none that does is drift."""
    current, missing = run.record.current, due.lacking(run.policy, run.record)
    source = shown_somewhere(run)
    if source is None or current is None:
        run.sight.drifted()
        return
    key = ApiKey(current.ref, source)
    run.world.vault.require([run.policy])
    run.claim.save(run.record)
    try:
        for to in missing:
            if not run.sight.covers(key.value, to):
                show(run, key, to)
    except Failure:
        run.sight.note(run.record.change(places=ledger(run, key)))
        # The claim is given back where the failure is recorded.
        raise
    now = run.now()
    run.claim.give_back(changes.filled(run.record, ledger(run, key), now, run.grace))
    mark(run, key, now)
    run.outcome.did("repaired")


def shown_somewhere(run: Run) -> Secret | None:
    """The current key's value, from any place that it was published at, in the policy or taken out of it."""
    written = [
        Destination(place.mount, place.path, place.field)
        for place in run.record.places
        if place.version
    ]
    for to in dict.fromkeys([*run.policy.destinations, *written]):
        value = run.sight.value_at(to)
        if run.record.shows(value):
            return value
    return None


def ledger(run: Run, key: ApiKey) -> tuple[Place, ...]:
    """Every destination of the policy, with the version that shows the key; none where it is missing."""

    def version(to: Destination) -> int | None:
        try:
            document = run.sight.at(to) if run.sight.covers(key.value, to) else None
        except Failure:
            # Reported where it was written.
            return None
        return document.version if document else None

    return tuple(
        Place(mount=to.mount, path=to.path, field=to.field, version=version(to))
        for to in run.policy.destinations
    )


def _at(to: Destination) -> tuple[str, str]:
    return (to.mount, to.path)
