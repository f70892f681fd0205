"""Files on the host, below a root, written so that no crash, full disk or planted link can leave something half done.

Every path is opened component by component without following links. A write is staged first (temporary file in the same
directory, mode before content, fsync) and committed by a rename, so that a set of files can be staged whole before the
first one is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..api.errors import TransientError
from ..core.bundle import File

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SUFFIX = ".registry-mirror.tmp"
_MAX_READ = 4 * 1024 * 1024
_WHOLE_DIRECTORY = "hosts.toml"


class HostError(TransientError):
    """A file on the host could not be read or written; the reason is CamelCase, the message names path and cause."""


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
        with _errors(path), self._parent(path) as parent:
            if parent is None:
                return None
            try:
                descriptor = os.open(
                    _name(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent
                )
            except FileNotFoundError:
                return None
            with open(descriptor, "rb") as file:
                info = os.fstat(descriptor)
                _check_regular(path, info)
                content = file.read(_MAX_READ + 1)
        if len(content) > _MAX_READ:
            raise HostError("FileTooLarge", f"{path}: larger than {_MAX_READ // 1024 // 1024} MiB")
        return HostFile(content, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)

    def names(self, path: str) -> list[str]:
        """Give the names in a directory, sorted, ours in the making left out; none if it does not exist."""
        with _errors(path), self._directory(path) as directory:
            if directory is None:
                return []
            return sorted(name for name in os.listdir(directory) if not name.endswith(_SUFFIX))

    def exists(self, path: str) -> bool:
        """Tell whether anything is at that path, reached without following links."""
        return self.modified(path) is not None

    def modified(self, path: str) -> int | None:
        """Give the time of the last change of whatever is at that path, in nanoseconds, or None if nothing is there."""
        with _errors(path), self._parent(path) as parent:
            if parent is None:
                return None
            try:
                return os.stat(_name(path), dir_fd=parent, follow_symlinks=False).st_mtime_ns
            except FileNotFoundError:
                return None

    def stage(self, path: str, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> Staged:
        """Write a file under a temporary name, ready to be committed. Raises HostError and leaves nothing then.

        Missing directories are made, except the one of a hosts.toml: that is staged as a whole, because a registry's
        directory without its hosts.toml already changes what containerd does (runtimes.md, Directory).
        """
        folder = os.path.dirname(path)
        whole = _name(path) == _WHOLE_DIRECTORY
        with _errors(path):
            with self._directory(folder, create=not whole) as directory:
                if directory is not None:
                    _refuse_special(directory, path)
                    _write_file(directory, _temporary(path), content, mode, owner)
                    return Staged(self, path, path)
            with self._directory(os.path.dirname(folder), create=True) as above:
                assert above is not None  # it was created
                _make_directory_with(above, _temporary(folder), _name(path), content, mode, owner)
                return Staged(self, path, folder)

    def remove(self, path: str, *, with_directory: bool) -> None:
        """Remove a file if it is there; with its directory, first renamed away, if nothing else is in that.

        Raises HostError.
        """
        folder = os.path.dirname(path)
        with _errors(path):
            with self._directory(folder) as directory:
                if directory is None:
                    return
                alone = [name for name in os.listdir(directory) if not name.endswith(_SUFFIX)] in ([], [_name(path)])
                if not (with_directory and alone):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(_name(path), dir_fd=directory)
                    os.fsync(directory)
                    return
            with self._directory(os.path.dirname(folder)) as above:
                if above is not None:
                    temporary = _temporary(folder)
                    _remove_tree(above, temporary)
                    os.rename(_name(folder), temporary, src_dir_fd=above, dst_dir_fd=above)
                    os.fsync(above)
                    _remove_tree(above, temporary)

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
                try:
                    below = os.open(part, _DIRECTORY, dir_fd=descriptor)
                except FileNotFoundError:
                    if not create:
                        yield None
                        return
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=descriptor)
                    os.fsync(descriptor)
                    below = os.open(part, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
                _check_owner(path, os.fstat(descriptor))
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
        with _errors(self.path), self.host._directory(os.path.dirname(self.target)) as directory:
            if directory is None:
                raise FileNotFoundError(errno.ENOENT, "the directory has gone")
            os.rename(_temporary(self.target), _name(self.target), src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

    def discard(self) -> None:
        """Remove what was staged, if it is still there; never raises."""
        with contextlib.suppress(HostError, OSError), self.host._directory(os.path.dirname(self.target)) as directory:
            if directory is not None:
                _remove_tree(directory, _temporary(self.target))


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


def _name(path: str) -> str:
    return os.path.basename(path)


def _temporary(path: str) -> str:
    return f".{_name(path)}{_SUFFIX}"


def _write_file(directory: int, name: str, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.fsync(directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise


def _make_directory_with(
    above: int, directory: str, name: str, content: bytes, mode: int, owner: tuple[int, int] | None
) -> None:
    _remove_tree(above, directory)
    os.mkdir(directory, 0o700, dir_fd=above)
    try:
        inside = os.open(directory, _DIRECTORY, dir_fd=above)
        try:
            _write_file(inside, name, content, mode, owner)
        finally:
            os.close(inside)
    except BaseException:
        _remove_tree(above, directory)
        raise


def _remove_tree(above: int, name: str) -> None:
    """Remove a file, or a directory with the files in it, by name; nothing below is followed."""
    try:
        directory = os.open(name, _DIRECTORY, dir_fd=above)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(name, dir_fd=above)
        return
    try:
        for entry in os.listdir(directory):
            os.unlink(entry, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=above)


def _refuse_special(directory: int, path: str) -> None:
    """A rename would silently replace a link or a device that somebody put there."""
    with contextlib.suppress(FileNotFoundError):
        _check_regular(path, os.stat(_name(path), dir_fd=directory, follow_symlinks=False))


def _check_regular(path: str, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(info.st_mode) else "not a regular file"
        raise HostError("UnsafePath", f"{path}: it is {kind}; remove it, or configure the runtime with the real path")


def _check_owner(path: str, info: os.stat_result) -> None:
    if info.st_uid not in (0, os.geteuid()):
        raise HostError(
            "UnsafePath", f"{path}: a directory in it belongs to user {info.st_uid}: it must belong to root"
        )
    if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
        raise HostError("UnsafePath", f"{path}: a directory in it is writable by everyone: remove that permission")


@contextlib.contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            text = f"{path}: a component of it is a symbolic link or no directory; the agent follows no links"
            raise HostError("UnsafePath", text) from None
        text = error.strerror or type(error).__name__
        if error.errno == errno.EROFS:
            text += " (in the DaemonSet: is the directory mounted?)"
        raise HostError("WriteFailed" if error.errno != errno.EACCES else "AccessDenied", f"{path}: {text}") from None
