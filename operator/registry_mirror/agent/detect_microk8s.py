"""What MicroK8s has its containerd read: the template of the revision in use, from which it renders at every start."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from ..api.models import RuntimeFacts
from ..core.edits import PLUGINS
from ..core.layout import MICROK8S, MICROK8S_TEMPLATE, default_facts
from .detect_containerd import config_path, one_directory
from .detect_files import invalid, table, toml
from .host import Host

_LINK = f"{MICROK8S}/current"
_REVISION = re.compile(r"x?[0-9]{1,9}")  # of a snap; x for one that was installed from a file


def detect(host: Host) -> RuntimeFacts:
    """Give the facts for the revision of the snap that is in use: nothing is ever written through the link to it.

    Since 1.23 the template has config_path; one without it has mirrors instead, and then ``config_path`` of the facts
    is empty. ``config_schema`` is that of the template if settings can be made in it. Raises InvalidError
    (RuntimeConfigInvalid) and HostError.
    """
    data = f"{MICROK8S}/{_revision(host)}"
    facts = replace(default_facts("microk8s"), config_path=f"{data}/args/certs.d")
    file = f"{data}/args/{MICROK8S_TEMPLATE}"
    found = host.read(file)
    if found is None:
        return facts
    document = toml(file, found.content)
    schema = document.get("version")
    if not isinstance(schema, int) or schema not in PLUGINS:
        raise invalid(file, "its version is neither 2 nor 3: MicroK8s before 1.19 is not supported")
    path = _filled(_said(file, document, PLUGINS[schema]), data)
    if "$" in path:
        raise invalid(file, f"config_path is {path[:200]!r}: only ${{SNAP_DATA}} is known here")
    if document.get("imports"):  # containerd 1.x replaces a plugin by that of an import (runtimes.md, imports)
        if not path:
            raise invalid(file, "it imports other files, and has no config_path: remove imports from it")
        schema = 0
    return replace(facts, config_path=one_directory(file, path), config_file=file, config_schema=schema)


def _revision(host: Host) -> str:
    revision = host.link(_LINK)
    if revision is None or not _REVISION.fullmatch(posixpath.basename(revision)):
        raise invalid(_LINK, "it is no link to a revision of the snap: is MicroK8s installed?")
    if posixpath.dirname(revision) not in ("", MICROK8S):
        raise invalid(_LINK, f"it leads out of {MICROK8S}")
    return posixpath.basename(revision)


def _said(file: str, document: Mapping[str, Any], plugin: str) -> str:
    """Give config_path as the template has it; mirrors are what is there instead of it, and an error beside it."""
    registry = table(table(document.get("plugins"), plugin), "registry")
    return config_path(file, document, plugin) if registry.get("config_path") else ""


def _filled(path: str, data: str) -> str:
    """Put in what MicroK8s does (wrappers/run-containerd-with-args), and the revision for the link to it."""
    filled = path.replace("${SNAP_DATA}", data)
    return data + filled[len(_LINK) :] if filled.startswith(f"{_LINK}/") else filled
