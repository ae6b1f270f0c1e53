"""What is wrong with settings that are each good: what is missing, what does not go together, what is doubtful."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rotator.errors import Problem
from rotator.settings.sections import VaultSettings
from rotator.settings.sources import ALIASES, is_there, variable_of

if TYPE_CHECKING:
    from rotator.settings.everything import Settings


def missing_for_vault(vault: VaultSettings, unusable: frozenset[str]) -> Iterator[Problem]:
    """What is not given at all; of what is given and cannot be used something was said already."""
    if vault.addr is None and "vault.addr" not in unusable:
        yield Problem("VAULT_ADDR", "is not set; give Vault's address, such as https://vault:8200")
    needed = {
        "token": ("token",),
        "approle": ("role_id", "secret_id"),
        "kubernetes": ("role",),
        "jwt": (),
        "cert": ("client_cert", "client_key"),
    }
    for name in needed[vault.auth]:
        if getattr(vault, name) is None and f"vault.{name}" not in unusable:
            where = ALIASES.get(f"vault.{name}", variable_of(f"vault.{name}"))
            yield Problem(where, f"is not set; ROTATOR_VAULT__AUTH={vault.auth} needs it")
    if vault.auth in ("kubernetes", "jwt") and not is_there(vault.jwt_file):
        what = "names no file; give the one with the token to log in with"
        yield Problem("ROTATOR_VAULT__JWT_FILE", what)


def contradictions(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Pairs of settings that do not go together, and what to say of the first."""
    if settings.claim_ttl <= settings.deadline:
        what = "must be longer than ROTATOR_DEADLINE, or a claim could be lost under a running rotation"
        yield "claim_ttl", "deadline", what
    ecgrid, vault = settings.ecgrid, settings.vault
    if ecgrid.login and not ecgrid.password:
        yield "ecgrid.login", "ecgrid.password", "needs ROTATOR_ECGRID__PASSWORD, or its _FILE"
    if ecgrid.password and not ecgrid.login:
        yield "ecgrid.password", "ecgrid.login", "needs ROTATOR_ECGRID__LOGIN"
    if vault.client_cert and not vault.client_key:
        yield "vault.client_cert", "vault.client_key", "needs VAULT_CLIENT_KEY"
    if vault.client_key and not vault.client_cert:
        yield "vault.client_key", "vault.client_cert", "needs VAULT_CLIENT_CERT"
    http, notify = settings.http, settings.notify
    if http.listen and not http.listen.is_loopback and http.token is None:
        what = (
            "is not a loopback address, so others can ask it: set ROTATOR_HTTP__TOKEN (or its _FILE), or "
            "ROTATOR_HTTP__TOKEN=none to show policies and states to everybody"
        )
        yield "http.listen", "http.token", what
    if notify.secret and not notify.webhook:
        yield "notify.secret", "notify.webhook", "needs ROTATOR_NOTIFY__WEBHOOK"


def doubts(settings: Settings) -> Iterator[Problem]:
    """What is allowed and still deserves a second look."""
    vault = settings.vault
    if vault.skip_verify:
        what = "Vault's certificate is not checked: anybody in between can read the keys; use VAULT_CACERT"
        yield Problem(settings.places["vault.skip_verify"], what)
    if vault.token and vault.auth != "token":
        what = f"is not used, since ROTATOR_VAULT__AUTH is {vault.auth}"
        yield Problem(settings.places["vault.token"], what)
