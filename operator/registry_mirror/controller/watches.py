"""kopf's watches, in a thread and an event loop of their own.

kopf takes an event loop for its own: it replaces signal handlers, and when it stops it waits for every task that it
finds there and then cancels it (run_tasks in kopf 1.45). Handlers do nothing but hand the event over.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import kopf

from ..api.errors import TransientError
from ..kube.resources import Resource

Seen = Callable[[Resource, Mapping[str, Any]], None]
Credentials = Callable[[], Awaitable[kopf.ConnectionInfo]]


class Watches:
    """Events of a set of resources. ``seen`` is called in the loop that ``run`` is awaited in."""

    def __init__(self, namespace: str, resources: Iterable[Resource], seen: Seen, credentials: Credentials) -> None:
        """Take the namespace for namespaced resources, and what gives the credentials, which is asked again when the
        API server takes them no more. They name the API server: kopf's own, in a pod, look it up in the cluster's DNS,
        whose images may be what nodes cannot pull without us (login_with_service_account in kopf 1.45).
        """
        self._namespace = namespace
        self._resources = tuple(resources)
        self._seen = seen
        self._credentials = credentials
        self._stop = threading.Event()

    async def run(self) -> None:
        """Watch until cancelled; raises TransientError when the watches end."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def finish(error: BaseException | None) -> None:
            if not ended.done():
                text = f"the watches ended: {error or 'they were stopped'}"
                ended.set_exception(TransientError("WatchesEnded", text))

        def work() -> None:
            error = None
            try:
                asyncio.run(self._operate(loop))
            except BaseException as caught:
                error = caught
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, error)

        # A daemon: nothing that kopf may still wait for keeps the process from ending.
        threading.Thread(target=work, name="kopf", daemon=True).start()
        await ended

    def stop(self) -> None:
        """Have the watches end; does not wait for it."""
        self._stop.set()

    async def _operate(self, loop: asyncio.AbstractEventLoop) -> None:
        registry = kopf.OperatorRegistry()
        for resource in self._resources:
            self._register(registry, resource, loop)

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return await self._credentials()

        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True  # it would take permission to read all CRDs and namespaces
        settings.watching.server_timeout = 300
        # kopf (1.45) keeps a task and a queue for each object that was changed, for so long after: with 1,000 nodes and
        # its 5 s that is 20 MB, while what is done here for a change takes no time at all.
        settings.queueing.idle_timeout = 0.05
        await kopf.operator(
            registry=registry, settings=settings, standalone=True, namespaces=[self._namespace], stop_flag=self._stop
        )

    def _register(self, registry: kopf.OperatorRegistry, resource: Resource, loop: asyncio.AbstractEventLoop) -> None:
        @kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=resource.plural)
        async def hand_over(event: Mapping[str, Any], **_: Any) -> None:
            loop.call_soon_threadsafe(self._seen, resource, event)
