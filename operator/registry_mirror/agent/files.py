"""The single steps that ``host`` is made of, each on a name in a directory that is already open.

What has a temporary name was made by the agent; only such names, and our own file, are ever removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator

from ..api.errors import TransientError

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SUFFIX = ".registry-mirror.tmp"
_MAX_NAME = 200  # a temporary name is longer than its target's, and file systems end at 255


class HostError(TransientError):
    """A file on the host could not be read or written; the reason is CamelCase, the message names path and cause."""


def name_of(path: str) -> str:
    """Give the last component of a path."""
    return os.path.basename(path)


def temporary(path: str) -> str:
    """Give the name under which that file or directory is made, beside its place."""
    name = name_of(path)
    if len(os.fsencode(name)) > _MAX_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}{SUFFIX}"


def is_temporary(path: str) -> bool:
    """Tell whether a component of a path could be a temporary name."""
    return any(part.endswith(SUFFIX) for part in path.split("/"))


def write_file(directory: int, name: str, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    """Make a file, mode and owner first, and have it on the disk. Raises OSError, and leaves nothing then."""
    remove_ours(directory, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:
            # In this order: once it belongs to somebody else, its mode takes a capability that the agent has not.
            os.fchmod(descriptor, mode)
            if owner is not None:
                os.fchown(descriptor, *owner)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.fsync(directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise


def make_directory_with(
    above: int, directory: str, name: str, content: bytes, mode: int, owner: tuple[int, int] | None
) -> None:
    """Make a directory with one file in it. Raises OSError, and leaves nothing then."""
    remove_ours(above, directory, name)
    os.mkdir(directory, 0o700, dir_fd=above)
    try:
        inside = os.open(directory, DIRECTORY, dir_fd=above)
        try:
            write_file(inside, name, content, mode, owner)
        finally:
            os.close(inside)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_ours(above, directory, name)
        raise


def remove_directory_with(above: int, folder: str, path: str) -> None:
    """Take away a directory in which there is nothing but our file, in one step for whoever looks at it.

    What somebody else puts into it in that moment is seen afterwards, and then the directory comes back.
    """
    away = temporary(folder)
    remove_ours(above, away, name_of(path))
    os.rename(name_of(folder), away, src_dir_fd=above, dst_dir_fd=above)
    os.fsync(above)
    try:
        remove_ours(above, away, name_of(path))
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        os.rename(away, name_of(folder), src_dir_fd=above, dst_dir_fd=above)
    os.fsync(above)


def remove_ours(above: int, name: str, inside: str = "") -> None:
    """Remove a temporary file, or a temporary directory with our file ``inside`` and nothing else; follows nothing.

    Raises OSError (ENOTEMPTY) if there is anything else in the directory.
    """
    try:
        directory = os.open(name, DIRECTORY, dir_fd=above)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(name, dir_fd=above)
        return
    try:
        for entry in {inside, temporary(inside)} - {""}:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=above)


def refuse_special(directory: int, path: str) -> None:
    """A rename would silently replace a link or a device that somebody put there."""
    with contextlib.suppress(FileNotFoundError):
        check_regular(path, os.stat(name_of(path), dir_fd=directory, follow_symlinks=False))


def check_regular(path: str, info: os.stat_result) -> None:
    """Raise HostError unless it is a regular file."""
    if not stat.S_ISREG(info.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(info.st_mode) else "not a regular file"
        raise HostError("UnsafePath", f"{path}: it is {kind}; remove it, or configure the runtime with the real path")


def check_owner(path: str, info: os.stat_result) -> None:
    """Raise HostError for a directory in which others than root could exchange what we write."""
    if info.st_uid not in (0, os.geteuid()):
        raise HostError(
            "UnsafePath", f"{path}: a directory in it belongs to user {info.st_uid}: it must belong to root"
        )
    if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
        raise HostError("UnsafePath", f"{path}: a directory in it is writable by everyone: remove that permission")


@contextlib.contextmanager
def errors(path: str, reason: str = "WriteFailed") -> Iterator[None]:
    """Turn what the system says about ``path`` into HostError."""
    try:
        yield
    except ValueError:  # a NUL, or half of a surrogate pair
        raise HostError("UnsafePath", f"{path!r}: it is no file name") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            text = f"{path}: a component of it is a symbolic link or no directory; the agent follows no links"
            raise HostError("UnsafePath", text) from None
        text = error.strerror or type(error).__name__
        if error.errno == errno.EROFS:
            text += " (in the DaemonSet: is the directory mounted?)"
        raise HostError(reason if error.errno != errno.EACCES else "AccessDenied", f"{path}: {text}") from None
