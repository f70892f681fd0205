"""Registries on loopback as a probe meets them: with TLS, credentials, tokens, behind a proxy, or not answering."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

USER_HEADER = "Basic cm9ib3Q6c3dvcmRmaXNo"  # robot:swordfish


@dataclass(frozen=True)
class Asked:
    """A request that came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Reply:
    """What is sent back."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    body: bytes = b"{}"


class Peer:
    """A server that answers each request with ``reply``; ``url`` has no path."""

    def __init__(self, reply: Callable[[Asked], Reply], context: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.reply = reply
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = Asked(self.command, self.path, dict(self.headers.items()), body)
                outer.asked.append(asked)
                reply = outer.reply(asked)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)

            do_GET = do_HEAD = do_POST = _any  # noqa: N815

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def get_request(self) -> tuple[socket.socket, Any]:
                connection, address = super().get_request()
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                return connection, address

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing: a client that refuses our certificate is what is tested."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Raw:
    """A socket whose every connection is handed to ``behave``, which may do anything, or nothing."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self._behave = behave
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._behave(connection)

    def close(self) -> None:
        # A listener is woken only by a shutdown, not by a close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self.connections:
            connection.close()


def head_of(connection: socket.socket) -> bytes:
    """Read a request up to the end of its head."""
    raw = b""
    while b"\r\n\r\n" not in raw and (chunk := connection.recv(4096)):
        raw += chunk
    return raw


def connect_proxy(asked: list[bytes], status: bytes = b"200 OK") -> Callable[[socket.socket], None]:
    """Behave as a proxy for CONNECT; ``asked`` gets what it was asked."""

    def behave(connection: socket.socket) -> None:
        head = head_of(connection)
        asked.append(head)
        connection.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")
        if not status.startswith(b"200"):
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            threading.Thread(target=_copy, args=(connection, other), daemon=True).start()
            _copy(other, connection)

    return behave


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)


# ---- registries with credentials -------------------------------------------------------------------------------------


def basic(asked: Asked) -> Reply:
    """A registry with Basic authentication."""
    if asked.headers.get("Authorization") == USER_HEADER:
        return Reply()
    return Reply(401, {"WWW-Authenticate": 'Basic realm="r"', "Content-Type": "application/json"}, b'{"errors": []}')


def with_tokens(realm: Callable[[], str]) -> Callable[[Asked], Reply]:
    """A registry that wants a token, which the service at ``realm`` gives."""

    def reply(asked: Asked) -> Reply:
        if asked.headers.get("Authorization") == "Bearer good-token":
            return Reply()
        return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm()}",service="reg, istry",scope="a:b:pull"'})

    return reply


def token_service(asked: Asked) -> Reply:
    """Gives a token to the user robot, and for the identity token."""
    if asked.headers.get("Authorization") == USER_HEADER or b"refresh_token=a-token" in asked.body:
        return Reply(body=json.dumps({"access_token": "good-token"}).encode())
    return Reply(401)


# ---- certificates ----------------------------------------------------------------------------------------------------


class Authority:
    """A CA made with openssl, and what it signs."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self.certificate = directory / f"{name}.crt"
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt"),
        )

    @property
    def pem(self) -> str:
        return self.certificate.read_text()

    def sign(self, name: str, subject: str = "IP:127.0.0.1,DNS:localhost", days: int = 2) -> tuple[str, str]:
        """Give certificate and key as PEM; without a subject, localhost is in its common name only."""
        (self._directory / f"{name}.ext").write_text(f"subjectAltName={subject}\n" if subject else "")
        self._openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{self._name}.crt", "-CAkey", f"{self._name}.key"),
            *("-CAcreateserial", "-days", str(days), "-extfile", f"{name}.ext", "-out", f"{name}.crt"),
        )
        return (self._directory / f"{name}.crt").read_text(), (self._directory / f"{name}.key").read_text()

    def server(self, name: str, client_ca: Path | None = None, **options: Any) -> ssl.SSLContext:
        """Give the context of a server with a certificate of this CA; with a client CA, it wants one from clients."""
        self.sign(name, **options)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._directory, check=True, capture_output=True)


@contextlib.contextmanager
def running(*servers: Peer | Raw) -> Iterator[None]:
    """Have servers closed at the end."""
    try:
        yield
    finally:
        for server in servers:
            server.close()
