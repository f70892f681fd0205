"""Where a registry itself answers, as containerd works it out from the registry's name."""

from __future__ import annotations

import ipaddress


def default_host(registry: str) -> str:
    """docker.DefaultHost (containerd core/remotes/docker/registry.go): Docker Hub answers under another name."""
    return "registry-1.docker.io" if registry == "docker.io" else registry


def default_url(registry: str) -> str:
    """Give the URL of the registry itself: http for localhost on a port other than 443, else https (hosts.go)."""
    host, _, port = registry.rpartition(":") if has_port(registry) else (registry, "", "")
    scheme = "http" if is_localhost(host) and port not in ("", "443") else "https"
    return f"{scheme}://{default_host(registry)}/v2"


def has_port(registry: str) -> bool:
    """Tell whether ``host:port`` has its port; an IPv6 address stands in brackets."""
    return ":" in registry.rpartition("]")[2]


def is_local(registry: str) -> bool:
    """Tell whether a registry, with or without a port, is on the node itself."""
    return is_localhost(registry.rpartition(":")[0] if has_port(registry) else registry)


def is_localhost(host: str) -> bool:
    """docker.IsLocalhost: the name localhost, or a loopback address; takes the host without its port."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
