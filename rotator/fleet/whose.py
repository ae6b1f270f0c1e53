"""Whose ECGrid the records of a state path are about, and what it speaks: remembered at `STATE_PATH/ecgrid`.

A rotator that is pointed at another environment would find other keys under the same user ids, and put them in place
of the right ones. So whoever acts first compares what is configured with what is remembered: the host names of the
surfaces that are called, and the network of the rotator's own user.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from rotator import reporting
from rotator.ecgrid import Account, Credentials
from rotator.errors import Failure, FenceLost, HeldBack, NotFound, Refused, RotatorError
from rotator.keys import Me, Secret
from rotator.policy import Policy
from rotator.settings import Settings
from rotator.system import SurfaceName, System
from rotator.vault import Vault

# Seconds: somebody may have said since that it is another ECGrid.
READ_AGAIN_AFTER = 60.0
# Published keys that are asked at most.
ASKED = 5
# Policies that are looked at for them.
LOOKED_AT = 50
# Published keys of which none is accepted: from so many on that is no mere drift.
DOUBTFUL = 2
# Seconds for one question to ECGrid.
WITHIN = 30.0
# Of writing, against other rotators.
TRIES = 5


class OtherSystem(HeldBack):
    """What is configured is not the ECGrid that the records are about: nothing that acts writes anything."""

    kind = "ecgrid.OtherSystem"


class Proof(NamedTuple):
    """What published keys say of the ECGrid that is configured: how many were asked, and whether one was accepted."""

    asked: int
    accepted: bool


class Whose:
    """The memory of one state path, for one process. May be used by any number of threads."""

    def __init__(
        self,
        settings: Settings,
        vault: Vault,
        credentials: Credentials,
        boot: Callable[[], float],
        account: Callable[[], Account],
    ) -> None:
        """`account` asks ECGrid as a drift check does."""
        self._settings, self._vault, self._credentials = settings, vault, credentials
        self._boot, self._account = boot, account
        # Whether what is found out may be written.
        self.acting = False
        # This is another ECGrid, as it was found last.
        self._elsewhere = False
        # Of the whole fleet.
        self.policies: Sequence[Policy] = ()
        # A person named the policies that are worked on.
        self.named = False
        # When records were missed, and how many were.
        self._lost: tuple[float, int] | None = None
        self._lock = threading.RLock()
        self._system, self._version = System.new(), 0
        self._read_at: float | None = None
        self._warned = False

    # what is remembered: see `rotator.ecgrid.spoken.Keep`

    def now(self) -> datetime:
        """Vault's time."""
        return self._vault.now()

    def system(self) -> System:
        """What is remembered, as it was a minute ago at the earliest."""
        with self._lock:
            if self._read_at is None or self._boot() - self._read_at > READ_AGAIN_AFTER:
                self._read()
            return self._system

    def remember(self, change: Callable[[System], System]) -> None:
        """Changes what is remembered; where it may not be written, or not now, for this process alone."""
        with self._lock:
            self._system = change(self._system)
            if not self.acting:
                return
            trouble = ""
            for _ in range(TRIES):
                try:
                    self._version = self._vault.save_system(self._system, self._version)
                    return
                except FenceLost:
                    self._read()
                    self._system = change(self._system)
                except Failure as error:
                    trouble = error.kind
                    break
            if not self._warned:
                self._warned = True
                where = self._vault.system_at
                reporting.event("ecgrid.not_remembered", at=str(where), error=trouble)

    def _read(self) -> None:
        self._read_at = self._boot()
        # What is known stays; Vault's troubles are told by whoever needs it.
        with suppress(Failure):
            system, self._version = self._vault.system()
            self._system = system or (self._system if self._version == 0 else System.new())

    # whose it is: see `rotator.run.needs.Whose`

    def mark(self) -> str:
        """The mark that this ECGrid's records bear; empty while it is not proved that they are about it."""
        return self.system().mark

    def is_ours(self, mark: str) -> bool:
        """Whether a record that bears this mark, or (empty) none, is about this ECGrid."""
        system = self.system()
        return mark == system.mark or (system.unmarked if not mark else not system.mark)

    def own_user(self, within: float) -> int | None:
        """The user of the rotator's own key, asked once for each; None with a login. As `Account.who_am_i` raises.

        Raises OtherSystem if that user is of another network than the one that is remembered.
        """
        user_id, network_id = self._caller(within)
        remembered = self.system().network_id
        if None not in (network_id, remembered) and network_id != remembered:
            raise self._other("network", str(remembered), str(network_id))
        return None if self._credentials.current() is None else user_id

    def own_user_if_known(self) -> int | None:
        """The same, without asking anybody: None if it is not known."""
        key = self._credentials.current()
        return None if key is None else self.system().caller(key)[0]

    def _caller(self, within: float) -> tuple[int | None, int | None]:
        """User and network of the credential in use."""
        shown = self._shown()
        known = self.system().caller(shown)
        if known[0] is None:
            me: Me = self._account().who_am_i(within)
            known = (me.user_id, me.network_id)
            self.remember(lambda system: system.knowing(shown, me.user_id, me.network_id))
        return known

    def _shown(self) -> Secret:
        key, login = self._credentials.current(), self._credentials.login
        if key is None and login is not None:
            return login[1]
        return key or Secret("")

    def refuse_lost(self) -> None:
        """Raises HeldBack if the records of more than ROTATOR_BRAKE policies are gone, whose secrets are there.

        Then it is not one record that was lost, but the wrong mount or state path, or all of them.
        """
        limit = self._settings.brake
        if not limit or self.named:
            return
        with self._lock:
            if self._lost is None or self._boot() - self._lost[0] > READ_AGAIN_AFTER:
                self._lost = (self._boot(), self._missed(limit))
            missed = self._lost[1]
        if missed > limit:
            raise HeldBack(
                f"over {limit} policies have a published secret that is marked as theirs, and no record at "
                f"{self._vault.record_at('NAME')}: nothing was done. Check ROTATOR_VAULT__MOUNT and "
                "ROTATOR_VAULT__STATE_PATH; if the records are really gone, `rotator adopt --all` builds them anew",
                kind="fleet.RecordsLost",
            )

    def _missed(self, limit: int) -> int:
        """How many policies have a marked secret and no record; no more are counted than are needed."""
        recorded, missed = set(self._records()), 0
        for policy in self.policies:
            if policy.name in recorded or missed > limit:
                continue
            # One that cannot be read is told by its own run.
            with suppress(RotatorError):
                published = self._vault.published(policy.destinations[0])
                missed += published is not None and published.policy == policy.name
        return missed

    # before anything is done

    def may_write(self) -> bool:
        """Whether anything at all may be written: not at another ECGrid, as it was found last."""
        return not self._elsewhere

    def require(self, policies: Iterable[Policy]) -> None:
        """Sees to it that this is the ECGrid that the records are about; asks only what is not known yet.

        Raises OtherSystem. Where ECGrid or Vault cannot tell now, nothing: the claim asks again.
        """
        try:
            self._require(list(policies))
        except OtherSystem:
            self._elsewhere = True
            raise
        self._elsewhere = False

    def _require(self, policies: list[Policy]) -> None:
        system, hosts = self.system(), self._hosts(policies)
        for surface, host in hosts.items():
            before = system.hosts.get(surface, host)
            if before != host:
                raise self._other("host", before, host)
        try:
            self.own_user(WITHIN)
        except HeldBack:
            raise
        except Failure:
            return
        if not self.acting:
            return
        if not system.mark:
            if self._is_proved(policies):
                self._settle(hosts, self._mark_of(policies) or secrets.token_hex(8))
        elif not hosts.items() <= system.hosts.items():
            self.remember(lambda known: known.change(hosts={**hosts, **known.hosts}))

    def adopt(
        self, policies: list[Policy], *, dry_run: bool = False
    ) -> Literal["the same", "another"]:
        """`adopt --ecgrid`: what is configured is the ECGrid from here on, the same at a new address or another one.

        `dry_run`: only says which. Raises Failure if ECGrid does not say who the rotator is, or if no published key
        could be asked.
        """
        self.acting = not dry_run
        self._read()
        user_id, network_id = self._caller(WITHIN)
        proof = self._ask(policies)
        same = proof.accepted or not self._records()
        if not same and proof.asked == 0:
            raise Failure(
                "no published key could be asked whether this is the ECGrid that they are of: nothing was changed. See "
                "what `rotator check` says of the policies",
                kind="ecgrid.OtherSystem",
            )
        mark = self._system.mark if same and self._system.mark else secrets.token_hex(8)
        self.remember(
            lambda known: known.change(
                hosts=self._hosts(policies),
                network_id=network_id,
                mark=mark,
                unmarked=known.unmarked and same,
            )
        )
        if self.acting:
            facts = {"same": same, "user_id": user_id, "network_id": network_id}
            reporting.event("ecgrid.adopted", **facts)
        return "the same" if same else "another"

    def _settle(self, hosts: Mapping[SurfaceName, str], mark: str) -> None:
        network_id = self._caller(WITHIN)[1]
        self.remember(
            lambda known: (
                known
                if known.mark
                else known.change(hosts=dict(hosts), network_id=network_id, mark=mark)
            )
        )

    def _mark_of(self, policies: list[Policy]) -> str:
        """The mark that records bear already, if what was remembered of it was lost."""
        for policy in policies[:LOOKED_AT]:
            with suppress(RotatorError):
                stored = self._vault.record(policy.name)
                if stored is not None and stored.record.ecgrid:
                    return stored.record.ecgrid
        return ""

    def _hosts(self, policies: Iterable[Policy]) -> dict[SurfaceName, str]:
        """The host names of the surfaces that are called; REST's is for every policy."""
        own = self._settings.ecgrid
        hosts: dict[SurfaceName, str] = {"rest": urlsplit(own.rest_url).hostname or ""}
        if any(policy.over_soap for policy in policies):
            hosts["soap"] = urlsplit(own.soap_url).hostname or ""
        return hosts

    def _records(self) -> list[str]:
        try:
            return self._vault.policies_with_records()
        except NotFound:
            return []

    def _is_proved(self, policies: list[Policy]) -> bool:
        """Whether the records, if there are any, are about this ECGrid; raises OtherSystem if plainly not."""
        try:
            if not self._records():
                return True
        except Failure:
            return False
        proof = self._ask(policies)
        if not proof.accepted and proof.asked >= DOUBTFUL:
            raise self._other("published keys", "accepted by another", f"none of {proof.asked}")
        return proof.accepted

    def _ask(self, policies: list[Policy]) -> Proof:
        """Asks up to five published keys, each with the key itself, until one is accepted as its user's."""
        asked = 0
        for policy in policies[:LOOKED_AT]:
            value = self._settled_value(policy)
            if value is None:
                continue
            try:
                user_id = self._account().who_am_i(WITHIN, caller=value).user_id
            except Refused:
                asked += 1
            except Failure:
                continue
            else:
                asked += 1
                if user_id in policy.users:
                    return Proof(asked, accepted=True)
            if asked == ASKED:
                break
        return Proof(asked, accepted=False)

    def _settled_value(self, policy: Policy) -> Secret | None:
        """What a policy has published, unless a rotation of it is open: then the key may be dead for that."""
        try:
            stored = self._vault.record(policy.name)
            if (
                stored is None
                or stored.record.current is None
                or stored.record.underway is not None
            ):
                return None
            published = self._vault.published(policy.destinations[0])
        except RotatorError:
            return None
        return published.value if published is not None else None

    def _other(self, what: str, remembered: str, configured: str) -> OtherSystem:
        place = self._vault.system_at
        return OtherSystem(
            f"this is not the ECGrid that the records are about ({what}: {remembered} in {place}, {configured} as "
            "configured): nothing was done. If the address or the credential is wrong, put it right; another "
            "environment needs a ROTATOR_VAULT__STATE_PATH of its own; and if it is to be this one from now on, or the "
            "same at a new address: `rotator adopt --ecgrid`"
        )
