"""What ``registry-mirror status`` says of clusters of every size and in every state, as golden text."""

from __future__ import annotations

from typing import Any

import click
import msgspec
import pytest

from registry_mirror.api.conditions import condition
from registry_mirror.api.models import NodeRegistryConfig, RegistryMirrorStatus
from registry_mirror.cli.screen import age, paragraph, safe
from registry_mirror.cli.status import leader_of
from registry_mirror.cli.status_view import one, whole
from registry_mirror.core.overview import Leader, Overview, Seen, overview

NOW = 1785578700.0  # 2026-08-01T10:05:00Z
SINCE = "2026-08-01T10:00:00Z"
LEADER = Leader(holder="controller-a", alive=True)
URL = "https://mirror.example.com"


def conditions(**found: tuple[bool, str, str]) -> list[dict[str, Any]]:
    return [
        {"type": name, "status": str(status), "reason": reason, "message": text, "lastTransitionTime": SINCE}
        for name, (status, reason, text) in found.items()
    ]


def seen(name: str, state: str, reason: str, message: str, *counts: int, **fields: Any) -> Seen:
    """A mirror in one of the three states; ``counts`` are selected, applied, pending and failed nodes."""
    known = dict(zip(("selected", "applied", "pending", "failed"), counts, strict=True))
    others = {item: (False, "Other", "") for item in ("Ready", "Reconciling", "Stalled") if item != state}
    status = {
        "observedGeneration": 1,
        "conditions": conditions(**others, **{state: (True, reason, message)}),
        "nodes": known,
        **fields,
    }
    return Seen(
        name=name,
        registry=f"{name}.example.com",
        generation=1,
        endpoints=(URL,),
        status=msgspec.convert(status, RegistryMirrorStatus),
    )


def node(name: str, applied: str = "new", runtime: str = "k3s", **fields: Any) -> NodeRegistryConfig:
    """A node that is to have the revision ``new``."""
    found = fields.pop("conditions", {})
    has = {"Applied": (applied == "new", "Applied" if applied == "new" else "BundleNotFound", "no bundle"), **found}
    status = {
        "appliedRevision": applied,
        "runtime": {"name": runtime, "version": "v1.33.4+k3s1"} if runtime else None,
        "conditions": conditions(**has),
        **fields,
    }
    body = {"metadata": {"name": name}, "spec": {"revision": "new"}, "status": status}
    return msgspec.convert(body, NodeRegistryConfig)


WAITS: dict[str, Any] = {
    "RestartRequired": (True, "StartSettings", "a restart of the runtime brings into force: the embedded registry")
}
RESTARTS: dict[str, Any] = {
    "restart": {"revision": "new", "startedAt": "2026-08-01T10:04:15Z", "result": "InProgress"},
    "conditions": {"RestartRequired": (True, "Restarting", ""), "RuntimeHealthy": (False, "Restarting", "")},
}
STALLED: dict[str, Any] = {"conditions": {"Stalled": (True, "DiskFull", "no space left on /var")}}
SILENT = "the agent has not reported yet"


def text(found: Overview) -> str:
    return click.unstyle("\n".join(whole(found, NOW)))


def of(mirrors: list[Seen], nodes: list[NodeRegistryConfig], *more: str, leader: Leader | None = LEADER) -> Overview:
    return overview(mirrors, nodes, {*(item.metadata.name for item in nodes), *more}, leader)


def test_three_nodes_on_which_all_is_well() -> None:
    endpoints = [{"url": URL, "reachable": 3, "unreachable": 0}]
    found = of([seen("hub", "Ready", "Applied", "", 3, 3, 0, 0, endpoints=endpoints)], [node(f"n{i}") for i in "123"])
    assert found.state == "Ready"
    assert text(found) == (
        """\
1 mirror (1 Ready), 3 nodes, controller-a leads

MIRROR  REGISTRY         STATE  REASON   NODES  FAILED  ENDPOINTS  SINCE
hub     hub.example.com  Ready  Applied  3/3    0       1/1        5m

RUNTIME  VERSION       STATE     REASON  COUNT  SINCE  NODES
k3s      v1.33.4+k3s1  in force  -       3      5m     n1, n2, n3"""
    )


def test_three_thousand_nodes_in_every_state_fit_one_screen() -> None:
    nodes = [node(f"n{i:04}") for i in range(2980)]
    nodes += [node(f"w{i}", conditions=WAITS) for i in range(15)]
    nodes += [node("r0", **RESTARTS), node("s0", **STALLED), node("c0", applied="old"), node("e0", runtime="")]
    held = "in force on 2980 of 3000 nodes; w0, w1, w2 and 12 more: rollout.maxUnavailable is 1, and not available: r0"
    mirrors = [seen(f"m{i:03}", "Ready", "Applied", "", 3000, 3000, 0, 0) for i in range(200)]
    failing = [{"url": URL, "reachable": 2999, "unreachable": 1, "message": "Timeout on n0007: no answer"}]
    mirrors += [seen("quay", "Reconciling", "WaitingForSlot", held, 3000, 2980, 20, 0, endpoints=failing)]
    mirrors += [seen("ghcr", "Reconciling", "WaitingForSlot", held, 3000, 2980, 20, 0)]
    mirrors += [seen("hub", "Stalled", "ReferenceInvalid", "Secret robot: it has no key token", 3000, 0, 0, 3000)]
    found = of(mirrors, nodes, "z9")
    assert found.state == "Stalled"
    assert text(found) == (
        """\
203 mirrors (200 Ready, 2 Reconciling, 1 Stalled), 3000 nodes, controller-a leads

MIRROR  REGISTRY          STATE        REASON            NODES      FAILED  ENDPOINTS  SINCE
hub     hub.example.com   Stalled      ReferenceInvalid  0/3000     3000    ?/1        5m
ghcr    ghcr.example.com  Reconciling  WaitingForSlot    2980/3000  0       ?/1        5m
quay    quay.example.com  Reconciling  WaitingForSlot    2980/3000  0       0/1        5m
"""
        + "".join(
            f"m{i:03}    m{i:03}.example.com  Ready        Applied           3000/3000  0       ?/1        5m\n"
            for i in range(12)
        )
        + """\
and 188 more: 188 Ready

RUNTIME  VERSION       STATE       REASON             COUNT  SINCE  NODES
k3s      v1.33.4+k3s1  failed      DiskFull           1      5m     s0
-        -             silent      AgentNotReporting  2      -      e0, z9
k3s      v1.33.4+k3s1  restarting  Restarting         1      45s    r0
k3s      v1.33.4+k3s1  changing    BundleNotFound     1      5m     c0
k3s      v1.33.4+k3s1  waiting     StartSettings      15     5m     w0, w1, w10 and 12 more
k3s      v1.33.4+k3s1  in force    -                  2980   5m     n0000, n0001, n0002 and 2977 more

Somebody has to do something
  hub (ReferenceInvalid, for 5m): Secret robot: it has no key token
  s0 (DiskFull, for 5m): no space left on /var

Under way
"""
        + f"  ghcr, quay (WaitingForSlot, for 5m): {held}\n"
        + """\
  r0 (Restarting, for 45s): the runtime is being restarted
  c0 (BundleNotFound, for 5m): no bundle
  w0, w1, w10 and 12 more (StartSettings, for 5m): a restart of the runtime brings into force: the embedded registry \
→ the controller restarts the runtime where rollout.restart is WhenRequired; else it is yours

Worth a look
  quay (SomeUnreachable): https://mirror.example.com does not answer 1 of 3000 nodes: Timeout on n0007: no answer
  e0, z9 (AgentNotReporting): the agent has not reported yet → look at its agent: kubectl -n registry-mirror-system \
get pods -o wide"""
    )
    assert len(text(found).splitlines()) < 50


def test_one_mirror() -> None:
    endpoints = [{"url": URL, "reachable": 1, "unreachable": 1, "message": "Timeout on n2: no answer"}]
    failures = [{"node": "n2", "reason": "RewriteUnsupported", "message": "exclude the node"}]
    message = "1 of 2 nodes: n2: exclude the node"
    mirror = seen("hub", "Stalled", "RewriteUnsupported", message, 12, 1, 0, 11, endpoints=endpoints, failures=failures)
    found = of([mirror], [node("n1"), node("n2")])
    assert click.unstyle("\n".join(one(found, NOW))) == (
        """\
hub (hub.example.com): Stalled RewriteUnsupported, for 5m
  1 of 2 nodes: n2: exclude the node
  nodes: 12 selected, 1 applied, 0 pending, 11 failed, 0 drifted

ENDPOINT                    ANSWERS  SILENT  WHY
https://mirror.example.com  1        1       Timeout on n2: no answer

NODE  REASON              MESSAGE
n2    RewriteUnsupported  exclude the node
and 10 more

RUNTIME  VERSION       STATE     REASON  COUNT  SINCE  NODES
k3s      v1.33.4+k3s1  in force  -       2      5m     n1, n2"""
    )


@pytest.mark.parametrize(
    ("fields", "state", "reason"),
    [
        ({}, "in force", ""),
        ({"runtime": ""}, "silent", "AgentNotReporting"),
        (STALLED, "failed", "DiskFull"),
        ({"conditions": {"RuntimeHealthy": (False, "RuntimeNotAnswering", "gone")}}, "failed", "RuntimeNotAnswering"),
        (RESTARTS, "restarting", "Restarting"),
        ({"applied": "old"}, "changing", "BundleNotFound"),
        ({"conditions": WAITS}, "waiting", "StartSettings"),
        ({"waitingForRestart": ["credentials for x"]}, "waiting", "RestartRequired"),
        ({"conditions": {"Drifted": (True, "CoOwned", "hosts.toml")}}, "drifted", "CoOwned"),
    ],
)
def test_states_of_a_node(fields: dict[str, Any], state: str, reason: str) -> None:
    (group,) = of([], [node("n1", **fields)]).groups
    assert (group.state, group.reason) == (state, reason)


def test_a_version_of_an_object_that_nobody_has_seen_is_not_ready() -> None:
    mirror = msgspec.structs.replace(seen("hub", "Ready", "Applied", "", 1, 1, 0, 0), generation=2)
    found = of([mirror], [node("n1")])
    assert (found.state, found.mirrors[0].state) == ("Reconciling", "Reconciling")


def test_the_exit_code_tells_a_failed_node_and_a_missing_controller_from_an_endpoint() -> None:
    ready = seen("hub", "Ready", "Applied", "", 1, 1, 0, 0, endpoints=[{"url": URL, "reachable": 0, "unreachable": 1}])
    assert of([ready], [node("n1")]).state == "Ready"
    assert of([ready], [node("n1")], leader=None).state == "Ready"
    assert of([ready], [node("n1", **STALLED)]).state == "Stalled"
    assert of([ready], [node("n1", **RESTARTS)]).state == "Reconciling"
    assert of([ready], [node("n1")], leader=Leader()).state == "Stalled"


def test_what_is_wrong_with_the_policy_is_shown() -> None:
    stalled = condition("Stalled", True, "InvalidSpec", "rollout.windows[0]: no such time zone")
    found = overview([], [], set(), LEADER, [stalled])
    assert found.state == "Stalled"
    assert "RegistryMirrorPolicy default (InvalidSpec" in text(found)


def test_who_leads() -> None:
    spec = {"holderIdentity": "a", "renewTime": "2026-08-01T10:05:00.000000Z", "leaseDurationSeconds": 15}
    assert leader_of({"spec": spec}, NOW + 40).alive
    assert not leader_of({"spec": spec}, NOW + 50).alive
    assert not leader_of({"spec": {**spec, "holderIdentity": ""}}, NOW).alive
    assert leader_of(None, NOW) == Leader()
    renewed = {"spec": {**spec, "renewTime": "2026-08-01T10:05:10.000000Z"}}
    assert leader_of(renewed, NOW + 12) == leader_of({"spec": spec}, NOW + 2)  # nothing for who watches
    assert leader_of(renewed, NOW + 90).renewed


def test_nothing_that_comes_from_the_cluster_acts_on_the_terminal() -> None:
    mirror = seen("hub", "Stalled", "InvalidSpec", "\x1b]0;title\x07\nnext\u202e", 1, 0, 0, 1)
    found = of([mirror], [node("n1", conditions={"Stalled": (True, "DiskFull", "\x1b]2;x\x07")})])

    shown = click.unstyle("\n".join([*whole(found, NOW), *one(found, NOW)]))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\x1b]0;title\\x07 next" in shown
    assert safe("a\x1b[2J\nb") == "a\\x1b[2J b"


def test_ages_and_wrapping() -> None:
    assert [age(SINCE, NOW + more) for more in (0, 7200, 3 * 86400)] == ["5m", "2h", "3d"]
    assert (age("", NOW), age("nonsense", NOW), age("2026-08-01T10:06:00Z", NOW)) == ("", "", "0s")
    assert all(len(line) <= 60 for line in paragraph("word " * 20, 60))
    assert len(paragraph("word " * 20, 0)) == 1
