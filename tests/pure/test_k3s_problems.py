"""What registries.yaml has no words for: the mirror is left out with a reason, and all the others are still rendered.

A wrong object must not take a right one with it, whichever way the two got into each other's way.
"""

from __future__ import annotations

import pytest

from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.render import render
from registry_mirror.core.resolve import Credentials, ResolvedMirror
from tests.pure import registries_yaml
from tests.pure.builders import EMBEDDED, K3S, USER, by_directory, endpoint, file, k3s, mirror, pem, reasons, tls

MIRROR = "https://mirror.example.com"
OTHER = "https://other.example.com"
SKIP = tls(insecure_skip_verify=True)
SECOND = Credentials(username="other", password="other")
DENIED_BY_NODE = k3s(disable_default_endpoint=True)
DENY = mirror("docker.io", MIRROR, deny_fallback=True)
BYSTANDER = mirror("bystander.example", "https://bystander-mirror.example")


CASES: dict[str, tuple[RuntimeFacts, tuple[ResolvedMirror, ...], dict[str, str]]] = {
    "two CAs for one host": (
        K3S,
        (
            mirror("a.example", endpoint(MIRROR, tls=tls(ca=pem("ca-one.crt")))),
            mirror("b.example", endpoint(f"{MIRROR}/b", tls=tls(ca=pem("ca-two.crt")))),
        ),
        {"b.example": "EndpointConfigConflict"},
    ),
    "two users for one host, and precedence": (
        K3S,
        (
            mirror("a.example", endpoint(MIRROR, credentials=USER)),
            mirror("b.example", endpoint(MIRROR, credentials=SECOND), priority=1),
        ),
        {"a.example": "EndpointConfigConflict"},
    ),
    "two users for one host within an object": (
        K3S,
        (mirror("a.example", endpoint(MIRROR, credentials=USER), endpoint(f"{MIRROR}/b", credentials=SECOND)),),
        {"a.example": "EndpointConfigConflict"},
    ),
    "verification switched off for one of two": (
        K3S,
        (mirror("a.example", MIRROR), mirror("b.example", endpoint(f"{MIRROR}/b", tls=SKIP))),
        {"b.example": "EndpointConfigConflict"},
    ),
    "verification switched off for the other of two": (
        K3S,
        (mirror("a.example", endpoint(f"{MIRROR}/b", tls=SKIP)), mirror("b.example", MIRROR)),
        {"b.example": "EndpointConfigConflict"},
    ),
    "a password that would also go over HTTP": (
        K3S,
        (
            mirror("a.example", endpoint(MIRROR, credentials=USER)),
            mirror("b.example", "http://mirror.example.com"),
        ),
        {"b.example": "EndpointConfigConflict"},
    ),
    "the same CA and user twice, and TLS beside credentials": (
        K3S,
        (
            mirror("a.example", endpoint(MIRROR, credentials=USER), endpoint(OTHER, tls=SKIP)),
            mirror("b.example", endpoint(f"{MIRROR}/b", credentials=USER)),
            mirror("c.example", endpoint(f"{MIRROR}/c", tls=tls(ca=pem("ca-one.crt")))),
            mirror("d.example", f"{MIRROR}/d"),
            mirror("e.example", "http://plain.example", "https://plain.example"),
        ),
        {},
    ),
    "deny for a registry with credentials": (
        K3S,
        (mirror("a.example", MIRROR, deny_fallback=True, upstream_credentials=USER),),
        {"a.example": "FallbackNotDeniable"},
    ),
    "deny for a registry that is an endpoint with TLS elsewhere": (
        K3S,
        (
            mirror("a.example", MIRROR, deny_fallback=True),
            mirror("b.example", endpoint("https://a.example", tls=SKIP)),
        ),
        {"a.example": "FallbackNotDeniable"},
    ),
    "deny without an endpoint": (K3S, (mirror("a.example", deny_fallback=True),), {"a.example": "DenyNeedsEndpoint"}),
    "deny with the embedded registry, which leaves out what is on the node itself": (
        k3s(embedded_registry=EMBEDDED),
        (mirror("localhost:5000", deny_fallback=True),),
        {"localhost:5000": "DenyNeedsEndpoint"},
    ),
    "deny with the embedded registry alone": (
        k3s(embedded_registry=EMBEDDED),
        (mirror("a.example", deny_fallback=True),),
        {},
    ),
    "allow for every registry where one is denied": (
        K3S,
        (DENY, mirror("*", MIRROR)),
        {"*": "FallbackNotAllowable"},
    ),
    "allow for every registry where the node denies": (
        DENIED_BY_NODE,
        (mirror("*", MIRROR),),
        {"*": "FallbackNotAllowable"},
    ),
    "deny for every registry as well": (K3S, (DENY, mirror("*", MIRROR, deny_fallback=True)), {}),
    "a rewrite that would also hold for the registry itself": (
        K3S,
        (DENY, mirror("a.example", MIRROR, rewrites={"^x": "y"})),
        {"a.example": "RewriteAppliesToUpstream"},
    ),
    "a rewrite where the registry keeps its server": (
        K3S,
        (DENY, mirror("a.example", MIRROR, rewrites={"^x": "y"}, upstream_credentials=USER)),
        {},
    ),
    "a rewrite where fallback is denied": (
        K3S,
        (mirror("a.example", MIRROR, rewrites={"^x": "y"}, deny_fallback=True),),
        {},
    ),
    "pull without resolve": (
        K3S,
        (mirror("a.example", endpoint(MIRROR, capabilities=("Pull",))),),
        {"a.example": "CapabilitiesUnsupported"},
    ),
    **{
        f"every registry on {version}": (k3s(version), (mirror("*", MIRROR),), {"*": "WildcardUnsupported"})
        for version in ("v1.26.14+k3s1", "v1.29.2+k3s1", "v1.31.6+k3s1", "v1.32.2+k3s1")
    },
    **{
        f"every registry on {version or 'an unknown version'}": (k3s(version), (mirror("*", MIRROR),), {})
        for version in ("v1.26.15+k3s1", "v1.29.3+k3s1", "v1.30.0+k3s1", "v1.31.7+k3s1", "v1.32.3+k3s1", "")
    },
    "every registry denied where only fallback is broken": (
        k3s("v1.32.2+k3s1"),
        (mirror("*", MIRROR, deny_fallback=True),),
        {},
    ),
    "a wrong deny does not count against others": (
        K3S,
        (mirror("a.example", deny_fallback=True), mirror("*", MIRROR)),
        {"a.example": "DenyNeedsEndpoint"},
    ),
    "a wrong owner of a host does not count against others": (
        K3S,
        (
            mirror("a.example", endpoint(MIRROR, credentials=USER, capabilities=("Pull",)), priority=1),
            mirror("b.example", endpoint(MIRROR, credentials=SECOND)),
        ),
        {"a.example": "CapabilitiesUnsupported"},
    ),
    "one that is left out for another does not count against a third": (
        K3S,
        (
            mirror("a.example", endpoint(MIRROR, credentials=USER)),
            mirror("b.example", endpoint(MIRROR, credentials=SECOND), endpoint(OTHER, credentials=SECOND)),
            mirror("c.example", endpoint(OTHER, credentials=USER)),
        ),
        {"b.example": "EndpointConfigConflict"},
    ),
    "each wrong because of the other: the one that takes precedence stays": (
        K3S,
        (
            mirror("a.example", MIRROR, deny_fallback=True, priority=1),
            mirror("*", endpoint("https://a.example", tls=SKIP)),
        ),
        {"*": "FallbackNotAllowable"},
    ),
}


@pytest.mark.parametrize(("facts", "mirrors", "expected"), CASES.values(), ids=CASES)
def test_what_cannot_be_said_is_left_out_with_its_reason_and_the_rest_is_rendered(
    facts: RuntimeFacts, mirrors: tuple[ResolvedMirror, ...], expected: dict[str, str]
) -> None:
    rendered = render(facts, [*mirrors, BYSTANDER])

    assert reasons(rendered) == expected
    kept = {item.registry for item in (*mirrors, BYSTANDER) if item.name not in expected}
    assert set(registries_yaml.read(file(rendered, "registries.yaml").content).mirrors) == kept
    assert "bystander.example" in by_directory(rendered)


def test_a_conflict_names_the_object_that_stays() -> None:
    first = mirror("a.example", endpoint(MIRROR, credentials=USER), name="first")
    second = mirror("b.example", endpoint(MIRROR, credentials=SECOND), name="second")
    (problem,) = render(K3S, [first, second]).problems

    assert "one TLS and credentials entry for mirror.example.com" in problem.message
    assert "RegistryMirror first" in problem.message
    assert "swordfish" not in problem.message


def test_who_denies_fallback_is_named() -> None:
    (by_object,) = render(K3S, [mirror("docker.io", MIRROR, deny_fallback=True, name="denier"), mirror("*")]).problems
    (by_node,) = render(DENIED_BY_NODE, [mirror("*", MIRROR)]).problems

    assert "RegistryMirror denier" in by_object.message
    assert "disable-default-registry-endpoint" in by_node.message


@pytest.mark.parametrize("version", ["v1.26.13+k3s1", "v1.29.1+k3s1", "v1.30.0+k3s1", "v2.0.0", "", "unknown"])
def test_a_k3s_that_has_hosts_toml_or_does_not_say_is_rendered_for(version: str) -> None:
    rendered = render(k3s(version), [BYSTANDER])

    assert reasons(rendered) == {}
    assert set(by_directory(rendered)) == {"bystander.example"}


def test_an_ipv6_address_is_refused_where_it_would_make_hosts_toml_unreadable() -> None:
    """Also where the registry itself becomes an endpoint, because another mirror denies fallback."""
    own = mirror("quay.io", "https://[fd00::1]:5000")
    listed = mirror("[fd00::2]", MIRROR)
    old = k3s("v1.30.9+k3s1", containerd_version="1.7.23-k3s2")

    assert reasons(render(old, [own, listed])) == {"quay.io": "IPv6Unsupported"}
    assert reasons(render(old, [own, listed, DENY])) == {"quay.io": "IPv6Unsupported", "[fd00::2]": "IPv6Unsupported"}
    assert reasons(render(k3s(containerd_version="2.0.7-k3s1"), [own, listed, DENY])) == {}


def test_credentials_for_an_ipv6_address_are_refused_where_they_would_keep_containerd_from_starting() -> None:
    own = mirror("[fd00::2]:5000", upstream_credentials=USER)
    old = k3s("v1.30.9+k3s1", containerd_version="1.7.23-k3s2")

    assert reasons(render(old, [own, BYSTANDER])) == {"[fd00::2]:5000": "IPv6Unsupported"}
    assert reasons(render(k3s(containerd_version="2.0.7-k3s1"), [own])) == {}
