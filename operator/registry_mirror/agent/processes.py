"""What the kernel tells everybody about a process: its arguments, its parent, and the service that it belongs to.

No file here takes more rights than to see the process (proc(5)): /proc/PID/environ and the links below it would take
those of a debugger.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_MAX_READ = 256 * 1024
_CHUNK = 16 * 1024
_MAX_NAME = 64
_MAX_PARENTS = 3  # containerd's is K3s, and K3s's supervise-daemon
_PARENT = re.compile(rb"^PPid:\s*([0-9]+)$", re.MULTILINE)
_NAME = re.compile(r"[\w.+:@-]+")
_UNIT = re.compile(r"[\w.:@\\-]+\.service")


def named(proc: Path, name: str) -> Iterator[int]:
    """Give the processes whose name (comm, 15 characters) it is.

    comm is read before the arguments: those of a process that hangs in its memory cannot be read without waiting.
    """
    try:
        entries = sorted(int(entry) for entry in os.listdir(proc) if entry.isdecimal())
    except OSError:
        return
    wanted = name.encode()
    for pid in entries:
        if _read(f"{proc}/{pid}/comm").strip() == wanted:
            yield pid


def arguments(proc: Path, pid: int) -> tuple[str, ...]:
    """Give the arguments of a process, none if it has gone.

    A program that gave itself a title has that instead, in one piece (K3s and RKE2: ``/usr/local/bin/k3s server``).
    """
    words = _read(f"{proc}/{pid}/cmdline").split(b"\0")
    while words and not words[-1]:
        words.pop()
    return tuple(word.decode(errors="replace") for word in words)


def program(argv: tuple[str, ...]) -> str:
    """Give the name of the program that arguments or a title belong to, without its directory, fit for a message."""
    words = argv[0].split() if argv else []
    name = words[0].rpartition("/")[2] if words else ""
    return "".join(character for character in name if character.isprintable())[:_MAX_NAME]


def parent(proc: Path, pid: int) -> int:
    """Give the process that started this one, 0 if that cannot be told."""
    found = _PARENT.search(_read(f"{proc}/{pid}/status"))
    return int(found[1]) if found is not None else 0


def executable(proc: Path, pid: int) -> str:
    """Give the program's file, empty where the agent has not the rights of a debugger."""
    try:
        return os.fsencode(os.readlink(f"{proc}/{pid}/exe")).decode(errors="replace")
    except OSError:
        return ""


def service(proc: Path, pid: int) -> str:
    """Give the service of the host that a process belongs to, empty if there is none.

    ``k3s.service`` for systemd, ``k3s`` for OpenRC. A process of a container belongs to none, also where the container
    runs a systemd of its own (kind). Seen from a cgroup namespace of our own the path begins with ``/..``
    (cgroup_namespaces(7)).
    """
    for line in _read(f"{proc}/{pid}/cgroup").decode(errors="replace").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        if controllers in ("", "name=systemd"):
            while parts and parts[0].endswith(".slice"):
                parts.pop(0)
            if parts and _UNIT.fullmatch(parts[0]):
                return parts[0]
        if (name := _openrc(controllers, parts)) and _NAME.fullmatch(name):
            return name
    return _supervised(proc, pid)


def _supervised(proc: Path, pid: int) -> str:
    """Give the service of OpenRC whose supervise-daemon started a process, or its parent, empty if there is none.

    Before OpenRC 0.55 its groups of version 2 have names as any other group, and without its service cgroups there are
    none at all. That of a container is not a child of the host's first process.
    """
    for _ in range(_MAX_PARENTS):
        pid = parent(proc, pid)
        argv = arguments(proc, pid) if pid > 1 else ()
        if program(argv) == "supervise-daemon" and len(argv) > 1:
            return argv[1] if parent(proc, pid) == 1 and _NAME.fullmatch(argv[1]) else ""
    return ""


def _openrc(controllers: str, parts: list[str]) -> str:
    """Give the service that a control group is for in OpenRC, empty if it is for none (sh/rc-cgroup.sh).

    Version 1 has a hierarchy for services; in version 2 the directory was ``openrc.NAME`` before it was ``rc/NAME``.
    """
    if controllers == "name=openrc":
        return parts[0] if len(parts) == 1 else ""
    if controllers or not parts:
        return ""
    if parts[0] == "rc":
        return parts[1] if len(parts) > 1 else ""
    return parts[0].removeprefix("openrc.") if parts[0].startswith("openrc.") else ""


def _read(path: str) -> bytes:
    """A process may go at any moment, and then the system says so in more than one way.

    Without a file object: there may be hundreds of processes, and the agent looks at each in every pass.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.read(descriptor, _CHUNK)
            while len(found) < _MAX_READ and (more := os.read(descriptor, _CHUNK)):
                found += more
        finally:
            os.close(descriptor)
    except OSError:
        return b""
    return found
