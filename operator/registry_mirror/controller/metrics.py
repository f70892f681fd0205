"""What Prometheus can ask the controller; docs/metrics.md lists the same."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .workqueue import Key


class Metrics:
    """All metrics of one controller, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
        self.nodes = Gauge(
            "registry_mirror_nodes",
            "Nodes by state of one RegistryMirror.",
            ["mirror", "state"],
            registry=self.registry,
        )
        self.mirrors = Gauge(
            "registry_mirror_ready", "1 if the RegistryMirror is Ready, else 0.", ["mirror"], registry=self.registry
        )

    def observe(self, key: Key, seconds: float, result: str) -> None:
        """Count one key that was worked on."""
        self.reconciles.labels(key[0], result).inc()
        self.seconds.labels(key[0]).observe(seconds)
