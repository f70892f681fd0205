"""Asking one host for an image as the runtime would: TLS, credentials, tokens, redirects and proxies included."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from ..api.images import Image
from ..core import answers
from ..core.answers import Answer
from ..core.following import LIMITED, MISSING, REFUSED, SERVED, Found
from ..core.probing import Request, Target
from ..core.resolve import ResolvedTLS
from ..core.route import Host, is_digest
from .exchange import Failure
from .probe import NotTestable, Session
from .proxies import Proxies
from .roots import Contexts

_PATIENCE = 10.0  # for one host; containerd itself waits 30 s for each answer
_REDIRECTS = 10  # net/http client.go of Go, defaultCheckRedirect
_MOVED = (301, 302, 303, 307, 308)
_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,128}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TYPE = re.compile(r"[\w.+/-]{1,120}")


class Way(Struct, frozen=True, kw_only=True):
    """What all hosts are asked with: proxies, TLS of each host by its URL, until when (time.monotonic).

    ``forward``: headers are sent to token services as well, as containerd does since 2.1.0.
    """

    contexts: Contexts
    proxies: Proxies
    tls: Mapping[str, ResolvedTLS]
    until: float
    forward: bool = True


class Asker:
    """Asks hosts for an image."""

    def __init__(self, image: Image, way: Way, count: int) -> None:
        """Take the image, what hosts are asked with, and how many there are: each has its share of the time."""
        self._image = image
        self._way = way
        self._count = count

    def __call__(self, host: Host, reference: str) -> Found:
        """Ask for a tag or digest of the image's repository. Never raises for what can go wrong on the way."""
        if host.scheme not in ("http", "https") or not host.host:
            return Found(reason=REFUSED, message="its URL is none of http:// or https://: correct it")
        began = time.monotonic()
        until = began + min(_PATIENCE, (self._way.until - began) / max(1, self._count))
        self._count -= 1
        if until <= began:
            return Found(reason="TimedOut", message="not asked, the time is over: allow for more with --timeout")
        try:
            found = self._asked(host, reference, until)
        except NotTestable:
            text = "the runtime reaches it through a proxy with TLS or SOCKS, which this command cannot use"
            return Found(reason="ProxyFailed", message=text)
        except Failure as failure:
            return Found(reason=failure.reason, message=failure.message, latency=time.monotonic() - began)
        except (OSError, ValueError) as error:  # a header, or a URL in a redirect, that cannot be sent
            return Found(reason=REFUSED, message=f"it cannot be asked ({type(error).__name__})")
        return replace(found, latency=time.monotonic() - began)

    def _asked(self, host: Host, reference: str, until: float) -> Found:
        url = host.request(self._image, reference)
        try:
            return self._found(_Talk(host, self._way, until), url, reference)
        except Failure as failure:
            if not host.https_first or failure.reason != "TLSFailed":
                raise
        plain = replace(host, scheme="http")
        return self._found(_Talk(plain, self._way, until), plain.request(self._image, reference), reference)

    def _found(self, talk: _Talk, url: str, reference: str) -> Found:
        answer = talk.ask("HEAD", url)
        if answer.status == 405:
            answer = talk.ask("GET", url)
        if not 200 <= answer.status <= 299:
            return _refused(answer)
        digest = reference if is_digest(reference) else answer.headers.get("docker-content-digest", "")
        if not digest or "content-length" not in answer.headers:
            # containerd asks for the manifest then, and gives up where that fails.
            answer = talk.ask("GET", url)
            if answer.status >= 400:
                return replace(_refused(answer), stops=True)
            digest = digest or f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        return _served(answer, digest)


class _Talk:
    """The requests to one host, and to where it sends them on."""

    def __init__(self, host: Host, way: Way, until: float) -> None:
        timeout = "" if host.dial_timeout is None else f"{max(1, round(host.dial_timeout * 1000))}ms"
        headers: dict[str, str] = {}
        for name, value in host.headers:
            if _CONTROL.search(name + value):  # Go sends no such header, and fails
                raise ValueError(name)
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self._target = Target(
            url=host.url,
            tls=way.tls.get(host.url),
            credentials=host.credentials,
            dial_timeout=timeout or None,
        )
        self._way = way
        self._until = until
        self._own = self._session(self._target, headers)

    def ask(self, method: str, url: str) -> Answer:
        """Send a request, with a token if one is asked for, and follow redirects. Raises Failure, NotTestable."""
        start = urlsplit(url).netloc
        scope = f"repository:{_repository(url)}:pull"
        for _ in range(_REDIRECTS):
            # Go sends no credentials to another host (net/http client.go, shouldCopyHeaderOnRedirect).
            same = urlsplit(url).netloc == start
            session = self._own if same else self._session(replace(self._target, credentials=None), {})
            request = Request(method, url, scope=scope)
            answer = session.ask(request)
            challenge = answers.challenge(answer)
            if challenge is not None and same:
                answer = session.with_token(request, challenge, answer)
            where = answer.headers.get("location", "") if answer.status in _MOVED else ""
            following = urljoin(url, where)
            if not where or not answers.host_of(following) or urlsplit(following).scheme not in ("http", "https"):
                return answer
            url = following
        raise Failure(REFUSED, f"it redirects more than {_REDIRECTS} times: look at the proxy before it")

    def _session(self, target: Target, headers: Mapping[str, str]) -> Session:
        return Session(target, self._way.proxies, self._way.contexts, self._until, headers, forward=self._way.forward)


def _repository(url: str) -> str:
    """The repository in a URL for a manifest, as a scope names it: without /v2 (containerd, scope.go, by the name)."""
    return urlsplit(url).path.partition("/manifests/")[0].removeprefix("/v2/").strip("/")


def _served(answer: Answer, digest: str) -> Found:
    content_type = answer.headers.get("content-type", "").partition(";")[0].strip()
    shown = content_type if _TYPE.fullmatch(content_type) else ""
    if content_type.lower() == "text/html":
        text = "it answers with a web page, which the runtime takes for the manifest: check the host, port and path"
        return Found(reason="NotARegistry", message=text, status=answer.status, content_type=shown, stops=True)
    if not _DIGEST.fullmatch(digest):
        text = "it sends a digest that is none: look at what is behind it"
        return Found(reason=REFUSED, message=text, status=answer.status, content_type=shown, stops=True)
    return Found(reason=SERVED, status=answer.status, digest=digest, content_type=shown)


def _refused(answer: Answer) -> Found:
    """Say what an answer means that is no manifest; containerd goes on to the next host at any status above 399."""
    status = answer.status
    if status == 404:
        return Found(reason=MISSING, status=status, message="it does not have it")
    if status in (401, 403):
        text = "it wants credentials, or others than the node has; Pods with imagePullSecrets send theirs"
        return Found(reason="Unauthorized", status=status, message=text)
    if status == 429:
        return Found(reason=LIMITED, status=status, message="it limits requests: wait, or log in there")
    if status >= 500:
        return Found(reason="ServerError", status=status, message="look at its own log")
    if status >= 400:
        return Found(reason=REFUSED, status=status, message="is it a registry? Check the host, port and path")
    return Found(reason=REFUSED, status=status, message="the runtime takes no such answer", stops=True)
