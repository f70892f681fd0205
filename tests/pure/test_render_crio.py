"""What CRI-O gets. A location that c/image cannot parse fails every pull of its registry, so none may be written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from msgspec.structs import replace

from registry_mirror.core.layout import default_facts, layout
from registry_mirror.core.render import render
from registry_mirror.core.resolve import ResolvedMirror
from tests.pure.builders import TOKEN, USER, endpoint, file, mirror, pem, reasons, tls

FACTS = default_facts("crio", "1.33.1")
MIRROR = "https://mirror.example.com"
CONF = "/etc/containers/registries.conf.d/50-registry-mirror.conf"
HEAD = (
    "# Managed by registry-mirror-operator: changes made here are overwritten. Edit the RegistryMirror objects instead."
    "\n"
)


def tables(*mirrors: ResolvedMirror) -> list[dict[str, Any]]:
    """The registries of the drop-in, as c/image reads them."""
    rendered = render(FACTS, mirrors)
    assert rendered.problems == ()
    found: list[dict[str, Any]] = tomllib.loads(file(rendered, ".conf").content)["registry"]
    return found


def locations(*mirrors: ResolvedMirror) -> list[str]:
    return [item["location"] for table in tables(*mirrors) for item in table.get("mirror", [])]


def test_the_whole_drop_in() -> None:
    rendered = render(
        FACTS,
        [
            mirror("quay.io", upstream_tls=tls(insecure_skip_verify=True)),
            mirror(
                "docker.io",
                f"{MIRROR}/v2/hub",
                endpoint("http://10.0.0.1:5000", capabilities=("Pull",)),
                endpoint("https://third.example.com/", tls=tls(insecure_skip_verify=True)),
                deny_fallback=True,
            ),
        ],
    )
    (found,) = rendered.files

    assert (found.path, found.mode) == (CONF, 0o644)
    assert found.content == (
        f"""{HEAD}
[[registry]]
prefix = "docker.io"
location = "docker.io"
blocked = true

  [[registry.mirror]]
  location = "mirror.example.com/hub"
  pull-from-mirror = "all"

  [[registry.mirror]]
  location = "10.0.0.1:5000"
  insecure = true
  pull-from-mirror = "digest-only"

  [[registry.mirror]]
  location = "third.example.com"
  insecure = true
  pull-from-mirror = "all"

[[registry]]
prefix = "quay.io"
location = "quay.io"
insecure = true
"""
    )
    assert layout(FACTS).allows(found.path)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (MIRROR, "mirror.example.com"),
        (f"{MIRROR}/v2", "mirror.example.com"),
        (f"{MIRROR}/v2/", "mirror.example.com"),
        (f"{MIRROR}/v2/a/b_c/d-e", "mirror.example.com/a/b_c/d-e"),
        ("https://mirror", "mirror:443"),
        ("http://mirror", "mirror:80"),
        ("http://mirror:5000/v2/x", "mirror:5000/x"),
        ("http://localhost", "localhost"),
    ],
)
def test_a_url_becomes_a_location(url: str, location: str) -> None:
    assert locations(mirror("quay.io", url)) == [location]


def test_a_prefix_rewrite_is_a_part_of_the_location_and_one_location_is_said_once() -> None:
    both = mirror("quay.io", f"{MIRROR}/v2/x", f"{MIRROR}/v2/x/", rewrites={"^(.*)$": "hub/$1"})
    assert locations(both) == ["mirror.example.com/x/hub"]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (mirror("*", MIRROR), "WildcardUnsupported"),
        (mirror("quay.io", deny_fallback=True), "DenyNeedsEndpoint"),
        (mirror("quay.io", MIRROR, rewrites={"^a/(.*)": "b/$1"}), "RewriteUnsupported"),
        (mirror("quay.io", MIRROR, rewrites={"^(.*)$": "a/$1", "^x": "y"}), "RewriteUnsupported"),
        (mirror("quay.io", endpoint(MIRROR, credentials=USER)), "CredentialsUnsupported"),
        (mirror("quay.io", upstream_credentials=TOKEN), "CredentialsUnsupported"),
        (mirror("quay.io", f"{MIRROR}/hub"), "EndpointUnsupported"),
        (mirror("quay.io", f"{MIRROR}/hub/v2"), "EndpointUnsupported"),
        (mirror("quay.io", f"{MIRROR}/v2/Hub"), "EndpointUnsupported"),
        (mirror("quay.io", f"{MIRROR}/v2/a..b"), "EndpointUnsupported"),
        (mirror("quay.io", "https://[fd00::1]:5000"), "EndpointUnsupported"),
        (mirror("quay.io", MIRROR, rewrites={"^(.*)$": "a--/$1"}), "EndpointUnsupported"),
        (mirror("quay.io", endpoint(MIRROR, capabilities=("Resolve",))), "CapabilitiesUnsupported"),
        (mirror("quay.io", "https://quay.io/v2/cache", deny_fallback=True), "FallbackNotDeniable"),
        (mirror("quay.io", "https://quay.io:8443", deny_fallback=True), "FallbackNotDeniable"),
        (
            mirror(
                "quay.io",
                endpoint(MIRROR, tls=tls(ca=pem("ca-one.crt"))),
                endpoint(f"{MIRROR}/v2/x", tls=tls(ca=pem("ca-two.crt"))),
            ),
            "EndpointConfigConflict",
        ),
    ],
)
def test_what_cannot_be_said_is_a_problem_and_takes_no_other_mirror_with_it(
    wanted: ResolvedMirror, reason: str
) -> None:
    rendered = render(FACTS, [wanted, mirror("ghcr.io", "https://other.example.com")])
    assert reasons(rendered) == {wanted.name: reason}
    assert [item["prefix"] for item in tomllib.loads(rendered.files[-1].content)["registry"]] == ["ghcr.io"]
    assert "a-token" not in str(rendered.problems)


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.24.9", {"quay.io": "CapabilitiesUnsupported"}), ("1.25.0", {}), ("", {})],
)
def test_a_mirror_for_digests_only_needs_a_crio_that_knows_it(version: str, expected: dict[str, str]) -> None:
    wanted = mirror("quay.io", endpoint(MIRROR, capabilities=("Pull",)))
    assert reasons(render(replace(FACTS, version=version), [wanted])) == expected


@pytest.mark.parametrize("first", ["denies", "asks"])
def test_a_denied_registry_that_another_mirror_is_at_is_a_problem_of_the_later_one(first: str) -> None:
    denies = mirror("harbor.example.com", MIRROR, deny_fallback=True, name="denies", priority=int(first == "denies"))
    asks = mirror("docker.io", "https://harbor.example.com/v2/hub", name="asks", priority=int(first == "asks"))
    later = "asks" if first == "denies" else "denies"
    assert reasons(render(FACTS, [denies, asks])) == {later: "FallbackNotDeniable"}


def test_two_mirrors_at_one_host_share_its_files_or_the_later_one_says_why_not() -> None:
    one, two = tls(ca=pem("ca-one.crt")), tls(ca=pem("ca-two.crt"))
    mirrors = [
        mirror("docker.io", endpoint(f"{MIRROR}/v2/hub", tls=one), priority=2),
        mirror("quay.io", endpoint(f"{MIRROR}/v2/quay", tls=one), f"{MIRROR}/v2/plain", priority=1),
        mirror("ghcr.io", endpoint(f"{MIRROR}/v2/ghcr", tls=two)),
    ]
    rendered = render(FACTS, mirrors)
    assert reasons(rendered) == {"ghcr.io": "EndpointConfigConflict"}
    assert len([item for item in rendered.files if item.path.endswith(".crt")]) == 1


def test_tls_files_stand_in_the_directory_of_their_host_before_the_drop_in() -> None:
    secure = tls(ca=pem("ca-one.crt"), certificate=pem("client.crt"), key=pem("client.key"))
    rendered = render(FACTS, [mirror("docker.io", endpoint("https://m:5000/v2/x", tls=secure), upstream_tls=secure)])
    by_host: dict[str, list[tuple[str, int]]] = {}
    for item in rendered.files[:-1]:
        host, name = item.path.removeprefix("/etc/containers/certs.d/").split("/")
        by_host.setdefault(host, []).append((name, item.mode))
        assert layout(FACTS).allows(item.path)

    assert list(by_host) == ["docker.io", "m:5000"]
    for files in by_host.values():
        (ca, ca_mode), (key, key_mode), (certificate, certificate_mode) = files
        assert ca.startswith("registry-mirror-ca-")
        assert ca.endswith(".crt")
        assert key.removesuffix(".key") == certificate.removesuffix(".cert")
        assert (ca_mode, key_mode, certificate_mode) == (0o644, 0o600, 0o644)
    assert rendered.files[-1].path == CONF


def test_mirrors_wait_for_a_start_unless_crio_reloads_them() -> None:
    wanted = [mirror("docker.io", MIRROR, name="a"), mirror("quay.io", MIRROR, name="b"), mirror("ghcr.io", name="c")]
    (name, setting), *others = render(FACTS, wanted).start_settings.items()

    assert (name, others) == ("mirrors of CRI-O", [])
    assert setting.mirrors == {"a", "b"}
    again = render(FACTS, [*wanted, mirror("gcr.io", MIRROR)]).start_settings[name]
    assert again.value != setting.value
    assert render(replace(FACTS, reloads_registries=True), wanted).start_settings == {}


def test_nothing_to_say_is_no_file() -> None:
    assert render(FACTS, [mirror("quay.io")]).files == ()
    assert render(FACTS, []).start_settings == {}
