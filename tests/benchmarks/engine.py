"""The agent's engine as a process that lives on, without a cluster: many changes come one after the other.

python -m tests.benchmarks.engine VERSION        in a node, with the version of containerd that its Node would tell

Each line on its standard input is `auto` or `never`, which says whether the runtime may be restarted, and the path of a
file with RegistryMirrors. It makes the node so, and answers with a line of JSON: what it did, and how long that took
from the moment that it had the bundle.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from registry_mirror.agent.local import LocalNode
from registry_mirror.api.errors import ProblemError
from registry_mirror.cli.documents import load, rendered
from registry_mirror.cli.local import open_node
from registry_mirror.core.bundle import seal

_DEADLINE = 60.0


class Answer(msgspec.Struct):
    """What one change came to; ``seconds`` is from the bundle to the files in place."""

    problem: str = ""
    written: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    restarted: str = ""
    seconds: float = 0.0


def change(node: LocalNode, version: str, restart: str, file: str) -> Answer:
    """Make the node as the file says."""
    try:
        facts = msgspec.structs.replace(node.facts(), containerd_version=version)
        found, sources = rendered(load((file,)), facts, {})
        bundle = seal(facts.name, found, sources, node.key())
        began = time.perf_counter()
        done = node.apply(bundle, restart=restart == "auto", deadline=_DEADLINE, report=lambda text: None)
        seconds = time.perf_counter() - began
    except ProblemError as error:
        return Answer(problem=f"{error.reason}: {error.message}")
    return Answer(written=done.written, waiting=done.waiting, restarted=done.restarted, seconds=seconds)


def main() -> int:
    """Answer until there is no more input."""
    with open_node(Path("/"), "auto") as node:
        for line in sys.stdin:
            restart, file = line.split()
            print(msgspec.json.encode(change(node, sys.argv[1], restart, file)).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
