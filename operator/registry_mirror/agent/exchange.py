"""One HTTP request with a deadline that holds, whatever the peer does.

The usual clients limit the time of one read, not of an answer: a server that sends a byte every few seconds keeps them
for ever, and so does a name server while a name is looked up. Here the deadline covers all of it.
"""

from __future__ import annotations

import errno
import http.client
import io
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote, urlsplit

from ..core.answers import Answer, client_certificate_refused
from .proxies import Proxy

_MAX_ANSWER = 128 * 1024  # headers of as much as 64 KiB, and the body of a token
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n")
_INTERIM = re.compile(rb"HTTP/1\.[01] 1[0-9][0-9]\b")
# X509_V_ERR_… (OpenSSL x509_vfy.h).
_EXPIRED = {9, 10}
_OTHER_NAME = {62, 64}
UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}
_PORTS = {"http": 80, "https": 443}
_CA = "spec.endpoints[].tls.caRef"


class Failure(Exception):
    """No answer. ``reason`` is CamelCase; ``untrusted`` says that another CA could help."""

    def __init__(self, reason: str, message: str, *, untrusted: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.untrusted = untrusted


@dataclass(frozen=True, slots=True)
class Call:
    """A request. Headers and body may be secret."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def __repr__(self) -> str:
        return f"Call({self.method} {self.url})"


def exchange(
    call: Call, *, context: ssl.SSLContext | None, proxy: Proxy | None, dial_timeout: float, until: float
) -> Answer:
    """Send a request and give the answer; redirects are not followed.

    Takes the TLS context (for https), the proxy, how long connecting may take in seconds, and until when all of it may
    (time.monotonic). Raises Failure.
    """
    parts = urlsplit(call.url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    dialled = min(until, time.monotonic() + dial_timeout)
    if proxy is None:
        connection = _connect(host, port, dialled, "it")
    else:
        try:
            connection = _connect(proxy.host, proxy.port, dialled, f"the proxy {proxy}")
        except Failure as failure:
            raise Failure("ProxyFailed", f"{failure.message} (the proxy of the runtime's environment)") from None
    try:
        if proxy is not None and context is not None:
            _tunnel(connection, host, port, proxy, until)
        if context is not None:
            connection = _secured(connection, context, host, until)
        return _talk(connection, call, proxy if context is None else None, until)
    finally:
        connection.close()


def _connect(host: str, port: int, until: float, who: str) -> socket.socket:
    """Connect to the first address that takes it; each has its share of the time, as one may be a black hole."""
    addresses = _addresses(host, port, until)
    failure = Failure("NameNotResolved", f"{host} has no address")
    for index, (family, address) in enumerate(addresses):
        left = (until - time.monotonic()) / (len(addresses) - index)
        connection = None
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
            connection.settimeout(max(0.01, left))
            connection.connect(address)
            return connection
        except OSError as error:
            if connection is not None:
                connection.close()
            failure = _not_connected(error, who, port)
    raise failure


def _not_connected(error: OSError, who: str, port: int) -> Failure:
    if isinstance(error, ConnectionRefusedError):
        return Failure("ConnectionRefused", f"{who} refuses connections on port {port}: is it running there?")
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        text = f"{who} does not accept connections on port {port}: look for a firewall, or whether it is down"
        return Failure("TimedOut", text)
    cause = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return Failure("ConnectionFailed", f"{who} cannot be reached on port {port} ({cause}): look at the node's routes")


def _addresses(host: str, port: int, until: float) -> list[tuple[int, Any]]:
    """Look a name up. A look-up cannot be stopped, only left behind: it ends by itself when the resolver gives up."""
    found: list[list[tuple[int, Any]] | OSError] = []

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.append([(info[0], info[4]) for info in infos])
        except (OSError, UnicodeError):
            found.append(OSError())

    thread = threading.Thread(target=look_up, name="look-up", daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.monotonic()))
    if not found:
        text = f"no name server answers for {host}: look at /etc/resolv.conf of the node"
        raise Failure("NameNotResolved", text)
    if isinstance(found[0], OSError):
        raise Failure("NameNotResolved", f"{host} has no address: check the name, and the DNS of the node")
    return found[0]


def _tunnel(connection: socket.socket, host: str, port: int, proxy: Proxy, until: float) -> None:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    try:
        _send(connection, "CONNECT", where, {"Host": where, **headers}, b"", until)
        # Only the head: what follows it is TLS already.
        answer = _answer(_head(connection, until), "HEAD")
    except Failure as failure:
        raise Failure("ProxyFailed", f"the proxy {proxy}: {failure.message}") from None
    if answer.status != 200:
        raise Failure("ProxyFailed", f"the proxy {proxy} answers {answer.status} to CONNECT {where}: look at its log")


def _secured(connection: socket.socket, context: ssl.SSLContext, host: str, until: float) -> ssl.SSLSocket:
    try:
        connection.settimeout(_left(until))
        return context.wrap_socket(connection, server_hostname=host)
    except (ssl.SSLError, OSError) as error:
        raise _broken(error, "during the TLS handshake") from None


def _broken(error: OSError, when: str) -> Failure:
    """Say why a connection came to nothing, in the words of a user who could change that."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code in _EXPIRED:
            text = "its certificate is expired or not yet valid: renew it, and check the clock of the node"
            return Failure("CertificateExpired", text)
        if code in _OTHER_NAME:
            text = "its certificate is for other names: use one of them in spec.endpoints[].url, or issue another"
            return Failure("HostnameMismatch", text)
        text = f"its certificate is not trusted ({error.verify_message}): set {_CA} to the CA that signed it"
        return Failure("CertificateNotTrusted", text, untrusted=code in UNKNOWN_AUTHORITY)
    if isinstance(error, TimeoutError):
        return Failure("TimedOut", f"it accepts the connection and then hangs {when}: restart it")
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return _tls_failure(error)
    cause = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return Failure("ConnectionFailed", f"it ends the connection {when} ({cause}): look at its log")


def _tls_failure(error: ssl.SSLError) -> Failure:
    """OpenSSL's names for the alerts of RFC 8446, 6.2: those about certificates are about ours."""
    name = error.reason or ""
    if "ALERT" in name and ("CERTIFICATE" in name or "UNKNOWN_CA" in name or "ACCESS_DENIED" in name):
        refused = client_certificate_refused("it refuses the client certificate, or wants one")
        return Failure(refused.reason, refused.message)
    if name in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return Failure("TLSFailed", "it does not speak TLS: write http:// in spec.endpoints[].url if that is intended")
    if "HANDSHAKE_FAILURE" in name:
        text = "the TLS handshake fails: it may want a client certificate (spec.endpoints[].tls.clientCertificateRef)"
        return Failure("TLSFailed", text)
    word = name.lower().replace("_", " ") or type(error).__name__
    return Failure("TLSFailed", f"the TLS handshake fails ({word}): look at the endpoint's TLS settings and its log")


def _talk(connection: socket.socket, call: Call, proxy: Proxy | None, until: float) -> Answer:
    parts = urlsplit(call.url)
    target = quote(parts.path or "/", safe="%/:=&?~#+!$,;'@()*[]") + (f"?{parts.query}" if parts.query else "")
    headers = {"Host": parts.netloc.rpartition("@")[2], **call.headers, "Connection": "close"}
    if proxy is not None:
        target = f"{parts.scheme}://{headers['Host']}{target}"
        headers |= {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    _send(connection, call.method, target, headers, call.body, until)
    answer = _answer(_receive(connection, call.method, until), call.method)
    if proxy is not None and answer.status == 407:
        raise Failure("ProxyFailed", f"the proxy {proxy} wants credentials (407): set them in its URL")
    return answer


def _send(
    connection: socket.socket, method: str, target: str, headers: Mapping[str, str], body: bytes, until: float
) -> None:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    try:
        connection.settimeout(_left(until))
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    except (ssl.SSLEOFError, ConnectionError):
        # A server that refuses may not read on, and say why: in TLS 1.3, that is how it refuses a client certificate.
        return
    except (ssl.SSLError, OSError) as error:
        raise _broken(error, "instead of reading the request") from None


def _receive(connection: socket.socket, method: str, until: float) -> bytes:
    """Read until the answer is whole, as far as its head says; or to the end, or to the limit."""
    raw = b""
    while len(raw) < _MAX_ANSWER and not _whole(raw, method):
        chunk = _read(connection, until, 16 * 1024)
        if not chunk:
            break
        raw += chunk
        while _INTERIM.match(raw) and b"\r\n\r\n" in raw:
            raw = raw.partition(b"\r\n\r\n")[2]
    return raw


def _head(connection: socket.socket, until: float) -> bytes:
    raw = b""
    while not raw.endswith(b"\r\n\r\n") and len(raw) < _MAX_ANSWER:
        chunk = _read(connection, until, 1)
        if not chunk:
            break
        raw += chunk
    return raw


def _read(connection: socket.socket, until: float, size: int) -> bytes:
    try:
        connection.settimeout(_left(until))
        return connection.recv(size)
    except ssl.SSLEOFError:
        return b""
    except (ssl.SSLError, OSError) as error:
        raise _broken(error, "instead of answering") from None


def _left(until: float) -> float:
    """Give the seconds that are left; raises TimeoutError if none are."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _whole(raw: bytes, method: str) -> bool:
    head, end, body = raw.partition(b"\r\n\r\n")
    if not end:
        return False
    if method == "HEAD" or head[9:12] in (b"204", b"304"):
        return True
    length = _LENGTH.search(head.lower() + b"\r\n")
    if length is not None:
        return len(body) >= int(length[1])
    return b"\r\ntransfer-encoding:" in head.lower() and body.endswith(b"0\r\n\r\n")


class _Received:
    """What http.client reads an answer from instead of a socket."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _answer(raw: bytes, method: str) -> Answer:
    if not raw:
        raise Failure("ConnectionFailed", "it ends the connection without an answer: look at its log")
    response = http.client.HTTPResponse(cast(socket.socket, _Received(raw)), method=method)
    try:
        response.begin()
        body = response.read()
    except http.client.IncompleteRead as error:
        body = error.partial
    except (http.client.HTTPException, ValueError):
        text = "it does not answer in HTTP: check the host and port of spec.endpoints[].url"
        raise Failure("NotARegistry", text) from None
    headers: dict[str, str] = {}
    for name, value in response.getheaders():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return Answer(response.status, headers, body)
