"""From what is on a node to the hosts that its runtime would ask for an image, in their order: what the parts share."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from ..api import grammar
from ..api.images import Image
from ..api.models import Rewrite
from .material import Credentials
from .seeding import reference
from .upstream import default_host, default_url, has_port, is_local

IMAGE_FORM = "write an image such as docker.io/library/busybox:1.37, registry.example.com/team/app@sha256:… or busybox"


class Host(Struct, frozen=True, kw_only=True):
    """A host that the runtime would ask; ``path`` is what stands before the repository.

    ``origin`` says where this comes from. A tag takes ``pull`` and ``resolve``, a digest ``pull``. ``ca`` and
    ``client`` are paths on the node; ``https_first``: HTTPS is tried, and plain HTTP where it is not spoken.
    ``namespace``: the registry of the image is told by ``?ns=``. ``repository`` stands in the place of the image's own,
    where that is not empty.
    """

    scheme: str
    host: str
    path: str = "/v2"
    origin: str = ""
    pull: bool = True
    resolve: bool = True
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool | None = None
    headers: tuple[tuple[str, str], ...] = ()
    dial_timeout: float | None = None
    https_first: bool = False
    credentials: Credentials | None = None
    rewrites: tuple[Rewrite, ...] = ()
    repository: str = ""
    namespace: bool = True

    def __repr__(self) -> str:
        return f"Host({self.url})"

    @property
    def url(self) -> str:
        """Where it is, without the image."""
        return f"{self.scheme}://{self.host}{'' if self.path == '/' else self.path}"

    def serves(self, reference: str) -> bool:
        """Tell whether it is asked for a tag or digest at all."""
        return self.pull and (self.resolve or is_digest(reference))

    def request(self, image: Image, reference: str = "") -> str:
        """Give the URL that is asked for the manifest of an image, or of another tag or digest of its repository."""
        repository = _rewritten(self.rewrites, self.repository or image.repository)
        path = posixpath.normpath(f"/{self.path}/{repository}/manifests/{reference or image.reference}")
        own = self.host in (image.registry, default_host(image.registry)) or not self.namespace
        query = "" if own else f"?{urlencode({'ns': image.registry})}"
        return f"{self.scheme}://{self.host}/{path.lstrip('/')}{query}"


class Route(Struct, frozen=True, kw_only=True):
    """The hosts in their order, the files that say so, and what in these is not as it seems.

    With ``failure``, the runtime asks nobody: that is why.
    """

    hosts: tuple[Host, ...] = ()
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    failure: str = ""


class Rules(Struct, frozen=True, kw_only=True):
    """In what the readers differ: ``old`` is containerd 1.x; the fork is that of K3s and RKE2."""

    old: bool = False
    fork: bool = False
    dial_timeout: bool = True
    default_directory: bool = True
    https_first: bool = True
    override_path: bool = True


def image_of(text: str) -> Image | None:
    """Read the name of an image as Kubernetes does; None if it is none. With a digest, the tag does not count."""
    found = reference(text)
    if found is None:
        return None
    return Image(registry=found.registry, repository=found.repository, reference=found.digest or found.tag)


def name_of(image: Image) -> str:
    """Give an image's whole name."""
    return f"{image.registry}/{image.repository}{'@' if is_digest(image.reference) else ':'}{image.reference}"


def is_digest(reference: str) -> bool:
    """Tell whether a reference is a digest rather than a tag."""
    return ":" in reference


def directories(registry: str, rules: Rules) -> tuple[str, ...]:
    """Give the names of directories that are looked for; the first one that is there counts (config_unix.go)."""
    host, _, port = registry.rpartition(":")
    escaped = (f"{host}_{port}_",) if has_port(registry) else ()
    return (*escaped, registry, *(("_default",) if rules.default_directory else ()))


def itself(registry: str, settings: Host | None = None) -> Host:
    """Give the registry itself, with the TLS settings, headers and origin of ``settings``."""
    scheme, _, rest = default_url(registry).partition("://")
    base = settings or Host(scheme=scheme, host="")
    local = is_local(registry) and rest.removesuffix("/v2").rpartition(":")[2] != "80"
    return replace(
        base,
        scheme=scheme,
        host=rest.removesuffix("/v2"),
        path="/v2",
        origin=base.origin or "the registry itself",
        pull=True,
        resolve=True,
        skip_verify=True if local else base.skip_verify,
    )


def plain_with_tls(host: Host, rules: Rules) -> Host:
    """HTTP with any TLS setting means HTTPS first, but on port 80 (hosts.go, NewHTTPFallback; since 1.6.25/1.7.7)."""
    said = bool(host.ca or host.client) or host.skip_verify is not None
    first = rules.https_first and host.scheme == "http" and said and urlsplit(host.url).port != 80
    return replace(host, scheme="https", https_first=True) if first else host


def table(value: Any, key: str) -> Mapping[str, Any]:
    """Give a table of a document, empty if it is not there or something else."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def rewrites(entry: Mapping[str, Any]) -> tuple[Rewrite, ...]:
    """Those that the fork of K3s and RKE2 can use."""
    items = table(entry, "rewrite").items()
    return tuple(
        Rewrite(pattern=key, replacement=value)
        for key, value in items
        if isinstance(value, str) and grammar.rewrite_problem(key, value) is None
    )


def _rewritten(rewrites: Sequence[Rewrite], repository: str) -> str:
    if not rewrites:
        return repository
    from .seeding_places import rewritten  # only where there are rewrites

    return rewritten(repository, rewrites)
