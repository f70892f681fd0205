"""The agent's client: four calls and a watch over urllib3, in a fifth of the memory of the full client.

It reads the pod's service account (the token again before each request: it is rotated), or a kubeconfig with a token
or a client certificate.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import urllib3
from msgspec import Struct
from urllib3.connection import HTTPConnection

from ..api.errors import FieldError, InvalidError
from . import errors
from .resources import Resource

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT = urllib3.Timeout(connect=10, read=30)
# A server that has gone without a word is noticed after a minute, and not when a whole watch has passed in silence.
_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
_MAX_LINE = 16 * 1024 * 1024

Json = dict[str, Any]


class Connection(Struct, frozen=True, kw_only=True):
    """Where the API server is and how to speak to it. Never shown by repr."""

    server: str
    ca: str | None = None
    token: str | None = None
    token_file: Path | None = None
    certificate: str | None = None
    key: str | None = None

    def __repr__(self) -> str:
        return f"Connection({self.server})"


def in_cluster(environ: Mapping[str, str], account: Path = _ACCOUNT) -> Connection | None:
    """Give the connection of a pod's service account, or None outside of a pod. Raises InvalidError without its CA."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not (account / "token").exists():
        return None
    where = f"[{host}]" if ":" in host else host
    try:
        ca = (account / "ca.crt").read_text()
    except (OSError, ValueError) as error:
        found = FieldError("ca.crt", type(error).__name__, "mount the service account with its CA certificate")
        raise InvalidError(f"service account {account}", (found,), "NoCluster") from None
    return Connection(server=f"https://{where}:{port}", ca=ca, token_file=account / "token")


def from_kubeconfig(path: Path) -> Connection:
    """Give the connection of the current context; raises InvalidError if the file lacks what is needed."""
    import yaml  # only needed outside of a pod

    subject = f"kubeconfig {path}"
    try:
        document = yaml.safe_load(path.read_text())
        context = _named(document, "contexts", document["current-context"])["context"]
        cluster = _named(document, "clusters", context["cluster"])["cluster"]
        user = _named(document, "users", context["user"])["user"]
        connection = Connection(
            server=cluster["server"].rstrip("/"),
            ca=_data(cluster, "certificate-authority", path),
            token=user.get("token"),
            token_file=path.parent / user["tokenFile"] if user.get("tokenFile") else None,
            certificate=_data(user, "client-certificate", path),
            key=_data(user, "client-key", path),
        )
    except OSError as error:
        found = f"{error.filename}: {error.strerror}"
        raise InvalidError(subject, (FieldError("", found, "give readable files"),)) from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, StopIteration, RecursionError):
        text = "give a kubeconfig whose current-context names a cluster and a user in it, and whose data is base64"
        raise InvalidError(subject, (FieldError("current-context", "", text),)) from None
    if not (connection.token or connection.token_file or connection.certificate):
        text = "the agent needs a token, tokenFile or client certificate; exec plugins are not supported"
        raise InvalidError(subject, (FieldError("users", "", text),))
    return connection


def connection(environ: Mapping[str, str]) -> Connection:
    """Give the pod's connection, else that of $KUBECONFIG; raises InvalidError if there is neither."""
    found = in_cluster(environ)
    if found is not None:
        return found
    if not environ.get("KUBECONFIG"):
        text = "run the agent in a pod with a service account, or set KUBECONFIG"
        raise InvalidError("cluster", (FieldError("KUBECONFIG", "", text),), "NoCluster")
    return from_kubeconfig(Path(environ["KUBECONFIG"]))


def _named(document: Json, section: str, name: str) -> Json:
    found: Json = next(item for item in document[section] if item["name"] == name)
    return found


def _data(section: Json, key: str, path: Path) -> str | None:
    if section.get(f"{key}-data"):
        return base64.b64decode("".join(section[f"{key}-data"].split()), validate=True).decode()
    return (path.parent / section[key]).read_text() if section.get(key) else None


class Rest:
    """Calls to one API server."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection; raises InvalidError if its certificates cannot be read."""
        self._connection = connection
        context = urllib3.util.create_urllib3_context()
        try:
            if connection.ca is not None:
                context.load_verify_locations(cadata=connection.ca)
            else:
                context.load_default_certs()
            if connection.certificate is not None:
                load_client(context, connection.certificate, connection.key or "")
        except (OSError, ValueError):
            found = FieldError("", "", "give the CA, the client certificate and its key as PEM")
            raise InvalidError(f"connection to {connection.server}", (found,)) from None
        self._pool = urllib3.PoolManager(
            ssl_context=context,
            retries=False,
            maxsize=2,
            socket_options=[*HTTPConnection.default_socket_options, *_ALIVE],
        )

    def get(self, resource: Resource, name: str, namespace: str = "") -> Json | None:
        """Give the object, or None if there is none. Raises ApiError."""
        action = f"get {resource.kind} {name}"
        status, body = self._call("GET", resource.path(name, namespace), action)
        if status == 404:
            return None
        return _decoded(status, body, action)

    def list(self, resource: Resource, **query: str) -> Json:
        """Give one page of a collection, with its resourceVersion. Raises ApiError."""
        action = f"list {resource.plural}"
        status, body = self._call("GET", f"{resource.path()}?{urlencode(query)}", action)
        return _decoded(status, body, action)

    def apply_status(self, resource: Resource, name: str, status: Mapping[str, Any], manager: str) -> Json:
        """Apply the status of a cluster-scoped object on the server. Raises ApiError."""
        action = f"apply status of {resource.kind} {name}"
        whole = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name},
            "status": status,
        }
        query = urlencode({"fieldManager": manager, "force": "true"})
        code, body = self._call(
            "PATCH",
            f"{resource.path(name, subresource='status')}?{query}",
            action,
            body=msgspec.json.encode(whole),
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        return _decoded(code, body, action)

    def may_patch_status(self, resource: Resource, name: str) -> bool | None:
        """Tell whether the status of a cluster-scoped object could be written, None if there is no such object.

        Nothing is: it is a dry run of a patch that changes nothing, which is admitted or not like any other. Raises
        ApiError.
        """
        action = f"try to write status of {resource.kind} {name}"
        code, body = self._call(
            "PATCH",
            f"{resource.path(name, subresource='status')}?dryRun=All",
            action,
            body=b"{}",
            headers={"Content-Type": "application/merge-patch+json"},
        )
        if code in (403, 404):
            return False if code == 403 else None
        _decoded(code, body, action)
        return True

    def watch(self, resource: Resource, *, seconds: int, **query: str) -> Iterator[Json]:
        """Give events until the server ends the watch after ``seconds``. Raises ApiError, also where it breaks."""
        action = f"watch {resource.plural}"
        query |= {"watch": "true", "timeoutSeconds": str(seconds), "allowWatchBookmarks": "true"}
        url = f"{self._connection.server}{resource.path()}?{urlencode(query)}"
        timeout = urllib3.Timeout(connect=10, read=seconds + 15)
        try:
            response = self._pool.request("GET", url, headers=self._headers(), preload_content=False, timeout=timeout)
            try:
                if response.status != 200:
                    raise errors.from_response(response.status, response.read(), action)
                for line in _lines(response):
                    yield msgspec.json.decode(line)
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise errors.unreachable(action, error) from None

    def _call(
        self,
        method: str,
        path: str,
        action: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        try:
            response = self._pool.request(
                method,
                self._connection.server + path,
                body=body,
                headers={**self._headers(), **(headers or {})},
                timeout=_TIMEOUT,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # ValueError: a token that fits into no header; its text would have the token.
            raise errors.unreachable(action, error) from None
        return response.status, response.data

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "registry-mirror-agent"}
        token = self._connection.token
        if self._connection.token_file is not None:
            token = self._connection.token_file.read_text().strip()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers


def _decoded(status: int, body: bytes, action: str) -> Json:
    if not 200 <= status <= 299:
        raise errors.from_response(status, body, action)
    try:
        answer = msgspec.json.decode(body)
    except ValueError as error:
        raise errors.unreachable(action, error) from None
    if not isinstance(answer, dict):
        raise errors.unreachable(action, TypeError())
    return answer


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(amt=None):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise OSError("a watch event without an end")
        yield from (line for line in lines if line)


def load_client(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Have a context show a client certificate (both PEM). Raises ssl.SSLError and OSError if it cannot be used.

    OpenSSL reads such from files only: from one in memory, for no key may be left on a disk.
    """
    descriptor = os.memfd_create("client", os.MFD_CLOEXEC)
    with open(descriptor, "w") as file:
        file.write(certificate + "\n" + key)
        file.flush()
        # With a password at hand, OpenSSL never asks the terminal for one.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")
