"""The Helm chart as the real Helm renders it: the objects of the kustomize manifests, and an answer to wrong values."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry_mirror import __version__
from tests.apiserver.charts import CHART, HARBOR, NAME, TEMPLATE, Object, bodies, require_helm
from tests.harness.cluster import REPOSITORY, SYSTEM
from tests.harness.helm import Helm
from tests.harness.pytest_support import require_assets

pytestmark = pytest.mark.apiserver

RUNTIMES = sorted(path.name for path in (REPOSITORY / "manifests" / "overlays").iterdir())

Key = tuple[str, str, str]


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return require_helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="module")
def kubectl(pytestconfig: pytest.Config) -> Path:
    return require_assets(pytestconfig).kubectl


def rendered(tool: Helm, **values: object) -> str:
    return tool(*TEMPLATE, values={"runtime": "k3s", **values})


# ---- the same as kustomize -------------------------------------------------------------------------------------------


def kustomized(
    kubectl: Path, work: Path, resources: Sequence[str], components: Sequence[str] = ()
) -> dict[Key, Object]:
    """What kustomize makes of directories of manifests/."""
    lists = {"resources": resources, "components": components}
    directories = {
        key: [os.path.relpath(REPOSITORY / "manifests" / name, work.resolve()) for name in names]
        for key, names in lists.items()
    }
    (work / "kustomization.yaml").write_text(yaml.safe_dump(directories))
    done = subprocess.run([kubectl, "kustomize", work], capture_output=True, text=True, timeout=60, check=True)
    return by_name(done.stdout)


def by_name(text: str) -> dict[Key, Object]:
    found = {}
    for body in bodies(text):
        key = (body["kind"], body["metadata"].get("namespace", ""), body["metadata"]["name"])
        assert key not in found, "twice"
        found[key] = unordered(body)
    return found


def unordered(value: Any) -> Any:
    """The same with lists of named things sorted by name: volumes, mounts, variables.

    And without empty lines: kustomize adds them to folded text (>-) that has lines indented further.
    """
    if isinstance(value, dict):
        return {key: unordered(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [unordered(item) for item in value]
        named = all(isinstance(item, dict) and "name" in item for item in items)
        return sorted(items, key=lambda item: str(item["name"])) if named else items
    return re.sub(r"\n\n+", "\n", value) if isinstance(value, str) else value


def without_keep(objects: dict[Key, Object]) -> dict[Key, Object]:
    """The objects less the only thing that the chart adds."""
    for key, body in objects.items():
        annotations = body["metadata"].get("annotations", {})
        assert (annotations.pop("helm.sh/resource-policy", "") == "keep") == (key[0] == "CustomResourceDefinition")
        if annotations == {}:
            body["metadata"].pop("annotations", None)
    return objects


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_objects_are_those_of_the_overlay(tool: Helm, kubectl: Path, runtime: str, tmp_path: Path) -> None:
    expected = kustomized(kubectl, tmp_path, [f"overlays/{runtime}"])
    assert without_keep(by_name(rendered(tool, runtime=runtime))) == expected


COMPONENTS: list[tuple[list[str], Object]] = [
    (["openrc"], {"openrc": True}),
    (["unconfined"], {"unconfined": True}),
    (["openrc", "unconfined"], {"openrc": True, "unconfined": True}),
]


@pytest.mark.parametrize(("components", "values"), COMPONENTS, ids=lambda item: "-".join(item))
def test_a_component_is_a_value(
    tool: Helm, kubectl: Path, components: list[str], values: Object, tmp_path: Path
) -> None:
    runtime = RUNTIMES[len(components) + components.index(components[-1])]
    expected = kustomized(kubectl, tmp_path, [f"overlays/{runtime}"], [f"components/{name}" for name in components])
    assert without_keep(by_name(rendered(tool, runtime=runtime, **values))) == expected


def test_monitoring_and_the_waves_of_argo_cd_are_values(tool: Helm, kubectl: Path, tmp_path: Path) -> None:
    waved = kustomized(kubectl, tmp_path, ["overlays/k3s"], ["argocd/waves"])
    expected = {**waved, **kustomized(kubectl, tmp_path, ["monitoring"])}
    found = by_name(rendered(tool, argocdWaves=True, monitoring={"enabled": True}))
    assert without_keep(found) == expected


def test_a_value_changes_what_it_names_and_nothing_else(tool: Helm) -> None:
    plain = by_name(rendered(tool))
    placed = {"resources": {"limits": {"memory": "1Gi"}}, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "c"}]}
    affinity: Object = {"podAntiAffinity": None, "nodeAffinity": {"d": []}}
    mirror = {"registry": "docker.io", "priority": 1000000, "endpoints": [{"url": HARBOR}]}
    policy = {"startupTaint": True, "rollout": {"maxUnavailable": "10%"}}
    values: Object = {
        "image": {"repository": "r.example/x", "digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"},
        "restoreOnUninstall": False,
        "restoreWhenGone": "0s",
        "agent": {**placed, "extraArgs": ["--log-level=debug"], "extraEnv": [{"name": "A", "value": "1"}]},
        "controller": {**placed, "replicas": 1, "priorityClassName": "", "affinity": affinity},
        "policy": policy,
        "mirrors": {"hub": mirror},
        "crds": {"keep": False},
        "networkPolicy": {"enabled": False},
        "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
    }
    values["image"]["pullSecrets"] = ["robot"]
    found = by_name(rendered(tool, **values))

    assert {key[0] for key in plain.keys() - found.keys()} == {"NetworkPolicy"}
    new = {key[0]: found.pop(key) for key in found.keys() - plain.keys()}
    assert new["RegistryMirror"]["spec"] == mirror
    assert (new["RegistryMirrorPolicy"]["metadata"], new["RegistryMirrorPolicy"]["spec"]) == (
        {"name": "default"},
        policy,
    )
    for kind in ("PodMonitor", "PrometheusRule"):
        assert new[kind]["metadata"]["labels"] == {"app.kubernetes.io/name": NAME, "release": "prometheus"}
    expected = {key: plain[key] for key in found}
    for key, body in expected.items():
        if key[0] == "CustomResourceDefinition":
            del body["metadata"]["annotations"]
    pods = {
        kind: expected[kind, SYSTEM, f"registry-mirror-{name}"]["spec"]["template"]["spec"]
        for kind, name in (("DaemonSet", "agent"), ("Deployment", "controller"))
    }
    for pod in pods.values():
        (container,) = pod["containers"]
        container |= {"image": f"r.example/x@sha256:{'0' * 64}", "imagePullPolicy": "Always"}
        container["resources"]["limits"] = {"memory": "1Gi"}
        pod["imagePullSecrets"] = [{"name": "robot"}]
        pod["nodeSelector"]["a"] = "b"
        pod["tolerations"] = [{"key": "c"}]
    (agent,) = pods["DaemonSet"]["containers"]
    agent["args"] = [*agent["args"][:3], "--restore-when-gone=0s", "--runtime=k3s", "--log-level=debug"]
    agent["env"] = [{"name": "A", "value": "1"}, *agent["env"]]
    pods["Deployment"]["affinity"] = {"nodeAffinity": {"d": []}}
    del pods["Deployment"]["priorityClassName"]
    expected["Deployment", SYSTEM, "registry-mirror-controller"]["spec"]["replicas"] = 1
    assert found == expected


def test_what_is_generated_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-B", "build/chart/generate.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, f"run: .venv/bin/python build/chart/generate.py\n{done.stdout}{done.stderr}"


def test_the_chart_is_packed_alike_anywhere(tool: Helm, tmp_path: Path) -> None:
    packed = []
    for where in ("one", "two"):
        # What somebody has beside it in a directory of work stays out.
        copy = tmp_path / where / NAME
        shutil.copytree(CHART, copy)
        for litter in (".git/HEAD", ".idea/x", "values.yaml~", "templates/a.tmp"):
            (copy / litter).parent.mkdir(exist_ok=True)
            (copy / litter).write_text("{{ fail `no` }}" if where == "two" else "")
        tool("package", str(copy), f"--destination={copy.parent}")
        with tarfile.open(copy.parent / f"{NAME}-{__version__}.tgz") as archive:
            files = {item.name: archive.extractfile(item) for item in archive}
            packed.append({name: file.read() for name, file in files.items() if file is not None})
    assert packed[0] == packed[1]
    ignored = {f"{NAME}/.helmignore"}
    there = {f"{NAME}/{path.relative_to(CHART)}" for path in CHART.rglob("*") if path.is_file()}
    assert packed[0].keys() | ignored == there | ignored
    metadata = yaml.safe_load(packed[0][f"{NAME}/Chart.yaml"])
    assert metadata["version"] == metadata["appVersion"] == __version__
    archives = [str(path) for path in (tmp_path / "one").glob("*.tgz")]
    assert by_name(tool("template", NAME, *archives, values={"runtime": "crio"})) == by_name(
        rendered(tool, runtime="crio")
    )


# ---- wrong values ----------------------------------------------------------------------------------------------------

WRONG: list[tuple[Object, str]] = [
    ({"runtime": "docker"}, "at '/runtime': value must be one of 'k3s', 'rke2', 'microk8s', 'k0s', 'crio', 'cont"),
    ({"nonsense": 1}, "at '': additional properties 'nonsense' not allowed"),
    ({"restoreOnUninstall": "yes"}, "at '/restoreOnUninstall': got string, want boolean"),
    ({"restoreWhenGone": "1 day"}, "at '/restoreWhenGone': '1 day' does not match pattern '^([0-9]{1,6}(ms|s|m)|"),
    ({"image": {"repository": "https://x"}}, "at '/image/repository': 'https://x' does not match pattern"),
    ({"image": {"tag": "a b"}}, "at '/image/tag': 'a b' does not match pattern"),
    ({"image": {"digest": "abc"}}, "at '/image/digest': 'abc' does not match pattern '^(sha256:[0-9a-f]{64})?$'"),
    ({"image": {"pullPolicy": "always"}}, "value must be one of '', 'Always', 'IfNotPresent', 'Never'"),
    ({"image": {"pullSecrets": [{"name": "x"}]}}, "at '/image/pullSecrets/0': got object, want string"),
    ({"agent": {"priorityClassName": "x"}}, "at '/agent': additional properties 'priorityClassName' not allowed"),
    ({"agent": {"extraArgs": ["debug"]}}, "at '/agent/extraArgs/0': 'debug' does not match pattern '^--[a-z]"),
    ({"agent": {"extraEnv": [{"name": "A"}]}}, "at '/agent/extraEnv/0': missing property 'value'"),
    ({"agent": {"resources": {"limits": {"memory": "much"}}}}, "at '/agent/resources/limits/memory': 'much' does not"),
    ({"agent": {"tolerations": [{"operator": "Any"}]}}, "/tolerations/0/operator': value must be one of 'Exists', 'Eq"),
    ({"controller": {"replicas": -1}}, "at '/controller/replicas': minimum: got -1, want 0"),
    ({"controller": {"affinity": {"node": {}}}}, "at '/controller/affinity': additional properties 'node' not allowed"),
    ({"controller": {"nodeSelector": {"a": 1}}}, "at '/controller/nodeSelector/a': got number, want string"),
    ({"policy": {"startupTaints": True}}, "at '/policy': additional properties 'startupTaints' not allowed"),
    ({"policy": {"rollout": {"restart": "No"}}}, "at '/policy/rollout/restart': value must be one of 'WhenRequired', "),
    ({"mirrors": {"hub": {"endpoints": []}}}, "at '/mirrors/hub': missing property 'registry'"),
    (
        {"mirrors": {"hub": {"endpoints": [{"url": HARBOR, "password": "x"}]}}},
        "at '/mirrors/hub/endpoints/0': additional properties 'password' not allowed",
    ),
    ({"crds": {"enabled": True}}, "at '/crds': additional properties 'enabled' not allowed"),
    ({"networkPolicy": False}, "at '/networkPolicy': got boolean, want object"),
    ({"monitoring": {"labels": {"a": 1}}}, "at '/monitoring/labels/a': got number, want string"),
    ({"argocdWaves": -1}, "at '/argocdWaves': got number, want boolean"),
]


@pytest.fixture(scope="module")
def all_wrong(tool: Helm) -> list[str]:
    """What Helm says to all wrong values at once."""
    values: Object = {}
    for wrong, _ in WRONG:
        merge(values, wrong)
    return tool.refuses(*TEMPLATE, values=values).splitlines()


def merge(into: Object, more: Object) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


@pytest.mark.parametrize(
    ("wrong", "message"), WRONG, ids=lambda item: json.dumps(item) if isinstance(item, dict) else ""
)
def test_wrong_values_are_named(all_wrong: list[str], wrong: Object, message: str) -> None:
    assert [line for line in all_wrong if message in line], "\n".join(all_wrong)


def test_every_value_is_looked_at() -> None:
    def open_ended(schema: Any, path: str) -> Iterator[str]:
        if schema.get("type") == "object":
            if schema.get("additionalProperties", True) is True:
                yield path
            for name, item in schema.get("properties", {}).items():
                yield from open_ended(item, f"{path}/{name}")
            if isinstance(schema.get("additionalProperties"), dict):
                yield from open_ended(schema["additionalProperties"], f"{path}/*")
        elif schema.get("type") == "array":
            yield from open_ended(schema["items"], f"{path}/[]")
        elif not schema.keys() & {"type", "enum"}:
            yield path

    schema = json.loads((CHART / "values.schema.json").read_text())
    # What Kubernetes itself knows better, and what belongs to the chart that this one is a part of.
    affinities = {f"/controller/affinity/{kind}" for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")}
    assert set(open_ended(schema, "")) == {*affinities, "/global"}
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == defaults.keys()
    for name in ("image", "agent", "controller", "crds", "networkPolicy", "monitoring"):
        assert schema["properties"][name]["properties"].keys() == defaults[name].keys(), name


@pytest.mark.parametrize(
    ("args", "values", "message"),
    [
        ([], {}, "at '/runtime': value must be one of"),
        ([], {"runtime": "k3s", "agent": {"extraArgs": ["--runtime=crio"]}}, "--runtime is set by the chart"),
        ([], {"runtime": "k3s", "mirrors": {"Docker Hub": {"registry": "docker.io"}}}, 'mirrors: "Docker Hub" cannot'),
        (["--kube-version=1.29"], {"runtime": "k3s"}, "Kubernetes v1.29 has no ValidatingAdmissionPolicy"),
    ],
)
def test_what_the_schema_cannot_say_is_refused(tool: Helm, args: list[str], values: Object, message: str) -> None:
    assert message in tool.refuses(*TEMPLATE, *args, values=values)


def test_helm_finds_nothing_to_complain_of(tool: Helm) -> None:
    everything = {
        "openrc": True,
        "argocdWaves": True,
        "monitoring": {"enabled": True},
        "policy": {"startupTaint": True},
    }
    said = tool("lint", "--strict", str(CHART), values={"runtime": "k3s", **everything})
    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said
    tool(*TEMPLATE, "--kube-version=1.29", values={"runtime": "k3s", "unconfined": True})
