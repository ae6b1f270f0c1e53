"""The proxy that the environment names for an address, as curl and the vault command understand it.

One function decides, for ECGrid, Vault, webhooks and Sentry alike. This machine itself is never asked through a proxy,
whatever the variables say: plain http is allowed to loopback since nobody else hears it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from rotator.errors import BadInput, Problem
from rotator.keys import Secret, secret_part

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}
# The passwords of proxies, as long as the process lives.
_watched: dict[str, Secret] = {}


def proxy_for(url: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """What HTTPS_PROXY (HTTP_PROXY, ALL_PROXY) and NO_PROXY say about an address; None for no proxy.

    A name in lower case goes before the same in capitals. Raises BadInput, which names the variable, for a proxy that
    cannot be used.
    """
    parts = urlsplit(url)
    variable = _variable(parts.scheme, environ)
    if variable is None or is_loopback(parts.hostname or "") or _is_direct(parts, environ):
        return None
    proxy = environ[variable].strip()
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    _refuse_unusable(proxy, variable)
    if urlsplit(proxy).password:
        _watched.setdefault(proxy, secret_part(proxy))
    return proxy


def is_loopback(host: str) -> bool:
    """Whether that is an address of this machine itself, or the name that always means one."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _variable(scheme: str, environ: Mapping[str, str]) -> str | None:
    for family in (f"{scheme}_proxy", "all_proxy"):
        for name in (family, family.upper()):
            if name in environ:
                if environ[name].strip():
                    return name
                # In lower case and empty: none of the family.
                break
    return None


def _refuse_unusable(proxy: str, variable: str) -> None:
    try:
        parts = urlsplit(proxy)
        good = bool(parts.hostname) and parts.port != 0 and not re.search(r"[^!-~]", proxy)
    except ValueError:
        parts, good = None, False
    if parts is not None and parts.scheme not in _PORTS:
        what = "names a proxy that is not spoken to here; give an HTTP proxy, such as http://proxy:3128"
        if parts.scheme.startswith("socks"):
            what = "names a SOCKS proxy, which is not supported; give an HTTP proxy, such as http://proxy:3128"
    elif not good:
        what = "is no address of a proxy; write it as http://proxy:3128"
    else:
        return
    exempt = "NO_PROXY exempts addresses from it"
    raise BadInput([Problem(variable, f"{what} ({exempt})")])


def _is_direct(parts: SplitResult, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY exempts an address: names with all below them, addresses, networks, each with a port or not."""
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or _PORTS.get(parts.scheme, 0)
    listed = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    return any(_exempts(entry.lower(), host, port) for entry in re.split(r"[,\s]+", listed))


def _exempts(entry: str, host: str, port: int) -> bool:
    if entry in ("", "*"):
        return entry == "*"
    address, network = _address(host), _network(entry)
    if network is None:
        entry, own_port = _without_port(entry)
        if own_port is not None and own_port != port:
            return False
        network = _network(entry)
    if network is not None:
        return address is not None and address.version == network.version and address in network
    if entry.startswith("*."):
        return host.endswith(entry[1:].rstrip("."))
    name = entry.strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _without_port(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*)(?::([0-9]{1,5}))?", entry)
    if match is None:
        return entry, None
    return match[1].strip("[]"), int(match[2]) if match[2] else None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """A network, or a single address as one."""
    try:
        network = ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None
    address = _plain(network.network_address)
    return network if address is network.network_address else ipaddress.ip_network(address)


def _address(host: str) -> _Address | None:
    """The address that a host is, in any spelling that a connection takes; None for a name."""
    try:
        return _plain(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    # 127.1 and 0x7f000001 are connected to as well.
    try:
        return ipaddress.ip_address(socket.inet_aton(host)) if re.match("[0-9]", host) else None
    except OSError:
        return None


def _plain(address: _Address) -> _Address:
    """An IPv4 address that is written as an IPv6 one, as itself."""
    return getattr(address, "ipv4_mapped", None) or address
