"""The agent's client against a real HTTP server: what it sends, what it makes of bad answers, and what it hides."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from registry_mirror.api.errors import InvalidError
from registry_mirror.kube.errors import ApiError
from registry_mirror.kube.resources import CONFIGS, SECRETS
from registry_mirror.kube.rest import Connection, Rest, connection, from_kubeconfig, in_cluster
from tests.agent.server import Server

TOKEN = "secret-token-1"


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that answers everything with an empty object."""
    found = Server(lambda request: (200, b"{}"))
    yield found
    found.close()


@pytest.fixture
def rest(server: Server) -> Rest:
    """A client with a token."""
    return Rest(Connection(server=server.url, token=TOKEN))


def _events(rest: Rest) -> Iterator[dict[str, Any]]:
    return rest.watch(CONFIGS, seconds=5, fieldSelector="metadata.name=n", resourceVersion="7")


def test_the_token_is_read_again_before_each_request(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "token"
    rest = Rest(Connection(server=server.url, token_file=file))
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        rest.get(SECRETS, "a/b", "space")
        assert server.requests[-1].token == f"Bearer {token}"
    assert server.requests[-1].path == "/api/v1/namespaces/space/secrets/a%2Fb"
    file.unlink()
    with pytest.raises(ApiError) as error:
        rest.get(SECRETS, "x", "space")
    assert (error.value.status, error.value.reason) == (0, "ApiUnreachable")


def test_a_status_is_applied_on_the_server(server: Server, rest: Rest) -> None:
    rest.apply_status(CONFIGS, "n", {"appliedRevision": "r"}, "me")
    request = server.requests[-1]
    assert (request.method, request.kind) == ("PATCH", "application/apply-patch+yaml")
    assert request.path.endswith("/noderegistryconfigs/n/status")
    assert request.query == {"fieldManager": "me", "force": "true"}
    assert json.loads(request.body)["status"] == {"appliedRevision": "r"}


def test_an_object_that_is_not_there_is_none(server: Server, rest: Rest) -> None:
    server.answer = lambda request: (404, b"{}")
    assert rest.get(SECRETS, "x") is None
    with pytest.raises(ApiError):
        rest.list(CONFIGS)


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (403, b'{"reason": "Forbidden", "message": "no"}', "list noderegistryconfigs: the API server answered 403 no"),
        (500, b"<html>", "answered 500"),
        (502, b"[1]", "answered 502"),
        (302, b"", "answered 302"),
        (200, b"<html>", "no answer"),
        (200, b"[1]", "no answer"),
        (500, b'{"message": "' + b"x" * 5000 + b'"}', "xxx"),
    ],
)
def test_a_bad_answer_is_one_error_that_is_safe_to_show(
    server: Server, rest: Rest, status: int, body: bytes, text: str
) -> None:
    server.answer = lambda request: (status, body)
    with pytest.raises(ApiError, match=text) as error:
        rest.list(CONFIGS)
    assert TOKEN not in error.value.message
    assert len(error.value.message) <= 500
    assert len(server.requests) == 1


@pytest.mark.parametrize("token", ["secret\ninner", "secret\u20ac"])
def test_a_token_that_fits_into_no_header_is_not_told(server: Server, token: str) -> None:
    rest = Rest(Connection(server=server.url, token=token))
    actions: list[Callable[[], object]] = [lambda: rest.get(SECRETS, "x"), lambda: next(_events(rest))]
    for action in actions:
        with pytest.raises(ApiError) as error:
            action()
        assert "secret" not in str(error.value)
        assert error.value.__suppress_context__


def test_nobody_there_is_an_api_error() -> None:
    server = Server(lambda request: (200, b"{}"))
    server.close()
    with pytest.raises(ApiError) as error:
        Rest(Connection(server=server.url)).list(CONFIGS)
    assert error.value.status == 0


def test_events_arrive_as_they_come_however_they_are_cut(server: Server, rest: Rest) -> None:
    for chunk in (b'{"type": "A', b'DDED"}\n{"type": "MODIFIED"}\n\n{"ty', b'pe": "DELETED"}\n'):
        server.chunks.put(chunk)
    events = _events(rest)
    assert [next(events)["type"] for _ in range(3)] == ["ADDED", "MODIFIED", "DELETED"]
    server.chunks.put(None)
    assert list(events) == []
    query = server.requests[-1].query
    assert query["resourceVersion"] == "7"
    assert query["allowWatchBookmarks"] == "true"


@pytest.mark.parametrize("chunk", [b"<html>\n", b'{"type": "ADDED"}\n'])
def test_a_watch_that_breaks_is_an_error(server: Server, rest: Rest, chunk: bytes) -> None:
    server.chunks.put(chunk)
    server.chunks.put(False)
    with pytest.raises(ApiError, match="watch noderegistryconfigs"):
        list(_events(rest))


def test_a_watch_that_is_refused_is_an_error(server: Server, rest: Rest) -> None:
    server.watch_status = 410
    with pytest.raises(ApiError) as error:
        list(_events(rest))
    assert error.value.status == 410


def _kubeconfig(tmp_path: Path, user: object, cluster: object = None, text: str | None = None) -> Path:
    path = tmp_path / "kubeconfig"
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster or {"server": "https://127.0.0.1:1/"}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(document) if text is None else text)
    return path


def test_a_kubeconfig_gives_a_connection(tmp_path: Path) -> None:
    found = from_kubeconfig(_kubeconfig(tmp_path, {"token": TOKEN}))
    assert (found.server, found.token) == ("https://127.0.0.1:1", TOKEN)
    assert TOKEN not in repr(found)
    found = from_kubeconfig(_kubeconfig(tmp_path, {"tokenFile": "token"}))
    assert found.token_file == tmp_path / "token"


@pytest.mark.parametrize(
    ("user", "cluster", "text"),
    [
        ({}, None, None),
        (None, None, None),
        ("x", None, None),
        ({"exec": {"command": "aws"}}, None, None),
        ({"token": TOKEN}, {"server": None}, None),
        ({"token": TOKEN}, {"server": "https://x", "certificate-authority": "none.crt"}, None),
        ({"token": TOKEN}, {"server": "https://x", "certificate-authority-data": "!"}, None),
        ({"client-certificate-data": "/w==", "client-key-data": "/w=="}, None, None),
        (None, None, ""),
        (None, None, "[1"),
        (None, None, "current-context: c\ncontexts: 5"),
    ],
)
def test_a_kubeconfig_that_lacks_something_is_refused(
    tmp_path: Path, user: object, cluster: object, text: str | None
) -> None:
    with pytest.raises(InvalidError, match="kubeconfig") as error:
        from_kubeconfig(_kubeconfig(tmp_path, user, cluster, text))
    assert TOKEN not in str(error.value)


def test_certificates_that_are_none_are_refused(tmp_path: Path) -> None:
    plain = Connection(server="https://x")
    for bad in (replace(plain, ca="x"), replace(plain, ca=""), replace(plain, certificate="x", key="secret")):
        with pytest.raises(InvalidError, match="PEM") as error:
            Rest(bad)
        assert "secret" not in str(error.value)


def test_a_pod_has_its_service_account(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert in_cluster(environ, tmp_path) is None
    (tmp_path / "token").write_text(TOKEN)
    with pytest.raises(InvalidError, match="CA certificate"):
        in_cluster(environ, tmp_path)
    (tmp_path / "ca.crt").write_text("ca")
    found = in_cluster(environ, tmp_path)
    assert found == Connection(server="https://[fd00::1]:443", ca="ca", token_file=tmp_path / "token")
    assert in_cluster({}, tmp_path) is None


def test_no_cluster_at_all_is_said() -> None:
    with pytest.raises(InvalidError, match="KUBECONFIG") as error:
        connection({})
    assert error.value.reason == "NoCluster"
