"""What is installed must be accepted by a real API server, and give each program the rights it needs and no others.

RBAC that is too wide breaks no other test; so the table here names what each account must not do, and the API server's
own authorizer answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from registry_mirror.cli import agent, controller
from tests.harness.controlplane import ControlPlane
from tests.harness.pytest_support import require_assets

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).resolve().parents[2]
SYSTEM, BUNDLES = "registry-mirror-system", "registry-mirror-bundles"
# Each overlay's host paths, beside the agent's own state.
OVERLAYS: dict[str, dict[str, str]] = {
    "k3s": {
        "/etc/rancher/k3s": "DirectoryOrCreate",
        "/var/lib/rancher/k3s/agent/etc/containerd": "DirectoryOrCreate",
        "/run/k3s/containerd": "DirectoryOrCreate",
        "/etc/systemd/system": "DirectoryOrCreate",
    },
    "rke2": {
        "/etc/rancher/rke2": "DirectoryOrCreate",
        "/var/lib/rancher/rke2/agent/etc/containerd": "DirectoryOrCreate",
        "/run/k3s/containerd": "DirectoryOrCreate",
        "/etc/default": "DirectoryOrCreate",
    },
    "microk8s": {"/var/snap/microk8s": "Directory"},
    "containerd": {"/etc/containerd": "DirectoryOrCreate", "/run/containerd": "DirectoryOrCreate"},
    "k0s": {"/etc/k0s": "Directory", "/run/k0s": "DirectoryOrCreate"},
    "crio": {
        "/etc/crio": "Directory",
        "/etc/containers": "DirectoryOrCreate",
        "/run/crio": "DirectoryOrCreate",
    },
}
STATE = dict.fromkeys(("/var/lib/registry-mirror", "/run/dbus", "/etc/ssl"), "DirectoryOrCreate")

Object = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane on which one overlay is installed."""
    with ControlPlane(tmp_path_factory.mktemp("manifests"), require_assets(pytestconfig)) as running:
        install(running, "k3s")
        yield running


def install(cluster: ControlPlane, overlay: str, *flags: str) -> str:
    return cluster.kubectl("apply", f"--kustomize={ROOT / 'manifests' / 'overlays' / overlay}", *flags)


def rendered(cluster: ControlPlane, overlay: str) -> list[Object]:
    text = cluster.kubectl("kustomize", str(ROOT / "manifests" / "overlays" / overlay))
    return [body for body in yaml.safe_load_all(text) if body]


def pod_of(objects: list[Object], kind: str) -> Object:
    (spec,) = [body["spec"]["template"]["spec"] for body in objects if body["kind"] == kind]
    assert isinstance(spec, dict)
    return spec


def test_installing_again_changes_nothing(cluster: ControlPlane) -> None:
    def versions() -> dict[str, str]:
        # kubectl says "configured" where it sends what changes nothing: the selector of a PodDisruptionBudget, always.
        found = cluster.kubectl("get", f"--kustomize={ROOT / 'manifests' / 'overlays' / 'k3s'}", "--output=json")
        return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in json.loads(found)["items"]}

    before = versions()
    lines = install(cluster, "k3s").splitlines()
    assert len(lines) == len(before) == len(rendered(cluster, "k3s"))
    assert [line for line in lines if not line.endswith((" unchanged", " configured"))] == []
    assert versions() == before


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_api_server_takes_the_overlay_without_a_warning(cluster: ControlPlane, overlay: str) -> None:
    # A warning here would be shown to everybody who installs.
    said = install(cluster, overlay, "--dry-run=server", "--warnings-as-errors")
    assert "daemonset.apps/registry-mirror-agent" in said


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_mounts_the_paths_of_its_runtime_and_no_others(cluster: ControlPlane, overlay: str) -> None:
    objects = rendered(cluster, overlay)
    pod = pod_of(objects, "DaemonSet")
    volumes = {item["name"]: item["hostPath"] for item in pod["volumes"]}
    assert {path["path"]: path["type"] for path in volumes.values()} == {**OVERLAYS[overlay], **STATE}
    (container,) = pod["containers"]
    mounts = {item["name"]: item["mountPath"] for item in container["volumeMounts"]}
    assert mounts == {name: f"/host{path['path']}" for name, path in volumes.items()}
    assert container["command"] == ["registry-mirror", "agent"]
    assert container["args"] == [
        "--node-name=$(NODE_NAME)",
        "--host-root=/host",
        f"--bundle-namespace={BUNDLES}",
        "--restore-on-uninstall",
        f"--runtime={overlay}",
    ]
    assert not pod_of(objects, "Deployment").get("volumes")


@pytest.mark.parametrize(("kind", "command"), [("Deployment", controller.command), ("DaemonSet", agent.command)])
def test_the_program_takes_the_arguments(cluster: ControlPlane, kind: str, command: click.Command) -> None:
    (container,) = pod_of(rendered(cluster, "k3s"), kind)["containers"]
    assert container["command"] == ["registry-mirror", command.name]
    known = {name for option in command.params for name in option.opts}
    assert {argument.partition("=")[0] for argument in container["args"]} <= known


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_overlays_differ_in_the_agent_only(cluster: ControlPlane, overlay: str) -> None:
    def others(name: str) -> list[Object]:
        return [body for body in rendered(cluster, name) if body["kind"] != "DaemonSet"]

    assert others(overlay) == others("k3s")


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_containers_are_confined(cluster: ControlPlane, kind: str) -> None:
    pod = pod_of(rendered(cluster, "k3s"), kind)
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    added = {"add": ["CHOWN", "DAC_OVERRIDE"]} if kind == "DaemonSet" else {}
    assert context["capabilities"] == {"drop": ["ALL"], **added}
    assert not context.get("privileged")
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert bool(pod.get("hostPID")) == (kind == "DaemonSet")
    assert not pod.get("hostIPC")
    assert container["image"] == "registry.example.com/registry-mirror-operator:0.1.0"
    assert container["resources"]["limits"].keys() == {"memory"}
    if kind == "Deployment":
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert not pod.get("hostNetwork")


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_only_the_agent_needs_a_privileged_namespace(cluster: ControlPlane, kind: str) -> None:
    # Tried with Pods of the two templates, which Pod Security checks at creation.
    cluster.kubectl("create", "namespace", "strict", check=False)
    label = "pod-security.kubernetes.io/enforce=restricted"
    cluster.kubectl("label", "namespace", "strict", label, "--overwrite")
    spec = {**pod_of(rendered(cluster, "k3s"), kind), "serviceAccountName": "default"}
    pod = yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": spec})
    cluster.kubectl("create", "serviceaccount", "default", "--namespace=strict", check=False)
    cluster.kubectl("create", "serviceaccount", "default", f"--namespace={SYSTEM}", check=False)
    taken = cluster.kubectl("create", "--namespace=strict", "--dry-run=server", "-f", "-", input=pod, check=False)
    assert bool(taken) == (kind == "Deployment")
    cluster.kubectl("create", f"--namespace={SYSTEM}", "--dry-run=server", "-f", "-", input=pod)


CONTROLLER, AGENT = "registry-mirror-controller", "registry-mirror-agent"
MIRRORS, POLICIES, CONFIGS = (
    f"{name}.registrymirror.io" for name in ("registrymirrors", "registrymirrorpolicies", "noderegistryconfigs")
)
LEASES = "leases.coordination.k8s.io"
# account, verbs, resource (and the name of the only object), namespace ("" for cluster-scoped, "*" for all)
ALLOWED = [
    (CONTROLLER, "get list watch", MIRRORS, ""),
    (CONTROLLER, "patch", f"{MIRRORS}/status", ""),
    (CONTROLLER, "get list watch", POLICIES, ""),
    (CONTROLLER, "patch", f"{POLICIES}/status", ""),
    (CONTROLLER, "get list watch create patch delete", CONFIGS, ""),
    (CONTROLLER, "get list watch patch", "nodes", ""),
    (CONTROLLER, "create patch", "events", "default"),
    (CONTROLLER, "get list watch create", "secrets", SYSTEM),
    (CONTROLLER, "get list watch", "configmaps", SYSTEM),
    (CONTROLLER, "get list create delete", "secrets", BUNDLES),
    (CONTROLLER, "create", LEASES, SYSTEM),
    (CONTROLLER, "get update", f"{LEASES} {CONTROLLER}", SYSTEM),
    (AGENT, "get list watch", CONFIGS, ""),
    (AGENT, "patch", f"{CONFIGS}/status", ""),
    (AGENT, "get", "secrets", BUNDLES),
    (AGENT, "get", "leases.coordination.k8s.io", "kube-node-lease"),
]
DENIED = [
    (CONTROLLER, "create update patch delete", MIRRORS, ""),
    (CONTROLLER, "create update patch delete", POLICIES, ""),
    (CONTROLLER, "update", f"{MIRRORS}/status", ""),
    (CONTROLLER, "patch update", f"{CONFIGS}/status", ""),
    (CONTROLLER, "deletecollection", CONFIGS, ""),
    (CONTROLLER, "create update delete", "nodes", ""),
    (CONTROLLER, "patch", "nodes/status", ""),
    (CONTROLLER, "update patch delete", "secrets", SYSTEM),
    (CONTROLLER, "watch update patch", "secrets", BUNDLES),
    (CONTROLLER, "create update patch delete", "configmaps", SYSTEM),
    (CONTROLLER, "get list watch create", "secrets", "default"),
    (CONTROLLER, "get list watch create", "secrets", "kube-system"),
    (CONTROLLER, "get list", "secrets", "*"),
    (CONTROLLER, "get list", "configmaps", "kube-system"),
    (CONTROLLER, "create", "events", "kube-system"),
    (CONTROLLER, "get list watch create", "pods", SYSTEM),
    (CONTROLLER, "get list watch update patch delete", LEASES, SYSTEM),
    (CONTROLLER, "list watch patch delete", f"{LEASES} {CONTROLLER}", SYSTEM),
    (CONTROLLER, "get update", f"{LEASES} another", SYSTEM),
    (CONTROLLER, "get create update", LEASES, "kube-node-lease"),
    (CONTROLLER, "create", "serviceaccounts/token", SYSTEM),
    (CONTROLLER, "get list patch", "customresourcedefinitions.apiextensions.k8s.io", ""),
    (CONTROLLER, "get list patch", "namespaces", ""),
    (CONTROLLER, "create patch bind escalate", "clusterroles.rbac.authorization.k8s.io", ""),
    (AGENT, "create update patch delete", CONFIGS, ""),
    (AGENT, "update", f"{CONFIGS}/status", ""),
    (AGENT, "get list watch patch", MIRRORS, ""),
    (AGENT, "patch", f"{MIRRORS}/status", ""),
    (AGENT, "get list watch", POLICIES, ""),
    (AGENT, "get list watch patch", "nodes", ""),
    (AGENT, "get list watch create", "pods", SYSTEM),
    (AGENT, "list watch create update patch delete", "secrets", BUNDLES),
    (AGENT, "get list watch create", "secrets", SYSTEM),
    (AGENT, "list watch create update patch delete", "leases.coordination.k8s.io", "kube-node-lease"),
    (AGENT, "get", "leases.coordination.k8s.io", SYSTEM),
    (AGENT, "get list", "secrets", "default"),
    (AGENT, "get list", "secrets", "kube-system"),
    (AGENT, "get list", "secrets", "*"),
    (AGENT, "get list", "configmaps", SYSTEM),
    (AGENT, "create", "events", "default"),
    (AGENT, "create", "serviceaccounts/token", SYSTEM),
]


def decisions(cluster: ControlPlane, account: str, verbs: str, resource: str, namespace: str) -> dict[str, str]:
    """Ask the API server about each verb; gives its answers, yes or no."""
    name, _, subresource = resource.partition("/")
    name = name.replace(" ", "/")
    where = ["--all-namespaces"] if namespace in ("", "*") else [f"--namespace={namespace}"]
    who = f"--as=system:serviceaccount:{SYSTEM}:{account}"
    groups = ["--as-group=system:serviceaccounts", "--as-group=system:authenticated"]
    more = [f"--subresource={subresource}"] if subresource else []
    # A denial is exit status 1, as an error is: what it prints tells them apart.
    return {
        verb: cluster.kubectl("auth", "can-i", verb, name, *more, *where, who, *groups, check=False).strip()
        for verb in verbs.split()
    }


@pytest.mark.parametrize(("account", "verbs", "resource", "namespace"), ALLOWED)
def test_a_program_may_do_what_it_needs(
    cluster: ControlPlane, account: str, verbs: str, resource: str, namespace: str
) -> None:
    assert decisions(cluster, account, verbs, resource, namespace) == dict.fromkeys(verbs.split(), "yes")


@pytest.mark.parametrize(("account", "verbs", "resource", "namespace"), DENIED)
def test_a_program_may_not_do_more(
    cluster: ControlPlane, account: str, verbs: str, resource: str, namespace: str
) -> None:
    found = decisions(cluster, account, verbs, resource, namespace)
    assert {verb: answer.split()[0] for verb, answer in found.items()} == dict.fromkeys(verbs.split(), "no")


@pytest.mark.parametrize("account", [CONTROLLER, AGENT])
def test_the_table_of_rights_is_complete(cluster: ControlPlane, account: str) -> None:
    # Not only what we thought of: every rule that is installed for the account stands in ALLOWED, and the reverse.
    objects = [body for body in rendered(cluster, "k3s") if body["apiVersion"] == "rbac.authorization.k8s.io/v1"]
    roles = {(body["kind"], body["metadata"].get("namespace", ""), body["metadata"]["name"]): body for body in objects}
    granted: set[tuple[str, str, str]] = set()
    for body in objects:
        namespace = body["metadata"].get("namespace", "")
        if account not in [subject["name"] for subject in body.get("subjects", [])]:
            continue
        assert [(item["kind"], item["namespace"]) for item in body["subjects"]] == [("ServiceAccount", SYSTEM)]
        for rule in roles[body["roleRef"]["kind"], namespace, body["roleRef"]["name"]]["rules"]:
            assert rule.keys() - {"resourceNames"} == {"apiGroups", "resources", "verbs"}
            (group,) = rule["apiGroups"]
            only = " ".join(["", *rule.get("resourceNames", [])])
            for resource in rule["resources"]:
                name, slash, subresource = resource.partition("/")
                full = f"{name}.{group}" if group else name
                granted |= {(verb, full + slash + subresource + only, namespace) for verb in rule["verbs"]}
    own = [(verbs.split(), resource, namespace) for who, verbs, resource, namespace in ALLOWED if who == account]
    assert granted == {(verb, resource, namespace) for verbs, resource, namespace in own for verb in verbs}


def test_every_object_carries_the_labels(cluster: ControlPlane) -> None:
    for body in rendered(cluster, "k3s"):
        labels = body["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "registry-mirror-operator", body["metadata"]["name"]
        if body["kind"] not in ("Namespace", "CustomResourceDefinition"):
            assert labels["app.kubernetes.io/component"] in ("controller", "agent"), body["metadata"]["name"]
        if body["kind"] in ("Deployment", "DaemonSet"):
            assert body["spec"]["template"]["metadata"]["labels"] == body["spec"]["selector"]["matchLabels"] == labels


@pytest.mark.parametrize(("namespace", "level"), [(SYSTEM, "privileged"), (BUNDLES, "restricted")])
def test_namespaces_name_their_pod_security(cluster: ControlPlane, namespace: str, level: str) -> None:
    path = r"jsonpath={.metadata.labels.pod-security\.kubernetes\.io/enforce}"
    assert cluster.kubectl("get", "namespace", namespace, "-o", path) == level


def test_one_controller_of_two_stays_whatever_is_drained_or_updated(cluster: ControlPlane) -> None:
    objects = rendered(cluster, "k3s")
    (deployment,) = [body for body in objects if body["kind"] == "Deployment"]
    (budget,) = [body for body in objects if body["kind"] == "PodDisruptionBudget"]
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    pod = deployment["spec"]["template"]
    assert budget["spec"] == {"maxUnavailable": 1, "selector": deployment["spec"]["selector"]}
    (spread,) = pod["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert spread["podAffinityTerm"]["labelSelector"] == deployment["spec"]["selector"]
    names = {item["name"]: item["valueFrom"]["fieldRef"]["fieldPath"] for item in pod["spec"]["containers"][0]["env"]}
    assert names["POD_NAME"] == "metadata.name"
    assert pod["spec"]["tolerations"] == [
        {"key": "registrymirror.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}
    ]
