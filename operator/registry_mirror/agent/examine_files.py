"""Files of a node as they are found, read only: links are followed as the node would, and nothing is refused.

What the agent would refuse to write is said with the file: the runtime reads it all the same.
"""

from __future__ import annotations

import fnmatch
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..core.diagnosis.evidence import Certs, File, Folder
from .files import SUFFIX
from .host import Host, HostError
from .roots import inside

_MAX_READ = 4 * 1024 * 1024
_MAX_FOLDERS = 2000
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Files:
    """The file system of a node below ``root``, or those parts of it that are mounted there."""

    def __init__(self, root: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
        """Take the root, and where the kernel says what is mounted (proc_pid_mountinfo(5))."""
        self._root = root
        self._host = Host(root)
        self._parts = _parts(root, mounts)

    def seen(self, path: str) -> bool:
        """Tell whether the node's own file system is mounted at that path: in the agent's Pod, only parts of it are."""
        return not self._parts or any(path == part or path.startswith(f"{part}/") for part in self._parts)

    def read(self, path: str) -> File:
        """Give a file, or what there is instead. Never raises for what can be on a node."""
        where = inside(self._root, path) if path.startswith("/") and "\0" not in path else None
        if where is None:
            return File(path=path, problem="it is no path, or a circle of links")
        try:
            descriptor = os.open(where, _FLAGS)
        except FileNotFoundError:
            return File(path=path, unseen=not self.seen(path))
        except OSError as error:
            return File(path=path, problem=error.strerror or "it cannot be read", unsafe=self._unsafe(path))
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                return File(path=path, problem="it is not a regular file", unsafe=self._unsafe(path))
            with open(descriptor, "rb", closefd=False) as stream:
                content = stream.read(_MAX_READ + 1)
        except OSError as error:
            return File(path=path, problem=error.strerror or "it cannot be read")
        finally:
            os.close(descriptor)
        if len(content) > _MAX_READ:
            return File(path=path, problem=f"it is larger than {_MAX_READ // 1024 // 1024} MiB")
        return File(
            path=path,
            text=content.decode(errors="replace"),
            exposed=bool(info.st_mode & stat.S_IROTH) and self._open_to_all(where),
            unsafe=self._unsafe(path),
            modified=info.st_mtime_ns,
        )

    def names(self, path: str) -> list[str]:
        """Give the names in a directory, sorted; none if there is none."""
        where = inside(self._root, path)
        try:
            return sorted(os.listdir(where)) if where is not None else []
        except OSError:
            return []

    def matching(self, pattern: str) -> Iterator[File]:
        """Give the files for a path whose last part may have wildcards, in order."""
        folder, _, form = pattern.rpartition("/")
        for name in self.names(folder):
            if fnmatch.fnmatchcase(name, form) and not name.endswith(SUFFIX):
                file = self.read(f"{folder}/{name}")
                if file.text is not None:
                    yield file

    def certs(self, path: str) -> Certs:
        """Give a certs.d with its directories; those that the agent is making are none."""
        folders: list[Folder] = []
        files: list[str] = []
        for name in self.names(path)[:_MAX_FOLDERS]:
            if name.endswith(SUFFIX):
                continue
            below = f"{path}/{name}"
            where = inside(self._root, below)
            if where is not None and where.is_dir():
                names = tuple(self.names(below))
                hosts = self.read(f"{below}/hosts.toml") if "hosts.toml" in names else None
                folders.append(Folder(name=name, names=names, hosts=hosts))
            else:
                files.append(name)
        return Certs(path=path, folders=tuple(folders), files=tuple(files), unsafe=self._unsafe(f"{path}/none"))

    def temporary(self, folders: Iterable[str], before: float) -> Iterator[str]:
        """Give what the agent's own temporary names are left of before that time (seconds since 1970)."""
        for folder in folders:
            for name in self.names(folder):
                where = inside(self._root, f"{folder}/{name}")
                if name.endswith(SUFFIX) and where is not None:
                    try:
                        old = where.lstat().st_mtime < before
                    except OSError:
                        continue
                    if old:
                        yield f"{folder}/{name}"

    def _unsafe(self, path: str) -> str:
        """Say why the agent would not write there; empty if it would."""
        try:
            self._host.exists(path)
            if self._host.link(path) is not None:
                return f"{path}: it is a symbolic link"
        except HostError as error:
            return error.message if error.reason == "UnsafePath" else ""
        return ""

    def _open_to_all(self, where: Path) -> bool:
        """Tell whether everybody can come to a file; of the root's own directories above, nothing is known."""
        for folder in where.parents:
            if folder == self._root or self._root not in folder.parents:
                return True
            try:
                if not folder.stat().st_mode & stat.S_IXOTH:
                    return False
            except OSError:
                return False
        return True


def _parts(root: Path, mounts: Path) -> tuple[str, ...]:
    """Give the paths below a root at which something is mounted, if the root itself is only a place for them."""
    at = posixpath.normpath(os.fspath(root.absolute()))
    if at == "/":
        return ()
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ()
    points = {line.split(" ")[4].replace("\\040", " ") for line in lines if line.count(" ") > 4}
    below = tuple(sorted(point[len(at) :] for point in points if point.startswith(f"{at}/")))
    return () if at in points else below
