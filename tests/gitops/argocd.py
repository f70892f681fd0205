"""Runs the health checks as Argo CD does: Lua 5.1, of its libraries only the base and table (and a few of package and
os that the scripts do not use), and the object as the global ``obj`` (util/lua/lua.go of Argo CD 2.x and 3.x).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lupa.lua51 import LuaRuntime  # type: ignore[import-untyped]

CONFIG = Path(__file__).resolve().parents[2] / "manifests" / "argocd" / "argocd-cm.yaml"
_PREFIX = "resource.customizations.health."
_NOT_THERE = ("string", "math", "io", "os", "debug", "package", "require", "dofile", "loadfile", "python")


def scripts() -> dict[str, str]:
    """The Lua by ``group_Kind``."""
    data: dict[str, str] = yaml.safe_load(CONFIG.read_text())["data"]
    return {key.removeprefix(_PREFIX): text for key, text in data.items() if key.startswith(_PREFIX)}


def health(kind: str, body: Mapping[str, Any]) -> tuple[str, str]:
    """Status and message for an object of a kind of ours."""
    lua = LuaRuntime(register_eval=False, unpack_returned_tuples=True)
    for name in _NOT_THERE:
        lua.globals()[name] = None
    lua.globals()["obj"] = lua.table_from(body, recursive=True)
    found = lua.execute(scripts()[f"registrymirror.io_{kind}"])
    return str(found["status"]), str(found["message"])
