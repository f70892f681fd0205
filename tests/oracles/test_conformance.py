"""The 46 texts that K3s's own code rendered, and the registries.yaml of each, read by the real readers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.harness.oracles import Containerd, Wharfie
from tests.pure.builders import pem

from .registries_yaml import as_wharfie_reads

RECORDED = Path(__file__).parents[1] / "conformance" / "k3s-hosts.json"
CASES: list[dict[str, Any]] = json.loads(RECORDED.read_text())["cases"]
IDS = [case["name"].replace(" ", "-") for case in CASES]
PEMS = {"server-ca": "ca-one.crt", "client-cert": "client.crt", "client-key": "client.key"}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_containerd_reads_each_recorded_text(case: dict[str, Any], containerd_2: Containerd, tmp_path: Path) -> None:
    for directory, text in case["hosts"].items():
        folder = tmp_path / directory
        folder.mkdir()
        (folder / "hosts.toml").write_text(text)
        for name, file in PEMS.items():
            (folder / name).write_text(pem(file))
        registry = "unlisted.example.net" if directory == "_default" else directory
        read = containerd_2.hosts(tmp_path, registry)

        tables = re.findall(r'^\[host\."([^"]*)"\]$', text, re.MULTILINE)
        assert [host.url for host in read[:-1]] == tables  # the registry itself is last, with or without `server`


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_wharfie_reads_each_registries_yaml_as_pyyaml_does(
    case: dict[str, Any], wharfie: Wharfie, tmp_path: Path
) -> None:
    file = tmp_path / "registries.yaml"
    file.write_text(case["registriesYaml"])

    assert wharfie.registries(file) == as_wharfie_reads(case["registriesYaml"])
