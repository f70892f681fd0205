"""The rollout, judged by the API server's own watch history: real controllers, which are killed at random moments, and
the real agent's code on played machines, whose runtimes fail on demand.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import history as proof
from tests.apiserver.history import Event, Recorder
from tests.apiserver.machines import Fault, Machines
from tests.harness.cluster import Cluster, mirror
from tests.harness.pytest_support import require_assets

pytestmark = pytest.mark.apiserver

BASE = mirror("base", "base.example.com", "https://one.example.com")
_LONG = 120.0
_KILLS = 5


def broken(_name: str, read: str) -> Fault:
    """A runtime does not start where a registry is shared whose name says so."""
    return next((fault for fault in ("refuses", "hangs", "mute") if f"{fault}.example" in read), "")


@dataclass
class Stage:
    """A cluster with so many nodes, in which everything is in force, and all that happens is recorded."""

    cluster: Cluster
    names: list[str]
    recorder: Recorder
    number: int = 0

    def policy(self, **rollout: Any) -> None:
        """Canaries are watched for no time unless said otherwise."""
        self.cluster.policy(**{"canary": {"nodes": 1, "soak": "0s"}, "deadline": "20s", **rollout})
        self.cluster.until(lambda: self._seen("rmpol", "default"), "the policy has been read", _LONG)

    def _seen(self, kind: str, name: str) -> bool:
        body = self.cluster.get(kind, name)
        return bool((body.get("status") or {}).get("observedGeneration") == body["metadata"]["generation"])

    def share(self, word: str) -> str:
        """Share one more registry, which takes a restart; gives the object's name."""
        self.number += 1
        name = f"{word}-{self.number}"
        self.cluster.apply(mirror(name, f"{name}.{word}.example"))
        return name

    def now(self) -> int:
        """The version of the last thing that has happened."""
        return self.history()[-1].version

    def history(self, start: int = 0) -> list[Event]:
        """What has happened since a version."""
        return proof.since(self.recorder.history(), start)

    def settled(self, after: str = "") -> bool:
        """Whether all nodes have the same in force, other than before."""
        items = self.cluster.get("noderegistryconfigs")["items"]
        told = {(item.get("spec") or {}).get("revision") for item in items}
        return (
            len(items) == len(self.names)
            and len(told) == 1
            and not told & {None, "", after}
            and all(map(_quiet, items))
        )

    def until_settled(self, after: str = "") -> None:
        """Wait for that."""
        self.cluster.until(lambda: self.settled(after), "all nodes have the same in force", _LONG)

    def revision(self) -> str:
        """What the first node is told."""
        return str(self.cluster.get("noderegistryconfig", self.names[0])["spec"].get("revision", ""))


def _quiet(item: dict[str, Any]) -> bool:
    spec, status = item.get("spec") or {}, item.get("status") or {}
    return (
        spec.get("revision") == status.get("appliedRevision")
        and not status.get("waitingForRestart")
        and not spec.get("restartAllowed")
        and item["metadata"]["generation"] == status.get("observedGeneration")
    )


def _stage(cluster: Cluster, work: Path, nodes: int) -> Iterator[Stage]:
    names = [f"n{number:02}" for number in range(nodes)]
    servers = names[-(1 + nodes // 20) :]
    cluster.install()
    items = [_node(name, server=name in servers) for name in names]
    cluster.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    cluster.policy(maxUnavailable="100%", canary={"nodes": 0})
    cluster.apply(BASE)
    cluster.start_controller()
    with Machines(cluster, names, work / "machines") as machines, Recorder(cluster.plane.admin_kubeconfig) as recorder:
        machines.broken = broken
        found = Stage(cluster, names, recorder)
        found.until_settled()
        yield found


def _node(name: str, *, server: bool) -> dict[str, Any]:
    """A Node as a kubelet registers it, status included."""
    labels = {"node-role.kubernetes.io/control-plane": "true"} if server else {}
    kubelet = {"kubeletVersion": "v1.33.4+k3s1", "containerRuntimeVersion": "containerd://2.1.4-k3s1"}
    other = ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "kubeProxyVersion", "operatingSystem")
    info = {**dict.fromkeys((*other, "architecture"), ""), **kubelet}
    conditions = [{"type": "Ready", "status": "True", "reason": "Played"}]
    metadata = {"name": name, "labels": labels}
    status = {"nodeInfo": info, "conditions": conditions}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}


# Fifty take minutes: `make scale` has them too.
SIZES = [1, 3, 50] if os.environ.get("HISTORY") == "all" else [1, 3]


@pytest.fixture(scope="module", params=SIZES)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """As many nodes as the parameter says."""
    require_assets(request.config)
    work = tmp_path_factory.mktemp("history")
    with Cluster(work / "cluster") as cluster:
        yield from _stage(cluster, work, request.param)


def holds(found: list[Event], most: int | str) -> None:
    """What holds of every history."""
    assert proof.over_budget(found, most) == []
    assert proof.servers_at_once(found) <= 1
    assert proof.granted_twice(found) == []


def changed(stage: Stage, start: int, before: str) -> tuple[list[Event], str]:
    """The history since a version, and the one revision that nodes were told in it besides the one before."""
    found = stage.history(start)
    (revision,) = set(proof.revisions(found)) - {before}
    return found, revision


def once_each(found: list[Event], revision: str, names: list[str]) -> None:
    """That each of the nodes was told a revision, and its runtime restarted for it once."""
    assert proof.reached(found, revision) == set(names)
    counts = {name: count for (name, tried), count in proof.restarts(found).items() if tried == revision}
    assert counts == dict.fromkeys(names, 1)


def test_restarts_in_flight_never_exceed_max_unavailable(stage: Stage) -> None:
    cases: dict[int, tuple[int | str, ...]] = {1: (1,), 3: (1, 3, "10%"), 50: (3, "10%")}
    for most in cases[len(stage.names)]:
        restarts_stay_within(stage, most)


def restarts_stay_within(stage: Stage, most: int | str) -> None:
    stage.policy(maxUnavailable=most)
    start, before = stage.now(), stage.revision()
    stage.share("good")
    stage.until_settled(before)
    found, revision = changed(stage, start, before)
    holds(found, most)
    once_each(found, revision, stage.names)


def test_a_bad_object_reaches_exactly_the_canaries_and_is_gone_when_it_is_deleted(stage: Stage) -> None:
    cases = {
        1: [("refuses", 2)],
        3: [("refuses", 1), ("hangs", 2), ("mute", 1)],
        50: [("refuses", 1), ("hangs", 2)],
    }
    for fault, canaries in cases[len(stage.names)]:
        reaches_the_canaries(stage, fault, canaries)


def reaches_the_canaries(stage: Stage, fault: str, canaries: int) -> None:
    stage.policy(maxUnavailable=3, canary={"nodes": canaries, "soak": "0s"})
    start, before = stage.now(), stage.revision()
    name = stage.share(fault)
    stage.cluster.until(lambda: _halted(stage.cluster, name), f"{name} is halted", _LONG)
    time.sleep(1)  # for what must not come
    found, revision = changed(stage, start, before)
    holds(found, 3)
    first = proof.reached(found, revision)
    assert len(first) == min(canaries, len(stage.names))
    once_each(found, revision, sorted(first))

    stage.cluster.kubectl("delete", "rmir", name)
    stage.until_settled(revision)
    after = stage.history(start)
    holds(after, 3)
    assert proof.revisions(after) == [before, revision], "they are told again what they had"
    assert proof.reached(after, revision) == first
    assert proof.restarts(after) == proof.restarts(found), "and that is what runs"


def _halted(cluster: Cluster, name: str) -> bool:
    items = cluster.get("noderegistryconfigs")["items"]
    busy = any(item["spec"].get("restartAllowed") for item in items)
    return cluster.condition(name, "Stalled").get("status") == "True" and not busy


def test_controllers_that_die_at_random_moments_change_nothing_of_that(stage: Stage) -> None:
    at_random = random.Random(len(stage.names))
    one_is_killed(stage, at_random)
    if len(stage.names) == 50:
        leaders_are_killed_or_stopped(stage, at_random)


def one_is_killed(stage: Stage, at_random: random.Random) -> None:
    stage.policy(maxUnavailable=1 if len(stage.names) < 10 else 3)
    start, before = stage.now(), stage.revision()
    stage.share("good")
    for _ in range(_KILLS):
        time.sleep(at_random.uniform(0.0, 1.0))
        kill(stage.cluster, "controller")
        stage.cluster.start_controller()
    stage.until_settled(before)
    found, revision = changed(stage, start, before)
    holds(found, 1 if len(stage.names) < 10 else 3)
    once_each(found, revision, stage.names)

    start, before = stage.now(), stage.revision()
    name = stage.share("hangs")
    for _ in range(2):
        time.sleep(at_random.uniform(0.0, 1.0))
        kill(stage.cluster, "controller")
        stage.cluster.start_controller()
    stage.cluster.until(lambda: _halted(stage.cluster, name), f"{name} is halted", _LONG)
    found, revision = changed(stage, start, before)
    assert len(proof.reached(found, revision)) == 1
    stage.cluster.kubectl("delete", "rmir", name)
    stage.until_settled(revision)


def kill(cluster: Cluster, name: str) -> None:
    """End a controller without a word."""
    cluster.controllers[name].send_signal(signal.SIGKILL)
    cluster.controllers[name].wait(10)


def leaders_are_killed_or_stopped(stage: Stage, at_random: random.Random) -> None:
    cluster = stage.cluster
    cluster.start_controller("second")
    stage.policy(maxUnavailable=3)
    start, before = stage.now(), stage.revision()
    stage.share("good")
    try:
        for stop in (False, True):
            time.sleep(at_random.uniform(0.0, 1.0))
            first = cluster.until(cluster.leader, "there is a leader", _LONG)
            process = cluster.controllers[first]
            process.send_signal(signal.SIGSTOP if stop else signal.SIGKILL)
            (other,) = set(cluster.controllers) - {first}
            leads = lambda other=other: "\nregistry_mirror_leader 1.0\n" in cluster.http_get("/metrics", other)  # noqa: E731
            cluster.until(leads, f"{other} leads", _LONG)
            process.send_signal(signal.SIGCONT)
            process.wait(_LONG)
            cluster.start_controller(first)
        stage.until_settled(before)
    finally:
        cluster.controllers.pop("second").stop()
    found, revision = changed(stage, start, before)
    holds(found, 3)
    once_each(found, revision, stage.names)


def test_nobody_may_restart_outside_of_the_window(stage: Stage) -> None:
    month = time.gmtime().tm_mon % 12 + 2  # one that does not begin within a day
    stage.policy(windows=[{"schedule": f"0 3 1 {(month - 1) % 12 + 1} *", "duration": "1h", "timeZone": "UTC"}])
    start, before = stage.now(), stage.revision()
    name = stage.share("good")
    stage.cluster.until(lambda: stage.cluster.condition(name).get("reason") == "OutsideWindow", "it waits", _LONG)
    time.sleep(1)  # for what must not come
    assert proof.grants(stage.history(start)) == []
    assert proof.revisions(stage.history(start)) == [before]
    opened = time.time() - 1  # the API server's clock shows whole seconds
    stage.policy(maxUnavailable="100%")
    stage.until_settled(before)
    assert len(proof.grants(stage.history(start))) == len(stage.names)
    assert proof.granted_while(stage.history(start), lambda at: at < opened) == []
