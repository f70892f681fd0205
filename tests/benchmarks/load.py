"""Load on a real node, for tests and benchmarks: pulls that go on, and changes by the agent's engine meanwhile."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from tests.harness.cri import CRI, CRIError
from tests.harness.node import Node, NodeError

from .engine import Answer

_REPOSITORY = Path(__file__).resolve().parents[2]
_FILE = "/root/mirrors.json"
_END = 20.0
_AFTER_FAILURE = 0.1  # a kubelet waits for 10 s; without any pause failures would be all that is counted


@dataclass(frozen=True)
class Pull:
    """One pull: when it began (monotonic), how long it took, and the runtime's words if it failed."""

    image: str
    began: float
    seconds: float
    error: str = ""


class Pulling:
    """Pulls that go on while the `with` block does, several at a time.

    ``offer`` is given a number that is never given again, has registries offer a new image, and gives its name. It is
    called from several threads, and what it takes is not counted.
    """

    def __init__(self, node: Node, offer: Callable[[int], str], workers: int = 2) -> None:
        self.pulls: list[Pull] = []
        self._node = node
        self._offer = offer
        self._lock = threading.Lock()
        self._next = 0
        self._running: frozenset[int] = frozenset()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"pull-{n}", daemon=True) for n in range(workers)]
        self._broken: BaseException | None = None

    def __enter__(self) -> Pulling:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._broken is not None and error is None:
            raise self._broken

    @property
    def failed(self) -> list[Pull]:
        """The pulls that failed."""
        return [pull for pull in self.pulls if pull.error]

    def settle(self) -> None:
        """Wait until the pulls that go on now, which may have read what has changed since, have ended."""
        with self._lock:
            before = self._running
        self._node.until(lambda: not before & self._running or self._broken, "the pulls of before have ended")

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    number, self._next = self._next, self._next + 1
                    self._running |= {number}
                pull = timed_pull(self._node, self._offer(number))
                with self._lock:
                    self._running -= {number}
                    self.pulls.append(pull)
                if pull.error:
                    self._stop.wait(_AFTER_FAILURE)
        except BaseException as error:
            self._broken = error


def timed_pull(node: Node, image: str) -> Pull:
    """Pull once, through CRI."""
    began, error = time.monotonic(), ""
    try:
        CRI(node).pull(image)
    except CRIError as refused:
        error = str(refused)
    return Pull(image, began, time.monotonic() - began, error)


class LiveEngine:
    """The agent's engine, as one process in a node from the beginning of the `with` block to its end."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> LiveEngine:
        argv = self._node.inside([sys.executable, "-m", "tests.benchmarks.engine", CRI(self._node).version()])
        path = f"{_REPOSITORY}:{_REPOSITORY / 'operator'}"
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "PYTHONPATH": path}
        # It ends with its input, so with us, and with the node at the latest.
        self._process = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def apply(self, *documents: Mapping[str, Any], restart: bool = True) -> Answer:
        """Have it make the node as the documents say, by a restart if it takes one and that is allowed.

        Raises NodeError if it cannot.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        self._node.write(_FILE, "\n---\n".join(json.dumps(item) for item in documents), mode=0o600)
        process.stdin.write(f"{'auto' if restart else 'never'} {_FILE}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise NodeError(f"{self._node.name}: the engine has ended, see its standard error")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.problem:
            raise NodeError(f"{self._node.name}: the engine says {answer.problem}")
        return answer


def secret(name: str, user: str, password: str) -> dict[str, Any]:
    """A Secret with a user and a password, as a document."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/basic-auth",
        "metadata": {"name": name, "namespace": "registry-mirror-system"},
        "stringData": {"username": user, "password": password},
    }


def authority(name: str, *certificates: str) -> dict[str, Any]:
    """A ConfigMap with certificates under `ca.crt`, as a document."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "registry-mirror-system"},
        "data": {"ca.crt": "".join(certificates)},
    }


def p99(values: Sequence[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    found = sorted(values)
    return found[math.ceil(len(found) * 0.99) - 1]


def told(name: str, values: Sequence[float]) -> str:
    """Median, p99 and maximum of seconds, in milliseconds."""
    if not values:
        return f"{name}: none"
    median = statistics.median(values) * 1000
    return f"{name}: median {median:.0f} ms, p99 {p99(values) * 1000:.0f} ms, maximum {max(values) * 1000:.0f} ms"
