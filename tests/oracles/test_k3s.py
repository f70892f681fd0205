"""K3s and RKE2: registries.yaml read by their own parser, certs.d by containerd's; both must say what the objects say.

Their containerd is a fork that also rewrites names and adds no host to a file without ``server``. The reader asked here
is upstream's, so its last host is left out of account for such a file (runtimes.md, trap 4), and rewrites are compared
in registries.yaml only.
"""

from __future__ import annotations

import base64
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as with_fields

from registry_mirror.api.models import RuntimeName
from registry_mirror.core.layout import default_facts
from tests.harness.oracles import Containerd, RegistryHost, Wharfie
from tests.pure.builders import pem

from . import cases, model, node
from .model import Document
from .registries_yaml import as_wharfie_reads
from .sources import authorization

RUNTIMES: tuple[RuntimeName, ...] = ("k3s", "rke2")
SEEDS = range(120)
# What registries.yaml has no words for: capabilities, different settings for one host, one registry left out of "*".
UNSUITABLE = {"everything", "deny", "every registry but one", "localhost", "localhost, settings"}


def written(root: Path, seed: int, documents: list[Document], *, old: bool = False) -> node.Node:
    facts = default_facts(RUNTIMES[seed % 2], "v1.30.9+k3s1" if old else "v1.33.4+k3s1")
    containerd = "1.7.23-k3s2" if old else "2.0.7-k3s1"
    return node.write(root / "node", with_fields(facts, containerd_version=containerd), documents)


def upstream_of(registry: str) -> RegistryHost:
    """K3s names the registry itself, so there is no HTTPS first for one on the node."""
    local = registry.startswith(("localhost", "127.0.0.1", "[::1]"))
    plain = local and registry.rpartition("]")[2].partition(":")[2] not in ("", "443")
    host = "registry-1.docker.io" if registry == "docker.io" else registry
    return RegistryHost("http" if plain else "https", host, "/v2", ("pull", "resolve", "push"), {})


def check_hosts(found: node.Node, containerd: Containerd, *, old: bool = False) -> None:
    default = found.certs / "_default" / "hosts.toml"
    for registry in {*(item["spec"]["registry"] for item in found.documents), "unlisted.example.net"} - {"*"}:
        own = found.certs / registry / "hosts.toml"
        read = list(containerd.hosts(found.certs, registry))
        file = own if own.exists() else default
        if file.exists() and "server" not in tomllib.loads(file.read_text()):
            read.pop()
        mirror = model.of(registry, found.documents)
        if mirror is not None and not mirror["spec"]["endpoints"] and not own.exists():
            continue  # K3s renders no file for it, so "*" holds: there is no way to say otherwise in registries.yaml
        expected = model.asked(mirror, upstream_of(registry), prefix=False)
        if old:  # has no dial_timeout, and leaves it alone
            expected = [replace(host, dial_timeout="30s") for host in expected]
        assert [_pullable(host) for host in read] == [_pullable(host) for host in expected], registry


def _pullable(host: RegistryHost) -> RegistryHost:
    """Push is no matter of a node; K3s allows it to a registry itself, and not where it is listed as an endpoint."""
    return replace(host, capabilities=tuple(item for item in host.capabilities if item != "push"))


def check_registries(found: node.Node, wharfie: Wharfie) -> None:
    read = wharfie.registries(found.registries)
    assert read == as_wharfie_reads(found.registries.read_text())
    denied = any(item["spec"]["upstream"].get("fallback") == "Deny" for item in found.documents)
    for item in found.documents:
        spec = item["spec"]
        mirror = read["mirrors"][spec["registry"]]
        urls = [endpoint["url"] for endpoint in spec["endpoints"]]
        listed = mirror["endpoint"] or []
        assert listed[: len(urls)] == urls
        extra = [upstream_of(spec["registry"]).url.removesuffix("/v2")]
        assert listed[len(urls) :] in ([], extra if denied and spec["upstream"].get("fallback") != "Deny" else [])
        rewrites = {pair["pattern"]: pair["replacement"] for pair in spec.get("rewrites", ())}
        assert (mirror["rewrite"] or {}) == rewrites
        for endpoint in spec["endpoints"]:
            host = endpoint["url"].partition("://")[2].partition("/")[0]
            check_config(found, (read["configs"] or {}).get(host) or {}, endpoint)
    assert set(read["mirrors"]) == {item["spec"]["registry"] for item in found.documents}


def check_config(found: node.Node, config: dict[str, Any], endpoint: dict[str, Any]) -> None:
    auth: Any = config.get("auth")
    tls: Any = config.get("tls")
    wanted = endpoint.get("tls")
    if "credentialsRef" in endpoint:
        pair = base64.b64encode(f"{auth['username']}:{auth['password']}".encode()).decode()
        assert authorization(endpoint["credentialsRef"]["name"]) == f"Basic {pair}"
    else:
        assert auth is None
    if not wanted:
        assert tls is None
        return
    assert tls["insecure_skip_verify"] is wanted.get("insecureSkipVerify", False)
    ca = found.below(tls["ca_file"]).read_text() if tls["ca_file"] else ""
    assert ca == (pem(f"{wanted['caRef']['name']}.crt") if "caRef" in wanted else "")
    pairs = [found.below(tls[key]).read_text() if tls[key] else "" for key in ("cert_file", "key_file")]
    assert pairs == ([pem("client.crt"), pem("client.key")] if "clientCertificateRef" in wanted else ["", ""])


@pytest.mark.parametrize("name", sorted(cases.TABLE.keys() - UNSUITABLE))
def test_both_readers_say_what_the_objects_say(
    name: str, containerd_2: Containerd, wharfie: Wharfie, tmp_path: Path
) -> None:
    documents = [{**item, "spec": {"upstream": {}, **item["spec"]}} for item in cases.TABLE[name]]
    found = written(tmp_path, 0, documents)

    assert found.documents
    check_hosts(found, containerd_2)
    check_registries(found, wharfie)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_readers_say_what_random_objects_say(
    seed: int, containerd_2: Containerd, wharfie: Wharfie, tmp_path: Path
) -> None:
    found = written(tmp_path, seed, cases.random_node(seed, k3s=True))

    check_hosts(found, containerd_2)
    if found.documents:
        check_registries(found, wharfie)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_containerd_of_older_releases_reads_it_too(seed: int, containerd_1: Containerd, tmp_path: Path) -> None:
    check_hosts(written(tmp_path, seed, cases.random_node(seed, k3s=True), old=True), containerd_1, old=True)


def test_random_objects_are_mostly_rendered(tmp_path: Path) -> None:
    """Else the tests above would compare nothing with nothing."""
    counts = [(len(found.documents), len(found.problems)) for found in map(_random(tmp_path), SEEDS)]

    assert sum(kept for kept, _ in counts) > 2 * sum(left_out for _, left_out in counts)


def _random(root: Path) -> Any:
    return lambda seed: written(root / str(seed), seed, cases.random_node(seed, k3s=True))
