"""A token service as registries with token auth have it (distribution's docs/spec/auth/token.md), as a thread."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .authority import Authority

ISSUER = "registry-mirror-tests"
_VALID = 300


@dataclass(frozen=True)
class TokenRequest:
    """A request that came: who asked (empty: nobody said), for which scopes, and the answer's status."""

    user: str
    scopes: tuple[str, ...]
    status: int


class TokenService:
    """Gives tokens to those who know a user's password; nobody else may pull.

    ``passwords`` says which ones each user has: it may be changed at any time, and a user may have two.
    """

    def __init__(self, host: str, authority: Authority, passwords: dict[str, set[str]]) -> None:
        self.passwords = passwords
        self.requests: list[TokenRequest] = []
        self._authority = authority
        self._server = ThreadingHTTPServer((host, 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="token-service", daemon=True)

    def start(self) -> TokenService:
        """Begin to serve."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where tokens are asked for: the registry's challenge names it."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/token"

    def answer(self, query: str, authorization: str) -> tuple[int, dict[str, Any]]:
        """The status and content for a request."""
        asked = parse_qs(query)
        scopes = tuple(scope for value in asked.get("scope", ()) for scope in value.split())
        user, password = _basic(authorization)
        known = password in self.passwords.get(user, set())
        status = 200 if known else 401
        self.requests.append(TokenRequest(user, scopes, status))
        if not known:
            return status, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong user or password"}]}
        token = self._authority.sign(self._claims(user, asked.get("service", [""])[0], scopes))
        return status, {"token": token, "expires_in": _VALID}

    def _claims(self, user: str, service: str, scopes: tuple[str, ...]) -> dict[str, Any]:
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        times = {"nbf": now - 10, "iat": now, "exp": now + _VALID}
        return {"iss": ISSUER, "sub": user, "aud": service, "jti": secrets.token_hex(8), "access": access, **times}


def _basic(authorization: str) -> tuple[str, str]:
    kind, _, value = authorization.partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def _handler(service: TokenService) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = service.answer(urlsplit(self.path).query, self.headers.get("Authorization", ""))
            self._send(status, content)

        def do_POST(self) -> None:
            # OAuth's way, which clients try first where they have a password; most registries have only the other.
            self._send(405, {})

        def _send(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the requests are kept, without passwords."""

    return Handler
