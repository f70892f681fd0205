"""What changes cost the pulls that go on meanwhile: live changes by the agent's engine, beside a restart for each.

python -m tests.benchmarks.pulls [CHANGES]

Real containerd 2.4 in a node of its own for each of the two, the same registries and the same load, in one run. Each
change has the node ask another mirror. It is effective when an image is pulled that only that mirror has.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.harness.cluster import mirror
from tests.harness.cri import CRI
from tests.harness.images import make_image
from tests.harness.node import Node, NodeError
from tests.harness.nodebinaries import NodePrograms, node_programs
from tests.harness.registries import Registries, Registry
from tests.harness.workplace import Workplace
from tests.nodes import hosts

from .load import LiveEngine, Pulling, p99, timed_pull

CHANGES = 100
_LOAD = "load.test"
_CHECK = "check.test"
_PAUSE = 0.25  # between a change that is effective and the next one
_ALONE = 20.0  # how long the load runs without changes
_PATIENCE = 60.0
_POLL = 0.02
# As many restarts as are asked for: systemd refuses a sixth within 10 s.
_UNLIMITED = "[Unit]\nStartLimitIntervalSec=0\n"

Change = Callable[[int], None]


@dataclass
class Report:
    """What came of one way: all times in seconds, ``effective`` from the beginning of each change."""

    name: str
    pulls: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    effective: list[float] = field(default_factory=list)
    seconds: float = 0.0
    restarts: int = 0

    def row(self) -> str:
        """A row of the table."""
        ordered = sorted(self.pulls)
        median = ordered[len(ordered) // 2] * 1000
        effective = f"{p99(self.effective) * 1000:.0f} ms" if self.effective else "-"
        cells = (
            self.name,
            f"{len(self.effective)}",
            f"{self.restarts}",
            f"{len(self.failed)} of {len(self.pulls) + len(self.failed)}",
            f"{len(self.pulls) / self.seconds:.1f}",
            f"{median:.0f} ms",
            f"{p99(ordered) * 1000:.0f} ms",
            effective,
        )
        return f"| {' | '.join(cells)} |"


class Bench:
    """Two mirrors, and the same load on any node."""

    def __init__(self, registries: Registries) -> None:
        self._mirrors = (registries.plain("one"), registries.plain("two"))

    def order(self, number: int) -> tuple[Registry, Registry]:
        """The mirrors as the n-th change has them, the one that has its image first."""
        return (self._mirrors[number % 2], self._mirrors[(number + 1) % 2])

    def measure(self, name: str, node: Node, changes: int, change: Change) -> Report:
        """Load the node and change it so many times; not at all for 0, and for a fixed time then."""
        change(-1)
        CRI(node).wait()
        report, before = Report(name), node.runtime_pid
        began = time.monotonic()
        with Pulling(node, lambda number: self._offer(node, number)) as load:
            for number in range(changes):
                report.effective.append(self._effective(node, number, change))
                now = node.runtime_pid
                report.restarts += now != before
                before = now
                time.sleep(_PAUSE)
            if not changes:
                time.sleep(_ALONE)
        report.seconds = time.monotonic() - began
        report.pulls = [pull.seconds for pull in load.pulls if not pull.error]
        report.failed = [pull.error for pull in load.failed]
        return report

    def _offer(self, node: Node, number: int) -> str:
        image, tag = make_image(), f"{node.name}-{number}"
        for registry in self._mirrors:
            registry.push("team/app", tag, image)
        return f"{_LOAD}/team/app:{tag}"

    def _effective(self, node: Node, number: int, change: Change) -> float:
        tag = f"{node.name}-{number}"
        self.order(number)[0].push("team/check", tag)
        began = time.monotonic()
        change(number)
        while timed_pull(node, f"{_CHECK}/team/check:{tag}").error:
            if time.monotonic() - began > _PATIENCE:
                raise NodeError(f"{node.name}: change {number} had no effect within {_PATIENCE:g} s")
            time.sleep(_POLL)
        return time.monotonic() - began


def alone(bench: Bench, node: Node) -> Report:
    """The load, and no change."""
    with LiveEngine(node) as engine:
        return bench.measure("no change", node, 0, _live(bench, engine))


def live(bench: Bench, node: Node, changes: int) -> Report:
    """Changes by the agent's engine."""
    with LiveEngine(node) as engine:
        return bench.measure("live changes", node, changes, _live(bench, engine))


def _live(bench: Bench, engine: LiveEngine) -> Change:
    def change(number: int) -> None:
        order = bench.order(number)
        check = mirror("check", _CHECK, order[0].url)
        engine.apply(mirror("load", _LOAD, *(registry.url for registry in order)), check)

    return change


def restarting(bench: Bench, node: Node, changes: int) -> Report:
    """The same files, written by hand, and a restart of containerd after each change: what is done where it is not
    known which changes need one."""

    def change(number: int) -> None:
        order = bench.order(number)
        hosts.use(node, _LOAD, *(registry.url for registry in order))
        hosts.use(node, _CHECK, order[0].url)
        node.systemctl("restart", node.flavour.unit)

    node.write(f"/etc/systemd/system/{node.flavour.unit}.d/starts.conf", _UNLIMITED)
    node.systemctl("daemon-reload")
    return bench.measure("a restart each", node, changes, change)


def run(changes: int, place: Workplace, programs: NodePrograms) -> list[Report]:
    """Measure all, a node for each, one after the other."""
    reports = []
    with Registries(place, programs) as registries:
        bench = Bench(registries)
        with Node("alone", "containerd24", place, programs) as node:
            reports.append(alone(bench, node))
        with Node("live", "containerd24", place, programs) as node:
            reports.append(live(bench, node, changes))
        with Node("restarting", "containerd24", place, programs) as node:
            reports.append(restarting(bench, node, changes))
    return reports


def main() -> int:
    """Print a row a way, and what failed pulls say."""
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else CHANGES
    programs = node_programs()
    place = Workplace().start()
    try:
        reports = run(changes, place, programs)
    finally:
        place.stop()
    print("| | changes | restarts | failed pulls | pulls a second | pull, median | pull, p99 | change to effect, p99 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for report in reports:
        print(report.row())
    for report in reports:
        for text in sorted({error.split(":", 1)[0] for error in report.failed}):
            count = sum(error.startswith(text) for error in report.failed)
            print(f"{report.name}: {count} x {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
