"""Where `registry-mirror seed` has its images from: arguments, lists, manifests, and a cluster; and its mirrors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..api.errors import FieldError, InvalidError
from ..core.seeding import Reference, images_of, listed, reference
from ..kube.resources import CONFIG_MAPS, MIRRORS, PODS, SECRETS, SYSTEM_NAMESPACE, Resource
from .reading import shown, text_of, yaml_of

if TYPE_CHECKING:
    from ..kube.client import Api
    from .documents import Loaded

_WORKLOADS = (
    *(Resource("apps", "v1", f"{kind.lower()}s", kind) for kind in ("Deployment", "StatefulSet", "DaemonSet")),
    *(Resource("batch", "v1", f"{kind.lower()}s", kind) for kind in ("CronJob", "Job")),
    Resource("", "v1", "replicationcontrollers", "ReplicationController"),
)
_FORM = "write a name such as docker.io/library/busybox:1.37, or one with a digest (@sha256:…)"


def given(images: tuple[str, ...], lists: tuple[str, ...], manifests: tuple[str, ...]) -> set[Reference]:
    """Give the images of the command line, of lists, and of Kubernetes manifests. Raises InvalidError."""
    found = {_read("the command line", "", text) for text in images}
    for name in lists:
        found |= {_read(shown(name), f"line {number}", text) for number, text in listed(text_of(name))}
    for name in manifests:
        # Strings only where an image could stand: a chart may have dates, and tags that no loader knows.
        for document in yaml_of(name, strings=True):
            found |= {_read(shown(name), _named(document), text) for text in images_of(document)}
    return found


def _read(subject: str, where: str, text: str) -> Reference:
    found = reference(text)
    if found is None:
        raise InvalidError(subject, (FieldError(where, repr(text[:200]), _FORM),))
    return found


def _named(document: Any) -> str:
    from ..api.parse import subject_of

    return subject_of(document) if isinstance(document, dict) else ""


async def from_cluster(api: Api) -> tuple[set[Reference], list[str]]:
    """Give the images of all Pods and of what makes Pods, and notes on what could not be read. Raises ProblemError."""
    from ..kube.errors import ApiError
    from .cluster import explained

    found: set[Reference] = set()
    notes = []
    for resource in (PODS, *_WORKLOADS):
        try:
            items, _ = await api.list(resource)
        except ApiError as error:
            if resource is PODS or error.status not in (403, 404):
                raise explained(error, resource) from None
            notes.append(f"{resource.plural} cannot be read, so their images are left out: {error.message}")
            continue
        for item in items:
            metadata = item.get("metadata") or {}
            for text in images_of(item.get("spec")):
                image = reference(text)
                if image is None:
                    owner = f"{resource.kind} {metadata.get('namespace')}/{metadata.get('name')}"
                    notes.append(f"{owner}: {text[:200]} is no image: it is left out")
                else:
                    found.add(image)
    return found, sorted(set(notes))


async def mirrors_of(api: Api) -> tuple[Loaded, list[str]]:
    """Give the RegistryMirrors of the cluster with what they refer to, and notes on what may not be read.

    Raises ProblemError.
    """
    from ..api import parse
    from ..core.resolve import references, source
    from ..kube.errors import ApiError
    from .cluster import explained
    from .documents import Loaded

    loaded, notes = Loaded(), []
    try:
        items, _ = await api.list(MIRRORS)
    except ApiError as error:
        raise explained(error, MIRRORS) from None
    for item in items:
        try:
            mirror = parse.registry_mirror(item)
        except InvalidError as error:
            notes.append(f"{error.subject} is not in order, and left out: {error.detail}")
            continue
        loaded.mirrors[mirror.metadata.name], loaded.origin[mirror.metadata.name] = mirror, "cluster"
    for kind, name in sorted({item for mirror in loaded.mirrors.values() for item in references(mirror)}):
        try:
            body = await api.get(SECRETS if kind == "Secret" else CONFIG_MAPS, name, SYSTEM_NAMESPACE)
            if body is not None:
                loaded.sources[kind, name] = source({"kind": kind, **body})
        except ApiError as error:
            if error.status != 403:
                raise
            notes.append(
                f"{kind} {SYSTEM_NAMESPACE}/{name} may not be read: give its content by --to-ca, --to-authfile"
            )
    return loaded, notes
