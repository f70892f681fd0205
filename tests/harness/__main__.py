"""The control plane by hand: build its programs, or have one to try things out on.

python -m tests.harness build
python -m tests.harness up
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from types import FrameType

from .binaries import NotObtainable, resolve
from .controlplane import ControlPlane
from .nodebinaries import NodesMissing, cluster_programs, node_programs
from .oracles import OraclesMissing, programs
from .processes import ProcessFailed

_POLL = 0.5


class _Asked(Exception):
    """Somebody wants this program to end."""


def main() -> int:
    """Run the command that the command line names, and give the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="get what the tests run: control plane, oracles, nodes; print the paths")
    commands.add_parser("up", help="run a control plane until Ctrl-C or SIGTERM")
    chosen = parser.parse_args().command
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ask)
    try:
        return _build() if chosen == "build" else _up()
    except (NotObtainable, ProcessFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except _Asked:
        return 130


def _build() -> int:
    assets = resolve()
    print(assets.etcd, assets.kube_apiserver, assets.kubectl, sep="\n")
    try:
        oracles = programs()
    except OraclesMissing as error:  # their tests say so again; the control plane does without
        print(error, file=sys.stderr)
    else:
        print(oracles.containerd_2, oracles.containerd_1, oracles.wharfie, sep="\n")
    try:
        nodes, cluster = node_programs(), cluster_programs()
    except NodesMissing as error:  # as above
        print(error, file=sys.stderr)
    else:
        print(nodes.containerd_2, nodes.containerd_1, nodes.runc, nodes.registry, cluster.kubelet, sep="\n")
    return 0


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
