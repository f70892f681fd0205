"""The two halves on a K3s node, now and at the next start: certs.d for the next pull says what K3s renders from the
registries.yaml for the next start, and only what certs.d cannot carry is said to wait for one.
"""

from __future__ import annotations

import random
import tomllib
from typing import Any

import pytest

from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.render import render
from registry_mirror.core.render.k3s_hosts import host_files
from registry_mirror.core.resolve import ResolvedMirror
from tests.pure import registries_yaml
from tests.pure.builders import EMBEDDED, K3S, TOKEN, USER, by_directory, endpoint, file, k3s, mirror, tls

MIRROR = "https://mirror.example.com"


@pytest.mark.parametrize(
    ("containerd", "credentials", "names"),
    [
        ("1.7.27-k3s1", USER, {"credentials for mirror.example.com"}),
        ("2.0.5-k3s1", USER, {"credentials for mirror.example.com"}),
        ("containerd://2.1.0-k3s1", USER, set()),
        ("2.1.4-k3s1", USER, set()),
        ("", USER, {"credentials for mirror.example.com"}),  # unknown: better one restart too many than no pull
        ("2.1.4-k3s1", TOKEN, {"credentials for mirror.example.com"}),
        ("2.1.4-k3s1", None, set()),
    ],
)
def test_only_what_a_header_cannot_carry_waits_for_a_start(containerd: str, credentials: Any, names: set[str]) -> None:
    mirrors = [
        mirror("docker.io", endpoint(MIRROR, credentials=credentials)),
        mirror("quay.io", f"{MIRROR}/x"),
        mirror("ghcr.io", "https://other.example"),
    ]
    settings = render(k3s(containerd_version=containerd), mirrors).start_settings

    assert set(settings) == names
    for setting in settings.values():
        assert setting.mirrors == {"docker.io", "quay.io"}
        assert "swordfish" not in repr(setting)


@pytest.mark.parametrize(("containerd", "host"), [("", "docker.io"), ("2.0.5-k3s1", "registry-1.docker.io")])
def test_credentials_for_docker_hub_that_wait_for_a_start_name_the_mirror(containerd: str, host: str) -> None:
    mirrors = [mirror("docker.io", upstream_credentials=USER, name="hub")]
    settings = render(k3s(containerd_version=containerd), mirrors).start_settings

    assert {name: item.mirrors for name, item in settings.items()} == {f"credentials for {host}": frozenset({"hub"})}


def test_sharing_through_the_embedded_registry_waits_for_a_start_except_for_registries_on_the_node_itself() -> None:
    facts = k3s(embedded_registry=EMBEDDED)
    settings = render(facts, [mirror("docker.io"), mirror("localhost:5000", MIRROR)]).start_settings

    assert {name: set(item.mirrors) for name, item in settings.items()} == {
        "sharing of docker.io through the embedded registry": {"docker.io"}
    }


HOSTS = (
    "https://a.example",
    "http://b.example:5000/v2",
    "https://c.example/x/y",
    "https://docker.io",
    "https://quay.io",
)


def some_mirrors(source: random.Random) -> list[ResolvedMirror]:
    secrets = {host: source.choice([None, None, USER, TOKEN]) for host in HOSTS}
    checks = {host: source.choice([None, None, tls(insecure_skip_verify=True)]) for host in HOSTS}
    mirrors = []
    for registry in source.sample(["docker.io", "quay.io", "ghcr.io", "localhost:5000", "[fd00::1]:5000", "*"], 4):
        endpoints = [
            endpoint(
                host,
                credentials=secrets[host],
                tls=None if host.startswith("http:") else checks[host],
                dial_timeout=source.choice([None, "1s"]),
            )
            for host in source.sample(HOSTS, source.randint(0, 4))
        ]
        mirrors.append(
            mirror(
                registry,
                *endpoints,
                deny_fallback=source.random() < 0.2,
                rewrites=source.choice([{}, {}, {"^x/(.*)": "y/$1"}]),
            )
        )
    return mirrors


def stripped(text: str) -> Any:
    document = tomllib.loads(text)
    for table in (document, *document.get("host", {}).values()):
        table.pop("header", None)
        table.pop("dial_timeout", None)
    return [*document.pop("host", {}).items()], document


@pytest.mark.parametrize("facts", [K3S, k3s(embedded_registry=EMBEDDED), k3s(disable_default_endpoint=True)])
def test_a_start_of_k3s_renders_what_was_there_before(facts: RuntimeFacts) -> None:
    """For any mirrors: certs.d as written equals certs.d as K3s makes it from registries.yaml and the drop-in."""
    source = random.Random(20260801)
    files = 0
    for _ in range(150):
        rendered = render(facts, some_mirrors(source))
        if not rendered.files:
            continue
        registries = registries_yaml.read(file(rendered, "registries.yaml").content)
        denied = facts.disable_default_endpoint or any("config.yaml.d" in item.path for item in rendered.files)
        after = host_files(registries, "k3s", denied, facts.embedded_registry)
        after.pop(EMBEDDED.address, None)
        texts = {name: hosts.file("/", name).content for name, hosts in after.items()}
        before = by_directory(rendered)
        assert {name: stripped(text) for name, text in before.items()} == {
            name: stripped(text) for name, text in texts.items()
        }
        files += len(before)
    assert files > 300
