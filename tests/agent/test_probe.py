"""One test of an endpoint against real servers: what is asked, what the answer comes to, and that time is bounded."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from registry_mirror.agent.probe import Probe
from registry_mirror.agent.proxies import Proxies
from registry_mirror.agent.roots import Contexts
from registry_mirror.api.images import parse_image
from registry_mirror.core.probing import Result, Target
from registry_mirror.core.resolve import Credentials, ResolvedTLS
from tests.agent.probed import (
    USER_HEADER,
    Asked,
    Authority,
    Peer,
    Raw,
    Reply,
    basic,
    connect_proxy,
    head_of,
    token_service,
    with_tokens,
)

USER = Credentials(username="robot", password="swordfish")
WRONG = Credentials(username="robot", password="wrong-password")
Start = Callable[..., Any]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Peer or a Raw, closed at the end."""
    with ExitStack() as stack:

        def begin(kind: Callable[..., Any], *arguments: Any) -> Any:
            server = kind(*arguments)
            stack.callback(server.close)
            return server

        yield begin


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ca")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A node's file system without any roots of its own but an unrelated one."""
    (tmp_path / "etc/ssl/certs").mkdir(parents=True)
    return tmp_path


def probe(target: Target, host: Path, environment: dict[str, str] | None = None, deadline: float = 5.0) -> Result:
    result = Probe(Contexts(host), deadline)(target, Proxies(environment or {}))
    assert result is not None
    assert "swordfish" not in repr(result)
    assert "wrong-password" not in repr(result)
    return result


def answering(reply: Reply) -> Callable[[Asked], Reply]:
    return lambda asked: reply


# ---- what is asked ---------------------------------------------------------------------------------------------------


def test_an_endpoint_is_asked_for_its_version_and_says_how_long_it_took(start: Start, host: Path) -> None:
    server = start(Peer, answering(Reply()))
    result = probe(Target(url=server.url), host)
    assert result.finding == (True, "Reachable", "")
    assert 0 < result.latency < 5
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("GET", "/v2/")
    assert "Authorization" not in asked.headers
    assert asked.headers["Host"] == f"127.0.0.1:{server.port}"


def test_an_image_is_asked_for_as_containerd_resolves_it(start: Start, host: Path) -> None:
    server = start(Peer, answering(Reply()))
    image = parse_image("docker.io/library/busybox:1.37")
    assert probe(Target(url=f"{server.url}/v2/hub", image=image), host).finding == (True, "Reachable", "")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("HEAD", "/v2/hub/library/busybox/manifests/1.37?ns=docker.io")
    assert "application/vnd.oci.image.index.v1+json" in asked.headers["Accept"]


def test_an_image_that_is_not_there_leaves_the_endpoint_reachable(start: Start, host: Path) -> None:
    server = start(Peer, answering(Reply(404)))
    result = probe(Target(url=server.url, image=parse_image("quay.io/a/b:c")), host)
    assert (result.reachable, result.reason) == (True, "Reachable")
    assert "a/b:c" in result.message


# ---- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credentials", "reachable", "reason"),
    [(USER, True, "Reachable"), (WRONG, False, "Unauthorized"), (None, True, "Reachable")],
)
def test_basic_credentials(
    start: Start, host: Path, credentials: Credentials | None, reachable: bool, reason: str
) -> None:
    server = start(Peer, basic)
    result = probe(Target(url=server.url, credentials=credentials), host)
    assert (result.reachable, result.reason) == (reachable, reason)
    assert ("credentialsRef" in result.message) == (credentials is not USER)


@pytest.mark.parametrize(
    ("credentials", "reachable", "reason"),
    [
        (USER, True, "Reachable"),
        (Credentials(identity_token="a-token"), True, "Reachable"),
        (WRONG, False, "Unauthorized"),
        (Credentials(identity_token="another"), False, "Unauthorized"),
        (None, True, "Reachable"),
    ],
)
def test_tokens(start: Start, host: Path, credentials: Credentials | None, reachable: bool, reason: str) -> None:
    service = start(Peer, token_service)
    server = start(Peer, with_tokens(lambda: f"{service.url}/token?a=b"))
    result = probe(
        Target(url=server.url, credentials=credentials, image=parse_image("quay.io/library/x:1")),
        host,
    )
    assert (result.reachable, result.reason) == (reachable, reason)
    (asked,) = service.asked
    if credentials is not None and credentials.identity_token:
        assert (asked.method, asked.path) == ("POST", "/token?a=b")
        values = parse_qs(asked.body.decode())
        assert values["scope"] == ["a:b:pull repository:library/x:pull"]
        assert (values["grant_type"], values["service"]) == (["refresh_token"], ["reg, istry"])
        assert "Authorization" not in asked.headers
    else:
        assert asked.method == "GET"
        values = parse_qs(urlsplit(asked.path).query)
        assert values == {"a": ["b"], "service": ["reg, istry"], "scope": ["a:b:pull", "repository:library/x:pull"]}
        assert ("Authorization" in asked.headers) == (credentials is not None)


@pytest.mark.parametrize(
    "reply",
    [Reply(500), Reply(body=b"{}"), Reply(body=b"[1]"), Reply(body=b'{"token": "a\\r\\nX: y"}'), Reply(302)],
)
def test_a_token_service_that_gives_no_token_is_named(start: Start, host: Path, reply: Reply) -> None:
    service = start(Peer, answering(reply))
    server = start(Peer, with_tokens(lambda: service.url))
    for credentials in (USER, None):
        result = probe(Target(url=server.url, credentials=credentials), host)
        assert (result.reachable, result.reason) == (False, "TokenRefused")
        assert f"127.0.0.1:{service.port}" in result.message


def test_a_token_service_that_hangs_is_as_bad_as_an_endpoint_that_does(start: Start, host: Path) -> None:
    service = start(Raw, lambda connection: threading.Event().wait(60))
    server = start(Peer, with_tokens(lambda: f"http://127.0.0.1:{service.port}/"))
    result = probe(Target(url=server.url), host, deadline=0.5)
    assert (result.reachable, result.reason) == (False, "TokenRefused")


@pytest.mark.parametrize(
    "realm", ["ftp://x/", "", "http://", "http://h:99999/", "http://[::1/", "http://a b/", "http://h:x/"]
)
def test_a_realm_that_is_no_url_is_no_challenge(start: Start, host: Path, realm: str) -> None:
    server = start(Peer, with_tokens(lambda: realm))
    assert probe(Target(url=server.url, credentials=USER), host).reason == "Unauthorized"
    assert len(server.asked) == 1


# ---- TLS -------------------------------------------------------------------------------------------------------------


def test_the_ca_of_the_endpoint_is_trusted_beside_the_roots_of_the_node(
    start: Start, host: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Authority(tmp_path_factory.mktemp("other"), "other")
    server = start(Peer, answering(Reply()), authority.server("plain"))
    missing = probe(Target(url=server.url, tls=ResolvedTLS(ca=other.pem)), host)
    assert (missing.reachable, missing.reason) == (False, "CertificateNotTrusted")
    assert "caRef" in missing.message
    assert probe(Target(url=server.url), host).reason == "CertificateNotTrusted"
    assert probe(Target(url=server.url, tls=ResolvedTLS(ca=authority.pem)), host).reachable
    # Not the file itself but an absolute link, as RHEL has it: on the node it leads to the node's own files.
    (host / "etc/pki").mkdir()
    (host / "etc/pki/real.pem").write_text(f"# Főtanúsítvány\n{authority.pem}")
    (host / "etc/ssl/certs/ca-certificates.crt").symlink_to("/etc/pki/real.pem")
    assert probe(Target(url=server.url), host).reachable
    assert probe(Target(url=server.url, tls=ResolvedTLS(ca=other.pem)), host).reachable


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"days": -1}, "CertificateExpired"), ({"subject": "DNS:other.example"}, "HostnameMismatch")],
)
def test_bad_certificates(start: Start, host: Path, authority: Authority, options: dict[str, Any], reason: str) -> None:
    server = start(Peer, answering(Reply()), authority.server(reason, **options))
    assert probe(Target(url=server.url, tls=ResolvedTLS(ca=authority.pem)), host).reason == reason
    assert probe(Target(url=server.url, tls=ResolvedTLS(insecure_skip_verify=True)), host).reachable


def test_a_common_name_does_not_count_as_in_go(start: Start, host: Path, authority: Authority) -> None:
    server = start(Peer, answering(Reply()), authority.server("common", subject=""))
    target = Target(url=f"https://localhost:{server.port}", tls=ResolvedTLS(ca=authority.pem))
    assert probe(target, host).reason == "HostnameMismatch"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificates(
    start: Start,
    host: Path,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
    version: ssl.TLSVersion,
) -> None:
    context = authority.server("mutual", client_ca=authority.certificate)
    context.minimum_version = context.maximum_version = version
    server = start(Peer, answering(Reply()), context)
    certificate, key = authority.sign("client", "DNS:client")
    foreign = Authority(tmp_path_factory.mktemp("foreign"), "foreign").sign("client", "DNS:client")

    def result(certificate: str = "", key: str = "") -> Result:
        tls = ResolvedTLS(ca=authority.pem, certificate=certificate, key=key)
        return probe(Target(url=server.url, tls=tls), host)

    assert result(certificate=certificate, key=key).reachable
    assert result(certificate=foreign[0], key=foreign[1]).reason == "ClientCertificateRefused"
    assert result(certificate=certificate, key=foreign[1]).reason == "ClientCertificateRefused"
    # Whether the server's alert or its end is seen first is a matter of luck: it must not be one of the result.
    (missing,) = {result() for _ in range(40)}
    # Before TLS 1.3, the alert for a missing certificate is one that stands for much else too.
    assert missing.reason == ("ClientCertificateRefused" if version == ssl.TLSVersion.TLSv1_3 else "TLSFailed")
    assert not missing.reachable
    assert "clientCertificateRef" in missing.message


def test_a_server_that_speaks_the_other_protocol_is_told_apart(start: Start, host: Path) -> None:
    server = start(Peer, answering(Reply()))
    result = probe(Target(url=server.url.replace("http:", "https:")), host)
    assert (result.reachable, result.reason) == (False, "TLSFailed")
    assert "http://" in result.message


# ---- no answer -------------------------------------------------------------------------------------------------------


def unused_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def test_nobody_listens(host: Path) -> None:
    result = probe(Target(url=f"http://127.0.0.1:{unused_port()}"), host)
    assert (result.reachable, result.reason) == (False, "ConnectionRefused")


def test_a_name_without_an_address(host: Path) -> None:
    assert probe(Target(url="http://registry.invalid"), host).reason == "NameNotResolved"


def test_an_address_that_swallows_everything_leaves_time_for_the_next(
    start: Start, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(Peer, answering(Reply()))
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(4):  # the queue is full then, and the kernel drops what else comes
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        answers = [
            (socket.AF_INET, 0, 0, "", full.getsockname()),
            (socket.AF_INET, 0, 0, "", ("127.0.0.1", server.port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **named: answers)
        assert probe(Target(url=f"http://mirror.example:{server.port}"), host, deadline=2.0).reachable


def drip(connection: socket.socket) -> None:
    """One byte of a header at a time, for ever: no single read ever takes long."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize("behave", [lambda connection: threading.Event().wait(60), drip], ids=["hangs", "drips"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_whatever_a_server_does_the_deadline_holds(start: Start, host: Path, behave: Any, scheme: str) -> None:
    server = start(Raw, behave)
    done: list[Result] = []
    worker = threading.Thread(
        target=lambda: done.append(probe(Target(url=f"{scheme}://127.0.0.1:{server.port}"), host, deadline=0.4)),
        daemon=True,
    )
    worker.start()
    worker.join(60)
    assert not worker.is_alive()
    if (scheme, behave) == ("https", drip):
        assert done[0].reason == "TLSFailed"  # it is no TLS from the first byte
    else:
        assert (done[0].reachable, done[0].reason) == (False, "TimedOut")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "ConnectionFailed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "NotARegistry"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n", "NotARegistry"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", "Reachable"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000, "Reachable"),
        (b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "ServerError"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "Reachable"),
    ],
)
def test_odd_answers(start: Start, host: Path, sent: bytes, reason: str) -> None:
    def behave(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)

    server = start(Raw, behave)
    assert probe(Target(url=f"http://127.0.0.1:{server.port}"), host).reason == reason


def test_an_answer_without_an_end_is_cut(start: Start, host: Path) -> None:
    def behave(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 1024)

    server = start(Raw, behave)
    assert probe(Target(url=f"http://127.0.0.1:{server.port}"), host).reachable


def test_a_whole_answer_is_taken_from_a_server_that_keeps_the_connection(start: Start, host: Path) -> None:
    def behave(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        threading.Event().wait(60)

    server = start(Raw, behave)
    assert probe(Target(url=f"http://127.0.0.1:{server.port}"), host).reachable


# ---- proxies ---------------------------------------------------------------------------------------------------------


def test_https_goes_through_a_tunnel(start: Start, host: Path, authority: Authority, monkeypatch: Any) -> None:
    # What Go takes for loopback never takes a proxy: so a name that is not, and that resolves to this machine.
    asked: list[bytes] = []
    proxy = start(Raw, connect_proxy(asked))
    server = start(Peer, answering(Reply()), authority.server("tunnel", subject="DNS:mirror.example"))
    resolve(monkeypatch, "mirror.example", "127.0.0.1")
    url = f"https://mirror.example:{server.port}"
    target = Target(url=url, tls=ResolvedTLS(ca=authority.pem))
    through = {"HTTPS_PROXY": f"http://me:p%40ss@127.0.0.1:{proxy.port}"}
    assert probe(target, host, through).finding == (True, "Reachable", "")
    assert asked[0].startswith(f"CONNECT mirror.example:{server.port} HTTP/1.1\r\n".encode())
    assert base64.b64encode(b"me:p@ss") in asked[0]
    assert probe(target, host, {**through, "NO_PROXY": ".example"}).reachable
    assert len(asked) == 1


def resolve(monkeypatch: Any, name: str, address: str) -> None:
    """Have a name resolve on this machine."""
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **named: real(address if host == name else host, *more, **named)
    )


def test_http_goes_to_the_proxy_with_its_whole_url(start: Start, host: Path) -> None:
    proxy = start(Peer, answering(Reply()))
    environment = {"http_proxy": f"127.0.0.1:{proxy.port}"}
    assert probe(Target(url="http://mirror.example/v2/x", credentials=USER), host, environment).reachable
    (asked,) = proxy.asked
    assert asked.path == "http://mirror.example/v2/"
    assert asked.headers["Authorization"] == USER_HEADER
    assert asked.headers["Host"] == "mirror.example"


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 Bad Gateway"])
def test_a_proxy_that_refuses_is_named(start: Start, host: Path, status: bytes) -> None:
    proxy = start(Raw, connect_proxy([], status))
    environment = {"HTTPS_PROXY": f"http://me:swordfish@127.0.0.1:{proxy.port}"}
    result = probe(Target(url="https://mirror.example"), host, environment)
    assert (result.reachable, result.reason) == (False, "ProxyFailed")
    assert f"127.0.0.1:{proxy.port}" in result.message
    assert status[:3].decode() in result.message


def test_a_proxy_that_is_not_there_or_hangs_is_named(start: Start, host: Path) -> None:
    hangs = start(Raw, lambda connection: threading.Event().wait(60))
    for port in (unused_port(), hangs.port):
        environment = {"HTTPS_PROXY": f"127.0.0.1:{port}"}
        result = probe(Target(url="https://mirror.example"), host, environment, deadline=0.5)
        assert (result.reachable, result.reason) == (False, "ProxyFailed")


@pytest.mark.parametrize("scheme", ["socks5", "https"])
def test_behind_a_proxy_that_only_containerd_can_use_nothing_is_said(host: Path, scheme: str) -> None:
    found = Probe(Contexts(host))(Target(url="http://mirror.example"), Proxies({"HTTP_PROXY": f"{scheme}://p.example"}))
    assert found is None
