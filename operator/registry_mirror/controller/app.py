"""The controller's life: lead, read everything once, then follow the watches, work off the queue and answer health
checks.

Who stands by reads nothing but the Lease, and everything once it leads: what it knew before would have to be read again
all the same, for only a list that was begun after the Lease was taken shows all that the leader before us has done. A
thousand nodes are listed in less time than a standing-by controller takes to look at the Lease again.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from ..api.errors import InvalidError, ProblemError
from ..kube.client import Api, load_configuration
from ..kube.clock import now
from ..kube.errors import ApiError
from ..kube.resources import CONFIG_MAPS, SECRETS, Resource
from .election import Election
from .http import serve
from .metrics import Metrics
from .observe import Observer
from .reconcile import Reconciler
from .store import WATCHED, Store
from .watches import Watches

_log = logging.getLogger(__name__)

DIGEST_KEY = "registry-mirror-digest-key"
_KEY_BYTES = 32
_FIRST_RELIST = 5.0
_LEASE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """``identity`` is who we are in the Lease, or empty to work without one, which is for a controller that is alone;
    ``relist`` is how often, in seconds, everything is read anew; ``workers`` how many keys are worked on at once.
    """

    namespace: str
    bundle_namespace: str
    http_address: str
    identity: str = ""
    relist: float = 300.0
    workers: int = 16


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises InvalidError if there is no cluster to work for, TransientError if
    the watches end or the Lease is lost.
    """
    configuration = await load_configuration()
    configuration.connection_pool_maxsize = settings.workers + 8
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics()
    if not settings.identity:
        metrics.leader.set(1)
        async with Api(configuration) as api:
            await _Controller(settings, api, configuration, stop, metrics).run()
        return
    # Connections of its own: no renewal waits behind other calls.
    async with Api(configuration, timeout=_LEASE_TIMEOUT) as leases:
        election = Election(leases, settings.namespace, settings.identity, metrics.leader.set)
        async with Api(configuration, election.time_left) as api:
            await _Controller(settings, api, configuration, stop, metrics, election).run()


class _Controller:
    def __init__(
        self,
        settings: Settings,
        api: Api,
        configuration: Configuration,
        stop: asyncio.Event,
        metrics: Metrics,
        election: Election | None = None,
    ) -> None:
        self._settings = settings
        self._api = api
        self._configuration = configuration
        self._stop = stop
        self._store = Store()
        self._metrics = metrics
        self._election = election
        self._reconciler: Reconciler | None = None

    async def run(self) -> None:
        server = await serve(self._settings.http_address, self._metrics, self._lag, self._ready)
        try:
            await self._until_stopped(self._work() if self._election is None else self._election.run(self._lead))
        finally:
            await server.cleanup()

    async def _lead(self) -> None:
        try:
            await self._work()
        finally:
            Observer(self._metrics).clear()

    async def _until_stopped(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        waiter = asyncio.ensure_future(self._stop.wait())
        done, _ = await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if task not in done:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            _log.info("stopped")
        except ExceptionGroup as group:
            # The first says it all: what else was running was cancelled because of it.
            first = group.exceptions[0]
            raise first if isinstance(first, ProblemError) else group from None

    async def _work(self) -> None:
        key = await self._patiently(self._digest_key)
        reconciler = Reconciler(
            self._store,
            self._api,
            self._metrics,
            key=key,
            bundle_namespace=self._settings.bundle_namespace,
            now=now,
            ledger=self._election,
        )
        await self._patiently(lambda: self._relist(None))
        await self._patiently(reconciler.recover)
        self._reconciler = reconciler
        reconciler.resync()
        _log.info("ready: %d mirrors, %d nodes", len(self._store.mirrors), len(self._store.nodes))
        async with asyncio.TaskGroup() as group:
            group.create_task(reconciler.queue.run(self._settings.workers))
            group.create_task(self._relist_forever(reconciler))
            group.create_task(self._watch(reconciler))

    async def _patiently(self, action: Any) -> Any:
        """Try until the API server lets it succeed: it may start later than we do, and so may the CRDs come later."""
        delay = 0.5
        while True:
            try:
                return await action()
            except ApiError as error:
                _log.warning("%s; trying again in %.0f s", error.message, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 30.0)

    async def _digest_key(self) -> bytes:
        """Read the key of all digests, or make it; it must outlive us, or every node would get a new revision."""
        namespace = self._settings.namespace
        value = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
        body = {"metadata": {"name": DIGEST_KEY}, "immutable": True, "data": {"key": value}}
        found = await self._api.get(SECRETS, DIGEST_KEY, namespace)
        if found is None:
            await self._api.create(SECRETS, body, namespace)
            found = await self._api.get(SECRETS, DIGEST_KEY, namespace)
        data = (found or {}).get("data") or {}
        key = base64.b64decode(data.get("key", ""))
        if not 16 <= len(key) <= 64:
            raise ApiError(0, "DigestKeyInvalid", f"Secret {namespace}/{DIGEST_KEY} has no key of 16 to 64 bytes")
        return key

    # ---- watches and lists ---------------------------------------------------------------------------------------

    def _namespace_of(self, resource: Resource) -> str:
        return self._settings.namespace if resource in (SECRETS, CONFIG_MAPS) else ""

    async def _relist(self, reconciler: Reconciler | None) -> None:
        for resource in WATCHED:
            bodies, version = await self._api.list(resource, self._namespace_of(resource))
            for name in self._store.replace(resource, bodies, version):
                if reconciler is not None:
                    reconciler.changed(resource, name)

    async def _relist_forever(self, reconciler: Reconciler) -> None:
        # Soon at first: what was deleted between our first list and the first list of the watches, neither tells.
        delay = _FIRST_RELIST
        while True:
            await asyncio.sleep(delay)
            delay = self._settings.relist
            try:
                await self._relist(reconciler)
                reconciler.resync()
            except ApiError as error:
                _log.warning("%s", error.message)

    async def _watch(self, reconciler: Reconciler) -> None:
        """Follow the watches until cancelled; raises whatever ends them otherwise."""

        def seen(resource: Resource, event: Mapping[str, Any]) -> None:
            self._seen(reconciler, resource, event)

        watches = Watches(self._settings.namespace, WATCHED, seen, self._credentials)
        try:
            await watches.run()
        finally:
            watches.stop()

    def _seen(self, reconciler: Reconciler, resource: Resource, event: Mapping[str, Any]) -> None:
        body = event["object"]
        deleted = event["type"] == "DELETED"
        try:
            if self._store.drop(resource, body) if deleted else self._store.put(resource, body):
                reconciler.changed(resource, body["metadata"]["name"])
        except InvalidError as error:
            _log.warning("%s", error.message)

    async def _credentials(self) -> kopf.ConnectionInfo:
        """Say to kopf what the official client has read, and reads again in a pod when the token is rotated."""
        configuration = self._configuration
        settings: dict[str, Any] = next(iter((await configuration.auth_settings()).values()), {})
        scheme, _, token = str(settings.get("value", "")).partition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            ca_data=configuration.ca_cert_data,
            insecure=not configuration.verify_ssl,
            scheme=scheme or None,
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    def _lag(self) -> float:
        """For how long work has been due, or the Lease has not been looked after, in seconds."""
        lag = 0.0
        if self._reconciler is not None:
            self._metrics.depth.set(len(self._reconciler.queue))
            lag = self._reconciler.queue.lag()
        self._metrics.lag.set(lag)
        return max(lag, self._election.lag() if self._election is not None else 0.0)

    def _ready(self) -> bool:
        """Whether everything has been read once, or somebody else leads."""
        return self._reconciler is not None or (self._election is not None and self._election.waits)
