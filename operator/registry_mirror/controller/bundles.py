"""The Secrets that carry bundles: made when a node is told to have one, and deleted when none needs it."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from ..api.errors import InvalidError
from ..api.models import NodeRegistryConfig
from ..core import bundle as bundles
from ..core.bundle import Bundle
from ..core.garbage import collectable
from ..core.members import start_of
from ..core.times import seconds
from ..kube.client import Api
from ..kube.resources import BUNDLE_KEY, BUNDLE_LABELS, SECRETS, Resource

_log = logging.getLogger(__name__)

_GRACE = 600.0


class Bundles:
    """Bundles at the API server, and what is remembered of them: which are there, and what a start reads in each."""

    def __init__(self, api: Api, namespace: str, count: Callable[[Resource], None]) -> None:
        """Take the API server, the namespace of bundles, and what is told of each write."""
        self._api = api
        self._namespace = namespace
        self._count = count
        self._there: set[str] = set()
        self._starts: dict[str, str] = {"": ""}

    def start(self, revision: str) -> str:
        """Give what stands for all that a start of the runtime reads in a revision.

        A revision that nobody remembers is like no other: a change from it is taken as one that needs a restart.
        """
        return self._starts.get(revision, f"unknown {revision}")

    def note(self, bundle: Bundle) -> str:
        """Remember what a start reads in a bundle; gives the same as ``start``."""
        if bundle.revision not in self._starts:
            self._starts[bundle.revision] = start_of(bundle)
        return self._starts[bundle.revision]

    def missing(self, name: str) -> None:
        """Take note that a bundle is not there, whatever was known."""
        self._there.discard(name)

    async def ensure(self, bundle: Bundle) -> None:
        """Have the bundle at the API server. Raises ApiError."""
        self.note(bundle)
        if bundle.name in self._there:
            return
        body = {
            "metadata": {"name": bundle.name, "labels": BUNDLE_LABELS},
            "type": "registrymirror.io/bundle",
            "immutable": True,
            "data": {BUNDLE_KEY: base64.b64encode(bundles.encode(bundle)).decode()},
        }
        if await self._api.create(SECRETS, body, self._namespace):
            self._count(SECRETS)
        self._there.add(bundle.name)

    async def recover(self, configs: Iterable[NodeRegistryConfig]) -> list[Bundle]:
        """Read the bundles that nodes are told to have; gives them, and remembers those that nodes have or would go
        back to as well. Raises ApiError.
        """
        configs = list(configs)
        told = {config.spec.revision for config in configs}
        found = []
        for revision in sorted({revision for config in configs for revision in revisions(config)}):
            bundle = await self._read(f"bundle-{revision}")
            if bundle is None:
                continue
            self.note(bundle)
            if revision in told:
                found.append(bundle)
        return found

    async def _read(self, name: str) -> Bundle | None:
        secret = await self._api.get(SECRETS, name, self._namespace)
        if secret is None:
            return None
        self._there.add(name)
        try:
            return bundles.decode(base64.b64decode((secret.get("data") or {}).get(BUNDLE_KEY, "")))
        except ValueError:
            _log.warning("Secret %s/%s is not base64", self._namespace, name)
        except InvalidError as error:
            _log.warning("Secret %s/%s: %s", self._namespace, name, error.message)
        return None

    async def collect(self, configs: Mapping[str, NodeRegistryConfig]) -> None:
        """Delete the bundles that no node needs. Raises ApiError."""
        items, _ = await self._api.list(
            SECRETS, self._namespace, metadata_only=True, labelSelector=_selector(BUNDLE_LABELS)
        )
        now = time.time()
        aged = [(item["metadata"]["name"], now - seconds(item["metadata"]["creationTimestamp"])) for item in items]
        for name in collectable(aged, configs.values(), grace=_GRACE):
            self._there.discard(name)
            await self._api.delete(SECRETS, name, self._namespace)
            self._count(SECRETS)
        needed = {"", *(revision for config in configs.values() for revision in revisions(config))}
        self._starts = {revision: start for revision, start in self._starts.items() if revision in needed}


def revisions(config: NodeRegistryConfig) -> Iterator[str]:
    """Name the revisions that matter to a node: told, there, to go back to, and of the last restart."""
    status = config.status
    found = (config.spec.revision, status.applied_revision, status.last_good_revision)
    yield from filter(None, (*found, status.restart.revision if status.restart is not None else ""))


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
