"""What an HTTP answer of an endpoint says about it: whether a pull could use it, and what to do if not.

A pull goes on to the next endpoint at any error (runtimes.md, Failure), so what counts here is whether this endpoint is
of use. An answer below 500 is; unless it shows that no registry is there, or that the credentials are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from .probing import Request, Result, Target

# RFC 9110, 11.6.1: a scheme and comma-separated parameters; a comma may stand in quotes.
_BEARER = re.compile(r"(?:^|,)\s*Bearer\s+(?P<parameters>.*)", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_URL = re.compile(r"https?://[!-~]+")
_TOKEN = re.compile(r"[!-~]+")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
# net/http server.go of Go, and nginx (ngx_http_special_response.c).
_PLAIN_TO_TLS = (b"HTTP request to an HTTPS server", b"plain HTTP request was sent to HTTPS port")
_NO_CLIENT_CERTIFICATE = (b"No required SSL certificate was sent", b"The SSL certificate error")
_CREDENTIALS = "spec.endpoints[].credentialsRef"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: names of headers in lower case, several values of one joined by commas; the body may be cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Where to get a token, and for what (distribution, Token Authentication Specification)."""

    realm: str
    service: str = ""
    scope: str = ""


def challenge(answer: Answer) -> Challenge | None:
    """Give what an answer says about tokens; None if it does not ask for one, or names no HTTP(S) URL."""
    found = _BEARER.search(answer.headers.get("www-authenticate", ""))
    if answer.status != 401 or found is None:
        return None
    values = {key.lower(): quoted or word for key, quoted, word in _PARAMETER.findall(found["parameters"])}
    realm = values.get("realm", "")
    if not _URL.fullmatch(realm) or not host_of(realm):
        return None
    return Challenge(realm, values.get("service", ""), values.get("scope", ""))


def token(answer: Answer) -> str | None:
    """Give the token in the answer of a token service; None if there is none that fits into a header."""
    try:
        found = msgspec.json.decode(answer.body)
        value = found.get("access_token") or found.get("token")
    except (ValueError, AttributeError, RecursionError):
        return None
    return value if isinstance(value, str) and _TOKEN.fullmatch(value) else None


def host_of(url: str) -> str:
    """Give host[:port] of a URL, for messages: without a user, and empty if it is not to be shown."""
    try:
        parts = urlsplit(url)
        valid = parts.hostname and (parts.port is None or parts.port > 0)  # reading a port that is none raises
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return host if valid and _HOST.fullmatch(host) else ""


def verdict(target: Target, request: Request, answer: Answer) -> Result:
    """Give the result for the last answer to a request; the latency is left to the caller."""
    status = answer.status
    if status >= 500:
        return Result(False, "ServerError", f"it answers {status}: look at the endpoint's own log")
    if status in (401, 403):
        return _refused(target, status)
    if status == 429:
        return Result(True, "Reachable", "it answers 429: it limits requests, and pulls may go to the next endpoint")
    if 300 <= status <= 399:
        where = host_of(answer.headers.get("location", ""))
        return Result(True, "Reachable", f"it redirects to {where}, which was not tested" if where else "it redirects")
    if status >= 400:
        return _client_error(target, request, answer)
    if answer.headers.get("content-type", "").lower().startswith("text/html"):
        return _no_registry("it answers with a web page")
    return Result(True, "Reachable")


def _refused(target: Target, status: int) -> Result:
    if target.credentials is not None:
        text = f"it refuses the credentials ({status}): correct the Secret of {_CREDENTIALS}"
        return Result(False, "Unauthorized", text)
    text = f"it answers {status} without credentials: set {_CREDENTIALS}, or give Pods imagePullSecrets"
    return Result(True, "Reachable", text)


def _client_error(target: Target, request: Request, answer: Answer) -> Result:
    if any(words in answer.body for words in _PLAIN_TO_TLS):
        return _no_registry("it speaks TLS only", "write https:// in spec.endpoints[].url")
    if any(words in answer.body for words in _NO_CLIENT_CERTIFICATE):
        return client_certificate_refused("it wants a client certificate")
    if target.image is not None and answer.status == 404:
        name = f"{target.image.repository}:{target.image.reference}"
        return Result(True, "Reachable", f"it answers, but has no {name} (404), the image of spec.probe.image")
    if _is_registry(answer):
        return Result(True, "Reachable")
    if not request.certain:
        text = f"it answers {answer.status} to /v2/; set spec.probe.image in the policy to have its path tested"
        return Result(True, "Reachable", text)
    return _no_registry(f"it answers {answer.status} to {urlsplit(request.url).path}")


def _is_registry(answer: Answer) -> bool:
    """Tell whether an error has a registry's form (OCI distribution specification, Error Codes)."""
    if "docker-distribution-api-version" in answer.headers:
        return True
    try:
        return isinstance(msgspec.json.decode(answer.body).get("errors"), list)
    except (ValueError, AttributeError, RecursionError):
        return False


def _no_registry(found: str, remedy: str = "check the host, port and path of spec.endpoints[].url") -> Result:
    return Result(False, "NotARegistry", f"{found}: {remedy}")


def client_certificate_refused(found: str) -> Result:
    """Give the result for a server that does not take the client certificate, or the lack of one."""
    text = f"{found}: set or correct spec.endpoints[].tls.clientCertificateRef"
    return Result(False, "ClientCertificateRefused", text)
