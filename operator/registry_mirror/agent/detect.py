"""Which container runtime a node has and how it is configured, read from its files.

Whatever is contradictory or unknown is an error with what was found: the wrong runtime's files must never be touched
(nvidia-container-toolkit #982).
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from ..api.errors import FieldError, InvalidError
from ..api.models import EmbeddedRegistry, RuntimeFacts, RuntimeName
from ..core import edits
from ..core.layout import CONTAINERD_CERTS, DROP_IN, K0S_DROP_IN, K0S_DROP_INS, MICROK8S, default_facts
from . import state as memory
from .host import Host
from .state import State

_MARKERS: Mapping[RuntimeName, tuple[str, ...]] = {
    "k3s": ("/etc/rancher/k3s", "/var/lib/rancher/k3s"),
    "rke2": ("/etc/rancher/rke2", "/var/lib/rancher/rke2"),
    "microk8s": ("/var/snap/microk8s",),
    "k0s": ("/etc/k0s",),
    "crio": ("/etc/crio",),
    "containerd": ("/etc/containerd",),
}
_EMBEDDED_PORT = {"k3s": 6443, "rke2": 9345}
# Which plugin has the registry settings, by the schema of config.toml (containerd docs/cri/config.md).
_CRI: Mapping[int, str] = {1: "cri", 2: "io.containerd.grpc.v1.cri"}
_CRI_NOW = "io.containerd.cri.v1.images"
_K0S_MARK = b"# k0s_managed=true"
_REVISION = re.compile(r"x?[0-9]{1,9}")  # of a snap; x for one that was installed from a file
_NO_STATE = State()
_MAX_PATH = 900  # the schema allows 1024, and names are put below it


def detect(host: Host, wanted: RuntimeName | None, state: State = _NO_STATE) -> RuntimeFacts:
    """Give the facts of the node's runtime as it would be without us; ``state`` says what is ours.

    ``wanted`` is the runtime that the agent was told to look after; None means to find the only one there is. Raises
    InvalidError (reasons RuntimeNotFound, RuntimeAmbiguous, RuntimeConfigInvalid) and HostError.
    """
    name = wanted or _only(host)
    if name in ("k3s", "rke2"):
        return _rancher(host, name)
    if name == "containerd":
        return _containerd(host, state)
    return {"microk8s": _microk8s, "k0s": _k0s, "crio": _crio}[name](host)


def _only(host: Host) -> RuntimeName:
    found: list[RuntimeName] = [name for name, paths in _MARKERS.items() if any(host.exists(path) for path in paths)]
    if len(found) > 1 and "containerd" in found:
        # Every distribution may share a node with the distribution packages' containerd; its own marker decides.
        found.remove("containerd")
    if len(found) == 1:
        return found[0]
    text = ", ".join(f"{name} ({_MARKERS[name][0]})" for name in found) or "no runtime that it knows"
    reason = "RuntimeAmbiguous" if found else "RuntimeNotFound"
    raise InvalidError("node", (FieldError("", text, "say which with --runtime"),), reason)


def _rancher(host: Host, name: RuntimeName) -> RuntimeFacts:
    """K3s and RKE2: config.yaml and config.yaml.d in order, later files win (docs.k3s.io, Configuration)."""
    file = f"/etc/rancher/{name}/config.yaml"
    settings = _rancher_settings(host, file)
    for key, on in (
        ("container-runtime-endpoint", _text(settings, "container-runtime-endpoint") != ""),
        ("docker", _flag(settings, "docker")),
    ):
        if on:
            raise _invalid(file, f"{key} is set: then {name} configures no containerd")
    facts = default_facts(name)
    data = _text(settings, "data-dir") or _text(settings, "d")
    if data:
        facts = replace(facts, config_path=_absolute(file, f"{data}/agent/etc/containerd/certs.d"))
    registries = _text(settings, "private-registry")
    if registries:
        facts = replace(facts, registries_file=_absolute(file, registries))
    return replace(
        facts,
        disable_default_endpoint=_flag(settings, "disable-default-registry-endpoint"),
        embedded_registry=_embedded(host, facts),
    )


def _rancher_settings(host: Host, main: str) -> dict[str, list[Any]]:
    """Every setting with its values as they are handed to flags, of which the last one counts.

    A key that ends in + adds to what earlier files say (K3s pkg/configfilearg, readConfigFile).
    """
    names = [name for name in host.names(f"{main}.d") if name.lower().endswith((".yaml", ".yml")) and name != DROP_IN]
    settings: dict[str, list[Any]] = {}
    for path in (main, *(f"{main}.d/{name}" for name in names if not host.is_directory(f"{main}.d/{name}"))):
        found = host.read(path)
        for key, value in _yaml(path, found.content if found is not None else b"").items():
            values = value if isinstance(value, list) else [value]
            name = str(key).removesuffix("+")
            settings[name] = [*settings.get(name, ()), *values] if str(key).endswith("+") else values
    return settings


def _yaml(path: str, content: bytes) -> dict[Any, Any]:
    import yaml  # only two runtimes need it

    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date such as 2024-13-01
        raise _invalid(path, "it is not YAML") from None
    if document is not None and not isinstance(document, dict):
        raise _invalid(path, "it is not a list of settings (name: value)")
    return document or {}


def _text(settings: Mapping[str, list[Any]], key: str) -> str:
    values = settings.get(key) or [None]
    return "" if values[-1] is None else str(values[-1])


def _flag(settings: Mapping[str, list[Any]], key: str) -> bool:
    """K3s passes flags on as text, so that "true" in quotes is true as well (Go strconv.ParseBool)."""
    return _text(settings, key).lower() in ("true", "t", "1")


def _absolute(file: str, path: str) -> str:
    """Give a path from a node's file in its one form, or refuse it: it goes into bundles, status and messages."""
    plain = posixpath.normpath("/" + path.lstrip("/"))
    if not path.startswith("/") or ".." in path.split("/") or not path.isprintable() or len(path) > _MAX_PATH:
        raise _invalid(file, f"{path[:200]!r} is no plain absolute path")
    return plain


def _embedded(host: Host, facts: RuntimeFacts) -> EmbeddedRegistry | None:
    """Spegel inside K3s/RKE2 is on when its own hosts.toml is there; its TLS files stand in it (runtimes.md)."""
    address = f"127.0.0.1:{_EMBEDDED_PORT[facts.name]}"
    path = f"{facts.config_path}/{address}/hosts.toml"
    found = host.read(path)
    if found is None:
        return None
    document = _toml(path, found.content)
    client = _first(document.get("client"))
    pair = client if isinstance(client, list) and len(client) == 2 else ["", ""]
    return EmbeddedRegistry(
        address=address, ca_file=str(_first(document.get("ca")) or ""), cert_file=str(pair[0]), key_file=str(pair[1])
    )


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _containerd(host: Host, state: State) -> RuntimeFacts:
    """Containerd's own config.toml; where it has no config_path, its schema if that can be set there."""
    facts = default_facts("containerd")
    file = facts.config_file
    content = memory.own_content(host, state, file, host.read(file))
    document = _toml(file, content)
    version = document.get("version", 1)
    plugin = _CRI.get(version, _CRI_NOW) if isinstance(version, int) else _CRI_NOW
    path = _config_path(file, document, plugin)
    schema = version if not path and _can_be_set(host, file, content, document) else 0
    return replace(facts, config_path=path, config_schema=schema)


def _can_be_set(host: Host, file: str, content: bytes, document: Mapping[str, Any]) -> bool:
    """Tell whether config_path can be set in a file, and counts there: not if an imported one has the plugin too.

    containerd 1.x replaces the whole plugin by that of an import, 2.x merges them (runtimes.md, imports).
    """
    version = document.get("version")
    if not isinstance(version, int) or version not in edits.PLUGINS:
        return False
    try:
        wanted = edits.ConfigPath(path=file, config_schema=version, value=CONTAINERD_CERTS)
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
            imported = _toml(path, found.content) if found is not None else {}
            if any(_table(imported.get("plugins"), plugin) for plugin in edits.PLUGINS.values()):
                return False
    return True


def _containerd_settings(host: Host, file: str) -> tuple[int, str]:
    """Give the schema of a configuration of containerd (0: it is not said) and its config_path (empty: not set)."""
    found = host.read(file)
    document = _toml(file, found.content) if found is not None else {}
    version = document.get("version", 1)
    plugin = _CRI.get(version, _CRI_NOW) if isinstance(version, int) else _CRI_NOW
    schema = document.get("version", 0)
    return schema if isinstance(schema, int) else 0, _config_path(file, document, plugin)


def _config_path(file: str, document: Mapping[str, Any], plugin: str) -> str:
    registry = _table(_table(document.get("plugins"), plugin), "registry")
    if registry.get("mirrors"):
        text = "registry.mirrors is set, and containerd does not start with config_path beside it: remove it first"
        raise _invalid(file, text)
    path = registry.get("config_path")
    if not isinstance(path, str) or not path:
        return ""
    if ":" in path:
        raise _invalid(file, f"config_path is {path[:200]!r}: set it to one directory (containerd #12415)")
    return _absolute(file, path)


def _microk8s(host: Host) -> RuntimeFacts:
    """The revision of the snap that is in use: nothing is ever written through the link that names it."""
    link = f"{MICROK8S}/current"
    revision = host.link(link)
    if revision is None or not _REVISION.fullmatch(posixpath.basename(revision)):
        raise _invalid(link, "it is no link to a revision of the snap: is MicroK8s installed?")
    if posixpath.dirname(revision) not in ("", MICROK8S):
        raise _invalid(link, f"it leads out of {MICROK8S}")
    path = f"{MICROK8S}/{posixpath.basename(revision)}/args/certs.d"
    return replace(default_facts("microk8s"), config_path=path)


def _k0s(host: Host) -> RuntimeFacts:
    """k0s writes containerd.toml itself as long as it begins with its mark, and only then reads drop-ins.

    k0s 1.36 pkg/component/worker/containerd/component.go, isK0sManagedConfig: a file that is not there is its own.
    """
    facts = default_facts("k0s")
    found = host.read(facts.config_file)
    schema, path = _containerd_settings(host, facts.config_file)
    managed = found is None or found.content.split(b"\n", 1)[0].rstrip(b"\r") == _K0S_MARK
    facts = replace(facts, config_schema=schema, config_managed=managed, config_path="" if managed else path)
    if not managed:
        return facts
    plugins = (_CRI[2],) if schema == 2 else (_CRI_NOW,) if schema else (_CRI[2], _CRI_NOW)
    for file in (f"{K0S_DROP_INS}/{name}" for name in host.names(K0S_DROP_INS) if name.endswith(".toml")):
        drop_in = None if file == K0S_DROP_IN or host.is_directory(file) else host.read(file)
        document = _toml(file, drop_in.content) if drop_in is not None else {}
        for plugin in plugins:  # in order: a later file wins
            facts = replace(facts, config_path=_config_path(file, document, plugin) or facts.config_path)
    return facts


def _crio(host: Host) -> RuntimeFacts:
    """Whether CRI-O watches registries.conf.d (since 1.30, crio.conf(5)); a later file wins, as CRI-O reads them."""
    reloads = False
    names = [f"/etc/crio/crio.conf.d/{name}" for name in host.names("/etc/crio/crio.conf.d")]
    for file in ("/etc/crio/crio.conf", *(name for name in names if not host.is_directory(name))):
        found = host.read(file)
        document = _toml(file, found.content) if found is not None else {}
        value = _table(_table(document, "crio"), "image").get("auto_reload_registries")
        reloads = value if isinstance(value, bool) else reloads
    return replace(default_facts("crio"), reloads_registries=reloads)


def _table(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _toml(path: str, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError):
        raise _invalid(path, "it is not TOML") from None


def _invalid(path: str, text: str) -> InvalidError:
    return InvalidError("node", (FieldError(path, "", text),), "RuntimeConfigInvalid")
