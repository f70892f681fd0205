"""What k0s gets: containerd's files, and a drop-in in the one form that its version starts with."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.layout import default_facts, layout
from registry_mirror.core.render import render
from tests.pure.builders import mirror, reasons

QUAY = mirror("quay.io", "https://mirror.example.com")
FACTS = default_facts("k0s", "v1.36.3+k0s.0")
DROP_IN = "/etc/k0s/containerd.d/registry-mirror.toml"
HEAD = (
    "# Managed by registry-mirror-operator: changes made here are overwritten. Edit the RegistryMirror objects instead."
    "\n"
)
NOW = f"""{HEAD}version = 3

[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/k0s/containerd-certs.d"
"""
BEFORE = f"""{HEAD}version = 2

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/etc/k0s/containerd-certs.d"
"""


@pytest.mark.parametrize(
    ("version", "schema", "text"),
    [
        ("v1.36.0+k0s.0", 0, NOW),
        ("", 0, NOW),
        ("v1.35.7+k0s.0", 0, BEFORE),
        ("v1.27.1+k0s.0", 0, BEFORE),
        # What k0s itself wrote at its start counts more: a wrong drop-in keeps k0s 1.36 from starting.
        ("v1.35.7+k0s.0", 3, NOW),
        ("v1.36.0+k0s.0", 2, BEFORE),
    ],
)
def test_the_drop_in_comes_last_and_in_the_form_of_the_version(version: str, schema: int, text: str) -> None:
    facts = replace(FACTS, version=version, config_schema=schema)
    hosts, drop_in = render(facts, [QUAY]).files

    assert hosts.path == "/etc/k0s/containerd-certs.d/quay.io/hosts.toml"
    assert (drop_in.path, drop_in.mode, drop_in.content) == (DROP_IN, 0o644, text)
    assert layout(facts).allows(hosts.path)
    assert layout(facts).allows(drop_in.path)
    assert render(facts, [QUAY]).start_settings == {}


def test_where_another_drop_in_sets_config_path_that_directory_is_used() -> None:
    facts = replace(FACTS, config_path="/etc/k0s/containerd.d/certs.d")
    (hosts,) = render(facts, [QUAY]).files

    assert hosts.path == "/etc/k0s/containerd.d/certs.d/quay.io/hosts.toml"
    assert not layout(facts).allows(DROP_IN)


def test_there_is_no_drop_in_without_a_mirror() -> None:
    assert render(FACTS, []).files == ()
    assert render(FACTS, [mirror("quay.io")]).files == ()


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (replace(FACTS, version="v1.27.0+k0s.0"), "RuntimeTooOld"),
        (replace(FACTS, config_managed=False), "ConfigNotManaged"),
    ],
)
def test_a_k0s_that_would_ignore_the_drop_in_is_said(facts: RuntimeFacts, reason: str) -> None:
    rendered = render(facts, [QUAY])
    assert reasons(rendered) == {"quay.io": reason}
    assert rendered.files == ()


def test_a_configuration_of_its_own_with_config_path_will_do() -> None:
    facts = replace(FACTS, config_managed=False, config_path="/certs")
    assert [item.path for item in render(facts, [QUAY]).files] == ["/certs/quay.io/hosts.toml"]
