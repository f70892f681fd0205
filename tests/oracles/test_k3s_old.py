"""K3s and RKE2 before hosts.toml: registries.yaml, read by their own parser, says what the objects say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry_mirror.core.layout import default_facts
from tests.harness.oracles import Wharfie

from . import cases, node
from .registries_yaml import as_wharfie_reads
from .test_k3s import check_config

VERSIONS = ("v1.25.16+k3s4", "v1.28.5+k3s1")
SEEDS = range(60)


def written(root: Path, seed: int) -> node.Node:
    facts = default_facts("rke2" if seed % 3 == 0 else "k3s", VERSIONS[seed % 2])
    documents = cases.random_node(seed, k3s=True)
    for item in documents if seed % 4 else ():  # else most would be left out
        item["spec"] |= {"rewrites": [], "upstream": {**item["spec"]["upstream"], "fallback": "Allow"}}
    return node.write(root / "node", facts, documents)


def check(found: node.Node, read: dict[str, Any]) -> None:
    """Every object in force has its entry: its endpoints in order, and at most the registry itself after them."""
    for item in found.documents:
        spec = item["spec"]
        entry = read["mirrors"][spec["registry"]]
        listed = entry["endpoint"] or []
        hosts = [endpoint["url"].partition("://")[2].partition("/")[0] for endpoint in spec["endpoints"]]
        asked = [host.replace("docker.io", "registry-1.docker.io") if host == "docker.io" else host for host in hosts]
        assert [url.partition("://")[2].partition("/")[0] for url in listed][: len(hosts)] == asked
        assert listed[len(hosts) :] in ([], [f"https://{spec['registry']}"], [f"http://{spec['registry']}"])
        for host, endpoint in zip(asked, spec["endpoints"], strict=True):
            check_config(found, (read["configs"] or {}).get(host) or {}, endpoint)
        assert spec["upstream"].get("fallback") != "Deny"


@pytest.mark.parametrize("seed", SEEDS)
def test_their_parser_says_what_random_objects_say(seed: int, wharfie: Wharfie, tmp_path: Path) -> None:
    found = written(tmp_path, seed)
    if not found.documents:
        return
    read = wharfie.registries(found.registries)

    assert read == as_wharfie_reads(found.registries.read_text())
    check(found, read)


def test_random_objects_are_often_rendered_and_nothing_is_put_where_these_releases_do_not_look(tmp_path: Path) -> None:
    """Else the test above would compare nothing with nothing."""
    nodes = [written(tmp_path / str(seed), seed) for seed in SEEDS]

    assert sum(len(found.documents) for found in nodes) > 50
    assert not any(list(found.root.rglob("hosts.toml")) for found in nodes)
