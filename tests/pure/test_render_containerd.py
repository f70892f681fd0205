"""What upstream containerd gets. It reads hosts.toml differently from the K3s fork: it always tries the registry itself
last, and it ignores rewrites without a word; both must show here.
"""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from msgspec.structs import replace

from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.edits import Edit, HostConfig
from registry_mirror.core.layout import default_facts
from registry_mirror.core.render import render
from registry_mirror.core.resolve import Credentials
from tests.pure.builders import (
    CONTAINERD,
    TOKEN,
    USER,
    USER_HEADER,
    by_directory,
    endpoint,
    file,
    hosts_toml,
    mirror,
    pem,
    reasons,
    tls,
)

MIRROR = "https://mirror.example.com"
OTHER = Credentials(username="other", password="one")
HEAD = (
    "# Managed by registry-mirror-operator: changes made here are overwritten. Edit the RegistryMirror objects instead."
    "\n"
)


def read(*mirrors: Any) -> dict[str, Any]:
    """The one hosts.toml of these mirrors, as containerd reads it."""
    (text,) = hosts_toml(CONTAINERD, *mirrors).values()
    return tomllib.loads(text)


def test_a_mirror_is_rendered_with_the_registry_itself_last() -> None:
    rendered = render(CONTAINERD, [mirror("docker.io", f"{MIRROR}/hub", "http://10.0.0.1:5000")])

    assert [item.path for item in rendered.files] == ["/etc/containerd/certs.d/docker.io/hosts.toml"]
    assert file(rendered, "hosts.toml").content == (
        f'{HEAD}server = "https://registry-1.docker.io/v2"\n'
        "\n"
        "[host]\n"
        "\n"
        '[host."https://mirror.example.com/hub"]\n'
        '  capabilities = ["pull", "resolve"]\n'
        "  override_path = true\n"
        "\n"
        '[host."http://10.0.0.1:5000/v2"]\n'
        '  capabilities = ["pull", "resolve"]\n'
    )
    assert file(rendered, "hosts.toml").mode == 0o644
    assert rendered.start_settings == {}


@pytest.mark.parametrize(
    ("registry", "server"),
    [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("registry.example.com:5000", "https://registry.example.com:5000/v2"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000/v2"),
        ("[fd00::1]", "https://[fd00::1]/v2"),
    ],
)
def test_the_server_is_where_containerd_would_look_by_itself(registry: str, server: str) -> None:
    assert read(mirror(registry, MIRROR))["server"] == server


@pytest.mark.parametrize("registry", ["localhost", "localhost:443", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"])
def test_containerd_is_left_to_find_a_registry_on_the_node(registry: str) -> None:
    """It tries HTTPS without verification there, and then HTTP; a server in the file would take one of them away."""
    assert "server" not in read(mirror(registry, MIRROR))
    assert "server" in read(mirror(registry, MIRROR, upstream_tls=tls(ca=pem("ca-one.crt"))))


def test_the_mirror_for_every_registry_has_no_server_and_is_the_default_directory() -> None:
    texts = hosts_toml(CONTAINERD, mirror("*", MIRROR))

    assert list(texts) == ["_default"]
    assert "server" not in tomllib.loads(texts["_default"])


def test_deny_puts_the_last_mirror_in_the_place_of_the_registry() -> None:
    last = endpoint(
        "https://last.example/x",
        tls=tls(insecure_skip_verify=True),
        credentials=USER,
        dial_timeout="1s",
        capabilities=("Pull",),
    )
    found = read(mirror("docker.io", MIRROR, last, deny_fallback=True))

    assert found == {
        "server": "https://last.example/x",
        "capabilities": ["pull"],
        "skip_verify": True,
        "override_path": True,
        "dial_timeout": "1s",
        "header": {"Authorization": USER_HEADER},
        "host": {f"{MIRROR}/v2": {"capabilities": ["pull", "resolve"]}},
    }


def test_deny_for_every_registry_and_with_one_mirror() -> None:
    found = read(mirror("*", MIRROR, deny_fallback=True))

    assert found == {"server": f"{MIRROR}/v2", "capabilities": ["pull", "resolve"], "host": {}}


@pytest.mark.parametrize(
    ("url", "table", "override"),
    [
        (MIRROR, f"{MIRROR}/v2", False),
        (f"{MIRROR}/", f"{MIRROR}/v2", False),
        (f"{MIRROR}/v2", f"{MIRROR}/v2", False),
        (f"{MIRROR}/v2/hub", f"{MIRROR}/v2/hub", True),
        (f"{MIRROR}/hub/v2", f"{MIRROR}/hub/v2", True),
    ],
)
def test_a_path_is_verbatim_unless_it_is_the_usual_one(url: str, table: str, override: bool) -> None:
    ((name, settings),) = read(mirror("docker.io", url))["host"].items()

    assert name == table
    assert settings.get("override_path", False) is override


@pytest.mark.parametrize(
    ("pattern", "replacement", "url", "table"),
    [
        ("^(.*)$", "hub/$1", MIRROR, f"{MIRROR}/v2/hub"),
        ("(.*)", "a/b/${1}", MIRROR, f"{MIRROR}/v2/a/b"),
        ("^", "hub/", f"{MIRROR}/x", f"{MIRROR}/x/hub"),
        ("^(.+)$", "hub/$1", f"{MIRROR}/x/", f"{MIRROR}/x/hub"),
    ],
)
def test_a_rewrite_that_only_adds_a_prefix_becomes_a_path(pattern: str, replacement: str, url: str, table: str) -> None:
    ((name, settings),) = read(mirror("docker.io", url, rewrites={pattern: replacement}))["host"].items()

    assert name == table
    assert settings["override_path"] is True
    assert "rewrite" not in settings


@pytest.mark.parametrize(
    "rewrites",
    [
        {"^rancher/(.*)": "mirror/$1"},
        {"^(.*)$": "$1/mirror"},
        {"^(.*)$": "mirror-$1"},
        {"^(.*)$": "mirror"},
        {"^(.*)$": "../$1"},
        {"^(.*)$": "a/./$1"},
        {"^(.*)$": "a/$1", "^x": "y"},
    ],
)
def test_any_other_rewrite_is_refused_and_not_dropped(rewrites: dict[str, str]) -> None:
    rendered = render(CONTAINERD, [mirror("docker.io", MIRROR, rewrites=rewrites), mirror("quay.io", MIRROR)])

    assert reasons(rendered) == {"docker.io": "RewriteUnsupported"}
    assert list(by_directory(rendered)) == ["quay.io"]


def test_two_urls_that_a_prefix_makes_one_are_one_table() -> None:
    """A second table of one name is invalid TOML: containerd would silently bypass the mirror."""
    both = mirror("docker.io", f"{MIRROR}/x", f"{MIRROR}/x/", rewrites={"^(.*)$": "hub/$1"})

    assert list(read(both)["host"]) == [f"{MIRROR}/x/hub"]


@pytest.mark.parametrize(
    "token",
    [mirror("docker.io", endpoint(MIRROR, credentials=TOKEN)), mirror("docker.io", upstream_credentials=TOKEN)],
)
def test_an_identity_token_is_refused_where_config_toml_is_not_edited(token: Any) -> None:
    rendered = render(CONTAINERD, [token, mirror("quay.io", MIRROR)])

    assert reasons(rendered) == {"docker.io": "IdentityTokenUnsupported"}
    assert "a-token" not in str(rendered.problems)
    assert list(by_directory(rendered)) == ["quay.io"]


def test_deny_without_an_endpoint_is_refused() -> None:
    assert reasons(render(CONTAINERD, [mirror("docker.io", deny_fallback=True)])) == {"docker.io": "DenyNeedsEndpoint"}


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.6.16", {"*": "WildcardUnsupported"}), ("1.6.17", {}), ("1.6.20~ds1", {}), ("", {}), ("2.1.4", {})],
)
def test_every_registry_needs_a_containerd_that_knows_the_default_directory(
    version: str, expected: dict[str, str]
) -> None:
    assert reasons(render(default_facts("containerd", version), [mirror("*", MIRROR)])) == expected


def test_an_object_of_its_own_keeps_a_registry_from_under_every_registry() -> None:
    texts = hosts_toml(CONTAINERD, mirror("*", MIRROR), mirror("quay.io"))

    assert tomllib.loads(texts["quay.io"]) == {"server": "https://quay.io/v2", "host": {}}


def test_an_ipv6_address_is_refused_where_it_would_make_the_file_unreadable() -> None:
    old = default_facts("containerd", "1.7.32")
    ipv6 = mirror("docker.io", "https://[fd00::1]:5000")

    assert reasons(render(old, [ipv6])) == {"docker.io": "IPv6Unsupported"}
    assert reasons(render(CONTAINERD, [ipv6])) == {}
    assert reasons(render(old, [mirror("docker.io", MIRROR, "https://[fd00::1]", deny_fallback=True)])) == {}


def test_credentials_and_tls_are_said_for_their_host_only() -> None:
    ca = pem("ca-one.crt")
    rendered = render(
        CONTAINERD,
        [
            mirror(
                "quay.io",
                endpoint(MIRROR, credentials=USER, tls=tls(ca=ca)),
                "http://10.0.0.1:5000",
                upstream_tls=tls(insecure_skip_verify=True),
            )
        ],
    )
    first, hosts_file = rendered.files
    found = tomllib.loads(hosts_file.content)

    assert (first.content, first.mode) == (ca, 0o644)
    assert first.path.startswith("/etc/containerd/registry-mirror/ca-")
    assert hosts_file.mode == 0o600
    assert found["skip_verify"] is True
    assert found["host"][f"{MIRROR}/v2"] == {
        "capabilities": ["pull", "resolve"],
        "ca": [first.path],
        "header": {"Authorization": USER_HEADER},
    }
    # On an http host even skip_verify = false makes containerd try HTTPS first.
    assert found["host"]["http://10.0.0.1:5000/v2"] == {"capabilities": ["pull", "resolve"]}


def test_a_registry_without_endpoints_has_a_file_only_if_there_is_something_to_say() -> None:
    assert hosts_toml(CONTAINERD, mirror("docker.io")) == {}
    assert read(mirror("quay.io", upstream_credentials=USER)) == {
        "server": "https://quay.io/v2",
        "header": {"Authorization": USER_HEADER},
        "host": {},
    }


# ---- credentials that no header can carry: in config.toml -----------------------------------------------------------

EDITED = replace(CONTAINERD, config_schema=3)
OLD = replace(default_facts("containerd", "1.7.29"), config_schema=2)
WITH_USER = mirror("docker.io", endpoint(f"{MIRROR}:8443/hub", credentials=USER), upstream_credentials=USER, name="hub")


@pytest.mark.parametrize("version", ["1.6.20", "1.7.29", "2.0.3"])
def test_before_2_1_user_and_password_stand_in_config_toml_as_well(version: str) -> None:
    rendered = render(replace(OLD, containerd_version=version), [WITH_USER, mirror("quay.io", MIRROR)])
    (edit,) = rendered.edits
    auth = HostConfig(auth={"username": "robot", "password": "swordfish"})
    assert edit == Edit(
        path="/etc/containerd/config.toml",
        config_schema=2,
        configs={"mirror.example.com:8443": auth, "registry-1.docker.io": auth},
    )
    assert {name: set(item.mirrors) for name, item in rendered.start_settings.items()} == {
        "credentials for mirror.example.com:8443": {"hub"},
        "credentials for registry-1.docker.io": {"hub"},
    }
    # The header carries it live to a registry with Basic authentication.
    assert by_directory(rendered)["docker.io"].count(USER_HEADER) == 2
    assert "swordfish" not in repr(rendered)


@pytest.mark.parametrize(
    "facts", [EDITED, replace(EDITED, containerd_version=""), default_facts("containerd", "1.7.29")]
)
def test_else_the_header_is_all(facts: RuntimeFacts) -> None:
    rendered = render(facts, [WITH_USER])
    assert (rendered.edits, rendered.start_settings, rendered.problems) == ((), {}, ())
    assert by_directory(rendered)["docker.io"].count(USER_HEADER) == 2


@pytest.mark.parametrize("facts", [EDITED, OLD, replace(OLD, config_path="")])
def test_an_identity_token_stands_in_config_toml_alone(facts: RuntimeFacts) -> None:
    rendered = render(facts, [mirror("quay.io", endpoint(MIRROR, credentials=TOKEN), upstream_credentials=TOKEN)])
    (edit,) = rendered.edits
    token = HostConfig(auth={"identitytoken": "a-token"})
    assert edit.configs == {"mirror.example.com": token, "quay.io": token}
    assert edit.config_path == ("" if facts.config_path else "/etc/containerd/certs.d")
    assert reasons(rendered) == {}
    text = by_directory(rendered)["quay.io"]
    assert "Authorization" not in text
    assert "a-token" not in text


def test_one_host_has_one_entry_where_it_counts() -> None:
    both = [
        mirror("docker.io", endpoint(f"{MIRROR}/a", credentials=USER), name="one", priority=1),
        mirror("quay.io", endpoint(f"{MIRROR}/b", credentials=OTHER), name="two"),
    ]
    assert reasons(render(OLD, both)) == {"two": "EndpointConfigConflict"}
    assert reasons(render(EDITED, both)) == {}
    plain = [both[0], mirror("quay.io", f"http{MIRROR[5:]}", name="two")]
    assert reasons(render(OLD, plain)) == {"two": "EndpointConfigConflict"}


def test_a_password_never_goes_where_the_registry_itself_is_never_asked() -> None:
    denied = mirror("quay.io", MIRROR, deny_fallback=True, upstream_credentials=USER)
    assert render(OLD, [denied]).edits == ()


@pytest.mark.parametrize(("facts", "expected"), [(OLD, {"[fd00::1]:5000": "IPv6Unsupported"}), (EDITED, {})])
def test_containerd_1_cannot_read_a_table_with_brackets_in_its_name(
    facts: RuntimeFacts, expected: dict[str, str]
) -> None:
    assert reasons(render(facts, [mirror("[fd00::1]:5000", MIRROR, upstream_credentials=TOKEN)])) == expected
