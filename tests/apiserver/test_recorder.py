"""That the judges of a history find what is wrong: each is shown histories that no rollout should have."""

from __future__ import annotations

from typing import Any

from tests.apiserver import history as proof
from tests.apiserver.history import Event


class Story:
    """A history made by hand: nodes that are ready, and what they were told and have said, one by one."""

    def __init__(self, *names: str, servers: tuple[str, ...] = ()) -> None:
        self.events: list[Event] = []
        self._bodies: dict[str, dict[str, Any]] = {}
        for name in (*names, *servers):
            self.node(name, server=name in servers)
            self._bodies[name] = {"metadata": {"name": name, "uid": f"uid-{name}", "generation": 1}}
            self.told(name, "r0")
            self.said(name, applied="r0")

    def _add(self, kind: str, body: dict[str, Any], type_: str = "MODIFIED") -> None:
        version = len(self.events) + 1
        metadata = {**body["metadata"], "resourceVersion": str(version)}
        self.events.append(Event(kind, type_, version, {**body, "metadata": metadata}))

    def node(self, name: str, *, ready: bool = True, cordoned: bool = False, server: bool = False) -> None:
        labels = {"node-role.kubernetes.io/control-plane": "true"} if server else {}
        conditions = [{"type": "Ready", "status": "True" if ready else "Unknown"}]
        body = {"metadata": {"name": name, "uid": name, "labels": labels}, "status": {"conditions": conditions}}
        self._add("Node", {**body, "spec": {"unschedulable": cordoned}})

    def told(self, name: str, revision: str, *, allowed: bool = False, at: str = "2026-01-01T00:00:00Z") -> None:
        body = self._bodies[name]
        fields = [{"manager": "registry-mirror-controller", "time": at}]
        metadata = {**body["metadata"], "generation": body["metadata"]["generation"] + 1, "managedFields": fields}
        self._bodies[name] = {**body, "metadata": metadata, "spec": {"revision": revision, "restartAllowed": allowed}}
        self._add("NodeRegistryConfig", self._bodies[name])

    def said(
        self, name: str, *, applied: str, waiting: bool = False, restart: tuple[str, str, str] | None = None
    ) -> None:
        """``restart``: its revision, when it began, and its result."""
        body = self._bodies[name]
        status: dict[str, Any] = {"observedGeneration": body["metadata"]["generation"], "appliedRevision": applied}
        status["waitingForRestart"] = ["a setting"] if waiting else []
        if restart is not None:
            status["restart"] = dict(zip(("revision", "startedAt", "result"), restart, strict=True))
        self._bodies[name] = {**body, "status": status}
        self._add("NodeRegistryConfig", self._bodies[name])

    def gone(self, name: str) -> None:
        self._add("NodeRegistryConfig", self._bodies[name], "DELETED")

    def restarted(self, name: str, revision: str, began: str = "1") -> None:
        """All of a restart that goes well."""
        self.told(name, revision, allowed=True)
        self.said(name, applied=revision, waiting=True)
        self.said(name, applied=revision, waiting=True, restart=(revision, began, "InProgress"))
        self.said(name, applied=revision, restart=(revision, began, "Succeeded"))
        self.told(name, revision)
        self.said(name, applied=revision, restart=(revision, began, "Succeeded"))


def test_a_rollout_as_it_should_be_passes() -> None:
    story = Story("a", "b", servers=("s", "t"))
    for name in ("a", "b", "s", "t"):
        story.restarted(name, "r1")
    assert proof.over_budget(story.events, 1) == []
    assert proof.most_in_flight(story.events) == proof.servers_at_once(story.events) == 1
    assert proof.granted_twice(story.events) == []
    assert proof.reached(story.events, "r1") == {"a", "b", "s", "t"}
    assert proof.revisions(story.events) == ["r0", "r1"]
    assert proof.restarts(story.events) == {(name, "r1"): 1 for name in ("a", "b", "s", "t")}


def test_a_slot_is_taken_from_the_grant_until_the_agent_has_said_that_it_is_over() -> None:
    story = Story("a", "b")
    story.told("a", "r1", allowed=True)
    for say in ({"waiting": True}, {"waiting": True, "restart": ("r1", "1", "InProgress")}):
        story.told("b", "r1", allowed=True)
        assert len(proof.over_budget(story.events, 1)) == 1, say
        story.events.pop()
        story.said("a", applied="r1", **say)
    assert proof.over_budget(story.events, 1) == []
    story.said("a", applied="r1", restart=("r1", "1", "Succeeded"))
    story.told("b", "r1", allowed=True)
    assert proof.over_budget(story.events, 1) == []
    assert proof.most_in_flight(story.events) == 1


def test_a_grant_that_is_withdrawn_counts_until_the_agent_has_seen_that() -> None:
    story = Story("a", "b")
    story.told("a", "r1", allowed=True)
    story.told("a", "r1")
    story.told("b", "r1", allowed=True)
    assert len(proof.over_budget(story.events, 1)) == 1
    story.events.pop()
    story.said("a", applied="r1", waiting=True)
    story.told("b", "r1", allowed=True)
    assert proof.over_budget(story.events, 1) == []


def test_a_restart_that_nobody_granted_counts_too() -> None:
    story = Story("a", "b")
    story.said("b", applied="r0", restart=("r0", "1", "InProgress"))
    story.told("a", "r1", allowed=True)
    assert len(proof.over_budget(story.events, 1)) == 1
    assert proof.over_budget(story.events, 2) == proof.over_budget(story.events, "100%") == []
    assert len(proof.over_budget(story.events, "99%")) == 1


def test_nodes_that_are_away_use_up_slots() -> None:
    for state in ({"ready": False}, {"cordoned": True}):
        story = Story("a", "b")
        story.node("b", **state)
        story.told("a", "r1", allowed=True)
        assert len(proof.over_budget(story.events, 1)) == 1
        assert proof.over_budget(story.events, 2) == []


def test_a_node_that_has_gone_holds_no_slot_and_one_of_its_name_is_another() -> None:
    story = Story("a", "b")
    story.told("a", "r1", allowed=True)
    story.gone("a")
    story.told("b", "r1", allowed=True)
    assert proof.over_budget(story.events, 1) == []


def test_two_servers_at_once_are_seen() -> None:
    story = Story("a", servers=("s", "t"))
    story.told("s", "r1", allowed=True)
    story.told("a", "r1", allowed=True)
    assert proof.servers_at_once(story.events) == 1
    story.told("t", "r1", allowed=True)
    assert proof.servers_at_once(story.events) == 2


def test_a_second_grant_for_what_was_done_or_for_nothing_is_seen() -> None:
    story = Story("a")
    story.restarted("a", "r1")
    assert proof.granted_twice(story.events) == []
    story.told("a", "r1", allowed=True)
    assert len(proof.granted_twice(story.events)) == 1
    story = Story("a")
    story.told("a", "r1", allowed=True)
    story.told("a", "r1")
    story.told("a", "r1", allowed=True)
    assert len(proof.granted_twice(story.events)) == 1
    story = Story("a")
    story.told("a", "r1", allowed=True)
    story.said("a", applied="r0", restart=("r1", "1", "RolledBack"))
    story.told("a", "r1")
    story.told("a", "r1", allowed=True)
    assert proof.granted_twice(story.events) == [], "it failed, and may be tried again"


def test_grants_tell_when_they_were_given() -> None:
    story = Story("a")
    story.told("a", "r1", allowed=True, at="1970-01-01T00:01:40Z")
    assert [(grant.name, grant.revision, grant.at) for grant in proof.grants(story.events)] == [("a", "r1", 100.0)]
    assert proof.granted_while(story.events, lambda at: at > 100.0) == []
    assert len(proof.granted_while(story.events, lambda at: at <= 100.0)) == 1


def test_what_was_there_before_is_the_beginning_of_what_comes_since() -> None:
    story = Story("a", "b")
    story.told("a", "r1")
    start = story.events[-1].version
    story.gone("b")
    story.told("a", "r2")
    found = proof.since(story.events, start)
    assert [(event.type, event.name, event.kind) for event in found] == [
        ("ADDED", "a", "Node"),
        ("ADDED", "b", "Node"),
        ("ADDED", "b", "NodeRegistryConfig"),
        ("ADDED", "a", "NodeRegistryConfig"),
        ("DELETED", "b", "NodeRegistryConfig"),
        ("MODIFIED", "a", "NodeRegistryConfig"),
    ]
    assert proof.revisions(found) == ["r0", "r1", "r2"]
    end = proof.since(story.events, found[-1].version)
    assert [event.name for event in end] == ["a", "b", "a"]
    assert end[-1].body == found[-1].body
