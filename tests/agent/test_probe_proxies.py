"""Which requests take a proxy: the cases of Go's own tests (golang.org/x/net/http/httpproxy, proxy_test.go)."""

from __future__ import annotations

import pytest

from registry_mirror.agent.proxies import Proxies, Proxy

ALL = {"HTTP_PROXY": "http://plain.example:3128", "HTTPS_PROXY": "http://secure.example:3128"}


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({}, "https://example.com", None),
        ({"HTTP_PROXY": ""}, "http://example.com", None),
        (ALL, "http://example.com", Proxy("http", "plain.example", 3128)),
        (ALL, "https://example.com", Proxy("http", "secure.example", 3128)),
        ({"http_proxy": "127.0.0.1:8080"}, "http://example.com", Proxy("http", "127.0.0.1", 8080)),
        ({"HTTP_PROXY": "cache.corp.example"}, "http://example.com", Proxy("http", "cache.corp.example", 80)),
        ({"HTTP_PROXY": "cache.corp.example:1234"}, "http://example.com", Proxy("http", "cache.corp.example", 1234)),
        ({"HTTP_PROXY": "https://cache:1"}, "http://example.com", Proxy("https", "cache", 1)),
        ({"HTTP_PROXY": "socks5://127.0.0.1"}, "http://example.com", Proxy("socks5", "127.0.0.1", 1080)),
        ({"HTTP_PROXY": "http://[fd00::1]:8080"}, "http://example.com", Proxy("http", "fd00::1", 8080)),
        ({"HTTP_PROXY": "http://p:99999"}, "http://example.com", None),
        ({"HTTP_PROXY": "a", "http_proxy": "b"}, "http://example.com", Proxy("http", "a", 80)),
        ({"HTTP_PROXY": "", "http_proxy": "b"}, "http://example.com", Proxy("http", "b", 80)),
        ({"HTTP_PROXY": "http://me:p%40ss@p"}, "http://example.com", Proxy("http", "p", 80, "Basic bWU6cEBzcw==")),
    ],
)
def test_the_proxy_of_a_scheme(environment: dict[str, str], url: str, expected: Proxy | None) -> None:
    assert Proxies(environment).for_url(url) == expected


@pytest.mark.parametrize(
    ("exceptions", "direct", "proxied"),
    [
        ("", ["localhost", "127.0.0.1", "127.0.0.2", "[::1]"], ["example.com", "10.0.0.1", "localhost.example"]),
        ("*", ["example.com", "10.0.0.1"], []),
        ("foo.com", ["foo.com", "bar.foo.com", "FOO.com", "foo.com:8443"], ["xfoo.com", "foo.com.bar"]),
        (".foo.com", ["bar.foo.com", "a.b.foo.com"], ["foo.com", "xfoo.com"]),
        ("*.foo.com", ["bar.foo.com"], ["foo.com", "xfoo.com"]),
        ("a.com, b.com ,,", ["a.com", "b.com"], ["c.com"]),
        ("foo.com:8443", ["foo.com:8443", "bar.foo.com:8443"], ["foo.com", "foo.com:443"]),
        ("foo.com:443", ["foo.com", "foo.com:443"], ["foo.com:80"]),
        ("10.0.0.0/8", ["10.1.2.3", "10.255.0.1:5000"], ["11.0.0.1", "example.com"]),
        ("10.1.2.3/8", ["10.200.0.1"], ["11.0.0.1"]),
        ("fd00::/8", ["[fd00::1]", "[fdff::1]:5000"], ["[fe80::1]", "10.0.0.1"]),
        ("10.0.0.1", ["10.0.0.1", "10.0.0.1:5000"], ["10.0.0.2"]),
        ("10.0.0.1:5000", ["10.0.0.1:5000"], ["10.0.0.1", "10.0.0.1:5001"]),
        ("[fd00::1]:5000", ["[fd00::1]:5000"], ["[fd00::1]"]),
        ("fd00::1", ["[fd00::1]", "[FD00::1]:1"], ["[fd00::2]"]),
        ("10.0.0.0/99,:80,.", [], ["10.0.0.1", "example.com"]),
        ("0.0.1", [], ["10.0.0.1"]),
    ],
)
def test_exceptions(exceptions: str, direct: list[str], proxied: list[str]) -> None:
    proxies = Proxies({**ALL, "NO_PROXY": exceptions})
    assert [host for host in direct if proxies.for_url(f"https://{host}/v2/") is not None] == []
    assert [host for host in proxied if proxies.for_url(f"https://{host}/v2/") is None] == []


def test_equal_environments_are_equal_and_no_password_is_shown() -> None:
    environment = {"HTTPS_PROXY": "http://me:swordfish@p.example:1", "NO_PROXY": "a"}
    assert Proxies(environment) == Proxies(dict(environment))
    assert Proxies(environment) != Proxies({**environment, "NO_PROXY": "b"})
    proxy = Proxies(environment).for_url("https://example.com")
    assert str(proxy) == "p.example:1"
    assert "Basic" not in repr(proxy)
    assert "swordfish" not in f"{proxy!r}{Proxies(environment)!r}"
