"""Which hosts are asked for an image, in which order, by the files of a node; containerd itself says the same about
hosts.toml in tests/oracles/test_route.py."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from registry_mirror.api.images import Image
from registry_mirror.core.following import Found, Walk, concluded, failure_of, walk, warnings
from registry_mirror.core.material import Credentials
from registry_mirror.core.route import Host, Route, Rules, directories, image_of, itself, name_of
from registry_mirror.core.route_crio import registries
from registry_mirror.core.route_hosts import certificates, hosts_toml
from registry_mirror.core.route_mirrors import mirrors

NEW, OLD, FORK = Rules(), Rules(old=True, dial_timeout=False), Rules(fork=True)
FILE = "/etc/containerd/certs.d/docker.io/hosts.toml"
HUB = "https://registry-1.docker.io/v2"
DIGEST = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"


def image(text: str) -> Image:
    found = image_of(text)
    assert found is not None
    return found


def read(text: str, rules: Rules = NEW, registry: str = "docker.io", names: tuple[str, ...] = ()) -> Route:
    return hosts_toml(FILE, text, names, registry, rules)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("team/app:1", "docker.io/team/app:1"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("r.example:5000/a/b:2", "r.example:5000/a/b:2"),
        (f"r.example/a:1@{DIGEST}", f"r.example/a@{DIGEST}"),
    ],
)
def test_an_image_is_named_as_in_a_pod(text: str, name: str) -> None:
    assert name_of(image(text)) == name


@pytest.mark.parametrize("text", ["", "UPPER", "r.example/", "r.example/a:1:2", "a b", "https://r.example/a"])
def test_what_is_no_name_is_none(text: str) -> None:
    assert image_of(text) is None


@pytest.mark.parametrize(
    ("registry", "names"),
    [
        ("docker.io", ("docker.io", "_default")),
        ("r.example:5000", ("r.example_5000_", "r.example:5000", "_default")),
        ("[fd00::1]:5000", ("[fd00::1]_5000_", "[fd00::1]:5000", "_default")),
    ],
)
def test_the_directory_with_the_escaped_port_comes_first(registry: str, names: tuple[str, ...]) -> None:
    assert directories(registry, NEW) == names
    assert directories(registry, Rules(default_directory=False)) == names[:-1]


# What a hosts.toml for docker.io says, and the hosts by containerd 2.x, by 1.x, and by the fork of K3s.
A, B = "https://a.example", "https://b.example"
Expected = tuple[str, list[str], list[str], list[str]]


def expect(text: str, new: list[str], old: list[str] | None = None, fork: list[str] | None = None) -> Expected:
    """Without more, all read the same; the fork asks only the hosts where there is no server."""
    return text, new, new if old is None else old, new if fork is None else fork


FIRST = f'[host]\n[host."{A}"]\n'
ORDER = {
    "hosts, then server": expect(
        f'server = "https://s.example"\n[host]\n[host."{B}"]\n[host."{A}"]\n',
        [f"{B}/v2", f"{A}/v2", "https://s.example/v2"],
    ),
    "no server": expect(FIRST, [f"{A}/v2", HUB], fork=[f"{A}/v2"]),
    "an empty server": expect(f'server = ""\n{FIRST}', [f"{A}/v2", HUB], fork=[f"{A}/v2"]),
    "no hosts": expect('server = "https://s.example"\n[host]\n', ["https://s.example/v2"]),
    "nothing": expect("# none\n[host]\n", [HUB]),
    "no bare host": expect(f'server = "{A}"\n', [f"{A}/v2"], old=[HUB]),
    "no scheme": expect(f'server = "{B}"\n[host]\n[host."a.example:1"]\n', ["https://a.example:1/v2", f"{B}/v2"]),
    "a path": expect(f'server = "{B}"\n[host]\n[host."{A}/p"]\n', [f"{A}/p/v2", f"{B}/v2"]),
    "a path that ends so": expect(f'server = "{B}"\n[host]\n[host."{A}/p/v2/"]\n', [f"{A}/p/v2", f"{B}/v2"]),
    "override_path": expect(
        f'server = "{B}"\n[host]\n[host."{A}/v2/p"]\noverride_path = true\n', [f"{A}/v2/p", f"{B}/v2"]
    ),
    "override_path without a path": expect(
        f'server = "{B}"\n[host]\n[host."{A}"]\noverride_path = true\n', [A, f"{B}/v2"]
    ),
    "not TOML": expect("[host\n", [HUB]),
    "a table twice": expect(f'{FIRST}[host."{A}"]\n', [HUB]),
    "an unknown capability": expect(f'{FIRST}capabilities = ["fetch"]\n', [HUB]),
    "capabilities as text": expect(f'{FIRST}capabilities = "pull"\n', [HUB]),
    "skip_verify as text": expect(f'{FIRST}skip_verify = "true"\n', [HUB]),
    "an unknown key": expect(f'server = "{B}"\n{FIRST}colour = 1\n', [f"{A}/v2", f"{B}/v2"]),
    "no duration": expect(f'{FIRST}dial_timeout = "3"\n', [HUB], old=[f"{A}/v2", HUB]),
    "IPv6": expect(
        f'server = "{B}"\n[host]\n[host."http://[fd00::1]:5000"]\n',
        ["http://[fd00::1]:5000/v2", f"{B}/v2"],
        old=[HUB],
    ),
    "a dotted key": expect(f'[host]\n"{A}".capabilities = ["pull"]\n', [HUB], old=[f"{A}/v2", HUB]),
}


@pytest.mark.parametrize("name", ORDER)
def test_the_order_of_hosts(name: str) -> None:
    text, *expected = ORDER[name]
    for rules, urls in zip((NEW, OLD, FORK), expected, strict=True):
        assert [host.url for host in read(text, rules).hosts] == urls, rules


def test_a_file_that_is_ignored_is_said_with_the_place() -> None:
    (warning,) = read("server = 'x'\n[host\n").warnings
    assert warning == f"{FILE}: containerd ignores this file, it is not valid TOML at line 2, column 6"


def test_a_host_without_pull_is_never_asked() -> None:
    found = read(f'[host]\n[host."{A}"]\ncapabilities = ["resolve"]\n')
    assert not found.hosts[0].serves("1")
    assert "lack pull" in found.warnings[0]


@pytest.mark.parametrize(
    ("capabilities", "tag", "digest"),
    [("", True, True), ('["pull"]', False, True), ('["Pull", "RESOLVE"]', True, True), ('["push"]', False, False)],
)
def test_a_tag_takes_resolve_and_a_digest_pull_alone(capabilities: str, tag: bool, digest: bool) -> None:
    line = f"capabilities = {capabilities}\n" if capabilities else ""
    host = read(f'[host]\n[host."{A}"]\n{line}').hosts[0]
    assert (host.serves("1"), host.serves(DIGEST)) == (tag, digest)


@pytest.mark.parametrize(
    ("host", "registry", "url"),
    [
        ("https://a.example/v2", "docker.io", "https://a.example/v2/library/busybox/manifests/1?ns=docker.io"),
        (HUB, "docker.io", f"{HUB}/library/busybox/manifests/1"),
        ("https://r.example/v2", "r.example", "https://r.example/v2/library/busybox/manifests/1"),
        ("http://a.example/", "r.example:1", "http://a.example/library/busybox/manifests/1?ns=r.example%3A1"),
    ],
)
def test_the_registry_is_told_to_whoever_is_another_host(host: str, registry: str, url: str) -> None:
    scheme, _, rest = host.partition("://")
    name, _, path = rest.partition("/")
    found = Host(scheme=scheme, host=name, path=f"/{path}")
    assert found.request(Image(registry=registry, repository="library/busybox", reference="1")) == url


def test_what_a_version_does_not_know_it_leaves_alone() -> None:
    text = f'server = "{B}"\n[host]\n[host."{A}/p"]\noverride_path = true\ndial_timeout = "1s"\n'
    first = read(text, Rules(override_path=False, dial_timeout=False)).hosts[0]
    assert (first.url, first.dial_timeout) == (f"{A}/p/v2", None)
    assert (read(text).hosts[0].url, read(text).hosts[0].dial_timeout) == (f"{A}/p", 1.0)


def test_the_fork_rewrites_names_and_others_do_not() -> None:
    text = f'[host]\n[host."{A}"]\n[host."{A}".rewrite]\n"^library/(.*)" = "hub/$1"\n"(" = "x"\n'
    asked = image("busybox:1")
    assert read(text, FORK).hosts[0].request(asked) == f"{A}/v2/hub/busybox/manifests/1?ns=docker.io"
    assert read(text).hosts[0].request(asked) == f"{A}/v2/library/busybox/manifests/1?ns=docker.io"


def test_files_are_relative_to_the_directory_and_root_keys_are_the_servers() -> None:
    text = f'ca = "ca.crt"\nskip_verify = true\n[host]\n[host."{A}"]\nca = ["/x.crt"]\nclient = [["c.crt", "/c.key"]]\n'
    first, last = read(text).hosts
    folder = FILE.rpartition("/")[0]
    assert (first.ca, first.client, first.skip_verify) == (("/x.crt",), ((f"{folder}/c.crt", "/c.key"),), None)
    assert (last.ca, last.skip_verify, last.url) == ((f"{folder}/ca.crt",), True, HUB)


def test_http_with_tls_settings_means_https_first() -> None:
    text = "[host]\n"
    for url, value in (("http://a.example:5000", "false"), ("http://b.example:80", "true")):
        text += f'[host."{url}"]\nskip_verify = {value}\n'
    first, second, _ = read(text).hosts
    assert (first.scheme, first.https_first, second.scheme) == ("https", True, "http")
    assert read(text, Rules(https_first=False)).hosts[0].scheme == "http"


def test_no_secret_is_in_what_is_shown() -> None:
    url = "https://user:pass@a.example/?token=pass"
    text = f'[host]\n[host."{url}"]\n[host."{url}".header]\nX = "pass"\n'
    found = read(text)
    assert "pass" not in repr(found)
    assert "pass" not in "".join((*found.warnings, *(host.origin + host.url for host in found.hosts)))
    assert "pass" not in "".join(read('[host]\n[host."https://user:pass@a b"]\n').warnings)


def test_a_directory_with_certificates_alone_is_for_the_registry_itself() -> None:
    (host,) = certificates("/c", ["a.crt", "b.cert", "b.key", "c.cert"], "r.example", NEW).hosts
    assert host.url == "https://r.example/v2"
    assert host.ca == ("/c/a.crt",)
    assert host.client == (("/c/b.cert", "/c/b.key"), ("/c/c.cert", "/c/c.cert"))


@pytest.mark.parametrize(
    ("registry", "url", "first"),
    [
        ("docker.io", HUB, False),
        ("localhost:5000", "http://localhost:5000/v2", True),
        ("127.0.0.1", "https://127.0.0.1/v2", True),
        ("r.example:80", "https://r.example:80/v2", False),
    ],
)
def test_the_registry_itself(registry: str, url: str, first: bool) -> None:
    found = itself(registry)
    assert (found.url, found.skip_verify is True) == (url, first)


# ---- config.toml ----------------------------------------------------------------------------------------------------

SETTINGS = {
    "mirrors": {
        "docker.io": {"endpoint": ["https://a.example", "b.example/hub"]},
        "*": {"endpoint": ["http://c.example"]},
        "r.example": {"endpoint": ["https://r.example", "https://a.example"]},
    },
    "configs": {
        "a.example": {"tls": {"ca_file": "/a.crt"}, "auth": {"username": "u", "password": "p"}},
        "registry-1.docker.io": {"auth": {"auth": "dTpw"}},
    },
}


def test_mirrors_of_config_toml_count_for_their_registry_or_for_all() -> None:
    assert [host.url for host in mirrors("/c", SETTINGS, "docker.io").hosts] == [
        "https://a.example/v2",
        "https://b.example/hub",
        HUB,
    ]
    assert [host.url for host in mirrors("/c", SETTINGS, "q.example").hosts] == [
        "http://c.example/v2",
        "https://q.example/v2",
    ]
    assert [host.url for host in mirrors("/c", SETTINGS, "r.example").hosts] == [
        "https://r.example/v2",
        "https://a.example/v2",
    ]


def test_tls_and_credentials_of_config_toml_go_by_host() -> None:
    first, second, last = mirrors("/c", SETTINGS, "docker.io").hosts
    assert first.ca == ("/a.crt",)
    assert first.credentials == Credentials(username="u", password="p")
    assert second.credentials is None
    assert last.credentials == Credentials(username="u", password="p")


# ---- CRI-O ----------------------------------------------------------------------------------------------------------

CONF = """
[[registry]]
prefix = "docker.io"
location = "hub.example/cache"
[[registry.mirror]]
location = "m.example:5000/hub"
insecure = true
[[registry.mirror]]
location = "d.example"
pull-from-mirror = "digest-only"
[[registry]]
location = "docker.io/secret"
blocked = true
[[registry]]
prefix = "*.corp.example"
[[registry.mirror]]
location = "c.example/corp"
"""


def test_crio_puts_locations_in_the_place_of_the_longest_prefix() -> None:
    found = registries([("/r.conf", CONF)], image("busybox:1"))
    assert [host.request(image("busybox:1")) for host in found.hosts] == [
        "https://m.example:5000/v2/hub/library/busybox/manifests/1",
        "https://d.example/v2/library/busybox/manifests/1",
        "https://hub.example/v2/cache/library/busybox/manifests/1",
    ]
    assert [host.serves("1") for host in found.hosts] == [True, False, True]
    assert [host.https_first for host in found.hosts] == [True, False, False]
    by_digest = registries([("/r.conf", CONF)], image(f"busybox@{DIGEST}"))
    assert all(host.serves(DIGEST) for host in by_digest.hosts)


def test_crio_blocks_replaces_and_matches_below_a_domain() -> None:
    assert "blocked" in registries([("/r.conf", CONF)], image("secret/app:1")).failure
    later = '[[registry]]\nprefix = "docker.io"\n'
    assert [host.url for host in registries([("/a", CONF), ("/b", later)], image("busybox")).hosts] == [HUB]
    corp = registries([("/r.conf", CONF)], image("x.corp.example/a:1"))
    assert [host.request(image("x.corp.example/a:1")) for host in corp.hosts][
        -1
    ] == "https://x.corp.example/v2/a/manifests/1"
    assert "TOML" in registries([("/a", "[")], image("busybox")).failure
    assert [host.url for host in registries([], image("q.example/a")).hosts] == ["https://q.example/v2"]


# ---- the walk -------------------------------------------------------------------------------------------------------

Answers = Mapping[tuple[str, str], Found]


def host(name: str, capabilities: str = "pull resolve") -> Host:
    return Host(scheme="https", host=name, pull="pull" in capabilities, resolve="resolve" in capabilities)


def served(digest: str = DIGEST) -> Found:
    return Found(reason="Served", status=200, digest=digest)


GONE = Found(reason="Missing", status=404)
DOWN = Found(reason="ConnectionRefused", message="it refuses")
HANGS = Found(reason="TimedOut", message="it hangs")
PAGE = Found(reason="NotARegistry", message="a web page", status=200, stops=True)


def follow(
    hosts: list[Host], answers: Mapping[str, Found], reference: str = "1", *, everyone: bool = False
) -> tuple[Walk, list[str]]:
    """The walk, and the questions in their order as ``host reference``."""
    questions: list[str] = []

    def ask(item: Host, wanted: str) -> Found:
        questions.append(f"{item.host} {wanted[:8]}")
        return answers.get(f"{item.host} {wanted[:8]}", GONE)

    wanted = Image(registry="docker.io", repository="a", reference=reference)
    return walk(wanted, hosts, ask, everyone=everyone), questions


def test_the_first_that_has_it_serves_and_the_rest_is_not_asked() -> None:
    found, questions = follow([host("a"), host("b"), host("c")], {"a 1": DOWN, "b 1": served(), "c 1": served()})
    assert questions == ["a 1", "b 1"]
    assert (found.resolved_by, found.served_by, found.digest) == ("https://b/v2", "https://b/v2", DIGEST)
    assert [row.state for row in found.asked] == ["Asked", "Asked", "Later"]


def test_an_earlier_host_that_has_the_digest_serves_the_content() -> None:
    answers = {"b 1": served(), "a sha256:a": served()}
    found, questions = follow([host("a", "pull"), host("b")], answers)
    assert questions == ["b 1", "a sha256:a"]
    assert (found.resolved_by, found.served_by) == ("https://b/v2", "https://a/v2")
    assert (found.asked[0].state, found.asked[0].note) == ("Skipped", "only digests are pulled from there")
    missing, _ = follow([host("a"), host("b")], answers)
    assert missing.served_by == "https://a/v2"
    without, questions = follow([host("a", "resolve"), host("b")], answers)
    assert (without.served_by, questions) == ("https://b/v2", ["b 1"])


def test_a_digest_is_pulled_where_tags_are_not_resolved() -> None:
    found, questions = follow([host("a", "pull"), host("b")], {"a sha256:a": served()}, DIGEST)
    assert (found.served_by, questions) == ("https://a/v2", ["a sha256:a"])


def test_an_answer_that_ends_the_pull_ends_the_walk() -> None:
    found, questions = follow([host("a"), host("b")], {"a 1": PAGE, "b 1": served()})
    assert (found.served_by, questions) == ("", ["a 1"])
    assert failure_of(found, Route()) == "the runtime stops at https://a/v2: a web page"


def test_all_are_asked_if_wanted_and_a_stale_tag_is_said() -> None:
    answers = {"a 1": served(), "b 1": served(OTHER), "c 1": DOWN}
    found, questions = follow([host("a"), host("b"), host("c")], answers, everyone=True)
    assert questions == ["a 1", "b 1", "c 1"]
    assert found.served_by == "https://a/v2"
    (warning,) = warnings(found)
    assert "sha256:aaaaaaaaaaaa at https://a/v2; sha256:bbbbbbbbbbbb at https://b/v2" in warning
    assert warnings(follow([host("a"), host("b")], answers)[0]) == ()


def test_a_host_that_hangs_is_said_where_it_keeps_others_waiting() -> None:
    found, _ = follow([host("a"), host("b"), host("c")], {"a 1": HANGS, "b 1": served(), "c 1": HANGS}, everyone=True)
    (warning,) = warnings(found)
    assert warning.startswith("https://a/v2 does not answer")
    assert warnings(follow([host("a")], {"a 1": HANGS})[0]) == ()


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ({}, "no host has it"),
        ({"a 1": DOWN}, "no host serves it"),
    ],
)
def test_why_nobody_serves_it(answers: dict[str, Found], text: str) -> None:
    found, _ = follow([host("a"), host("b")], answers)
    assert failure_of(found, Route()).startswith(text)
    nobody, _ = follow([host("a", "push")], {})
    assert failure_of(nobody, Route()).startswith("no host is asked")


def test_a_pull_is_told_only_as_far_as_it_is_known() -> None:
    a, _ = follow([host("a")], {"a 1": served()})
    b, _ = follow([host("b")], {"b 1": served()})
    moved, _ = follow([host("a")], {"a 1": served(OTHER)})
    same = concluded(a, a, done=True, present=False, seconds=1.0, error="")
    assert (same.done, same.served_by) == (True, "https://a/v2")
    assert concluded(a, b, done=True, present=False, seconds=1.0, error="").served_by == ""
    assert concluded(a, moved, done=True, present=False, seconds=1.0, error="").served_by == ""
    there = concluded(a, a, done=True, present=True, seconds=1.0, error="")
    assert (there.served_by, "already" in there.message) == ("", True)
    assert concluded(a, a, done=False, present=False, seconds=1.0, error="no").message == "no"
