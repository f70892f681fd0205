"""What the agent costs a node: memory, time of the processor when idle, and writes to the API server.

python -m tests.benchmarks.agent [SECONDS]

A real API server, the controller and one agent as processes; 200 mirrors, of which 50 change one after the other; then
idle for a minute (or so many seconds) without and with probing of all 200 endpoints, which are real registries.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.cluster import Cluster, mirror
from tests.harness.nodebinaries import node_programs
from tests.harness.registries import Registries
from tests.harness.workplace import Workplace

from .load import told

MIRRORS = 200
CHANGES = 50
IDLE = 60.0
NODE = "measured"
_SETTLE = 5.0
_LONG = 120.0
_GROUP = "registrymirror.io"
_READS = ("GET", "LIST", "WATCH", "CONNECT")
_COUNTED = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<count>\S+)$", re.MULTILINE)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Memory:
    """What a process takes, in MB: resident, and its share of what others have too."""

    rss: float
    pss: float

    def __str__(self) -> str:
        return f"{self.rss:.1f} MB RSS, {self.pss:.1f} MB PSS"


def memory(pid: int) -> Memory:
    """What a process takes now (proc(5), smaps_rollup)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = {name: int(value) / 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return Memory(found["Rss"], found["Pss"])


def processor(pid: int) -> float:
    """The seconds that a process has spent, in user mode and in the kernel (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def writes(cluster: Cluster) -> Counter[str]:
    """How often each resource has been written to since the API server's start, by anybody."""
    found: Counter[str] = Counter()
    for match in _COUNTED.finditer(cluster.kubectl("get", "--raw", "/metrics")):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"]))
        if labels["verb"] not in _READS:
            name = f"{labels['resource']}{'/' if labels['subresource'] else ''}{labels['subresource']}"
            found[f"{name}.{labels['group']}" if labels["group"] else name] += int(float(match["count"]))
    return found


class Bench:
    """The operator with one agent, and the registries that its mirrors name."""

    def __init__(self, cluster: Cluster, urls: list[str]) -> None:
        self._cluster = cluster
        self._urls = urls

    @property
    def pid(self) -> int:
        """The agent's process."""
        return self._cluster.agents[NODE].pid

    def begin(self) -> None:
        """Start controller and agent, and wait for what the agent finds."""
        self._cluster.install()
        self._cluster.start_controller()
        self._cluster.add_node(NODE, "containerd")
        self._cluster.start_agent(NODE)
        self._cluster.until(lambda: self._config().get("status", {}).get("runtime"), "the agent has reported", _LONG)
        time.sleep(_SETTLE)

    def fill(self) -> None:
        """Make the mirrors, and wait until the node has all of them."""
        self._cluster.apply(*(self._mirror(index, 0) for index in range(MIRRORS)))

        def filled() -> bool:
            return self._config().get("status", {}).get("fileCount", 0) >= MIRRORS and self._done("")

        self._cluster.until(filled, f"the node has {MIRRORS} files", _LONG)
        time.sleep(_SETTLE)

    def change(self, number: int) -> float:
        """Change one mirror; gives the seconds until the node has reported the revision, kubectl included."""
        before = self._config()["spec"]["revision"]
        began = time.monotonic()
        self._cluster.apply(self._mirror(number % MIRRORS, number // MIRRORS + 1))
        self._cluster.until(lambda: self._done(before), f"change {number} is on the node", _LONG)
        return time.monotonic() - began

    def probe(self) -> None:
        """Have the agent test all endpoints every minute, and wait until it has reported on all."""
        spec = {"probe": {"mode": "Report", "interval": "60s"}}
        head = {"apiVersion": f"{_GROUP}/v1alpha1", "kind": "RegistryMirrorPolicy", "metadata": {"name": "default"}}
        self._cluster.apply({**head, "spec": spec})

        def probed() -> bool:
            found = self._config()["status"].get("endpoints") or ()
            return len(found) >= MIRRORS and all(item["reachable"] for item in found)

        self._cluster.until(probed, "all endpoints are tested", _LONG)
        time.sleep(_SETTLE)

    def idle(self, seconds: float) -> str:
        """Wait; tells what the agent spent, and what was written to the API server meanwhile."""
        written, spent, began = writes(self._cluster), processor(self.pid), time.monotonic()
        time.sleep(seconds)
        share = (processor(self.pid) - spent) / (time.monotonic() - began) * 100
        new = writes(self._cluster) - written
        ours = sum(count for name, count in new.items() if name.endswith(_GROUP) or name in ("secrets", "events"))
        rest = ", ".join(f"{count} x {name}" for name, count in sorted(new.items()))
        return f"{share:.2f} % of a core, {ours} writes by the operator (all of the cluster: {rest or 'none'})"

    def _mirror(self, index: int, version: int) -> dict[str, Any]:
        url = self._urls[(index + version) % len(self._urls)]
        return mirror(f"mirror-{index}", f"registry-{index}.example", f"{url}/v2/proxy-{index}")

    def _config(self) -> dict[str, Any]:
        items = self._cluster.get("noderegistryconfigs")["items"]
        return next((item for item in items if item["metadata"]["name"] == NODE), {})

    def _done(self, before: str) -> bool:
        found = self._config()
        revision = found.get("spec", {}).get("revision")
        return revision not in ("", None, before) and found.get("status", {}).get("appliedRevision") == revision


def measure(cluster: Cluster, urls: list[str], seconds: float) -> None:
    """Measure all, and print it as it comes."""
    bench = Bench(cluster, urls)
    bench.begin()
    _say("after its start", str(memory(bench.pid)))
    bench.fill()
    _say(f"with {MIRRORS} mirrors", str(memory(bench.pid)))
    times = [bench.change(number) for number in range(CHANGES)]
    _say(f"after {CHANGES} changes", str(memory(bench.pid)))
    print(told("kubectl apply to the node's report", times))
    time.sleep(_SETTLE)
    _say(f"idle for {seconds:g} s, no probing", bench.idle(seconds))
    bench.probe()
    _say("after a round of probes", str(memory(bench.pid)))
    _say(f"idle for {seconds:g} s, {MIRRORS} endpoints probed", bench.idle(seconds))
    _say("at the end", str(memory(bench.pid)))
    assert cluster.controller is not None
    print(f"controller: {memory(cluster.controller.pid)}")


def _say(what: str, found: str) -> None:
    print(f"agent {what}: {found}", flush=True)


def main() -> int:
    """Print what was measured."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else IDLE
    programs = node_programs()
    place = Workplace().start()
    try:
        with (
            Registries(place, programs) as registries,
            tempfile.TemporaryDirectory() as work,
            Cluster(Path(work)) as cluster,
        ):
            measure(cluster, [registries.plain(name).url for name in ("one", "two")], seconds)
    finally:
        place.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
