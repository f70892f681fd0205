"""``registry-mirror restore --local``: this node as it was before the first change."""

from __future__ import annotations

from pathlib import Path

import click

from .apply import done, planned
from .local import local_options, open_node, progress, show
from .main import EXIT_CODES


@click.command("restore", epilog=EXIT_CODES)
@local_options
def command(local: bool, root: Path, runtime: str, restart: str, deadline: float, dry_run: bool, output: str) -> None:
    """Put back on this node what was there before the operator came, and forget it.

    For the end: after the operator was uninstalled, or after `apply --local`. With nothing to put back it does nothing.

    \b
    Example: registry-mirror restore --local --dry-run
    """
    from ..agent.local import Plan

    with open_node(root, runtime, dry_run=dry_run) as node:
        untouched = node.untouched()
        if dry_run:
            plan = Plan((), (), ()) if untouched else node.plan(node.nothing())
            show(plan, ["nothing to put back"] if untouched else planned(plan), output)
        else:
            result = node.restore(restart=restart == "auto", deadline=deadline, report=progress())
            show(result, ["nothing to put back"] if untouched else done(result), output)
