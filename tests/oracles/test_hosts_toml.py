"""Every hosts.toml for containerd, read by containerd itself: the hosts and their settings that the objects ask for.

containerd ignores a file that it cannot read without more than a line in its log (runtimes.md, trap 1), and the old and
the new line have different TOML parsers: both are asked.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from registry_mirror.core.layout import default_facts
from tests.harness.oracles import Containerd

from . import cases, model, node
from .model import Document

VERSIONS = {"2": "2.4.2", "1": "1.7.29"}
SEEDS = range(120)


@pytest.fixture(params=sorted(VERSIONS))
def line(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def containerd(line: str, request: pytest.FixtureRequest) -> Containerd:
    found: Containerd = request.getfixturevalue(f"containerd_{line}")
    return found


def check(root: Path, containerd: Containerd, line: str, documents: list[Document]) -> node.Node:
    """Compare the registries of the objects, and some that have none."""
    found = node.write(root / "node", default_facts("containerd", VERSIONS[line]), documents)
    nothing = root / "nothing"
    nothing.mkdir()
    for registry in {*(item["spec"]["registry"] for item in documents), *cases.UNLISTED} - {"*"}:
        (upstream,) = containerd.hosts(nothing, registry)
        expected = model.asked(model.of(registry, found.documents), upstream)
        if line == "1":  # has no dial_timeout, and leaves it alone
            expected = [replace(host, dial_timeout="30s") for host in expected]
        assert list(containerd.hosts(found.certs, registry)) == expected, registry
    return found


@pytest.mark.parametrize("name", [*cases.TABLE, *cases.PREFIXES])
def test_containerd_reads_what_the_objects_say(name: str, line: str, containerd: Containerd, tmp_path: Path) -> None:
    found = check(tmp_path, containerd, line, {**cases.TABLE, **cases.PREFIXES}[name])

    assert found.problems == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_containerd_reads_what_random_objects_say(seed: int, line: str, containerd: Containerd, tmp_path: Path) -> None:
    documents = cases.random_node(seed, k3s=False)
    found = check(tmp_path, containerd, line, documents)

    assert set(found.problems.values()) <= {"IPv6Unsupported"}
    assert line == "1" or not found.problems


def test_an_ipv6_address_is_a_table_name_only_for_the_new_line(
    line: str, containerd: Containerd, tmp_path: Path
) -> None:
    """The TOML parser of containerd 1.x takes the bracket in the quoted name for the end of the table's name."""
    with_one = [document_with_ipv6 := model.document("docker.io", "http://[fd00::1]:5000")]
    found = check(tmp_path, containerd, line, with_one)

    assert found.problems == ({"docker.io": "IPv6Unsupported"} if line == "1" else {})
    alone = {**document_with_ipv6, "spec": {**document_with_ipv6["spec"], "upstream": cases.DENY}}
    (tmp_path / "deny").mkdir()
    assert check(tmp_path / "deny", containerd, line, [alone]).problems == {}  # as the server it is a plain value
