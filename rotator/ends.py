"""When the rotator's own credentials end, as far as that can be known: a pure function for each kind of them.

A credential is about to end a fortnight before it does; one that lives no longer than that, which somebody's automatism
is to replace, only for the last tenth of its life.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

FORTNIGHT = timedelta(days=14)
# Uses that are left: it is about to end.
FEW = 10
# Of its first life that a renewal gives at most: it was cut short by the end.
CUT = 0.9
PATIENCE = "it is renewed until its maximum TTL, which Vault shows once a renewal is cut short"
END_OF_PEM = "-----END CERTIFICATE-----"
SEQUENCE, VERSION, TIMES = 0x30, 0xA0, {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}


class End(NamedTuple):
    """What is known of one credential, by its setting's name: when it ends, and from when on that is near.

    `at` None: never, or, if `unknown` says why, nobody knows; `path`: what Vault has to allow for it to be told.
    `uses`: how often it may still be used.
    """

    name: str
    at: datetime | None = None
    near: datetime | None = None
    uses: int | None = None
    unknown: str = ""
    path: str = ""

    def words(self, now: datetime) -> str:
        """What is known, as the end of a sentence about the credential."""
        phrases = []
        if self.at is not None:
            days = (self.at - now).total_seconds() / 86400
            phrases.append(f"{'ends' if days > 0 else 'ended'} {self.at:%Y-%m-%dT%H:%M:%SZ}")
            phrases += [f"in {days:.0f} days"] if days >= 2 else []
        if self.uses is not None:
            phrases.append(f"may be used {self.uses} more times")
        if self.unknown:
            phrases.append(f"ends at a time that is not known: {self.unknown}")
        return ", ".join(phrases) or "does not end"

    def is_near(self, now: datetime) -> bool:
        """Whether it is about to end, or has ended."""
        return (self.near is not None and now >= self.near) or (
            self.uses is not None and self.uses <= FEW
        )


def between(name: str, begins: datetime, ends: datetime, uses: int | None = None) -> End:
    """What lives from then to then."""
    life = ends - begins
    lead = min(FORTNIGHT, life / 2) if life > FORTNIGHT else life / 10
    return End(name, ends, ends - lead, uses)


def of_token(about: Mapping[str, Any], now: datetime, left: float, *, cut: bool) -> End:
    """A token of which `about` is what its look-up told, with so many seconds left (infinite: it does not end).

    `cut`: its last renewal was cut short.
    """
    name, begins = "vault.token", _instant(about.get("creation_time")) or now
    if left == float("inf"):
        return End(name)
    last = about.get("explicit_max_ttl")
    if isinstance(last, int) and last:
        return between(name, begins, begins + timedelta(seconds=last))
    if cut or not about.get("renewable"):
        return between(name, begins, now + timedelta(seconds=left))
    return End(name) if about.get("period") else End(name, unknown=PATIENCE)


def of_secret_id(about: Mapping[str, Any], now: datetime) -> End:
    """A SecretID, as `secret-id/lookup` tells of it: nothing (empty) of one that is used up."""
    if not about:
        return End("vault.secret_id", uses=0)
    name, ends = "vault.secret_id", _instant(about.get("expiration_time"))
    number = about.get("secret_id_num_uses")
    uses = number if isinstance(number, int) and number else None
    if ends is None:
        return End(name, uses=uses)
    return between(name, _instant(about.get("creation_time")) or now, ends, uses)


def of_jwt(text: str, now: datetime) -> End:
    """A JSON Web Token, whose signature is for others to check."""
    name, claims = "vault.jwt_file", _claims(text)
    ends = _instant(claims.get("exp"))
    if ends is None:
        return End(name) if claims else End(name, unknown="the file holds no JSON Web Token")
    return between(name, _instant(claims.get("iat") or claims.get("nbf")) or now, ends)


def of_certificate(pem: str) -> End:
    """A client's certificate, with those of its issuers that come along: the first one to end."""
    name, lives = "vault.client_cert", []
    for one in pem.split(END_OF_PEM)[:-1]:
        begin = one.find("-----BEGIN CERTIFICATE-----")
        try:
            lives.append(_validity(ssl.PEM_cert_to_DER_cert(one[begin:] + END_OF_PEM)))
        except (ValueError, LookupError):
            return End(name, unknown="the file holds no certificate that can be read")
    if not lives:
        return End(name, unknown="the file holds no certificate in PEM")
    begins, ends = min(lives, key=lambda life: life[1])
    return between(name, begins, ends)


def of_own_key(made: datetime, max_age: timedelta, due: datetime | None) -> End:
    """The rotator's own key at ECGrid, which a policy rotates when that is `due`: at `max_age` it is too old."""
    end = between("ecgrid.api_key", made, made + max_age)
    if end.near is None or due is None:
        return end
    return End(end.name, end.at, max(end.near, due))


def _instant(value: object) -> datetime | None:
    """A time that Vault or a claim tells; None for none, and for Go's year 1, which means never."""
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        instant = datetime.fromisoformat(str(value)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return instant if instant.year > 1 else None


def _claims(text: str) -> dict[str, Any]:
    try:
        middle = text.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except (ValueError, LookupError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


# a certificate, as far as its validity (RFC 5280): version, serial number, algorithm, issuer, and then that


def _validity(der: bytes) -> tuple[datetime, datetime]:
    """From when and until when it is valid; raises ValueError or LookupError if it is no certificate."""
    (certificate,) = _parts(der)
    inner = [part for part in _parts(next(_parts(certificate[1]))[1]) if part[0] != VERSION]
    kind, validity = inner[3]
    if kind != SEQUENCE:
        raise ValueError
    begins, ends = (
        datetime.strptime(value.decode("ascii"), TIMES[kind]).replace(tzinfo=UTC)
        for kind, value in _parts(validity)
    )
    return begins, ends


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """What stands one after another: each one's kind and content."""
    offset = 0
    while offset < len(der):
        kind, length, offset = der[offset], der[offset + 1], offset + 2
        if length & 0x80:
            size = length & 0x7F
            length, offset = int.from_bytes(der[offset : offset + size], "big"), offset + size
        if offset + length > len(der):
            raise ValueError
        yield kind, der[offset : offset + length]
        offset += length
