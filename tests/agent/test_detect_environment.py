"""Which proxies a runtime has: from its service, as Go reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry_mirror.agent.environment import proxies, variables
from registry_mirror.agent.host import Host
from registry_mirror.api.models import RuntimeName
from registry_mirror.core.layout import default_facts
from tests.agent import trees
from tests.agent.detect_starts import Start

FILE = "/etc/default/rke2-server"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("# A=1\n; B=2\n\n C = 3\nD=4 # of D", {"D": "4 # of D"}),
        ("A='1 2'\nB=\"3\"\nC='4\nD=\nE=''", {"A": "1 2", "B": "3", "C": "'4", "D": "", "E": ""}),
        ("export A=1\n  B=2  ", {"A": "1", "B": "2"}),
        ("A=1 \\\n2\nB=3", {"A": "1 2", "B": "3"}),
        ("A=p$w\nulimit -n 65536 || true\nD=1", {"A": "p$w", "D": "1"}),
        ("1A=1\nA-B=2\n=3", {}),
    ],
)
def test_a_file_with_variables(tmp_path: Path, text: str, expected: Mapping[str, str]) -> None:
    trees.put(tmp_path, FILE, text)
    assert variables(Start(environment_files=(FILE,)), Host(tmp_path)) == expected


def test_later_files_count_more_than_earlier_ones_and_the_unit(tmp_path: Path) -> None:
    trees.put(tmp_path, "/a", "A=a\nB=a")
    trees.put(tmp_path, "/b", "B=b")
    start = Start(environment=("A=unit", "C=unit"), environment_files=("-/a", "/b", "-/none", "relative"))
    assert variables(start, Host(tmp_path)) == {"A": "a", "B": "b", "C": "unit"}


@pytest.mark.parametrize(
    ("name", "environment", "expected"),
    [
        ("containerd", (), {}),
        ("containerd", ("HTTP_PROXY=http://a", "no_proxy=x"), {"HTTP_PROXY": "http://a", "NO_PROXY": "x"}),
        ("containerd", ("HTTPS_PROXY=http://a", "https_proxy=http://b"), {"HTTPS_PROXY": "http://a"}),
        ("containerd", ("HTTPS_PROXY=", "https_proxy=http://b"), {"HTTPS_PROXY": "http://b"}),
        ("containerd", ("CONTAINERD_HTTP_PROXY=http://a",), {}),
        ("containerd", ("TOKEN=secret",), {}),
        ("containerd", ("HTTP_PROXY=http://u:p$'w@a", "X"), {"HTTP_PROXY": "http://u:p$'w@a"}),
        ("k3s", ("HTTP_PROXY=http://a", "CONTAINERD_HTTP_PROXY=http://b"), {"HTTP_PROXY": "http://b"}),
        ("rke2", ("CONTAINERD_no_proxy=b", "no_proxy=a"), {"NO_PROXY": "b"}),
        ("k0s", ("CONTAINERD_HTTPS_PROXY=http://b",), {"HTTPS_PROXY": "http://b"}),
        ("k3s", ("HTTP_PROXY=http://a", "CONTAINERD_HTTP_PROXY="), {}),
    ],
)
def test_proxies(tmp_path: Path, name: RuntimeName, environment: tuple[str, ...], expected: Mapping[str, str]) -> None:
    assert proxies(Start(environment=environment), Host(tmp_path), default_facts(name)) == expected


@pytest.mark.parametrize("old", [False, True])
def test_microk8s_has_them_in_a_file_of_its_own(tmp_path: Path, old: bool) -> None:
    args = "/var/snap/microk8s/7/args"
    trees.put(tmp_path, f"{args}/containerd-env", "#HTTPS_PROXY=x\nHTTPS_PROXY=http://a\nNO_PROXY=$A\nHTTP_PROXY=`a`\n")
    facts = replace(default_facts("microk8s"), config_path=f"{args}/certs.d")
    if old:
        facts = replace(facts, config_path="", config_file=f"{args}/containerd-template.toml")
    assert proxies(None, Host(tmp_path), facts) == {"HTTPS_PROXY": "http://a"}
