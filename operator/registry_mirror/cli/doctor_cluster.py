"""``registry-mirror doctor`` of a cluster, or of one node of it: what can be read is read, and nothing is changed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from ..api.errors import ProblemError
from ..api.models import NodeRegistryConfig, RegistryMirrorPolicySpec, RuntimeFacts
from ..controller.store import NodeInfo, Store
from ..core.cluster_diagnosis import install, pulls as pull
from ..core.cluster_diagnosis.picture import AgentPod, MirrorSeen, NodeSeen, Parts, Picture, Pulls
from ..core.cluster_diagnosis.whole import diagnosed, diagnosed_node, narrowed
from ..core.finding import Examined, Finding, ordered
from ..core.overview import overview
from ..core.resolve import Source, SourceKind, references, source
from ..core.words import counted, some
from ..kube.client import Api
from ..kube.errors import ApiError
from ..kube.resources import (
    AGENT,
    CONFIG_MAPS,
    CONTROLLER,
    LEASES,
    PODS,
    SECRETS,
    SYSTEM_NAMESPACE,
    Resource,
)
from .cluster import connect, explained, read
from .remote import AGENTS, is_ready, on_node, told
from .status import leader_of, summary

_SOURCES: dict[SourceKind, Resource] = {"Secret": SECRETS, "ConfigMap": CONFIG_MAPS}
_NAMESPACES = Resource("", "v1", "namespaces", "Namespace")
_WORKLOADS = {
    "Deployment": (Resource("apps", "v1", "deployments", "Deployment"), CONTROLLER),
    "DaemonSet": (Resource("apps", "v1", "daemonsets", "DaemonSet"), AGENT),
}
_CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
_ADMISSION = "admissionregistration.k8s.io"
_POLICIES = Resource(_ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy")
_BINDINGS = Resource(_ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding")
_AT_ONCE = 10
_MOST_SECRETS = 50
_ON_NODE = 120.0  # seconds, for `doctor --local`, which has deadlines of its own

Json = Mapping[str, Any]
Objects = dict[str, Json | None]
_T = TypeVar("_T")


def cluster(node: str, kubeconfig: str, context: str) -> Examined:
    """Examine a cluster, or that node of it if a name is given. Raises ProblemError."""
    return asyncio.run(_examined(node, kubeconfig, context))


async def _examined(node: str, kubeconfig: str, context: str) -> Examined:
    async with await connect(kubeconfig, context) as api:
        reader = _Reader(api)
        return await (_one(api, reader, node) if node else _all(reader))


async def _all(reader: _Reader) -> Examined:
    seen = await reader.picture()
    pulls, pulled = await reader.pulls(seen)
    seen = replace(seen, parts=await reader.parts(), pulls=pulls, pulled=pulled)
    return _shown(seen, reader.notes, diagnosed(seen))


async def _one(api: Api, reader: _Reader, node: str) -> Examined:
    seen = await reader.picture()
    if seen.nodes is not None and node not in seen.nodes:
        raise ProblemError("", f"no node {node}: there are {some(sorted(seen.nodes), most=10)}")
    seen = narrowed(seen, node)
    # Of the mirrors, only what they say of this node counts.
    leader = seen.overview.leader
    seen = replace(seen, overview=overview((), seen.configs.values(), {node}, leader))
    found = _shown(seen, reader.notes, diagnosed_node(seen))
    try:
        there = await _on_node(api, node)
    except ProblemError as error:
        note = f"the node itself was not examined: {error.message}"
        return replace(found, notes=(*found.notes, note))
    return _joined(found, there, node)


async def _on_node(api: Api, node: str) -> Examined:
    answer = await on_node(api, node, ["doctor", "--local", "-o", "json"], _ON_NODE)
    try:
        return msgspec.json.decode(answer.stdout, type=Examined)
    except (msgspec.DecodeError, msgspec.ValidationError):
        said = " ".join(answer.stderr.split())[:500] or "nothing"
        raise ProblemError("", f"registry-mirror doctor there ended with {answer.code}, and said: {said}") from None


def _joined(found: Examined, there: Examined, node: str) -> Examined:
    """Put together what the cluster and the node itself know; of the same thing, the node knows more."""
    known = {item.reason for item in there.findings} | {"EndpointUnreachable"}
    own = [item for item in found.findings if item.reason not in known]
    return Examined(
        nodes=(node,),
        runtimes=there.runtimes or found.runtimes,
        files=there.files,
        endpoints=there.endpoints,
        notes=(*found.notes, *there.notes),
        findings=ordered([*own, *(replace(item, node=node) for item in there.findings)]),
    )


def _shown(seen: Picture, notes: Iterable[str], findings: tuple[Finding, ...]) -> Examined:
    runtimes = Counter(_runtime(item.status.runtime) for item in seen.configs.values() if item.status.runtime)
    several = len(seen.configs) > 1
    asked = {item.url for config in seen.configs.values() for item in config.status.endpoints}
    return Examined(
        nodes=tuple(sorted(seen.nodes if seen.nodes is not None else seen.configs)),
        runtimes=tuple(f"{name} on {counted(count)}" if several else name for name, count in sorted(runtimes.items())),
        endpoints=tuple(sorted(asked)),
        notes=tuple(notes),
        findings=findings,
    )


def _runtime(facts: RuntimeFacts | None) -> str:
    return f"{facts.name} {facts.version}".strip() if facts is not None else ""


# ---- reading -----------------------------------------------------------------------------------------------------


class _Reader:
    """Reads what may be read."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._notes: list[str] = []
        self._unread: list[str] = []

    @property
    def notes(self) -> list[str]:
        """What could not be looked at, and why."""
        unread = f"nothing is known of what you may not read: {', '.join(sorted(self._unread))}"
        return [*self._notes, *([unread] if self._unread else [])]

    async def picture(self) -> Picture:
        """Give the operator's objects, the nodes, the agents' Pods, and what mirrors refer to. Raises ProblemError."""
        store, notes = await read(self._api)
        self._notes += notes
        lease = await self._may(self._api.get(LEASES, CONTROLLER, SYSTEM_NAMESPACE), "who leads the controllers")
        leader = leader_of(lease[0], time.time()) if lease is not None else None
        return Picture(
            now=time.time(),
            mirrors={name: _mirror(store, name) for name in store.mirrors},
            configs={name: _complete(store, config) for name, config in store.configs.items()},
            nodes={name: _node(node) for name, node in store.nodes.items()} or None,
            policy=store.policy.spec if store.policy is not None else RegistryMirrorPolicySpec(),
            overview=summary(store, store, "", leader, notes),
            sources=await self._sources(store),
            agents=await self._agents(),
        )

    async def _may(self, call: Awaitable[_T], what: str) -> tuple[_T] | None:
        """Give what a call gives, in a tuple; None where it is not allowed, as ``notes`` say. Raises ApiError."""
        try:
            async with self._slots:
                return (await call,)
        except ApiError as error:
            if error.status != 403:
                raise
            if what not in self._unread:
                self._unread.append(what)
            return None

    async def _named(self, resource: Resource, names: Iterable[str], namespace: str = "") -> Objects | None:
        """Give objects by name, or None if they may not be read."""
        found: Objects = {}
        for name in names:
            body = await self._may(self._api.get(resource, name, namespace), resource.plural)
            if body is None:
                return None
            found[name] = body[0]
        return found

    async def _sources(self, store: Store) -> dict[tuple[SourceKind, str], Source | None]:
        mirrors = [info.mirror for info in store.mirrors.values() if info.mirror is not None]
        wanted = sorted({item for mirror in mirrors for item in references(mirror)})
        found: dict[tuple[SourceKind, str], Source | None] = {}

        async def one(kind: SourceKind, name: str) -> None:
            resource = _SOURCES[kind]
            what = f"{resource.plural} in {SYSTEM_NAMESPACE}"
            body = await self._may(self._api.get(resource, name, SYSTEM_NAMESPACE), what)
            if body is not None:
                found[kind, name] = source({**body[0], "kind": kind}) if body[0] is not None else None

        await asyncio.gather(*(one(kind, name) for kind, name in wanted))
        return found

    async def _agents(self) -> dict[str, AgentPod] | None:
        what = f"pods in {SYSTEM_NAMESPACE}"
        listed = await self._may(self._api.list(PODS, SYSTEM_NAMESPACE, labelSelector=AGENTS), what)
        if listed is None:
            return None
        found: dict[str, AgentPod] = {}
        for body in listed[0][0]:
            node, ready = body["spec"].get("nodeName", ""), is_ready(body)
            if node and (ready or node not in found):
                found[node] = AgentPod(name=body["metadata"]["name"], ready=ready, told="" if ready else told(body))
        return found

    # ---- the installation ----------------------------------------------------------------------------------------

    async def parts(self) -> Parts:
        """Give what an installation has."""
        workloads: Objects = {}
        for kind, (resource, name) in _WORKLOADS.items():
            body = await self._named(resource, [name], SYSTEM_NAMESPACE)
            if body is not None:
                workloads[kind] = body[name]
        return Parts(
            namespaces=await self._named(_NAMESPACES, install.NAMESPACES),
            workloads=workloads or None,
            crds=await self._named(_CRDS, install.SPECS),
            policies=await self._admission(_POLICIES),
            bindings=await self._admission(_BINDINGS),
        )

    async def _admission(self, resource: Resource) -> Objects | None:
        """None on clusters before Kubernetes 1.30, which do not know them."""
        try:
            listed = await self._may(self._api.list(resource), resource.plural)
        except ApiError as error:
            if error.status != 404:
                raise explained(error, resource) from None
            return None
        if listed is None:
            return None
        found = {body["metadata"]["name"]: body for body in listed[0][0]}
        return {name: found.get(name) for name in install.POLICIES}

    # ---- pull secrets --------------------------------------------------------------------------------------------

    async def pulls(self, seen: Picture) -> tuple[tuple[Pulls, ...], frozenset[str]]:
        """Give the pull secrets with which Pods pull from registries that have a mirror, and the registries of all
        Pods; nothing if there is no mirror.
        """
        registries = {spec.registry for _, spec in seen.specs() if spec.endpoints}
        if not registries:
            return (), frozenset()
        listed = await self._may(self._api.list(PODS), "pods in all namespaces")
        if listed is None:
            return (), frozenset()
        found: dict[tuple[str, str], set[str]] = {}
        pulled: set[str] = set()
        for namespace, name, registry in pull.pulls(listed[0][0]):
            pulled.add(registry)
            if name and not registries.isdisjoint((registry, "*")):
                found.setdefault((namespace, name), set()).add(registry)
        chosen = sorted(found.items())[:_MOST_SECRETS]
        made = await asyncio.gather(*(self._pull(*key, names) for key, names in chosen))
        return tuple(item for item in made if item.registries), frozenset(pulled)

    async def _pull(self, namespace: str, name: str, registries: set[str]) -> Pulls:
        body = await self._may(self._api.get(SECRETS, name, namespace), "pull secrets")
        if body is None:
            return Pulls(namespace=namespace, name=name, registries=frozenset(registries), certain=False)
        hosts = pull.hosts_of(source({**body[0], "kind": "Secret"}).data) if body[0] is not None else ()
        known = frozenset(item for item in registries if pull.has_entry(hosts, item))
        return Pulls(namespace=namespace, name=name, registries=known)


def _mirror(store: Store, name: str) -> MirrorSeen:
    info = store.mirrors[name]
    return MirrorSeen(
        name=name,
        created=info.metadata.creation_timestamp,
        spec=info.mirror.spec if info.mirror is not None else None,
        status=info.status,
    )


def _node(node: NodeInfo) -> NodeSeen:
    return NodeSeen(name=node.name, labels=node.labels, created=node.created_at, ready=node.ready, tainted=node.tainted)


def _complete(store: Store, config: NodeRegistryConfig) -> NodeRegistryConfig:
    """With the versions that the kubelet knows."""
    node, facts = store.node(config.metadata.name), config.status.runtime
    if node is None or facts is None:
        return config
    return replace(config, status=replace(config.status, runtime=node.complete(facts)))
