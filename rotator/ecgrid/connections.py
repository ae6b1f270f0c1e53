"""The connections to ECGrid, the sessions and the rate: what all rotations of a process share."""

from __future__ import annotations

from typing import Protocol

from rotator.ecgrid.account import Account, Directory, OnWire
from rotator.ecgrid.caller import Own
from rotator.ecgrid.credentials import Credentials
from rotator.ecgrid.rate import Rate, Urgency
from rotator.ecgrid.rest import Rest
from rotator.ecgrid.soap import Soap
from rotator.ecgrid.spoken import InMemory, Keep, Spoken
from rotator.ecgrid.wire import Observer, Wire
from rotator.keys import Issue, Verify


class Addresses(Protocol):
    """Where ECGrid is."""

    @property
    def rest_url(self) -> str:
        """Of the REST API, without the `/v2`."""

    @property
    def soap_url(self) -> str:
        """Of the SOAP API."""

    @property
    def soap_namespace(self) -> str | None:
        """Of the SOAP operations, where the service's description is not to be believed about it."""


class ECGrid:
    """The connections, the sessions and the rate that all rotations of a process share."""

    def __init__(
        self,
        addresses: Addresses,
        credentials: Credentials,
        rate: Rate,
        *,
        keep: Keep | None = None,
        observer: Observer | None = None,
    ) -> None:
        """`observer` is told of every request: the call's name, the status or the kind of error, the seconds.

        `keep` is where what ECGrid speaks is remembered beyond this process.

        Raises BadInput if the environment names a proxy or an authority that cannot be used. Nothing is sent yet.
        """
        self._wire = Wire((addresses.rest_url, addresses.soap_url), observer)
        self.spoken = Spoken(
            self._wire,
            rate,
            keep or InMemory(),
            {"rest": addresses.rest_url, "soap": addresses.soap_url},
            addresses.soap_namespace,
        )
        self._rest = Rest(self._wire, addresses.rest_url, self.spoken)
        self._soap = Soap(self._wire, addresses.soap_url, self.spoken)
        self._credentials, self._rate = credentials, rate
        self._own = Own(self._rest, self._soap, credentials, rate)

    def directory(self) -> Directory:
        """ECGrid as it is asked for its users."""
        return self._on_wire(Issue.CREATE_KEY, Verify.GET_KEY, Urgency.CHECK)

    def account(self, issue: Issue, verify: Verify, urgency: Urgency) -> Account:
        """ECGrid as a policy with these calls asks it."""
        return self._on_wire(issue, verify, urgency)

    def _on_wire(self, issue: Issue, verify: Verify, urgency: Urgency) -> OnWire:
        return OnWire(
            self._rest,
            self._soap,
            self._own,
            self._rate,
            self._credentials.replace,
            issue=issue,
            verify=verify,
            urgency=urgency,
        )

    def close(self) -> None:
        """Logs out of the sessions that were opened, and closes all connections. Never raises a Failure."""
        self._own.close()
        self._wire.close()
