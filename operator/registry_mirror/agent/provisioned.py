"""Nodes on which another tool writes registries.yaml: two writers of one file help nobody.

That is rke2 #3872 and harvester #4286. Rancher's plan for a node holds registries.yaml exactly where it also sets
``private-registry`` in 50-rancher.yaml: always since Rancher 2.7.5, before that where the cluster has registries
(rancher pkg/capr/planner/config.go, addConfigFile). rancher-system-agent writes the files of its plan when that has
changed and, up to 0.3, whenever it starts, so at each boot (rancher/system-agent pkg/k8splan/watcher.go, start).
Harvester hands its setting containerd-registry to the same plan (harvester
pkg/controller/master/setting/containerd_registry.go). A cluster that was only imported into Rancher has no such file,
and rancherd alone writes registries.yaml but once, before there is a cluster (rancherd pkg/plan/bootstrap.go).
"""

from __future__ import annotations

import posixpath

from msgspec.structs import replace

from ..api.errors import FieldError, InvalidError
from ..api.models import RuntimeFacts
from ..core.bundle import Bundle
from ..core.layout import MARK
from . import state as memory
from .detect_files import yaml
from .host import Host
from .state import State

_RUNTIMES = ("k3s", "rke2")
_RANCHER = "50-rancher.yaml"
_KEY = "private-registry"
_HARVESTER = "-harvester-"  # in names of its own files beside that one (harvester pkg/installer/config/cos.go)
_ADVICE = {
    "Rancher": "its registries belong in spec.rkeConfig.registries of the cluster in Rancher (in its UI: Registries)",
    "Harvester": "its registries belong in Harvester's setting containerd-registry",
}


def heed(host: Host, state: State, bundle: Bundle, facts: RuntimeFacts, *, look: bool = False) -> State:
    """Refuse to write where another tool writes as well; gives the record to work with, which is not saved.

    A bundle that asks for nothing takes back what is ours. But a registries.yaml that the tool has written since is its
    own now: that is what a restore, or a rollback, leaves there. With ``look``, no copy of it is made, and it is only
    left out. Raises InvalidError (ProvisionedElsewhere, RuntimeConfigInvalid) and HostError.
    """
    found = _provisioner(host, facts)
    if found is None:
        return state
    if bundle.paths:
        tool, file = found
        text = f"{file}: {tool} writes {facts.registries_file} on this node"
        advice = f"nothing was touched: {_ADVICE[tool]}; exclude the node with spec.nodeSelector"
        raise InvalidError("node", (FieldError("", text, advice),), "ProvisionedElsewhere")
    path = facts.registries_file
    there = host.read(path)
    if path not in state.originals or (there is not None and there.content.startswith(MARK.encode())):
        return state
    if look:
        return replace(state, originals={key: value for key, value in state.originals.items() if key != path})
    return memory.adopt_again(host, state, path)


def _provisioner(host: Host, facts: RuntimeFacts) -> tuple[str, str] | None:
    """Give the tool that writes the registries.yaml which the runtime reads, and the file that says so."""
    if facts.name not in _RUNTIMES:
        return None
    # Rancher writes here, wherever else the runtime may have its configuration.
    folder = f"/etc/rancher/{facts.name}/config.yaml.d"
    file = f"{folder}/{_RANCHER}"
    found = host.read(file)
    written = yaml(file, found.content).get(_KEY) if found is not None else None
    if not isinstance(written, str) or posixpath.normpath(written) != facts.registries_file:
        return None
    harvester = any(_HARVESTER in name for name in host.names(folder))
    return "Harvester" if harvester else "Rancher", file
