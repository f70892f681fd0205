"""Where the objects live that the program reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from ..api.models import GROUP, VERSION


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object at the API server."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """What stands in ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """Give the URL path of a collection or an object; names are quoted."""
        parts = ["apis", self.group] if self.group else ["api"]
        parts.append(self.version)
        if namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(quote(part, safe="") for part in parts)


MIRRORS = Resource(GROUP, VERSION, "registrymirrors", "RegistryMirror")
POLICIES = Resource(GROUP, VERSION, "registrymirrorpolicies", "RegistryMirrorPolicy")
CONFIGS = Resource(GROUP, VERSION, "noderegistryconfigs", "NodeRegistryConfig")
NODES = Resource("", "v1", "nodes", "Node")
PODS = Resource("", "v1", "pods", "Pod")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENTS = Resource("", "v1", "events", "Event")

CONTROLLER = "registry-mirror-controller"
AGENT = "registry-mirror-agent"

SYSTEM_NAMESPACE = "registry-mirror-system"
BUNDLE_NAMESPACE = "registry-mirror-bundles"
LEASE_NAMESPACE = "kube-node-lease"
BUNDLE_KEY = "bundle.json.gz"
BUNDLE_LABELS = {"app.kubernetes.io/managed-by": CONTROLLER, f"{GROUP}/bundle": "true"}
