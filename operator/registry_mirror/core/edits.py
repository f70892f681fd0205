"""What is ours in a configuration of containerd that belongs to the node and not to us: put in, and taken out again.

Ours are config_path, one line in the table of the registry settings, and tables of mirrors and hosts, which go to the
end of the file between two marks. Everything else stays to the byte: the text is changed, not written anew, and the
result counts only if it reads as the document before with those values changed, so that whatever form the text has,
nothing else can be hit. (A parser that keeps comments would rewrite more than is asked for, and cost the agent memory.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from .edit_text import EditError as EditError, added, read, with_tables, with_value, without_tables

# Which plugin has the registry settings, by the schema of config.toml (containerd docs/cri/config.md).
PLUGINS: Mapping[int, str] = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images"}
# What an entry of registry.configs may say (containerd 1.7 pkg/cri/config/config.go, TLSConfig and AuthConfig).
TLS_KEYS = ("ca_file", "cert_file", "key_file", "insecure_skip_verify")
AUTH_KEYS = ("username", "password", "identitytoken")
_BY_HAND = "it is written in a way that is not edited: write its registry settings as tables, or set them by hand"


class HostConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of registry.configs; a section that is empty is not written."""

    tls: dict[str, str | bool] = msgspec.field(default_factory=dict)
    auth: dict[str, str] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"HostConfig(tls={self.tls}, auth={'***' if self.auth else 'none'})"

    def sections(self) -> dict[str, dict[str, Any]]:
        """What the entry must read back as."""
        sections: dict[str, dict[str, Any]] = {"tls": self.tls, "auth": self.auth}
        return {name: section for name, section in sections.items() if section}


class Edit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """To have registry settings in the file at ``path``, whose schema is ``config_schema``.

    ``config_path`` is left alone if it is empty. ``mirrors`` are endpoints by registry (or "*"), ``configs`` settings
    by ``host[:port]``.
    """

    path: str
    config_schema: int
    config_path: str = ""
    mirrors: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    configs: dict[str, HostConfig] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Edit({self.path}, {self.config_path!r}, mirrors={list(self.mirrors)}, configs={list(self.configs)})"


def apply(edit: Edit, text: str) -> str:
    """Give the text with the settings in it; the text itself if it says so already. Raises EditError.

    A table of ours from before is replaced. A mirror that somebody else has there is set aside: its lines become
    comments, until ``undo``. Refused is what containerd does not start with, and a host for which somebody else has
    other settings.
    """
    path = _path(edit.config_schema)
    base = without_tables(text, path)
    document = read(base)
    if document.get("version") != edit.config_schema:
        raise EditError("its version is neither 2 nor 3")
    registry = _registry(document, path)
    wanted = _registry_with(registry, edit)
    _refuse(wanted)
    expected = _replaced(document, path, wanted)
    if read(text) == expected:
        return text
    result = base
    if edit.config_path and registry.get("config_path") != edit.config_path:
        result = with_value(result, path, "config_path", edit.config_path)
    before = result
    missing = _missing(registry, edit)
    result = with_tables(before, path, missing, missing.keys() & _mirrors_of(registry))
    if without_tables(_proven(result, expected), path) != before:
        raise EditError(_BY_HAND)  # it could not be undone
    return result


def undo(edit: Edit, text: str, original: str) -> str:
    """Give the text as it would be without us: the original if nobody else changed it, else what is ours taken out.

    A config_path that is not ours any more stays. Raises EditError.
    """
    try:
        if apply(edit, original) == text:
            return original
    except EditError:
        pass  # what it was applied to is no longer the original; what is ours can be taken out all the same
    path = _path(edit.config_schema)
    base = without_tables(text, path)
    document = read(base)
    registry = _registry(document, path)
    if not edit.config_path or registry.get("config_path") != edit.config_path:
        return base
    before = _registry(read(original), path).get("config_path")
    rest = {key: value for key, value in registry.items() if key != "config_path"}
    if isinstance(before, str):
        result, rest = with_value(base, path, "config_path", before), {**rest, "config_path": before}
    else:
        result = with_value(base, path, "config_path", None)
    return _proven(result, _replaced(document, path, rest))


def holds_secret(text: str, schema: int) -> bool:
    """Tell whether we have put a credential into a text: then nobody but its owner may read it. Raises EditError."""
    configs = _table(_registry(added(text), _path(schema)), "configs")
    return any("auth" in item for item in configs.values())


def _path(schema: int) -> tuple[str, ...]:
    """The table of the registry settings."""
    if schema not in PLUGINS:
        raise EditError("its version is neither 2 nor 3")
    return ("plugins", PLUGINS[schema], "registry")


def _refuse(registry: Mapping[str, Any]) -> None:
    """Raise EditError for what containerd does not start with beside config_path.

    containerd internal/cri/config/config.go, ValidatePluginConfig: registry.mirrors, and before 2.0 TLS settings in
    registry.configs.
    """
    if not registry.get("config_path"):
        return
    if registry.get("mirrors"):
        raise EditError("registry.mirrors is set, and containerd does not start with config_path beside it")
    configs = registry.get("configs")
    if isinstance(configs, dict) and any(isinstance(item, dict) and item.get("tls") for item in configs.values()):
        raise EditError("registry.configs has TLS settings, and containerd does not start with config_path beside them")


def _registry(document: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    found: Mapping[str, Any] = document
    for key in path:
        found = _table(found, key)
    return dict(found)


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Give the table at a key, empty if there is none; raises EditError if something else is there."""
    found = document.get(key, {})
    if not isinstance(found, dict):
        raise EditError(f"{key} is no table in it")
    return found


def _registry_with(registry: Mapping[str, Any], edit: Edit) -> dict[str, Any]:
    """Give the registry settings as they are to be. Raises EditError if somebody else has other ones for a host."""
    wanted = dict(registry)
    if edit.config_path:
        wanted["config_path"] = edit.config_path
    if edit.mirrors:
        wanted["mirrors"] = {**_table(registry, "mirrors"), **_mirrors(edit)}
    for host, item in edit.configs.items():
        configs = _table(wanted, "configs")
        theirs = _table(configs, host)
        for name, section in item.sections().items():
            if theirs.get(name, section) != section:
                text = f'registry.configs."{host}".{name} is set in it, to something else: remove one of the two'
                raise EditError(text)
            wanted["configs"] = {**configs, host: {**theirs, **item.sections()}}
    return wanted


def _mirrors_of(registry: Mapping[str, Any]) -> set[tuple[str, ...]]:
    mirrors = registry.get("mirrors")
    return {("mirrors", name) for name in mirrors} if isinstance(mirrors, dict) else set()


def _mirrors(edit: Edit) -> dict[str, dict[str, Any]]:
    return {name: {"endpoint": list(endpoints)} for name, endpoints in edit.mirrors.items()}


def _missing(registry: Mapping[str, Any], edit: Edit) -> dict[tuple[str, ...], dict[str, Any]]:
    """Give the tables that are wanted and not there, by their path below the registry settings."""
    mirrors = _table(registry, "mirrors") if edit.mirrors else {}
    tables: dict[tuple[str, ...], dict[str, Any]] = {
        ("mirrors", name): mirror for name, mirror in _mirrors(edit).items() if mirrors.get(name) != mirror
    }
    for host, item in edit.configs.items():
        for name, section in item.sections().items():
            if name not in _table(_table(registry, "configs"), host):
                tables["configs", host, name] = section
    return tables


def _replaced(document: Mapping[str, Any], path: tuple[str, ...], value: Mapping[str, Any]) -> dict[str, Any]:
    if not path:
        return dict(value)
    return {**document, path[0]: _replaced(_table(document, path[0]), path[1:], value)}


def _proven(text: str, expected: Mapping[str, Any]) -> str:
    """Give the text if it reads as expected; raises EditError."""
    try:
        same = read(text) == expected
    except EditError:
        same = False
    if not same:
        raise EditError(_BY_HAND)
    return text
