"""Which proxy a request takes, as Go decides it from the runtime's environment (golang.org/x/net/http/httpproxy)."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy; ``authorization`` is the value of a header, and is never shown."""

    scheme: str
    host: str
    port: int
    authorization: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self})"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Proxies:
    """The proxies that an environment names."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in upper or lower case, as the runtime has them."""
        self._by_scheme = {"http": _any(environment, "HTTP_PROXY"), "https": _any(environment, "HTTPS_PROXY")}
        self._exceptions = [part.strip().lower() for part in _any(environment, "NO_PROXY").split(",") if part.strip()]
        self._key = (*self._by_scheme.values(), *self._exceptions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proxies) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def for_url(self, url: str) -> Proxy | None:
        """Give the proxy for an http or https URL, or None."""
        parts = urlsplit(url)
        proxy = _proxy(self._by_scheme[parts.scheme])
        if proxy is None or self._direct(parts.hostname or "", parts.port or _PORTS[parts.scheme]):
            return None
        return proxy

    def _direct(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_matches(item, host.lower(), address, port) for item in self._exceptions)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _any(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.lower()) or ""


def _proxy(value: str) -> Proxy | None:
    """Read the value of a variable; a value without a scheme means http. None for what Go cannot read either."""
    if not value:
        return None
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port
    except ValueError:
        return None
    if not parts.scheme or not parts.hostname:
        return None
    user = ""
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        user = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(parts.scheme, parts.hostname, port or _PORTS.get(parts.scheme, 80), user)


def _matches(item: str, host: str, address: _Address | None, port: int) -> bool:
    """Tell whether an entry of NO_PROXY is about the host: ``*``, a network, an address, or a domain and what is below
    it (with a leading dot, only what is below it); the latter two with or without a port.
    """
    if item == "*":
        return True
    if "/" in item:
        try:
            return address is not None and address in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    name, at = _split(item)
    if at and at != str(port):
        return False
    own = _address(name)
    if own is not None:
        return own == address
    name = name.removeprefix("*")
    if address is not None or name in ("", "."):
        return False
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _split(item: str) -> tuple[str, str]:
    if item.startswith("["):
        name, _, rest = item[1:].partition("]")
        return name, rest.removeprefix(":")
    if item.count(":") == 1:
        name, _, port = item.partition(":")
        return name, port
    return item, ""


def _address(text: str) -> _Address | None:
    """Give an address; one of IPv4 written as IPv6 is the former, as in Go."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
