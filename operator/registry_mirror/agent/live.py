"""Which container runtimes run on a node: who listens on their sockets, and which socket the kubelet uses.

Whoever listens on a socket cannot lie about its process: the kernel gives it (unix(7), SO_PEERCRED). The agent sees
processes of the node only with hostPID.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import re
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct

from ..api.models import RuntimeName
from . import arguments, processes
from .files import DIRECTORY
from .host import Host, HostError

State = Literal["Listening", "Hidden", "Hung", "Dead", "Missing"]

# Where each runtime listens (runtimes.md, Restart and health); K3s and RKE2 share one.
SOCKETS: Mapping[RuntimeName, str] = {
    "k3s": "/run/k3s/containerd/containerd.sock",
    "rke2": "/run/k3s/containerd/containerd.sock",
    "microk8s": "/var/snap/microk8s/common/run/containerd.sock",
    "k0s": "/run/k0s/containerd.sock",
    "containerd": "/run/containerd/containerd.sock",
    "crio": "/run/crio/crio.sock",
}
RANCHER = SOCKETS["k3s"]
CONFIG = "/etc/containerd/config.toml"  # containerd defaults/defaults_linux.go
_RANCHERS: tuple[RuntimeName, ...] = ("k3s", "rke2")
_RANCHER_CONFIG = "/agent/etc/containerd/config.toml"
_TIMEOUT = struct.pack("ll", 1, 0)  # struct timeval: one second
_PEER = struct.Struct("3i")  # struct ucred
# In YAML as in JSON, which the kubelet reads as well; our YAML parser would cost the agent memory for one key.
_ENDPOINT = re.compile(r"""^[\s{,]*["']?containerRuntimeEndpoint["']?\s*:\s*["']?([^"'\s,#}]+)""", re.MULTILINE)


class Live(Struct, frozen=True, kw_only=True):
    """A socket of a runtime as it was found, paths as the host has them.

    ``state``: a process listens; one listens that cannot be seen (no hostPID); the queue of its connections is full;
    nobody listens, with or without a socket; there is not even its directory. ``name`` is None for what is no runtime
    that we know, or cannot be told. ``unit`` is the service to restart, empty if there is none or nothing runs.
    ``config_file`` and ``data_dir`` are empty where the arguments do not tell them. ``kubelet``: the kubelet says that
    it uses this socket.
    """

    socket: str
    state: State
    name: RuntimeName | None = None
    pid: int = 0
    unit: str = ""
    argv: tuple[str, ...] = ()
    config_file: str = ""
    data_dir: str = ""
    executable: str = ""
    kubelet: bool = False

    def __str__(self) -> str:
        where = f"{self.name or processes.program(self.argv) or 'something'} at {self.socket}"
        if self.state == "Listening":
            return f"{where} (process {self.pid}, {self.unit or 'in no service'})"
        return f"{where} ({_STATES[self.state]})"


_STATES: Mapping[State, str] = {
    "Hidden": "its process cannot be seen: the agent's Pod needs hostPID, and with SELinux to be privileged",
    "Hung": "it accepts no connections",
    "Dead": "nothing listens",
    "Missing": "there is nothing",
}


def inspect(host_root: Path, proc: Path, name: RuntimeName | None = None) -> tuple[Live, ...]:
    """Give every socket of a runtime that has been started on the node, and those that the kubelet names in any case.

    Takes where the host's files are, where processes are (``/proc``), and which runtime the agent was told to look
    after: that only says whose the socket of K3s and RKE2 is where nothing else does. Takes a second for each that
    hangs. Never raises.
    """
    used = set(_kubelets(Host(host_root), proc))
    found = (_look(host_root, proc, path, name, path in used) for path in sorted({*SOCKETS.values(), *used}))
    return tuple(item for item in found if item.state != "Missing" or item.kubelet)


def _look(root: Path, proc: Path, path: str, wanted: RuntimeName | None, kubelet: bool) -> Live:
    state, pid = _peer(root, path)
    if not pid:
        return Live(socket=path, state=state, name=_by_place(path, wanted), kubelet=kubelet)
    argv = processes.arguments(proc, pid)
    unit = processes.service(proc, pid)
    config = arguments.last(argv, "config", "c")
    starter = processes.program(processes.arguments(proc, processes.parent(proc, pid)))
    name = _by_program(path, argv, (starter, unit, *config.split("/")), wanted)
    data = config.removesuffix(_RANCHER_CONFIG) if name in _RANCHERS and config.endswith(_RANCHER_CONFIG) else ""
    return Live(
        socket=path,
        state=state,
        name=name,
        pid=pid,
        unit=unit,
        argv=argv if name is not None else argv[:1],  # those of a stranger may hold secrets
        config_file=config or (CONFIG if name == "containerd" and argv else ""),
        data_dir=data,
        executable=processes.executable(proc, pid),
        kubelet=kubelet,
    )


def _by_place(path: str, wanted: RuntimeName | None) -> RuntimeName | None:
    """Tell whose a socket is where nothing is known of who listens."""
    if path == RANCHER:
        return wanted if wanted in _RANCHERS else None
    return next((name for name, known in SOCKETS.items() if known == path), None)


def _by_program(
    path: str, argv: tuple[str, ...], signs: tuple[str, ...], wanted: RuntimeName | None
) -> RuntimeName | None:
    """Tell whose a socket is by the program that listens, and by its place.

    ``signs`` tell K3s from RKE2: the program that started it, its service, its directories. Each can have another name.
    """
    program = processes.program(argv)
    place = _by_place(path, wanted)
    if not argv:
        return place
    if program == "crio":
        return "crio" if place in (None, "crio") and path != RANCHER else None
    # dockerd starts a containerd for itself, and gives it files in a directory of its own.
    if not program.startswith("containerd") or "shim" in program or "docker" in (*path.split("/"), *signs):
        return None
    if path != RANCHER:
        return (place or "containerd") if place != "crio" else None
    found = (name for text in signs for name in _RANCHERS if re.match(rf"{name}(?![0-9a-z])", text))
    return next(found, place)


def _kubelets(host: Host, proc: Path) -> Iterator[str]:
    """Give the sockets that kubelets of the host use, as far as they say so. K3s and MicroK8s have theirs built in.

    A flag counts more than the file (k8s.io/kubernetes 1.36 cmd/kubelet/app, NewKubeletCommand). What a kubelet does
    not say is not assumed: before 1.24 its default was Docker.
    """
    for pid in processes.named(proc, "kubelet"):
        argv = processes.arguments(proc, pid)
        if not processes.service(proc, pid):
            continue
        endpoint = arguments.last(argv, "container-runtime-endpoint")
        path = arguments.last(argv, "config")
        if not endpoint and path and not arguments.last(argv, "config-dir"):
            with contextlib.suppress(HostError):
                found = host.read(path)
                match = _ENDPOINT.search(found.content.decode(errors="replace")) if found is not None else None
                endpoint = match[1] if match is not None else ""
        plain = endpoint.removeprefix("unix:")
        if plain.startswith("/") and plain.isprintable():
            plain = posixpath.normpath("/" + plain.lstrip("/"))
            # /var/run is a link to /run (file-hierarchy(7)), and links are not followed.
            yield plain.removeprefix("/var") if plain.startswith("/var/run/") else plain


def _peer(root: Path, path: str) -> tuple[State, int]:
    """Ask the kernel who listens on a socket of the host; nothing is sent to it."""
    try:
        with _directory(root, os.path.dirname(path)) as directory:
            name = os.path.basename(path)
            if name not in os.listdir(directory):
                return "Dead", 0  # the runtime that has that directory has taken its socket away
            if not stat.S_ISSOCK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                return "Missing", 0
            # By this name, because an address has 107 bytes at most (unix(7)).
            return _listener(f"/proc/self/fd/{directory}/{name}")
    except (OSError, ValueError):
        return "Missing", 0


def _listener(address: str) -> tuple[State, int]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        # Python's own timeout would make the socket one that does not wait for a place in the queue at all.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEOUT)
        try:
            client.connect(address)
            pid, _, _ = _PEER.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        except BlockingIOError:
            return "Hung", 0
        except ConnectionRefusedError:
            return "Dead", 0
        except OSError as error:
            return ("Hidden" if error.errno in (errno.EACCES, errno.EPERM) else "Missing"), 0
    return ("Listening", pid) if pid > 0 else ("Hidden", 0)


@contextlib.contextmanager
def _directory(root: Path, path: str) -> Iterator[int]:
    """Open a directory of the host without following links, which would lead into our own file system."""
    descriptor = os.open(root, DIRECTORY & ~os.O_NOFOLLOW)
    try:
        for part in path.split("/"):
            if part == "..":
                raise ValueError(path)
            if part:
                below = os.open(part, DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)
