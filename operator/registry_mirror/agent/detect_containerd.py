"""What containerd's own configuration says of registries, and whether it can be said there for it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from ..api.models import RuntimeFacts
from ..core import edits
from ..core.layout import CONTAINERD_CERTS, default_facts
from . import state as memory
from .detect_files import absolute, invalid, table, toml
from .host import Host
from .state import State

# Which plugin has the registry settings, by the schema of config.toml (containerd docs/cri/config.md).
PLUGINS: Mapping[int, str] = {1: "cri", 2: "io.containerd.grpc.v1.cri"}
PLUGIN_NOW = "io.containerd.cri.v1.images"
# What the kubelet calls, in every version, also by its short name: containerd leaves out what it is told to.
_NEEDED = frozenset({"cri", "io.containerd.grpc.v1.cri", PLUGIN_NOW, "io.containerd.cri.v1.runtime"})


def containerd(host: Host, state: State, file: str = "") -> RuntimeFacts:
    """Give the facts of a containerd of the node's own.

    Takes the file that it was started with (empty: the usual one). ``config_schema`` is that of the file if settings
    can be made in it. Raises InvalidError (RuntimeConfigInvalid) and HostError.
    """
    facts = default_facts("containerd")
    file = absolute("the arguments of containerd", file) if file else facts.config_file
    content = memory.own_content(host, state, file, host.read(file))
    document = toml(file, content)
    disabled = document.get("disabled_plugins")
    if isinstance(disabled, list) and _NEEDED.intersection(str(item) for item in disabled):
        text = "disabled_plugins has the service that the kubelet calls (Docker's package does so): take cri out of it"
        raise invalid(file, text)
    version = document.get("version", 1)
    plugin = plugin_of(document)
    schema = version if _editable(host, file, content, document) else 0
    path = _one(host, file, config_path(file, document, plugin), editable=schema != 0)
    return replace(facts, config_file=file, config_path=path, config_schema=schema)


def plugin_of(document: Mapping[str, Any]) -> str:
    """Give the plugin that has the registry settings, by the version at the top of a configuration (none is 1)."""
    version = document.get("version", 1)
    return PLUGINS.get(version, PLUGIN_NOW) if isinstance(version, int) else PLUGIN_NOW


def config_path(file: str, document: Mapping[str, Any], plugin: str) -> str:
    """Give config_path as it stands in a document, empty if it is not set. Raises InvalidError if mirrors are set."""
    registry = table(table(document.get("plugins"), plugin), "registry")
    if registry.get("mirrors"):
        text = "registry.mirrors is set, and containerd does not start with config_path beside it: remove it first"
        raise invalid(file, text)
    path = registry.get("config_path")
    return path if isinstance(path, str) else ""


def one_directory(file: str, path: str) -> str:
    """Give a config_path that names one directory, or none. Raises InvalidError."""
    if ":" in path:
        raise invalid(file, f"config_path is {path[:200]!r}: set it to one directory (containerd #12415)")
    return absolute(file, path) if path else ""


def _one(host: Host, file: str, path: str, *, editable: bool) -> str:
    """Take several directories for none, so that config_path is set to the first: what ``config default`` of containerd
    2.2 and later prints has two. Refused where that would put out of force what is in the others.
    """
    first, *others = path.split(":")
    if not others or not editable or first.rstrip("/") != CONTAINERD_CERTS:
        return one_directory(file, path)
    for other in others:
        if host.names(absolute(file, other)):
            text = "config_path has several directories, which containerd does not always read (containerd #12415): "
            raise invalid(file, f"{text}move what is in {other} to {first}, and set config_path to that one")
    return ""


def _editable(host: Host, file: str, content: bytes, document: Mapping[str, Any]) -> bool:
    """Tell whether settings can be made in a file, and count there: not if an imported one has the plugin too.

    containerd 1.x replaces the whole plugin by that of an import, 2.x merges them (runtimes.md, imports).
    """
    version = document.get("version")
    if not isinstance(version, int) or version not in edits.PLUGINS:
        return False
    try:
        wanted = edits.Edit(path=file, config_schema=version, config_path=CONTAINERD_CERTS)
        edits.apply(wanted, content.decode())
    except edits.EditError:
        return False
    patterns = document.get("imports") or []
    for pattern in patterns if isinstance(patterns, list) else [patterns]:
        folder, _, names = str(pattern).rpartition("/")
        if not re.fullmatch(r"/etc/containerd(?:/[\w.-]+)?", folder) or ".." in folder:
            return False
        for path in (f"{folder}/{name}" for name in host.names(folder) if fnmatch.fnmatchcase(name, names)):
            found = None if path == file or host.is_directory(path) else host.read(path)
            imported = toml(path, found.content) if found is not None else {}
            if any(table(imported.get("plugins"), plugin) for plugin in edits.PLUGINS.values()):
                return False
    return True
