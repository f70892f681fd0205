"""The endpoints of RegistryMirrors through which nodes are going to ask for what `registry-mirror seed` copies."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from msgspec.structs import replace

from ..api.errors import InvalidError
from ..api.models import RegistryMirror, Upstream
from ..core.resolve import ResolvedEndpoint, ResolvedMirror, resolve
from ..core.seeding_places import Place
from ..seed.access import Side
from .documents import Loaded


def resolved(loaded: Loaded, names: set[str], side: Side, host: str) -> tuple[dict[str, ResolvedMirror], list[str]]:
    """Give those mirrors with their Secrets and CAs, and notes on what is missing.

    Where a Secret is not to be had, the credentials are those that the command line gives for the registry.
    """
    found: dict[str, ResolvedMirror] = {}
    notes = []
    for name in sorted(names - {""}):
        mirror = loaded.mirrors[name]
        try:
            found[name] = resolve(mirror, loaded.sources)
        except InvalidError as error:
            notes.append(f"{error.subject}: {error.detail}: --to-ca and --to-authfile stand in for it")
            with contextlib.suppress(InvalidError):
                bare, own = resolve(_without_credentials(mirror), loaded.sources), side.credentials(host)
                found[name] = replace(bare, endpoints=tuple(replace(item, credentials=own) for item in bare.endpoints))
    return found, notes


def _without_credentials(mirror: RegistryMirror) -> RegistryMirror:
    endpoints = tuple(replace(item, credentials_ref=None) for item in mirror.spec.endpoints)
    return replace(mirror, spec=replace(mirror.spec, endpoints=endpoints, upstream=Upstream()))


def endpoint(mirrors: Mapping[str, ResolvedMirror], place: Place, side: Side) -> ResolvedEndpoint:
    """Give the endpoint of a place; where its object could not be resolved, what the command line says of it."""
    mirror = mirrors.get(place.mirror)
    for item in mirror.endpoints if mirror is not None else ():
        if item.url == place.endpoint:
            return item
    return ResolvedEndpoint(url=place.endpoint, tls=side.tls(), credentials=side.credentials(place.host))


def by_path(asked: Mapping[Place, ResolvedEndpoint]) -> dict[str, ResolvedEndpoint]:
    """Give the endpoints by host and path: projects of one registry often have credentials of their own."""
    return {
        f"{place.host}/{place.repository.removesuffix(place.asked)}".rstrip("/"): item
        for place, item in asked.items()
        if place.mirror
    }
