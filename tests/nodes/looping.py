"""The agent itself in a node, with an API server that has its NodeRegistryConfig and nothing else.

Run in the node as ``python -m tests.nodes.looping OBJECTS RUNTIME REPORTS``: the bundle is made of the objects as
``apply --local`` makes it, and each status that is reported becomes a line of REPORTS.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
from pathlib import Path
from typing import Any

from registry_mirror.agent.app import Settings
from registry_mirror.agent.build import agent
from registry_mirror.agent.host import Host
from registry_mirror.cli.documents import load, rendered
from registry_mirror.cli.local import open_node
from registry_mirror.core.bundle import Bundle, encode, seal
from registry_mirror.kube.clock import now
from registry_mirror.kube.resources import BUNDLE_KEY
from registry_mirror.kube.rest import Connection, Rest
from tests.agent.server import Answer, Request, Server

_ROOT = Path("/")


def _bundle(objects: str, runtime: str) -> Bundle:
    with open_node(_ROOT, runtime) as node:
        facts, key = node.facts(), node.key()
    found, sources = rendered(load((objects,)), facts, {})
    return seal(facts.name, found, sources, key)


def main(objects: str, runtime: str, reports: str) -> None:
    """Run until SIGTERM."""
    bundle = _bundle(objects, runtime)
    item: dict[str, Any] = {
        "metadata": {"name": "n", "uid": "u", "generation": 1, "resourceVersion": "1"},
        "spec": {"revision": bundle.revision, "bundle": {"name": bundle.name}, "restartAllowed": True},
        "status": {},
    }

    def answer(request: Request) -> Answer:
        if request.method == "PATCH":
            item["status"] = json.loads(request.body)["status"]
            with open(reports, "a") as file:
                file.write(json.dumps(item["status"]) + "\n")
            return 200, b"{}"
        if "/secrets/" in request.path:
            return 200, json.dumps({"data": {BUNDLE_KEY: base64.b64encode(encode(bundle)).decode()}}).encode()
        if "/leases/" in request.path:
            return 200, json.dumps({"spec": {"renewTime": now()}}).encode()
        return 200, json.dumps({"metadata": {"resourceVersion": "1"}, "items": [item]}).encode()

    server = Server(answer)
    rest = Rest(Connection(server=server.url, token="t"))
    found = agent(rest, Host(_ROOT), _ROOT, runtime, "bundles", Settings("n", resync=300.0))  # type: ignore[arg-type]
    signal.signal(signal.SIGTERM, lambda *_: found.stop())
    found.run()
    server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
