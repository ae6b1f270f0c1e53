"""Asking ECGrid for a key, once; and looking, when the answer was lost, before anything is issued again."""

from __future__ import annotations

from rotator.errors import AnswerLost, Failure, Forbidden, NotFound, Permanent, Refused
from rotator.journal import LOOKS, WATCH, known_from
from rotator.keys import ApiKey, Issue, KeyRef, Seen
from rotator.rotation import restraint
from rotator.rotation.claiming import read_if_any
from rotator.rotation.proving import note_stray
from rotator.rotation.run import Run, unknown_if_lost


def must_look(run: Run) -> bool:
    """Whether an issuing request may have been carried out without this run knowing the key."""
    return run.underway is not None and run.key is None and run.must_look


def may_issue(run: Run) -> bool:
    """Whether the open rotation needs a key and none can be there unseen."""
    return run.underway is not None and run.key is None and not run.must_look


def issue(run: Run) -> None:
    """Asks ECGrid for a new key: once. What is surely not sent is tried again, a lost answer is looked for."""
    underway = run.rotation
    run.world.right.ask("begin", run.record)  # at hand, if it was asked for where it is counted
    run.account.urgent()

    def ask() -> ApiKey:
        within = run.fenced(run.world.timeout)
        return run.account.issue(underway.user_id, underway.visibility, within)

    run.world.report("rotation.issuing", user_id=underway.user_id)
    try:
        answer = run.patiently(unknown_if_lost(ask))
    except Failure:  # refused, or not sent: every other failure of this call is a lost answer
        restraint.took_nothing(run)
        raise
    run.issued_at = run.world.clock.boot()
    if isinstance(answer, AnswerLost):
        run.clean, run.must_look = False, True
        run.done.add("lost")
        run.world.right.spent("lost")
        run.warn(f"the answer to the issuing request was lost ({answer.kind})")
        run.world.report("rotation.answer_lost", error=answer.kind)
        return
    if is_old(run, answer):
        restraint.took_nothing(run)
        raise Permanent(
            "ECGrid answered with a key that was there already: nothing was rotated. On this account KeySet does "
            "not make a new key; use `issue: create-key`, or `issue: generate` (which ends the old key at once)",
            kind="ecgrid.NotReplaced",
        )
    run.clean, run.issued = False, True
    run.world.right.spent("key")
    take(run, answer)
    run.world.report("rotation.issued", key_id=answer.ref.key_id)


def is_old(run: Run, answer: ApiKey) -> bool:
    """Whether the answer is a key that was there before: the published one, or one of the baseline."""
    before = {known.fingerprint for known in run.rotation.baseline}
    return run.covers(answer.value, run.main) or run.record.fingerprint(answer.value) in before


def take(run: Run, key: ApiKey) -> None:
    """Goes on with this key; if it is the rotator's own, it is used from here on."""
    if (
        run.policy.issue is Issue.GENERATE
    ):  # this family has no ids, and shows no times: the time of issue counts
        key = ApiKey(KeyRef(None, key.ref.user_id, run.rotation.visibility, run.now()), key.value)
    run.key, run.must_look, run.verified = key, False, False
    caller = run.record.caller
    if run.world.own_key() is not None and caller is not None and caller.user_id == key.ref.user_id:
        run.account.use(key.value)


# after a lost answer


def look(run: Run) -> None:
    """Resolves a lost answer: Get Key, then the list. What it finds is taken, or else one more key may be issued."""
    if take_published(run):
        return
    found = look_once(run)
    if not found and run.rotation.looks < LOOKS:
        if run.order.what != "demand":
            restraint.back_off(run)
        run.world.clock.sleep(run.world.deadline / 10)
        found = look_once(run)
    for seen in found:
        whole = accepted(run, seen)
        if whole is not None:
            others = [str(o.ref.key_id) for o in found if o.ref.key_id != seen.ref.key_id]
            run.warn(
                f"key {seen.ref.key_id} was found by looking, since the issuing answer was lost; a key that somebody "
                "else made in between cannot be told from it"
                + (f". Also new, and left alone: {', '.join(others)}" if others else "")
            )
            take(run, whole)
            return
    again(run, [seen for seen in found if seen.whole is None])


def take_published(run: Run) -> bool:
    """Whether the first destination already shows a key made since the claim, and ECGrid accepts it: only settle."""
    underway, there = run.record.underway, run.seen(run.main)
    if underway is None or there is None or there.value is None or there.key_id is None:
        return False
    ref = KeyRef(
        there.key_id, underway.user_id, there.visibility or underway.visibility, there.created
    )
    shown = Seen(ref, there.value)
    if not run.record.is_new(shown, underway) or there.user_id != underway.user_id:
        return False
    key = accepted(run, shown)
    if key is None:
        return False
    take(run, key)
    run.verified = run.published = True
    return True


def look_once(run: Run) -> list[Seen]:
    """The keys that may be the one whose answer was lost, the newest first."""
    underway, account = run.rotation, run.account
    shown, read_all = {}, True
    if underway.issue is not Issue.GENERATE:
        try:
            listed = run.patiently(
                lambda: account.keys(underway.user_id, underway.visibility, run.within())
            )
        except (Forbidden, NotFound):
            listed, read_all = [], False
        shown = {seen.ref.key_id: seen for seen in listed}
    read = read_if_any(run, underway.user_id)
    if read is not None and read.ref.visibility in (None, underway.visibility):
        known = shown.get(read.ref.key_id)
        if known is None or known.whole is None:
            shown[read.ref.key_id] = read
    new = [seen for seen in shown.values() if run.record.is_new(seen, underway)]
    if not new and (read_all if underway.issue is not Issue.GENERATE else read is not None):
        looked = underway.model_copy(update={"looks": min(underway.looks + 1, LOOKS)})
        run.note(run.record.change(underway=looked))
    return sorted(
        new,
        key=lambda seen: (seen.ref.created or underway.began, seen.ref.key_id or 0),
        reverse=True,
    )


def accepted(run: Run, seen: Seen) -> ApiKey | None:
    """The key, if its value came in full and ECGrid accepts it as that user's."""
    whole = seen.whole
    if whole is None or run.record.shows(whole.value):
        return None
    try:
        user_id = run.patiently(lambda: run.probe(whole.value))
    except Refused:
        return None
    return whole if user_id == whole.ref.user_id else None


def again(run: Run, unreadable: list[Seen]) -> None:
    """Nothing that can be used was found: what cannot be read is a stray, and one more key is issued.

    That nothing is staged is proved by a check-and-set on the staged path; a read might have come from a standby. The
    first request may still land, so the published key is watched for a while.
    """
    if run.staged is not None and run.staged.key is not None:
        note_stray(run, run.staged.key)
    now, on_demand = run.now(), run.order.what == "demand"
    for seen in unreadable:
        run.warn(f"key {seen.ref.key_id} was issued but cannot be read: a stray, to be retired")
    note_strays(run, unreadable)
    restraint.may_ask(run, again=True)
    run.asked_again += 1
    record, underway = run.record, run.rotation
    name, over = run.policy.name, run.staged.version if run.staged else 0
    run.staged = run.patiently(
        lambda: run.world.vault.stage(name, underway.run, run.id, None, over)
    )
    record = record.counting_issue(now, beyond_schedule=not on_demand)
    run.done |= set() if on_demand else {"counted"}
    underway = underway.model_copy(update={"sent": underway.sent + 1, "looks": 0})
    run.save(record.change(underway=underway, watch_until=now + WATCH))
    run.must_look = False


def note_strays(run: Run, unreadable: list[Seen]) -> None:
    """Keys that requests of this rotation made and nobody will publish: owed their end, and known from now on."""
    record, underway = run.record, run.rotation
    seen_ids = {known.key_id for known in underway.baseline}
    more = [seen for seen in unreadable if seen.ref.key_id not in seen_ids]
    for seen in unreadable:
        record = record.owing(seen.ref, "stray", run.now())
    changes = {
        "baseline": (*underway.baseline, *known_from(record, more)),
        "made": underway.made + len(more),
    }
    run.note(record.change(underway=underway.model_copy(update=changes)))
