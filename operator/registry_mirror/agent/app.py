"""The agent's life: follow one object, reconcile when it changes and every so often, report, until told to stop."""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import signal
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

import msgspec

from ..api import parse
from ..api.errors import InvalidError, ProblemError, WaitingError
from ..api.models import NodeRegistryConfig, NodeRegistryConfigStatus
from ..kube.clock import now
from ..kube.errors import ApiError
from ..kube.resources import AGENT, CONFIGS
from ..kube.rest import Rest
from .confinement import Confinement
from .node import Node
from .report import refused

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 300
_SHORT_WATCH = 5.0  # one that ends sooner is not repeated at once: something between us and the server ends it
_BACKOFF = (1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Settings:
    """``resync`` is how often, in seconds, the files are compared with what they should be without being asked;
    ``confined``: the agent does not work where the API server lets it speak for other nodes. The host puts back by
    itself what was there before us when it has seen no agent for ``restore_when_gone`` seconds; 0: never.
    """

    node_name: str
    resync: float = 30.0
    confined: bool = True
    restore_when_gone: float = 0


class Agent:
    """One agent process. ``run`` returns after ``stop``, or after SIGTERM or SIGINT."""

    def __init__(self, rest: Rest, node: Node, settings: Settings) -> None:
        self._rest = rest
        self._node = node
        self._settings = settings
        self._confinement = Confinement(rest, settings.node_name, settings.confined)
        self._stop = threading.Event()
        # A signal handler puts into it while the main thread may be inside get: only this kind of queue bears that.
        # None: look again, nothing is known to have changed.
        self._changes: queue.SimpleQueue[NodeRegistryConfig | None] = queue.SimpleQueue()
        self._failures = 0

    def install_signal_handlers(self) -> None:
        """Stop on SIGTERM and SIGINT; call from the main thread."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)

    def stop(self) -> None:
        """Make ``run`` return soon; safe from any thread and from a signal handler."""
        self._stop.set()
        self.look()

    def look(self) -> None:
        """Have the node looked at now; safe from any thread and from a signal handler."""
        self._changes.put(None)

    def run(self) -> None:
        """Follow the object until stopped."""
        threading.Thread(target=self._follow, name="watch", daemon=True).start()
        config: NodeRegistryConfig | None = None
        wait: float | None = None
        while not self._stop.is_set():
            changed = self._next(wait)
            if self._stop.is_set():
                return
            config = changed or config
            if config is None:
                wait = None
                continue
            if not config.metadata.uid:
                # Deleted: there is nothing to report to, and the files stay until a new one says otherwise.
                config = wait = None
                continue
            config, wait = self._pass(config)

    def _next(self, wait: float | None) -> NodeRegistryConfig | None:
        """Give the newest state of the object, or None when it is time to look again without a change."""
        newest = None
        with contextlib.suppress(queue.Empty):
            newest = self._changes.get(timeout=wait)
            while True:
                newest = self._changes.get_nowait() or newest
        return newest

    def _pass(self, config: NodeRegistryConfig) -> tuple[NodeRegistryConfig, float]:
        problem: ProblemError | None
        try:
            problem = self._confinement.problem()
            if problem is None:
                status, problem = self._node.reconcile(config, now())
            else:
                status = refused(config, problem, now())
            if status != config.status:
                _log.info("%s", _summary(status))
                self._rest.apply_status(CONFIGS, config.metadata.name, msgspec.to_builtins(status), AGENT)
                config = msgspec.structs.replace(config, status=status)
        except ApiError as error:
            problem = error
        if problem is None:
            self._failures = 0
            return config, min(self._settings.resync, self._node.pause or self._settings.resync)
        _log.warning("%s: %s", problem.reason, problem.message)
        if isinstance(problem, WaitingError):
            return config, problem.after
        if isinstance(problem, InvalidError):
            return config, self._settings.resync
        self._failures += 1
        return config, _pause(self._failures)

    def _follow(self) -> None:
        failures = 0
        selector = f"metadata.name={self._settings.node_name}"
        while not self._stop.is_set():
            try:
                found = self._rest.list(CONFIGS, fieldSelector=selector)
                version = found["metadata"]["resourceVersion"]
                items = found.get("items") or []
                self._seen(items[0] if items else None)
                while not self._stop.is_set():
                    began = time.monotonic()
                    version = self._watch(selector, version)
                    failures = 0
                    if time.monotonic() - began < _SHORT_WATCH:
                        self._stop.wait(random.uniform(0.5, 1.0))  # noqa: S311
            except Exception as error:  # this thread must outlive whatever is sent to it, or no change is ever seen
                if isinstance(error, ProblemError):
                    _log.warning("%s: %s", error.reason, error.message)
                else:
                    _log.exception("watch NodeRegistryConfig %s", self._settings.node_name)
                failures += 1
                self._stop.wait(_pause(failures))

    def _watch(self, selector: str, version: str) -> str:
        """Follow one watch to its end; gives the version to go on from. Raises ApiError if that is known no more."""
        for event in self._rest.watch(CONFIGS, seconds=_WATCH_SECONDS, fieldSelector=selector, resourceVersion=version):
            body = event["object"]
            if event["type"] == "ERROR":
                raise ApiError(body.get("code") or 0, body.get("reason") or "", f"watch: {body.get('message')}"[:500])
            version = body["metadata"]["resourceVersion"]
            if event["type"] in ("ADDED", "MODIFIED"):
                self._seen(body)
            elif event["type"] == "DELETED":
                self._seen(None)
        return version

    def _seen(self, body: dict[str, Any] | None) -> None:
        if body is None:
            _log.info("there is no NodeRegistryConfig %s: waiting for the controller", self._settings.node_name)
            body = {"metadata": {"name": self._settings.node_name}}
        self._changes.put(parse.node_registry_config(body))


def _pause(failures: int) -> float:
    """How long to wait, in seconds, after that many failures in a row."""
    return _BACKOFF[min(failures, len(_BACKOFF)) - 1] * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


def _summary(status: NodeRegistryConfigStatus) -> str:
    """One line for the log; conditions carry no secrets."""
    parts = [f"revision {status.applied_revision[:12] or 'none'}"]
    parts += [f"{item.type}={item.status} ({item.reason})" for item in status.conditions]
    return ", ".join(parts)
