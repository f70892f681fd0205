"""Afterwards: whether a node that asks for an image at the registry gets what was copied."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..agent.exchange import Failure
from ..agent.probe import NotTestable, Session
from ..agent.proxies import Proxies
from ..agent.roots import Contexts
from ..api.images import Image
from ..core import answers
from ..core.probing import Target, request
from ..core.resolve import ResolvedEndpoint
from ..core.seeding import Reference, manifest
from ..core.seeding_places import Place
from .skopeo import Access, Failed, Skopeo
from .work import Workers

_DEADLINE = 30.0


def confirm(
    workers: Workers, skopeo: Skopeo, access: Access, places: Sequence[Place], digests: Mapping[Reference, str]
) -> dict[Place, str]:
    """Ask the registry for each image by its name there. Gives those that it does not give, with why."""

    def one(place: Place) -> str:
        try:
            found = manifest(skopeo.manifest(place.target, access)).digest
        except (Failed, ValueError) as error:
            return str(error)
        return _compared(found, digests[place.image])

    return _problems(workers, places, one)


def confirm_endpoints(
    workers: Workers, asked: Mapping[Place, ResolvedEndpoint], digests: Mapping[Reference, str]
) -> dict[Place, str]:
    """Ask the endpoints of the objects as a node would, with their own CA and credentials and the name that nodes use.

    Gives those images that a node would not get, with why.
    """
    contexts, proxies = Contexts(Path("/")), Proxies(os.environ)

    def one(place: Place) -> str:
        target = _target(place, asked[place])
        session = Session(target, proxies, contexts, time.monotonic() + _DEADLINE)
        ask = request(target)
        try:
            answer = session.ask(ask)
            challenge = answers.challenge(answer)
            if challenge is not None:
                answer = session.with_token(ask, challenge, answer)
        except NotTestable:
            return "a proxy is in between that only the runtime can use: try on a node, with registry-mirror probe"
        except Failure as failure:
            return failure.message
        if answer.status == 404:
            return f"it has no {place.asked}:{place.image.digest or place.image.tag} (404)"
        if answer.status != 200:
            return answers.verdict(target, ask, answer).message or f"it answers {answer.status}"
        return _compared(answer.headers.get("docker-content-digest", ""), digests[place.image])

    return _problems(workers, list(asked), one)


def _target(place: Place, endpoint: ResolvedEndpoint) -> Target:
    image = Image(
        registry=place.image.registry, repository=place.asked, reference=place.image.digest or place.image.tag
    )
    return Target(
        url=endpoint.url,
        tls=endpoint.tls,
        credentials=endpoint.credentials,
        dial_timeout=endpoint.dial_timeout,
        image=image,
    )


def _compared(found: str, expected: str) -> str:
    if found in ("", expected):
        return ""
    return f"it gives another image ({found[:19]}…) than what was copied ({expected[:19]}…)"


def _problems(workers: Workers, places: Sequence[Place], one: Callable[[Place], str]) -> dict[Place, str]:
    found = {}
    for place, problem in workers.each("asking for", places, lambda place: place.image.name, one):
        workers.watcher.done(None)
        if problem:
            found[place] = problem
    return found
