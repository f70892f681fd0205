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
# Which plugin has the registry settings, by the schema of config.toml (containerd docs/cri/config.md).
_CRI: Mapping[int, str] = {1: "cri", 2: "io.containerd.grpc.v1.cri"}
_CRI_NOW = "io.containerd.cri.v1.images"
_MAX_PATH = 900  # the schema allows 1024, and names are put below it


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


def _containerd(host: Host) -> RuntimeFacts:
    """Containerd's own config.toml."""
    facts = default_facts("containerd")
    found = host.read(facts.config_file)
    document = _toml(facts.config_file, found.content) if found is not None else {}
    version = document.get("version", 1)
    plugin = _CRI.get(version, _CRI_NOW) if isinstance(version, int) else _CRI_NOW
    registry = _table(_table(document.get("plugins"), plugin), "registry")
    if registry.get("mirrors"):
        text = "registry.mirrors is set, and containerd does not start with config_path beside it: remove it first"
        raise _invalid(facts.config_file, text)
    path = registry.get("config_path")
    if not isinstance(path, str) or not path:
        return replace(facts, config_path="")
    if ":" in path:
        raise _invalid(facts.config_file, f"config_path is {path[:200]!r}: set it to one directory (containerd #12415)")
    return replace(facts, config_path=_absolute(facts.config_file, path))


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
