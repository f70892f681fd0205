"""The one line of a config.toml that belongs to the node and not to us: config_path, put in and taken out again.

The line is changed in the text, so that comments, order and format stay to the byte, and the result counts only if it
reads as the document before with that one value changed: whatever form the text has, nothing else can be hit. (A parser
that keeps comments would rewrite more than is asked for, and cost the agent memory.)
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

# Which plugin has the registry settings, by the schema of config.toml (containerd docs/cri/config.md).
PLUGINS: Mapping[int, str] = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images"}
_KEY = re.compile(r"([ \t]*config_path[ \t]*=[ \t]*)(?:\"[^\"\n]*\"|'[^'\n]*')(.*)")


class EditError(ValueError):
    """Why a text cannot be edited; the message says what is in the way, without quoting it."""


class ConfigPath(Struct, frozen=True, kw_only=True):
    """To have config_path set to ``value`` in the file at ``path``, whose schema is ``config_schema``."""

    path: str
    config_schema: int
    value: str


def apply(edit: ConfigPath, text: str) -> str:
    """Give the text with config_path set; the text itself if it is set so already. Raises EditError.

    Refused is what containerd does not start with beside config_path: registry.mirrors, and TLS settings in
    registry.configs (containerd internal/cri/config/config.go, ValidatePluginConfig).
    """
    document = _read(text)
    refuse(document, edit.config_schema)
    if _registry(document, edit.config_schema).get("config_path") == edit.value:
        return text
    return _proven(document, _with(text, edit.config_schema, edit.value), edit.config_schema, edit.value)


def undo(edit: ConfigPath, text: str, original: str) -> str:
    """Give the text as it would be without us: the original if nobody else changed it, else only our value taken out.

    A config_path that is not ours any more stays. Raises EditError.
    """
    if apply(edit, original) == text:
        return original
    document = _read(text)
    if _registry(document, edit.config_schema).get("config_path") != edit.value:
        return text
    before = _registry(_read(original), edit.config_schema).get("config_path")
    value = before if isinstance(before, str) else None
    return _proven(document, _with(text, edit.config_schema, value), edit.config_schema, value)


def refuse(document: Mapping[str, Any], schema: int) -> None:
    """Raise EditError for a configuration in which config_path must not be set."""
    if schema not in PLUGINS or document.get("version") != schema:
        raise EditError("its version is neither 2 nor 3")
    registry = _registry(document, schema)
    if registry.get("mirrors"):
        raise EditError("registry.mirrors is set, and containerd does not start with config_path beside it")
    configs = registry.get("configs")
    if isinstance(configs, dict) and any(isinstance(item, dict) and item.get("tls") for item in configs.values()):
        raise EditError("registry.configs has TLS settings, and containerd does not start with config_path beside them")


def _registry(document: Mapping[str, Any], schema: int) -> dict[str, Any]:
    return _table(_table(_table(document, "plugins"), PLUGINS.get(schema, "")), "registry")


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _read(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        raise EditError("it is not TOML") from None


def _with(text: str, schema: int, value: str | None) -> str:
    """Put the value into the table that has a header of its own, or append one; None takes the line out."""
    lines = text.split("\n")
    plugin = re.escape(PLUGINS[schema])
    header = re.compile(
        rf"[ \t]*\[[ \t]*plugins[ \t]*\.[ \t]*(?:\"{plugin}\"|'{plugin}')[ \t]*\.[ \t]*registry[ \t]*\][ \t\r]*(?:#.*)?"
    )
    start = next((index for index, line in enumerate(lines) if header.fullmatch(line)), None)
    if start is None:
        end = "" if text.endswith("\n") or not text else "\n"
        return f'{text}{end}\n[plugins."{PLUGINS[schema]}".registry]\n  config_path = "{value}"\n'
    for index in range(start + 1, len(lines)):
        if lines[index].lstrip().startswith("["):
            break
        found = _KEY.fullmatch(lines[index])
        if found is not None:
            line = [] if value is None else [f'{found[1]}"{value}"{found[2]}']
            return "\n".join([*lines[:index], *line, *lines[index + 1 :]])
    indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
    ending = "\r" if lines[start].endswith("\r") else ""
    return "\n".join([*lines[: start + 1], f'{indent}  config_path = "{value}"{ending}', *lines[start + 1 :]])


def _proven(before: dict[str, Any], text: str, schema: int, value: str | None) -> str:
    """Give the text if it reads as the document before with nothing but our key changed; raises EditError."""
    plugins = _table(before, "plugins")
    plugin = _table(plugins, PLUGINS[schema])
    registry = {key: item for key, item in _table(plugin, "registry").items() if key != "config_path"}
    plugin = {**plugin, "registry": registry if value is None else {**registry, "config_path": value}}
    wanted = {**before, "plugins": {**plugins, PLUGINS[schema]: plugin}}
    try:
        same = tomllib.loads(text) == wanted
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise EditError("it is written in a way that is not edited: set config_path in it by hand")
    return text
