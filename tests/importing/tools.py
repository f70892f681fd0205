"""Short ways to import a text and to see what comes of it, so that a test shows only what it is about."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from registry_mirror.api import parse
from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.bundle import Rendered
from registry_mirror.core.importing.convert import Given, Imported, convert
from registry_mirror.core.importing.draft import Options, UnreadableError
from registry_mirror.core.importing.emit import emit
from registry_mirror.core.render import render
from registry_mirror.core.resolve import ResolvedMirror, resolve, source

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "registry-mirror-system"


def imported(
    content: str | bytes | Mapping[str, Mapping[str, bytes]],
    path: str,
    files: Mapping[str, str] | None = None,
    **options: Any,
) -> Imported:
    """Import one file or tree; ``files`` are those that it may name, by absolute path."""

    def read(name: str, folder: str) -> bytes:
        found = (files or {}).get(name if name.startswith("/") else f"{folder}/{name}")
        if found is None:
            raise UnreadableError("No such file or directory")
        return found.encode()

    raw = content.encode() if isinstance(content, str) else content
    return convert([Given(path, raw)], read, Options(**options), NAMESPACE)


def printed(found: Imported) -> str:
    """What the command prints."""
    return emit(found.documents, found.notes)


def resolved(found: Imported) -> list[ResolvedMirror]:
    """The mirrors as a node gets them: through the YAML, the parser and the references, as a user's would."""
    documents = [item for item in yaml.safe_load_all(printed(found)) if item]
    mirrors = [parse.registry_mirror(item) for item in documents if item["kind"] == "RegistryMirror"]
    materials = [source(item) for item in documents if item["kind"] != "RegistryMirror"]
    return [resolve(mirror, {(item.kind, item.name): item for item in materials}) for mirror in mirrors]


def rendered(found: Imported, facts: RuntimeFacts) -> Rendered:
    """The files of a node that has the imported objects; nothing may be left out."""
    result = render(facts, resolved(found))
    assert result.problems == ()
    return result


def by_path(result: Rendered) -> dict[str, str]:
    """The texts of a render by path."""
    return {item.path: item.content for item in result.files}


def specs(found: Imported) -> dict[str, Any]:
    """The specs of the RegistryMirrors by registry."""
    bodies = [item.body["spec"] for item in found.documents if item.body["kind"] == "RegistryMirror"]
    return {spec["registry"]: spec for spec in bodies}


def run(*args: str, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``registry-mirror`` in a process of its own; checks the exit code and that no traceback is shown."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "operator"), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "registry_mirror", *args]
    done = subprocess.run(command, input=stdin, capture_output=True, env=env, timeout=60)
    result = subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.stderr
    assert result.returncode == code, result.stderr
    return result
