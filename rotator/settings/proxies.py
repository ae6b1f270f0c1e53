"""The proxy that the environment names for an address, as curl and the vault command understand it."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rotator.keys import Secret, secret_part

_watched: dict[str, Secret] = {}  # the passwords of proxies, as long as the process lives


def proxy_for(url: str) -> str | None:
    """What HTTPS_PROXY (HTTP_PROXY, ALL_PROXY) and NO_PROXY say about an address; None for no proxy."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).password:
        _watched.setdefault(proxy, secret_part(proxy))
    return proxy
