"""Where each runtime keeps its files: shared by renderers, which write there, and the agent, which writes nowhere else.

The agent trusts no bundle: whatever the API server hands it, a path outside the layout of its own runtime is refused.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from msgspec.structs import replace

from ..api.models import RuntimeFacts, RuntimeName
from . import versions

DROP_IN = "90-registry-mirror.yaml"
TLS_DIRECTORY = "registry-mirror"
# Begins every hosts.toml that is ours everywhere but on K3s and RKE2, whose own first line has to stand there.
MARK = "# Managed by registry-mirror-operator"

CONTAINERD_CERTS = "/etc/containerd/certs.d"
# SNAP_DATA of a revision; `current` is a link to the one in use (snapcraft.io, Data locations).
MICROK8S = "/var/snap/microk8s"
MICROK8S_TEMPLATE = "containerd-template.toml"
K0S_CONFIG = "/etc/k0s/containerd.toml"
K0S_DROP_INS = "/etc/k0s/containerd.d"
K0S_DROP_IN = f"{K0S_DROP_INS}/registry-mirror.toml"
# Not below containerd.d, as the example of k0s has it: k0s restarts containerd for whatever is made in that directory
# (k0s 1.36 pkg/component/worker/containerd/component.go, watchDropinConfigs).
K0S_CERTS = "/etc/k0s/containerd-certs.d"
REGISTRIES_CONF = "/etc/containers/registries.conf.d/50-registry-mirror.conf"
HOST_TLS = "/etc/containers/certs.d"
# Files of ours in a directory that others use as well; one name for certificate and key (containers-certs.d(5)).
_HOST_TLS_NAME = re.compile(rf"{TLS_DIRECTORY}-[0-9a-z-]+\.(?:crt|cert|key)")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one runtime on one node, absolute, as the host sees them.

    ``certs`` is the directory of hosts.toml files; ``tls`` holds CA and client files; ``files`` are the single files
    that may be written besides what lies below those two. ``host_tls`` has a directory a host, shared with others, in
    which only names of ours may be written. ``edits`` are files of the node in which registry settings may be put, and
    ``config_path`` is what those may set it to; without ``certs`` they are all that the runtime reads of mirrors.
    """

    certs: str
    tls: str
    files: tuple[str, ...] = ()
    host_tls: str = ""
    edits: tuple[str, ...] = ()
    config_path: str = ""

    def allows(self, path: str) -> bool:
        """Tell whether the agent may write a file at that path."""
        if path != posixpath.normpath(path) or not path.startswith("/") or "\0" in path:
            return False
        if path in self.files:
            return True
        head, name = posixpath.split(path)
        if head == self.tls:
            return True
        if self.host_tls and posixpath.dirname(head) == self.host_tls:
            return _HOST_TLS_NAME.fullmatch(name) is not None
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
            config_path=CONTAINERD_CERTS,
            config_file="/etc/containerd/config.toml",
        )
    if name == "microk8s":
        args = f"{MICROK8S}/current/args"
        if versions.known_below(version, 1, 23):
            return replace(facts, config_file=f"{args}/{MICROK8S_TEMPLATE}", config_schema=2)
        return replace(facts, config_path=f"{args}/certs.d")
    if name == "k0s":
        return replace(facts, config_file=K0S_CONFIG, config_managed=True)
    return facts


def layout(facts: RuntimeFacts) -> Layout:
    """Give the paths for a runtime as the agent found it."""
    if facts.name in ("k3s", "rke2"):
        return Layout(
            certs=facts.config_path,
            # Not below certs.d: K3s removes the directories there that it renders (runtimes.md, Cleanup at start).
            tls=f"/etc/rancher/{facts.name}/{TLS_DIRECTORY}",
            files=(
                facts.registries_file,
                f"{facts.config_file or f'/etc/rancher/{facts.name}/config.yaml'}.d/{DROP_IN}",
            ),
        )
    edits = (facts.config_file,) if facts.config_schema != 0 else ()
    if facts.name == "containerd":
        unset = not facts.config_path and facts.config_schema != 0
        return Layout(
            certs=CONTAINERD_CERTS if unset else facts.config_path,
            tls=f"/etc/containerd/{TLS_DIRECTORY}",
            edits=edits,
            config_path=CONTAINERD_CERTS if unset else "",
        )
    if facts.name == "microk8s":
        # SNAP_COMMON, which all revisions share: a hosts.toml that a refresh copies names a file that stays.
        return Layout(certs=facts.config_path, tls=f"{MICROK8S}/common/{TLS_DIRECTORY}", edits=edits)
    if facts.name == "k0s":
        drop_in = () if facts.config_path or not facts.config_managed else (K0S_DROP_IN,)
        return Layout(certs=facts.config_path or K0S_CERTS, tls=f"/etc/k0s/{TLS_DIRECTORY}", files=drop_in)
    return Layout(certs="", tls="", files=(REGISTRIES_CONF,), host_tls=HOST_TLS)
