"""Where the nodes and registries of one test process live: a directory on a real disk and a bridge, both its own.

Names carry the process's id, and the process holds a lock on the directory while it lives. So test processes do not
disturb each other, and whatever a killed one left is found and removed by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .cgroups import groups_of, remove_cgroups

BASE_VARIABLE = "REGISTRY_MIRROR_NODES"
_PREFIX = "registry-mirror-nodes-"
_LINK_PREFIX = "rmn"  # with a process id (7 digits at most) and a few letters it fits in a link's 15 characters
_TRIES = 10  # to remove a directory
_NETWORKS = 256  # 198.18.N.0/24, of the range that RFC 2544 sets apart for tests
_OVERLAY_MAGIC = 0x794C7630
_IP_TIMEOUT = 20.0


class WorkplaceError(RuntimeError):
    """There is no place for nodes, or the network for them cannot be made; the message says why."""


class Workplace:
    """The directory, the bridge and the addresses of this process's nodes and registries.

    To be made by `start` and ended by `stop`, once for a process. Registries listen on ``host``, nodes get
    ``next_address()``; the bridge leads nowhere else.
    """

    def __init__(self) -> None:
        self.base = _base()
        self.directory = self.base / f"{_PREFIX}{os.getpid()}"
        self.bridge = f"{_LINK_PREFIX}{os.getpid()}"
        self.network = ""
        self._lock: IO[str] | None = None
        self._given = 1
        self._links = 0

    def start(self) -> Workplace:
        """Remove what dead processes left, then make directory and bridge. Raises WorkplaceError."""
        self.sweep(self.base)
        with _alone(self.base):
            self.directory.mkdir(mode=0o700)
            self._lock = _lock_file(self.directory).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                self.network = _free_network()
                ip("link", "add", self.bridge, "type", "bridge")
                ip("addr", "add", f"{self.host}/24", "dev", self.bridge)
                ip("link", "set", self.bridge, "up")
            except BaseException:
                self.stop()
                raise
        return self

    @staticmethod
    def sweep(base: Path) -> None:
        """Remove what processes that are dead have left."""
        with _alone(base):
            for left in base.glob(f"{_PREFIX}*"):
                _sweep(left)

    def stop(self) -> None:
        """Remove both; calling it again does nothing."""
        if self._lock is not None:
            _remove(self.directory)
            self._lock.close()
            self._lock = None

    @property
    def host(self) -> str:
        """The address of this machine on the bridge."""
        return f"{self.network}.1"

    def next_address(self) -> str:
        """An address on the bridge that nobody was given yet. Raises WorkplaceError after 253 of them."""
        self._given += 1
        if self._given > 254:
            raise WorkplaceError("all addresses of the bridge are taken")
        return f"{self.network}.{self._given}"

    def next_link(self) -> str:
        """A name for a new link of this machine, and for a node's control groups: none is the beginning of another."""
        self._links += 1
        return f"{self.bridge}-{self._links:03}"


def ip(*args: str) -> str:
    """Run ip, give its output. Raises WorkplaceError with what it says."""
    answer = subprocess.run(["ip", *args], capture_output=True, text=True, timeout=_IP_TIMEOUT)
    if answer.returncode != 0:
        raise WorkplaceError(f"`ip {' '.join(args)}` failed: {answer.stderr.strip()}")
    return answer.stdout


def remove_link(name: str) -> None:
    """Remove a link if there is one. Raises WorkplaceError."""
    try:
        ip("link", "del", name)
    except WorkplaceError:
        # A veth's end vanishes by itself, some time after the other end's namespace.
        if Path("/sys/class/net", name).exists():
            raise


def leftovers(base: Path, pid: int) -> list[str]:
    """What a process has (or has left) on this machine: its directory, links, control groups and mounts. For tests."""
    found = [str(path) for path in base.glob(f"{_PREFIX}{pid}")]
    found += [name for name in _links() if name.split("-")[0] == f"{_LINK_PREFIX}{pid}"]
    found += [str(group) for group in groups_of(f"{_LINK_PREFIX}{pid}-")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return found + [line for line in mounts if f"{_PREFIX}{pid}/" in line]


def _base() -> Path:
    """A directory that an overlay's upper layer can be on: overlayfs refuses another overlay for that."""
    given = os.environ.get(BASE_VARIABLE)
    candidates = [Path(given)] if given else [Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm")]
    for candidate in candidates:
        if candidate.is_dir() and _filesystem(candidate) != _OVERLAY_MAGIC:
            return candidate
    raise WorkplaceError(
        f"No place for the nodes' disks: {', '.join(map(str, candidates))} are on an overlay or not there. "
        f"Set {BASE_VARIABLE} to a directory on a real disk."
    )


def _filesystem(path: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_long * 32)()  # struct statfs is 120 bytes; its first word is the type
    if libc.statfs(os.fsencode(path), buffer) != 0:
        raise WorkplaceError(f"{path}: {os.strerror(ctypes.get_errno())}")
    return int(buffer[0])


@contextlib.contextmanager
def _alone(base: Path) -> Iterator[None]:
    # The directory itself: a lock file could never be removed without a race.
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock_file(directory: Path) -> Path:
    return directory / "lock"


def _sweep(directory: Path) -> None:
    """Remove what belongs to a process that is dead: its lock is free."""
    try:
        with _lock_file(directory).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(directory)
    except FileNotFoundError:
        _remove(directory)
    except BlockingIOError:
        return


def _remove(directory: Path) -> None:
    pid = directory.name.removeprefix(_PREFIX)
    remove_cgroups(f"{_LINK_PREFIX}{pid}-")
    for name in _links():
        if name.split("-")[0] == f"{_LINK_PREFIX}{pid}":
            remove_link(name)
    # The directory last: as long as it is there, the next sweep looks for the rest. What a process that is ending still
    # removes itself may be gone before its turn comes.
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)


def _links() -> list[str]:
    return [item["ifname"] for item in json.loads(ip("-j", "link", "show"))]


def _free_network() -> str:
    addresses = json.loads(ip("-j", "addr", "show"))
    taken = {address.get("local", "") for item in addresses for address in item.get("addr_info", ())}
    for number in range(_NETWORKS):
        if not any(local.startswith(f"198.18.{number}.") for local in taken):
            return f"198.18.{number}"
    raise WorkplaceError("all test networks are taken")
