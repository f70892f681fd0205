"""Which images a registry is to be filled with: their names, and what their manifests say, as far as it is pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ..api.images import parse_image

# distribution/manifest (schema2, manifestlist) and the OCI image specification.
INDEX_TYPES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
OCI_TYPES = {"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"}
_KNOWN_TYPES = INDEX_TYPES | OCI_TYPES | {"application/vnd.docker.distribution.manifest.v2+json"}
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_MAX_DEPTH = 64


class Reference(Struct, frozen=True, order=True):
    """An image as a node asks for it, with its registry written out; without a tag, it has a digest."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The full name, such as ``docker.io/library/busybox:1.37``."""
        return f"{self.registry}/{self.repository}{suffix(self.tag, self.digest)}"

    def __str__(self) -> str:
        return self.name


class Blob(Struct, frozen=True):
    """Something that a manifest names: by digest, with its size."""

    digest: str
    size: int


class Instance(Struct, frozen=True):
    """The image of one platform in an index; ``platform`` is ``os/architecture[/variant]``."""

    digest: str
    size: int
    media_type: str
    platform: str


class Manifest(Struct, frozen=True):
    """A manifest or an index, with the bytes that its digest is of."""

    raw: bytes
    media_type: str
    blobs: tuple[Blob, ...] = ()
    instances: tuple[Instance, ...] = ()

    @property
    def digest(self) -> str:
        """The digest by which a registry has it."""
        return f"sha256:{hashlib.sha256(self.raw).hexdigest()}"

    @property
    def is_oci(self) -> bool:
        """Whether it and all that it names are of OCI's kinds, of which alone skopeo writes OCI layouts."""
        return {self.media_type, *(item.media_type for item in self.instances)} <= OCI_TYPES


def suffix(tag: str, digest: str) -> str:
    """Give what follows the name of a repository."""
    return f"{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"


def reference(text: str) -> Reference | None:
    """Read the name of an image as Kubernetes does; None if it is none.

    The first part is a registry if it has a dot or a colon or is ``localhost``, else it belongs to Docker Hub, whose
    images without a slash are in ``library`` (distribution/reference, normalize.go).
    """
    first, slash, rest = text.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = "docker.io", text
    if first == "index.docker.io":
        first = "docker.io"
    if first == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    image = parse_image(f"{first}/{rest}")
    if image is None:
        return None
    named, _, digest = rest.partition("@")
    tag = named.removeprefix(image.repository).removeprefix(":")
    return Reference(image.registry, image.repository, tag or ("" if digest else "latest"), digest)


def listed(text: str) -> Iterator[tuple[int, str]]:
    """Give the entries of a list of images, with their lines: one a line; ``#`` begins a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if entry:
            yield number, entry


def images_of(document: Any, depth: int = 0) -> Iterator[str]:
    """Give the images that an object's Pods run: of all containers, and of volumes that are images.

    It looks wherever a Pod's template may stand, so that kinds which nobody here knows are understood too.
    """
    if depth > _MAX_DEPTH:
        return
    if isinstance(document, list):
        for item in document:
            yield from images_of(item, depth + 1)
    elif isinstance(document, Mapping):
        for key, value in document.items():
            if key in _CONTAINERS and isinstance(value, list):
                yield from _texts(item.get("image") for item in value if isinstance(item, Mapping))
            elif key == "volumes" and isinstance(value, list):
                images = (item.get("image") for item in value if isinstance(item, Mapping))
                yield from _texts(image.get("reference") for image in images if isinstance(image, Mapping))
            else:
                yield from images_of(value, depth + 1)


def _texts(values: Iterable[Any]) -> Iterator[str]:
    return (value for value in values if isinstance(value, str) and value)


def manifest(raw: bytes) -> Manifest:
    """Read a manifest or an index as a registry gives it. Raises ValueError, with what it is instead."""
    try:
        body = msgspec.json.decode(raw)
        return _manifest(raw, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError, KeyError, TypeError):
        raise ValueError("what the registry gives for it is no manifest") from None


def _manifest(raw: bytes, body: dict[str, Any]) -> Manifest:
    kind = body.get("mediaType") or _guessed(body)
    if kind not in _KNOWN_TYPES:
        shown = kind or f"schema version {body.get('schemaVersion')!r}"
        raise ValueError(f"its manifest is of a kind that cannot be copied by digest ({shown[:100]})")
    if kind in INDEX_TYPES:
        return Manifest(raw, kind, instances=tuple(_instance(item) for item in body["manifests"]))
    parts = [body["config"], *body["layers"]]
    blobs = tuple(Blob(_digest(item), _size(item)) for item in parts if not item.get("urls"))
    return Manifest(raw, kind, blobs)


def _guessed(body: Mapping[str, Any]) -> str:
    """OCI's kinds may leave mediaType out (image specification 1.0)."""
    if body.get("schemaVersion") != 2:
        return ""
    word = "index" if "manifests" in body else "manifest"
    return f"application/vnd.oci.image.{word}.v1+json"


def _instance(item: Mapping[str, Any]) -> Instance:
    platform = item.get("platform") or {}
    parts = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
    shown = "/".join(str(part) for part in parts if part)
    return Instance(_digest(item), _size(item), str(item.get("mediaType", "")), shown)


def _digest(item: Mapping[str, Any]) -> str:
    """Give what a descriptor names; whoever wrote it, it becomes the name of a file."""
    if not DIGEST.fullmatch(item["digest"]):
        raise TypeError
    return str(item["digest"])


def _size(item: Mapping[str, Any]) -> int:
    size = item["size"]
    if not isinstance(size, int) or size < 0:
        raise TypeError
    return size


def reduced(found: Manifest, platforms: Sequence[str]) -> Manifest:
    """Give an index with those platforms only; its digest is another one unless it had no others.

    ``linux/arm64`` stands for every variant of it. What is no index is given as it is. Raises ValueError if a platform
    is missing.
    """
    if not platforms or not found.instances:
        return found
    body = msgspec.json.decode(found.raw)
    kept = [
        (raw, item)
        for raw, item in zip(body["manifests"], found.instances, strict=True)
        if any(_is(item.platform, platform) for platform in platforms)
    ]
    missing = [name for name in platforms if not any(_is(item.platform, name) for _, item in kept)]
    if missing:
        has = ", ".join(sorted({item.platform for item in found.instances if "unknown" not in item.platform}))
        raise ValueError(f"it has no {' and no '.join(missing)}: it has {has or 'none'}")
    if len(kept) == len(found.instances):
        return found
    raw = msgspec.json.encode({**body, "manifests": [item for item, _ in kept]})
    return Manifest(raw, found.media_type, instances=tuple(item for _, item in kept))


def _is(platform: str, wanted: str) -> bool:
    return platform == wanted or platform.startswith(f"{wanted}/")
