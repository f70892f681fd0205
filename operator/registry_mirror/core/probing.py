"""Probing endpoints, as far as it is pure: what to ask, how results become a report that does not flap, and demotion.

An endpoint that accepts connections and hangs blocks every pull of a node for 30 s a request (containerd #10624), and
containerd has no way to be told: so each node asks its endpoints itself, and the order of the files follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from ..api.images import Image, parse_image
from ..api.models import EndpointResult, NodeProbe, Probe
from .resolve import Credentials, ResolvedMirror, ResolvedTLS
from .words import short

MAX_TARGETS = 256  # as status.endpoints has it
_PER_INTERVAL = 100
_MAX_MESSAGE = 256
# A latency that is reported once is reported anew only when it is another: each report is a write to the API server.
_LATENCY_FACTOR = 2.0
_LATENCY_STEP = 0.05


class Target(Struct, frozen=True, kw_only=True):
    """An endpoint with everything that decides how it is asked. ``image`` is set where the test asks for one."""

    url: str
    tls: ResolvedTLS | None = None
    credentials: Credentials | None = None
    dial_timeout: str | None = None
    image: Image | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What to send. ``certain`` is False where a registry may well answer 404 there: its API lies elsewhere."""

    method: str
    url: str
    scope: str = ""
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """What one round of asking an endpoint came to; the latency is in seconds."""

    reachable: bool
    reason: str
    message: str = ""
    latency: float = 0.0

    @property
    def finding(self) -> tuple[bool, str, str]:
        """The result without its latency."""
        return self.reachable, self.reason, self.message


@dataclass(frozen=True, slots=True)
class History:
    """What is reported about a target, and the last result if that was another one."""

    reported: Result
    other: Result | None = None


def targets(sources: Iterable[ResolvedMirror], image: str = "") -> tuple[Target, ...]:
    """Give the endpoints of the mirrors, each once for the same TLS settings and credentials.

    Takes the mirrors that are in force on the node, and the image of the policy. It is asked for through the endpoints
    of its registry, or through those of ``"*"`` if that has no mirror of its own; not where names are rewritten, which
    takes RE2. At most 256 URLs are given, the first ones.
    """
    mirrors = tuple(sources)
    wanted = parse_image(image) if image else None
    names = {item.registry for item in mirrors}
    asked = wanted.registry if wanted is not None and wanted.registry in names else "*"
    found: dict[Target, None] = {}
    urls: set[str] = set()
    for mirror in mirrors:
        for endpoint in mirror.endpoints:
            if endpoint.url not in urls and len(urls) >= MAX_TARGETS:
                continue
            urls.add(endpoint.url)
            target = Target(
                url=endpoint.url,
                tls=endpoint.tls,
                credentials=endpoint.credentials,
                dial_timeout=endpoint.dial_timeout,
                image=wanted if mirror.registry == asked and not mirror.rewrites else None,
            )
            found[target] = None
    return tuple(found)


def request(target: Target) -> Request:
    """Give the request that tells most about an endpoint.

    With an image, it is the one that containerd resolves a tag with (core/remotes/docker/resolver.go in 2.4). Without
    one, it is /v2/, with which the OCI distribution specification (end-1) has a registry say that it is one: on the
    endpoint's host, or below its path where that ends in /v2.
    """
    parts = urlsplit(target.url)
    base = f"{parts.scheme}://{parts.netloc}"
    path = "/v2" if parts.path in ("", "/", "/v2") else parts.path.rstrip("/")
    image = target.image
    if image is not None:
        own = image.registry == parts.netloc or (image.registry, parts.netloc) == ("docker.io", "registry-1.docker.io")
        query = "" if own else "?" + urlencode({"ns": image.registry})
        name = f"{image.repository}/manifests/{image.reference}"
        return Request("HEAD", f"{base}{path}/{name}{query}", scope=f"repository:{image.repository}:pull")
    if path.endswith("/v2"):
        return Request("GET", f"{base}{path}/")
    return Request("GET", f"{base}/v2/", certain=path.startswith("/v2/"))


def every(interval: float, count: int) -> float:
    """Give the seconds between two rounds: the interval, and in proportion more with more than 100 endpoints.

    A test takes 0.6 ms of a processor (docs/benchmarks.md): so the agent stays below 0.2 % of one.
    """
    return interval * max(1.0, count / _PER_INTERVAL)


def judge(history: History | None, result: Result) -> History:
    """Give what is to be reported after another round.

    A failure (which the round has seen twice) counts at once; anything else once two rounds in a row have found it, so
    that an endpoint that comes and goes stays behind, and words that alternate are not written each time.
    """
    if history is None:
        return History(result)
    reported, other = history.reported, history.other
    if result.finding == reported.finding:
        if not _another_latency(reported, result):
            return History(reported)
        seen = other is not None and other.finding == result.finding and _another_latency(reported, other)
        return History(result) if seen else History(reported, result)
    if reported.reachable and not result.reachable:
        return History(result)
    again = other is not None and (
        other.reachable == result.reachable
        if result.reachable != reported.reachable
        else other.finding == result.finding
    )
    return History(result) if again else History(reported, result)


def _another_latency(reported: Result, result: Result) -> bool:
    low, high = sorted((reported.latency, result.latency))
    return reported.reachable and high > _LATENCY_FACTOR * low and high - low > _LATENCY_STEP


def report(histories: Mapping[Target, History], order: Sequence[Target]) -> tuple[EndpointResult, ...]:
    """Give the reports for the node's status, one a URL; where targets share one, a failure counts."""
    worst: dict[str, Result] = {}
    for target in order:
        history = histories.get(target)
        if history is None:
            continue
        known = worst.get(target.url)
        if known is None or (known.reachable and not history.reported.reachable):
            worst[target.url] = history.reported
    return tuple(
        EndpointResult(
            url=url,
            reachable=item.reachable,
            reason=item.reason,
            message=short(item.message, _MAX_MESSAGE),
            latency=f"{max(1, round(item.latency * 1000))}ms" if item.reachable else "",
        )
        for url, item in worst.items()
    )


def for_node(probe: Probe) -> NodeProbe:
    """Give what a node is told of the policy."""
    return NodeProbe(mode=probe.mode, interval=probe.interval, image=probe.image or "")


def unreachable(reports: Iterable[EndpointResult]) -> frozenset[str]:
    """Give the URLs that do not answer a node."""
    return frozenset(item.url for item in reports if not item.reachable)


def demoted(mirror: ResolvedMirror, down: AbstractSet[str]) -> ResolvedMirror:
    """Give the mirror with the endpoints that do not answer behind those that do, each group in its own order.

    It is the same object where that changes nothing, as when none answers: then the user's order is as good as any.
    """
    if all(item.url not in down for item in mirror.endpoints):
        return mirror
    ordered = tuple(sorted(mirror.endpoints, key=lambda item: item.url in down))
    return mirror if ordered == mirror.endpoints else msgspec.structs.replace(mirror, endpoints=ordered)


def moved(mirrors: Iterable[ResolvedMirror], down: AbstractSet[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Name the mirrors whose order ``demoted`` changes, each with its endpoints that do not answer."""
    for mirror in mirrors:
        if demoted(mirror, down) is not mirror:
            yield mirror.name, frozenset(item.url for item in mirror.endpoints) & down
