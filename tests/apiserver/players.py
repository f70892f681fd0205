"""Agents played by the test: they report what real ones would, of runtimes that restart at once, or fail to."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from registry_mirror.api.conditions import condition, merge
from registry_mirror.api.models import (
    EndpointResult,
    NodeRegistryConfig,
    NodeRegistryConfigStatus,
    RestartStatus,
    RuntimeFacts,
)
from registry_mirror.core import bundle as bundles
from registry_mirror.core.bundle import Bundle
from registry_mirror.kube.clock import now
from registry_mirror.kube.errors import ApiError
from registry_mirror.kube.resources import AGENT, BUNDLE_KEY, CONFIGS, NODES, SECRETS
from registry_mirror.kube.rest import Rest, from_kubeconfig
from tests.harness.cluster import BUNDLES, Cluster

_POLL = 0.05


@dataclass
class _Agent:
    """What one node has on its disk and in force, as its agent knows it."""

    revision: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    good: str = ""
    in_force: dict[str, str] = field(default_factory=dict)
    restart: RestartStatus | None = None
    ends: float = 0.0

    @property
    def waiting(self) -> tuple[str, ...]:
        names = {*self.settings, *self.in_force}
        return tuple(sorted(name for name in names if self.settings.get(name) != self.in_force.get(name)))


class Players:
    """The agents of all nodes; a context manager.

    ``mute`` names nodes whose agents do nothing, ``stalled`` those that are Stalled, with the reason; ``endpoints`` is
    what each says of the endpoints.
    """

    def __init__(
        self,
        cluster: Cluster,
        facts: RuntimeFacts,
        works: Callable[[str, Bundle], bool] = lambda _name, _bundle: True,
        restart_seconds: float = 0.3,
    ) -> None:
        """Take the runtime of all nodes, whether that of a node starts with a bundle, and how long a start takes."""
        self.mute: set[str] = set()
        self.stalled: dict[str, str] = {}
        self.endpoints: dict[str, tuple[EndpointResult, ...]] = {}
        self.works = works
        self.touched: list[tuple[str, str]] = []
        self.restarted: list[str] = []
        self.most_at_once = 0
        self._rest = Rest(from_kubeconfig(cluster.plane.admin_kubeconfig))
        self._facts = facts
        self._seconds = restart_seconds
        self._agents: dict[str, _Agent] = {}
        self._bundles: dict[str, Bundle] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="players", daemon=True)

    def __enter__(self) -> Players:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def forget(self) -> None:
        """Begin to count anew."""
        self.touched.clear()
        self.restarted.clear()
        self.most_at_once = 0

    def _run(self) -> None:
        while not self._stop.wait(_POLL):
            try:
                items = self._rest.list(CONFIGS)["items"]
            except ApiError:
                continue
            for body in items:
                if body["metadata"]["name"] not in self.mute:
                    self._play(msgspec.convert(body, NodeRegistryConfig))
            busy = sum(agent.ends > 0 for agent in self._agents.values())
            self.most_at_once = max(self.most_at_once, busy)
            alive = {body["metadata"]["uid"] for body in items}
            self._agents = {uid: agent for uid, agent in self._agents.items() if uid in alive}

    def _play(self, config: NodeRegistryConfig) -> None:
        agent = self._agents.setdefault(config.metadata.uid, _Agent())
        name = config.metadata.name
        problem = self.stalled.get(name, "")
        if agent.ends:
            if time.monotonic() < agent.ends:
                return
            self._finish(name, agent)
        rejected = agent.restart is not None and agent.restart.result == "RolledBack"
        if rejected and agent.restart is not None and agent.restart.revision == config.spec.revision:
            problem = "RolledBack"
        elif config.spec.revision not in ("", agent.revision) and not problem:
            bundle = self._bundle(config.spec.revision)
            if bundle is None:
                return
            self.touched.append((name, bundle.revision))
            agent.revision, agent.settings = bundle.revision, bundle.start_settings
            if not agent.waiting:
                agent.good = agent.revision
        if agent.waiting and config.spec.restart_allowed and not problem:
            agent.restart = RestartStatus(revision=agent.revision, started_at=now(), result="InProgress")
            agent.ends = time.monotonic() + self._seconds
            self.restarted.append(name)
        self._report(config, agent, problem)

    def _finish(self, name: str, agent: _Agent) -> None:
        assert agent.restart is not None
        agent.ends = 0.0
        if self.works(name, self._bundles[agent.revision]):
            agent.in_force, agent.good = agent.settings, agent.revision
            agent.restart = msgspec.structs.replace(agent.restart, result="Succeeded", finished_at=now())
        else:
            agent.revision, agent.settings = agent.good, agent.in_force
            agent.restart = msgspec.structs.replace(agent.restart, result="RolledBack", finished_at=now())

    def _report(self, config: NodeRegistryConfig, agent: _Agent, problem: str) -> None:
        conditions = [condition("Stalled", bool(problem), problem or "Working", "played" if problem else "")]
        status = NodeRegistryConfigStatus(
            observed_generation=config.metadata.generation,
            applied_revision=agent.revision,
            last_good_revision=agent.good,
            runtime=self._facts,
            waiting_for_restart=agent.waiting,
            restart=agent.restart,
            endpoints=self.endpoints.get(config.metadata.name, ()),
            conditions=merge(config.status.conditions, conditions, generation=config.metadata.generation, now=now()),
        )
        if status != config.status:
            try:
                self._rest.apply_status(CONFIGS, config.metadata.name, msgspec.to_builtins(status), AGENT)
            except ApiError:
                return  # it has just been deleted

    def _bundle(self, revision: str) -> Bundle | None:
        if revision not in self._bundles:
            secret: Any = self._rest.get(SECRETS, f"bundle-{revision}", BUNDLES)
            if secret is None:
                return None
            self._bundles[revision] = bundles.decode(base64.b64decode(secret["data"][BUNDLE_KEY]))
        return self._bundles[revision]


def set_ready(cluster: Cluster, name: str, ready: bool = True) -> None:
    """Have a Node say that it is ready, or not."""
    text = "True" if ready else "False"
    at = now()
    item = (
        f'{{"type":"Ready","status":"{text}","reason":"Played","lastHeartbeatTime":"{at}","lastTransitionTime":"{at}"}}'
    )
    cluster.kubectl(
        "patch",
        NODES.plural,
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        f'{{"status":{{"conditions":[{item}]}}}}',
    )
