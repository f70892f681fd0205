"""One change to 1,000 nodes: how long it takes, how many writes, and what the controller costs; and a change that takes
a restart, judged by the API server's own watch history.

python -m tests.benchmarks.scale [NODES ...]

A real API server and the controller as a process; the agents are played (tests/apiserver/crowd.py). There are 200
mirrors, of which one changes a few times. Its measure is the same number of writes of the same size to the same objects
by a program that decides nothing, in the same run, after the controller has ended.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any

import msgspec

from registry_mirror.api.models import EmbeddedRegistry
from registry_mirror.core.layout import default_facts
from registry_mirror.kube.resources import AGENT, CONFIGS, CONTROLLER, NODES
from tests.apiserver import history as proof
from tests.apiserver.crowd import CONNECTIONS, Client, Crowd
from tests.apiserver.history import Recorder
from tests.harness.cluster import Cluster, mirror

from .agent import memory, processor, writes

MIRRORS = 200
CHANGES = 5
SIZES = (100, 1000)
MOST = "10%"
_SETTLE = 5.0
_LONG = 1800.0
_VERSION = "v1.33.4+k3s1"
_CONTAINERD = "containerd://2.1.4-k3s1"
_GROUP = "registrymirror.io"


class Scale:
    """The operator with so many nodes. With the embedded registry on, a mirror more takes a restart; a change of its
    endpoints does not.
    """

    def __init__(self, cluster: Cluster, nodes: int) -> None:
        self._cluster = cluster
        self._nodes = nodes
        facts = msgspec.structs.replace(
            default_facts("k3s", _VERSION), embedded_registry=EmbeddedRegistry(address="127.0.0.1:6443")
        )
        works = lambda _name, bundle: not any("bad" in name for name in bundle.start_settings)  # noqa: E731
        self._crowd = Crowd(cluster.plane.admin_kubeconfig, facts, works)
        self._client = Client(cluster.plane.admin_kubeconfig)
        self._agents: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Measure, and print it as it comes."""
        async with self._client:
            self._cluster.install()
            await _gathered(self._client.call("POST", NODES.path(), _node(number)) for number in range(self._nodes))
            await self._apply(*(_mirror(number, 0) for number in range(MIRRORS)))
            self._cluster.start_controller()
            self._agents = asyncio.create_task(self._crowd.run())
            began = time.monotonic()
            await self._until_all_have_another("")
            print(f"  the first revision everywhere: {time.monotonic() - began:.1f} s", flush=True)
            times = [await self._change(number) for number in range(CHANGES)]
            assert self._cluster.controller is not None
            print(f"  controller: {memory(self._cluster.controller.pid)}")
            await self._restarts()
            self._cluster.controller.stop()
            self._agents.cancel()
            bare = [await self._bare(number) for number in range(3)]
        change, floor = statistics.median(times), statistics.median(bare)
        print(
            f"  median change {change:.2f} s, {2 * self._nodes} bare writes {floor:.2f} s, ratio {change / floor:.1f}"
        )

    async def _change(self, number: int) -> float:
        """Change one mirror; gives the seconds until all nodes have it, from when kubectl has returned."""
        await asyncio.sleep(_SETTLE)
        assert self._cluster.controller is not None
        pid, server = self._cluster.controller.pid, self._cluster.plane.processes[1].pid
        before, spent, served = writes(self._cluster), processor(pid), processor(server)
        old = self._revision()
        await self._apply(_mirror(number, 1))
        began = time.monotonic()
        await self._until_all_have_another(old)
        took = time.monotonic() - began
        await asyncio.sleep(_SETTLE)
        new = writes(self._cluster) - before
        nodes = sum(count for name, count in new.items() if name.startswith("noderegistryconfigs"))
        mirrors = new[f"registrymirrors/status.{_GROUP}"]
        print(
            f"  change {number + 1}: {took:.2f} s, {nodes / self._nodes:.2f} writes a node, {mirrors} of mirrors' "
            f"statuses, {new['events']} Events; processor: controller {processor(pid) - spent:.1f} s, API server "
            f"{processor(server) - served:.1f} s",
            flush=True,
        )
        return took

    async def _restarts(self) -> None:
        """Have one change restart every runtime, and another one fail; judged by what the API server tells."""
        canary = {"nodes": 1, "soak": "0s"}
        await asyncio.to_thread(lambda: self._cluster.policy(maxUnavailable=MOST, canary=canary))
        await asyncio.sleep(_SETTLE)
        with Recorder(self._cluster.plane.admin_kubeconfig) as recorder:
            old, began = self._revision(), time.monotonic()
            await self._apply(mirror("good", "good.example.com"))
            await self._until_all_have_another(old)
            await self._until_idle()
            took, good = time.monotonic() - began, self._revision()
            await self._apply(mirror("bad", "bad.example.com"))
            condition = lambda: self._cluster.condition("bad", "Stalled").get("status") == "True"  # noqa: E731
            await asyncio.to_thread(lambda: self._cluster.until(condition, "it is halted", _LONG))
            await asyncio.sleep(_SETTLE)
            found = recorder.history()
        (bad,) = set(proof.revisions(found)) - {old, good}
        problems = [*proof.over_budget(found, MOST), *proof.granted_twice(found)]
        reached = proof.reached(found, bad)
        print(
            f"  a restart everywhere: {took:.0f} s, at most {proof.most_in_flight(found)} at once with maxUnavailable "
            f"{MOST}; one that fails reached {len(reached)}; {len(found)} events, {len(problems)} problems",
            flush=True,
        )
        if problems or len(reached) != 1:
            raise AssertionError(f"{problems[:5]} {sorted(reached)[:5]}")

    async def _bare(self, number: int) -> float:
        """As many writes as a change takes, of the same size, by who decides nothing."""
        statuses = self._crowd.statuses
        revision = f"bare{number}"

        async def both(name: str) -> None:
            spec = {"revision": revision, "bundle": {"name": f"bundle-{revision}"}}
            await self._client.apply(CONFIGS, name, {"spec": spec}, CONTROLLER)
            status = msgspec.structs.replace(statuses[name], applied_revision=revision)
            await self._client.apply(CONFIGS, name, {"status": msgspec.to_builtins(status)}, AGENT, "status")

        began = time.monotonic()
        await _gathered(both(name) for name in statuses)
        return time.monotonic() - began

    def _revision(self) -> str:
        """What all nodes have."""
        (found,) = {status.applied_revision for status in self._crowd.statuses.values()}
        return found

    async def _until_all_have_another(self, old: str) -> None:
        def done() -> bool:
            found = {status.applied_revision for status in self._crowd.statuses.values()}
            return len(self._crowd.statuses) == self._nodes and len(found) == 1 and not found & {"", old}

        await self._until(done)

    async def _until_idle(self) -> None:
        await self._until(lambda: not any(status.waiting_for_restart for status in self._crowd.statuses.values()))

    async def _until(self, done: Any) -> None:
        async with asyncio.timeout(_LONG):
            while not done():
                assert self._agents is not None
                if self._agents.done():
                    self._agents.result()
                self._crowd.changed.clear()
                await self._crowd.changed.wait()

    async def _apply(self, *documents: dict[str, Any]) -> None:
        await asyncio.to_thread(self._cluster.apply, *documents)


async def _gathered(work: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Do all of it, as many at a time as there are connections."""
    waiting = iter(work)

    async def worker() -> None:
        for item in waiting:
            await item

    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))


def _mirror(number: int, version: int) -> dict[str, Any]:
    urls = (f"https://{name}-{version}.example/v2/proxy-{number}" for name in ("one", "two"))
    return mirror(f"mirror-{number}", f"registry-{number}.example", *urls)


def _node(number: int) -> dict[str, Any]:
    empty = ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "kubeProxyVersion")
    info = {"kubeletVersion": _VERSION, "containerRuntimeVersion": _CONTAINERD, **dict.fromkeys(empty, "")}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number:04}"},
        "status": {
            "nodeInfo": {**info, "operatingSystem": "linux", "architecture": "amd64"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Played"}],
        },
    }


def main() -> int:
    """Print what was measured."""
    for nodes in [int(item) for item in sys.argv[1:]] or SIZES:
        print(f"{nodes} nodes, {MIRRORS} mirrors", flush=True)
        with tempfile.TemporaryDirectory() as work, Cluster(Path(work)) as cluster:
            asyncio.run(Scale(cluster, nodes).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
