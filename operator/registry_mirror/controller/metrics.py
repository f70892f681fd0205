"""What Prometheus can ask the controller; docs/metrics.md lists the same."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .workqueue import Key


class Snapshot(Gauge):
    """A gauge whose values are given all at once: what is not among them any more is shown no longer."""

    _shown: frozenset[tuple[str, ...]] = frozenset()

    def show(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Show these values, by the values of the labels, and no others."""
        for labels in self._shown - values.keys():
            self.remove(*labels)
        for labels, value in values.items():
            self.labels(*labels).set(value)
        self._shown = frozenset(values)


class Metrics:
    """All metrics of one controller, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._work()
        self._mirrors()
        self._nodes()

    def _work(self) -> None:
        self.leader = Gauge(
            "registry_mirror_leader", "1 if this controller leads, 0 if it stands by.", registry=self.registry
        )
        self.reconciles = Counter(
            "registry_mirror_reconciles", "Keys worked on.", ["kind", "result"], registry=self.registry
        )
        self.seconds = Histogram(
            "registry_mirror_reconcile_seconds",
            "Time to work on one key.",
            ["kind"],
            buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 30),
            registry=self.registry,
        )
        self.writes = Counter(
            "registry_mirror_api_writes", "Writes to the API server.", ["kind"], registry=self.registry
        )
        self.depth = Gauge("registry_mirror_queue_depth", "Keys that wait.", registry=self.registry)
        self.lag = Gauge(
            "registry_mirror_queue_lag_seconds", "For how long the oldest key has been due.", registry=self.registry
        )

    def _mirrors(self) -> None:
        self.nodes = Snapshot(
            "registry_mirror_nodes",
            "Nodes by state of one RegistryMirror.",
            ["mirror", "state"],
            registry=self.registry,
        )
        self.mirrors = Snapshot(
            "registry_mirror_ready", "1 if the RegistryMirror is Ready, else 0.", ["mirror"], registry=self.registry
        )
        self.conditions = Snapshot(
            "registry_mirror_condition",
            "1 for the status and reason that each condition of a RegistryMirror has.",
            ["mirror", "type", "status", "reason"],
            registry=self.registry,
        )
        self.endpoints = Snapshot(
            "registry_mirror_endpoint_nodes",
            "Nodes by whether an endpoint of a RegistryMirror answers them.",
            ["mirror", "url", "state"],
            registry=self.registry,
        )
        self.latencies = Snapshot(
            "registry_mirror_endpoint_latency_seconds",
            "How long an endpoint took to answer the nodes: the median, and the slowest (quantile 1).",
            ["url", "quantile"],
            registry=self.registry,
        )

    def _nodes(self) -> None:
        self.rollout = Snapshot(
            "registry_mirror_rollout_nodes",
            "Nodes by how far they are with what they are to have; each is counted once.",
            ["state"],
            registry=self.registry,
        )
        self.held = Snapshot(
            "registry_mirror_held_nodes",
            "Nodes that have to wait, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.rolled_back = Snapshot(
            "registry_mirror_rolled_back_nodes",
            "Nodes that went back from the revision they are to have.",
            ["result"],
            registry=self.registry,
        )
        self.restarts = Counter(
            "registry_mirror_restarts", "Restarts of runtimes that ended.", ["result"], registry=self.registry
        )

    def observe(self, key: Key, seconds: float, result: str) -> None:
        """Count one key that was worked on."""
        self.reconciles.labels(key[0], result).inc()
        self.seconds.labels(key[0]).observe(seconds)
