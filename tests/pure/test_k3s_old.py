"""K3s and RKE2 before hosts.toml: one registries.yaml, read at a start, in the words of containerd's config.toml.

The reader here is the tests' own model of that path: K3s's template (v1.28.5 pkg/agent/templates/templates_linux.go),
which copies rewrites as they stand, and containerd's registryEndpoints (1.7 pkg/cri/server/image_pull.go).
"""

from __future__ import annotations

import json
import random
import tomllib
from typing import Any
from urllib.parse import urlsplit

import pytest

from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.bundle import Rendered, seal
from registry_mirror.core.compare import Comparison, compare
from registry_mirror.core.layout import default_facts, layout
from registry_mirror.core.plan import Planner
from registry_mirror.core.render import render
from registry_mirror.core.render.k3s_old import adapted
from registry_mirror.core.resolve import Credentials, ResolvedMirror
from tests.importing.tools import imported, rendered as rendered_again
from tests.pure import registries_yaml
from tests.pure.builders import EMBEDDED, TOKEN, USER, endpoint, file, k3s, mirror, pem, reasons, tls

OLD = k3s("v1.28.5+k3s1", containerd_version="1.7.11-k3s2")
MIRROR = "https://mirror.example.com"
OTHER = "https://other.example.com"
CA = tls(ca=pem("ca-one.crt"))
SECOND = Credentials(username="other", password="other")
PREFIX = {"^(.*)$": "hub/$1"}


def config_toml(rendered: Rendered) -> dict[str, Any]:
    """The registry section of the config.toml that a start of K3s makes of registries.yaml."""
    registries = registries_yaml.read(file(rendered, "registries.yaml").content)
    lines = ["[mirrors]"]
    for name, item in registries.mirrors.items():
        lines += [f'[mirrors."{name}"]', f"endpoint = [{', '.join(map(json.dumps, item.endpoints))}]"]
        if item.rewrites:
            lines += [f'[mirrors."{name}".rewrite]', *(f'"{old}" = "{new}"' for old, new in item.rewrites.items())]
    mirrors: dict[str, Any] = tomllib.loads("\n".join(lines))["mirrors"]
    return mirrors


def asked(rendered: Rendered, registry: str) -> list[str]:
    """Where containerd 1.7 asks for an image of a registry, in order."""
    mirrors = config_toml(rendered)
    urls: list[str] = list(mirrors.get(registry, mirrors.get("*", {"endpoint": []}))["endpoint"])
    if registry not in [urlsplit(url).netloc for url in urls]:
        local = registry.startswith(("localhost", "127.", "[::1]"))
        urls.append(("http://" if local else "https://") + registry.replace("docker.io", "registry-1.docker.io"))
    return [url if urlsplit(url).path else f"{url}/v2" for url in urls]


def difference(old: list[ResolvedMirror], new: list[ResolvedMirror]) -> Comparison:
    return compare(render(OLD, old), render(OLD, new), layout(OLD))


@pytest.mark.parametrize(
    "version", ["v1.22.17+k3s1", "v1.25.16+k3s4", "v1.26.12+k3s1", "v1.27.9+k3s1", "v1.28.5+k3s1", "v1.29.0+k3s1"]
)
def test_everything_is_in_registries_yaml_and_waits_for_a_start(version: str) -> None:
    rendered = render(k3s(version), [mirror("docker.io", f"{MIRROR}/v2/hub", OTHER, name="hub")])

    assert [item.path for item in rendered.files] == ["/etc/rancher/k3s/registries.yaml"]
    assert rendered.files[0].mode == 0o600
    assert rendered.files[0].content == (
        "# Managed by registry-mirror-operator: changes made here are overwritten. Edit the RegistryMirror objects "
        "instead.\n"
        "mirrors:\n"
        '  "docker.io":\n'
        "    endpoint:\n"
        '      - "https://mirror.example.com/v2/hub"\n'
        '      - "https://other.example.com"\n'
    )
    assert {name: set(item.mirrors) for name, item in rendered.start_settings.items()} == {
        "endpoints of docker.io": {"hub"}
    }
    assert rendered.problems == ()


def test_rke2_has_the_same_in_its_own_place() -> None:
    facts = default_facts("rke2", "v1.27.9+rke2r1")
    rendered = render(facts, [mirror("docker.io", endpoint(MIRROR, tls=CA))])

    ca, registries = (item.path for item in rendered.files)
    assert ca.startswith("/etc/rancher/rke2/registry-mirror/ca-")
    assert registries == "/etc/rancher/rke2/registries.yaml"
    assert all(layout(facts).allows(path) for path in (ca, registries))


@pytest.mark.parametrize("facts", [OLD, k3s("v1.28.5+k3s1")])
def test_tls_and_credentials_go_by_host_and_docker_hub_by_the_host_that_answers(facts: RuntimeFacts) -> None:
    rendered = render(
        facts,
        [
            mirror("docker.io", endpoint(MIRROR, tls=CA, credentials=USER), upstream_credentials=SECOND, name="hub"),
            mirror("quay.io", endpoint("https://docker.io"), upstream_tls=tls(insecure_skip_verify=True), name="quay"),
        ],
    )
    registries = registries_yaml.read(file(rendered, "registries.yaml").content)

    assert {host: config.auth for host, config in registries.configs.items()} == {
        "mirror.example.com": {"username": "robot", "password": "swordfish"},
        "quay.io": None,
        "registry-1.docker.io": {"username": "other", "password": "other"},
    }
    assert registries.configs["mirror.example.com"].tls is not None
    assert registries.configs["mirror.example.com"].tls.ca == rendered.files[0].path
    assert rendered.files[0].content == pem("ca-one.crt")
    assert {name: set(item.mirrors) for name, item in rendered.start_settings.items()} == {
        "TLS settings for mirror.example.com": {"hub"},
        "TLS settings for quay.io": {"quay"},
        "credentials for mirror.example.com": {"hub"},
        "credentials for registry-1.docker.io": {"hub", "quay"},
        "endpoints of docker.io": {"hub"},
        "endpoints of quay.io": {"quay"},
    }
    assert "swordfish" not in repr(rendered)
    assert "swordfish" not in repr(seal("k3s", rendered, (), b"k" * 32).start_settings)


@pytest.mark.parametrize(
    ("registry", "urls", "fields", "expected"),
    [
        ("quay.io", [f"{MIRROR}/"], {}, [f"{MIRROR}/v2", "https://quay.io/v2"]),
        ("quay.io", [f"{MIRROR}/v2"], {}, [f"{MIRROR}/v2", "https://quay.io/v2"]),
        ("quay.io", [f"{MIRROR}/v2/x"], {}, [f"{MIRROR}/v2/x", "https://quay.io/v2"]),
        ("docker.io", ["https://docker.io"], {}, ["https://registry-1.docker.io/v2"] * 2),
        ("docker.io", [], {}, ["https://registry-1.docker.io/v2"]),
        ("localhost:5000", [MIRROR], {}, [f"{MIRROR}/v2", "http://localhost:5000/v2"]),
        ("quay.io", ["http://[fd00::2]:5000"], {}, ["http://[fd00::2]:5000/v2", "https://quay.io/v2"]),
        # containerd would take an endpoint on the registry's own host for the registry itself.
        ("quay.io", ["https://quay.io/v2/x"], {}, ["https://quay.io/v2/x", "https://quay.io/v2"]),
        ("quay.io", ["http://quay.io", MIRROR], {}, ["http://quay.io/v2", f"{MIRROR}/v2", "https://quay.io/v2"]),
        ("127.0.0.1:5000", ["http://127.0.0.1:5000/x"], {}, ["http://127.0.0.1:5000/x", "http://127.0.0.1:5000/v2"]),
        ("quay.io", ["https://quay.io", MIRROR], {}, ["https://quay.io/v2", f"{MIRROR}/v2"]),
        # A path before every name is none of the registry itself.
        ("docker.io", [MIRROR], PREFIX, [f"{MIRROR}/v2/hub", "https://registry-1.docker.io/v2"]),
        ("docker.io", [f"{MIRROR}/a/"], PREFIX, [f"{MIRROR}/a/hub", "https://registry-1.docker.io/v2"]),
    ],
)
def test_containerd_asks_what_the_object_says(
    registry: str, urls: list[str], fields: dict[str, str], expected: list[str]
) -> None:
    rendered = render(OLD, [mirror(registry, *urls, rewrites=fields)])

    assert asked(rendered, registry) == expected
    assert "rewrite" not in config_toml(rendered)[registry]


def test_the_registry_itself_beside_an_endpoint_on_its_host_is_spoken_to_in_the_same_way() -> None:
    """One host has one entry of configs; another renderer takes the settings from here (microk8s_old)."""
    beside = endpoint("https://a.example/x", tls=CA, credentials=USER)
    own = adapted([mirror("a.example", beside)])[0].endpoints[-1]
    every = adapted([mirror("*", beside)])[1].endpoints[-1]

    assert own == every == endpoint("https://a.example", tls=CA, credentials=USER)


def test_entries_are_in_order_of_their_registries() -> None:
    rendered = render(OLD, [mirror("b.example", MIRROR, name="first"), mirror("a.example", MIRROR, name="second")])

    assert list(config_toml(rendered)) == ["a.example", "b.example"]


@pytest.mark.parametrize("rewrites", [PREFIX, {"^library/(.*)": "my-org/$1"}])
def test_rewrites_stay_where_the_object_itself_lists_the_registry_last(rewrites: dict[str, str]) -> None:
    """Then they hold for it on newer releases too (containerd #5171 has this very example)."""
    rendered = render(OLD, [mirror("docker.io", MIRROR, "https://registry-1.docker.io", rewrites=rewrites)])

    assert config_toml(rendered)["docker.io"]["rewrite"] == rewrites
    assert asked(rendered, "docker.io")[:2] == [f"{MIRROR}/v2", "https://registry-1.docker.io/v2"]


def test_every_registry_but_those_with_an_object_and_the_hosts_of_its_endpoints_themselves() -> None:
    """registryEndpoints takes "*" where there is no entry, be it empty, for the registry."""
    rendered = render(
        OLD,
        [mirror("*", f"{MIRROR}/v2/all", OTHER, name="all"), mirror("quay.io", name="quay"), mirror("ghcr.io", OTHER)],
    )

    every = [f"{MIRROR}/v2/all", f"{OTHER}/v2"]
    assert asked(rendered, "docker.io") == [*every, "https://registry-1.docker.io/v2"]
    assert asked(rendered, "quay.io") == ["https://quay.io/v2"]
    assert asked(rendered, "ghcr.io") == [f"{OTHER}/v2", "https://ghcr.io/v2"]
    assert asked(rendered, "mirror.example.com") == [*every, f"{MIRROR}/v2"]
    assert asked(rendered, "other.example.com") == every
    assert set(config_toml(rendered)) == {"*", "quay.io", "ghcr.io", "mirror.example.com"}
    settings = {name: set(item.mirrors) for name, item in rendered.start_settings.items()}
    assert settings["endpoints of mirror.example.com"] == {"all"}
    assert settings["endpoints of quay.io"] == {"quay"}


@pytest.mark.parametrize(
    ("facts", "item", "reason"),
    [
        (OLD, mirror("a.example", MIRROR, deny_fallback=True), "FallbackNotDeniable"),
        (OLD, mirror("a.example", deny_fallback=True), "FallbackNotDeniable"),
        (OLD, mirror("a.example", MIRROR, rewrites={"^x/(.*)": "y/$1"}), "RewriteAppliesToUpstream"),
        (OLD, mirror("a.example", MIRROR, rewrites={**PREFIX, "^x": "y"}), "RewriteAppliesToUpstream"),
        (OLD, mirror("a.example", "https://a.example/x", rewrites={"^x": "y"}), "RewriteAppliesToUpstream"),
        (OLD, mirror("a.example", "https://a.example", MIRROR, rewrites={"^x": "y"}), "RewriteAppliesToUpstream"),
        (OLD, mirror("a.example", "https://a.example", rewrites={r"^x\.": "y"}), "RewriteUnsupported"),
        (OLD, mirror("a.example", "https://a.example", rewrites={"^x": 'y"'}), "RewriteUnsupported"),
        (OLD, mirror("a.example", endpoint(MIRROR, capabilities=("Pull",))), "CapabilitiesUnsupported"),
        (OLD, mirror("*", MIRROR, upstream_tls=CA), "WildcardUnsupported"),
        (OLD, mirror("[fd00::1]:5000", MIRROR), "IPv6Unsupported"),
        (OLD, mirror("a.example", endpoint("https://[fd00::1]", tls=CA)), "IPv6Unsupported"),
        (OLD, mirror("*", "https://[fd00::1]"), "IPv6Unsupported"),
        (k3s("v1.22.2+k3s1", containerd_version="1.4.9-k3s1"), mirror("*", MIRROR), "WildcardUnsupported"),
        (k3s("v1.21.14+k3s1"), mirror("a.example", MIRROR), "RuntimeTooOld"),
    ],
)
def test_what_cannot_be_said_is_left_out_with_its_reason(
    facts: RuntimeFacts, item: ResolvedMirror, reason: str
) -> None:
    assert reasons(render(facts, [item])) == {item.name: reason}


def test_the_rest_is_rendered_and_two_wishes_for_one_host_are_told() -> None:
    rendered = render(
        OLD,
        [
            mirror("a.example", endpoint(MIRROR, credentials=USER)),
            mirror("b.example", endpoint(f"{MIRROR}/b", credentials=SECOND)),
            mirror("c.example", MIRROR, deny_fallback=True),
            mirror("d.example", "http://[fd00::1]:5000"),
            mirror("e.example", endpoint(OTHER, credentials=TOKEN, dial_timeout="5s")),
        ],
    )

    assert reasons(rendered) == {"b.example": "EndpointConfigConflict", "c.example": "FallbackNotDeniable"}
    assert set(config_toml(rendered)) == {"a.example", "d.example", "e.example"}


def test_the_message_names_the_releases_that_can() -> None:
    (problem,) = render(OLD, [mirror("a.example", MIRROR, deny_fallback=True)]).problems

    assert "k3s v1.28.5+k3s1" in problem.message
    assert "v1.26.13, v1.27.10, v1.28.6, v1.29.1 and later" in problem.message


def test_settings_that_do_not_exist_there_change_nothing() -> None:
    with_both = k3s(OLD.version, disable_default_endpoint=True, embedded_registry=EMBEDDED)
    mirrors = [mirror("*", MIRROR), mirror("quay.io", OTHER)]

    assert render(with_both, mirrors) == render(OLD, mirrors)


BEFORE = [
    mirror("docker.io", endpoint(MIRROR, tls=CA, credentials=USER)),
    mirror("quay.io", OTHER),
    mirror("ghcr.io", "https://ghcr.io", rewrites={"^a": "b"}),
]


@pytest.mark.parametrize(
    ("after", "waiting"),
    [
        ([*BEFORE, mirror("a.example", MIRROR)], ("endpoints of a.example",)),
        ([BEFORE[0], BEFORE[2]], ("endpoints of quay.io",)),
        ([BEFORE[0], mirror("quay.io", OTHER, MIRROR), BEFORE[2]], ("endpoints of quay.io",)),
        ([*BEFORE[:2], mirror("ghcr.io", "https://ghcr.io", rewrites={"^a": "c"})], ("endpoints of ghcr.io",)),
        (
            [mirror("docker.io", endpoint(MIRROR, tls=tls(ca=pem("ca-two.crt")), credentials=USER)), *BEFORE[1:]],
            ("TLS settings for mirror.example.com",),
        ),
        (
            [mirror("docker.io", endpoint(MIRROR, tls=CA, credentials=SECOND)), *BEFORE[1:]],
            ("credentials for mirror.example.com",),
        ),
        ([*BEFORE, mirror("*", OTHER)], ("endpoints of *",)),
        ([*BEFORE, mirror("a.example")], ()),  # an empty entry says nothing without "*"
    ],
)
def test_every_change_waits_for_a_start_and_only_what_changed(
    after: list[ResolvedMirror], waiting: tuple[str, ...]
) -> None:
    found = difference(BEFORE, after)

    assert found.waiting == waiting
    effects = {item.path: item.effect for item in found.differences}
    assert effects["/etc/rancher/k3s/registries.yaml"] == ("restart" if waiting else "repeats")


def test_an_object_without_endpoints_waits_for_a_start_beside_every_registry() -> None:
    every = [mirror("*", OTHER)]

    assert difference(every, [*every, mirror("quay.io")]).waiting == ("endpoints of quay.io",)


def test_the_plan_says_whose_change_waits() -> None:
    plan = Planner(BEFORE[:2], b"k" * 32).plan(OLD, {})

    assert plan.needs_start == {
        "TLS settings for mirror.example.com": {"docker.io"},
        "credentials for mirror.example.com": {"docker.io"},
        "endpoints of docker.io": {"docker.io"},
        "endpoints of quay.io": {"quay.io"},
    }
    assert plan.bundle is not None
    assert set(plan.bundle.start_settings) == set(plan.needs_start)


REGISTRIES = ["docker.io", "quay.io", "ghcr.io", "localhost:5000", "[fd00::1]:5000", "mirror.example.com", "*"]
URLS = [MIRROR, f"{MIRROR}/v2/x", "http://plain.example:5000", "https://quay.io/v2/y", "https://ghcr.io"]


def test_containerd_asks_what_random_objects_say_and_rewrites_nothing_else() -> None:
    source = random.Random(20261121)
    tried = 0
    for _ in range(300):
        mirrors = [
            mirror(
                name,
                *source.sample(URLS, source.randint(0, 3)),
                rewrites=source.choice([{}, {}, PREFIX, {"^x/(.*)": "y/$1"}]),
            )
            for name in source.sample(REGISTRIES, source.randint(1, 5))
        ]
        rendered = render(OLD, mirrors)
        kept = {item.registry: item for item in mirrors if item.name not in reasons(rendered)}
        for registry in {*REGISTRIES, "unlisted.example"} - {"*"} if kept else ():
            found = asked(rendered, registry)
            item = kept.get(registry, kept.get("*"))
            own = asked(render(OLD, [BEFORE[0], mirror(registry)]), registry)
            rewritten = registry in config_toml(rendered) and "rewrite" in config_toml(rendered)[registry]
            prefix = "/hub" if item is not None and item.rewrites and not rewritten else ""
            wanted = [f"{one if urlsplit(one).path else one + '/v2'}{prefix}" for one in urls_of(item)]
            assert found == (wanted if own[0] in wanted else wanted + own)
            tried += 1
    assert tried > 1500


def urls_of(item: ResolvedMirror | None) -> list[str]:
    return [one.url for one in item.endpoints] if item is not None else []


WRITTEN = """
mirrors:
  docker.io:
    endpoint:
      - https://mirror.example.com/v2/hub
      - http://plain.example:5000
  quay.io:
    endpoint: [https://other.example.com]
  ghcr.io:
    endpoint: [https://ghcr.io]
    rewrite:
      "^a/(.*)": "b/$1"
  "*":
    endpoint: [https://other.example.com]
configs:
  mirror.example.com:
    auth: {username: robot, password: swordfish}
    tls: {ca_file: /ca.crt}
  registry-1.docker.io:
    auth: {username: other, password: other}
"""


def test_what_was_imported_from_such_a_node_is_written_for_it_again() -> None:
    found = imported(WRITTEN, "registries.yaml", {"/ca.crt": pem("ca-one.crt")}, runtime="k3s")
    rendered = rendered_again(found, OLD)
    before, after = registries_yaml.read(WRITTEN), registries_yaml.read(file(rendered, "registries.yaml").content)

    assert after.mirrors == before.mirrors
    assert {host: config.auth for host, config in after.configs.items()} == {
        host: config.auth for host, config in before.configs.items()
    }
    ca = after.configs["mirror.example.com"].tls
    assert ca is not None
    assert {item.path: item.content for item in rendered.files}[ca.ca] == pem("ca-one.crt")
    again = imported(file(rendered, "registries.yaml").content, "registries.yaml", {ca.ca: pem("ca-one.crt")})
    assert rendered_again(again, OLD) == rendered


def test_an_imported_path_before_every_name_becomes_a_path_of_the_endpoint() -> None:
    """Equivalent for the mirror, and the registry itself is asked for the right name (k3s #7007)."""
    text = 'mirrors: {docker.io: {endpoint: [https://mirror.example.com], rewrite: {"^(.*)$": "hub/$1"}}}'
    rendered = rendered_again(imported(text, "registries.yaml", runtime="k3s"), OLD)

    assert asked(rendered, "docker.io") == [f"{MIRROR}/v2/hub", "https://registry-1.docker.io/v2"]
