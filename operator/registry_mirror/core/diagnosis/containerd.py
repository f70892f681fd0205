"""config.toml of containerd, with what it imports: where containerd looks for hosts.toml, and what it does not start
with (containerd docs/cri/config.md; internal/cri/config/config.go, ValidatePluginConfig; cmd/containerd/server/config).

What is read of which plugin, and what becomes of a list of directories, was seen with containerd 2.4.2 and 1.6.20; the
rest is in their sources, and in those of 1.7.29.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from .. import versions
from ..finding import Finding, Severity
from ..layout import CONTAINERD_CERTS
from .evidence import File, Node
from .text import NotReadableError, at, finding, line_of, listed, shown, table, toml

_V1, _V2, _V3 = "cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"
_DISABLED = frozenset({_V1, _V2, _V3, "io.containerd.cri.v1.runtime"})
# Read where nothing is set, from 2.2 on (runtimes.md, trap 2).
_DEFAULT_PATHS = (CONTAINERD_CERTS, "/etc/docker/certs.d")

Documents = Sequence[tuple[File, Mapping[str, Any]]]


class Settings(Struct, frozen=True, kw_only=True):
    """Where containerd looks, as it is set: ``file`` says where, empty if nowhere. ``unset`` are the directories that
    it has by default then. ``whole``: a list of directories is taken for one (containerd #12415).
    """

    paths: tuple[str, ...] = ()
    file: str = ""
    unset: tuple[str, ...] = ()
    whole: bool = False


def settings(files: Sequence[File], version: str) -> Settings:
    """Give what is in force of a configuration and its imports, in order. What cannot be read is left out."""
    return _settings(_documents(files), version)


def _documents(files: Sequence[File]) -> Documents:
    found = []
    for file in files:
        try:
            found.append((file, toml(file.text or "")))
        except NotReadableError:
            continue
    return found


def _settings(documents: Documents, version: str) -> Settings:
    path, where = "", ""
    mirrors = local = False
    for file, document in documents:
        images = table(document, "plugins", _V3)
        for plugin in _plugins(document, version):
            registry = table(document, "plugins", plugin, "registry")
            mirrors = mirrors or bool(registry.get("mirrors"))
            local = local or any(registry.get(key) for key in ("configs", "mirrors", "auths"))
            if isinstance(registry.get("config_path"), str):
                path, where = registry["config_path"], file.path
        # Pulls by the kubelet's service itself, as before 2.1 (runtimes.md, trap 3).
        local = local or images.get("use_local_image_pull") is True
    whole = not local and not versions.known_below(version, 2, 1)
    if path:
        return Settings(paths=tuple(item for item in path.split(":") if item), file=where, whole=whole)
    default = bool(version) and not versions.known_below(version, 2, 2) and not mirrors
    return Settings(unset=_DEFAULT_PATHS if default else (), whole=whole)


def _version(document: Mapping[str, Any]) -> int:
    version = document.get("version", 1)
    return version if isinstance(version, int) else 1


def _newest(version: str) -> int:
    """Give the newest version of a configuration that a containerd knows; an unknown one is taken for a recent one."""
    if versions.known_below(version, 2, 0):
        return 2
    return 3 if versions.known_below(version, 2, 3) else 4


def _plugins(document: Mapping[str, Any], version: str) -> tuple[str, ...]:
    """Give the plugins whose registry settings are read in a file; of two values that of the later one counts.

    containerd 1.x has one name a version of the file. 2.x has one, and takes over what a file of an earlier version
    than its own has under the others.
    """
    schema = _version(document)
    if versions.known_below(version, 2, 0):
        return (_V1 if schema < 2 else _V2,)
    if not version:
        return ({1: _V1, 2: _V2}.get(schema, _V3),)
    older = ((_V1,) if schema < 2 else ()) + (_V2,)
    return (_V3, *older) if schema < _newest(version) else (_V3,)


def check(node: Node, *, names_of_hosts: int) -> Iterator[Finding]:
    """Say what is wrong with the configuration. Takes how many registries have files that are to be read."""
    if node.config is None or node.config.unseen:
        return
    version = node.containerd_version
    documents: list[tuple[File, dict[str, Any]]] = []
    broken = False
    for file in (node.config, *node.drop_ins):
        try:
            if file.text is not None:
                documents.append((file, toml(file.text)))
        except NotReadableError as error:
            remedy = "correct it: containerd does not start with it"
            yield finding("error", "ConfigInvalid", file.path, str(error), remedy)
            broken = True
    for file, document in documents:
        yield from _file(version, file, document)
        for plugin in _plugins(document, version):
            yield from _registry(version, file, table(document, "plugins", plugin, "registry"))
    yield from _imports(node, documents)
    if not broken:
        yield from _path(node, documents, names_of_hosts)


def _file(version: str, file: File, document: dict[str, Any]) -> Iterator[Finding]:
    text, schema = file.text or "", _version(document)
    # 1.5 and 1.6 start with it, and read what they know.
    if schema > _newest(version) and version and not versions.known_below(version, 1, 7):
        what = at(line_of(text, "version"), f"version = {schema}")
        evidence = f"{what}, and containerd {version} reads at most {_newest(version)}: it does not start with it"
        remedy = f"write a configuration of version {_newest(version)}"
        yield finding("error", "ConfigVersionTooNew", file.path, evidence, remedy)
    disabled = document.get("disabled_plugins")
    off = [item for item in disabled if item in _DISABLED] if isinstance(disabled, list) else []
    if off:
        evidence = at(line_of(text, "disabled_plugins"), f"disabled_plugins has {listed(map(shown, off))}")
        remedy = "take it out and restart containerd: the kubelet calls it (Docker's package disables it)"
        yield finding("error", "CRIDisabled", file.path, evidence, remedy)
    read = _plugins(document, version)
    for other in (_V1, _V2, _V3):
        if other not in read and table(document, "plugins", other, "registry"):
            where = at(line_of(text, other), f"the registry settings are of {other}")
            evidence = f"{where}, but the file is of version {schema}, where they belong to {read[0]}"
            remedy = f'move them to [plugins."{read[0]}".registry], or correct the version, and restart'
            yield finding(_sure(version), "PluginWrong", file.path, evidence, remedy)


def _sure(version: str) -> Severity:
    """Give how bad it is: what some versions take is but a warning where the version is not known."""
    return "error" if version else "warning"


def _registry(version: str, file: File, registry: dict[str, Any]) -> Iterator[Finding]:
    """Say what containerd does not start with beside config_path."""
    if not registry.get("config_path"):
        return
    text = file.text or ""
    if registry.get("mirrors"):
        evidence = at(line_of(text, "registry.mirrors"), "registry.mirrors is set beside config_path")
        remedy = "remove the mirrors, and write a hosts.toml for each: containerd's CRI plugin does not start with both"
        yield finding("error", "MirrorsBesideConfigPath", file.path, evidence, remedy)
    configs = registry.get("configs")
    tls = [host for host, item in configs.items() if table(item, "tls")] if isinstance(configs, dict) else []
    if tls and (not version or versions.known_below(version, 2, 0)):
        evidence = at(line_of(text, ".tls"), f"registry.configs has TLS settings for {listed(map(shown, tls))}")
        remedy = "move them to hosts.toml: the CRI plugin of containerd 1.x does not start with them beside config_path"
        yield finding(_sure(version), "TLSBesideConfigPath", file.path, evidence, remedy)


def _imports(node: Node, documents: list[tuple[File, dict[str, Any]]]) -> Iterator[Finding]:
    """Say where a drop-in counts more than the file, or does not count."""
    version = node.containerd_version
    main: Mapping[str, Any] = next((document for file, document in documents if file is node.config), {})
    path = node.config.path if node.config is not None else ""
    ours = _value(main, version)
    for file, document in documents:
        if file is node.config or node.name == "k0s":
            continue
        theirs = _value(document, version)
        plugin = next((item for item in _plugins(main, version) if table(main, "plugins", item)), "")
        if versions.known_below(version, 2, 0) and plugin and table(document, "plugins", plugin):
            evidence = f'it has [plugins."{plugin}"], and replaces all that {path} says of that plugin'
            remedy = "move its settings to the main file: containerd 1.x does not merge the tables of imports"
            yield finding("error", "DropInReplaces", file.path, evidence, remedy)
        elif theirs and ours and theirs != ours:
            evidence = f"config_path is {shown(theirs)} here, and counts more than the {shown(ours)} of {path}"
            yield finding(
                "warning", "DropInOverrides", file.path, evidence, "set config_path in one of the two files only"
            )
    for other, settings_there in _documents(node.beside):
        if any(table(settings_there, "plugins", item, "registry") for item in _plugins(settings_there, version)):
            evidence = f"it has registry settings, and {path} has no imports that name it"
            remedy = f'add imports = ["{other.path.rpartition("/")[0]}/*.toml"] at its top, and restart containerd'
            yield finding("error", "DropInNotImported", other.path, evidence, remedy)


def _value(document: Mapping[str, Any], version: str) -> str:
    values = [table(document, "plugins", item, "registry").get("config_path") for item in _plugins(document, version)]
    return next((value for value in reversed(values) if isinstance(value, str) and value), "")


def _path(node: Node, documents: Documents, count: int) -> Iterator[Finding]:
    """Say what is wrong with config_path itself, where there is something to be read at all."""
    assert node.config is not None
    version = node.containerd_version
    found = _settings(documents, version)
    text = next((file.text or "" for file, _ in documents if file.path == found.file), "")
    if len(found.paths) > 1 and count:
        evidence = at(line_of(text, "config_path"), f"config_path is {shown(':'.join(found.paths))}")
        remedy = f'set config_path = "{found.paths[0]}", move what is in the others there, and restart: containerd '
        remedy += "2.1 and later takes the list for one directory (containerd #12415)"
        yield finding("error" if found.whole else "warning", "ConfigPathList", found.file, evidence, remedy)
    elif found.paths and versions.known_below(version, 1, 5):
        evidence = f"config_path is set, and containerd {version} does not know it"
        yield finding("error", "ConfigPathUnknown", found.file, evidence, "upgrade containerd to 1.6 or later")
    elif found.paths or not count or (found.unset and not found.whole) or _misplaced(documents):
        return
    elif documents or node.name == "containerd":  # others render the file when they start
        why = f"config_path is not set, so containerd reads none of the hosts.toml files ({count} there)"
        if found.unset:
            why += f": {version} takes its two default directories for one (containerd #12415)"
        yield finding("error", "ConfigPathMissing", node.config.path, why, _set(node))


def _set(node: Node) -> str:
    if node.name in ("k3s", "rke2"):
        text = "this file is rendered: remove the template config*.toml.tmpl beside it, or begin that with "
        return f'{text}{{{{ template "base" . }}}}, and restart'
    return f'set config_path = "{CONTAINERD_CERTS}" in the registry settings of the CRI plugin, and restart'


def _misplaced(documents: Documents) -> bool:
    """Tell whether config_path stands in the table of another version, which is said already."""
    return any(
        table(document, "plugins", plugin, "registry").get("config_path")
        for _, document in documents
        for plugin in (_V1, _V2, _V3)
    )
