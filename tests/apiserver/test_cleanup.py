"""What cleans up after an uninstall: taken by a real API server, with the directories of its overlay and no rights."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry_mirror.cli import restore
from tests.harness.controlplane import ControlPlane
from tests.harness.pytest_support import require_assets

pytestmark = pytest.mark.apiserver

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
RUNTIMES = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
NAME = "registry-mirror-cleanup"
PAGE = (MANIFESTS.parent / "docs" / "operations.md").read_text()

Object = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane on which one clean-up is installed, and the operator is not."""
    with ControlPlane(tmp_path_factory.mktemp("cleanup"), require_assets(pytestconfig)) as running:
        running.kubectl("apply", f"--kustomize={MANIFESTS / 'cleanup' / 'k3s'}")
        yield running


def rendered(cluster: ControlPlane, kind: str, runtime: str) -> list[Object]:
    text = cluster.kubectl("kustomize", str(MANIFESTS / kind / runtime))
    return [body for body in yaml.safe_load_all(text) if body]


def pod_of(objects: list[Object]) -> Object:
    (spec,) = [body["spec"]["template"]["spec"] for body in objects if body["kind"] == "DaemonSet"]
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_is_in_it_but_pods_that_may_ask_the_api_server_for_nothing(cluster: ControlPlane, runtime: str) -> None:
    objects = rendered(cluster, "cleanup", runtime)
    found = {(body["kind"], body["metadata"]["name"], body["metadata"].get("namespace")) for body in objects}
    inside = {(kind, NAME, NAME) for kind in ("ServiceAccount", "ResourceQuota", "DaemonSet")}
    assert found == {("Namespace", NAME, None), *inside}
    (account,) = [body for body in objects if body["kind"] == "ServiceAccount"]
    assert account["automountServiceAccountToken"] is False
    pod = pod_of(objects)
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == NAME
    assert "env" not in pod["initContainers"][0]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_is_none_of_the_objects_of_the_operator(cluster: ControlPlane, runtime: str) -> None:
    def names(kind: str) -> set[tuple[str, str, str]]:
        bodies = rendered(cluster, kind, runtime)
        return {(b["kind"], b["metadata"].get("namespace", ""), b["metadata"]["name"]) for b in bodies}

    assert not names("cleanup") & names("overlays")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_has_the_directories_and_the_confinement_of_the_agent(cluster: ControlPlane, runtime: str) -> None:
    pod, agents = (pod_of(rendered(cluster, kind, runtime)) for kind in ("cleanup", "overlays"))
    (init,), (done,), (agent,) = pod["initContainers"], pod["containers"], agents["containers"]
    assert pod["volumes"] == agents["volumes"]
    for field in ("volumeMounts", "securityContext", "image"):
        assert init[field] == agent[field], field
    assert pod["tolerations"] == agents["tolerations"]
    assert pod["hostPID"] is True
    assert done["image"] == agent["image"]
    assert "volumeMounts" not in done
    context = done["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_program_takes_the_arguments(cluster: ControlPlane, runtime: str, tmp_path: Path) -> None:
    (init,) = pod_of(rendered(cluster, "cleanup", runtime))["initContainers"]
    assert init["command"] == ["registry-mirror", restore.command.name]
    assert "--root=/host" in init["args"]
    words = [f"--root={tmp_path}" if word == "--root=/host" else word for word in init["args"]]
    found = restore.command.make_context("restore", words).params
    assert (found["runtime"], found["restart"], found["dry_run"]) == (runtime, "never", False)


def test_its_pods_are_selected_by_their_own_labels(cluster: ControlPlane) -> None:
    (body,) = [item for item in rendered(cluster, "cleanup", "k3s") if item["kind"] == "DaemonSet"]
    labels = body["spec"]["template"]["metadata"]["labels"]
    assert labels == body["spec"]["selector"]["matchLabels"] == body["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == "cleanup"


def test_the_page_is_followed_to_the_end(cluster: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "manifests").symlink_to(MANIFESTS)
    section = PAGE.split("\n## Clean up\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = [line.split("    #")[0].strip() for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("kubectl ")]
    assert [line.split()[-1] for line in commands if "-k" in line] == ["manifests/cleanup/k3s"] * 2
    env = {
        **os.environ,
        "KUBECONFIG": str(cluster.admin_kubeconfig),
        "KUBECACHEDIR": str(tmp_path / "cache"),
        "PATH": f"{cluster.assets.kubectl.parent}:{os.environ['PATH']}",
    }
    # What is told of restarts comes before the end.
    for command in sorted(commands, key=lambda line: "delete" in line):
        # No controller-manager runs here that would finish off the namespace, and no node that would run a Pod.
        words = [*shlex.split(command), *(["--wait=false"] if "delete" in command else [])]
        rolled_out(cluster)
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert cluster.kubectl("get", "daemonsets", "--namespace", NAME, "-o", "name") == ""
    assert cluster.kubectl("get", "namespace", NAME, "-o", "jsonpath={.metadata.deletionTimestamp}")


def rolled_out(cluster: ControlPlane) -> None:
    """Have the DaemonSet say that its Pod is there."""
    where = ("daemonset", NAME, f"--namespace={NAME}")
    generation = int(cluster.kubectl("get", *where, "-o", "jsonpath={.metadata.generation}"))
    counts = ("currentNumberScheduled", "desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable")
    status = {"observedGeneration": generation, "numberMisscheduled": 0, "numberReady": 1, **dict.fromkeys(counts, 1)}
    cluster.kubectl("patch", *where, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
