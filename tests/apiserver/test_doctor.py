"""``registry-mirror doctor`` of a cluster against a real API server; the agents are played."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from msgspec.structs import replace

from registry_mirror.api.errors import ProblemError
from registry_mirror.api.models import EmbeddedRegistry, EndpointResult
from registry_mirror.cli.cluster import connect
from registry_mirror.cli.remote import Answer, on_node
from registry_mirror.core.layout import default_facts
from registry_mirror.kube.resources import AGENT
from tests.apiserver.players import Players
from tests.apiserver.test_cli_cluster import allowed, run
from tests.harness.authority import Authority
from tests.harness.cluster import SYSTEM, Cluster, mirror

pytestmark = pytest.mark.apiserver

NODES = ("n1", "n2", "n3")
URL = "https://mirror.example.com"
FACTS = replace(default_facts("k3s"), embedded_registry=EmbeddedRegistry(address="127.0.0.1:6443"))
PASSWORD = "swordfish"


def config_json(*hosts: str) -> str:
    return json.dumps({"auths": {host: {"username": "robot", "password": PASSWORD} for host in hosts}})


def secret(name: str, namespace: str, key: str, value: str, kind: str = "Opaque") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    data = {key: base64.b64encode(value.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data}


def agent_pod(cluster: Cluster, node: str, status: Mapping[str, Any]) -> None:
    """A Pod of the DaemonSet as the kubelet would show it."""
    labels = {"app.kubernetes.io/name": "registry-mirror-operator", "app.kubernetes.io/component": "agent"}
    args = ["--host-root=/host", "--runtime=k3s"]
    container = {"name": "agent", "image": "registry-mirror", "args": args}
    spec = {"nodeName": node, "serviceAccountName": AGENT, "containers": [container]}
    metadata = {"name": f"agent-{node}", "namespace": SYSTEM, "labels": labels}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    patch = json.dumps({"status": status})
    cluster.kubectl("patch", "pod", "-n", SYSTEM, f"agent-{node}", "--subresource=status", "--type=merge", "-p", patch)


def of_type(type_: str, status: str) -> list[dict[str, str]]:
    return [{"type": type_, "status": status}]


@pytest.fixture(scope="module")
def played(bare_cluster: Cluster) -> Iterator[tuple[Cluster, Players]]:
    """Three nodes, Ready for a while, with docker.io in force, and Pods of agents that are ready."""
    cluster = bare_cluster
    for name in NODES:
        cluster.add_node(name, "k3s")
        patch = json.dumps({"status": {"conditions": of_type("Ready", "True")}})
        cluster.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", patch)
        agent_pod(cluster, name, {"phase": "Running", "conditions": of_type("Ready", "True")})
    cluster.policy(maxUnavailable="100%", canary={"nodes": 1, "soak": "0s"})
    cluster.start_controller()
    with Players(cluster, FACTS) as players:
        cluster.apply(mirror("hub", "docker.io", URL))
        cluster.until(lambda: run(cluster, "status").returncode == 0, "all is in force", 60)
        yield cluster, players


def test_where_all_is_well_nothing_is_found(played: tuple[Cluster, Players]) -> None:
    done = run(played[0], "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "n1, n2, n3: k3s v1.33.4+k3s1 on 3 nodes; no endpoint asked\nnothing is wrong\n"


PLANTED = """\
n1, n2, n3: k3s v1.33.4+k3s1 on 3 nodes; 1 endpoint asked
4 errors, 7 warnings

error AdmissionPolicyMissing ValidatingAdmissionPolicy registry-mirror-agents
  its ValidatingAdmissionPolicyBinding registry-mirror-agents does not exist: agents do nothing without it
  -> kubectl apply -f manifests/base/admission-agents.yaml

error DiskFull node n2
  played; it keeps 2 RegistryMirrors back
  -> do what the message says; docs/conditions.md has DiskFull, and see kubectl -n registry-mirror-system logs -l app.kubernetes.io/component=agent

error ReferenceInvalid Secret robot
  auths has no entry for mirror.example.com; 2 RegistryMirrors (ghcr, quay) refer to it
  -> correct it in the namespace registry-mirror-system; nothing else is needed

error StartupTaintIgnored node n1
  the taint registrymirror.io/not-ready keeps Pods away, and RegistryMirrorPolicy default does not say startupTaint: true: nobody takes it away
  -> set spec.startupTaint: true in the policy, or take the taint away with kubectl taint node

warning AgentNotReady node n3
  the agent's Pod is not ready: ImagePullBackOff: not found; what the node has stays in force, and nothing new comes
  -> kubectl -n registry-mirror-system describe pods -l app.kubernetes.io/component=agent says more

warning AuthorityExpiring ConfigMap ca
  the CA certificate "short" in key ca.crt ends on DATE; RegistryMirror hub refers to it
  -> renew it, and put the new one beside it or in its place: it reaches the nodes by itself

warning EndpointUnreachable n1: endpoint https://mirror.example.com
  it does not answer 1 of 2 nodes (n1): TimedOut: it hangs
  -> see docs/conditions.md, Endpoints, for that reason; registry-mirror doctor --node NODE looks from there

warning LabelNotFound RegistryMirror late
  spec.nodeSelector asks for the label kubernetes.io/hostnam, which no node has
  -> correct the key, or label the nodes; kubectl get nodes --show-labels has what there is

warning Paused RegistryMirrorPolicy default
  rollout.paused is true: no node is given anything new
  -> set rollout.paused to false when the nodes may go on

warning PullSecretsGoToMirror RegistryMirror hub
  Pods pull from docker.io with imagePullSecrets (default/hub): where https://mirror.example.com asks for credentials, containerd sends these, in place of those of credentialsRef
  -> mirror it only through hosts that may see them, or take the imagePullSecrets away: the nodes have the mirror's own credentials

warning WildcardCatchesMirror RegistryMirror all
  Pods pull from registry.example.com itself, which has no object of its own: that is asked for at https://registry.example.com/v2/all too, and fallback is denied
  -> add a RegistryMirror for registry.example.com with the endpoint https://registry.example.com
"""  # noqa: E501


def plant(cluster: Cluster, players: Players, tmp_path: Path) -> None:
    """A fault of each kind that the API server itself does not refuse."""
    key, certificate = tmp_path / "key", tmp_path / "crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "10", "-subj", "/CN=short"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    metadata = {"name": "ca", "namespace": SYSTEM}
    ca = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": certificate.read_text()}}
    docker = ".dockerconfigjson"
    kind = "kubernetes.io/dockerconfigjson"
    cluster.apply(
        ca,
        secret("robot", SYSTEM, docker, config_json("elsewhere.example.com"), kind),
        secret("good", SYSTEM, docker, config_json("mirror.example.com"), kind),
        secret("hub", "default", docker, config_json("https://index.docker.io/v1/"), kind),
    )
    with_ca = {"url": URL, "tls": {"caRef": {"kind": "ConfigMap", "name": "ca"}}, "credentialsRef": {"name": "good"}}
    wrong = {"url": URL, "credentialsRef": {"name": "robot"}}
    cluster.apply(
        {**mirror("hub", "docker.io"), "spec": {"registry": "docker.io", "endpoints": [with_ca]}},
        {**mirror("quay", "quay.io"), "spec": {"registry": "quay.io", "endpoints": [wrong]}},
        {**mirror("ghcr", "ghcr.io"), "spec": {"registry": "ghcr.io", "endpoints": [wrong]}},
        mirror("all", "*", "https://registry.example.com/v2/all", upstream={"fallback": "Deny"}),
        mirror("late", "docker.io", URL, nodeSelector={"matchLabels": {"kubernetes.io/hostnam": "n1"}}),
    )
    cluster.kubectl("create", "serviceaccount", "default")  # what a controller manager would do
    images = [{"name": "main", "image": "app:1"}, {"name": "own", "image": "registry.example.com/team/own:1"}]
    pod = {"imagePullSecrets": [{"name": "hub"}], "containers": images}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop"}, "spec": {**pod, "nodeName": "n1"}})
    cluster.kubectl("delete", "validatingadmissionpolicybinding", "registry-mirror-agents")
    cluster.kubectl("taint", "node", "n1", "registrymirror.io/not-ready=:NoSchedule")
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
    status = {"name": "agent", "image": "", "imageID": "", "ready": False, "restartCount": 0, **waiting}
    agent_pod(cluster, "n3", {"conditions": of_type("Ready", "False"), "containerStatuses": [status]})
    rollout = {"paused": True}
    policy = {"kind": "RegistryMirrorPolicy", "metadata": {"name": "default"}}
    cluster.apply(
        {
            "apiVersion": "registrymirror.io/v1alpha1",
            **policy,
            "spec": {"probe": {"mode": "Report"}, "rollout": rollout},
        }
    )
    players.endpoints["n1"] = (EndpointResult(url=URL, reachable=False, reason="TimedOut", message="it hangs"),)
    players.endpoints["n2"] = (EndpointResult(url=URL, reachable=True, reason="Reachable"),)
    players.stalled["n2"] = "DiskFull"


def test_what_is_planted_is_found_with_its_remedy(played: tuple[Cluster, Players], tmp_path: Path) -> None:
    cluster, players = played
    plant(cluster, players, tmp_path)
    for words in ("it keeps 2 RegistryMirrors back", "1 of 2 nodes"):
        cluster.until(lambda words=words: words in run(cluster, "doctor").stdout, words, 60)  # type: ignore[misc]
    done = run(cluster, "doctor")
    assert done.returncode == 4
    assert re.sub(r"\d{4}-\d\d-\d\d", "DATE", done.stdout) == PLANTED
    assert PASSWORD not in done.stdout
    found = yaml.safe_load(run(cluster, "doctor", "-o", "yaml").stdout)
    assert found["nodes"] == list(NODES)
    assert all(item["evidence"] and item["remedy"] for item in found["findings"])


def test_of_one_node_it_says_what_it_could_not_look_at(played: tuple[Cluster, Players]) -> None:
    cluster, _ = played
    done = run(cluster, "doctor", "--node", "n3")
    assert done.returncode == 4
    assert "note: the node itself was not examined: the agent's Pod on n3 is not ready: ImagePullBackOff" in done.stdout
    assert "AgentNotReady node n3" in done.stdout
    assert "n2" not in done.stdout.replace("n1, n2", "")
    nobody = run(cluster, "doctor", "--node", "n9")
    assert (nobody.returncode, nobody.stderr) == (1, "error: no node n9: there are n1, n2, n3\n")
    unreachable = run(cluster, "doctor", "--node", "n1")
    assert "note: the node itself was not examined: run registry-mirror in Pod" in unreachable.stdout
    assert "EndpointUnreachable" in unreachable.stdout


def test_who_may_read_less_is_told_so(played: tuple[Cluster, Players]) -> None:
    cluster, _ = played
    cluster.kubectl("create", "serviceaccount", "reader", "-n", "default")
    kubeconfig = str(cluster.plane.service_account_kubeconfig("default", "reader"))
    refused = run(cluster, "doctor", kubeconfig=kubeconfig)
    assert refused.returncode == 1
    assert "you may not read registrymirrors" in refused.stderr
    cluster.kubectl(
        "create",
        "clusterrolebinding",
        "reader",
        "--clusterrole=registry-mirror-view",
        "--serviceaccount=default:reader",
    )
    allowed(cluster, "doctor", kubeconfig=kubeconfig)
    done = run(cluster, "doctor", kubeconfig=kubeconfig)
    assert done.returncode == 4
    assert f"note: nothing is known of what you may not read: configmaps in {SYSTEM}, customres" in done.stdout
    assert "DiskFull node n2" in done.stdout
    role = ("role", "-n", SYSTEM, "see-pods", "--verb=get,list", "--resource=pods")
    cluster.kubectl("create", *role)
    binding = ("rolebinding", "-n", SYSTEM, "see-pods", "--role=see-pods", "--serviceaccount=default:reader")
    cluster.kubectl("create", *binding)
    wanted = f"get and create pods/exec, in namespace {SYSTEM}"
    cluster.until(lambda: wanted in run(cluster, "doctor", "--node", "n1", kubeconfig=kubeconfig).stdout, wanted, 60)


# ---- commands on nodes -----------------------------------------------------------------------------------------------


class PlayedKubelet:
    """Answers exec by the first word after the program, as a kubelet would; a context manager.

    ``asked`` has the commands, as they came.
    """

    def __init__(self, directory: Path) -> None:
        pair = Authority(directory).issue("kubelet", "127.0.0.1")
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(pair.certificate, pair.key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.asked: list[list[str]] = []
        self.port = 0

    def __enter__(self) -> PlayedKubelet:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/exec/{namespace}/{pod}/{container}", self._exec)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _exec(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        command = request.query.getall("command")
        self.asked.append(command)
        for channel, content in PLAYED[command[1]]:
            await socket.send_bytes(bytes([channel]) + content)
        if command[1] == "hangs":
            await socket.receive()
        await socket.close()
        return socket


def ended(code: int) -> tuple[int, bytes]:
    causes = [{"reason": "ExitCode", "message": str(code)}]
    failure = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}
    return 3, json.dumps(failure if code else {"status": "Success"}).encode()


NO_PROGRAM = b'{"status": "Failure", "reason": "InternalError", "message": "exec: no such file: \\u001b[31m"}'
PLAYED: dict[str, list[tuple[int, bytes]]] = {
    "works": [(1, b""), (1, b"o"), (2, b"err"), (1, "ü\xff".encode("latin-1")), ended(0)],
    "fails": [(2, b"why"), ended(4)],
    "unknown": [(2, b"Error: No such command 'unknown'."), ended(2)],
    "wrong": [(2, b"Error: Invalid value"), ended(2)],
    "hangs": [],
    "floods": [(1, b"x" * 1024 * 1024)] * 9,
    "dies": [(1, b"half of it")],
    "missing": [(3, NO_PROGRAM)],
}


async def ask(cluster: Cluster, node: str, *argv: str, timeout: float = 30.0) -> Answer:
    async with await connect(str(cluster.plane.admin_kubeconfig), "") as api:
        return await on_node(api, node, argv, timeout)


def test_a_command_runs_in_the_pod_of_the_agent(played: tuple[Cluster, Players], tmp_path: Path) -> None:
    cluster, _ = played
    with PlayedKubelet(tmp_path) as kubelet:
        addresses = [{"type": "InternalIP", "address": "127.0.0.1"}]
        status = {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}}}
        patch = json.dumps({"status": status})
        cluster.kubectl("patch", "node", "n1", "--subresource=status", "--type=merge", "-p", patch)
        done = asyncio.run(ask(cluster, "n1", "works", "-o", "json"))
        assert done == Answer(code=0, stdout="o��", stderr="err")
        assert kubelet.asked == [["registry-mirror", "works", "-o", "json", "--root", "/host", "--runtime", "k3s"]]
        assert asyncio.run(ask(cluster, "n1", "fails")) == Answer(code=4, stdout="", stderr="why")
        assert asyncio.run(ask(cluster, "n1", "wrong")).code == 2
        for word, reason, text in (
            ("unknown", "TooOld", "the agent on n1 does not know the command unknown: update the operator"),
            ("hangs", "Timeout", "it did not end within 2 s"),
            ("floods", "TooLarge", "it wrote more than 8 MiB"),
            ("dies", "ExecFailed", "the connection ended before the command did"),
            ("missing", "ExecFailed", "exec: no such file"),
        ):
            with pytest.raises(ProblemError) as caught:
                asyncio.run(ask(cluster, "n1", word, timeout=2.0 if word == "hangs" else 30.0))
            assert (caught.value.reason, text in caught.value.message) == (reason, True), caught.value.message
    with pytest.raises(ProblemError, match="cannot reach the kubelet"):
        asyncio.run(ask(cluster, "n1", "works"))
    with pytest.raises(ProblemError, match="no node n9: there are n1, n2, n3"):
        asyncio.run(ask(cluster, "n9", "works"))
    cluster.kubectl("delete", "pod", "-n", SYSTEM, "agent-n3", "--force", "--grace-period=0")
    with pytest.raises(ProblemError, match="no agent runs on n3: the command runs in its Pod"):
        asyncio.run(ask(cluster, "n3", "works"))
