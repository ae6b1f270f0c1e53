"""A dry run: what a run would do now, and why it could not, found out with nothing sent that changes anything.

It goes as far as the claim, by the run's own steps; from there on it tells what would follow. The record is changed in
memory only.

Keeps: never silent (4).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

from rotator import due
from rotator.errors import Forbidden, NotFound, RotatorError
from rotator.inventory import drift, lookup
from rotator.keys import ApiKey, KeyRef, Visibility
from rotator.policy import Exec
from rotator.replacing import beginning, claiming, finding, restraint, rolling
from rotator.replacing.beginning import Busy
from rotator.rotation.result import Result, result_of
from rotator.rotation.tending import failed, left_to_others, timed
from rotator.run import Run
from rotator.run.hand import Nothing
from rotator.run.outcome import Word

# AuthLevels that may act for other users.
ADMINS = ("Root", "TechOps", "NetOps", "NetworkAdmin")


class Plan(NamedTuple):
    """What a run would do: the word for it; of what it would publish the user, and the key if it is there already.

    `previous`: the key that would be replaced. `until`: when that would end; None if it would not, or at once.
    """

    outcome: Word
    user_id: int | None = None
    key_id: int | None = None
    previous: int | None = None
    until: datetime | None = None


def would(run: Run) -> Result:
    """`--dry-run`: what `tend` would do now, or why it would fail; writes nothing anywhere, and raises nothing."""
    return timed(run, _would)


def _would(run: Run) -> Result:
    try:
        plan = find_out(run)
    except Busy as busy:
        return left_to_others(run, busy)
    except RotatorError as error:
        return failed(run, error)
    result = result_of(run, plan.outcome)
    if plan.outcome != "would-rotate":
        return result
    return result._replace(
        user_id=plan.user_id,
        key_id=plan.key_id,
        previous_key_id=plan.previous,
        previous_key_until=plan.until,
    )


def find_out(run: Run) -> Plan:
    """What the run would do, with a text for each thing; raises what the run itself would end with."""
    run.observe()
    run.enter("claim")
    if beginning.is_claimed_elsewhere(run):
        beginning.wait_or_leave(run)
    if run.record.underway is not None:
        return go_on(run)
    if drift.is_asked_for(run):
        look(run)
    if beginning.must_wait(run):
        beginning.wait(run)
    kind = beginning.wanted(run)
    return what_else(run) if kind is None else begin(run, kind)


def look(run: Run) -> None:
    """The drift check, but that it notes nothing, and believes a key that is refused at once."""
    run.enter("check")
    run.sight.looked()
    drift.heed(run, drift.compare(run))
    run.enter("claim")


def go_on(run: Run) -> Plan:
    """A rotation is open: what there is to say of it; on demand another one follows."""
    underway = run.rotation
    beginning.refuse_open(run)
    run.world.vault.require([run.policy])
    run.patiently(lambda: run.world.whose.own_user(run.within()))
    run.warn(
        f"would first finish what was interrupted: the rotation of user {underway.user_id} that began at "
        f"{_instant(underway.began)}"
    )
    if run.order.what == "demand":
        return begin(run, "rotate")
    return Plan("would-rotate", underway.user_id)


def begin(run: Run, kind: due.Kind) -> Plan:
    """A rotation, an adoption or a repair that would be begun: everything up to the claim is done, or has failed."""
    run.world.vault.kv.sure_of_time()
    if kind == "rollback":
        return roll_back(run)
    underway, seen = claiming.opening(run, kind)
    run.holding.take(Nothing(seen=seen))
    run.sight.note(run.record.change(underway=underway))
    require_user(run, underway.user_id, underway.visibility)
    if kind == "rotate":
        return issue(run, underway.user_id)
    key = finding.one_that_will_do(run, underway)
    if key is None:
        restraint.may_ask(run)
        return issue(run, underway.user_id)
    taken = take(run, key)
    if run.order.what != "demand":
        return taken
    users = run.policy.users
    return issue(run, users[(users.index(key.ref.user_id) + 1) % len(users)], key.ref)


def require_user(run: Run, user_id: int, visibility: Visibility) -> None:
    """Raises NotFound if ECGrid has no such user, Forbidden if the rotator plainly may not act for that user."""
    refusals = [_refusal(run, way) for way in lookup.ways_to_see(run, user_id, visibility)]
    if None in refusals:
        return
    for refusal in refusals:
        if isinstance(refusal, Forbidden):
            require_admin(run, user_id, refusal)
    known = is_known(run, user_id, refusals[-1])
    if known is False:
        raise NotFound(
            f"ECGrid has no user {user_id}, or does not show it to the rotator: check `user_id`",
            kind="ecgrid.ObjectNotFound",
        )
    if known is None:
        run.warn(
            f"ECGrid shows no key of user {user_id}, and does not tell whether there is such a user"
        )


def is_known(run: Run, user_id: int, refusal: Forbidden | NotFound | None) -> bool | None:
    """Whether ECGrid knows a user whose keys it shows in no way, the last with that refusal; None if nobody tells.

    Whose list is not found is not there, since an empty one is an answer; without lists the user is asked for.
    """
    if isinstance(refusal, NotFound) and not run.generates:
        return False
    return run.account.knows(user_id, run.within())


def _refusal(run: Run, ask: Callable[[], object]) -> Forbidden | NotFound | None:
    try:
        run.patiently(ask)
    except (Forbidden, NotFound) as error:
        return error
    return None


def require_admin(run: Run, user_id: int, refusal: Forbidden) -> None:
    """Raises Forbidden, with the reason, if the rotator's own AuthLevel is too low to act for another user."""
    me = run.patiently(lambda: run.account.who_am_i(run.within()))
    if me.user_id != user_id and me.auth_level not in ADMINS:
        raise Forbidden(
            f"{refusal}. The rotator is user {me.user_id}, AuthLevel {me.auth_level}: rotating the keys of other "
            f"users, such as {user_id}, takes NetworkAdmin or higher",
            kind=refusal.kind,
        )


# what would follow


def take(run: Run, key: ApiKey) -> Plan:
    """A key that is there would be taken over, or published again."""
    places = _would_show(run, key)
    shown = f"published at {places}" if places else "left where it is"
    run.warn(
        f"would take over {key.ref.words}, which ECGrid accepts: nothing issued, its value {shown}"
    )
    tell_hooks(run)
    return Plan("would-rotate", key.ref.user_id, key.ref.key_id)


def roll_back(run: Run) -> Plan:
    """The key before would be published again, and the present one owed its end where it is the same user's."""
    rolling.prepare(run)
    ref = (key := rolling.key_before(run)).ref
    rolling.warn_of_age(run, key)
    run.warn(f"would publish {ref.words} again, at {_would_show(run, key)}")
    current, newer = run.record.current, run.record.previous_of(ref.user_id)
    same = newer is not None and newer == current and not run.generates
    until = tell_end(run, newer.ref if same and newer is not None else None)
    tell_hooks(run)
    previous = current.key_id if current else None
    return Plan("would-rotate", ref.user_id, ref.key_id, previous, until)


def issue(run: Run, user_id: int, taken: KeyRef | None = None) -> Plan:
    """A key would be issued and published, and the one before, `taken` if it was adopted first, owed its end."""
    places = _would_show(run, None)
    run.warn(
        f"would issue a key of user {user_id} by {run.policy.issue.value}, and publish it at {places}"
    )
    current, last = run.record.current, run.record.previous_of(user_id)
    shown = taken or (current.ref if current else None)
    until = tell_end(
        run, last.ref if last else taken if taken and taken.user_id == user_id else None
    )
    tell_hooks(run)
    return Plan("would-rotate", user_id, previous=shown.key_id if shown else None, until=until)


def _would_show(run: Run, key: ApiKey | None) -> str:
    """Where a key would be published, noted as the run's versions; a destination that shows it stays as it is."""
    places = []
    for to in run.policy.destinations:
        if key is not None and run.sight.covers(key.value, to):
            continue
        document, place = run.sight.at(to), (to.mount, to.path)
        version = run.outcome.versions.get(place, document.version if document else 0) + 1
        run.outcome.shows(to, version)
        places.append(f"{to.mount}/{to.path} (version {version})")
    return ", ".join(places)


def tell_end(run: Run, previous: KeyRef | None) -> datetime | None:
    """What would become of the key before, and of those that are owed their end already; returns when it would end."""
    owed = [str(debt.key_id) for debt in run.record.retiring]
    if run.order.retire_now and owed:
        run.warn(f"would end the keys of earlier rotations, too: {', '.join(owed)}")
    if previous is None:
        return None
    at_once = run.generates or run.grace == timedelta(0)
    until = None if at_once else run.now() + run.grace
    when = "at once" if until is None else f"at {_instant(until)}, where ECGrid keeps it so long"
    run.warn(f"{previous.words} would end {when}")
    return until


def tell_hooks(run: Run) -> None:
    """The hooks that would run: of a command its program, of a webhook its host, since more may be secret."""
    hooks = [
        hook.argv[0] if isinstance(hook, Exec) else f"a webhook at {urlsplit(hook.url).hostname}"
        for hook in run.policy.after
    ]
    if hooks:
        run.warn(f"would run {len(hooks)} hooks: {', '.join(hooks)}")


def what_else(run: Run) -> Plan:
    """No rotation is to be begun; what else is due."""
    record, now = run.record, run.now()
    hold = due.holding_back(record, run.order, now)
    if hold is not None:
        run.warn(hold.words)
    debts = record.retiring if run.order.retire_now else record.due_debts(now)
    for debt in debts:
        run.warn(f"would end key {debt.key_id} of user {debt.user_id}")
    for to in due.lacking(run.policy, record):
        run.warn(f"would publish the current key at {to.mount}/{to.path}, which lacks it")
    if record.hooks_due is not None:
        tell_hooks(run)
    return Plan(run.order.nothing_done)


def _instant(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
