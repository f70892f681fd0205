"""Where in the private registry an image has to be, so that nodes find it there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from ..api import grammar
from ..api.images import parse_image
from ..api.models import Endpoint, RegistryMirror, Rewrite
from .seeding import Reference, suffix

# Go's regexp.Expand (regexp/regexp.go, func extract).
_GROUP = re.compile(r"\$(?:\$|\{(\w+)\}|(\w+))")


class Destination(Struct, frozen=True, order=True):
    """A registry's host, and where below it images go; ``prefix`` is empty or without slashes at its ends."""

    host: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{self.host}/{self.prefix}" if self.prefix else self.host


class Place(Struct, frozen=True):
    """An image, and where it goes. With ``mirror``, the object and the endpoint by which nodes ask for it there, and
    the name of the repository in that question.
    """

    image: Reference
    host: str
    repository: str
    tag: str = ""
    digest: str = ""
    mirror: str = ""
    endpoint: str = ""
    asked: str = ""

    @property
    def target(self) -> str:
        """The name there, such as ``registry.example.com:5000/library/busybox:1.37``."""
        return f"{self.host}/{self.repository}{suffix(self.tag, self.digest)}"


class Misplaced(Exception):
    """An image has no place, or two images have one; the message says which, and what to do."""


def destination(text: str) -> Destination:
    """Read ``host[:port][/prefix]``. Raises ValueError with what to write instead."""
    host, _, prefix = text.partition("/")
    prefix = prefix.rstrip("/")
    if "://" in text:
        raise ValueError("write it without http:// or https://; for a registry without TLS, add --to-plain-http")
    if host == "*" or grammar.registry_problem(host):
        raise ValueError("write host[:port] or host[:port]/path, in lower case, the host with its domain or port")
    if prefix and not _is_repository(prefix):
        raise ValueError("the path is no part of a repository's name: write words in lower case with / between them")
    return Destination(host, prefix)


def _is_repository(path: str) -> bool:
    return parse_image(f"registry.invalid/{path}") is not None and ":" not in path and "@" not in path


def plain(image: Reference, to: Destination) -> Place:
    """Give the place of an image where no object says anything: below the prefix, without the name of its registry."""
    repository = f"{to.prefix}/{image.repository}" if to.prefix else image.repository
    return _placed(image, to.host, repository)


def _placed(image: Reference, host: str, repository: str, **more: str) -> Place:
    # The name that a tag gives is what nodes ask for. One by digest alone has no other.
    return Place(image, host, repository, image.tag, "" if image.tag else image.digest, **more)


def mirrored(image: Reference, to: Destination, mirrors: Iterable[RegistryMirror]) -> Place:
    """Give the place in which nodes look for an image at that host, by the RegistryMirror of its registry or ``"*"``.

    Takes all objects; of several for a registry, the one that takes precedence and has an endpoint there counts.
    Raises Misplaced.
    """
    every = sorted(mirrors, key=_precedence)
    own = [item for item in every if item.spec.registry == image.registry]
    candidates = own or [item for item in every if item.spec.registry == "*"]
    if not candidates:
        raise Misplaced(f'{image}: there is no RegistryMirror of {image.registry}, and none of "*"')
    places = [place for mirror in candidates for place in _places(image, to, mirror)]
    if not places:
        names = ", ".join(item.metadata.name for item in candidates)
        raise Misplaced(f"{image}: no endpoint of RegistryMirror {names} is at {to.host}, so nodes look elsewhere")
    found = [item for item in places if not to.prefix or item.repository.startswith(f"{to.prefix}/")]
    if not found:
        raise Misplaced(
            f"{image}: by RegistryMirror {places[0].mirror}, nodes look for it at {places[0].target}, which is not "
            f"below {to}: leave the path out of --to"
        )
    return found[0]


def _precedence(mirror: RegistryMirror) -> tuple[int, str, str]:
    """As core.select.precedence."""
    return -mirror.spec.priority, mirror.metadata.creation_timestamp, mirror.metadata.name


def _places(image: Reference, to: Destination, mirror: RegistryMirror) -> Iterator[Place]:
    for endpoint in mirror.spec.endpoints:
        if urlsplit(endpoint.url).netloc != to.host:
            continue
        asked = rewritten(image.repository, mirror.spec.rewrites)
        path = _base(endpoint, image)
        repository = f"{path}/{asked}" if path else asked
        if not _is_repository(repository):
            raise Misplaced(
                f"{image}: by RegistryMirror {mirror.metadata.name}, nodes ask for {repository}, which is no name"
            )
        yield _placed(image, to.host, repository, mirror=mirror.metadata.name, endpoint=endpoint.url, asked=asked)


def _base(endpoint: Endpoint, image: Reference) -> str:
    """The part of an endpoint's path that names a repository: what is below /v2."""
    path = urlsplit(grammar.normal_url(endpoint.url)).path.strip("/")
    first, _, rest = path.partition("/")
    if first != "v2":
        raise Misplaced(f"{image}: the path of {endpoint.url} does not begin with /v2, where nothing can be pushed")
    return rest


def rewritten(repository: str, rewrites: Sequence[Rewrite]) -> str:
    """Give the name that nodes ask for, as K3s's containerd makes it: by the first pattern that changes it (its fork's
    core/remotes/docker/resolver.go; Go's ReplaceAllString).
    """
    for item in rewrites:
        found = _replaced(item, repository)
        if found != repository:
            return found
    return repository


def _replaced(item: Rewrite, text: str) -> str:
    import re2  # it takes a while, and most mirrors rewrite nothing

    parts, at, last = [], 0, -1
    for match in re2.compile(item.pattern).finditer(text):
        # Go takes no empty match right behind another one.
        if match.start() == match.end() == last:
            continue
        parts += [text[at : match.start()], _expanded(item.replacement, match)]
        at = last = match.end()
    return "".join([*parts, text[at:]])


def _expanded(template: str, match: Any) -> str:
    """Fill in $1, ${1}, $name and $$ as Go's regexp.Expand does; that the groups exist is known (api.grammar)."""

    def group(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name is None:
            return "$"
        return match.group(int(name) if name.isdigit() else name) or ""

    return _GROUP.sub(group, template)


def settled(places: Iterable[Place], digests: Mapping[Reference, str]) -> tuple[Place, ...]:
    """Give each image its final place, ordered by name: where two would be at one, those with a digest in their name
    go by it. Takes the digests of the images, by image; those without are left out. Raises Misplaced with all others.
    """
    groups: dict[str, list[Place]] = {}
    for place in places:
        if place.image in digests:
            groups.setdefault(place.target, []).append(place)
    kept, clashes = [], []
    for target, group in sorted(groups.items()):
        if len({digests[place.image] for place in group}) > 1:
            pinned = [place for place in group if place.image.digest]
            group = [place for place in group if not place.image.digest]
            kept += [replace(place, tag="", digest=place.image.digest) for place in pinned]
        if len({digests[place.image] for place in group}) > 1:
            names = " and ".join(sorted(place.image.name for place in group))
            clashes.append(f"{names} are different images, and both would be {target}")
        kept += group
    if clashes:
        raise Misplaced("\n".join(clashes))
    return tuple(sorted(kept, key=lambda place: (place.image, place.target)))
