"""``registry-mirror status`` and ``diff`` against a real API server, as a person runs them; the agents are played."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from registry_mirror.api.models import EmbeddedRegistry, EndpointResult
from registry_mirror.cli.main import main
from registry_mirror.core.layout import default_facts
from tests.apiserver.players import Players
from tests.harness.cluster import REPOSITORY, SYSTEM, Cluster, mirror
from tests.harness.realcluster import RealCluster

pytestmark = pytest.mark.apiserver

NODES = ("n1", "n2", "n3")
URL = "https://mirror.example.com"
FACTS = replace(default_facts("k3s"), embedded_registry=EmbeddedRegistry(address="127.0.0.1:6443"))
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "robot", "namespace": SYSTEM},
    "stringData": {"username": "robot", "password": "swordfish"},
}
HUB = {**mirror("hub", "docker.io"), "spec": {"registry": "docker.io", "endpoints": [{"url": URL}]}}
HUB["spec"]["endpoints"][0]["credentialsRef"] = {"name": "robot"}


@pytest.fixture(scope="module")
def played(bare_cluster: Cluster) -> Iterator[tuple[Cluster, Players]]:
    """Three K3s nodes on which docker.io is in force, and shared once they have restarted for it."""
    for name in NODES:
        bare_cluster.add_node(name, "k3s")
    bare_cluster.policy(maxUnavailable="100%", canary={"nodes": 1, "soak": "0s"})
    bare_cluster.start_controller()
    with Players(bare_cluster, FACTS) as players:
        bare_cluster.apply(SECRET, HUB)
        bare_cluster.until(lambda: run(bare_cluster, "status").returncode == 0, "all is in force", 60)
        yield bare_cluster, players


@dataclass(frozen=True, slots=True)
class Done:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def run(cluster: Cluster | RealCluster, *args: str, stdin: str = "", kubeconfig: str = "") -> Done:
    """Run the program, as its entry point does; in this process, for its client takes a second to import."""
    out, err = io.StringIO(), io.StringIO()
    where = ["--kubeconfig", kubeconfig or str(cluster.plane.admin_kubeconfig)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["registry-mirror", *args, *where])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def allowed(cluster: Cluster, *args: str, **given: str) -> None:
    """Wait until the API server knows of a new right."""
    cluster.until(lambda: run(cluster, *args, **given).returncode != 1, "it is allowed", 60)


def normal(text: str) -> str:
    """Ages are none that a test knows."""
    return re.sub(r"[ ]+\d+[smh]\b", " AGE", text)


def documents(*bodies: dict[str, Any]) -> str:
    return "\n---\n".join(json.dumps(body) for body in bodies)


def test_status_of_a_cluster_in_which_all_is_well(played: tuple[Cluster, Players]) -> None:
    cluster, _ = played
    done = run(cluster, "status")
    assert done.returncode == 0
    assert normal(done.stdout) == (
        """\
1 mirror (1 Ready), 3 nodes, controller leads

MIRROR  REGISTRY   STATE  REASON   NODES  FAILED  ENDPOINTS  SINCE
hub     docker.io  Ready  Applied  3/3    0       ?/1 AGE

RUNTIME  VERSION       STATE     REASON  COUNT  SINCE  NODES
k3s      v1.33.4+k3s1  in force  -       3      -      n1, n2, n3
"""
    )
    one = run(cluster, "status", "hub")
    assert one.stdout.startswith("hub (docker.io): Ready Applied")
    assert "nodes: 3 selected, 3 applied, 0 pending, 0 failed, 0 drifted" in one.stdout


def test_status_tells_what_is_wrong_and_what_is_waited_for(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    players.stalled["n2"] = "DiskFull"
    try:
        cluster.until(lambda: run(cluster, "status").returncode == 4, "a node has failed", 60)
        found = json.loads(run(cluster, "status", "-o", "json").stdout)
        assert [(item["state"], item["names"]) for item in found["groups"]] == [
            ("failed", ["n2"]),
            ("in force", ["n1", "n3"]),
        ]
        shown = run(cluster, "status").stdout
        assert re.search(r"Somebody has to do something\n(  .*\n)*  n2 \(DiskFull, for \d+s\): played\n", shown), shown
        assert yaml.safe_load(run(cluster, "status", "-o", "yaml").stdout)["groups"][0]["reason"] == "DiskFull"
    finally:
        players.stalled.clear()
    cluster.until(lambda: run(cluster, "status").returncode == 0, "it has recovered", 60)
    cluster.apply(mirror("lost", "lost.example.com", URL, nodeSelector={"matchLabels": {"no": "node"}}))
    players.mute.update(NODES)
    try:
        cluster.apply(mirror("quay", "quay.io", URL))
        cluster.until(lambda: run(cluster, "status").returncode == 3, "a mirror is on its way", 60)
        shown = run(cluster, "status").stdout
        assert "Under way\n" in shown
        assert re.search(r"quay +quay.io +Reconciling", shown), shown
    finally:
        players.mute.clear()
        cluster.kubectl("delete", "registrymirror", "quay", "lost")
    cluster.until(lambda: run(cluster, "status").returncode == 0, "all is as before", 60)


def test_status_shows_endpoints_that_do_not_answer(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    policy = {"kind": "RegistryMirrorPolicy", "metadata": {"name": "default"}, "spec": {"probe": {"mode": "Report"}}}
    cluster.apply({"apiVersion": "registrymirror.io/v1alpha1", **policy})
    players.endpoints["n1"] = (EndpointResult(url=URL, reachable=False, reason="Timeout", message="no answer"),)
    players.endpoints["n2"] = (EndpointResult(url=URL, reachable=True, reason="Answered"),)
    try:
        row = rf"{URL} +1 +1 +Timeout on n1: no answer"
        cluster.until(lambda: re.search(row, run(cluster, "status", "hub").stdout), "both are seen")
        assert f"{URL} does not answer 1 of 2 nodes" in run(cluster, "status").stdout
    finally:
        players.endpoints.clear()
        cluster.policy(maxUnavailable="100%", canary={"nodes": 1, "soak": "0s"})


def test_watch_tells_each_change_and_ends_quietly(played: tuple[Cluster, Players], tmp_path: Path) -> None:
    cluster, players = played
    env = {**os.environ, "KUBECONFIG": str(cluster.plane.admin_kubeconfig), "PYTHONPATH": str(REPOSITORY / "operator")}
    out = tmp_path / "out"
    with out.open("w") as stream:
        # Where this is run in the background of a script, SIGINT is ignored, and so it would be by the program.
        command = ["env", "--default-signal=INT", sys.executable, "-m", "registry_mirror"]
        command += ["status", "--watch", "-o", "json"]
        watch = subprocess.Popen(command, env=env, stdout=stream, stderr=subprocess.STDOUT)
    try:
        cluster.until(lambda: len(out.read_text().splitlines()) >= 1, "the first look", 60)
        time.sleep(4.5)  # two more looks, of which there is nothing to tell
        players.stalled["n3"] = "DiskFull"
        cluster.until(lambda: '"DiskFull"' in out.read_text(), "the change", 60)
    finally:
        players.stalled.clear()
        watch.send_signal(signal.SIGINT)
        try:
            code = watch.wait(120)
        finally:
            watch.kill()
    lines = out.read_text().splitlines()
    assert code == 0
    states = [[group["state"] for group in json.loads(line)["groups"]] for line in lines]
    assert all(one != other for one, other in itertools.pairwise(lines))
    assert states[0] == ["in force"]
    assert ["failed", "in force"] in states


def test_what_cannot_be_asked_is_said_in_a_line(played: tuple[Cluster, Players], tmp_path: Path) -> None:
    cluster, _ = played
    nobody = run(cluster, "status", "nobody")
    assert (nobody.returncode, nobody.stderr) == (1, "error: no RegistryMirror nobody: there are hub\n")
    missing = run(cluster, "status", kubeconfig=str(tmp_path / "none"))
    assert missing.returncode == 1
    assert "there is no such file" in missing.stderr
    context = run(cluster, "status", "--context", "elsewhere")
    assert context.returncode == 1
    assert "elsewhere" in context.stderr
    config = yaml.safe_load(cluster.plane.admin_kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    away = tmp_path / "away"
    away.write_text(yaml.safe_dump(config))
    done = run(cluster, "status", kubeconfig=str(away))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "no answer from the API server" in done.stderr


def test_who_may_read_less_sees_less(played: tuple[Cluster, Players]) -> None:
    cluster, _ = played
    cluster.kubectl("create", "serviceaccount", "reader", "-n", "default")
    kubeconfig = str(cluster.plane.service_account_kubeconfig("default", "reader"))
    done = run(cluster, "status", kubeconfig=kubeconfig)
    assert done.returncode == 1
    assert "you may not read registrymirrors" in done.stderr
    names = "registrymirrors,noderegistryconfigs"
    cluster.kubectl("create", "clusterrole", "reader", "--verb=get,list", f"--resource={names}")
    cluster.kubectl("create", "clusterrolebinding", "reader", "--clusterrole=reader", "--serviceaccount=default:reader")
    allowed(cluster, "status", kubeconfig=kubeconfig)
    done = run(cluster, "status", kubeconfig=kubeconfig)
    assert "nodes unknown" in done.stdout
    assert "note: nodes cannot be read" in done.stdout
    refused = run(cluster, "diff", "-f", "-", stdin=documents(HUB), kubeconfig=kubeconfig)
    assert refused.returncode == 1
    assert "labels of the nodes" in refused.stderr
    cluster.kubectl("create", "clusterrole", "nodes", "--verb=get,list", "--resource=nodes")
    cluster.kubectl("create", "clusterrolebinding", "nodes", "--clusterrole=nodes", "--serviceaccount=default:reader")

    allowed(cluster, "diff", "-f", "-", stdin=documents(HUB), kubeconfig=kubeconfig)
    found = run(cluster, "diff", "-f", "-", stdin=documents(HUB), kubeconfig=kubeconfig)
    assert (found.returncode, found.stdout) == (0, "nothing changes on 3 nodes\n")
    assert f"Secret {SYSTEM}/robot may not be read: it counts as unchanged" in found.stderr


def test_diff_tells_what_an_apply_then_does(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    same = run(cluster, "diff", "-f", "-", stdin=documents(HUB, SECRET))
    assert (same.returncode, same.stdout) == (0, "nothing changes on 3 nodes\n")
    live = json.loads(json.dumps(HUB).replace("mirror.example.com", "other.example.com"))
    done = run(cluster, "diff", "-f", "-", stdin=documents(live))
    assert done.returncode == 3
    assert done.stdout.startswith("3 nodes with k3s (n1, n2, n3): no restart is needed\n")
    assert "+  https://other.example.com/v2:\n" in done.stdout
    assert "swordfish" not in done.stdout
    shared = mirror("quay", "quay.io", URL)
    found = run(cluster, "diff", "-f", "-", "-o", "json", stdin=documents(shared))
    assert found.returncode == 4
    (change,) = json.loads(found.stdout)["changes"]
    waiting = ["sharing of quay.io through the embedded registry"]
    assert (change["nodes"], change["waiting"]) == (list(NODES), waiting)
    players.forget()
    cluster.apply(shared)
    try:
        cluster.until(lambda: sorted(players.restarted) == list(NODES), "each node has restarted", 60)
        after = run(cluster, "diff", "-f", "-", stdin=documents(shared))
        assert (after.returncode, after.stdout) == (0, "nothing changes on 3 nodes\n")
    finally:
        cluster.kubectl("delete", "registrymirror", "quay")
