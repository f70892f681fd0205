"""``registry-mirror agent``: run the node agent."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import get_args

import click

from ..api.models import RuntimeName
from ..kube.resources import BUNDLE_NAMESPACE
from .local import seconds
from .main import EXIT_CODES, log_level_option

_log = logging.getLogger(__name__)
_PATIENCE = 15.0  # for an uninstall to show: a quarter of the Pod's terminationGracePeriodSeconds


@click.command("agent", epilog=EXIT_CODES)
@click.option("--node-name", required=True, envvar="NODE_NAME", help="The node that this agent looks after.")
@click.option(
    "--host-root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/host"),
    show_default=True,
    help="Where the node's file system is mounted.",
)
@click.option("--bundle-namespace", default=BUNDLE_NAMESPACE, show_default=True, help="Where bundles are kept.")
@click.option(
    "--runtime",
    type=click.Choice(["auto", *get_args(RuntimeName)]),
    default="auto",
    show_default=True,
    help="The node's container runtime; auto finds it, and does nothing if there are several.",
)
@click.option(
    "--resync",
    type=click.FloatRange(min=1),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How often files are checked for changes by others.",
)
@click.option(
    "--node-confinement",
    type=click.Choice(["require", "warn"]),
    default="require",
    show_default=True,
    help="Whether to work where the API server lets an agent write the status of other nodes (before Kubernetes 1.30).",
)
@click.option(
    "--restore-on-uninstall",
    is_flag=True,
    help="When told to end, look whether the operator is being uninstalled, and put back what was there before.",
)
@click.option(
    "--restore-when-gone",
    default="0s",
    show_default=True,
    metavar="DURATION",
    callback=seconds,
    help="Have systemd put back what was there before once the Pod and, for so long, the agent are gone. 0s: never.",
)
@log_level_option
def command(
    node_name: str,
    host_root: Path,
    bundle_namespace: str,
    runtime: str,
    resync: float,
    node_confinement: str,
    restore_on_uninstall: bool,
    restore_when_gone: float,
    log_level: str,
) -> None:
    """Run the node agent until it is told to stop.

    It finds the cluster through the pod's service account, else through $KUBECONFIG.

    \b
    Example: registry-mirror agent --node-name node-1 --host-root /host --runtime k3s
    """
    from ..agent.app import Settings
    from ..agent.build import agent, local_node
    from ..agent.host import Host
    from ..agent.leave import leave
    from ..agent.state import LOCK
    from ..kube.rest import Rest, connection

    rest = Rest(connection(os.environ))
    wanted: RuntimeName | None = None if runtime == "auto" else runtime  # type: ignore[assignment]  # click checked it
    host = Host(host_root)
    settings = Settings(
        node_name=node_name,
        resync=resync,
        confined=node_confinement == "require",
        restore_when_gone=restore_when_gone,
    )
    running = agent(rest, host, host_root, wanted, bundle_namespace, settings)
    with host.alone(LOCK, lambda: _log.warning("another agent works on this node: waiting for it to end")):
        running.install_signal_handlers()
        running.run()
        if restore_on_uninstall:
            leave(rest, node_name, local_node(host, host_root, wanted), _PATIENCE)
