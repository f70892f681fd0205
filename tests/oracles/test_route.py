"""hosts.toml as `registry-mirror probe` reads it, beside containerd's own reader: for files that nobody rendered."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry_mirror.core.route import Host, Rules, itself, plain_with_tls
from registry_mirror.core.route_hosts import hosts_toml
from tests.harness.oracles import Containerd, OracleError, RegistryHost
from tests.pure.test_route import ORDER

RULES = {"2": Rules(), "1": Rules(old=True, dial_timeout=False)}
A, B = '[host]\n[host."https://a.example"]\n', '[host."https://b.example"]\n'
FILES = {
    **{name: item[0] for name, item in ORDER.items()},
    "headers": A + '[host."https://a.example".header]\nX-One = "1"\nX-Two = ["2", "3"]\n',
    "a header of numbers": '[host]\n[host."https://a.example"]\n[host."https://a.example".header]\nX = 1\n',
    "capabilities": (
        'capabilities = ["pull"]\nserver = "s.example"\n'
        f'{A}capabilities = ["PULL", "resolve"]\n'
        '[host."b.example"]\ncapabilities = ["push"]\n[host."c.example"]\ncapabilities = []\n'
    ),
    "referrers": '[host]\n[host."a.example"]\ncapabilities = ["referrers"]\n',
    "tables apart": (f'{A}{B}[host."https://a.example".header]\nX = "1"\n[host."https://b.example".header]\n'),
    "no such escape": '[host]\n[host."https://a.example/%zz"]\n',
    "an escape": '[host]\n[host."https://a.example/a%20b"]\n',
    "a blank": '[host]\n[host."https://a b.example"]\n',
    "no port": '[host]\n[host."https://a.example:x"]\n',
    "timeouts": '[host]\n[host."a.example"]\ndial_timeout = "1.5s"\n[host."b.example"]\ndial_timeout = "1h2m3ms"\n',
    "http with TLS": (
        '[host]\n[host."http://a.example:5000"]\nskip_verify = false\n'
        '[host."http://b.example:80"]\nskip_verify = true\n'
        '[host."http://c.example"]\nskip_verify = true\n'
    ),
    "server at the root": 'server = "https://a.example/p"\noverride_path = true\nskip_verify = true\n[host]\n',
    "a comment behind a table": "[host]\n[ host . \"https://a.example\" ] # first\n[host.'https://b.example']\n",
    "an inline table": 'host = {"https://a.example" = {}}\n',
    "host is text": 'host = "a.example"\n',
    "server is a number": "server = 1\n[host]\n",
    "client is a number": '[host]\n[host."a.example"]\nclient = 1\n',
    "ca is a number": '[host]\n[host."a.example"]\nca = [1]\n',
    "a list of tables": '[[host]]\nname = "a.example"\n',
    "an array over lines": f'{A}capabilities = [\n  "pull",\n  "resolve"\n]\n{B}',
}
REGISTRIES = ("docker.io", "r.example", "r.example:5000", "localhost:5000", "127.0.0.1:80", "localhost")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("line", sorted(RULES))
def test_a_hosts_toml_is_read_as_containerd_reads_it(
    name: str, line: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    containerd: Containerd = request.getfixturevalue(f"containerd_{line}")
    for registry in REGISTRIES:
        folder = tmp_path / registry
        folder.mkdir()
        file = folder / "hosts.toml"
        file.write_text(FILES[name])
        found = hosts_toml(str(file), FILES[name], ["hosts.toml"], registry, RULES[line])
        ignored = any("ignores" in warning for warning in found.warnings)
        try:
            expected = list(containerd.hosts(tmp_path, registry))
        except OracleError:
            assert ignored, registry
            assert _plain(found.hosts[0]) == _plain(plain_with_tls(itself(registry), RULES[line]))
            continue
        assert not ignored, (registry, found.warnings)
        assert [_plain(item) for item in found.hosts] == [_told(item) for item in expected], registry


def _plain(item: Host) -> tuple[object, ...]:
    words = tuple(word for word, has in (("pull", item.pull), ("resolve", item.resolve)) if has)
    return (
        *(item.scheme, item.host, item.path.strip("/"), words, item.https_first, bool(item.skip_verify)),
        *(tuple(sorted(item.headers)), 30.0 if item.dial_timeout is None else item.dial_timeout),
    )


def _told(item: RegistryHost) -> tuple[object, ...]:
    words = tuple(word for word in item.capabilities if word in ("pull", "resolve"))
    headers = tuple(sorted((name, value) for name, values in item.header.items() for value in values))
    return (
        *(item.scheme, item.host, item.path.strip("/"), words, item.http_fallback, item.skip_verify),
        *(headers, SECONDS[item.dial_timeout]),
    )


SECONDS = {"30s": 30.0, "1.5s": 1.5, "1h2m0.003s": 3720.003}
