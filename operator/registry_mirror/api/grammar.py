"""What a registry name, an endpoint URL, a duration and a rewrite may look like, and how to say so when one does not.

The CRD schemas say the same in CEL; this module says it for the offline paths and for what CEL cannot check (the groups
that a replacement names). K3s joins registry names to a path that it removes recursively as root (runtimes.md, trap 6),
so the grammar is strict: whatever is not known to be safe is refused.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

MAX_NAME = 255
MAX_URL = 1024

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# No %: Go refuses one that starts no escape, and then the whole hosts.toml is ignored (runtimes.md, trap 1); any other
# containerd decodes, and puts what it stands for into the request unescaped (2.4.2, seen with %3F).
_PATH = re.compile(r"(?:/[A-Za-z0-9._~:@!$&()*+,;=-]*)*")
# Four digits of hours: 32 characters cannot exceed what Go's time.Duration holds, 292 years.
_DURATION = re.compile(r"(?:[0-9]{1,6}(?:ms|s|m)|[0-9]{1,4}h)+")
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h)")
_SHARE = re.compile(r"(?:[1-9][0-9]?|100)%")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_GROUP_NUMBER = re.compile(r"0|[1-9][0-9]{0,7}")
# RE2's own \C (any byte), behind an even number of backslashes.
_ANY_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")
# Go's regexp.Expand: $1, ${1}, $name, ${name}, $$ (regexp/regexp.go, func extract).
_REFERENCE = re.compile(r"\$(?:\$|\{(\w+)\}|(\w+))")

REGISTRY_FORM = (
    'write host[:port] in lower case, such as docker.io, registry.example.com:5000 or [fd00::1]:5000, or "*" for every '
    "registry without an object of its own"
)
URL_FORM = (
    "write http:// or https://, a lower-case host[:port] and an optional path, such as "
    "https://harbor.example.com/v2/dockerhub; without user name, query or fragment"
)
DURATION_FORM = "write a duration such as 500ms, 5s or 1m30s"


def host_port_problem(value: str) -> str | None:
    """Say what is wrong with ``host[:port]`` (no scheme), or None. IPv6 addresses stand in brackets."""
    if value.startswith("["):
        address, bracket, rest = value[1:].partition("]")
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            return "the address in brackets is not an IPv6 address"
        if not bracket or "%" in address or address != address.lower():
            return "the address in brackets is not a lower-case IPv6 address"
        port = rest[1:] if rest.startswith(":") else None
        if rest and port is None:
            return "only :port may follow the bracket"
    else:
        host, colon, tail = value.partition(":")
        port = tail if colon else None
        if not _HOST.fullmatch(host):
            return "the host is not a lower-case DNS name or IP address"
    if port is not None and not (port.isascii() and port.isdigit() and port[0] != "0" and int(port) <= 65535):
        return "the port is not a number from 1 to 65535"
    return None


def registry_problem(value: str) -> str | None:
    """Say what is wrong with a registry name as ``spec.registry`` takes it, and what to write; None if nothing is.

    A first path component without a dot or colon is never read as a registry in an image name (distribution/reference),
    so such a name would have no effect; ``index.docker.io`` is normalised to ``docker.io`` before any lookup.
    """
    if value == "*":
        return None
    if len(value) > MAX_NAME or host_port_problem(value):
        return REGISTRY_FORM
    if value in ("index.docker.io", "index.docker.io:443"):
        return "write docker.io: images of Docker Hub are looked up under that name"
    if value != "localhost" and not re.search(r"[.:]", value):
        return (
            "write the full name with its domain or port: an image name that starts with a word without a dot or colon "
            "is read as a Docker Hub repository, not as a registry"
        )
    return None


def url_problem(value: str) -> str | None:
    """Say what is wrong with an endpoint URL and what to write; None if nothing is."""
    if len(value) > MAX_URL or not value.isascii() or not value.isprintable() or " " in value:
        return URL_FORM
    scheme, separator, rest = value.partition("://")
    if scheme not in ("http", "https") or not separator:
        return URL_FORM
    authority, slash, path = rest.partition("/")
    if host_port_problem(authority) or not _PATH.fullmatch(slash + path):
        return URL_FORM
    if any(part in (".", "..") for part in path.split("/")):
        return "write the path without . and .. segments"
    return None


def normal_url(url: str) -> str:
    """Give the URL in the one form in which two URLs are equal if the runtimes treat them as one endpoint.

    An empty path, ``/`` and ``/v2`` all mean ``/v2`` (K3s normalizeEndpointAddress; containerd hosts.go); any other
    path is kept as it stands.
    """
    parts = urlsplit(url)
    path = "/v2" if parts.path in ("", "/", "/v2") else parts.path
    return f"{parts.scheme}://{parts.netloc}{path}"


def duration_problem(value: str) -> str | None:
    """Say what is wrong with a duration, or None."""
    return None if len(value) <= 32 and _DURATION.fullmatch(value) else DURATION_FORM


def is_share(value: str) -> bool:
    """Tell whether the value is a whole share from 1% to 100%."""
    return _SHARE.fullmatch(value) is not None


def duration_seconds(value: str) -> float:
    """Give a valid duration in seconds."""
    return sum(int(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))


def rewrite_problem(pattern: str, replacement: str) -> tuple[str, str] | None:
    """Say which half of a rewrite is wrong (``pattern`` or ``replacement``) and what to write; None if neither is.

    K3s compiles patterns with Go's regexp, whose syntax is RE2's. A replacement that names a group which the pattern
    lacks silently becomes an empty string there; here it is an error.
    """
    import re2  # imported here: the agent reads models but never compiles a pattern

    # Six times as long in a YAML key, which may have 1,024 characters; no name of a repository holds one.
    for half, value in (("pattern", pattern), ("replacement", replacement)):
        if _CONTROL.search(value):
            return half, "write it without control characters and line separators"
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        text = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error.args[0])
        return "pattern", f"write a regular expression in RE2 syntax ({text})"
    if _ANY_BYTE.search(pattern):
        return "pattern", "write . instead of \\C: Go's regular expressions, which the runtimes use, lack it"
    for reference in _REFERENCE.finditer(replacement):
        name = reference[1] or reference[2]
        if name is None:
            continue
        # Go reads a name of digits as a number only without leading zeros, and only ASCII digits (regexp, extract).
        known = int(name) <= compiled.groups if _GROUP_NUMBER.fullmatch(name) else name in compiled.groupindex
        if not known:
            remedy = "write ${1}" if compiled.groups else "put parentheses around the part of the pattern to keep"
            return "replacement", f"${name} names no group of the pattern, which has {compiled.groups}: {remedy}"
    return None
