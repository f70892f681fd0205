"""One test of one endpoint, asked for as containerd would ask: TLS, credentials, tokens and proxies included."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlencode

from ..api import grammar
from ..core import answers
from ..core.answers import Answer, Challenge
from ..core.probing import Request, Result, Target, request
from ..core.resolve import ResolvedTLS
from .exchange import Call, Failure, exchange
from .proxies import Proxies
from .roots import Contexts

_DIAL_TIMEOUT = 5.0
_DEADLINE = 10.0
_AGENT = {"User-Agent": "registry-mirror-agent"}
_NO_HEADERS: Mapping[str, str] = {}
# containerd core/remotes/docker/resolver.go (2.4), Resolve.
_MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"
)


class NotTestable(Exception):
    """There is a proxy that speaks TLS or SOCKS, which Go does and this program does not."""


class Probe:
    """Tests endpoints, from any thread."""

    def __init__(self, contexts: Contexts, deadline: float = _DEADLINE) -> None:
        """Take the TLS contexts, and how long a test may take, in seconds."""
        self._contexts = contexts
        self._deadline = deadline

    def __call__(self, target: Target, proxies: Proxies) -> Result | None:
        """Give the result; None where a proxy stands in between that only containerd can use. Never raises for what
        can go wrong on the way.
        """
        began = time.monotonic()
        test = Session(target, proxies, self._contexts, began + self._deadline)
        ask = request(target)
        try:
            answer = test.ask(ask)
            latency = time.monotonic() - began
            challenge = answers.challenge(answer)
            if challenge is not None:
                answer = test.with_token(ask, challenge, answer)
        except NotTestable:
            return None
        except Failure as failure:
            return Result(False, failure.reason, failure.message)
        return replace(answers.verdict(target, ask, answer), latency=latency)


class Session:
    """The requests to one endpoint, under one deadline."""

    def __init__(
        self,
        target: Target,
        proxies: Proxies,
        contexts: Contexts,
        until: float,
        headers: Mapping[str, str] = _NO_HEADERS,
        *,
        forward: bool = True,
    ) -> None:
        """Take the endpoint, the proxies, until when all has to be over (time.monotonic), and headers to be sent with
        each request; with ``forward`` to its token service as well, as containerd does since 2.1.0.
        """
        self._headers = {**_AGENT, **headers}
        self._forwarded = self._headers if forward else _AGENT
        self._own = any(name.lower() == "authorization" for name in headers)
        self._target = target
        self._proxies = proxies
        self._contexts = contexts
        self._until = until
        self._tls = target.tls or ResolvedTLS()
        self._dial_timeout = grammar.duration_seconds(target.dial_timeout) if target.dial_timeout else _DIAL_TIMEOUT

    def ask(self, ask: Request, authorization: str = "") -> Answer:
        """Send the request with that header, else with that of the endpoint's user and password.

        Raises Failure, and NotTestable.
        """
        headers = {**self._headers, "Accept": _MANIFESTS}
        if authorization:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        if authorization or self._basic():
            headers["Authorization"] = authorization or self._basic()
        return self._exchange(Call(ask.method, ask.url, headers))

    def with_token(self, ask: Request, challenge: Challenge, refused: Answer) -> Answer:
        """Get a token and ask again; gives the answer that asked for it if nobody without credentials gets one.

        Raises Failure.
        """
        where = answers.host_of(challenge.realm)
        try:
            answer = self._exchange(self._token_call(challenge, ask.scope))
        except Failure as failure:
            raise Failure("TokenRefused", f"its token service {where} fails: {failure.message}") from None
        if answer.status in (400, 401, 403) and self._target.credentials is None and not self._own:
            return refused
        if answer.status in (401, 403):
            text = f"its token service {where} refuses the credentials ({answer.status})"
            raise Failure("Unauthorized", f"{text}: correct the Secret of spec.endpoints[].credentialsRef")
        token = answers.token(answer) if 200 <= answer.status <= 299 else None
        if token is None:
            text = f"its token service {where} answers {answer.status} without a token: look at its log"
            raise Failure("TokenRefused", text)
        return self.ask(ask, f"Bearer {token}")

    def _basic(self) -> str:
        credentials = self._target.credentials
        return credentials.basic() if credentials is not None and credentials.username else ""

    def _token_call(self, challenge: Challenge, scope: str) -> Call:
        """As containerd: GET with the Basic header; POST for an identity token (core/remotes/docker/auth/fetch.go)."""
        scopes = sorted({item for item in (*challenge.scope.split(" "), scope) if item})
        credentials = self._target.credentials
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "service": challenge.service,
                "client_id": "containerd-client",
                **({"scope": " ".join(scopes)} if scopes else {}),
            }
            headers = {**_AGENT, "Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
            return Call("POST", challenge.realm, headers, urlencode(form).encode())
        pairs = [("service", challenge.service)] if challenge.service else []
        query = urlencode([*pairs, *(("scope", item) for item in scopes)])
        separator = "&" if "?" in challenge.realm else "?"
        headers = {**self._forwarded, "Authorization": self._basic()} if self._basic() else self._forwarded
        return Call("GET", f"{challenge.realm}{separator}{query}" if query else challenge.realm, headers)

    def _exchange(self, call: Call) -> Answer:
        """Send a request. The endpoint's own CA is tried alone first: with it, the node's many are seldom needed."""
        if not call.url.startswith("https://"):
            return self._with(call, None)
        alone = bool(self._tls.ca) or self._tls.insecure_skip_verify
        try:
            return self._with(call, self._context(system=not alone))
        except Failure as failure:
            if not (alone and failure.untrusted):
                raise
        return self._with(call, self._context(system=True))

    def _with(self, call: Call, context: ssl.SSLContext | None) -> Answer:
        proxy = self._proxies.for_url(call.url)
        if proxy is not None and proxy.scheme != "http":
            raise NotTestable
        return exchange(call, context=context, proxy=proxy, dial_timeout=self._dial_timeout, until=self._until)

    def _context(self, *, system: bool) -> ssl.SSLContext:
        try:
            return self._contexts.get(self._tls, system=system)
        except (OSError, ValueError):
            found = answers.client_certificate_refused("the client certificate and its key do not belong together")
            raise Failure(found.reason, found.message) from None
