"""Values that stand nowhere else are planted in every kind of credential, and then all that the system has emitted is
searched for them: objects, events, logs at debug level, metrics, diffs and error messages.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness.cluster import BUNDLES, REPOSITORY, SYSTEM, Cluster
from tests.harness.pytest_support import require_assets
from tests.pure.builders import pem

pytestmark = pytest.mark.apiserver

NODES = {"pi-1": "k3s", "worker-1": "containerd"}
BASIC, DOCKER, TOKEN, ROTATED, BROKEN = (
    f"canary/{name}+{index * 7919}" for index, name in enumerate(("b", "d", "t", "r", "x"))
)
KEY_LINES = pem("client.key").splitlines()[1:-1]
KINDS = {
    "basic": ("kubernetes.io/basic-auth", {"username": "robot", "password": BASIC}),
    "docker": ("kubernetes.io/dockerconfigjson", {".dockerconfigjson": ""}),
    "token": ("Opaque", {"token": TOKEN}),
    "client": ("kubernetes.io/tls", {"tls.crt": pem("client.crt"), "tls.key": pem("client.key")}),
    # What is wrong with a Secret must be said without saying what is in it.
    "no-entry": (
        "kubernetes.io/dockerconfigjson",
        {".dockerconfigjson": json.dumps({"auths": {BROKEN: {"auth": BROKEN}}})},
    ),
    "two-lines": ("kubernetes.io/basic-auth", {"username": "robot", "password": f"{BROKEN}\n{BROKEN}"}),
    "not-pem": ("kubernetes.io/tls", {"tls.crt": BROKEN, "tls.key": f"-----BEGIN PRIVATE KEY-----\n{BROKEN}\n"}),
    "no-auth": ("Opaque", {BROKEN.replace("/", "-").replace("+", "-"): BROKEN, "auth": BROKEN}),
}


class _Echo(BaseHTTPRequestHandler):
    """A registry that says back whatever it was sent, in every place where it can."""

    seen: list[str]

    def answer(self) -> None:
        sent = self.headers.get("Authorization", "")
        self.seen.append(sent)
        body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": sent, "detail": str(self.headers)}]}).encode()
        self.send_response(401, f"No: {sent}")
        self.send_header("WWW-Authenticate", f'Basic realm="{sent}"')
        self.send_header("X-Seen", sent)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def registry() -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was sent."""
    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Echo", (_Echo,), {"seen": seen}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()
    thread.join()


def secret(name: str, kind: str, data: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": SYSTEM}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "stringData": data}


def secrets(address: str) -> list[dict[str, Any]]:
    """All of them; ``address`` is that of the endpoints, in which {} stands for the name."""
    login = base64.b64encode(f"robot:{DOCKER}".encode()).decode()
    config = json.dumps({"auths": {address.format("docker"): {"auth": login}}})
    found = {name: (kind, dict(data)) for name, (kind, data) in KINDS.items()}
    found["docker"][1][".dockerconfigjson"] = config
    return [secret(name, kind, data) for name, (kind, data) in found.items()]


def mirrors(address: str) -> list[dict[str, Any]]:
    """An object for each Secret."""
    made = []
    for name in KINDS:
        host = address.format(name)
        endpoint: dict[str, Any] = {"url": f"http://{host}/v2/hub-{name}"}
        if name in ("client", "not-pem"):
            endpoint |= {"url": f"https://{host}/v2", "tls": {"clientCertificateRef": {"name": name}}}
        else:
            endpoint["credentialsRef"] = {"name": name}
        spec = {"registry": f"{name}.example", "endpoints": [endpoint]}
        made.append(
            {
                "apiVersion": "registrymirror.io/v1alpha1",
                "kind": "RegistryMirror",
                "metadata": {"name": name},
                "spec": spec,
            }
        )
    return made


def forms(value: str) -> set[str]:
    """How a canary may look once it has gone through something."""
    pair = base64.b64encode(f"robot:{value}".encode()).decode()
    alone = base64.b64encode(value.encode()).decode().rstrip("=")[:-1]
    return {value, pair.rstrip("=")[:-1], alone, quote(value, safe=""), json.dumps(value)[1:-1], value.encode().hex()}


NEEDLES = {form for value in (BASIC, DOCKER, TOKEN, ROTATED, BROKEN) for form in forms(value)} | set(KEY_LINES)


def clean(where: str, text: str) -> None:
    found = [needle for needle in NEEDLES if needle in text]
    assert not found, f"{where} has {found}: {text[max(0, text.index(found[0]) - 200) :][:400]}"


def run(*words: str) -> str:
    """What the command line says on both of its streams."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "operator")}
    command = [sys.executable, "-m", "registry_mirror", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


@pytest.fixture
def cluster(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Cluster]:
    """Controller and agents that log all they can."""
    require_assets(pytestconfig)
    with Cluster(tmp_path / "cluster") as made:
        made.install()
        probe = {"mode": "Report", "interval": "5s"}
        policy = {"kind": "RegistryMirrorPolicy", "metadata": {"name": "default"}, "spec": {"probe": probe}}
        made.apply({"apiVersion": "registrymirror.io/v1alpha1", **policy})
        for name, runtime in NODES.items():
            made.add_node(name, runtime)
        made.start_controller("controller", "--log-level", "debug")
        for name in NODES:
            made.start_agent(name, "--resync", "1", "--log-level", "debug")
        yield made


def test_no_canary_leaves_its_cage(cluster: Cluster, registry: tuple[str, list[str]]) -> None:
    address, seen = registry
    cluster.apply(*secrets(address))
    cluster.apply(*mirrors(address))
    on_node = "/etc/containerd/certs.d/basic.example/hosts.toml"

    def written(value: str) -> bool:
        return base64.b64encode(f"robot:{value}".encode()).decode() in (cluster.nodes["worker-1"].text(on_node) or "")

    cluster.until(lambda: written(BASIC), "the canaries are on the nodes", 60)
    cluster.until(lambda: any(seen), "a node has tested an endpoint with credentials", 60)
    reported = "{.items[*].status.endpoints[*].reason}"
    cluster.until(
        lambda: "Unauthorized" in cluster.kubectl("get", "nrc", "-o", f"jsonpath={reported}"), "it is told", 60
    )
    cluster.apply(secret("basic", "kubernetes.io/basic-auth", {"username": "robot", "password": ROTATED}))
    cluster.until(lambda: written(ROTATED), "they were rotated", 60)
    cluster.nodes["worker-1"].path(on_node).write_text("# changed\n")
    cluster.until(lambda: written(ROTATED), "the drift is repaired", 60)
    bad = ("no-entry", "two-lines", "not-pem", "no-auth")

    def refused() -> bool:
        return {cluster.condition(name).get("reason") for name in bad} == {"ReferenceInvalid"}

    cluster.until(refused, "the bad ones are refused", 60)

    kinds = "registrymirrors,registrymirrorpolicies,noderegistryconfigs,events,configmaps,nodes,leases"
    clean("an object", cluster.kubectl("get", kinds, "-A", "-o", "yaml", "--show-managed-fields"))
    clean("describe", cluster.kubectl("describe", "registrymirrors,noderegistryconfigs"))
    bundles = cluster.get("secrets", f"--namespace={BUNDLES}")["items"]
    assert bundles
    for item in bundles:
        clean("a bundle's metadata", json.dumps(item["metadata"]))
    clean("the metrics", cluster.http_get("/metrics"))
    logs = sorted(cluster.work.glob("*.log"))
    assert [log.stem for log in logs] == ["agent-pi-1", "agent-worker-1", "controller"]
    for log in logs:
        text = log.read_text()
        assert "DEBUG" in text or log.stem != "controller"
        clean(log.name, text)


def test_no_canary_is_in_a_diff_or_an_error_of_the_command_line(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc/rancher/k3s").mkdir(parents=True)
    (root / "etc/rancher/k3s/config.yaml").write_text("node-name: n\n")
    theirs = {"configs": {"r.example": {"auth": {"username": "robot", "password": BROKEN}}}}
    (root / "etc/rancher/k3s/registries.yaml").write_text(json.dumps(theirs))
    address, objects = "{}.test:5000", tmp_path / "objects.yaml"
    good = {"basic", "docker", "token", "client"}

    def write(*documents: dict[str, Any]) -> None:
        objects.write_text("\n---\n".join(json.dumps(item) for item in documents))

    def chosen(names: set[str]) -> list[dict[str, Any]]:
        return [item for item in (*secrets(address), *mirrors(address)) if item["metadata"]["name"] in names]

    options = ("--local", "--root", str(root), "--runtime", "k3s")
    write(*chosen(good))
    first = run("apply", *options, "-f", str(objects), "--dry-run")
    assert "registries.yaml" in first
    clean("the first diff", first)
    clean("apply", run("apply", *options, "-f", str(objects), "--restart", "never"))
    assert BASIC in (root / "etc/rancher/k3s/registries.yaml").read_text()
    changed = secret("basic", "kubernetes.io/basic-auth", {"username": "robot", "password": ROTATED})
    write(*[item for item in chosen(good) if item["kind"] != "Secret" or item["metadata"]["name"] != "basic"], changed)
    for output in ("text", "json"):
        second = run("apply", *options, "-f", str(objects), "--dry-run", "-o", output)
        assert "registries.yaml" in second
        clean("the diff of a rotation", second)
        clean("restore", run("restore", *options, "--dry-run", "-o", output))
    for name in ("no-entry", "two-lines", "not-pem", "no-auth"):
        write(*chosen({name}))
        for words in (("render", "--runtime", "k3s"), ("apply", *options, "--dry-run")):
            said = run(*words, "-f", str(objects))
            assert said.startswith("error: "), said
            assert "Traceback" not in said
            clean(f"{words[0]} of {name}", said)
