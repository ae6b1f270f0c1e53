"""`rotator doctor`: all that a rotation will need, tried without changing anything; a line says how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from typing import Literal, NamedTuple

from rotator.cli import Choice, in_json, is_quiet, output
from rotator.cli.choice import choose
from rotator.cli.common import FAILED, exits, fleet_from
from rotator.cli.folding import Statement, counts, folded
from rotator.ecgrid import Urgency
from rotator.errors import Forbidden, NotFound, Refused, RotatorError
from rotator.fleet import Fleet
from rotator.fleet.voice import CLOCK_SKEW
from rotator.hooks import absent
from rotator.keys import Agreement, Issue, Verify
from rotator.policy import Policy
from rotator.replacing import claiming, rotators_own
from rotator.retiring import previous
from rotator.rotation import Order
from rotator.rotation.rehearsal import ADMINS
from rotator.system import SurfaceName
from rotator.threads import Hands
from rotator.vault import At, Stored
from rotator.vault.layout import Rights
from rotator.vault.login import USES

State = Literal["ok", "warning", "failed"]
Finding = tuple[State, str]
# The records of policies whose paths can be read.
Readable = dict[str, Stored | None]
# As they are told.
STATES: tuple[State, ...] = ("failed", "warning", "ok")
# Policies of each pair of calls whose users are looked at.
SAMPLE = 5
# Seconds for one question.
LIMIT = 10.0
# Bytes of a secret from which on it is told.
LARGE = 256 * 1024


class Line(NamedTuple):
    """One finding: what was tried, for which policy if for one, how it went, and what to do."""

    state: State
    what: str
    found: str
    policy: str = ""

    @property
    def title(self) -> str:
        """What was tried, and for whom."""
        return f"{self.what} {self.policy}".strip()


class Scope(NamedTuple):
    """Which policies are examined; of those that were not `named` only some have their users looked at."""

    policies: list[Policy]
    named: bool

    def sample(self, policies: list[Policy]) -> list[Policy]:
        """Those of them whose users are looked at: from the first to the last."""
        if self.named or len(policies) <= SAMPLE:
            return policies
        return [policies[step * (len(policies) - 1) // (SAMPLE - 1)] for step in range(SAMPLE)]


def doctor(given: dict[str, str], *, chosen: Choice, json_: bool) -> None:
    """`rotator doctor`."""
    with exits(), fleet_from(given) as fleet:
        scope = Scope(choose(fleet.policies, chosen), bool(chosen.names))
        lines = sorted(findings(fleet, scope), key=lambda line: STATES.index(line.state))
        shown = output.worth_telling(lines, lambda line: line.state == "failed")
        if json_:
            output.print_json({"checks": [in_json.of_finding(line) for line in shown]})
        elif shown or not is_quiet():
            alike = folded(
                (Statement(one.state, one.what, one.policy, one.found) for one in shown), "ok"
            )
            rows = ((one.state, one.title, one.text) for one in alike)
            output.console().print(output.table(("STATE", "CHECK", "FOUND"), rows))
            print(counts(line.state for line in lines))
        sys.exit(FAILED if any(line.state == "failed" for line in lines) else 0)


def findings(fleet: Fleet, scope: Scope | None = None) -> Iterator[Line]:
    """All findings, in the order in which they depend on each other."""
    scope = scope or Scope(fleet.policies, named=False)
    vault_line = _try("Vault login", lambda: _vault_login(fleet))
    yield vault_line
    readable: Readable = {}
    if vault_line.state != "failed":
        yield from _ends(fleet)
        yield _try("Vault clock", lambda: _clock(fleet))
        yield from _in_vault(fleet, scope.policies, readable)
        if readable:
            yield _try("Vault rights for what ECGrid speaks", lambda: _system_rights(fleet))
            yield _try("Vault rights for what was told", lambda: _told_rights(fleet))
    yield from _of_hooks(scope.policies)
    yield from _of_ecgrid(fleet, scope, readable)


def _in_vault(fleet: Fleet, policies: list[Policy], readable: Readable) -> list[Line]:
    """Of each policy, several at once: its rights, its record, which is noted, and what is published."""
    rights = [fleet.vault.rights(policy) for policy in policies]
    # Which the lines will tell: this spares them a request each.
    with suppress(RotatorError):
        fleet.vault.kv.missing({path: what for one in rights for path, what in one.items()})
    hands = Hands(fleet.settings.concurrency, "doctor")
    mounts = cache(lambda mount: fleet.server.expiring(At(mount, "")))
    with output.counting("policies in Vault", len(policies)) as tell:

        def one(policy: Policy) -> Line:
            look = partial(_rights, fleet, policy, readable, mounts)
            return _try("Vault rights for", look, policy.name)

        try:
            return hands.map(one, policies, tell)
        finally:
            hands.close()


def _of_hooks(policies: list[Policy]) -> Iterator[Line]:
    """Of the programs that hooks are to run, those that are not here."""
    for policy in policies:
        if programs := absent(policy):
            missing = ", ".join(programs)
            lacks = f"not on this machine: {missing}. Install it wherever this policy rotates, or correct `after`"
            yield Line("warning", "hooks of", lacks, policy.name)


def _of_ecgrid(fleet: Fleet, scope: Scope, readable: Readable) -> Iterator[Line]:
    """Of ECGrid."""
    yield _try("ECGrid REST", lambda: _version(fleet, Verify.GET_KEY))
    yield _try("ECGrid REST speaks", lambda: _speaks(fleet, "rest"))
    if any(policy.over_soap for policy in scope.policies):
        yield _try("ECGrid SOAP", lambda: _version(fleet, Verify.KEY_GET))
        yield _try("ECGrid SOAP speaks", lambda: _speaks(fleet, "soap"))
    credential = _try("ECGrid credential", lambda: _credential(fleet))
    yield credential
    if credential.state != "failed":
        yield _try("whose ECGrid", lambda: _whose(fleet))
        for pair, policies in _pairs(scope.policies).items():
            calls = _try(f"calls of {pair}", partial(_calls, fleet, policies))
            yield calls
            if calls.state != "failed":
                yield from _of_policies(fleet, policies, readable)
                yield from _of_users(fleet, scope.sample(policies), policies)


def _of_policies(fleet: Fleet, policies: list[Policy], readable: Readable) -> Iterator[Line]:
    """What takes no request to ECGrid beyond one for all, where it deserves to be told."""
    for policy in (policy for policy in policies if policy.name in readable):
        stored = readable[policy.name]
        looks = {
            "own key and": partial(_own_key, fleet, policy),
            "grace of": partial(_grace, policy, stored),
        }
        lines = (_try(what, look, policy.name) for what, look in looks.items())
        yield from (line for line in lines if line.state != "ok")


def _of_users(fleet: Fleet, sample: list[Policy], policies: list[Policy]) -> Iterator[Line]:
    """The keys of the users of some policies, which tell how this account treats those of all."""
    users = [(policy, user_id) for policy in sample for user_id in policy.users]
    with output.counting("users in ECGrid", len(users)) as tell:
        for number, (policy, user_id) in enumerate(users):
            yield _try("keys of", partial(_family, fleet, policy, user_id), policy.name)
            tell(number + 1)
    if len(sample) < len(policies):
        text = f"{len(sample)} of {len(policies)} policies: `rotator doctor NAME...` looks at those that it names"
        yield Line("ok", "users that were looked at", text)


def _try(what: str, look: Callable[[], Finding], policy: str = "") -> Line:
    try:
        state, text = look()
    except RotatorError as error:
        state, text = "failed", f"{error} [{error.kind}]"
    return Line(state, what, text, policy)


def _vault_login(fleet: Fleet) -> Finding:
    left, deadline = fleet.server.login_left(), fleet.settings.deadline.total_seconds()
    if left <= deadline:
        fleet.server.outlast(deadline)
        left = fleet.server.login_left()
    lives = "does not end" if left == float("inf") else f"lives for {output.span(left)}"
    text = f"{fleet.settings.vault.auth} at {fleet.settings.vault.addr}; the login {lives}"
    uses = fleet.server.logins.uses_left
    if uses == float("inf"):
        return "ok", text
    few = uses < USES * fleet.settings.concurrency
    return "warning" if few else "ok", (
        f"{text}, and {uses:.0f} more uses, of which a rotation may take {USES}: "
        "raise or lift `num_uses` or `token_num_uses`, and let no two rotators share one"
    )


def _ends(fleet: Fleet) -> Iterator[Line]:
    """When the rotator's own credentials end."""
    try:
        ends, now = fleet.ends(), fleet.vault.now()
    except RotatorError as error:
        yield Line("failed", "ends of credentials", f"{error} [{error.kind}]")
        return
    for end in ends:
        state: State = "warning" if end.is_near(now) or end.path else "ok"
        yield Line(state, f"end of {end.name}", end.words(now))


def _clock(fleet: Fleet) -> Finding:
    skew = fleet.server.clock.skew()
    if abs(skew) > CLOCK_SKEW:
        return (
            "warning",
            f"this machine's clock differs from Vault's by {output.span(abs(skew))}: set it right",
        )
    return "ok", "this machine and Vault agree on the time"


def _rights(
    fleet: Fleet, policy: Policy, readable: Readable, mount_expires: Callable[[str], bool]
) -> Finding:
    missing = fleet.vault.kv.missing(fleet.vault.rights(policy))
    if missing:
        lacks = "; ".join(
            f"{path}: {', '.join(sorted(what))}" for path, what in sorted(missing.items())
        )
        return "failed", (
            f"missing capabilities: {lacks}. Add them to the rotator's Vault policy: `rotator vault-policy` prints "
            "one that has them"
        )
    record = fleet.vault.record_at(policy.name)
    readable[policy.name] = fleet.vault.record(policy.name)
    run = fleet.run_of(policy, Order("schedule"))
    sizes = {}
    for to, place in zip(policy.destinations, fleet.vault.places(policy), strict=True):
        published = fleet.vault.published(to)
        claiming.refuse_others(run, published)
        sizes[place] = fleet.vault.size(to, published)
    expiring = [
        str(place)
        for place in (record, *sizes)
        if mount_expires(place.mount) or fleet.server.expiring(place)
    ]
    if expiring:
        return (
            "failed",
            f"versions delete themselves (delete_version_after) at {', '.join(expiring)}: set it to 0s",
        )
    large = [f"{place} ({size // 1024} KiB)" for place, size in sizes.items() if size > LARGE]
    if large:
        text = (
            f"large: {', '.join(large)}. Near the limit of Vault's storage (raft: `max_entry_size`) nothing can be "
            "published any more: move the other fields elsewhere"
        )
        return "warning", text
    return "ok", ", ".join(str(place) for place in sizes)


def _version(fleet: Fleet, verify: Verify) -> Finding:
    account = fleet.ecgrid.account(Issue.CREATE_KEY, verify, Urgency.CHECK)
    version = account.version(LIMIT)
    return "ok", f"answers, version {version}" if version else "answers"


def _rights_beside(fleet: Fleet, rights: Rights, without: str) -> Finding:
    """A path that came with a later version than the others; rotations go on without it."""
    (path,) = rights
    if fleet.vault.kv.missing(rights):
        return "warning", (
            f"{without}. Add to the rotator's Vault policy: "
            f'path "{path}" {{ capabilities = ["create", "read", "update"] }}'
        )
    return "ok", path.replace("/data/", "/", 1)


def _system_rights(fleet: Fleet) -> Finding:
    without = "what ECGrid speaks, and whose it is, cannot be remembered: nothing tells another ECGrid from this one"
    return _rights_beside(fleet, fleet.vault.of_system(), without)


def _told_rights(fleet: Fleet) -> Finding:
    without = "what was told cannot be kept: each run of a CronJob tells every alarm anew, and none that it is over"
    return _rights_beside(fleet, fleet.vault.of_told(), without)


FORMS = {
    "portal": "the form of the vendor's portal: key records, by KeySet or Create Key",
    "service": "the service's own form: one API key a user, by Generate; KeySet and Get Key keep named values",
    "unknown": "it does not say, and is taken to be as the vendor's portal has it",
}


def _speaks(fleet: Fleet, surface: SurfaceName) -> Finding:
    known, form = fleet.ecgrid.spoken.anew(surface, LIMIT)
    state: State = "warning" if form == "unknown" and surface == "soap" else "ok"
    namespace = f", namespace {known.namespace}" if known.namespace else ""
    where = "no description at" if known.calls is None else "read from"
    return state, f"{FORMS[form]} ({where} {known.url}{namespace})"


def _whose(fleet: Fleet) -> Finding:
    """Raises OtherSystem."""
    fleet.whose.require(fleet.policies)
    system = fleet.whose.system()
    if not system.mark:
        return "ok", "nothing is remembered yet: the first command that acts does it"
    alone = (
        f"whatever rotates these users' keys has to keep its records here, too, at {fleet.vault.state_at}: rotators of "
        "other records would end each other's keys, and none of them can see it"
    )
    return "ok", f"the one that the records are about (network {system.network_id}); {alone}"


def _pairs(policies: list[Policy]) -> dict[str, list[Policy]]:
    """The policies by the calls that they make."""
    pairs: dict[str, list[Policy]] = {}
    for policy in policies:
        pairs.setdefault(f"{policy.issue.value} with {policy.verify.value}", []).append(policy)
    return pairs


def _calls(fleet: Fleet, policies: list[Policy]) -> Finding:
    """Whether ECGrid has the calls that these policies name; raises Permanent (`ecgrid.NoSuchCall`)."""
    first = policies[0]
    account = fleet.ecgrid.account(first.issue, first.verify, Urgency.CHECK)
    warnings = account.require(first.users[0], first.visibility, LIMIT)
    named = f"{len(policies)} policies" if len(policies) > 1 else f"policy {first.name}"
    return "ok", "; ".join([f"offered, for {named}", *warnings])


def _credential(fleet: Fleet) -> Finding:
    account = fleet.ecgrid.account(Issue.CREATE_KEY, Verify.GET_KEY, Urgency.CHECK)
    me = account.who_am_i(LIMIT)
    text = f"user {me.user_id}, AuthLevel {me.auth_level}, status {me.status}"
    others = any(users != (me.user_id,) for users in (policy.users for policy in fleet.policies))
    if others and me.auth_level not in ADMINS:
        return "failed", f"{text}: rotating other users' keys takes NetworkAdmin or higher"
    return "ok", text


def _own_key(fleet: Fleet, policy: Policy) -> Finding:
    """Whether a rotation of this policy would cut the rotator off."""
    rotators_own.check(fleet.run_of(policy, Order("schedule")))
    return "ok", "another user's, or cared for"


def _grace(policy: Policy, stored: Stored | None) -> Finding:
    """Whether this account was seen to end a replaced key before its grace was over."""
    if policy.grace and stored and previous.answer(policy, stored.record) == "refused":
        return "warning", (
            "this account ends the replaced key at once, whatever the grace: consumers are cut off until they read the "
            "new one. `users: [a, b]`, two users in turn, is the way to have no outage"
        )
    return "ok", "kept, or not seen yet"


def _family(fleet: Fleet, policy: Policy, user_id: int) -> Finding:
    """Which family of keys the account really has for this user, and whether the policy's calls fit it."""
    account = fleet.ecgrid.account(policy.issue, policy.verify, Urgency.CHECK)
    if policy.issue is Issue.GENERATE:
        account.read(user_id, LIMIT)
        return (
            "ok",
            f"user {user_id}: the user's API key can be read; generate ends the old key at once",
        )
    listed = account.keys(user_id, policy.visibility, LIMIT)
    if not listed:
        return (
            "warning",
            f"user {user_id} has no {policy.visibility.value} key yet: adoption will issue one",
        )
    try:
        seen = account.read(user_id, LIMIT)
    except (Forbidden, NotFound, Refused) as error:
        return (
            "warning",
            f"user {user_id}: {len(listed)} keys; reading is refused ({error.kind}), the key itself is asked",
        )
    matches = [
        one
        for one in listed
        if one.whole
        and seen.shown
        and one.whole.value.against(seen.shown) is not Agreement.CONTRADICTS
    ]
    if not policy.verify.shows_record and not matches and any(one.whole for one in listed):
        return "failed", (
            f"user {user_id}: the user's API key is not one of its key records; with {policy.issue.value} use "
            "verify: get-key or key-get"
        )
    readable = "in full" if seen.whole else "masked"
    kind = policy.visibility.value
    keys = output.counted(len(listed), f"{kind} key", f"{kind} keys")
    return "ok", f"user {user_id}: {keys}, read back {readable}"
