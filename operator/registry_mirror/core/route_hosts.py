"""A directory of certs.d as containerd reads it, errors included.

What it takes for invalid it ignores, and asks the registry itself (runtimes.md, trap 1). Sources: containerd 2.4.2
core/remotes/docker/config/hosts.go; 1.7.29 remotes/docker/config/hosts.go.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec.structs import replace

from .route import Host, Route, Rules, itself, plain_with_tls, rewrites

_WORDS = ("pull", "resolve", "push", "referrers")
_KEYS = {"capabilities": list, "skip_verify": bool, "override_path": bool, "dial_timeout": str, "header": dict}
_BAD_URL = re.compile(r"[\x00-\x20\x7f]|%(?![0-9A-Fa-f]{2})")
# time.ParseDuration of Go.
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+|0")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Ignored(Exception):
    """The file is none for containerd; the text says why."""


def hosts_toml(file: str, text: str, names: Sequence[str], registry: str, rules: Rules) -> Route:
    """Give what a hosts.toml says. Takes its path, its text, and what else is in its directory."""
    folder = posixpath.dirname(file)
    try:
        hosts = _parsed(file, text, registry, rules)
    except _Ignored as error:
        found = certificates(folder, names, registry, rules)
        return replace(found, warnings=(f"{file}: containerd ignores this file, {error}", *found.warnings))
    warnings = tuple(
        f"{host.origin}: nothing is pulled from there: its capabilities lack pull" for host in hosts if not host.pull
    )
    return Route(hosts=tuple(plain_with_tls(item, rules) for item in hosts), files=(file,), warnings=warnings)


def certificates(folder: str, names: Sequence[str], registry: str, rules: Rules) -> Route:
    """Give the registry itself, with the certificates that are in a directory as Docker has them (loadCertFiles)."""
    ca = tuple(f"{folder}/{name}" for name in names if name.endswith(".crt"))
    pairs = []
    for name in names:
        if name.endswith(".cert"):
            key = f"{name.removesuffix('.cert')}.key"
            pairs.append((f"{folder}/{name}", f"{folder}/{key if key in names else name}"))
    used = Host(scheme="", host="", ca=ca, client=tuple(pairs), origin=f"{folder}: the registry itself")
    return Route(hosts=(plain_with_tls(itself(registry, used), rules),), files=(folder,))


def _parsed(file: str, text: str, registry: str, rules: Rules) -> list[Host]:
    try:
        root = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        place = re.search(r"\((at line \d+, column \d+|at end of document)\)", str(error))
        raise _Ignored(f"it is not valid TOML{f' {place[1]}' if place else ''}") from None
    tables = root.get("host", {})
    if not isinstance(tables, dict) or ("host" not in root and rules.old):
        # Fixed in 1.7.32; where only the later versions read it, nothing is lost by the line.
        raise _Ignored("because containerd 1.x wants a line [host] in it")
    server = root.get("server", "")
    if not isinstance(server, str):
        raise _Ignored("because server is not text")
    names = list(tables) if rules.old else _ordered(text, tables)
    if rules.old and any("]" in name for name in names):
        raise _Ignored("because containerd 1.x cannot read an IPv6 address as the name of a table")
    hosts = []
    for name in names:
        table = tables[name]
        if not isinstance(table, dict):
            raise _Ignored(f"because host.{name[:100]!r} is no table")
        hosts.append(_host(f'{file}: [host."{_shown(name)}"]', name, table, file, rules))
    own = _host(f"{file}: server", server, {key: value for key, value in root.items() if key != "host"}, file, rules)
    if server and own.host:
        return [*hosts, own]
    if rules.fork and hosts:
        return hosts
    return [*hosts, itself(registry, replace(own, origin=f"{file}: the registry itself, as there is no server"))]


def _ordered(text: str, tables: Mapping[str, Any]) -> list[str]:
    """Give the hosts as containerd 2.x lists them: by the lines that begin a table (getSortedHosts).

    A host whose tables stand apart is listed twice, and one without such a line not at all.
    """
    found: list[str] = []
    last = ""
    for line in text.splitlines():
        if not line.lstrip().startswith("[") or line.lstrip().startswith("[["):
            continue
        try:
            below = tomllib.loads(line).get("host")
        except (ValueError, RecursionError):
            continue
        name = next(iter(below), "") if isinstance(below, dict) else ""
        if name and name != last and name in tables:
            found.append(name)
            last = name
    return found


def _host(origin: str, url: str, table: Mapping[str, Any], file: str, rules: Rules) -> Host:
    """Read a host, or the root of the file (parseHostConfig). Raises _Ignored."""
    for key, kind in _KEYS.items():
        if key in table and not isinstance(table[key], kind):
            raise _Ignored(f"because {key} of {_shown(url) or 'server'} is of the wrong type")
    override = rules.override_path and table.get("override_path") is True
    scheme, host, path = _location(url, override) if url else ("", "", "")
    known = _WORDS[:3] if rules.old else _WORDS
    words = [str(word).lower() for word in table.get("capabilities", ())] or known
    if any(word not in known for word in words):
        raise _Ignored(f"because of an unknown capability of {_shown(url) or 'server'}")
    return Host(
        scheme=scheme,
        host=host,
        path=path,
        origin=origin,
        pull="pull" in words,
        resolve="resolve" in words,
        ca=_paths(table.get("ca"), file),
        client=_pairs(table.get("client"), file),
        skip_verify=table.get("skip_verify"),
        headers=tuple(_headers(table.get("header", {}))),
        dial_timeout=_duration(table.get("dial_timeout", "")) if rules.dial_timeout else None,
        rewrites=rewrites(table) if rules.fork else (),
    )


def _location(url: str, override: bool) -> tuple[str, str, str]:
    """Give scheme, host and path of a URL."""
    full = url if url.startswith("http") else f"https://{url}"
    try:
        parts = urlsplit(full)
        valid = not _BAD_URL.search(full) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise _Ignored(f"because {_shown(url)} is no URL")
    path = re.sub("^/+", "/", posixpath.normpath(unquote(parts.path))) if parts.path else ""
    if not override and not path.endswith("/v2"):
        path += "/v2"
    return parts.scheme, parts.netloc.rpartition("@")[2], re.sub("^/+", "/", path)


def _shown(url: str) -> str:
    """A URL in a message: before an @, and behind a question mark, there may be a secret."""
    scheme, separator, rest = url[:200].partition("?")[0].partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else scheme.rpartition("@")[2]


def _paths(value: Any, file: str) -> tuple[str, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise _Ignored("because ca is neither a path nor a list of paths")
    return tuple(posixpath.join(posixpath.dirname(file), item) for item in items)


def _pairs(value: Any, file: str) -> tuple[tuple[str, str], ...]:
    """Text, [text] or [[certificate, key]]; a text names one file with both."""
    if value is None:
        return ()
    found = []
    for item in [value] if isinstance(value, str) else value if isinstance(value, list) else [0]:
        pair = [item, item] if isinstance(item, str) else item
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise _Ignored("because client is neither a path nor pairs of certificate and key")
        certificate, key = (posixpath.join(posixpath.dirname(file), part) for part in pair)
        found.append((certificate, key if pair[1] else certificate))
    return tuple(found)


def _headers(table: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in table.items():
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise _Ignored("because a header is neither text nor a list of texts")
        yield from ((name, item) for item in values)


def _duration(text: str) -> float | None:
    if not text:
        return None
    plain = text.lstrip("+-") if text[:1] in "+-" else text
    if not _DURATION.fullmatch(plain):
        raise _Ignored("because dial_timeout is no duration")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(plain))
