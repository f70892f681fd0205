"""Nothing that the operator writes may look like drift to a GitOps tool, and what the documents say must work."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apiserver.foreign import FOREIGN, crd
from tests.gitops import argocd, kstatus
from tests.harness.cluster import REPOSITORY, SYSTEM, Cluster, mirror

pytestmark = pytest.mark.apiserver

DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def with_tools(cluster: Cluster) -> Cluster:
    """A cluster with the kinds of Argo CD and the Prometheus Operator, and Argo CD's ConfigMap."""
    cluster.apply(*(crd(kind) for kind in FOREIGN))
    names = [f"crd/{plural}.{group}" for plural, group, _ in FOREIGN.values()]
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    cluster.kubectl("create", "namespace", "argocd")
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm", "namespace": "argocd"}}
    cluster.apply({**config, "data": {"url": "https://argocd.example.com"}})
    return cluster


@pytest.fixture(autouse=True)
def clean(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.kubectl("delete", "registrymirrors", "--all")
    cluster.policy()


def policy(**rollout: Any) -> dict[str, Any]:
    """A policy that sets little, so that the defaults of the schema are added to it."""
    return {
        "apiVersion": "registrymirror.io/v1alpha1",
        "kind": "RegistryMirrorPolicy",
        "metadata": {"name": "default"},
        "spec": {"probe": {"mode": "Off"}, "rollout": rollout},
    }


def written_by_the_controller(body: dict[str, Any]) -> set[str]:
    """The top-level fields that somebody else than kubectl owns."""
    return {
        field.removeprefix("f:")
        for entry in body["metadata"]["managedFields"]
        if not entry["manager"].startswith("kubectl")
        for field in entry["fieldsV1"]
    }


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_what_was_applied_shows_no_difference_after_it_was_reconciled(cluster: Cluster, flags: tuple[str, ...]) -> None:
    documents = [
        mirror("hub", "docker.io", "https://harbor.example.com/v2/dockerhub"),
        mirror("loser", "docker.io", "https://other.example.com", priority=-1),
        mirror("broken", "quay.io", upstream={"credentialsRef": {"name": "not-there"}}),
    ]
    if not flags:  # the policy was made by an apply of that way
        documents.append(policy(maxUnavailable=2))
    text = "\n---\n".join(json.dumps(item) for item in documents)
    cluster.kubectl("apply", *flags, "-f", "-", input=text)
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "rmir/hub")
    cluster.kubectl("wait", "--for=condition=Stalled", "--timeout=30s", "rmir/loser")
    cluster.until(lambda: cluster.condition("broken").get("reason") == "ReferenceNotFound", "broken says so")

    # kubectl diff ends with exit status 1, an error here, if there is a difference.
    assert cluster.kubectl("diff", *flags, "-f", "-", input=text) == ""
    for item in documents:
        kind, name = item["kind"], item["metadata"]["name"]
        body = cluster.get(kind, name, "--show-managed-fields")
        if kind == "RegistryMirror":
            assert written_by_the_controller(body) == {"status"}, name
            assert body["metadata"]["generation"] == 1
        else:
            assert written_by_the_controller(body) <= {"status"}, name
        assert "finalizers" not in body["metadata"]
        assert set(body["metadata"].get("annotations", ())) <= {"kubectl.kubernetes.io/last-applied-configuration"}


def test_what_the_controller_makes_is_nobody_elses(cluster: Cluster) -> None:
    # Labels and annotations are how Argo CD and Flux know what is theirs to prune.
    cluster.apply(mirror("hub", "docker.io", "https://harbor.example.com"))
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "rmir/hub")
    for config in cluster.get("noderegistryconfigs")["items"]:
        assert "labels" not in config["metadata"]
        assert "annotations" not in config["metadata"]
        assert [owner["kind"] for owner in config["metadata"]["ownerReferences"]] == ["Node"]


def test_health_of_real_objects(cluster: Cluster) -> None:
    def health(kind: str, name: str) -> tuple[str, str]:
        body = cluster.get(kind, name)
        return argocd.health(kind, body)[0], kstatus.compute(body)

    cluster.apply(policy(), mirror("hub", "docker.io", "https://harbor.example.com"))
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "rmir/hub")
    assert health("RegistryMirror", "hub") == ("Healthy", "Current")
    cluster.until(lambda: health("RegistryMirrorPolicy", "default") == ("Healthy", "Current"), "the policy is healthy")
    for node in cluster.nodes:
        cluster.until(lambda node=node: health("NodeRegistryConfig", node)[0] == "Healthy", node)  # type: ignore[misc]

    cluster.apply(policy(paused=True), mirror("hub", "docker.io", "https://other.example.com"))
    cluster.until(lambda: health("RegistryMirror", "hub") == ("Suspended", "InProgress"), "hub is suspended")
    assert health("RegistryMirrorPolicy", "default")[0] == "Suspended"


def test_the_controller_serves_what_dashboard_and_alerts_ask_for(cluster: Cluster) -> None:
    cluster.apply(mirror("hub", "docker.io", "https://harbor.example.com"))
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "rmir/hub")
    wanted = {
        'registry_mirror_condition{mirror="hub",reason="Applied",status="True",type="Ready"} 1.0',
        'registry_mirror_nodes{mirror="hub",state="applied"} 3.0',
        'registry_mirror_rollout_nodes{state="current"} 3.0',
        'registry_mirror_rollout_nodes{state="failed"} 0.0',
        'registry_mirror_rolled_back_nodes{result="RolledBack"} 0.0',
        'registry_mirror_restarts_total{result="Succeeded"} 0.0',
    }

    def served() -> set[str]:
        return set(cluster.http_get("/metrics").splitlines())

    cluster.until(lambda: wanted <= served(), "the metrics tell of the mirror and its nodes")
    cluster.kubectl("delete", "registrymirror", "hub")
    cluster.until(lambda: not any('mirror="hub"' in line for line in served()), "they tell of it no more")


def commands(page: str) -> list[str]:
    """The commands of all sh blocks of a page, one a line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", ["gitops.md", "monitoring.md"])
def test_the_commands_of_the_documents_work(with_tools: Cluster, page: str, tmp_path: Path) -> None:
    plane = with_tools.plane
    env = {
        **os.environ,
        "KUBECONFIG": str(plane.admin_kubeconfig),
        "KUBECACHEDIR": str(tmp_path),
        "PATH": f"{plane.assets.kubectl.parent}:{os.environ['PATH']}",
    }
    for command in commands(page):
        done = subprocess.run(
            ["bash", "-c", command], cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_patch_leaves_argocds_own_settings_and_adds_the_health_checks(with_tools: Cluster) -> None:
    patch = f"--patch-file={argocd.CONFIG}"
    with_tools.kubectl("patch", "configmap", "argocd-cm", "--namespace=argocd", patch)
    data = with_tools.get("configmap", "argocd-cm", "--namespace=argocd")["data"]
    assert data.pop("url") == "https://argocd.example.com"
    assert data == {f"resource.customizations.health.{key}": text for key, text in argocd.scripts().items()}


def test_monitoring_is_taken_and_unchanged_when_applied_again(with_tools: Cluster) -> None:
    for _ in range(2):
        said = with_tools.kubectl("apply", "-k", str(REPOSITORY / "manifests" / "monitoring"))
    assert [line for line in said.splitlines() if not line.endswith(" unchanged")] == []
    found = with_tools.get("configmaps", "-l", "grafana_dashboard", f"--namespace={SYSTEM}")["items"]
    assert [list(item["data"]) for item in found] == [["registry-mirror.json"]]


def kustomize(cluster: Cluster, directory: Path) -> dict[tuple[str, str], dict[str, Any]]:
    objects = yaml.safe_load_all(cluster.kubectl("kustomize", str(directory)))
    return {(body["kind"], body["metadata"]["name"]): body for body in objects}


def test_the_application_adds_sync_waves_and_changes_nothing_else(bare_cluster: Cluster, tmp_path: Path) -> None:
    source = yaml.safe_load((REPOSITORY / "manifests/argocd/application.yaml").read_text())["spec"]["source"]
    overlay = REPOSITORY / source["path"]
    components = [(overlay / item).resolve() for item in source["kustomize"]["components"]]
    file = {
        "resources": [os.path.relpath(overlay, tmp_path.resolve())],
        "components": [os.path.relpath(item, tmp_path.resolve()) for item in components],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(file))

    plain, waved = kustomize(bare_cluster, overlay), kustomize(bare_cluster, tmp_path)
    waves = {}
    for key, body in waved.items():
        added = body["metadata"].pop("annotations", {})
        waves[key] = int(added.get("argocd.argoproj.io/sync-wave", "0"))
        kept = added.get("argocd.argoproj.io/sync-options") == "Prune=false"
        assert kept == (key[0] in ("Namespace", "CustomResourceDefinition")), key
    assert waved == plain
    policies = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    expected = {"Namespace": -2, "CustomResourceDefinition": -1, **dict.fromkeys(policies, -1)}
    assert waves == {key: expected.get(key[0], 0) for key in waves}
    assert {kind for kind, _ in waves} > expected.keys()


def test_waves_and_clusters_without_policies_go_together(bare_cluster: Cluster, tmp_path: Path) -> None:
    def names(*components: str) -> set[tuple[str, str]]:
        file = {
            "resources": [os.path.relpath(REPOSITORY / "manifests/overlays/k3s", tmp_path.resolve())],
            "components": [os.path.relpath(REPOSITORY / "manifests" / item, tmp_path.resolve()) for item in components],
        }
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(file))
        return set(kustomize(bare_cluster, tmp_path))

    both = names("argocd/waves", "components/unconfined")
    assert both == names("components/unconfined", "argocd/waves") == names("components/unconfined")
    assert both < names("argocd/waves")


def test_flux_is_given_paths_that_exist() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "gitops.md").read_text(), re.MULTILINE | re.DOTALL)
    operator, mirrors = yaml.safe_load_all(block)
    assert (REPOSITORY / operator["spec"]["path"] / "kustomization.yaml").exists()
    assert [item["name"] for item in mirrors["spec"]["dependsOn"]] == [operator["metadata"]["name"]]
    assert operator["spec"]["wait"]
    assert mirrors["spec"]["wait"]
