"""RegistryMirror operator: one Kubernetes object instead of registries.yaml and hosts.toml on every node."""

__version__ = "0.1.0"
