"""A registries.yaml that is imported and rendered again is, to K3s, the file that it was: its own 46 cases say so.

For each recorded case: import, parse, resolve, render; certs.d must be what K3s itself made of the case's file, and the
rendered registries.yaml must mean the same to K3s. Left out of the comparison on purpose: the directory of the embedded
registry, which is K3s's own and never written here, and headers, which carry credentials that K3s keeps in config.toml.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from registry_mirror.api.models import EmbeddedRegistry, RuntimeFacts
from registry_mirror.core.importing.convert import Imported
from registry_mirror.core.importing.k3s_check import comparable
from registry_mirror.core.layout import default_facts
from registry_mirror.core.render.k3s_hosts import Registries, host_files
from tests.importing.tools import imported, rendered, specs
from tests.pure import registries_yaml
from tests.pure.builders import by_directory, file
from tests.pure.test_k3s_conformance import CASES, ordered

# Cases that the API cannot express, each with the reason: there are none.
EXCEPTIONS: dict[str, str] = {}
IDS = [case["name"].replace(" ", "-") for case in CASES]


def facts_of(case: dict[str, Any]) -> RuntimeFacts:
    embedded = EmbeddedRegistry(
        address=case["embeddedRegistry"] or "", ca_file="server-ca", cert_file="client-cert", key_file="client-key"
    )
    return replace(
        default_facts(case["program"]),
        disable_default_endpoint=case["disableDefaultEndpoint"],
        embedded_registry=embedded if case["embeddedRegistry"] else None,
    )


def import_of(case: dict[str, Any]) -> Imported:
    return imported(
        case["registriesYaml"],
        "registries.yaml",
        runtime=case["program"],
        disable_default=case["disableDefaultEndpoint"],
        embedded=case["embeddedRegistry"] or "",
    )


def means(registries: Registries, facts: RuntimeFacts, disable_default: bool) -> dict[str, Any]:
    """What K3s makes of a registries.yaml: directories, and first lines."""
    files = host_files(registries, facts.name, disable_default, facts.embedded_registry)
    return {name: (item.comment, comparable(item)) for name, item in files.items()}


def credentials(registries: Registries) -> dict[str, Any]:
    """What goes to config.toml; an entry for "*" has no effect in K3s."""
    return {host: dict(item.auth) for host, item in registries.configs.items() if item.auth is not None and host != "*"}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_certs_d_after_the_import_is_what_k3s_renders_from_the_file(case: dict[str, Any]) -> None:
    assert case["name"] not in EXCEPTIONS
    ours = by_directory(rendered(import_of(case), facts_of(case)))
    theirs = {name: text for name, text in case["hosts"].items() if name != case["embeddedRegistry"]}

    assert sorted(ours) == sorted(theirs)
    for name, text in theirs.items():
        assert ordered(ours[name]) == ordered(text)
        assert ours[name].splitlines()[0] == text.splitlines()[0]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_registries_yaml_after_the_import_means_what_the_file_means(case: dict[str, Any]) -> None:
    facts, original = facts_of(case), registries_yaml.read(case["registriesYaml"])
    result = rendered(import_of(case), facts)
    ours = Registries()
    if result.files:
        ours = registries_yaml.read(file(result, "registries.yaml").content)
    denied = facts.disable_default_endpoint or any("config.yaml.d" in item.path for item in result.files)

    assert means(ours, facts, denied) == means(original, facts, facts.disable_default_endpoint)
    assert credentials(ours) == credentials(original)
    assert credentials(ours) == {host: auth for host, auth in case["configTomlAuth"].items() if host != "*"}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_import_finds_no_difference_where_there_is_none(case: dict[str, Any]) -> None:
    assert not [note for note in import_of(case).all_notes() if "differently" in note]


def test_the_registry_itself_as_its_last_endpoint_is_no_endpoint() -> None:
    listed = "mirrors: {quay.io: {endpoint: [https://a.example, quay.io]}, docker.io: {endpoint: [docker.io]}}"
    for denied in (False, True):
        found = specs(imported(listed, "registries.yaml", disable_default=denied))
        assert found["quay.io"] == {"registry": "quay.io", "endpoints": [{"url": "https://a.example"}]}
        assert found["docker.io"] == {"registry": "docker.io"}


def test_denied_registries_are_those_that_do_not_list_themselves() -> None:
    text = "mirrors: {a.example: {endpoint: [b.example]}, c.example: {endpoint: [b.example]}}\nconfigs: {c.example: {}}"
    found = specs(imported(text, "registries.yaml", disable_default=True))
    assert found["a.example"]["upstream"] == {"fallback": "Deny"}
    assert "upstream" not in found["c.example"]
