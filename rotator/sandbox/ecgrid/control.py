"""Both ends of the simulator's control API: JSON over `POST /_sim/VERB`, the same in this process and in another."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from rotator.errors import Failure, NotSent
from rotator.sandbox.ecgrid.simulator import Simulator
from rotator.sandbox.ecgrid.switches import Fault, Switches
from rotator.sandbox.ecgrid.words import KeyRecord, User

PREFIX = "/_sim/"
Args = Mapping[str, Any]


class Control:
    """Sets the scene in a running simulator and looks behind it, whichever process it is in.

    Every method raises NotSent if nobody answers, and Failure (`sandbox.Control`) if the simulator does not accept it.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        """`url` is the simulator's address as `Running.url`; a path behind it is ignored."""
        self._address = urlsplit(url).netloc
        self._timeout = timeout

    def switches(self) -> Switches:
        """The answers in force."""
        return Switches.from_json(self._ask("switches"))

    def switch(self, **changes: Any) -> Switches:
        """Changes switches by name from now on."""
        return Switches.from_json(self._ask("switch", **changes))

    def add_fault(self, fault: Fault) -> None:
        """Arms a fault."""
        self._ask("add_fault", **fault.to_json())

    def clear_faults(self) -> None:
        """Disarms all faults."""
        self._ask("clear_faults")

    def faults(self) -> list[Fault]:
        """The faults that may still act."""
        return [Fault.from_json(one) for one in self._ask("faults")]

    def add_user(self, user_id: int | None = None, **properties: Any) -> int:
        """Adds a user, with the properties of `Simulator.add_user`; the user's id."""
        return int(self._ask("add_user", user_id=user_id, **properties)["user_id"])

    def add_key(
        self, user_id: int, visibility: str = "Private", **properties: Any
    ) -> dict[str, Any]:
        """Adds a key record, with the properties of `Simulator.add_key`; the record with its `value`."""
        added = self._ask("add_key", user_id=user_id, visibility=visibility, **properties)
        return dict(added)

    def remove_key(self, key_id: int) -> bool:
        """Removes a record behind everybody's back; whether it was there."""
        return bool(self._ask("remove_key", key_id=key_id))

    def next_value(self, value: str) -> None:
        """The next value that is drawn will be this one."""
        self._ask("next_value", value=value)

    def keys(self, user_id: int) -> list[dict[str, Any]]:
        """The user's key records, oldest first, without values."""
        return list(self._ask("keys", user_id=user_id))

    def users(self) -> list[dict[str, Any]]:
        """All users, without passwords."""
        return list(self._ask("users"))

    def who(self, value: str) -> int | None:
        """Whose live key this value is at this moment."""
        answer: int | None = self._ask("who", value=value)
        return answer

    def issued(self, user_id: int | None = None) -> int:
        """How many keys issuing calls have made, for one user or for all."""
        return int(self._ask("issued", user_id=user_id))

    def requests(self) -> list[dict[str, Any]]:
        """The requests in order of arrival, as `words.Entry`; never a value."""
        return list(self._ask("requests"))

    def counts(self) -> dict[str, int]:
        """How many requests arrived, by call."""
        return dict(self._ask("counts"))

    def violations(self) -> list[str]:
        """Requests that no well-behaved client sends."""
        return list(self._ask("violations"))

    def sessions(self) -> int:
        """How many sessions are open."""
        return int(self._ask("sessions"))

    def end_sessions(self) -> int:
        """Ends every session; how many there were."""
        return int(self._ask("end_sessions"))

    def secrets(self) -> set[str]:
        """Every value, password and session token there ever was: what a leak hunt looks for."""
        return set(self._ask("secrets"))

    def now(self) -> datetime:
        """The simulator's time."""
        return datetime.fromisoformat(self._ask("now"))

    def advance(self, seconds: float) -> datetime:
        """Moves the simulator's clock."""
        return datetime.fromisoformat(self._ask("advance", seconds=seconds))

    def reset(self) -> None:
        """Forgets everything, as `Simulator.reset`."""
        self._ask("reset")

    def _ask(self, verb: str, **args: Any) -> Any:
        status, body = self._exchange(verb, json.dumps(args, default=str).encode())
        answer = json.loads(body)
        if status != 200:
            problem = f"the simulator does not accept {verb}: {answer['error']}"
            raise Failure(problem, kind="sandbox.Control")
        return answer["result"]

    def _exchange(self, verb: str, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._address, timeout=self._timeout)
        try:
            connection.request("POST", PREFIX + verb, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            why = type(error).__name__
        finally:
            connection.close()
        raise NotSent(
            f"no simulator answers at {self._address} ({why}); start it, or correct the URL"
        )


def carry_out(simulator: Simulator, verb: str, body: bytes) -> tuple[int, bytes]:
    """The simulator's end: status and JSON body for one request to the control API."""
    problem = None
    result: object = None
    try:
        args = json.loads(body) if body else {}
        result = _VERBS[verb](simulator, args)
    except KeyError:
        problem = f"unknown name; verbs are {', '.join(sorted(_VERBS))}"
    except (ValueError, TypeError) as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001  # a mistake in a scene must not end the connection it came by
        problem = type(error).__name__
    if problem is not None:
        return 400, json.dumps({"error": problem}).encode()
    return 200, json.dumps({"result": result}, default=str).encode()


def _record(record: KeyRecord) -> dict[str, Any]:
    shown = {k: v for k, v in asdict(record).items() if k not in ("value", "session")}
    return {
        **shown,
        "created": record.created.isoformat(),
        "active_from": record.active_from.isoformat(),
    }


def _user(user: User) -> dict[str, Any]:
    shown = {k: v for k, v in asdict(user).items() if k != "password"}
    return {**shown, "auth_level": user.auth_level.name}


def _add_key(simulator: Simulator, args: Args) -> dict[str, Any]:
    created = args.get("created")
    moment = datetime.fromisoformat(created) if created is not None else None
    record = simulator.add_key(**{**args, "created": moment})
    return {**_record(record), "value": record.value}


_VERBS: dict[str, Callable[[Simulator, Args], object]] = {
    "switches": lambda sim, _: sim.switches.to_json(),
    "switch": lambda sim, args: sim.switch(**args).to_json(),
    "add_fault": lambda sim, args: sim.add_fault(Fault.from_json(args)),
    "clear_faults": lambda sim, _: sim.clear_faults(),
    "faults": lambda sim, _: [fault.to_json() for fault in sim.faults()],
    "add_user": lambda sim, args: _user(sim.add_user(**args)),
    "add_key": _add_key,
    "remove_key": lambda sim, args: sim.remove_key(**args),
    "next_value": lambda sim, args: sim.next_value(**args),
    "keys": lambda sim, args: [_record(record) for record in sim.keys(**args)],
    "users": lambda sim, _: [_user(user) for user in sim.users()],
    "who": lambda sim, args: sim.who(**args),
    "issued": lambda sim, args: sim.issued(**args),
    "requests": lambda sim, _: [asdict(entry) for entry in sim.requests()],
    "counts": lambda sim, _: sim.counts(),
    "violations": lambda sim, _: sim.violations(),
    "sessions": lambda sim, _: sim.sessions(),
    "end_sessions": lambda sim, _: sim.end_sessions(),
    "secrets": lambda sim, _: sorted(sim.secrets()),
    "now": lambda sim, _: sim.now().isoformat(),
    "advance": lambda sim, args: sim.advance(**args).isoformat(),
    "reset": lambda sim, _: sim.reset(),
}
