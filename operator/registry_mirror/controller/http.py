"""/healthz, /readyz and /metrics."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ..api.errors import FieldError, InvalidError
from .metrics import Metrics

_STUCK = 120.0


async def serve(
    address: str, metrics: Metrics, lag: Callable[[], float], is_ready: Callable[[], bool]
) -> web.AppRunner:
    """Listen on ``host:port``; gives what to clean up in the end.

    ``lag`` gives for how many seconds work has been due. Healthy is who is not stuck; ready is who has read everything,
    or stands by: an update of two controllers waits for either. Raises InvalidError for a bad address.
    """

    async def healthz(_: web.Request) -> web.Response:
        late = lag()
        if late > _STUCK:
            return web.Response(status=500, text=f"work has been due for {late:.0f} s\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if not is_ready():
            return web.Response(status=503, text="the cluster has not been read yet\n")
        return web.Response(text="ok\n")

    async def show(_: web.Request) -> web.Response:
        lag()  # brings the gauges of the queue up to date
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", show)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, _, port = address.rpartition(":")
    try:
        await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
    except (ValueError, OSError) as error:
        await runner.cleanup()
        found = FieldError("--http-address", repr(address), f"write a free HOST:PORT ({error})")
        raise InvalidError("controller", (found,)) from None
    return runner
