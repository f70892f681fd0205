"""Which object is in force on a node: label selectors mean what they mean in Kubernetes, and of two objects for one
registry the same one wins on every node and every time.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from registry_mirror.api.models import LabelSelector
from registry_mirror.core.select import matches, select
from tests.pure.builders import endpoint, mirror

LABELS = {"zone": "a", "arch": "arm64", "empty": ""}


def selector(**fields: Any) -> LabelSelector:
    return msgspec.convert(fields, LabelSelector)


def requirement(key: str, operator: str, *values: str) -> LabelSelector:
    return selector(matchExpressions=[{"key": key, "operator": operator, "values": values}])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, True),
        (selector(), True),
        (selector(matchLabels={"zone": "a"}), True),
        (selector(matchLabels={"zone": "b"}), False),
        (selector(matchLabels={"absent": ""}), False),
        (selector(matchLabels={"empty": ""}), True),
        (selector(matchLabels={"zone": "a", "arch": "amd64"}), False),
        (requirement("zone", "In", "b", "a"), True),
        (requirement("zone", "In", "b"), False),
        (requirement("absent", "In", ""), False),
        (requirement("empty", "In", ""), True),
        (requirement("zone", "NotIn", "b"), True),
        (requirement("zone", "NotIn", "a", "b"), False),
        (requirement("absent", "NotIn", "a"), True),
        (requirement("zone", "Exists"), True),
        (requirement("empty", "Exists"), True),
        (requirement("absent", "Exists"), False),
        (requirement("absent", "DoesNotExist"), True),
        (requirement("empty", "DoesNotExist"), False),
        (
            selector(matchLabels={"zone": "a"}, matchExpressions=[{"key": "arch", "operator": "DoesNotExist"}]),
            False,
        ),
        (
            selector(
                matchExpressions=[
                    {"key": "zone", "operator": "Exists"},
                    {"key": "arch", "operator": "In", "values": ["amd64"]},
                ]
            ),
            False,
        ),
    ],
)
def test_a_selector_matches_as_in_kubernetes(wanted: LabelSelector | None, expected: bool) -> None:
    assert matches(wanted, LABELS) is expected


OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"
BY_PRECEDENCE = (
    mirror("docker.io", name="z", priority=1, created=NEW),
    mirror("docker.io", name="y", created=OLD),
    mirror("docker.io", name="a", created=NEW),
    mirror("docker.io", name="b", created=NEW),
    mirror("docker.io", name="0", priority=-1, created=OLD),
)


def test_the_highest_priority_wins_then_the_oldest_then_the_name() -> None:
    remaining = list(BY_PRECEDENCE)
    winners = []
    while remaining:
        (winner,) = select(reversed(remaining), {}).mirrors
        winners.append(winner.name)
        remaining.remove(winner)

    assert winners == ["z", "y", "a", "b", "0"]


def test_the_order_of_the_objects_changes_nothing() -> None:
    found = {repr(select(order, {})) for order in itertools.permutations(BY_PRECEDENCE)}

    assert len(found) == 1


def test_every_loser_names_its_winner() -> None:
    quay = mirror("quay.io")
    selection = select([*BY_PRECEDENCE, quay], {})

    assert selection.conflicts == {"y": "z", "a": "z", "b": "z", "0": "z"}
    assert [item.name for item in selection.mirrors] == ["z", "quay.io"]


def test_an_object_that_does_not_select_the_node_neither_wins_nor_loses() -> None:
    elsewhere = mirror("docker.io", name="elsewhere", priority=9, node_selector=selector(matchLabels={"zone": "b"}))
    here = mirror("docker.io", name="here")

    assert select([elsewhere, here], LABELS).mirrors == (here,)
    assert select([elsewhere, here], LABELS).conflicts == {}
    assert select([elsewhere, here], {"zone": "b"}).conflicts == {"here": "elsewhere"}


def test_an_endpoint_is_only_there_on_the_nodes_that_it_selects() -> None:
    near = endpoint("https://a.example", node_selector=selector(matchLabels={"zone": "a"}))
    far = endpoint("https://b.example", node_selector=requirement("zone", "NotIn", "a"))
    both = mirror("docker.io", near, far, "https://all.example")

    def urls(labels: dict[str, str]) -> list[str]:
        return [item.url for item in select([both], labels).mirrors[0].endpoints]

    assert urls({"zone": "a"}) == ["https://a.example", "https://all.example"]
    assert urls({"zone": "b"}) == ["https://b.example", "https://all.example"]
    assert urls({}) == ["https://b.example", "https://all.example"]


def test_mirrors_come_out_in_the_order_of_their_registries() -> None:
    names = ["quay.io", "docker.io", "*", "ghcr.io"]

    assert [item.registry for item in select(map(mirror, names), {}).mirrors] == sorted(names)
