"""A Secret or ConfigMap that changes reaches the nodes' files by itself; the bundles that carried it go unneeded.

The controller reads everything anew every five minutes only, and agents look at their nodes every half minute: within
the 20 seconds that are waited for here, only watches tell them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config

from registry_mirror.api import parse
from registry_mirror.controller.bundles import Bundles
from registry_mirror.core.bundle import Bundle, File, Rendered, seal
from registry_mirror.kube.client import Api
from registry_mirror.kube.resources import BUNDLE_LABELS, CONFIGS
from tests.harness.authority import Authority
from tests.harness.cluster import BUNDLES, SYSTEM, Cluster, mirror
from tests.harness.kubectl import KubectlError

pytestmark = pytest.mark.apiserver

NODES = {"worker-1": "containerd", "pi-1": "k3s"}
HOST = "mirror.example.com:5000"
DATA = Path(__file__).resolve().parents[1] / "pure" / "data"


@pytest.fixture(scope="module")
def cluster(bare_cluster: Cluster) -> Cluster:
    """The controller, and two nodes with their agents; no runtime is to be restarted."""
    for name, runtime in NODES.items():
        bare_cluster.add_node(name, runtime)
    bare_cluster.policy(restart="Never")
    bare_cluster.start_controller()
    for name in NODES:
        bare_cluster.start_agent(name)
    return bare_cluster


@dataclass(frozen=True)
class Rotated:
    """What an endpoint refers to, that object before and after a rotation, and what the nodes' files have of each."""

    name: str
    endpoint: dict[str, Any]
    objects: tuple[dict[str, Any], dict[str, Any]]
    traces: tuple[str, str]
    live: bool = True

    @property
    def mirror(self) -> dict[str, Any]:
        """A mirror with that endpoint."""
        document = mirror(self.name, f"{self.name}.example.com")
        document["spec"]["endpoints"] = [{"url": f"https://{self.name}-{HOST}", **self.endpoint}]
        return document


def of_kind(kind: str, name: str, key: str, *values: dict[str, str], **more: str) -> Any:
    """The object that a mirror of that name refers to, with the first and with the second value."""
    metadata = {"name": name, "namespace": SYSTEM}
    return tuple({"apiVersion": "v1", "kind": kind, "metadata": metadata, key: value, **more} for value in values)


def basic(password: str) -> str:
    return base64.b64encode(f"robot:{password}".encode()).decode()


def docker(password: str) -> dict[str, str]:
    others = {"other.example.com": {"auth": basic("of-another-host")}}
    return {".dockerconfigjson": json.dumps({"auths": {**others, f"docker-{HOST}": {"auth": basic(password)}}})}


def middle(pem: str) -> str:
    return pem.splitlines()[2]


def everything(directory: Path) -> Iterator[Rotated]:
    """Each kind of what can be rotated."""

    def credentials(
        name: str, type_: str, *values: dict[str, str], traces: tuple[str, str], live: bool = True
    ) -> Rotated:
        objects = of_kind("Secret", name, "stringData", *values, type=type_)
        return Rotated(name, {"credentialsRef": {"name": name}}, objects, traces, live)

    users = [{"username": "robot", "password": password} for password in ("first", "second")]
    yield credentials("basic", "kubernetes.io/basic-auth", *users, traces=(basic("first"), basic("second")))
    files = docker("third"), docker("fourth")
    yield credentials("docker", "kubernetes.io/dockerconfigjson", *files, traces=(basic("third"), basic("fourth")))
    # Runtimes read these at their start.
    tokens = {"token": "identity-one"}, {"token": "identity-two"}
    yield credentials("token", "Opaque", *tokens, traces=("identity-one", "identity-two"), live=False)

    authority = Authority(directory)
    pairs = [authority.issue(name) for name in ("one", "two")]
    keys = [pair.key.read_text() for pair in pairs]
    data = [{"tls.crt": pair.certificate.read_text(), "tls.key": key} for pair, key in zip(pairs, keys, strict=True)]
    objects = of_kind("Secret", "client", "stringData", *data, type="kubernetes.io/tls")
    endpoint: dict[str, Any] = {"tls": {"clientCertificateRef": {"name": "client"}}}
    yield Rotated("client", endpoint, objects, (middle(keys[0]), middle(keys[1])))

    pems = [(DATA / f"ca-{name}.crt").read_text() for name in ("one", "two")]
    objects = of_kind("ConfigMap", "ca", "data", *({"ca.crt": pem} for pem in pems))
    endpoint = {"tls": {"caRef": {"kind": "ConfigMap", "name": "ca"}}}
    yield Rotated("ca", endpoint, objects, (middle(pems[0]), middle(pems[1])))


def test_a_new_value_reaches_the_files_of_all_nodes_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    cases = list(everything(tmp_path))

    def settled() -> bool:
        reasons = {case.name: "Applied" if case.live else "RestartRequired" for case in cases}
        return {name: cluster.condition(name).get("reason") for name in reasons} == reasons

    def texts() -> list[str]:
        return ["\n".join(node.files().values()) for node in cluster.nodes.values()]

    cluster.apply(*(item for case in cases for item in (case.objects[0], case.mirror)))
    for case in cases:
        cluster.until(lambda case=case: all(case.traces[0] in text for text in texts()), f"{case.name} is there")  # type: ignore[misc]
    cluster.until(settled, "what is live is in force, what is not waits")

    cluster.apply(*(case.objects[1] for case in cases))
    for case in cases:
        old, new = case.traces
        cluster.until(
            lambda old=old, new=new: all(new in text and old not in text for text in texts()),  # type: ignore[misc]
            f"the new value of {case.name} is on all nodes, and the old one on none",
        )
    cluster.until(settled, "as before")
    assert all(basic("of-another-host") not in text for text in texts())


def test_a_bundle_is_immutable_and_only_in_its_namespace(cluster: Cluster) -> None:
    cluster.apply(mirror("hub", "docker.io", "https://one.example.com"))
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "rmir/hub")
    found = cluster.get("secrets", "-A", "--field-selector=type=registrymirror.io/bundle")["items"]
    assert {item["metadata"]["namespace"] for item in found} == {BUNDLES}
    assert all(item["immutable"] is True for item in found)
    assert all(BUNDLE_LABELS.items() <= item["metadata"]["labels"].items() for item in found)
    keys = {item["metadata"]["name"]: list(item["data"]) for item in found}
    told = {item["spec"]["bundle"]["name"] for item in cluster.get("noderegistryconfigs")["items"]}
    assert told <= keys.keys()
    for name in told:
        for patch in ({"data": {keys[name][0]: "eA=="}}, {"immutable": False}):
            with pytest.raises(KubectlError, match="immutable"):
                cluster.kubectl("patch", "secret", name, "-n", BUNDLES, "--type=merge", "-p", json.dumps(patch))


def sealed(content: str) -> Bundle:
    return seal("containerd", Rendered((File(path="/etc/containerd/certs.d/x/hosts.toml", content=content),)), (), b"k")


def config_of(cluster: Cluster, name: str, *, spec: Bundle, applied: Bundle, last_good: Bundle) -> None:
    """Make a NodeRegistryConfig that names those three."""
    kind = {"apiVersion": "registrymirror.io/v1alpha1", "kind": "NodeRegistryConfig", "metadata": {"name": name}}
    body = {"revision": spec.revision, "bundle": {"name": spec.name}}
    cluster.apply({**kind, "spec": body})
    status = {"status": {"appliedRevision": applied.revision, "lastGoodRevision": last_good.revision}}
    patch = ("patch", "nrc", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))
    cluster.kubectl(*patch)


def test_a_bundle_goes_when_no_node_is_told_to_have_it_has_it_or_would_go_back_to_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last test of the module: the controller, which would look after these objects too, and the agents end.
    for process in (*cluster.agents.values(), *cluster.controllers.values()):
        process.stop()
    cluster.kubectl("delete", "noderegistryconfigs", "--all")
    cluster.kubectl("delete", "secrets", "--all", "-n", BUNDLES)
    told, there, good, unneeded = (sealed(name) for name in ("told", "there", "good", "unneeded"))
    foreign = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "of-somebody-else"}}
    cluster.kubectl("create", "-n", BUNDLES, "-f", "-", input=json.dumps(foreign))
    foreign["metadata"] = {"name": "elsewhere", "labels": BUNDLE_LABELS}
    cluster.kubectl("create", "-n", SYSTEM, "-f", "-", input=json.dumps(foreign))
    identity = str(cluster.plane.service_account_kubeconfig(SYSTEM, "registry-mirror-controller"))
    later = 0.0
    clock = SimpleNamespace(time=lambda: time.time() + later)
    monkeypatch.setattr("registry_mirror.controller.bundles.time", clock)

    async def work(make: tuple[Bundle, ...]) -> None:
        configuration = Configuration()
        await load_kube_config(identity, client_configuration=configuration)
        async with Api(configuration) as api:
            bundles = Bundles(api, BUNDLES, lambda _resource: None)
            for bundle in make:
                await bundles.ensure(bundle)
            bodies, _ = await api.list(CONFIGS)
            configs = [parse.node_registry_config(body) for body in bodies]
            await bundles.collect({config.metadata.name: config for config in configs})

    def left(*make: Bundle) -> set[str]:
        asyncio.run(work(make))
        return {item["metadata"]["name"] for item in cluster.get("secrets", "-n", BUNDLES)["items"]}

    always = {"of-somebody-else"}
    config_of(cluster, "a", spec=told, applied=there, last_good=good)
    everything = {told.name, there.name, good.name, unneeded.name}
    assert left(told, there, good, unneeded) == everything | always, "it may be about to be referred to"
    later = 601.0
    assert left() == everything - {unneeded.name} | always
    config_of(cluster, "b", spec=good, applied=good, last_good=good)
    cluster.kubectl("delete", "nrc", "a")
    assert left() == {good.name} | always
    cluster.kubectl("delete", "nrc", "b")
    assert left() == always
    assert cluster.get("secret", "elsewhere", "-n", SYSTEM)
