"""The environment that a service gives its runtime, read from where the service takes it.

That of the process itself takes the rights of a debugger. What is read here can hold secrets, and is never kept.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import Protocol

from ..api.models import RuntimeFacts
from .host import Host

_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
# Of a variable with this prefix they take the rest for containerd's own environment (k3s pkg/agent/containerd, Run;
# docs.k0sproject.io, Environment variables).
_PREFIX = "CONTAINERD_"
_WITH_PREFIX = ("k3s", "rke2", "k0s")


class Started(Protocol):
    """What is needed of a service: how its program is started."""

    @property
    def environment(self) -> tuple[str, ...]:
        """Give NAME=value, as the service has them."""

    @property
    def environment_files(self) -> tuple[str, ...]:
        """Give the files with more of them; those count more, and later ones most (systemd.exec(5))."""

    @property
    def exec_start(self) -> tuple[str, ...]:
        """Give the program and its arguments."""


class Asked:
    """The services of the host as one pass sees them: each is asked for once, and only if it is needed."""

    def __init__(self, ask: Callable[[str], Started | None]) -> None:
        """Take what gives a service by its name, or None if there is none."""
        self._ask = ask
        self._known: dict[str, Started | None] = {}

    def __call__(self, name: str) -> Started | None:
        """Give a service by its name. Raises what asking raises, and asks again then."""
        if name not in self._known:
            self._known[name] = self._ask(name)
        return self._known[name]


def variables(started: Started, host: Host) -> dict[str, str]:
    """Give the environment of a service. Raises HostError."""
    found = dict(pair.split("=", 1) for pair in started.environment if "=" in pair)
    for file in started.environment_files:
        found.update(_file(host, file.removeprefix("-")))
    return found


def proxies(started: Started | None, host: Host, facts: RuntimeFacts) -> dict[str, str]:
    """Give HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as far as they are set, as the runtime's own requests see them.

    Go looks for the upper case first, and takes an empty one for none (golang.org/x/net/http/httpproxy). Raises
    HostError.
    """
    found = variables(started, host) if started is not None else {}
    if facts.name == "microk8s":
        # A shell reads it (canonical/microk8s microk8s-resources/wrappers/run-containerd-with-args): what that would
        # have to compute is not known here.
        args = posixpath.dirname(facts.config_path or facts.config_file)
        shell = _file(host, f"{args}/containerd-env")
        found.update((name, value) for name, value in shell.items() if "$" not in value and "`" not in value)
    if facts.name in _WITH_PREFIX:
        prefixed = {name: value for name, value in found.items() if name.startswith(_PREFIX)}
        found.update((name.removeprefix(_PREFIX), value) for name, value in prefixed.items())
    values = {name: found.get(name) or found.get(name.lower()) or "" for name in _PROXIES}
    return {name: value for name, value in values.items() if value}


def _file(host: Host, path: str) -> dict[str, str]:
    found = host.read(path) if path.startswith("/") else None
    return _pairs(found.content.decode(errors="replace")) if found is not None else {}


def _pairs(text: str) -> dict[str, str]:
    """Read lines of NAME=value as systemd does, which computes nothing from them (systemd.exec(5), EnvironmentFile)."""
    found: dict[str, str] = {}
    for line in text.replace("\\\n", "").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        value = match[2].strip()
        if len(value) > 1 and value[0] in "\"'" and value[0] == value[-1]:
            value = value[1:-1]
        found[match[1]] = value
    return found
