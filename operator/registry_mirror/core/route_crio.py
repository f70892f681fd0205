"""Registries of CRI-O: registries.conf and registries.conf.d (containers-registries.conf(5), containers/image v5).

Each [[registry]] is for a prefix of names, of which the longest counts; a later file replaces that of the same prefix.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from ..api.images import Image
from .route import Host, Route, is_digest, itself

_WHEN = {"all", "digest-only", "tag-only"}


def registries(files: Iterable[tuple[str, str]], image: Image) -> Route:
    """Give the hosts for an image. Takes the files (path and text) in the order in which they are read.

    The TLS files of a host lie in certs.d directories, and are left to the caller.
    """
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    used = []
    for file, text in files:
        used.append(file)
        try:
            entries = tomllib.loads(text).get("registry", [])
        except (ValueError, RecursionError):
            return Route(files=tuple(used), failure=f"{file}: it is not valid TOML, and CRI-O pulls nothing: mend it")
        for entry in entries if isinstance(entries, list) else []:
            prefix = str(entry.get("prefix") or entry.get("location") or "")
            found[prefix] = (file, entry)
    name = f"{image.registry}/{image.repository}"
    prefixes = sorted((prefix for prefix in found if _matches(prefix, name)), key=len)
    if not prefixes:
        return Route(hosts=(_plain(itself(image.registry)),), files=tuple(used))
    file, entry = found[prefixes[-1]]
    if entry.get("blocked") is True:
        return Route(files=(file,), failure=f"{file}: {prefixes[-1]} is blocked there")
    return Route(hosts=tuple(_hosts(file, prefixes[-1], entry, image)), files=(file,))


def _matches(prefix: str, name: str) -> bool:
    """Tell whether a prefix is one of a name; ``*.example.com`` stands for all hosts below it."""
    if prefix.startswith("*."):
        host, _, _ = name.partition("/")
        return host.partition(":")[0].endswith(prefix[1:])
    return name == prefix or (name.startswith(prefix) and name[len(prefix)] in "/:@")


def _hosts(file: str, prefix: str, entry: Mapping[str, Any], image: Image) -> Iterable[Host]:
    digest_only = entry.get("mirror-by-digest-only") is True
    for mirror in entry.get("mirror") or ():
        location = str(mirror.get("location") or "")
        when = mirror.get("pull-from-mirror") or ("digest-only" if digest_only else "all")
        asked = when in _WHEN and when != ("tag-only" if is_digest(image.reference) else "digest-only")
        found = _at(location, prefix, image, f"{file}: mirror {location}", mirror.get("insecure") is True)
        yield found if asked else replace(found, pull=False)
    own = str(entry.get("location") or "")
    origin = f"{file}: location" if own else "the registry itself"
    yield _at(own or prefix, prefix, image, origin, entry.get("insecure") is True)


def _at(location: str, prefix: str, image: Image, origin: str, insecure: bool) -> Host:
    """Put a location in the place of the prefix of the image's name."""
    name = f"{image.registry}/{image.repository}"
    whole = name if prefix.startswith("*.") and location == prefix else location + name[len(prefix) :]
    host, _, repository = whole.partition("/")
    return Host(
        scheme="https",
        host="registry-1.docker.io" if host == "docker.io" else host,
        origin=origin,
        repository=repository,
        namespace=False,
        skip_verify=True if insecure else None,
        https_first=insecure,
    )


def _plain(host: Host) -> Host:
    """The registry itself, which CRI-O never asks over HTTP unless it is told to."""
    return Host(scheme="https", host=host.host, origin=host.origin, namespace=False)
