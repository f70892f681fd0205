"""Many agents in one process: they keep the protocol of real ones, and leave out all that happens on a node.

One watch serves all of them, where real ones have one each; every agent reads its bundle and reports for itself.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec

from registry_mirror import __version__
from registry_mirror.api.conditions import condition, merge
from registry_mirror.api.models import (
    NodeRegistryConfigStatus,
    RestartStatus,
    RuntimeFacts,
)
from registry_mirror.core import bundle as bundles
from registry_mirror.core.bundle import Bundle
from registry_mirror.kube.clock import now
from registry_mirror.kube.resources import AGENT, BUNDLE_KEY, CONFIGS, SECRETS, Resource
from registry_mirror.kube.rest import from_kubeconfig
from tests.harness.cluster import BUNDLES

CONNECTIONS = 16
_APPLY = "application/apply-patch+yaml"
_WATCH_SECONDS = 3000


class Client:
    """Calls to the API server by many, over a few connections; an async context manager."""

    def __init__(self, kubeconfig: Path, connections: int = CONNECTIONS) -> None:
        self._found = from_kubeconfig(kubeconfig)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        context = ssl.create_default_context(cadata=self._found.ca)
        headers = {"Authorization": f"Bearer {self._found.token}", "Accept": "application/json"}
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=context)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
        self._session = aiohttp.ClientSession(
            self._found.server, connector=connector, headers=headers, timeout=timeout, read_bufsize=2**22
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, bytes]:
        """Give the status and the body of the answer; raises aiohttp.ClientError where there is none."""
        assert self._session is not None
        raw = msgspec.json.encode(body) if body is not None else None
        headers = {"Content-Type": kind} if raw is not None else {}
        async with self._session.request(method, path, data=raw, headers=headers) as answer:
            return answer.status, await answer.read()

    async def apply(
        self, resource: Resource, name: str, body: Mapping[str, Any], manager: str, subresource: str = ""
    ) -> int:
        """Apply on the server; gives the status."""
        query = urlencode({"fieldManager": manager, "force": "true"})
        metadata = {**body.get("metadata", {}), "name": name}
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **body, "metadata": metadata}
        return (await self.call("PATCH", f"{resource.path(name, '', subresource)}?{query}", whole, _APPLY))[0]

    async def watch(self, resource: Resource, version: str) -> AsyncIterator[bytes]:
        """Give the events after a version, undecoded, until the server ends the watch."""
        assert self._session is not None
        query = urlencode({"watch": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)})
        async with self._session.get(f"{resource.path()}?{query}") as answer:
            answer.raise_for_status()
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line


class Told(msgspec.Struct, frozen=True):
    """What an agent reads of its object; what it has itself reported, it knows."""

    class Metadata(msgspec.Struct, frozen=True):
        name: str
        uid: str
        generation: int = 0
        resource_version: str = msgspec.field(name="resourceVersion", default="")

    class Spec(msgspec.Struct, frozen=True, rename="camel"):
        revision: str = ""
        restart_allowed: bool = False

    metadata: Metadata
    spec: Spec = Spec()


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: Told


_EVENT = msgspec.json.Decoder(_Event)
_LIST = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass
class _Agent:
    """What one node has on its disk and in force, as its agent knows it."""

    name: str
    newest: Told
    bundle: Bundle | None = None
    in_force: Mapping[str, str] = field(default_factory=dict)
    good: Bundle | None = None
    restart: RestartStatus | None = None
    status: NodeRegistryConfigStatus = field(default_factory=NodeRegistryConfigStatus)
    task: asyncio.Task[None] | None = None
    again: bool = False

    @property
    def waiting(self) -> tuple[str, ...]:
        settings = self.bundle.start_settings if self.bundle is not None else {}
        names = {*settings, *self.in_force}
        return tuple(sorted(name for name in names if settings.get(name) != self.in_force.get(name)))

    @property
    def rejected(self) -> bool:
        """Whether it went back from what it is told."""
        restart = self.restart
        return restart is not None and restart.result == "RolledBack" and restart.revision == self.newest.spec.revision


class Crowd:
    """The agents of all nodes, until ``stop``; run it as a task.

    ``works`` says whether the runtime of a node starts with a bundle; ``changed`` is set at each report.
    """

    def __init__(
        self,
        kubeconfig: Path,
        facts: RuntimeFacts,
        works: Callable[[str, Bundle], bool] = lambda _name, _bundle: True,
        restart_seconds: float = 0.1,
    ) -> None:
        """Take a kubeconfig, the runtime of all nodes, and how long a start of it takes."""
        self.works = works
        self.changed = asyncio.Event()
        self._kubeconfig = kubeconfig
        self._facts = facts
        self._seconds = restart_seconds
        self._agents: dict[str, _Agent] = {}
        self._bundles: dict[str, Bundle] = {}

    @property
    def statuses(self) -> dict[str, NodeRegistryConfigStatus]:
        """What each node has reported, by name."""
        return {agent.name: agent.status for agent in self._agents.values()}

    async def run(self) -> None:
        """Follow all objects, until cancelled."""
        async with (
            Client(self._kubeconfig) as client,
            Client(self._kubeconfig, 1) as watching,
            asyncio.TaskGroup() as group,
        ):
            _, raw = await client.call("GET", CONFIGS.path())
            page = _LIST.decode(raw)
            for told in msgspec.json.decode(page["items"], type=list[Told]):
                self._see(told, client, group)
            version = msgspec.json.decode(page["metadata"], type=dict[str, Any])["resourceVersion"]
            while True:  # the API server ends the watch of who reads too slowly
                async for line in watching.watch(CONFIGS, version):
                    event = _EVENT.decode(line)
                    version = event.object.metadata.resource_version
                    if event.type == "DELETED":
                        self._agents.pop(event.object.metadata.uid, None)
                    else:
                        self._see(event.object, client, group)

    def _see(self, told: Told, client: Client, group: asyncio.TaskGroup) -> None:
        agent = self._agents.setdefault(told.metadata.uid, _Agent(told.metadata.name, told))
        new = told.metadata.generation != agent.newest.metadata.generation or not agent.status.observed_generation
        agent.newest = told
        if not new:
            return
        if agent.task is not None and not agent.task.done():
            agent.again = True
        else:
            agent.task = group.create_task(self._play(agent, client))

    async def _play(self, agent: _Agent, client: Client) -> None:
        while True:
            agent.again = False
            await self._pass(agent, client)
            if not agent.again:
                return

    async def _pass(self, agent: _Agent, client: Client) -> None:
        spec = agent.newest.spec
        if spec.revision and not agent.rejected and (agent.bundle is None or agent.bundle.revision != spec.revision):
            agent.bundle = await self._read(client, spec.revision)
            if not agent.waiting:
                agent.good = agent.bundle
        await self._report(agent, client)
        if agent.waiting and agent.newest.spec.restart_allowed and not agent.rejected:
            await self._restart(agent, client)

    async def _restart(self, agent: _Agent, client: Client) -> None:
        assert agent.bundle is not None
        agent.restart = RestartStatus(revision=agent.bundle.revision, started_at=now(), result="InProgress")
        await self._report(agent, client)
        await asyncio.sleep(self._seconds)
        if self.works(agent.name, agent.bundle):
            agent.in_force, agent.good, result = agent.bundle.start_settings, agent.bundle, "Succeeded"
        else:
            agent.bundle, result = agent.good, "RolledBack"
        agent.restart = msgspec.structs.replace(agent.restart, result=result, finished_at=now())
        await self._report(agent, client)

    async def _report(self, agent: _Agent, client: Client) -> None:
        metadata, revision = agent.newest.metadata, agent.bundle.revision if agent.bundle is not None else ""
        problem = "RolledBack" if agent.rejected else ""
        at = now()
        found = [
            condition("Applied", bool(revision), problem or "Applied", f"revision {revision} is on the node"),
            condition("RestartRequired", bool(agent.waiting), "StartSettings" if agent.waiting else "NotRequired", ""),
            condition("RuntimeHealthy", True, "Listening", ""),
            condition("Drifted", False, "NoDrift", ""),
            condition("Stalled", bool(problem), problem or "Working", "played" if problem else ""),
        ]
        status = NodeRegistryConfigStatus(
            observed_generation=metadata.generation,
            applied_revision=revision,
            last_good_revision=agent.good.revision if agent.good is not None else "",
            agent_version=__version__,
            runtime=self._facts,
            file_count=len(agent.bundle.files) if agent.bundle is not None else 0,
            waiting_for_restart=agent.waiting,
            restart=agent.restart,
            conditions=merge(agent.status.conditions, found, generation=metadata.generation, now=at),
        )
        if status == agent.status:
            return
        answer = await client.apply(CONFIGS, agent.name, {"status": msgspec.to_builtins(status)}, AGENT, "status")
        if answer in (404, 409):
            return
        if answer != 200:
            raise RuntimeError(f"{agent.name}: the API server answers {answer}")
        agent.status = status
        self.changed.set()

    async def _read(self, client: Client, revision: str) -> Bundle:
        """Every agent reads it; what it says is worked out once."""
        while True:
            status, raw = await client.call("GET", SECRETS.path(f"bundle-{revision}", BUNDLES))
            if status == 200:
                break
            await asyncio.sleep(1)
        if revision not in self._bundles:
            data = msgspec.json.decode(raw)["data"][BUNDLE_KEY]
            self._bundles[revision] = bundles.decode(base64.b64decode(data))
        return self._bundles[revision]
