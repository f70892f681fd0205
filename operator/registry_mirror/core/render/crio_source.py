"""An endpoint as registries.conf has it: not a URL, but the name that stands in place of the registry's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..resolve import ResolvedEndpoint, ResolvedMirror, ResolvedTLS
from .containerd import added_prefix

# What c/image takes for a name (docker/reference/regexp.go): a mirror that is none fails every pull of its registry.
_HOST = re.compile(r"[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*(?::[0-9]+)?")
_PART = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Source:
    """Where images are looked for, whether without verification, and whether for tags as well as for digests."""

    location: str
    insecure: bool
    resolves: bool
    tls: ResolvedTLS | None

    @property
    def host(self) -> str:
        """The name of the directory of its TLS files."""
        return self.location.partition("/")[0]


def sources(mirror: ResolvedMirror) -> Iterator[Source]:
    """Give the endpoints of a mirror that can be said, in order."""
    prefix = "".join(added_prefix(item) or "" for item in mirror.rewrites).strip("/")
    for endpoint in mirror.endpoints:
        place = location(endpoint, prefix)
        if place is not None:
            yield Source(
                location=place,
                insecure=endpoint.url.startswith("http://")
                or (endpoint.tls is not None and endpoint.tls.insecure_skip_verify),
                resolves="Resolve" in endpoint.capabilities,
                tls=endpoint.tls,
            )


def location(endpoint: ResolvedEndpoint, prefix: str = "") -> str | None:
    """Give host and path of an endpoint with a prefix for every name, or None if CRI-O cannot ask there.

    CRI-O puts /v2/ before whatever it asks for, so the path has to begin with that.
    """
    parts = urlsplit(endpoint.url)
    host = parts.netloc
    if not re.search(r"[.:]", host) and host != "localhost":
        # Without a dot or a port it would be taken for the first part of a name on Docker Hub (docker/reference).
        host = f"{host}:{443 if parts.scheme == 'https' else 80}"
    head, _, path = parts.path.strip("/").partition("/")
    names = [*(part for part in path.split("/") if path), *(part for part in prefix.split("/") if prefix)]
    if head not in ("", "v2") or not _HOST.fullmatch(host) or not all(map(_PART.fullmatch, names)):
        return None
    return "/".join((host, *names))
