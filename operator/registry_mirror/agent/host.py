"""Files on the host, below a root, written so that no crash, full disk or planted link can leave something half done.

Every path is opened component by component without following links. A write is staged first (temporary file in the same
directory, mode before content, fsync) and committed by a rename, so that a set of files can be staged whole before the
first one is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.bundle import File
from .files import (
    DIRECTORY,
    SUFFIX,
    HostError,
    check_owner,
    check_regular,
    errors,
    make_directory_with,
    name_of,
    refuse_special,
    remove_directory_with,
    remove_ours,
    temporary,
    write_file,
)

__all__ = ["Host", "HostError", "HostFile", "Staged", "write_all"]

_MAX_READ = 4 * 1024 * 1024
_WHOLE_DIRECTORY = "hosts.toml"


@dataclass(frozen=True, slots=True)
class HostFile:
    """A regular file as it is on the host."""

    content: bytes
    mode: int
    uid: int
    gid: int


class Host:
    """The file system of a node as seen below ``root`` (``/host`` in the DaemonSet, ``/`` on the node itself)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, path: str) -> HostFile | None:
        """Give a file, or None if it or a directory above it does not exist. Raises HostError."""
        with errors(path, "ReadFailed"), self._parent(path) as parent:
            if parent is None:
                return None
            # Before it is opened too: to open a device can already do something.
            refuse_special(parent, path)
            try:
                descriptor = os.open(
                    name_of(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent
                )
            except FileNotFoundError:
                return None
            try:
                info = os.fstat(descriptor)
                check_regular(path, info)
                with open(descriptor, "rb", closefd=False) as file:
                    content = file.read(_MAX_READ + 1)
            finally:
                os.close(descriptor)
        if len(content) > _MAX_READ:
            raise HostError("FileTooLarge", f"{path}: larger than {_MAX_READ // 1024 // 1024} MiB")
        return HostFile(content, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)

    def names(self, path: str, *, unfinished: bool = False) -> list[str]:
        """Give the names in a directory, sorted, temporary ones only if asked for; none if it does not exist.

        Raises HostError.
        """
        with errors(path, "ReadFailed"), self._directory(path) as directory:
            if directory is None:
                return []
            return sorted(name for name in os.listdir(directory) if unfinished or not name.endswith(SUFFIX))

    def link(self, path: str) -> str | None:
        """Give what a symbolic link says, without going there; None if nothing or something else is at that path.

        Raises HostError.
        """
        with errors(path, "ReadFailed"), self._parent(path) as parent:
            if parent is None:
                return None
            try:
                return os.readlink(name_of(path), dir_fd=parent)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINVAL):  # nothing, or no link
                    return None
                raise

    def exists(self, path: str) -> bool:
        """Tell whether anything is at that path, reached without following links. Raises HostError."""
        return self.modified(path) is not None

    def is_directory(self, path: str) -> bool:
        """Tell whether a directory is at that path, reached without following links. Raises HostError."""
        info = self._info(path)
        return info is not None and stat.S_ISDIR(info.st_mode)

    def modified(self, path: str) -> int | None:
        """Give the time of the last change of whatever is at that path, in nanoseconds, or None if nothing is there.

        Raises HostError.
        """
        info = self._info(path)
        return info.st_mtime_ns if info is not None else None

    def _info(self, path: str) -> os.stat_result | None:
        with errors(path, "ReadFailed"), self._parent(path) as parent:
            if parent is None:
                return None
            try:
                return os.stat(name_of(path), dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def stage(self, path: str, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> Staged:
        """Write a file under a temporary name, ready to be committed. Raises HostError and leaves nothing then.

        Missing directories are made, except the one of a hosts.toml: that is staged as a whole, because a registry's
        directory without its hosts.toml already changes what containerd does (runtimes.md, Directory).
        """
        folder = os.path.dirname(path)
        whole = name_of(path) == _WHOLE_DIRECTORY
        with errors(path):
            with self._directory(folder, create=not whole) as directory:
                if directory is not None:
                    refuse_special(directory, path)
                    write_file(directory, temporary(path), content, mode, owner)
                    return Staged(self, path, path)
            with self._directory(os.path.dirname(folder), create=True) as above:
                assert above is not None  # it was created
                make_directory_with(above, temporary(folder), name_of(path), content, mode, owner)
                return Staged(self, path, folder)

    def create(self, path: str, content: bytes, mode: int) -> bool:
        """Make a file, whole or not at all, unless there is one: then False. Raises HostError."""
        with errors(path), self._directory(os.path.dirname(path), create=True) as directory:
            assert directory is not None  # it was created
            write_file(directory, temporary(path), content, mode, None)
            try:
                os.link(temporary(path), name_of(path), src_dir_fd=directory, dst_dir_fd=directory)
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary(path), dir_fd=directory)
                os.fsync(directory)
            return True

    def remove(self, path: str, *, with_directory: bool) -> None:
        """Remove a file if it is there; with its directory if nothing else is in that.

        That of a hosts.toml is renamed away first: it is never to be seen without its file. Raises HostError, also if
        something other than a file is there now: that is not ours.
        """
        folder = os.path.dirname(path)
        with errors(path):
            with self._directory(folder) as directory:
                if directory is None:
                    return
                refuse_special(directory, path)
                whole = with_directory and name_of(path) == _WHOLE_DIRECTORY
                whole = whole and set(os.listdir(directory)) <= {name_of(path), temporary(path)}
                if not whole:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name_of(path), dir_fd=directory)
                    os.fsync(directory)
            if whole:
                with self._directory(os.path.dirname(folder)) as above:
                    if above is not None:
                        remove_directory_with(above, folder, path)
            elif with_directory:
                self.remove_empty(folder)

    def remove_empty(self, path: str) -> None:
        """Remove a directory if it is there and has nothing in it. Raises HostError."""
        with errors(path), self._parent(path) as parent:
            if parent is None:
                return
            try:
                os.rmdir(name_of(path), dir_fd=parent)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                    raise
            os.fsync(parent)

    def clean(self, path: str) -> None:
        """Remove what a killed process left under temporary names where that file goes. Raises HostError."""
        whole = name_of(path) == _WHOLE_DIRECTORY
        for target in (path, os.path.dirname(path)) if whole else (path,):
            with errors(path), self._parent(target) as parent:
                if parent is not None:
                    remove_ours(parent, temporary(target), name_of(path))

    @contextlib.contextmanager
    def alone(self, path: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a lock on the file at that path, which is made if need be; wait as long as another process holds it.

        ``waiting`` is called once if there is a wait. The lock ends with the process, however that ends: a second agent
        (a Pod that was deleted by force) must not write under the same temporary names. Raises HostError.
        """
        with errors(path), self._directory(os.path.dirname(path), create=True) as directory:
            assert directory is not None  # it was created
            refuse_special(directory, path)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name_of(path), flags, 0o600, dir_fd=directory)
        try:
            with errors(path):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waiting()
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[int | None]:
        with self._directory(os.path.dirname(path)) as directory:
            yield directory

    @contextlib.contextmanager
    def _directory(self, path: str, *, create: bool = False) -> Iterator[int | None]:
        """Open a directory from the root down, one component at a time; gives None if one is missing."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in (part for part in path.split("/") if part):
                if part in (".", ".."):
                    raise HostError("UnsafePath", f"{path}: it leaves the directories that it names")
                try:
                    below = os.open(part, DIRECTORY, dir_fd=descriptor)
                except FileNotFoundError:
                    if not create:
                        yield None
                        return
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=descriptor)
                    os.fsync(descriptor)
                    below = os.open(part, DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
                check_owner(path, os.fstat(descriptor))
            yield descriptor
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Staged:
    """A file that is written but not yet in place; ``target`` is what is renamed, the file or its whole directory."""

    host: Host
    path: str
    target: str

    def commit(self) -> None:
        """Put it in place in one step that survives a crash either way. Raises HostError."""
        with errors(self.path), self.host._directory(os.path.dirname(self.target)) as directory:
            if directory is None:
                raise FileNotFoundError(errno.ENOENT, "the directory has gone")
            os.rename(temporary(self.target), name_of(self.target), src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

    def discard(self) -> None:
        """Remove what was staged, if it is still there; never raises."""
        with contextlib.suppress(HostError, OSError), self.host._directory(os.path.dirname(self.target)) as directory:
            if directory is not None:
                remove_ours(directory, temporary(self.target), name_of(self.path))


def write_all(host: Host, files: Iterable[File]) -> None:
    """Stage every file before the first is put in place, then put them in place in their order. Raises HostError."""
    staged: list[Staged] = []
    try:
        for file in files:
            staged.append(host.stage(file.path, file.content.encode(), file.mode))
        while staged:
            staged[0].commit()
            staged.pop(0)
    finally:
        for item in staged:
            item.discard()
