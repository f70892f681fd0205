"""The real agent's code for many nodes in one process: its loop, its watch, its passes and its files are real; the
machine below it is a stand-in (tests/agent/world.py) whose time passes faster than ours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from registry_mirror.agent.app import Agent, Settings
from registry_mirror.agent.engine import Order
from registry_mirror.agent.node import Node
from registry_mirror.agent.probe import Probe
from registry_mirror.agent.prober import Prober
from registry_mirror.agent.proxies import Proxies
from registry_mirror.agent.roots import Contexts
from registry_mirror.api import parse
from registry_mirror.api.models import NodeRegistryConfig
from registry_mirror.kube.rest import Rest, from_kubeconfig
from tests.agent import trees
from tests.agent.world import Facts, World
from tests.harness.cluster import BUNDLES, Cluster

Fault = Literal["", "refuses", "hangs", "mute"]

_RESYNC = 30.0
_POLL = 0.03  # how long a wait of the agent's takes here at most, in seconds
_END = 20.0
# K3s's own, by which the agent sees that the embedded registry is on: each registry that is shared takes a restart.
_EMBEDDED = f"{trees.CERTS}/127.0.0.1:6443/hosts.toml"


class _Machine(World):
    """One whose runtime takes each registries.yaml as ``broken`` says."""

    def __init__(self, work: Path, broken: Callable[[str], Fault]) -> None:
        self.broken = broken
        super().__init__(work)

    def _start(self, facts: Facts) -> None:
        file = self.root / trees.REGISTRIES[1:]
        facts.poison = file.read_text() if file.exists() else ""
        facts.fault = self.broken(facts.poison)
        super()._start(facts)


class _Quick(Agent):
    """The agent, whose machine's time passes while it waits."""

    def __init__(self, rest: Rest, node: Node, settings: Settings, machine: _Machine) -> None:
        super().__init__(rest, node, settings)
        self._machine = machine

    def _next(self, wait: float | None) -> NodeRegistryConfig | None:
        if wait is None or wait >= _RESYNC / 2:
            return super()._next(wait)
        found = super()._next(min(wait, _POLL))
        self._machine.advance(max(wait, 1.0))
        return found


class Machines:
    """Nodes with real agents; a context manager. ``broken`` says how the runtime of a node takes what it reads."""

    def __init__(self, cluster: Cluster, names: Iterable[str], work: Path) -> None:
        """Take the cluster, in which the Nodes are, their names and a directory of our own."""
        self.broken: Callable[[str, str], Fault] = lambda _name, _read: ""
        self._kubeconfig = cluster.plane.admin_kubeconfig
        self._agents = [self._agent(name, work / name) for name in names]
        self._threads = [threading.Thread(target=agent.run, daemon=True) for agent in self._agents]
        # msgspec works a type out when it is first read, and has crashed where many threads do so at once; a real agent
        # has one thread for each of these.
        World(_made(work / "first")).engine().run(Order(fetch=lambda: trees.EMPTY))
        parse.node_registry_config({"metadata": {"name": "first"}})

    def __enter__(self) -> Machines:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self._agents:
            agent.stop()
        for thread in self._threads:
            thread.join(_END)

    def _agent(self, name: str, work: Path) -> Agent:
        work.mkdir(parents=True)
        machine = _Machine(work, lambda read: self.broken(name, read))
        trees.put(machine.root, _EMBEDDED, 'server = "https://127.0.0.1:6443/v2"\n')
        rest = Rest(from_kubeconfig(self._kubeconfig))
        running: list[Agent] = []
        prober = Prober(Probe(Contexts(machine.root)), lambda: running[0].look())
        node = Node(machine.engine(), rest, BUNDLES, prober, lambda _: Proxies({}), lambda _: None)
        running.append(_Quick(rest, node, Settings(name, _RESYNC, confined=False), machine))
        return running[0]


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
