"""Endpoints that do not answer, and credentials that go where nobody wants them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from ...api.models import Endpoint
from ..finding import Finding
from ..words import counted, short, some
from .picture import Picture, Pulls, mirrors_named, only
from .pulls import HUB

_EVIDENCE = 600
_ASKS = "without credentials"  # core/answers.py, _refused


def of_endpoints(seen: Picture) -> Iterator[Finding]:
    """Endpoints that do not answer nodes, with the nodes; an error where no way is left for a mirror."""
    down: dict[str, dict[str, list[str]]] = {}
    asked: dict[str, int] = {}
    for name, config in sorted(seen.configs.items()):
        for item in config.status.endpoints:
            asked[item.url] = asked.get(item.url, 0) + 1
            if not item.reachable:
                down.setdefault(item.url, {}).setdefault(f"{item.reason}: {item.message}", []).append(name)
    silent = {url: {node for nodes in reasons.values() for node in nodes} for url, reasons in down.items()}
    for url, reasons in sorted(down.items()):
        users = [name for name, spec in seen.specs() if any(item.url == url for item in spec.endpoints)]
        if not users:
            continue  # of an object that has just gone
        names = sorted(silent[url])
        text = "; ".join(
            f"{message.strip(': ')} ({some(found, most=10)})" if len(reasons) > 1 else message.strip(": ")
            for message, found in sorted(reasons.items())
        )
        lost = [name for name in users if _is_lost(seen, name, names, silent)]
        way = f"; no way is left there for {mirrors_named(lost)}, which denies fallback" if lost else ""
        where = f"{len(names)} of {counted(asked[url])}" if asked[url] > 1 else "the node that asks it"
        yield Finding(
            reason="EndpointUnreachable",
            severity="error" if lost else "warning",
            subject=f"endpoint {url}",
            evidence=short(f"it does not answer {where} ({some(names, most=10)}): {text}{way}", _EVIDENCE),
            remedy="see docs/conditions.md, Endpoints, for that reason; registry-mirror doctor --node NODE looks from "
            "there",
            node=only(names),
        )


def _is_lost(seen: Picture, mirror: str, nodes: Sequence[str], silent: Mapping[str, set[str]]) -> bool:
    """Whether on one of those nodes no endpoint of a mirror answers that must not be asked elsewhere."""
    spec = seen.mirrors[mirror].spec
    if spec is None or spec.upstream.fallback == "Allow":
        return False
    return any(
        all(node in silent.get(item.url, ()) for item in spec.endpoints) and seen.is_for(spec, node) for node in nodes
    )


def of_clear_text(seen: Picture) -> Iterator[Finding]:
    """Credentials that go over the network in the clear, or to whoever answers."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, spec in seen.specs():
        for item in spec.endpoints:
            how = _in_clear(item) if item.credentials_ref is not None else ""
            if how:
                found.setdefault((item.url, how), []).append(name)
    for (url, how), names in sorted(found.items()):
        yield Finding(
            reason="CredentialsInClear",
            severity="warning",
            subject=f"endpoint {url}",
            evidence=f"{mirrors_named(names)} has credentialsRef for it, and {how}",
            remedy="give it https:// and, for a CA of your own, tls.caRef",
        )


def _in_clear(endpoint: Endpoint) -> str:
    if endpoint.url.startswith("http://"):
        return "it is asked by plain HTTP"
    return "its certificate is not verified" if endpoint.tls is not None and endpoint.tls.insecure_skip_verify else ""


def of_pull_secrets(seen: Picture) -> Iterator[Finding]:
    """Mirrors that ask for credentials, and are sent those of Pods for the registry (containerd #10996, k3s #8026)."""
    asking = {
        item.url
        for config in seen.configs.values()
        for item in config.status.endpoints
        if _ASKS in item.message or item.reason == "Unauthorized"
    }
    for name, spec in seen.specs():
        own = spec.registry.partition(":")[0]
        sent = [
            item
            for item in spec.endpoints
            if (item.credentials_ref is not None or item.url in asking)
            and urlsplit(item.url).hostname not in (HUB if own in HUB else {own})
        ]
        pulls = [item for item in seen.pulls if _is_for(spec.registry, item)]
        if not sent or not pulls:
            continue
        certain = [item for item in pulls if item.certain]
        found = [f"{item.namespace}/{item.name}" for item in certain or pulls]
        doubt = "" if certain else ", if they have an entry for it, which could not be read"
        place = ", in place of those of credentialsRef" if any(item.credentials_ref for item in sent) else ""
        yield Finding(
            reason="PullSecretsGoToMirror",
            severity="warning",
            subject=f"RegistryMirror {name}",
            evidence=f"Pods pull from {spec.registry} with imagePullSecrets ({some(found)}){doubt}: where "
            f"{some([item.url for item in sent])} asks for credentials, containerd sends these{place}",
            remedy="mirror it only through hosts that may see them, or take the imagePullSecrets away: the nodes have "
            "the mirror's own credentials",
        )


def of_wildcards(seen: Picture) -> Iterator[Finding]:
    """A mirror for every registry that denies fallback also catches what Pods pull from its own host: that is asked for
    below the mirror's path, too.
    """
    named = {spec.registry for _, spec in seen.specs()}
    for name, spec in seen.specs():
        if spec.registry != "*" or spec.upstream.fallback == "Allow":
            continue
        for item in spec.endpoints:
            parts = urlsplit(item.url)
            if parts.path.rstrip("/") not in ("", "/v2") and parts.netloc in seen.pulled - named:
                yield Finding(
                    reason="WildcardCatchesMirror",
                    severity="warning",
                    subject=f"RegistryMirror {name}",
                    evidence=f"Pods pull from {parts.netloc} itself, which has no object of its own: that is asked for "
                    f"at {item.url} too, and fallback is denied",
                    remedy=f"add a RegistryMirror for {parts.netloc} with the endpoint {parts.scheme}://{parts.netloc}",
                )


def _is_for(registry: str, item: Pulls) -> bool:
    return bool(item.registries) if registry == "*" else registry in item.registries
