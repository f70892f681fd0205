"""What MicroK8s gets: containerd's files at the snap's paths, and no more than its containerd can read."""

from __future__ import annotations

import tomllib

import pytest
from msgspec.structs import replace

from registry_mirror.core.layout import default_facts, layout
from registry_mirror.core.render import render
from registry_mirror.core.resolve import ResolvedMirror
from tests.pure.builders import endpoint, file, mirror, pem, reasons, tls

MIRROR = "https://mirror.example.com"
FACTS = replace(default_facts("microk8s", "v1.34.1"), config_path="/var/snap/microk8s/8145/args/certs.d")


def test_files_go_to_the_revision_and_the_ca_to_where_a_refresh_leaves_it() -> None:
    rendered = render(FACTS, [mirror("docker.io", endpoint(f"{MIRROR}/hub", tls=tls(ca=pem("ca-one.crt"))))])
    ca, hosts = rendered.files

    assert hosts.path == "/var/snap/microk8s/8145/args/certs.d/docker.io/hosts.toml"
    assert ca.path.startswith("/var/snap/microk8s/common/registry-mirror/ca-")
    assert tomllib.loads(hosts.content)["host"] == {
        f"{MIRROR}/hub": {"capabilities": ["pull", "resolve"], "ca": [ca.path], "override_path": True}
    }
    assert all(layout(FACTS).allows(item.path) for item in rendered.files)
    assert rendered.start_settings == {}


def test_without_a_node_the_link_stands_for_the_revision() -> None:
    (found,) = render(default_facts("microk8s"), [mirror("*", MIRROR)]).files
    assert found.path == "/var/snap/microk8s/current/args/certs.d/_default/hosts.toml"


@pytest.mark.parametrize(
    ("version", "containerd", "wanted", "expected"),
    [
        ("v1.22.17", "", mirror("quay.io", MIRROR), "RuntimeTooOld"),
        ("v1.23.0", "", mirror("quay.io", MIRROR), None),
        ("v1.24.17", "", mirror("quay.io", f"{MIRROR}/v2/quay"), "EndpointUnsupported"),
        ("v1.24.17", "", mirror("quay.io", MIRROR, rewrites={"^(.*)$": "quay/$1"}), "EndpointUnsupported"),
        ("v1.24.17", "", mirror("*", MIRROR), "WildcardUnsupported"),
        ("v1.25.0", "", mirror("quay.io", f"{MIRROR}/v2/quay"), None),
        ("v1.25.0", "", mirror("*", MIRROR), None),
        ("", "", mirror("*", f"{MIRROR}/x"), None),
        # What the node says counts more than what the version usually brings.
        ("v1.24.17", "1.6.28", mirror("*", f"{MIRROR}/x"), None),
    ],
)
def test_limits_follow_the_containerd_that_it_brings(
    version: str, containerd: str, wanted: ResolvedMirror, expected: str | None
) -> None:
    facts = replace(FACTS, version=version, containerd_version=containerd)
    assert reasons(render(facts, [wanted])) == ({wanted.name: expected} if expected else {})


@pytest.mark.parametrize(
    ("version", "written"), [("v1.29.0", False), ("v1.30.0", False), ("v1.34.9", False), ("v1.35.0", True), ("", True)]
)
def test_a_dial_timeout_is_written_only_where_it_has_an_effect(version: str, written: bool) -> None:
    rendered = render(replace(FACTS, version=version), [mirror("quay.io", endpoint(MIRROR, dial_timeout="2s"))])
    assert ("dial_timeout" in file(rendered, "hosts.toml").content) is written


@pytest.mark.parametrize(("version", "written"), [("2.0.6", False), ("2.0.7", True), ("1.7.33", False)])
def test_the_release_that_brought_dial_timeouts(version: str, written: bool) -> None:
    rendered = render(default_facts("containerd", version), [mirror("quay.io", endpoint(MIRROR, dial_timeout="2s"))])
    assert ("dial_timeout" in file(rendered, "hosts.toml").content) is written
