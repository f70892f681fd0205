"""What MicroK8s gets: containerd's files at the snap's paths, and no more than its containerd can read."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.bundle import Rendered, seal
from registry_mirror.core.compare import compare
from registry_mirror.core.edits import apply
from registry_mirror.core.layout import default_facts, layout
from registry_mirror.core.render import render
from registry_mirror.core.resolve import ResolvedMirror
from tests.pure.builders import TOKEN, USER, by_directory, endpoint, file, mirror, pem, reasons, tls

MIRROR = "https://mirror.example.com"
FACTS = replace(default_facts("microk8s", "v1.34.1"), config_path="/var/snap/microk8s/8145/args/certs.d")

OLD = default_facts("microk8s", "v1.22.17")
TEMPLATE = "/var/snap/microk8s/current/args/containerd-template.toml"


def texts(facts: RuntimeFacts, *mirrors: ResolvedMirror) -> dict[str, str]:
    """What each registry gets, as text."""
    rendered = render(facts, mirrors)
    return {
        **by_directory(rendered),
        **{name: str(urls) for edit in rendered.edits for name, urls in edit.mirrors.items()},
    }


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
    (found,) = render(default_facts("microk8s"), [mirror("quay.io", MIRROR)]).files
    assert found.path == "/var/snap/microk8s/current/args/certs.d/quay.io/hosts.toml"


@pytest.mark.parametrize("facts", [FACTS, OLD])
def test_every_registry_includes_docker_hub_which_microk8s_has_settings_of_its_own_for(facts: RuntimeFacts) -> None:
    def registries(*mirrors: ResolvedMirror) -> set[str]:
        rendered = render(facts, mirrors)
        return {*by_directory(rendered), *(name for edit in rendered.edits for name in edit.mirrors)}

    assert registries(mirror("*", MIRROR)) - {"_default", "*"} >= {"docker.io"}
    assert texts(facts, mirror("*", MIRROR))["docker.io"] == texts(facts, mirror("docker.io", MIRROR))["docker.io"]
    own = texts(facts, mirror("*", MIRROR), mirror("docker.io", "https://own.example"))["docker.io"]
    assert own == texts(facts, mirror("docker.io", "https://own.example"))["docker.io"]
    assert reasons(render(replace(FACTS, version="v1.24.17"), [mirror("*", MIRROR)])) == {"*": "WildcardUnsupported"}
    assert render(replace(FACTS, version="v1.24.17"), [mirror("*", MIRROR)]).files == ()


@pytest.mark.parametrize(
    ("version", "containerd", "wanted", "expected"),
    [
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


# ---- before 1.23: mirrors in the template ---------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "data" / "microk8s-1.22"
MIRRORS = (
    mirror(
        "docker.io",
        endpoint(f"{MIRROR}:8443/hub", tls=tls(ca=pem("ca-one.crt")), credentials=USER),
        "http://10.0.0.1:5000",
        name="hub",
    ),
    mirror("quay.io", f"{MIRROR}:8443/quay", rewrites={"^(.*)$": "q/$1"}, name="quay"),
    mirror("registry.example.com", upstream_tls=tls(insecure_skip_verify=True), upstream_credentials=TOKEN, name="own"),
    mirror("*", "https://all.example", name="rest"),
)


def test_the_template_says_it_all_and_every_word_waits_for_a_start() -> None:
    rendered = render(OLD, MIRRORS)
    (edit,) = rendered.edits
    before = (GOLDEN / "containerd-template.toml").read_text()
    after = apply(edit, before)
    if os.environ.get("GOLDEN_WRITE"):
        (GOLDEN / "expected.toml").write_text(after)
    assert after == (GOLDEN / "expected.toml").read_text()
    assert rendered.problems == ()
    assert [item.path.rpartition("/")[0] for item in rendered.files] == ["/var/snap/microk8s/common/registry-mirror"]
    assert {name: sorted(item.mirrors) for name, item in rendered.start_settings.items()} == {
        "endpoints of *": ["rest"],
        "endpoints of docker.io": ["hub"],
        "endpoints of quay.io": ["quay"],
        "endpoints of registry.example.com": ["own"],
        "TLS settings for mirror.example.com:8443": ["hub", "quay"],
        "credentials for mirror.example.com:8443": ["hub", "quay"],
        "TLS settings for registry.example.com": ["own"],
        "credentials for registry.example.com": ["own"],
    }


def test_only_what_changes_waits() -> None:
    changed = replace(MIRRORS[0], endpoints=(*MIRRORS[0].endpoints, endpoint("https://x")))
    found = compare(render(OLD, MIRRORS), render(OLD, [changed, *MIRRORS[1:]]), layout(OLD))
    assert found.waiting == ("endpoints of docker.io",)
    assert [(item.path, item.change, item.effect) for item in found.differences] == [(TEMPLATE, "changed", "restart")]
    assert compare(render(OLD, MIRRORS), render(OLD, tuple(reversed(MIRRORS))), layout(OLD)).differences == ()


@pytest.mark.parametrize(
    ("version", "wanted", "expected"),
    [
        ("v1.22.17", mirror("quay.io", MIRROR, deny_fallback=True), "FallbackNotDeniable"),
        ("v1.22.17", mirror("quay.io", MIRROR, rewrites={"^a/(.*)": "b/$1"}), "RewriteUnsupported"),
        ("v1.22.17", mirror("quay.io", endpoint(MIRROR, capabilities=("Pull",))), "CapabilitiesUnsupported"),
        ("v1.22.17", mirror("*", MIRROR, upstream_tls=tls(insecure_skip_verify=True)), "WildcardUnsupported"),
        ("v1.22.17", mirror("[fd00::1]:5000", MIRROR), "IPv6Unsupported"),
        ("v1.22.17", mirror("quay.io", endpoint("https://[fd00::1]", credentials=USER)), "IPv6Unsupported"),
        ("v1.22.17", mirror("*", "https://[fd00::1]"), "IPv6Unsupported"),
        ("v1.22.17", mirror("quay.io", "https://[fd00::1]"), None),
        ("v1.21.14", mirror("quay.io", endpoint(MIRROR, credentials=USER)), "CredentialsUnsupported"),
        ("v1.21.14", mirror("quay.io", upstream_credentials=USER), "CredentialsUnsupported"),
        ("v1.21.14", mirror("quay.io", endpoint(MIRROR, tls=tls(insecure_skip_verify=True))), None),
        ("", mirror("quay.io", endpoint(MIRROR, credentials=USER)), None),
        ("v1.35.0", mirror("quay.io", endpoint(MIRROR, tls=tls(insecure_skip_verify=True))), "ConfigPathNotSet"),
        ("v1.35.0", mirror("quay.io", endpoint(MIRROR, credentials=USER)), None),
    ],
)
def test_what_the_template_cannot_say_is_a_problem(version: str, wanted: ResolvedMirror, expected: str | None) -> None:
    rendered = render(replace(OLD, version=version), [wanted])
    assert reasons(rendered) == ({wanted.name: expected} if expected else {})
    assert bool(rendered.edits) is (expected is None)
    assert "swordfish" not in f"{rendered} {seal('microk8s', rendered, (), b'k' * 32).edits}"


def test_one_host_has_one_entry_and_who_comes_first_has_it() -> None:
    one = mirror("docker.io", endpoint(f"{MIRROR}/a", credentials=USER), name="one", priority=1)
    for other in (
        endpoint(f"{MIRROR}/b", credentials=TOKEN),
        endpoint(f"http{MIRROR[5:]}/b"),
        endpoint(f"{MIRROR}/b", tls=tls(insecure_skip_verify=True)),
    ):
        rendered = render(OLD, [mirror("quay.io", other, name="two"), one])
        assert reasons(rendered) == {"two": "EndpointConfigConflict"}
        assert "RegistryMirror one" in rendered.problems[0].message
        assert list(rendered.edits[0].mirrors) == ["docker.io"]
        both = mirror("ghcr.io", endpoint(f"{MIRROR}/a", credentials=USER), other)
        assert "another endpoint of this object" in render(OLD, [both]).problems[0].message
    same = mirror("quay.io", endpoint(f"{MIRROR}/b", credentials=USER), endpoint("http://other.example"), name="two")
    assert render(OLD, [one, same]).problems == ()


def test_a_registry_at_the_host_of_its_mirror_is_still_asked_last() -> None:
    """containerd adds the registry itself only if no endpoint has its host (image_pull.go, registryEndpoints)."""
    (edit,) = render(OLD, [mirror("harbor.example", "https://harbor.example/proxy")]).edits
    assert edit.mirrors == {"harbor.example": ("https://harbor.example/proxy", "https://harbor.example")}


def test_what_says_nothing_is_not_written_and_an_older_template_not_edited() -> None:
    assert render(OLD, [mirror("quay.io")]) == Rendered(())
    assert reasons(render(replace(OLD, config_schema=0), [mirror("quay.io", MIRROR)])) == {"quay.io": "RuntimeTooOld"}
