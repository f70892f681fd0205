"""What is installed must be accepted by a real API server, and give each program the rights it needs and no others.

RBAC that is too wide breaks no other test; so the table here names what each account must not do, and the API server's
own authorizer answers.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from registry_mirror.agent.absence_script import VOLUME
from registry_mirror.cli import agent, controller
from registry_mirror.cli.cluster import connect
from registry_mirror.cli.seed_sources import from_cluster, mirrors_of
from tests.apiserver.foreign import FOREIGN, crd
from tests.harness.controlplane import ControlPlane
from tests.harness.kubectl import KubectlError
from tests.harness.pytest_support import require_assets, require_skopeo

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


PRIORITIES = ["system-node-critical", "system-cluster-critical"]
# A cluster as strict as there are: Pods are to be restricted unless a namespace says otherwise, and those of critical
# priority take a quota, as on GKE.
STRICT: Object = {
    "apiVersion": "apiserver.config.k8s.io/v1",
    "kind": "AdmissionConfiguration",
    "plugins": [
        {
            "name": "PodSecurity",
            "configuration": {
                "apiVersion": "pod-security.admission.config.k8s.io/v1",
                "kind": "PodSecurityConfiguration",
                "defaults": dict.fromkeys(("enforce", "audit", "warn"), "restricted"),
            },
        },
        {
            "name": "ResourceQuota",
            "configuration": {
                "apiVersion": "apiserver.config.k8s.io/v1",
                "kind": "ResourceQuotaConfiguration",
                "limitedResources": [
                    {
                        "resource": "pods",
                        "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": PRIORITIES}],
                    }
                ],
            },
        },
    ],
}


@pytest.fixture(scope="module")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A strict control plane on which one overlay is installed."""
    work = tmp_path_factory.mktemp("manifests")
    (work / "admission.yaml").write_text(yaml.safe_dump(STRICT))
    flags = [f"--admission-control-config-file={work / 'admission.yaml'}"]
    with ControlPlane(work, require_assets(pytestconfig), apiserver_flags=flags) as running:
        install(running, "k3s")
        for namespace in ("strict", SYSTEM):
            running.kubectl("create", "namespace", namespace, check=False)
            running.kubectl("create", "serviceaccount", "default", f"--namespace={namespace}")
        yield running


def install(cluster: ControlPlane, overlay: str, *flags: str) -> str:
    return cluster.kubectl("apply", f"--kustomize={ROOT / 'manifests' / 'overlays' / overlay}", *flags)


@functools.cache
def kustomize(cluster: ControlPlane, directory: str) -> list[Object]:
    return [body for body in yaml.safe_load_all(cluster.kubectl("kustomize", str(ROOT / directory))) if body]


def rendered(cluster: ControlPlane, overlay: str) -> list[Object]:
    return kustomize(cluster, f"manifests/overlays/{overlay}")


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


MANIFESTS = ROOT / "manifests"
# Every directory that kubectl apply -k can be given, and every one that only adds to others.
APPLIED, COMPONENTS = (
    sorted(
        str(path.parent.relative_to(ROOT))
        for directory in (MANIFESTS, ROOT / "crds")
        for path in directory.rglob("kustomization.yaml")
        if yaml.safe_load(path.read_text())["kind"] == kind
    )
    for kind in ("Kustomization", "Component")
)
# Files that are applied by themselves: tests/apiserver/test_gitops.py.
SINGLE = {"manifests/argocd/application.yaml", "manifests/argocd/argocd-cm.yaml"}


@pytest.fixture(scope="module")
def with_others(cluster: ControlPlane) -> ControlPlane:
    """The same with what a dry run needs: the kinds of the Prometheus Operator, and the namespace of the clean-up."""
    kinds = [crd(kind) for kind in FOREIGN]
    (namespace,) = [body for body in kustomize(cluster, "manifests/cleanup/k3s") if body["kind"] == "Namespace"]
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([*kinds, namespace]))
    names = [f"crd/{body['metadata']['name']}" for body in kinds]
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return cluster


@pytest.mark.parametrize("directory", APPLIED)
def test_the_api_server_takes_it_without_a_warning(with_others: ControlPlane, directory: str) -> None:
    # A warning here would be shown to everybody who installs.
    where = f"--kustomize={ROOT / directory}"
    said = with_others.kubectl("apply", where, "--dry-run=server", "--warnings-as-errors").splitlines()
    assert len(said) == len(kustomize(with_others, directory)) > 0


@pytest.mark.parametrize("component", [item for item in COMPONENTS if "cleanup" not in item])
def test_the_api_server_takes_an_overlay_with_the_component(
    cluster: ControlPlane, component: str, tmp_path: Path
) -> None:
    overlay = "manifests/overlays/containerd"
    both: Object = {}
    for key, directory in (("resources", overlay), ("components", component)):
        both[key] = [os.path.relpath(ROOT / directory, tmp_path.resolve())]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(both))
    said = cluster.kubectl("apply", f"--kustomize={tmp_path}", "--dry-run=server", "--warnings-as-errors").splitlines()
    found = list(yaml.safe_load_all(cluster.kubectl("kustomize", str(tmp_path))))
    assert len(said) == len(found)
    assert found != kustomize(cluster, overlay), "it changes something"


def test_every_file_is_part_of_something_that_is_applied() -> None:
    used = set(SINGLE)
    for directory in (*APPLIED, *COMPONENTS):
        body = yaml.safe_load((ROOT / directory / "kustomization.yaml").read_text())
        names = [*body.get("resources", ()), *(item.get("path", "") for item in body.get("patches", ()))]
        names += ["kustomization.yaml", *body.get("components", ())]
        used |= {os.path.relpath(ROOT / directory / name, ROOT) for name in names if name}
    there = {str(path.relative_to(ROOT)) for base in ("manifests", "crds") for path in (ROOT / base).rglob("*.yaml")}
    there = {path for path in there if not path.startswith("manifests/helm/")}
    assert there - used == set()
    # Components are there for something: for the clean-up, for a directory that is applied, or for a user to add.
    assert {path for path in COMPONENTS if path not in used} == {
        "manifests/argocd/waves",
        "manifests/components/openrc",
        "manifests/components/unconfined",
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_mounts_the_paths_of_its_runtime_and_no_others(cluster: ControlPlane, overlay: str) -> None:
    objects = rendered(cluster, overlay)
    pod = pod_of(objects, "DaemonSet")
    volumes = {item["name"]: item["hostPath"] for item in pod["volumes"] if item["name"] != VOLUME}
    assert {path["path"]: path["type"] for path in volumes.values()} == {**OVERLAYS[overlay], **STATE}
    (container,) = pod["containers"]
    mounts = {item["name"]: item["mountPath"] for item in container["volumeMounts"] if item["name"] != VOLUME}
    assert len(mounts) == len(container["volumeMounts"]) - 1, "the volume by which the host knows the agent's Pod"
    assert mounts == {name: f"/host{path['path']}" for name, path in volumes.items()}
    assert container["command"] == ["registry-mirror", "agent"]
    assert container["args"] == [
        "--node-name=$(NODE_NAME)",
        "--host-root=/host",
        f"--bundle-namespace={BUNDLES}",
        "--restore-on-uninstall",
        "--restore-when-gone=24h",
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


def start(cluster: ControlPlane, kind: str, namespace: str, **changed: Any) -> str:
    """What the API server says to a Pod of a template in a namespace, as a dry run; empty if it takes the Pod."""
    spec = {**pod_of(rendered(cluster, "k3s"), kind), "serviceAccountName": "default", **changed}
    pod = yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": spec})
    try:
        cluster.kubectl("create", f"--namespace={namespace}", "--dry-run=server", "-f", "-", input=pod)
    except KubectlError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_only_the_agent_needs_a_privileged_namespace(cluster: ControlPlane, kind: str) -> None:
    # Tried with Pods of the two templates, which Pod Security checks at creation.
    said = start(cluster, kind, "strict", priorityClassName="")
    assert ('violates PodSecurity "restricted' in said) == (kind == "DaemonSet")
    assert bool(said) == (kind == "DaemonSet")
    assert start(cluster, kind, SYSTEM) == ""


def test_pods_of_critical_priority_come_with_the_quota_that_some_clusters_want(cluster: ControlPlane) -> None:
    objects = rendered(cluster, "k3s")
    found = {kind: pod_of(objects, kind)["priorityClassName"] for kind in ("DaemonSet", "Deployment")}
    assert found == {"DaemonSet": "system-node-critical", "Deployment": "system-cluster-critical"}
    assert "insufficient quota to match these scopes" in start(cluster, "Deployment", "strict")
    # It counts nothing: as many Pods as there are nodes.
    (quota,) = [body for body in objects if body["kind"] == "ResourceQuota"]
    assert "hard" not in quota["spec"]


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
    path, _, name = resource.partition(" ")
    path, _, subresource = path.partition("/")
    plural, _, group = path.partition(".")
    asked = {"group": group, "resource": plural, "subresource": subresource, "name": name}
    asked["namespace"] = "" if namespace == "*" else namespace
    review: Object = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    reviews = [{**review, "spec": {"resourceAttributes": {**asked, "verb": verb}}} for verb in verbs.split()]
    who = f"--as=system:serviceaccount:{SYSTEM}:{account}"
    groups = ["--as-group=system:serviceaccounts", "--as-group=system:authenticated"]
    shown = "jsonpath={.spec.resourceAttributes.verb} {.status.allowed} "
    # Without validation, for which kubectl would list CRDs.
    flags = ("--validate=false", f"--output={shown}", who, *groups)
    said = cluster.kubectl("create", "-f", "-", *flags, input=yaml.safe_dump_all(reviews)).split()
    answers = {"true": "yes", "false": "no"}
    return {verb: answers[allowed] for verb, allowed in zip(said[::2], said[1::2], strict=True)}


@pytest.mark.parametrize(("account", "verbs", "resource", "namespace"), ALLOWED)
def test_a_program_may_do_what_it_needs(
    cluster: ControlPlane, account: str, verbs: str, resource: str, namespace: str
) -> None:
    assert decisions(cluster, account, verbs, resource, namespace) == dict.fromkeys(verbs.split(), "yes")


@pytest.mark.parametrize(("account", "verbs", "resource", "namespace"), DENIED)
def test_a_program_may_not_do_more(
    cluster: ControlPlane, account: str, verbs: str, resource: str, namespace: str
) -> None:
    assert decisions(cluster, account, verbs, resource, namespace) == dict.fromkeys(verbs.split(), "no")


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
            assert labels["app.kubernetes.io/component"] in ("controller", "agent", "people"), body["metadata"]["name"]
        if body["kind"] in ("Deployment", "DaemonSet"):
            assert body["spec"]["template"]["metadata"]["labels"] == body["spec"]["selector"]["matchLabels"] == labels


@pytest.mark.parametrize(("namespace", "level"), [(SYSTEM, "privileged"), (BUNDLES, "restricted")])
def test_namespaces_name_their_pod_security(cluster: ControlPlane, namespace: str, level: str) -> None:
    labels = json.loads(cluster.kubectl("get", "namespace", namespace, "-o", "json"))["metadata"]["labels"]
    found = {mode: labels.get(f"pod-security.kubernetes.io/{mode}") for mode in ("enforce", "audit", "warn")}
    assert found == dict.fromkeys(found, level)


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_only_pods_that_ask_for_it_have_a_token(cluster: ControlPlane, kind: str) -> None:
    objects = rendered(cluster, "k3s")
    accounts = {body["metadata"]["name"]: body for body in objects if body["kind"] == "ServiceAccount"}
    pod = pod_of(objects, kind)
    assert accounts[pod["serviceAccountName"]]["automountServiceAccountToken"] is False
    assert pod["automountServiceAccountToken"] is True
    assert pod["enableServiceLinks"] is False


def test_only_the_port_for_prometheus_is_open(cluster: ControlPlane) -> None:
    objects = rendered(cluster, "k3s")
    (deployment,) = [body for body in objects if body["kind"] == "Deployment"]
    policies = {body["metadata"]["namespace"]: body["spec"] for body in objects if body["kind"] == "NetworkPolicy"}
    assert policies.keys() == {SYSTEM, BUNDLES}
    assert policies[BUNDLES] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policy = policies[SYSTEM]
    assert policy["podSelector"] == deployment["spec"]["selector"]
    assert policy["policyTypes"] == ["Ingress"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert policy["ingress"] == [{"ports": [{"port": port["name"], "protocol": "TCP"}]}]
    assert f"--http-address=0.0.0.0:{port['containerPort']}" in container["args"]


def test_the_egress_policy_of_the_page_is_one_for_the_controller(cluster: ControlPlane) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    (policy,) = [
        body
        for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        for body in yaml.safe_load_all(block)
        if body.get("kind") == "NetworkPolicy"
    ]
    (deployment,) = [body for body in rendered(cluster, "k3s") if body["kind"] == "Deployment"]
    assert policy["spec"]["podSelector"] == deployment["spec"]["selector"]
    assert policy["metadata"]["namespace"] == SYSTEM
    cluster.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(policy))


def test_a_version_that_ends_soon_after_its_start_goes_no_further(cluster: ControlPlane) -> None:
    (body,) = [body for body in rendered(cluster, "k3s") if body["kind"] == "DaemonSet"]
    assert body["spec"]["minReadySeconds"] == 10
    assert body["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}
    assert body["spec"]["template"]["spec"]["tolerations"] == [{"operator": "Exists"}]


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
        {"key": "registrymirror.io/not-ready", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"},
        {"key": "node-role.kubernetes.io/etcd", "operator": "Exists"},
        {"key": "CriticalAddonsOnly", "operator": "Exists"},
    ]


SEED = "registry-mirror-seed"
SEED_ALLOWED = [
    ("list", "pods", "*"),
    ("list", "replicationcontrollers", "*"),
    *(("list", f"{plural}.apps", "*") for plural in ("deployments", "statefulsets", "daemonsets")),
    *(("list", f"{plural}.batch", "*") for plural in ("cronjobs", "jobs")),
    ("list", MIRRORS, ""),
    ("get", "configmaps", SYSTEM),
]
SEED_DENIED = [
    ("get list watch create patch", "secrets", SYSTEM),
    ("get", "secrets", "default"),
    ("get watch create delete patch", "pods", SYSTEM),
    ("list", "configmaps", SYSTEM),
    ("get", "configmaps", "kube-system"),
    ("create patch delete", MIRRORS, ""),
    ("list", "nodes", ""),
]
SEEDED: Object = {
    "apiVersion": "registrymirror.io/v1alpha1",
    "kind": "RegistryMirror",
    "metadata": {"name": "seeded"},
    "spec": {
        "registry": "quay.io",
        "endpoints": [
            {
                "url": "https://registry.example.com",
                "credentialsRef": {"name": "robot"},
                "tls": {"caRef": {"kind": "ConfigMap", "name": "internal-ca"}},
            }
        ],
    },
}


def test_the_job_that_seeds_is_taken_and_may_read_what_it_needs(
    cluster: ControlPlane, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    objects = kustomize(cluster, "manifests/seed")
    cluster.kubectl("apply", "--server-side", f"--kustomize={ROOT / 'manifests' / 'seed'}")
    (job,) = [body for body in objects if body["kind"] == "Job"]
    spec = {**job["spec"]["template"]["spec"], "serviceAccountName": "default"}
    pod = yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": spec})
    cluster.kubectl("create", "--namespace=strict", "--dry-run=server", "-f", "-", input=pod)
    ca = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "internal-ca", "namespace": SYSTEM}}
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([SEEDED, {**ca, "data": {"ca.crt": "a CA"}}]))
    kubeconfig = str(cluster.service_account_kubeconfig(SYSTEM, SEED))

    async def look() -> None:
        async with await connect(kubeconfig, "") as api:
            images, notes = await from_cluster(api)
            names = {image.name.rpartition("/")[2] for image in images}
            assert {"registry-mirror-operator:0.1.0", "registry-mirror-seed:0.1.0"} <= names
            assert notes == []
            loaded, notes = await mirrors_of(api)
            assert set(loaded.mirrors) == {"seeded"}
            assert loaded.sources["ConfigMap", "internal-ca"].data == {"ca.crt": b"a CA"}
            assert notes == [f"Secret {SYSTEM}/robot may not be read: give its content by --to-ca, --to-authfile"]

    asyncio.run(look())
    # What the Job runs. Nothing in this cluster is to be copied: no mirror is for what it runs.
    (container,) = spec["containers"]
    words = [sys.executable, "-m", "registry_mirror.cli.main", *container["command"][1:], *container["args"]]
    path = f"{require_skopeo(pytestconfig, tmp_path)}:{os.environ['PATH']}"
    for where, note in (
        ([], "images of registry.example.com itself are left out: "),
        (["--to=other.example.com"], "left out: registry.example.com/registry-mirror-operator:0.1.0: there is no Reg"),
    ):
        done = subprocess.run(
            [*words, *where, f"--kubeconfig={kubeconfig}"],
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
        )
        assert (done.returncode, done.stdout) == (0, "nothing to copy\n"), done.stderr
        assert f"note: {note}" in done.stderr


@pytest.mark.parametrize(
    ("answer", "table"), [("yes", SEED_ALLOWED), ("no", SEED_DENIED)], ids=["what it needs", "no more"]
)
def test_the_job_that_seeds_may_do(cluster: ControlPlane, answer: str, table: list[tuple[str, str, str]]) -> None:
    cluster.kubectl("apply", "--server-side", f"--kustomize={ROOT / 'manifests' / 'seed'}")
    for verbs, resource, namespace in table:
        assert decisions(cluster, SEED, verbs, resource, namespace) == dict.fromkeys(verbs.split(), answer), resource
