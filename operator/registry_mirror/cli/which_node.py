"""What the commands share that look at this node (``--local``), or at a node of a cluster through its agent's Pod."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

import click

from ..api.models import RuntimeName
from .options import complete_node

node_options = (
    click.option("--local", is_flag=True, help="On the node that this runs on, as root; it needs no cluster."),
    click.option(
        "--node",
        default="",
        metavar="NODE",
        shell_complete=complete_node,
        help="On that node of the cluster, through its agent's Pod.",
    ),
    click.option(
        "--root",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        default=None,
        metavar="DIR",
        help="With --local: where the node's file system is mounted.  [default: /]",
    ),
    click.option(
        "--runtime",
        type=click.Choice(["auto", *get_args(RuntimeName)]),
        default=None,
        help="With --local: the node's container runtime.  [default: auto]",
    ),
)


def this_node(
    local: bool, root: Path | None, runtime: str | None, *of_a_cluster: str
) -> tuple[Path, RuntimeName | None] | None:
    """Give where the file system of this node is, and its runtime (None: to be found); None without ``--local``.

    Takes the values of the options, those for a node of a cluster last. Raises UsageError where they contradict each
    other.
    """
    if not local:
        if root is not None or runtime is not None:
            raise click.UsageError("--root and --runtime go with --local")
        return None
    if any(of_a_cluster):
        raise click.UsageError("--local is about this node without a cluster: leave out the options of the cluster")
    return root or Path("/"), None if runtime in (None, "auto") else cast(RuntimeName, runtime)
