"""A control group of its own for each node, in every hierarchy of the machine, of version 1 and 2.

A node's systemd makes groups below the one it is started in and believes that all in them is its own; so two nodes
must not share one, and none may be in the machine's own root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_REMOVE_WAIT = 10.0
_POLL = 0.02


@dataclass(frozen=True)
class Hierarchy:
    """A mounted cgroup hierarchy: where it is, ``cgroup`` or ``cgroup2``, and the options that mount it again."""

    path: Path
    kind: str
    options: str
    ours: str  # the group that new ones are made in, so that limits on this process hold for them


def hierarchies() -> list[Hierarchy]:
    """The hierarchies mounted below /sys/fs/cgroup, from /proc/self/mountinfo (proc(5))."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        path = before.split()[4]
        kind, _, options = after.split()[:3]
        if kind in ("cgroup", "cgroup2") and path.startswith("/sys/fs/cgroup"):
            ours = [item for item in options.split(",") if item not in ("rw", "ro", "xattr", "clone_children")]
            ours = [item for item in ours if not item.startswith(("release_agent=", "nsdelegate", "memory_"))]
            found.append(Hierarchy(Path(path), kind, ",".join(ours), _ours(Path(path), kind, ours)))
    return found


def _ours(path: Path, kind: str, options: list[str]) -> str:
    if kind == "cgroup2":
        return ""  # a group with processes in it, as ours, may not pass controllers on; only the root may
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if set(controllers.split(",")) == set(options) and (path / group.lstrip("/")).is_dir():
            return group.lstrip("/")
    return ""


def groups_of(prefix: str) -> list[Path]:
    """The groups of that prefix, in all hierarchies."""
    # Not only in our group: the process that left them may have been in another. And os.walk, as groups of others come
    # and go meanwhile, which it takes in its stride.
    return [
        Path(parent) / child
        for hierarchy in hierarchies()
        for parent, children, _ in os.walk(hierarchy.path)
        for child in children
        if child.startswith(prefix)
    ]


def _procs(group: Path) -> list[Path]:
    """The files that name the processes of a group and of those below it."""
    return [Path(parent) / "cgroup.procs" for parent, _, _ in os.walk(group)]


def make_cgroups(name: str) -> list[Path]:
    """Make a group of that name in every hierarchy; gives the directories. Raises OSError."""
    made = []
    for hierarchy in hierarchies():
        parent = hierarchy.path / hierarchy.ours
        group = parent / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # Version 1 takes no process into a cpuset that has no processors.
            if (group / setting).exists() and hierarchy.kind == "cgroup":
                (group / setting).write_text((parent / setting).read_text())
        if (group / "cgroup.clone_children").exists():
            (group / "cgroup.clone_children").write_text("1")
        made.append(group)
    return made


def remove_cgroups(prefix: str) -> None:
    """Remove all groups of that prefix, ending the processes in them. Raises TimeoutError if one cannot be removed."""
    for group in groups_of(prefix):
        _remove(group)


def processes_in(prefix: str) -> list[int]:
    """The ids of the processes in the groups of that prefix."""
    files = [file for group in groups_of(prefix) for file in _procs(group)]
    found: set[int] = set()
    for file in files:
        with contextlib.suppress(OSError):
            found.update(int(line) for line in file.read_text().split())
    return sorted(found)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + _REMOVE_WAIT
    while group.exists():
        for parent, children, _ in os.walk(group, topdown=False):
            for child in children:
                with contextlib.suppress(OSError):
                    (Path(parent) / child).rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the control group {group} cannot be removed: it is in use")
        for pid in _members(group):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL)


def _members(group: Path) -> list[int]:
    """Processes in the group or below it. Only nodes are in such groups, so all of them may be ended."""
    found = []
    for file in _procs(group):
        with contextlib.suppress(OSError):
            found += [int(line) for line in file.read_text().split() if line != "0"]
    return found
