"""The bare Python loop: the requests of a rotation over httpx, with no claim, no record and no recovery.

`python -m bench.peer once USER NAME`: issue, compare, put. `python -m bench.peer loop FIRST_USER COUNT THREADS VAULT`:
for each of so many users as many requests as a rotation makes, `VAULT` of them to Vault, so many users at a time.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from bench.floor import ENVELOPE, SOAP_HEADERS, Places
from bench.measure import BenchError

TIMEOUT = 60.0
WRITES_AND_PROOF = 6  # requests to Vault beside the reads that a rotation begins with
RECORD = {"policy": "a policy", "history": ["a line of a record's history"] * 40}


class Loop:
    """One client for both servers, as a script would have it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client, self._places = client, Places.from_environment()

    def once(self, user_id: int, name: str) -> None:
        """Issue, compare, put."""
        key_id, value = self._issue(user_id)
        self._compare(user_id, value)
        self._vault("POST", f"data/ecgrid/{name}", {"data": {"api_key": value, "key_id": key_id}})

    def like_a_rotation(self, user_id: int, name: str, vault: int) -> None:
        """Three requests to ECGrid and `vault` to Vault, writes and reads as a rotation has them."""
        record, staged, shown = f"data/record/{name}", f"data/staged/{name}", f"data/ecgrid/{name}"
        if vault < WRITES_AND_PROOF:
            raise BenchError(f"a rotation has {WRITES_AND_PROOF} requests to Vault at least")
        for number in range(vault - WRITES_AND_PROOF):
            self._vault("GET", record if number % 2 else shown)
        self._vault("POST", record, {"data": RECORD})
        key_id, value = self._issue(user_id)
        body = {"data": {"api_key": value, "key_id": key_id}}
        self._vault("POST", staged, body)
        self._compare(user_id, value)
        me = self._rest("GET", "/v2/users/me", value)
        if me["userId"] != user_id:
            raise BenchError("ECGrid takes the key for another user's")
        self._vault("POST", shown, body)
        self._vault("GET", shown)
        self._vault("DELETE", staged.replace("data/", "metadata/", 1))
        self._vault("POST", record, {"data": RECORD})

    def _issue(self, user_id: int) -> tuple[str, str]:
        sent = ENVELOPE.format(key=self._places.key, user_id=user_id)
        answer = self._client.post(self._places.soap, content=sent, headers=SOAP_HEADERS)
        answer.raise_for_status()
        found = re.search(r"<KeyID>(\d+)</KeyID>.*<Key>([^<]+)</Key>", answer.text)
        if found is None:
            raise BenchError("the answer to KeySet has no key")
        return found[1], found[2]

    def _compare(self, user_id: int, value: str) -> None:
        shown = self._rest("POST", "/v2/keys/get-key", self._places.key, {"userId": user_id})
        if shown["key"] != value:
            raise BenchError("ECGrid shows another key than it issued")

    def _rest(self, method: str, path: str, key: str, body: object = None) -> dict[str, Any]:
        url, headers = self._places.rest + path, {"X-API-Key": key}
        answer = self._client.request(method, url, json=body, headers=headers)
        answer.raise_for_status()
        return dict(answer.json()["data"])

    def _vault(self, method: str, path: str, body: object = None) -> None:
        url, headers = f"{self._places.vault}/v1/{self._places.mount}/{path}", self._token
        answer = self._client.request(method, url, json=body, headers=headers)
        if answer.status_code not in (200, 204, 404):
            raise BenchError(f"Vault answers {method} with status {answer.status_code}")
        if answer.content:
            answer.json()

    @property
    def _token(self) -> dict[str, str]:
        return {"X-Vault-Token": self._places.token}


def main(what: str, *told: str) -> None:
    """See the module."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    with httpx.Client(timeout=TIMEOUT, trust_env=False, limits=limits) as client:
        loop = Loop(client)
        if what == "once":
            user_id, name = told
            loop.once(int(user_id), name)
            return
        first, count, threads, vault = map(int, told)

        def one(number: int) -> None:
            loop.like_a_rotation(first + number, f"policy-{number:05d}", vault)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(count)))


if __name__ == "__main__":
    main(*sys.argv[1:])
