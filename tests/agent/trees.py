"""Trees of a node's files for the agent's tests: made, looked at, and compared whole, so that nothing escapes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from registry_mirror.agent import state as memory
from registry_mirror.agent.files import SUFFIX
from registry_mirror.core.bundle import Bundle, File
from registry_mirror.core.layout import default_facts, layout

K3S = default_facts("k3s")
CERTS = K3S.config_path
REGISTRIES = K3S.registries_file
TLS, DROP_IN = layout(K3S).tls, layout(K3S).files[1]
STATE = f"{memory.DIRECTORY}/state.json"

# What a path has: kind, mode, owner, group, content (of a file) or target (of a link).
Entry = tuple[str, int, int, int, bytes]


def hosts(registry: str) -> str:
    """The path of a registry's hosts.toml."""
    return f"{CERTS}/{registry}/hosts.toml"


def bundle(revision: str, files: Mapping[str, str], settings: Mapping[str, str] | None = None) -> Bundle:
    """A bundle of files in that order; keys are secret, as the renderers have it."""
    return Bundle(
        revision=revision,
        runtime="k3s",
        files=tuple(
            File(path=path, content=content, mode=0o600 if path.endswith((".key", "registries.yaml")) else 0o644)
            for path, content in files.items()
        ),
        start_settings=dict(settings or {}),
    )


EMPTY = bundle("empty", {})


def put(root: Path, path: str, content: str = "", mode: int = 0o644, owner: tuple[int, int] | None = None) -> Path:
    """Write a file as somebody else would have, directories included."""
    where = root / path.lstrip("/")
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(content)
    if owner is not None:
        os.chown(where, *owner)
    where.chmod(mode)
    return where


def snapshot(root: Path, *, state: bool = False) -> dict[str, Entry]:
    """Everything below root; the agent's own directory, and those above it that only it needs, if asked for."""
    return {path: entry for path, entry in _entries(root) if state or not _own(path)}


def _own(path: str) -> bool:
    return path.startswith(memory.DIRECTORY) or memory.DIRECTORY.startswith(f"{path}/")


def _entries(root: Path) -> Iterator[tuple[str, Entry]]:
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            where = Path(folder, name)
            info = where.lstat()
            content = b""
            if stat.S_ISREG(info.st_mode):
                content = where.read_bytes()
            elif stat.S_ISLNK(info.st_mode):
                content = os.fsencode(os.readlink(where))
            kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory"}.get(stat.S_IFMT(info.st_mode), "other")
            path = "/" + str(where.relative_to(root))
            yield path, (kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, content)


def leftovers(root: Path) -> list[str]:
    """Temporary names, wherever they are."""
    return sorted(path for path in snapshot(root, state=True) if path.endswith(SUFFIX))


def inodes(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of the last change of everything: equal before and after if nothing was written at all."""
    found = {}
    for path in snapshot(root, state=True):
        info = (root / path.lstrip("/")).lstat()
        found[path] = (info.st_ino, info.st_mtime_ns)
    return found


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))
