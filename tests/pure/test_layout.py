"""The agent writes as root what the API server hands it: no path outside the layout of its runtime may pass."""

from __future__ import annotations

import pytest

from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.layout import default_facts, layout
from tests.pure.builders import CONTAINERD, K3S, K3S_CERTS


@pytest.mark.parametrize(
    ("facts", "path"),
    [
        (K3S, f"{K3S_CERTS}/docker.io/hosts.toml"),
        (K3S, f"{K3S_CERTS}/_default/hosts.toml"),
        (K3S, "/etc/rancher/k3s/registries.yaml"),
        (K3S, "/etc/rancher/k3s/config.yaml.d/90-registry-mirror.yaml"),
        (K3S, "/etc/rancher/k3s/registry-mirror/ca-0.crt"),
        (CONTAINERD, "/etc/containerd/certs.d/docker.io/hosts.toml"),
        (CONTAINERD, "/etc/containerd/registry-mirror/ca-0.crt"),
        (default_facts("k0s"), "/etc/k0s/containerd.d/registry-mirror.toml"),
        (default_facts("crio"), "/etc/containers/registries.conf.d/50-registry-mirror.conf"),
        (default_facts("crio"), "/etc/containers/certs.d/m:5000/registry-mirror-client-0a.cert"),
    ],
)
def test_a_path_of_the_runtime_is_allowed(facts: RuntimeFacts, path: str) -> None:
    assert layout(facts).allows(path)


@pytest.mark.parametrize(
    ("facts", "path"),
    [
        (K3S, "/etc/shadow"),
        (K3S, "/etc/rancher/k3s/config.yaml"),
        (K3S, "/etc/rancher/rke2/registries.yaml"),
        (K3S, f"{K3S_CERTS}/hosts.toml"),
        (K3S, f"{K3S_CERTS}/docker.io/ca.crt"),
        (K3S, f"{K3S_CERTS}/docker.io/deeper/hosts.toml"),
        (K3S, f"{K3S_CERTS}/../hosts.toml"),
        (K3S, f"{K3S_CERTS}/../../x/hosts.toml"),
        (K3S, f"{K3S_CERTS}//docker.io/hosts.toml"),
        (K3S, f"/{K3S_CERTS}/docker.io/hosts.toml"),
        (K3S, f"{K3S_CERTS}/docker.io\0/hosts.toml"),
        (K3S, "/etc/rancher/k3s/registry-mirror/../registries.yaml"),
        (K3S, "/etc/rancher/k3s/registry-mirror/deeper/ca.crt"),
        (K3S, "/etc/rancher/k3s/registry-mirror/"),
        (K3S, "etc/rancher/k3s/registries.yaml"),
        (K3S, ""),
        (CONTAINERD, "/etc/containerd/config.toml"),
        (RuntimeFacts(name="containerd"), "/docker.io/hosts.toml"),
        (default_facts("crio"), "/docker.io/hosts.toml"),
        (default_facts("crio"), "/x"),
        (default_facts("crio"), "/etc/containers/certs.d/m/ca.crt"),
        (default_facts("crio"), "/etc/containers/certs.d/m/registry-mirror-x.conf"),
        (default_facts("crio"), "/etc/containers/certs.d/registry-mirror-x.crt"),
        (default_facts("crio"), "/etc/containers/certs.d/m/n/registry-mirror-x.crt"),
        (default_facts("crio"), "/etc/containers/registries.conf"),
        (default_facts("k0s"), "/etc/k0s/containerd.toml"),
        (default_facts("k0s"), "/etc/k0s/containerd.d/other.toml"),
        (RuntimeFacts(name="k0s"), "/etc/k0s/containerd.d/registry-mirror.toml"),
        (default_facts("microk8s"), "/var/snap/microk8s/7/args/containerd-template.toml"),
        (default_facts("microk8s"), "/var/snap/microk8s/7/args/certs.d/quay.io/hosts.toml"),
        (RuntimeFacts(name="k3s"), ""),
    ],
)
def test_any_other_path_is_refused(facts: RuntimeFacts, path: str) -> None:
    assert not layout(facts).allows(path)
