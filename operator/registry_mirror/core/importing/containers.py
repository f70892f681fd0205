"""registries.conf of CRI-O, podman and skopeo (containers-registries.conf(5), version 2)."""

from __future__ import annotations

from ...api.models import Capability
from .draft import TLS, Draft, Drafts, Endpoint, checked_url, known_registry, unknown_keys, wrong
from .reading import Table, read_toml

_MIRROR_KEYS = ("location", "insecure", "pull-from-mirror")
_REGISTRY_KEYS = ("prefix", "location", "insecure", "blocked", "mirror", "mirror-by-digest-only")
_PLAIN = "insecure is read as https without verification; if it speaks plain HTTP, write http:// and no tls"


def registries_conf(subject: str, text: str) -> Drafts:
    """Give drafts for a registries.conf; raises InvalidError, also for version 1."""
    root = read_toml(subject, text)
    if root.is_table("registries"):
        raise wrong(
            subject, "registries", "version 1 of the format", "convert it to version 2, with [[registry]] tables"
        )
    result = Drafts()
    if "unqualified-search-registries" in root:
        text = "left out, Kubernetes reads a name without a registry as one of docker.io"
        result.notes.append(f"unqualified-search-registries: {text}")
    known = ("registry", "unqualified-search-registries")
    unknown_keys(iter(root), known, "", result.notes)
    for entry in root.tables("registry"):
        _registry(entry, result)
    return result


def _registry(entry: Table, result: Drafts) -> None:
    unknown_keys(iter(entry), _REGISTRY_KEYS, f"{entry.path}.", result.notes)
    location = entry.text("location")
    prefix = entry.text("prefix") or location
    if not prefix:
        raise entry.wrong("location", "write a prefix or a location")
    if "/" in prefix or prefix.startswith("*."):
        result.notes.append(f"{entry.path}: {prefix} left out, an object stands for a whole registry, not for a part")
        return
    if entry.flag("blocked"):
        result.notes.append(f"{entry.path}: {prefix} left out, a registry cannot be blocked by an object")
        return
    if not known_registry(entry.subject, f"{entry.path}.prefix", prefix, result.notes):
        return
    draft = Draft(prefix, f"{entry.subject}: {entry.path}")
    digest_only = entry.flag("mirror-by-digest-only")
    for mirror in entry.tables("mirror"):
        unknown_keys(iter(mirror), _MIRROR_KEYS, f"{mirror.path}.", draft.notes)
        when = mirror.text("pull-from-mirror") or ("digest-only" if digest_only else "all")
        if when not in ("all", "digest-only", "tag-only"):
            raise mirror.wrong("pull-from-mirror", "write all, digest-only or tag-only")
        if when == "tag-only":
            draft.notes.append(f"{mirror.path}: it is used for digests too, tag-only cannot be expressed")
        _add(draft, mirror, ("Pull",) if when == "digest-only" else ("Pull", "Resolve"))
    if location and location != prefix:
        _add(draft, entry, ("Pull", "Resolve"))
        draft.deny = True
    elif entry.flag("insecure"):
        draft.notes.append(f"{entry.path}: {_PLAIN}")
        draft.tls = TLS(skip_verify=True)
    if draft.endpoints or draft.tls:
        result.items.append(draft)
    else:
        result.notes.append(f"{entry.path}: {prefix} left out, it says nothing but what holds without it")


def _add(draft: Draft, entry: Table, capabilities: tuple[Capability, ...]) -> None:
    """Add a location, which stands for host and path in an image's name, as the URL that is asked for it."""
    location = entry.text("location")
    if not location:
        raise entry.wrong("location", "write where the mirror is")
    host, _, path = location.partition("/")
    path = path.strip("/")
    url = checked_url(entry.subject, entry.where("location"), f"https://{host}{f'/v2/{path}' if path else ''}")
    if any(item.url == url for item in draft.endpoints):
        draft.notes.append(f"{entry.path}: left out, an earlier mirror is the same")
        return
    endpoint = Endpoint(url, capabilities)
    if entry.flag("insecure"):
        endpoint.tls = TLS(skip_verify=True)
        draft.notes.append(f"{entry.path}: {_PLAIN}")
    draft.endpoints.append(endpoint)
