"""Running a command in a container of a Pod, as ``kubectl exec`` does: WebSocket, protocol v4.channel.k8s.io.

Source: k8s.io/kubelet/pkg/cri/streaming/remotecommand/websocket.go: the first byte of each message is its channel, and
the one for errors ends with a Status that has the exit code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio.stream import WsApiClient
from kubernetes.aio.stream.ws_client import ERROR_CHANNEL, STDERR_CHANNEL, STDOUT_CHANNEL, get_websocket_url
from msgspec import Struct

from ..api.errors import ProblemError
from . import errors
from .client import Api
from .resources import PODS

_PROTOCOL = "v4.channel.k8s.io"
_MOST = 8 * 1024 * 1024


class Answer(Struct, frozen=True, kw_only=True):
    """What a command came to: its exit code, and what it wrote."""

    code: int
    stdout: str
    stderr: str


async def run(api: Api, pod: str, namespace: str, container: str, argv: Sequence[str], timeout: float) -> Answer:
    """Run a command in a container, and wait so many seconds at most for its end.

    Raises ApiError if the API server refuses or cannot be reached, ProblemError if the command cannot be started, does
    not end, or writes too much. It may go on in the container then: nothing tells it that nobody waits any more.
    """
    where = f"in Pod {namespace}/{pod}"
    action = f"run {argv[0]} {where}"
    query = [("container", container), ("stdout", "true"), ("stderr", "true"), *(("command", word) for word in argv)]
    path = f"{PODS.path(pod, namespace, 'exec')}?{urlencode(query)}"
    try:
        async with asyncio.timeout(timeout):
            channels = await _exchange(api, path, action)
    except TimeoutError:
        raise ProblemError("Timeout", f"{action}: it did not end within {timeout:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise errors.unreachable(action, error) from None
    code = _code(channels[ERROR_CHANNEL], action)
    stdout, stderr = (channels[number].decode(errors="replace") for number in (STDOUT_CHANNEL, STDERR_CHANNEL))
    return Answer(code=code, stdout=stdout, stderr=stderr)


async def _exchange(api: Api, path: str, action: str) -> dict[int, bytearray]:
    """Give all that came, by channel."""
    configuration = api.configuration
    # The library's own call neither limits what comes, nor says why a server refuses; its connection is as set up.
    client = WsApiClient(configuration)
    rest = client.rest_client
    headers = {setting["key"]: setting["value"] for setting in (await configuration.auth_settings()).values()}
    channels = {number: bytearray() for number in (STDOUT_CHANNEL, STDERR_CHANNEL, ERROR_CHANNEL)}

    async def refused(response: aiohttp.ClientResponse) -> None:
        if response.status != 101:
            raise errors.from_response(response.status, await response.content.read(65536), action)

    connector = aiohttp.TCPConnector(ssl=rest.ssl_context)
    async with (
        aiohttp.ClientSession(connector=connector, trust_env=True, raise_for_status=refused) as session,
        session.ws_connect(
            get_websocket_url(configuration.host + path),
            headers=headers,
            protocols=(_PROTOCOL,),
            proxy=rest.proxy or None,
            proxy_headers=rest.proxy_headers or None,
            server_hostname=configuration.tls_server_name or None,
        ) as socket,
    ):
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel = channels.get(message.data[0])
            if channel is not None:
                channel += message.data[1:]
            if sum(map(len, channels.values())) > _MOST:
                raise ProblemError("TooLarge", f"{action}: it wrote more than {_MOST >> 20} MiB")
    return channels


class _Cause(Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _Details(Struct, frozen=True):
    causes: tuple[_Cause, ...] = ()


class _Status(Struct, frozen=True):
    """metav1.Status, as far as it is about a command."""

    status: str = ""
    message: str = ""
    details: _Details | None = None


def _code(raw: bytes | bytearray, action: str) -> int:
    """Read the exit code. Raises ProblemError if the command was not run, or its end was not seen."""
    try:
        status = msgspec.json.decode(raw, type=_Status)
    except ValueError:
        raise ProblemError("ExecFailed", f"{action}: the connection ended before the command did") from None
    if status.status == "Success":
        return 0
    for cause in status.details.causes if status.details is not None else ():
        if cause.reason == "ExitCode" and cause.message.isdigit():
            return int(cause.message)
    raise ProblemError("ExecFailed", f"{action}: {status.message or 'the command was not run'}"[:1000])
