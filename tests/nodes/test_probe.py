"""Probes of real registries, beside what a real containerd makes of them: the probe must not say otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry_mirror.agent.probe import Probe
from registry_mirror.agent.proxies import Proxies
from registry_mirror.agent.roots import Contexts
from registry_mirror.api.images import Image, parse_image
from registry_mirror.core.probing import Result, Target
from registry_mirror.core.resolve import Credentials, ResolvedTLS
from tests.harness.cri import CRI, CRIError
from tests.harness.node import Node
from tests.harness.registries import Registries, Registry
from tests.nodes import hosts
from tests.nodes.hosts import UPSTREAM

USER = Credentials(username="robot", password="right")
WRONG = Credentials(username="robot", password="wrong")
IMAGE = parse_image(f"{UPSTREAM}/team/app:1")


@dataclass(frozen=True)
class Kinds:
    """One registry of each kind, and the TLS settings that fit."""

    plain: Registry
    basic: Registry
    token: Registry
    tls: Registry
    mutual: Registry
    trusting: ResolvedTLS
    known: ResolvedTLS


@pytest.fixture(scope="module")
def kinds(registries: Registries) -> Kinds:
    ca = registries.authority.certificate.read_text()
    client = registries.authority.issue("client")
    found = Kinds(
        plain=registries.plain("plain"),
        basic=registries.basic("basic", {"robot": "right"}),
        token=registries.token("token", {"robot": {"right"}})[0],
        tls=registries.tls("tls"),
        mutual=registries.tls("mutual", clients=True),
        trusting=ResolvedTLS(ca=ca),
        known=ResolvedTLS(ca=ca, certificate=client.certificate.read_text(), key=client.key.read_text()),
    )
    for registry in (found.plain, found.basic, found.token, found.tls, found.mutual):
        registry.push("team/app", "1")
    return found


Case = tuple[Callable[[Kinds], Registry], Callable[[Kinds], ResolvedTLS | None], Credentials | None, str]
CASES: dict[str, Case] = {
    "plain": (lambda k: k.plain, lambda k: None, None, "Reachable"),
    "basic": (lambda k: k.basic, lambda k: None, USER, "Reachable"),
    "basic, wrong": (lambda k: k.basic, lambda k: None, WRONG, "Unauthorized"),
    "token": (lambda k: k.token, lambda k: None, USER, "Reachable"),
    "token, wrong": (lambda k: k.token, lambda k: None, WRONG, "Unauthorized"),
    "tls": (lambda k: k.tls, lambda k: k.trusting, None, "Reachable"),
    "tls, unknown": (lambda k: k.tls, lambda k: None, None, "CertificateNotTrusted"),
    "tls, unverified": (
        lambda k: k.tls,
        lambda k: ResolvedTLS(insecure_skip_verify=True),
        None,
        "Reachable",
    ),
    "mutual": (lambda k: k.mutual, lambda k: k.known, None, "Reachable"),
    "mutual, without": (lambda k: k.mutual, lambda k: k.trusting, None, "ClientCertificateRefused"),
}


def probe(target: Target, root: Path, deadline: float = 10.0) -> Result:
    found = Probe(Contexts(root), deadline)(target, Proxies({}))
    assert found is not None
    return found


@pytest.fixture
def puller(new_node: Node, kinds: Kinds) -> Iterator[Callable[[Target], bool]]:
    """Tells whether containerd pulls the image through an endpoint."""

    def pulls(target: Target) -> bool:
        tls = target.tls or ResolvedTLS()
        for name, text in (("ca", tls.ca), ("crt", tls.certificate), ("key", tls.key)):
            new_node.write(f"/etc/probe.{name}", text, mode=0o600)
        header = hosts.basic(target.credentials.username, target.credentials.password) if target.credentials else None
        client = ("/etc/probe.crt", "/etc/probe.key") if tls.certificate else None
        hosts.use(new_node, UPSTREAM, target.url, ca="/etc/probe.ca" if tls.ca else "", client=client, header=header)
        if tls.insecure_skip_verify:
            path = f"{new_node.flavour.certs}/{UPSTREAM}/hosts.toml"
            new_node.write(path, new_node.path(path).read_text() + "  skip_verify = true\n", mode=0o600)
        try:
            CRI(new_node).pull(f"{UPSTREAM}/team/app:1")
        except CRIError:
            return False
        return True

    yield pulls
    CRI(new_node).remove(f"{UPSTREAM}/team/app:1")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("image", [None, IMAGE], ids=["version", "image"])
def test_what_a_probe_says_is_what_a_pull_does(
    kinds: Kinds, puller: Callable[[Target], bool], tmp_path: Path, case: str, image: Image | None
) -> None:
    registry, tls, credentials, reason = CASES[case]
    target = Target(url=registry(kinds).url, tls=tls(kinds), credentials=credentials, image=image)
    found = probe(target, tmp_path)
    assert (found.reason, found.reachable) == (reason, reason == "Reachable")
    assert found.message == "" or not found.reachable
    assert puller(target) == found.reachable


@pytest.mark.parametrize("kind", ["basic", "token"])
def test_without_credentials_a_registry_that_wants_some_is_reachable(kinds: Kinds, tmp_path: Path, kind: str) -> None:
    found = probe(Target(url=getattr(kinds, kind).url, image=IMAGE), tmp_path)
    assert found.reachable
    assert "imagePullSecrets" in found.message


def test_an_image_is_asked_for_in_the_name_of_its_registry(kinds: Kinds, tmp_path: Path) -> None:
    kinds.plain.forget()
    assert probe(Target(url=kinds.plain.url, image=IMAGE), tmp_path).message == ""
    missing = parse_image(f"{UPSTREAM}/team/other:1")
    assert "team/other:1" in probe(Target(url=kinds.plain.url, image=missing), tmp_path).message
    assert [(item.method, item.path, item.status) for item in kinds.plain.requests("/manifests/")] == [
        ("HEAD", f"/v2/team/app/manifests/1?ns={UPSTREAM}", 200),
        ("HEAD", f"/v2/team/other/manifests/1?ns={UPSTREAM}", 404),
    ]


def test_a_registry_that_hangs_or_is_gone_is_told_apart(registries: Registries, tmp_path: Path) -> None:
    registry = registries.plain("comes-and-goes")
    target = Target(url=registry.url)
    registry.hang()
    assert probe(target, tmp_path, deadline=0.5).reason == "TimedOut"
    registry.resume()
    assert probe(target, tmp_path).reason == "Reachable"
    registry.stop()
    assert probe(target, tmp_path).reason == "ConnectionRefused"
