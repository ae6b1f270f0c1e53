"""Asking ECGrid for a key, once; and looking, when the answer was lost, before anything is issued again.

The rules: a request is counted in Vault before it is sent, and sent at most once; one whose answer was lost is looked
for before another is counted; as many new keys are ours as requests are unaccounted for, and no more.

Keeps: never twice (3).
"""

from __future__ import annotations

from rotator.errors import AnswerLost, Failure, Permanent, Transient
from rotator.inventory import lookup
from rotator.journal import LOOKS, changes
from rotator.keys import ApiKey, KeyRef, Seen
from rotator.replacing import restraint
from rotator.replacing.proving import fate, note_stray
from rotator.run import Run, unknown_if_lost
from rotator.run.hand import Nothing, Shown, Unproved, Unseen, is_counted, may_have_asked

LOST = (
    "the answer to the issuing request was lost, and no key that can be used was found by looking"
)


def issue(run: Run) -> None:
    """Asks ECGrid for a new key: once. What is surely not sent is tried again, a lost answer is looked for."""
    underway = run.rotation
    try:
        # At hand, if it was asked for where it is counted.
        run.world.right.ask("begin", run.record)
    except Failure:
        took_nothing(run)
        raise
    run.account.urgent()

    def ask() -> ApiKey:
        within = run.within_claim()
        return run.account.issue(underway.user_id, underway.visibility, within)

    run.world.report("rotation.issuing", user_id=underway.user_id)
    try:
        answer = run.patiently(unknown_if_lost(ask))
    except Failure:
        # Refused, or not sent: every other failure of this call is a lost answer.
        took_nothing(run)
        raise
    run.issued_at = run.world.clock.boot()
    if isinstance(answer, AnswerLost):
        run.holding.take(Unseen())
        run.lost = Transient(LOST, kind="ecgrid.AnswerLost")
        run.world.right.spent("lost")
        run.warn(f"the answer to the issuing request was lost ({answer.kind})")
        run.world.report("rotation.answer_lost", error=answer.kind)
        return
    if is_old(run, answer):
        took_nothing(run)
        raise Permanent(
            "ECGrid answered with a key that was there already: nothing was rotated. On this account KeySet does "
            "not make a new key; use `issue: create-key`, or `issue: generate` (which ends the old key at once)",
            kind="ecgrid.NotReplaced",
        )
    run.world.right.spent("key")
    run.holding.take(Unproved(taken(run, answer), "answered"))
    run.world.report("rotation.issued", key_id=answer.ref.key_id)


def is_old(run: Run, answer: ApiKey) -> bool:
    """Whether the answer is a key that was there before: the published one, or one of the baseline."""
    before = {known.fingerprint for known in run.rotation.baseline}
    return (
        run.sight.covers(answer.value, run.main) or run.record.fingerprint(answer.value) in before
    )


def took_nothing(run: Run) -> None:
    """The last request is proved to have made nothing: it counts no longer."""
    asked, counted = may_have_asked(run.hand), is_counted(run.hand)
    run.holding.take(Nothing(asked=asked))
    run.sight.note(run.record.taking_back(counted=counted))
    run.world.right.spent("nothing")


def taken(run: Run, key: ApiKey) -> ApiKey:
    """The key to go on with, as its family tells of it; if it is the rotator's own, it is used from here on."""
    # This family has no ids, and shows no times: the time of issue counts.
    if run.generates:
        key = ApiKey(KeyRef(None, key.ref.user_id, run.rotation.visibility, run.now()), key.value)
    if run.world.whose.own_user_if_known() == key.ref.user_id:
        run.account.use(key.value)
    return key


# after a lost answer


def look(run: Run) -> None:
    """Resolves a lost answer: Get Key, then the list. What it finds is taken, or else one more key may be issued.

    As many of the new keys are ours as requests are unaccounted for: those that are not taken are strays. Where there
    are more, a person's may be among them, so none is removed; nor is one of which ECGrid does not tell when it was
    made, and that is not taken either.
    """
    if take_published(run):
        return
    new = look_as_allowed(run)
    ours = [seen for seen in new if not is_of_any_age(run, seen)]
    key = likeliest(run, ours)
    account_for(run, key, ours, new)
    if key is None:
        again(run)
        return
    run.warn(
        f"{key.ref.words} was found by looking, since the issuing answer was lost; a key that somebody else made in "
        "between cannot be told from it"
    )
    run.account.urgent()
    run.holding.take(Unproved(taken(run, key), "made"))


def look_as_allowed(run: Run) -> list[Seen]:
    """What a look finds, or a second one after a while; raises Waits where no more may be looked now."""
    new = look_once(run)
    if new or run.rotation.looks >= LOOKS:
        return new
    if run.order.what != "demand":
        restraint.back_off(run)
    run.world.clock.sleep(run.world.deadline / 10)
    return look_once(run)


def likeliest(run: Run, ours: list[Seen]) -> ApiKey | None:
    """The newest that ECGrid accepts, of those whose values are known, and were not shown before.

    One that is not accepted yet may need a moment: it is proved with all patience, or given up there.
    """
    keys = [seen.whole for seen in ours if seen.whole and not run.record.shows(seen.whole.value)]
    return next((key for key in keys if lookup.is_accepted(run, key)), keys[0] if keys else None)


def is_of_any_age(run: Run, seen: Seen) -> bool:
    """Whether ECGrid does not tell when it was made, and the baseline does not know it: it may be an old one."""
    ids = {None, *(known.key_id for known in run.rotation.baseline)}
    return seen.ref.created is None and seen.ref.key_id not in ids


def unaccounted(run: Run) -> int:
    """How many issuing requests of the rotation may have made a key that this run does not know."""
    ids = {known.key_id for known in run.rotation.baseline}
    return run.rotation.sent - len(run.record.strays & ids)


def account_for(run: Run, key: ApiKey | None, ours: list[Seen], new: list[Seen]) -> None:
    """Notes the new keys but the one that is taken: strays, or, in doubt, left to a person. They are not new any more.

    In doubt are those that are not `ours`; and all of them, if there are more of ours than requests.
    """
    taken_ids = () if key is None else (key.ref.key_id,)
    others = [seen for seen in new if seen.ref.key_id not in taken_ids]
    certain = ours if len(ours) <= unaccounted(run) else []
    in_doubt = [seen for seen in others if seen not in certain]
    for seen in others:
        run.warn(in_doubt_text(seen) if seen in in_doubt else stray_text(seen))
    run.sight.note(changes.accounted(run.record, others, in_doubt, run.now()))


def in_doubt_text(seen: Seen) -> str:
    """What is said of a key that may be a person's."""
    return (
        f"{seen.ref.words} is new, too, or ECGrid does not tell since when it is there: it may be somebody "
        "else's, and is left alone. Remove it by hand if it is not"
    )


def stray_text(seen: Seen) -> str:
    """What is said of a key that a request has made, and that is of no use."""
    return f"{seen.ref.words} was issued and cannot be used: {fate(seen)}"


def take_published(run: Run) -> bool:
    """Whether the first destination already shows a key made since the claim, and ECGrid accepts it: only settle."""
    underway = run.rotation
    shown = named_at_main(run)
    if shown is None or shown.whole is None or not run.record.is_new(shown, underway):
        return False
    key = shown.whole
    if run.record.shows(key.value) or not lookup.is_accepted(run, key):
        return False
    run.holding.take(Shown(taken(run, key), "made"))
    return True


def named_at_main(run: Run) -> Seen | None:
    """The key of the rotation's user that the first destination shows, if it names its id."""
    underway, main = run.rotation, run.sight.at(run.main)
    if main is None or main.key_id is None or main.user_id != underway.user_id:
        return None
    visibility = main.visibility or underway.visibility
    return Seen(KeyRef(main.key_id, underway.user_id, visibility, main.created), main.value)


def look_once(run: Run) -> list[Seen]:
    """The keys that may be the one whose answer was lost, the newest first."""
    underway = run.rotation
    shown, all_told = lookup.what_is_shown(run, underway.user_id, underway.visibility)
    new = [seen for seen in shown if run.record.is_new(seen, underway)]
    if not new and all_told:
        run.sight.note(changes.looked_in_vain(run.record))
    return sorted(
        new,
        key=lambda seen: (seen.ref.created or underway.began, seen.ref.key_id or 0),
        reverse=True,
    )


def again(run: Run) -> None:
    """Nothing that can be used was found: one more key is issued.

    That nothing is staged is proved by a check-and-set on the staged path; a read might have come from a standby. The
    first request may still land, so the published key is watched for a while.
    """
    if run.sight.staged is not None and run.sight.staged.key is not None:
        note_stray(run, run.sight.staged.key)
    now, on_demand = run.now(), run.order.what == "demand"
    restraint.may_ask(run, again=True)
    run.asked_again += 1
    run.sight.stage(run.rotation.run, run.id, None)
    run.claim.save(changes.asking_again(run.record, now, beyond_schedule=not on_demand))
    run.holding.take(Nothing(asked=True, counted=not on_demand))
