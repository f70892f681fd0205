"""Which bundles nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..api.models import NodeRegistryConfig


def collectable(
    bundles: Iterable[tuple[str, float]], configs: Iterable[NodeRegistryConfig], *, grace: float
) -> Iterator[str]:
    """Name the bundles that no node is told to have, has, or may go back to.

    Takes name and age (seconds) of every bundle; one younger than ``grace`` seconds may be about to be referred to.
    """
    needed = set()
    for config in configs:
        if config.spec.bundle is not None:
            needed.add(config.spec.bundle.name)
        for revision in (config.status.applied_revision, config.status.last_good_revision):
            needed.add(f"bundle-{revision}")
    yield from (name for name, age in bundles if age >= grace and name not in needed)
