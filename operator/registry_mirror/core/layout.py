"""Where each runtime keeps its files: shared by renderers, which write there, and the agent, which writes nowhere else.

The agent trusts no bundle: whatever the API server hands it, a path outside the layout of its own runtime is refused.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from msgspec.structs import replace

from ..api.models import RuntimeFacts, RuntimeName

DROP_IN = "90-registry-mirror.yaml"
TLS_DIRECTORY = "registry-mirror"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one runtime on one node, absolute, as the host sees them.

    ``certs`` is the directory of hosts.toml files; ``tls`` holds CA and client files; ``files`` are the single files
    that may be written besides what lies below those two.
    """

    certs: str
    tls: str
    files: tuple[str, ...] = ()

    def allows(self, path: str) -> bool:
        """Tell whether the agent may write a file at that path."""
        if path != posixpath.normpath(path) or not path.startswith("/") or "\0" in path:
            return False
        if path in self.files:
            return True
        head, name = posixpath.split(path)
        if head == self.tls:
            return True
        return bool(self.certs) and posixpath.dirname(head) == self.certs and name == "hosts.toml"


def default_facts(name: RuntimeName, version: str = "") -> RuntimeFacts:
    """Give the facts of a runtime that is installed the usual way, for rendering without a node.

    ``version`` is the distribution's (``v1.31.4+k3s1``) or, for containerd, containerd's own (``2.1.4``).
    """
    facts = RuntimeFacts(name=name, version=version)
    if name in ("k3s", "rke2"):
        return replace(
            facts,
            config_path=f"/var/lib/rancher/{name}/agent/etc/containerd/certs.d",
            registries_file=f"/etc/rancher/{name}/registries.yaml",
        )
    if name == "containerd":
        return replace(
            facts,
            containerd_version=version,
            config_path="/etc/containerd/certs.d",
            config_file="/etc/containerd/config.toml",
        )
    return facts


def layout(facts: RuntimeFacts) -> Layout:
    """Give the paths for a runtime as the agent found it."""
    if facts.name in ("k3s", "rke2"):
        return Layout(
            certs=facts.config_path,
            # Not below certs.d: K3s removes the directories there that it renders (runtimes.md, Cleanup at start).
            tls=f"/etc/rancher/{facts.name}/{TLS_DIRECTORY}",
            files=(facts.registries_file, f"/etc/rancher/{facts.name}/config.yaml.d/{DROP_IN}"),
        )
    if facts.name == "containerd":
        return Layout(certs=facts.config_path, tls=f"/etc/containerd/{TLS_DIRECTORY}")
    return Layout(certs="", tls="")
