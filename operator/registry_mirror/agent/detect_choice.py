"""Which runtime of a node is the kubelet's: by what runs, and where that does not tell, by what is installed.

Anything else is an error that says what was found: the wrong runtime's files must never be touched
(nvidia-container-toolkit #982).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from ..api.errors import FieldError, InvalidError
from ..api.models import RuntimeName
from . import processes
from .host import Host
from .live import RANCHER, Live, State

_MARKERS: Mapping[RuntimeName, tuple[str, ...]] = {
    "k3s": ("/etc/rancher/k3s", "/var/lib/rancher/k3s"),
    "rke2": ("/etc/rancher/rke2", "/var/lib/rancher/rke2"),
    "microk8s": ("/var/snap/microk8s",),
    "k0s": ("/etc/k0s",),
    "crio": ("/etc/crio",),
    "containerd": ("/etc/containerd",),
}
# They start their containerd for their own kubelet and for nothing else: that it runs says that the kubelet uses it.
_DISTRIBUTIONS: tuple[RuntimeName, ...] = ("k3s", "rke2", "microk8s", "k0s")
_ORDER: tuple[State, ...] = ("Listening", "Hidden", "Hung", "Dead", "Missing")
_RUNNING = _ORDER[:3]


def choose(
    host: Host, live: Iterable[Live], wanted: RuntimeName | None, earlier: RuntimeName | None = None
) -> tuple[RuntimeName, Live | None]:
    """Give the runtime, and its socket if it has one.

    ``live`` is what was seen running (nothing: only what is installed counts), ``wanted`` the runtime that the agent
    was told to look after, ``earlier`` the one that it found before: it stays so while nothing says what the kubelet
    uses, because both can be down at the same time, and another runtime not. Raises InvalidError (RuntimeNotFound,
    RuntimeAmbiguous, RuntimeMismatch, RuntimeNotSupported) and HostError.
    """
    found = tuple(_named(host, item) for item in live)
    used = tuple(item for item in found if _used(item))
    names = {item.name for item in used}
    if wanted is not None and used and wanted not in names:
        text = f"the agent was told to look after {wanted}, but the kubelet uses {_list(used)}"
        raise _error("RuntimeMismatch", text, "use the overlay of that runtime, or another --runtime")
    if wanted is None and len(names) > 1:
        raise _error("RuntimeAmbiguous", f"several runtimes: {_list(used)}", "say which with --runtime")
    kept = earlier if any(item.name == earlier for item in found) or earlier in _marked(host) else None
    name = wanted or (used[0].name if used else None) or kept or _installed(host, found)
    own = sorted(
        (item for item in found if item.name == name and item.state != "Missing"),
        key=lambda item: (not item.kubelet, _ORDER.index(item.state)),
    )
    return name, own[0] if own else None


def _named(host: Host, item: Live) -> Live:
    """Say whose the socket is that K3s and RKE2 share if only the files tell."""
    if item.socket != RANCHER or item.name is not None:
        return item
    marked = [name for name in _marked(host) if name in ("k3s", "rke2")]
    return replace(item, name=marked[0]) if len(marked) == 1 else item


def _used(item: Live) -> bool:
    """Tell whether the kubelet uses a socket. Raises InvalidError if what is there is no runtime of ours."""
    if not item.kubelet:
        return item.name in _DISTRIBUTIONS and item.state in _RUNNING
    if item.name is not None:
        return True
    program = processes.program(item.argv)
    if "cri-dockerd" in (program, item.socket.rpartition("/")[2].removesuffix(".sock")):
        text = "the kubelet uses Docker through cri-dockerd"
        raise _error("RuntimeNotSupported", text, "exclude the node, or give it containerd or CRI-O")
    if item.state == "Listening":
        text = f"the kubelet uses {item}"
        raise _error("RuntimeNotSupported", text, "the agent does not know that runtime: exclude the node")
    return False


def _installed(host: Host, found: tuple[Live, ...]) -> RuntimeName:
    """Give the only runtime that there can be where nothing says what the kubelet uses."""
    marked = _marked(host)
    running = [item for item in found if item.name is not None and item.state in _RUNNING]
    if not any(name in _DISTRIBUTIONS for name in marked):
        # A directory may be left over, or be missing; what runs is there.
        names = list(dict.fromkeys(item.name for item in running if item.name is not None)) or marked
    else:
        # Every distribution may share a node with the distribution packages' containerd; its own marker decides.
        names = [name for name in marked if name != "containerd"]
    if len(names) == 1:
        return names[0]
    seen = [str(item) for item in found]
    text = ", ".join([*seen, *(f"{name} ({_MARKERS[name][0]})" for name in marked)]) or "no runtime that it knows"
    raise _error("RuntimeAmbiguous" if names else "RuntimeNotFound", text, "say which with --runtime")


def _marked(host: Host) -> list[RuntimeName]:
    return [name for name, paths in _MARKERS.items() if any(host.exists(path) for path in paths)]


def _list(items: Iterable[Live]) -> str:
    return ", ".join(str(item) for item in items)


def _error(reason: str, found: str, advice: str) -> InvalidError:
    return InvalidError("node", (FieldError("", found, advice),), reason)
