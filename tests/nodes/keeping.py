"""The agent's engine on a node, with what the host keeps for when it is gone, and without a cluster.

Run in the node as ``python -m tests.nodes.keeping OBJECTS [hold] [restart]``: it makes the node as the objects say, by
a restart too if ``restart`` is given, and prints a line that says what was done. With ``hold`` it goes on to hold the
agent's lock until it is ended.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from registry_mirror.agent.absence import Absence
from registry_mirror.agent.build import engine
from registry_mirror.agent.engine import Order
from registry_mirror.agent.host import Host
from registry_mirror.agent.service import manager
from registry_mirror.agent.service.systemd import Systemd
from registry_mirror.agent.state import LOCK
from registry_mirror.api.errors import WaitingError
from registry_mirror.cli.documents import load, rendered
from registry_mirror.cli.local import open_node
from registry_mirror.core.bundle import seal

_ROOT = Path("/")
AFTER = 86400


def main(objects: str, *how: str) -> None:
    """Do it. Raises what the engine found wrong."""
    with open_node(_ROOT, "containerd") as node:
        facts, key = node.facts(), node.key()
    found, sources = rendered(load((objects,)), facts, {})
    bundle = seal(facts.name, found, sources, key)
    host, service = Host(_ROOT), manager(_ROOT)
    assert isinstance(service, Systemd)
    works = engine(host, _ROOT, "containerd", service, None, Absence(host, service, AFTER))
    with host.alone(LOCK, lambda: None):
        written: list[str] = []
        while True:
            done = works.run(Order(fetch=lambda: bundle, restart_allowed="restart" in how))
            written += done.outcome.written
            if done.problem is None and not done.outcome.held:
                break
            if done.problem is not None and not isinstance(done.problem, WaitingError):
                raise done.problem
            time.sleep(0.5)
        print(f"written: {' '.join(written)}", flush=True)
        if "hold" in how:
            signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
