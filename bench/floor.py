"""The floor of an exposure: what has to lie between ECGrid's commit and Vault's, as bare calls and nothing else.

`python -m bench.floor FIRST_USER COUNT`: rotates that many users one after the other. Every connection is open before
the key is issued; staging, Get Key and the probe go side by side; what comes back is compared; then it is published.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bench.measure import BenchError

# What one rotation sends, in the order of its phases; the three in the middle together.
CALLS = ("KeySet", "POST staged", "GetKey", "GetMe", "POST published")
TIMEOUT = 60.0
ENVELOPE = (
    "<?xml version='1.0' encoding='utf-8'?>"
    "<e:Envelope xmlns:e='http://schemas.xmlsoap.org/soap/envelope/'><e:Body>"
    "<KeySet xmlns='http://www.ecgridos.net/'><SessionID>{key}</SessionID><UserID>{user_id}</UserID>"
    "<Visibility>Private</Visibility></KeySet></e:Body></e:Envelope>"
)
SOAP_HEADERS = {
    "Content-Type": "text/xml; charset=utf-8",
    "SOAPAction": '"http://www.ecgridos.net/KeySet"',
}


@dataclass(frozen=True)
class Places:
    """Where both servers are, and the credentials for them; from the environment that a rotator would get."""

    rest: str
    soap: str
    key: str
    vault: str
    token: str
    mount: str

    @classmethod
    def from_environment(cls) -> Places:
        """As the benchmark sets it."""
        prefix = "ROTATOR_ECGRID__"
        own = [os.environ[prefix + name] for name in ("REST_URL", "SOAP_URL", "API_KEY")]
        of_vault = [
            os.environ[name] for name in ("VAULT_ADDR", "VAULT_TOKEN", "ROTATOR_VAULT__MOUNT")
        ]
        return cls(*own, *of_vault)


@dataclass(frozen=True)
class Issued:
    """What KeySet answers."""

    key_id: int
    value: str


class Line:
    """One connection that stays open."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
        self._headers = headers

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> bytes:
        """The body of the answer; raises BenchError unless it is a success."""
        self._connection.request(method, path, body, {**self._headers, **headers})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise BenchError(f"{method} {path}: status {answer.status}")
        return text


class Bare:
    """The calls of one rotation over connections of its own."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._key = {"X-API-Key": places.key}
        json_body = {"Content-Type": "application/json"}
        self._issue = Line(places.soap, SOAP_HEADERS)
        self._read = Line(places.rest, json_body)
        self._probe = Line(places.rest, {})
        self._vault = Line(places.vault, {"X-Vault-Token": places.token})
        self._side = ThreadPoolExecutor(2)
        self._soap_path = urlsplit(places.soap).path

    def warm(self) -> None:
        """Opens every connection, and starts both threads."""
        for line in (self._issue, self._read, self._probe):
            line.ask("GET", "/v2/auth/version")
        self._vault.ask("GET", "/v1/sys/health")
        list(self._side.map(len, ("a", "b")))

    def rotate(self, user_id: int, name: str) -> None:
        """Issue; stage, Get Key and probe side by side; compare; publish."""
        sent = ENVELOPE.format(key=self._places.key, user_id=user_id)
        told = self._issue.ask("POST", self._soap_path, sent).decode()
        issued = Issued(int(_field(told, "KeyID")), _field(told, "Key"))
        data = {"key_id": issued.key_id, "user_id": user_id, "visibility": "Private"}
        staged = self._side.submit(
            self._put, f"rotator/staged/{name}", {**data, "value": issued.value}
        )
        probed = self._side.submit(self._who, issued)
        shown = json.loads(
            self._read.ask("POST", "/v2/keys/get-key", json.dumps({"userId": user_id}), **self._key)
        )["data"]
        staged.result()
        if (shown["keyId"], shown["key"], probed.result()) != (
            issued.key_id,
            issued.value,
            user_id,
        ):
            raise BenchError("ECGrid shows another key than it issued")
        self._put(f"ecgrid/{name}", {**data, "api_key": issued.value})

    def _put(self, path: str, data: dict[str, Any]) -> None:
        self._vault.ask("POST", f"/v1/{self._places.mount}/data/{path}", json.dumps({"data": data}))

    def _who(self, issued: Issued) -> int:
        told = self._probe.ask("GET", "/v2/users/me", **{"X-API-Key": issued.value})
        return int(json.loads(told)["data"]["userId"])


def _field(text: str, name: str) -> str:
    found = re.search(f"<{name}>([^<]*)</{name}>", text)
    if found is None:
        raise BenchError(f"the answer to KeySet has no {name}")
    return found[1]


def main(first_user: int, count: int) -> None:
    """Rotates the users `first_user` and following, as the policies of a fleet are named."""
    bare = Bare(Places.from_environment())
    for number in range(count):
        bare.warm()
        bare.rotate(first_user + number, f"policy-{number:05d}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
