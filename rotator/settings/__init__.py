"""Settings: environment, secret files, the systemd credentials directory, `rotator.toml`.

`Settings.load` finds every value, knows where each came from, and refuses what is misspelt, contradictory or given
twice, all of it at once. No message contains a value, or a path that might be a value pasted into the wrong variable.
Of a setting's two names, `ROTATOR_VAULT__ADDR` and `VAULT_ADDR`, either will do; both is an error if they differ.
An empty `VAULT_...` or `SENTRY_...` variable counts as not set, as for Vault's own tools.
"""

from __future__ import annotations

from rotator.settings.everything import Settings
from rotator.settings.proxies import proxy_for
from rotator.settings.sections import (
    SERVICE_ACCOUNT_TOKEN,
    ECGridSettings,
    HttpSettings,
    LogSettings,
    MetricsSettings,
    NotifySettings,
    SentrySettings,
    VaultSettings,
)
from rotator.settings.tls import TlsFile, client_context, system_authorities, why_refused
from rotator.settings.values import Listen, VaultField

__all__ = [
    "SERVICE_ACCOUNT_TOKEN",
    "ECGridSettings",
    "HttpSettings",
    "Listen",
    "LogSettings",
    "MetricsSettings",
    "NotifySettings",
    "SentrySettings",
    "Settings",
    "TlsFile",
    "VaultField",
    "VaultSettings",
    "client_context",
    "proxy_for",
    "system_authorities",
    "why_refused",
]
