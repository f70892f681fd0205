"""Planning 1,000 nodes must cost as much as planning the few kinds of nodes there are, and collecting bundles must
never take one that a node has, is told to have, or may go back to.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from registry_mirror.api.models import LabelSelector, NodeRegistryConfig, RuntimeFacts
from registry_mirror.core.garbage import collectable
from registry_mirror.core.layout import default_facts
from registry_mirror.core.plan import Planner
from tests.pure.builders import CONTAINERD, EMBEDDED, K3S, USER, endpoint, k3s, mirror

KEY = b"k" * 32
MIRROR = "https://mirror.example.com"
IN_ZONE_A = LabelSelector(match_labels={"zone": "a"})


def planner(*mirrors: Any) -> Planner:
    return Planner(mirrors, KEY)


def test_nodes_that_look_alike_share_one_plan() -> None:
    plans = planner(mirror("docker.io", MIRROR, node_selector=IN_ZONE_A))
    first = plans.plan(K3S, {"zone": "a", "kubernetes.io/hostname": "one"})

    assert plans.plan(default_facts("k3s", K3S.version), {"zone": "a", "kubernetes.io/hostname": "two"}) is first


@pytest.mark.parametrize(
    ("facts", "labels"),
    [(K3S, {}), (K3S, {"zone": "b"}), (CONTAINERD, {"zone": "a"}), (k3s(embedded_registry=EMBEDDED), {"zone": "a"})],
)
def test_nodes_that_differ_in_what_matters_do_not(facts: RuntimeFacts, labels: dict[str, str]) -> None:
    plans = planner(mirror("docker.io", MIRROR, node_selector=IN_ZONE_A))
    first = plans.plan(K3S, {"zone": "a"})
    other = plans.plan(facts, labels)

    assert other is not first
    assert other.bundle != first.bundle


def test_labels_of_endpoint_selectors_and_of_expressions_matter_too() -> None:
    by_label = endpoint("https://a.example", node_selector=IN_ZONE_A)
    by_expression = endpoint(
        "https://b.example",
        node_selector=msgspec.convert({"matchExpressions": [{"key": "arch", "operator": "Exists"}]}, LabelSelector),
    )
    plans = planner(mirror("docker.io", by_label, by_expression, MIRROR))
    kinds = [{}, {"zone": "a"}, {"arch": "x"}, {"zone": "a", "arch": "x"}]

    assert len({plans.plan(K3S, labels).bundle.revision for labels in kinds}) == 4  # type: ignore[union-attr]


def test_a_plan_says_what_is_in_force_what_stands_back_and_what_cannot_be_had() -> None:
    plan = planner(
        mirror("docker.io", endpoint(MIRROR, credentials=USER), name="wins", priority=1),
        mirror("docker.io", name="loses"),
        mirror("quay.io", endpoint("https://q.example", capabilities=("Pull",)), name="cannot"),
        mirror("ghcr.io", "https://g.example", name="elsewhere", node_selector=IN_ZONE_A),
    ).plan(K3S, {})

    assert plan.in_force == {"wins"}
    assert plan.conflicts == {"loses": "wins"}
    assert {name: item.reason for name, item in plan.problems.items()} == {"cannot": "CapabilitiesUnsupported"}
    assert plan.needs_start == {"credentials for mirror.example.com": frozenset({"wins"})}
    assert plan.embedded_registry is False
    assert plan.bundle is not None
    assert [item.name for item in plan.bundle.sources] == ["wins"]
    assert all(item.digest for item in plan.bundle.files)


def test_a_plan_knows_the_embedded_registry() -> None:
    assert planner().plan(k3s(embedded_registry=EMBEDDED), {}).embedded_registry is True


def test_before_the_agent_reports_there_is_no_bundle_but_the_conflicts_are_known() -> None:
    plan = planner(mirror("docker.io", name="a"), mirror("docker.io", name="b")).plan(None, {})

    assert plan.bundle is None
    assert plan.in_force == {"a"}
    assert plan.conflicts == {"b": "a"}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (default_facts("microk8s", "v1.22.17"), "RuntimeTooOld"),
        (default_facts("k0s", "v1.27.0+k0s.0"), "RuntimeTooOld"),
        (RuntimeFacts(name="k0s"), "ConfigNotManaged"),
        (RuntimeFacts(name="containerd", config_file="/etc/containerd/config.toml"), "ConfigPathNotSet"),
    ],
)
def test_where_nothing_can_be_rendered_every_mirror_says_why(facts: RuntimeFacts, reason: str) -> None:
    plan = planner(mirror("docker.io", MIRROR), mirror("quay.io", MIRROR)).plan(facts, {})

    assert plan.in_force == frozenset()
    assert {name: item.reason for name, item in plan.problems.items()} == {"docker.io": reason, "quay.io": reason}
    assert plan.bundle is not None
    assert plan.bundle.files == ()
    assert plan.bundle.sources == ()


def test_the_remedy_for_a_missing_config_path_names_the_file() -> None:
    facts = RuntimeFacts(name="containerd", config_file="/etc/containerd/other.toml")
    problem = planner(mirror("docker.io", MIRROR)).plan(facts, {}).problems["docker.io"]

    assert 'config_path = "/etc/containerd/certs.d" in /etc/containerd/other.toml' in problem.message
    assert planner(mirror("docker.io", MIRROR)).plan(msgspec.structs.replace(facts, config_schema=2), {}).problems == {}


def config(told: str = "", applied: str = "", last_good: str = "") -> NodeRegistryConfig:
    return msgspec.convert(
        {
            "metadata": {"name": "node"},
            "spec": {"revision": told, "bundle": {"name": f"bundle-{told}"}} if told else {},
            "status": {"appliedRevision": applied, "lastGoodRevision": last_good},
        },
        NodeRegistryConfig,
    )


def test_only_bundles_that_nobody_needs_and_that_are_old_enough_are_collected() -> None:
    every = [(f"bundle-{name}", 60.0) for name in ("told", "applied", "good", "unused", "old")]
    young = [("bundle-young", 59.9)]
    configs = [config("told", "applied", "good"), config("told"), config()]

    assert set(collectable([*every, *young], configs, grace=60)) == {"bundle-unused", "bundle-old"}
    assert set(collectable(every, [], grace=60)) == {name for name, _ in every}
