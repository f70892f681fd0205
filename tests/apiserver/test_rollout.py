"""The rollout on a real API server: the controller is real, the agents are played, so that restarts fail on demand.

What takes a restart here is a registry that is newly shared by the embedded registry of K3s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from registry_mirror.api.models import EmbeddedRegistry
from registry_mirror.core.bundle import Bundle
from registry_mirror.core.layout import default_facts
from tests.apiserver.players import Players, set_ready
from tests.harness.cluster import Cluster, mirror

pytestmark = pytest.mark.apiserver

AGENTS = ("a1", "a2", "a3", "a4")
SERVER = "b-server"
NODES = (*AGENTS, SERVER)
FACTS = replace(default_facts("k3s", "v1.33.4+k3s1"), embedded_registry=EmbeddedRegistry(address="127.0.0.1:6443"))

BASE = mirror("base", "base.example.com", "https://one.example.com")
LIVE = mirror("base", "base.example.com", "https://two.example.com")


def works(_node: str, bundle: Bundle) -> bool:
    """Whether a runtime starts: not where a registry of that name is shared."""
    return not any("bad." in name for name in bundle.start_settings)


@pytest.fixture(scope="module")
def played(bare_cluster: Cluster) -> Iterator[tuple[Cluster, Players]]:
    """A controller, five nodes, one of which runs the control plane, and their agents."""
    for name in NODES:
        labels = {"node-role.kubernetes.io/control-plane": "true"} if name == SERVER else {}
        bare_cluster.add_node(name, "k3s", labels)
        set_ready(bare_cluster, name)
    policy(bare_cluster, maxUnavailable="100%")
    bare_cluster.apply(BASE)
    bare_cluster.start_controller()
    with Players(bare_cluster, FACTS, works) as players:
        yield bare_cluster, players


@pytest.fixture(autouse=True)
def clean(played: tuple[Cluster, Players]) -> Iterator[None]:
    """Every test begins and ends without objects, and with nodes that work."""
    cluster, players = played
    policy(cluster)
    settled(cluster)
    players.forget()
    yield
    players.mute.clear()
    players.stalled.clear()
    players.works = works
    cluster.kubectl("delete", "registrymirrors", "--all")
    cluster.apply(BASE)
    policy(cluster, maxUnavailable="100%")
    settled(cluster)


def policy(cluster: Cluster, **rollout: Any) -> None:
    """The policy; the canary is watched for no time unless said otherwise."""
    cluster.policy(**{"canary": {"nodes": 1, "soak": "0s"}, **rollout})


def shared(name: str) -> dict[str, Any]:
    """An object that takes a restart."""
    return mirror(name.partition(".")[0], name)


def configs(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in cluster.get("noderegistryconfigs")["items"]}


def quiet(config: dict[str, Any]) -> bool:
    """Whether a node has what it was told, in force, and may not restart."""
    spec, status = config.get("spec") or {}, config.get("status") or {}
    return (
        bool(spec.get("revision"))
        and spec["revision"] == status.get("appliedRevision")
        and not status.get("waitingForRestart")
        and not spec.get("restartAllowed")
        and config["metadata"]["generation"] == status.get("observedGeneration")
    )


def settled(cluster: Cluster) -> None:
    """Wait until all nodes have the same, in force."""

    def check() -> bool:
        found = configs(cluster)
        same = {item["spec"].get("revision") for item in found.values() if item.get("spec")}
        return len(found) == len(NODES) and len(same) == 1 and all(quiet(item) for item in found.values())

    cluster.until(check, "all nodes have the same, in force")


def reason(cluster: Cluster, name: str, expected: str) -> str:
    """Wait until Ready has that reason; gives its message."""
    cluster.until(lambda: cluster.condition(name).get("reason") == expected, f"{name}: {expected}")
    return str(cluster.condition(name)["message"])


def test_a_restart_goes_from_the_canary_over_the_agents_to_the_server(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    policy(cluster, canary={"nodes": 1, "soak": "1h"})
    cluster.apply(shared("one.example.com"))
    message = reason(cluster, "one", "Soaking")
    assert "the first node is watched until 20" in message
    assert players.restarted == ["a1"]
    assert {name for name, _ in players.touched} == {"a1"}, "the others have not even the files"
    assert cluster.condition("base")["reason"] == "Applied", "what has not changed is in force as before"
    policy(cluster)
    reason(cluster, "one", "Applied")
    settled(cluster)
    assert players.restarted == [*AGENTS, SERVER]
    assert players.most_at_once == 1
    spec = configs(cluster)["a1"]["spec"]
    assert spec["restartDeadline"] == "120s"


def test_max_unavailable_bounds_what_restarts_at_once(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    policy(cluster, maxUnavailable=2)
    cluster.apply(shared("one.example.com"))
    settled_after(cluster, "one")
    assert players.restarted[0] == "a1"
    assert players.restarted[-1] == SERVER
    assert players.most_at_once == 2


def settled_after(cluster: Cluster, name: str) -> None:
    reason(cluster, name, "Applied")
    settled(cluster)


def test_a_bad_object_reaches_the_canary_alone_and_its_correction_all(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    policy(cluster, maxUnavailable=3)
    cluster.apply(shared("bad.example.com"))
    message = reason(cluster, "bad", "RolledBack")
    cluster.until(lambda: "halted: it failed on a1" in cluster.condition("bad")["message"], "the rollout is halted")
    assert cluster.condition("bad", "Stalled")["status"] == "True", message
    assert cluster.condition("bad", "Reconciling")["status"] == "False"
    assert players.restarted == ["a1"]
    assert {name for name, _ in players.touched} == {"a1"}

    # Neither a live change nor one that takes a restart has another node try what is still bad.
    cluster.apply(mirror("base", "base.example.com", "https://other.example.com"))
    cluster.apply(shared("two.example.com"))
    cluster.until(lambda: len(players.restarted) > 1, "the canary tries again")
    time.sleep(1)
    assert players.restarted == ["a1", "a1"]
    cluster.kubectl("delete", "rmir", "two")
    time.sleep(1)
    assert players.restarted == ["a1", "a1", "a1"][: len(players.restarted)]
    assert {name for name, _ in players.touched} == {"a1"}

    cluster.kubectl("delete", "rmir", "bad")
    settled(cluster)
    assert {*players.restarted} == {"a1"}, "what runs is what is wanted again"
    cluster.apply(shared("good.example.com"))
    settled_after(cluster, "good")
    assert set(players.restarted) == set(NODES)


def test_paused_nothing_begins_and_what_was_begun_ends(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    policy(cluster, paused=True)
    cluster.apply(shared("one.example.com"))
    reason(cluster, "one", "Paused")
    assert players.touched == []
    policy(cluster)
    settled_after(cluster, "one")


def test_outside_of_a_window_live_changes_go_on_and_restarts_wait(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    month = time.gmtime().tm_mon % 12 + 2  # one that does not begin within a day
    closed = {"schedule": f"0 3 1 {(month - 1) % 12 + 1} *", "duration": "1h", "timeZone": "Europe/Berlin"}
    policy(cluster, windows=[closed])
    cluster.apply(LIVE)
    cluster.until(lambda: len({name for name, _ in players.touched}) == len(NODES), "all have it")
    cluster.apply(shared("one.example.com"))
    assert "the next of which opens at 20" in reason(cluster, "one", "OutsideWindow")
    assert players.restarted == []
    policy(cluster, windows=[closed, {"schedule": "* * * * *", "duration": "5m"}])
    settled_after(cluster, "one")


def test_a_window_that_cannot_be_read_is_said_and_restarts_wait(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    cluster.until(
        lambda: cluster.condition("default", kind="rmpol").get("reason") == "InForce", "the policy is followed"
    )
    policy(cluster, windows=[{"schedule": "61 3 * * *", "duration": "1h", "timeZone": "Mars/Olympus"}])
    cluster.until(lambda: cluster.condition("default", kind="rmpol").get("reason") == "InvalidSpec", "it is said")
    message = cluster.condition("default", "Stalled", "rmpol")["message"]
    assert "spec.rollout.windows[0].timeZone: found 'Mars/Olympus'" in message
    assert "spec.rollout.windows[0].schedule: found '61 3 * * *'" in message
    cluster.apply(shared("one.example.com"))
    assert "Mars/Olympus" in reason(cluster, "one", "OutsideWindow")
    assert players.restarted == []
    policy(cluster)
    settled_after(cluster, "one")
    assert cluster.condition("default", kind="rmpol")["status"] == "True"


def test_never_restart_shows_what_waits(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    policy(cluster, restart="Never")
    cluster.apply(shared("one.example.com"))
    assert "a restart of the runtime brings into force: sharing" in reason(cluster, "one", "RestartRequired")
    assert {name for name, _ in players.touched} == set(NODES)
    assert players.restarted == []
    policy(cluster)
    settled_after(cluster, "one")


def test_a_controller_killed_at_any_moment_grants_nothing_twice(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    cluster.apply(shared("one.example.com"))
    for _ in range(3):
        time.sleep(0.7)
        assert cluster.controller is not None
        cluster.controller.stop(grace=0.0)
        cluster.start_controller()
    settled_after(cluster, "one")
    assert sorted(players.restarted) == sorted(NODES)
    assert players.most_at_once == 1


def test_a_node_made_anew_under_its_name_gives_the_slot_back(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    players.mute.add("a1")
    cluster.apply(shared("one.example.com"))
    cluster.until(lambda: configs(cluster)["a1"]["spec"].get("restartAllowed"), "a1 holds the slot")
    before = configs(cluster)["a1"]["metadata"]["uid"]
    time.sleep(0.5)
    assert "a1" in cluster.condition("one")["message"]
    assert [name for name, item in configs(cluster).items() if item["spec"].get("restartAllowed")] == ["a1"]

    cluster.kubectl("delete", "node", "a1")
    cluster.add_node("a1", "k3s")
    set_ready(cluster, "a1")
    cluster.until(
        lambda: "a1" in configs(cluster) and configs(cluster)["a1"]["metadata"]["uid"] != before, "a new object"
    )
    assert "restartAllowed" not in configs(cluster)["a1"]["spec"]
    players.mute.clear()
    settled_after(cluster, "one")
    assert players.most_at_once <= 2, "the new node needs no slot: nothing runs there"


def test_a_node_that_is_not_ready_takes_a_slot(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    set_ready(cluster, "a3", False)
    try:
        cluster.apply(shared("one.example.com"))
        assert "not available are: a3" in reason(cluster, "one", "WaitingForSlot")
        assert players.restarted == []
    finally:
        set_ready(cluster, "a3")
    settled_after(cluster, "one")


def test_an_agent_that_is_not_there_keeps_no_live_change_from_the_others(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    players.mute.add("a1")
    cluster.apply(LIVE)
    cluster.until(lambda: len({name for name, _ in players.touched}) == len(NODES) - 1, "the others have it")


def test_without_a_policy_the_defaults_hold(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    cluster.kubectl("delete", "registrymirrorpolicy", "default")
    cluster.apply(shared("one.example.com"))
    reason(cluster, "one", "Soaking")
    assert players.restarted == ["a1"]
    assert json.loads(cluster.kubectl("get", "nrc", "a1", "-o", "json"))["spec"]["restartDeadline"] == "120s"
