"""Names, URLs, durations and rewrites: what is let through ends in paths that a runtime removes recursively as root, in
hosts.toml, where an error silently bypasses the mirror, and in Go's regular expressions. So the tables are long.
"""

from __future__ import annotations

import pytest

from registry_mirror.api import grammar

LONG_LABEL = "a" * 63
GOOD_REGISTRIES = (
    "*",
    "docker.io",
    "registry-1.docker.io",
    "localhost",
    "localhost:5000",
    "harbor:5000",
    "registry.example.com",
    "registry.example.com:1",
    "registry.example.com:65535",
    "10.0.0.1",
    "10.0.0.1:5000",
    "[::1]",
    "[fd00::1]:5000",
    "xn--bcher-kva.example",
    f"{LONG_LABEL}.{LONG_LABEL}.example",
)
BAD_REGISTRIES = (
    "",
    "../x",
    "..",
    ".",
    "../../../../etc/ssh",
    "a/b",
    "a.b/c",
    "registry.example.com/",
    "registry.example.com\\x",
    'registry".example.com',
    "registry'.example.com",
    "registry.example.com\n",
    "\nregistry.example.com",
    "registry.example.com\r",
    "registry.example.com\x00",
    "registry .example.com",
    "registry\u3002example.com",  # ideographic full stop, which some resolvers read as a dot
    "r\u0435gistry.example.com",  # a Cyrillic e
    "registry.example.com:\u0665\u0660\u0660\u0660",  # Arabic-Indic digits
    "REGISTRY.example.com",
    "registry_1.example.com",
    "_default",
    "-a.example.com",
    "a-.example.com",
    "a..example.com",
    ".example.com",
    "example.com.",
    f"{LONG_LABEL}a.example.com",
    "*.example.com",
    "**",
    "* ",
    "https://registry.example.com",
    "user@registry.example.com",
    "registry.example.com:",
    "registry.example.com:0",
    "registry.example.com:080",
    "registry.example.com:65536",
    "registry.example.com:+1",
    "registry.example.com:-1",
    "registry.example.com:5000:5000",
    "registry.example.com:" + "1" * 5000,
    "fd00::1",
    "[fd00::1",
    "fd00::1]",
    "[fd00::1]]",
    "[fd00::1]x",
    "[fd00::1]:",
    "[fd00::1]:0",
    "[fd00::1%eth0]:5000",
    "[fd00::g]",
    "[10.0.0.1]",
    "[]",
    "[../x]",
    ".".join(["a" * 60] * 5),
)
GOOD_URLS = (
    "https://harbor.example.com",
    "https://harbor.example.com/",
    "http://10.0.0.1:5000/v2",
    "https://[fd00::1]:5000/v2/hub",
    "https://harbor.example.com/v2/a/c.d~e:f@g!$&()*+,;=h",
)
BAD_URLS = (
    "",
    "harbor.example.com",
    "//harbor.example.com",
    "ftp://harbor.example.com",
    "HTTPS://harbor.example.com",
    "https:/harbor.example.com",
    "https://",
    "https:///v2",
    "https://harbor.example.com:0",
    "https://harbor.example.com:65536",
    "https://Harbor.example.com",
    "https://user:password@harbor.example.com",
    "https://harbor.example.com?x=y",
    "https://harbor.example.com/v2?x=y",
    "https://harbor.example.com/v2#x",
    'https://harbor.example.com/"',
    "https://harbor.example.com/'",
    "https://harbor.example.com/\\",
    "https://harbor.example.com/a b",
    "https://harbor.example.com/\n",
    "https://harbor.example.com/\x7f",
    "https://harbor.example.com/ü",
    "https://harbor.example.com/%",  # Go's url.Parse refuses these three, and with them the whole hosts.toml
    "https://harbor.example.com/%2",
    "https://harbor.example.com/%zz",
    "https://harbor.example.com/a%20b",
    "https://harbor.example.com/..",
    "https://harbor.example.com/v2/../x",
    "https://harbor.example.com/./x",
    "https://harbor.example.com/" + "x" * 1000,
)


@pytest.mark.parametrize("value", GOOD_REGISTRIES)
def test_a_registry_name_is_accepted(value: str) -> None:
    assert grammar.registry_problem(value) is None


@pytest.mark.parametrize("value", BAD_REGISTRIES, ids=lambda value: ascii(value)[:40])
def test_a_hostile_registry_name_is_refused(value: str) -> None:
    assert grammar.registry_problem(value) == grammar.REGISTRY_FORM


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("index.docker.io", "write docker.io"),
        ("index.docker.io:443", "write docker.io"),
        ("harbor", "write the full name with its domain or port"),
    ],
)
def test_a_registry_name_that_could_have_no_effect_is_refused(value: str, remedy: str) -> None:
    assert (grammar.registry_problem(value) or "").startswith(remedy)


@pytest.mark.parametrize("value", GOOD_URLS)
def test_a_url_is_accepted(value: str) -> None:
    assert grammar.url_problem(value) is None


@pytest.mark.parametrize("value", BAD_URLS, ids=lambda value: ascii(value)[:40])
def test_a_bad_url_is_refused(value: str) -> None:
    assert grammar.url_problem(value) is not None


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://h.example", "https://h.example/v2"),
        ("https://h.example/", "https://h.example/v2"),
        ("https://h.example/v2", "https://h.example/v2"),
        ("https://h.example/v2/", "https://h.example/v2/"),
        ("https://h.example/x", "https://h.example/x"),
        ("http://[fd00::1]:5000", "http://[fd00::1]:5000/v2"),
    ],
)
def test_urls_that_a_runtime_takes_for_one_endpoint_have_one_form(url: str, normal: str) -> None:
    assert grammar.normal_url(url) == normal


@pytest.mark.parametrize(
    ("value", "seconds"), [("500ms", 0.5), ("5s", 5), ("1m30s", 90), ("2h", 7200), ("0s", 0), ("1h1m1s1ms", 3661.001)]
)
def test_a_duration_has_its_seconds(value: str, seconds: float) -> None:
    assert grammar.duration_problem(value) is None
    assert grammar.duration_seconds(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    # The last one is within the grammar, but more than Go's time.Duration holds: ParseDuration fails.
    ["", "5", "s", "5 s", "-5s", "1.5s", "5S", "5s\n", "1d", "5us", "٥s", "1s" * 20, "999999h999999h999999h"],
)
def test_a_bad_duration_is_refused(value: str) -> None:
    assert grammar.duration_problem(value) == grammar.DURATION_FORM


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("^rancher/(.*)", "mirror/rancher/$1"),
        ("^rancher/(.*)", "mirror/${1}x"),
        ("^(a)(b)$", "$2/$1"),
        ("^(?P<name>.*)$", "x/$name"),
        ("^(?P<name>.*)$", "x/${name}"),
        ("^(.*)$", "$0"),
        ("^(.*)$", "a$$1"),  # an escaped dollar sign, then 1
        ("^(.*)$", "a$"),  # not a reference: Go takes the dollar sign as it is
        ("^(.*)$", "${1"),
        ("", "x"),
        (r"\\C", "x"),  # a backslash, then C
    ],
)
def test_a_rewrite_is_accepted(pattern: str, replacement: str) -> None:
    assert grammar.rewrite_problem(pattern, replacement) is None


@pytest.mark.parametrize("pattern", ["(", "a)", "[", "*", "a**", "(?=x)", "(?<=x)y", "(?<!x)y", r"(a)\1", "a{1001}"])
def test_a_pattern_that_go_cannot_compile_is_refused(pattern: str) -> None:
    problem = grammar.rewrite_problem(pattern, "x")
    assert problem is not None
    assert problem[0] == "pattern"
    assert problem[1].startswith("write a regular expression in RE2 syntax (")


def test_a_pattern_with_what_only_the_cpp_library_knows_is_refused() -> None:
    problem = grammar.rewrite_problem(r"a\\\C", "x")
    assert problem is not None
    assert problem[0] == "pattern"


@pytest.mark.parametrize(
    ("pattern", "replacement", "named"),
    [
        ("^(.*)$", "$2", "$2"),
        ("^(.*)$", "mirror/$1x", "$1x"),  # Go reads the longest name: the group "1x"
        ("^(.*)$", "mirror/$1_x", "$1_x"),
        ("^(.*)$", "${01}", "$01"),  # Go takes no number with a leading zero
        ("^(.*)$", "$name", "$name"),
        ("^(.*)$", "$²", "$²"),  # a digit to Python, not to Go
        ("^(.*)$", "$١", "$١"),
        ("^(.*)$", "$999999999999", "$999999999999"),
        ("^.*$", "$1", "$1"),
    ],
)
def test_a_replacement_that_names_no_group_is_refused(pattern: str, replacement: str, named: str) -> None:
    problem = grammar.rewrite_problem(pattern, replacement)
    assert problem is not None
    assert problem[0] == "replacement"
    assert problem[1].startswith(f"{named} names no group of the pattern")


@pytest.mark.parametrize("char", ["\n", "\x00", "\x7f", "\x85", "\u2028", "\ufeff"], ids=ascii)
def test_control_characters_in_a_rewrite_are_refused(char: str) -> None:
    """A key of registries.yaml may have 1,024 characters, and an escaped control character takes six."""
    assert (grammar.rewrite_problem(f"a{char}", "b") or "")[0] == "pattern"
    assert (grammar.rewrite_problem("a", f"b{char}") or "")[0] == "replacement"


def test_the_longest_pattern_fits_into_a_key_of_registries_yaml() -> None:
    from registry_mirror.core.render import render
    from tests.pure.builders import K3S, mirror

    for pattern in ('"' * 256, r"\\" * 128, "\U0001f600" * 256):
        assert grammar.rewrite_problem(pattern, "x") is None
        assert render(K3S, [mirror("docker.io", "https://a.example", rewrites={pattern: "x"})]).files


def test_the_remedy_for_a_pattern_without_groups_is_to_make_one() -> None:
    problem = grammar.rewrite_problem("^.*$", "x/$1")
    assert problem is not None
    assert "put parentheses around" in problem[1]
