"""``registry-mirror controller``: run the controller."""

from __future__ import annotations

import asyncio

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
@log_level_option
def command(namespace: str, bundle_namespace: str, http_address: str, log_level: str) -> None:
    """Run the controller until it is told to stop.

    It finds the cluster through the pod's service account, else through $KUBECONFIG.

    \b
    Example: KUBECONFIG=~/.kube/config registry-mirror controller --http-address 127.0.0.1:8080
    """
    from ..controller.app import Settings, run

    asyncio.run(run(Settings(namespace=namespace, bundle_namespace=bundle_namespace, http_address=http_address)))
