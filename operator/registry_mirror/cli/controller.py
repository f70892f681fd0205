"""``registry-mirror controller``: run the controller."""

from __future__ import annotations

import asyncio
import socket
import uuid

import click

from ..kube.resources import BUNDLE_NAMESPACE, SYSTEM_NAMESPACE
from .main import EXIT_CODES, log_level_option


@click.command("controller", epilog=EXIT_CODES)
@click.option(
    "--namespace",
    default=SYSTEM_NAMESPACE,
    show_default=True,
    help="Where the Secrets and ConfigMaps are that objects refer to.",
)
@click.option("--bundle-namespace", default=BUNDLE_NAMESPACE, show_default=True, help="Where bundles are kept.")
@click.option(
    "--http-address",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="HOST:PORT",
    help="Where /healthz, /readyz and /metrics are served.",
)
@click.option(
    "--leader-elect/--no-leader-elect",
    default=True,
    show_default=True,
    help="Work only while holding the Lease registry-mirror-controller; without, be sure to run only one.",
)
@click.option(
    "--identity",
    envvar="POD_NAME",
    metavar="NAME",
    help="Who this is in the Lease; no other controller may have the same.  [default: $POD_NAME, else HOST_UUID]",
)
@log_level_option
def command(
    namespace: str,
    bundle_namespace: str,
    http_address: str,
    leader_elect: bool,
    identity: str | None,
    log_level: str,
) -> None:
    """Run the controller until it is told to stop.

    It finds the cluster through the pod's service account, else through $KUBECONFIG. Of several, one works and the
    others wait for its Lease. One that loses the Lease ends with exit code 1, to be started anew.

    \b
    Example: KUBECONFIG=~/.kube/config registry-mirror controller --http-address 127.0.0.1:8080
    """
    from ..controller.app import Settings, run

    settings = Settings(
        namespace=namespace,
        bundle_namespace=bundle_namespace,
        http_address=http_address,
        identity=(identity or f"{socket.gethostname()}_{uuid.uuid4()}") if leader_elect else "",
    )
    asyncio.run(run(settings))
