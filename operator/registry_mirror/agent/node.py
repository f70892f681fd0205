"""One pass over one node of a cluster: read the order from its NodeRegistryConfig, carry it out, and report."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Protocol

from ..api.errors import FieldError, InvalidError, ProblemError, WaitingError
from ..api.grammar import duration_seconds
from ..api.models import NodeRegistryConfig, NodeRegistryConfigStatus
from ..core import bundle as bundles
from ..core.bundle import Bundle
from ..core.probing import targets
from ..kube.resources import BUNDLE_KEY, SECRETS, Resource
from .engine import READERS, Engine, Order, Pass
from .prober import Prober
from .proxies import Proxies
from .report import status

_DEADLINE = 120.0


class Secrets(Protocol):
    """What a pass needs of the API server."""

    def get(self, resource: Resource, name: str, namespace: str = "") -> dict[str, object] | None:
        """Give an object, or None; raises ApiError."""


class Node:
    """The agent's view of its own node, from pass to pass."""

    def __init__(
        self,
        engine: Engine,
        secrets: Secrets,
        bundle_namespace: str,
        prober: Prober,
        proxies: Callable[[Pass], Proxies],
        watch: Callable[[Iterable[str]], None],
    ) -> None:
        """Take the engine, the API server, the namespace of bundles, what tests endpoints, what gives the proxies that
        the runtime uses, and what is told the directories in which changes matter.

        ``pause`` is in how many seconds there is something left to do although nothing is wrong, or None.
        """
        self._engine = engine
        self._secrets = secrets
        self._namespace = bundle_namespace
        self._prober = prober
        self._proxies = proxies
        self._watch = watch
        self._bundle: Bundle | None = None
        self.pause: float | None = None

    def reconcile(self, config: NodeRegistryConfig, now: str) -> tuple[NodeRegistryConfigStatus, ProblemError | None]:
        """Make the node as the object says; gives the status to report, and what went wrong if the pass is to be tried
        again. Takes the present time (RFC 3339). Never raises for what can go wrong on a node.
        """
        spec = config.spec
        order = Order(
            fetch=lambda: self._fetch(spec.bundle.name, spec.revision) if spec.bundle is not None else None,
            restart_allowed=spec.restart_allowed,
            deadline=duration_seconds(spec.restart_deadline) if spec.restart_deadline else _DEADLINE,
            keep_drift=spec.keep_drift,
            earlier=config.status.runtime,
        )
        done = self._engine.run(order)
        self.pause = READERS if done.outcome.held else None
        self._probe(config, done)
        self._watch(_directories(done))
        return status(config, done, self._prober.reports(), now), done.problem

    def _probe(self, config: NodeRegistryConfig, done: Pass) -> None:
        wanted = config.spec.probe
        if done.bundle is None and done.problem is not None:
            return  # nothing is known that would change what is tested
        on = wanted is not None and wanted.mode != "Off" and done.bundle is not None
        sources = done.bundle.sources if on and done.bundle is not None else ()
        self._prober.configure(
            targets(sources, wanted.image if wanted is not None else ""),
            duration_seconds(wanted.interval) if wanted is not None else _DEADLINE,
            self._proxies(done),
            config.status.endpoints,
        )

    def _fetch(self, name: str, revision: str) -> Bundle:
        if self._bundle is not None and self._bundle.revision == revision and self._bundle.name == name:
            return self._bundle
        secret = self._secrets.get(SECRETS, name, self._namespace)
        if secret is None:
            raise WaitingError("BundleNotFound", f"Secret {self._namespace}/{name} is not there yet", after=5.0)
        data = secret.get("data")
        try:
            raw = base64.b64decode(data[BUNDLE_KEY] if isinstance(data, dict) else "", validate=True)
        except (KeyError, TypeError, ValueError):
            raw = b""
        found = bundles.decode(raw)
        if found.revision != revision or found.name != name:
            error = FieldError("revision", found.revision[:64], f"the NodeRegistryConfig names {revision}")
            raise InvalidError(f"bundle {name}", (error,), "BundleInvalid")
        self._bundle = found
        return found


def _directories(done: Pass) -> set[str]:
    """Where a change matters: around our files, around what the runtime reads, and where its socket is made anew."""
    paths = set(done.state.originals) if done.state is not None else set()
    if done.facts is not None:
        paths |= {done.facts.config_file, done.facts.registries_file}
    if done.live is not None:
        paths.add(done.live.socket)
    folders = {path.rpartition("/")[0] for path in paths if path}
    # A directory that is exchanged, or goes, is seen in the one above it.
    return folders | {folder.rpartition("/")[0] for folder in folders if folder.count("/") > 2}
