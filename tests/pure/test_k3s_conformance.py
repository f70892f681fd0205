"""What the model of K3s renders must be what K3s's own code renders: 46 recorded cases are the oracle.

If the two differ, a start of K3s changes what pulls do, which is the one thing this project promises not to happen.
The Authorization header is the only addition: it carries credentials that K3s keeps in config.toml.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from registry_mirror.api.models import EmbeddedRegistry
from registry_mirror.core.render.hosts import HostsFile
from registry_mirror.core.render.k3s_hosts import host_files
from tests.pure import registries_yaml

RECORDED = Path(__file__).parents[1] / "conformance" / "k3s-hosts.json"
CASES: list[dict[str, Any]] = json.loads(RECORDED.read_text())["cases"]


def rendered(case: dict[str, Any]) -> dict[str, HostsFile]:
    address = case["embeddedRegistry"]
    embedded = None
    if address:
        embedded = EmbeddedRegistry(
            address=address, ca_file="server-ca", cert_file="client-cert", key_file="client-key"
        )
    registries = registries_yaml.read(case["registriesYaml"])
    return host_files(registries, case["program"], case["disableDefaultEndpoint"], embedded)


def ordered(text: str) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """A hosts.toml without header tables: root settings, and hosts in the order in which they are tried."""
    document = tomllib.loads(text)
    hosts = document.pop("host", {})
    for table in (document, *hosts.values()):
        table.pop("header", None)
    return sorted(document.items()), list(hosts.items())


def test_all_recorded_cases_are_there() -> None:
    assert len(CASES) == 46
    assert sum(len(case["hosts"]) for case in CASES) > 40


@pytest.mark.parametrize("case", CASES, ids=[case["name"].replace(" ", "-") for case in CASES])
def test_certs_d_is_what_k3s_renders(case: dict[str, Any]) -> None:
    ours = {name: file.file("/certs.d", name).content for name, file in rendered(case).items()}

    assert sorted(ours) == sorted(case["hosts"])
    for name, text in case["hosts"].items():
        assert ordered(ours[name]) == ordered(text)
        assert ours[name].splitlines()[0] == text.splitlines()[0]


@pytest.mark.parametrize("case", [case for case in CASES if case["configTomlAuth"]], ids=lambda case: case["name"])
def test_credentials_that_k3s_keeps_in_config_toml_are_headers_here(case: dict[str, Any]) -> None:
    texts = [file.file("/certs.d", name).content for name, file in rendered(case).items()]

    assert any("Basic dXNlcjpwYXNz" in text for text in texts)  # user:pass
