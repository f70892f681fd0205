"""Which container runtime a node has and how it is configured, read from its files.

Whatever is contradictory or unknown is an error with what was found: the wrong runtime's files must never be touched
(nvidia-container-toolkit #982).
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from ..api.errors import FieldError, InvalidError
from ..api.models import EmbeddedRegistry, RuntimeFacts, RuntimeName
from ..core.layout import DROP_IN, default_facts
from .host import Host

_MARKERS: Mapping[RuntimeName, tuple[str, ...]] = {
    "k3s": ("/etc/rancher/k3s", "/var/lib/rancher/k3s"),
    "rke2": ("/etc/rancher/rke2", "/var/lib/rancher/rke2"),
    "microk8s": ("/var/snap/microk8s",),
    "k0s": ("/etc/k0s",),
    "crio": ("/etc/crio",),
    "containerd": ("/etc/containerd",),
}
_EMBEDDED_PORT = {"k3s": 6443, "rke2": 9345}
_CRI = ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")


def detect(host: Host, wanted: RuntimeName | None) -> RuntimeFacts:
    """Give the facts of the node's runtime.

    ``wanted`` is the runtime that the agent was told to look after; None means to find the only one there is. Raises
    InvalidError (reasons RuntimeNotFound, RuntimeAmbiguous, RuntimeConfigInvalid) and HostError.
    """
    name = wanted or _only(host)
    if name in ("k3s", "rke2"):
        return _rancher(host, name)
    if name == "containerd":
        return _containerd(host)
    return default_facts(name)


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
    settings = _rancher_settings(host, name)
    for key in ("container-runtime-endpoint", "docker"):
        if settings.get(key):
            raise _invalid(f"/etc/rancher/{name}/config.yaml", f"{key} is set: then {name} configures no containerd")
    facts = default_facts(name)
    data = settings.get("data-dir")
    if isinstance(data, str) and data:
        facts = replace(facts, config_path=f"{data.rstrip('/')}/agent/etc/containerd/certs.d")
    registries = settings.get("private-registry")
    if isinstance(registries, str) and registries:
        facts = replace(facts, registries_file=registries)
    for path in (facts.config_path, facts.registries_file):
        if not path.startswith("/") or posixpath.normpath(path) != path:
            raise _invalid(f"/etc/rancher/{name}/config.yaml", f"{path} is no absolute path")
    return replace(
        facts,
        disable_default_endpoint=settings.get("disable-default-registry-endpoint") is True,
        embedded_registry=_embedded(host, facts),
    )


def _rancher_settings(host: Host, name: str) -> dict[str, Any]:
    import yaml  # only two runtimes need it

    directory = f"/etc/rancher/{name}/config.yaml.d"
    paths = [f"/etc/rancher/{name}/config.yaml"]
    paths += [f"{directory}/{item}" for item in host.names(directory) if item.endswith((".yaml", ".yml"))]
    settings: dict[str, Any] = {}
    for path in paths:
        found = host.read(path) if posixpath.basename(path) != DROP_IN else None
        if found is None:
            continue
        try:
            document = yaml.safe_load(found.content)
        except yaml.YAMLError:
            raise _invalid(path, "it is not YAML") from None
        if isinstance(document, dict):
            settings.update(document)
    return settings


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


def _containerd(host: Host) -> RuntimeFacts:
    """Containerd's own config.toml, schema 2 (plugin grpc.v1.cri) or 3 (cri.v1.images)."""
    facts = default_facts("containerd")
    found = host.read(facts.config_file)
    document = _toml(facts.config_file, found.content) if found is not None else {}
    plugins = document.get("plugins")
    for plugin in _CRI:
        registry = _table(_table(plugins, plugin), "registry")
        if registry.get("mirrors"):
            text = "registry.mirrors is set, and containerd does not start with config_path beside it: remove it first"
            raise _invalid(facts.config_file, text)
        path = registry.get("config_path")
        if isinstance(path, str) and path:
            if ":" in path or not path.startswith("/") or posixpath.normpath(path) != path:
                text = f"config_path is {path!r}: set it to one directory (containerd #12415)"
                raise _invalid(facts.config_file, text)
            return replace(facts, config_path=path)
    return replace(facts, config_path="")


def _table(value: Any, key: str) -> dict[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _toml(path: str, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise _invalid(path, "it is not TOML") from None


def _invalid(path: str, text: str) -> InvalidError:
    return InvalidError("node", (FieldError(path, "", text),), "RuntimeConfigInvalid")
