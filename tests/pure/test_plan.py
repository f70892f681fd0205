"""Planning 1,000 nodes must cost as much as planning the few kinds of nodes there are, and collecting bundles must
never take one that a node has, is told to have, or may go back to.
"""

from __future__ import annotations

import base64
import random
import re
from typing import Any

import msgspec
import pytest

from registry_mirror.api.models import LabelSelector, NodeRegistryConfig, RuntimeFacts
from registry_mirror.core import bundle as bundles
from registry_mirror.core.garbage import collectable
from registry_mirror.core.layout import default_facts
from registry_mirror.core.plan import NodePlan, Planner
from registry_mirror.core.resolve import ResolvedMirror
from tests.docs import runtimes_table
from tests.pure.builders import CONTAINERD, EMBEDDED, K3S, USER, endpoint, k3s, mirror, tls

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


def ca(seed: int) -> str:
    """A CA of the size that resolve() takes, which no compression makes smaller than three quarters."""
    return base64.b64encode(random.Random(seed).randbytes(180_000)).decode()


def test_what_no_secret_holds_is_said_and_the_node_keeps_what_it_has() -> None:
    found = planner(*(with_ca(f"r{number}.example.com", ca(number)) for number in range(8))).plan(CONTAINERD, {})

    assert found.bundle is None
    assert not found.in_force
    assert {item.reason for item in found.problems.values()} == {"BundleTooLarge"}
    assert len(found.problems) == 8
    assert "a Secret holds 1048576" in found.problems["r0.example.com"].message


def test_one_ca_in_many_directories_is_carried_once() -> None:
    one = ca(0)
    found = planner(*(with_ca(f"r{number}.example.com", one) for number in range(50))).plan(CONTAINERD, {})

    assert found.bundle is not None
    assert found.in_force == {f"r{number}.example.com" for number in range(50)}


def with_ca(registry: str, text: str) -> ResolvedMirror:
    return mirror(registry, endpoint(MIRROR, tls=tls(ca=text)))


def test_the_remedy_for_a_missing_config_path_names_the_file() -> None:
    facts = RuntimeFacts(name="containerd", config_file="/etc/containerd/other.toml")
    problem = planner(mirror("docker.io", MIRROR)).plan(facts, {}).problems["docker.io"]

    assert 'config_path = "/etc/containerd/certs.d" in /etc/containerd/other.toml' in problem.message
    assert planner(mirror("docker.io", MIRROR)).plan(msgspec.structs.replace(facts, config_schema=2), {}).problems == {}


# ---- endpoints that do not answer ------------------------------------------------------------------------------------

A, B, C = "https://a.example", "https://b.example", "https://c.example"


def order(plan: NodePlan, facts: RuntimeFacts = CONTAINERD) -> list[str]:
    """The endpoints of docker.io as the files have them."""
    assert plan.bundle is not None
    (content,) = [
        item.content for item in plan.bundle.files if item.path == f"{facts.config_path}/docker.io/hosts.toml"
    ]
    return re.findall(r'host\."(https://[a-z.]+)/v2"', content)


def test_what_does_not_answer_a_node_is_behind_the_others_there() -> None:
    plans = planner(mirror("docker.io", A, B, C), mirror("quay.io", A))
    usual, down = plans.plan(CONTAINERD, {}), plans.plan(CONTAINERD, {}, {A})

    assert order(usual) == [A, B, C]
    assert order(down) == [B, C, A]
    assert usual.behind == {}
    assert down.behind == {"docker.io": {A}}
    assert down.bundle is not None
    assert usual.bundle is not None
    assert down.bundle.revision != usual.bundle.revision
    # The user's order: the controller recovers the objects from it.
    assert down.bundle.sources == usual.bundle.sources
    assert (down.in_force, down.problems, down.conflicts) == (usual.in_force, usual.problems, usual.conflicts)
    assert plans.plan(CONTAINERD, {}) is usual


@pytest.mark.parametrize("down", [{C}, {A, B, C}, {"https://elsewhere.example"}, set()])
def test_where_the_order_stays_the_plan_does(down: set[str]) -> None:
    plans = planner(mirror("docker.io", A, B, C))

    assert plans.plan(CONTAINERD, {}, down) is plans.plan(CONTAINERD, {})


def test_nodes_from_which_the_same_endpoints_are_down_share_a_plan_and_a_revision() -> None:
    plans = planner(mirror("docker.io", A, B, C))
    first = plans.plan(CONTAINERD, {"a": "b"}, {A, "https://elsewhere.example"})

    assert plans.plan(CONTAINERD, {}, {A}) is first
    other = plans.plan(CONTAINERD, {}, {A, C})
    assert order(other) == [B, A, C]
    assert first.bundle is not None
    assert other.bundle is not None
    assert other.bundle.revision != first.bundle.revision


def test_a_revision_depends_on_the_files_only() -> None:
    down = planner(mirror("docker.io", A, B)).plan(CONTAINERD, {}, {A}).bundle
    usual = planner(mirror("docker.io", B, A)).plan(CONTAINERD, {}).bundle

    assert down is not None
    assert usual is not None
    assert down.revision == usual.revision


@pytest.mark.parametrize("facts", runtimes_table.nodes().values(), ids=runtimes_table.nodes())
def test_no_endpoint_that_hangs_ever_asks_for_a_restart(facts: RuntimeFacts) -> None:
    user = endpoint(A, credentials=USER)
    mirrors = [mirror("docker.io", user, B, deny_fallback=True), mirror("quay.io", B, "https://quay.io")]
    plans = planner(*mirrors)
    usual, down = plans.plan(facts, {}), plans.plan(facts, {}, {A, B})

    assert down.problems == usual.problems
    assert usual.bundle is not None
    assert down.bundle is not None
    assert down.bundle.start_settings == usual.bundle.start_settings
    assert down.bundle.edits == usual.bundle.edits


@pytest.mark.parametrize(
    ("facts", "live"),
    [
        (K3S, True),
        (k3s(embedded_registry=EMBEDDED), True),
        (k3s("v1.25.16+k3s4"), False),
        (default_facts("microk8s", "v1.30.0"), True),
        (default_facts("microk8s", "v1.22.17"), False),
        (default_facts("k0s", "v1.33.4+k0s.0"), True),
        (default_facts("crio", "v1.33.0"), False),
        (msgspec.structs.replace(default_facts("crio", "v1.33.0"), reloads_registries=True), True),
    ],
)
def test_the_order_changes_only_where_it_is_live(facts: RuntimeFacts, live: bool) -> None:
    plans = planner(mirror("docker.io", A, B))
    usual, down = plans.plan(facts, {}), plans.plan(facts, {}, {A})

    assert (down is not usual) == live
    assert down.behind == ({"docker.io": {A}} if live else {})


def test_an_order_that_would_cost_a_mirror_its_place_is_not_taken() -> None:
    # containerd before 2.0 reads an IPv6 address as the server, which the last endpoint is here, but in no table.
    plans = planner(mirror("docker.io", A, "https://[fd00::1]", deny_fallback=True))
    facts = default_facts("containerd", "1.7.29")

    assert plans.plan(facts, {}, {A}) is plans.plan(facts, {})
    assert plans.plan(facts, {}).in_force == {"docker.io"}
    assert plans.plan(CONTAINERD, {}, {A}).behind == {"docker.io": {A}}


def test_an_order_that_no_secret_holds_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = planner(mirror("docker.io", A, B))
    usual = plans.plan(CONTAINERD, {})
    monkeypatch.setattr(bundles, "MAX_ENCODED", 1)

    assert plans.plan(CONTAINERD, {}, {A}) is usual


def test_before_the_agent_reports_there_is_no_order_to_change() -> None:
    plans = planner(mirror("docker.io", A, B))

    assert plans.plan(None, {}, {A}) is plans.plan(None, {})


def test_the_plans_for_what_is_down_do_not_grow_without_end() -> None:
    urls = [f"https://m{index}.example" for index in range(12)]
    plans = planner(mirror("docker.io", *urls))
    for number in range(1, 600):
        plans.plan(CONTAINERD, {}, {url for index, url in enumerate(urls) if number >> index & 1})

    assert len(plans._demoted) <= 256


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
