"""A controller that looks on at nodes: it tells of what it has seen happen, once, and not without end."""

from __future__ import annotations

from msgspec.structs import replace

from registry_mirror.controller.node_events import MOST_A_MINUTE, NodeEvents
from registry_mirror.core.plan import NodeView
from tests.pure.nodes import IN_FORCE, config
from tests.pure.test_node_events import BAD, FINE


class Watched:
    """NodeEvents with nodes whose status is set by the test, and a clock."""

    def __init__(self, *names: str) -> None:
        self.now = 0.0
        self.events = NodeEvents(lambda: self.now)
        self.statuses = dict.fromkeys(names, FINE)

    def look(self) -> list[tuple[str, str]]:
        """Look, and give what there is to tell."""
        views = []
        for name, found in self.statuses.items():
            metadata = replace(config("applied").metadata, name=name, uid=f"config-{name}")
            views.append(NodeView(name, IN_FORCE, replace(config("applied"), metadata=metadata, status=found)))
        return [(name, item.reason) for name in self.events.look(views) for item in self.events.take(name)]


def test_a_controller_that_has_just_come_tells_nothing_of_what_was() -> None:
    watched = Watched("a", "b")
    watched.statuses["a"] = BAD
    assert watched.look() == []
    assert watched.look() == []
    watched.statuses["b"] = BAD
    assert watched.look() == [("b", "UnsafePath")]
    assert watched.look() == []


def test_a_node_that_joins_and_stalls_is_told() -> None:
    watched = Watched("a", "b")
    del watched.statuses["b"]
    watched.look()
    watched.statuses["b"] = BAD
    assert watched.look() == [("b", "UnsafePath")]


def test_what_befalls_all_nodes_at_once_writes_no_flood() -> None:
    names = [f"n{number}" for number in range(200)]
    watched = Watched(*names)
    watched.look()
    watched.statuses = dict.fromkeys(names, BAD)
    assert len(watched.look()) == MOST_A_MINUTE
    watched.statuses["n0"] = FINE
    assert watched.look() == []
    watched.now = 60.0
    watched.statuses["n1"] = FINE
    assert watched.look() == [("n1", "Recovered")]
