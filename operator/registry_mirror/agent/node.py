"""One pass over one node: detect, fetch the bundle, apply it, and give the status to report."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Protocol

from msgspec.structs import replace

from .. import __version__
from ..api.conditions import Condition, condition, merge
from ..api.errors import FieldError, InvalidError, ProblemError, WaitingError
from ..api.models import (
    FileStatus,
    NodeRegistryConfig,
    NodeRegistryConfigStatus,
    RuntimeFacts,
    RuntimeName,
)
from ..core import bundle as bundles
from ..core.bundle import Bundle
from ..kube.resources import BUNDLE_KEY, SECRETS, Resource
from . import state as memory
from .apply import Outcome, apply, runtime_started, waiting_for_restart
from .detect import detect
from .host import Host, HostError
from .state import State

# Where each runtime makes its socket when it starts (runtimes.md, Restart and health).
_SOCKETS: Mapping[RuntimeName, str] = {
    "k3s": "/run/k3s/containerd/containerd.sock",
    "rke2": "/run/k3s/containerd/containerd.sock",
    "containerd": "/run/containerd/containerd.sock",
    "crio": "/run/crio/crio.sock",
}

_MAX_WAITING = 512  # as the schema has it


class Secrets(Protocol):
    """What a pass needs of the API server."""

    def get(self, resource: Resource, name: str, namespace: str = "") -> dict[str, object] | None:
        """Give an object, or None; raises ApiError."""


class Node:
    """The agent's view of its own node, from pass to pass."""

    def __init__(self, host: Host, secrets: Secrets, bundle_namespace: str, runtime: RuntimeName | None) -> None:
        """Take the host's files, the API server, the namespace of bundles, and the runtime (None: find it)."""
        self._host = host
        self._secrets = secrets
        self._namespace = bundle_namespace
        self._runtime = runtime
        self._bundle: Bundle | None = None

    def reconcile(self, config: NodeRegistryConfig, now: str) -> tuple[NodeRegistryConfigStatus, ProblemError | None]:
        """Make the node as the object says; gives the status to report, and what went wrong if the pass is to be tried
        again. Takes the present time (RFC 3339). Never raises for what can go wrong on a node.
        """
        old = config.status
        facts: RuntimeFacts | None = None
        state: State | None = None
        problem: ProblemError | None = None
        outcome = Outcome()
        try:
            before = memory.load(self._host)
            facts = detect(self._host, self._runtime, before)
            socket = _SOCKETS.get(facts.name)
            state = runtime_started(before, self._host.modified(socket) if socket else None)
            if state != before and before.revision:  # a node that was never given anything is left alone
                memory.save(self._host, state)
            if config.spec.bundle is not None:
                wanted = self._fetch(config.spec.bundle.name, config.spec.revision)
                state, outcome = apply(self._host, state, wanted, facts)
        except ProblemError as error:
            problem = error
        status = self._status(config, facts, state, problem, outcome)
        conditions = merge(old.conditions, status.conditions, generation=config.metadata.generation, now=now)
        return replace(status, conditions=conditions), problem

    def _fetch(self, name: str, revision: str) -> Bundle:
        if self._bundle is not None and self._bundle.revision == revision:
            return self._bundle
        secret = self._secrets.get(SECRETS, name, self._namespace)
        if secret is None:
            raise WaitingError("BundleNotFound", f"Secret {self._namespace}/{name} is not there yet", after=5.0)
        data = secret.get("data")
        try:
            raw = base64.b64decode(data[BUNDLE_KEY] if isinstance(data, dict) else "", validate=True)
        except (KeyError, TypeError, ValueError):
            raw = b""
        found = bundles.decode(raw)
        if found.revision != revision or found.name != name:
            error = FieldError("revision", found.revision[:64], f"the NodeRegistryConfig names {revision}")
            raise InvalidError(f"bundle {name}", (error,), "BundleInvalid")
        self._bundle = found
        return found

    def _status(
        self,
        config: NodeRegistryConfig,
        facts: RuntimeFacts | None,
        state: State | None,
        problem: ProblemError | None,
        outcome: Outcome,
    ) -> NodeRegistryConfigStatus:
        old = config.status
        applied = state.revision if state is not None else old.applied_revision
        waiting = waiting_for_restart(state) if state is not None else old.waiting_for_restart
        in_place = problem is None and self._bundle is not None and self._bundle.revision == applied
        files = (
            tuple(FileStatus(path=file.path, digest=file.digest) for file in self._bundle.files)
            if self._bundle and in_place
            else old.files
        )
        return NodeRegistryConfigStatus(
            observed_generation=config.metadata.generation,
            applied_revision=applied,
            last_good_revision=applied if not waiting else old.last_good_revision,
            agent_version=__version__,
            runtime=facts if facts is not None else old.runtime,
            files=files,
            waiting_for_restart=waiting[:_MAX_WAITING],
            conditions=_conditions(config, applied, waiting, problem, outcome),
        )


def _conditions(
    config: NodeRegistryConfig, applied: str, waiting: tuple[str, ...], problem: ProblemError | None, outcome: Outcome
) -> tuple[Condition, ...]:
    wanted = config.spec.revision
    if problem is not None:
        done = condition("Applied", False, problem.reason, problem.message)
    elif not wanted or config.spec.bundle is None:
        done = condition("Applied", False, "NoRevision", "the controller has not given this node a revision yet")
    else:
        done = condition("Applied", applied == wanted, "Applied", f"revision {applied} is on the node")
    # A full disk or a link in the path takes somebody to mend it; an API server that does not answer comes back.
    if isinstance(problem, InvalidError | HostError):
        stalled = condition("Stalled", True, problem.reason, problem.message)
    else:
        stalled = condition("Stalled", False, "Working", "")
    if waiting:
        text = f"restart the runtime to bring into force: {', '.join(waiting)}"
        restart = condition("RestartRequired", True, "StartSettings", text)
    else:
        restart = condition("RestartRequired", False, "NotRequired", "")
    return (done, restart, _drifted(config, outcome), stalled)


def _drifted(config: NodeRegistryConfig, outcome: Outcome) -> Condition:
    """A repair stays visible until the next revision, so that a tool that keeps changing files is noticed."""
    if outcome.repaired:
        text = f"changed by something else and repaired: {', '.join(outcome.repaired[:5])}"
        return condition("Drifted", False, "Repaired", text)
    for item in config.status.conditions:
        if (
            item.type == "Drifted"
            and item.reason == "Repaired"
            and item.observed_generation == config.metadata.generation
        ):
            return condition("Drifted", False, item.reason, item.message)
    return condition("Drifted", False, "NoDrift", "")
