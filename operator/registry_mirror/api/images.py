"""Names of images, as far as a test pull needs them."""

from __future__ import annotations

import re

from msgspec import Struct

from . import grammar

IMAGE_FORM = "write registry/repository:tag, such as docker.io/library/busybox:1.37"
_MAX_NAME = 512
# distribution/reference (regexp.go): path-component, tag; of digests, what registries have in use.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REST = re.compile(
    rf"(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class Image(Struct, frozen=True, kw_only=True):
    """An image: its registry, the repository there, and the tag or digest."""

    registry: str
    repository: str
    reference: str


def parse_image(text: str) -> Image | None:
    """Read ``registry/repository[:tag][@digest]``; None if it is anything else. Without both, the tag is ``latest``."""
    registry, slash, rest = text.partition("/")
    found = _REST.fullmatch(rest) if slash and len(text) <= _MAX_NAME else None
    if found is None or registry == "*" or grammar.registry_problem(registry):
        return None
    return Image(
        registry=registry,
        repository=found["repository"],
        reference=found["digest"] or found["tag"] or "latest",
    )
