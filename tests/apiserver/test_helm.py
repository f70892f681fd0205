"""The Helm chart on a real API server, with the real Helm: what docs/how-to/helm.md tells, command by command."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.apiserver.charts import CHART, HARBOR, NAME, TEMPLATE, Object, bodies, require_helm
from tests.harness.cluster import BUNDLES, REPOSITORY, SYSTEM, Cluster
from tests.harness.helm import Helm
from tests.harness.pytest_support import require_assets

pytestmark = pytest.mark.apiserver

PAGE = (REPOSITORY / "docs" / "how-to" / "helm.md").read_text()
KINDS = [f"{name}.registrymirror.io" for name in ("noderegistryconfigs", "registrymirrorpolicies", "registrymirrors")]
LABEL = f"app.kubernetes.io/name={NAME}"


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return require_helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A control plane that the tests share."""
    require_assets(pytestconfig)
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def shell(cluster: Cluster, tool: Helm, command: str, cwd: Path) -> str:
    """Run a command as somebody does who has kubectl and helm."""
    env = {
        "HOME": str(tool.home),
        "KUBECONFIG": str(cluster.plane.admin_kubeconfig),
        "KUBECACHEDIR": str(tool.home / "kubectl"),
        "PATH": f"{tool.program.parent}:{cluster.plane.assets.kubectl.parent}:/usr/bin:/bin",
    }
    done = subprocess.run(["bash", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def section(title: str) -> tuple[list[str], list[str]]:
    """The commands, and the YAML, of a section of the page."""
    text = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (found,) = [item for item in text if item.startswith(f"{title}\n")]
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", found, re.MULTILINE | re.DOTALL)
    commands = [line for kind, body in blocks if kind == "sh" for line in body.replace("\\\n", "").splitlines()]
    return commands, [body for kind, body in blocks if kind == "yaml"]


def ours(cluster: Cluster, kinds: str) -> list[str]:
    """What there is of some kinds that has the label of the chart."""
    return cluster.kubectl(
        "get", kinds, "--all-namespaces", "-o", "name", "-l", f"app.kubernetes.io/name={NAME}"
    ).split()


ALL_BUT_CRDS = (
    "clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,deployments,daemonsets,networkpolicies,"
    "resourcequotas,poddisruptionbudgets,validatingadmissionpolicies,validatingadmissionpolicybindings"
)


@pytest.fixture
def cluster(plane: Cluster) -> Iterator[Cluster]:
    """A cluster without anything of the operator."""
    yield plane
    for kinds in (ALL_BUT_CRDS, "crd", "namespaces"):
        plane.kubectl("delete", kinds, "--all-namespaces", "--wait=false", f"--selector={LABEL}")
    finalize(plane)
    # What is applied to one that is still being deleted goes with it.
    plane.until(lambda: ours(plane, ALL_BUT_CRDS) == ours(plane, "crd") == [], "nothing is left")


def finalize(cluster: Cluster) -> None:
    """End the two namespaces, which are being deleted, with all that is in them: no controller-manager runs here."""
    for name in (SYSTEM, BUNDLES):
        if not cluster.kubectl("get", "namespace", name, "--ignore-not-found"):
            continue
        assert cluster.get("namespace", name)["metadata"]["deletionTimestamp"]
        cluster.kubectl("delete", "secrets,pods,leases", "--all", f"--namespace={name}", "--grace-period=0", "--force")
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}}
        cluster.kubectl("replace", "--raw", f"/api/v1/namespaces/{name}/finalize", "-f", "-", input=json.dumps(body))
    cluster.until(lambda: ours(cluster, "namespaces") == [], "the namespaces are gone")


def test_a_life_as_the_page_tells_it(cluster: Cluster, tool: Helm, tmp_path: Path) -> None:
    (tmp_path / "manifests").symlink_to(REPOSITORY / "manifests")
    connected = ("--kubeconfig", str(cluster.plane.admin_kubeconfig))
    install, (operator,) = section("Install")
    upgrade, (mirrors,) = section("Mirrors")
    (tmp_path / "operator.yaml").write_text(operator)
    # Nothing here is to be asked whether it answers.
    given = yaml.safe_load(mirrors)
    given["policy"]["probe"] = {"mode": "Off"}
    (tmp_path / "mirrors.yaml").write_text(yaml.safe_dump(given))

    # What cannot go well is refused before anything is made.
    said = tool.refuses("install", NAME, str(CHART), *connected, values={"runtime": "k3s", **given})
    assert "the cluster has no RegistryMirrors yet" in said
    inside = ("--create-namespace", f"--namespace={SYSTEM}")
    said = tool.refuses("install", NAME, str(CHART), *connected, *inside, values={"runtime": "k3s"})
    assert f"the release is in {SYSTEM}, which this chart makes" in said
    assert cluster.kubectl("get", "namespace", SYSTEM, "--ignore-not-found") == ""

    for command in install:
        shell(cluster, tool, command, tmp_path)
    node = cluster.add_node("pi-1", "k3s")
    before = node.files()
    cluster.start_controller()
    agent = cluster.start_agent("pi-1", "--resync=1", "--runtime=k3s", "--restore-on-uninstall")

    for command in upgrade:
        shell(cluster, tool, command, tmp_path)
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "registrymirror/docker-hub")
    assert cluster.get("registrymirrorpolicy", "default")["spec"]["rollout"]["maxUnavailable"] == "10%"
    assert HARBOR in (node.text("/etc/rancher/k3s/registries.yaml") or "")
    own = {"apiVersion": "registrymirror.io/v1alpha1", "kind": "RegistryMirror", "metadata": {"name": "own"}}
    cluster.apply({**own, "spec": {"registry": "quay.io", "endpoints": [{"url": "https://quay.example.com"}]}})
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "registrymirror/own")

    (look,), _ = section("Upgrade")
    assert shell(cluster, tool, look, tmp_path) == "", "nothing differs"
    newer = tmp_path / "newer"
    shutil.copytree(CHART, newer)
    crds = newer / "templates" / "crds" / "registrymirrors.yaml"
    crds.write_text(crds.read_text().replace("categories: [registry-mirror]", "categories: [registry-mirror, newer]"))
    shell(cluster, tool, upgrade[0].replace(f"manifests/helm/{NAME}", str(newer)), tmp_path)
    assert cluster.get("crd", KINDS[2])["spec"]["names"]["categories"] == ["registry-mirror", "newer"]
    assert cluster.get("registrymirror", "docker-hub")["metadata"]["generation"] == 1

    # In a hurry: without waiting; and an agent is told to end when its DaemonSet is gone, whatever is still there.
    *before_that, uninstall, forget = section("Uninstall")[0]
    readme = (REPOSITORY / "README.md").read_text()
    assert "\n".join([*before_that, "kubectl delete -k"]) in readme, "tests/nodes/test_install.py does it"
    cluster.controllers["controller"].stop()
    environment = {"HOME": str(tool.home), "KUBECONFIG": str(cluster.plane.admin_kubeconfig)}
    with subprocess.Popen([tool.program, *shlex.split(uninstall)[1:]], env=environment) as running:
        look_for = ("get", "daemonset", "registry-mirror-agent", f"--namespace={SYSTEM}", "--ignore-not-found")
        cluster.until(lambda: cluster.kubectl(*look_for) == "", "the DaemonSet is gone")
        agent.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    agent.wait(60)
    assert node.files() == before
    assert ours(cluster, ALL_BUT_CRDS) == []
    assert ours(cluster, "crd") == [f"customresourcedefinition.apiextensions.k8s.io/{name}" for name in KINDS]
    left = cluster.kubectl("get", "registrymirrors,registrymirrorpolicies", "-o", "name").split()
    assert left == ["registrymirror.registrymirror.io/own"]
    finalize(cluster)

    # It can come back over the CRDs that stayed; and without it, these can go.
    for command in (install[0], uninstall, forget):
        shell(cluster, tool, command, tmp_path)
    assert ours(cluster, f"crd,{ALL_BUT_CRDS}") == []


def test_what_argo_cd_applies_differs_from_nothing_afterwards(cluster: Cluster, tool: Helm) -> None:
    _, (text,) = section("Argo CD and Flux")
    application = yaml.safe_load(text)
    source = application["spec"]["source"]
    plain = yaml.safe_load((REPOSITORY / "manifests/argocd/application.yaml").read_text())
    for key in ("path", "kustomize"):
        del plain["spec"]["source"][key]
    assert (REPOSITORY / source["path"]) == CHART
    others = {key: value for key, value in source.items() if key not in ("path", "helm")}
    assert {**application, "spec": {**application["spec"], "source": others}} == plain

    rendered = tool(*TEMPLATE, values=source["helm"]["valuesObject"])
    waves: dict[int, list[Object]] = {}
    for body in bodies(rendered):
        annotations = body["metadata"].get("annotations", {})
        waves.setdefault(int(annotations.get("argocd.argoproj.io/sync-wave", "0")), []).append(body)
    assert {body["kind"] for body in waves[1]} == {"RegistryMirror"}

    def apply() -> None:
        for _, wave in sorted(waves.items()):
            cluster.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(wave))
            names = [f"crd/{body['metadata']['name']}" for body in wave if body["kind"] == "CustomResourceDefinition"]
            if names:
                cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)

    apply()
    before = versions(cluster, rendered)
    # kubectl diff ends with exit status 1, an error here, if there is a difference.
    assert cluster.kubectl("diff", "--server-side", "-f", "-", input=rendered) == ""
    apply()
    assert versions(cluster, rendered) == before


def versions(cluster: Cluster, text: str) -> dict[str, str]:
    """The objects of a text by their uid, and their version."""
    found = json.loads(cluster.kubectl("get", "-o", "json", "-f", "-", input=text))["items"]
    return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in found}


def test_helm_takes_over_what_kustomize_made(cluster: Cluster, tool: Helm, tmp_path: Path) -> None:
    (tmp_path / "manifests").symlink_to(REPOSITORY / "manifests")
    _, (operator,) = section("Install")
    (tmp_path / "operator.yaml").write_text(operator)
    overlay = f"--kustomize={REPOSITORY / 'manifests/overlays/k3s'}"
    cluster.kubectl("apply", overlay)

    def found() -> dict[str, Object]:
        """By uid, all that is neither metadata nor status."""
        items = json.loads(cluster.kubectl("get", overlay, "-o", "json"))["items"]
        return {
            item["metadata"]["uid"]: {key: item[key] for key in item.keys() - {"metadata", "status"}} for item in items
        }

    before = found()
    (command,), _ = section("From kustomize to Helm")
    shell(cluster, tool, command, tmp_path)
    assert found() == before
    assert NAME in tool("list", "--namespace=default", "--kubeconfig", str(cluster.plane.admin_kubeconfig), "--short")
