"""The controller's client: server-side apply, lists, and little else, over the official client's asyncio transport.

The generated classes of that client are not used: they would cost a model for every object that passes by, and they
have no typed call for server-side apply of a status.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, ApiException, Configuration

from ..api.errors import FieldError, InvalidError
from . import errors
from .resources import Resource

_TIMEOUT = 30.0
# Short, so that no write of a leader is under way when its Lease may be somebody else's (controller/election.py).
_WRITE_TIMEOUT = 5.0
_PAGE = 500
_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Json = dict[str, Any]


async def load_configuration() -> Configuration:
    """Find the API server: the pod's service account if there is one, else $KUBECONFIG or ~/.kube/config.

    Raises InvalidError if neither is there.
    """
    configuration = Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
        return configuration
    except config.ConfigException:
        pass
    try:
        await config.load_kube_config(client_configuration=configuration)
    except (config.ConfigException, OSError, ValueError) as error:
        found = FieldError("KUBECONFIG", str(error), "set KUBECONFIG to a kubeconfig file, or run in a pod")
        raise InvalidError("cluster", (found,), "NoCluster") from None
    return configuration


class Api:
    """Calls to one API server; use it as an async context manager."""

    def __init__(
        self, configuration: Configuration, time_left: Callable[[], float] = lambda: math.inf, timeout: float = _TIMEOUT
    ) -> None:
        """Take where the API server is, for how many seconds writes may still begin (0: not any more; they raise
        ApiError with the reason NotLeading then), and how long an answer is waited for, in seconds; for that to a
        write, five at most.
        """
        self._configuration = configuration
        self._time_left = time_left
        self._timeout = timeout
        self._client = ApiClient(configuration)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    @property
    def configuration(self) -> Configuration:
        """Where the API server is, and how to speak to it."""
        return self._configuration

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Json | None:
        """Give the object, or None if there is none. Raises ApiError."""
        action = f"get {resource.kind} {name}"
        return await self._call("GET", resource.path(name, namespace), action, missing=(404,))

    async def list(
        self, resource: Resource, namespace: str = "", *, metadata_only: bool = False, **query: str
    ) -> tuple[list[Json], str]:
        """Give all objects, read page by page, and the resourceVersion of the collection. Raises ApiError.

        ``metadata_only`` asks the server for metadata alone, so that no Secret's content travels.
        """
        accept = _METADATA_LIST if metadata_only else _JSON
        query["limit"] = str(_PAGE)
        items: list[Json] = []
        while True:
            path = f"{resource.path(namespace=namespace)}?{urlencode(query)}"
            page = await self._call("GET", path, f"list {resource.plural}", accept=accept) or {}
            items += page.get("items") or ()
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return items, str(metadata.get("resourceVersion", ""))
            query["continue"] = metadata["continue"]

    async def apply(
        self, resource: Resource, name: str, body: Mapping[str, Any], *, manager: str, subresource: str = ""
    ) -> Json:
        """Apply a cluster-scoped object, or a subresource of it, on the server. Raises ApiError.

        ``body`` has what the manager owns; ``apiVersion``, ``kind`` and the name are added.
        """
        path = resource.path(name, subresource=subresource)
        query = urlencode({"fieldManager": manager, "force": "true"})
        metadata = {**body.get("metadata", {}), "name": name}
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body, "metadata": metadata}
        answer = await self._call(
            "PATCH", f"{path}?{query}", f"apply {resource.kind} {name}", body=whole, content_type=_APPLY
        )
        return answer or {}

    async def patch(self, resource: Resource, name: str, operations: Sequence[Json]) -> Json:
        """Change a cluster-scoped object by a JSON patch (RFC 6902). Raises ApiError, 422 if a ``test`` fails."""
        action = f"patch {resource.kind} {name}"
        answer = await self._call("PATCH", resource.path(name), action, body=operations, content_type=_JSON_PATCH)
        return answer or {}

    async def create(self, resource: Resource, body: Mapping[str, Any], namespace: str = "") -> bool:
        """Create an object; gives False if one with that name is there already. Raises ApiError."""
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        action = f"create {resource.kind} {body['metadata'].get('name', '')}"
        answer = await self._call("POST", resource.path(namespace=namespace), action, body=whole, missing=(409,))
        return answer is not None

    async def put(
        self, resource: Resource, name: str, body: Mapping[str, Any], namespace: str = "", *, create: bool = False
    ) -> Json:
        """Replace an object if it is still at the resourceVersion in ``body``, or create it; gives what is there now.

        Raises ApiError: 409 if it is another by now or, on creation, if there is one; 404 if there is none.
        """
        method, action = ("POST", "create") if create else ("PUT", "replace")
        path = resource.path("" if create else name, namespace)
        return await self._call(method, path, f"{action} {resource.kind} {name}", body=dict(body)) or {}

    async def delete(self, resource: Resource, name: str, namespace: str = "", uid: str = "") -> None:
        """Delete an object if it is there and, where ``uid`` is given, still the same one. Raises ApiError."""
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            body["preconditions"] = {"uid": uid}
        path = resource.path(name, namespace)
        await self._call("DELETE", path, f"delete {resource.kind} {name}", body=body, missing=(404, 409))

    async def _call(
        self,
        method: str,
        path: str,
        action: str,
        *,
        body: Json | Sequence[Json] | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        missing: tuple[int, ...] = (),
    ) -> Json | None:
        timeout = self._timeout
        if method != "GET":
            timeout = min(timeout, _WRITE_TIMEOUT)
            if self._time_left() <= 0:
                raise errors.ApiError(0, "NotLeading", f"{action}: not done, for another controller may lead by now")
        headers = {"Accept": accept, "Content-Type": content_type}
        for setting in (await self._configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        try:
            response = await self._client.call_api(
                method, self._configuration.host + path, headers, body, _request_timeout=timeout
            )
            raw = await response.read()
        except ApiException as error:
            raise errors.from_response(error.status or 0, _bytes(error.body), action) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise errors.unreachable(action, error) from None
        if response.status in missing:
            return None
        if not 200 <= response.status <= 299:
            raise errors.from_response(response.status, raw, action)
        answer: Json = msgspec.json.decode(raw)
        return answer


def _bytes(body: str | bytes | None) -> bytes:
    return body if isinstance(body, bytes) else (body or "").encode()
