"""Puts the agent, and the engine alone, together from the parts of a real node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

from msgspec.structs import replace

from ..api.errors import ProblemError
from ..api.models import RuntimeFacts, RuntimeName
from ..kube.clock import now
from ..kube.resources import LEASE_NAMESPACE, LEASES
from ..kube.rest import Rest
from .absence import Absence, Periodic
from .app import Agent, Settings
from .clock import BootClock
from .cri import Runtime, RuntimeAnswerError
from .detect import find
from .engine import Engine, Pass
from .environment import Started, proxies
from .host import Host
from .live import inspect
from .local import Found, LocalNode
from .node import Node
from .probe import Probe
from .prober import Prober
from .proxies import Proxies
from .roots import Contexts
from .service import Service, manager
from .signs import Tools
from .state import State
from .watch import Watch

_PROC = Path("/proc")
# Whose service also is, or brings, the node's way to the API server.
_DISTRIBUTIONS = ("k3s", "rke2")


def agent(rest: Rest, host: Host, root: Path, runtime: RuntimeName | None, namespace: str, settings: Settings) -> Agent:
    """Give the agent of the node whose file system is at ``root``.

    Takes the API server, the runtime (None: find it) and the namespace of bundles.
    """
    service = manager(root)
    running: list[Agent] = []

    def look() -> None:
        for item in running:
            item.look()

    def beat() -> str:
        lease = rest.get(LEASES, settings.node_name, LEASE_NAMESPACE) or {}
        spec = lease.get("spec")
        return str(spec.get("renewTime", "")) if isinstance(spec, dict) else ""

    node = Node(
        engine(host, root, runtime, service, beat, Absence(host, _periodic(service), settings.restore_when_gone)),
        rest,
        namespace,
        Prober(Probe(Contexts(root)), look),
        lambda done: proxies_of(done, host),
        Watch(root, look).set,
    )
    running.append(Agent(rest, node, settings))
    return running[0]


def local_node(host: Host, root: Path, runtime: RuntimeName | None) -> LocalNode:
    """Give the node whose file system is at ``root`` without its cluster. Takes the runtime (None: find it)."""
    service = manager(root)
    versions: list[str] = []

    def look(state: State) -> Found:
        unit = service.unit if service is not None else lambda _: None
        facts, live = find(host, inspect(root, _PROC, runtime), runtime, state, unit)
        # In a cluster the Node object says it; a runtime that does not run yet is taken for a recent one.
        if live is not None and not versions and facts.name != "crio":
            with contextlib.suppress(RuntimeAnswerError):
                versions.append(Runtime(root / live.socket.lstrip("/")).health().version)
        return replace(facts, containerd_version="".join(versions)), live

    absence = Absence(host, _periodic(service), None)
    return LocalNode(host, engine(host, root, runtime, service, None, absence), look, absence)


def _periodic(service: Service | None) -> Periodic | None:
    """Give a service manager that runs something again and again; OpenRC has no timers."""
    return cast(Periodic, service) if service is not None and service.kind == "systemd" else None


def proxies_of(done: Pass, host: Host) -> Proxies:
    """Give those that the runtime is started with."""
    if done.facts is None:
        return Proxies({})
    try:
        started = done.services(done.live.unit) if done.live is not None and done.live.unit else None
        return Proxies(proxies(started, host, done.facts))
    except ProblemError:
        return Proxies({})


def engine(
    host: Host,
    root: Path,
    runtime: RuntimeName | None,
    service: Service | None,
    beat: Callable[[], str] | None,
    absence: Absence | None = None,
) -> Engine:
    """Give the engine for the node whose file system is at ``root``.

    Takes the runtime (None: find it), the host's service manager if it has one, what gives the time of the node's last
    heartbeat (None without a cluster), and what the host keeps for when no agent is left.
    """
    clock = BootClock()

    def tools(facts: RuntimeFacts, socket: str) -> Tools | None:
        if service is None:
            return None
        answers = Runtime(root / socket.lstrip("/"))
        return Tools(service, answers, clock, now, beat, api_depends=facts.name in _DISTRIBUTIONS)

    def started(name: str) -> Started | None:
        return service.unit(name) if service is not None else None

    return Engine(host, runtime, clock, tools, lambda: inspect(root, _PROC, runtime), started, absence)
