"""The control plane by hand: build its programs, or have one to try things out on.

python -m tests.harness build
python -m tests.harness up
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from .binaries import NotObtainable, resolve
from .controlplane import ControlPlane
from .helm import HelmMissing, helm
from .image import ImageMissing, operator_image
from .nodebinaries import NodesMissing, cluster_programs, node_programs
from .openrc import openrc_package
from .oracles import OraclesMissing, programs
from .processes import ProcessFailed
from .promtool import PromtoolMissing, promtool
from .skopeo import SkopeoMissing, skopeo

_POLL = 0.5


class _Asked(Exception):
    """Somebody wants this program to end."""


def main() -> int:
    """Run the command that the command line names, and give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="get what the tests run; print the paths")
    build.add_argument("what", nargs="?", choices=["all", "control-plane", "image"], default="all")
    commands.add_parser("up", help="run a control plane until Ctrl-C or SIGTERM")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ask)
    try:
        if arguments.command == "up":
            return _up()
        if arguments.what == "image":
            print(*_image())
            return 0
        _build_control_plane()
        if arguments.what == "all":
            _build_the_rest()
        return 0
    except (NotObtainable, ImageMissing, ProcessFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except _Asked:
        return 130


def _build_control_plane() -> None:
    assets = resolve()
    print(assets.etcd, assets.kube_apiserver, assets.kubectl, sep="\n")


def _build_the_rest() -> None:
    """What is missing, the tests that need it say again; the others do without."""
    for obtain in (_oracles, _nodes, _promtool, _skopeo, _helm, _image):
        try:
            print(*obtain(), sep="\n")
        except (OraclesMissing, NodesMissing, PromtoolMissing, SkopeoMissing, HelmMissing, ImageMissing) as error:
            print(error, file=sys.stderr)


def _oracles() -> list[Path]:
    oracles = programs()
    return [oracles.containerd_2, oracles.containerd_1, oracles.wharfie]


def _nodes() -> list[Path]:
    nodes, cluster = node_programs(), cluster_programs()
    return [nodes.containerd_2, nodes.containerd_1, nodes.runc, nodes.registry, cluster.kubelet, openrc_package()]


def _promtool() -> list[Path]:
    return [promtool()]


def _skopeo() -> list[Path]:
    return [skopeo()]


def _helm() -> list[Path]:
    return [helm()]


def _image() -> list[Path]:
    return [operator_image().directory]


def _up() -> int:
    with ControlPlane() as control_plane:
        try:
            print(f"export KUBECONFIG={control_plane.admin_kubeconfig}", flush=True)
            print(
                f"# {control_plane.url} runs until Ctrl-C; logs: {control_plane.work / 'log'}; "
                f"kubectl: {control_plane.assets.kubectl}",
                file=sys.stderr,
            )
            while all(process.alive() for process in control_plane.processes):
                time.sleep(_POLL)
        except _Asked:
            return 0
        dead = next(process for process in control_plane.processes if not process.alive())
        raise dead.failure("ended")


def _ask(number: int, frame: FrameType | None) -> None:
    # A second signal must not interrupt the clean-up that the first one starts.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    raise _Asked


if __name__ == "__main__":
    sys.exit(main())
