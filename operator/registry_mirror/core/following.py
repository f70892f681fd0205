"""What came of following an image from host to host, as a runtime does, and what to say about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from ..api.images import Image
from .route import Host, Route, is_digest

State = Literal["Asked", "Skipped", "Later"]

# What an answer comes to beside the reasons of agent/exchange.py (docs/conditions.md).
SERVED, MISSING, LIMITED, REFUSED = "Served", "Missing", "Limited", "Refused"
_DIGEST = 12


class Found(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of a host, or why there is none. With ``stops``, the runtime goes on to no other host.

    ``latency`` is in seconds, ``status`` 0 without an answer.
    """

    reason: str
    message: str = ""
    status: int = 0
    digest: str = ""
    content_type: str = ""
    latency: float = 0.0
    stops: bool = False


class Asked(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A host in its place. ``state``: the runtime asks it; it never does for this image; or not any more, as an earlier
    one has served it. With ``answer`` and Later, it was asked all the same. ``url`` is what is asked for.
    """

    order: int
    host: str
    url: str
    origin: str
    state: State
    purpose: Literal["resolve", "fetch"] = "resolve"
    answer: Found | None = None
    note: str = ""

    @property
    def serves(self) -> bool:
        """Whether it has the image."""
        return self.answer is not None and self.answer.reason == SERVED


class Walk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The hosts with their answers; who turned the tag into a digest, and who serves that; empty for nobody."""

    asked: tuple[Asked, ...] = ()
    resolved_by: str = ""
    served_by: str = ""
    digest: str = ""


class Pulled(Struct, frozen=True, kw_only=True):
    """What became of a real pull. ``present``: the image was there already; ``seconds`` is how long it took.

    ``served_by`` is empty where it cannot be told; ``message`` says how it is known, or what went wrong.
    """

    done: bool
    present: bool
    seconds: float
    served_by: str
    message: str


class Followed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image on a node: its runtime, the files that count there, the hosts, and whoever serves it.

    ``failure`` says why nobody does; ``after`` are the hosts as they answered after a pull.
    """

    image: str
    node: str = ""
    runtime: str = ""
    files: tuple[str, ...] = ()
    walk: Walk = Walk()
    warnings: tuple[str, ...] = ()
    failure: str = ""
    pull: Pulled | None = None
    after: Walk | None = None


Ask = Callable[[Host, str], Found]
"""Asks a host for a tag or digest; never raises."""


def walk(image: Image, hosts: Sequence[Host], ask: Ask, *, everyone: bool, again: bool = True) -> Walk:
    """Go from host to host as containerd does (core/remotes/docker/resolver.go, Resolve; fetcher.go).

    A tag is turned into a digest by the first host that may, and can; the content comes from the first host that has
    that digest, which may be an earlier one; with ``again`` unset, from the host that had the tag, as with CRI-O
    (containers/image docker/docker_image_src.go, newImageSource). With ``everyone``, the hosts behind are asked too.
    """
    rows: list[Asked] = []
    resolver: Asked | None = None
    ended = False
    for order, host in enumerate(hosts, 1):
        row = Asked(
            order=order, host=host.url, url=host.request(image), origin=host.origin, state="Later" if ended else "Asked"
        )
        if not host.serves(image.reference):
            rows.append(replace(row, state="Skipped", note=_why(host)))
            continue
        if ended and not everyone:
            rows.append(row)
            continue
        row = replace(row, answer=ask(host, image.reference))
        rows.append(row)
        if row.serves and not ended:
            resolver = row
        ended = ended or row.serves or (row.answer is not None and row.answer.stops)
    if resolver is None:
        return Walk(asked=tuple(rows))
    digest = resolver.answer.digest if resolver.answer is not None else ""
    by_tag = again and not is_digest(image.reference)
    fetched = _fetch(image, hosts, rows, resolver, digest, ask) if by_tag else []
    served = next((row for row in fetched if row.serves), resolver)
    return Walk(asked=(*rows, *fetched), resolved_by=resolver.host, served_by=served.host, digest=digest)


def _why(host: Host) -> str:
    return "only tags are resolved there" if not host.pull else "only digests are pulled from there"


def _fetch(
    image: Image, hosts: Sequence[Host], rows: Sequence[Asked], resolver: Asked, digest: str, ask: Ask
) -> list[Asked]:
    """Ask the hosts before the one that knew the tag for the digest: they come first again for all content.

    One that could not be asked, or refused, would do so again.
    """
    found: list[Asked] = []
    for host, row in zip(hosts, rows, strict=False):
        if row.order >= resolver.order or not digest:
            break
        again = row.answer is None or row.answer.reason == MISSING
        if host.pull and again:
            url, answer = host.request(image, digest), ask(host, digest)
            found.append(replace(row, url=url, state="Asked", purpose="fetch", note="", answer=answer))
            if found[-1].serves or answer.stops:
                break
    return found


def failure_of(found: Walk, route: Route) -> str:
    """Say why nobody serves an image, and what to do; empty if somebody does."""
    if found.served_by or route.failure:
        return route.failure
    asked = [row.answer for row in found.asked if row.answer is not None]
    stopped = next((row for row in found.asked if row.answer is not None and row.answer.stops), None)
    if stopped is not None and stopped.answer is not None:
        return f"the runtime stops at {stopped.host}: {stopped.answer.message}"
    if not asked:
        return "no host is asked for it: give one of them the capabilities pull and resolve"
    if all(item.reason == MISSING for item in asked):
        return "no host has it: check its name and tag, or push it to one of them (registry-mirror seed)"
    return "no host serves it: mend the one that should, as is said above"


def warnings(found: Walk) -> tuple[str, ...]:
    """Say what works but should not be so: hosts that hang before the one that serves, and tags that differ."""
    told = [
        f"{row.host} does not answer: each request of a pull waits for it first, for 30 s (containerd #10624)"
        for row in found.asked
        if found.served_by and row.state == "Asked" and row.answer is not None and row.answer.reason == "TimedOut"
    ]
    known: dict[str, list[str]] = {}
    for row in found.asked:
        if row.serves and row.purpose == "resolve" and row.answer is not None and row.answer.digest:
            known.setdefault(row.answer.digest, []).append(row.host)
    if len(known) > 1:
        who = "; ".join(f"{short(digest)} at {', '.join(hosts)}" for digest, hosts in known.items())
        told.append(f"the hosts do not agree on this tag: {who}. One is out of date: refresh it, or pull by digest")
    return tuple(told)


def short(digest: str) -> str:
    """Give a digest as people compare it: ``sha256:`` and the first few characters."""
    name, _, value = digest.partition(":")
    return f"{name}:{value[:_DIGEST]}" if value else name


def concluded(before: Walk, after: Walk, *, done: bool, present: bool, seconds: float, error: str) -> Pulled:
    """Say what a pull came to. No runtime says who served it, so that only unchanged answers around it can tell."""
    if not done:
        return Pulled(done=False, present=present, seconds=seconds, served_by="", message=error)
    if present:
        text = "the image was there already: the runtime has asked for its name, and loads only what is missing"
        return Pulled(done=True, present=True, seconds=seconds, served_by="", message=text)
    same = before.served_by == after.served_by and before.digest == after.digest
    if same and before.served_by:
        text = "the runtime does not say by whom; this is what the hosts answered just before and after"
        return Pulled(done=True, present=False, seconds=seconds, served_by=before.served_by, message=text)
    text = (
        f"it cannot be told who served it: before the pull that would have been {before.served_by or 'nobody'}, "
        f"after it {after.served_by or 'nobody'}"
    )
    return Pulled(done=True, present=False, seconds=seconds, served_by="", message=text)
