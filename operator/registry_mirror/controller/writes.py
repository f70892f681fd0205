"""What nodes are told, written so that no write can come late and do harm.

Each write is good for one resourceVersion of its object only. A write that was never answered is made void by bringing
its object to another version (``learn``), and a leader announces in its Lease whose objects it is about to write, so
that the next one knows which these are. Whatever delays a write (a slow network, a process that was stopped in the
middle of it), it comes before the picture that the next pass decides by, or never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ..api.errors import ProblemError
from ..api.models import GROUP, NodeRegistryConfig, NodeRegistryConfigSpec
from ..kube.client import Api
from ..kube.errors import ApiError
from ..kube.resources import CONFIGS, CONTROLLER, Resource
from .election import Ledger
from .lease import ALL
from .store import Store

_AT_ONCE = 16
_TRIES = 5
# The version that the object had when what was under way to it was made void. A manager of its own: the controller's
# next apply, which does not name it, must not take it for one more change.
_VOIDED = f"{GROUP}/voided"
_VOIDS = f"{CONTROLLER}-voids"
_GONE, _UNDECIDED, _CONFLICT = 404, 408, 409
_ANOTHER = 422  # among others: the object has another UID (Kubernetes 1.36)


@dataclass(frozen=True, slots=True)
class Order:
    """What one node is told: its object as it was when that was decided, with its resourceVersion, and the new spec."""

    config: NodeRegistryConfig
    version: str
    spec: NodeRegistryConfigSpec

    @property
    def grants(self) -> bool:
        """Whether it allows a restart that was not allowed before."""
        return self.spec.restart_allowed and not self.config.spec.restart_allowed


class Writes:
    """Writes to NodeRegistryConfigs, and which of them were not answered."""

    def __init__(self, store: Store, api: Api, count: Callable[[Resource], None], ledger: Ledger) -> None:
        """Take the picture of the cluster, the API server, what is told of each write, and where to announce them."""
        self._store = store
        self._api = api
        self._count = count
        self._ledger = ledger
        # Which write may or may not have happened, or still happen, and for which version it was (empty: any).
        self._unknown = dict.fromkeys(ledger.inherited, "")

    async def learn(self) -> None:
        """Have every write answered that was not: read its object, and see to it that the write cannot come any more.
        Raises ProblemError if that cannot be done now.
        """
        if ALL in self._unknown:
            # Whoever wrote it saw it: what was made since is no concern of theirs.
            self._unknown.update(dict.fromkeys(self._store.configs, ""))
            del self._unknown[ALL]
        _raise(await _each(list(self._unknown), self._void))
        self._ledger.settle(self._unknown)

    async def announce(self, names: Collection[str]) -> None:
        """Say whose objects are written next. Raises ApiError if nothing may be written."""
        await self._ledger.announce({*names, *self._unknown})

    async def write(self, orders: Mapping[str, Order]) -> bool:
        """Write all of them; gives False if an object had changed meanwhile: decide anew then.

        Raises ProblemError if a write failed; all others were made then.
        """
        current = True

        async def one(name: str) -> ProblemError | None:
            nonlocal current
            problem = await self._one(name, orders[name])
            if problem is None or problem.status not in (_GONE, _CONFLICT, _ANOTHER):
                return problem
            try:
                body = await self._read(name)
            except ProblemError as error:
                return error
            if problem.status == _ANOTHER and body and body["metadata"]["uid"] == orders[name].config.metadata.uid:
                return problem
            current = False
            return None

        try:
            _raise(await _each(orders, one))
        finally:
            self._ledger.settle(self._unknown)
        return current

    async def _one(self, name: str, order: Order) -> ApiError | None:
        # The uid: an object that has gone meanwhile must not come back.
        metadata = _metadata(order.config.metadata.uid, order.version)
        metadata["ownerReferences"] = _owners(order.config)
        self._unknown[name] = order.version
        body = {"metadata": metadata, "spec": msgspec.to_builtins(order.spec)}
        try:
            answer = await self._api.apply(CONFIGS, name, body, manager=CONTROLLER)
        except ApiError as error:
            if 400 <= error.status < 500 and error.status != _UNDECIDED:
                del self._unknown[name]
            return error
        del self._unknown[name]
        self._count(CONFIGS)
        self._store.put(CONFIGS, answer)
        return None

    async def _read(self, name: str) -> Mapping[str, Any] | None:
        body = await self._api.get(CONFIGS, name)
        if body is None:
            self._store.forget(CONFIGS, name)
        else:
            self._store.put(CONFIGS, body)
        return body

    async def _void(self, name: str) -> ProblemError | None:
        sent = self._unknown[name]
        try:
            for _ in range(_TRIES):
                body = await self._read(name)
                if body is None or await self._moved(body["metadata"], sent):
                    del self._unknown[name]
                    return None
        except ProblemError as error:
            return error
        return ApiError(_CONFLICT, "Conflict", f"NodeRegistryConfig {name} changes all the time")

    async def _moved(self, metadata: Mapping[str, Any], sent: str) -> bool:
        """Whether the object is at another version than a write was for, and known to us at that version."""
        name, version = metadata["name"], metadata["resourceVersion"]
        if sent and sent != version:
            return True
        change = {**_metadata(metadata["uid"], version), "annotations": {_VOIDED: version}}
        try:
            self._store.put(CONFIGS, await self._api.apply(CONFIGS, name, {"metadata": change}, manager=_VOIDS))
        except ApiError as error:
            if error.status not in (_GONE, _CONFLICT):
                raise
            return False
        self._count(CONFIGS)
        return True


async def _each(names: Iterable[str], action: Callable[[str], Awaitable[ProblemError | None]]) -> list[ProblemError]:
    """Do it for each, some at a time; gives what went wrong."""
    waiting, problems = iter(list(names)), []

    async def work() -> None:
        for name in waiting:
            problem = await action(name)
            if problem is not None:
                problems.append(problem)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return problems


def _raise(problems: list[ProblemError]) -> None:
    if problems:
        raise problems[0]


def _metadata(uid: str, version: str) -> dict[str, Any]:
    return {"uid": uid, **({"resourceVersion": version} if version else {})}


def _owners(config: NodeRegistryConfig) -> list[dict[str, str]]:
    return [
        {"apiVersion": "v1", "kind": owner.kind, "name": owner.name, "uid": owner.uid}
        for owner in config.metadata.owner_references
        if owner.kind == "Node"
    ]
