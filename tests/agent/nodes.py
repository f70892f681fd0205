"""The agent's node on a tree of files, with no service manager, no endpoint to test, and nothing watched."""

from __future__ import annotations

from pathlib import Path

from registry_mirror.agent.build import engine
from registry_mirror.agent.host import Host
from registry_mirror.agent.node import Node, Secrets
from registry_mirror.agent.prober import Prober
from registry_mirror.agent.proxies import Proxies


def node(root: Path, secrets: Secrets) -> Node:
    """The node whose file system is at ``root``; its bundles are in the namespace ``bundles``."""

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is to be tested")

    return Node(
        engine(Host(root), root, None, None, None),
        secrets,
        "bundles",
        Prober(refuse, lambda: None),
        lambda _: Proxies({}),
        lambda _: None,
    )
