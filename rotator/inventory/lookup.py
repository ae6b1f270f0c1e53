"""What ECGrid shows of a user's keys, and which of them a value belongs to.

The rules: a list and a reading call may each show less than there is, be refused, or come masked, so what one hides the
other may tell; and a value counts as a key's own only where ECGrid shows it in full, or nothing else fits.

Keeps: never unverified (2).
"""

from __future__ import annotations

from collections.abc import Callable

from rotator.errors import Forbidden, NotFound, Refused
from rotator.journal import Known, known_from
from rotator.keys import Agreement, ApiKey, KeyRef, Secret, Seen, Visibility
from rotator.run import Run

# what is shown


def listed(run: Run, user_id: int, visibility: Visibility) -> tuple[Seen, ...] | None:
    """Every key of that user and visibility as the list has them; None where it is refused."""
    try:
        return tuple(run.patiently(lambda: run.account.keys(user_id, visibility, run.within())))
    except (Forbidden, NotFound):
        return None


def read_if_any(run: Run, user_id: int) -> tuple[Seen, ...]:
    """What the policy's reading call shows of that user: nothing where there is none, or where it may not be read."""
    try:
        return (run.patiently(lambda: run.account.read(user_id, run.within())),)
    except (Forbidden, NotFound):
        return ()


def what_is_shown(
    run: Run, user_id: int, visibility: Visibility, before: tuple[Seen, ...] | None = None
) -> tuple[list[Seen], bool]:
    """Every key of that user and visibility that ECGrid shows, and whether it told of all there are.

    As the list has them, with what the reading call shows; a value that comes in full either way is known. `before` is
    what `what_is_known` was told, and is not asked for again.
    """
    if run.generates:
        read = before if before is not None else read_if_any(run, user_id)
        return merged((), read, visibility), bool(read)
    in_list = before if before is not None else listed(run, user_id, visibility)
    return merged(in_list or (), read_if_any(run, user_id), visibility), in_list is not None


def merged(in_list: tuple[Seen, ...], read: tuple[Seen, ...], visibility: Visibility) -> list[Seen]:
    """The keys of the list; those that the reading call alone shows, or shows in full, as it has them."""
    shown = {seen.ref.key_id: seen for seen in in_list}
    for seen in read:
        known = shown.get(seen.ref.key_id)
        if seen.ref.visibility in (None, visibility) and (known is None or known.whole is None):
            shown[seen.ref.key_id] = seen
    return list(shown.values())


def what_is_known(
    run: Run, user_id: int, visibility: Visibility
) -> tuple[tuple[Known, ...], tuple[Seen, ...] | None]:
    """The baseline: as recorded, where it tells of keys of this family, else with what ECGrid shows of them now.

    And that: as the list has it, or the reading call of the family that has none; None if neither has told.
    """
    known = run.record.baseline(user_id, visibility) or ()
    if any((one.key_id is None) is run.generates for one in known):
        return known, None
    if run.generates:
        shown = read_if_any(run, user_id)
        first: tuple[Seen, ...] | None = shown
    else:
        first = listed(run, user_id, visibility)
        shown = first if first is not None else read_if_any(run, user_id)
    new = known_from(run.record, list(shown))
    ids = {one.key_id for one in new}
    return (*(one for one in known if one.key_id not in ids), *new), first


def all_shown(run: Run, user_id: int, before: tuple[Seen, ...] | None = None) -> list[Seen]:
    """Every key of that user and the policy's visibility that ECGrid shows, the newest first.

    `before`: see `what_is_shown`.
    """
    shown, _ = what_is_shown(run, user_id, run.policy.visibility, before)
    dated = sorted(shown, key=lambda seen: seen.ref.key_id or 0, reverse=True)
    return sorted(
        dated,
        key=lambda seen: seen.ref.created.timestamp() if seen.ref.created else 0.0,
        reverse=True,
    )


def ways_to_see(run: Run, user_id: int, visibility: Visibility) -> list[Callable[[], object]]:
    """The ways in which ECGrid may show a user's keys: the reading call, and the list where there is one."""
    ways: list[Callable[[], object]] = [lambda: run.account.read(user_id, run.within())]
    if not run.generates:
        ways.append(lambda: run.account.keys(user_id, visibility, run.within()))
    return ways


def refusal(run: Run, ask: Callable[[], object]) -> Forbidden | None:
    """ECGrid's refusal to answer that; None if it answers."""
    try:
        run.patiently(ask)
    except Forbidden as error:
        return error
    except NotFound:
        pass
    return None


def named(shown: list[Seen], value: Secret, user_id: int, key_id: int | None) -> KeyRef:
    """Which key record a value belongs to: shown with it in full, or the one that it says it is and that fits."""
    fitting = [seen for seen in shown if value.against(seen.shown) is not Agreement.CONTRADICTS]
    equal = [seen.ref for seen in fitting if seen.shown == value]
    own = [seen.ref for seen in fitting if seen.ref.key_id == key_id]
    if not equal and not own and len(fitting) == 1:
        return fitting[0].ref
    return next(iter([*equal, *own]), KeyRef(None, user_id, None, None))


def as_owner(run: Run, value: Secret, user_id: int) -> KeyRef:
    """Which key record a value belongs to, asked with the key itself: its owner may see what others may not."""
    nobody = KeyRef(None, user_id, None, None)
    if run.generates:
        return nobody
    ways: list[Callable[[], list[Seen]]] = [
        lambda: run.account.keys(user_id, run.policy.visibility, run.within(), caller=value),
        lambda: [run.account.read(user_id, run.within(), caller=value)],
    ]
    for way in ways:
        try:
            ref = named(run.patiently(way), value, user_id, None)
        except (Forbidden, NotFound, Refused):
            continue
        if ref.key_id is not None:
            return ref
    return nobody


def ref_of(run: Run, value: Secret, user_id: int) -> KeyRef:
    """Which key record a value belongs to: asked as the rotator, then as its owner."""
    ref = named(all_shown(run, user_id), value, user_id, None)
    return ref if ref.key_id is not None else as_owner(run, value, user_id)


def foreign(run: Run, shown: list[Seen]) -> list[int]:
    """The ids of live keys of the user that this policy neither published nor issued."""
    others = [seen for seen in shown if seen.ref.key_id not in (None, *run.record.own_ids)]
    return sorted(seen.ref.key_id or 0 for seen in others if not may_be_current(run, seen))


def may_be_current(run: Run, seen: Seen) -> bool:
    """Whether it may be the current key, whose id nobody told: the published value does not contradict it."""
    current, value = run.record.current, run.sight.value_at(run.main)
    if current is None or current.key_id is not None or value is None:
        return False
    return value.against(seen.shown) is not Agreement.CONTRADICTS


def is_accepted(run: Run, key: ApiKey) -> bool:
    """Whether ECGrid accepts the value as that user's."""
    return run.answers_as(key.value) == key.ref.user_id
