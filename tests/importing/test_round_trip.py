"""What our own renderers write is imported and rendered again to the same files, for any mirrors."""

from __future__ import annotations

import posixpath
import random
from typing import Any

import pytest
from msgspec.structs import replace

from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.bundle import Rendered
from registry_mirror.core.edits import apply
from registry_mirror.core.importing.convert import Imported
from registry_mirror.core.layout import default_facts
from registry_mirror.core.material import checked_pem
from registry_mirror.core.render import render
from registry_mirror.core.resolve import Credentials, ResolvedMirror
from tests.importing.tools import by_path, imported, rendered
from tests.pure.builders import DATA, EMBEDDED, K3S, TOKEN, USER, endpoint, file, k3s, mirror, pem, tls

CONTAINERD = default_facts("containerd")
MICROK8S = default_facts("microk8s", "v1.22.17")
CERTS = CONTAINERD.config_path
REGISTRIES = ["docker.io", "quay.io", "ghcr.io", "localhost:5000", "[fd00::1]:5000", "registry.example.com:8443", "*"]
HOSTS = (
    "https://a.example",
    "http://b.example:5000/v2",
    "https://c.example/x/y",
    "https://docker.io",
    "https://d.example:8443/v2/x",
)
# The registry itself as its own endpoint says nothing, and is left out by the import.
OWN = ("docker.io", "https://docker.io")
CA = checked_pem(pem("ca-one.crt").encode(), "CERTIFICATE")
OTHER_CA = checked_pem(pem("ca-two.crt").encode(), "CERTIFICATE")
CERTIFICATE = checked_pem(pem("client.crt").encode(), "CERTIFICATE")
KEY = checked_pem(pem("client.key").encode(), "PRIVATE KEY")
TLS = [None, None, tls(insecure_skip_verify=True), tls(ca=CA), tls(ca=OTHER_CA), tls(certificate=CERTIFICATE, key=KEY)]
OTHER_USER = Credentials(username="other", password='pä"ss\\:wörd #1')


def containerd_mirrors(source: random.Random) -> list[ResolvedMirror]:
    mirrors = []
    for registry in source.sample(REGISTRIES, 4):
        endpoints = [
            endpoint(
                host,
                credentials=source.choice([None, None, USER, OTHER_USER]),
                tls=None if host.startswith("http:") else source.choice(TLS),
                dial_timeout=source.choice([None, "1s", "500ms"]),
                capabilities=source.choice([("Pull", "Resolve"), ("Pull",)]),
            )
            for host in source.sample(HOSTS, source.randint(0, 4))
            if (registry, host) != OWN
        ]
        fields: dict[str, Any] = {"deny_fallback": bool(endpoints) and source.random() < 0.3}
        if not fields["deny_fallback"]:
            fields["upstream_tls"] = source.choice(TLS)
            fields["upstream_credentials"] = source.choice([None, USER]) if registry != "*" else None
        fields["rewrites"] = source.choice([{}, {}, {"^(.*)$": "some/prefix/$1"}])
        mirrors.append(mirror(registry, *endpoints, **fields))
    return mirrors


def k3s_mirrors(source: random.Random) -> list[ResolvedMirror]:
    """As for containerd, but with one way to speak to a host, and nothing that registries.yaml has no word for."""
    secrets = {host: source.choice([None, None, USER, OTHER_USER, TOKEN]) for host in HOSTS}
    checks = {host: source.choice(TLS) for host in HOSTS}
    mirrors = []
    for registry in source.sample(REGISTRIES, 4):
        endpoints = [
            endpoint(host, credentials=secrets[host], tls=None if host.startswith("http:") else checks[host])
            for host in source.sample(HOSTS, source.randint(0, 4))
            if (registry, host) != OWN
        ]
        fields: dict[str, Any] = {
            "deny_fallback": source.random() < 0.2,
            "rewrites": source.choice([{}, {}, {"^x/(.*)": "y/$1"}]),
        }
        if registry != "*":
            fields["upstream_credentials"] = source.choice([None, None, USER])
        fields["upstream_tls"] = source.choice([None, None, *TLS])
        mirrors.append(mirror(registry, *endpoints, **fields))
    return mirrors


def import_tree(before: Rendered) -> Imported:
    files = by_path(before)
    tree: dict[str, dict[str, bytes]] = {}
    for path, text in files.items():
        if path.startswith(f"{CERTS}/"):
            tree[posixpath.basename(posixpath.dirname(path))] = {"hosts.toml": text.encode()}
    return imported(tree, CERTS, files)


def import_registries(before: Rendered, facts: RuntimeFacts) -> Imported:
    files = by_path(before)
    denied = facts.disable_default_endpoint or any("config.yaml.d" in path for path in files)
    embedded = facts.embedded_registry.address if facts.embedded_registry is not None else ""
    text = file(before, "registries.yaml").content
    return imported(text, "registries.yaml", files, runtime="k3s", disable_default=denied, embedded=embedded)


def import_edited(before: Rendered) -> Imported:
    """The template of MicroK8s, with what was in it before."""
    (edit,) = before.edits
    there = (DATA / "microk8s-1.22" / "containerd-template.toml").read_text()
    return imported(apply(edit, there), edit.path, by_path(before), runtime="microk8s")


@pytest.mark.parametrize("seed", range(8))
def test_the_template_of_microk8s_before_1_23_comes_back(seed: int) -> None:
    source = random.Random(seed)
    edits = 0
    for _ in range(40):
        wanted = [replace(item, deny_fallback=False, rewrites=()) for item in k3s_mirrors(source)]
        # "*" gets tables for the hosts of its endpoints too, which come back as objects of their own.
        wanted = [item for item in wanted if item.registry != "*"]
        left_out = {problem.mirror for problem in render(MICROK8S, wanted).problems}
        before = render(MICROK8S, [item for item in wanted if item.name not in left_out])
        if not before.edits:
            continue
        after = rendered(import_edited(before), MICROK8S)
        assert by_path(after) == by_path(before)
        assert after.edits == before.edits
        edits += 1
    assert edits > 20


def test_credentials_in_config_toml_come_back() -> None:
    facts = replace(default_facts("containerd", "1.7.29"), config_schema=2)
    wanted = [
        mirror("docker.io", endpoint("https://m.example", credentials=TOKEN), upstream_credentials=USER),
        mirror("quay.io", upstream_credentials=OTHER_USER),
    ]
    before = render(facts, wanted)
    text = apply(before.edits[0], "version = 2\n")
    found = imported(text, "config.toml")
    secrets = [item.body["stringData"] for item in found.documents if item.body["kind"] == "Secret"]
    assert {"token": "a-token"} in secrets
    assert {"username": "robot", "password": "swordfish"} in secrets
    assert {"username": "other", "password": OTHER_USER.password} in secrets
    registries = {item.body["spec"]["registry"] for item in found.documents if item.body["kind"] == "RegistryMirror"}
    assert registries == {"docker.io", "quay.io", "m.example"}


@pytest.mark.parametrize("seed", range(8))
def test_certs_d_of_containerd_comes_back_to_the_byte(seed: int) -> None:
    source = random.Random(seed)
    files = 0
    for _ in range(40):
        before = render(CONTAINERD, containerd_mirrors(source))
        after = rendered(import_tree(before), CONTAINERD)
        assert by_path(after) == by_path(before)
        assert [item.mode for item in after.files] == [item.mode for item in before.files]
        files += len(before.files)
    assert files > 100


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("facts", [K3S, k3s(embedded_registry=EMBEDDED), k3s(disable_default_endpoint=True)])
def test_registries_yaml_of_k3s_comes_back_to_the_byte(seed: int, facts: RuntimeFacts) -> None:
    source = random.Random(seed)
    files = 0
    for _ in range(40):
        before = render(facts, k3s_mirrors(source))
        if not before.files:
            continue
        found = import_registries(before, facts)
        after = rendered(found, facts)
        assert by_path(after) == by_path(before)
        assert not [note for note in found.all_notes() if "differently" in note]
        files += len(before.files)
    assert files > 100
